"""Why a call is as it is, in words for an operator: its events, its pinholes, its end.

Knows: a call's journal entries, its value, the policies, what its pinholes have counted. Must not
know the port pool, clocks (now is an argument), sockets or how anything is shown. Decides nothing:
`session_flows` says which gate is open, this says why; a test holds the two together.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

from bgf import journal
from bgf import session as sessions
from bgf.errors import Misuse, Unreadable
from bgf.events import (
    Abandoned,
    Command,
    Event,
    Expired,
    Heard,
    Learned,
    MediaLine,
    Nominated,
    Relatch,
    Reply,
    Silent,
    Verb,
)
from bgf.model import Component, Counters, Flow, Gate
from bgf.session import NS_PER_MS, Session, Site, State
from bgf.session_flows import UNSPECIFIED, admits_anybody
from bgf.session_ice import muxes_of, nominees
from bgf.session_values import Treatment

QUIET_MS: Final = 2_000  # talk and comfort noise leave no longer gap than this
SUMMED_UP: Final = "checkpoint"


class Why(enum.StrEnum):
    """Why packets do not pass a pinhole, or that they may."""

    OPEN = "open"
    ENDED = "ended"
    NO_ANSWER = "no-answer"
    REJECTED = "rejected"
    HELD = "held"
    MUXED = "rtcp-mux"
    NO_RTCP = "no-rtcp"
    OTHER_FAMILY = "other-family"
    NO_SENDER = "no-sender"
    NO_NOMINEE = "no-nominee"
    BLOCKED = "blocked"


class Told(NamedTuple):
    """One entry of the journal: who brought it when, what it says, what came of it.

    `at_ns` is the time of calls. `state` is the call's state afterwards, ''
    when the machine has forgotten it then.
    """

    at_ns: int
    by: str
    party: str
    what: str
    detail: str
    cookie: str
    outcome: str
    state: str


class Pinhole(NamedTuple):
    """One direction of one component and why its gate is as it is. `flow` is None where the
    m-line holds no ports."""

    stream: int
    component: Component
    flow: Flow | None
    why: Why
    reason: str
    media: str


def history(entries: Sequence[bytes], site: Site) -> list[Told]:
    """What the journal tells, in order. Raises Unreadable."""
    told: list[Told] = []
    session: Session | None = None
    for entry in entries:
        item = journal.decode(entry)
        if isinstance(item, Session):
            if item != session:  # else it says what has just been told
                told.append(_summed_up(item))
            session = item
            continue
        try:
            step = sessions.apply(session, item, site)
        except (Misuse, IndexError) as error:
            raise Unreadable(f"journal entry cannot be replayed: {error}") from None
        told.append(_told(session, item, step.session, step.reply))
        session = step.session
    return told


def ending(told: Sequence[Told]) -> Told | None:
    """The entry with which the call ended, None while it has not or where nobody knows."""
    end: Told | None = None
    for before, entry in zip([None, *told], told, strict=False):
        if entry.state != State.DELETED:
            end = None
        elif entry.what != SUMMED_UP and (before is None or before.state != State.DELETED):
            end = entry
    return end


def pinholes(
    session: Session,
    flows: Sequence[Flow],
    counters: Sequence[Counters],
    now_ns: int,
) -> list[Pinhole]:
    """Every direction of every m-line with its reason, in the order of the flows.

    `flows` are those that must exist, `counters` what they have counted on this node.
    """
    found: list[Pinhole] = []
    for flow, count in zip(flows, counters, strict=True):
        why, reason = closed(session, flow)
        media = _media(session, flow, count, now_ns) if flow.gate is Gate.OPEN else ""
        found.append(Pinhole(flow.stream, flow.component, flow, why, reason, media))
    shown = {flow.stream for flow in flows}
    for index, stream in enumerate(session.streams):
        if index not in shown:
            reason = _rejected(session, index, stream.lines) or "the m-line holds no ports"
            found.append(Pinhole(index, Component.RTP, None, Why.REJECTED, reason, ""))
    return found


def closed(session: Session, flow: Flow) -> tuple[Why, str]:
    """Why the gate of this pinhole of the call is closed, and in words; OPEN when it is not."""
    if flow.gate is Gate.OPEN:
        return Why.OPEN, "gate open"
    stream = session.streams[flow.stream]
    side = int(flow.local_in.port not in (stream.ports[0], stream.ports[0] + 1))
    far, rtcp = 1 - side, flow.component is Component.RTCP
    ours, theirs = stream.lines[side], stream.lines[far]
    if ours is None or theirs is None:
        return Why.NO_ANSWER, "gate closed because the answer has not come"
    rejected = _rejected(session, flow.stream, stream.lines)
    if rejected:
        return Why.REJECTED, rejected
    if rtcp and all(muxes_of(stream)):
        return Why.MUXED, "gate closed: RTCP comes with the RTP (rtcp-mux)"
    receiver = party(session, far)
    if theirs.rtp.host in UNSPECIFIED and not theirs.undisclosed:
        return Why.HELD, f"held: {receiver} has said {theirs.rtp.host}, nowhere to send to"
    chosen = nominees(stream, far)[rtcp]
    if theirs.undisclosed and chosen is None:
        return _unchosen(receiver)
    remote = chosen or (theirs.rtcp if rtcp else theirs.rtp)
    if remote is None:
        return Why.NO_RTCP, f"gate closed: {receiver} takes no RTCP"
    if remote.host in UNSPECIFIED or not remote.port:
        return Why.HELD, f"held: {receiver} has said {remote}, nowhere to send to"
    if remote.family is not flow.local_out.family:
        return (
            Why.OTHER_FAMILY,
            f"gate closed: {receiver} wants it at {remote.host},"
            f" the pinhole leaves from {flow.local_out.host}",
        )
    known = nominees(stream, side)[rtcp] or (ours.rtcp if rtcp else ours.rtp)
    nobody = known is None or known.host in UNSPECIFIED
    if nobody and stream.sources[side] is None and not admits_anybody(session.settings):
        if ours.undisclosed:
            return _unchosen(party(session, side))
        return (
            Why.NO_SENDER,
            f"gate closed: nobody knows where {party(session, side)} sends from (held from the"
            " start)",
        )
    treated = session.orders.treatments[side]
    word = "blocked" if Treatment.BLOCKED in treated else "silenced"
    return Why.BLOCKED, f"{word}: what {party(session, side)} sends, by a command"


def _unchosen(who: str) -> tuple[Why, str]:
    return (
        Why.NO_NOMINEE,
        f"gate closed: {who} names no address, and no check of ICE has chosen one",
    )


def party(session: Session, side: int) -> str:
    """`alice (access)`: a side by its tag and realm."""
    tag = session.tags[side] or ("offerer" if side == 0 else "answerer")
    return f"{tag} ({session.realms[side]})" if session.realms[side] else tag


def _rejected(
    session: Session, index: int, lines: tuple[MediaLine | None, MediaLine | None]
) -> str:
    """Who rejected an m-line, '' when nobody has."""
    for side in (session.offerer, 1 - session.offerer):
        line = lines[side]
        if line is not None and not line.rtp.port:
            return f"rejected m-line {index + 1}: {party(session, side)} has said port 0"
    return ""


def _media(session: Session, flow: Flow, count: Counters, now_ns: int) -> str:
    """What an open pinhole has carried of late, as far as that is worth a word."""
    stream = session.streams[flow.stream]
    side = int(flow.local_in.port not in (stream.ports[0], stream.ports[0] + 1))
    ours, theirs = stream.lines[side], stream.lines[1 - side]
    if count.last_seen_ns:
        quiet_ms = (now_ns - count.last_seen_ns) // NS_PER_MS
        if quiet_ms < QUIET_MS:
            return "flowing"
        said = f"silent for {quiet_ms // 1_000} s"
    else:
        said = "no packet yet"
    if flow.component is Component.RTCP:
        return said
    if ours is not None and ours.direction not in ("sendrecv", "sendonly"):
        return f"{said}; none is due: {party(session, side)} is {ours.direction}"
    if theirs is not None and theirs.direction not in ("sendrecv", "recvonly"):
        return f"{said}; none is due: {party(session, 1 - side)} is {theirs.direction}"
    return said


def _summed_up(session: Session) -> Told:
    detail = f"all until then in one entry: {len(session.streams)} m-lines"
    return Told(session.last_ns(), "journal", "", SUMMED_UP, detail, "", "", session.state.value)


def _told(before: Session | None, event: Event, after: Session | None, reply: Reply | None) -> Told:
    state = after.state.value if after is not None else ""
    by, who, what, detail, cookie = "", "", "", "", ""
    if isinstance(event, Command):
        by, what, cookie = "control", event.verb.value, event.cookie
        who, detail = _sender(before, after, event), _detail(event)
    elif isinstance(event, Expired):
        by, what = "timer", "expired"
        detail = _due(before, event.now_ns)
    elif isinstance(event, Learned):
        by, what = "packet path", "learned"
        detail = f"{event.peer} sends to {event.key} (round {event.latch_round})"
    elif isinstance(event, Nominated):
        by, what = "packet path", "nominated"
        detail = f"ICE chose {event.peer} to send to {event.key}"
    elif isinstance(event, Relatch):
        by, what, detail = "operator", "relatch", "all latching sides learn anew"
    elif isinstance(event, Silent):
        by, what, detail = "packet path", "silent", str(event.key)
    elif isinstance(event, Abandoned):
        by, what = "owner", "abandoned"
        limit = "media.close_held_s" if event.held else "media.close_hanging_s"
        detail = f"no media for {event.silent_ms // 1_000} s ({limit})"
    elif isinstance(event, Heard):
        by, what = "packet path", "heard"
        detail = f"media {event.ago_ms / 1_000:.1f} s ago: the callee stays in force"
    outcome = ""
    if reply is not None:
        outcome = " ".join(filter(None, (reply.result.value, reply.reason, reply.warning)))
    return Told(event.now_ns, by, who, what, detail, cookie, outcome, state)


def _sender(before: Session | None, after: Session | None, command: Command) -> str:
    """The party whose message made the proxy send this."""
    known = before if before is not None and any(before.tags) else after
    if known is None or not any(known.tags):
        return command.from_tag
    if command.verb is Verb.ANSWER:
        offerer = known.side_of(command.from_tag, command.to_tag)
        tag = command.to_tag or known.tags[1 - offerer]
        realm = known.realms[1 - offerer]
        return f"{tag} ({realm})" if realm else tag
    return party(known, known.side_of(command.from_tag, command.to_tag))


def _due(before: Session | None, now_ns: int) -> str:
    """Which deadline has passed."""
    if before is None or before.state is State.DELETED:
        return "nobody can ask with an old cookie any more"
    if before.orders.ends_ns and now_ns >= before.orders.ends_ns:
        if before.orders.unless_heard:
            return "the callee in force after a deletion was neither answered for nor heard"
        return "a deletion that was put off"
    return "no answer in time"


def _detail(command: Command) -> str:
    said = [
        f"{line.kind} {line.rtp if line.rtp.port else 'rejected'}"
        + (f" {line.direction}" if line.direction != "sendrecv" and line.rtp.port else "")
        for line in command.media
    ]
    return ", ".join([*said, *command.flags])
