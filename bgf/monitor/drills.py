"""The reports and pictures of drills in a directory, newest first. Reads files, trusts none.

Knows: the fields of a report that the page shows. Must not know how a drill is made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from bgf.admin import Json
from bgf.ctl.client import rows, table

SHOWN_MAX: Final = 8
FILES_MAX: Final = 1_000
REPORT_BYTES_MAX: Final = 4 << 20
PLOT_BYTES_MAX: Final = 4 << 20
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Drills:
    """`directory` None: there are none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
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
        return found

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
            str(line)[:200] for run in rows(said.get("runs")) for line in run.get("problems") or ()
        ][:5],
        "plot": f"/drills/{plot.name}" if plot.is_file() else "",
    }
