"""The last drills, newest first: from their history, and reports and pictures in a directory.

Knows: the fields that the page shows. Reads files, trusts none. Must not know how a drill is made.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Final

from bgf import drill_book
from bgf.admin import Json
from bgf.ctl.client import rows, several, table

SHOWN_MAX: Final = 8
FILES_MAX: Final = 1_000
REPORT_BYTES_MAX: Final = 4 << 20
PLOT_BYTES_MAX: Final = 4 << 20
STEPS_MAX: Final = 16
SAME_S: Final = 5
"""A report that was written so shortly beside a line of the history is of the same drill."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Drills:
    """`directory` of reports, None: there are none. `history`: the file that each drill adds a line
    to; a drill whose report is here is shown once, with the report."""

    def __init__(self, directory: Path | None, history: Path | None = None) -> None:
        self._directory = directory
        self._history = history
        self._lines: tuple[int, list[Json]] = (0, [])
        self._kept: dict[Path, tuple[int, Json | None]] = {}

    def newest(self) -> list[Json]:
        """At most SHOWN_MAX reports. What is no report of a drill is passed over."""
        found: list[Json] = []
        stamped = self._stamped()
        self._kept = {path: one for path, one in self._kept.items() if path in dict(stamped)}
        for path, stamp_ns in stamped:
            if len(found) == SHOWN_MAX:
                break
            known = self._kept.get(path)
            if known is None or known[0] != stamp_ns:
                known = self._kept[path] = (stamp_ns, _read(path, stamp_ns))
            if known[1] is not None:
                found.append(known[1])
        reported = [one["at_s"] for one in found]
        found += [
            one
            for one in self._remembered()
            if not any(abs(one["at_s"] - at_s) <= SAME_S for at_s in reported)
        ]
        return sorted(found, key=lambda one: -int(one["at_s"]))[:SHOWN_MAX]

    def _remembered(self) -> list[Json]:
        """The last drills of the history, read again when the file has changed."""
        if self._history is None:
            return []
        try:
            stamp_ns = self._history.stat().st_mtime_ns
        except OSError:
            return []
        if stamp_ns != self._lines[0]:
            last = drill_book.read(self._history)[-SHOWN_MAX:]
            self._lines = (stamp_ns, [card for line in last if (card := _card(line)) is not None])
        return self._lines[1]

    def plot(self, name: str) -> bytes | None:
        """A picture by its file name; None when there is none."""
        if self._directory is None or not NAME.fullmatch(name) or not name.endswith(".png"):
            return None
        try:
            with (self._directory / name).open("rb") as file:
                data = file.read(PLOT_BYTES_MAX + 1)
        except OSError:
            return None
        return data if len(data) <= PLOT_BYTES_MAX and data.startswith(b"\x89PNG") else None

    def _stamped(self) -> list[tuple[Path, int]]:
        if self._directory is None:
            return []
        found = []
        try:
            for number, path in enumerate(self._directory.iterdir()):
                if number >= FILES_MAX:
                    break
                if path.suffix == ".json" and NAME.fullmatch(path.name):
                    found.append((path, path.stat().st_mtime_ns))
        except OSError:
            return []
        return sorted(found, key=lambda one: -one[1])


def _read(path: Path, stamp_ns: int) -> Json | None:
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(REPORT_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "outage_ms" not in said or "timeline_ms" not in said:
        return None
    plot = path.with_suffix(".png")
    return {
        "name": path.stem,
        "at_s": stamp_ns // 1_000_000_000,
        "ok": said.get("ok") is True,
        "outage_ms": table(said.get("outage_ms")),
        "timeline_ms": table(said.get("timeline_ms")),
        "calls": table(said.get("calls")),
        "flows": said.get("flows"),
        "rows": [
            {key: row.get(key) for key in ("name", "value", "unit", "goal", "met")}
            for row in rows(said.get("rows"))
        ][:16],
        "why": [str(run.get("why", ""))[:400] for run in rows(said.get("runs"))][:3],
        "problems": [
            str(line)[:200]
            for run in rows(said.get("runs"))
            for line in several(run.get("problems"))
        ][:5],
        "plot": f"/drills/{plot.name}" if plot.is_file() else "",
    }


def _card(line: Json) -> Json | None:
    """A line of the history as the page shows it; None when it does not say when it was."""
    try:
        at_s = int(datetime.fromisoformat(str(line.get("at", ""))).timestamp())
    except (ValueError, OverflowError):
        return None
    started, done = line.get("calls_started"), line.get("calls_completed")
    calls = {}
    if isinstance(started, int) and isinstance(done, int) and started > 0:
        calls = {"started": started, "dropped": started - done}
    silences = {key: line.get(f"outage_{key}_ms") for key in ("mean", "max")}
    broken = line.get("broken")
    return {
        "name": f"{line.get('fault', '')} on {line.get('where', '')}"[:100],
        "at_s": at_s,
        "ok": line.get("passed") is True,
        "outage_ms": {k: v for k, v in silences.items() if isinstance(v, int | float)},
        "timeline_ms": {
            str(step)[:40]: at
            for step, at in list(table(line.get("timeline_ms")).items())[:STEPS_MAX]
            if at is None or isinstance(at, int | float)
        },
        "calls": calls,
        "flows": line.get("flows"),
        "rows": [],
        "why": [str(line.get("why", ""))[:400]],
        "problems": [str(one)[:200] for one in broken][:5] if isinstance(broken, list) else [],
        "plot": "",
    }
