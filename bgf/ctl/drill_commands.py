"""`bgfctl drill FAULT`, `bgfctl chaos` and `bgfctl drills`: every fault of the catalogue, alone or
all of them, and what earlier ones came to.

Knows: click, the lab's entry points, the history. Imports the lab when it is asked for: `bgfctl
status` must start at once. Must not know how a fault is done or judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from rich.table import Table

from bgf import drill_book
from bgf.ctl import drill_history
from bgf.ctl.cli import FAILED, OK, as_json, console, examples, show, warn
from bgf.ctl.lab_commands import file_option
from bgf.ctl.progress import Steps
from bgf.ctl.render import cell
from bgf.errors import EnvironmentProblem
from bgf.lab.catalogue import FAULTS, Fault, named

DRILL_CALLS: Final = 20
DRILL_FLOWS: Final = 200
CHAOS_CALLS: Final = 6
CHAOS_FLOWS: Final = 24
PROFILES: Final = ("fast", "safe", "lab")
SHOWN_DEFAULT: Final = 20

_profile = click.option(
    "--profile", type=click.Choice(PROFILES), default="fast", show_default=True,
    help="The nodes' timers, by name.",
)  # fmt: skip
_seed = click.option(
    "--seed", type=int, default=1, show_default=True, help="Draws moments, requests and the order."
)
_logs = click.option(
    "--logs", "logs_to", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Keep the processes' logs of trials that failed there.",
)  # fmt: skip


_previous = click.option(
    "--previous", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
    help="An earlier version: a checkout with its extensions built (scripts/previous.sh).",
)  # fmt: skip


def fault_command(fault: Fault) -> click.Command:
    """`bgfctl drill NAME` of one fault."""

    @click.command(
        fault.name,
        short_help=fault.text,
        help=f"{fault.text[:1].upper()}{fault.text[1:]}. On a lab of its own, under load.\n\n"
        "Real calls and generated RTP on every group, proxies that open, change and end calls all "
        "the while; then the fault, the repair, and the report: timeline, silence of every flow "
        "and direction at its receiver, calls kept, who decided and why. Every call must be as it "
        "was promised, one owner per epoch, no closed pinhole open, the cluster whole again. "
        "Needs root. Exits with 1 when something did not hold.",
        epilog=examples(
            f"bgfctl drill {fault.name}", f"bgfctl drill {fault.name} --calls 100 --flows 2000"
        ),
    )
    @click.option("--calls", type=int, default=DRILL_CALLS, show_default=True, help="SIP calls.")
    @click.option(
        "--flows", type=int, default=DRILL_FLOWS, show_default=True,
        help="Generated RTP flows of each group.",
    )  # fmt: skip
    @_profile
    @_seed
    @_logs
    @file_option("--json", "the report")
    def command(calls: int, flows: int, json_path: Path | None, **more: Any) -> int:
        from bgf.lab import chaos as lab_chaos  # noqa: PLC0415
        from bgf.lab import trial  # noqa: PLC0415

        options = lab_chaos.ChaosOptions(faults=(fault,), scale=trial.Scale(calls, flows), **more)
        with Steps() as steps:
            report = lab_chaos.run_chaos(options, steps)
        for one in report.trials:
            lab_chaos.render_one(one, console())
        if json_path is not None:
            report.write(json_path)
        drill_history.note(
            [drill_history.entry_of("lab", lab_chaos.as_row(t)) for t in report.trials]
        )
        return OK if report.ok else FAILED

    return _previous(command) if fault.previous else command


def add_faults(group: click.Group) -> None:
    """Make every fault of the catalogue a command of `bgfctl drill`."""
    for fault in FAULTS:
        group.add_command(fault_command(fault))


@click.command(
    epilog=examples(
        "bgfctl chaos",
        "bgfctl chaos --only kill- --only isolated --times 3 --seed 7",
        "bgfctl chaos --short --json chaos.json --logs /tmp/chaos",
    )
)
@click.option(
    "--only", multiple=True, metavar="NAME",
    help="Only this fault, or those whose names begin so; repeatable.",
)  # fmt: skip
@click.option("--short", is_flag=True, help="One fault of each kind: what `make test` does.")
@click.option("--times", type=int, default=1, show_default=True, help="All of it so often.")
@click.option(
    "--calls", type=int, default=CHAOS_CALLS, show_default=True, help="SIP calls a trial."
)
@click.option(
    "--flows", type=int, default=CHAOS_FLOWS, show_default=True,
    help="Generated RTP flows of each group.",
)  # fmt: skip
@_profile
@_seed
@_logs
@_previous
@file_option("--json", "the report")
def chaos(
    *,
    only: tuple[str, ...],
    short: bool,
    calls: int,
    flows: int,
    json_path: Path | None,
    previous: Path | None,
    **more: Any,
) -> int:
    """Do every fault to one standing lab, one after the other, and judge each.

    What `bgfctl drill FAULT` does for one. The order is drawn by the seed. Upgrades are tried only
    with --previous. Needs root and nftables. Exits with 1 when something did not hold.
    """
    from bgf.lab import chaos as lab_chaos  # noqa: PLC0415
    from bgf.lab import trial  # noqa: PLC0415

    missing = lab_chaos.lacks()
    if missing and not short:
        raise EnvironmentProblem(
            f"missing for some faults: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    faults = named(only) if only else FAULTS
    if short:
        faults = tuple(fault for fault in faults if fault.short)
    if previous is None and not only:
        faults = tuple(fault for fault in faults if not fault.previous)
    options = lab_chaos.ChaosOptions(
        faults=faults, scale=trial.Scale(calls, flows), previous=previous, **more
    )
    rows: list[dict[str, Any]] = []
    with Steps() as steps:
        report = lab_chaos.run_chaos(options, steps, lambda one: rows.append(lab_chaos.as_row(one)))
    report.render(console())
    if json_path is not None:
        report.write(json_path)
    drill_history.note([drill_history.entry_of("lab", row) for row in rows])
    return OK if report.ok else FAILED


@click.command(epilog=examples("bgfctl drills", "bgfctl drills --last 100 --json"))
@click.option(
    "--last", type=click.IntRange(1, drill_book.DRILLS_MAX), default=SHOWN_DEFAULT,
    show_default=True, help="So many, the newest last.",
)  # fmt: skip
@as_json
def drills(last: int, as_json: bool) -> int:
    """The drills that were made on this machine, and what they came to.

    Kept in /var/lib/bgf/drills.jsonl, or in the file that BGF_DRILLS names.
    """
    found = drill_book.read()[-last:]
    if not found and not as_json:
        warn([f"no drill is recorded in {drill_book.book()}"])
        return OK
    show({"drills": found}, _drills_table(found), as_json)
    return OK


def _drills_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="Drills", title_justify="left")
    for name in ("at", "where", "fault", "passed", "owner", "silence mean / max ms", "calls kept"):
        table.add_column(name, justify="right" if "ms" in name or "kept" in name else "left")
    for one in found:
        owner, to = str(one.get("from", "")), str(one.get("to", ""))
        table.add_row(
            cell(one.get("at", "")),
            cell(one.get("where", "")),
            cell(one.get("fault", "")),
            cell("yes" if one.get("passed") else "NO", "green" if one.get("passed") else "red"),
            cell(f"{owner} → {to}" if to and to != owner else owner),
            cell(f"{_ms(one.get('outage_mean_ms'))} / {_ms(one.get('outage_max_ms'))}"),
            cell(f"{one.get('calls_completed', 0)}/{one.get('calls_started', 0)}"),
        )
    return table


def _ms(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "-"
