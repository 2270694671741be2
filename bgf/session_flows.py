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
"""

from __future__ import annotations

from typing import Final

import msgspec

from bgf.events import Learned, MediaLine
from bgf.model import Address, Component, Flow, FlowKey, Gate, Latch, Rtp, Source
from bgf.policy import DEFAULT_POLICY, Policies, RtpCheck
from bgf.session_values import Session, Stream

UNSPECIFIED: Final = ("0.0.0.0", "::")
ASYMMETRIC: Final = "asymmetric"
STRICT_SOURCE: Final = "strict-source"
SYMMETRIC: Final = "symmetric"
LEARNING: Final = "endpoint-learning="
NO_LEARNING: Final = (LEARNING + "off", LEARNING + "no-learning")
TOS: Final = "TOS="
TOS_MAX: Final = 255  # a whole traffic class byte, of which DSCP is the upper six bits
RTP_PREFIXES: Final = ("RTP/", "UDP/TLS/RTP/")
CHECKED_PREFIX: Final = "RTP/"  # DTLS handshakes share the port of the others (RFC 5764 5.1.2)

_NO_POLICIES: Final[Policies] = {}
_SENDS: Final = ("sendrecv", "sendonly")
_RECEIVES: Final = ("sendrecv", "recvonly")


def flows(session: Session | None, policies: Policies = _NO_POLICIES) -> dict[FlowKey, Flow]:
    """The pinholes that must exist for this session, by key."""
    found: dict[FlowKey, Flow] = {}
    if session is None:
        return found
    for index, stream in enumerate(session.streams):
        if stream.ports[0]:
            mode = (mode_of(session, 0, policies), mode_of(session, 1, policies))
            for side in (0, 1):
                for component in Component:
                    flow = _flow(session, index, side, component, mode=mode, policies=policies)
                    found[flow.key] = flow
    return found


def mode_of(session: Session, side: int, policies: Policies) -> Latch:
    """OFF, LATCH or STRICT: what the call's flags say, else the realm's policy."""
    settings = session.settings
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
    streams = list(session.streams)
    stream = streams[flow.stream]
    side = int(flow.local_in.port not in (stream.ports[0], stream.ports[0] + 1))
    learned = list(stream.learned)
    learned[2 * side + int(flow.component is Component.RTCP)] = event.peer
    streams[flow.stream] = msgspec.structs.replace(stream, learned=tuple(learned))
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


def muxed(stream: Stream) -> bool:
    """RFC 5761 section 5.1.1: RTCP shares the RTP port only when both said so."""
    first, second = stream.lines
    return first is not None and second is not None and first.rtcp_mux and second.rtcp_mux


def _flow(
    session: Session,
    index: int,
    side: int,
    component: Component,
    *,
    mode: tuple[Latch, Latch],
    policies: Policies,
) -> Flow:
    """The direction that arrives from `side`: who may send, where it goes, whether it may."""
    stream, far = session.streams[index], 1 - side
    mux, offset = muxed(stream), int(component is Component.RTCP)
    ours, theirs = stream.lines[side], stream.lines[far]
    remote, sender = _party(theirs, component), _party(ours, component)
    if remote is not None and Address(stream.hosts[far], 0).family is not remote.family:
        remote = None  # an RTCP address of another family than the RTP's: nowhere to send to
    unused = bool(offset) and mux
    if unused:
        remote = None
    known = sender or stream.sources[side]
    latch, source = _sender(session, mode[side], sender, known, observed=session.observed[side])
    admits = known is not None or ASYMMETRIC in session.settings
    is_open = remote is not None and admits and _wanted(stream)
    local_in = Address(stream.hosts[side], stream.ports[side] + offset)
    local_out = Address(stream.hosts[far], stream.ports[far] + offset)
    line = ours or theirs
    kind = line.kind if line is not None else ""
    arriving = policies.get(session.realms[side], DEFAULT_POLICY)
    leaving = policies.get(session.realms[far], DEFAULT_POLICY)
    marked = tos_dscp(session.settings)
    learns = latch is Latch.LATCH and not unused
    learned = stream.learned_of(side, component) if learns else None
    if learns and stream.rounds[side] and learned is None:
        latch = Latch.RELATCH  # the sender known before goes on until another one comes
    elif not learns and latch is Latch.LATCH:
        latch = Latch.OFF
    watched = is_open and not offset and _expected(stream, side)
    return Flow(
        session.group,
        session.call_id,
        index,
        component,
        session.realms[side],
        local_in,
        session.realms[far],
        local_out,
        remote,
        source,
        Gate.OPEN if is_open else Gate.CLOSED,
        latch=latch,
        learned=learned,
        latch_round=stream.rounds[side] if learns else 0,
        follows=mode[far] is Latch.LATCH and not unused,
        policer=arriving.rule(kind).policer,
        dscp=leaving.rule(kind).dscp if marked is None else marked,
        rtp=_rtp(ours, theirs, component, arriving.rtp_check),
        rtcp_mux=mux and not offset,
        inactivity_ms=arriving.inactivity_ms if watched else 0,
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


def _rtp(
    ours: MediaLine | None, theirs: MediaLine | None, component: Component, check: RtpCheck
) -> Rtp | None:
    """What is asked of the packets. A sender uses the receiver's payload types (RFC 3264 5.1),
    and many use their own: both are admitted."""
    lines = [line for line in (theirs, ours) if line is not None and line.rtp.port]
    if not lines or not lines[0].transport.upper().startswith(RTP_PREFIXES):
        return None
    checks = check is not RtpCheck.OFF and all(
        line.transport.upper().startswith(CHECKED_PREFIX) for line in lines
    )
    types: tuple[int, ...] = ()
    stated = all(line.payload_types for line in lines)
    if checks and stated and check is RtpCheck.PAYLOAD_TYPES and component is Component.RTP:
        types = tuple(sorted({pt for line in lines for pt in line.payload_types}))
    return Rtp(checks, types, lines[0].clock_hz)


def _expected(stream: Stream, side: int) -> bool:
    """Does the side send, by both descriptions?"""
    ours, theirs = stream.lines[side], stream.lines[1 - side]
    return (
        ours is not None
        and theirs is not None
        and ours.direction in _SENDS
        and theirs.direction in _RECEIVES
    )


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
