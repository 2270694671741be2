"""bgfctl about failover as an operator runs it, against nodes that answer with what a test says.

Whole outputs stand in tests/golden/ctl; see test_ctl_cli.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bgf.ctl import failover_view
from bgf.ctl.client import Answer
from tests.fakes.nodes import FakeNodes, says
from tests.integration.test_ctl_cli import bgfctl, check_golden, fakes, run_dir

__all__ = ["fakes", "run_dir"]

MS = 1_000_000
DECIDED_NS = 5_000 * MS


def event(name: str, at_ms: float, epoch: int, node: str, sentence: str, **more: str) -> Any:
    at_ns = DECIDED_NS + int(at_ms * MS)
    kept = {"event": name, "group": "g1", "node": node, "epoch": epoch, "at_ns": at_ns}
    return kept | {"sentence": sentence, "reason": "", "last": ""} | more


N2 = [
    event("decided", -90_000, 1, "n1", "n1 claims g1 at epoch 1: nobody has owned it"),
    event("detected", -1.5, 1, "n1", "n2 hears nothing from n1 on access, last heard 61 ms ago"),
    event("moved", 3, 2, "n3", "n2 sees that n3 owns g1, no longer n1"),
]
N3 = [
    event("detected", -2.1, 1, "n1", "n3 hears nothing from n1 on access, core"),
    event("decided", 0, 2, "n3", "n3 claims g1 at epoch 2: n2 and n3 hear nothing from n1 on access"
          " and core", reason="silent", last="n1"),
    event("armed", 1.2, 2, "n3", "g1 forwards here"),
    event("addressed", 4, 2, "n3", "fd00:a::101 are here"),
    event("announced", 4.6, 2, "n3", "told every neighbour"),
    event("woken", 4.7, 2, "n3", "the gateway process was told"),
    event("published", 6, 2, "n3", "the takeover is complete"),
    event("condition", 395, 1, "n1", "n1 is silent on every path and does not renew its lease:"
          " dead, or it stands still", reason="node dead"),
]  # fmt: skip


def history(node: str, events: list[Any], now_ms: int = 17_000, boot: str = "b") -> Answer:
    said = {"group": "g1", "events": events, "now_ns": now_ms * MS, "boot": boot}
    return Answer(node, "failover", said)


def serve(fakes: FakeNodes, run_dir: Path, node: str, **handlers: Any) -> None:
    fakes.serve(run_dir / node / "failover.sock", handlers)


def test_why_tells_the_last_takeover(fakes: FakeNodes, run_dir: Path) -> None:
    for node, events in (("n2", N2), ("n3", N3)):
        serve(fakes, run_dir, node, history=says(history(node, events).value or {}))
    told = bgfctl("why", "g1", "--run-dir", str(run_dir))
    check_golden("why", told, run_dir)
    as_json = json.loads(bgfctl("why", "g1", "--json", "--run-dir", str(run_dir)).out)
    assert as_json["suspected_by"] == ["n2", "n3"]
    assert as_json["steps_ms"]["announced"] == 4.6


def test_times_of_another_machine_are_placed_by_their_age() -> None:
    """n2's clock began elsewhere: its last event is 11.997 s old, as n3's decision is 12 s old."""
    shifted = [e | {"at_ns": e["at_ns"] + 700_000 * MS} for e in N2]
    answers = [history("n2", shifted, 717_000, "other"), history("n3", N3)]
    moved = [e for e in failover_view.story(answers, "g1")["events"] if e["event"] == "moved"]
    assert [(e["at_ms"], e["estimated"]) for e in moved] == [(3.0, True)]


def test_odd_histories_are_no_crash() -> None:
    odd = [{"event": "decided"}, {"event": 4, "epoch": "x"}, 7, {"event": "armed", "epoch": 0}]
    assert failover_view.story([history("n1", odd)], "g1")["epoch"] == 0
    assert failover_view.story([Answer("n1", "failover", None, "gone", "unreachable")], "g1") == {
        "group": "g1", "epoch": 0, "events": [], "silent": ["n1: gone"],
    }  # fmt: skip
    assert failover_view.readiness([Answer("n1", "failover", {"why": 3, "groups": 4})], [], []) == {
        "ready": False,
        "nodes": [
            {
                "node": "n1",
                "ready": False,
                "carries": [],
                "pinholes": 0,
                "pinholes_max": 0,
                "memory_mb": 0,
                "memory_max_mb": 0,
                "why": ["its gateway process does not say what it knows"],
                "unseen": [],
            }
        ],
    }


def test_ready_says_what_speaks_against_it(fakes: FakeNodes, run_dir: Path) -> None:
    groups = {"g1": {"owner": "n1", "why": []}, "g2": {"owner": "n2", "why": []}}
    known = {"recorded": 40, "held": 40, "digest": "aa"}
    for node, why in (("n1", []), ("n3", ["its own link to core is down"])):
        here = groups | ({"g2": {"owner": "n2", "why": ["10.20.0.102 stands on this node"]}}
                         if node == "n3" else {})  # fmt: skip
        serve(fakes, run_dir, node, ready=says({"node": node, "why": why, "groups": here}))
        mine = {"recorded": 38, "held": 37, "digest": "bb"} if node == "n3" else known
        room = {"pinholes_max": 65_536, "memory_bytes": 60 << 20, "memory_max_bytes": 900 << 20}
        recorded = {"groups": {"g1": mine, "g2": known}, "missing": 0, "room": room}
        fakes.serve(run_dir / node / "gateway.sock", {"recorded": says(recorded)})
    told = bgfctl("ready", "--run-dir", str(run_dir))
    check_golden("ready", told, run_dir)
    assert bgfctl("ready", "n1", "--run-dir", str(run_dir)).code == 0
    unknown = bgfctl("ready", "n9", "--run-dir", str(run_dir))
    assert (unknown.code, unknown.err) == (
        2, "bgfctl: no node 'n9' among those asked (n1, n3): type it on its own machine, or name"
        " the node with --config or --run-dir\n",
    )  # fmt: skip


def test_ready_says_what_it_could_not_compare(fakes: FakeNodes, run_dir: Path) -> None:
    """As on a machine of its own: its node alone is asked, and nothing speaks against it."""
    groups = {"g1": {"owner": "n1", "why": []}, "g3": {"owner": "n3", "why": []}}
    serve(fakes, run_dir, "n3", ready=says({"node": "n3", "why": [], "groups": groups}))
    known = {"recorded": 40, "held": 40, "digest": "aa"}
    recorded = {"groups": {"g1": known, "g3": known}}
    fakes.serve(run_dir / "n3" / "gateway.sock", {"recorded": says(recorded)})
    told = bgfctl("ready", "n3", "--run-dir", str(run_dir / "n3"))
    assert told.code == 0
    line = "n3: records of g1 not compared: its owner n1 was not asked"
    assert told.out.splitlines()[-1] == line and told.out.count("not compared") == 1
    serve(fakes, run_dir, "n1", ready=says({"node": "n1", "why": [], "groups": groups}))
    told = bgfctl("ready", "n3", "--run-dir", str(run_dir))
    silent = "n3: records of g1 not compared: its owner n1 does not say what it knows"
    assert (told.code, told.out.splitlines()[-1]) == (0, silent)


def status(owner: str, epoch: int, **more: Any) -> dict[str, Any]:
    return {"owners": {"g1": {"node": owner, "epoch": epoch}}, "sentence": "n1 serves g1."} | more


def test_a_move_that_its_owner_gives_up_is_told_with_its_reason(
    fakes: FakeNodes, run_dir: Path
) -> None:
    gave_up = event("given-up", 1, 0, "n1", "g1 does not move to another node: nobody is ready")
    serve(
        fakes, run_dir, "n1",
        status=says(status("n1", 1, groups={"g1": {"epoch": 1, "moving_to": ""}})),
        switchover=says({"done": "g1 is to move"}),
        history=says(history("n1", [gave_up]).value or {}),
    )  # fmt: skip
    told = bgfctl("switchover", "g1", "--run-dir", str(run_dir))
    expected = "g1: not moved: g1 does not move to another node: nobody is ready"
    assert (told.code, told.out.strip()) == (1, expected)
    nobody = bgfctl("switchover", "g7", "--run-dir", str(run_dir))
    assert (nobody.code, nobody.err) == (
        2, "bgfctl: no group 'g7' with an owner: there are g1\n",
    )  # fmt: skip


def test_a_drain_says_what_stays_and_why(fakes: FakeNodes, run_dir: Path) -> None:
    groups = {"g1": {"epoch": 1}}
    stuck = status("n1", 1, groups=groups, sentence="n1 keeps g1, which is to move: no other node.")
    serve(fakes, run_dir, "n1", status=says(stuck), drain=says({"node": "n1", "drained": True}))
    told = bgfctl("drain", "n1", "--wait", "0", "--run-dir", str(run_dir))
    assert told.code == 1
    assert told.out == (
        "n1 is drained and still carries g1\nn1 keeps g1, which is to move: no other node.\n"
    )


def moving(fakes: FakeNodes, run_dir: Path, outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """n1, which owns g1 and is asked by itself; after a switchover it says `outcome`. What it was
    told."""
    asked: list[dict[str, Any]] = []
    before = status("n1", 4, groups={"g1": {"epoch": 4, "moving_to": "n3"}})

    def switchover(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"done": "g1 is to move"}

    serve(
        fakes, run_dir, "n1",
        status=lambda _: outcome if asked else before,
        switchover=switchover,
        history=says(history("n1", [event("given-up", 1, 0, "n1", "g1 does not move to n3: n3 is"
                                          " not ready")]).value or {}),
    )  # fmt: skip
    return asked


def test_a_move_to_a_machine_that_is_not_asked_is_done_when_its_owner_says_so(
    fakes: FakeNodes, run_dir: Path
) -> None:
    asked = moving(fakes, run_dir, status("n3", 5, groups={"g1": {"epoch": 0, "moving_to": ""}}))
    told = bgfctl("switchover", "g1", "--to", "n3", "--run-dir", str(run_dir / "n1"))
    assert (told.code, told.out.strip()) == (0, "g1: moved from n1 to n3, epoch 5")
    assert [(one["group"], one["to"]) for one in asked] == [("g1", "n3")]


def test_a_move_to_a_machine_that_is_not_asked_may_be_given_up(
    fakes: FakeNodes, run_dir: Path
) -> None:
    moving(fakes, run_dir, status("n1", 4, groups={"g1": {"epoch": 4, "moving_to": ""}}))
    told = bgfctl("switchover", "g1", "--to", "n3", "--run-dir", str(run_dir / "n1"))
    assert (told.code, told.out.strip()) == (
        1, "g1: not moved: g1 does not move to n3: n3 is not ready",
    )  # fmt: skip


def test_a_move_is_typed_where_its_owner_is(fakes: FakeNodes, run_dir: Path) -> None:
    serve(fakes, run_dir, "n3", status=says(status("n1", 4, groups={"g1": {"epoch": 0}})))
    told = bgfctl("switchover", "g1", "--run-dir", str(run_dir / "n3"))
    assert (told.code, told.err) == (
        2, "bgfctl: no node 'n1' among those asked (n3): type it on its own machine, or name the"
        " node with --config or --run-dir\n",
    )  # fmt: skip


def test_a_group_that_nobody_owns_cannot_be_moved(fakes: FakeNodes, run_dir: Path) -> None:
    serve(fakes, run_dir, "n1", status=says(status("", 0, groups={})))
    told = bgfctl("switchover", "g1", "--run-dir", str(run_dir))
    assert (told.code, told.err) == (2, "bgfctl: no group 'g1' with an owner: there are none\n")
