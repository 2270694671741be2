"""The decision core: transcripts a reader can follow, and every interrupted state.

To write the answers of a changed transcript anew: UPDATE_GOLDEN=1 pytest tests/unit/test_decide.py
and read the difference.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.actions import (
    Action,
    AddAddresses,
    Announce,
    Arm,
    Claim,
    Held,
    LetGo,
    MakeOffer,
    Publish,
    StepDown,
    WakeGateway,
    Withdraw,
    done,
)
from failover.decide import Local, Policy, Rule, decide
from failover.evidence import Evidence
from failover.registry import Member, MemoryRegistry, Offer, Ownership, View
from tests.fakes.failover_transcript import replay

GOLDEN = Path(__file__).parent.parent / "golden" / "failover"
TRANSCRIPTS = sorted(GOLDEN.glob("*.txt"))
NODES = ("n1", "n2", "n3")
PATHS = ("access", "core")
LEASE = 1_000
POLICY = Policy({"g1": "n1", "g2": "n2"}, PATHS, LEASE, unowned_grace_ns=10_000, patience_ns=150)
NOW = 100_000


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    written = path.read_text()
    replayed, _ = replay(written)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(replayed)
        written = replayed
    assert replayed == written


TEN_FAILURES = {
    "power_off": "an active without power",
    "two_at_once": "two actives at once",
    "next_in_line": "the standby dies as it takes over",
    "interrupted": "a taker that is restarted in the middle",
    "one_link_cut": "one media link of an active",
    "own_link_down": "an active that sees its own link down",
    "partition": "half of the network from the other half",
    "agent_dead": "the failover process alone",
    "management": "the management network alone, and what else it tells apart",
    "registry_trouble": "etcd without a majority",
}


def test_the_ten_most_important_failures_have_their_transcripts() -> None:
    assert len(TEN_FAILURES) == 10
    assert TEN_FAILURES.keys() <= {path.stem for path in GOLDEN.glob("*.txt")}


def test_every_rule_is_shown_in_a_transcript() -> None:
    shown = {rule for path in TRANSCRIPTS for rule in replay(path.read_text())[1].rules}
    assert shown == set(Rule)


def _member(node: str, *, ready: bool = True, deaf_to: tuple[str, ...] = ()) -> Member:
    peers = {peer: PATHS for peer in NODES if peer != node}
    suspects = {peer: PATHS for peer in deaf_to if peer != node}
    return Member(node, 1, NOW + LEASE, ready, suspects, peers)


def _n1_is_dead() -> dict[str, Member]:
    return {node: _member(node, deaf_to=("n1",) if node != "n1" else ()) for node in NODES}


def _perform(action: Action, owners: dict[str, Ownership], held: dict[str, Held]) -> None:
    if isinstance(action, Claim):
        assert owners[action.group] == action.seen
        owners[action.group] = Ownership("n3", action.seen.epoch + 1)
    held[action.group] = done(held.get(action.group, Held()), action)


STEP_FIELDS = ("armed", "addressed", "announced", "woken", "published")
EPOCHS = (0, 1, 2)


@pytest.mark.parametrize("owner", [Ownership("n1", 1), Ownership("n3", 2), Ownership("n2", 2)])
@pytest.mark.parametrize("doubtful", [False, True])
@pytest.mark.parametrize("deadline", [0, NOW + LEASE // 2, NOW + LEASE])
def test_from_every_interrupted_state_the_same_end_is_reached(
    owner: Ownership, doubtful: bool, deadline: int
) -> None:
    """All 3^5 combinations of steps done for no, an old, or this epoch; any number of steps of
    each plan are performed before the next interruption."""
    for epochs in itertools.product(EPOCHS, repeat=len(STEP_FIELDS)):
        state: dict[str, Any] = dict(zip(STEP_FIELDS, epochs, strict=True))
        for performed_per_turn in (1, 2, len(STEP_FIELDS) + 1):
            owners = {"g1": owner, "g2": Ownership("n2", 1)}
            held = {"g1": replace(Held(), **state, armed_until_ns=deadline, doubtful=doubtful)}
            for _ in range(16):
                view = View(_n1_is_dead(), owners)
                local = Local(held, NOW + LEASE, 0)
                plan = decide("n3", POLICY, view, local, NOW)
                if not plan.actions:
                    break
                for action in plan.actions[:performed_per_turn]:
                    _perform(action, owners, held)
            else:
                raise AssertionError(f"no end from {state}: {plan}")
            if owner.node == "n2":  # somebody else's, and it lives
                assert held["g1"] == Held() or not held["g1"].anything
                assert owners["g1"] == owner
            else:
                assert owners["g1"] == Ownership("n3", 2)
                assert held["g1"] == Held(2, NOW + LEASE, 2, 2, 2, 2)


def _handing_over(deadline: int, steps: tuple[int, ...], offered: int, released: int) -> Held:
    armed, addressed, announced, woken, published = steps
    return Held(
        armed, deadline, addressed, announced, woken, published,
        offered=offered, offered_to="n3" if offered else "", offered_until_ns=NOW + LEASE,
        released=released,
    )  # fmt: skip


@pytest.mark.parametrize("released", [0, 2])
@pytest.mark.parametrize("offered", [0, 1])
def test_a_move_goes_on_from_every_interrupted_state(offered: int, released: int) -> None:
    """n1 hands g1 over to n3. Wherever either of them was interrupted, and however far each comes
    in a turn: n3 ends up serving the group alone, and until it serves, n1 is armed."""
    for done_before in range(6):
        old_steps = (1,) * done_before + (0,) * (5 - done_before)
        for new_steps in itertools.product((0, 2), repeat=5):
            for per_turn in (1, 6):
                owner = Ownership("n3", 2) if any(new_steps) or released else Ownership("n1", 1)
                world = _Move(owner)
                world.held["n1"] = _handing_over(NOW + LEASE // 2, old_steps, offered, released)
                armed, addressed, announced, woken, published = new_steps
                world.held["n3"] = Held(armed, NOW + LEASE, addressed, announced, woken, published)
                before = owner.node == "n1"
                world.run(per_turn)
                assert world.owner == Ownership("n3", 2)
                assert world.held["n3"] == Held(2, NOW + LEASE, 2, 2, 2, 2)
                assert not world.held["n1"].anything
                assert not (before and world.gap), (old_steps, new_steps, per_turn)


class _Move:
    """n1 and n3 take turns at one move; each sees the other's record as it was before its turn."""

    def __init__(self, owner: Ownership) -> None:
        self.owner = owner
        self.held = {"n1": Held(), "n3": Held()}
        self.gap = False
        self.now = NOW

    def run(self, per_turn: int) -> None:
        for turn in range(64):
            plans = [self._turn(node, per_turn) for node in ("n1", "n3")]
            serving = any(held.serving for held in self.held.values())
            self.gap |= turn > 5 and not serving
            if not any(plans):
                if self.now != NOW or not self.held["n1"].anything:
                    return
                self.now = NOW + LEASE  # the old deadline has passed, the leases were renewed
        raise AssertionError(f"no end: {self.held}")

    def _turn(self, me: str, per_turn: int) -> int:
        lease = self.now + LEASE
        members = {
            node: replace(
                _member(node),
                lease_deadline_ns=lease,
                offers={"g1": Offer("n3", held.offered)} if held.offered else {},
                serves={"g1": held.serving} if held.serving else {},
            )
            for node, held in {**self.held, "n2": Held()}.items()
        }
        view = View(members, {"g1": self.owner, "g2": Ownership("n2", 1)})
        wishes = {"g1": "n3"} if me == "n1" and self.owner.node == "n1" else {}
        local = Local({"g1": self.held[me]}, lease, 0, wishes=wishes)
        plan = decide(me, POLICY, view, local, self.now)
        steps = [a for a in plan.actions if self.now == NOW or not isinstance(a, Arm)]
        for action in steps[:per_turn]:
            if isinstance(action, Claim):
                assert self.owner == action.seen
                self.owner = Ownership(me, self.owner.epoch + 1)
            self.held[me] = done(self.held[me], action)
        return len(steps)


