"""What the state processes said, put together: the members as each sees them, and what is wrong.

Knows: the fields of their answers. Must not know how anything is shown or asked. A missing or odd
field is a zero or a blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bgf.admin import Json
from bgf.ctl.client import Answer, count, number, rows, table, text

PHASE_GOOD: Final = "active"


def overview(answers: Sequence[Answer]) -> Json:
    """One row per process asked, and the problems in one line each."""
    found, problems = [], []
    for answer in answers:
        if answer.value is None:
            problems.append(f"{answer.node} state: {answer.error}")
            found.append({"node": answer.node, "error": answer.error, "code": answer.code})
            continue
        value = answer.value
        if value.get("ready") is not True:
            why = text(value.get("why")) or "it does not say why"
            problems.append(f"{answer.node} state: not ready: {why}")
        found.append({**value, "node": answer.node})
    return {"ready": not problems, "nodes": found, "problems": problems}


def members(answers: Sequence[Answer]) -> Json:
    """The newest view among the answers, with what each member says of itself beside it.

    A process of an older view, or one that is in no view, is a problem; so is silence.
    """
    told = {a.node: table(a.value.get("member")) for a in answers if a.value is not None}
    newest: Json = {}
    for answer in answers:
        value = answer.value or {}
        if number(table(value.get("member")).get("epoch")) > number(
            table(newest.get("member")).get("epoch")
        ):
            newest = value
    epoch = number(table(newest.get("member")).get("epoch"))
    problems = [f"{a.node} state: {a.error}" for a in answers if a.value is None]
    embedded = [node for node, member in told.items() if not member]
    problems += [f"{node}: its store is embedded, no member of a cluster" for node in embedded]
    listed = []
    for row in rows(newest.get("members")):
        own = told.get(text(row.get("node")), {})
        listed.append({**row, "phase": "", "lease_left_ms": None, **_own_words(own)})
    names = {text(row.get("node")) for row in listed}
    for node, member in sorted(told.items()):
        if member and node not in names:
            problems.append(f"{node}: in no view: {text(member.get('phase')) or 'outside'}")
        elif member and number(member.get("epoch")) < epoch:
            problems.append(
                f"{node}: still in view {number(member.get('epoch'))}, the newest is {epoch}"
            )
    return {
        "epoch": epoch,
        "leader": text(table(newest.get("member")).get("leader")),
        "members": listed,
        "problems": problems,
    }


def _own_words(member: Json) -> Json:
    if not member:
        return {}
    return {
        "phase": text(member.get("phase")),
        "serving": member.get("serving") is True,
        "lease_left_ms": number(member.get("lease_left_ms")),
        "applied": number(member.get("applied")),
        "behind": max(0, number(member.get("last")) - number(member.get("applied"))),
        "unreplicated": number(member.get("unreplicated")),
    }


def items(answer: Answer) -> Json:
    """One process's listing. The answer is not an error (`answer.value` is there)."""
    value = answer.value or {}
    return {
        "node": answer.node,
        "items": rows(value.get("items")),
        "more": value.get("more") is True,
        "shown": count(value.get("items")),
    }
