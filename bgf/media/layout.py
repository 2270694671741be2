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
    Counters,
    Flow,
    FlowKey,
    Gate,
    Latch,
    RtpStatistics,
)

OUTCOMES = tuple(Outcome(name) for name in _xdp.OUTCOMES)
ADDRESS_CACHE_ENTRIES = 65_536
NO_SLOT = 0xFFFFFFFF
ROUNDS = 1 << 24  # of a latch that the map can tell apart

CONFIG = struct.Struct("=III")
INTERFACE = struct.Struct("=II6sH")
_PLACE = struct.Struct("=16sIHBBIxxxx")
KEY = struct.Struct("=16sIHH")
_PINHOLE = struct.Struct("=IIIIHHI2s2sHBB16s16s16sQQQQQQ64x16sIHxxIxxxx24sxxxxxxxx")
FLAGS_AT, NEXTHOP_AT, WAY_AT, STREAM_AT, WIRE_OUT_AT, PEER_AT = 4, 12, 24, 128, 208, 216
"""In a pinhole."""
_WAY = struct.Struct("=2s2sHBB16s16s")
_WIRE = struct.Struct("=IH")
FACTS = struct.Struct("=4xIII208x16sIHH8x")
"""Of a pinhole: flags, group, next hop, and its key; for those who read very many."""
COUNTS = struct.Struct(f"={len(OUTCOMES)}Q")
STATS = struct.Struct("=QQQQQQ16x")
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

