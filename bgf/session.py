"""One call as a frozen value, and the table that says what each command does to it.

Knows: offers and answers (RFC 3264), the sides of a dialog by their tags, the addresses a group
has in its realms, and the flows that follow from what was agreed. Must not know the port pool,
clocks, peers, sockets or the node's role: ports and time arrive inside events.

The rules:
- An offer reserves a port pair towards each side per m-line; its flows exist with CLOSED gates.
- An offer changes nothing that already flows (RFC 3264 section 8.3.1: the old description is
  valid until the answer); the answer puts both descriptions in force and opens the gates.
  One exception: asking for another IP version towards the receiver moves our address at once.
- Pairs stay for as long as the m-line is wanted: over re-offers, forked answers (the last one
  wins) and an answer that rejects the line; they go when an offer with port 0 is answered.
- A hold by 0.0.0.0 means that there is nowhere to send to: the gate towards that party closes.
  sendonly, recvonly and inactive are the parties' own affair: the pinholes stay open.
- A repeated cookie gets the same reply and has no other effect. A deleted call stays as a
  tombstone until nobody can still be asking with an old cookie.
- A refused command changes nothing but the reply cache.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from bgf import session_flows
from bgf.errors import Malformed, Misuse, PeerError, UnknownCall, Unsupported
from bgf.events import (
    Abandoned,
    Command,
    Event,
    Expired,
    Learned,
    MediaLine,
    MediaRewrite,
    Notify,
    Relatch,
    Reply,
    Result,
    Seen,
    Silent,
    Verb,
)
from bgf.model import Address, Family
from bgf.session_flows import (
    ASYMMETRIC,
    LEARNING,
    STRICT_SOURCE,
    SYMMETRIC,
    TOS,
    UNSPECIFIED,
    agreed,
    flows,
    muxed,
    relatched,
)
from bgf.session_values import (
    HALF_OPEN_MAX_MS,
    NS_PER_MS,
    PORT_REST_MAX_MS,
    REPLY_KEPT_MS,
    RESTS_MAX,
    KeptReply,
    Rest,
    Session,
    Site,
    State,
    Stream,
)

__all__ = [
    "HALF_OPEN_MAX_MS",
    "NS_PER_MS",
    "REPLY_KEPT_MS",
    "TABLE",
    "Action",
    "Rest",
    "Session",
    "Site",
    "State",
    "Step",
    "Stream",
    "Trigger",
    "apply",
    "demand",
    "flows",
]

REPLIES_MAX: Final = 16  # per call, within REPLY_KEPT_MS
STREAMS_MAX: Final = 16  # m-lines of one call
CALL_ID_MAX_BYTES: Final = 256
FATAL: Final = "fatal"
SIP_SOURCE: Final = "SIP-source-address"


class Trigger(enum.StrEnum):
    OFFER = "offer"
    ANSWER = "answer"
    DELETE = "delete"
    EXPIRED = "expired"
    LEARNED = "learned"
    RELATCH = "relatch"
    SILENT = "silent"
    ABANDONED = "abandoned"


class Action(enum.StrEnum):
    OPEN = "open"  # a call begins, or begins anew under an old Call-ID
    OFFER = "offer"
    ANSWER = "answer"
    CLOSE = "close"
    GONE = "gone"  # nothing to delete: ok with a warning
    UNKNOWN = "unknown"
    FORGET = "forget"  # the session leaves the machine
    LEARN = "learn"
    RELATCH = "relatch"
    NOTIFY = "notify"  # nothing changes, somebody is told
    IGNORE = "ignore"


S, T, A = State, Trigger, Action

TABLE: Final[dict[tuple[State, Trigger], tuple[Action, tuple[State, ...]]]] = {
    # (state, trigger): (action, the states it may lead to when it is not refused)
    (S.NEW, T.OFFER): (A.OPEN, (S.OFFERED,)),
    (S.NEW, T.ANSWER): (A.UNKNOWN, ()),
    (S.NEW, T.DELETE): (A.GONE, (S.NEW,)),
    (S.NEW, T.EXPIRED): (A.IGNORE, (S.NEW,)),
    (S.OFFERED, T.OFFER): (A.OFFER, (S.OFFERED,)),
    (S.OFFERED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED,)),
    (S.OFFERED, T.DELETE): (A.CLOSE, (S.DELETED,)),
    (S.OFFERED, T.EXPIRED): (A.CLOSE, (S.DELETED,)),
    (S.ESTABLISHED, T.OFFER): (A.OFFER, (S.REOFFERED,)),
    (S.ESTABLISHED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED,)),  # a fork, or 200 after 183
    (S.ESTABLISHED, T.DELETE): (A.CLOSE, (S.DELETED,)),
    (S.ESTABLISHED, T.EXPIRED): (A.IGNORE, (S.ESTABLISHED,)),
    (S.REOFFERED, T.OFFER): (A.OFFER, (S.REOFFERED,)),  # the earlier one was rejected, or glare
    (S.REOFFERED, T.ANSWER): (A.ANSWER, (S.ESTABLISHED, S.REOFFERED)),
    (S.REOFFERED, T.DELETE): (A.CLOSE, (S.DELETED,)),
    (S.REOFFERED, T.EXPIRED): (A.IGNORE, (S.REOFFERED,)),
    (S.DELETED, T.OFFER): (A.OPEN, (S.OFFERED,)),
    (S.DELETED, T.ANSWER): (A.UNKNOWN, ()),
    (S.DELETED, T.DELETE): (A.GONE, (S.DELETED,)),
    (S.DELETED, T.EXPIRED): (A.FORGET, (S.NEW,)),
    **{
        (state, trigger): (A.IGNORE, (state,))
        for state in (S.NEW, S.OFFERED, S.DELETED)
        for trigger in (T.LEARNED, T.RELATCH, T.SILENT, T.ABANDONED)
    },
    (S.ESTABLISHED, T.LEARNED): (A.LEARN, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.RELATCH): (A.RELATCH, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.SILENT): (A.NOTIFY, (S.ESTABLISHED,)),
    (S.ESTABLISHED, T.ABANDONED): (A.CLOSE, (S.DELETED,)),
    (S.REOFFERED, T.LEARNED): (A.LEARN, (S.REOFFERED,)),
    (S.REOFFERED, T.RELATCH): (A.RELATCH, (S.REOFFERED,)),
    (S.REOFFERED, T.SILENT): (A.NOTIFY, (S.REOFFERED,)),
    (S.REOFFERED, T.ABANDONED): (A.CLOSE, (S.DELETED,)),
}


class Step(NamedTuple):
    """What an event makes of a session: None when the machine may forget it."""

    session: Session | None
    reply: Reply | None = None
    notice: Notify | None = None


def demand(session: Session | None, command: Command) -> int:
    """How many port pairs `command` needs now: two per wanted m-line that holds none."""
    if command.verb is not Verb.OFFER:
        return 0
    streams: tuple[Stream, ...] = ()
    if session is not None:
        if session.kept_reply(command.cookie):
            return 0
        streams = session.streams
    return 2 * sum(
        line.rtp.port != 0 and not (index < len(streams) and streams[index].ports[0])
        for index, line in enumerate(command.media[:STREAMS_MAX])
    )


def apply(session: Session | None, event: Event, site: Site) -> Step:
    """The step of one call: pure. A peer's error becomes an error reply, kept like any other.

    Raises Misuse when the event lacks the ports that `demand` asked for.
    """
    if isinstance(event, Command):
        step = _command(session, event, site)
    elif isinstance(event, Expired):
        step = _expire(session, event)
    else:
        step = _see(session, event, site)
    if session is None or step.session is None or step.session.streams is session.streams:
        return step
    return step._replace(session=_rest(session, step.session, event.now_ns))


def _command(session: Session | None, event: Command, site: Site) -> Step:
    trigger = Trigger(event.verb.value)
    if session is not None and (kept := session.kept_reply(event.cookie)):
        return Step(session, kept)
    current = session or Session(site.group.id, event.call_id)
    action, allowed = TABLE[current.state, trigger]
    try:
        if not event.call_id:
            raise Malformed("the command has no call-id: it names no call")
        if len(event.call_id.encode("utf-8", "replace")) > CALL_ID_MAX_BYTES:
            raise Malformed(f"call-id is longer than {CALL_ID_MAX_BYTES} bytes")
        after, reply = _ACTIONS[action](current, event, site)
    except PeerError as error:
        reply = Reply(event.cookie, Result.ERROR, error.reason)
        return Step(None if session is None else _keep(session, event, reply), reply)
    if after.state not in allowed:
        raise Misuse(f"call {event.call_id}: {current.state} + {trigger} led to {after.state}")
    if after.state is State.NEW:
        return Step(None, reply)
    return Step(_keep(after, event, reply), reply)


def _see(session: Session | None, event: Seen, site: Site) -> Step:
    """What the packet path or the operator brings. What is no news changes nothing."""
    if session is None:
        return Step(None)
    action, _ = TABLE[session.state, _TRIGGERS[type(event)]]
    if action is Action.LEARN and isinstance(event, Learned):
        return Step(session_flows.learn(session, event, site.policies))
    if action is Action.RELATCH:
        return Step(session_flows.relatch(session, site.policies))
    if action is Action.CLOSE:
        return Step(_tombstone(session, event.now_ns))
    if action is Action.NOTIFY and isinstance(event, Silent):
        flow = flows(session, site.policies).get(event.key)
        if flow is not None and flow.inactivity_ms:
            never = event.last_seen_ns == 0
            return Step(session, None, Notify(session.call_id, event.key, flow.stream, never))
    return Step(session)


_TRIGGERS: Final[dict[type[Seen], Trigger]] = {
    Learned: Trigger.LEARNED,
    Relatch: Trigger.RELATCH,
    Silent: Trigger.SILENT,
    Abandoned: Trigger.ABANDONED,
}


# Actions: (session, command, site) -> (session, reply), or a PeerError.


def _open(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    realms = command.realms or site.default_realms
    if len(realms) != 2:
        raise Malformed(f"direction names {len(realms)} realms, not two")
    for realm in realms:
        if not site.group.families_in(realm):
            known = ", ".join(sorted({address.realm for address in site.group.addresses}))
            raise Unsupported(f"realm '{realm[:64]}' is not one of group {session.group}: {known}")
    fresh = Session(
        session.group,
        session.call_id,
        created_ns=command.now_ns,
        realms=(realms[0], realms[1]),
        tags=(command.from_tag, command.to_tag),
        replies=session.replies,
        rests=session.rests,
    )
    return _offer(fresh, command, site)


def _offer(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    lines = command.media
    if not lines:
        raise Malformed("the offer's SDP has no media line")
    if len(lines) > STREAMS_MAX:
        raise Unsupported(f"the offer has {len(lines)} media lines, more than {STREAMS_MAX}")
    side = session.side_of(command.from_tag, command.to_tag)
    far = 1 - side
    families = list(session.families)
    streams = list(session.streams)
    drawn = iter(command.ports)
    rewrites = []
    for index, line in enumerate(lines):
        stream = streams[index] if index < len(streams) else Stream()
        if line.rtp.port:
            near_host = _near_host(session, stream, line, side, index=index, site=site)
            far_host = _far_host(
                session, stream, line, far, asked=command.family, known=families[far], site=site
            )
            families[side] = families[side] or Address(near_host, 0).family
            families[far] = Address(far_host, 0).family
            ports = stream.ports
            if ports[0]:
                near_host = stream.hosts[side]  # a change of family waits for the answer
                if stream.hosts[far] != far_host:
                    stream = relatched(stream, far)
            else:
                ports = _draw(drawn, command)
            stream = msgspec.structs.replace(
                stream, ports=ports, hosts=_by_side(side, near_host, far_host)
            )
            rewrites.append(_rewrite(stream, far, line.rtcp is not None, line.rtcp_mux))
        else:
            rewrites.append(_rejected(session, stream, families, far, site))
        if index < len(streams):
            streams[index] = stream
        else:
            streams.append(stream)
    first = session.state in (State.NEW, State.OFFERED)
    after = msgspec.structs.replace(
        session,
        state=State.OFFERED if first else State.REOFFERED,
        changed_ns=command.now_ns,
        families=(families[0], families[1]),
        tags=_tags(session, side, command),
        settings=_settings(session, command) if first else session.settings,
        offerer=side,
        offered=lines,
        streams=tuple(streams),
        observed=_observed(session, side, command),
    )
    warning = ""
    if command.realms and command.realms != _by_side(side, *session.realms):
        near_realm, far_realm = _by_side(side, *session.realms)
        warning = f"the call keeps its direction {near_realm}, {far_realm}"
    return after, Reply(
        command.cookie,
        Result.OK,
        warning=warning,
        media=tuple(rewrites),
        created_ns=after.created_ns,
    )


def _answer(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    offerer = session.offerer
    if session.state is not State.OFFERED and command.from_tag in session.tags:
        offerer = session.side_of(command.from_tag, command.to_tag)
    pending = bool(session.offered) and offerer == session.offerer
    # Without one pending, it answers once more what is in force (183 and 200, another fork).
    in_force = (stream.lines[offerer] for stream in session.streams)
    offered = session.offered if pending else tuple(line for line in in_force if line is not None)
    if len(command.media) != len(offered):
        raise Malformed(
            f"the answer's SDP has {len(command.media)} m-lines, the offer's {len(offered)}:"
            " they must match"
        )
    answerer = 1 - offerer
    families = list(session.families)
    streams, rewrites = [], []
    for index, (line, answered) in enumerate(zip(offered, command.media, strict=True)):
        stream = session.streams[index]
        lines = (line, answered) if offerer == 0 else (answered, line)
        if not line.rtp.port:
            streams.append(Stream(lines=lines) if pending else stream)
            rewrites.append(_rejected(session, stream, families, offerer, site))
            continue
        host = _near_host(session, stream, line, offerer, index=index, site=site)
        families[offerer] = Address(host, 0).family
        hosts = _by_side(offerer, host, stream.hosts[answerer])
        if answered.rtp.port:
            _same_family(answered, hosts[answerer], index)
        stream = agreed(stream, hosts, lines)
        streams.append(stream)
        if answered.rtp.port:
            mux = muxed(stream)
            rtcp = answered.rtcp is not None and not mux
            rewrites.append(_rewrite(stream, offerer, rtcp, mux))
        else:
            rewrites.append(_rejected(session, stream, families, offerer, site))
    if not pending:
        streams.extend(session.streams[len(streams) :])
    after = msgspec.structs.replace(
        session,
        state=State.ESTABLISHED if pending or not session.offered else State.REOFFERED,
        families=(families[0], families[1]),
        tags=_answer_tags(session, answerer, command),
        settings=_settings(session, command),
        offered=() if pending else session.offered,
        streams=tuple(streams),
        observed=_observed(session, answerer, command),
    )
    return after, Reply(
        command.cookie, Result.OK, media=tuple(rewrites), created_ns=session.created_ns
    )


def _close(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    reply = Reply(command.cookie, Result.OK, created_ns=session.created_ns)
    return _tombstone(session, command.now_ns), reply


def _gone(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    if session.state is State.NEW and FATAL in command.flags:
        raise UnknownCall(f"call {command.call_id[:64]} is not here: nothing to delete")
    warning = f"call {command.call_id[:64]} is not here, or no longer: nothing to delete"
    return session, Reply(command.cookie, Result.OK, warning=warning)


def _unknown(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    raise UnknownCall(f"call {command.call_id[:64]} is not here: an offer must come first")


_ACTIONS: Final[dict[Action, Callable[[Session, Command, Site], tuple[Session, Reply]]]] = {
    Action.OPEN: _open,
    Action.OFFER: _offer,
    Action.ANSWER: _answer,
    Action.CLOSE: _close,
    Action.GONE: _gone,
    Action.UNKNOWN: _unknown,
}


def _expire(session: Session | None, event: Expired) -> Step:
    """An early event (the deadline has moved since) is ignored."""
    deadline_ns = session.deadline_ns() if session is not None else None
    if session is None or deadline_ns is None or event.now_ns < deadline_ns:
        return Step(session)
    action, _ = TABLE[session.state, Trigger.EXPIRED]
    if action is Action.CLOSE:
        return Step(_tombstone(session, event.now_ns))
    return Step(None if action is Action.FORGET else session)


def _tombstone(session: Session, now_ns: int) -> Session:
    return Session(
        session.group,
        session.call_id,
        State.DELETED,
        created_ns=session.created_ns,
        changed_ns=now_ns,
        replies=session.replies,
        rests=session.rests,
    )


def _rest(before: Session, after: Session, now_ns: int) -> Session:
    """Remember which ports were given back: a new owner must know it too."""
    oldest_ns = now_ns - PORT_REST_MAX_MS * NS_PER_MS
    given = [Rest(now_ns, port) for port in sorted(before.ports() - after.ports())]
    kept = [rest for rest in after.rests if rest.at_ns > oldest_ns]
    rests = tuple([*kept, *given][-RESTS_MAX:])
    return after if rests == after.rests else msgspec.structs.replace(after, rests=rests)


def _keep(session: Session, command: Command, reply: Reply) -> Session:
    """Add to the reply cache, bounded in time and number."""
    if not command.cookie:
        return session
    oldest_ns = command.now_ns - REPLY_KEPT_MS * NS_PER_MS
    kept = tuple(entry for entry in session.replies[1 - REPLIES_MAX :] if entry.at_ns > oldest_ns)
    return msgspec.structs.replace(session, replies=(*kept, KeptReply(command.now_ns, reply)))


def _by_side(side: int, own: str, other: str) -> tuple[str, str]:
    """(of this side, of the other) <-> (of side 0, of side 1); its own inverse."""
    return (own, other) if side == 0 else (other, own)


def _draw(drawn: Iterator[int], command: Command) -> tuple[int, int]:
    pair = (next(drawn, 0), next(drawn, 0))
    if not all(pair):
        raise Misuse(
            f"{command.verb} for call {command.call_id} carries {len(command.ports)} ports,"
            " too few: draw them first"
        )
    return pair


def _near_host(
    session: Session, stream: Stream, line: MediaLine, side: int, *, index: int, site: Site
) -> str:
    """Our address towards the sender of `line`: it must be of a family that the sender uses."""
    realm = session.realms[side]
    held = line.rtp.host in UNSPECIFIED
    if held and stream.hosts[side]:
        return stream.hosts[side]
    host = site.group.address_in(realm, line.rtp.family)
    if host is None and held:
        host = site.group.address_in(realm, site.group.families_in(realm)[0])
    if host is None:
        ours = site.group.families_in(realm)[0].name
        raise Unsupported(
            f"media line {index}: {line.rtp.host} is {line.rtp.family.name},"
            f" realm {realm} has {ours} only"
        )
    return host


def _far_host(
    session: Session,
    stream: Stream,
    line: MediaLine,
    far: int,
    *,
    asked: int,
    known: int,
    site: Site,
) -> str:
    """Our address towards the receiver: as asked, as before, of the SDP's family, or what is."""
    realm = session.realms[far]
    if asked:
        host = site.group.address_in(realm, Family(asked)) if asked in (4, 6) else None
        if host is None:
            raise Unsupported(f"realm {realm} has no address of the requested family {asked}")
        return host
    if stream.hosts[far]:
        return stream.hosts[far]
    wanted = Family(known) if known else line.rtp.family
    return (
        site.group.address_in(realm, wanted)
        or site.group.address_in(realm, site.group.families_in(realm)[0])
        or ""
    )


