"""What a failover process remembers: who flaps, its own strain, each group's past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bgf.runtime.history_file import HistoryFile
from failover.flapping import FLAP_WINDOW_NS, FLAPS_MAX, QUIET_NS, SECOND, Flaps
from failover.history import EVENTS_PER_GROUP_MAX, History, TimelineEvent
from failover.strain import WINDOW_NS, Strain
from tests.fakes.failover import MS, World

LEASE_NS = 1_000 * MS


def die_and_return(flaps: Flaps, at_ns: int) -> None:
    flaps.note(["n1", "n2"], ["n1"], at_ns)
    flaps.note(["n1", "n2"], ["n1"], at_ns + MS)  # the same death, seen again
    flaps.note(["n1", "n2"], [], at_ns + SECOND)


def test_who_dies_often_is_restless_until_it_has_been_quiet() -> None:
    flaps = Flaps()
    for number in range(FLAPS_MAX):
        assert flaps.restless() == frozenset()
        die_and_return(flaps, number * 5 * SECOND)
    assert flaps.restless() == {"n1"}
    back_ns = (FLAPS_MAX - 1) * 5 * SECOND + SECOND
    flaps.note(["n1", "n2"], [], back_ns + QUIET_NS - 1)
    assert flaps.restless() == {"n1"}
    flaps.note(["n1", "n2"], [], back_ns + QUIET_NS)
    assert flaps.restless() == frozenset()


def test_deaths_that_are_far_apart_are_no_flapping() -> None:
    flaps = Flaps()
    for number in range(2 * FLAPS_MAX):
        die_and_return(flaps, number * FLAP_WINDOW_NS // (FLAPS_MAX - 1))
    assert flaps.restless() == frozenset()


def test_who_is_no_member_any_more_is_forgotten() -> None:
    flaps = Flaps()
    for number in range(FLAPS_MAX):
        die_and_return(flaps, number * SECOND)
    flaps.note(["n2"], [], 10 * SECOND)
    assert flaps.restless() == frozenset()


@pytest.mark.parametrize(
    ("stretches_ms", "word"),
    [((), ""), ((40, 30, 60), ""), ((200, 150, 200), "overloaded"), ((30, 500), "suspended")],
)
def test_lateness_has_a_name_for_a_while(stretches_ms: tuple[int, ...], word: str) -> None:
    strain, total_ns = Strain(LEASE_NS), 0
    for number, late_ms in enumerate(stretches_ms, 1):
        total_ns += late_ms * MS
        strain.note(total_ns, number * MS)
    assert strain.word() == word
    strain.note(total_ns, WINDOW_NS + 10 * MS)
    assert not strain.word()


def event(name: str, number: int, group: str = "g1") -> TimelineEvent:
    return TimelineEvent(
        event=name, group=group, node="n1", epoch=1, at_ns=number, sentence="so", reason="", last=""
    )


def test_a_history_is_bounded_and_outlives_its_process(tmp_path: Path) -> None:
    history = History()
    for number in range(EVENTS_PER_GROUP_MAX + 5):
        history.note(event("armed", number))
    history.note(event("links", 1, group=""))
    assert history.of("g1")[0]["at_ns"] == 5
    assert history.of("") == []
    kept = HistoryFile(tmp_path, history, "boot-1")
    kept.save()
    again, foreign = History(), History()
    HistoryFile(tmp_path, again, "boot-1").load(["g1", "g2"])
    assert again.of("g1") == history.of("g1")
    assert not again.changed
    HistoryFile(tmp_path, foreign, "boot-2").load(["g1"])  # its times would mean nothing
    assert foreign.of("g1") == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"boot": "b", "groups": {"g1": [1, {"event": 2}]}}']
)
def test_what_is_no_history_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "failover.history").write_text(text)
    history = History()
    HistoryFile(tmp_path, history, "b").load(["g1"])
    assert history.of("g1") == []


def test_events_of_a_takeover_can_be_kept_as_they_are() -> None:
    world = World(3, 2, seed=3)
    world.run(1_000)
    world.power_off("n1")
    world.run(1_500)
    told = world.manager("n3").history.of("g1")
    assert json.loads(json.dumps(told)) == told
    decided = [e for e in told if e["event"] == "decided"][-1]
    assert (decided["last"], decided["epoch"]) == ("n1", 2)
    conditions = [e["reason"] for e in told if e["event"] == "condition"]
    assert conditions == ["silent", "node dead"]


def test_reasons_are_told_apart_as_they_become_known() -> None:
    """What the others say of n1, whatever happens to it."""

    def said(world: World, run_ms: int) -> str:
        world.run(run_ms)
        found: dict[str, dict[str, str]] = world.manager("n3").status()["conditions"]
        return found.get("n1", {}).get("state", "well")

    world = World(3, 1, seed=4)
    world.carrier_is_seen = False
    assert said(world, 1_000) == "well"
    world.nodes["n1"].links_cut = {"core"}
    assert said(world, 500) == "link dead"
    world.nodes["n1"].links_cut = {"core", "access"}
    assert said(world, 800) == "link dead"  # it still renews
    world.nodes["n1"].links_cut = set()
    assert said(world, 3_000) == "well"
    world.nodes["n1"].health = {"gateway": "it does not follow the change feed, or is dead"}
    assert said(world, 300) == "process dead"
    world.nodes["n1"].health = {}
    world.stop_agent("n1", 2_500)
    assert said(world, 2_000) == "process dead or management cut"
    assert said(world, 1_000) == "suspended"
    assert said(world, 6_000) == "well"
    world.power_off("n1")
    assert said(world, 1_500) == "node dead"


def test_a_node_that_comes_and_goes_is_not_trusted_with_a_group() -> None:
    world = World(4, 2, seed=9)
    world.run(1_000)
    for _ in range(FLAPS_MAX):
        world.power_off("n3")  # a standby
        world.run(1_500)
        world.power_on("n3")
        world.run(2_500)
    assert world.manager("n4").status()["restless"] == ["n3"]
    world.power_off("n1")
    world.run_until(lambda: world.serving("g1") == ["n4"], within_ms=500)