for _ours, _theirs in (
    (CONFIG, _xdp.SIZEOF_CONFIG),
    (INTERFACE, _xdp.SIZEOF_INTERFACE),
    (_PLACE, _xdp.SIZEOF_PLACE),
    (KEY, _xdp.SIZEOF_KEY),
    (_PINHOLE, _xdp.SIZEOF_PINHOLE),
    (FACTS, _xdp.SIZEOF_PINHOLE),
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
    remote: Address | None
    group: int
    nexthop: int
    flags: int
    reverse_key: FlowKey


class Place(NamedTuple):
    """What stands of an address: its realm's wire, its row of ports (0: none), if it is guarded."""

    wire: Wire = Wire(0)
    row: int = 0
    guarded: bool = False


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


def counts_at(cpu: int, row: int) -> int:
    """Where a row of packet counts begins in the map `cpus`."""
    return cpu * _xdp.SIZEOF_CPU + _xdp.COUNTS_AT + row * _xdp.ROW * U64.size


def pack_place(address: bytes, place: Place) -> bytes:
    """struct bgf_place of an address that stands somewhere."""
    return _PLACE.pack(address, *place.wire, 1, place.guarded, place.row)


def unpack_place(raw: bytes) -> tuple[str, Place]:
    address, ifindex, vlan, _, guarded, row = _PLACE.unpack(raw)
    return unpack_address(address), Place(Wire(ifindex, vlan), row, bool(guarded))


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


def as_written(raw: bytes) -> bytes:
    """A pinhole as it is packed: what it says, not how often it was written nor what came by."""
    after = STREAM_AT + STREAM.size
    return bytes(U32.size) + raw[U32.size : STREAM_AT] + bytes(STREAM.size) + raw[after:]


def stream_of(raw: bytes) -> bytes:
    """struct bgf_stream of a pinhole."""
    return raw[STREAM_AT : STREAM_AT + STREAM.size]


def unpack_pinhole(raw: bytes) -> Pinhole:
    fields = _PINHOLE.unpack(raw)
    _, flags, group, nexthop = fields[:4]
    near_port, far_port, near, far, key = *fields[7:9], *fields[12:14], fields[-1]
    flow_key, wire = unpack_key(key)
    reverse = FlowKey(unpack_address(near), int.from_bytes(near_port, "big"))
    remote = None
    if far != _NOBODY or far_port != b"\0\0":
        remote = Address(unpack_address(far), int.from_bytes(far_port, "big"))
    return Pinhole(flow_key, wire, remote, group, nexthop, flags, reverse)


def remote_end(raw: bytes) -> tuple[bytes, bytes]:
    """Where a pinhole sends to, address and port as they stand in it."""
    _, far_port, _, _, _, _, far = _WAY.unpack_from(raw, WAY_AT)
    return far, far_port


def pack_end(end: Address | None) -> tuple[bytes, bytes]:
    """The same of an address; None is nobody."""
    if end is None:
        return _NOBODY, b"\0\0"
    return pack_address(end.host), end.port.to_bytes(2, "big")


def wire_out(raw: bytes) -> Wire:
    """Where a pinhole's frames leave."""
    return Wire(*_WIRE.unpack_from(raw, WIRE_OUT_AT))


def sources(raw: bytes) -> tuple[str, int, int]:
    """A pinhole's filter: host, first and last port. The flags say what of it counts."""
    fields = _PINHOLE.unpack(raw)
    return unpack_address(fields[14]), fields[4], fields[5]


def rates(raw: bytes) -> tuple[int, ...]:
    """Cost and depth of both buckets of a pinhole."""
    return _PINHOLE.unpack(raw)[17:21]


def with_peer(raw: bytes, peer_slot: int) -> bytes:
    """The pinhole following the latch of another slot."""
    return raw[:PEER_AT] + U32.pack(peer_slot) + raw[PEER_AT + U32.size :]


def with_end(raw: bytes, end: Address | None, nexthop: int, ours: bool) -> bytes:
    """The pinhole of a follower with another far end, and the next hop there. `ours`: the address
    is one of this node's."""
    near_port, _, _, mask, bits, near, _ = _WAY.unpack_from(raw, WAY_AT)
    far, far_port = pack_end(end)
    total = sum(struct.unpack("=18H", near + far + near_port + far_port))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    flags = U32.unpack_from(raw, FLAGS_AT)[0] & ~(_xdp.NO_REMOTE | _xdp.HAIRPIN)
    flags |= (_xdp.NO_REMOTE if end is None else 0) | (_xdp.HAIRPIN if ours else 0)
    made = bytearray(raw)
    U32.pack_into(made, FLAGS_AT, flags)
    U32.pack_into(made, NEXTHOP_AT, nexthop)
    _WAY.pack_into(made, WAY_AT, near_port, far_port, total, mask, bits, near, far)
    return bytes(made)


def with_capture(raw: bytes, captured: bool) -> bytes:
    """The pinhole with its packets copied, or not."""
    flags = U32.unpack_from(raw, FLAGS_AT)[0] & ~_xdp.CAPTURED
    flags |= _xdp.CAPTURED if captured else 0
    return raw[:FLAGS_AT] + U32.pack(flags) + raw[FLAGS_AT + U32.size :]


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

    What packets have taught in the flow's round stands; what the flow knows stands against what
    another flow said before, and what was taught in an earlier round.
    """
    known = flow.learned
    ahead = (flow.latch_round - (now.round if now else 0)) % ROUNDS
    if now is not None and ahead >= ROUNDS // 2:
        return now  # a relatch that control has yet to hear of
    if now is not None and ahead == 0:
        # Who goes on until another one comes was taught in an earlier round.
        taught_here = now.state != _xdp.LATCH_REPLACE and any(now.mac)
        if known is None or known == now.peer or taught_here:
            if now.state == _xdp.LATCH_REPLACE and flow.latch is Latch.LATCH and known == now.peer:
                return now._replace(state=_xdp.LATCH_SET)
            return now
        told = _xdp.LATCH_REPLACE if flow.latch is Latch.RELATCH else _xdp.LATCH_SET
        return LatchState(told, flow.latch_round, known)
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


NO_COUNTERS = Counters()
NO_RTP = RtpStatistics()
_SILENT = bytes(STREAM.size)


class Seen(NamedTuple):
    """One slot of the statistics, all CPUs together: struct bgf_stats after `_xdp.sum_stats`."""

    packets: int
    bytes: int
    last_seen_ns: int
    rtp_packets: int
    rtp_bytes: int
    rtcp_packets: int

    @property
    def counters(self) -> Counters:
        return Counters(*self[:3]) if self.packets else NO_COUNTERS


def rtp_statistics(seen: Seen, raw: bytes, clock_hz: int) -> RtpStatistics:
    """`raw` is struct bgf_stream of the same slot."""
    if raw == _SILENT and not seen.rtcp_packets:
        return NO_RTP if clock_hz == NO_RTP.clock_hz else RtpStatistics(clock_hz=clock_hz)
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
