"""ICE peers and muxing peers between real sockets: checks answered, RTCP led to its own port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import aioice
import msgspec
import pytest

from bgf.media import ice
from bgf.media.checks import StunCheck
from bgf.media.datapath import Outcome
from bgf.media.xdp import XdpDatapath
from bgf.model import Address, Component, Gate, Ice, Rtp, Source
from tests.fakes.packet_lab import (
    CALLEE4,
    GROUP_ADDRESSES,
    REALMS,
    UE4,
    UE6,
    PacketLab,
    group,
    wait_for,
)
from tests.fakes.packet_path import FAR_DEADLINE_NS, flow
from tests.unit.test_stun import raw, request, understood

OURS = Ice("Wx9+/Abc", "0123456789abcdefghijkl+/")
NEAR, FAR = "10.10.0.101:30000", "10.20.0.101:31000"
NEAR6 = "[fd00:a::101]:30000"
RTCP = bytes.fromhex("80c80001deadbeef")


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with PacketLab() as made:
        for address in GROUP_ADDRESSES:
            flags = ("nodad",) if ":" in address.host else ()
            made.ip("gw", "address", "add", f"{address.host}/{address.prefix_len}",
                    "dev", REALMS[address.realm], *flags)  # fmt: skip
        made.settle_neighbours()
        yield made


@pytest.fixture
def datapath(lab: PacketLab) -> Iterator[XdpDatapath]:
    with lab.inside("gw"):
        made = XdpDatapath(lab.bpffs / "ice", REALMS, [group()], pinholes_max=64)
    made.arm("g1", FAR_DEADLINE_NS)
    yield made
    made.close(unpin=True)


class Agent(threading.Thread):
    """Answers as a gateway process does, with one set of credentials."""

    def __init__(self, lab: PacketLab, datapath: XdpDatapath) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._checks = datapath.checks
        self._over = threading.Event()
        self.seen: list[tuple[StunCheck, ice.Answer]] = []

    def run(self) -> None:
        with self._lab.inside("gw"):
            while not self._over.wait(0.005):
                for check in self._checks.take():
                    said = ice.answer(OURS, check.message, check.sender)
                    if said.reply is not None:
                        self._checks.answer(check, said.reply)
                    self.seen.append((check, said))

    @property
    def nominated(self) -> list[Address]:
        return [check.sender for check, said in self.seen if said.nominated]

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize("gate", Gate)
@pytest.mark.parametrize("ends", [(NEAR, UE4, "10.10.0.101"), (NEAR6, UE6, "fd00:a::101")])
def test_a_check_is_answered_from_the_pinhole_whatever_its_gate_says(
    lab: PacketLab, datapath: XdpDatapath, ends: tuple[str, str, str], gate: Gate
) -> None:
    near, user, host = ends
    datapath.install([flow(near, FAR, f"{CALLEE4}:5000", gate=gate, source=Source("192.0.2.1"),
                           ice=OURS, rtp=Rtp(True))])  # fmt: skip
    with lab.udp("ue", user) as peer, lab.udp("callee", CALLEE4, 5_000) as callee:
        with Agent(lab, datapath) as agent:
            asked = request("Wx9+/Abc:peer", use=True)
            peer.sendto(raw(asked), (host, 30_000))
            reply, sender = peer.recvfrom(2_000)
            # Without our password there is no answer, and nothing goes through.
            peer.sendto(raw(request("Wx9+/Abc:peer", pwd="z" * 22)), (host, 30_000))
            wait_for("both were seen", lambda: len(agent.seen) == 2)
        assert sender[:2] == (host, 30_000)
        mapped = understood(reply).attributes["XOR-MAPPED-ADDRESS"]
        assert tuple(mapped) == peer.getsockname()[:2]
        assert agent.nominated == [Address(*peer.getsockname()[:2])]
        assert agent.seen[1][1].check is ice.Check.BAD_INTEGRITY
        callee.setblocking(False)
        with pytest.raises(BlockingIOError):
            callee.recv(100)
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(100)
    assert datapath.drops()[Outcome.CHECK] >= 2


def test_where_no_ice_is_done_stun_is_a_packet_like_any_other(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    datapath.install([flow(NEAR, FAR, f"{CALLEE4}:5000")])
    with lab.udp("ue", UE4) as peer, lab.udp("callee", CALLEE4, 5_000) as callee:
        asked = raw(request("Wx9+/Abc:peer"))
        peer.sendto(asked, ("10.10.0.101", 30_000))
        assert callee.recv(2_000) == asked
        # Nor is a lookalike a check where ICE is done.
        datapath.install([flow(NEAR, FAR, f"{CALLEE4}:5000", ice=OURS)])
        odd = asked[:4] + b"\x21\x12\xa4\x43" + asked[8:]
        peer.sendto(odd, ("10.10.0.101", 30_000))
        assert callee.recv(2_000) == odd
    assert not list(datapath.checks.take())


def test_a_disarmed_node_tells_nobody(lab: PacketLab, datapath: XdpDatapath) -> None:
    datapath.install([flow(NEAR, FAR, f"{CALLEE4}:5000", ice=OURS)])
    datapath.arm("g1", 0)
    before = datapath.drops()[Outcome.DISARMED]
    with lab.udp("ue", UE4) as peer:
        peer.sendto(raw(request("Wx9+/Abc:peer")), ("10.10.0.101", 30_000))
        wait_for("it was dropped", lambda: datapath.drops()[Outcome.DISARMED] > before)
    assert not list(datapath.checks.take())


def test_a_new_process_answers_in_the_place_of_the_one_before(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    datapath.install([flow(NEAR, FAR, f"{CALLEE4}:5000", ice=OURS)])
    datapath.close()
    with lab.inside("gw"):
        again = XdpDatapath(lab.bpffs / "ice", REALMS, [group()], pinholes_max=64)
    try:
        with lab.udp("ue", UE4) as peer, Agent(lab, again):
            peer.sendto(raw(request("Wx9+/Abc:peer")), ("10.10.0.101", 30_000))
            assert understood(peer.recv(2_000))
    finally:
        again.close()


def test_a_full_agent_of_another_kind_connects_and_media_flows(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    """aioice, the whole of it: pairs, checks, nomination, and then its data."""
    datapath.install([flow(NEAR, FAR, f"{CALLEE4}:5000", ice=OURS)])

    async def connect() -> Address:
        made = aioice.Connection(ice_controlling=True, components=1)
        await made.gather_candidates()
        made.remote_username, made.remote_password = OURS.ufrag, OURS.pwd
        made.remote_is_lite = True
        line = "1 1 UDP 2130706431 10.10.0.101 30000 typ host"
        await made.add_remote_candidate(aioice.Candidate.from_sdp(line))
        await made.add_remote_candidate(None)
        await made.connect()
        await made.send(b"\x80media")
        local = next(c for c in made.local_candidates if c.host == UE4)
        await made.close()
        return Address(local.host, local.port)

    with lab.udp("callee", CALLEE4, 5_000) as callee, Agent(lab, datapath) as agent:
        with lab.inside("ue"):
            peer = asyncio.run(connect())
        assert callee.recv(100) == b"\x80media"
        assert peer in agent.nominated


def test_rtcp_is_led_to_a_port_of_its_own_and_back(lab: PacketLab, datapath: XdpDatapath) -> None:
    """rtcp-mux with the caller, none with the called party: one port here, two there."""
    control_of = partial(msgspec.structs.replace, component=Component.RTCP)
    datapath.install([
        flow(NEAR, FAR, f"{CALLEE4}:5000", rtcp_mux=True, demux=True, rtp=Rtp(True)),
        control_of(
            flow("10.10.0.101:30001", "10.20.0.101:31001", f"{CALLEE4}:5001", rtp=Rtp(True))
        ),
        flow(FAR, NEAR, f"{UE4}:4000", rtp=Rtp(True)),
        control_of(flow("10.20.0.101:31001", NEAR, f"{UE4}:4000", rtp=Rtp(True))),
    ])  # fmt: skip
    rtp = b"\x80\0" + bytes(10)
    with (
        lab.udp("ue", UE4, 4_000) as user,
        lab.udp("callee", CALLEE4, 5_000) as media,
        lab.udp("callee", CALLEE4, 5_001) as control,
    ):
        user.sendto(rtp, ("10.10.0.101", 30_000))
        user.sendto(RTCP, ("10.10.0.101", 30_000))
        assert media.recvfrom(100) == (rtp, ("10.20.0.101", 31_000))
        assert control.recvfrom(100) == (RTCP, ("10.20.0.101", 31_001))
        media.sendto(rtp, ("10.20.0.101", 31_000))
        assert user.recvfrom(100) == (rtp, ("10.10.0.101", 30_000))
        control.sendto(RTCP, ("10.20.0.101", 31_001))
        assert user.recvfrom(100) == (RTCP, ("10.10.0.101", 30_000))
