"""`bgfctl drill on-node`: the faults that a node's own operator can do to it, asked for first.

Knows: click, admin sockets and the pid behind each, SIGKILL and SIGSTOP, `ip link`. What it does is
undone by a process of its own, should this one die or lose its terminal. Must not know the lab's
ways of breaking: here is a real node, with real calls on it.

The report is that of a drill on the lab; silences are those that the node's own packet path counted
(the largest gap of each RTP stream as it came in), since no meter stands at the receivers.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from bgf import config
from bgf.admin import Json
from bgf.ctl import client, drill_history
from bgf.ctl.cli import FAILED, OK, as_json, examples, show
from bgf.ctl.nodes_option import on_nodes
from bgf.errors import ConfigError, EnvironmentProblem

SECONDS_MAX: Final = 60.0
SECONDS_DEFAULT: Final = 2.0
BACK_S: Final = 60.0
POLL_S: Final = 0.1
CALLS_LOOKED_AT_MAX: Final = 500
PROBE_TIMEOUT_S: Final = 2.0
MS: Final = 1_000_000
ACTIONS: Final = ("kill", "stop", "link-down")


@click.command(
    "on-node",
    epilog=examples(
        "bgfctl drill on-node kill gateway --config /etc/bgf/node.toml",
        "bgfctl drill on-node stop failover --seconds 10 --config /etc/bgf/node.toml",
        "bgfctl drill on-node link-down core --seconds 5 --config /etc/bgf/node.toml --yes",
    ),
)
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("what")
@click.option(
    "--seconds", type=click.FloatRange(0.1, SECONDS_MAX), default=SECONDS_DEFAULT,
    show_default=True, help="How long a process stands still, or a link is down.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@on_nodes
@as_json
def on_node(
    *,
    action: str,
    what: str,
    seconds: float,
    yes: bool,
    nodes: list[client.Node],
    as_json: bool,
) -> int:
    """Break something of a real node on purpose, from that node, and report.

    `kill PROCESS` (SIGKILL; the service manager starts it again), `stop PROCESS` (it stands still
    for --seconds), `link-down REALM` (its interface is down for --seconds). PROCESS is state,
    gateway or failover. It says what the node carries and asks first. Calls may be heard to stop:
    that is what is measured. Name the other nodes' files too if their sockets are on this machine.
    Exits with 1 when the node is not whole again within a minute, or calls are missing.
    """
    victim = _one(nodes)
    carried = _carried(victim)
    undo, doing = _prepared(action, what, seconds, victim)
    if not yes:
        _ask_first(victim, doing, carried)
    before = _gaps(victim)
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    undo()
    time.sleep(seconds if action != "kill" else POLL_S)
    whole_ms, left = _wait_ready(victim)
    row = _report(victim, nodes, doing=doing, began_ns=began_ns, carried=carried, before=before)
    row |= {"whole_ms": round(whole_ms, 1), "broken": [*row["broken"], *left]}
    row["passed"] = not row["broken"]
    drill_history.note([drill_history.entry_of(victim.id, row)])
    show(row, _shown(row), as_json)
    return OK if row["passed"] else FAILED


def _one(nodes: Sequence[client.Node]) -> client.Node:
    """The node that is meant: the first of those named. The others are only asked for their part of
    the story."""
    here = [node for node in nodes if (node.run_dir / "gateway.sock").exists()]
    if not here:
        raise EnvironmentProblem(
            "none of these nodes runs here: a drill on a node is made on that node"
        )
    return here[0]


def _carried(node: client.Node) -> Json:
    """Groups that it serves and the calls on them."""
    (answer,) = client.ask([node], ("gateway",), "status")
    groups = client.table((answer.value or {}).get("groups"))
    return {
        group: client.number(client.table(one).get("sessions"))
        for group, one in groups.items()
        if client.table(one).get("role") == "active"
    }


def _ask_first(node: client.Node, doing: str, carried: Json) -> None:
    """Raises click.Abort; EnvironmentProblem where nobody can be asked."""
    calls = ", ".join(f"{group} with {n} calls" for group, n in carried.items()) or "no group"
    if not sys.stdin.isatty():
        raise EnvironmentProblem(
            f"this would {doing} on {node.id}, which serves {calls}: nobody can be asked here, "
            "say --yes if it is meant"
        )
    click.echo(f"This will {doing} on {node.id}, which serves {calls}.", err=True)
    typed = click.prompt(f"Type '{node.id}' to go on", default="", show_default=False, err=True)
    if typed != node.id:
        raise click.Abort


def _prepared(
    action: str, what: str, seconds: float, node: client.Node
) -> tuple[Callable[[], None], str]:
    """The deed, ready to be done, and its words. Raises ConfigError, EnvironmentProblem."""
    if action == "link-down":
        interface = _interface(what)
        return (
            lambda: _with_undo(
                ["ip", "link", "set", interface, "down"],
                f"sleep {seconds}; ip link set {interface} up",
            ),
            f"take {interface} (realm {what}) down for {seconds:g} s",
        )
    if what not in client.PROCESSES:
        raise ConfigError(f"no process '{what[:64]}': there are {', '.join(client.PROCESSES)}")
    pid = pid_of(node.run_dir / f"{what}.sock")
    if action == "kill":
        return lambda: os.kill(pid, signal.SIGKILL), f"kill its {what} process (pid {pid})"

    def stop() -> None:
        _with_undo(["kill", "-STOP", str(pid)], f"sleep {seconds}; kill -CONT {pid}")

    return stop, f"stop its {what} process (pid {pid}) for {seconds:g} s"


def pid_of(path: Path) -> int:
    """The process that listens on an admin socket. Raises EnvironmentProblem when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError as problem:
            raise EnvironmentProblem(f"{path}: nobody listens ({problem.strerror})") from None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = int(struct.unpack("3i", credentials)[0])
    if pid <= 1:
        raise EnvironmentProblem(f"{path}: its process is not of this pid namespace")
    return pid


