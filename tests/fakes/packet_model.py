"""A plain Python model of the packet program: a frame in, an outcome and a frame out.

Written from the rules (docs of bgf/media, RFC 768, 791, 3550, 7915, 8200), not from the program: it
keeps flows as values, knows no map, no layout and no flag, and computes every checksum from the
whole packet where it can. Time is an argument. Property tests hold it and the program together.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from bgf.media.datapath import Outcome, PeerLearned
from bgf.model import (
    Address,
    Component,
    Counters,
    Flow,
    FlowKey,
    Gate,
    Latch,
    RtpStatistics,
)

IP4, IP6, VLAN, QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
ICMP, TCP, UDP, ICMP6, FRAGMENT = 1, 6, 17, 58, 44
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
ICMP_ERRORS = (3, 4, 5, 11, 12)
SBFD_PORT = 7784
NS = 1_000_000_000
DROPOUT_MAX, MISORDER_MAX = 3_000, 100  # RFC 3550 A.1
_SBFD = struct.Struct(">BBBBIIIII")


@dataclass(frozen=True)
class Interface:
    """A realm's interface; its frames carry `vlan` on `device`, none when that is 0."""

    device: str
    mac: bytes
    vlan: int = 0
    mtu: int = 1_500


@dataclass(frozen=True)
class Ran:
    """`interface` is where the frame leaves; both are empty for what is dropped. `passed` are the
    pinholes that it has gone through."""

    outcome: Outcome
    interface: Interface | None = None
    frame: bytes = b""
    passed: tuple[FlowKey, ...] = ()


def ones_sum(data: bytes) -> int:
    """Of 16-bit words in network order (RFC 1071)."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def raw(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


@dataclass
class Datagram:
    """What a whole UDP packet is. `word` is IPv4's identification and fragment word."""

    source: Address
    target: Address
    hops: int
    tos: int
    checksum: int
    body: bytes  # UDP payload
    trailer: bytes = b""  # of the IP packet, behind the UDP datagram
    word: bytes = bytes(4)
    label: int = 0
    padding: bytes = b""  # of the frame, behind the IP packet

    @property
    def six(self) -> bool:
        return ":" in self.target.host

    @property
    def ip_bytes(self) -> int:
        return (40 if self.six else 20) + 8 + len(self.body) + len(self.trailer)

    def pseudo(self) -> bytes:
        ports = struct.pack(">HH", self.source.port, self.target.port)
        return raw(self.source.host) + raw(self.target.host) + ports

    def encode(self) -> bytes:
        udp = struct.pack(
            ">HHHH", self.source.port, self.target.port, 8 + len(self.body), self.checksum
        )
        payload = udp + self.body + self.trailer
        if self.six:
            first = 6 << 28 | self.tos << 20 | self.label
            head = struct.pack(">IHBB", first, len(payload), UDP, self.hops)
            head += raw(self.source.host) + raw(self.target.host)
        else:
            head = struct.pack(">BBH", 0x45, self.tos, 20 + len(payload)) + self.word
            head += bytes((self.hops, UDP, 0, 0)) + raw(self.source.host) + raw(self.target.host)
            head = head[:10] + struct.pack(">H", ~ones_sum(head) & 0xFFFF) + head[12:]
        return head + payload + self.padding


@dataclass
class _Bucket:
    """A token bucket, filled in whole nanoseconds' worth."""

    rate: int
    burst: int
    tokens: Fraction = Fraction(0)
    at_ns: int = 0

    def fill(self, now_ns: int) -> None:
        grown = self.tokens + Fraction(self.rate * (now_ns - self.at_ns), NS)
        self.tokens, self.at_ns = min(Fraction(self.burst), grown), now_ns


@dataclass
class _Stream:
    """What is remembered of one pinhole."""

    counters: Counters = field(default_factory=Counters)
    buckets: list[_Bucket] = field(default_factory=list)
    peer: Address | None = None
    peer_mac: bytes = b""
    peer_realm: str = ""
    learning: bool = True
    rtp: RtpStatistics = field(default_factory=RtpStatistics)
    highest: int | None = None
    earlier: int = 0
    first: int = 0
    last_ns: int = 0
    transit: int = 0
    jitter16: int = 0


