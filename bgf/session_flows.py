"""The pinholes that must exist for a call: a pure consequence of its value and the policies.

Knows: descriptions in force (RFC 3264), who latches, who is policed and marked. Must not know
commands, ports pools, clocks, or what is in the packet path.

Who may send, from one side, by its mode:
- off: any port of the host that its description names; anybody when `asymmetric` alone.
- strict: that host and port alone.
- latch: whoever sends first, then he alone; any host, or the described one where that is the
  address which its signalling came from. What goes to that side goes to who was learned, and to
  the described address before (H.248.37; 3GPP TS 23.334 clause 5.4.2). A description with another
  address lets the side learn anew: the sender known so far goes on until another one comes.

A side that does ICE teaches by its checks alone: whom its agent has nominated may send and is sent
to; until then it is the address that it describes, and nobody where it leaves all to ICE.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from bgf.events import Learned, MediaLine, Nominated
from bgf.model import Address, Component, Flow, FlowKey, Gate, Ice, Latch, Policer, Rtp, Source
from bgf.policy import DEFAULT_POLICY, Policies, RtpCheck
from bgf.session_ice import (
    answers_checks,
    is_rtp,
    muxes_of,
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
ANYBODY: Final = Source()
_NOBODY: Final[tuple[Address | None, Address | None]] = (None, None)
_BOTH_PASS: Final = (True, True)
_PAIR: Final = (Component.RTP, Component.RTCP)
_RTP_ALONE: Final = (Component.RTP,)
_SENDS: Final = ("sendrecv", "sendonly")
_RECEIVES: Final = ("sendrecv", "recvonly")


def flows(session: Session | None, policies: Policies = _NO_POLICIES) -> dict[FlowKey, Flow]:
    """The pinholes that must exist for this session, by key."""
    found: dict[FlowKey, Flow] = {}
    if session is None or not session.streams:
        return found
    modes = (mode_of(session, 0, policies), mode_of(session, 1, policies))
    marked = tos_dscp(session.settings) if session.settings else None
    for index, stream in enumerate(session.streams):
        if not stream.ports[0]:
            continue
        muxes = muxes_of(stream)
        sides = _side(stream, 0, muxes[0]), _side(stream, 1, muxes[1])
        for side in (0, 1):
            way = _way(session, stream, side, marked, policies)
            for component in _PAIR if way.pair else _RTP_ALONE:
                flow = _flow(session, index, side, component, modes=modes, sides=sides, way=way)
                found[FlowKey(flow.local_in.host, flow.local_in.port)] = flow
    return found


def mode_of(session: Session, side: int, policies: Policies) -> Latch:
    """OFF, LATCH or STRICT: what the call's flags say, else the realm's policy.

    As in rtpengine `strict-source` holds to who was learned; where nobody is, to the description.
    """
    settings, policy = session.settings, policies.get(session.realms[side], DEFAULT_POLICY).latch
    if not settings:
        return policy
    strict = STRICT_SOURCE in settings
    if ASYMMETRIC in settings or any(setting in NO_LEARNING for setting in settings):
        return Latch.STRICT if strict else Latch.OFF
    if SYMMETRIC in settings or any(setting.startswith(LEARNING) for setting in settings):
        return Latch.LATCH
    # A realm that is strict already learns nobody for a flag that asks for strictness.
    return Latch.LATCH if strict and policy is Latch.OFF else policy


def admits_anybody(settings: tuple[str, ...]) -> bool:
    """May anybody send, from anywhere? `asymmetric` says so, without `strict-source` beside it."""
    return ASYMMETRIC in settings and STRICT_SOURCE not in settings


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


class _Side(NamedTuple):
    """What is known of one party of a stream. `mux`: RTCP shares its RTP port. `rtp` and `rtcp` are
    where it receives, None when it does not, is on hold, or has not said so yet; `chosen` whom its
    agent has nominated for either. `ours` are our addresses towards it."""

    mux: bool
    ice: Ice | None
    does_ice: bool
    chosen: tuple[Address | None, Address | None]
    rtp: Address | None
    rtcp: Address | None
    ours: tuple[Address, Address]


def _side(stream: Stream, side: int, mux: bool) -> _Side:
    line, host, port = stream.lines[side], stream.hosts[side], stream.ports[side]
    ours = Address(host, port), Address(host, port + 1)
    ice = answers_checks(stream, side)
    does_ice, chosen = ice is not None and line is not None, _NOBODY
    if does_ice:
        chosen = stream.nominated[2 * side], stream.nominated[2 * side + (not mux)]
    if line is None or not line.rtp.port:
        return _Side(mux, ice, does_ice, chosen, None, None, ours)
    rtp, rtcp = line.rtp, line.rtcp
    if rtp.host in UNSPECIFIED and not (does_ice and line.undisclosed):
        return _Side(mux, ice, does_ice, chosen, None, _usable(rtcp), ours)
    rtp, rtcp = chosen[0] or rtp, chosen[1] or rtcp
    return _Side(mux, ice, does_ice, chosen, _usable(rtp), _usable(rtcp), ours)


def _usable(address: Address | None) -> Address | None:
    if address is None or not address.port or address.host in UNSPECIFIED:
        return None
    return address


class _Way(NamedTuple):
    """What both components of one direction have in common. Without `pair` there is no RTCP
    (UDPTL)."""

    pair: bool
    wanted: bool
    passes: tuple[bool, bool]
    expected: bool
    policer: Policer | None
    dscp: int | None
    rtp: Rtp | None
    inactivity_ms: int


def _way(
    session: Session, stream: Stream, side: int, marked: int | None, policies: Policies
) -> _Way:
    ours, theirs = stream.lines[side], stream.lines[1 - side]
    arriving = policies.get(session.realms[side], DEFAULT_POLICY)
    leaving = policies.get(session.realms[1 - side], DEFAULT_POLICY)
    line = ours or theirs
    kind = "" if line is None else line.kind
    treated = session.orders.treatments[side]
    rtp, passes, silent = _rtp(ours, theirs, arriving.rtp_check), _BOTH_PASS, False
    if treated:
        silenced = kind == AUDIO and Treatment.SILENCED in treated
        # Its RTCP comes through the same gate.
        silent = silenced and muxes_of(stream)[side] and _filterable(ours, theirs)
        passes = _passes(treated, silenced and not silent)
        rtp = _filtered(rtp, ours, theirs, treated, silent)
    return _Way(
        ours is None or theirs is None or is_rtp(ours) or is_rtp(theirs),
        ours is not None and theirs is not None and bool(ours.rtp.port and theirs.rtp.port),
        passes,
        _expected(ours, theirs),
        arriving.rule(kind).policer,
        leaving.rule(kind).dscp if marked is None else marked,
        rtp,
        0 if silent else arriving.inactivity_ms,
    )


def _flow(
    session: Session,
    index: int,
    side: int,
    component: Component,
    *,
    modes: tuple[Latch, Latch],
    sides: tuple[_Side, _Side],
    way: _Way,
) -> Flow:
    """The direction that arrives from `side`: who may send, where it goes, whether it may."""
    stream, far = session.streams[index], 1 - side
    near_side, far_side = sides[side], sides[far]
    offset = 1 if component is Component.RTCP else 0
    out = 0 if far_side.mux else offset
    unused = bool(offset) and near_side.mux and far_side.mux  # RTCP comes and goes with RTP
    # RTCP that goes to its own port on the far side shares our RTP port here, or the other way.
    local_out = far_side.ours[offset if unused else out]
    remote = far_side.rtcp if out else far_side.rtp
    sender = near_side.rtcp if offset and not near_side.mux else near_side.rtp
    if remote is not None and (unused or (":" in remote.host) is not (":" in local_out.host)):
        remote = None  # an RTCP address of another family than the RTP's: nowhere to send to
    known = sender or stream.sources[side]
    mode = Latch.OFF if near_side.does_ice else modes[side]
    chosen = near_side.chosen[offset]
    anybody = admits_anybody(session.settings)
    latch, source = _sender(mode, sender, known, anybody, session.observed[side])
    if chosen is not None and not anybody:
        source = Source(chosen.host, chosen.port)
    admits = known is not None or chosen is not None or anybody
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
        near_side.ours[offset],
        session.realms[far],
        local_out,
        remote,
        source,
        Gate.OPEN if is_open else Gate.CLOSED,
        latch,
        learned,
        latch_round,
        modes[far] is Latch.LATCH and not unused and not far_side.does_ice,
        way.policer,
        way.dscp,
        rtp,
        near_side.mux and not offset,
        way.inactivity_ms if is_open and not offset and way.expected else 0,
        None if near_side.mux and offset else near_side.ice,
        near_side.mux and not offset and not far_side.mux and way.pair,
    )


def _sender(
    mode: Latch,
    sender: Address | None,
    known: Address | None,
    anybody: bool,
    observed: bool,
) -> tuple[Latch, Source]:
    """How the sender is known, and who is let through."""
    if mode is Latch.LATCH:
        return mode, Source(known.host) if known is not None and observed else ANYBODY
    if known is None or anybody:
        return Latch.OFF, ANYBODY
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
    if first is None or not is_rtp(first):
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
