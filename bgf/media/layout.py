"""bgf.h in Python: how keys and values of the packet path's maps are packed. No I/O.

The sizes are compared with the C side's when this module is imported.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from bgf.media import _xdp
from bgf.media.datapath import Outcome
from bgf.media.netlink import Wire
from bgf.model import (
    Address,
    Component,
    Counters,
    Family,
    Flow,
    FlowKey,
    Gate,
    Latch,
    Policer,
    RtpStatistics,
    Source,
)

OUTCOMES = tuple(Outcome(name) for name in _xdp.OUTCOMES)
ADDRESS_CACHE_ENTRIES = 65_536
NO_SLOT = 0xFFFFFFFF
ROUNDS = 1 << 24  # of a latch that the map can tell apart
PORT_MAX = 65_535
_NO_BUCKET = (1 << 64) - 1
_NS = 1_000_000_000
_ECN_BITS = 0x03  # of the traffic class: not the gateway's to set (RFC 3168)

CONFIG = struct.Struct("=IIIxxxx")
INTERFACE = struct.Struct("=II6sH")
KEY = struct.Struct("=16sIHH")
_PINHOLE = struct.Struct("=24s16s16s16sIIII2s2sHHHBBHxxIIIxxxx16sQQQQQQ")
_FLAGS_AT, _PEER_AT = 72, 108
STATS = struct.Struct("=QQQQQQ")
STREAM = struct.Struct("=QQQIIIIIIIIII")
LATCH = struct.Struct("=16sII2s6s")
REPORT = struct.Struct("=24s16sQI2sxx")
CAPTURED = struct.Struct("=24sQIIHHI")
TRACE = struct.Struct("=IIII")
XDP_MD = struct.Struct("=6I")  # struct xdp_md of linux/bpf.h
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")

_MAPPED = bytes(10) + b"\xff\xff"
_NOBODY = bytes(16)
_EVERYBODY = b"\xff" * 16

for _ours, _theirs in (
    (CONFIG, _xdp.SIZEOF_CONFIG),
    (INTERFACE, _xdp.SIZEOF_INTERFACE),
    (KEY, _xdp.SIZEOF_KEY),
    (_PINHOLE, _xdp.SIZEOF_PINHOLE),
    (STATS, _xdp.SIZEOF_STATS),
    (STREAM, _xdp.SIZEOF_STREAM),
    (LATCH, _xdp.SIZEOF_LATCH),
    (REPORT, _xdp.SIZEOF_REPORT),
    (CAPTURED, _xdp.SIZEOF_CAPTURED),
    (TRACE, _xdp.SIZEOF_TRACE),
):
    if _ours.size != _theirs:
        raise ImportError(f"bgf.h and layout.py differ: {_ours.format} is {_theirs} bytes in C")


class Pinhole(NamedTuple):
    """What is read back of an installed pinhole. `remote` is None while it is not known."""

    key: FlowKey
    wire: Wire
    remote: str | None
    group: int
    nexthop: int
    slot: int
    flags: int
    reverse_key: FlowKey


class Place(NamedTuple):
    """Where a pinhole stands among others: indices into the maps, and what they lead to."""

    group: int
    nexthop: int
    slot: int
    wire_out: Wire = Wire(0)
    peer_slot: int = NO_SLOT
    hairpin: bool = False
    captured: bool = False


@functools.lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def pack_address(host: str) -> bytes:
    """16 bytes, IPv4 in its v4-mapped form (RFC 4291 section 2.5.5.2)."""
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host)
    return _MAPPED + socket.inet_aton(host)


@functools.lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def unpack_address(raw: bytes) -> str:
    if raw.startswith(_MAPPED):
        return socket.inet_ntoa(raw[12:])
    return str(ipaddress.IPv6Address(raw))


def pack_key(local: Address, wire: Wire) -> bytes:
    """struct bgf_key."""
    return KEY.pack(pack_address(local.host), wire.ifindex, socket.htons(local.port), wire.vlan)


def unpack_key(raw: bytes) -> tuple[FlowKey, Wire]:
    """The key and where its realm's frames come from."""
    host, ifindex, port, vlan = KEY.unpack(raw)
    return FlowKey(unpack_address(host), socket.ntohs(port)), Wire(ifindex, vlan)


def place_interfaces(wires: Iterable[Wire]) -> dict[Wire, int] | None:
    """Where each interface stands in the table; None when one finds no place near its own."""
    places: dict[Wire, int] = {}
    for wire in sorted(wires):
        first = wire.ifindex + wire.vlan
        near = ((first + n) % _xdp.INTERFACE_PLACES for n in range(_xdp.PROBES))
        free = next((place for place in near if place not in places.values()), None)
        if free is None:
            return None
        places[wire] = free
    return places


# ---- pinholes -----------------------------------------------------------------------------------


def is_open(flow: Flow) -> bool:
    """A gate can only be open towards somebody, be it one who will only be learned."""
    return flow.gate is Gate.OPEN and (flow.remote is not None or flow.follows)


