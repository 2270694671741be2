"""The generator's schedule, the outage of a report, the layouts: no kernel, no clock."""

from __future__ import annotations

import itertools
import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bgf
from bgf.errors import Misuse
from bgf.lab import rtpbench, rtpneigh, rtpwire
from bgf.lab.rtpclock import (
    BATCH_PACKETS_MAX,
    BURST_PACKETS_MAX,
    CATCH_UP_NS_MAX,
    PAUSE_NS,
    SECOND_NS,
    SILENCE_NS,
    TICK_NS,
    Outage,
    Pace,
    outage,
)
from bgf.lab.rtpwire import StreamSpec
from bgf.model import Address

MS = 1_000_000
HEADER = Path(bgf.__path__[0]) / "lab" / "bpf" / "rtpload.h"

streams = st.integers(1, 5_000)
rates = st.integers(1, 200)
waits = st.lists(st.integers(0, 300 * MS), min_size=1, max_size=60)


# -- the schedule --------------------------------------------------------------------------------


@given(streams, rates, st.integers(0, 10**15), waits)
def test_nothing_is_early_nothing_overdue_is_kept(
    count: int, rate: int, start_ns: int, sleeps: list[int]
) -> None:
    pace = Pace(count, rate, start_ns)
    at = start_ns
    for sleep in sleeps:
        at += sleep
        burst = pace.burst(at)
        assert burst.packets <= BURST_PACKETS_MAX and burst.batch <= BATCH_PACKETS_MAX
        first, last = pace.next + burst.skip, pace.next + burst.skip + burst.packets - 1
        if burst.packets:
            assert pace.due_ns(last) <= at
            assert at - pace.due_ns(first) <= CATCH_UP_NS_MAX
            assert burst.late_ns == at - pace.due_ns(first)
        if burst.skip:
            assert at - pace.due_ns(first - 1) > CATCH_UP_NS_MAX
        pace.advance(burst.skip, burst.packets)
        assert pace.next == last + 1


@given(streams, rates, st.integers(0, 10**15))
def test_every_stream_has_its_rate_and_its_phase(count: int, rate: int, start_ns: int) -> None:
    pace = Pace(count, rate, start_ns)
    first_round = [pace.due_ns(k) for k in (0, count - 1, count)]
    assert first_round[0] == start_ns
    assert first_round[1] <= start_ns + -(-SECOND_NS // rate)
    assert pace.due_ns(count * rate) == start_ns + SECOND_NS
    assert pace.due_ns(count * rate * 7 + 3) == pace.due_ns(3) + 7 * SECOND_NS


@given(streams, rates)
def test_a_punctual_waker_sends_all_and_skips_nothing(count: int, rate: int) -> None:
    pace = Pace(count, rate, 0)
    at, sent = 0, 0
    for _ in range(300):
        burst = pace.burst(at)
        assert burst.skip == 0 or count * rate > BURST_PACKETS_MAX * 1_000
        sent += burst.packets
        pace.advance(burst.skip, burst.packets)
        wait_ns = pace.wait_ns(at, at)
        assert wait_ns >= PAUSE_NS
        at += wait_ns
    if count * rate <= BURST_PACKETS_MAX * 1_000:
        # What is left is at most a remainder of one burst, and less than a tick old.
        assert at - pace.due_ns(pace.next) <= 2 * TICK_NS
        assert sent == pace.next


def test_what_a_long_stall_costs_is_counted() -> None:
    pace = Pace(10, 50, 0)  # a packet each 2 ms
    burst = pace.burst(1_000 * MS)
    assert burst.skip == 450  # those due before 900 ms
    assert burst.packets == 51 and burst.late_ns == CATCH_UP_NS_MAX


def test_before_the_start_nothing_is_due() -> None:
    pace = Pace(1, 50, 100 * MS)
    assert pace.burst(99 * MS).packets == 0
    assert pace.wait_ns(99 * MS, 99 * MS) == 1 * MS
    assert pace.burst(100 * MS).packets == 1


@pytest.mark.parametrize(("count", "rate"), [(0, 50), (1, 0), (1, 100_000)])
def test_a_senseless_schedule_is_refused(count: int, rate: int) -> None:
    with pytest.raises(ValueError, match="packets/s"):
        Pace(count, rate, 0)


# -- the outage ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """The part of a report that an outage is computed from, in ms."""

    packets: int = 100
    first_ns: int = 0
    last_ns: int = 10_000 * MS
    max_gap_ns: int = 20 * MS
    gap_end_ns: int = 4_000 * MS


T0 = 5_000 * MS
NOW = 10_010 * MS


def test_a_gap_that_ends_after_the_kill_is_the_outage() -> None:
    flow = Times(max_gap_ns=180 * MS, gap_end_ns=T0 + 175 * MS)
    assert outage(flow, T0, NOW) == Outage(T0 - 5 * MS, T0 + 175 * MS, 180 * MS)


def test_a_gap_before_the_kill_only_bounds_it() -> None:
    silence = outage(Times(max_gap_ns=21 * MS, gap_end_ns=T0 - 30 * MS), T0, NOW)
    assert silence.duration_ns == 21 * MS and not silence.exact and silence.recovered


def test_a_flow_that_has_not_come_back_is_an_outage_without_end() -> None:
    silence = outage(Times(last_ns=T0 - 3 * MS), T0, NOW)
    assert silence == Outage(T0 - 3 * MS, None, NOW - T0 + 3 * MS)
    assert not silence.recovered


def test_that_holds_even_if_an_earlier_gap_has_ended() -> None:
    flow = Times(max_gap_ns=900 * MS, gap_end_ns=T0 + 800 * MS, last_ns=NOW - SILENCE_NS)
    assert not outage(flow, T0, NOW).recovered


def test_a_flow_that_never_had_a_packet_is_out_since_the_kill() -> None:
    flow = Times(packets=0, last_ns=0, max_gap_ns=0, gap_end_ns=0)
    assert outage(flow, T0, NOW) == Outage(T0, None, NOW - T0)


def test_a_flow_first_seen_after_the_kill_was_silent_until_then() -> None:
    flow = Times(first_ns=T0 + 300 * MS, max_gap_ns=22 * MS, gap_end_ns=T0 + 900 * MS)
    assert outage(flow, T0, NOW) == Outage(T0, T0 + 300 * MS, 300 * MS)
    worse = replace(flow, max_gap_ns=500 * MS)
    assert outage(worse, T0, NOW).duration_ns == 500 * MS


def test_without_two_packets_since_the_reset_nothing_is_known_to_have_ended() -> None:
    flow = Times(max_gap_ns=0, gap_end_ns=0)
    assert outage(flow, T0, NOW) == Outage(flow.last_ns, None, NOW - flow.last_ns)


@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=40),
    st.integers(0, 39),
    st.integers(1, 199),
)
def test_against_the_whole_list_of_arrivals(gaps_ms: list[int], index: int, tail_ms: int) -> None:
    """With the gaps reset at the kill, the answer is the largest silence that reaches past it."""
    arrivals = [1_000 * MS]
    for gap in gaps_ms:
        arrivals.append(arrivals[-1] + gap * MS)
    t0 = arrivals[min(index, len(gaps_ms) - 1)]  # a packet at the very moment of the kill
    pairs = [(b - a, b) for a, b in itertools.pairwise(arrivals) if b > t0]
    largest, end = max(pairs, key=lambda p: (p[0], -p[1]))
    flow = Times(len(arrivals), arrivals[0], arrivals[-1], largest, end)
    silence = outage(flow, t0, arrivals[-1] + tail_ms * MS)
    assert silence == Outage(end - largest, end, largest)


