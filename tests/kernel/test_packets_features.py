"""What a pinhole does beyond NAPT, by tables: filters, gates, DSCP, RTP, policing."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bgf.media.datapath import Outcome
from bgf.model import Component, Gate, Policer, Rtp, Source
from tests.fakes.packet_call import (
    PAIRS,
    UE_PORT,
    UES,
    checked,
    down,
    from_callee,
    from_ue,
    rtp,
    up,
)
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath, packet_path

TOS = 0xB9  # expedited forwarding, ECT(1)


@pytest.fixture(scope="module")
def lab_path() -> Iterator[PacketPath]:
    with packet_path() as made:
        yield made


@pytest.fixture
def path(lab_path: PacketPath) -> Iterator[PacketPath]:
    lab_path.datapath.arm("g1", FAR_DEADLINE_NS)
    yield lab_path
    lab_path.datapath.remove(lab_path.datapath.keys())
    lab_path.datapath.reports()


# ---- source filters -----------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    ("hosts", "ports", "admitted"),
    [
        ("any", "any", True),
        ("host", "any", True),
        ("other", "any", False),
        ("prefix", "any", True),
        ("other prefix", "any", False),
        ("everything", "port", True),
        ("any", "port", True),
        ("any", "other", False),
        ("any", "range", True),
        ("any", "range from", True),
        ("any", "range to", True),
        ("any", "below", False),
        ("any", "above", False),
        ("prefix", "range", True),
        ("prefix", "below", False),
        ("other prefix", "range", False),
    ],
)
def test_source_filters(
    path: PacketPath, pair: tuple[int, int], hosts: str, ports: str, admitted: bool
) -> None:
    six = pair[0] == 6
    host, prefix_len = {
        "any": (None, None),
        "host": (UES[pair[0]], None),
        "other": ("fd00:a::1" if six else "10.10.0.1", None),
        "prefix": ("fd00:a::", 61) if six else ("10.10.0.96", 27),
        "other prefix": ("fd00:b::", 61) if six else ("10.10.0.64", 27),
        "everything": ("::", 0) if six else ("0.0.0.0", 0),
    }[hosts]
    first, last = {
        "any": (None, None),
        "port": (UE_PORT, None),
        "other": (UE_PORT + 1, None),
        "range": (UE_PORT - 1, UE_PORT + 1),
        "range from": (UE_PORT, UE_PORT + 1),
        "range to": (UE_PORT - 1, UE_PORT),
        "below": (1, UE_PORT - 1),
        "above": (UE_PORT + 1, 65_535),
    }[ports]
    path.datapath.install([up(pair, source=Source(host, first, prefix_len, last))])
    ran = path.send(from_ue(path, pair[0]), "access")
    assert ran.outcome is (Outcome.FORWARD if admitted else Outcome.BAD_SOURCE)


def test_each_direction_has_its_own_gate(path: PacketPath) -> None:
    for gates in [(Gate.OPEN, Gate.CLOSED), (Gate.CLOSED, Gate.OPEN), (Gate.OPEN, Gate.OPEN)]:
        path.datapath.install([up(gate=gates[0]), down(gate=gates[1])])
        ran = (
            path.send(from_ue(path), "access").outcome,
            path.send(from_callee(path), "core").outcome,
        )
        assert ran == tuple(Outcome.FORWARD if g else Outcome.GATE_CLOSED for g in gates)


# ---- DSCP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("dscp", "expected"), [(None, TOS), (0, 1), (46, TOS), (63, 0xFD)])
def test_dscp_is_set_or_kept_and_ecn_is_never_touched(
    path: PacketPath, pair: tuple[int, int], dscp: int | None, expected: int
) -> None:
    path.datapath.install([up(pair, dscp=dscp)])
    packet = Ether(from_ue(path, pair[0]))
    if pair[0] == 4:
        packet[IP].tos = TOS
        del packet[IP].chksum
    else:
        packet[IPv6].tc = TOS
        packet[IPv6].fl = 0xABCDE
    ran = path.send(bytes(packet), "access")
    checked(ran)
    out = Ether(ran.frame)
    assert (out[IP].tos if pair[1] == 4 else out[IPv6].tc) == expected
    if pair == (6, 6):
        assert out[IPv6].fl == 0xABCDE


# ---- RTP and RTCP -------------------------------------------------------------------------------


RTCP = bytes.fromhex("80c90001") + bytes(4)
SHORT = rtp(payload=b"")[:11]
RTP_ROWS: list[tuple[dict[str, Any], bytes, Outcome]] = [
    ({"rtp": Rtp()}, b"no RTP at all", Outcome.FORWARD),
    ({"rtp": Rtp()}, b"", Outcome.FORWARD),
    ({"rtp": Rtp(check=True)}, rtp(), Outcome.FORWARD),
    ({"rtp": Rtp(check=True)}, rtp(payload=b""), Outcome.FORWARD),
    ({"rtp": Rtp(check=True)}, rtp(kind=0x80 | 127), Outcome.FORWARD),
    ({"rtp": Rtp(check=True)}, b"", Outcome.BAD_RTP),
    ({"rtp": Rtp(check=True)}, SHORT, Outcome.BAD_RTP),
    ({"rtp": Rtp(check=True)}, rtp(first=0x00), Outcome.BAD_RTP),
    ({"rtp": Rtp(check=True)}, rtp(first=0x40), Outcome.BAD_RTP),
    ({"rtp": Rtp(check=True)}, rtp(first=0xC0), Outcome.BAD_RTP),
    ({"rtp": Rtp(check=True)}, rtp(first=0x8F), Outcome.BAD_RTP),  # 15 CSRCs that are not there
    ({"rtp": Rtp(check=True)}, rtp(first=0x81, payload=bytes(4)), Outcome.FORWARD),
    ({"rtp": Rtp(True, (0, 101))}, rtp(kind=101), Outcome.FORWARD),
    ({"rtp": Rtp(True, (0, 101))}, rtp(kind=0x80 | 101), Outcome.FORWARD),  # the marker bit
    ({"rtp": Rtp(True, (0, 101))}, rtp(kind=8), Outcome.BAD_RTP),
    ({"rtp": Rtp(True, (0, 101))}, rtp(kind=64), Outcome.BAD_RTP),
    ({"rtp": Rtp(True, (127,))}, rtp(kind=127), Outcome.FORWARD),
    ({"rtp": Rtp(True, (127,))}, rtp(kind=63), Outcome.BAD_RTP),
    # RTCP where RTP is asked for is RTP with types 64 to 95, which are nobody's
    ({"rtp": Rtp(True, (0,))}, RTCP + bytes(8), Outcome.BAD_RTP),
    ({"rtp": Rtp(True, (0,)), "rtcp_mux": True}, RTCP, Outcome.FORWARD),
    ({"rtp": Rtp(True, (0,)), "rtcp_mux": True}, rtp(), Outcome.FORWARD),
    ({"rtp": Rtp(True, (0,)), "rtcp_mux": True}, rtp(kind=8), Outcome.BAD_RTP),
    ({"rtp": Rtp(True, (0,)), "rtcp_mux": True}, RTCP[:7], Outcome.BAD_RTP),
    ({"rtp": Rtp(True), "rtcp_mux": True}, b"\x40" + RTCP[1:], Outcome.BAD_RTP),
    ({"rtp": Rtp(True, (0,)), "component": Component.RTCP}, RTCP, Outcome.FORWARD),
    ({"rtp": Rtp(True, (0,)), "component": Component.RTCP}, rtp(), Outcome.BAD_RTP),
    ({"rtp": Rtp(True), "component": Component.RTCP}, b"\x80\xbf" + bytes(6), Outcome.BAD_RTP),
    ({"rtp": Rtp(True), "component": Component.RTCP}, b"\x80\xc0" + bytes(6), Outcome.FORWARD),
    ({"rtp": Rtp(True), "component": Component.RTCP}, b"\x80\xdf" + bytes(6), Outcome.FORWARD),
    ({"rtp": Rtp(True), "component": Component.RTCP}, b"\x80\xe0" + bytes(6), Outcome.BAD_RTP),
    ({"rtp": Rtp(False, (8,))}, rtp(kind=9), Outcome.BAD_RTP),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_what_may_pass_as_rtp(path: PacketPath, pair: tuple[int, int]) -> None:
    for changes, payload, outcome in RTP_ROWS:
        made = msgspec.structs.replace(up(pair), **changes)
        path.datapath.install([made])
        ran = path.send(from_ue(path, pair[0], payload), "access")
        assert ran.outcome is outcome, (changes, payload.hex())
        if outcome is Outcome.FORWARD:
            assert checked(ran).payload == payload


def test_a_header_is_not_looked_for_behind_the_datagram(path: PacketPath) -> None:
    """Twelve bytes in the frame are no RTP header when the UDP length says eight."""
    path.datapath.install([up(rtp=Rtp(check=True))])
    frame = bytearray(from_ue(path, 4, rtp()))
    frame[38:42] = struct.pack(">HH", 8 + 8, 0)
    assert path.send(bytes(frame), "access").outcome is Outcome.BAD_RTP


def statistics(path: PacketPath, *packets: bytes, **changes: Any) -> Any:
    made = up(**{"rtp": Rtp(), **changes})
    path.datapath.install([made])
    for payload in packets:
        assert path.send(from_ue(path, 4, payload), "access").outcome is Outcome.FORWARD
    return path.datapath.rtp([made.key])[0]


@pytest.mark.parametrize(
    ("sequences", "expected", "lost", "restarts"),
    [
        ([1, 2, 3], 3, 0, 0),
        ([1, 3], 3, 1, 0),
        ([65_534, 65_535, 0, 1], 4, 0, 0),
        ([65_535, 65_536 * 1 + 2], 4, 2, 0),
        ([5, 4], 1, -1, 0),  # what was sent before the first that came is nobody's loss
        ([1, 3, 2, 4], 4, 0, 0),
        ([1, 2, 2, 3], 3, -1, 0),
        ([1, 3_000], 3_000, 2_998, 0),
        ([1, 3_001], 2, 0, 1),
        ([200, 101], 1, -1, 0),
        ([200, 100], 2, 0, 1),
        ([1, 40_000, 40_001], 3, 0, 1),
    ],
)
def test_loss_is_counted_as_rfc_3550_does(
    path: PacketPath, sequences: list[int], expected: int, lost: int, restarts: int
) -> None:
    told = statistics(path, *(rtp(n) for n in sequences))
    assert (told.packets, told.expected, told.lost) == (len(sequences), expected, lost)
    assert (told.restarts, told.ssrc, told.ssrc_changes) == (restarts, 7, 0)
    assert told.bytes == len(sequences) * len(rtp())


def test_a_new_ssrc_starts_anew_and_keeps_what_was(path: PacketPath) -> None:
    told = statistics(path, rtp(10), rtp(13), rtp(9_000, ssrc=8), rtp(9_002, ssrc=8), rtp(14))
    assert (told.packets, told.expected, told.lost) == (5, 4 + 3 + 1, 3)
    assert (told.ssrc, told.ssrc_changes, told.restarts) == (7, 2, 0)


def test_jitter_is_in_timestamp_units(path: PacketPath) -> None:
    """At a clock of 1 Hz all packets of a test come at once, or over one tick."""
    count = 60
    told = statistics(path, *(rtp(n, stamp=1_600 * n) for n in range(count)), rtp=Rtp(clock_hz=1))
    model = 0
    for _ in range(count - 1):
        model += 1_600 - ((model + 8) >> 4)
    assert told.clock_hz == 1
    assert abs(told.jitter - (model >> 4)) <= 1
    assert told.jitter > 1_500


def test_the_longest_gap(path: PacketPath) -> None:
    made = up(rtp=Rtp())
    path.datapath.install([made])
    path.send(from_ue(path, 4, rtp(1)), "access")
    before = time.monotonic_ns()
    time.sleep(0.03)
    path.send(from_ue(path, 4, rtp(2)), "access")
    longest = path.datapath.rtp([made.key])[0].gap_max_us
    assert longest >= 30_000
    for n in range(3, 6):
        path.send(from_ue(path, 4, rtp(n)), "access")
    assert path.datapath.rtp([made.key])[0].gap_max_us <= (time.monotonic_ns() - before) / 1_000 + 2


def test_rtcp_is_told_apart(path: PacketPath) -> None:
    told = statistics(path, rtp(1), RTCP, rtp(2), RTCP, b"other", rtcp_mux=True)
    assert (told.packets, told.rtcp_packets, told.lost) == (2, 2, 0)
    [counted] = path.datapath.counters([up().key])
    assert (counted.packets, counted.bytes) == (5, 2 * len(rtp()) + 2 * len(RTCP) + 5)
    path.datapath.remove([up().key])
    told = statistics(path, RTCP, component=Component.RTCP)
    assert (told.packets, told.rtcp_packets, told.ssrc) == (0, 1, 0)


def test_no_statistics_are_left_to_a_later_pinhole(path: PacketPath) -> None:
    assert statistics(path, rtp(1), rtp(5)).lost == 3
    path.datapath.remove([up().key])
    assert statistics(path).packets == 0
    assert statistics(path, rtp(9)).lost == 0


# ---- policing -----------------------------------------------------------------------------------

FIVE = 5 * (20 + 8 + 100)  # five IPv4 packets of 100 bytes


@pytest.mark.parametrize(
    ("policer", "pass_of_ten"),
    [
        (Policer(), 10),
        (Policer(1, FIVE), 5),
        (Policer(1, FIVE - 1), 4),
        (Policer(1, 127), 0),
        (Policer(0, 0, 1, FIVE), 5),
        (Policer(1, FIVE, 1, 2 * 128), 2),
        (Policer(1, 3 * 128, 1, FIVE), 3),
        (Policer(10**9, 1 << 20, 10**9, 1 << 20), 10),
    ],
)
def test_a_burst_passes_and_no_more(path: PacketPath, policer: Policer, pass_of_ten: int) -> None:
    made = up(policer=policer)
    path.datapath.install([made])
    ran = [path.send(from_ue(path, 4, bytes(100)), "access").outcome for _ in range(10)]
    forward, policed = [Outcome.FORWARD] * pass_of_ten, [Outcome.POLICED] * (10 - pass_of_ten)
    assert ran == forward + policed
    assert path.datapath.counters([made.key])[0].packets == pass_of_ten


def test_what_one_bucket_refuses_costs_the_other_nothing(path: PacketPath) -> None:
    path.datapath.install([up(policer=Policer(1, 1_000, 1, 200))])
    sizes = [500, 500, 100, 100, 43]
    ran = [path.send(from_ue(path, 4, bytes(n)), "access").outcome for n in sizes]
    assert ran == [Outcome.POLICED, Outcome.POLICED, Outcome.FORWARD, Outcome.POLICED,
                   Outcome.FORWARD]  # fmt: skip


def test_a_small_packet_may_pass_where_a_large_one_does_not(path: PacketPath) -> None:
    path.datapath.install([up(policer=Policer(1, 300))])
    sizes = [200, 100, 40, 40]
    ran = [path.send(from_ue(path, 4, bytes(n)), "access").outcome for n in sizes]
    assert ran == [Outcome.FORWARD, Outcome.POLICED, Outcome.FORWARD, Outcome.POLICED]


@pytest.mark.parametrize("policer", [Policer(200_000, 1_000), Policer(0, 0, 200_000, 1_000)])
def test_over_time_it_is_the_rate(path: PacketPath, policer: Policer) -> None:
    """Never more than burst and rate allow; and after a pause the whole burst is there again."""
    size, admitted, refused = 20 + 8 + 72, 0, 0
    path.datapath.install([up(policer=policer)])
    frame = from_ue(path, 4, bytes(72))
    start = last = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    while last - start < 100_000_000 or not refused:
        ran = path.send(frame, "access")
        admitted += ran.outcome is Outcome.FORWARD
        refused += ran.outcome is Outcome.POLICED
        last = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert admitted * size <= 1_000 + 200_000 * (last - start) / 1e9
    for _ in range(3):
        time.sleep(1_000 / 200_000 + 0.001)
        outcomes = [path.send(frame, "access").outcome for _ in range(10)]
        assert outcomes == [Outcome.FORWARD] * 10


def test_a_trace_takes_no_tokens(path: PacketPath) -> None:
    made = up(policer=Policer(1, 128))
    path.datapath.install([made])
    frame = from_ue(path, 4, bytes(100))
    for _ in range(3):
        assert path.run(frame, "access").outcome is Outcome.FORWARD
    assert path.send(frame, "access").outcome is Outcome.FORWARD
    assert path.run(frame, "access").outcome is Outcome.POLICED