def test_steps_come_in_the_order_that_ends_the_outage_first() -> None:
    view = View(_n1_is_dead(), {"g1": Ownership("n3", 2)})
    plan = decide("n3", POLICY, view, Local({}, NOW + LEASE, 0), NOW)
    kinds = [type(action) for action in plan.actions]
    assert kinds == [Arm, AddAddresses, Announce, WakeGateway, Publish]


PATH_SETS = st.sampled_from([(), ("access",), ("core",), PATHS])
OFFERS = st.builds(Offer, st.sampled_from(NODES), st.integers(1, 3))
MEMBERS = st.fixed_dictionaries(
    {
        node: st.builds(
            Member,
            node=st.just(node),
            incarnation=st.just(1),
            lease_deadline_ns=st.sampled_from([0, NOW, NOW + 1, NOW + LEASE]),
            ready=st.booleans(),
            suspects=st.fixed_dictionaries({}, optional=dict.fromkeys(NODES, PATH_SETS)),
            observing=st.fixed_dictionaries({}, optional=dict.fromkeys(NODES, PATH_SETS)),
            drained=st.booleans(),
            unready=st.sampled_from([(), ("its map lacks 2 pinholes",)]),
            offers=st.fixed_dictionaries({}, optional={"g1": OFFERS, "g2": OFFERS}),
            serves=st.fixed_dictionaries({}, optional={"g1": st.integers(1, 3)}),
        )
        for node in NODES
    }
)
OWNERS = st.fixed_dictionaries(
    {},
    optional={
        group: st.builds(Ownership, st.sampled_from(NODES), st.integers(1, 3))
        for group in ("g1", "g2", "g3")
    },
)
HELD = st.builds(
    Held,
    armed=st.integers(0, 3),
    armed_until_ns=st.sampled_from([0, NOW, NOW + LEASE]),
    addressed=st.integers(0, 3),
    announced=st.integers(0, 3),
    woken=st.integers(0, 3),
    published=st.integers(0, 3),
    doubtful=st.booleans(),
    offered=st.integers(0, 3),
    offered_to=st.sampled_from(NODES),
    offered_until_ns=st.sampled_from([0, NOW, NOW + LEASE]),
    released=st.integers(0, 3),
)
LOCALS = st.builds(
    Local,
    groups=st.fixed_dictionaries({}, optional={"g1": HELD, "g2": HELD}),
    lease_deadline_ns=st.sampled_from([0, NOW, NOW + 1, NOW + LEASE]),
    watching_since_ns=st.sampled_from([0, NOW]),
    vacant_since=st.fixed_dictionaries({}, optional={"g1": st.sampled_from([0, NOW - 200])}),
    wishes=st.fixed_dictionaries({}, optional={"g1": st.sampled_from(["", *NODES, "n9"])}),
    unready=st.sampled_from([(), ("its map lacks 2 pinholes",)]),
    restless=st.sampled_from([frozenset(), frozenset({"n1"}), frozenset(NODES)]),
)


