"""The probing sockets on a real link, against a reflector made of one plain socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import NetNS, netns

from failover.detector import Detector, Peer
from failover.errors import ProbeError
from failover.probing import UdpProber
from failover.sbfd import PORT, ControlPacket, reflect

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

LINK = "core"
PATIENCE_S = 20.0
HOSTS = {"four": ("10.20.0.11", "10.20.0.12"), "six": ("fd00:c::11", "fd00:c::12")}
SOURCES = {path: own for path, (own, _) in HOSTS.items()}
PEERS = {"n2": {path: peer for path, (_, peer) in HOSTS.items()}}
MS = 1_000_000


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    tag = uuid.uuid4().hex[:6]
    names = (f"fo-n1-{tag}", f"fo-n2-{tag}")
    try:
        for name in names:
            netns.create(name)
        with NetNS(names[0], flags=0) as ipr:
            ipr.link("add", ifname=LINK, kind="veth", peer={"ifname": LINK, "net_ns_fd": names[1]})
        for end, name in enumerate(names):
            with NetNS(name, flags=0) as ipr:
                index = ipr.link_lookup(ifname=LINK)[0]
                ipr.link("set", index=index, state="up")
                ipr.addr("add", index=index, address=HOSTS["four"][end], prefixlen=24)
                ipr.addr("add", index=index, address=HOSTS["six"][end], prefixlen=64, flags=0x02)
        yield names
    finally:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                netns.remove(name)


@pytest.fixture
def prober(nodes: tuple[str, str]) -> Iterator[UdpProber]:
    with inside(nodes[0]):
        opened = UdpProber(SOURCES, PEERS, dict.fromkeys(SOURCES, LINK))
    yield opened
    opened.close()


def limit_hops(opened: socket.socket, hops: int) -> None:
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    else:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)


def reflector(name: str, path: str, *, port: int = PORT) -> socket.socket:
    host = HOSTS[path][1]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with inside(name):
        opened = socket.socket(family, socket.SOCK_DGRAM)
    limit_hops(opened, 255)
    opened.settimeout(PATIENCE_S)
    opened.bind((host, port))
    return opened


def collect(prober: UdpProber, count: int) -> list[tuple[bytes, str]]:
    got: list[tuple[bytes, str]] = []
    until = time.monotonic() + PATIENCE_S
    while len(got) < count and time.monotonic() < until:
        got += prober.drain()
        time.sleep(0.001)
    return got


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and not holds():
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("path", list(HOSTS))
def test_a_probe_goes_out_and_its_answer_is_heard(
    nodes: tuple[str, str], prober: UdpProber, path: str
) -> None:
    detector = Detector(1, {"n2": Peer(2, tuple(HOSTS))}, 20 * MS, 3, 0)
    with reflector(nodes[1], path) as peer:
        for probe in detector.tick(0):
            prober.send(probe)
        datagram, sender = peer.recvfrom(128)
        assert sender[0] == SOURCES[path]
        assert sender[1] != PORT  # RFC 7881: the initiator's source port is another one
        peer.sendto(reflect(ControlPacket.parse(datagram)).encode(), sender)
        ((answer, heard_on),) = collect(prober, 1)
    assert heard_on == path
    assert detector.receive(answer, path, MS)
    assert detector.observing() == {"n2": (path,)}


@pytest.mark.parametrize("path", list(HOSTS))
def test_strangers_and_what_came_over_a_router_are_not_heard(
    nodes: tuple[str, str], prober: UdpProber, path: str
) -> None:
    (probe,) = Detector(1, {"n2": Peer(2, (path,))}, 20 * MS, 3, 0).tick(0)
    with (
        reflector(nodes[1], path) as peer,
        reflector(nodes[1], path, port=7785) as other_port,
    ):
        prober.send(probe)
        _, initiator = peer.recvfrom(128)
        limit_hops(peer, 254)
        peer.sendto(b"from beyond the link", initiator)
        limit_hops(peer, 255)
        other_port.sendto(b"from another port", initiator)
        peer.sendto(b"from the reflector", initiator)
        assert collect(prober, 1) == [(b"from the reflector", path)]
    assert (prober.tally["routed"], prober.tally["strangers"]) == (1, 1)


def test_nobody_listening_is_silence_not_an_error(prober: UdpProber) -> None:
    detector = Detector(1, {"n2": Peer(2, tuple(HOSTS))}, 20 * MS, 3, 0)
    for turn in range(5):
        for probe in detector.tick(turn * 20 * MS):
            prober.send(probe)
        assert list(prober.drain()) == []


def test_a_link_without_carrier_is_seen(nodes: tuple[str, str], prober: UdpProber) -> None:
    assert eventually(lambda: list(prober.links_down()) == [])  # the kernel tells a little later
    with NetNS(nodes[1], flags=0) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname=LINK)[0], state="down")
    assert eventually(lambda: list(prober.links_down()) == list(HOSTS))
    (probe, *_) = Detector(1, {"n2": Peer(2, tuple(HOSTS))}, 20 * MS, 3, 0).tick(0)
    prober.send(probe)  # goes nowhere, raises nothing


def test_the_loop_is_told_when_something_arrives(nodes: tuple[str, str], prober: UdpProber) -> None:
    (probe,) = Detector(1, {"n2": Peer(2, ("four",))}, 20 * MS, 3, 0).tick(0)

    async def scenario(peer: socket.socket) -> list[tuple[bytes, str]]:
        arrived = asyncio.Event()
        prober.watch(arrived.set)
        prober.send(probe)
        _, sender = peer.recvfrom(128)
        peer.sendto(b"answer", sender)
        await asyncio.wait_for(arrived.wait(), PATIENCE_S)
        heard = list(prober.drain())
        prober.close()
        return heard

    with reflector(nodes[1], "four") as peer:
        assert asyncio.run(scenario(peer)) == [(b"answer", "four")]


def test_a_missing_interface_is_one_clear_line(nodes: tuple[str, str]) -> None:
    with inside(nodes[0]), pytest.raises(ProbeError, match=r"path four: .* on nowhere"):
        UdpProber({"four": "10.20.0.11"}, {}, {"four": "nowhere"})
