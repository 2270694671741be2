"""`bgfctl state`: members and views, items and where they live, moves, metrics.

Knows: click, which question goes to which state process. Must not know shared memory: all that is
shown is what the state processes say on their admin sockets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from bgf.admin import AdminRefused
from bgf.ctl import client, render_state, state_view
from bgf.ctl.cli import FAILED, OK, Commands, as_json, examples, show, warn
from bgf.ctl.nodes_option import on_nodes, require_any

ITEMS_SHOWN_DEFAULT: Final = 50
ITEMS_MAX: Final = 100_000
STATE: Final = ("state",)
KEY_USERS: Final = ("state", "gateway")


@click.group(
    cls=Commands,
    epilog=examples(
        "bgfctl state status",
        "bgfctl state items --prefix j/g1/",
        "bgfctl state move j/g1/CALL-ID --to n2",
    ),
)
def state() -> None:
    """The state plane: members of the cluster, items, masters and copies."""


@state.command(
    "status",
    epilog=examples("bgfctl state status", "bgfctl state status --run-dir /run/bgf-lab/n1 --json"),
)
@on_nodes
@as_json
def state_status(nodes: list[client.Node], as_json: bool) -> int:
    """Each node's place in the cluster, items by role, memory, what waits for replication.

    Exits with 1 when a state process does not answer or does not serve. Counting walks all items
    of each node.
    """
    answers = client.ask(nodes, STATE, "state")
    found = state_view.overview(answers)
    show(found, render_state.status(found), as_json)
    require_any(answers, "state process")
    return OK if found["ready"] else FAILED


@state.command("members", epilog=examples("bgfctl state members", "bgfctl state members --json"))
@on_nodes
@as_json
def state_members(nodes: list[client.Node], as_json: bool) -> int:
    """The newest view: slots, epoch, leader, and how long each member's lease still is.

    Exits with 1 when a process asked does not answer, is in no view, or is in an older one.
    """
    answers = client.ask(nodes, STATE, "status")
    require_any(answers, "state process")
    found = state_view.members(answers)
    show(found, render_state.members(found), as_json)
    return FAILED if found["problems"] else OK


@state.command(
    "items",
    epilog=examples(
        "bgfctl state items --prefix f/g1/ --limit 20",
        "bgfctl state items --node n3 --prefix m/ --json",
    ),
)
@on_nodes
@click.option("--prefix", default="", metavar="TEXT", help="Only keys that begin so.")
@click.option(
    "--limit",
    type=click.IntRange(1, ITEMS_MAX),
    default=ITEMS_SHOWN_DEFAULT,
    show_default=True,
    help="At most so many items.",
)
@as_json
def state_items(nodes: list[client.Node], prefix: str, limit: int, as_json: bool) -> int:
    """Items with master, replicas, length, version and hint, as the first node that answers has
    them.

    Every member knows every key. Length is that of the copy on the node that is asked, version
    that of its master there; a dash: it has none. Replicas in brackets are being filled.
    """
    answer = _first(nodes, "items", prefix=prefix, limit=limit)
    found = state_view.items(answer)
    show(found, render_state.items(found, limit), as_json)
    return OK


@state.command(
    "move",
    epilog=examples("bgfctl state move j/g1/CALL-ID --to n2", "bgfctl state move flow/7 --to n1"),
)
@click.argument("key")
@click.option("--to", "to", required=True, metavar="NODE", help="Its new master.")
@on_nodes
@as_json
def state_move(key: str, to: str, nodes: list[client.Node], as_json: bool) -> int:
    """Make NODE the master of the item KEY. It stays readable and writable meanwhile."""
    answer = _first(nodes, "move", key=key, to=to)
    found = {"key": key, **(answer.value or {})}
    show(found, render_state.moved(found), as_json)
    return OK


@state.command("metrics", epilog=examples("bgfctl state metrics --node n1"))
@on_nodes
def state_metrics(nodes: list[client.Node]) -> int:
    """The metrics of one node's state server, in Prometheus' text form."""
    answer = _first(nodes, "metrics")
    sys.stdout.write(client.text((answer.value or {}).get("text")))
    return OK


@state.command("reload-keys", epilog=examples("bgfctl state reload-keys"))
@on_nodes
def state_reload_keys(nodes: list[client.Node]) -> int:
    """Read the cluster's key file again, in every process that uses it: a step of a key's rotation.

    Add the new key to every file and reload; put it first and reload; remove the old one and
    reload. Exits with 1 when a process was not told: do not go on then.
    """
    answers = client.ask(nodes, KEY_USERS, "reload-keys")
    require_any(answers, "process")
    warn([f"{a.node} {a.process}: {a.error}" for a in answers if a.value is None])
    for answer in answers:
        if answer.value is not None:
            print(f"{answer.node} {answer.process}: {client.text(answer.value.get('done'))}")
    return OK if all(a.value is not None for a in answers) else FAILED


def _first(nodes: Sequence[client.Node], command: str, **more: object) -> client.Answer:
    """The first process that can be reached decides: its answer, or its refusal raised."""
    unreachable = []
    for node in nodes:
        (answer,) = client.ask([node], STATE, command, **more)
        if answer.value is not None:
            return answer
        if answer.code != "unreachable":
            raise AdminRefused(f"{answer.node} state: {answer.error}", answer.code)
        unreachable.append(answer)
    require_any(unreachable, "state process")
    raise AssertionError("unreachable: find_nodes gives at least one")
