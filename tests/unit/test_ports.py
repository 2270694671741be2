"""The port pool: whole even pairs, chosen by entropy, never twice, rested after use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import Misuse, PortsExhausted
from bgf.ports import NS_PER_MS, PortPool
from tests.fakes.calls import unhurried

RANGES = st.tuples(st.integers(1024, 60000), st.integers(1, 60)).map(lambda r: (r[0], r[0] + r[1]))


@unhurried
@given(RANGES, st.integers(0, 2**70))
def test_a_whole_range_can_be_drawn_and_no_more(ports: tuple[int, int], entropy: int) -> None:
    first, last = ports
    evens = [port for port in range(first, last) if port % 2 == 0]
    if not evens:
        return
    pool = PortPool(first, last, quarantine_ms=10)
    chosen = pool.choose(pool.size, 0, entropy)
    assert sorted(chosen) == evens
    with pytest.raises(PortsExhausted):
        pool.choose(pool.size + 1, 0, entropy)


def test_a_range_without_a_pair_is_refused() -> None:
    with pytest.raises(Misuse, match="30001-30002"):
        PortPool(30001, 30002, 0)


def test_choosing_takes_nothing_and_depends_on_entropy_alone() -> None:
    pool = PortPool(30000, 39999, 0)
    assert pool.choose(4, 0, 1) == pool.choose(4, 0, 1)
    assert len({pool.choose(1, 0, entropy) for entropy in range(50)}) > 25
    assert pool.free == pool.size


def test_a_released_pair_rests() -> None:
    pool = PortPool(30000, 30001, quarantine_ms=5)
    pool.take(30000, "a")
    pool.release(30000, "b", 0)
    assert pool.owner(30001) == "a"
    pool.release(30000, "a", 0)
    assert (pool.used, pool.quarantined, pool.free) == (0, 1, 0)
    with pytest.raises(PortsExhausted, match=r"^Ran out of ports$"):
        pool.choose(1, 5 * NS_PER_MS - 1, 0)
    assert pool.choose(1, 5 * NS_PER_MS, 0) == (30000,)


def test_a_pair_has_one_owner() -> None:
    pool = PortPool(30000, 30009, quarantine_ms=5)
    pool.take(30000, "a")
    pool.take(30000, "a")
    with pytest.raises(Misuse, match="belongs to call a"):
        pool.take(30000, "b")


def test_a_resting_pair_may_be_claimed_by_who_is_known_to_hold_it() -> None:
    pool = PortPool(30000, 30009, quarantine_ms=5)
    pool.take(30000, "a")
    pool.release(30000, "a", 0)
    pool.take(30000, "b")
    assert (pool.used, pool.quarantined) == (1, 0)
    assert 30000 not in pool.choose(4, 10**12, 0)


def test_a_free_pair_rests_from_when_it_is_told_to_and_a_held_one_does_not() -> None:
    pool = PortPool(30000, 30009, quarantine_ms=5)
    pool.take(30000, "a")
    pool.rest(30000, 10 * NS_PER_MS)
    pool.rest(30003, 10 * NS_PER_MS)  # the odd port names the pair, too
    pool.rest(30004, 2 * NS_PER_MS)
    pool.rest(30004, 99 * NS_PER_MS)  # rests already
    pool.rest(40000, 0)
    assert (pool.used, pool.quarantined, pool.free) == (1, 2, 2)
    assert set(pool.choose(3, 7 * NS_PER_MS, 0)) == {30004, 30006, 30008}
    assert set(pool.choose(4, 15 * NS_PER_MS, 0)) == {30002, 30004, 30006, 30008}
    assert pool.held() == [30000]


def test_ports_outside_the_range_are_nobodys() -> None:
    pool = PortPool(30000, 30009, quarantine_ms=5)
    pool.take(40000, "a")
    pool.release(40000, "a", 0)
    assert pool.owner(40000) is None
    assert pool.free == pool.size


@unhurried
@given(st.data())
def test_the_pool_agrees_with_a_plain_model(data: st.DataObject) -> None:
    pool, now_ns = PortPool(30000, 30031, 3), 0
    held: dict[int, str] = {}
    resting: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        now_ns += data.draw(st.sampled_from((0, NS_PER_MS)))
        if data.draw(st.booleans()) and held:
            port = data.draw(st.sampled_from(sorted(held)))
            pool.release(port, held.pop(port), now_ns)
            resting[port] = now_ns + 3 * NS_PER_MS
        else:
            free = {p for p in range(30000, 30032, 2) if p not in held}
            free -= {port for port, until in resting.items() if until > now_ns}
            count = data.draw(st.integers(1, 4))
            if count > len(free):
                with pytest.raises(PortsExhausted):
                    pool.choose(count, now_ns, 7)
                continue
            chosen = pool.choose(count, now_ns, data.draw(st.integers(0, 2**64)))
            assert len(set(chosen)) == count
            assert set(chosen) <= free
            for port in chosen:
                pool.take(port, f"call-{now_ns}-{port}")
                held[port] = f"call-{now_ns}-{port}"
                resting.pop(port, None)
        assert pool.used == len(held)
        assert pool.used + pool.quarantined + pool.free == pool.size


@unhurried
@given(
    st.sets(st.integers(0, 39)),
    st.lists(st.tuples(st.sampled_from(("choose", "rest", "release")), st.integers(0, 2**70))),
)
def test_pairs_taken_together_are_as_if_taken_one_by_one(
    held: set[int], steps: list[tuple[str, int]]
) -> None:
    together, each = (PortPool(30000, 30079, quarantine_ms=5) for _ in range(2))
    pairs = {30000 + 2 * index: f"call {index % 7}" for index in sorted(held)}
    assert together.take_all(pairs, (30000, 30078)) == pairs
    for port, owner in pairs.items():
        each.take(port, owner)
    kept = dict(pairs)
    for now_ms, (step, number) in enumerate(steps):
        now_ns, port = now_ms * NS_PER_MS, 30000 + 2 * (number % 40)
        for pool in (together, each):
            if step == "rest":
                pool.rest(port, now_ns)
            elif step == "release":
                pool.release(port, kept.get(port, ""), now_ns)
        if step == "choose" and each.free:
            count = 1 + number % min(3, each.free)
            assert together.choose(count, now_ns, number) == each.choose(count, now_ns, number)
        assert (together.used, together.quarantined, together.free) == (
            each.used, each.quarantined, each.free,
        )  # fmt: skip
        assert [together.owner(port) for port in pairs] == [each.owner(port) for port in pairs]
    assert pairs == kept  # it may be somebody else's


def test_pairs_outside_the_range_are_left_out_of_what_is_taken_together() -> None:
    pool = PortPool(30000, 30009, 0)
    assert pool.take_all({30002: "a", 40000: "b"}, (30002, 40000)) == {30002: "a"}
    assert pool.take_all({30002: "b", 30004: "b"}, (30002, 30004)) == {30004: "b"}
    assert (pool.used, pool.owner(40000)) == (2, None)