# -- layouts -------------------------------------------------------------------------------------


def test_sizes_and_constants_are_those_of_the_header() -> None:
    text = HEADER.read_text()
    sizes = dict(re.findall(r"_Static_assert\(sizeof\(struct rtpload_(\w+)\) == (\d+)", text))
    a, b = Address("10.0.0.1", 1), Address("10.0.0.2", 2)
    assert {
        "flow": len(rtpwire.pack_stream(StreamSpec(a, b, 1), 0, 0, 0)),
        "hop": len(rtpwire.pack_hop(b"\0" * 6, b"\0" * 6)),
        "cursor": len(rtpwire.Cursor(0, 0, 0, 0).pack()),
        "pace": len(rtpwire.pack_pace(0, 0)),
        "meter": len(rtpwire.pack_meter(0, False, False, False)),
        "totals": rtpwire.TOTALS_OCTETS,
        "key": rtpwire.KEY_OCTETS,
        "endpoint": len(rtpwire.pack_endpoint(a)),
        "expected": len(rtpwire.pack_expected(a, 1)),
        "report": rtpwire.REPORT_OCTETS,
        "stamp": 24,
    } == {name: int(size) for name, size in sizes.items()}
    magic = re.search(r"#define RTPLOAD_MAGIC (0x[0-9a-f]+)U", text)
    payload = re.search(r"#define RTPLOAD_PAYLOAD (\d+)", text)
    assert magic is not None and payload is not None
    assert int(magic.group(1), 16).to_bytes(4, "big") == rtpwire.MAGIC
    assert int(payload.group(1)) == rtpwire.PAYLOAD_OCTETS
    shift = re.search(r"#define RTPLOAD_PACE_SHIFT (\d+)", text)
    assert shift is not None and int(shift.group(1)) == rtpwire.PACE_SHIFT


@given(st.integers(1, 50_000_000))
def test_a_flood_keeps_its_pace(rate: int) -> None:
    begin, interval = struct.unpack("=QQ", rtpwire.pack_pace(7, rate))
    assert begin == 7 << rtpwire.PACE_SHIFT
    second = SECOND_NS << rtpwire.PACE_SHIFT
    assert 0 <= second - interval * rate < rate
    assert struct.unpack("=QQ", rtpwire.pack_pace(7, 0))[1] == 0


@given(st.ip_addresses())
def test_hosts_go_there_and_back(address: object) -> None:
    host = str(Address.of(str(address), 0).host)
    if host.startswith("::ffff:"):
        return  # a mapped address means the IPv4 one
    assert rtpwire.unpack_host(rtpwire.pack_host(host)) == host


