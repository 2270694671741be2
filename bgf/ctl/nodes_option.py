"""The options that say which nodes are meant, for every command that asks nodes.

Knows click and how nodes are found; must not know what is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bgf.ctl import client
from bgf.errors import EnvironmentProblem


def on_nodes(command: Callable[..., int]) -> Callable[..., int]:
    """The options that say which nodes are meant; `command` gets them found, as `nodes`."""

    @click.option(
        "--config",
        "configs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A node's TOML file; repeatable.",
    )
    @click.option(
        "--run-dir",
        "run_dirs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="A node's run directory, or one that holds several; repeatable. "
        "Without either option: the lab's nodes, or else that of /etc/bgf/node.toml.",
    )
    @click.option("--node", "only", multiple=True, metavar="ID", help="Only this node; repeatable.")
    @functools.wraps(command)
    def found(
        *, configs: Sequence[Path], run_dirs: Sequence[Path], only: Sequence[str], **more: Any
    ) -> int:
        return command(nodes=client.find_nodes(configs, run_dirs, only), **more)

    return found


def require_any(answers: Sequence[client.Answer], what: str) -> None:
    """Raises EnvironmentProblem when every process asked is unreachable."""
    if answers and all(a.code == "unreachable" for a in answers):
        more = f" ({len(answers)} {what}s were asked)" if len(answers) > 1 else ""
        first = answers[0]
        raise EnvironmentProblem(f"{first.node} {first.process}: {first.error}{more}")
