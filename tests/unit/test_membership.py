"""Membership: who proposes which view when, and what a lease is worth. No registry, no clock."""

from __future__ import annotations

import pytest

from statestore.member_records import (
    FAST,
    LAB,
    NO_SLOT,
    PROFILES,
    SAFE,
    SLOTS_MAX,
    BadRecord,
    Propose,
    Reading,
    Record,
    Renew,
    Seat,
    Timers,
    View,
    decode_record,
    decode_view,
    encode_record,
    encode_view,
    left_slots,
    read,
    transaction,
)
from statestore.membership import Membership, Own, Standing, Step
from tests.fakes.member_world import MS, PREFIX, Stored

START_NS = 1_000_000 * MS
COMPLETE = Own(True)
EMPTY = Own(False)


def seat(node: str, incarnation: int = 1) -> Seat:
    return Seat(node, "10.0.0.1", 7000, incarnation)


def view_of(*nodes: str, epoch: int = 5, leader: int = 0, founded: int = 1) -> View:
    return View(epoch, leader, {s: seat(n) for s, n in enumerate(nodes)}, [], founded)


def record_of(node_seat: Seat, complete: bool = True, count: int = 1, applied: int = 0) -> Record:
    return Record(node_seat.host, node_seat.port, node_seat.incarnation, complete, count, applied)


class Bench:
    """One member, and a registry that the test writes by hand."""

    def __init__(self, node: str, view: View | None, timers: Timers = SAFE, epoch_seen: int = 0):
        self.core = Membership(seat(node), timers, epoch_seen)
        self.now_ns = START_NS
        self.own = COMPLETE
        self.revision = 10
        self.view = view
        self.view_revision = 1 if view else 0
        self.records: dict[str, tuple[Record, int]] = {}
        for each in view.members.values() if view else ():
            self.renew(each.node)

    def renew(
        self, node: str, complete: bool = True, incarnation: int = 1, applied: int = 0
    ) -> None:
        self.revision += 1
        record = record_of(seat(node, incarnation), complete, self.revision, applied)
        self.records[node] = (record, self.revision)

    def step(self, after_ms: int = 0, trouble: str = "") -> Step:
        """One step; renewals succeed at once, proposals are the test's business."""
        self.now_ns += after_ms * MS
        seen = Reading(self.view, self.view_revision, dict(self.records), self.now_ns, trouble)
        step = self.core.step(self.now_ns, self.own, seen)
        for action in step.actions:
            if isinstance(action, Renew):
                self.core.renewed(action, self.now_ns, 99)
        return step

    def wait(self, ms: int, *living: str, step_ms: int = 100) -> list[Propose]:
        """Steps for a while, `living` renewing; what was proposed."""
        found = []
        for _ in range(ms // step_ms):
            for node in living:
                self.renew(node)
            found += proposals(self.step(step_ms))
        return found

    def adopt(self, proposal: Propose) -> None:
        self.view, self.view_revision = proposal.view, self.view_revision + 100


def proposals(step: Step) -> list[Propose]:
    return [action for action in step.actions if isinstance(action, Propose)]


def renewals(step: Step) -> list[Renew]:
    return [action for action in step.actions if isinstance(action, Renew)]


# -- timers and records --


def test_the_profiles_are_sound_and_in_order() -> None:
    assert PROFILES == {"safe": SAFE, "fast": FAST, "lab": LAB}
    assert Timers(3_000, 500, 5_000, 500) == SAFE
    assert SAFE.lease_ms > FAST.lease_ms > LAB.lease_ms


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((300, 101, 1_000, 10), "a third"),
        ((300, 100, 399, 10), "lease and renewal"),
        ((300, 100, 400, 0), "more than 0"),
        ((0, 0, 0, 0), "more than 0"),
        ((-300, -100, 400, 10), "more than 0"),
    ],
)
def test_timers_that_contradict_each_other(values: tuple[int, int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Timers(*values)
    assert Timers(300, 100, 400, 10)


def test_a_view_and_a_record_come_back_as_they_were() -> None:
    view = View(7, 3, {3: seat("n3", 2**64 - 1), 0: seat("n0")}, [1], 4)
    assert decode_view(encode_view(view)) == view
    record = record_of(seat("n1"), False, 9, 8)
    assert decode_record(encode_record(record)) == record


def test_a_view_is_json_that_people_can_read() -> None:
    assert encode_view(view_of("n0", epoch=1)) == (
        b'{"epoch":1,"leader":0,"members":{"0":{"node":"n0","host":"10.0.0.1","port":7000,'
        b'"incarnation":1}},"left":[],"founded":1}'
    )


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"{}", b"[]", b"\xff", b'{"epoch":1,"leader":0,"members":{}}'),
        b'{"epoch":1,"leader":1,"members":{"0":{"node":"a","host":"h","port":1,"incarnation":1}}}',
        b'{"epoch":0,"leader":0,"members":{"0":{"node":"a","host":"h","port":1,"incarnation":1}}}',
        b'{"epoch":1,"leader":16,"members":{"16":{"node":"a","host":"h","port":1,"incarnation":1}}}',
        b'{"epoch":1,"leader":0,"members":{"0":{"node":"a","host":"h","port":1,"incarnation":1},'
        b'"1":{"node":"a","host":"h","port":1,"incarnation":1}}}',
        b'{"epoch":1,"leader":255,"members":{},"left":[77]}',
    ],
)
def test_what_is_no_view(value: bytes) -> None:
    with pytest.raises(BadRecord):
        decode_view(value)
    with pytest.raises(BadRecord):
        decode_record(value)


