"""The RTP load generator and the outage meter on real veth pairs through a bridge.

Packets to the meter program are tables (sequence in, report out); the rest is two or three hosts
on a switch. No assertion is an upper bound on time.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bgf.errors import EnvironmentProblem, Misuse
from bgf.lab import _rtpload, namespaces, rtpwire
from bgf.lab.rtpload import (
    Expected,
    FlowReport,
    Generator,
    Meter,
    StreamSpec,
    outage,
)
from bgf.lab.rtpsegment import INTERFACE, Segment
from bgf.media import _xdp
from bgf.model import Address

WAIT_MAX_S = 20.0
POLL_S = 0.02
XDP_DROP, XDP_PASS = 1, 2
PREFIX = f"bgf-t-rtp-{os.getpid() % 10_000}"
HOSTS = {
    "a": ("10.9.0.1/24", "fd00:9::1/64"),
    "b": ("10.9.0.2/24", "fd00:9::2/64"),
    "c": ("10.9.0.3/24", "fd00:9::3/64"),
}

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and XDP need root"),
    pytest.mark.timeout(120),
]


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait, with a bound far beyond any load of the machine, until `check` holds."""
    deadline = time.monotonic() + WAIT_MAX_S
    while not check():
        assert time.monotonic() < deadline, f"not within {WAIT_MAX_S} s: {what}"
        time.sleep(POLL_S)


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment(PREFIX, HOSTS) as made:
        yield made


def streams_to(host4: str, host6: str, count: int) -> list[StreamSpec]:
    """Half of them over each family; every port different."""
    made = []
    for i in range(count):
        source, target = ("10.9.0.1", host4) if i % 2 else ("fd00:9::1", host6)
        made.append(
            StreamSpec(Address(source, 4000 + 2 * i), Address(target, 6000 + 2 * i), 1000 + i)
        )
    return made


def at_least(meter: Meter, packets: int) -> Callable[[], bool]:
    return lambda: all(f.packets >= packets for f in meter.flows())


# -- generator and meter together ---------------------------------------------------------------


def test_every_packet_of_every_flow_arrives_once_in_order_and_right(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 60)
    with Meter(segment.namespace("b"), INTERFACE) as meter:
        meter.expect(streams)
        with Generator(segment.namespace("a"), INTERFACE, streams) as generator:
            generator.start()
            eventually(at_least(meter, 50), "50 packets of each flow")
            counts = generator.stop()
        eventually(lambda: meter.totals().generated == counts.sent, "the last packets")
        totals, flows = meter.totals(), meter.flows()
    assert counts.failed == 0
    assert (totals.bad_checksum, totals.wrong_source, totals.wrong_destination) == (0, 0, 0)
    assert totals.table_full == 0
    assert {(f.destination, f.source, f.ssrc) for f in flows} == {
        (s.destination, s.source, s.ssrc) for s in streams
    }
    assert sum(f.packets for f in flows) == counts.sent
    assert all((f.lost, f.reordered, f.duplicates) == (0, 0, 0) for f in flows)
    assert all(f.generated and f.bytes == f.packets * 172 for f in flows)
    assert all(0 < f.max_gap_ns <= f.last_ns - f.first_ns for f in flows)


