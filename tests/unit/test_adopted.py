"""Calls known by their port pairs: searched and sorted say the same (`bgf.adopted`)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bgf.adopted import SEARCHES_MAX, Adopted

PAIRS = st.dictionaries(
    st.integers(0, 40).map(lambda port: 2 * port), st.sampled_from([f"c{n}" for n in range(12)])
)


@given(PAIRS, st.lists(st.sampled_from([f"c{n}" for n in range(14)]), max_size=20), st.booleans())
def test_each_call_gives_its_pairs_once(
    pairs: dict[int, str], asked: list[str], named: bool
) -> None:
    adopted, left = Adopted(), dict(pairs)
    adopted.add(dict(pairs), set(pairs.values()) if named else ())
    for call_id in asked:
        assert (call_id in adopted) == (call_id in left.values())
        mine = sorted(port for port, owner in left.items() if owner == call_id)
        assert sorted(adopted.pop(call_id)) == mine
        left = {port: owner for port, owner in left.items() if owner != call_id}
        assert set(adopted) == set(left.values()) and len(adopted) == len(set(adopted))


def test_those_that_come_later_are_added() -> None:
    adopted = Adopted()
    adopted.add({2 * number: f"c{number // 2}" for number in range(40)})
    for number in range(SEARCHES_MAX + 1):  # from the last one on they are sorted
        assert adopted.pop(f"c{number}") == [4 * number, 4 * number + 2]
    adopted.add({100: "c7", 102: "late"})
    assert adopted.pop("c7") == [28, 30, 100]
    assert adopted.pop("late") == [102] and adopted.pop("late") == []
