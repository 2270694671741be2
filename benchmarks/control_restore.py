"""Many sessions in one gateway: what they take, and how soon a new owner has them, by mode.

The two nodes are of one host and one segment, so that what is measured is the restoration and not
a dead member's lease. Both groups' owner loses its power; the time counts from the claim.
"""

from __future__ import annotations

import time
from typing import Final

from benchmarks.control_load import Client, calls
from benchmarks.control_rig import Gateways, resident_mb
from benchmarks.report import Report
from bgf.errors import EnvironmentProblem
from bgf.journal import Mode

SESSIONS, QUICK_SESSIONS = 20_000, 1_000
GROUPS: Final = 2
"""One group's ports are not enough for all."""
MEMORY_GOAL, FIRST_GOAL, ALL_GOAL = "<= 200", "<= 50", "<= 2000"
WAIT_S: Final = 60.0
ASK_S: Final = 0.004
SETTLE_S: Final = 1.0
POLL_S: Final = 0.2
NS_PER_MS: Final = 1e6


def measure(report: Report, quick: bool) -> None:
    """All rows. Raises BgfError."""
    sessions = QUICK_SESSIONS if quick else SESSIONS
    for mode in (Mode.CHECKPOINTED, Mode.EXPLICIT, Mode.IMPLICIT):
        gateways = Gateways(nodes=2, groups=GROUPS, clustered=False, journal=mode.value)
        with gateways.up():
            _fill(gateways, sessions)
            if mode is Mode.CHECKPOINTED:
                _memory(gateways, sessions, report)
            _restore(gateways, sessions, mode, report)


def _fill(gateways: Gateways, sessions: int) -> None:
    for group in range(GROUPS):
        with Client(gateways.namespace, gateways.control(group)) as client:
            client.windowed(calls(f"m{group}", sessions // GROUPS))
    time.sleep(SETTLE_S)


def _memory(gateways: Gateways, sessions: int, report: Report) -> None:
    own, segment = resident_mb(gateways.pid(gateways.nodes[0], "gateway"))
    report.add(
        "resident_mb",
        own,
        "MB",
        goal=MEMORY_GOAL,
        note=f"{sessions:,} sessions in one gateway process; {segment:.0f} MB of the segment and "
        "of the packet path's maps that it has mapped come on top",
    )


def _restore(gateways: Gateways, sessions: int, mode: Mode, report: Report) -> None:
    owner, heir = gateways.nodes
    asked = [call.query for call in calls("m1", sessions // GROUPS)]
    with Client(heir.namespace, gateways.control(1)) as client:
        gateways.kill(owner)
        answered_ns = client.until_answered(asked, ASK_S, WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while True:
        groups = gateways.ask(heir, "gateway")["groups"].values()
        if all(group["restored_in_ms"] and not group["pending"] for group in groups):
            break
        if time.monotonic() > deadline:
            raise EnvironmentProblem(f"not restored within {WAIT_S:g} s: {list(groups)}")
        time.sleep(POLL_S)
    there = sum(group["sessions"] for group in groups)
    if there < sessions:
        raise EnvironmentProblem(f"{there} of {sessions} calls were restored")
    began_ns = answered_ns
    for group in groups:
        began_ns = min(began_ns, int(group["began_ns"]))
    report.add(
        f"first_answer_ms_{mode.value}",
        (answered_ns - began_ns) / NS_PER_MS,
        "ms",
        goal=FIRST_GOAL,
        note=f"from the claim to the first reply about one of {sessions:,} calls",
    )
    report.add(
        f"restored_ms_{mode.value}",
        max(group["restored_in_ms"] for group in groups),
        "ms",
        goal=ALL_GOAL,
        note=f"from the claim until all {sessions:,} sessions are here",
    )
