"""The pinholes that must exist for a call: a pure consequence of its value and the policies.

Knows: descriptions in force (RFC 3264), who latches, who is policed and marked. Must not know
commands, ports pools, clocks, or what is in the packet path.

Who may send, from one side, by its mode:
- off: any port of the host that its description names; anybody when `asymmetric`.
- strict: that host and port alone.
- latch: whoever sends first, then he alone; any host, or the described one where that is the
  address which its signalling came from. What goes to that side goes to who was learned, and to
  the described address before (H.248.37; 3GPP TS 23.334 clause 5.4.2). A description with another
  address lets the side learn anew: the sender known so far goes on until another one comes.

A side that does ICE teaches by its checks alone: whom its agent has nominated may send and is sent
to; until then it is the address that it describes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from bgf.events import Learned, MediaLine, Nominated
from bgf.model import Address, Component, Flow, FlowKey, Gate, Ice, Latch, Policer, Rtp, Source
from bgf.policy import DEFAULT_POLICY, Policies, RtpCheck
from bgf.session_ice import (
    RTP_PREFIXES,
    answers_checks,
    does_ice,
    is_rtp,
    muxes_of,
    nominated_of,
)
from bgf.session_values import Session, Stream, Treatment

UNSPECIFIED: Final = ("0.0.0.0", "::")
ASYMMETRIC: Final = "asymmetric"
STRICT_SOURCE: Final = "strict-source"
SYMMETRIC: Final = "symmetric"
LEARNING: Final = "endpoint-learning="
NO_LEARNING: Final = (LEARNING + "off", LEARNING + "no-learning")
TOS: Final = "TOS="
TOS_MAX: Final = 255  # a whole traffic class byte, of which DSCP is the upper six bits
AUDIO: Final = "audio"
NO_RTP: Final = (72,)  # what has it is RTCP, where both share a port (RFC 5761 section 4)
ALL_TYPES: Final = range(128)
CHECKED_PREFIX: Final = "RTP/"  # DTLS handshakes share the port of the others (RFC 5764 5.1.2)

_NO_POLICIES: Final[Policies] = {}
_SENDS: Final = ("sendrecv", "sendonly")
_RECEIVES: Final = ("sendrecv", "recvonly")


def flows(session: Session | None, policies: Policies = _NO_POLICIES) -> dict[FlowKey, Flow]:
    """The pinholes that must exist for this session, by key."""
    found: dict[FlowKey, Flow] = {}
    if session is None or not session.streams:
        return found
    modes = (mode_of(session, 0, policies), mode_of(session, 1, policies))
    marked = tos_dscp(session.settings)
    for index, stream in enumerate(session.streams):
        if not stream.ports[0]:
            continue
        for side in (0, 1):
            way = _way(session, stream, side, marked=marked, policies=policies)
            for component in Component if way.pair else (Component.RTP,):
                flow = _flow(session, index, side, component, modes=modes, way=way)
                found[FlowKey(flow.local_in.host, flow.local_in.port)] = flow
    return found


def mode_of(session: Session, side: int, policies: Policies) -> Latch:
    """OFF, LATCH or STRICT: what the call's flags say, else the realm's policy."""
    settings = session.settings
    if not settings:
        return policies.get(session.realms[side], DEFAULT_POLICY).latch
    if ASYMMETRIC in settings or any(setting in NO_LEARNING for setting in settings):
        return Latch.OFF
    if SYMMETRIC in settings or any(setting.startswith(LEARNING) for setting in settings):
        return Latch.LATCH
    if STRICT_SOURCE in settings:
        return Latch.STRICT
    return policies.get(session.realms[side], DEFAULT_POLICY).latch


def relatched(stream: Stream, side: int) -> Stream:
    """The stream with a side that learns anew."""
    rounds = list(stream.rounds)
    rounds[side] += 1
    learned = list(stream.learned)
    learned[2 * side : 2 * side + 2] = None, None
    return msgspec.structs.replace(stream, rounds=tuple(rounds), learned=tuple(learned))


def learn(session: Session, event: Learned, policies: Policies = _NO_POLICIES) -> Session:
    """The session that knows the learned peer; the same one when that is no news, or too late."""
    flow = flows(session, policies).get(event.key)
    if flow is None or not flow.latch.learns or flow.latch_round != event.latch_round:
        return session
    if flow.learned == event.peer or flow.local_in.family is not event.peer.family:
        return session
    stream = session.streams[flow.stream]
    learned = list(stream.learned)
    learned[_place_of(stream, flow)] = event.peer
    return _with(session, flow.stream, msgspec.structs.replace(stream, learned=tuple(learned)))


def nominate(session: Session, event: Nominated, policies: Policies = _NO_POLICIES) -> Session:
    """The session that knows whom an ICE agent has chosen; the same one when that is no news."""
    flow = flows(session, policies).get(event.key)
    if flow is None or flow.ice is None or flow.local_in.family is not event.peer.family:
        return session
    stream = session.streams[flow.stream]
    nominated = list(stream.nominated)
    place = _place_of(stream, flow)
    if nominated[place] == event.peer:
        return session
    nominated[place] = event.peer
    return _with(session, flow.stream, msgspec.structs.replace(stream, nominated=tuple(nominated)))


def _place_of(stream: Stream, flow: Flow) -> int:
    """Where `learned` and `nominated` keep what concerns the sender of a flow."""
    side = int(flow.local_in.port not in (stream.ports[0], stream.ports[0] + 1))
    return 2 * side + int(flow.component is Component.RTCP)


def _with(session: Session, index: int, stream: Stream) -> Session:
    streams = list(session.streams)
    streams[index] = stream
    return msgspec.structs.replace(session, streams=tuple(streams))


def relatch(session: Session, policies: Policies = _NO_POLICIES) -> Session:
    """Every latching side learns anew; the same session when there is none."""
    sides = [side for side in (0, 1) if mode_of(session, side, policies).learns]
    streams = list(session.streams)
    for index, stream in enumerate(streams):
        for side in sides if stream.ports[0] else ():
            streams[index] = relatched(streams[index], side)
    if not sides or streams == list(session.streams):
        return session
    return msgspec.structs.replace(session, streams=tuple(streams))


def agreed(stream: Stream, hosts: tuple[str, str], lines: tuple[MediaLine, MediaLine]) -> Stream:
    """The stream with two descriptions that are agreed on."""

    def known(side: int) -> Address | None:
        rtp = lines[side].rtp
        return rtp if rtp.port and rtp.host not in UNSPECIFIED else stream.sources[side]

    after = msgspec.structs.replace(stream, hosts=hosts, lines=lines, sources=(known(0), known(1)))
    for side in (0, 1):
        before = stream.sources[side]
        moved = before is not None and before != after.sources[side]
        if moved or stream.hosts[side] not in ("", hosts[side]):
            after = relatched(after, side)
    return after


class _Way(NamedTuple):
    """What both components of one direction have in common. `mux` is where it arrives, `far_mux`
    where it leaves; without `pair` there is no RTCP (UDPTL)."""

    mux: bool
    far_mux: bool
    pair: bool
    ice: Ice | None
    wanted: bool
    passes: tuple[bool, bool]
    expected: bool
    policer: Policer | None
    dscp: int | None
    rtp: Rtp | None
    inactivity_ms: int


def _way(
    session: Session, stream: Stream, side: int, *, marked: int | None, policies: Policies
) -> _Way:
    ours, theirs = stream.lines[side], stream.lines[1 - side]
    arriving = policies.get(session.realms[side], DEFAULT_POLICY)
    leaving = policies.get(session.realms[1 - side], DEFAULT_POLICY)
    line = ours or theirs
    kind = "" if line is None else line.kind
    muxes, treated = muxes_of(stream), session.orders.treatments[side]
    silenced = kind == AUDIO and Treatment.SILENCED in treated
    # Its RTCP comes through the same gate.
    silent = silenced and muxes[side] and _filterable(ours, theirs)
    return _Way(
        muxes[side],
        muxes[1 - side],
        ours is None or theirs is None or is_rtp(ours) or is_rtp(theirs),
        answers_checks(stream, side),
        ours is not None and theirs is not None and bool(ours.rtp.port and theirs.rtp.port),
        _passes(treated, silenced and not silent),
        _expected(ours, theirs),
        arriving.rule(kind).policer,
        leaving.rule(kind).dscp if marked is None else marked,
        _filtered(_rtp(ours, theirs, arriving.rtp_check), ours, theirs, treated, silent),
        0 if silent else arriving.inactivity_ms,
    )


def _flow(
    session: Session,
    index: int,
    side: int,
    component: Component,
    *,
    modes: tuple[Latch, Latch],
    way: _Way,
) -> Flow:
    """The direction that arrives from `side`: who may send, where it goes, whether it may."""
    stream, far = session.streams[index], 1 - side
    offset = 1 if component is Component.RTCP else 0
    out = 0 if way.far_mux else offset
    unused = way.mux and way.far_mux and bool(offset)  # RTCP comes with RTP, and goes with it
    # RTCP that goes to its own port on the far side shares our RTP port here, or the other way.
    local_out = Address(stream.hosts[far], stream.ports[far] + (offset if unused else out))
    remote, sender = _party(stream, far, out), _party(stream, side, 0 if way.mux else offset)
    if remote is not None and (unused or remote.family is not local_out.family):
        remote = None  # an RTCP address of another family than the RTP's: nowhere to send to
    known = sender or stream.sources[side]
    mode = Latch.OFF if does_ice(stream, side) else modes[side]
    chosen = nominated_of(stream, side, component)
    latch, source = _sender(session, mode, sender, known, observed=session.observed[side])
    if chosen is not None and ASYMMETRIC not in session.settings:
        source = Source(chosen.host, chosen.port)
    admits = known is not None or ASYMMETRIC in session.settings
    is_open = remote is not None and admits and way.wanted and way.passes[offset]
    learned, latch_round = None, 0
    if latch is Latch.LATCH:
        if unused:
            latch = Latch.OFF
        else:
            learned, latch_round = stream.learned_of(side, component), stream.rounds[side]
            if latch_round and learned is None:
                latch = Latch.RELATCH  # the sender known before goes on until another one comes
    rtp = way.rtp
    if offset and rtp is not None and rtp.payload_types:
        rtp = Rtp(rtp.check, (), rtp.clock_hz)
    return Flow(
        session.group,
        session.call_id,
        index,
        component,
        session.realms[side],
        Address(stream.hosts[side], stream.ports[side] + offset),
        session.realms[far],
        local_out,
        remote,
        source,
        Gate.OPEN if is_open else Gate.CLOSED,
        latch,
        learned,
        latch_round,
        modes[far] is Latch.LATCH and not unused and not does_ice(stream, far),
        way.policer,
        way.dscp,
        rtp,
        way.mux and not offset,
        way.inactivity_ms if is_open and not offset and way.expected else 0,
        None if way.mux and offset else way.ice,
        way.mux and not offset and not way.far_mux and way.pair,
    )


def _sender(
    session: Session,
    mode: Latch,
    sender: Address | None,
    known: Address | None,
    *,
    observed: bool,
) -> tuple[Latch, Source]:
    """How the sender is known, and who is let through."""
    if mode is Latch.LATCH:
        return mode, Source(known.host) if known is not None and observed else Source()
    if known is None or ASYMMETRIC in session.settings:
        return Latch.OFF, Source()
    if mode is Latch.STRICT and sender is not None:
        return mode, Source(sender.host, sender.port)
    return Latch.OFF, Source(known.host)


def tos_dscp(settings: tuple[str, ...]) -> int | None:
    """The DSCP that a `TOS=` setting asks for, None when there is none that can be used."""
    for setting in settings:
        digits = setting.removeprefix(TOS)
        if digits != setting and digits.isascii() and digits.isdigit() and len(digits) <= 3:
            return int(digits) >> 2 if int(digits) <= TOS_MAX else None
    return None


def _rtp(ours: MediaLine | None, theirs: MediaLine | None, check: RtpCheck) -> Rtp | None:
    """What is asked of the packets. A sender uses the receiver's payload types (RFC 3264 5.1),
    and many use their own: both are admitted."""
    if ours is not None and not ours.rtp.port:
        ours = None
    if theirs is not None and not theirs.rtp.port:
        theirs = None
    first = theirs or ours
    if first is None or not first.transport.upper().startswith(RTP_PREFIXES):
        return None
    other = ours or first
    checks = (
        check is not RtpCheck.OFF
        and not (first.dtls or other.dtls)
        and first.transport.upper().startswith(CHECKED_PREFIX)
        and other.transport.upper().startswith(CHECKED_PREFIX)
    )
    types: tuple[int, ...] = ()
    if checks and check is RtpCheck.PAYLOAD_TYPES and first.payload_types and other.payload_types:
        types = tuple(sorted({*first.payload_types, *other.payload_types}))
    return Rtp(checks, types, first.clock_hz)


def _passes(treated: tuple[Treatment, ...], silenced: bool) -> tuple[bool, bool]:
    """Do (RTP, RTCP) of a side pass their gates, as ordered?"""
    blocked = Treatment.BLOCKED in treated
    return not blocked and not silenced, not blocked


def _filterable(ours: MediaLine | None, theirs: MediaLine | None) -> bool:
    """Handshakes of DTLS are no RTP: what exchanges keys on the media port cannot be filtered."""
    lines = [line for line in (ours, theirs) if line is not None]
    return all(line.transport.upper().startswith(CHECKED_PREFIX) for line in lines)


def _filtered(
    rtp: Rtp | None,
    ours: MediaLine | None,
    theirs: MediaLine | None,
    treated: tuple[Treatment, ...],
    silent: bool,
) -> Rtp | None:
    """The payload types that still pass, as ordered."""
    if rtp is None or not (silent or Treatment.DTMF_BLOCKED in treated):
        return rtp
    if silent:
        return Rtp(True, NO_RTP, rtp.clock_hz)
    lines = (line for line in (ours, theirs) if line is not None)
    blocked = {kind for line in lines for kind in line.dtmf_types}
    if not blocked or not _filterable(ours, theirs):
        return rtp
    types = set(rtp.payload_types or ALL_TYPES) - blocked
    return Rtp(True, tuple(sorted(types)) or NO_RTP, rtp.clock_hz)


def _expected(ours: MediaLine | None, theirs: MediaLine | None) -> bool:
    """Does the side send, by both descriptions?"""
    return (
        ours is not None
        and theirs is not None
        and ours.direction in _SENDS
        and theirs.direction in _RECEIVES
    )


def _party(stream: Stream, side: int, offset: int) -> Address | None:
    """Where a party receives RTP (0) or RTCP (1), None when it does not or is on hold."""
    line = stream.lines[side]
    if line is None or not line.rtp.port:
        return None
    address = line.rtcp if offset else line.rtp
    if line.rtp.host not in UNSPECIFIED:
        address = nominated_of(stream, side, Component(1 + offset)) or address
    if address is None or address.host in UNSPECIFIED or not address.port:
        return None
    return address
