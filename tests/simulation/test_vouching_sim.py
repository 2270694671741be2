"""The registry gone, in every company: partitions, pauses, restarts, machines without power.

The real managers, as in test_failover_sim; what is added is that the registry is away for long and
comes back for some, that claims are answered late or never, and what must hold then: no forwarding
by the peers' word overlaps any other, and while all live and hear each other no owner ever stops.
One failing seed again: VOUCHING_SEEDS=17 pytest tests/simulation/test_vouching_sim.py
"""

from __future__ import annotations

import functools
import os

import pytest

from failover import vouching
from failover.registry import Ownership
from tests.fakes.failover import MS, Armed, World
from tests.simulation.test_failover_sim import (
    GROUPS,
    disturb,
    epochs_are_monotonic,
    healed,
    nobody_arms_beyond_its_lease,
    one_owner_per_epoch,
    repair,
)

SEEDS = [int(seed) for seed in os.environ.get("VOUCHING_SEEDS", "1,2,3,4,5,6,7,8").split(",")]
LEASE_MS = 600
FAULTY_MS = 15_000
HEALING_MS = 10_000


def trouble(world: World) -> None:
    """The registry goes, or comes back, for some or for all; what else happens is `disturb`'s."""
    draw = world.random
    match draw.randrange(6):
        case 0 | 1:
            for node in world.nodes.values():
                node.registry_cut = True
        case 2:
            for node in world.nodes.values():
                node.registry_cut = draw.random() < 0.5
        case 3:
            for node in world.nodes.values():
                node.links_cut = set()
                node.registry_cut = True
            world.loss = draw.choice([0.0, 0.05])
        case _:
            disturb(world)


def live(seed: int) -> World:
    world = World(2 + seed % 4, GROUPS, seed=seed, interval_ms=40, lease_ms=LEASE_MS)
    world.carrier_is_seen = bool(seed % 2)
    world.run(1_500)
    assert healed(world), f"seed {seed} did not even start: {world.describe()}"
    world.doubt = 0.2
    end_ns = world.now_ns + FAULTY_MS * MS
    while world.now_ns < end_ns:
        trouble(world)
        world.run(world.random.choice([50, 300, 700, 1_500, 3_500]))
    world.doubt = 0.0
    repair(world)
    world.run(HEALING_MS)
    return world


@functools.cache
def lived(seed: int) -> World:
    print(f"seed {seed}")
    return live(seed)


def check(world: World) -> None:
    one_owner_per_epoch(world.history)
    epochs_are_monotonic(world.history)
    nobody_arms_beyond_its_lease(world.history)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_forward(seed: int) -> None:
    check(lived(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_heals(seed: int) -> None:
    assert healed(lived(seed)), f"seed {seed} did not heal: {lived(seed).describe()}"


def test_the_seeds_stand_by_their_peers_word_at_all() -> None:
    stood = {
        seed
        for seed in SEEDS
        for event in lived(seed).history
        if isinstance(event, Armed) and event.deadline_ns > event.lease_ns
    }
    assert len(stood) >= len(SEEDS) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_while_all_live_and_hear_each_other_no_owner_stops(seed: int) -> None:
    """Thirty leases without a registry, datagrams lost, processes late."""
    world = World(3 + seed % 3, GROUPS, seed=seed, interval_ms=40, lease_ms=LEASE_MS)
    world.run(2_000)
    assert healed(world)
    world.loss, world.lateness_ns_max = 0.02, 20 * MS
    for node in world.nodes.values():
        node.registry_cut = True
    owners = {group: world.owner(group).node for group in ("g1", "g2")}
    for _ in range(30 * LEASE_MS // 10):
        world.run(10)
        assert all(world.serving(group) == [owner] for group, owner in owners.items())
    for node in world.nodes.values():
        node.registry_cut = False
    for _ in range(10 * LEASE_MS // 10):
        world.run(10)
        assert all(world.serving(group) == [owner] for group, owner in owners.items())
    assert all(world.owner(group) == Ownership(owner, 1) for group, owner in owners.items())


# -- the checkers bite ---------------------------------------------------------------------------

MUTANT_SEEDS = range(1, 41)


def found(seeds: range = MUTANT_SEEDS) -> int:
    """The first seed whose history must not pass; 0 when all pass."""
    for seed in seeds:
        try:
            check(live(seed))
        except AssertionError as error:
            assert "forwards as well" in str(error), error
            return seed
    return 0


def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouching.Vouching, "promised", lambda *_: None)
    assert found()


def test_a_promise_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was switched on again waits for nothing."""
    real = vouching.promise_ns
    monkeypatch.setattr("failover.voucher.promise_ns", lambda length_ns: real(length_ns) * 0)
    assert found()


def test_a_registry_that_admits_everybody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer that the owner never took note of, taking over."""
    monkeypatch.setattr("failover.registry.Member.admits", lambda *_: True)
    assert found()


def test_a_word_given_by_one_that_knows_better_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouching.Vouching, "_may_vouch", lambda *_: True)
    assert found()


