"""What failover processes said, put together: who could take over, how a group last moved.

Knows: the fields of their answers. Must not know how anything is shown or asked. A missing or odd
field is a zero or a blank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bgf.admin import Json
from bgf.ctl.client import Answer, number, rows, table, text

BEFORE_NS: Final = 30_000_000_000
AFTER_NS: Final = 30_000_000_000
LAST_EPOCH: Final = (
    *("detected", "recovered", "condition", "wanted", "offered", "withdrawn", "released"),
    *("stepped-down", "given-up", "failed"),
)
"""Events about the epoch that ended, or about none, that belong to the story of the next."""
STEPS: Final = ("decided", "armed", "addressed", "announced", "woken", "published")


def owners(answers: Sequence[Answer]) -> dict[str, tuple[str, int]]:
    """Group -> (owner, epoch), by the newest epoch that anybody has seen."""
    found: dict[str, tuple[str, int]] = {}
    for answer in answers:
        for group, said in table((answer.value or {}).get("owners")).items():
            one = (text(table(said).get("node")), number(table(said).get("epoch")))
            if one[1] > found.get(group, ("", -1))[1]:
                found[group] = one
    return found


def readiness(failovers: Sequence[Answer], gateways: Sequence[Answer], only: Sequence[str]) -> Json:
    """For each node: could it take over, everything that speaks against it, and what could not be
    looked at from here."""
    known = {a.node: a.value or {} for a in gateways}
    owned = {
        group: text(table(said).get("owner"))
        for answer in failovers
        for group, said in table((answer.value or {}).get("groups")).items()
    }
    found = []
    for answer in failovers:
        if only and answer.node not in only:
            continue
        why = [answer.error] if answer.value is None else _lines((answer.value or {}).get("why"))
        for group, said in table((answer.value or {}).get("groups")).items():
            why += [f"{group}: {line}" for line in _lines(table(said).get("why"))]
        carries = sorted(group for group, owner in owned.items() if owner == answer.node)
        mine = known.get(answer.node)
        unseen: list[str] = []
        if mine is None or not table(mine.get("groups")):
            why.append("its gateway process does not say what it knows")
        else:
            why += _lacks(answer.node, mine, owned, known)
            unseen = _uncompared(answer.node, mine, owned, known)
        pinholes = sum(
            number(table(g).get("held")) for g in table((mine or {}).get("groups")).values()
        )
        found.append(
            {
                "node": answer.node,
                "ready": not why,
                "carries": carries,
                "pinholes": pinholes,
                "pinholes_max": number(table((mine or {}).get("room")).get("pinholes_max")),
                "memory_mb": number(table((mine or {}).get("room")).get("memory_bytes")) >> 20,
                "memory_max_mb": number(table((mine or {}).get("room")).get("memory_max_bytes"))
                >> 20,
                "why": why,
                "unseen": unseen,
            }
        )
    return {"ready": all(node["ready"] for node in found), "nodes": found}


def _lacks(node: str, mine: Json, owned: dict[str, str], known: dict[str, Json]) -> list[str]:
    """Where this node's pinholes differ from the records, or from what their owner knows."""
    why = []
    for group, own in sorted(table(mine.get("groups")).items()):
        recorded, held = (number(table(own).get(key)) for key in ("recorded", "held"))
        if held < recorded:
            why.append(f"{group}: its packet path holds {held} of {recorded} recorded pinholes")
        owner = owned.get(group, "")
        theirs = table(table(known.get(owner, {}).get("groups")).get(group))
        if owner != node and theirs and theirs.get("digest") != table(own).get("digest"):
            count = number(theirs.get("recorded"))
            why.append(
                f"{group}: what it knows differs from what {owner} knows "
                f"({recorded} pinholes here, {count} there)"
            )
    return why


def _uncompared(
    node: str, mine: Json, owned: Mapping[str, str], known: Mapping[str, Json]
) -> list[str]:
    """Groups of whose owner it is not known here what it knows, so that nothing was compared."""
    found = []
    for group in sorted(table(mine.get("groups"))):
        owner = owned.get(group, "")
        if owner in ("", node) or group in table(known.get(owner, {}).get("groups")):
            continue
        why = "was not asked" if owner not in known else "does not say what it knows"
        found.append(f"records of {group} not compared: its owner {owner} {why}")
    return found


def story(answers: Sequence[Answer], group: str, gateways: Sequence[Answer] = ()) -> Json:
    """How a group last came to its owner, from what all nodes recorded; `gateways` are what gateway
    processes said in their logs.

    Times are in ms from the decision. Those of another machine are placed by the age that they had
    when it was asked, and marked so.
    """
    told = [a for a in answers if a.value is not None]
    decided = [
        (number(event.get("epoch")), answer, event)
        for answer in told
        for event in rows((answer.value or {}).get("events"))
        if event.get("event") == "decided"
    ]
    silent = [f"{a.node}: {a.error}" for a in answers if a.value is None]
    if not decided:
        return {"group": group, "epoch": 0, "events": [], "silent": silent}
    epoch, by, decision = max(decided, key=lambda one: one[0])
    clock = by.value or {}
    zero_ns = number(decision.get("at_ns"))
    events = []
    for answer in (*told, *gateways):
        value = answer.value or {}
        process = "" if answer.process == "failover" else f" {answer.process}"
        same = text(value.get("boot")) == text(clock.get("boot"))
        shift_ns = 0 if same else number(clock.get("now_ns")) - number(value.get("now_ns"))
        for event in rows(value.get("events")):
            at_ns = number(event.get("at_ns")) + shift_ns - zero_ns
            if _belongs(event, epoch, at_ns):
                events.append(
                    {
                        "at_ms": round(at_ns / 1e6, 1),
                        "estimated": not same,
                        "told_by": f"{answer.node}{process}",
                        "event": text(event.get("event")),
                        "node": text(event.get("node")),
                        "epoch": number(event.get("epoch")),
                        "reason": text(event.get("reason")),
                        "sentence": text(event.get("sentence")),
                    }
                )
    events.sort(key=lambda event: (event["at_ms"], event["told_by"]))
    return {
        "group": group,
        "epoch": epoch,
        "from": text(decision.get("last")),
        "to": text(decision.get("node")),
        "reason": text(decision.get("reason")),
        "turned_out": _turned_out(events, decision),
        "ago_s": round((number(clock.get("now_ns")) - zero_ns) / 1e9, 1),
        "suspected_by": sorted({e["told_by"] for e in events if e["event"] == "detected"}),
        "steps_ms": {
            step: next((e["at_ms"] for e in events if _is_step(e, step, epoch)), None)
            for step in STEPS
        },
        "events": events,
        "silent": silent,
    }


def _turned_out(events: Sequence[Json], decision: Json) -> str:
    """What was found out about the last owner after the decision; empty: nothing else."""
    about = [
        e["reason"]
        for e in events
        if e["event"] == "condition" and e["node"] == text(decision.get("last")) and e["at_ms"] >= 0
    ]
    return about[-1] if about and about[-1] != text(decision.get("reason")) else ""


def _belongs(event: Json, epoch: int, at_ns: int) -> bool:
    if number(event.get("epoch")) == epoch:
        return True
    near = -BEFORE_NS <= at_ns <= AFTER_NS
    return (
        near and number(event.get("epoch")) in (0, epoch - 1) and event.get("event") in LAST_EPOCH
    )


def _is_step(event: Json, step: str, epoch: int) -> bool:
    return bool(event["event"] == step and event["epoch"] == epoch)


def _lines(value: object) -> list[str]:
    return [text(line) for line in value] if isinstance(value, list) else []
