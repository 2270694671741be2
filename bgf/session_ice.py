"""ICE-lite and rtcp-mux: what a call's flags wish of them, and what the parties agree to.

Knows: descriptions, the words of the flags, how credentials come out of an event's entropy. Must
not know commands' verbs, ports pools, clocks, STUN.

ICE (RFC 8445; the values are rtpengine's): towards the receiver of an SDP it is offered when
`ICE=force` (or `optional`, `force-relay`) asks for it, or, by default, when the SDP has it or that
party was offered it before; `remove` never. The offerer of ICE is answered with ICE unless
`remove`; who has not offered it is not given it (RFC 8839 section 4.3). We are the only candidate,
always: a candidate of the far end would lead media around the gateway. An agent that changes its
user name restarts ICE, and is given new credentials (RFC 8839 section 4.4.1.1.1).

rtcp-mux (RFC 5761): each side of a stream has it or not, by itself. Flags of the offer: `offer` and
`require` offer it whatever the offerer says, `demux` and `reject` do not; `accept` and `demux` let
the offerer have it whatever the answerer says, `reject` does not. Otherwise the far end decides,
and one that has it keeps it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Final

import msgspec

from bgf.errors import Misuse
from bgf.events import Command, MediaLine, Verb
from bgf.model import Address, Ice
from bgf.session_values import Session, Stream

ICE: Final = "ICE="
MUX: Final = "rtcp-mux="
ICE_FORCED: Final = ("ICE=force", "ICE=force-relay", "ICE=optional")
ICE_REMOVED: Final = "ICE=remove"
ENTROPY_BYTES: Final = 24
UFRAG_CHARS: Final = 8  # 48 bits, of the 24 that RFC 8445 section 5.3 wants
PWD_CHARS: Final = 24  # 144 bits, of 128
REMOTE_UFRAG_CHARS_MAX: Final = 64  # a longer one is not compared: the integrity says enough
RTP_PREFIXES: Final = ("RTP/", "UDP/TLS/RTP/")
TRANSPORTS_CACHED_MAX: Final = 256
FLAGS_CACHED_MAX: Final = 256
"""Of what flags say, remembered: a proxy's route says the same of every call."""


@functools.lru_cache(maxsize=FLAGS_CACHED_MAX)
def restated(wishes: tuple[str, ...], flags: tuple[str, ...], *kinds: str) -> tuple[str, ...]:
    """The wishes with those kinds in place that the flags state; one tuple for all calls that
    have the like."""
    kept: list[str] = []
    for kind in (ICE, MUX):
        stated = [flag for flag in flags if flag.startswith(kind)] if kind in kinds else []
        kept += stated or [wish for wish in wishes if wish.startswith(kind)]
    return tuple(kept)


def is_rtp(line: MediaLine | None) -> bool:
    return line is not None and _is_rtp(line.transport)


@functools.lru_cache(maxsize=TRANSPORTS_CACHED_MAX)
def _is_rtp(transport: str) -> bool:
    return transport.upper().startswith(RTP_PREFIXES)


# ICE.


def wants_entropy(session: Session | None, command: Command) -> bool:
    """May this command need credentials? It then has to carry ENTROPY_BYTES of entropy."""
    if command.verb is Verb.OFFER:
        for flag in command.flags:
            if flag in ICE_FORCED:
                return True
        kept = session is not None and any(w in ICE_FORCED for side in session.wishes for w in side)
        return kept or any(line.ice_ufrag for line in command.media)
    if command.verb is not Verb.ANSWER or session is None:
        return False
    for stream in session.streams:
        for described in stream.lines:
            if described is not None and described.ice_ufrag:
                return True
    return any(line.ice_ufrag for line in session.offered)


def offered_ice(
    stream: Stream, far: int, line: MediaLine, wishes: tuple[str, ...], command: Command
) -> Ice | None:
    """Our credentials towards the receiver of an offer, None when it is offered no ICE."""
    if ICE_REMOVED in wishes:
        return None
    known = stream.ice[far]
    if known is None and (line.ice_ufrag or any(wish in ICE_FORCED for wish in wishes)):
        return drawn(command, far)
    return known


