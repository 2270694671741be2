"""The layouts of bgf/lab/bpf/rtpload.h in Python: streams in, reports out. No I/O.

Knows: bytes, addresses, checksums. Must not know maps, namespaces or time. Numbers are in the
machine's order, addresses and ports in network order; IPv4 is ::ffff:a.b.c.d.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from dataclasses import dataclass

from bgf.errors import Misuse
from bgf.model import Address, Family

MAGIC = b"BGFL"
PAYLOAD_OCTETS = 160
UDP_OCTETS = 8 + 12 + PAYLOAD_OCTETS
FRAME_OCTETS = 14 + 40 + UDP_OCTETS
"""The frame handed to the generator: IPv6; it cuts 20 octets off for IPv4."""

TIMESTAMP_STEP = 160
"""RTP clock ticks in one 20 ms frame at 8 kHz (RFC 3551 section 4.5.14)."""

SSRC_MAX = 0xFFFF_FFFF
PCMU = 0
IPPROTO_UDP = 17
IP_DONT_FRAGMENT = 0x4000
HOP_LIMIT = 64
PACE_SHIFT = 8
"""rtpload.h: the flood's schedule is in 1/256 ns."""

_XDP_MD = struct.Struct("=IIIIII")
_FLOW = struct.Struct("=16s16s2s2sIIIIHHBB6x")
_HOP = struct.Struct("=6s6s4x")
_CURSOR = struct.Struct("=QQQII")
_PACE = struct.Struct("=QQ")
_METER = struct.Struct("=IIII")
_TOTALS = struct.Struct("=8Q")
_KEY = struct.Struct("=16s16s2s2s")
_ENDPOINT = struct.Struct("=16s2s2x")
_EXPECTED = struct.Struct("=16s2s2xI")
_REPORT = struct.Struct("=12QIIIHHBB6x")

KEY_OCTETS = _KEY.size
ENDPOINT_OCTETS = _ENDPOINT.size
TOTALS_OCTETS = _TOTALS.size
REPORT_OCTETS = _REPORT.size

for _layout, _octets in (
    (_FLOW, 64),
    (_HOP, 16),
    (_CURSOR, 32),
    (_PACE, 16),
    (_METER, 16),
    (_TOTALS, 64),
    (_KEY, 36),
    (_ENDPOINT, 20),
    (_EXPECTED, 24),
    (_REPORT, 120),
):
    if _layout.size != _octets:
        raise AssertionError(
            f"{_layout.format} has {_layout.size} octets, rtpload.h says {_octets}"
        )


@dataclass(frozen=True)
class StreamSpec:
    """One generated RTP stream. `ssrc`, 1..2^32-1, is its identity; the payload repeats it."""

    source: Address
    destination: Address
    ssrc: int

    def __post_init__(self) -> None:
        if not 1 <= self.ssrc <= SSRC_MAX:
            raise Misuse(f"stream to {self.destination}: ssrc {self.ssrc} is not in 1..{SSRC_MAX}")
        if self.source.family != self.destination.family:
            raise Misuse(f"stream {self.source} -> {self.destination} mixes IPv4 and IPv6")


@dataclass(frozen=True)
class Expected:
    """Where stream `ssrc` is to arrive, and from where (the gateway's address, not the origin)."""

    destination: Address
    source: Address
    ssrc: int


@dataclass(frozen=True)
class FlowReport:
    """One received flow. Times are CLOCK_BOOTTIME in ns; 0 means never.

    `max_gap_ns` is the largest time between two of its packets since the gaps were last reset,
    `gap_end_ns` the arrival that ended it, `gap_lost` the packets missing in it: none means that
    the sender paused (a late generator) or a queue held them. `lost`, `reordered` and
    `duplicates` are counted from RTP sequence numbers; a late packet that arrives after all is
    not lost. `wrong_destination` counts generated packets of another stream that arrived here:
    they touch no other field. `wrong_source` counts packets of the right stream from a source
    that was not expected: such a source is a flow of its own. An expected flow that never had a
    packet has zeros. `bytes` are of UDP payload.
    """

    destination: Address
    source: Address
    ssrc: int
    packets: int
    first_ns: int
    last_ns: int
    max_gap_ns: int
    gap_end_ns: int
    lost: int
    reordered: int
    duplicates: int
    wrong_source: int
    wrong_destination: int
    generated: bool
    bytes: int = 0
    gap_lost: int = 0


@dataclass(frozen=True)
class MeterTotals:
    """What a meter has seen since it was attached, in packets.

    `observed` is RTP that was not generated (recorded and passed on). `bad_checksum` are
    generated packets whose UDP checksum is wrong or absent. `table_full` are packets of flows
    that found no room: any number but 0 makes the reports incomplete. `delay_*` is from writing
    the packet to its arrival, over `generated` packets.
    """

    generated: int
    observed: int
    bad_checksum: int
    wrong_source: int
    wrong_destination: int
    table_full: int
    delay_sum_ns: int
    delay_max_ns: int


@dataclass(frozen=True)
class Cursor:
    """Where the generator program is; see rtpload.h."""

    next: int
    sent: int
    failed: int
    flows: int

    def pack(self) -> bytes:
        return _CURSOR.pack(self.next, self.sent, self.failed, self.flows, TIMESTAMP_STEP)

    @classmethod
    def unpack(cls, data: bytes) -> Cursor:
        position, sent, failed, flows, _step = _CURSOR.unpack(data)
        return cls(position, sent, failed, flows)