@given(st.binary(max_size=64).filter(lambda b: len(b) % 2 == 0))
def test_the_sum_is_that_of_rfc_1071(data: bytes) -> None:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    swapped = int.from_bytes(struct.pack("=H", rtpwire.ones_sum(data)), "big")
    assert swapped == total


def test_a_report_of_an_older_epoch_has_no_gaps() -> None:
    key = rtpwire.pack_host("10.0.0.2") + rtpwire.pack_host("10.0.0.1") + b"\x17\x70\x0f\xa0"
    value = struct.pack(
        "=12QIIIHHBB6x", 9, 90, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 6, 13, 0, 0, 0, 1
    )
    report = rtpwire.unpack_report(key, value, 6)
    assert report == rtpwire.FlowReport(
        destination=Address("10.0.0.2", 6000),
        source=Address("10.0.0.1", 4000),
        ssrc=12,
        packets=9,
        first_ns=1,
        last_ns=2,
        max_gap_ns=3,
        gap_end_ns=4,
        lost=5,
        reordered=6,
        duplicates=7,
        wrong_source=8,
        wrong_destination=10,
        generated=True,
        bytes=90,
        gap_lost=13,
    )
    older = rtpwire.unpack_report(key, value, 7)
    assert older == replace(report, max_gap_ns=0, gap_end_ns=0, gap_lost=0)


def test_a_stream_that_cannot_be_is_refused() -> None:
    a4, b4, b6 = Address("10.0.0.1", 1), Address("10.0.0.2", 2), Address("fd00::2", 2)
    with pytest.raises(Misuse, match="mixes"):
        StreamSpec(a4, b6, 1)
    for ssrc in (0, -1, 2**32):
        with pytest.raises(Misuse, match="ssrc"):
            StreamSpec(a4, b4, ssrc)


# -- neighbour messages --------------------------------------------------------------------------


def _neighbour(kind: int, index: int, state: int, host: bytes, mac: bytes) -> bytes:
    body = struct.pack("=BxxxiHBB", 2 if len(host) == 4 else 10, index, state, 0, 1)
    for number, value in ((1, host), (2, mac)):
        if value:
            body += struct.pack("=HH", 4 + len(value), number) + value
            body += b"\0" * (-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


HOST4, HOST6, MAC = bytes((10, 0, 0, 9)), bytes.fromhex("fd00" + "0" * 26 + "09"), b"\x02abcde"


def test_neighbour_messages_of_one_interface_are_read() -> None:
    datagram = b"".join(
        [
            _neighbour(28, 3, 0x04, HOST4, MAC),  # stale is usable
            _neighbour(28, 3, 0x02, HOST6, MAC),  # reachable
            _neighbour(28, 4, 0x02, HOST4, MAC),  # another interface
            _neighbour(28, 3, 0x20, HOST4, b""),  # failed
            _neighbour(29, 3, 0x04, HOST6, MAC),  # deleted
            _neighbour(24, 3, 0x02, HOST4, MAC),  # a route
        ]
    )
    assert rtpneigh.parse(datagram, 3) == [
        ("10.0.0.9", MAC),
        ("fd00::9", MAC),
        ("10.0.0.9", b""),
        ("fd00::9", b""),
    ]


@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_octets_are_survived(noise: bytes, cut: int) -> None:
    good = _neighbour(28, 3, 0x02, HOST4, MAC)
    rtpneigh.parse(noise, 3)
    rtpneigh.parse(good[:cut], 3)
    header = struct.pack("=IHHII", 16 + 12 + len(noise), 28, 0, 0, 0)
    body = struct.pack("=BxxxiHBB", 2, 3, 0x02, 0, 1)
    rtpneigh.parse(header + body + noise, 3)
    assert rtpneigh.parse(good + noise, 3)[0] == ("10.0.0.9", MAC)


# -- delays --------------------------------------------------------------------------------------


@given(st.integers(0, 2**40))
def test_a_class_holds_its_delay_within_a_sixteenth(delay_ns: int) -> None:
    index = rtpbench.delay_class(delay_ns)
    end = rtpbench.class_end_ns(index)
    assert delay_ns <= end <= delay_ns * (1 + 1 / rtpbench.DELAY_SUB)
    assert index == 0 or rtpbench.class_end_ns(index - 1) < delay_ns


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300), st.floats(0.01, 1))
def test_percentiles_are_those_of_the_sorted_delays(delays: list[int], share: float) -> None:
    counts = [0] * 1024
    for delay in delays:
        counts[rtpbench.delay_class(delay)] += 1
    found = rtpbench.Delays(tuple(counts)).percentile_ns(share)
    exact = sorted(delays)[max(0, math.ceil(share * len(delays)) - 1)]
    assert exact <= found <= exact * (1 + 1 / rtpbench.DELAY_SUB)


def test_no_packets_have_no_delay() -> None:
    assert rtpbench.Delays((0,) * 1024).percentile_ns(0.99) == 0
