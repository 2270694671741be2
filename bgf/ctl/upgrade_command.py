"""`bgfctl upgrade`: the whole cluster, node by node, while calls go on.

Knows: click, which questions say what `upgrade` waits for, how the operator's command is run. Must
not know the order or what is waited for.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from bgf.admin import AdminRefused
from bgf.ctl import client, failover_view, render_failover
from bgf.ctl.cli import OK, as_json, examples, show
from bgf.ctl.nodes_option import on_nodes
from bgf.ctl.progress import Steps
from bgf.ctl.upgrade import Upgrade
from bgf.errors import ConfigError, EnvironmentProblem

COMMAND_S: Final = 900.0
SAID_CHARS: Final = 300
FILE_NAME: Final = "upgrade.json"


@click.command(
    epilog=examples(
        "bgfctl upgrade",
        "bgfctl upgrade --run-dir sockets --command 'ssh {node} /usr/local/sbin/upgrade-bgf'",
    )
)
@click.option(
    "--command", "template", metavar="COMMAND",
    help="Installs the new version on a node and restarts its processes; {node} is its id. "
    "Without it, the processes of a lab's nodes are restarted.",
)  # fmt: skip
@click.option(
    "--standing", "path", type=click.Path(path_type=Path), metavar="FILE",
    help=f"Where it notes how far it is.  [{FILE_NAME} beside the nodes' run directories]",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask first.")
@on_nodes
@as_json
def upgrade(
    template: str | None, path: Path | None, yes: bool, nodes: list[client.Node], as_json: bool
) -> int:
    """Upgrade every node, one after the other, with live calls: make before break.

    Each node is drained, restarted, waited for until it could take over again, and given back;
    those that carry nothing come first. It stops at the first node that does not come back, says
    where it stands, and goes on from there when it is typed again. The admin sockets of all nodes
    must be reachable from here: nodes of one machine, or sockets that are forwarded to DIR/NODE
    (docs/upgrade.md). Exits with 1 when it stopped.
    """
    parent = _parent(nodes)
    restart = _restarter(template, parent)
    if template and not yes:
        names = ", ".join(node.id for node in nodes)
        click.confirm(f"Upgrade {names}, one after the other, by '{template}'?", abort=True)
    with Steps() as steps:
        standing = Upgrade(_Nodes(nodes), restart, path or parent / FILE_NAME, steps).run()
    found = {"done": standing.done, "nodes": len(standing.order)}
    show(found, render_failover.upgraded(found), as_json)
    return OK


def _parent(nodes: Sequence[client.Node]) -> Path:
    return nodes[0].run_dir.parent


def _restarter(template: str | None, parent: Path) -> Callable[[str], None]:
    """Raises ConfigError: there is no command, and no lab either."""
    if template is not None:
        words = shlex.split(template)
        if not words:
            raise ConfigError("--command '': give the command that upgrades a node")
        return lambda node: _run([word.replace("{node}", node) for word in words])
    from bgf.lab import restart as lab_restart  # noqa: PLC0415 - what asks nodes starts at once

    if not lab_restart.is_lab(parent):
        raise ConfigError(
            "how is a node upgraded? Give --command 'ssh {node} ...' (without it only a lab's "
            f"nodes are restarted, and {parent} is none)"
        )
    return lambda node: lab_restart.restart(parent, node)


def _run(words: Sequence[str]) -> None:
    """Raises EnvironmentProblem with what it said last."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=COMMAND_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentProblem(f"'{shlex.join(words)}': {error}") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-SAID_CHARS:]
        raise EnvironmentProblem(
            f"'{shlex.join(words)}' ended with {done.returncode}: {said or 'it said nothing'}"
        )


class _Nodes:
    """The nodes, asked on their admin sockets."""

    def __init__(self, nodes: Sequence[client.Node]) -> None:
        self._nodes = nodes

    def carried(self) -> Mapping[str, Sequence[str]]:
        answers = client.ask(self._nodes, ("failover",), "status")
        owners = failover_view.owners(answers)
        held = {
            a.node: [
                group
                for group, said in client.table((a.value or {}).get("groups")).items()
                if client.number(client.table(said).get("epoch"))
            ]
            for a in answers
        }
        return {
            node.id: sorted(
                {g for g, (owner, _) in owners.items() if owner == node.id} | set(held[node.id])
            )
            for node in self._nodes
        }

    def not_up(self, node: str) -> Sequence[str]:
        answers = client.ask(self._only(node), client.PROCESSES, "status")
        return [
            f"{a.node} {a.process}: "
            + (a.error or client.text((a.value or {}).get("why")) or "it says that it is not ready")
            for a in answers
            if not a.ready
        ]

    def against(self, node: str) -> Sequence[str]:
        found = failover_view.readiness(
            client.ask(self._nodes, ("failover",), "ready"),
            client.ask(self._nodes, ("gateway",), "recorded"),
            [node],
        )
        return [client.text(line) for one in found["nodes"] for line in one["why"]]

    def drain(self, node: str) -> None:
        self._order(node, "drain")

    def undrain(self, node: str) -> None:
        self._order(node, "undrain")

    def _order(self, node: str, command: str) -> None:
        (answer,) = client.ask(self._only(node), ("failover",), command)
        if answer.value is None:
            raise AdminRefused(f"{node} failover: {answer.error}", answer.code)

    def _only(self, node: str) -> list[client.Node]:
        return [one for one in self._nodes if one.id == node]
