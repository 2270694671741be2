"""The packet path between real sockets in three namespaces: what arrives, survives, stops."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.media import frames
from bgf.media.datapath import Outcome
from bgf.media.xdp import ArmedMap, XdpDatapath
from bgf.model import Address, Flow
from failover.sbfd import ControlPacket, State
from tests.fakes.packet_lab import (
    CALLEE4,
    CALLEE6,
    GROUP_ADDRESSES,
    READY_TIMEOUT_S,
    REALMS,
    UE4,
    UE6,
    PacketLab,
    group,
    wait_for,
)
from tests.fakes.packet_path import FAR_DEADLINE_NS, flow

ROOT = Path(__file__).resolve().parents[2]
UP = flow("[fd00:a::101]:30000", "10.20.0.101:31000", f"{CALLEE4}:5000")
DOWN = flow("10.20.0.101:31000", "[fd00:a::101]:30000", f"[{UE6}]:4000")
PAIRS = {
    "6 to 4": (f"[{UE6}]:4000", "[fd00:a::101]:30000", "10.20.0.101:31000", f"{CALLEE4}:5000"),
    "4 to 6": (f"{UE4}:4000", "10.10.0.101:30000", "[fd00:c::101]:31000", f"[{CALLEE6}]:5000"),
    "4 to 4": (f"{UE4}:4000", "10.10.0.101:30000", "10.20.0.101:31000", f"{CALLEE4}:5000"),
    "6 to 6": (f"[{UE6}]:4000", "[fd00:a::101]:30000", "[fd00:c::101]:31000", f"[{CALLEE6}]:5000"),
}


@pytest.fixture
def lab() -> Iterator[PacketLab]:
    with PacketLab() as made:
        for address in GROUP_ADDRESSES:
            flags = ("nodad",) if ":" in address.host else ()
            made.ip("gw", "address", "add", f"{address.host}/{address.prefix_len}",
                    "dev", REALMS[address.realm], *flags)  # fmt: skip
        yield made


def opened(lab: PacketLab, attach: str = "auto") -> XdpDatapath:
    with lab.inside("gw"):
        return XdpDatapath(lab.bpffs / "node", REALMS, [group()], pinholes_max=64, attach=attach)


def resolved(datapath: XdpDatapath) -> None:
    def ready() -> bool:
        datapath.process()
        datapath.refresh()
        return not datapath.unresolved

    wait_for("the far ends resolve", ready)


def ping(lab: PacketLab, host: str) -> None:
    """An echo request from the UE (RFC 792, RFC 4443), and a wait for its reply."""
    six = ":" in host
    family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
    message = struct.pack(">BBHHH", 128 if six else 8, 0, 0, 4_711, 1)
    message = message[:2] + struct.pack(">H", frames.checksum(message)) + message[4:]
    with lab.inside("ue"):
        opened = socket.socket(family, socket.SOCK_RAW, protocol)
    with opened:
        opened.settimeout(READY_TIMEOUT_S)
        opened.sendto(message, (host, 0))
        while True:
            data = opened.recv(1_000)[0 if six else 20 :]
            if data[0] == (129 if six else 0) and data[4:6] == message[4:6]:
                return


def both_ways(names: tuple[str, str, str, str]) -> list[Flow]:
    ue, near, far, callee = names
    return [flow(near, far, callee), flow(far, near, ue)]


def exchange(lab: PacketLab, names: tuple[str, str, str, str], count: int = 20) -> None:
    """`count` datagrams each way through the gateway; fails on a loss or a wrong sender."""
    ue, near, far, callee = (Address.parse(name) for name in names)
    with lab.udp("ue", ue.host, ue.port) as up, lab.udp("callee", callee.host, callee.port) as down:
        for number in range(count):
            payload = b"%d" % number * number
            up.sendto(payload, (near.host, near.port))
            data, sender = down.recvfrom(2_048)
            assert (data, sender[:2]) == (payload, (far.host, far.port))
            down.sendto(payload[::-1], sender[:2])
            data, sender = up.recvfrom(2_048)
            assert (data, sender[:2]) == (payload[::-1], (near.host, near.port))


@pytest.mark.parametrize("pair", PAIRS)
def test_datagrams_between_sockets(lab: PacketLab, pair: str) -> None:
    datapath = opened(lab)
    try:
        flows = both_ways(PAIRS[pair])
        datapath.install(flows)
        datapath.arm("g1", FAR_DEADLINE_NS)
        resolved(datapath)
        exchange(lab, PAIRS[pair])
        assert [c.packets for c in datapath.counters([f.key for f in flows])] == [20, 20]
        assert datapath.drops()[Outcome.FORWARD] == 40
    finally:
        datapath.close(unpin=True)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_neighbour_that_does_not_answer_is_still_sent_to(lab: PacketLab, pair: str) -> None:
    datapath = opened(lab)
    try:
        datapath.install(both_ways(PAIRS[pair]))
        datapath.arm("g1", FAR_DEADLINE_NS)
        resolved(datapath)
        hosts = [Address.parse(PAIRS[pair][at]).host for at in (0, 3)]

        def told() -> bool:
            for host, interface in zip(hosts, ("access", "core"), strict=True):
                lab.ip("gw", "neighbour", "change", host, "dev", interface, "nud", "failed")
            datapath.process()
            return datapath.unresolved == sorted(hosts)

        wait_for("the kernel has given both up", told)
        exchange(lab, PAIRS[pair])
        assert datapath.drops()[Outcome.NO_NEIGHBOUR] == 0
        resolved(datapath)  # and asked again
    finally:
        datapath.close(unpin=True)


def test_native_on_veth_and_generic_where_asked_or_refused(lab: PacketLab) -> None:
    datapath = opened(lab)
    modes = {name: found.mode for name, found in datapath.attachments.items()}
    datapath.close(unpin=True)
    assert modes == {"access": "native", "core": "native"}

    datapath = opened(lab, "generic")
    asked = dict(datapath.attachments)
    datapath.install(both_ways(PAIRS["6 to 4"]))
    datapath.arm("g1", FAR_DEADLINE_NS)
    resolved(datapath)
    exchange(lab, PAIRS["6 to 4"], count=3)
    datapath.close(unpin=True)
    assert {a.mode for a in asked.values()} == {"generic"}
    assert {a.reason for a in asked.values()} == {"asked for"}


def test_generic_fallback_is_said(lab: PacketLab, caplog: pytest.LogCaptureFixture) -> None:
    # A veth refuses native XDP while its peer's packets may not fit into a page.
    lab.ip("ue", "link", "set", "access", "mtu", "9000")
    datapath = opened(lab)
    try:
        found = datapath.attachments
        assert (found["access"].mode, found["core"].mode) == ("generic", "native")
        assert "native XDP refused" in found["access"].reason
        assert "access" in caplog.text
        assert "generic" in caplog.text
    finally:
        datapath.close(unpin=True)


def test_forwards_without_its_process_and_is_reopened(lab: PacketLab) -> None:
    """A process that installs, arms and dies; then one that finds it all and takes it away."""
    child = (
        "import os, sys; from pathlib import Path; from tests.kernel.test_media_veth import *\n"
        "from pyroute2 import netns; netns.setns(sys.argv[1])\n"
        "d = XdpDatapath(Path(sys.argv[2]), REALMS, [group()], pinholes_max=64)\n"
        "d.install([UP, DOWN]); d.arm('g1', FAR_DEADLINE_NS); resolved(d)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, lab.name("gw"), lab.bpffs / "node"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    exchange(lab, PAIRS["6 to 4"], count=5)
    datapath = opened(lab)
    try:
        assert datapath.reopened
        assert datapath.keys() == {UP.key, DOWN.key}
        assert [c.packets for c in datapath.counters([UP.key, DOWN.key])] == [5, 5]
        assert not datapath.unresolved
        exchange(lab, PAIRS["6 to 4"], count=5)
        datapath.install([UP, DOWN])
        exchange(lab, PAIRS["6 to 4"], count=5)
        assert [c.packets for c in datapath.counters([UP.key, DOWN.key])] == [15, 15]
        datapath.remove([UP.key, DOWN.key])
        assert datapath.keys() == set()
    finally:
        datapath.close(unpin=True)


def test_armed_by_another_that_knows_only_the_pins(lab: PacketLab) -> None:
    datapath = opened(lab)
    try:
        datapath.install([UP, DOWN])
        resolved(datapath)
        armed = ArmedMap(lab.bpffs / "node", ["g1"])
        assert armed.deadline_ns("g1") == 0
        with lab.udp("ue", UE6, 4000) as up, lab.udp("callee", CALLEE4, 5000) as down:
            up.sendto(b"early", ("fd00:a::101", 30_000))
            wait_for("the drop is counted", lambda: datapath.drops()[Outcome.DISARMED] == 1)
            armed.arm("g1", time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
            up.sendto(b"now", ("fd00:a::101", 30_000))
            assert down.recv(100) == b"now"
            armed.arm("g1", 0)
            up.sendto(b"late", ("fd00:a::101", 30_000))
            wait_for("the drop is counted", lambda: datapath.drops()[Outcome.DISARMED] == 2)
        armed.close()
    finally:
        datapath.close(unpin=True)


def test_guarded_addresses_answer_ping_and_nothing_else(lab: PacketLab) -> None:
    datapath = opened(lab)
    try:
        for host in ("fd00:a::101", "10.10.0.101"):
            ping(lab, host)
        with lab.udp("ue", UE4, 4000) as up:
            up.connect(("10.10.0.101", 9))
            up.send(b"is there anybody?")
            wait_for("the drop is counted", lambda: datapath.drops()[Outcome.NO_PINHOLE] == 1)
            up.connect(("10.10.0.11", 9))  # the node's own address: the kernel refuses by itself
            up.send(b"is there anybody?")
            with pytest.raises(ConnectionRefusedError):
                up.recv(100)
    finally:
        datapath.close(unpin=True)


def test_a_neighbour_that_moves_is_followed(lab: PacketLab) -> None:
    datapath = opened(lab)
    try:
        datapath.install([UP, DOWN])
        datapath.arm("g1", FAR_DEADLINE_NS)
        resolved(datapath)
        exchange(lab, PAIRS["6 to 4"], count=2)
        lab.ip("callee", "link", "set", "core", "down")
        lab.ip("callee", "link", "set", "core", "address", "02:00:00:00:55:55")
        lab.ip("callee", "link", "set", "core", "up")

        def moved() -> bool:
            datapath.process()
            datapath.refresh()
            with lab.inside("gw"):
                frame = datapath.trace(Address(UE6, 4000), UP.local_in, "access", b"").frame
            return frame[:6] == bytes.fromhex("020000005555")

        wait_for("the new MAC address is used", moved)
        exchange(lab, PAIRS["6 to 4"], count=2)
    finally:
        datapath.close(unpin=True)


def test_our_own_mac_address_may_change(lab: PacketLab) -> None:
    datapath = opened(lab)
    try:
        datapath.install([UP, DOWN])
        datapath.arm("g1", FAR_DEADLINE_NS)
        lab.ip("gw", "link", "set", "access", "address", "02:00:00:00:66:66")
        resolved(datapath)
        exchange(lab, PAIRS["6 to 4"], count=2)
    finally:
        datapath.close(unpin=True)


def test_an_interface_made_anew_is_attached_at_the_next_start(lab: PacketLab) -> None:
    datapath = opened(lab)
    datapath.install([UP, DOWN])
    datapath.close()
    lab.ip("gw", "link", "del", "core")
    lab.ip("gw", "link", "add", "core", "type", "veth",
           "peer", "name", "core", "netns", lab.name("callee"))  # fmt: skip
    datapath = opened(lab)
    try:
        assert {a.mode for a in datapath.attachments.values()} <= {"native", "generic"}
        # What arrived on the interface that is gone can match nothing any more.
        assert datapath.keys() == {UP.key}
        datapath.install([UP, DOWN])
        assert datapath.keys() == {UP.key, DOWN.key}
    finally:
        datapath.close(unpin=True)


def test_groups_keep_their_index_over_restarts(lab: PacketLab) -> None:
    """A group's deadline is its own, whatever groups come and go around it."""
    runs = [
        (["g2", "g5"], {"g2": 0, "g5": 0}),
        (["g1", "g2", "g5"], {"g1": 0, "g2": 5, "g5": 5}),
        (["g1", "g5"], {"g1": 5, "g5": 5}),
        (["g1", "g2", "g5"], {"g1": 5, "g2": 0, "g5": 5}),
    ]
    try:
        for names, expected in runs:
            groups = [group(name, ()) for name in names]
            with lab.inside("gw"):
                datapath = XdpDatapath(lab.bpffs / "node", REALMS, groups, pinholes_max=64)
            armed = ArmedMap(lab.bpffs / "node", names)
            assert {name: armed.deadline_ns(name) for name in names} == expected
            for name in names:
                datapath.arm(name, 5)
            armed.close()
            datapath.close()
    finally:
        opened(lab).close(unpin=True)


def test_unpin_leaves_nothing(lab: PacketLab) -> None:
    datapath = opened(lab)
    datapath.close()
    datapath.close()
    datapath = opened(lab)
    datapath.close(unpin=True)
    assert not (lab.bpffs / "node").exists()
    for name in REALMS.values():
        assert "xdp" not in lab.ip("gw", "link", "show", "dev", name)


def test_the_reflector_of_a_silent_node_answers(lab: PacketLab) -> None:
    """A veth leaves XDP_TX frames lying until the node itself sends: nothing else may be needed."""
    with lab.inside("gw"):
        datapath = XdpDatapath(
            lab.bpffs / "node", REALMS, [group()], pinholes_max=64, discriminator=7
        )
    probe = ControlPacket(my_discriminator=99, your_discriminator=7, demand=True)
    with datapath, lab.inside("ue"):
        asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asker:
        asker.settimeout(READY_TIMEOUT_S)
        for _ in range(3):
            asker.sendto(probe.encode(), ("10.10.0.11", 7784))
            answer = ControlPacket.parse(asker.recv(64))
            assert (answer.state, answer.my_discriminator) == (State.UP, 7)
