"""When a member of the state plane renews its lease, and when a new view is no reason to."""

from __future__ import annotations

from statestore.member_records import SAFE, Reading
from statestore.membership import Membership
from tests.fakes.member_world import MS
from tests.unit.test_membership import COMPLETE, EMPTY, START_NS, Bench, renewals, seat, view_of


def test_a_new_view_is_no_reason_to_renew_what_is_confirmed() -> None:
    bench = Bench("n0", view_of("n0", "n1"))
    bench.step()
    bench.view_revision += 1
    step = bench.step(SAFE.renew_ms - 1)
    assert renewals(step) == []
    assert step.lease_deadline_ns == START_NS + SAFE.lease_ms * MS
    (renewal,) = renewals(bench.step(1))
    assert renewal.view_revision == bench.view_revision


def test_what_was_refused_for_a_new_view_is_renewed_in_it_at_once() -> None:
    core = Membership(seat("n0"), SAFE)
    seen = Reading(view_of("n0", "n1"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, COMPLETE, seen))
    core.renewed(renewal, START_NS, 50)
    (renewal,) = renewals(core.step(START_NS + SAFE.renew_ms * MS, COMPLETE, seen))
    core.renewed(renewal, START_NS + SAFE.renew_ms * MS, None)  # a view that is not seen yet
    assert renewals(core.step(START_NS + (SAFE.renew_ms + 1) * MS, COMPLETE, seen)) == []
    seen = seen._replace(view_revision=2)
    (renewal,) = renewals(core.step(START_NS + (SAFE.renew_ms + 2) * MS, COMPLETE, seen))
    assert renewal.view_revision == 2


def test_who_enters_the_view_renews_in_it_at_once() -> None:
    core = Membership(seat("n0"), SAFE)
    outside = Reading(view_of("n1"), 1, {}, START_NS)
    (renewal,) = renewals(core.step(START_NS, EMPTY, outside))
    assert renewal.view_revision is None
    core.renewed(renewal, START_NS, 50)
    inside = Reading(view_of("n0", "n1"), 2, {}, START_NS + MS)
    (renewal,) = renewals(core.step(START_NS + MS, EMPTY, inside))
    assert renewal.view_revision == 2
