"""The packet program by tables: frame in, verdict, frame out; built and checked with scapy."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bgf.media.datapath import Outcome
from bgf.model import Address, Flow, Gate, Source
from tests.fakes.packet_lab import CALLEE4, CALLEE6, UE4, UE6
from tests.fakes.packet_path import (
    DISCRIMINATOR,
    FAR_DEADLINE_NS,
    PacketPath,
    Ran,
    flow,
    packet_path,
)

GROUP6, GROUP4 = "fd00:a::101", "10.10.0.101"
CORE6, CORE4 = "fd00:c::101", "10.20.0.101"
NODE6, NODE4 = "fd00:a::11", "10.10.0.11"
# in family, out family -> the flow; ports tell them apart
PAIRS: dict[tuple[int, int], Flow] = {
    (4, 4): flow(f"{GROUP4}:30000", f"{CORE4}:31000", f"{CALLEE4}:5000"),
    (4, 6): flow(f"{GROUP4}:30002", f"[{CORE6}]:31002", f"[{CALLEE6}]:5002"),
    (6, 4): flow(f"[{GROUP6}]:30004", f"{CORE4}:31004", f"{CALLEE4}:5004"),
    (6, 6): flow(f"[{GROUP6}]:30006", f"[{CORE6}]:31006", f"[{CALLEE6}]:5006"),
}
PAYLOADS = [b"", b"\x00", b"\xff\xff", b"\x80\x00rtp", bytes(range(256)), b"\x5a" * 1451]
TOS = 0xB8  # expedited forwarding
SBFD = bytes.fromhex("20 40 03 18") + (99).to_bytes(4) + DISCRIMINATOR.to_bytes(4) + bytes(12)


@pytest.fixture(scope="module")
def lab_path() -> Iterator[PacketPath]:
    with packet_path() as made:
        yield made


@pytest.fixture
def path(lab_path: PacketPath) -> Iterator[PacketPath]:
    lab_path.datapath.install(list(PAIRS.values()))
    lab_path.datapath.arm("g1", FAR_DEADLINE_NS)
    yield lab_path
    lab_path.datapath.remove(lab_path.datapath.keys())


def ether(path: PacketPath, **fields: str) -> Packet:
    mac = path.lab.macs["gw", "access"].hex(":")
    return Ether(**{"dst": mac, "src": "02:00:00:00:00:09", **fields})


def ip(family: int, destination: str | int = "", **fields: Any) -> Packet:
    if family == 4:
        return IP(src=UE4, dst=destination or GROUP4, **{"ttl": 64, "tos": TOS, **fields})
    if "ttl" in fields:
        fields["hlim"] = fields.pop("ttl")
    return IPv6(src=UE6, dst=destination or GROUP6, **{"hlim": 64, "tc": TOS, **fields})


def run(path: PacketPath, packet: Packet, realm: str = "access") -> Ran:
    return path.run(bytes(packet), realm)


def reread(frame: bytes) -> Packet:
    """The frame parsed, after its checksums were found to be what scapy computes."""
    parsed = Ether(frame)
    fresh = Ether(frame)
    for layer in (IP, UDP):
        if layer in fresh:
            del fresh[layer].chksum
    fresh = Ether(bytes(fresh))
    for layer in (IP, UDP):
        if layer in parsed:
            assert parsed[layer].chksum == (fresh[layer].chksum or 0xFFFF), layer.__name__
    return parsed


def to_flow(path: PacketPath, found: Flow, payload: bytes = b"rtp", **fields: int) -> Packet:
    port = found.local_in.port
    family = int(found.local_in.family)
    return ether(path) / ip(family, **fields) / UDP(sport=4000, dport=port) / Raw(payload)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{len(p)}-{p[:1].hex()}")
@pytest.mark.parametrize("pair", PAIRS)
def test_napt_in_all_four_family_pairs(
    path: PacketPath, pair: tuple[int, int], payload: bytes
) -> None:
    sent = PAIRS[pair]
    ran = run(path, to_flow(path, sent, payload))
    assert (ran.action, ran.outcome) == ("redirect", Outcome.FORWARD)
    out = reread(ran.frame)
    network = IP if pair[1] == 4 else IPv6
    assert sent.remote is not None
    assert (out.src, out.dst) == (
        path.lab.macs["gw", "core"].hex(":"),
        path.lab.macs["callee", "core"].hex(":"),
    )
    assert (out[network].src, out[network].dst) == (sent.local_out.host, sent.remote.host)
    assert (out[UDP].sport, out[UDP].dport) == (sent.local_out.port, sent.remote.port)
    assert bytes(out[UDP].payload) == payload
    if network is IP:
        assert (out[IP].ttl, out[IP].tos, out[IP].len) == (63, TOS, 28 + len(payload))
        assert (out[IP].version, out[IP].ihl, out[IP].proto) == (4, 5, 17)
    else:
        assert (out[IPv6].hlim, out[IPv6].tc, out[IPv6].plen) == (63, TOS, 8 + len(payload))
        assert (out[IPv6].version, out[IPv6].fl, out[IPv6].nh) == (6, 0, 17)
    if pair == (6, 4):
        assert out[IP].flags == "DF"


@pytest.mark.parametrize("payload", PAYLOADS + [b"\x01" * n for n in (1, 2, 3, 5, 63, 511, 1452)])
def test_a_missing_checksum_is_computed_for_ipv6(path: PacketPath, payload: bytes) -> None:
    packet = to_flow(path, PAIRS[4, 6], payload)
    packet[UDP].chksum = 0
    ran = run(path, packet)
    assert ran.outcome is Outcome.FORWARD
    assert reread(ran.frame)[UDP].chksum != 0


def test_a_missing_checksum_stays_missing_in_ipv4(path: PacketPath) -> None:
    packet = to_flow(path, PAIRS[4, 4])
    packet[UDP].chksum = 0
    ran = run(path, packet)
    assert ran.outcome is Outcome.FORWARD
    assert Ether(ran.frame)[UDP].chksum == 0


def test_a_sum_of_zero_is_sent_in_its_other_form(path: PacketPath) -> None:
    """Whatever two bytes of payload make the outgoing sum zero, 0xffff is what is sent."""
    sent = PAIRS[6, 4]
    assert sent.remote is not None
    probe = (
        IP(src=sent.local_out.host, dst=sent.remote.host)
        / UDP(sport=sent.local_out.port, dport=sent.remote.port)
        / Raw(b"\0\0")
    )
    wanted = IP(bytes(probe))[UDP].chksum  # this payload makes the sum 0xffff, so its complement 0
    ran = run(path, to_flow(path, sent, wanted.to_bytes(2)))
    assert ran.outcome is Outcome.FORWARD
    assert Ether(ran.frame)[UDP].chksum == 0xFFFF


def test_ethernet_padding_is_no_payload(path: PacketPath) -> None:
    for pair in ((4, 4), (4, 6)):
        frame = bytes(to_flow(path, PAIRS[pair], b"x"))
        ran = path.run(frame + b"\xaa" * (60 - len(frame)), "access")
        assert ran.outcome is Outcome.FORWARD
        out = Ether(ran.frame)
        assert out[UDP].len == 9
        assert bytes(out[UDP].payload)[:1] == b"x"


Mangle = Callable[[Packet], Packet]


def rebuilt(packet: Packet, **raw: int) -> Packet:
    """The packet with byte `at` of its IP header replaced (checksum not mended)."""
    frame = bytearray(bytes(packet))
    for at, value in raw.items():
        frame[14 + int(at[2:])] = value
    return Ether(bytes(frame))


def with_ip(**fields: int | str) -> Mangle:
    def mangle(packet: Packet) -> Packet:
        network = packet[IP] if IP in packet else packet[IPv6]
        for name, value in fields.items():
            setattr(network, name, value)
        return packet

    return mangle


def with_udp(**fields: int) -> Mangle:
    def mangle(packet: Packet) -> Packet:
        for name, value in fields.items():
            setattr(packet[UDP], name, value)
        return packet

    return mangle


# name -> (pair whose packet it is, what is done to it, outcome)
REFUSALS: dict[str, tuple[tuple[int, int], Mangle, Outcome]] = {
    "no pinhole there": ((4, 4), with_udp(dport=30_008), Outcome.NO_PINHOLE),
    "no pinhole there, v6": ((6, 6), with_udp(dport=30_008), Outcome.NO_PINHOLE),
    "TTL 1": ((4, 4), with_ip(ttl=1), Outcome.TTL),
    "TTL 0": ((4, 6), with_ip(ttl=0), Outcome.TTL),
    "hop limit 1": ((6, 4), with_ip(hlim=1), Outcome.TTL),
    "hop limit 0": ((6, 6), with_ip(hlim=0), Outcome.TTL),
    "first fragment": ((4, 4), with_ip(flags="MF"), Outcome.FRAGMENT),
    "last fragment": ((4, 4), with_ip(frag=100), Outcome.FRAGMENT),
    "fragment v6": (
        (6, 4),
        lambda p: (
            Ether(src=p.src, dst=p.dst)
            / IPv6(src=UE6, dst=GROUP6)
            / IPv6ExtHdrFragment(m=1)
            / p[UDP]
        ),
        Outcome.FRAGMENT,
    ),
    "extension header": (
        (6, 4),
        lambda p: (
            Ether(src=p.src, dst=p.dst) / IPv6(src=UE6, dst=GROUP6) / IPv6ExtHdrHopByHop() / p[UDP]
        ),
        Outcome.OPTIONS,
    ),
    "IPv4 options": ((4, 4), lambda p: rebuilt(p, at0=0x46), Outcome.OPTIONS),
    "header length 4": ((4, 4), lambda p: rebuilt(p, at0=0x41), Outcome.MALFORMED),
    "bad header checksum": ((4, 6), with_ip(chksum=1), Outcome.MALFORMED),
    "longer than the frame": ((4, 4), with_ip(len=2_000), Outcome.MALFORMED),
    "shorter than UDP says": ((4, 4), with_udp(len=100), Outcome.MALFORMED),
    "UDP length 7": ((4, 4), with_udp(len=7), Outcome.MALFORMED),
    "longer than the frame, v6": ((6, 4), with_ip(plen=2_000), Outcome.MALFORMED),
    "shorter than UDP says, v6": ((6, 6), with_udp(len=100), Outcome.MALFORMED),
    "no checksum in v6": ((6, 4), with_udp(chksum=0), Outcome.MALFORMED),
    "no checksum in v6 to v6": ((6, 6), with_udp(chksum=0), Outcome.MALFORMED),
    "cut short": ((4, 4), lambda p: Ether(bytes(p)[:40]), Outcome.RUNT),
    "cut short, v6": ((6, 4), lambda p: Ether(bytes(p)[:60]), Outcome.RUNT),
    "v4-mapped destination": ((6, 4), with_ip(dst=f"::ffff:{GROUP4}"), Outcome.MALFORMED),
    "v4-mapped source": ((6, 4), with_ip(src=f"::ffff:{UE4}"), Outcome.MALFORMED),
    "TCP": (
        (4, 4),
        lambda p: Ether(src=p.src, dst=p.dst) / IP(src=UE4, dst=GROUP4) / TCP(dport=22),
        Outcome.NO_PINHOLE,
    ),
    "TCP v6": (
        (6, 4),
        lambda p: Ether(src=p.src, dst=p.dst) / IPv6(src=UE6, dst=GROUP6) / TCP(dport=22),
        Outcome.NO_PINHOLE,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_at_a_guarded_address(path: PacketPath, name: str) -> None:
    pair, mangle, outcome = REFUSALS[name]
    ran = run(path, mangle(to_flow(path, PAIRS[pair])))
    assert (ran.action, ran.outcome) == ("drop", outcome)


OF_THE_PACKET = [name for name, (_, _, outcome) in REFUSALS.items() if outcome is not Outcome.TTL]


@pytest.mark.parametrize("name", OF_THE_PACKET)
def test_the_same_at_another_address_is_the_kernels(path: PacketPath, name: str) -> None:
    pair, mangle, _ = REFUSALS[name]
    frame = bytearray(bytes(mangle(to_flow(path, PAIRS[pair]))))
    if pair[0] == 4:
        frame[30:34] = socket.inet_pton(socket.AF_INET, NODE4)
    else:
        frame[38:54] = socket.inet_pton(socket.AF_INET6, NODE6)
    ran = path.run(bytes(frame), "access")
    assert (ran.action, ran.outcome) == ("pass", Outcome.PASS)
    assert ran.frame == bytes(frame)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: to_flow(path, PAIRS[4, 4]) / b"",
        lambda path: to_flow(path, PAIRS[6, 4]) / b"",
    ],
)
def test_a_foreign_mac_address_is_the_kernels(
    path: PacketPath, make: Callable[[PacketPath], Packet]
) -> None:
    for mac in ("02:00:00:00:00:77", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"):
        packet = make(path)
        packet[Ether].dst = mac
        assert run(path, packet).action == "pass"


def test_what_is_not_media_is_the_kernels(path: PacketPath) -> None:
    packets = [
        ether(path) / ARP(pdst=GROUP4),
        ether(path, dst="33:33:ff:00:01:01") / IPv6(src=UE6, dst="ff02::1", nh=58),
        ether(path) / Raw(b""),
    ]
    for packet in packets:
        frame = bytes(packet)
        assert path.run(frame, "access") == Ran("pass", Outcome.PASS, frame)


def test_too_big_for_the_next_hop(path: PacketPath) -> None:
    # Into an MTU of 1500: what fits when it comes in as IPv4 may not when it leaves as IPv6.
    for pair, largest in {(4, 4): 1472, (6, 6): 1452, (4, 6): 1452, (6, 4): 1472}.items():
        fits = run(path, to_flow(path, PAIRS[pair], bytes(largest)))
        over = run(path, to_flow(path, PAIRS[pair], bytes(largest + 1)))
        assert (fits.outcome, over.outcome) == (Outcome.FORWARD, Outcome.TOO_BIG), pair


def test_gate_filter_and_arming_come_in_this_order(path: PacketPath) -> None:
    closed = flow(
        f"{GROUP4}:30000", f"{CORE4}:31000", f"{CALLEE4}:5000",
        gate=Gate.CLOSED, source=Source("10.10.0.9", 1),
    )  # fmt: skip
    path.datapath.install([closed])
    path.datapath.arm("g1", 0)
    packet = to_flow(path, closed, ttl=1)
    assert run(path, packet).outcome is Outcome.DISARMED
    path.datapath.arm("g1", FAR_DEADLINE_NS)
    assert run(path, packet).outcome is Outcome.GATE_CLOSED
    filtered = flow(
        f"{GROUP4}:30000", f"{CORE4}:31000", f"{CALLEE4}:5000", source=Source("10.10.0.9", 1)
    )
    path.datapath.install([filtered])
    assert run(path, packet).outcome is Outcome.BAD_SOURCE
    path.datapath.install([PAIRS[4, 4]])
    assert run(path, packet).outcome is Outcome.TTL


def sbfd_packet(
    path: PacketPath, family: int, payload: bytes = SBFD, sport: int = 49_152
) -> Packet:
    node = NODE4 if family == 4 else NODE6
    return ether(path) / ip(family, node, ttl=255) / UDP(sport=sport, dport=7784) / Raw(payload)


@pytest.mark.parametrize("armed", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_sbfd_is_reflected_whatever_the_groups_state(
    path: PacketPath, family: int, armed: bool
) -> None:
    path.datapath.arm("g1", FAR_DEADLINE_NS if armed else 0)
    ran = run(path, sbfd_packet(path, family))
    assert (ran.action, ran.outcome) == ("redirect", Outcome.REFLECT)
    out = reread(ran.frame)
    node, peer = (NODE4, UE4) if family == 4 else (NODE6, UE6)
    network = out[IP] if family == 4 else out[IPv6]
    assert (network.src, network.dst) == (node, peer)
    assert (network.ttl if family == 4 else network.hlim) == 255
    assert (out.src, out.dst) == (path.lab.macs["gw", "access"].hex(":"), "02:00:00:00:00:09")
    assert (out[UDP].sport, out[UDP].dport) == (7784, 49_152)
    answer = bytes(out[UDP].payload)
    assert answer[:4] == bytes.fromhex("20 c8 03 18")  # Up, control plane independent
    assert answer[4:12] == DISCRIMINATOR.to_bytes(4) + (99).to_bytes(4)
    assert answer[12:] == SBFD[12:]


def test_sbfd_flags(path: PacketPath) -> None:
    # state Down with Poll, Demand set -> Up with Final, Demand clear; a diagnostic is cleared
    ran = run(path, sbfd_packet(path, 4, bytes.fromhex("23 62 03 18") + SBFD[4:]))
    assert bytes(reread(ran.frame)[UDP].payload)[:2] == bytes.fromhex("20 d8")


def test_sbfd_without_udp_checksum(path: PacketPath) -> None:
    packet = sbfd_packet(path, 4)
    packet[UDP].chksum = 0
    ran = run(path, packet)
    assert ran.outcome is Outcome.REFLECT
    assert Ether(ran.frame)[UDP].chksum == 0


@pytest.mark.parametrize(
    "payload",
    [
        SBFD[:8] + (DISCRIMINATOR + 1).to_bytes(4) + SBFD[12:],
        SBFD[:8] + bytes(4) + SBFD[12:],
        b"\x40" + SBFD[1:],  # version 2
        SBFD[:1] + b"\x44" + SBFD[2:],  # authenticated
        SBFD[:1] + b"\x41" + SBFD[2:],  # multipoint
        SBFD[:2] + b"\x00" + SBFD[3:],  # no multiplier
        SBFD[:3] + b"\x17" + SBFD[4:],  # too short by its own account
        SBFD[:3] + b"\x19" + SBFD[4:],  # longer than the packet
        SBFD[:4] + bytes(4) + SBFD[8:],  # nobody's
        SBFD[:-1],
        b"",
    ],
)
def test_other_sbfd_is_the_kernels_or_has_no_pinhole(path: PacketPath, payload: bytes) -> None:
    assert run(path, sbfd_packet(path, 4, payload)).action == "pass"
    guarded = sbfd_packet(path, 6, payload)
    guarded[IPv6].dst = GROUP6
    assert run(path, guarded).outcome is Outcome.NO_PINHOLE


def test_reflectors_do_not_play_with_each_other(path: PacketPath) -> None:
    assert run(path, sbfd_packet(path, 4, sport=7784)).action == "pass"


def test_sbfd_counts(path: PacketPath) -> None:
    ran = path.run(bytes(sbfd_packet(path, 6)), "access", counted=True)
    assert (ran.action, ran.outcome) == ("redirect", Outcome.REFLECT)


def test_every_short_frame_is_survived(path: PacketPath) -> None:
    for pair, found in PAIRS.items():
        frame = bytes(to_flow(path, found))
        for length in range(14, len(frame)):
            ran = path.run(frame[:length], "access")
            assert ran.outcome in (Outcome.RUNT, Outcome.MALFORMED), (pair, length)


def test_trace_names_where_it_leaves(path: PacketPath) -> None:
    with path.lab.inside("gw"):
        verdict = path.datapath.trace(
            Address(UE6, 4000), PAIRS[6, 4].local_in, "access", b"\x80rtp"
        )
    assert verdict.interface == "core"
    assert bytes(reread(verdict.frame)[UDP].payload) == b"\x80rtp"