def answered_ice(
    stream: Stream, offerer: int, line: MediaLine, wishes: tuple[str, ...], command: Command
) -> Ice | None:
    """Our credentials towards the offerer, in the answer to the offer that said `line`."""
    if ICE_REMOVED in wishes or not line.ice_ufrag:
        return None
    before, known = stream.lines[offerer], stream.ice[offerer]
    restarts = before is not None and before.ice_ufrag not in ("", line.ice_ufrag)
    return drawn(command, offerer) if known is None or restarts else known


def drawn(command: Command, side: int) -> Ice:
    """Credentials out of the event's entropy (ice-char, RFC 8839 section 5.4). Raises Misuse."""
    if len(command.entropy) < ENTROPY_BYTES:
        raise Misuse(f"{command.verb} for call {command.call_id} carries no entropy: draw first")
    secret = hashlib.blake2b(
        command.entropy, digest_size=ENTROPY_BYTES, person=b"bgf-ice", salt=bytes((side,))
    ).digest()
    text = base64.b64encode(secret).decode()
    return Ice(text[:UFRAG_CHARS], text[UFRAG_CHARS:])


def answers_checks(stream: Stream, side: int) -> Ice | None:
    """What STUN checks from a side must prove; None when it does no ICE."""
    own, line = stream.ice[side], stream.lines[side]
    if own is None or (line is not None and not line.ice_ufrag):
        return None
    remote = line.ice_ufrag if line is not None else ""
    return Ice(own.ufrag, own.pwd, remote if len(remote) <= REMOTE_UFRAG_CHARS_MAX else "")


def does_ice(stream: Stream, side: int) -> bool:
    """Have both agreed on it?"""
    return stream.lines[side] is not None and answers_checks(stream, side) is not None


def nominees(stream: Stream, side: int) -> tuple[Address | None, Address | None]:
    """Whom the agent of a side has chosen for its RTP and RTCP; None where it has not, or does no
    ICE (RFC 8445 section 8)."""
    if not does_ice(stream, side):
        return None, None
    return stream.nominated[2 * side], stream.nominated[2 * side + (not muxes_of(stream)[side])]


def without_nominee(stream: Stream, side: int) -> Stream:
    """Another agent speaks for the side now: its own checks will say from where."""
    nominated = list(stream.nominated)
    nominated[2 * side : 2 * side + 2] = None, None
    return msgspec.structs.replace(stream, nominated=tuple(nominated))


# rtcp-mux.


def muxes_of(stream: Stream) -> tuple[bool, bool]:
    """Per side: does RTCP share the RTP port (RFC 5761 section 5.1.1)?"""
    if stream.muxes is not None:
        return stream.muxes
    first, second = stream.lines
    both = first is not None and second is not None and first.rtcp_mux and second.rtcp_mux
    return both, both


def offered_mux(stream: Stream, far: int, line: MediaLine, wishes: tuple[str, ...]) -> bool:
    """Is the receiver of this m-line of an offer offered rtcp-mux?"""
    if not is_rtp(line):
        return False
    if MUX + "offer" in wishes or MUX + "require" in wishes:
        return True
    if MUX + "demux" in wishes or MUX + "reject" in wishes:
        return False
    return line.rtcp_mux or muxes_of(stream)[far]


def agreed_muxes(
    stream: Stream,
    answerer: int,
    lines: tuple[MediaLine, MediaLine],
    wishes: tuple[str, ...],
    offered: bool | None = None,
) -> tuple[bool, bool]:
    """What an answer settles, by side. `wishes` are those of the offer, `offered` is what it has
    offered the answerer; None: it follows from what is in force."""
    line, answered = lines[1 - answerer], lines[answerer]
    if offered is None:
        offered = offered_mux(stream, answerer, line, wishes)
    far = offered and (answered.rtcp_mux or MUX + "require" in wishes)
    if not line.rtcp_mux or MUX + "reject" in wishes or not is_rtp(line):
        near = False
    elif MUX + "accept" in wishes or MUX + "demux" in wishes:
        near = True
    else:
        # Who has no other port for RTCP must have it (RFC 8858), who has it and wants it keeps it.
        near = far or line.rtcp is None or muxes_of(stream)[1 - answerer]
    return (near, far) if answerer == 1 else (far, near)


def with_muxes(stream: Stream, muxes: tuple[bool, bool]) -> Stream:
    """The stream that knows who has rtcp-mux: None where both descriptions say the same."""
    plain = stream if stream.muxes is None else msgspec.structs.replace(stream, muxes=None)
    return plain if muxes_of(plain) == muxes else msgspec.structs.replace(stream, muxes=muxes)
