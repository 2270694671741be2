"""Is a lab's cluster whole: could it lose another node now? And making it so by planned moves.

Knows: what the nodes' processes say on their admin sockets. Must not know what was broken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from bgf.admin import AdminRefused, AdminUnreachable
from bgf.errors import EnvironmentProblem
from bgf.lab.invariants import alike
from bgf.lab.lab import Lab
from bgf.lab.nodes import KINDS

Progress = Callable[[str], None]

POLL_MS: Final = 100
TELL_MS: Final = 2_000
SPREAD_TIMEOUT_MS: Final = 30_000
REST_TIMEOUT_MS: Final = 60_000


def not_whole(lab: Lab, *, quiet: bool = False) -> list[str]:
    """What keeps it from that, one line each. `quiet`: no call is opened or changed now, so what
    the nodes know must be equal."""
    nodes, plan = lab.nodes, lab.plan
    running = {(process.node, process.name) for process in lab.processes.running()}
    gone = [f"{n.id} {k} is dead" for n in plan.nodes for k in KINDS if (n.id, k) not in running]
    if gone:
        return gone
    try:
        found = nodes.not_ready(plan.nodes) or nodes.not_settled(plan.nodes)
        if not found:
            found = _copies(lab, quiet) + _members(lab)
    except (AdminUnreachable, AdminRefused) as problem:
        return [str(problem)]
    return found + [
        f"{name} is not healthy" for name, well in lab.registry.healthy().items() if not well
    ]


def wait_whole(
    lab: Lab, timeout_ms: int, progress: Progress, *, quiet: bool = False
) -> tuple[float, list[str]]:
    """Until nothing speaks against it: after how many ms, and what does when the time is over."""
    began = told = time.monotonic()
    while True:
        left = not_whole(lab, quiet=quiet)
        now = time.monotonic()
        if not left or now - began > timeout_ms / 1000:
            return (now - began) * 1000, left
        if now - told > TELL_MS / 1000:
            told = now
            progress(f"not whole yet: {left[0]}{f' (of {len(left)})' * (len(left) > 1)}")
        time.sleep(POLL_MS / 1000)


def _copies(lab: Lab, quiet: bool) -> list[str]:
    """Pinholes in every packet path; items with all their copies."""
    records: dict[str, dict[str, dict[str, Any]]] = {}
    found = []
    for node in lab.plan.nodes:
        known = lab.nodes.ask(node.id, "gateway", "recorded")
        if known.get("missing"):
            found.append(f"{node.id} waits for {known['missing']} items")
        for group, one in known.get("groups", {}).items():
            records.setdefault(group, {})[node.id] = one
        state = lab.nodes.ask(node.id, "state")
        member = state.get("member", {})
        if not member.get("complete"):
            found.append(f"the state of {node.id} is not complete")
        if len(state.get("members", ())) != len(lab.plan.nodes):
            found.append(f"{node.id} counts {len(state.get('members', ()))} members")
        if quiet and member.get("unreplicated"):
            found.append(f"{node.id} has {member['unreplicated']} writes without their copies")
    if quiet:
        for group, one in sorted(records.items()):
            found += alike(group, one)
    return found


def _members(lab: Lab) -> list[str]:
    """Everybody sees everybody ready, every group served by one, and a standby."""
    found: list[str] = []
    served: dict[str, list[str]] = {}
    for node in lab.plan.nodes:
        said = lab.nodes.ask(node.id, "failover")
        for peer in lab.plan.nodes:
            member = said.get("members", {}).get(peer.id, {})
            if not member.get("ready") or not member.get("lease_left_ms"):
                found.append(f"{node.id} does not count on {peer.id}")
            if member.get("suspects", {}):
                found.append(f"{peer.id} suspects {', '.join(member['suspects'])}")
        if said.get("trouble"):
            found.append(f"{node.id} has trouble: {said['trouble']}")
        for group, one in lab.nodes.ask(node.id, "gateway").get("groups", {}).items():
            if one.get("role") == "active":
                served[group] = [*served.get(group, ()), node.id]
    for group in lab.plan.groups:
        if len(served.get(group.id, ())) != 1:
            found.append(f"{group.id} is answered for by {served.get(group.id) or 'nobody'}")
    if not any(all(node.id not in nodes for nodes in served.values()) for node in lab.plan.nodes):
        found.append("there is no standby")
    return found


def spread_out(lab: Lab, progress: Progress, *, rested: bool) -> None:
    """One group per node, by planned moves; `rested`: and nobody is held to die often lately.

    Raises EnvironmentProblem when it does not come about.
    """
    deadline = time.monotonic() + SPREAD_TIMEOUT_MS / 1000
    while crowded := _crowded(lab):
        group, owner, to = crowded
        if time.monotonic() > deadline:
            raise EnvironmentProblem(f"{group} does not move from {owner} to {to}")
        progress(f"{group} moves from {owner} to {to}: one group per node")
        try:
            lab.nodes.ask(owner, "failover", "switchover", group=group, to=to)
        except AdminRefused as problem:
            progress(str(problem))
        time.sleep(1.0)
    deadline = time.monotonic() + REST_TIMEOUT_MS / 1000
    while rested and (restless := _restless(lab)):
        if time.monotonic() > deadline:
            raise EnvironmentProblem(f"still restless: {', '.join(restless)}")
        progress(f"waiting until {', '.join(restless)} is trusted again")
        time.sleep(1.0)


def owners(lab: Lab) -> dict[str, str]:
    return lab.nodes.owners(lab.plan.nodes)


def _crowded(lab: Lab) -> tuple[str, str, str] | None:
    """(group, its owner, a node without any) of a node that has several."""
    owned = owners(lab)
    idle = [node.id for node in lab.plan.nodes if node.id not in owned.values()]
    for group, owner in sorted(owned.items(), reverse=True):
        if idle and list(owned.values()).count(owner) > 1:
            return group, owner, idle[0]
    return None


def _restless(lab: Lab) -> list[str]:
    return sorted(
        {
            name
            for node in lab.plan.nodes
            for name in lab.nodes.ask(node.id, "failover").get("restless", ())
        }
    )