def test_a_reading_skips_broken_records_and_tells_a_broken_view() -> None:
    good = encode_record(record_of(seat("n1")))
    entries = {
        PREFIX + "view": Stored(b"oops", 3),
        PREFIX + "m/n1": Stored(good, 4),
        PREFIX + "m/n2": Stored(b"oops", 5),
        PREFIX + "other": Stored(b"oops", 6),
    }
    seen = read(PREFIX, entries, 7)
    assert seen.view is None and seen.view_revision == 3
    assert "/t/dal/view" in seen.broken and "delete it" in seen.broken
    assert seen.records == {"n1": (record_of(seat("n1")), 4)}
    step = Membership(seat("n1"), SAFE).step(START_NS, EMPTY, seen)
    assert step.standing is Standing.REFUSED and step.actions == ()
    assert "oops" in step.sentence


def test_who_left_is_known_only_without_a_gap() -> None:
    now = View(7, 0, {0: seat("n0")}, [2])
    assert left_slots(View(6, 0, {0: seat("n0")}), now) == [2]
    assert left_slots(View(5, 0, {0: seat("n0")}), now) == []
    assert left_slots(None, now) == []


# -- beginning and joining --


def test_the_registry_was_not_reached_yet() -> None:
    core = Membership(seat("n0"), SAFE)
    step = core.step(START_NS, EMPTY, Reading(None, 0, {}, 0, "no answer from e1 for 2.0 s"))
    assert (step.standing, step.actions, step.lease_deadline_ns) == (Standing.UNREACHED, (), 0)
    assert "no answer from e1 for 2.0 s" in step.sentence


def test_the_first_member_makes_the_first_view() -> None:
    bench = Bench("n0", None)
    step = bench.step()
    (proposal,) = proposals(step)
    assert proposal.view == View(1, 0, {0: seat("n0")}, [], 1)
    assert proposal.view_revision == 0
    assert proposals(bench.step()) == []  # once, until it can be known what came of it
    bench.adopt(proposal)
    bench.own = EMPTY
    step = bench.step()
    assert step.standing is Standing.INSIDE and step.slot == 0 and step.founding
    assert step.view == proposal.view


