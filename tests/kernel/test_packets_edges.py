"""What is no plain packet: ICMP, tags, large frames and small ones; and where all are counted.

Fragments, options, extension headers and frames cut short are in the tables of `test_packets`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from bgf.media import frames
from bgf.media.datapath import Outcome, Tally
from bgf.media.realms import VLANS_ELSEWHERE
from tests.fakes.packet_call import FAR, NEAR, PAIRS, PORT, checked, from_callee, from_ue, up
from tests.fakes.packet_lab import CALLEE4, CALLEE6, UE4, UE6, PacketLab
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath, packet_path

NODE = {4: "10.10.0.11", 6: "fd00:a::11"}
JUMBO_MTU = 3_000


@pytest.fixture(scope="module")
def lab_path() -> Iterator[PacketPath]:
    with packet_path() as made:
        yield made


@pytest.fixture
def path(lab_path: PacketPath) -> Iterator[PacketPath]:
    lab_path.datapath.arm("g1", FAR_DEADLINE_NS)
    lab_path.datapath.install([up(), up((6, 6))])
    yield lab_path
    lab_path.datapath.remove(lab_path.datapath.keys())


def to_gateway(path: PacketPath, packet: Packet) -> bytes:
    return bytes(
        Ether(dst=path.lab.macs["gw", "access"].hex(":"), src="02:00:00:00:00:09") / packet
    )


QUOTED4 = IPerror(src=FAR[4], dst=CALLEE4) / UDPerror(sport=31_000, dport=5_000)
QUOTED6 = IPv6(src=FAR[6], dst=CALLEE6) / UDP(sport=31_000, dport=5_000)
ICMP4 = {
    "echo": (ICMP(), Outcome.ICMP),
    "timestamp": (ICMP(type=13), Outcome.ICMP),
    "port unreachable": (ICMP(type=3, code=3) / QUOTED4, Outcome.ICMP_ERROR),
    "fragmentation needed": (ICMP(type=3, code=4, nexthopmtu=1280) / QUOTED4, Outcome.ICMP_ERROR),
    "source quench": (ICMP(type=4) / QUOTED4, Outcome.ICMP_ERROR),
    "redirect": (ICMP(type=5, gw="10.10.0.9") / QUOTED4, Outcome.ICMP_ERROR),
    "time exceeded": (ICMP(type=11) / QUOTED4, Outcome.ICMP_ERROR),
    "parameter problem": (ICMP(type=12) / QUOTED4, Outcome.ICMP_ERROR),
}
ICMP6 = {
    "echo": (ICMPv6EchoRequest(), Outcome.ICMP),
    "unreachable": (ICMPv6DestUnreach(code=4) / QUOTED6, Outcome.ICMP_ERROR),
    "too big": (ICMPv6PacketTooBig(mtu=1280) / QUOTED6, Outcome.ICMP_ERROR),
    "time exceeded": (ICMPv6TimeExceeded() / QUOTED6, Outcome.ICMP_ERROR),
    "parameter problem": (ICMPv6ParamProblem() / QUOTED6, Outcome.ICMP_ERROR),
}


@pytest.mark.parametrize("name", ICMP4)
def test_icmp_is_the_kernels_and_counted(path: PacketPath, name: str) -> None:
    message, outcome = ICMP4[name]
    frame = to_gateway(path, IP(src=UE4, dst=NEAR[4]) / message)
    assert path.send(frame, "access") == ("pass", outcome, frame)
    elsewhere = to_gateway(path, IP(src=UE4, dst=NODE[4]) / message)
    assert path.send(elsewhere, "access") == ("pass", Outcome.PASS, elsewhere)


@pytest.mark.parametrize("name", ICMP6)
def test_icmpv6_is_the_kernels_and_counted(path: PacketPath, name: str) -> None:
    message, outcome = ICMP6[name]
    frame = to_gateway(path, IPv6(src=UE6, dst=NEAR[6]) / message)
    assert path.send(frame, "access") == ("pass", outcome, frame)
    elsewhere = to_gateway(path, IPv6(src=UE6, dst=NODE[6]) / message)
    assert path.send(elsewhere, "access") == ("pass", Outcome.PASS, elsewhere)


def test_icmp_cut_short_is_icmp(path: PacketPath) -> None:
    for packet in (IP(src=UE4, dst=NEAR[4], proto=1), IPv6(src=UE6, dst=NEAR[6], nh=58)):
        frame = to_gateway(path, packet)
        assert path.send(frame, "access").outcome is Outcome.ICMP


@pytest.mark.parametrize("header", [IPv6ExtHdrRouting(), IPv6ExtHdrDestOpt()])
def test_what_extension_headers_hide_is_not_looked_for(path: PacketPath, header: Packet) -> None:
    frame = to_gateway(path, IPv6(src=UE6, dst=NEAR[6]) / header / UDP(dport=PORT) / Raw(b"rtp"))
    assert path.send(frame, "access").outcome is Outcome.OPTIONS


def test_a_tag_that_no_realm_has(path: PacketPath) -> None:
    plain = from_ue(path)
    for frame in (
        frames.tagged(plain, 5),
        frames.tagged(frames.tagged(plain, 0), 0),  # two tags are nobody's
        plain[:12] + b"\x88\xa8\x00\x00" + plain[12:],
    ):
        assert path.send(frame, "access") == ("pass", Outcome.VLAN, frame)
    cut = plain[:12] + b"\x81\x00\x00"
    assert path.send(cut, "access") == ("pass", Outcome.PASS, cut)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_tag_with_nothing_but_a_priority_is_none(path: PacketPath, pair: tuple[int, int]) -> None:
    path.datapath.install([up(pair)])
    ran = path.send(frames.tagged(from_ue(path, pair[0]), 0, priority=5), "access")
    assert checked(ran).payload == b"media"
    assert Dot1Q not in Ether(ran.frame)


def test_outcomes_are_counted_by_realm_and_cpu(path: PacketPath) -> None:
    before = path.datapath.tallies()
    path.send(from_ue(path), "access")
    path.send(from_callee(path), "core")
    path.send(frames.tagged(from_ue(path), 9), "access")

    def totals(tallies: list[Tally]) -> dict[tuple[str, Outcome], int]:
        found: dict[tuple[str, Outcome], int] = {}
        for tally in tallies:
            assert 0 <= tally.cpu < 4_096
            key = tally.realm, tally.outcome
            found[key] = found.get(key, 0) + tally.packets
        return found

    old, new = totals(before), totals(path.datapath.tallies())
    assert {key: new[key] - old.get(key, 0) for key in new if new[key] != old.get(key)} == {
        ("access", Outcome.FORWARD): 1,
        ("core", Outcome.NO_PINHOLE): 1,
        (VLANS_ELSEWHERE, Outcome.VLAN): 1,
    }
    assert sum(new.values()) == sum(path.datapath.drops().values())


# ---- large frames -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jumbo() -> Iterator[PacketPath]:
    with PacketLab() as lab:
        for space, interface in (("gw", "access"), ("ue", "access"), ("gw", "core"),
                                 ("callee", "core")):  # fmt: skip
            lab.ip(space, "link", "set", interface, "mtu", str(JUMBO_MTU))
        lab.settle_neighbours()
        made = PacketPath(lab)
        try:
            made.datapath.arm("g1", FAR_DEADLINE_NS)
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("pair", PAIRS)
def test_jumbo_frames(jumbo: PacketPath, pair: tuple[int, int]) -> None:
    jumbo.datapath.install([up(pair)])
    headers = max(48 if 6 in pair else 28, 28)
    largest = JUMBO_MTU - headers
    payload = bytes(range(256)) * 12
    assert checked(jumbo.send(from_ue(jumbo, pair[0], payload[:largest]), "access"))
    if pair[1] == 6 or pair == (4, 4):
        over = from_ue(jumbo, pair[0], payload[: largest + 1])
        assert jumbo.send(over, "access").outcome is Outcome.TOO_BIG
    jumbo.datapath.remove([up(pair).key])


def test_a_jumbo_without_a_checksum_gets_one(jumbo: PacketPath) -> None:
    jumbo.datapath.install([up((4, 6))])
    frame = bytearray(from_ue(jumbo, 4, bytes(range(256)) * 11))
    frame[40:42] = bytes(2)
    assert len(checked(jumbo.send(bytes(frame), "access")).payload) == 256 * 11
