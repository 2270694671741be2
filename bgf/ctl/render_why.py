"""A call explained, as tables and sentences for a person. Pure; see `render`.

Knows: the fields of a gateway's answer to `why`. Must not know where they came from.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from bgf.admin import Json
from bgf.ctl.client import number, rows, table, text
from bgf.ctl.render import BAD, GOOD, ODD, QUIET, age, cell, component, grid, place

STATES = {
    "offered": "half-open: the offer has come, its answer has not",
    "established": "established",
    "reoffered": "established, and a new offer waits for its answer",
    "deleted": "ended",
}
UNREMARKABLE = ("", "flowing")


def why(found: Json) -> Group:
    """What the call is, what happened, which pinholes there are, which replies are kept."""
    parts: list[RenderableType] = [*_head(found), Text(), _events(found)]
    if found.get("unreadable"):
        parts.append(cell(f"its journal cannot be read: {text(found['unreadable'])}", BAD))
    holes = rows(found.get("pinholes"))
    if holes:
        parts += [Text(), _pinholes(holes)]
    replies = rows(found.get("replies"))
    if replies:
        parts += [Text(), _replies(replies)]
    return Group(*parts)


def _head(found: Json) -> list[Text]:
    state = text(found.get("state"))
    ended, restored = table(found.get("ended")), table(found.get("restored"))
    call = f"call {text(found.get('call_id'))}"
    lines = [cell(f"{call}: {STATES.get(state, state)}", "bold")]
    tags = found.get("tags")
    names = [text(tag) for tag in tags] if isinstance(tags, list) else []
    realms = found.get("realms")
    where = [text(realm) for realm in realms] if isinstance(realms, list) else []
    parties = [
        f"{name or '(no tag yet)'} ({realm})"
        for name, realm in zip(names, where, strict=False)
        if realm
    ]
    group, node = text(found.get("group")), text(found.get("node"))
    facts = [f"group {group} on node {node}"]
    if not ended:
        facts.append(f"begun {age(found.get('created_age_s'))} ago")
    if parties:
        facts.append(f"between {' and '.join(parties)}")
    lines.append(cell(", ".join(facts)))
    if ended:
        lines.append(cell(_end(ended), ODD))
    if restored:
        origin = text(restored.get("from"))
        lines.append(
            cell(
                f"restored at epoch {number(restored.get('epoch'))}"
                f" from {f'node {origin}' if origin else 'an earlier process of this node'},"
                f" {age(restored.get('age_s'))} ago",
                ODD,
            )
        )
    holes = rows(found.get("pinholes"))
    shut = [hole for hole in holes if hole.get("why") != "open"]
    if holes:
        said = f"{len(holes) - len(shut)} of {len(holes)} pinholes open"
        lines.append(cell(said, GOOD if not shut else ODD))
    return lines


def _end(ended: Json) -> str:
    by, what = text(ended.get("by")), text(ended.get("what"))
    detail = text(ended.get("detail"))
    said = f"ended by {by}: {what}" if by else "ended; how, its journal does not tell any more"
    if detail:
        said += f", {detail}"
    if ended.get("age_s") is not None:
        said += f", {age(ended.get('age_s'))} ago"
    resting = ended.get("ports_resting")
    if isinstance(resting, list) and resting:
        said += f"; its ports {', '.join(map(text, resting))} were given back"
    return said


def _events(found: Json) -> RenderableType:
    told = rows(found.get("events"))
    made = grid(
        f"Events ({number(found.get('journal_entries'))} in the journal)",
        ("at", "from", "event", "for", "what", "outcome"),
        ("at",),
    )
    for one in told:
        outcome = text(one.get("outcome"))
        bad = outcome.startswith(("error", "load limit"))
        made.add_row(
            cell(_at(one.get("at_s"))),
            cell(one.get("by"), QUIET),
            cell(one.get("what"), "bold"),
            cell(one.get("party")),
            cell(one.get("detail") or "-"),
            cell(outcome or (f"now {text(one.get('state')) or 'forgotten'}"), BAD if bad else ""),
        )
    return made


def _pinholes(holes: list[Json]) -> RenderableType:
    made = grid(
        "Pinholes",
        ("m-line", "arrives at", "goes to", "packets", "why"),
        ("packets",),
    )
    learned = {text(hole.get("local_in")): hole.get("learned") for hole in holes}
    for hole in holes:
        peer = learned.get(text(hole.get("local_out"))) if hole.get("follows") is True else ""
        towards = f"{text(peer)} (learned)" if peer else text(hole.get("remote")) or "-"
        is_open = hole.get("why") == "open"
        media = text(hole.get("media"))
        reason = text(hole.get("reason"))
        said = f"open: {media}" if is_open and media else reason
        odd = not is_open or not (media in UNREMARKABLE or "none is due" in media)
        made.add_row(
            cell(f"{number(hole.get('stream')) + 1} {component(hole.get('component'))}"),
            cell(place(hole, "in") or "-"),
            cell(towards),
            cell(number(hole.get("packets"))),
            cell(said, ODD if odd else GOOD),
        )
    return made


def _replies(replies: list[Json]) -> RenderableType:
    made = grid("Kept replies", ("at", "cookie", "result", "said"), ("at",))
    for reply in replies:
        bad = reply.get("result") not in ("ok", "pong")
        said = "; ".join(filter(None, (text(reply.get("reason")), text(reply.get("warning")))))
        made.add_row(
            cell(_at(reply.get("at_s"))),
            cell(reply.get("cookie"), QUIET),
            cell(reply.get("result"), BAD if bad else ""),
            cell(said or "-"),
        )
    return made


def _at(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return "-"
    return f"{seconds:+.3f} s"
