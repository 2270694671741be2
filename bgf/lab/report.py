"""What a drill has found: as a table, a picture, and JSON (DESIGN section 9).

Knows: results. Must not know how they came about. `met` is computed from the goal's text, never
written by hand.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bgf.errors import Misuse
from bgf.lab.measure import GENERATED, SIP, STEPS, TO_ACCESS, TO_CORE, RunResult, Spread

GIT_TIMEOUT_S = 5
PROBLEMS_SHOWN_MAX = 5
RUN_COLUMNS_MAX = 3
PLOT_DPI = 110
PAPER_OUTAGE_MS = 1_600.0
GOAL_ZERO = "== 0"
GOALS = {"lab": ("<= 300", "<= 500"), "fast": ("<= 400", "<= 600"), "safe": ("<= 600", "<= 900")}
"""Outage in the mean and at most, in ms, by the profile of the failover timers."""
OPERATORS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
STEP_NAMES = {
    "detected": "peers no longer hear the node",
    "decided": "a standby owns the group, next epoch",
    "armed": "its pinholes forward",
    "announced": "its addresses are announced",
    "first_packet": "first packet at a receiver",
}


def meets(value: float, goal: str) -> bool:
    """Does `value` satisfy a goal such as `<= 300`? Raises Misuse for another form."""
    sign, _, limit = goal.partition(" ")
    if sign not in OPERATORS:
        raise Misuse(f"goal '{goal}' is not one of {', '.join(OPERATORS)} followed by a number")
    return bool(OPERATORS[sign](value, float(limit)))


def row(name: str, value: float, unit: str, goal: str, reference: float | None) -> dict[str, Any]:
    """One figure of the report; `ratio` is value / reference where there is one."""
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "reference": reference,
        "ratio": round(value / reference, 4) if reference else None,
        "goal": goal,
        "met": meets(value, goal),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of the checkout that we run from, with `+` when it was changed; or empty."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words],
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return head + "+" if head and git("status", "--porcelain", "-uno") else head


@dataclass(frozen=True, slots=True)
class Report:
    """All runs of a drill. `seed` chose the moments of the kills."""

    runs: tuple[RunResult, ...]
    seed: int
    machine: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""
    plot: str = ""
    profile: str = "lab"

    @property
    def outage(self) -> Spread:
        """Over every flow of every run."""
        return Spread.of(flow.outage_ms for run in self.runs for flow in run.flows)

    def total(self, name: str) -> int:
        return sum(getattr(run, name) for run in self.runs)

    def timeline_ms(self) -> dict[str, float | None]:
        """Per step, the mean over the runs in which it happened."""
        steps: dict[str, float | None] = {}
        for step in STEPS:
            known = [t for run in self.runs if (t := run.timeline_ms.get(step)) is not None]
            steps[step] = round(sum(known) / len(known), 3) if known else None
        return steps

    def rows(self) -> list[dict[str, Any]]:
        outage = self.outage
        mean, most = GOALS[self.profile]
        return [
            row("media outage, mean", outage.mean, "ms", mean, PAPER_OUTAGE_MS),
            row("media outage, max", outage.max, "ms", most, PAPER_OUTAGE_MS),
            row("flows that stayed silent", self.total("silent"), "flows", GOAL_ZERO, None),
            row("dropped calls", self.total("calls_dropped"), "calls", GOAL_ZERO, None),
            row("pinholes left", self.total("pinholes_left"), "pinholes", GOAL_ZERO, None),
            row(
                "wrong-destination packets",
                self.total("wrong_destination"),
                "packets",
                GOAL_ZERO,
                None,
            ),
            row("wrong-source packets", self.total("wrong_source"), "packets", GOAL_ZERO, None),
            row("bad UDP checksums", self.total("bad_checksum"), "packets", GOAL_ZERO, None),
        ]

    @property
    def ok(self) -> bool:
        """Did every figure meet its goal, with nothing else to complain of?"""
        quiet = not any(run.problems for run in self.runs)
        return quiet and bool(self.runs) and all(row["met"] for row in self.rows())

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "machine": dict(self.machine),
            "commit": self.commit,
            "seed": self.seed,
            "profile": self.profile,
            "calls": {
                "started": self.total("calls_started"),
                "completed": self.total("calls_completed"),
                "dropped": self.total("calls_dropped"),
            },
            "outage_ms": self.outage.as_json(),
            "flows": max((len(run.flows) for run in self.runs), default=0),
            "pinholes_left": self.total("pinholes_left"),
            "timeline_ms": self.timeline_ms(),
            "plot": self.plot,
            "rows": self.rows(),
            "runs": [_run_json(run) for run in self.runs],
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    def render(self, console: Console) -> None:
        """Timeline, outages, verdict."""
        if not self.runs:
            console.print("no run was completed")
            return
        console.print(_timeline_table(self.runs))
        console.print(_outage_table(self.runs))
        for note in _notes(self.runs):
            console.print(note, markup=False, style="dim")
        for run in self.runs:
            if run.why:
                console.print(f"run {run.run}: {run.why}", markup=False, style="dim")
        console.print(_verdict_table(self.rows()))
        for run in self.runs:
            for problem in run.problems[:PROBLEMS_SHOWN_MAX]:
                console.print(f"run {run.run}: {problem}", style="red", markup=False)
        if self.plot:
            console.print(f"plot: {self.plot}", markup=False)


def _run_json(run: RunResult) -> dict[str, Any]:
    """A run without its thousands of flows."""
    plain = {key: value for key, value in asdict(run).items() if key != "flows"}
    return plain | {
        "calls_dropped": run.calls_dropped,
        "flows": len(run.flows),
        "silent": run.silent,
        "outage_ms": run.spread().as_json(),
        "outage_ms_by": {
            f"{kind} {direction}": run.spread(direction=direction, kind=kind).as_json()
            for kind in (GENERATED, SIP)
            for direction in (TO_ACCESS, TO_CORE)
        },
    }


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def _timeline_table(runs: Sequence[RunResult]) -> Table:
    table = Table(title="After the power went off (ms)", title_justify="left")
    table.add_column("step")
    table.add_column("what")
    few = len(runs) <= RUN_COLUMNS_MAX
    heads = [f"{run.killed} → {run.owner}" for run in runs] if few else ["min", "mean", "max"]
    for head in heads:
        table.add_column(head, justify="right")
    for step in STEPS:
        times = [run.timeline_ms.get(step) for run in runs]
        known = [at_ms for at_ms in times if at_ms is not None]
        if not few and known:
            times = [min(known), sum(known) / len(known), max(known)]
        cells = [_ms(at_ms) for at_ms in times[: len(heads)]]
        table.add_row(step.replace("_", " "), STEP_NAMES[step], *cells)
    return table


def _outage_table(runs: Sequence[RunResult]) -> Table:
    """By kind and direction, over all runs; then by run where there are several."""
    table = Table(title="Silence at the receivers, per flow (ms)", title_justify="left")
    for name in ("run", "flows", "direction"):
        table.add_column(name)
    for name in ("count", "mean", "p50", "p99", "max"):
        table.add_column(name, justify="right")
    every = [flow for run in runs for flow in run.flows]
    for kind in (SIP, GENERATED):
        for direction in (TO_ACCESS, TO_CORE):
            spread = Spread.of(
                f.outage_ms for f in every if f.kind == kind and f.direction == direction
            )
            if spread.count:
                table.add_row("all", kind, direction, *_cells(spread))
    if len(runs) > 1:
        table.add_section()
        for run in runs:
            table.add_row(
                f"{run.run}: {run.killed} → {run.owner}", "all", "both", *_cells(run.spread())
            )
    table.add_section()
    table.add_row(
        "all", "all", "both", *_cells(Spread.of(f.outage_ms for f in every)), style="bold"
    )
    return table


def _notes(runs: Sequence[RunResult]) -> list[str]:
    """What else the receivers heard, and how good the instrument was."""
    lines = [
        f"largest gap in flows of other groups {max(run.others_max_ms for run in runs):.1f} ms, "
        f"in the second after {max(run.after_max_ms for run in runs):.1f} ms; "
        f"the load generator was at most {max(run.late_ms for run in runs):.1f} ms late"
    ]
    for run in runs:
        if run.skipped:
            lines.append(
                f"run {run.run}: the machine was too busy: the load generator left out "
                f"{run.skipped} packets in the measured window, so this outage is an upper bound"
            )
    return lines


def _cells(spread: Spread) -> list[str]:
    return [
        str(spread.count),
        *(f"{v:.1f}" for v in (spread.mean, spread.p50, spread.p99, spread.max)),
    ]


def _verdict_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Verdict", title_justify="left")
    for name in ("figure", "value", "unit", "goal", "met"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for entry in rows:
        met = "[green]yes[/green]" if entry["met"] else "[red]NO[/red]"
        table.add_row(entry["name"], f"{entry['value']:g}", entry["unit"], entry["goal"], met)
    return table


def plot(run: RunResult, path: Path) -> None:
    """Draw one run: every flow's silence on the time axis, and how outages are distributed."""
    # matplotlib is slow to import and asks for a display unless told otherwise.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), width_ratios=(3, 2))
    colours = {TO_ACCESS: "tab:blue", TO_CORE: "tab:orange"}
    ordered = sorted(run.flows, key=lambda f: (f.direction, f.outage_ms, f.start_ms))
    horizon_ms = max((f.end_ms or f.start_ms + f.outage_ms for f in ordered), default=1.0)
    for direction, colour in colours.items():
        mine = [(at, flow) for at, flow in enumerate(ordered) if flow.direction == direction]
        if not mine:
            continue
        left.hlines(
            [at for at, _ in mine],
            [flow.start_ms for _, flow in mine],
            [horizon_ms if flow.end_ms is None else flow.end_ms for _, flow in mine],
            color=colour,
            linewidth=0.8,
            label=f"{direction} ({len(mine)} flows)",
        )
        values = sorted(flow.outage_ms for _, flow in mine)
        share = [100 * (at + 1) / len(values) for at in range(len(values))]
        right.step(values, share, where="post", color=colour, label=direction)
    top = max(1, len(ordered))
    marks = [("power off", 0.0)] + [
        (step.replace("_", " "), at_ms)
        for step in STEPS
        if (at_ms := run.timeline_ms.get(step)) is not None
    ]
    for at, (label, at_ms) in enumerate(marks):
        left.axvline(at_ms, color="black", linewidth=0.8, linestyle=":" if at else "-")
        # Steps are close together: each label has a height of its own.
        height = top * (0.97 - 0.07 * at)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
        words = f"{label} {at_ms:.0f} ms"
        left.text(at_ms, height, words, ha="center", va="center", fontsize=8, bbox=box)
    left.set_xlabel("ms after the power went off")
    left.set_ylabel("flow, by direction, shortest silence first")
    left.set_title(f"Every flow's silence: {run.killed} dies, {run.owner} takes over")
    if run.flows:
        left.legend(loc="lower left", fontsize=8)
        right.legend(loc="upper left", fontsize=8)
    spread = run.spread()
    right.axvline(spread.mean, color="black", linewidth=0.7, linestyle="--")
    right.set_xlabel(f"outage, ms (mean {spread.mean:.0f}, max {spread.max:.0f})")
    right.set_ylabel("flows with at most this outage, %")
    right.set_title("Outage per flow and direction, at the receivers")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PLOT_DPI)
    pyplot.close(figure)