def clock_of(hz: int) -> int:
    """Timestamp units in a nanosecond, times 2^32: what the program multiplies the time by."""
    return min(round((hz << 32) / _NS), (1 << 32) - 1)


@functools.lru_cache(maxsize=1_024)
def bucket(rate_bytes_s: int, burst_bytes: int) -> tuple[int, int]:
    """(cost, depth) as bgf.h has them; rate 0 is no bucket."""
    if not rate_bytes_s:
        return 0, _NO_BUCKET
    cost = (_NS << (_xdp.TIME_SHIFT + _xdp.COST_SHIFT)) // rate_bytes_s
    return cost, min((burst_bytes * cost) >> _xdp.COST_SHIFT, _NO_BUCKET >> 1)


@functools.lru_cache(maxsize=1_024)
def _source(source: Source) -> tuple[int, bytes, bytes, int, int]:
    """(flags, address, mask, first port, last port)."""
    flags, host, mask, first, last = 0, _NOBODY, _NOBODY, 0, PORT_MAX
    if source.host is not None:
        flags |= _xdp.SOURCE_HOST
        host, mask = pack_address(source.host), _EVERYBODY
        if source.prefix_len is not None:
            bits = source.prefix_len + (0 if ":" in source.host else 96)
            mask = ((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big")
    if source.port is not None:
        flags |= _xdp.SOURCE_PORT
        first, last = source.port, source.port_last or source.port
    return flags, host, mask, first, last


def _types(types: tuple[int, ...]) -> tuple[int, int]:
    bits = sum(1 << kind for kind in set(types))
    return bits & _NO_BUCKET, bits >> 64


def _flags(flow: Flow) -> int:
    flags = _xdp.OPEN if is_open(flow) else 0
    if flow.local_out.family is Family.IP6:
        flags |= _xdp.OUT_IP6
    if flow.policer is not None:
        flags |= _xdp.POLICE
    if flow.rtp is not None:
        flags |= _xdp.RTP
        if flow.rtp.check:
            flags |= _xdp.RTP_CHECK
        if flow.component is Component.RTCP:
            flags |= _xdp.RTCP
        elif flow.rtp.payload_types:
            flags |= _xdp.RTP_TYPES
        if flow.rtcp_mux:
            flags |= _xdp.MUXED
    if flow.latch.learns:
        flags |= _xdp.LATCH
    if flow.follows:
        flags |= _xdp.FOLLOW
        if flow.remote is None:
            flags |= _xdp.NO_REMOTE
    return flags


def pack_pinhole(flow: Flow, key: bytes, place: Place) -> bytes:
    """struct bgf_pinhole."""
    flags = _flags(flow)
    filtered, source, mask, first, last = _source(flow.source)
    remote_host, remote_port = _NOBODY, 0
    if flow.remote is not None:
        remote_host, remote_port = pack_address(flow.remote.host), flow.remote.port
    local_host = pack_address(flow.local_out.host)
    ports = struct.pack(">HH", flow.local_out.port, remote_port)
    # One's complement sum (RFC 1071) of 16-bit words as this machine reads them: the remainder by
    # 65535 of the bytes taken as one number.
    total = int.from_bytes(local_host + remote_host + ports, "little") % 65_535
    tos_mask, tos_bits = 0xFF, 0
    if flow.dscp is not None:
        tos_mask, tos_bits = _ECN_BITS, flow.dscp << 2
    policer = flow.policer or Policer()
    return _PINHOLE.pack(
        key,
        local_host,
        remote_host,
        source,
        flags
        | filtered
        | (_xdp.HAIRPIN if place.hairpin else 0)
        | (_xdp.CAPTURED if place.captured else 0),
        place.group,
        place.nexthop,
        place.slot,
        ports[:2],
        ports[2:],
        first,
        last,
        total,
        tos_mask,
        tos_bits,
        place.wire_out.vlan,
        place.wire_out.ifindex,
        place.peer_slot,
        clock_of(flow.rtp.clock_hz) if flow.rtp else 0,
        mask,
        *(_types(flow.rtp.payload_types) if flow.rtp else (0, 0)),
        *bucket(policer.sustained_bytes_s, policer.burst_bytes),
        *bucket(policer.peak_bytes_s, policer.peak_burst_bytes),
    )


def unpack_pinhole(raw: bytes) -> Pinhole:
    key, local, remote, _, flags, group, nexthop, slot, near, port, *_ = _PINHOLE.unpack(raw)
    flow_key, wire = unpack_key(key)
    reverse = FlowKey(unpack_address(local), int.from_bytes(near, "big"))
    known = remote != _NOBODY or port != b"\0\0"
    host = unpack_address(remote) if known else None
    return Pinhole(flow_key, wire, host, group, nexthop, slot, flags, reverse)


def remote_end(raw: bytes) -> bytes:
    """Where a pinhole's packets go, host and port, for comparing."""
    _, _, host, _, _, _, _, _, _, port, *_ = _PINHOLE.unpack(raw)
    return bytes(host) + bytes(port)


def with_peer(raw: bytes, peer_slot: int) -> bytes:
    """The pinhole following the latch of another slot."""
    return raw[:_PEER_AT] + U32.pack(peer_slot) + raw[_PEER_AT + U32.size :]


def with_capture(raw: bytes, captured: bool) -> bytes:
    """The pinhole with its packets copied, or not."""
    flags = U32.unpack_from(raw, _FLAGS_AT)[0] & ~_xdp.CAPTURED
    flags |= _xdp.CAPTURED if captured else 0
    return raw[:_FLAGS_AT] + U32.pack(flags) + raw[_FLAGS_AT + U32.size :]


# ---- latches ------------------------------------------------------------------------------------


class LatchState(NamedTuple):
    """struct bgf_latch. `mac` and `place` are empty when the state came from user space."""

    state: int = _xdp.LATCH_OPEN
    round: int = 0
    peer: Address | None = None
    place: int = 0
    mac: bytes = bytes(6)


def pack_latch(latch: LatchState) -> bytes:
    host, port = _NOBODY, b"\0\0"
    if latch.peer is not None:
        host, port = pack_address(latch.peer.host), latch.peer.port.to_bytes(2, "big")
    word = latch.state | latch.round % ROUNDS << 8
    return LATCH.pack(host, word, latch.place, port, latch.mac)


def unpack_latch(raw: bytes) -> LatchState:
    host, word, place, port, mac = LATCH.unpack(raw)
    peer = None
    if word & 0xFF != _xdp.LATCH_OPEN:
        peer = Address(unpack_address(host), int.from_bytes(port, "big"))
    return LatchState(word & 0xFF, word >> 8, peer, place, mac)


def settle_latch(flow: Flow, now: LatchState | None) -> LatchState:
    """What a flow's latch must be. `now` is what the map has, None for a new pinhole.

    What packets have taught stands, unless the flow is of a later round; what the flow knows
    stands against what another flow said before.
    """
    known = flow.learned
    ahead = (flow.latch_round - (now.round if now else 0)) % ROUNDS
    if now is not None and ahead >= ROUNDS // 2:
        return now  # a relatch that control has yet to hear of
    if now is not None and ahead == 0:
        taught_here = any(now.mac)
        if known is None or known == now.peer or taught_here:
            if now.state == _xdp.LATCH_REPLACE and flow.latch is Latch.LATCH and known == now.peer:
                return now._replace(state=_xdp.LATCH_SET)
            return now
        return LatchState(_xdp.LATCH_SET, flow.latch_round, known)
    if flow.latch is Latch.RELATCH:
        peer = known or (now.peer if now else None)
        if peer is not None:
            kept = now if now and now.peer == peer else LatchState()
            return kept._replace(state=_xdp.LATCH_REPLACE, round=flow.latch_round, peer=peer)
    elif known is not None:
        return LatchState(_xdp.LATCH_SET, flow.latch_round, known)
    return LatchState(round=flow.latch_round)


def unlatch(mode: Latch, now: LatchState) -> LatchState:
    """The latch as a relatch leaves it: the next sender is learned, one round on."""
    round_next = (now.round + 1) % ROUNDS
    if mode is Latch.RELATCH and now.peer is not None:
        return now._replace(state=_xdp.LATCH_REPLACE, round=round_next)
    return LatchState(round=round_next)


# ---- counts -------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """One slot of the per-CPU statistics, all CPUs together."""

    packets: int
    bytes: int
    last_seen_ns: int
    rtp_packets: int
    rtp_bytes: int
    rtcp_packets: int

    @property
    def counters(self) -> Counters:
        return Counters(*self[:3])


def sum_stats(raw: bytes) -> Seen:
    rows = list(STATS.iter_unpack(raw))
    packets, octets, last, *rest = zip(*rows, strict=True)
    return Seen(sum(packets), sum(octets), max(last), *(sum(column) for column in rest))


def rtp_statistics(seen: Seen, raw: bytes, clock_hz: int) -> RtpStatistics:
    """`raw` is struct bgf_stream of the same slot."""
    _, _, _, ssrc, sequence, first, before, _, jitter, gap, changes, restarts, started = (
        STREAM.unpack(raw)
    )
    expected = before + (((sequence - first) & 0xFFFFFFFF) + 1 if started else 0)
    return RtpStatistics(
        packets=seen.rtp_packets,
        bytes=seen.rtp_bytes,
        expected=expected,
        lost=expected - seen.rtp_packets,
        jitter=jitter >> 4,
        clock_hz=clock_hz,
        ssrc=ssrc,
        ssrc_changes=changes,
        restarts=restarts,
        gap_max_us=gap * 1_024 // 1_000,
        rtcp_packets=seen.rtcp_packets,
    )
