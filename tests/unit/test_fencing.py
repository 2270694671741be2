"""Whom a node has switched off: only former owners whose lease is over, and not too many."""

from __future__ import annotations

from failover.actions import Held
from failover.fencing import (
    FENCED_MAX,
    RETRY_NS,
    TRIES_MAX,
    WINDOW_NS,
    Fenced,
    Fencing,
    may_live,
)
from failover.registry import Member, Ownership, View

LEASE_NS = 1_000_000_000


def view(until_ns: int, *, owner: str = "n2", epoch: int = 2, incarnation: int = 1) -> View:
    dead = Member("n1", incarnation, until_ns)
    return View({"n1": dead, "n2": Member("n2", 1, 10**18)}, {"g1": Ownership(owner, epoch)})


def took(now: View) -> Fencing:
    fencing = Fencing("n2")
    fencing.took("n1", "g1", 2, now)
    return fencing


def test_a_former_owner_is_fenced_when_its_lease_is_over_and_not_before() -> None:
    now = view(until_ns=1000)
    fencing = took(now)
    assert fencing.due(now, 999) == []
    assert fencing.due(now, 1000) == ["n1"]
    assert fencing.due(now, 1001) == []


def test_one_that_renews_lets_go_by_itself() -> None:
    now = view(until_ns=1000)
    fencing = took(now)
    assert fencing.due(view(until_ns=10**15), 5000) == []


def test_nobody_is_fenced_for_a_group_that_went_elsewhere() -> None:
    now = view(until_ns=0)
    fencing = took(now)
    assert fencing.due(view(until_ns=0, owner="n3", epoch=3), 5) == []
    assert fencing.due(view(until_ns=0, epoch=4), 5) == []


def test_one_that_has_come_back_is_not_fenced() -> None:
    fencing = took(view(until_ns=0))
    assert fencing.due(view(until_ns=0, incarnation=2), 5) == []
    assert fencing.due(view(until_ns=0), 6) == []


def test_a_failed_attempt_is_made_again_a_few_times() -> None:
    now = view(until_ns=0)
    fencing = took(now)
    times = [t for t in range(20) if fencing.due(now, t * RETRY_NS)]
    assert times == list(range(TRIES_MAX))


def test_one_that_is_off_is_left_alone() -> None:
    now = view(until_ns=0)
    fencing = took(now)
    assert fencing.due(now, 0) == ["n1"]
    fencing.ended(Fenced("n1", True, "stopped"))
    assert fencing.due(now, 10 * RETRY_NS) == []


def test_who_finds_everybody_dead_is_not_believed() -> None:
    names = [f"n{n}" for n in range(3, 8)]
    members = {name: Member(name, 1, 0) for name in names}
    owners = {f"g{name}": Ownership("n2", 2) for name in names}
    now = View(members, owners)
    fencing = Fencing("n2")
    for name in names:
        fencing.took(name, f"g{name}", 2, now)
    assert fencing.due(now, 0) == names[:FENCED_MAX]
    assert fencing.withheld == set(names[FENCED_MAX:])
    for name in names[:FENCED_MAX]:
        fencing.ended(Fenced(name, True, "stopped"))
    assert fencing.due(now, WINDOW_NS + 1) == names[FENCED_MAX : 2 * FENCED_MAX]


def test_the_watchdog_starves_only_when_a_node_cannot_let_go() -> None:
    stuck = {"g1": Held(armed=3)}
    assert may_live({"g1": Held(doubtful=True)}, 0, 10**12, LEASE_NS)
    assert may_live({}, 0, 10**12, LEASE_NS)
    assert may_live(stuck, 5, 4, LEASE_NS)
    assert may_live(stuck, 5, 5 + LEASE_NS - 1, LEASE_NS)
    assert not may_live(stuck, 5, 5 + LEASE_NS, LEASE_NS)
    assert not may_live({"g1": Held(addressed=3)}, 5, 5 + LEASE_NS, LEASE_NS)
