"""`bgfctl reload`: every process reads its file again, and says what it takes up and what not.

Knows: click, the fields of an answer to `reload`. Must not know what a key means.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Group
from rich.text import Text

from bgf.admin import Json
from bgf.ctl import client
from bgf.ctl.cli import FAILED, OK, as_json, examples, show, warn
from bgf.ctl.nodes_option import on_nodes, require_any
from bgf.ctl.render import GOOD, ODD, QUIET, cell, grid


@click.command(epilog=examples("bgfctl reload", "bgfctl reload --node n1 --json"))
@on_nodes
@as_json
def reload(nodes: list[client.Node], as_json: bool) -> int:
    """Read the nodes' files again: take up what can be, name what needs a restart, lose no call.

    docs/configuration.md says of each key what a change needs. A file with an error changes
    nothing. Exits with 1 when a process did not take its file.
    """
    answers = client.ask(nodes, client.PROCESSES, "reload")
    require_any(answers, "process")
    rows = _rows(answers)
    errors = [f"{a.node} {a.process}: {a.error}" for a in answers if a.value is None]
    show({"changes": rows, "errors": errors}, _table(rows, bool(errors)), as_json)
    warn(list(dict.fromkeys(errors)))
    return FAILED if errors else OK


def _rows(answers: Sequence[client.Answer]) -> list[Json]:
    """One row per node and key; several processes that need a restart for it are one."""
    found: dict[tuple[str, str], Json] = {}
    for answer in answers:
        value = answer.value or {}
        for row in client.rows(value.get("applied")):
            told = {"node": answer.node, **row, "outcome": "taken up"}
            found[answer.node, client.text(row.get("key"))] = told
        for row in client.rows(value.get("restart")):
            told = {"node": answer.node, **row, "outcome": f"needs a {row.get('needs')}"}
            found.setdefault((answer.node, client.text(row.get("key"))), told)
    return list(found.values())


def _table(rows: list[Json], failed: bool) -> Group:
    if not rows:
        return Group(cell("" if failed else "nothing has changed", QUIET))
    made = grid("Changes", ("node", "key", "was", "is in the file", "outcome"))
    for row in rows:
        made.add_row(
            cell(row["node"], "bold"),
            cell(row.get("key")),
            cell(_shown(row.get("old"))),
            cell(_shown(row.get("new"))),
            cell(row["outcome"], GOOD if row["outcome"] == "taken up" else ODD),
        )
    return Group(made, Text())


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