def test_a_founder_that_missed_its_own_view_founds_all_the_same() -> None:
    bench = Bench("n0", None)
    bench.own = EMPTY
    bench.step()
    bench.view, bench.view_revision = view_of("n0", "n1", epoch=2), 7
    assert bench.step().founding
    bench.own = COMPLETE
    assert not bench.step().founding


def test_a_joiner_takes_the_lowest_free_slot() -> None:
    view = View(5, 3, {0: seat("n0"), 1: seat("n1"), 3: seat("n3")})
    bench = Bench("n9", view)
    bench.own = EMPTY
    step = bench.step()
    (proposal,) = proposals(step)
    assert proposal.view.members == {**view.members, 2: seat("n9")}
    assert (proposal.view.epoch, proposal.view.leader, proposal.view.founded) == (6, 3, 1)
    assert proposal.view_revision == bench.view_revision and proposal.forget == ()
    assert step.standing is Standing.JOINING and step.lease_deadline_ns == 0
    (renewal,) = renewals(step)
    assert renewal.view_revision is None and not renewal.record.complete
    bench.adopt(proposal)
    step = bench.step()
    assert step.standing is Standing.INSIDE and step.slot == 2 and not step.founding


def test_a_node_that_began_anew_takes_its_own_slot_at_once() -> None:
    bench = Bench("n1", View(5, 0, {0: seat("n0"), 1: seat("n1", 77), 2: seat("n2")}))
    (proposal,) = proposals(bench.step())
    assert proposal.view.members[1] == seat("n1")
    assert set(proposal.view.members) == {0, 1, 2} and proposal.view.leader == 0


def test_a_leader_that_began_anew_leads_no_more() -> None:
    bench = Bench("n0", View(5, 0, {0: seat("n0", 77), 1: seat("n1"), 2: seat("n2")}))
    bench.renew("n1", complete=False)
    bench.own = COMPLETE  # whatever it says: who joins has nothing
    (proposal,) = proposals(bench.step())
    assert proposal.view.leader == 2 and proposal.view.founded == 1


def test_the_only_holder_of_the_state_began_anew_and_says_what_is_lost() -> None:
    bench = Bench("n0", View(5, 0, {0: seat("n0", 77), 1: seat("n1"), 2: seat("n2")}))
    bench.renew("n1", complete=False, applied=3)
    bench.renew("n2", complete=False, applied=8)
    (proposal,) = proposals(bench.step())
    assert (proposal.view.leader, proposal.view.founded) == (2, 6)
    assert "lost" in proposal.why


def test_a_full_view_lets_nobody_in() -> None:
    bench = Bench("n99", view_of(*(f"n{i}" for i in range(SLOTS_MAX))))
    step = bench.step()
    assert proposals(step) == [] and "full" in step.sentence


def test_a_lost_race_is_run_again_on_the_new_view() -> None:
    bench = Bench("n9", view_of("n0"))
    (first,) = proposals(bench.step())
    assert first.view.slot_of("n9") == 1
    bench.view, bench.view_revision = view_of("n0", "n1", epoch=6), 2  # somebody was faster
    (second,) = proposals(bench.step())
    assert second.view.slot_of("n9") == 2 and second.view.epoch == 7


def test_a_proposal_without_an_answer_is_made_again_after_a_while() -> None:
    bench = Bench("n9", view_of("n0"))
    assert len(proposals(bench.step())) == 1
    assert bench.wait(SAFE.patience_ms - 100, "n0") == []
    assert len(bench.wait(200, "n0")) == 1


# -- silence --


def test_a_silent_member_is_evicted_and_its_record_must_be_as_it_was() -> None:
    bench = Bench("n0", view_of("n0", "n1", "n2"))
    assert bench.wait(SAFE.suspect_ms, "n2") == []
    revision = bench.records["n1"][1]
    (proposal,) = bench.wait(200, "n2")
    assert set(proposal.view.members) == {0, 2} and proposal.view.leader == 0
    assert proposal.unchanged == {"n1": revision}
    assert proposal.forget == ("n1",)
    assert "n1 (silent for 5." in proposal.why
    checks, puts, deletes = transaction(PREFIX, proposal)
    assert checks == [("/t/dal/view", 1), ("/t/dal/m/n1", revision)]
    assert list(puts) == ["/t/dal/view"] and deletes == ["/t/dal/m/n1"]


