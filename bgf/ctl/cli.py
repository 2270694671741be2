"""What all commands of bgfctl share: exit codes, help form, printing an answer.

Knows click and rich; must not know any command.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console, RenderableType

OK, FAILED, USAGE, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES: Final = (
    "Exit codes: 0 fine; 1 what was asked failed, or is not well; 2 usage or configuration; "
    "3 this machine lacks something, or nothing answers; 130 interrupted."
)
SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
WIDTH_WITHOUT_TERMINAL: Final = 120


class Commands(click.Group):
    """A group whose unknown commands get a suggestion. Its help is asked for, not volunteered."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"no_args_is_help": False, **more})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0][:64], self.list_commands(ctx), n=1)
            hint = f"did you mean '{near[0]}'?" if near else ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"no command {args[0][:64]!r}; {hint}", ctx) from None


def examples(*lines: str) -> str:
    """The epilog of a command's help: its examples, one per line, and the exit codes."""
    shown = "\n".join(f"  {line}" for line in lines)
    return f"\b\nExamples:\n{shown}\n\n{EXIT_CODES}"


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def show(value: object, table: RenderableType, as_json: bool) -> None:
    """Print an answer on standard output: `value` as JSON, or `table` for a person."""
    if as_json:
        try:
            print(json.dumps(value, indent=2), flush=True)
        except BrokenPipeError:
            raise BrokenPipeError from None  # without errno: click would end the process at EPIPE
        return
    console().print(table)


class _Console(Console):
    """One that leaves a broken pipe to the guard, where others would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Standard output; a file or a pipe gets room enough for whole lines."""
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else WIDTH_WITHOUT_TERMINAL
    return _Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else width)


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"bgfctl: {' '.join(line.split())}", file=sys.stderr)