def _interface(realm: str) -> str:
    """Of a realm, by the configuration that was named on this command line."""
    context = click.get_current_context()
    files: Sequence[Path] = context.params.get("configs") or ()
    for file in files:
        realms: Mapping[str, Any] = config.load(file).realms
        if realm not in realms:
            raise ConfigError(f"{file}: no realm '{realm[:64]}': there are {', '.join(realms)}")
        return str(realms[realm].interface)
    raise ConfigError("link-down needs --config FILE: it says which interface a realm is")


def _with_undo(argv: Sequence[str], undo: str) -> None:
    """Start what undoes it before it is done: no lost terminal may leave it so."""
    subprocess.Popen(
        ["sh", "-c", undo],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise EnvironmentProblem(f"{' '.join(argv)}: {done.stderr.strip()[:200]}")


def _wait_ready(node: client.Node) -> tuple[float, list[str]]:
    began = time.monotonic()
    while True:
        answers = client.ask([node], client.PROCESSES, "status")
        left = [f"{a.process}: {a.error or 'not ready'}" for a in answers if not a.ready]
        passed_s = time.monotonic() - began
        if not left or passed_s > BACK_S:
            return passed_s * 1000, [f"{node.id} {line} after {BACK_S:g} s" for line in left]
        time.sleep(POLL_S)


def _gaps(node: client.Node) -> dict[str, tuple[str, float]]:
    """Pinhole -> (direction, largest gap of its RTP so far in ms), of some calls."""
    found: dict[str, tuple[str, float]] = {}
    (answer,) = client.ask([node], ("gateway",), "sessions")
    for row in client.rows((answer.value or {}).get("sessions"))[:CALLS_LOOKED_AT_MAX]:
        (one,) = client.ask([node], ("gateway",), "session", call_id=row.get("call_id"))
        for flow in client.rows((one.value or {}).get("flow_list")):
            gap_ms = client.table(flow.get("rtp")).get("gap_max_ms")
            if isinstance(gap_ms, int | float):
                direction = f"{flow.get('realm_in')} to {flow.get('realm_out')}"
                found[client.text(flow.get("local_in"))] = (direction, float(gap_ms))
    return found


def _report(
    node: client.Node,
    nodes: Sequence[client.Node],
    *,
    doing: str,
    began_ns: int,
    carried: Json,
    before: Mapping[str, tuple[str, float]],
) -> Json:
    from bgf.lab import measure  # noqa: PLC0415

    after = _gaps(node)
    grown: dict[str, list[float]] = {}
    for key, (direction, gap_ms) in after.items():
        if key in before:
            larger = gap_ms if gap_ms > before[key][1] else 0.0
            grown.setdefault(direction, []).append(larger)
    every = [gap for gaps in grown.values() for gap in gaps]
    now = {g: n for one in nodes for g, n in _carried(one).items()}
    events = _events(nodes, list(carried) or ["g1"], began_ns)
    timeline = {
        step: round((min(ats) - began_ns) / MS, 3) if ats else None
        for step in measure.STEPS[:-1]
        for ats in [[int(e["at_ns"]) for e in events if e.get("event") == step]]
    }
    decided = [e for e in events if e.get("event") == "decided"]
    elsewhere = [group for group in carried if group not in now]
    known = [group for group in carried if group in now]
    calls, still = sum(carried[g] for g in known), sum(now[g] for g in known)
    broken = [f"{calls - still} of {calls} calls are missing"] if still < calls else []
    return {
        "fault": doing,
        "node": node.id,
        "timeline_ms": timeline,
        "outage_ms": measure.Spread.of(every).as_json(),
        "outage_ms_by": {d: measure.Spread.of(g).as_json() for d, g in sorted(grown.items())},
        "flows": len(every),
        "calls_started": calls,
        "calls_completed": still,
        "moved": elsewhere,
        "owner_before": node.id,
        "owner_after": client.text(decided[-1].get("node")) if decided else node.id,
        "why": client.text(decided[-1].get("sentence")) if decided else "",
        "broken": broken,
    }


def _events(nodes: Sequence[client.Node], groups: Sequence[str], since_ns: int) -> list[Json]:
    """What these nodes' failover processes recorded since then; others' clocks are not ours."""
    found: list[Json] = []
    for group in groups:
        for answer in client.ask(nodes, ("failover",), "history", group=group):
            found += [
                event
                for event in client.rows((answer.value or {}).get("events"))
                if client.number(event.get("at_ns")) >= since_ns
            ]
    return sorted(found, key=lambda event: client.number(event.get("at_ns")))


def _shown(row: Json) -> Any:
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"{row['node']}: {row['fault']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    for step, at in row["timeline_ms"].items():
        table.add_row(step, "never" if at is None else f"after {at:.1f} ms")
    for direction, spread in row["outage_ms_by"].items():
        figures = f"mean {spread['mean']:.0f} ms, max {spread['max']:.0f} ms"
        table.add_row(f"silence, {direction}", figures + " (0: none beyond what there was before)")
    table.add_row("calls kept", f"{row['calls_completed']} of {row['calls_started']}")
    if row["moved"]:
        table.add_row("moved away", f"{', '.join(row['moved'])}: its calls are with its new owner")
    table.add_row("ready again", f"after {row['whole_ms'] / 1000:.1f} s")
    table.add_row("why", row["why"] or "nobody took anything over")
    lines = [f"[red]{line}[/red]" for line in row["broken"]]
    return Group(table, *lines)
