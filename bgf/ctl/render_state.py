"""The state plane's answers as tables for a person. Pure, as `render`."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from bgf.admin import Json
from bgf.ctl.client import number, rows, table, text
from bgf.ctl.render import BAD, GOOD, ODD, QUIET, cell, grid
from bgf.ctl.state_view import PHASE_GOOD

MB = 1 << 20


def status(found: Json) -> Group:
    """A line per node: place in the cluster, items by role, memory, what waits for
    its copies."""
    numbers = ("view", "lease", "items", "masters", "copies", "memory", "waiting", "moves")
    made = grid("State", ("node", "phase", *numbers), numbers)
    said: list[Text] = []
    for node in rows(found.get("nodes")):
        name = text(node.get("node"))
        if "error" in node:
            down = "down" if node.get("code") == "unreachable" else "error"
            made.add_row(cell(name, "bold"), cell(down, BAD), *("-" for _ in numbers))
            continue
        stats, member = table(node.get("stats")), table(node.get("member"))
        counters = table(member.get("counters"))
        used = number(stats.get("total")) - number(stats.get("free"))
        clustered = bool(member)
        made.add_row(
            cell(name, "bold"),
            _phase(node, member),
            cell(number(member.get("epoch")) if clustered else "-"),
            cell(f"{number(member.get('lease_left_ms'))} ms" if clustered else "-"),
            cell(number(stats.get("items"))),
            cell(number(counters.get("masters")) if clustered else "-"),
            cell(number(counters.get("replicas")) if clustered else "-"),
            cell(f"{-(-used // MB)}/{number(stats.get('total')) // MB} MB"),
            cell(number(member.get("unreplicated")) if clustered else "-"),
            cell(number(counters.get("moves")) if clustered else "-"),
        )
        if text(member.get("sentence")):
            said.append(cell(f"{name}: {text(member.get('sentence'))}", QUIET))
        if text(member.get("registry")) not in ("", "ok"):
            said.append(cell(f"{name}: registry: {text(member.get('registry'))}", ODD))
    return Group(made, Text(), *said, *_problems(found))


def _phase(node: Json, member: Json) -> Text:
    if not member:
        keeper = "keeper" if node.get("keeper") is True else "embedded"
        return cell(keeper, GOOD if node.get("ready") is True else BAD)
    phase = text(member.get("phase"))
    good = phase == PHASE_GOOD and member.get("serving") is True
    shown = phase if good or phase != PHASE_GOOD else "not serving"
    return cell(
        f"{shown}, leader" if member.get("leading") is True else shown, GOOD if good else BAD
    )


def members(found: Json) -> Group:
    """The view: slots, who leads, whose lease is how long."""
    made = grid(
        f"View {number(found.get('epoch'))}",
        (
            *("slot", "node", "address", "incarnation", "role", "phase", "lease left"),
            *("map behind", "unreplicated"),
        ),
        ("slot", "lease left", "map behind", "unreplicated"),
    )
    for row in rows(found.get("members")):
        phase = text(row.get("phase"))
        lease = row.get("lease_left_ms")
        good = phase == PHASE_GOOD and row.get("serving") is True
        made.add_row(
            cell(number(row.get("slot"))),
            cell(row.get("node"), "bold"),
            cell(row.get("address")),
            cell(row.get("incarnation"), QUIET),
            cell("leader" if row.get("node") == found.get("leader") else "member"),
            cell(phase or "silent", GOOD if good else BAD),
            cell(f"{lease} ms" if isinstance(lease, int) else "-"),
            cell(row.get("behind") if phase else "-"),
            cell(row.get("unreplicated") if phase else "-"),
        )
    return Group(made, *([Text(), *_problems(found)] if found.get("problems") else []))


def items(found: Json, limit: int) -> Group:
    """Where each item lives. Length and version are of the copy on the node that was asked."""
    made = grid(
        f"Items, as {text(found.get('node'))} knows them",
        ("key", "master", "replicas", "wanted", "length", "version", "hint"),
        ("wanted", "length", "version"),
    )
    for row in rows(found.get("items")):
        replicas = [text(one) for one in row.get("replicas") or []]
        replicas += [f"({text(one)})" for one in row.get("learners") or []]
        short = len(row.get("replicas") or []) < number(row.get("copies_due"))
        made.add_row(
            cell(row.get("key"), "bold"),
            cell(row.get("master") or "-"),
            cell(" ".join(replicas) or "-", ODD if short else ""),
            cell(number(row.get("want"))),
            cell("-" if row.get("length") is None else number(row.get("length"))),
            cell("-" if row.get("version") is None else number(row.get("version"))),
            cell(row.get("hint") or "-"),
        )
    shown = number(found.get("shown"))
    more = []
    if found.get("more") is True:
        more = [cell(f"there are more: --limit {10 * limit} or a --prefix shows others", QUIET)]
    elif not shown:
        more = [cell("no item has a key that begins so", QUIET)]
    return Group(made, *more)


def moved(found: Json) -> Text:
    return cell(f"{text(found.get('key'))}: master {text(found.get('master'))}", GOOD)


def _problems(found: Json) -> list[Text]:
    problems = found.get("problems")
    listed = problems if isinstance(problems, list) else []
    return [cell(f"problem: {text(problem)}", BAD) for problem in listed]
