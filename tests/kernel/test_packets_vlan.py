"""Realms on VLANs: several on one link; native XDP on the device below takes tags off and on.

ue (access) --- gw --- callee: untagged (realm core), VLAN 7 (blue), VLAN 4094 (red)
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from bgf.media import frames
from bgf.media.datapath import Outcome
from bgf.media.neighbours import EVENT_GROUPS
from bgf.media.netlink import Link, Message, Netlink, Wire
from bgf.model import Address, Component, Flow, Gate, Latch, RealmAddress
from tests.fakes.packet_call import checked
from tests.fakes.packet_lab import READY_TIMEOUT_S, PacketLab, group, wait_for
from tests.fakes.packet_model import Interface, PacketModel
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath

NETS = {
    "access": ("10.10.0.", "fd00:a::"),
    "core": ("10.20.0.", "fd00:c::"),
    "blue": ("10.77.0.", "fd00:77::"),
    "red": ("10.99.0.", "fd00:99::"),
}
VLANS = {"access": 0, "core": 0, "blue": 7, "red": 4_094}
REALMS = {realm: realm for realm in NETS}
TOS = 0xB8
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA = 3, 263, 8  # linux/if_ether.h, if_packet.h


def host(realm: str, family: int, number: int) -> str:
    return NETS[realm][family == 6] + str(number)


def far_space(realm: str) -> str:
    return "ue" if realm == "access" else "callee"


class TaggedNetlink(Netlink):
    """As the kernel tells it, but blue and red are VLANs on core."""

    def links(self) -> list[Link]:
        found = super().links()
        core = next(link for link in found if link.name == "core")
        return [
            link._replace(parent=core.ifindex, vlan=VLANS[link.name], mac=core.mac)
            if VLANS.get(link.name)
            else link
            for link in found
        ]

    def events(self) -> list[Message] | None:
        found = super().events()
        if found is None:
            return None
        return [e for e in found if not (isinstance(e, Link) and VLANS.get(e.name))]


class VlanPath(PacketPath):
    """A packet path whose core link carries two VLANs besides."""

    def __init__(self, lab: PacketLab) -> None:
        for realm in ("blue", "red"):
            lab.ip("gw", "link", "add", realm, "type", "veth", "peer", "name", f"{realm}-end")
            lab.ip("gw", "address", "add", f"{host(realm, 4, 11)}/24", "dev", realm)
            lab.ip("gw", "address", "add", f"{host(realm, 6, 11)}/64", "dev", realm, "nodad")
            lab.ip("gw", "link", "set", realm, "up")
            lab.ip("gw", "link", "set", f"{realm}-end", "up")
        lab.settle_neighbours()
        mac = lab.macs["callee", "core"].hex(":")
        for realm, family in itertools.product(("blue", "red"), (4, 6)):
            wait_for(f"{realm} is up", partial(self._has_route, lab, realm))
            lab.ip("gw", "neigh", "replace", host(realm, family, 100), "lladdr", mac,
                   "dev", realm, "nud", "permanent")  # fmt: skip
        addresses = tuple(
            RealmAddress(realm, host(realm, family, 101), 24 if family == 4 else 64)
            for realm, family in itertools.product(NETS, (4, 6))
        )
        super().__init__(
            lab,
            group("g1", addresses),
            realms=REALMS,
            netlink=partial(TaggedNetlink, EVENT_GROUPS),
        )
        self.datapath.arm("g1", FAR_DEADLINE_NS)

    @staticmethod
    def _has_route(lab: PacketLab, realm: str) -> bool:
        routes = lab.ip("gw", "-6", "route", "show", "dev", realm)
        return "fd00" in routes and "linkdown" not in routes

    def device(self, realm: str) -> str:
        return "access" if realm == "access" else "core"

    def arriving(self, realm: str, sender: Address, receiver: Address, payload: bytes) -> bytes:
        frame = frames.build(
            sender,
            receiver,
            payload,
            destination_mac=self.lab.macs["gw", self.device(realm)],
            source_mac=self.lab.macs[far_space(realm), self.device(realm)],
        )
        if receiver.family == 4:
            raw = bytearray(frame)
            raw[15] = TOS
            raw[24:26] = bytes(2)
            raw[24:26] = frames.checksum(bytes(raw[14:34])).to_bytes(2)
            frame = bytes(raw)
        return frames.tagged(frame, VLANS[realm], 3) if VLANS[realm] else frame

    def model(self) -> PacketModel:
        interfaces = {
            realm: Interface(
                self.device(realm), self.lab.macs["gw", self.device(realm)], VLANS[realm]
            )
            for realm in NETS
        }
        guarded = {host(realm, family, 101) for realm in NETS for family in (4, 6)}
        model = PacketModel(
            ["g1"],
            interfaces,
            guarded,
            lambda realm, _: self.lab.macs[far_space(realm), self.device(realm)],
        )
        model.deadlines["g1"] = FAR_DEADLINE_NS
        return model


@pytest.fixture(scope="module")
def vlans() -> Iterator[VlanPath]:
    with PacketLab() as lab:
        made = VlanPath(lab)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def path(vlans: VlanPath) -> Iterator[VlanPath]:
    yield vlans
    vlans.datapath.remove(vlans.datapath.keys())


def flow_between(come: str, go: str, families: tuple[int, int] = (4, 4)) -> Flow:
    return Flow(
        "g1",
        "call",
        0,
        Component.RTP,
        come,
        Address(host(come, families[0], 101), 30_000),
        go,
        Address(host(go, families[1], 101), 31_000),
        Address(host(go, families[1], 100), 5_000),
        gate=Gate.OPEN,
    )


@pytest.mark.parametrize("families", [(4, 4), (4, 6), (6, 4), (6, 6)])
@pytest.mark.parametrize("come", NETS)
@pytest.mark.parametrize("go", NETS)
def test_every_realm_to_every_other_in_all_family_pairs(
    path: VlanPath, come: str, go: str, families: tuple[int, int]
) -> None:
    flow = flow_between(come, go, families)
    path.datapath.install([flow])
    model = path.model()
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    model.install(flow, now_ns)
    for payload in (b"", b"x", b"voice in a tunnel", bytes(1_400)):
        sender = Address(host(come, families[0], 100), 4_000)
        frame = path.arriving(come, sender, flow.local_in, payload)
        expected = model.run(frame, path.device(come), now_ns)
        ran = path.send(frame, come)
        assert (ran.outcome, ran.frame) == (Outcome.FORWARD, expected.frame)
        bare = frames.untagged(ran.frame)
        assert (len(bare) < len(ran.frame)) == bool(VLANS[go])
        assert checked(ran._replace(frame=bare)).payload == payload


def test_a_tag_has_the_priority_of_the_class(path: VlanPath) -> None:
    path.datapath.install([msgspec.structs.replace(flow_between("access", "blue"), dscp=46)])
    frame = path.arriving("access", Address(host("access", 4, 100), 4_000),
                          Address(host("access", 4, 101), 30_000), b"")  # fmt: skip
    assert path.send(frame, "access").frame[12:16] == bytes.fromhex("8100") + (
        5 << 13 | 7
    ).to_bytes(2)


def test_a_pinhole_of_one_vlan_is_none_in_another(path: VlanPath) -> None:
    path.datapath.install([flow_between("blue", "access")])
    here = Address(host("blue", 4, 101), 30_000)
    sender = Address(host("blue", 4, 100), 4_000)
    seen = {
        realm: path.send(path.arriving(realm, sender, here, b""), realm).outcome
        for realm in ("core", "blue", "red")
    }
    assert seen == {
        "core": Outcome.NO_PINHOLE, "blue": Outcome.FORWARD, "red": Outcome.NO_PINHOLE,
    }  # fmt: skip


def test_the_program_sits_on_the_device_below(path: VlanPath) -> None:
    assert set(path.datapath.attachments) == {"access", "core"}
    assert {a.mode for a in path.datapath.attachments.values()} == {"native"}
    wires = {realm: path.datapath._realms.wire(realm) for realm in NETS}
    assert wires["blue"] == Wire(wires["core"].ifindex, 7)
    assert wires["red"] == Wire(wires["core"].ifindex, 4_094)


def test_each_realm_has_its_own_counts(path: VlanPath) -> None:
    def counted() -> dict[str, int]:
        found = dict.fromkeys(NETS, 0)
        for tally in path.datapath.tallies():
            if tally.outcome is Outcome.NO_PINHOLE:
                found[tally.realm] += tally.packets
        return found

    before = counted()
    for number, realm in enumerate(NETS, 1):
        frame = path.arriving(realm, Address(host(realm, 4, 100), 1),
                              Address(host(realm, 4, 101), 1), b"")  # fmt: skip
        for _ in range(number):
            path.send(frame, realm)
    after = counted()
    assert {realm: after[realm] - before[realm] for realm in NETS} == {
        realm: number for number, realm in enumerate(NETS, 1)
    }


def test_trace_speaks_of_realms(path: VlanPath) -> None:
    path.datapath.install([flow_between("blue", "red")])
    with path.lab.inside("gw"):
        verdict = path.datapath.trace(
            Address(host("blue", 4, 100), 4_000),
            Address(host("blue", 4, 101), 30_000),
            "blue",
            b"!",
        )
    assert (verdict.outcome, verdict.interface) == (Outcome.FORWARD, "red")
    assert verdict.destination == Address(host("red", 4, 100), 5_000)


def test_what_a_tagged_sender_taught_leads_back_with_its_tag(path: VlanPath) -> None:
    path.datapath.install([
        msgspec.structs.replace(flow_between("blue", "access"), latch=Latch.LATCH),
        Flow("g1", "call", 0, Component.RTP, "access", Address(host("access", 4, 101), 31_000),
             "blue", Address(host("blue", 4, 101), 30_000), None, gate=Gate.OPEN, follows=True),
    ])  # fmt: skip
    stranger = Address("203.0.113.5", 9_999)
    path.send(path.arriving("blue", stranger, Address(host("blue", 4, 101), 30_000), b""), "blue")
    frame = path.arriving("access", Address(host("access", 4, 100), 1),
                          Address(host("access", 4, 101), 31_000), b"back")  # fmt: skip
    ran = path.send(frame, "access")
    assert checked(ran._replace(frame=frames.untagged(ran.frame))).receiver == stranger
    assert ran.frame[12:14] == b"\x81\x00"
    assert int.from_bytes(ran.frame[14:16]) & 0xFFF == 7


def test_tagged_frames_on_the_wire(path: VlanPath) -> None:
    """A raw socket at the other end sends into VLAN 7 and receives from VLAN 4094."""
    path.datapath.install([flow_between("blue", "red")])
    with path.lab.inside("callee"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with raw:
        raw.bind(("core", ETH_P_ALL))
        raw.settimeout(READY_TIMEOUT_S)
        raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        here = Address(host("blue", 4, 101), 30_000)
        sender = Address(host("blue", 4, 100), 4_000)
        for number in range(3):
            raw.send(path.arriving("blue", sender, here, b"tagged %d" % number))
            while True:
                frame, extra, *_ = raw.recvmsg(2_000, 100)
                datagram = frames.read(frames.untagged(frame))
                if datagram and datagram.sender == Address(host("red", 4, 101), 31_000):
                    break
            assert datagram.payload == b"tagged %d" % number
            [(_, _, note)] = extra  # struct tpacket_auxdata: the kernel takes the tag out
            assert struct.unpack_from("=H", note, 16)[0] & 0xFFF == VLANS["red"]