def pack_host(host: str) -> bytes:
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed


def unpack_host(data: bytes) -> str:
    address = ipaddress.IPv6Address(data)
    return str(address.ipv4_mapped or address)


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big")


def _address(host: bytes, port: bytes) -> Address:
    return Address(unpack_host(host), int.from_bytes(port, "big"))


def ones_sum(data: bytes) -> int:
    """The sum of the 16-bit words of `data` as the machine loads them, folded to 16 bits.

    A one's complement sum does not depend on the octet order (RFC 1071 section 2).
    """
    # 2^16 is 1 modulo 2^16 - 1: the sum with its carries is the remainder of the whole number. It
    # is 0 only for zeros; a sum that folds to a multiple of 2^16 - 1 is all ones.
    data += bytes(len(data) % 2)
    return int.from_bytes(data, sys.byteorder) % 0xFFFF or (0xFFFF if any(data) else 0)


def _ip4_header_sum(source: bytes, destination: bytes) -> int:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + UDP_OCTETS,
        0,
        IP_DONT_FRAGMENT,
        HOP_LIMIT,
        IPPROTO_UDP,
        0,
        source,
        destination,
    )
    return ~ones_sum(header) & 0xFFFF


def pack_stream(stream: StreamSpec, hop: int, sequence: int, timestamp: int) -> bytes:
    """A `struct rtpload_flow`: everything of the packets that stays the same is summed here."""
    source, destination = pack_host(stream.source.host), pack_host(stream.destination.host)
    ports = _port(stream.source.port) + _port(stream.destination.port)
    ssrc = struct.pack("!I", stream.ssrc)
    ip4 = stream.source.family == Family.IP4
    length = struct.pack("!H", UDP_OCTETS)
    base = (source[12:] + destination[12:]) if ip4 else source + destination
    base += struct.pack("!HH", IPPROTO_UDP, UDP_OCTETS)
    base += ports + length + bytes((0x80, PCMU)) + ssrc + MAGIC + ssrc
    return _FLOW.pack(
        source,
        destination,
        ports[:2],
        ports[2:],
        stream.ssrc,
        timestamp,
        ones_sum(base),
        hop,
        sequence,
        _ip4_header_sum(source[12:], destination[12:]) if ip4 else 0,
        int(stream.source.family),
        PCMU,
    )


def pack_context(ifindex: int) -> bytes:
    """A `struct xdp_md` for one run of the generator: a frame that came in by `ifindex`."""
    return _XDP_MD.pack(0, FRAME_OCTETS, 0, ifindex, 0, 0)


def pack_hop(destination: bytes, source: bytes) -> bytes:
    return _HOP.pack(destination, source)


def pack_index(index: int) -> bytes:
    return index.to_bytes(4, sys.byteorder)


def pack_pace(next_ns: int, packets_per_second: int) -> bytes:
    """A `struct rtpload_pace`; no rate is as fast as it goes."""
    second = 1_000_000_000 << PACE_SHIFT
    interval = second // packets_per_second if packets_per_second else 0
    return _PACE.pack(next_ns << PACE_SHIFT, interval)


def pack_meter(gap_epoch: int, check: bool, watch_all: bool, pass_generated: bool) -> bytes:
    return _METER.pack(gap_epoch, check, watch_all, pass_generated)


def pack_endpoint(address: Address) -> bytes:
    return _ENDPOINT.pack(pack_host(address.host), _port(address.port))


def pack_expected(source: Address, ssrc: int) -> bytes:
    return _EXPECTED.pack(pack_host(source.host), _port(source.port), ssrc)


def unpack_totals(data: bytes) -> MeterTotals:
    return MeterTotals(*_TOTALS.unpack(data))


def unpack_report(key: bytes, value: bytes, gap_epoch: int) -> FlowReport:
    """A FlowReport from one entry of the table; gaps of an older epoch are none."""
    destination, source, destination_port, source_port = _KEY.unpack(key)
    numbers = _REPORT.unpack(value)
    packets, octets, first_ns, last_ns, max_gap_ns, gap_end_ns = numbers[:6]
    lost, reordered, duplicates, wrong_source, wrong_destination = numbers[6:11]
    ssrc, epoch, gap_lost, generated = numbers[12], numbers[13], numbers[14], numbers[18]
    current = epoch == gap_epoch
    return FlowReport(
        destination=_address(destination, destination_port),
        source=_address(source, source_port),
        ssrc=ssrc,
        packets=packets,
        first_ns=first_ns,
        last_ns=last_ns,
        max_gap_ns=max_gap_ns if current else 0,
        gap_end_ns=gap_end_ns if current else 0,
        lost=lost,
        reordered=reordered,
        duplicates=duplicates,
        wrong_source=wrong_source,
        wrong_destination=wrong_destination,
        generated=bool(generated),
        bytes=octets,
        gap_lost=gap_lost if current else 0,
    )


def never_arrived(spec: Expected | StreamSpec) -> FlowReport:
    """The report of an expected flow without a packet."""
    return FlowReport(
        destination=spec.destination,
        source=spec.source,
        ssrc=spec.ssrc,
        packets=0,
        first_ns=0,
        last_ns=0,
        max_gap_ns=0,
        gap_end_ns=0,
        lost=0,
        reordered=0,
        duplicates=0,
        wrong_source=0,
        wrong_destination=0,
        generated=True,
    )
