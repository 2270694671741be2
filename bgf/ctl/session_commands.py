"""`bgfctl sessions`: the calls that the gateways carry, one of them in full, and why it is so.

Knows: click, which command asks what. Must not know how a table is drawn (`render`,
`render_why`), nor how an answer is obtained (`client`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from bgf.ctl import client, render, render_why
from bgf.ctl.cli import FAILED, OK, Commands, as_json, examples, show, warn
from bgf.ctl.media_commands import one_call
from bgf.ctl.nodes_option import on_nodes, require_any


@click.group(
    cls=Commands,
    epilog=examples(
        "bgfctl sessions list", "bgfctl sessions show CALL-ID", "bgfctl sessions why CALL-ID"
    ),
)
def sessions() -> None:
    """The calls that the gateways carry."""


@sessions.command(
    "list",
    epilog=examples("bgfctl sessions list --group g1", "bgfctl sessions list --hanging --json"),
)
@on_nodes
@click.option("--group", "groups", multiple=True, metavar="ID", help="Only this group; repeatable.")
@click.option("--hanging", is_flag=True, help="Only calls whose media has stopped on all sides.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=render.SESSIONS_SHOWN_DEFAULT,
    show_default=True,
    help="Rows of the table; --json has all.",
)
@as_json
def sessions_list(
    nodes: list[client.Node],
    groups: tuple[str, ...],
    hanging: bool,
    limit: int,
    as_json: bool,
) -> int:
    """Every call, with its group, state, number of flows and age.

    A hanging one has had no packet for `inactivity_s` of its realms on any stream that should
    carry media, and no RTCP; it is ended by its owner only where `media.close_hanging_s` says so.
    Where no stream should carry any, it hangs after half of `media.close_held_s` without a packet,
    an offer or an answer.
    """
    answers = gateways(nodes, "sessions", **({"hanging": True} if hanging else {}))
    found = [
        {"node": answer.node, **row}
        for answer in answers
        for row in client.rows((answer.value or {}).get("sessions"))
        if (not groups or row.get("group") in groups) and (not hanging or row.get("hanging"))
    ]
    show({"sessions": found}, render.sessions(found, limit), as_json)
    return OK


@sessions.command("show", epilog=examples("bgfctl sessions show 1-4242@10.10.0.2"))
@click.argument("call_id")
@on_nodes
@as_json
def sessions_show(
    call_id: str,
    nodes: list[client.Node],
    as_json: bool,
) -> int:
    """One call: its flows, their gates, addresses and counters, and how its streams sound."""
    answer = one_call(nodes, "session", call_id)
    if answer is None or answer.value is None:
        return FAILED
    found = {"node": answer.node, **answer.value}
    show(found, render.session(found, _now_ns()), as_json)
    return OK


@sessions.command(
    "why",
    epilog=examples(
        "bgfctl sessions why 1-4242@10.10.0.2",
        "bgfctl sessions why 1-4242@10.10.0.2 --json | jq '.pinholes[] | {local_in, why, reason}'",
    ),
)
@click.argument("call_id")
@on_nodes
@as_json
def sessions_why(
    call_id: str,
    nodes: list[client.Node],
    as_json: bool,
) -> int:
    """Explain a call: what came when and from whom, which pinholes are closed and why.

    Told are the events that its journal holds, each with its outcome; the pinholes and what they
    carry now; the replies that are kept for repeated commands; whether the call was restored from
    another node. An ended call can be asked for until nobody can repeat its last command: about a
    minute. Times are counted from the first event. Exits with 1 when no node knows the call.
    """
    answer = one_call(nodes, "why", call_id)
    if answer is None or answer.value is None:
        return FAILED
    found = {"node": answer.node, **answer.value}
    show(found, render_why.why(found), as_json)
    return OK


def gateways(nodes: Sequence[client.Node], command: str, **more: object) -> list[client.Answer]:
    """The gateways' answers; those that give none are named on standard error."""
    answers = client.ask(nodes, ("gateway",), command, **more)
    require_any(answers, "gateway")
    warn([f"{a.node} gateway: {a.error}" for a in answers if a.value is None])
    return answers


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
