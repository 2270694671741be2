"""What stands between the failover room and this node: the witness, the admin handlers."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.config import NodeConfig
from bgf.errors import Malformed
from bgf.lab.nodes import node_config
from bgf.lab.plan import make_plan
from bgf.runtime.failover_admin import FailoverAdmin, MoveNotPossible
from bgf.runtime.witness import Witness
from failover.errors import AddressError
from tests.fakes.failover import World, group_addresses
from tests.fakes.nodes import FakeNodes, says

WAIT_S = 10.0


@pytest.fixture
def fakes() -> Iterator[FakeNodes]:
    nodes = FakeNodes()
    yield nodes
    nodes.close()


def node(tmp_path: Path) -> NodeConfig:
    """n1 of three, in a directory of the test."""
    plan = make_plan(run_dir=tmp_path)
    (tmp_path / "n1").mkdir(exist_ok=True)
    return node_config(plan, plan.nodes[0])


MEMBERS: list[Any] = [{"node": "n1"}, {"node": "n3"}, "no row", {"strange": 1}]


def test_a_witness_says_who_is_a_member_and_what_is_unwell(
    tmp_path: Path, fakes: FakeNodes
) -> None:
    made = node(tmp_path)
    alive = True
    witness = Witness(made, lambda: alive)
    assert witness.health() == {} and witness.control() == {}  # nothing was asked yet
    witness.ask()  # nobody is there
    assert witness.health() == {"state": "it does not answer"} and witness.control() == {}
    answer: dict[str, Any] = {"ready": True, "members": MEMBERS}
    fakes.serve(made.node.socket("state"), {"status": lambda _: answer})
    witness.ask()
    assert witness.health() == {}
    assert witness.control() == {"n2": False, "n3": True}
    answer = {"ready": True, "members": "odd"}
    witness.ask()
    assert witness.control() == {}
    answer = {"ready": False, "members": MEMBERS}
    witness.ask()
    assert witness.health() == {"state": "it does not serve"} and witness.control() == {}
    alive = False
    assert "gateway" in witness.health()


def test_a_witness_of_an_embedded_store_knows_no_members(tmp_path: Path, fakes: FakeNodes) -> None:
    made = node(tmp_path)
    made = dataclasses.replace(made, state=dataclasses.replace(made.state, cluster=None))
    fakes.serve(made.node.socket("state"), {"status": says({"ready": True, "members": MEMBERS})})
    witness = Witness(made, lambda: True)
    witness.ask()
    assert witness.health() == {} and witness.control() == {}


def test_a_witness_asks_by_itself_and_ends(
    tmp_path: Path, fakes: FakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgf.runtime.witness.ASK_S", 0.01)
    made = node(tmp_path)
    fakes.serve(made.node.socket("state"), {"status": says({"ready": True, "members": MEMBERS})})
    witness = Witness(made, lambda: True)
    witness.start()
    deadline = time.monotonic() + WAIT_S
    while not witness.control():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    witness.close()
    assert not witness._thread.is_alive()


def admin(world: World, name: str, boot: str = "boot") -> FailoverAdmin:
    held = world.nodes[name]
    return FailoverAdmin(world.manager(name), held.addresses, held.config.groups, boot)


def ask(world: World, name: str, command: str, **request: Any) -> dict[str, Any]:
    """A handler's answer, whether it waits or not."""
    found: Any = admin(world, name).handlers[command]({"command": command, **request})
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def world() -> World:
    made = World(nodes=3, groups=2)
    made.run(1_500)
    return made


