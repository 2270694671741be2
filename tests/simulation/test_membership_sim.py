"""Members decide together in a simulated registry: no promise broken, then everything heals."""

from __future__ import annotations

from statestore.member_records import LAB
from tests.fakes.member_world import Violation, World


def test_without_faults_all_join_and_nobody_is_ever_evicted() -> None:
    for seed in range(10):
        world = World(seed, LAB)
        world.run(10_000)
        assert world.whole(), f"seed {seed}"
        assert world.evicted == [] and world.founded == [1], f"seed {seed}"


def test_faults_break_no_promise_and_heal() -> None:
    for seed in range(40):
        world = World(seed, LAB)
        try:
            world.run(12_000, faults=True)
        except Violation as violation:
            raise AssertionError(f"seed {seed}: {violation}") from violation
        world.heal()
        world.run(6_000)
        assert world.whole(), f"seed {seed}: {[m.last for m in world.members]}"


def test_the_simulation_finds_an_eviction_that_does_not_look_at_the_record() -> None:
    def breaks(seed: int) -> bool:
        world = World(seed, LAB, checked=False)
        try:
            world.run(12_000, faults=True)
        except Violation:
            return True
        return False

    assert any(breaks(seed) for seed in range(200))
