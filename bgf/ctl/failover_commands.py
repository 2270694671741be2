"""`bgfctl switchover`, `drain`, `undrain`, `ready` and `why`: planned moves and what happened.

Knows: click, which question goes to which process, how long a move may take. Must not know how a
move is made: the failover processes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from bgf.admin import AdminRefused, Json
from bgf.ctl import client, failover_view, render_failover
from bgf.ctl.cli import FAILED, OK, as_json, examples, show
from bgf.ctl.nodes_option import on_nodes, require_any
from bgf.errors import ConfigError

FAILOVER: Final = ("failover",)
GATEWAY: Final = ("gateway",)
POLL_S: Final = 0.1
SWITCHOVER_S: Final = 15.0  # a wish is given up after 10 s
DRAIN_S_DEFAULT: Final = 60
READY_TRIES: Final = 4  # what is on its way between two nodes is no difference
READY_PAUSE_S: Final = 0.25


@click.command(
    epilog=examples(
        "bgfctl switchover g1 --to n3", "bgfctl switchover g1 --config /etc/bgf/node.toml"
    )
)
@click.argument("group")
@click.option(
    "--to", "to", default="", metavar="NODE", help="Its next owner. Default: the next in line."
)
@on_nodes
@as_json
def switchover(group: str, to: str, nodes: list[client.Node], as_json: bool) -> int:
    """Move GROUP to another node while calls go on: make before break, no packet is to be lost.

    The next owner proves first that it could serve the group, claims it with its owner's consent,
    and announces it; the old one forwards what still comes to it. Type it where the group's
    owner can be asked. Of a next owner that cannot be asked from here, the failover processes alone
    judge whether it could serve the group. Exits with 1 when it did not move.
    """
    answers = _failovers(nodes)
    owner, epoch = _owner(answers, group)
    if to in [node.id for node in nodes]:
        found = _readiness(nodes, [to])
        if not found["ready"]:
            why = "; ".join(line for node in found["nodes"] for line in node["why"])
            outcome = {"group": group, "from": owner, "to": to, "done": False, "why": why}
            show(outcome, render_failover.moved(outcome), as_json)
            return FAILED
    _order(nodes, owner, "switchover", group=group, to=to)
    outcome = _wait_moved(nodes, group, owner, epoch)
    show(outcome, render_failover.moved(outcome), as_json)
    return OK if outcome["done"] else FAILED


@click.command(epilog=examples("bgfctl drain n1", "bgfctl drain n1 --wait 0"))
@click.argument("node")
@click.option(
    "--wait", "wait_s", type=click.IntRange(0, 3600), default=DRAIN_S_DEFAULT, show_default=True,
    help="Seconds until everything is to have moved.",
)  # fmt: skip
@on_nodes
@as_json
def drain(node: str, wait_s: int, nodes: list[client.Node], as_json: bool) -> int:
    """Move all groups away from NODE, one after the other, and let it take none.

    It stays drained over restarts, until `bgfctl undrain`; only when nobody else is ready does it
    take a dead node's group. Exits with 1 when it still carries something after the wait.
    """
    _known(nodes, node)
    _order(nodes, node, "drain")

    def look() -> Json:
        (answer,) = client.ask([n for n in nodes if n.id == node], FAILOVER, "status")
        said = answer.value or {}
        groups = client.table(said.get("groups"))
        carries = [g for g, o in client.table(said.get("owners")).items() if o.get("node") == node]
        held = [g for g, v in groups.items() if client.number(client.table(v).get("epoch"))]
        found = {"node": node, "drained": True, "carries": sorted({*carries, *held})}
        return found | {"sentence": client.text(said.get("sentence"))}

    found = _until(look, lambda found: not found["carries"], wait_s)
    show(found, render_failover.drained(found), as_json)
    return FAILED if found["carries"] else OK


@click.command(epilog=examples("bgfctl undrain n1"))
@click.argument("node")
@on_nodes
@as_json
def undrain(node: str, nodes: list[client.Node], as_json: bool) -> int:
    """Make NODE a standby again. Nothing is moved back to it."""
    _known(nodes, node)
    found = _order(nodes, node, "undrain")
    show(found, render_failover.drained(found), as_json)
    return OK


@click.command(epilog=examples("bgfctl ready", "bgfctl ready n3 --json"))
@click.argument("node", required=False)
@on_nodes
@as_json
def ready(node: str | None, nodes: list[client.Node], as_json: bool) -> int:
    """Could NODE (or each node) take a group over now? Everything that speaks against it.

    Asked are its own word, the links, the addresses, whether it knows and holds the same pinholes
    as each group's owner, and whether it has room for them: pinholes, memory, the state segment,
    its control sockets. Exits with 1 when a node could not.
    """
    if node:
        _known(nodes, node)
    found = _readiness(nodes, [node] if node else [])
    show(found, render_failover.readiness(found), as_json)
    return OK if found["ready"] else FAILED


@click.command(epilog=examples("bgfctl why g1", "bgfctl why g1 --json"))
@click.argument("group")
@on_nodes
@as_json
def why(group: str, nodes: list[client.Node], as_json: bool) -> int:
    """How GROUP last came to its owner: who suspected whom, who decided, why, and how fast.

    Put together from what each node's failover and gateway process recorded. Exits with 1 when
    nothing was.
    """
    answers = client.ask(nodes, FAILOVER, "history", group=group)
    require_any(answers, "failover process")
    refused = [a for a in answers if a.code == "malformed"]
    if refused and len(refused) == len([a for a in answers if a.code != "unreachable"]):
        raise ConfigError(refused[0].error)
    gateways = client.ask(nodes, GATEWAY, "history", group=group)
    found = failover_view.story(answers, group, [a for a in gateways if a.value is not None])
    show(found, render_failover.story(found), as_json)
    return OK if found["epoch"] else FAILED


def _failovers(nodes: Sequence[client.Node]) -> list[client.Answer]:
    answers = client.ask(nodes, FAILOVER, "status")
    require_any(answers, "failover process")
    return answers


def _owner(answers: Sequence[client.Answer], group: str) -> tuple[str, int]:
    """Raises ConfigError for a group that nobody knows, or that nobody owns."""
    known = {name: one for name, one in failover_view.owners(answers).items() if one[0]}
    if group not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"no group '{group}' with an owner: there are {there}")
    return known[group]


def _known(nodes: Sequence[client.Node], node: str) -> None:
    """Raises ConfigError for a node that is not reached from here."""
    if node not in [n.id for n in nodes]:
        raise ConfigError(
            f"no node '{node}' among those asked ({', '.join(n.id for n in nodes)}): type it on "
            "its own machine, or name the node with --config or --run-dir"
        )


def _order(nodes: Sequence[client.Node], node: str, command: str, **more: object) -> Json:
    """Tell one node's failover process. Raises AdminRefused, EnvironmentProblem."""
    _known(nodes, node)
    answers = client.ask([n for n in nodes if n.id == node], FAILOVER, command, **more)
    require_any(answers, "failover process")
    (answer,) = answers
    if answer.value is None:
        raise AdminRefused(f"{node} failover: {answer.error}", answer.code)
    return answer.value


