"""Calls a second of one client, and how long a command takes: the gateway and rtpengine in turn."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from benchmarks.control_load import Client, calls
from benchmarks.control_rig import Gateways, rtpengine, version
from benchmarks.report import Report

RATE_GOAL, LATENCY_GOAL = ">= 1", "<= 10"
CALLS, QUICK_CALLS = 3_000, 300
ROUNDS, QUICK_ROUNDS = 5, 2
PACED_CALLS, QUICK_PACED = 4_000, 400
PACE_PER_S: Final = 200.0
HELD: Final = 100
JOURNAL: Final = "checkpointed"
INTERFACES: Final = {"access": "10.10.0.11", "core": "10.20.0.11"}
"""The first node's own addresses (`bgf.lab.plan`)."""
NODES: Final = {"embedded": 1, "cluster": 2}
SAID: Final = {
    "embedded": "one node, its journal in its own segment",
    "cluster": "two nodes: the journal is on both before a reply",
}


def measure(report: Report, quick: bool) -> None:
    """All rows. Raises BgfError."""
    for kind, nodes in NODES.items():
        gateways = Gateways(nodes=nodes, groups=1, clustered=kind == "cluster", journal=JOURNAL)
        with gateways.up():
            _rates(gateways, kind, report, quick)
            _latency(gateways, kind, report, quick)


def _rates(gateways: Gateways, kind: str, report: Report, quick: bool) -> None:
    """In turn, so that both see the same machine; the best round of each counts."""
    count = QUICK_CALLS if quick else CALLS
    ours, theirs = [0.0], [0.0]
    with (
        tempfile.TemporaryDirectory(prefix="bgf-control-bench-") as name,
        rtpengine(gateways.namespace, INTERFACES, Path(name)) as peer,
    ):
        for number in range(QUICK_ROUNDS if quick else ROUNDS):
            with Client(gateways.namespace, peer) as client:
                theirs.append(client.closed_loop(calls(f"r{kind}{number}", count)))
            with Client(gateways.namespace, gateways.control()) as client:
                ours.append(client.closed_loop(calls(f"b{kind}{number}", count)))
    report.add(
        f"calls_per_s_{kind}",
        max(ours),
        "calls/s",
        reference=max(theirs),
        goal=RATE_GOAL,
        goal_on_ratio=True,
        note=f"offer, answer, delete of one client; {SAID[kind]}; beside rtpengine {version()}",
    )


def _latency(gateways: Gateways, kind: str, report: Report, quick: bool) -> None:
    load = calls(f"p{kind}", QUICK_PACED if quick else PACED_CALLS)
    with Client(gateways.namespace, gateways.control()) as client:
        timed = client.paced(load, PACE_PER_S, HELD)
    ordered = sorted(timed.latencies_ms)
    at = f"at {PACE_PER_S:g} calls/s, {SAID[kind]}"
    report.add(f"command_p50_ms_{kind}", ordered[len(ordered) // 2], "ms", note=at)
    report.add(
        f"command_p99_ms_{kind}",
        ordered[int(len(ordered) * 0.99)],
        "ms",
        goal=LATENCY_GOAL,
        note=f"{at}; longest {ordered[-1]:.1f} ms, {timed.behind} commands sent late, "
        f"{timed.refused} refused",
    )
