"""How every benchmark reports: rows, goals, the machine. The form is DESIGN section 9's.

Knows: nothing of what is measured. `met` is computed from the goal, never given.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from bgf.lab.report import commit, machine, meets


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
        met = None if goal is None or judged is None else meets(judged, goal)
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
