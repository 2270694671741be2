"""What the three processes of a node answer, with every field that the monitor reads filled in.

The integration test holds the real processes' answers against these: a field that is made up here
would be found there.
"""

from __future__ import annotations

from typing import Any

from bgf.media.datapath import Outcome
from bgf.runtime.latency import LIMITS_S


def gateway(node: str = "n1", active: str = "g1") -> dict[str, Any]:
    outcomes = {outcome.value: number for number, outcome in enumerate(Outcome, 1)}
    histogram = {"counts": list(range(len(LIMITS_S) + 1)), "sum_s": 1.25}
    return {
        "process": "gateway",
        "node": node,
        "version": "0.1.0",
        "ready": True,
        "pinholes": 400,
        "pinholes_max": 65_536,
        "unresolved": 1,
        "packets": {
            "by_realm": {"access": outcomes, "core": outcomes},
            "by_cpu": {"0": 1_000, "1": 900},
        },
        "attachments": {
            "access": {"mode": "native", "reason": ""},
            "core": {"mode": "generic", "reason": "the driver refuses"},
        },
        "missing": 0,
        "memory_bytes": 50 << 20,
        "memory_max_bytes": 3 << 30,
        "sessions_max": 20_000,
        "calls": {"begun": 70, "refused": 2, "ended": 5, "unanswered": 1, "abandoned": 1},
        "commands": {
            "limits_s": list(LIMITS_S),
            "names": {"offer": histogram, "delete": histogram},
        },
        "reports": {"learned": 4, "late": 1, "waiting": 0},
        "ice": {"answered": 3},
        "copies": {"calls": 2},
        "groups": {name: group(name == active) for name in ("g1", "g2")},
    }


def group(active: bool) -> dict[str, Any]:
    return {
        "role": "active" if active else "standby",
        "epoch": 3 if active else 0,
        "sessions": 100 if active else 0,
        "hanging": 1 if active else 0,
        "pairs_used": 200 if active else 0,
        "pairs_free": 4_790 if active else 0,
        "pairs_resting": 10 if active else 0,
        "pending": 0,
        "ready_in_ms": 12.5 if active else 0,
        "restored_in_ms": 80.1 if active else 0,
        "flows": 400,
        "outcomes": {"answered": 300, "failed": 1, "media-stopped": 2} if active else {},
        "ng": {"received": 310, "stranger": 1, "tcp-dropped": 1, "shed-sessions_max": 4},
        "connections": 2,
        "waiting": 0,
        "rtp": {"streams": 200, "mos": 4.1, "jitter_ms": 2.5, "expected": 9_000, "lost": 18}
        if active
        else {},
    }


def failover(node: str = "n1") -> dict[str, Any]:
    steps = {"armed": 3, "addressed": 3, "announced": 3, "woken": 3, "published": 3}
    others = [name for name in ("n1", "n2", "n3") if name != node]
    return {
        "process": "failover",
        "node": node,
        "ready": True,
        "sentence": f"{node} serves g1 at epoch 3.",
        "drained": False,
        "lease_ms": 3_000,
        "lease_left_ms": 2_500,
        "registry": "ok",
        "warnings": ["no standby is ready: the next death puts two groups on one node"],
        "conditions": {"n3": {"state": "link dead", "sentence": "n3 is heard on core alone"}},
        "owners": {"g1": {"node": "n1", "epoch": 3}, "g2": {"node": "n2", "epoch": 1}},
        "groups": {"g1": {"epoch": 3, "armed_left_ms": 2_400, "moving_to": "", "steps": steps}},
        "members": {name: {"lease_left_ms": 2_400} for name in ("n1", "n2", "n3")},
        "hears": {name: ["access", "core"] for name in others},
        "paths": {name: ["access", "core"] for name in others},
        "probes": {"sent": 9, "heard": 8, "malformed": 0, "own_lateness_ms": 12},
        "counters": {"claims_won": 1},
    }


def state(node: str = "n1") -> dict[str, Any]:
    return {
        "process": "state",
        "node": node,
        "ready": True,
        "why": "",
        "member": {"epoch": 3, "leading": node == "n1"},
        "metrics": "",
    }


def all_of(node: str = "n1", active: str = "g1") -> dict[str, Any]:
    """Process -> answer."""
    return {"state": state(node), "gateway": gateway(node, active), "failover": failover(node)}
