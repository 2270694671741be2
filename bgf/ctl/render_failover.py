"""Failover as tables and sentences for a person. Pure; see `render`.

Knows: what `failover_view` puts together. Must not know where it came from.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from bgf.admin import Json
from bgf.ctl.client import number, rows, table, text
from bgf.ctl.render import BAD, GOOD, ODD, QUIET, cell, duration, grid


def readiness(found: Json) -> Group:
    """A row per node, and below it what speaks against it."""
    nodes = grid(
        "Could take over",
        ("node", "ready", "carries", "pinholes held", "room for", "MB used", "MB allowed"),
        ("pinholes held", "room for", "MB used", "MB allowed"),
    )
    lines: list[Text] = []
    for node in rows(found.get("nodes")):
        name, ready = text(node.get("node")), node.get("ready") is True
        carries = node.get("carries")
        nodes.add_row(
            cell(name, "bold"),
            cell("yes", GOOD) if ready else cell("no", BAD),
            cell(" ".join(map(text, carries)) if isinstance(carries, list) and carries else "-"),
            *(
                cell(number(node.get(key)) or "-")
                for key in ("pinholes", "pinholes_max", "memory_mb", "memory_max_mb")
            ),
        )
        why = node.get("why")
        lines += [cell(f"{name}: {text(line)}", ODD) for line in (why or [])]
        lines += [cell(f"{name}: {text(line)}", QUIET) for line in (node.get("unseen") or [])]
    return Group(nodes, *([Text(), *lines] if lines else []))


def story(found: Json) -> Group:
    """The last takeover in one sentence, its steps, and everything that was recorded of it."""
    group = text(found.get("group"))
    silent = [cell(f"no word from {line}", ODD) for line in found.get("silent") or []]
    if not found.get("epoch"):
        return Group(cell(f"{group}: nobody has recorded a takeover"), *silent)
    last, to = text(found.get("from")) or "nobody", text(found.get("to"))
    epoch, ago = number(found.get("epoch")), found.get("ago_s")
    when = f", {duration(ago)} ago" if isinstance(ago, int | float) else ""
    parts: list[RenderableType] = [
        cell(f"{group}: from {last} to {to} at epoch {epoch}{when}", "bold"),
        cell(f"reason: {text(found.get('reason')) or 'not recorded'}{_later(found)}"),
    ]
    suspected = found.get("suspected_by")
    if isinstance(suspected, list) and suspected:
        parts.append(cell(f"suspected by: {', '.join(map(text, suspected))}"))
    steps = [
        (s, at) for s, at in table(found.get("steps_ms")).items() if isinstance(at, int | float)
    ]
    if steps:
        done = ", ".join(f"{step} {at:+.1f} ms" for step, at in steps)
        parts.append(cell(f"steps, from the decision: {done}"))
    events = grid("", ("ms", "told by", "event", "what"), ("ms",))
    for event in rows(found.get("events")):
        at = event.get("at_ms")
        mark = "~" if event.get("estimated") is True else ""
        said = text(event.get("sentence"))
        reason = text(event.get("reason"))
        events.add_row(
            cell(f"{mark}{at:+.1f}" if isinstance(at, int | float) else "?", QUIET),
            cell(event.get("told_by")),
            cell(event.get("event"), "bold" if event.get("event") == "decided" else ""),
            cell(f"{said} [{reason}]" if reason else said),
        )
    return Group(*parts, Text(), events, *silent)


def _later(found: Json) -> str:
    turned_out = text(found.get("turned_out"))
    return f" at that moment; it turned out to be: {turned_out}" if turned_out else ""


def moved(found: Json) -> Text:
    """What became of a planned move."""
    group, done = text(found.get("group")), found.get("done") is True
    if done:
        last, to = text(found.get("from")), text(found.get("to"))
        return cell(f"{group}: moved from {last} to {to}, epoch {number(found.get('epoch'))}", GOOD)
    return cell(f"{group}: not moved: {text(found.get('why')) or 'it does not say why'}", BAD)


def drained(found: Json) -> Group:
    """What a node still carries, and why."""
    node = text(found.get("node"))
    left = found.get("carries")
    if found.get("drained") is not True:
        return Group(cell(f"{node} is a standby again", GOOD))
    if not left:
        return Group(cell(f"{node} is drained and carries nothing", GOOD))
    carried = ", ".join(map(text, left)) if isinstance(left, list) else ""
    return Group(
        cell(f"{node} is drained and still carries {carried}", BAD),
        cell(text(found.get("sentence")), ODD),
    )


def upgraded(found: Json) -> Text:
    """A whole cluster, done."""
    done = found.get("done")
    names = ", ".join(map(text, done)) if isinstance(done, list) else ""
    return cell(f"upgraded, in this order: {names or 'nobody'}", GOOD)
