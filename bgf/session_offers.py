"""Offers and answers: what each makes of a call, and what the far side is told.

Knows: offer/answer (RFC 3264), the sides of a dialog by their tags, the addresses that a group has
in its realms. Must not know which state a call may be in for it (`session`), the port pool,
clocks or peers: ports and time arrive inside events.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from bgf import session_flows, session_ice
from bgf.errors import Malformed, Misuse, Unsupported
from bgf.events import Command, MediaLine, MediaRewrite, Reply, Result, Verb
from bgf.model import Address, Family, Ice, family_of
from bgf.session_flows import (
    ASYMMETRIC,
    LEARNING,
    STRICT_SOURCE,
    SYMMETRIC,
    TOS,
    UNSPECIFIED,
    agreed,
    relatched,
)
from bgf.session_ice import FLAGS_CACHED_MAX, ICE, MUX
from bgf.session_values import Session, Site, State, Stream

T = TypeVar("T")

STREAMS_MAX: Final = 16  # m-lines of one call
SIP_SOURCE: Final = "SIP-source-address"
REJECT_ICE: Final = "reject-ICE"
LOOP_PROTECT: Final = "loop-protect"
# One tuple of each for all calls, which keep them.
_FAMILIES: Final = {(one, two): (one, two) for one in (0, 4, 6) for two in (0, 4, 6)}
_OBSERVED: Final = {(one, two): (one, two) for one in (False, True) for two in (False, True)}
LOOP_MARK: Final = "loop-mark="  # with the group that has marked the SDP


def demand(session: Session | None, command: Command) -> int:
    """How many port pairs `command` needs now: two per wanted m-line that holds none."""
    if command.verb is not Verb.OFFER:
        return 0
    streams: tuple[Stream, ...] = ()
    if session is not None:
        if session.kept_reply(command.cookie):
            return 0
        streams = session.streams
    pairs = 0
    for index, line in enumerate(command.media[:STREAMS_MAX]):
        if line.rtp.port and not (index < len(streams) and streams[index].ports[0]):
            pairs += 2
    return pairs


def open_call(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
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
        realms=realms,
        tags=(command.from_tag, command.to_tag),
        replies=session.replies,
        rests=session.rests,
    )
    return offer(fresh, command, site)


def offer(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
    lines = command.media
    if not lines:
        raise Malformed("the offer's SDP has no media line")
    if len(lines) > STREAMS_MAX:
        raise Unsupported(f"the offer has {len(lines)} media lines, more than {STREAMS_MAX}")
    side = session.side_of(command.from_tag, command.to_tag)
    far = 1 - side
    families = list(session.families)
    wishes = session_ice.restated(session.wishes[far], command.flags, ICE, MUX)
    near_wishes = session.wishes[side]
    if REJECT_ICE in command.flags:
        near_wishes = session_ice.restated(near_wishes, (session_ice.ICE_REMOVED,), ICE)
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
            families[side] = families[side] or family_of(near_host)
            families[far] = family_of(far_host)
            ports = stream.ports
            if ports[0]:
                near_host = stream.hosts[side]  # a change of family waits for the answer
                if stream.hosts[far] != far_host:
                    stream = relatched(stream, far)
            else:
                ports = _draw(drawn, command)
            ice = session_ice.offered_ice(stream, far, line, wishes, command)
            kept = stream.ice if ice is None else _by_side(side, stream.ice[side], ice)
            mux = session_ice.offered_mux(stream, far, line, wishes)
            stream = msgspec.structs.replace(
                stream,
                ports=ports,
                hosts=_by_side(side, near_host, far_host),
                ice=kept,
                mux_offered=mux,
            )
            rtcp = line.rtcp is not None or (line.rtcp_mux and not mux)
            if MUX + "require" in wishes:
                rtcp = False
            rewrites.append(_rewrite(stream, far, rtcp, mux, ice))
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
        families=_families(families),
        tags=_tags(session, side, command),
        settings=_settings(session, command) if first else session.settings,
        offerer=side,
        offered=lines,
        streams=tuple(streams),
        observed=_observed(session, side, command),
        wishes=_by_side(side, near_wishes, wishes),
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
        loop_mark=_loop_mark(session, command),
    )


def answer(session: Session, command: Command, site: Site) -> tuple[Session, Reply]:
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
    wishes = session_ice.restated(session.wishes[offerer], command.flags, ICE)
    told = session.wishes[answerer]
    other_fork = not pending and _is_other_fork(session, answerer, command)
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
        families[offerer] = family_of(host)
        hosts = _by_side(offerer, host, stream.hosts[answerer])
        if answered.rtp.port:
            _same_family(answered, hosts[answerer], index)
        ice = session_ice.answered_ice(stream, offerer, line, wishes, command)
        # Another answer to the same offer: what the one before has settled was not offered.
        told_mux = stream.mux_offered if offerer == session.offerer else None
        muxes = session_ice.agreed_muxes(stream, answerer, lines, told, told_mux)
        own = None if session_ice.ICE_REMOVED in told else stream.ice[answerer]
        credentials = _by_side(offerer, ice, own)
        if credentials != stream.ice:
            stream = msgspec.structs.replace(stream, ice=credentials)
        stream = session_ice.with_muxes(agreed(stream, hosts, lines), muxes)
        for party in (0, 1):
            if (other_fork and party == answerer) or not session_ice.does_ice(stream, party):
                stream = session_ice.without_nominee(stream, party)
        streams.append(stream)
        if answered.rtp.port:
            mux = muxes[offerer]
            rtcp = not mux and (answered.rtcp is not None or muxes[answerer])
            rewrites.append(_rewrite(stream, offerer, rtcp, mux, ice))
        else:
            rewrites.append(_rejected(session, stream, families, offerer, site))
    if not pending:
        streams.extend(session.streams[len(streams) :])
    after = msgspec.structs.replace(
        session,
        state=State.ESTABLISHED if pending or not session.offered else State.REOFFERED,
        families=_families(families),
        tags=_answer_tags(session, answerer, command),
        settings=_settings(session, command),
        offered=() if pending else session.offered,
        streams=tuple(streams),
        observed=_observed(session, answerer, command),
        wishes=_by_side(offerer, wishes, told),
    )
    return after, Reply(
        command.cookie,
        Result.OK,
        media=tuple(rewrites),
        created_ns=session.created_ns,
        loop_mark=_loop_mark(session, command),
    )


def _is_other_fork(session: Session, answerer: int, command: Command) -> bool:
    tags = _answer_tags(session, answerer, command)
    return session.tags[answerer] not in ("", tags[answerer])


def has_looped(command: Command, group: str) -> bool:
    """Has this group rewritten the SDP before, and is it to leave such alone?"""
    return LOOP_PROTECT in command.flags and LOOP_MARK + group in command.flags


def _loop_mark(session: Session, command: Command) -> str:
    return session.group if LOOP_PROTECT in command.flags else ""


def _families(families: list[int]) -> tuple[int, int]:
    found = families[0], families[1]
    return _FAMILIES.get(found, found)


def _by_side(side: int, own: T, other: T) -> tuple[T, T]:
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
    if line.rtp.host not in UNSPECIFIED and line.rtp.family is not family_of(host):
        raise Unsupported(
            f"media line {index}: the answer's {line.rtp.host} is not of the family of"
            f" {host}, which it was offered"
        )


def _rewrite(stream: Stream, side: int, rtcp: bool, muxed: bool, ice: Ice | None) -> MediaRewrite:
    host, port = stream.hosts[side], stream.ports[side]
    follows = Address(host, port + 1) if rtcp else None
    return MediaRewrite(Address(host, port), follows, muxed, ice)


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
    return _settled(command.flags, session.settings)


@functools.lru_cache(maxsize=FLAGS_CACHED_MAX)
def _settled(flags: tuple[str, ...], settings: tuple[str, ...]) -> tuple[str, ...]:
    kept: list[str] = []
    for is_kind in (_of_sources, _of_marking):
        stated = sorted(filter(is_kind, flags))
        kept += stated or filter(is_kind, settings)
    return tuple(kept)


def _of_sources(flag: str) -> bool:
    return flag in (ASYMMETRIC, STRICT_SOURCE, SYMMETRIC) or flag.startswith(LEARNING)


def _of_marking(flag: str) -> bool:
    return flag.startswith(TOS) and session_flows.tos_dscp((flag,)) is not None


def _observed(session: Session, side: int, command: Command) -> tuple[bool, bool]:
    """Whose address is known from the network and not from what he says (his last word)."""
    seen = SIP_SOURCE in command.flags
    return _OBSERVED[_by_side(side, seen, session.observed[1 - side])]