class PacketModel:
    """`next_hop` tells the MAC address towards a host in a realm, None when it is not known."""

    def __init__(
        self,
        groups: Sequence[str],
        realms: dict[str, Interface],
        guarded: set[str],
        next_hop: Callable[[str, str], bytes | None],
    ) -> None:
        self.realms = realms
        self.guarded = guarded
        self.discriminator = 0
        self.deadlines = dict.fromkeys(groups, 0)
        self.flows: dict[FlowKey, Flow] = {}
        self.streams: dict[FlowKey, _Stream] = {}
        self.next_hop = next_hop
        self._followers: dict[FlowKey, set[FlowKey]] = {}
        self._ends: dict[FlowKey, Address | None] = {}  # where followers lead by themselves
        self.learned: list[PeerLearned] = []

    # ---- pinholes -------------------------------------------------------------------------------

    def install(self, flow: Flow, now_ns: int) -> None:
        old, new = self.flows.get(flow.key), flow
        stream = self.streams.setdefault(flow.key, _Stream())
        self._unfollow(flow.key)
        self.flows[flow.key] = flow
        if flow.follows:
            self._followers.setdefault(flow.reverse_key, set()).add(flow.key)
        was = (old.policer if old else None, old is None)
        if was != (flow.policer, False):
            policer = flow.policer
            pairs = [] if policer is None else [
                (policer.sustained_bytes_s, policer.burst_bytes),
                (policer.peak_bytes_s, policer.peak_burst_bytes),
            ]  # fmt: skip
            stream.buckets = [_Bucket(r, b, Fraction(b), now_ns) for r, b in pairs if r]
        if new.latch.learns:
            self._settle(stream, old, new)
        self._lead(flow.key)

    @staticmethod
    def _settle(stream: _Stream, old: Flow | None, new: Flow) -> None:
        fresh = old is None or not old.latch.learns or old.latch_round != new.latch_round
        if fresh:
            kept = stream.peer if new.latch is Latch.RELATCH and old else None
            stream.peer = new.learned or kept
            stream.peer_mac = stream.peer_mac if stream.peer == kept else b""
            stream.learning = stream.peer is None or new.latch is Latch.RELATCH
        elif new.learned is not None and (stream.learning or not stream.peer_mac):
            if new.learned != stream.peer:
                stream.peer, stream.peer_mac = new.learned, b""
                stream.learning = new.latch is Latch.RELATCH
            elif new.latch is Latch.LATCH:
                stream.learning = False

    def _lead(self, key: FlowKey) -> None:
        """Those who follow this flow, and itself, lead to who has been learned by now."""
        for follower in (key, *self._followers.get(key, ())):
            flow = self.flows.get(follower)
            if flow is None or not flow.follows:
                continue
            leader, end = self.flows.get(flow.reverse_key), flow.remote
            peer = self.streams[leader.key].peer if leader and leader.latch.learns else None
            if peer is not None and (end is None or end.host != peer.host):
                end = peer
            self._ends[follower] = end

    def _unfollow(self, key: FlowKey) -> None:
        flow = self.flows.get(key)
        if flow is not None:
            self._followers.get(flow.reverse_key, set()).discard(key)

    def remove(self, key: FlowKey) -> None:
        self._unfollow(key)
        self.flows.pop(key, None)
        self.streams.pop(key, None)
        self._lead(key)

    def relatch(self, key: FlowKey) -> None:
        flow, stream = self.flows.get(key), self.streams.get(key)
        if flow and stream and flow.latch.learns:
            if flow.latch is Latch.LATCH:
                stream.peer, stream.peer_mac = None, b""
            stream.learning = True
            self._lead(key)

    # ---- a frame --------------------------------------------------------------------------------

    def run(self, frame: bytes, device: str, now_ns: int, traced: bool = False) -> Ran:
        """What the program does with a frame that arrives on a device."""
        passed = Ran(Outcome.PASS, None, frame)
        if len(frame) < 14:
            return passed
        kind, at, vlan = int.from_bytes(frame[12:14]), 14, 0
        if kind in (VLAN, QINQ):
            if len(frame) < 18:
                return passed
            vlan, inner, at = int.from_bytes(frame[14:16]) & 0xFFF, int.from_bytes(frame[16:18]), 18
            if kind == QINQ or inner == VLAN:
                vlan = -1
            kind = inner
        here = [r for r, i in self.realms.items() if (i.device, i.vlan) == (device, vlan)]
        if not here:
            return Ran(Outcome.VLAN, None, frame) if vlan else passed
        if self.realms[here[0]].mac != frame[:6] or kind not in (IP4, IP6):
            return passed
        parse = _parse4 if kind == IP4 else _parse6
        outcome, host, packet = parse(frame[at:])
        if outcome is Outcome.PASS:
            return passed
        if packet is not None and packet.target.port == SBFD_PORT:
            answer = self._reflect(packet)
            if answer:
                head = frame[6:12] + frame[:6] + frame[12:at]
                return Ran(Outcome.REFLECT, self.realms[here[0]], head + answer)
        if packet is not None:
            ran = self._forward(packet, here, frame[6:12], now_ns, traced)
            if ran:
                return ran
            outcome = Outcome.NO_PINHOLE
        if host not in self.guarded and not (outcome is Outcome.RUNT and not host):
            return passed
        kept = frame if outcome in (Outcome.ICMP, Outcome.ICMP_ERROR) else b""
        return Ran(outcome, None, kept)

    def _at(self, address: Address, realms: Sequence[str]) -> Flow | None:
        flow = self.flows.get(FlowKey(address.host, address.port))
        wires = [(self.realms[r].device, self.realms[r].vlan) for r in realms]
        if flow is None:
            return None
        arrives = self.realms[flow.realm_in]
        return flow if (arrives.device, arrives.vlan) in wires else None

    def _forward(
        self, packet: Datagram, realms: Sequence[str], mac: bytes, now_ns: int, traced: bool
    ) -> Ran | None:
        flow = self._at(packet.target, realms)
        if flow is None:
            return None
        aside = self._aside(flow, packet, realms, now_ns)
        if isinstance(aside, Ran):
            return aside
        flow = aside
        if flow is None:
            return None
        seen, passed = packet, [flow.key]
        for turned in (False, True):
            stream = self.streams[flow.key]
            sender = b"" if turned else mac
            outcome = self._judge(flow, seen, sender, now_ns=now_ns, traced=traced)
            if outcome is not Outcome.FORWARD:
                return Ran(outcome)
            remote, hop, elsewhere = self._aim(flow)
            if remote is None:
                return Ran(Outcome.NO_PEER)
            second = None
            if not turned and (remote.host in self.guarded or elsewhere):
                second = self._at(remote, [flow.realm_out])
                if second and second.demux and _is_rtcp(packet.body):
                    second = self._at(_next_port(remote), [flow.realm_out])
                if second and now_ns >= self.deadlines[second.group]:
                    second = None
            tos = seen.tos if flow.dscp is None else flow.dscp << 2 | seen.tos & 3
            sent = Datagram(
                flow.local_out, remote, seen.hops - 1, tos, 0, packet.body, packet.trailer
            )
            if second is None:
                break
            if not self._police(stream, seen.ip_bytes, now_ns, traced):
                return Ran(Outcome.POLICED)
            if not traced:
                self._account(flow, stream, packet, now_ns)
            flow, seen = second, sent
            passed.append(flow.key)
        if hop is None:
            return Ran(Outcome.NO_NEIGHBOUR)
        leaves, next_mac = hop
        if sent.ip_bytes > leaves.mtu:
            return Ran(Outcome.TOO_BIG)
        if not self._police(stream, seen.ip_bytes, now_ns, traced):
            return Ran(Outcome.POLICED)
        self._finish(packet, sent)
        head = next_mac + leaves.mac
        if leaves.vlan:
            head += struct.pack(">HH", VLAN, sent.tos >> 5 << 13 | leaves.vlan)
        frame = head + struct.pack(">H", IP6 if sent.six else IP4) + sent.encode()
        if not traced:
            self._account(flow, stream, packet, now_ns)
        return Ran(Outcome.FORWARD, leaves, frame, tuple(passed))

    def _aside(
        self, flow: Flow, packet: Datagram, realms: Sequence[str], now_ns: int
    ) -> Flow | Ran | None:
        """RFC 7983: a STUN check is taken off the way, RTCP may have another pinhole to go by."""
        if flow.demux and _is_rtcp(packet.body):
            return self._at(_next_port(packet.target), realms)
        if flow.ice and _is_stun(packet.body) and now_ns < self.deadlines[flow.group]:
            return Ran(Outcome.CHECK)
        return flow

    def _judge(
        self, flow: Flow, packet: Datagram, mac: bytes, *, now_ns: int, traced: bool
    ) -> Outcome:
        stream = self.streams[flow.key]
        if now_ns >= self.deadlines[flow.group]:
            return Outcome.DISARMED
        if flow.gate is not Gate.OPEN or (flow.remote is None and not flow.follows):
            return Outcome.GATE_CLOSED
        if not flow.source.admits(packet.source):
            return Outcome.BAD_SOURCE
        if flow.rtp and not self._is_rtp(flow, packet.body):
            return Outcome.BAD_RTP
        if flow.latch.learns and packet.source != stream.peer:
            if not stream.learning:
                return Outcome.BAD_SOURCE
            if not traced:
                stream.peer, stream.peer_mac, stream.learning = packet.source, mac, False
                stream.peer_realm = flow.realm_in
                self.learned.append(PeerLearned(flow.key, packet.source, flow.latch_round))
        return Outcome.TTL if packet.hops <= 1 else Outcome.FORWARD

    @staticmethod
    def _kind(flow: Flow, body: bytes) -> Component | None:
        """RTP, RTCP or neither, by the first bytes (RFC 5761 section 4)."""
        control = len(body) >= 8 and 192 <= body[1] <= 223
        if flow.component is Component.RTCP or (flow.rtcp_mux and control):
            return Component.RTCP if control and body[0] >> 6 == 2 else None
        if len(body) < 12 or body[0] >> 6 != 2 or len(body) < 12 + 4 * (body[0] & 15):
            return None
        return Component.RTP

    def _is_rtp(self, flow: Flow, body: bytes) -> bool:
        assert flow.rtp is not None
        kind = self._kind(flow, body)
        if kind is Component.RTP and flow.rtp.payload_types:
            return body[1] & 0x7F in flow.rtp.payload_types
        return kind is not None or not flow.rtp.check

    def _aim(self, flow: Flow) -> tuple[Address | None, tuple[Interface, bytes] | None, bool]:
        """Where to, by which next hop, and whether that may be another pinhole here."""
        remote, hop = self._ends[flow.key] if flow.follows else flow.remote, None
        if remote is not None:
            mac = self.next_hop(flow.realm_out, remote.host)
            hop = (self.realms[flow.realm_out], mac) if mac else None
        back, source = self.streams.get(flow.reverse_key), self.flows.get(flow.reverse_key)
        if not flow.follows or back is None or source is None or not source.latch.learns:
            return remote, hop, False
        if back.peer is None:
            return remote, hop, False
        if hop is not None and remote is not None and remote.host == back.peer.host:
            return back.peer, hop, False
        if back.peer_mac:
            return back.peer, (self.realms[back.peer_realm], back.peer_mac), False
        return back.peer, hop, True

    @staticmethod
    def _police(stream: _Stream, ip_bytes: int, now_ns: int, traced: bool) -> bool:
        for bucket in stream.buckets:
            bucket.fill(now_ns)
        if any(bucket.tokens < ip_bytes for bucket in stream.buckets):
            return False
        for bucket in stream.buckets:
            bucket.tokens -= 0 if traced else ip_bytes
        return True

    @staticmethod
    def _finish(packet: Datagram, sent: Datagram) -> None:
        """What the packet's own fields and its checksum become."""
        sent.padding = packet.padding
        if packet.six == sent.six:
            sent.word, sent.label = packet.word, packet.label
        else:
            sent.word = bytes.fromhex("00004000")  # as IPv6 senders do: do not fragment
        if packet.checksum:
            # A wrong one must come out wrong by as much.
            difference = ~ones_sum(packet.pseudo()) & 0xFFFF
            total = struct.pack(">HH", ~packet.checksum & 0xFFFF, difference)
            sent.checksum = ~ones_sum(total + sent.pseudo()) & 0xFFFF or 0xFFFF
        elif sent.six:
            length = 8 + len(sent.body)
            whole = sent.pseudo() + struct.pack(">III", length, UDP, length << 16) + sent.body
            sent.checksum = ~ones_sum(whole) & 0xFFFF or 0xFFFF

    def _account(self, flow: Flow, stream: _Stream, packet: Datagram, now_ns: int) -> None:
        octets = len(packet.body)
        old = stream.counters
        stream.counters = Counters(old.packets + 1, old.bytes + octets, now_ns)
        kind = self._kind(flow, packet.body) if flow.rtp else None
        if kind is Component.RTCP:
            stream.rtp = stream.rtp._replace(rtcp_packets=stream.rtp.rtcp_packets + 1)
        elif kind is Component.RTP:
            self._observe(flow, stream, packet.body, now_ns)

    @staticmethod
    def _observe(flow: Flow, stream: _Stream, body: bytes, now_ns: int) -> None:
        assert flow.rtp is not None
        sequence, stamp, ssrc = struct.unpack_from(">HII", body, 2)
        told = stream.rtp
        arrival = now_ns * flow.rtp.clock_hz // NS
        transit = (arrival - stamp) & 0xFFFFFFFF
        ahead = 0 if stream.highest is None else (sequence - stream.highest) & 0xFFFF
        jumped = DROPOUT_MAX <= ahead <= 0x10000 - MISORDER_MAX
        if stream.highest is None or ssrc != told.ssrc or jumped:
            if stream.highest is not None:
                stream.earlier += stream.highest - stream.first + 1
                changed = ssrc != told.ssrc
                told = told._replace(
                    ssrc_changes=told.ssrc_changes + changed, restarts=told.restarts + (not changed)
                )
            stream.highest = stream.first = sequence
        elif ahead < DROPOUT_MAX:
            stream.highest += ahead
        if told.packets and ssrc == stream.rtp.ssrc:
            change = (transit - stream.transit) & 0xFFFFFFFF
            change = min(change, 0x100000000 - change)
            stream.jitter16 += change - ((stream.jitter16 + 8) >> 4)
        stream.transit = transit
        gap = (now_ns - stream.last_ns) // 1_000 if stream.last_ns else 0
        stream.last_ns = now_ns
        expected = stream.earlier + stream.highest - stream.first + 1
        stream.rtp = told._replace(
            packets=told.packets + 1,
            bytes=told.bytes + len(body),
            expected=expected,
            lost=expected - told.packets - 1,
            jitter=stream.jitter16 >> 4,
            clock_hz=flow.rtp.clock_hz,
            ssrc=ssrc,
            gap_max_us=max(told.gap_max_us, gap),
        )

    def _reflect(self, packet: Datagram) -> bytes | None:
        """RFC 7880: what a reflector of this node's discriminator answers, if it does."""
        body = packet.body
        if len(body) < _SBFD.size or packet.source.port == SBFD_PORT:
            return None
        version, flags, multiplier, length, mine, yours, *intervals = _SBFD.unpack_from(body)
        bad = version >> 5 != 1 or not multiplier or not mine or flags & 0x05
        if bad or not 24 <= length <= len(body):
            return None
        if not self.discriminator or yours != self.discriminator:
            return None
        final = 0x10 if flags & 0x20 else 0
        head = _SBFD.pack(0x20, 0xC8 | final, multiplier, length, yours, mine, *intervals)
        checksum = packet.checksum
        if checksum:
            change = struct.pack(">HH", ~checksum & 0xFFFF, ~ones_sum(body[:2]) & 0xFFFF)
            checksum = ~ones_sum(change + head[:2]) & 0xFFFF or 0xFFFF
        return Datagram(
            packet.target, packet.source, 255, packet.tos, checksum, head + body[_SBFD.size :],
            packet.trailer, packet.word, packet.label, packet.padding,
        ).encode()  # fmt: skip


