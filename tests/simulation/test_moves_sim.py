"""Planned moves and N+k in the simulated cluster: a neighbour never sends in vain.

The real managers under one clock (tests/fakes/failover). `World.delivers` asks where a neighbour
sends, by the announcements that it heard, and whether that node forwards at this moment.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from failover.errors import MoveRefused
from failover.registry import Ownership
from tests.fakes.failover import World

SEEDS = range(1, 5)


def settled(seed: int, nodes: int = 3, groups: int = 2) -> World:
    world = World(nodes, groups, seed=seed)
    world.run(1_000)
    for number in range(1, groups + 1):
        assert world.serving(f"g{number}") == [f"n{number}"]
    return world


def lost_until(world: World, holds: Callable[[], bool], within_ms: int) -> int:
    """Milliseconds in which a packet to any group would have been lost, until `holds`."""
    lost = 0
    groups = list(world.nodes["n1"].config.groups)
    for _ in range(within_ms):
        if holds():
            return lost
        world.run(1)
        lost += sum(not world.delivers(group) for group in groups)
    raise AssertionError(f"did not hold within {within_ms} ms: {world.describe()}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_switchover_loses_nothing(seed: int) -> None:
    world = settled(seed)
    world.manager("n1").switch_over("g1", "n3")
    assert lost_until(world, lambda: world.serving("g1") == ["n3"], 2_500) == 0
    assert world.owner("g1") == Ownership("n3", 2)
    world.run(1_500)
    assert not world.nodes["n1"].armer.forwards("g1")
    assert not world.nodes["n1"].addresses.held()
    told = [event["event"] for event in world.nodes["n1"].events if event["group"] == "g1"]
    assert told[-5:] == ["wanted", "offered", "moved", "released", "stepped-down"]
    decided = [e for e in world.nodes["n3"].events if e["event"] == "decided"][-1]
    assert decided["reason"] == "planned move"
    assert world.manager("n1").status()["groups"]["g1"]["moving_to"] == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drained_node_hands_everything_over_and_takes_nothing(seed: int) -> None:
    world = settled(seed, nodes=4, groups=2)
    world.manager("n1").switch_over("g1", "n2")  # n2 carries both, n1, n3 and n4 nothing
    world.run_until(lambda: world.serving("g1") == ["n2"], 2_500)
    world.manager("n2").drain(drained=True)
    moved = lost_until(
        world, lambda: world.owner("g1").node != "n2" != world.owner("g2").node, 5_000
    )
    assert moved == 0
    assert {world.owner("g1").node, world.owner("g2").node} == {"n1", "n3"}  # spread, by id
    world.run(1_500)
    assert lost_until(world, lambda: not world.nodes["n2"].addresses.held(), 100) == 0
    world.kill_agent("n2")
    world.start("n2")
    world.run(500)
    assert world.manager("n2").status()["drained"]  # a restart does not bring it back
    world.power_off("n1")
    world.run(2_000)
    assert "n2" not in (world.owner("g1").node, world.owner("g2").node)
    world.manager("n2").drain(drained=False)
    world.power_off("n4")
    world.power_off("n3")
    world.run_until(lambda: world.serving("g1") == world.serving("g2") == ["n2"], 5_000)


def test_a_move_to_a_node_that_finds_itself_unready_is_given_up() -> None:
    world = settled(5)
    world.nodes["n3"].unready = ("its map lacks 2 pinholes",)
    world.run(300)
    world.manager("n1").switch_over("g1", "n3")
    wishes = world.manager("n1")._wishes
    assert lost_until(world, lambda: not wishes.wanted(), 11_000) == 0
    assert world.owner("g1") == Ownership("n1", 1)
    last = [e for e in world.nodes["n1"].events if e["group"] == "g1"][-1]
    assert last["event"] == "given-up"
    assert "its map lacks 2 pinholes" in last["sentence"]


@pytest.mark.parametrize("after_ms", range(0, 60, 7))
@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_a_move_survives_a_death_at_every_moment(victim: str, after_ms: int) -> None:
    """Who gives or who takes loses power so long after the wish: somebody serves soon after."""
    world = settled(after_ms)
    world.manager("n1").switch_over("g1", "n3")
    world.run(after_ms)
    world.power_off(victim)
    took_ms = world.run_until(lambda: len(world.serving("g1")) == 1, 2_500)
    assert took_ms <= 400, world.describe()
    assert world.serving("g1") != [victim]
    assert world.serving("g2") == ["n2"]


def test_what_cannot_be_moved_is_refused_at_once() -> None:
    world = settled(6)
    manager = world.manager("n1")
    with pytest.raises(MoveRefused, match="g2 is n2's"):
        manager.switch_over("g2", "n3")
    with pytest.raises(MoveRefused, match="no group 'g9': there are g1, g2"):
        manager.switch_over("g9", "n3")
    with pytest.raises(MoveRefused, match="no node 'n9': there are n2, n3"):
        manager.switch_over("g1", "n9")
    with pytest.raises(MoveRefused, match="g1 is n1's already"):
        manager.switch_over("g1", "n1")


def test_two_deaths_and_one_standby_both_groups_are_served_and_the_operator_is_warned() -> None:
    world = settled(7, nodes=4, groups=3)
    world.power_off("n1")
    world.power_off("n2")
    world.run_until(lambda: bool(world.serving("g1") and world.serving("g2")), 2_500)
    survivors = {world.owner(group).node for group in ("g1", "g2", "g3")}
    assert survivors == {"n3", "n4"}
    world.run(100)
    status = world.manager("n4").status()
    assert "no standby is ready: the next death puts two groups on one node" in status["warnings"]
    assert any("has the load of 2" in line for line in status["warnings"])
    assert [e for e in world.nodes["n4"].events if e["event"] == "warning"]
    for name in ("n1", "n2"):
        world.power_on(name)
    world.run(6_000)  # as long as a promise that they have forgotten may hold, and longer
    assert not any("standby" in line for line in world.manager("n4").status()["warnings"])
    world.power_off("n4")
    world.run_until(lambda: all(len(world.serving(g)) == 1 for g in ("g1", "g2", "g3")), 2_500)


def test_two_standbys_take_two_groups_of_one_dead_node_each_one() -> None:
    world = settled(8, nodes=4, groups=2)
    world.manager("n1").switch_over("g1", "n2")
    world.run_until(lambda: world.serving("g1") == ["n2"], 2_500)
    world.power_off("n1")
    world.run(1_500)
    world.power_off("n2")
    world.run_until(lambda: bool(world.serving("g1") and world.serving("g2")), 2_500)
    assert {world.owner("g1").node, world.owner("g2").node} == {"n3", "n4"}