def test_all_who_are_silent_go_in_one_view() -> None:
    bench = Bench("n2", view_of("n0", "n1", "n2", "n3"))
    (proposal,) = bench.wait(SAFE.suspect_ms + 200, "n3")
    assert set(proposal.view.members) == {2, 3} and proposal.view.leader == 2


@pytest.mark.parametrize(("node", "rank"), [("n0", 0), ("n2", 1), ("n3", 2)])
def test_proposers_take_turns(node: str, rank: int) -> None:
    bench = Bench(node, view_of("n0", "n1", "n2", "n3"))
    living = [other for other in ("n0", "n2", "n3") if other != node]
    quiet_ms = SAFE.suspect_ms + rank * SAFE.patience_ms
    assert bench.wait(quiet_ms, *living) == []
    (proposal,) = bench.wait(200, *living)
    assert proposal.view.slot_of("n1") is None


def test_incomplete_members_come_last() -> None:
    bench = Bench("n0", view_of("n0", "n1", "n2", leader=2))
    bench.own = EMPTY
    assert bench.wait(SAFE.suspect_ms, "n2") == []
    assert bench.wait(SAFE.patience_ms - 100, "n2") == []
    assert len(bench.wait(300, "n2")) == 1


def test_the_leaders_death_makes_the_lowest_complete_member_lead() -> None:
    bench = Bench("n2", view_of("n0", "n1", "n2"))
    for _ in range(60):
        bench.renew("n1", complete=False)
        found = proposals(bench.step(100))
        if found:
            break
    assert found[0].view.leader == 2 and set(found[0].view.members) == {1, 2}
    assert found[0].view.founded == 1


def test_the_last_complete_members_death_is_told_and_the_best_survivor_founds_anew() -> None:
    bench = Bench("n1", view_of("n0", "n1", "n2"))
    bench.own = Own(False, applied=7)
    found: list[Propose] = []
    while not found:
        bench.renew("n2", complete=False, applied=9)
        found = proposals(bench.step(100))
    view = found[0].view
    assert (view.leader, view.founded, set(view.members)) == (2, view.epoch, {1, 2})
    assert "no complete member is left" in found[0].why and "lost" in found[0].why


def test_a_record_of_another_incarnation_is_no_sign_of_life() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    found: list[Propose] = []
    for _ in range(60):
        bench.renew("n1", incarnation=2)
        found += proposals(bench.step(100))
    assert found and found[0].view.slot_of("n1") is None and found[0].unchanged == {}


def test_a_member_without_a_record_is_silent() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    del bench.records["n1"]
    (proposal,) = bench.wait(SAFE.suspect_ms + 200)
    assert proposal.unchanged == {"n1": 0}


def test_a_judge_that_was_late_accuses_nobody() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    bench.step()
    assert proposals(bench.step(60_000)) == []  # we slept, not n1
    assert bench.wait(SAFE.suspect_ms, *()) == []
    assert len(bench.wait(200)) == 1


def test_a_judge_that_could_not_renew_accuses_nobody() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    bench.wait(1_000, "n1")
    seen_ns = bench.now_ns
    for _ in range(200):  # etcd is down: nobody can renew, whoever lives
        bench.now_ns += 100 * MS
        seen = Reading(bench.view, 1, dict(bench.records), seen_ns, "no answer")
        assert proposals(bench.core.step(bench.now_ns, COMPLETE, seen)) == []
    assert bench.wait(SAFE.suspect_ms, *()) == []
    assert len(bench.wait(200)) == 1


# -- on demand --


def test_a_member_declared_dead_goes_at_once() -> None:
    bench = Bench("n2", view_of("n0", "n1", "n2"))
    bench.step()
    bench.core.evict("n0")
    (proposal,) = proposals(bench.step(1))
    assert set(proposal.view.members) == {1, 2} and proposal.view.leader == 1
    assert proposal.unchanged == {} and "n0 (declared dead)" in proposal.why


