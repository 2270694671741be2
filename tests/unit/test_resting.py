"""A turn decides on news: at once on a verdict, never merely because a probe was answered."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.actions import Held
from failover.decide import Local, Plan, Policy, decide
from failover.lease import RENEWALS_PER_LEASE
from failover.registry import Member, Offer, Ownership, View
from failover.resting import BELT_NS, Decided
from failover.turns import Turns
from tests.fakes.failover import MS, World

NODES = ("n1", "n2", "n3", "n4")
PATHS = ("access", "core")
LEASE = 1_000 * MS
NOW = 100 * LEASE
POLICY = Policy(
    {"g1": "n1", "g2": "n2"},
    PATHS,
    LEASE,
    unowned_grace_ns=10 * LEASE,
    patience_ns=150 * MS,
    control_paths=("mgmt",),
)


def _member(node: str, *silent: str, left_ns: int = LEASE) -> Member:
    observing = {peer: (*PATHS, "mgmt") for peer in NODES if peer != node}
    suspects = {peer: PATHS for peer in silent if peer != node}
    return Member(node, 1, NOW + left_ns, True, suspects, observing)


def _local(me: str) -> Local:
    mine = {"g1": "n1", "g2": "n2"}
    steps = Held(1, NOW + LEASE, 1, 1, 1, 1)
    held = {group: steps if node == me else Held() for group, node in mine.items()}
    return Local(held, NOW + LEASE, NOW - 2 * LEASE)


def _view(*members: Member) -> View:
    return View(
        {one.node: one for one in members}, {"g1": Ownership("n1", 1), "g2": Ownership("n2", 1)}
    )


WELL = _view(*map(_member, NODES))


def _decided(view: View = WELL, me: str = "n3") -> Decided:
    return Decided(decide(me, POLICY, view, _local(me), NOW), view, _local(me), NOW)


@pytest.mark.parametrize("me", ["n1", "n3"])
def test_many_answers_without_news_cause_no_decision_beyond_the_periodic_one(me: str) -> None:
    world = World(3, 2, seed=7)
    world.run(3_000)
    manager = world.manager(me)
    heard = manager.status()["probes"]["heard"]
    decisions = manager.tally["decisions"]
    passed_ms = 4_000
    world.run(passed_ms)
    answers = manager.status()["probes"]["heard"] - heard
    renewals = passed_ms * RENEWALS_PER_LEASE * MS // LEASE + 1
    belts = passed_ms * MS // BELT_NS + 1
    assert answers >= 4 * passed_ms // 25  # two peers on two paths
    # An owner moves its deadline with each renewal, and looks at what that has led to.
    assert manager.tally["decisions"] - decisions <= 2 * renewals + belts < answers // 5


def test_a_verdict_is_decided_on_in_the_turn_that_gives_it() -> None:
    world = World(3, 2, seed=7)
    world.run(3_000)
    manager, events = world.manager("n3"), world.nodes["n3"].events
    world.power_off("n1")
    for _ in range(500):
        decisions, told = manager.tally["decisions"], len(events)
        world.run(1)
        if any(event["event"] == "detected" for event in events[told:]):
            assert manager.tally["decisions"] > decisions
            break
    else:
        raise AssertionError("nobody noticed")
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=100)


def test_what_only_renews_a_lease_is_no_news_and_anything_else_is() -> None:
    decided, local = _decided(), _local("n3")
    assert decided.plan.rests_until_ns == NOW + LEASE

    def holds(view: View, local: Local = local, after_ms: int = 20) -> bool:
        return decided.holds(view, local, NOW + after_ms * MS)

    def but(**changes: object) -> View:
        return replace(WELL, members={**WELL.members, "n2": replace(WELL.members["n2"], **changes)})  # type: ignore[arg-type]

    assert holds(WELL)
    assert holds(but(lease_deadline_ns=NOW + 2 * LEASE))
    assert not holds(WELL, after_ms=BELT_NS // MS)
    assert not holds(but(lease_deadline_ns=NOW + LEASE // 2))
    assert not holds(but(suspects={"n1": ("access",)}))
    assert not holds(but(offers={"g2": Offer("n3", 1)}))
    assert not holds(but(ready=False))
    assert not holds(but(strain="overloaded"))
    assert not holds(replace(WELL, owners={**WELL.owners, "g1": Ownership("n2", 2)}))
    assert not holds(replace(WELL, members={"n1": WELL.members["n1"]}))
    assert not holds(WELL, replace(local, lease_deadline_ns=NOW + 2 * LEASE))
    assert not holds(WELL, replace(local, wishes={"g1": ""}))
    assert not holds(WELL, replace(local, unready=("its gateway is silent",)))
    assert not holds(WELL, replace(local, groups={**local.groups, "g1": Held(armed=1)}))


def test_while_anything_is_open_every_turn_decides() -> None:
    accused = _view(_member("n1"), _member("n2", "n1"), _member("n3"), _member("n4"))
    unowned = replace(WELL, owners={"g1": Ownership("n1", 1)})
    newly = replace(_local("n3"), watching_since_ns=NOW - 1)
    restless = replace(_local("n3"), restless=frozenset({"n2"}))
    plans = [
        decide("n3", POLICY, accused, _local("n3"), NOW),
        decide("n3", POLICY, unowned, _local("n3"), NOW),
        decide("n3", POLICY, WELL, newly, NOW),
        decide("n3", POLICY, WELL, restless, NOW),
        decide("n3", POLICY, None, _local("n3"), NOW),
        decide("n3", POLICY, WELL, replace(_local("n3"), lease_deadline_ns=NOW), NOW),
    ]
    assert [plan.rests_until_ns for plan in plans] == [0] * len(plans)


_lefts = st.sampled_from([-3 * LEASE, -LEASE, 0, LEASE // 5, LEASE // 2, LEASE - 1, LEASE])
_fresh = st.sampled_from([LEASE // 5, LEASE // 2, LEASE])
_silents = st.sets(st.sampled_from(("n4", "n4", "n4", "n1")), max_size=1)


@st.composite
def _views(draw: st.DrawFn) -> View:
    members = []
    for node in NODES:
        silent = draw(_silents) if node != "n3" else set()
        member = _member(node, *silent, left_ns=draw(_lefts if node == "n4" else _fresh))
        if draw(st.booleans()):
            member = replace(member, strain=draw(st.sampled_from(["", "suspended"])))
        members.append(member)
    return _view(*members)


def _said(plan: Plan) -> Plan:
    return replace(plan, rests_until_ns=0)


@given(
    view=_views(),
    renewed=st.dictionaries(st.sampled_from(NODES), st.integers(0, 2 * LEASE), max_size=2),
    after_ns=st.integers(0, BELT_NS),
    control=st.dictionaries(st.sampled_from(NODES), st.booleans()),
)
@settings(max_examples=400, deadline=None)
def test_a_plan_that_holds_is_what_would_be_decided_anew(
    view: View, renewed: dict[str, int], after_ns: int, control: dict[str, bool]
) -> None:
    local = replace(_local("n3"), control=control)
    plan = decide("n3", POLICY, view, local, NOW)
    local = replace(local, silent_since=plan.silent_since, vacant_since=plan.vacant_since)
    plan = decide("n3", POLICY, view, local, NOW)
    members = {
        node: replace(one, lease_deadline_ns=one.lease_deadline_ns + renewed.get(node, 0))
        for node, one in view.members.items()
    }
    later = replace(view, members=members)
    if not Decided(plan, view, local, NOW).holds(later, local, NOW + after_ns):
        return  # then it is decided anew
    assert _said(decide("n3", POLICY, later, local, NOW + after_ns)) == _said(plan)


def test_who_hurries_brings_the_next_turn_forward_and_makes_no_second_one() -> None:
    far_ns, at_once = 1 << 60, asyncio.Event()
    taken: list[int] = []

    def turn() -> int:
        taken.append(1)
        turns.hurry()
        return far_ns

    turns = Turns(turn, lambda: 0)

    async def scenario() -> None:
        running = asyncio.create_task(turns.run(at_once))
        for count in (1, 2, 3):
            for _ in range(50):  # a turn that hurries itself has no other for it
                await asyncio.sleep(0)
            assert len(taken) == count
            turns.hurry()
            turns.hurry()
        at_once.set()
        await running
        turns.hurry()
        assert len(taken) in (3, 4)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_what_a_turn_raises_ends_the_turns() -> None:
    left = [0, 0, 0]

    def turn() -> int:
        left.pop()  # IndexError in the fourth
        return 0

    async def scenario() -> None:
        with pytest.raises(IndexError):
            await asyncio.wait_for(Turns(turn, lambda: 0).run(asyncio.Event()), 30)

    asyncio.run(scenario())
    assert not left