def test_status_timeline_and_history(world: World) -> None:
    status = ask(world, "n3", "status")
    assert status["process"] == "failover" and status["peers"] == status["hears"]
    assert status["owners"]["g1"] == {"node": "n1", "epoch": 1}
    events = ask(world, "n1", "timeline")["events"]
    assert "decided" in {event["event"] for event in events}
    history = ask(world, "n1", "history", group="g1")
    assert history["boot"] == "boot" and history["now_ns"] > 0
    assert {event["group"] for event in history["events"]} == {"g1"}
    for wrong in ({}, {"group": ""}, {"group": 7}):
        with pytest.raises(Malformed, match="'group' is missing"):
            ask(world, "n1", "history", **wrong)
    with pytest.raises(Malformed, match="no group 'g9': there are g1, g2"):
        ask(world, "n1", "history", group="g9")


def _lose_registry(world: World) -> None:
    world.nodes["n3"].registry_cut = True
    world.run(1_200)  # longer than a lease


def _cut_link(world: World) -> None:
    world.nodes["n3"].links_cut.add("core")
    world.run(300)


def _say_unready(world: World) -> None:
    world.nodes["n3"].unready = ("its packet path lacks recorded pinholes",)


@pytest.mark.parametrize(
    ("spoil", "says_"),
    [
        (lambda _: None, ""),
        (_say_unready, "its packet path lacks recorded pinholes"),
        (_cut_link, "its own link to core is down"),
        (_lose_registry, "it has no lease"),
        (lambda world: world.manager("n3").drain(True), "it is drained"),
    ],
)
def test_ready_says_everything_against(
    world: World, spoil: Callable[[World], None], says_: str
) -> None:
    spoil(world)
    found = ask(world, "n3", "ready")
    assert found["ready"] is (says_ == "")
    assert found["node"] == "n3" and (not says_ or says_ in found["why"]), found
    assert all(not group["why"] for group in found["groups"].values()) or says_


def test_ready_looks_at_the_addresses(world: World) -> None:
    taken = world.nodes["n3"].addresses
    taken.add(group_addresses(1)[2:], 60)
    found = ask(world, "n3", "ready")["groups"]
    assert found["g1"] == {
        "owner": "n1",
        "why": ["10.20.0.101 stands on this node, which does not own g1"],
    }
    assert found["g2"]["why"] == []
    own = ask(world, "n1", "ready")["groups"]["g1"]
    assert own == {"owner": "n1", "why": []}  # they stand there by right


def test_ready_asks_the_link_for_a_group_that_nobody_owns() -> None:
    world = World(nodes=2, groups=1)
    world.nodes["n2"].ready = world.nodes["n1"].ready = False
    world.run(200)
    world.nodes["n2"].addresses.strangers["10.10.0.101"] = "02:00:00:00:00:07"
    why = ask(world, "n2", "ready")["groups"]["g1"]["why"]
    assert why == ["10.10.0.101 is answered for by 02:00:00:00:00:07"]

    def refuse(_: Any) -> Any:
        raise AddressError("access: no such interface")

    world.nodes["n2"].addresses.conflicts = refuse  # type: ignore[assignment,method-assign]
    assert ask(world, "n2", "ready")["groups"]["g1"]["why"] == ["access: no such interface"]


def test_a_move_is_ordered_or_refused_with_its_reason(world: World) -> None:
    done = ask(world, "n1", "switchover", group="g1", to="n3")
    assert done["done"] == "g1 is to move to n3"
    world.run(500)
    assert world.owner("g1").node == "n3"
    assert ask(world, "n3", "switchover", group="g1")["done"] == "g1 is to move to another node"
    with pytest.raises(MoveNotPossible) as refused:
        ask(world, "n2", "switchover", group="g1", to="n1")
    assert "only its owner can hand it over" in str(refused.value) and refused.value.code
    with pytest.raises(Malformed):
        ask(world, "n1", "switchover")


def test_drain_and_undrain_say_what_is_so(world: World) -> None:
    assert ask(world, "n1", "drain") == {"node": "n1", "drained": True}
    world.run(3 * 1_000)
    assert world.owner("g1").node == "n3"
    assert ask(world, "n1", "undrain") == {"node": "n1", "drained": False}
