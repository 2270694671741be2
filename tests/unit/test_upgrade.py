"""A rolling upgrade under a clock of its own: order, where it stops, going on from every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bgf.ctl.upgrade import DRAINED, STEPS, Standing, Stopped, Upgrade, load, order
from bgf.errors import ConfigError, EnvironmentProblem


class Nodes:
    """Nodes that do what they are told, in a second; what `broken` names never works."""

    def __init__(self, groups: Mapping[str, str], nodes: Sequence[str]) -> None:
        self.owners = dict(groups)
        self.nodes = list(nodes)
        self.drained: set[str] = set()
        self.versions = dict.fromkeys(nodes, 1)
        self.broken: set[str] = set()
        self.now_s = 0.0
        self.moves = 0
        self.served_all_the_time = True

    def carried(self) -> Mapping[str, Sequence[str]]:
        return {n: [g for g, o in self.owners.items() if o == n] for n in self.nodes}

    def not_up(self, node: str) -> Sequence[str]:
        return [f"{node} gateway: no such socket"] if node in self.broken else ()

    def against(self, node: str) -> Sequence[str]:
        return [*self.not_up(node), *([DRAINED] if node in self.drained else ())]

    def drain(self, node: str) -> None:
        self.drained.add(node)
        for group, owner in sorted(self.owners.items()):
            fit = [n for n in self.nodes if n not in self.drained and n not in self.broken]
            if owner == node and fit:
                self.owners[group] = min(fit, key=lambda n: len(self.carried()[n]))
                self.moves += 1

    def undrain(self, node: str) -> None:
        self.drained.discard(node)

    def restart(self, node: str) -> None:
        self.served_all_the_time &= not self.carried()[node] and node in self.drained
        self.versions[node] += 1

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


def made(nodes: Nodes, path: Path, said: list[str] | None = None) -> Upgrade:
    tell = said.append if said is not None else lambda _: None
    return Upgrade(nodes, nodes.restart, path, tell, wait=nodes.wait, clock=lambda: nodes.now_s)


def five() -> Nodes:
    names = [f"n{n}" for n in range(1, 6)]
    return Nodes({f"g{n}": f"n{n}" for n in range(1, 5)}, names)


def test_every_node_once_and_every_group_moves_once(tmp_path: Path) -> None:
    nodes, said = five(), list[str]()
    standing = made(nodes, tmp_path / "upgrade.json", said).run()
    assert standing.done == ["n5", "n1", "n2", "n3", "n4"]
    assert set(nodes.versions.values()) == {2}
    assert nodes.served_all_the_time and nodes.moves == 4
    assert not nodes.drained and not list(tmp_path.iterdir())
    assert said[0] == "n5 (1 of 5): somebody else could take over"
    assert len(said) == 5 * len(STEPS)


def test_it_stops_at_the_first_node_that_does_not_come_back_and_goes_on(tmp_path: Path) -> None:
    nodes, path = five(), tmp_path / "upgrade.json"

    def restart(node: str) -> None:
        nodes.restart(node)
        if node == "n1" and nodes.versions["n1"] == 2:
            nodes.broken.add("n1")

    upgrade = made(nodes, path)
    upgrade._restart = restart
    with pytest.raises(Stopped) as stopped:
        upgrade.run()
    text = str(stopped.value)
    assert text.startswith("stopped at n1, its processes answer: after 120 s: n1 gateway: no such")
    assert "done: n5; at n1: processes; not begun: n2, n3, n4." in text
    assert nodes.drained == {"n1"} and not nodes.carried()["n1"]
    nodes.broken.clear()
    assert made(nodes, path).run().done == ["n5", "n1", "n2", "n3", "n4"]
    assert nodes.served_all_the_time and not nodes.drained


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_step_it_ends_the_same(tmp_path: Path, step: str) -> None:
    nodes, path = five(), tmp_path / "upgrade.json"
    upgrade = made(nodes, path)

    def tell(_: str) -> None:
        if (upgrade.standing.at, upgrade.standing.step) == ("n2", step):
            raise KeyboardInterrupt

    upgrade._tell = tell
    with pytest.raises(KeyboardInterrupt):
        upgrade.run()
    assert load(path).at == "n2"
    assert made(nodes, path).run().done == ["n5", "n1", "n2", "n3", "n4"]
    assert min(nodes.versions.values()) >= 2 and nodes.served_all_the_time and not nodes.drained


def test_nobody_to_take_over_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    nodes = Nodes({"g1": "n1"}, ["n1", "n2"])
    nodes.broken.add("n2")
    nodes.owners["g2"] = "n2"
    nodes.owners["g3"] = "n2"
    with pytest.raises(Stopped, match="nobody could take over from n1 \\(n2: n2 gateway"):
        made(nodes, tmp_path / "u.json").run()
    assert set(nodes.versions.values()) == {1} and not nodes.drained


def test_a_restart_that_fails_is_where_it_stops(tmp_path: Path) -> None:
    nodes = Nodes({"g1": "n1"}, ["n1", "n2"])
    upgrade = made(nodes, tmp_path / "u.json")

    def fails(node: str) -> None:
        raise EnvironmentProblem(f"'ssh {node}' ended with 255: no route to host")

    upgrade._restart = fails
    with pytest.raises(Stopped, match="stopped at n2, it is restarted: 'ssh n2' ended with 255"):
        upgrade.run()


def test_a_file_that_is_no_standing_or_of_other_nodes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.json"
    for text in ("{", "[]", '{"at": 3}', '{"strange": 1}', json.dumps({"order": ["x"] * 65})):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"u\.json: not where an upgrade stands"):
            load(path)
    path.write_text(json.dumps({"order": ["n1", "n9"]}))
    with pytest.raises(ConfigError, match="other nodes stands there"):
        made(Nodes({}, ["n1", "n2"]), path).run()


def test_who_carries_nothing_comes_first() -> None:
    assert order({"n1": ["g1"], "n2": [], "n3": ["g2", "g3"]}) == ["n2", "n1", "n3"]
    assert Standing().line() == "done: none; not begun: none"
