"""Words by the link, laid over the registry's view."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from failover.registry import Member, View
from failover.testimony import WRITTEN_LATER_PARTS, Word
from failover.testimony import Testimony as Spoken

LEASE_NS = 1_000_000_000
SILENT = {"n1": ("access", "core")}
MEMBERS = {
    name: Member(name, incarnation, LEASE_NS, ready=True)
    for name, incarnation in (("n1", 10), ("n2", 20), ("n3", 30))
}
VIEW = View(MEMBERS)


def word(number: int, by: str = "n2", life: int = 20, suspects: object = SILENT) -> Word:
    assert isinstance(suspects, dict)
    return Word(by, life, number, suspects)


def own() -> Spoken:
    return Spoken("n3", 30, LEASE_NS)


def test_what_is_heard_counts_until_the_record_says_as_much() -> None:
    testimony = own()
    assert testimony.read(VIEW) is VIEW
    assert testimony.hear(word(1), VIEW)
    seen = testimony.read(VIEW)
    assert seen.members["n2"] == replace(MEMBERS["n2"], suspects=SILENT)
    assert seen.members["n1"] is MEMBERS["n1"]
    assert testimony.read(VIEW).members is seen.members  # nothing to compare anew
    written = View({**MEMBERS, "n2": replace(MEMBERS["n2"], word=1)})  # and that it is over
    assert testimony.read(written).members is written.members
    assert not testimony.hear(word(1), written)  # a recording
    assert testimony.hear(word(2), written)
    assert testimony.read(written).members["n2"].suspects == SILENT


def test_what_comes_late_or_from_nobody_is_no_news() -> None:
    testimony = own()
    assert testimony.hear(word(2, suspects={}), VIEW)
    assert not testimony.hear(word(1), VIEW)
    assert not testimony.hear(word(2), VIEW)
    assert not testimony.hear(word(9, life=19), VIEW)  # of an earlier life, recorded
    assert not testimony.hear(word(9, life=21), VIEW)  # of a later one, whose record is not here
    assert not testimony.hear(word(9, by="n3", life=30), VIEW)
    assert not testimony.hear(word(9, by="n8"), VIEW)
    assert testimony.read(VIEW).members["n2"].suspects == {}


def test_a_life_that_is_over_says_nothing_any_more() -> None:
    testimony = own()
    assert testimony.hear(word(7), VIEW)
    returned = View({**MEMBERS, "n2": replace(MEMBERS["n2"], incarnation=25)})
    assert testimony.read(returned).members is returned.members
    assert testimony.hear(word(1, life=25), returned)
    assert testimony.read(returned).members["n2"].suspects == SILENT
    gone = View({"n3": MEMBERS["n3"]})
    assert testimony.read(gone).members is gone.members


def test_what_this_node_suspects_counts_at_once() -> None:
    testimony = own()
    assert testimony.say({}) is None
    assert testimony.say(SILENT) == Word("n3", 30, 1, SILENT)
    assert testimony.say(SILENT) is None
    assert testimony.read(VIEW).members["n3"].suspects == SILENT
    assert testimony.say({}) == Word("n3", 30, 2, {})
    assert testimony.number == 2


def test_the_registry_hears_of_it_later_of_all_else_at_once() -> None:
    testimony = own()
    published = replace(MEMBERS["n3"], lease_deadline_ns=0)
    assert not testimony.is_due(published, published, 0)
    assert testimony.is_due(published, None, 0)
    testimony.say(SILENT)
    record = replace(published, suspects=SILENT, word=1)
    assert testimony.is_due(record, published, 0)  # nobody was told
    testimony.told(100)
    due_ns = 100 + LEASE_NS // WRITTEN_LATER_PARTS
    assert testimony.write_by_ns == due_ns
    assert not testimony.is_due(record, published, due_ns - 1)
    assert testimony.is_due(replace(record, ready=False), published, due_ns - 1)
    testimony.told(due_ns - 1)  # another word meanwhile: the first one does not wait longer
    assert testimony.write_by_ns == due_ns
    assert testimony.is_due(record, published, due_ns)


suspicions = st.dictionaries(
    st.sampled_from(["n1", "n3"]), st.sampled_from([("access",), ("core",)]), max_size=2
)


@given(
    st.lists(st.tuples(suspicions, st.booleans(), st.booleans()), max_size=12),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_repeated_or_late_the_last_word_counts_in_the_end(
    said: list[tuple[dict[str, tuple[str, ...]], bool, bool]], draw: object
) -> None:
    """A speaker and its listener; words arrive in any order, some never, some twice; records are
    written now and then, the last one in the end."""
    speaker, listener = Spoken("n2", 20, LEASE_NS), own()
    record, view, under_way = MEMBERS["n2"], VIEW, []
    for suspects, arrives, written in said:
        spoken = speaker.say(suspects)
        if spoken is not None and arrives:
            under_way += [spoken, spoken]
        draw.shuffle(under_way)  # type: ignore[attr-defined]
        for _ in range(len(under_way) // 2):
            listener.hear(under_way.pop(), view)
        if written:
            record = replace(record, suspects=suspects, word=speaker.number)
            view = View({**MEMBERS, "n2": record})
            assert listener.read(view).members["n2"].suspects == suspects
    last = said[-1][0] if said else {}
    view = View({**MEMBERS, "n2": replace(record, suspects=last, word=speaker.number)})
    for late in under_way:
        assert not listener.hear(late, view)
    assert listener.read(view).members["n2"].suspects == last