def test_a_demand_is_for_one_incarnation() -> None:
    bench = Bench("n1", view_of("n0", "n1"))
    bench.core.evict("n0")
    assert len(proposals(bench.step())) == 1
    bench.view = View(6, 1, {0: seat("n0", 2), 1: seat("n1")})
    bench.view_revision += 1
    bench.renew("n0", incarnation=2)
    assert bench.wait(1_000, "n1") == []


def test_demands_that_ask_too_much_are_dropped() -> None:
    bench = Bench("n1", view_of("n0", "n1"))
    bench.own = EMPTY
    for node in ("n0", "n1", "nobody"):  # n0 alone is complete
        bench.core.evict(node)
    for _ in range(SAFE.suspect_ms // 100 - 1):
        bench.renew("n0")
        assert proposals(bench.step(100)) == []
    (proposal, *_) = bench.wait(SAFE.suspect_ms + 200)  # but for its silence it goes
    assert proposal.view.slot_of("n0") is None and proposal.view.founded == proposal.view.epoch


def test_a_leader_that_was_restarted_asks_for_the_same_members_again() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    bench.core.again()
    (proposal,) = proposals(bench.step())
    assert proposal.view == view_of("n0", "n1", epoch=6)
    assert proposal.unchanged == {} and proposal.forget == ()
    bench.core.again()  # asked for in every turn; proposed once
    assert proposals(bench.step()) == []


# -- leaving, being evicted --


def test_leaving_in_good_order() -> None:
    bench = Bench("n0", view_of("n0", "n1", "n2"))
    bench.step()
    bench.core.leave()
    step = bench.step(1)
    (proposal,) = proposals(step)
    assert step.standing is Standing.LEAVING
    assert proposal.view.left == [0] and proposal.view.leader == 1
    assert set(proposal.view.members) == {1, 2} and proposal.forget == ("n0",)
    bench.adopt(proposal)
    step = bench.step(1)
    assert (step.standing, step.actions, step.lease_deadline_ns) == (Standing.LEFT, (), 0)


def test_the_last_holder_of_the_state_waits_for_another() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    bench.renew("n1", complete=False)
    bench.core.leave()
    step = bench.step()
    assert proposals(step) == [] and "no other member is complete" in step.sentence
    bench.renew("n1", complete=True)
    assert proposals(bench.step(1))[0].view.leader == 1


def test_the_last_member_leaves_an_empty_view_and_the_next_one_founds_anew() -> None:
    bench = Bench("n0", view_of("n0"))
    bench.core.leave()
    (proposal,) = proposals(bench.step())
    assert proposal.view == View(6, NO_SLOT, {}, [0], 1)
    assert decode_view(encode_view(proposal.view)) == proposal.view
    joiner = Bench("n1", proposal.view)
    (founding,) = proposals(joiner.step())
    assert founding.view == View(7, 0, {0: seat("n1")}, [], 7)
    assert "lost" not in founding.why


def test_an_evicted_member_stops_at_once_and_joins_as_somebody_new() -> None:
    bench = Bench("n1", view_of("n0", "n1"))
    assert bench.step().lease_deadline_ns == 0 < bench.step().lease_deadline_ns
    bench.view, bench.view_revision = view_of("n0", epoch=6), 2
    step = bench.step(1)
    assert (step.standing, step.actions, step.lease_deadline_ns) == (Standing.EVICTED, (), 0)
    assert step.view == bench.view
    bench.core.anew(2)
    (proposal,) = proposals(bench.step(1))
    assert proposal.view.members[1] == seat("n1", 2)


def test_who_begins_anew_holds_nothing_against_those_who_went_on() -> None:
    """It has the key map soon, and then is complete as they are, but has none of the values yet."""
    bench = Bench("n0", view_of("n0", "n1", "n2"))
    bench.step()
    bench.core.evict("n1")
    bench.core.evict("n2")
    bench.view, bench.view_revision = View(6, 1, {1: seat("n1"), 2: seat("n2")}), 2
    assert bench.step(1).standing is Standing.EVICTED
    bench.core.anew(2)
    (joins,) = proposals(bench.step(1))
    bench.view, bench.view_revision = joins.view, 3
    assert set(joins.view.members) == {0, 1, 2}
    assert proposals(bench.step(1)) == []


def test_a_segment_that_was_in_a_view_does_not_come_back_as_it_is() -> None:
    bench = Bench("n1", view_of("n0"), epoch_seen=3)
    step = bench.step()
    assert step.standing is Standing.EVICTED and step.actions == ()
    alone = Bench("n1", None, epoch_seen=3)
    assert alone.step().standing is Standing.EVICTED
    alone.core.anew(2)
    assert proposals(alone.step())[0].view.epoch == 4


def test_the_last_one_out_goes_on_and_who_left_before_it_does_not() -> None:
    nobody = View(6, NO_SLOT, {}, [1])
    last = Bench("n1", nobody, epoch_seen=6)
    (proposal,) = proposals(last.step())
    assert proposal.view.members == {0: seat("n1")} and proposal.view.epoch == 7
    assert Bench("n0", nobody, epoch_seen=5).step().standing is Standing.EVICTED
    assert Bench("n1", view_of("n0", epoch=6), epoch_seen=6).step().standing is Standing.EVICTED


def test_who_has_left_is_told_of_no_later_view() -> None:
    bench = Bench("n1", view_of("n0", "n1"))
    bench.step()
    bench.core.leave()
    bench.view, bench.view_revision = view_of("n0", epoch=6), 2
    assert bench.step(1).view == bench.view
    bench.view, bench.view_revision = View(7, NO_SLOT, {}, [0]), 3
    step = bench.step(1)
    assert (step.standing, step.view) == (Standing.LEFT, None)


def test_a_restart_on_the_same_segment_goes_on() -> None:
    bench = Bench("n1", view_of("n0", "n1"), epoch_seen=5)
    assert bench.step().standing is Standing.INSIDE


def test_two_processes_of_one_name_do_not_fight() -> None:
    bench = Bench("n1", view_of("n0", "n1"))
    bench.step()
    bench.view = View(6, 0, {0: seat("n0"), 1: Seat("n1", "10.9.9.9", 7, 8)})
    bench.view_revision += 1
    step = bench.step(1)
    assert step.standing is Standing.REPLACED and step.actions == ()
    assert "10.9.9.9 port 7" in step.sentence and step.lease_deadline_ns == 0


def test_a_registry_that_went_back_is_not_believed() -> None:
    bench = Bench("n1", view_of("n0", "n1", epoch=9))
    bench.step()
    bench.view, bench.view_revision = view_of("n0", "n1", epoch=4), 500
    step = bench.step(1)
    assert step.standing is Standing.REFUSED and step.actions == ()
    assert "from epoch 9 to 4" in step.sentence


@pytest.mark.parametrize(("node", "rank"), [("n1", 0), ("n0", 1), ("n2", 2)])
def test_a_view_that_the_registry_lost_is_put_back(node: str, rank: int) -> None:
    bench = Bench(node, view_of("n0", "n1", "n2", epoch=9, leader=1))
    bench.step()
    view, bench.view, bench.view_revision = bench.view, None, 0
    assert view is not None
    if rank:
        assert bench.wait(rank * SAFE.patience_ms, "n0") == []
    (proposal,) = bench.wait(100, "n0")
    assert proposal.view.members == view.members and proposal.view_revision == 0
    assert (proposal.view.epoch, proposal.view.leader) == (10, 1)


def test_node_names_that_would_break_a_key() -> None:
    for node in ("", "a/b"):
        with pytest.raises(ValueError, match="node name"):
            Membership(seat(node), SAFE)