def test_a_real_socket_accepts_the_packets_and_their_numbers_are_continuous(
    segment: Segment,
) -> None:
    """The receiving kernel verifies IPv4, UDP and both families' checksums itself."""
    streams = streams_to("10.9.0.2", "fd00:9::2", 2)
    sockets = []
    for stream in streams:
        family = socket.AF_INET6 if ":" in stream.destination.host else socket.AF_INET
        receiver = namespaces.socket_in(segment.namespace("b"), family, socket.SOCK_DGRAM)
        receiver.bind((stream.destination.host, stream.destination.port))
        receiver.settimeout(WAIT_MAX_S)
        sockets.append(receiver)
    try:
        with (
            Meter(segment.namespace("b"), INTERFACE, pass_generated=True),
            Generator(segment.namespace("a"), INTERFACE, streams) as generator,
        ):
            generator.start()
            for receiver, stream in zip(sockets, streams, strict=True):
                packets = [receiver.recvfrom(2048) for _ in range(20)]
                assert {p[1][:2] for p in packets} == {(stream.source.host, stream.source.port)}
                rtp = [struct.unpack("!BBHII4sI", p[0][:20]) for p in packets]
                assert {(r[0], r[1], r[4], r[5], r[6]) for r in rtp} == {
                    (0x80, 0, stream.ssrc, rtpwire.MAGIC, stream.ssrc)
                }
                assert all(len(p[0]) == 172 and p[0][36:] == b"\xff" * 136 for p in packets)
                first, stamp = rtp[0][2], rtp[0][3]
                assert [(r[2] - first) % 65536 for r in rtp] == list(range(20))
                skipped = generator.counts().skipped
                steps = [(r[3] - stamp) % 2**32 for r in rtp]
                assert all(s % 160 == 0 for s in steps)
                assert skipped or steps == [160 * i for i in range(20)]
    finally:
        for receiver in sockets:
            receiver.close()


def test_a_cut_link_is_a_gap_of_every_flow(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 20)
    with Meter(segment.namespace("b"), INTERFACE) as meter:
        meter.expect(streams)
        with Generator(segment.namespace("a"), INTERFACE, streams) as generator:
            generator.start()
            eventually(at_least(meter, 10), "steady state")
            meter.reset_gaps()
            t0 = now()
            segment.plug("b", False)
            cut = now()
            time.sleep(0.25)
            restored = now()
            segment.plug("b", True)
            eventually(lambda: all(f.last_ns > restored for f in meter.flows()), "flows are back")
            flows, read = meter.flows(), now()
            assert len(flows) == len(streams)
            for flow in flows:
                assert flow.max_gap_ns >= restored - cut
                assert flow.gap_end_ns >= restored
                assert flow.lost >= flow.gap_lost > 0
                silence = outage(flow, t0, read)
                # A loaded machine may have been late again by the time of reading: still no less.
                assert silence.duration_ns >= restored - cut or not silence.recovered


def test_a_flow_that_stays_away_is_reported_as_such(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 4)
    elsewhere = Expected(Address("10.9.0.2", 9000), Address("10.9.0.9", 9000), 77)
    with Meter(segment.namespace("b"), INTERFACE) as meter:
        meter.expect([*streams, elsewhere])
        with Generator(segment.namespace("a"), INTERFACE, streams) as generator:
            generator.start()
            eventually(
                lambda: sum(f.packets >= 5 for f in meter.flows()) == len(streams), "steady state"
            )
            t0 = now()
            segment.plug("b", False)
            cut = now()
            time.sleep(0.25)
            flows, read = meter.flows(), now()
    assert len(flows) == len(streams) + 1
    for flow in flows:
        silence = outage(flow, t0, read)
        assert silence.end_ns is None and not silence.recovered
        assert silence.duration_ns >= read - cut
    (never,) = [f for f in flows if f.packets == 0]
    assert (never.destination, never.source, never.ssrc) == (
        elsewhere.destination,
        elsewhere.source,
        77,
    )


