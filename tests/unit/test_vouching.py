"""The peers' word: who vouches for whom, what is promised, whose word an owner needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.actions import Held
from failover.registry import Member, Ownership, View
from failover.testimony import Word
from failover.voucher import Voucher
from failover.vouching import (
    LENGTH_LEASES,
    Parties,
    Recollection,
    Standing,
    Vouch,
    Vouching,
    VouchRequest,
    promise_ns,
)

LEASE = 1_000
LENGTH = LENGTH_LEASES * LEASE
NOW = 100_000
OWNED = View({}, {"g1": Ownership("n1", 3), "g2": Ownership("n2", 1)}, current_ns=NOW)
ASKED = VouchRequest("n1", "n2", 77, 1, LENGTH, {"g1": 3})


def peer(recollection: Recollection | None = None) -> Vouching:
    return Vouching("n2", ["n1", "n3"], LEASE, 5, recollection or Recollection())


def owner(*parties: str) -> Vouching:
    made = Vouching("n1", ["n2", "n3"], LEASE, 77, Recollection())
    made.parties.published(parties or ("n2", "n3"), NOW)
    return made


def ask(who: Vouching, request: VouchRequest = ASKED, **how: object) -> Vouch:
    given: dict[str, object] = {"reached_ns": NOW - LEASE, "view": OWNED, "blank": False}
    answer = who.answer(request, NOW, **(given | how))  # type: ignore[arg-type]
    assert answer is not None
    return answer


def test_who_cannot_reach_the_registry_vouches_and_promises_longer() -> None:
    voucher = peer()
    answer = ask(voucher)
    assert (answer.by, answer.groups, answer.length_ns, answer.why) == ("n2", ("g1",), LENGTH, "")
    assert voucher.promised("g1", NOW + LENGTH) == ("n1", NOW + promise_ns(LENGTH))
    assert promise_ns(LENGTH) > LENGTH
    assert voucher.promised("g1", NOW + promise_ns(LENGTH)) is None
    assert voucher.promised("g2", NOW) is None
    assert voucher.promises(NOW) == {"n1": promise_ns(LENGTH)}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"reached_ns": NOW - 399}, "n2 reached the registry"),
        ({"blank": True}, "has just started"),
        ({"view": View({}, {"g1": Ownership("n2", 4)})}, "knows of a later owner"),
        ({"view": View({}, {"g1": Ownership("n3", 4)})}, "knows of a later owner"),
        ({"view": View({}, {"g1": Ownership("n3", 3)})}, "knows of a later owner"),
    ],
)
def test_who_does_not_vouch_says_why_and_promises_nothing(
    how: Mapping[str, object], why: str
) -> None:
    voucher = peer()
    answer = ask(voucher, ASKED, **how)
    assert why in answer.why and not answer.groups
    assert not voucher.promises(NOW)


def test_a_registry_that_answers_some_is_bridged_for_one_lease() -> None:
    """The peer was answered just now, the owner lately: that may be luck. Not for longer."""
    deadline_ns = NOW + LEASE // 4
    view = View({"n1": Member("n1", 1, deadline_ns)}, OWNED.owners, NOW)
    voucher = peer()
    answer = ask(voucher, view=view, reached_ns=NOW)
    assert (answer.groups, answer.length_ns) == (("g1",), deadline_ns + LEASE - NOW)
    assert voucher.promised("g1", NOW) == ("n1", NOW + promise_ns(answer.length_ns))
    old = View({"n1": Member("n1", 1, NOW - LEASE)}, OWNED.owners, NOW)
    assert "reached the registry" in ask(peer(), view=old, reached_ns=NOW).why
    assert ask(peer(), view=old, reached_ns=NOW - 400).length_ns == LENGTH


def test_an_older_view_is_no_reason() -> None:
    assert ask(peer(), view=View({}, {"g1": Ownership("n3", 2)})).groups == ("g1",)
    assert ask(peer(), view=None).groups == ("g1",)


def test_a_claim_under_way_is_a_reason_and_outlives_the_process() -> None:
    voucher = peer()
    voucher.claiming("g1", 4, NOW)
    again = peer(voucher.recollection())
    assert ask(again, view=None).why
    voucher.claim_failed("g1")
    assert not ask(voucher).why


def test_what_is_won_is_remembered_and_what_came_to_nothing_is_not() -> None:
    voucher = peer()
    voucher.claiming("g1", 4, NOW)
    voucher.read(View({}, {"g1": Ownership("n2", 4)}, NOW + 1), NOW + 1)
    assert voucher.recollection().claims == {"g1": 4}
    voucher.read(View({}, {"g1": Ownership("n1", 3)}, NOW - 1), NOW + 2)  # older than the claim
    assert voucher.recollection().claims == {"g1": 4}
    voucher.read(View({}, {"g1": Ownership("n1", 3)}, NOW + 2), NOW + 3)
    assert voucher.recollection().claims == {}


def test_a_claim_that_came_through_late_is_noticed() -> None:
    voucher = peer()
    voucher.claiming("g1", 4, NOW)
    voucher.read(View({}, {"g1": Ownership("n1", 3)}, NOW + 1), NOW + 1)
    voucher.read(View({}, {"g1": Ownership("n2", 4)}, NOW + 2), NOW + 2)
    assert ask(peer(voucher.recollection()), view=None).why


def test_only_what_is_known_to_be_the_owners_is_vouched_for() -> None:
    both = replace(ASKED, groups={"g1": 3, "g2": 1})
    assert ask(peer(), both).groups == ("g1",)


def test_a_question_counts_once_and_a_recording_never() -> None:
    voucher = peer()
    ask(voucher)
    for again in (ASKED, replace(ASKED, number=0)):
        answer = voucher.answer(again, NOW, reached_ns=0, view=OWNED, blank=False)
        assert answer is None
    assert not ask(voucher, replace(ASKED, life=78, number=1)).why  # it has begun anew
    again = replace(ASKED, number=99)  # of its earlier life
    assert voucher.answer(again, NOW, reached_ns=0, view=OWNED, blank=False) is None


def test_strangers_and_others_are_not_answered() -> None:
    for request in (replace(ASKED, owner="n9"), replace(ASKED, to="n3")):
        assert peer().answer(request, NOW, reached_ns=0, view=OWNED, blank=False) is None


def test_nobody_grants_more_than_it_would_ask_for() -> None:
    voucher = peer()
    assert ask(voucher, replace(ASKED, length_ns=100 * LENGTH)).length_ns == LENGTH
    assert voucher.promises(NOW) == {"n1": promise_ns(LENGTH)}


def test_only_the_owner_gives_a_promise_back() -> None:
    voucher = peer()
    ask(voucher)

    def read(life: int, number: int) -> dict[str, int]:
        record = Member("n1", 1, NOW + LEASE, settled=(life, number))
        voucher.read(View({"n1": record}, OWNED.owners, NOW), NOW)
        return voucher.promises(NOW)

    assert read(0, 0) and read(77, 0) and read(76, 9)
    assert not read(77, 1)


def words(who: Vouching, now_ns: int, *by: str, length_ns: int = LENGTH) -> None:
    """Ask and be answered at once."""
    requests = who.ask(now_ns, NOW, {"g1": 3})
    for request in requests:
        if request.to in by:
            answer = Vouch(request.to, "n1", 77, request.number, length_ns, ("g1",))
            who.heard(answer, now_ns + 5)


LATER = NOW + 400


def test_an_owner_stands_by_everybodys_word_from_when_it_asked() -> None:
    asking = owner()
    assert not asking.ask(NOW + 399, NOW, {"g1": 3})  # the registry may answer yet
    words(asking, LATER, "n2")
    assert not asking.standing
    words(asking, LATER + 100, "n3")  # the word of each counts as long as it holds
    assert asking.stands(LATER) == {"g1": Standing(3, LATER + LENGTH)}
    words(asking, LATER + 200, "n2", "n3", length_ns=LENGTH // 2)  # shorter than what it has
    assert asking.stands(LATER) == {"g1": Standing(3, LATER + LENGTH)}
    assert asking.by == ("n2", "n3")
    assert not asking.stands(LATER + LENGTH)


def test_who_stands_by_a_short_word_asks_again_soon() -> None:
    asking = owner()
    words(asking, LATER, "n2", "n3")
    assert asking.due_ns(NOW) == LATER + LEASE // 2
    asking = owner()
    requests = asking.ask(LATER, NOW, {"g1": 3})
    for request, length_ns in zip(requests, (LENGTH, LEASE), strict=True):
        asking.heard(Vouch(request.to, "n1", 77, request.number, length_ns, ("g1",)), LATER)
    assert asking.stands(LATER) == {"g1": Standing(3, LATER + LEASE)}
    assert asking.due_ns(NOW) == LATER + LEASE // 16


def test_a_refusal_takes_nothing_back_and_moves_nothing() -> None:
    asking = owner()
    words(asking, LATER, "n2", "n3")
    (first, _) = asking.ask(LATER + 600, NOW, {"g1": 3})
    assert not asking.heard(Vouch("n2", "n1", 77, first.number, why="it reached it"), LATER + 601)
    assert asking.refusals == {"n2": "it reached it"}
    assert asking.stands(LATER + 600) == {"g1": Standing(3, LATER + LENGTH)}


def test_answers_to_others_and_of_strangers_count_for_nothing() -> None:
    asking = owner()
    number = asking.ask(LATER, NOW, {"g1": 3})[0].number
    good = Vouch("n2", "n1", 77, number, LENGTH, ("g1",))
    for bad in (
        replace(good, by="n9"),
        replace(good, owner="n3"),
        replace(good, life=78),
        replace(good, number=number + 1),
        replace(good, groups=("g2",)),
    ):
        asking.heard(bad, LATER + 1)
        asking.heard(replace(good, by="n3"), LATER + 1)
        assert not asking.standing


def test_who_reaches_the_registry_stands_by_nobodys_word() -> None:
    asking = owner()
    words(asking, LATER, "n2", "n3")
    assert asking.settled(LATER + LENGTH, LATER)[1] == 0
    number = asking.ask(LATER + 600, NOW, {"g1": 3})[0].number
    asking.reached(LATER + 600, LATER + 601)
    assert not asking.standing and not asking.asking
    assert not asking.heard(Vouch("n2", "n1", 77, number, LENGTH, ("g1",)), LATER + 601)
    assert asking.settled(LATER + LENGTH, LATER + 1_000) == (77, 0)  # still open for longer
    assert asking.settled(LATER + 1_000, LATER + 1_000) == (77, number)


def test_a_registry_that_takes_as_long_as_none_ends_nothing() -> None:
    """Each flush of its disk takes a second: a renewal succeeds when its lease is over."""
    asking = owner()
    words(asking, LATER, "n2", "n3")
    stood = dict(asking.standing)
    for late in (LEASE * 2 // 5, LEASE, 2 * LEASE):
        asking.reached(LATER - late, LATER)
        assert asking.standing == stood and asking.asking
    asking.reached(LATER - LEASE * 2 // 5 + 1, LATER)
    assert not asking.standing and not asking.asking


def test_nobody_to_ask() -> None:
    alone = Vouching("n1", ["n2"], LEASE, 77, Recollection())
    alone.parties.published((), NOW)
    assert not alone.ask(LATER, NOW, {"g1": 3})
    strange = owner("n2", "n9")  # n9 may take over, and there is no way to it
    words(strange, LATER, "n2")
    assert not strange.standing


def test_somebody_is_left_out_only_when_that_is_proven() -> None:
    parties = Parties()
    parties.published(["n2", "n3"], 100)
    parties.confirmed(100, 105)
    parties.proven(110)
    assert parties.needed() == {"n2", "n3"}
    parties.published(["n2"], 200)
    assert parties.needed() == {"n2", "n3"}  # it may not have got there
    parties.confirmed(200, 205)
    parties.proven(204)  # n3 may have claimed before it stood there
    assert parties.needed() == {"n2", "n3"}
    parties.proven(205)
    assert parties.needed() == {"n2"}
    parties.published(["n2", "n4"], 300)
    assert parties.needed() == {"n2", "n4"}  # counts at once
    parties.published([], 400)
    assert not parties.needed()  # then anybody may claim


def test_a_record_that_was_overtaken_holds_nothing_up() -> None:
    """Nobody is told what became of a record that another one followed at once."""
    parties = Parties()
    parties.published([], 100)
    parties.confirmed(100, 105)
    parties.published(["n3"], 200)
    parties.published(["n2", "n3"], 300)
    parties.confirmed(300, 305)
    parties.proven(304)
    assert not parties.needed()
    parties.proven(305)
    assert parties.needed() == {"n2", "n3"}


SETS = st.lists(st.sampled_from(["n2", "n3", "n4"]), min_size=1, max_size=3).map(frozenset)


@given(st.lists(st.tuples(SETS, st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_whoever_may_be_admitted_is_needed(steps: list[tuple[frozenset[str], bool, bool]]) -> None:
    """Whatever stands in the registry since it was last known to be the whole truth."""
    parties = Parties()
    possible: list[frozenset[str]] = []
    time = 0
    for names, arrives, proven in steps:
        time += 10
        parties.published(names, time)
        possible.append(names)
        if arrives:
            parties.confirmed(time, time + 1)
            possible = possible if not proven else [names]
            if proven:
                parties.proven(time + 1)
        assert frozenset().union(*possible) <= parties.needed()


class Silent:
    """A link on which nothing comes or goes, and a memory of nothing."""

    life = 77

    def drain(self) -> Iterable[VouchRequest | Vouch]:
        return ()

    def send(self, message: VouchRequest | Vouch) -> None:
        pass

    def tell(self, word: Word) -> bool:
        return False

    def watch(self, readable: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass

    def load(self) -> Recollection | None:
        return Recollection()

    def keep(self, recollection: Recollection) -> None:
        pass


def alone(*peers: str) -> Voucher:
    silent = Silent()
    return Voucher(
        "n1", peers, LEASE, link=silent, memory=silent, started_ns=0,
        tell=lambda event, sentence: None, tally=Counter(),
    )  # fmt: skip


def test_who_has_nobody_to_vouch_says_so_only_without_the_registry() -> None:
    """A single node serves like any other, and is ready."""
    voucher = alone()
    voucher.reached(NOW, NOW)
    voucher.read(OWNED, NOW)
    voucher.publishing((), NOW)
    voucher.turn(NOW, NOW, {"g1": Held(armed=3, armed_until_ns=NOW + LEASE)})
    assert voucher.status(NOW + 399)["sentence"] == ""
    assert "nobody can vouch" in voucher.status(NOW + 400)["sentence"]
    voucher.reached(NOW + 600, NOW + 600)
    assert voucher.status(NOW + 600)["sentence"] == ""


def test_old_records_after_a_while_without_the_registry_leave_nobody_out() -> None:
    """A renewal was granted late: everybody's record is as old as its own was."""
    voucher = alone("n2", "n3")

    def read(now_ns: int, *alive: str) -> tuple[str, ...]:
        records = {n: Member(n, 1, now_ns + (50 if n in alive else -50)) for n in ("n2", "n3")}
        voucher.read(View(records, OWNED.owners, now_ns), now_ns)
        parties, _ = voucher.words({}, now_ns)
        voucher.publishing(parties, now_ns)
        return parties

    voucher.reached(NOW, NOW)
    assert read(NOW, "n2", "n3") == ("n2", "n3")
    voucher.reached(NOW + 200, NOW + 200)
    assert read(NOW + 200, "n2") == ("n2",)  # the registry answers, so n3 is away
    assert read(NOW + 210, "n2", "n3") == ("n2", "n3")
    voucher.reached(NOW + 400, NOW + 1_300)
    assert read(NOW + 1_300) == ("n2", "n3")
    for time in range(NOW + 1_500, NOW + 2_301, 200):
        voucher.reached(time, time)
        assert read(time - 1, "n3") == ("n2", "n3")
    assert read(NOW + 2_300, "n3") == ("n3",)
