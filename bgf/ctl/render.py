"""Answers as tables for a person. Pure: JSON-like values and a clock reading in, rich values out.

Knows: what is worth a column, how numbers and ages are written, what is highlighted. Must not
know where the answers came from. Everything shown is text from a process or a peer, so it is
escaped: a Call-ID must not be able to colour, or to clear, the operator's screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bgf.admin import Json
from bgf.ctl.client import NOT_DROPS, Answer, attachments, count, drops, number, rows, table, text

CELL_CHARS_MAX: Final = 256
SESSIONS_SHOWN_DEFAULT: Final = 100
PORTS: Final = ("exhausted", "unbindable", "leaked")
"""What can be the matter with ports: none is free, the packet path refuses, nobody's call."""

GOOD, ODD, BAD, QUIET = "green", "yellow", "bold red", "dim"


def cell(value: object, style: str = "") -> Text:
    """One value as inert text: bounded, control characters escaped, no markup."""
    raw = text(value)[:CELL_CHARS_MAX]
    inert = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)
    return Text(inert, style=style)


def grid(title: str, columns: Iterable[str], right: Iterable[str] = ()) -> Table:
    """An empty table in the one style that all our tables have; `right` aligns numbers."""
    right = tuple(right)
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            header_style=QUIET,
            no_wrap=name in right,
        )
    return made


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `5 h 2 min`: two units at most."""
    if seconds < 0:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def since(then_ns: object, now_ns: int) -> str:
    """Age of a CLOCK_BOOTTIME instant; a dash when it has never been."""
    then = number(then_ns)
    return duration((now_ns - then) / 1e9) if then > 0 else "-"


def _state_cell(process: Json) -> Text:
    if "error" in process:
        return cell("down" if process.get("code") == "unreachable" else "error", BAD)
    if process.get("ready") is not True:
        return cell("not ready", BAD)
    return cell("keeper" if process.get("keeper") is True else "ready", GOOD)


def status(cluster: Json) -> Group:
    """The two tables of `bgfctl status` and, below them, what is wrong or worth knowing."""
    nodes = grid(
        "Nodes",
        (
            *("node", "state", "gateway", "failover", "active for", "standby for"),
            *("sessions", "pinholes", "drops", "attached"),
        ),
        ("sessions", "pinholes", "drops"),
    )
    said: list[Text] = []
    for node in rows(cluster.get("nodes")):
        processes = {name: table(p) for name, p in table(node.get("processes")).items()}
        gateway = processes.get("gateway", {})
        groups = {g: table(v) for g, v in table(gateway.get("groups")).items()}
        serving = [g for g, v in sorted(groups.items()) if v.get("role") == "active"]
        waiting = [g for g, v in sorted(groups.items()) if v.get("role") == "standby"]
        known = "error" not in gateway
        attached = attachments(gateway)
        modes = sorted({mode for mode, _ in attached.values()})
        nodes.add_row(
            cell(node.get("node"), "bold"),
            *(_state_cell(processes.get(p, {})) for p in ("state", "gateway", "failover")),
            cell(" ".join(serving) or "-"),
            cell(" ".join(waiting) or "-"),
            cell(sum(number(groups[g].get("sessions")) for g in serving) if known else "-"),
            cell(number(gateway.get("pinholes")) if known else "-"),
            cell(drops(gateway) if known else "-"),
            cell(" ".join(modes) or "-"),
        )
        name = text(node.get("node"))
        said += _of_failover(name, processes.get("failover", {}))
        said += _of_gateway(name, gateway)
    groups_table = grid(
        "Groups",
        (
            *("group", "owner", "epoch", "sessions", "flows", "pending", "restored in"),
            "standby (flows held)",
        ),
        ("epoch", "sessions", "flows", "pending", "restored in"),
    )
    asked = {text(node.get("node")) for node in rows(cluster.get("nodes"))}
    for group in rows(cluster.get("groups")):
        owner = text(group.get("owner"))
        healthy = owner in (group.get("active") or [])
        told = not owner or owner in asked  # else its figures are for its own machine to tell
        groups_table.add_row(
            cell(group.get("group"), "bold"),
            cell(owner or "nobody", GOOD if healthy else BAD if told else ""),
            cell(number(group.get("epoch"))),
            *(
                cell(number(group.get(k)) if told else "-")
                for k in ("sessions", "flows", "pending")
            ),
            cell(f"{text(group['restored_in_ms'])} ms" if group.get("restored_in_ms") else "-"),
            cell(
                ", ".join(f"{n} ({held})" for n, held in table(group.get("standby")).items()) or "-"
            ),
        )
    said += _of_cluster(cluster)
    problems = [cell(f"problem: {p}", BAD) for p in cluster.get("problems") or []]
    parts: list[RenderableType] = [nodes, Text(), groups_table, Text()]
    packets = _packets(cluster)
    parts += [packets, Text()] if packets.row_count else []
    verdict = [cell("ready", GOOD)] if cluster.get("ready") is True else problems
    return Group(*parts, *said, *verdict)


def _packets(cluster: Json) -> Table:
    """What was dropped, by node, realm and reason; the largest counts first."""
    made = grid("Dropped", ("node", "realm", "reasons"))
    for node in rows(cluster.get("nodes")):
        gateway = table(table(node.get("processes")).get("gateway"))
        for realm, told in sorted(table(table(gateway.get("packets")).get("by_realm")).items()):
            counts = {k: number(v) for k, v in table(told).items() if k not in NOT_DROPS}
            most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            reasons = ", ".join(f"{name} {count}" for name, count in most if count)
            if reasons:
                made.add_row(cell(node.get("node"), "bold"), cell(realm or "-"), cell(reasons))
    return made


def _of_cluster(cluster: Json) -> list[Text]:
    """What is wrong with which node, and what an operator is warned of."""
    lines = []
    for node, states in sorted(table(cluster.get("conditions")).items()):
        for state, one in table(states).items():
            by = _listed(table(one).get("by"))
            lines.append(cell(f"{node}: {state}: {text(table(one).get('sentence'))} ({by})", ODD))
    return lines + [cell(f"warning: {line}", ODD) for line in cluster.get("warnings") or []]


def _of_failover(node: str, failover: Json) -> list[Text]:
    """What a failover process says of itself, whom it does not hear, what troubles it."""
    sentence = text(failover.get("sentence"))
    lines = [cell(f"{node}: {sentence}", QUIET)] if sentence else []
    if failover.get("drained") is True:
        lines.append(cell(f"{node}: is drained", ODD))
    if failover.get("restless"):
        lines.append(cell(f"{node}: trusts {_listed(failover['restless'])} less for a while", ODD))
    for peer, paths in sorted(table(failover.get("damped")).items()):
        told = f"{node}: is patient with {peer} on {_listed(paths)}, which came back too often"
        lines.append(cell(told, ODD))
    for peer, paths in sorted(table(failover.get("suspects")).items()):
        if paths:
            lines.append(cell(f"{node}: does not hear {peer} on {_listed(paths)}", ODD))
    if failover.get("links_down"):
        lines.append(cell(f"{node}: its link is down on {_listed(failover['links_down'])}", BAD))
    if vouched := text(table(failover.get("vouching")).get("sentence")):
        lines.append(cell(f"{node}: {vouched}", ODD))
    for what, why in sorted(table(failover.get("trouble")).items()):
        lines.append(cell(f"{node}: trouble with {what}: {text(why)}", ODD))
    return lines


def _of_gateway(node: str, gateway: Json) -> list[Text]:
    """Generic mode, next hops that do not answer, what the groups failed at last."""
    lines = [
        cell(
            f"{node}: {realm} runs in generic mode, which is slower{reason and f': {reason}'}", ODD
        )
        for realm, (mode, reason) in attachments(gateway).items()
        if mode == "generic"
    ]
    if gateway.get("unresolved"):
        lines.append(cell(f"{node}: no answer from next hop {_listed(gateway['unresolved'])}", ODD))
    for group, told in sorted(table(gateway.get("groups")).items()):
        failures = table(told).get("failures")
        for failure in failures if isinstance(failures, list) else []:
            lines.append(cell(f"{node}: {group}: {text(failure)}", ODD))
        failed = table(table(told).get("failed"))
        ports = [f"{k} {number(failed[f'ports-{k}'])}" for k in PORTS if f"ports-{k}" in failed]
        if ports:
            lines.append(cell(f"{node}: {group}: ports {', '.join(ports)}", ODD))
        refused = _refused(table(table(told).get("ng")))
        if refused:
            lines.append(cell(f"{node}: {group}: {refused}", ODD))
        hanging = number(table(told).get("hanging"))
        if hanging:
            shown = f"{node}: {group}: {hanging} calls hang: bgfctl sessions list --hanging"
            lines.append(cell(shown, ODD))
    return lines


def _refused(counts: Json) -> str:
    """New calls that were refused, by the limit that was reached; and strangers."""
    shed = {
        k.removeprefix("shed-"): number(v) for k, v in sorted(counts.items()) if k[:5] == "shed-"
    }
    told = [f"new calls refused by {', '.join(f'{k} {n}' for k, n in shed.items())}"] * bool(shed)
    strangers = number(counts.get("stranger"))
    told += [f"{strangers} datagrams of strangers dropped (control.peers)"] * bool(strangers)
    return "; ".join(told)


def _listed(value: object) -> str:
    return ", ".join(map(text, value)) if isinstance(value, list) else text(value)


def sessions(found: Sequence[Json], shown_max: int) -> Group:
    """One line per call; `found` has the answers' rows with their `node`."""
    silent = any(row.get("hanging") is True for row in found)
    ordered = any(row.get("orders") for row in found)
    extra = (*(("silent",) if silent else ()), *(("ordered",) if ordered else ()))
    made = grid(
        f"Sessions ({len(found)})",
        ("call", "group", "node", "state", "flows", "age", *extra),
        ("flows", "age", "silent"),
    )
    for row in found[:shown_max]:
        made.add_row(
            cell(row.get("call_id"), "bold"),
            cell(row.get("group")),
            cell(row.get("node")),
            cell(row.get("state")),
            cell(count(row.get("flows"))),
            cell(age(row.get("created_age_s"))),
            *((cell(age(row.get("silent_s")), ODD),) if silent else ()),
            *((cell(_listed(row.get("orders") or []) or "-"),) if ordered else ()),
        )
    left = len(found) - shown_max
    more = [cell(f"and {left} more: --limit {len(found)} shows all", QUIET)] if left > 0 else []
    return Group(made, *more)


