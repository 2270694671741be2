"""The flood, the sink and the bare forwarder, on real veth pairs and packet by packet.

No assertion is an upper bound on time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.errors import EnvironmentProblem, Misuse
from bgf.lab import namespaces, rtpbench
from bgf.lab.rtpbench import Bare, Rewrite, Sink
from bgf.lab.rtpload import Expected, Flood, Meter, StreamSpec
from bgf.lab.rtpsegment import INTERFACE, Segment
from bgf.model import Address

PREFIX = f"bgf-t-rtb-{os.getpid() % 10_000}"
HOSTS = {"a": ("10.9.0.1/24", "fd00:9::1/64"), "b": ("10.9.0.2/24", "fd00:9::2/64")}
WAIT_MAX_S = 20.0
STREAMS = 50

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and XDP need root"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment(PREFIX, HOSTS) as made:
        yield made


def streams() -> list[StreamSpec]:
    """Half of them over each family."""
    pairs = [("10.9.0.1", "10.9.0.2"), ("fd00:9::1", "fd00:9::2")]
    return [
        StreamSpec(Address(pairs[i % 2][0], 4000 + i), Address(pairs[i % 2][1], 6000 + i), i + 1)
        for i in range(STREAMS)
    ]


def settled(sink: Sink) -> int:
    """What has arrived, once nothing more does."""
    deadline = time.monotonic() + WAIT_MAX_S
    before = -1
    while (now := sink.arrivals().packets) != before:
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.1)
    return now


def test_a_paced_flood_sends_no_more_than_asked_and_all_of_it_arrives(segment: Segment) -> None:
    with (
        Sink(segment.namespace("b"), INTERFACE) as sink,
        Flood(segment.namespace("a"), INTERFACE, streams()) as flood,
    ):
        sink.time(True)
        began = time.monotonic()
        before = flood.run(2_000)
        assert before.sent == 0
        time.sleep(0.5)
        counts = flood.pause()
        took = time.monotonic() - began
        assert 0 < counts.sent <= 2_000 * took + 1
        assert settled(sink) == counts.sent == flood.counts().sent
        assert sink.arrivals().bytes == counts.sent * 172
        delays = sink.delays()
        assert delays.packets == counts.sent
        assert 0 < delays.percentile_ns(0.5) <= delays.percentile_ns(0.99)
        sink.time(False)
        flood.run(2_000)
        time.sleep(0.1)
        final = flood.stop()
        assert settled(sink) == final.sent > counts.sent
        assert sink.delays().packets == 0


def test_a_flood_is_good_rtp_in_turn_of_all_streams(segment: Segment) -> None:
    with Meter(segment.namespace("b"), INTERFACE) as meter:
        meter.expect(streams())
        with Flood(segment.namespace("a"), INTERFACE, streams()) as flood:
            flood.run(5_000)
            deadline = time.monotonic() + WAIT_MAX_S
            while not all(f.packets > 2 for f in meter.flows()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            sent = flood.stop().sent
        while meter.totals().generated < sent:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        totals, flows = meter.totals(), meter.flows()
    assert (totals.bad_checksum, totals.wrong_source, totals.wrong_destination) == (0, 0, 0)
    assert all((f.lost, f.reordered, f.duplicates) == (0, 0, 0) for f in flows)
    assert max(f.packets for f in flows) - min(f.packets for f in flows) <= 1


def test_rates_that_cannot_be_are_refused(segment: Segment) -> None:
    with Flood(segment.namespace("a"), INTERFACE, streams()[:1]) as flood:
        for rate in (-1, 10**9):
            with pytest.raises(Misuse, match="packets/s"):
                flood.run(rate)


def test_problems_are_named(segment: Segment) -> None:
    with pytest.raises(EnvironmentProblem, match="eth9"):
        Sink(segment.namespace("b"), "eth9")
    with (
        Sink(segment.namespace("b"), INTERFACE),
        pytest.raises(EnvironmentProblem, match="another XDP program"),
    ):
        Sink(segment.namespace("b"), INTERFACE)


# -- the bare forwarder --------------------------------------------------------------------------

MACS = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
REWRITE = Rewrite(*MACS, "10.8.0.1", "10.8.0.9", "fd00:8::1", "fd00:8::9")


@pytest.mark.parametrize("host", ["10.9.0.2", "fd00:9::2"])
@pytest.mark.parametrize("checksum", [True, False])
def test_the_bare_forwarder_does_what_any_must(segment: Segment, host: str, checksum: bool) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    ip6 = ":" in host
    layer = IPv6(src="fd00:9::1", dst=host) if ip6 else IP(src="10.9.0.1", dst=host)
    udp = UDP(sport=4000, dport=6000) if checksum or ip6 else UDP(sport=4000, dport=6000, chksum=0)
    frame = bytes(Ether() / layer / udp / Raw(b"speech" * 20))
    with Bare(segment.namespace("b"), INTERFACE, INTERFACE, REWRITE) as bare:
        out = Ether(bare.rewrite(frame))
    new = (
        IPv6(src=REWRITE.source6, dst=REWRITE.destination6, hlim=63)
        if ip6
        else IP(src=REWRITE.source4, dst=REWRITE.destination4, ttl=63)
    )
    macs = [mac.hex(":") for mac in MACS]
    want = bytes(Ether(dst=macs[0], src=macs[1]) / new / udp / Raw(b"speech" * 20))
    assert bytes(out).hex() == want.hex()


def test_the_bare_forwarder_forwards(segment: Segment) -> None:
    """From b back to a, where the meter verifies checksums and addresses."""
    mac = namespaces.run_in(segment.namespace("a"), _mac)
    own = namespaces.run_in(segment.namespace("b"), _mac)
    rewrite = Rewrite(mac, own, "10.9.0.2", "10.9.0.1", "fd00:9::2", "fd00:9::1")
    back = [
        Expected(
            Address("fd00:9::1" if ":" in s.source.host else "10.9.0.1", s.destination.port),
            Address("fd00:9::2" if ":" in s.source.host else "10.9.0.2", s.source.port),
            s.ssrc,
        )
        for s in streams()
    ]
    with (
        Bare(segment.namespace("b"), INTERFACE, INTERFACE, rewrite),
        Meter(segment.namespace("a"), INTERFACE) as meter,
        Flood(segment.namespace("a"), INTERFACE, streams()) as flood,
    ):
        meter.expect(back)
        flood.run(2_000)
        time.sleep(0.2)
        sent = flood.pause().sent
        deadline = time.monotonic() + WAIT_MAX_S
        while meter.totals().generated < sent:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        totals = meter.totals()
    assert (totals.bad_checksum, totals.wrong_source, totals.wrong_destination) == (0, 0, 0)


def _mac() -> bytes:
    from bgf.lab.rtpneigh import hardware_address

    return hardware_address(INTERFACE)


def test_the_stopwatch_asks_after_each_round(tmp_path: Path, segment: Segment) -> None:
    with pytest.raises(OSError, match="No such file"):
        rtpbench.time_program(tmp_path / "none", b"\0" * 64, 1, 1, lambda *_: True)
    with Bare(segment.namespace("b"), INTERFACE, INTERFACE, REWRITE) as bare:
        assert len(bare.nanoseconds(bytes(12) + b"\x08\x00" + bytes(60), 3)) == 3
