"""How every benchmark reports: rows, goals, the machine. The form is DESIGN section 9's.

Knows: nothing of what is measured. `met` is computed from the goal, never given.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

GIT_TIMEOUT_S = 10
_GOAL = re.compile(r"^(<=|>=|<|>|==) *(-?[0-9.]+)$")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
    "==": lambda value, limit: value == limit,
}


def is_met(goal: str, value: float) -> bool:
    """Does the value keep a goal like `<= 1.5`? Raises ValueError for what is no goal."""
    parts = _GOAL.match(goal)
    if parts is None:
        raise ValueError(f"goal {goal!r}: not a comparison and a number, as in '<= 1.5'")
    return _COMPARE[parts[1]](value, float(parts[2]))


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `reference` is the peer or limit it stands beside, `ratio` value / reference."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None
    note: str = ""


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, kernel, interpreter."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is checked out, with a `+` when files differ from it; or `unknown`."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@dataclass
class Report:
    """Rows as they are measured; then a table for people and a file for machines."""

    title: str
    seed: int
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        goal: str | None = None,
        reference: float | None = None,
        goal_on_ratio: bool = False,
        note: str = "",
    ) -> Row:
        """One figure. The goal is on the value, or on its ratio to the reference."""
        ratio = value / reference if reference else None
        judged = ratio if goal_on_ratio else value
        if goal is not None and judged is None:
            raise ValueError(f"row {name!r}: a goal on a ratio needs a reference")
        met = None if goal is None or judged is None else is_met(goal, judged)
        row = Row(name, value, unit, reference, ratio, goal, met, note)
        self.rows.append(row)
        return row

    def all_met(self) -> bool:
        """No goal was missed."""
        return all(row.met is not False for row in self.rows)

    def write(self, path: Path) -> None:
        """The JSON file."""
        document = {
            "machine": machine(),
            "commit": commit(),
            "seed": self.seed,
            "rows": [asdict(row) for row in self.rows],
        }
        path.write_text(json.dumps(document, indent=2) + "\n")

    def render(self, console: Console) -> None:
        """The table."""
        about = machine()
        table = Table(title=self.title, caption=f"commit {commit()}, seed {self.seed}")
        for heading in ("figure", "value", "unit", "reference", "goal", "met", "note"):
            justify: Literal["right", "left"] = "right" if heading == "value" else "left"
            table.add_column(heading, justify=justify, no_wrap=heading == "figure")
        for row in self.rows:
            table.add_row(
                row.name,
                f"{row.value:,.1f}",
                row.unit,
                "" if row.reference is None else f"{row.reference:,.1f}",
                row.goal or "",
                {None: "", True: "yes", False: "NO"}[row.met],
                row.note,
            )
        console.print(table)
        console.print(", ".join(f"{name} {value}" for name, value in about.items()))