def _is_rtcp(body: bytes) -> bool:
    return len(body) >= 8 and body[0] >> 6 == 2 and 192 <= body[1] <= 223


def _is_stun(body: bytes) -> bool:
    """By its header alone (RFC 8489 section 5)."""
    if len(body) < 20 or body[0] > 3 or body[4:8] != bytes.fromhex("2112a442"):
        return False
    return int.from_bytes(body[2:4]) % 4 == 0


def _next_port(address: Address) -> Address:
    return Address(address.host, address.port + 1)


def _parse4(data: bytes) -> tuple[Outcome, str, Datagram | None]:
    """The outcome at a guarded address, that address, and the packet when it is whole."""
    if len(data) < 20:
        return Outcome.RUNT, "", None
    if data[0] >> 4 != 4:
        return Outcome.PASS, "", None
    host, words = text(data[16:20]), data[0] & 15
    if data[9] == ICMP:
        error = words == 5 and len(data) > 20 and data[20] in ICMP_ERRORS
        return Outcome.ICMP_ERROR if error else Outcome.ICMP, host, None
    if data[9] != UDP:
        return Outcome.NO_PINHOLE, host, None
    if int.from_bytes(data[6:8]) & 0x3FFF:
        return Outcome.FRAGMENT, host, None
    if words != 5:
        return Outcome.OPTIONS if words > 5 else Outcome.MALFORMED, host, None
    if len(data) < 28:
        return Outcome.RUNT, host, None
    total = int.from_bytes(data[2:4])
    length = int.from_bytes(data[24:26])
    if total > len(data) or length < 8 or length + 20 > total or ones_sum(data[:20]) != 0xFFFF:
        return Outcome.MALFORMED, host, None
    ports = struct.unpack_from(">HHHH", data, 20)
    packet = Datagram(
        Address(text(data[12:16]), ports[0]), Address(host, ports[1]), data[8], data[1], ports[3],
        data[28 : 20 + length], data[20 + length : total], data[4:8], 0, data[total:],
    )  # fmt: skip
    return Outcome.FORWARD, host, packet


