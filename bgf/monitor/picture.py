"""The cluster as the page shows it, from what the processes of all nodes said. No I/O.

Knows: the fields of their answers. Must not know where the answers came from, or how it looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bgf.admin import Json
from bgf.ctl import client
from bgf.ctl.client import Answer, Node, attachments, number, rows, table, text

NOT_DROPS: Final = client.NOT_DROPS
EVENTS_MAX: Final = 16
SHOWN_EVENTS: Final = (
    *("decided", "given-up", "drained", "undrained", "failed", "conflict"),
    *("registry-lost", "registry-back", "links", "condition"),
    *("vouched", "vouched-over", "unvouched"),
)
PROCESSES: Final = client.PROCESSES


def answers_of(said: Mapping[str, Json]) -> list[Answer]:
    """The answers in a `node.json`: node -> {answers: {process: {value, error, code}}}."""
    found = []
    for node, one in list(said.items())[: client.NODES_MAX]:
        processes = table(table(one).get("answers"))
        for process in PROCESSES:
            answer = table(processes.get(process))
            value = answer.get("value")
            if isinstance(value, dict):
                found.append(Answer(node[:64], process, value))
                continue
            error = text(answer.get("error"))[:400] or "no answer"
            code = text(answer.get("code"))[:64] or "unreachable"
            found.append(Answer(node[:64], process, None, error, code))
    return found


def node_json(answers: Sequence[Answer], events: Sequence[Json]) -> Json:
    """One node for other monitors: what it said, without the text for Prometheus."""
    told: Json = {}
    for answer in answers:
        value = answer.value
        if value is not None:
            value = {key: inner for key, inner in value.items() if key not in ("metrics", "stats")}
        told[answer.process] = {"value": value, "error": answer.error, "code": answer.code}
    return {"answers": told, "events": list(events)}


def recent(events: Sequence[Json], now_ns: int) -> list[Json]:
    """The events that a person wants to see, newest first, with their age."""
    found = [
        {
            "age_s": round(max(0, now_ns - number(event.get("at_ns"))) / 1e9, 1),
            **{
                key: text(event.get(key))[:600]
                for key in ("event", "group", "node", "sentence", "reason", "last")
            },
            "epoch": number(event.get("epoch")),
        }
        for event in rows(list(events))
        if event.get("event") in SHOWN_EVENTS
    ]
    return found[::-1][:EVENTS_MAX]


def cluster(
    by: str, said: Mapping[str, Json], silent: Sequence[str], drills: Sequence[Json]
) -> Json:
    """Everything for the page. `silent`: monitors or nodes that do not answer, in words."""
    answers = answers_of(said)
    nodes = [Node(node, Path("/")) for node in sorted(said)]
    found = client.cluster(nodes, answers)
    values = {(one.node, one.process): one.value or {} for one in answers}
    problems = [*found["problems"], *silent]
    return {
        "by": by,
        "ready": found["ready"] and not silent,
        "problems": [line.replace(" in /", "") for line in problems],
        "warnings": found["warnings"],
        "conditions": [
            {"node": node, "state": state, "sentence": said_of["sentence"], "by": said_of["by"]}
            for node, states in sorted(found["conditions"].items())
            for state, said_of in states.items()
        ],
        "groups": [_group(group, values, found["groups"]) for group in found["groups"]],
        "nodes": [_node(node, values, found["groups"], found["conditions"]) for node in nodes],
        "events": _events(said),
        "drills": list(drills),
    }


def _group(group: Json, values: Mapping[tuple[str, str], Json], groups: Sequence[Json]) -> Json:
    name = group["group"]
    carrier = table(values.get((group["owner"], "gateway"), {}).get("groups")).get(name)
    mine = table(carrier)
    rtp = table(mine.get("rtp"))
    standby = [
        {
            "node": node,
            "pinholes": flows,
            "ready": _could_take(node, values),
            "carries": [one["group"] for one in groups if one["owner"] == node],
        }
        for node, flows in group["standby"].items()
    ]
    pairs = [number(mine.get(f"pairs_{state}")) for state in ("used", "resting", "free")]
    return {
        "group": name,
        "owner": group["owner"],
        "epoch": group["epoch"],
        "active": group["active"],
        "calls": group["sessions"],
        "hanging": group["hanging"],
        "pinholes": group["flows"],
        "to_restore": group["pending"],
        "ready_in_ms": mine.get("ready_in_ms") or 0,
        "ports_used": pairs[0] + pairs[1],
        "ports": sum(pairs),
        "mos": _decimal(rtp.get("mos")) or None,
        "streams": number(rtp.get("streams")),
        "expected": number(rtp.get("expected")),
        "lost": number(rtp.get("lost")),
        "standby": standby,
    }


def _could_take(node: str, values: Mapping[tuple[str, str], Json]) -> bool:
    """A standby is ready when its failover process says so and nobody has drained it."""
    said = values.get((node, "failover"), {})
    return said.get("ready") is True and said.get("drained") is not True


def _node(
    node: Node,
    values: Mapping[tuple[str, str], Json],
    groups: Sequence[Json],
    conditions: Mapping[str, Json],
) -> Json:
    gateway, failover, state = (
        values.get((node.id, process), {}) for process in ("gateway", "failover", "state")
    )
    realms = table(table(gateway.get("packets")).get("by_realm"))
    counts: dict[str, int] = {}
    for outcomes in realms.values():
        for outcome, count in table(outcomes).items():
            counts[outcome] = counts.get(outcome, 0) + number(count)
    dropped = {k: v for k, v in counts.items() if k not in NOT_DROPS and v}
    processes = {
        process: ("silent" if not said else "ready" if said.get("ready") is True else "not ready")
        for process, said in (("state", state), ("gateway", gateway), ("failover", failover))
    }
    return {
        "node": node.id,
        "processes": processes,
        "why": [text(said.get("why")) for said in (state, failover) if said.get("why")],
        "carries": [g["group"] for g in groups if g["owner"] == node.id],
        "drained": failover.get("drained") is True,
        "ready": all(word == "ready" for word in processes.values()),
        "could_take": _could_take(node.id, values),
        "conditions": sorted(conditions.get(node.id, {})),
        "sentence": text(failover.get("sentence")),
        "lease_left_ms": number(failover.get("lease_left_ms")),
        "lease_ms": number(failover.get("lease_ms")),
        "pinholes": number(gateway.get("pinholes")),
        "pinholes_max": number(gateway.get("pinholes_max")),
        "forwarded": counts.get("forward", 0),
        "dropped": sum(dropped.values()),
        "drops": dict(sorted(dropped.items(), key=lambda one: -one[1])[:6]),
        "slow": sorted(
            name for name, (mode, _) in attachments(gateway).items() if mode != "native"
        ),
        "memory_mb": number(gateway.get("memory_bytes")) >> 20,
        "version": text(gateway.get("version")),
        "state": {
            "serving": state.get("ready") is True,
            "leads": table(state.get("member")).get("leading") is True,
            "view": number(table(state.get("member")).get("epoch")),
        },
    }


def _events(said: Mapping[str, Json]) -> list[Json]:
    """Of all nodes; what several tell is told once, by whom it is about."""
    found: dict[tuple[str, str, str], Json] = {}
    for node, one in said.items():
        for event in rows(table(one).get("events"))[:EVENTS_MAX]:
            told = {"told_by": node, **event, "age_s": _decimal(event.get("age_s"))}
            key = (
                text(event.get("event")),
                text(event.get("group")),
                text(event.get("sentence")),
            )
            found.setdefault(key, told)
    return sorted(found.values(), key=lambda event: _decimal(event.get("age_s")))[:EVENTS_MAX]


def _decimal(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else 0.0  # type: ignore[arg-type]
