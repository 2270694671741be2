"""`bgfctl lab`, `bgfctl drill` and `bgfctl rtpload`: the lab on one machine, and what breaks it.

Knows: the lab's entry points and the form of their reports. Imports the lab when it is asked for:
`bgfctl status` must start at once. Must not know namespaces, processes or packets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from bgf import config
from bgf.ctl import drill_history, render
from bgf.ctl.cli import FAILED, OK, Commands, as_json, console, examples, show
from bgf.ctl.progress import Steps

CALLS: Final = 100
FLOWS: Final = 2_000
QUICK_CALLS: Final = 20
QUICK_FLOWS: Final = 200
RTPLOAD_EXAMPLES: Final = {
    "bench": "--streams 2000 --seconds 5",
    "send": "--netns bgf-core --interface core --from 10.20.0.100:4000 --to 10.20.0.101:30000",
    "meter": "--netns bgf-access --interface access --seconds 10",
    "flood": "--netns bgf-core --interface core --from 10.20.0.100:4000 --to 10.20.0.101:30000"
    " --rate 100000",
}


@click.group(
    cls=Commands,
    epilog=examples("bgfctl lab up", "bgfctl lab status --json", "bgfctl lab down"),
)
def lab() -> None:
    """The N+1 cluster in network namespaces on this machine. Needs root."""


with_profile = click.option(
    "--profile", type=click.Choice(sorted(config.PROFILES)), default="lab", show_default=True,
    help="The failover timers of the nodes, by name (docs/operations.md has their figures).",
)  # fmt: skip


@lab.command(epilog=examples("bgfctl lab up", "bgfctl lab up --profile safe --json"))
@with_profile
@as_json
def up(profile: str, as_json: bool) -> int:
    """Bring the lab up and wait until every process is ready. What stands already is kept."""
    from bgf.lab.lab import Lab, interruptible  # noqa: PLC0415
    from bgf.lab.nodes import Timers  # noqa: PLC0415

    it = Lab(timers=Timers.of(profile))
    with Steps() as steps, interruptible():
        it.up(steps)
    found = it.status()
    show(found, render.lab(found), as_json)
    return OK


@lab.command("status", epilog=examples("bgfctl lab status", "bgfctl lab status --json"))
@as_json
def lab_status(as_json: bool) -> int:
    """What stands and what runs. Exits with 1 when the lab is not wholly up."""
    from bgf.lab.lab import Lab  # noqa: PLC0415

    found = Lab().status()
    show(found, render.lab(found), as_json)
    return OK if found.get("state") == "up" else FAILED


@lab.command(epilog=examples("bgfctl lab down"))
@as_json
def down(as_json: bool) -> int:
    """End every process of the lab; remove its namespaces, pins and files. Idempotent."""
    from bgf.lab.lab import Lab  # noqa: PLC0415

    it = Lab()
    with Steps() as steps:
        it.down(steps)
    found = it.status()
    show(found, render.lab(found), as_json)
    return OK


@click.group(
    cls=Commands,
    epilog=examples(
        "bgfctl drill power-off", "bgfctl drill power-off --runs 10 --json report.json"
    ),
)
def drill() -> None:
    """Break the lab on purpose, under load, and measure what the receivers noticed."""


def _writable(_ctx: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse now what could not be written when the drill is over."""
    if path is None:
        return None
    try:
        if path.exists():
            path.open("ab").close()
        else:
            nearest = next(p for p in path.absolute().parents if p.exists())
            tempfile.TemporaryFile(dir=nearest).close()
    except OSError as problem:
        raise click.BadParameter(f"'{path}' cannot be written: {problem.strerror}") from None
    return path


def file_option(name: str, what: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(
        name,
        name.strip("-") + "_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=_writable,
        help=f"Write {what} there.",
    )


@drill.command(
    "power-off",
    epilog=examples(
        "bgfctl drill power-off",
        "bgfctl drill power-off --group g2 --calls 100 --flows 2000 --runs 10",
        "bgfctl drill power-off --profile safe --runs 10",
        "bgfctl drill power-off --quick --json report.json --plot outage.png",
    ),
)
@click.option("--group", default="g1", show_default=True, help="The group that loses its node.")
@with_profile
@click.option(
    "--calls", type=int, help=f"SIP calls over all groups.  [{CALLS}; quick {QUICK_CALLS}]"
)
@click.option(
    "--flows", type=int, help=f"Generated RTP flows of the group.  [{FLOWS}; quick {QUICK_FLOWS}]"
)
@click.option("--runs", type=int, default=1, show_default=True, help="Each on a fresh lab.")
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the moments of death.")
@click.option("--quick", is_flag=True, help="Fewer calls and flows, the same rows.")
@click.option("--keep", is_flag=True, help="Leave the last run's lab standing.")
@file_option("--json", "the report")
@file_option("--plot", "a picture (PNG) of every flow's silence in the worst run")
def power_off(
    *,
    group: str,
    profile: str,
    calls: int | None,
    flows: int | None,
    quick: bool,
    **more: Any,
) -> int:
    """Kill the owner of a group under load: its processes die and its links are cut at once.

    A fresh lab, real calls and generated RTP; then the outage of every flow and direction as its
    receiver heard it, the timeline of the takeover, and whether every call could still be hung
    up. Needs root. Exits with 1 when a goal is missed.
    """
    from bgf.lab.drill import DrillOptions, run_drill  # noqa: PLC0415
    from bgf.lab.nodes import Timers  # noqa: PLC0415

    options = DrillOptions(
        group=group,
        timers=Timers.of(profile),
        calls=calls if calls is not None else QUICK_CALLS if quick else CALLS,
        flows=flows if flows is not None else QUICK_FLOWS if quick else FLOWS,
        **more,
    )
    with Steps() as steps:
        report = run_drill(options, steps)
    drill_history.note([drill_history.entry_of_run(run, report.ok) for run in report.runs])
    report.render(console())
    return OK if report.ok else FAILED


class _Rtpload(Commands):
    """The commands of `bgf.lab.rtpload_main`, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _rtpload_commands().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = _rtpload_commands().get_command(ctx, cmd_name)
        if command is not None and not command.epilog:
            command.epilog = examples(
                f"bgfctl rtpload {cmd_name} {RTPLOAD_EXAMPLES.get(cmd_name, '--help')}"
            )
        return command


def _rtpload_commands() -> click.Group:
    from bgf.lab.rtpload_main import rtpload as commands  # noqa: PLC0415

    return commands


rtpload = _Rtpload(
    "rtpload",
    help="RTP load and the outage meter, without gateways in between. Needs root, Linux 5.18.",
    epilog=examples(
        *(f"bgfctl rtpload {name} {options}" for name, options in RTPLOAD_EXAMPLES.items())
    ),
)
