"""Manual pages of bgf(8) and bgfctl(1), made of what the programs say of themselves (click).

Knows roff and click's commands; must not know what any of them does. Usage: manpages.py MANDIR
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bgf.ctl.main import bgfctl
from bgf.runtime.main import main as bgf

WIDTH = 72
PAGES = (("bgf", 8, bgf), ("bgfctl", 1, bgfctl))


def escaped(text: str) -> str:
    """As roff shows it: its own characters, and lines that would be requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.split("\n"))


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """Contexts of the command and of all below it, depth first."""
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from commands(
                    inner, click.Context(inner, context, name, max_content_width=WIDTH)
                )


def page(name: str, section: int, command: click.Command) -> str:
    """Of one program, with all its commands."""
    top = click.Context(command, info_name=name, max_content_width=WIDTH)
    about = (command.help or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")
    lines = [f'.TH {name.upper()} {section} "" bgf', ".SH NAME", f"{name} \\- {escaped(about)}"]
    lines.append(".SH COMMANDS")
    for context in commands(command, top):
        if context is not top:
            lines.append(f".SS {escaped(context.command_path)}")
        lines += [".nf", escaped(context.command.get_help(context)), ".fi"]
    lines += [".SH SEE ALSO", "/usr/share/doc/bgf/operations.md.gz, systemctl(1)"]
    return "\n".join(lines) + "\n"


def main(directory: Path) -> None:
    for name, section, command in PAGES:
        path = directory / f"man{section}" / f"{name}.{section}.gz"
        path.write_bytes(gzip.compress(page(name, section, command).encode(), 9, mtime=0))


main(Path(sys.argv[1]))
