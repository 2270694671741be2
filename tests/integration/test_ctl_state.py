"""`bgfctl state` as an operator runs it, against state processes that answer as real ones do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.errors import BgfError
from tests.fakes.nodes import FakeNodes, says
from tests.integration.test_ctl_cli import bgfctl, check_golden, fakes, run_dir

__all__ = ["fakes", "run_dir"]  # fixtures

MEMBERS = [
    {"slot": 0, "node": "n1", "address": "10.30.0.11:7400", "incarnation": "9f21c3aa01b2c3d4"},
    {"slot": 1, "node": "n2", "address": "10.30.0.12:7400", "incarnation": "00000000000000a7"},
    {"slot": 2, "node": "n3", "address": "10.30.0.13:7400", "incarnation": "5ab0000000000001"},
]


class Refused(BgfError):
    code = "not-found"


def state(node: str, slot: int, **changes: Any) -> dict[str, Any]:
    member = {
        "address": f"10.30.0.1{slot + 1}:7400",
        "slot": slot,
        "phase": "active",
        "serving": True,
        "complete": True,
        "leading": slot == 1,
        "leader": "n2",
        "epoch": 5,
        "lease_left_ms": 812,
        "applied": 1_240,
        "last": 1_240,
        "unreplicated": 0,
        "registry": "ok",
        "sentence": f"{node} serves in view 5",
        "counters": {"masters": 300, "replicas": 600, "moves": 12},
    }
    return {
        "ready": True,
        "process": "state",
        "node": node,
        "keeper": True,
        "mode": "cluster",
        "stats": {
            "items": 900,
            "total": 96 << 20,
            "free": 90 << 20,
            "retries": 3,
            "auth_misses": 1,
        },
        "member": member | changes,
        "members": MEMBERS,
    }


def item(key: str, master: str, replicas: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "key": key,
        "master": master,
        "replicas": replicas,
        "learners": [],
        "want": 2,
        "copies_due": 2,
        "length": 348,
        "version": 7,
        "hint": "none",
        **changes,
    }


ITEMS = [
    item("j/g1/1-4242@10.10.0.2", "n3", ["n2"], learners=["n1"]),
    item("f/g1/call", "n2", ["n1", "n3"], want=15, hint="local"),
    item("flow \x1b[31m/\udcff", "n1", [], want=0, copies_due=0, length=None, version=None),
]


@pytest.fixture
def cluster(run_dir: Path, fakes: FakeNodes) -> Iterator[Path]:
    """n1 is not there, n2 leads, n3 is joining."""
    (run_dir / "n1").mkdir()
    (run_dir / "n1" / "state.lock").touch()

    def items(request: dict[str, Any]) -> dict[str, Any]:
        found = [row for row in ITEMS if row["key"].startswith(request["prefix"])]
        return {"items": found[: request["limit"]], "more": len(found) > request["limit"]}

    def move(request: dict[str, Any]) -> dict[str, Any]:
        if request["key"] != ITEMS[0]["key"]:
            raise Refused(f"item '{request['key']}': there is none")
        return {"master": request["to"]}

    for slot, node in enumerate(("n2", "n3"), start=1):
        said = state(node, slot)
        if node == "n3":
            said["ready"], said["why"] = False, "waits for its part of the key map"
            said["member"] |= {"phase": "joining", "serving": False, "applied": 1_100}
            said["member"] |= {"lease_left_ms": 0, "registry": "etcd: no answer for 2 s"}
        fakes.serve(
            run_dir / node / "state.sock",
            {
                "status": says(said),
                "state": says(said),
                "items": items,
                "move": move,
                "metrics": says({"text": "# HELP dal_items Items.\ndal_items 900\n"}),
                "reload-keys": says({"done": "2 keys read"}),
            },
        )
        fakes.serve(run_dir / node / "gateway.sock", {"reload-keys": says({"done": "1 key read"})})
    yield run_dir


def test_state_status(cluster: Path) -> None:
    check_golden("state-status", bgfctl("state", "status", "--run-dir", str(cluster)), cluster)


def test_state_members(cluster: Path) -> None:
    check_golden("state-members", bgfctl("state", "members", "--run-dir", str(cluster)), cluster)
    outcome = bgfctl("state", "members", "--run-dir", str(cluster), "--json")
    found = json.loads(outcome.out)
    assert (found["epoch"], found["leader"]) == (5, "n2")
    assert [row["phase"] for row in found["members"]] == ["", "active", "joining"]
    assert found["members"][2]["behind"] == 140
    alone = bgfctl("state", "members", "--run-dir", str(cluster / "n2"))
    assert alone.code == 0


def test_state_items(cluster: Path) -> None:
    check_golden("state-items", bgfctl("state", "items", "--run-dir", str(cluster)), cluster)
    where = ("--run-dir", str(cluster))
    few = bgfctl("state", "items", *where, "--limit", "1")
    assert few.code == 0 and "there are more: --limit 10" in few.out
    one = bgfctl("state", "items", *where, "--prefix", "f/g1/", "--json")
    assert [row["key"] for row in json.loads(one.out)["items"]] == [ITEMS[1]["key"]]
    none = bgfctl("state", "items", *where, "--prefix", "z")
    assert "no item has a key that begins so" in none.out


def test_state_move(cluster: Path) -> None:
    where = ("--run-dir", str(cluster))
    outcome = bgfctl("state", "move", str(ITEMS[0]["key"]), "--to", "n2", *where)
    assert (outcome.code, outcome.out) == (0, f"{ITEMS[0]['key']}: master n2\n")
    refused = bgfctl("state", "move", "nothing", "--to", "n2", *where)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "bgfctl: n2 state: item 'nothing': there is none\n"
    usage = bgfctl("state", "move", "key", *where)
    assert usage.code == 2 and "Missing option '--to'" in usage.err


def test_state_metrics_and_keys(cluster: Path) -> None:
    where = ("--run-dir", str(cluster))
    assert bgfctl("state", "metrics", *where).out.splitlines()[-1] == "dal_items 900"
    outcome = bgfctl("state", "reload-keys", *where)
    assert outcome.code == 1  # n1 was not told
    assert outcome.out.splitlines() == [
        "n2 state: 2 keys read", "n2 gateway: 1 key read",
        "n3 state: 2 keys read", "n3 gateway: 1 key read",
    ]  # fmt: skip


def test_an_embedded_store_is_no_member(run_dir: Path, fakes: FakeNodes) -> None:
    said = {"ready": True, "keeper": True, "stats": state("n1", 0)["stats"]}
    fakes.serve(run_dir / "n1" / "state.sock", {"status": says(said), "state": says(said)})
    outcome = bgfctl("state", "status", "--run-dir", str(run_dir))
    assert outcome.code == 0 and "keeper" in outcome.out
    outcome = bgfctl("state", "members", "--run-dir", str(run_dir))
    assert outcome.code == 1
    assert "n1: its store is embedded, no member of a cluster" in outcome.out


def test_nothing_answers(cluster: Path) -> None:
    for command in (["status"], ["members"], ["items"], ["metrics"], ["move", "k", "--to", "n2"]):
        outcome = bgfctl("state", *command, "--run-dir", str(cluster / "n1"))
        assert outcome.code == 3, command
        assert outcome.err.splitlines()[-1].startswith("bgfctl: n1 state: "), command


@pytest.mark.parametrize("command", ["", "status", "members", "items", "move", "metrics"])
def test_help_has_examples(command: str) -> None:
    outcome = bgfctl("state", *([command] if command else []), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Examples:\n" in outcome.out
