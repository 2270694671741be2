"""What is kept of a drill in the book of drills (`bgf.drill_book`).

Knows: the results of drills. Must not know where the book is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bgf import drill_book
from bgf.admin import Json
from bgf.ctl.cli import warn

if TYPE_CHECKING:
    from bgf.lab.measure import RunResult

PROBLEMS_KEPT: Final = 5


def note(entries: Sequence[Json]) -> None:
    """Add drills. That it cannot be written is said, and is no reason for a drill to fail."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())  # for people: no time is taken with it
    try:
        drill_book.add([{"at": at, **entry} for entry in entries])
    except OSError as problem:
        warn([f"the history of drills is not kept in {drill_book.book()}: {problem.strerror}"])


def entry_of_run(run: RunResult, passed: bool) -> Json:
    """What is kept of one run of `bgfctl drill power-off`."""
    outage = run.spread()
    return {
        "where": "lab",
        "fault": "power-off",
        "passed": passed,
        "from": run.killed,
        "to": run.owner,
        "outage_mean_ms": round(outage.mean, 3),
        "outage_max_ms": round(outage.max, 3),
        "timeline_ms": dict(run.timeline_ms),
        "calls_started": run.calls_started,
        "calls_completed": run.calls_completed,
        "why": run.why,
        "broken": list(run.problems[:PROBLEMS_KEPT]),
    }


def entry_of(where: str, row: Json) -> Json:
    """What is kept of one drill's row (`chaos.as_row`)."""
    outage = row.get("outage_ms") or {}
    return {
        "where": where,
        "fault": row.get("fault", ""),
        "passed": row.get("passed", False),
        "from": row.get("owner_before", ""),
        "to": row.get("owner_after", ""),
        "outage_mean_ms": outage.get("mean", 0.0),
        "outage_max_ms": outage.get("max", 0.0),
        "timeline_ms": dict(row.get("timeline_ms") or {}),
        "calls_started": row.get("calls_started", 0),
        "calls_completed": row.get("calls_completed", 0),
        "seed": row.get("seed", 0),
        "why": row.get("why", ""),
        "broken": list(row.get("broken") or [])[:PROBLEMS_KEPT],
    }