@settings(max_examples=300)
@given(MEMBERS, OWNERS, LOCALS, st.booleans())
def test_whatever_the_view_says_safety_holds(
    members: dict[str, Member], owners: dict[str, Ownership], local: Local, blind: bool
) -> None:
    view = None if blind else View(members, owners)
    claimants: dict[str, list[str]] = {"g1": [], "g2": []}
    for me in NODES:
        plan = decide(me, POLICY, view, local, NOW)
        assert plan.sentence.startswith(me)
        assert plan.sentence.endswith(".")
        assert "\n" not in plan.sentence
        assert [group for group, _ in plan.rules] == ["g1", "g2"]
        alive = local.lease_deadline_ns > NOW
        for action in plan.actions:
            owner = owners.get(action.group, Ownership())
            match action:
                case StepDown():
                    assert not alive or owner.node != me
                    assert local.groups[action.group].anything
                case Claim(group, seen):
                    assert alive
                    assert not blind
                    assert seen == owner
                    assert owner.node != me
                    assert members[me].ready
                    assert members[me].lease_deadline_ns > NOW
                    claimants[group].append(me)
                case MakeOffer(_, epoch, to, _):
                    assert alive
                    assert owner == Ownership(me, epoch)
                    assert to != me
                    assert members[to].ready and not members[to].drained
                    assert not members[to].unready
                    assert members[to].lease_deadline_ns > NOW
                case Withdraw():
                    assert owner.node == me
                case LetGo(_, epoch):
                    assert owner == Ownership(local.groups[action.group].offered_to, epoch)
                    assert members[owner.node].serves.get(action.group) == epoch
                case Arm(_, epoch, until_ns):
                    assert alive
                    assert until_ns == local.lease_deadline_ns
                    assert owner == Ownership(me, epoch)
                case AddAddresses() | Announce() | WakeGateway() | Publish():
                    assert alive
                    assert owner == Ownership(me, action.epoch)
    for group, nodes in claimants.items():
        if group not in local.vacant_since and owners.get(group):
            assert len(nodes) <= 1, "only the first in line claims what fell vacant just now"


