"""The drills that were made on this machine: a line of JSON each, the newest last.

Knows: the file and how long it may become. Must not know what a drill is.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bgf.admin import Json
from bgf.ctl.cli import warn

if TYPE_CHECKING:
    from bgf.lab.measure import RunResult

DEFAULT_FILE: Final = Path("/var/lib/bgf/drills.jsonl")
ENVIRONMENT_NAME: Final = "BGF_DRILLS"
DRILLS_MAX: Final = 1_000
BYTES_MAX: Final = 16 << 20
PROBLEMS_KEPT: Final = 5


def history_file() -> Path:
    """Where they are kept: BGF_DRILLS, or /var/lib/bgf/drills.jsonl."""
    return Path(os.environ.get(ENVIRONMENT_NAME) or DEFAULT_FILE)


def note(entries: Sequence[Json]) -> None:
    """Add drills. That it cannot be written is said, and is no reason for a drill to fail."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())  # for people: no time is taken with it
    lines = [json.dumps({"at": at, **entry}) for entry in entries]
    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(entry) for entry in read()]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("\n".join([*kept, *lines][-DRILLS_MAX:]) + "\n")
        temporary.replace(path)
    except OSError as problem:
        warn([f"the history of drills is not kept in {path}: {problem.strerror}"])


def read() -> list[Json]:
    """All drills, oldest first; what is no drill is passed over."""
    found: list[Json] = []
    with contextlib.suppress(OSError), history_file().open("rb") as file:
        for line in file.read(BYTES_MAX).splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry: Any = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
    return found[-DRILLS_MAX:]


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
        "calls_started": row.get("calls_started", 0),
        "calls_completed": row.get("calls_completed", 0),
        "seed": row.get("seed", 0),
        "why": row.get("why", ""),
        "broken": list(row.get("broken") or [])[:PROBLEMS_KEPT],
    }
