"""What the failover process of a node says of itself to an operator: plain types only.

Knows: the shape of the answer. Must not know: how any of it comes about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from failover.actions import Held
from failover.config import FailoverConfig
from failover.decide import ANYBODY, Plan
from failover.detector import Detector
from failover.lease import Lease
from failover.reasons import State
from failover.registry import Member, Ownership, View

MS: Final = 1_000_000


def status(
    *,
    me: str,
    now_ns: int,
    config: FailoverConfig,
    plan: Plan,
    view: View,
    own: Member,
    held: Mapping[str, Held],
    detector: Detector,
    lease: Lease,
    trouble: Mapping[str, str],
    links_down: Sequence[str],
    wishes: Mapping[str, str],
    restless: frozenset[str],
    tally: Mapping[str, int],
    vouching: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything at one moment. `lease_left_ms` is how long this node may act as an owner, by the
    registry's lease or by its peers' word."""
    stands_ms = [left_ms * MS for left_ms in vouching["stands"].values()]
    return {
        "node": me,
        "sentence": plan.sentence,
        "ready": own.ready,
        "unready": list(own.unready),
        "drained": own.drained,
        "host": own.host,
        "rack": own.rack,
        "strain": own.strain,
        "health": dict(own.health),
        "profile": config.profile,
        "lease_ms": config.lease_ms,
        "lease_left_ms": max(0, lease.deadline_ns - now_ns, *stands_ms) // MS,
        "registry": trouble.get("registry", "ok"),
        "trouble": dict(trouble),
        "vouching": dict(vouching),
        "warnings": list(plan.warnings),
        "conditions": _conditions(me, plan, trouble, vouching),
        "restless": sorted(restless),
        "damped": {peer: list(paths) for peer, paths in detector.damped(now_ns).items()},
        "owners": {g: {"node": o.node, "epoch": o.epoch} for g, o in _owners(config, view)},
        "members": {
            name: {
                "ready": member.ready,
                "drained": member.drained,
                "unready": list(member.unready),
                "host": member.host,
                "rack": member.rack,
                "lease_left_ms": max(0, member.lease_deadline_ns - now_ns) // MS,
                "suspects": {peer: list(paths) for peer, paths in member.suspects.items()},
                "parties": list(member.parties),
            }
            for name, member in view.members.items()
        },
        "groups": {name: _group(one, wishes.get(name), now_ns) for name, one in held.items()},
        "hears": _heard_now(detector),
        "paths": {peer: sorted(one.paths) for peer, one in config.peers.items()},
        "suspects": {peer: list(paths) for peer, paths in detector.suspects().items()},
        "links_down": list(links_down),
        "probes": {
            "sent": detector.tally.sent,
            "heard": detector.tally.heard,
            "malformed": detector.tally.malformed,
            "foreign": detector.tally.foreign,
            "looped": detector.tally.looped,
            "not_up": detector.tally.not_up,
            "own_lateness_ms": detector.tally.late_ns // MS,
        },
        "counters": dict(tally),
    }


def _owners(config: FailoverConfig, view: View) -> list[tuple[str, Ownership]]:
    """Of every group of the configuration, those included that nobody has owned yet."""
    return [(g, view.owners.get(g, Ownership())) for g in sorted({*config.groups, *view.owners})]


def _heard_now(detector: Detector) -> dict[str, list[str]]:
    """Peer -> the paths on which it has been heard and is not silent; who is silent on all of them
    is not named."""
    silent = detector.suspects()
    heard = {
        peer: [path for path in paths if path not in silent.get(peer, ())]
        for peer, paths in detector.observing().items()
    }
    return {peer: paths for peer, paths in heard.items() if paths}


def _conditions(
    me: str, plan: Plan, trouble: Mapping[str, str], vouching: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    found = {
        node: {"state": condition.state.value, "sentence": condition.sentence}
        for node, condition in plan.conditions.items()
    }
    if "registry" in trouble:
        sentence = f"the registry does not answer {me}: {trouble['registry']}"
        state = State.REGISTRY_GONE if vouching["stands"] else State.MANAGEMENT_CUT
        found[me] = {"state": state.value, "sentence": sentence}
    return found


def _group(held: Held, wish: str | None, now_ns: int) -> dict[str, Any]:
    moving = held.offered_to or (wish if wish != ANYBODY else "another node") or ""
    return {
        "epoch": held.armed,
        "armed_left_ms": max(0, held.armed_until_ns - now_ns) // MS,
        "moving_to": moving,
        "steps": {
            "armed": held.armed,
            "addressed": held.addressed,
            "announced": held.announced,
            "woken": held.woken,
            "published": held.published,
        },
    }