def age(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isfinite(seconds):
        return "-"
    return duration(seconds)


def session(details: Json, now_ns: int) -> Group:
    """A call: its plain facts, then one line per flow."""
    facts = grid("Session", ("", " "))
    facts.show_header = False
    for key, value in details.items():
        if key == "created_age_s":
            facts.add_row(cell("age", QUIET), cell(age(value)))
        elif key != "flow_list" and not isinstance(value, dict):
            shown = _listed(value) or "-" if isinstance(value, list) else value
            facts.add_row(cell(key.replace("_", " "), QUIET), cell(shown))
    flows = grid(
        "Flows",
        ("stream", "arrives at", "leaves from", "goes to", "gate", "packets", "bytes", "last"),
        ("packets", "bytes", "last"),
    )
    for flow in rows(details.get("flow_list")):
        open_gate = text(flow.get("gate")).lower() in ("open", "1")
        flows.add_row(
            cell(f"{text(flow.get('stream'))} {component(flow.get('component'))}"),
            cell(place(flow, "in")),
            cell(place(flow, "out")),
            cell(flow.get("remote") or "-"),
            cell("open" if open_gate else "closed", GOOD if open_gate else ODD),
            cell(number(flow.get("packets"))),
            cell(number(flow.get("bytes"))),
            cell(since(flow.get("last_seen_ns"), now_ns)),
        )
    return Group(facts, Text(), flows, *_of_streams(details))


def _of_streams(details: Json) -> list[RenderableType]:
    """What RTP headers say of each direction, and who was learned, where there is any of it."""
    heard = [flow for flow in rows(details.get("flow_list")) if table(flow.get("rtp"))]
    parts: list[RenderableType] = []
    if any(number(table(flow.get("rtp")).get("packets")) for flow in heard):
        made = grid(
            "RTP",
            (
                *("stream", "from", "packets", "lost", "loss", "jitter", "MOS", "SSRC"),
                *("changes", "largest gap"),
            ),
            ("packets", "lost", "loss", "jitter", "MOS", "changes", "largest gap"),
        )
        for flow in heard:
            rtp = table(flow.get("rtp"))
            if not number(rtp.get("packets")):
                continue
            made.add_row(
                cell(f"{text(flow.get('stream'))} {component(flow.get('component'))}"),
                cell(flow.get("realm_in")),
                *(cell(number(rtp.get(key))) for key in ("packets", "lost")),
                cell(f"{text(rtp.get('loss_percent'))} %"),
                cell(f"{text(rtp.get('jitter_ms'))} ms"),
                cell("-" if rtp.get("mos") is None else rtp["mos"]),
                cell(rtp.get("ssrc")),
                cell(number(rtp.get("ssrc_changes"))),
                cell(f"{text(rtp.get('gap_max_ms'))} ms"),
            )
        parts += [Text(), made]
    latching = [f for f in rows(details.get("flow_list")) if f.get("latch") in ("latch", "relatch")]
    if latching:
        made = grid("Latches", ("stream", "arrives at", "learned", "round"), ("round",))
        for flow in latching:
            made.add_row(
                cell(f"{text(flow.get('stream'))} {component(flow.get('component'))}"),
                cell(place(flow, "in")),
                cell(flow.get("learned") or "nobody yet", "" if flow.get("learned") else ODD),
                cell(number(flow.get("latch_round"))),
            )
        parts += [Text(), made]
    return parts


def component(value: object) -> str:
    return {1: "RTP", 2: "RTCP"}.get(number(value)) or text(value).upper()


def place(flow: Json, side: str) -> str:
    return f"{text(flow.get(f'realm_{side}'))} {text(flow.get(f'local_{side}'))}".strip()


def trace(answers: Sequence[Answer]) -> Table:
    """Where each node would send the packet."""
    made = grid("Trace", ("node", "outcome", "interface", "source", "destination"))
    for answer in answers:
        if answer.value is None:
            said = "no answer" if answer.code == "unreachable" else answer.error
            made.add_row(cell(answer.node, "bold"), cell(said, BAD), "-", "-", "-")
            continue
        value = answer.value
        outcome = text(value.get("outcome"))
        good = outcome in ("forward", "reflect", "pass")
        made.add_row(
            cell(answer.node, "bold"),
            cell(outcome, GOOD if good else ODD),
            cell(value.get("interface") or "-"),
            cell(value.get("source") or "-"),
            cell(value.get("destination") or "-"),
        )
    return made


def plain(title: str, value: Json) -> Table:
    """Any object as two columns, nested ones with dotted names: for answers without a form."""
    made = grid(title, ("", " "))
    made.show_header = False
    for name, inner in _flat(value, ""):
        made.add_row(cell(name, QUIET), cell(inner))
    return made


def _flat(value: Json, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict):
            found += _flat(inner, f"{name}.")
        elif isinstance(inner, list):
            found.append((name, ", ".join(map(text, inner)) or "-"))
        else:
            found.append(
                (name, "yes" if inner is True else "no" if inner is False else text(inner))
            )
    return found


def _of_member(member: Json) -> str:
    """A state server's place in the cluster."""
    if not member:
        return ""
    leads = ", leads" if member.get("leading") is True else ""
    return f": slot {number(member.get('slot'))} of view {number(member.get('epoch'))}{leads}"


def lab(found: Json) -> Group:
    """The lab as its own status tells it: what stands, what runs, what is in the way."""
    state = text(found.get("state"))
    styles = {"up": GOOD, "half": BAD}
    head = cell(f"the lab is {'half up' if state == 'half' else state}", styles.get(state, QUIET))
    parts: list[RenderableType] = [head]
    nodes = table(found.get("nodes"))
    if nodes:
        made = grid("Nodes", ("node", "process", "pid", "said"), ("pid",))
        for node, processes in sorted(nodes.items()):
            for kind, process in table(processes).items():
                facts = table(process)
                pid = number(facts.get("pid"))
                if not pid:
                    said, style = "not running", BAD
                elif facts.get("ready") is True:
                    said, style = f"ready{_of_member(table(facts.get('member')))}", GOOD
                else:
                    why = text(facts.get("problem")) or text(facts.get("why")) or "no reason given"
                    said, style = f"not ready: {why}", BAD
                made.add_row(cell(node, "bold"), cell(kind), cell(pid or "-"), cell(said, style))
        parts += [Text(), made]
    groups = table(found.get("groups"))
    if nodes and groups:
        made = grid("Groups", ("group", "control address", "preferred node"))
        for group, facts in sorted(groups.items()):
            made.add_row(
                cell(group, "bold"),
                cell(table(facts).get("control")),
                cell(table(facts).get("preferred")),
            )
        parts += [Text(), made]
    etcd = table(found.get("etcd"))
    if etcd:
        silent = [name for name, healthy in sorted(etcd.items()) if healthy is not True]
        line = f"etcd: {len(etcd) - len(silent)} of {len(etcd)} members answer"
        parts += [Text(), cell(line, BAD if silent else QUIET)]
    foreign = found.get("foreign")
    for name in foreign if isinstance(foreign, list) else []:
        parts.append(
            cell(f"problem: '{text(name)}' bears the lab's name and is not the lab's", BAD)
        )
    return Group(*parts)
