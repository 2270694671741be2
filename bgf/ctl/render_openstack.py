"""A cluster on OpenStack, for a person. Pure; see `render`.

Knows: what the openstack commands put together. Must not know where it came from.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from bgf.admin import Json
from bgf.ctl.client import rows, table, text
from bgf.ctl.render import BAD, GOOD, ODD, QUIET, cell, grid

_STYLES = {"ok": GOOD, "warn": ODD, "fail": BAD}
_HEALTHY = {"ACTIVE": GOOD}


def findings(found: Json) -> Group:
    """What stops a cluster first, then what is odd, then what is well."""
    looked = grid("Before a cluster is made", ("", "looked at", "found"))
    for finding in rows(found.get("findings")):
        level = text(finding.get("level"))
        looked.add_row(
            cell(level, _STYLES.get(level, "")),
            cell(finding.get("what")),
            cell(finding.get("sentence"), "" if level != "ok" else QUIET),
        )
    ready = found.get("ready") is True
    last = "nothing stands in the way" if ready else "it would fail: mend what is marked fail"
    return Group(looked, Text(), cell(last, GOOD if ready else BAD))


def status(found: Json) -> Group:
    """The stack, its servers, what each node says, and what an operator copies elsewhere."""
    state = text(found.get("status"))
    style = GOOD if state.endswith("_COMPLETE") else BAD if state.endswith("_FAILED") else ODD
    head = cell(f"{text(found.get('cluster'))}: ", "bold") + cell(state, style)
    servers = grid("", ("node", "server", "state", "address", "ready", "carries"))
    for row in rows(found.get("nodes")):
        server = text(row.get("status"))
        ready = row.get("ready")
        shown = (
            cell("-", QUIET) if ready is None else cell("yes", GOOD) if ready else cell("no", BAD)
        )
        carries = row.get("carries")
        servers.add_row(
            cell(row.get("node"), "bold"),
            cell(row.get("server")),
            cell(server, _HEALTHY.get(server, BAD)),
            cell(row.get("address") or "-"),
            shown,
            cell(" ".join(map(text, carries)) if isinstance(carries, list) and carries else "-"),
        )
    moving = grid("", ("group", "control", "access", "core"))
    for row in rows(table(found.get("outputs")).get("moving")):
        moving.add_row(
            cell(row.get("group"), "bold"),
            cell(row.get("control")),
            cell(_both(row, "access", ("ipv6", "ipv4"))),
            cell(_both(row, "core", ("ipv4", "ipv6"))),
        )
    parts: list[RenderableType] = [head]
    parts += [servers] if servers.row_count else [cell("no server yet", QUIET)]
    parts += [moving] if moving.row_count else []
    kamailio = text(table(found.get("outputs")).get("kamailio"))
    if kamailio:
        parts += [Text(), cell(f"Kamailio: {kamailio}")]
    if reason := text(found.get("reason")):
        parts += [cell(reason, BAD)]
    return Group(*parts, *[cell(line, ODD) for line in found.get("problems") or []])


def outcome(found: Json) -> Group:
    """What a change came to."""
    return Group(cell(found.get("sentence"), GOOD if found.get("done") else BAD))


def _both(row: Json, realm: str, versions: tuple[str, str]) -> str:
    return " ".join(filter(None, (text(row.get(f"{realm}_{v}")) for v in versions)))