def _readiness(nodes: Sequence[client.Node], only: Sequence[str]) -> Json:
    def look() -> Json:
        failovers = client.ask(nodes, FAILOVER, "ready")
        require_any(failovers, "failover process")
        return failover_view.readiness(failovers, client.ask(nodes, ("gateway",), "recorded"), only)

    found = look()
    for _ in range(READY_TRIES - 1):
        if found["ready"]:
            break
        time.sleep(READY_PAUSE_S)
        found = look()
    return found


def _wait_moved(nodes: Sequence[client.Node], group: str, owner: str, epoch: int) -> Json:
    """Until somebody else serves the group, or its owner has given the move up. A new owner that
    was not asked cannot be heard to serve it: then it counts that it owns it."""
    asked = {node.id for node in nodes}

    def look() -> Json:
        answers = client.ask(nodes, FAILOVER, "status")
        now, at = failover_view.owners(answers).get(group, (owner, epoch))
        by = {a.node: a.value or {} for a in answers}
        here = client.table(client.table(by.get(now, {}).get("groups")).get(group))
        steps = client.table(here.get("steps"))
        done = now != owner and (now not in asked or client.number(steps.get("published")) == at)
        gives_up = now == owner and not client.text(here.get("moving_to"))
        sentence = client.text(by.get(owner, {}).get("sentence"))
        return {
            "group": group,
            "from": owner,
            "to": now if now != owner else "",
            "epoch": at,
            "done": done,
            "over": done or gives_up,
            "why": "" if done else _given_up(nodes, owner, group) or sentence,
        }

    return _until(look, lambda found: bool(found["over"]), SWITCHOVER_S)


def _given_up(nodes: Sequence[client.Node], owner: str, group: str) -> str:
    """The owner's last word about a move that it gave up."""
    (answer,) = client.ask([n for n in nodes if n.id == owner], FAILOVER, "history", group=group)
    events = client.rows((answer.value or {}).get("events"))
    last = [e for e in events if e.get("event") in ("given-up", "withdrawn")]
    return client.text(last[-1].get("sentence")) if last else ""


def _until(look: Callable[[], Json], over: Callable[[Json], bool], within_s: float) -> Json:
    deadline = time.monotonic() + within_s
    found = look()
    while not over(found) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = look()
    return found