def _same_family(line: MediaLine, host: str, index: int) -> None:
    """The answerer was given `host`: it cannot send there from the other family."""
    if line.rtp.host not in UNSPECIFIED and line.rtp.family is not Address(host, 0).family:
        raise Unsupported(
            f"media line {index}: the answer's {line.rtp.host} is not of the family of"
            f" {host}, which it was offered"
        )


def _rewrite(stream: Stream, side: int, rtcp: bool, muxed: bool) -> MediaRewrite:
    host, port = stream.hosts[side], stream.ports[side]
    return MediaRewrite(Address(host, port), Address(host, port + 1) if rtcp else None, muxed)


def _rejected(
    session: Session, stream: Stream, families: list[int], side: int, site: Site
) -> MediaRewrite:
    """Port 0, and an address of ours: nothing of one side is shown to the other."""
    realm = session.realms[side]
    family = Family(families[side]) if families[side] else site.group.families_in(realm)[0]
    host = site.group.address_in(realm, family) or stream.hosts[side]
    return MediaRewrite(Address(host, 0))


def _tags(session: Session, side: int, command: Command) -> tuple[str, str]:
    other = command.to_tag or session.tags[1 - side]
    return _by_side(side, command.from_tag, other)


def _answer_tags(session: Session, answerer: int, command: Command) -> tuple[str, str]:
    """The last fork's tag stands; tags that a client did not swap are no news."""
    tag = command.to_tag
    if not tag or tag == session.tags[1 - answerer]:
        return session.tags
    return _by_side(answerer, tag, session.tags[1 - answerer])


def _settings(session: Session, command: Command) -> tuple[str, ...]:
    """What flags say of the call's media holds until others of the same kind are stated."""
    kept: list[str] = []
    for is_kind in (_of_sources, _of_marking):
        stated = sorted(filter(is_kind, command.flags))
        kept += stated or filter(is_kind, session.settings)
    return tuple(kept)


def _of_sources(flag: str) -> bool:
    return flag in (ASYMMETRIC, STRICT_SOURCE, SYMMETRIC) or flag.startswith(LEARNING)


def _of_marking(flag: str) -> bool:
    return flag.startswith(TOS) and session_flows.tos_dscp((flag,)) is not None


def _observed(session: Session, side: int, command: Command) -> tuple[bool, bool]:
    """Whose address is known from the network and not from what he says (his last word)."""
    seen = list(session.observed)
    seen[side] = SIP_SOURCE in command.flags
    return seen[0], seen[1]
