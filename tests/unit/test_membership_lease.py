"""A member's lease: what a renewal is worth, when the next is due. No registry, no clock."""

from __future__ import annotations

from statestore.member_records import SAFE, Propose, Reading, Renew
from statestore.membership import Membership
from tests.fakes.member_world import MS
from tests.unit.test_membership import (
    COMPLETE,
    EMPTY,
    START_NS,
    Bench,
    proposals,
    renewals,
    seat,
    view_of,
)


def test_the_lease_counts_from_when_the_confirmation_was_sent() -> None:
    core = Membership(seat("n0"), SAFE)
    seen = Reading(view_of("n0"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    assert renewal.view_revision == 1
    later_ns = START_NS + 400 * MS
    assert core.step(later_ns, COMPLETE, seen).lease_deadline_ns == 0
    core.renewed(renewal, START_NS, 50)
    step = core.step(later_ns, COMPLETE, seen)
    assert step.lease_deadline_ns == START_NS + SAFE.lease_ms * MS
    core.renewed(renewal, START_NS - 1, 51)  # an older answer that comes late shortens nothing
    assert core.step(later_ns, COMPLETE, seen).lease_deadline_ns == step.lease_deadline_ns


def test_a_refused_renewal_and_one_from_outside_confirm_nothing() -> None:
    core = Membership(seat("n0"), SAFE)
    seen = Reading(view_of("n0"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    core.renewed(renewal, START_NS, None)
    core.renewed(renewal._replace(view_revision=None), START_NS, 50)
    assert core.step(START_NS, COMPLETE, seen).lease_deadline_ns == 0


def test_renewals_come_in_time_and_at_once_when_something_is_new() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    counts = [a.record.count for a in renewals(bench.step())]
    assert renewals(bench.step(SAFE.renew_ms - 1)) == []
    counts += [a.record.count for a in renewals(bench.step(1))]
    bench.own = EMPTY
    (renewal,) = renewals(bench.step(1))
    assert renewal.record.complete is False
    counts.append(renewal.record.count)
    assert counts == sorted(set(counts))


def test_a_confirmed_renewal_stands_through_a_new_view_and_a_refused_one_does_not() -> None:
    core = Membership(seat("n0"), SAFE)
    seen = Reading(view_of("n0", "n1"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    assert core.renewed(renewal, START_NS, None) == 0
    (again,) = renewals(core.step(START_NS + MS, COMPLETE, seen._replace(view_revision=2)))
    assert again.view_revision == 2
    assert core.renewed(again, START_NS + MS, 50) == START_NS + MS + SAFE.lease_ms * MS
    newer = seen._replace(view_revision=3)
    assert renewals(core.step(START_NS + 2 * MS, COMPLETE, newer)) == []
    (due,) = renewals(core.step(START_NS + MS + SAFE.renew_ms * MS, COMPLETE, newer))
    assert due.view_revision == 3


def test_the_confirmation_of_an_earlier_incarnation_is_no_lease() -> None:
    core = Membership(seat("n0"), SAFE)
    seen = Reading(view_of("n0", "n1"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    core.anew(2)
    assert core.renewed(renewal, START_NS, 50) == 0
    assert core.step(START_NS, COMPLETE, seen).lease_deadline_ns == 0


def test_without_the_registry_the_lease_runs_out_and_the_sentence_says_why() -> None:
    core = Membership(seat("n0"), SAFE)
    trouble = "no answer from etcd at http://e1:2379 for 9.0 s (refused)"
    seen = Reading(view_of("n0", "n1"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    core.renewed(renewal, START_NS, 50)
    late = core.step(START_NS + 9_000 * MS, COMPLETE, seen._replace(trouble=trouble))
    assert late.lease_deadline_ns == START_NS + 3_000 * MS
    assert "its lease ended 6.0 s ago" in late.sentence and trouble in late.sentence
    assert proposals(late) == []


def test_a_renewal_that_is_due_comes_after_an_eviction() -> None:
    """Each is answered before the next is sent, and only one of the two is waited for by calls."""
    bench = Bench("n2", view_of("n0", "n1", "n2"))
    bench.step()
    bench.core.evict("n0")
    step = bench.step(SAFE.renew_ms)
    assert [type(action) for action in step.actions] == [Propose, Renew]