def _parse6(data: bytes) -> tuple[Outcome, str, Datagram | None]:
    if len(data) < 40:
        return Outcome.RUNT, "", None
    if data[0] >> 4 != 6:
        return Outcome.PASS, "", None
    mapped = b"\0" * 10 + b"\xff\xff"
    target = data[24:40]
    host = text(target[12:] if target.startswith(mapped) else target)
    if data[6] == ICMP6:
        error = len(data) > 40 and data[40] < 128
        return Outcome.ICMP_ERROR if error else Outcome.ICMP, host, None
    if data[6] == FRAGMENT:
        return Outcome.FRAGMENT, host, None
    if data[6] != UDP:
        return Outcome.OPTIONS if data[6] in EXTENSIONS else Outcome.NO_PINHOLE, host, None
    if len(data) < 48:
        return Outcome.RUNT, host, None
    payload = int.from_bytes(data[4:6])
    ports = struct.unpack_from(">HHHH", data, 40)
    bad = payload > len(data) - 40 or not 8 <= ports[2] <= payload or not ports[3]
    if bad or data[8:].startswith(mapped) or target.startswith(mapped):
        return Outcome.MALFORMED, host, None
    first = int.from_bytes(data[:4])
    packet = Datagram(
        Address(text(data[8:24]), ports[0]), Address(host, ports[1]), data[7], first >> 20 & 0xFF,
        ports[3], data[48 : 40 + ports[2]], data[40 + ports[2] : 40 + payload], bytes(4),
        first & 0xFFFFF, data[40 + payload :],
    )  # fmt: skip
    return Outcome.FORWARD, host, packet
