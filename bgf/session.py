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
from typing import Annotated, Final, NamedTuple

import msgspec

from bgf.errors import Malformed, Misuse, PeerError, UnknownCall, Unsupported
from bgf.events import Command, Expired, MediaLine, MediaRewrite, Reply, Result, Verb
from bgf.model import Address, Component, Family, Flow, FlowKey, Gate, Group, Source

NS_PER_MS: Final = 1_000_000
HALF_OPEN_MAX_MS: Final = 240_000  # beyond the 3 minutes of timer C, RFC 3261 section 16.6
REPLY_KEPT_MS: Final = 60_000
REPLIES_MAX: Final = 16  # per call, within REPLY_KEPT_MS
STREAMS_MAX: Final = 16  # m-lines of one call
CALL_ID_MAX_BYTES: Final = 256
UNSPECIFIED: Final = ("0.0.0.0", "::")
STRICT_SOURCE: Final = "strict-source"
ASYMMETRIC: Final = "asymmetric"
FATAL: Final = "fatal"
SETTINGS: Final = (ASYMMETRIC, STRICT_SOURCE)  # flags that hold for the call's whole life


class State(enum.StrEnum):
    """Where a call is. NEW is never stored: it is what an unknown call starts from."""

    NEW = "new"
    OFFERED = "offered"  # half-open
    ESTABLISHED = "established"
    REOFFERED = "reoffered"  # media as agreed before; the new description awaits its answer
    DELETED = "deleted"  # tombstone: only its replies live on


class Trigger(enum.StrEnum):
    OFFER = "offer"
    ANSWER = "answer"
    DELETE = "delete"
    EXPIRED = "expired"


class Action(enum.StrEnum):
    OPEN = "open"  # a call begins, or begins anew under an old Call-ID
    OFFER = "offer"
    ANSWER = "answer"
    CLOSE = "close"
    GONE = "gone"  # nothing to delete: ok with a warning
    UNKNOWN = "unknown"
    FORGET = "forget"  # the session leaves the machine
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
}


class Site(msgspec.Struct, frozen=True):
    """What a session must know of where it is: its group, and the realms when none are named."""

    group: Group
    default_realms: tuple[str, str]


class Stream(msgspec.Struct, frozen=True, array_like=True):
    """One m-line. Every pair is (towards side 0, towards side 1); side 0 made the first offer.

    `ports` are our even RTP ports, (0, 0) while none are held; `hosts` our addresses. `lines`
    are the descriptions in force, `sources` where each party was last known to send from (a
    description on hold does not say).
    """

    ports: tuple[int, int] = (0, 0)
    hosts: tuple[str, str] = ("", "")
    lines: tuple[MediaLine | None, MediaLine | None] = (None, None)
    sources: tuple[Address | None, Address | None] = (None, None)


