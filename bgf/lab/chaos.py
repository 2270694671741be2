"""Every fault of the catalogue on one standing lab, one after the other, and what came of each.

Knows: the order of faults, when a lab has to be built anew, the report's form. Must not know how a
trial goes (`trial`). A drill of one fault is this with one fault.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bgf.errors import BgfError, ConfigError
from bgf.lab import faults as lab_faults
from bgf.lab import report
from bgf.lab.catalogue import FAULTS, Fault
from bgf.lab.lab import Lab, check_machine, interruptible
from bgf.lab.measure import STEPS, TO_ACCESS, TO_CORE, Spread
from bgf.lab.ngload import SESSIONS_MAX
from bgf.lab.nodes import Timers
from bgf.lab.plan import DEFAULT_PREFIX, DEFAULT_RUN_DIR
from bgf.lab.previous import Previous
from bgf.lab.sip import CALLS_MAX
from bgf.lab.trial import CLOSING, Scale, Trial, TrialResult

Progress = Callable[[str], None]

TIMES_MAX: Final = 100
SHOWN_MAX: Final = 3
FLOWS_MAX: Final = SESSIONS_MAX - 2 * CLOSING
"""Per group; there are two."""


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """`faults` in this order, or shuffled by `seed`, `times` over. A trial that could not even
    begin, or came to no verdict, is tried once more, on a fresh lab."""

    faults: tuple[Fault, ...] = tuple(fault for fault in FAULTS if not fault.previous)
    times: int = 1
    seed: int = 1
    shuffled: bool = True
    scale: Scale = field(default_factory=Scale)
    profile: str = "fast"
    run_dir: Path = DEFAULT_RUN_DIR
    prefix: str = DEFAULT_PREFIX
    logs_to: Path | None = None
    """Where the logs of a trial that failed are kept."""
    previous: Path | None = None
    """An earlier version: a checkout with its extensions built."""

    def check(self) -> None:
        """Raises ConfigError naming the option, its value and its range."""
        upgrades = [fault.name for fault in self.faults if fault.previous]
        if upgrades and self.previous is None:
            raise ConfigError(
                f"{upgrades[0]} needs --previous DIR, an earlier version that could run: "
                "scripts/previous.sh COMMIT makes one"
            )
        if self.previous is not None:
            Previous(self.previous)
        for name, value, low, high in (
            ("times", self.times, 1, TIMES_MAX),
            ("calls", self.scale.calls, 0, CALLS_MAX),
            ("flows", self.scale.flows, 2, FLOWS_MAX),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} = {value} is out of range {low}..{high}")


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """All trials, in the order in which they were made."""

    trials: tuple[TrialResult, ...]
    seed: int
    profile: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.trials) and all(trial.passed for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "machine": dict(self.machine),
            "commit": self.commit,
            "seed": self.seed,
            "profile": self.profile,
            "passed": sum(trial.passed for trial in self.trials),
            "failed": sum(not trial.passed for trial in self.trials),
            "rows": [as_row(trial) for trial in self.trials],
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    def render(self, console: Console) -> None:
        """One row per fault; under them, what was broken."""
        console.print(_table(self.trials))
        for trial in self.trials:
            for line in trial.broken:
                console.print(f"{trial.fault}: {line}", style="red", markup=False)
        skipped = sum(trial.skipped for trial in self.trials)
        if skipped:
            console.print(
                f"the machine was too busy at times: the load generator left out {skipped} "
                "packets, so silences are upper bounds",
                style="dim",
                markup=False,
            )
        failed = sum(not trial.passed for trial in self.trials)
        console.print(
            f"{len(self.trials) - failed} of {len(self.trials)} trials passed, seed {self.seed}, "
            f"profile {self.profile}",
            markup=False,
            style="bold",
        )


def as_row(trial: TrialResult) -> dict[str, Any]:
    """A trial as plain values, without its flows."""
    plain = {k: v for k, v in asdict(trial).items() if k not in ("flows", "others")}
    return plain | {
        "passed": trial.passed,
        "flows": len(trial.flows),
        "outage_ms": trial.spread().as_json(),
        "outage_ms_by": {
            direction: trial.spread(direction).as_json() for direction in (TO_ACCESS, TO_CORE)
        },
        "others_outage_ms": trial.others_spread().as_json(),
        "broken": list(trial.broken),
    }


def run_chaos(
    options: ChaosOptions,
    progress: Progress,
    told: Callable[[TrialResult], None] = lambda _: None,
) -> ChaosReport:
    """Make all trials and take the lab down. `told` gets each result as it comes.

    Raises BgfError (not root, a missing package, a lab in use, a lab that does not come up).
    """
    options.check()
    check_machine(options.run_dir)
    lab = _lab(options)
    results: list[TrialResult] = []
    faults = [fault for _ in range(options.times) for fault in options.faults]
    if options.shuffled:
        random.Random(options.seed).shuffle(faults)
    with lab.exclusive(), interruptible():
        try:
            if lab.topology.exists() or lab.processes.running():
                progress("a lab stands already: taking it down for a fresh one")
                lab.down(_silent)
            for number, fault in enumerate(faults, start=1):
                name = f"{number}/{len(faults)} {fault.name}"
                result = _trial(lab, options, fault, _named(progress, name))
                results.append(result)
                told(result)
        finally:
            if lab.topology.exists():
                progress("taking the lab down")
                lab.down(_silent)
    return ChaosReport(
        tuple(results), options.seed, options.profile, report.machine(), report.commit()
    )


def _lab(options: ChaosOptions) -> Lab:
    return Lab(options.run_dir, prefix=options.prefix, timers=Timers.of(options.profile))


def _silent(_: str) -> None:
    return


def _named(progress: Progress, name: str) -> Progress:
    return lambda line: progress(f"{name}: {line}")


def _trial(lab: Lab, options: ChaosOptions, fault: Fault, progress: Progress) -> TrialResult:
    """On the lab that stands, or on one of an earlier version that is of no use for others."""
    if not fault.previous or options.previous is None:
        return _on_lab(lab, options, fault, progress)
    lab.down(_silent)
    lab.nodes.previous = Previous(options.previous)
    try:
        return _on_lab(lab, options, fault, progress)
    finally:
        lab.nodes.previous = None
        lab.down(_silent)


def _on_lab(lab: Lab, options: ChaosOptions, fault: Fault, progress: Progress) -> TrialResult:
    """On the lab that stands; on a fresh one when that is no more what it should be."""
    began = time.monotonic()
    timers = Timers.of(options.profile)
    while True:
        fresh = not lab.topology.complete()
        if fresh:
            progress("building a lab")
            lab.up(_silent)
        try:
            trial = Trial(
                lab,
                fault,
                options.scale,
                seed=options.seed,
                lease_ms=timers.lease_ms,
                progress=progress,
            )
            result = trial.run()
        except BgfError as problem:
            _keep_logs(lab, options, fault)
            lab.down(_silent)
            if not fresh:
                progress(f"not on this lab, so on a fresh one: {problem}")
                continue
            result = _failed(options, fault, str(problem))
        except Exception as bug:  # of the runner's: this trial has failed, the others can be made
            _keep_logs(lab, options, fault, traceback.format_exc())
            lab.down(_silent)
            result = _failed(options, fault, f"the runner failed: {type(bug).__name__}: {bug}")
        break
    if not result.passed and lab.topology.exists():
        _keep_logs(lab, options, fault)
        lab.down(_silent)  # what it has broken must not fail the next
    verdict = "passed" if result.passed else f"FAILED: {result.broken[0]}"
    progress(f"{verdict} ({time.monotonic() - began:.0f} s)")
    return result


def _failed(options: ChaosOptions, fault: Fault, why: str) -> TrialResult:
    """Of a trial that came to no end."""
    return TrialResult(fault.name, fault.text, options.seed, "", "", "", broken=(why,))


def _keep_logs(lab: Lab, options: ChaosOptions, fault: Fault, trace: str = "") -> None:
    if options.logs_to is not None and lab.processes.log_dir.exists():
        into = options.logs_to / fault.name
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(lab.processes.log_dir, into)
        if trace:
            (into / "runner.log").write_text(trace)


def lacks() -> list[str]:
    """Debian packages without which some faults cannot be done here."""
    return lab_faults.missing()


def _table(trials: Sequence[TrialResult]) -> Table:
    table = Table(title="Faults", title_justify="left")
    for name, right in (
        ("fault", False),
        ("passed", False),
        ("owner", False),
        ("silence, ms\nto access", True),
        ("(mean / max)\nto core", True),
        ("others\nmax", True),
        ("packets\nlost", True),
        ("calls\nkept", True),
        ("requests", True),
        ("whole\nafter s", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "fault")
    for trial in trials:
        moved = trial.owner_after != trial.owner_before
        table.add_row(
            trial.fault,
            "[green]yes[/green]" if trial.passed else "[red]NO[/red]",
            escape(f"{trial.owner_before} → {trial.owner_after}" if moved else trial.owner_before),
            *(_two(trial, direction) for direction in (TO_ACCESS, TO_CORE)),
            f"{trial.others_spread().max:.0f}",
            str(trial.packets_lost),
            f"{trial.calls_completed}/{trial.calls_started}",
            f"{trial.asked}" + (f" ({trial.unanswered} lost)" if trial.unanswered else ""),
            f"{trial.whole_ms / 1000:.1f}",
        )
    return table


def _two(trial: TrialResult, direction: str) -> str:
    spread = trial.spread(direction)
    return f"{spread.mean:.0f} / {spread.max:.0f}"


def render_one(trial: TrialResult, console: Console) -> None:
    """The report of a drill: timeline, silence per flow and direction, calls kept, who and why."""
    who = ", ".join(f"{role} {node}" for role, node in trial.struck.items())
    console.print(f"{trial.text} ({who}); {trial.group} was {trial.owner_before}’s", markup=False)
    steps = Table(title="After the fault began (ms)", title_justify="left")
    steps.add_column("step")
    steps.add_column("what")
    steps.add_column("at", justify="right")
    for step in STEPS:
        at_ms = trial.timeline_ms.get(step)
        shown = "never" if at_ms is None else f"{at_ms:.1f}"
        steps.add_row(step.replace("_", " "), report.STEP_NAMES[step], shown)
    console.print(steps)
    heard = Table(title="Silence at the receivers, per flow (ms)", title_justify="left")
    for name in ("flows", "direction", "count", "mean", "p50", "p99", "max"):
        heard.add_column(name, justify="left" if name in ("flows", "direction") else "right")
    for label, flows in ((trial.group, trial.flows), ("other groups", trial.others)):
        for direction in (TO_ACCESS, TO_CORE):
            mine = [flow.outage_ms for flow in flows if flow.direction == direction]
            spread = Spread.of(mine)
            figures = (spread.mean, spread.p50, spread.p99, spread.max)
            heard.add_row(label, direction, str(spread.count), *(f"{v:.1f}" for v in figures))
    console.print(heard)
    facts = Table(show_header=False)
    facts.add_column()
    facts.add_column()
    for name, value in (
        ("calls kept", f"{trial.calls_completed} of {trial.calls_started}"),
        (
            "requests meanwhile",
            f"{trial.asked}, of which {trial.unanswered} unanswered, {trial.refused} refused; "
            f"the slowest took {trial.slowest_ms:.0f} ms with its repetitions",
        ),
        ("packets lost", str(trial.packets_lost)),
        ("owner", f"{trial.owner_before} → {trial.owner_after}, {trial.epochs} changes in all"),
        ("whole again", f"{trial.whole_ms / 1000:.1f} s after the repair"),
        ("why", trial.why or "nobody took anything over"),
    ):
        facts.add_row(name, escape(value))
    console.print(facts)
    for line in trial.broken:
        console.print(line, style="red", markup=False)
    console.print(
        "[green]everything held[/green]" if trial.passed else "[red]NOT everything held[/red]"
    )