@given(MEMBERS, OWNERS)
def test_who_is_heard_by_a_witness_with_a_lease_is_not_dead(
    members: dict[str, Member], owners: dict[str, Ownership]
) -> None:
    """Only its own word, or its lease, can overrule somebody who is believed and hears it."""
    evidence = Evidence(View(members, owners), PATHS, NOW, trust_leases=True)
    for node in NODES:
        death = evidence.death(node)
        if death is None or death.lease_over or death.witnesses == (node,):
            continue
        for path in death.paths:
            for name in death.witnesses:
                witness = members[name]
                assert witness.lease_deadline_ns > NOW
                if path in witness.observing.get(node, ()):
                    assert path in witness.suspects.get(node, ())


def test_of_two_claimants_one_wins() -> None:
    registry = MemoryRegistry()
    assert registry.claim("g1", Ownership(), "n1") == Ownership("n1", 1)
    seen = registry.view().owners["g1"]
    assert registry.claim("g1", seen, "n2") == Ownership("n2", 2)
    assert registry.claim("g1", seen, "n3") is None
    assert registry.view().owners["g1"] == Ownership("n2", 2)


def heard(node: str, *silent: str, paths: tuple[str, ...] = PATHS) -> Member:
    """A member that once heard all others, and does not hear `silent` on `paths` now."""
    observing = {other: PATHS for other in NODES if other != node}
    return Member(node, 1, NOW + LEASE, True, dict.fromkeys(silent, paths), observing)


def gone(*members: Member) -> tuple[str, ...]:
    local = Local({}, NOW + LEASE, watching_since_ns=NOW)
    view = View({member.node: member for member in members}, {})
    return decide("n3", POLICY, view, local, NOW).gone


def test_who_is_heard_nowhere_by_nobody_is_gone() -> None:
    assert gone(heard("n1"), heard("n2"), heard("n3")) == ()
    assert gone(heard("n1"), heard("n2", "n1"), heard("n3", "n1")) == ("n1",)
    # One path is a dead link, one witness an opinion, one's own silence nothing at all.
    one_path = heard("n2", "n1", paths=("core",)), heard("n3", "n1", paths=("core",))
    assert gone(heard("n1"), *one_path) == ()
    assert gone(heard("n1"), heard("n2"), heard("n3", "n1")) == ()
    assert gone(heard("n1"), heard("n2"), heard("n3", "n1", "n2")) == ()