class KeptReply(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the reply cache; `at_ns` is the time of the event that it answered."""

    at_ns: int
    reply: Reply


class Session(msgspec.Struct, frozen=True, array_like=True):
    """A call. Compares by value; one canonical encoding (the journal's checkpoint).

    `changed_ns` is when the last offer or the end arrived. `realms`, `families` (0 unknown) and
    `tags` are by side. `offered` is the description that awaits its answer, by `offerer`.
    """

    group: str
    call_id: str
    state: State = State.NEW
    created_ns: int = 0
    changed_ns: int = 0
    realms: tuple[str, str] = ("", "")
    families: tuple[int, int] = (0, 0)
    tags: tuple[str, str] = ("", "")
    settings: tuple[str, ...] = ()
    offerer: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    offered: tuple[MediaLine, ...] = ()
    streams: tuple[Stream, ...] = ()
    replies: tuple[KeptReply, ...] = ()

    def side_of(self, from_tag: str, to_tag: str) -> int:
        """Which side speaks. An in-dialog request of side 1 carries the tags swapped."""
        first, second = self.tags
        if from_tag == first:
            return 0
        if second and from_tag == second:
            return 1
        return 1 if to_tag and to_tag == first else 0

    def deadline_ns(self) -> int | None:
        """When an Expired event is due, None when the call may last for ever."""
        if self.state is State.OFFERED:
            return self.changed_ns + HALF_OPEN_MAX_MS * NS_PER_MS
        if self.state is State.DELETED:
            last_ns = self.replies[-1].at_ns if self.replies else 0
            return max(self.changed_ns, last_ns) + REPLY_KEPT_MS * NS_PER_MS
        return None

    def kept_reply(self, cookie: str) -> Reply | None:
        for kept in self.replies:
            if kept.reply.cookie == cookie:
                return kept.reply
        return None

    def ports(self) -> set[int]:
        """The even ports of the pairs that the call holds."""
        return {port for stream in self.streams for port in stream.ports if port}


class Step(NamedTuple):
    """What an event makes of a session: None when the machine may forget it."""

    session: Session | None
    reply: Reply | None = None


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


def apply(session: Session | None, event: Command | Expired, site: Site) -> Step:
    """The step of one call: pure. A peer's error becomes an error reply, kept like any other.

    Raises Misuse when the event lacks the ports that `demand` asked for.
    """
    if isinstance(event, Expired):
        return _expire(session, event)
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


def flows(session: Session | None) -> dict[FlowKey, Flow]:
    """The pinholes that must exist for this session, by key: a pure consequence of its value."""
    found: dict[FlowKey, Flow] = {}
    if session is None:
        return found
    for index, stream in enumerate(session.streams):
        if stream.ports[0]:
            muxed = _muxed(stream)
            for side in (0, 1):
                for component in (Component.RTP, Component.RTCP):
                    flow = _flow(session, index, stream, side, component=component, muxed=muxed)
                    found[flow.key] = flow
    return found


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
        stream = Stream(stream.ports, hosts, lines, _sources(stream, lines))
        streams.append(stream)
        if answered.rtp.port:
            muxed = _muxed(stream)
            rewrites.append(
                _rewrite(stream, offerer, answered.rtcp is not None and not muxed, muxed)
            )
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
    )


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
    stated = tuple(flag for flag in SETTINGS if flag in command.flags)
    return stated or session.settings


def _sources(
    stream: Stream, lines: tuple[MediaLine, MediaLine]
) -> tuple[Address | None, Address | None]:
    def known(side: int) -> Address | None:
        rtp = lines[side].rtp
        return rtp if rtp.port and rtp.host not in UNSPECIFIED else stream.sources[side]

    return known(0), known(1)


def _muxed(stream: Stream) -> bool:
    """RFC 5761 section 5.1.1: RTCP shares the RTP port only when both said so."""
    first, second = stream.lines
    return first is not None and second is not None and first.rtcp_mux and second.rtcp_mux


def _flow(
    session: Session, index: int, stream: Stream, side: int, *, component: Component, muxed: bool
) -> Flow:
    """The direction that arrives from `side`: who may send, where it goes, whether it may."""
    far = 1 - side
    offset = int(component is Component.RTCP)
    remote, sender = _party(stream.lines[far], component), _party(stream.lines[side], component)
    if remote is not None and Address(stream.hosts[far], 0).family is not remote.family:
        remote = None  # an RTCP address of another family than the RTP's: nowhere to send to
    source = Source()
    known = sender or stream.sources[side]
    if known is not None and ASYMMETRIC not in session.settings:
        strict = STRICT_SOURCE in session.settings and sender is not None
        source = Source(known.host, known.port if strict else None)
    if offset and muxed:
        remote = None
    admits = known is not None or ASYMMETRIC in session.settings
    is_open = remote is not None and admits and _wanted(stream)
    local_in = Address(stream.hosts[side], stream.ports[side] + offset)
    local_out = Address(stream.hosts[far], stream.ports[far] + offset)
    gate = Gate.OPEN if is_open else Gate.CLOSED
    ends = (session.realms[side], local_in, session.realms[far], local_out)
    return Flow(session.group, session.call_id, index, component, *ends, remote, source, gate)


def _wanted(stream: Stream) -> bool:
    """Both parties have described the m-line and neither has rejected it."""
    return all(line is not None and line.rtp.port for line in stream.lines)


def _party(line: MediaLine | None, component: Component) -> Address | None:
    """Where a party receives the component, None when it does not or is on hold."""
    if line is None or not line.rtp.port:
        return None
    address = line.rtp if component is Component.RTP else line.rtcp
    if address is None or address.host in UNSPECIFIED or not address.port:
        return None
    return address