def _announce(netns: str, host4: str, host6: str) -> None:
    """A gratuitous ARP request and an unsolicited NA from `netns`, as a takeover sends them."""
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
    from scapy.layers.l2 import ARP, Ether

    from bgf.lab.rtpneigh import hardware_address

    def work() -> None:
        mac = hardware_address(INTERFACE).hex(":")
        frames = [
            Ether(dst="ff:ff:ff:ff:ff:ff", src=mac)
            / ARP(op=1, hwsrc=mac, psrc=host4, hwdst="00:00:00:00:00:00", pdst=host4),
            Ether(dst="33:33:00:00:00:01", src=mac)
            / IPv6(src=host6, dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(R=0, S=0, O=1, tgt=host6)
            / ICMPv6NDOptDstLLAddr(lladdr=mac),
        ]
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((INTERFACE, 0))
            for frame in frames:
                wire.send(bytes(frame))

    namespaces.run_in(netns, work)


def test_an_address_that_moves_is_followed(segment: Segment) -> None:
    """b holds the moving addresses, c takes them over and announces them: all flows go to c."""
    moving = ("10.9.0.100/24", "fd00:9::100/64")
    for address in moving:
        segment.give("b", address)
    streams = streams_to("10.9.0.100", "fd00:9::100", 10)
    with (
        Meter(segment.namespace("b"), INTERFACE) as old,
        Meter(segment.namespace("c"), INTERFACE) as new,
    ):
        old.expect(streams)
        new.expect(streams)
        with Generator(segment.namespace("a"), INTERFACE, streams) as generator:
            generator.start()
            eventually(at_least(old, 10), "steady state at b")
            assert all(f.packets == 0 for f in new.flows())
            for address in moving:
                segment.take("b", address)
                segment.give("c", address)
            _announce(segment.namespace("c"), "10.9.0.100", "fd00:9::100")
            eventually(at_least(new, 10), "all flows at c")
            counts = generator.stop()
        eventually(
            lambda: old.totals().generated + new.totals().generated == counts.sent, "the last ones"
        )
        assert counts.mac_changes == len(moving)
        after = {f.ssrc: f for f in new.flows()}
        for flow in old.flows():
            assert flow.lost == 0
            assert flow.last_ns < after[flow.ssrc].last_ns
        assert all(f.lost == 0 for f in after.values())


def test_wrong_source_and_wrong_destination_are_counted(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 4)
    right, swapped_a, swapped_b, displaced = streams[0], streams[1], streams[3], streams[2]
    with Meter(segment.namespace("b"), INTERFACE) as meter:
        meter.expect(
            [
                right,
                Expected(swapped_a.destination, swapped_a.source, swapped_b.ssrc),
                Expected(swapped_b.destination, swapped_b.source, swapped_a.ssrc),
                Expected(displaced.destination, Address("fd00:9::77", 1), displaced.ssrc),
            ]
        )
        with Generator(segment.namespace("a"), INTERFACE, streams) as generator:
            generator.start()
            eventually(lambda: meter.totals().generated >= 40, "some packets")
            counts = generator.stop()
        eventually(lambda: meter.totals().generated == counts.sent, "the last packets")
        totals = meter.totals()
        flows = {(f.destination, f.source): f for f in meter.flows()}
    for stream in (swapped_a, swapped_b):
        report = flows[(stream.destination, stream.source)]
        assert report.packets == 0 and report.wrong_destination > 0 and report.wrong_source == 0
    report = flows[(displaced.destination, displaced.source)]
    assert report.packets == report.wrong_source > 0 and report.wrong_destination == 0
    assert flows[(displaced.destination, Address("fd00:9::77", 1))].packets == 0
    report = flows[(right.destination, right.source)]
    assert report.packets > 0 and (report.wrong_source, report.wrong_destination) == (0, 0)
    assert totals.wrong_source == flows[(displaced.destination, displaced.source)].wrong_source
    assert totals.wrong_destination == sum(f.wrong_destination for f in flows.values())


def test_other_rtp_is_recorded_and_reaches_its_socket(segment: Segment) -> None:
    receiver = namespaces.socket_in(segment.namespace("b"), socket.AF_INET, socket.SOCK_DGRAM)
    sender = namespaces.socket_in(segment.namespace("a"), socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender, Meter(segment.namespace("b"), INTERFACE) as meter:
        receiver.bind(("10.9.0.2", 7000))
        receiver.settimeout(WAIT_MAX_S)
        sender.bind(("10.9.0.1", 7002))
        for i in range(5):
            sender.sendto(_rtp(i, 0xABCD, b"speech"), ("10.9.0.2", 7000))
        sender.sendto(b"OPTIONS sip:x SIP/2.0\r\n\r\n", ("10.9.0.2", 7000))
        assert [len(receiver.recv(2048)) for _ in range(6)] == [18, 18, 18, 18, 18, 25]
        (flow,) = meter.flows()
        assert (flow.destination, flow.source) == (
            Address("10.9.0.2", 7000),
            Address("10.9.0.1", 7002),
        )
        assert (flow.packets, flow.bytes, flow.ssrc, flow.lost) == (5, 90, 0xABCD, 0)
        assert not flow.generated and meter.totals().observed == 5
        assert meter.flows(since_ns=now()) == []


# -- resources and errors -----------------------------------------------------------------------


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_behind(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 2)
    before = _descriptors()
    with (
        Meter(segment.namespace("b"), INTERFACE),
        Generator(segment.namespace("a"), INTERFACE, streams) as generator,
    ):
        generator.start()
        pid = generator.pid
    assert _descriptors() == before
    assert not Path(f"/proc/{pid}").exists()
    # The interface is free again: a second meter finds no program there.
    with Meter(segment.namespace("b"), INTERFACE):
        pass


def test_problems_are_named(segment: Segment) -> None:
    streams = streams_to("10.9.0.2", "fd00:9::2", 2)
    before = _descriptors()
    with pytest.raises(EnvironmentProblem, match="bgf-t-rtp-none"):
        Meter("bgf-t-rtp-none", INTERFACE)
    with pytest.raises(EnvironmentProblem, match="no interface 'eth9'"):
        Meter(segment.namespace("b"), "eth9")
    with (
        Meter(segment.namespace("b"), INTERFACE),
        pytest.raises(EnvironmentProblem, match="another XDP program"),
    ):
        Meter(segment.namespace("b"), INTERFACE)
    with pytest.raises(EnvironmentProblem, match="enter network namespace 'bgf-t-rtp-none'"):
        Generator("bgf-t-rtp-none", INTERFACE, streams)
    with pytest.raises(EnvironmentProblem, match="no interface 'eth9'"):
        Generator(segment.namespace("a"), "eth9", streams)
    nobody = StreamSpec(Address("10.9.0.1", 1), Address("10.9.0.99", 2), 5)
    with pytest.raises(EnvironmentProblem, match=r"no hardware address for 10\.9\.0\.99"):
        Generator(segment.namespace("a"), INTERFACE, [nobody])
    with pytest.raises(Misuse, match="same ssrc"):
        Generator(segment.namespace("a"), INTERFACE, [nobody, nobody])
    with (
        Meter(segment.namespace("b"), INTERFACE, flows_max=1) as meter,
        pytest.raises(Misuse, match="flows_max"),
    ):
        meter.expect(streams)
    assert _descriptors() == before


# -- the meter program alone, packet by packet ---------------------------------------------------


class Bench:
    """The meter program unattached: frames go in by BPF_PROG_TEST_RUN, reports come out."""

    def __init__(self, flows: int = 16, **config: bool) -> None:
        self.fds = _rtpload.load(1, flows)
        self.configure(**config)

    def configure(self, gap_epoch: int = 0, check: bool = False, watch_all: bool = True) -> None:
        self.epoch = gap_epoch
        _xdp.map_update(
            self.fds["meter"],
            rtpwire.pack_index(0),
            rtpwire.pack_meter(gap_epoch, check, watch_all, False),
        )

    def run(self, frame: bytes) -> int:
        verdict, out, _, _ = _xdp.prog_test_run(self.fds["meter_program"], frame)
        assert out == frame, "the meter never changes a frame"
        return verdict

    def reports(self) -> list[FlowReport]:
        keys, values = _xdp.map_lookup_batch(self.fds["reports"])
        k, v = rtpwire.KEY_OCTETS, rtpwire.REPORT_OCTETS
        return [
            rtpwire.unpack_report(keys[i * k : i * k + k], values[i * v : i * v + v], self.epoch)
            for i in range(len(keys) // k)
        ]

    def totals(self) -> rtpwire.MeterTotals:
        held = _xdp.map_lookup(self.fds["totals"], rtpwire.pack_index(0))
        assert held is not None
        return rtpwire.unpack_totals(held)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for fd in made.fds.values():
        os.close(fd)


def _rtp(sequence: int, ssrc: int = 7, payload: bytes = b"\0" * 20, kind: int = 0) -> bytes:
    return struct.pack("!BBHII", 0x80, kind, sequence % 65536, 0, ssrc) + payload


def _frame(payload: bytes, host: str = "10.9.0.2", port: int = 6000, **ip: int) -> bytes:
    """A whole frame, checksums by scapy. `flags`, `frag` and the like go into the IPv4 header."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    layer = IPv6(src="fd00:9::1", dst=host) if ":" in host else IP(src="10.9.0.1", dst=host, **ip)
    return bytes(Ether() / layer / UDP(sport=4000, dport=port) / Raw(payload))


def _generated(flow: int, ssrc: int | None = None) -> bytes:
    stamp = rtpwire.MAGIC + struct.pack("!I", flow) + struct.pack("=QQ", now(), 0)
    return _rtp(1, flow if ssrc is None else ssrc, stamp + b"\xff" * 136)


SEQUENCES = [
    # sequence numbers, (lost, reordered, duplicates)
    ("continuous", range(10), (0, 0, 0)),
    ("wraps", [65534, 65535, 0, 1], (0, 0, 0)),
    ("one lost", [1, 2, 4, 5], (1, 0, 0)),
    ("lost at the wrap", [65534, 1], (2, 0, 0)),
    ("late, so not lost", [1, 2, 4, 3, 5], (0, 1, 0)),
    ("late beyond a wrap", [65534, 0, 65535], (0, 1, 0)),
    ("twice in a row", [1, 2, 2, 3], (0, 0, 1)),
    ("twice, later", [1, 2, 3, 4, 2], (0, 0, 1)),
    ("late and then twice", [1, 3, 2, 2], (0, 1, 1)),
    ("before the first", [10, 9, 11], (0, 1, 0)),
    ("a jump within the dropout limit", [0, 3000], (2999, 0, 0)),
    ("a jump beyond it, alone", [0, 3001, 1], (0, 1, 0)),
    ("a restart: two in a row elsewhere", [0, 30000, 30001, 30002], (0, 1, 0)),
    ("a restart backwards", [30000, 5, 6, 7], (0, 1, 0)),
    ("the window's last place", [0, 63, 0], (62, 0, 1)),
]


@pytest.mark.parametrize(("name", "numbers", "want"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_sequence_numbers(
    bench: Bench, name: str, numbers: Sequence[int], want: tuple[int, int, int]
) -> None:
    for number in numbers:
        assert bench.run(_frame(_rtp(number))) == XDP_PASS
    (report,) = bench.reports()
    assert (report.lost, report.reordered, report.duplicates) == want
    assert report.packets == len(numbers)


def test_a_new_ssrc_begins_a_new_sequence(bench: Bench) -> None:
    for number, ssrc in ((1, 7), (2, 7), (900, 8), (901, 8)):
        bench.run(_frame(_rtp(number, ssrc)))
    (report,) = bench.reports()
    assert (report.ssrc, report.lost, report.reordered) == (8, 0, 0)


NOT_RTP: dict[str, Callable[[], bytes]] = {
    "an RTCP sender report": lambda: _frame(_rtp(1, kind=0xC8)),
    "SIP": lambda: _frame(b"INVITE sip:x SIP/2.0\r\n\r\n"),
    "too short": lambda: _frame(_rtp(1)[:11]),
    "a first fragment": lambda: _frame(_rtp(1), flags=1),
    "a later fragment": lambda: _frame(_rtp(1), frag=3),
    "S-BFD": lambda: _frame(b"\x20" + b"\0" * 23),
    "a bare header": lambda: b"\xff" * 14,
    "ARP": lambda: b"\0" * 12 + b"\x08\x06" + b"\0" * 28,
    "a truncated IPv6 packet": lambda: _frame(_rtp(1), "fd00:9::2")[:60],
}


@pytest.mark.parametrize("name", NOT_RTP)
def test_what_is_not_rtp_passes_unrecorded(bench: Bench, name: str) -> None:
    assert bench.run(NOT_RTP[name]()) == XDP_PASS
    assert bench.reports() == [] and bench.totals().observed == 0


def test_only_watched_hosts_are_recorded(bench: Bench) -> None:
    bench.configure(watch_all=False)
    for host in ("10.9.0.2", "fd00:9::2"):
        _xdp.map_update(bench.fds["watched"], rtpwire.pack_host(host), rtpwire.pack_index(1))
    for host in ("10.9.0.2", "10.9.0.3", "fd00:9::2", "fd00:9::3"):
        assert bench.run(_frame(_rtp(1), host)) == XDP_PASS
    assert {r.destination.host for r in bench.reports()} == {"10.9.0.2", "fd00:9::2"}


@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
def test_generated_packets_are_consumed_and_their_checksum_is_verified(
    bench: Bench, host: str
) -> None:
    frame = _frame(_generated(5), host)
    assert bench.run(frame) == XDP_DROP
    assert (bench.totals().generated, bench.totals().bad_checksum) == (1, 0)
    wrong = bytearray(frame)
    wrong[-1] ^= 1
    assert bench.run(bytes(wrong)) == XDP_DROP
    assert (bench.totals().generated, bench.totals().bad_checksum) == (2, 1)
    wrong = bytearray(frame)
    at = len(frame) - rtpwire.UDP_OCTETS + 6
    wrong[at : at + 2] = b"\0\0"
    bench.run(bytes(wrong))
    assert bench.totals().bad_checksum == 2


def test_a_packet_of_another_stream_neither_ends_nor_hides_a_silence(bench: Bench) -> None:
    bench.configure(check=True)
    where = Address("10.9.0.2", 6000)
    _xdp.map_update(
        bench.fds["expected"],
        rtpwire.pack_endpoint(where),
        rtpwire.pack_expected(Address("10.9.0.1", 4000), 5),
    )
    bench.run(_frame(_generated(5)))
    (before,) = bench.reports()
    for stray in (_generated(6), _generated(5, ssrc=6), _generated(6, ssrc=5)):
        assert bench.run(_frame(stray)) == XDP_DROP
    bench.run(_frame(_generated(5), port=6002))  # nobody is expected there
    reports = {r.destination.port: r for r in bench.reports()}
    assert reports[6000].wrong_destination == 3
    assert (reports[6000].packets, reports[6000].last_ns) == (1, before.last_ns)
    assert (reports[6002].packets, reports[6002].wrong_destination) == (0, 1)
    assert bench.totals().wrong_destination == 4


def test_gaps_of_an_older_window_are_forgotten_and_an_open_one_is_kept(bench: Bench) -> None:
    for number in (1, 4):
        bench.run(_frame(_rtp(number)))
    (report,) = bench.reports()
    assert report.max_gap_ns > 0 and report.gap_end_ns == report.last_ns
    assert report.gap_lost == 2
    bench.configure(gap_epoch=1)
    (report,) = bench.reports()
    assert (report.max_gap_ns, report.gap_end_ns, report.gap_lost) == (0, 0, 0)
    silent_since = report.last_ns
    bench.run(_frame(_rtp(5)))
    (report,) = bench.reports()
    assert report.max_gap_ns == report.last_ns - silent_since
    assert report.gap_lost == 0
    assert report.gap_end_ns == report.last_ns


def test_a_full_table_is_said() -> None:
    bench = Bench(flows=2)
    try:
        for port in (6000, 6002, 6004, 6000):
            bench.run(_frame(_rtp(1), port=port))
        assert len(bench.reports()) == 2
        assert bench.totals().table_full == 1
    finally:
        for fd in bench.fds.values():
            os.close(fd)
