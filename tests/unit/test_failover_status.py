"""What failover processes say of owners and paths, and what Prometheus is told, as things happen.

The alerts BgfGroupUnowned and BgfPathDown ask for exactly these samples.
"""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bgf.monitor import exposition
from tests.fakes.failover import World


def settled() -> World:
    """Three nodes: n1 serves g1, n2 serves g2, n3 stands by."""
    world = World(nodes=3, groups=2, seed=7)
    world.run(1_000)
    assert world.serving("g1") == ["n1"] and world.serving("g2") == ["n2"]
    return world


def samples(world: World, node: str, name: str, label: str) -> dict[str, float]:
    """The value of one metric of a node, by one of its labels."""
    answers: dict[str, Any] = {"failover": world.manager(node).status()}
    text = exposition.text_of(node, answers, {})
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def owned(world: World, node: str) -> dict[str, float]:
    return samples(world, node, "bgf_group_has_owner", "group")


def heard(world: World, node: str) -> dict[str, float]:
    return samples(world, node, "bgf_peer_paths_heard", "peer")


def test_a_path_that_has_fallen_silent_is_not_heard_any_more() -> None:
    world = settled()
    world.carrier_is_seen = False
    assert heard(world, "n1") == {"n2": 2, "n3": 2}
    world.nodes["n3"].links_cut.add("core")
    world.run(500)
    status = world.manager("n1").status()
    assert status["hears"]["n3"] == ["access"] and status["suspects"]["n3"] == ["core"]
    assert heard(world, "n1") == {"n2": 2, "n3": 1}
    assert heard(world, "n3") == {"n1": 1, "n2": 1}  # and so the alert names n3
    world.nodes["n3"].links_cut.clear()
    world.run(500)
    assert heard(world, "n1") == {"n2": 2, "n3": 2}


def test_a_peer_that_is_silent_on_all_paths_is_named_with_none() -> None:
    world = settled()
    world.power_off("n3")
    world.run(500)
    assert "n3" not in world.manager("n1").status()["hears"]
    assert heard(world, "n1") == {"n2": 2, "n3": 0}
    assert heard(world, "n2") == {"n1": 2, "n3": 0}  # all alike: no alert about paths


def test_a_peer_that_was_never_heard_is_named_with_none() -> None:
    world = World(nodes=3, groups=2, seed=7, start=False)
    world.nodes["n1"].links_cut |= {"access", "core"}
    world.start("n1")
    world.run(500)
    assert heard(world, "n1") == {"n2": 0, "n3": 0}


def test_a_group_that_nobody_has_owned_yet_is_told_to_have_no_owner() -> None:
    world = World(nodes=3, groups=2, seed=7, start=False)
    world.start("n3")
    world.run(300)
    nobody = {"node": "", "epoch": 0}
    assert world.manager("n3").status()["owners"] == {"g1": nobody, "g2": nobody}
    assert owned(world, "n3") == {"g1": 0, "g2": 0}


def test_an_owner_that_died_without_an_heir_is_none() -> None:
    world = settled()
    assert owned(world, "n3") == owned(world, "n1") == {"g1": 1, "g2": 1}
    world.nodes["n2"].ready = world.nodes["n3"].ready = False  # nobody could take over
    world.run(1_000)
    world.power_off("n1")
    world.run(3_000)
    assert world.manager("n3").status()["owners"]["g1"] == {"node": "n1", "epoch": 1}
    assert owned(world, "n2") == owned(world, "n3") == {"g1": 0, "g2": 1}


def test_a_group_that_goes_on_by_the_peers_word_has_an_owner() -> None:
    world = settled()
    for node in world.nodes.values():
        node.registry_cut = True
    world.run(3_000)
    assert world.serving("g1") == ["n1"] and world.serving("g2") == ["n2"]
    assert owned(world, "n1")["g1"] == 1 and owned(world, "n2")["g2"] == 1
    world.power_off("n3")  # whose word they need
    world.run(6_000)
    assert world.serving("g1") == world.serving("g2") == []
    assert owned(world, "n1") == owned(world, "n2") == {"g1": 0, "g2": 0}
