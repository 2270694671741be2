"""Moving addresses on real links: two namespaces, a veth pair, and what the peer makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from pyroute2 import IPRoute, NetNS, netns

from failover.adapters import Addresses, NullAddresses
from failover.addresses import NetlinkAddresses
from failover.config import MovingAddress
from failover.errors import AddressConflict, AddressError
from failover.frames import read_claim
from failover.rtnetlink import REQUESTS_MAX, Rtnetlink, adding, lasting, removing
from tests.fakes.failover import FakeAddresses

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

LINK = "access"
GATEWAY_MAC = "02:00:00:00:00:0a"
PEER_MAC = "02:00:00:00:00:0b"
OLD_OWNER_MAC = "02:00:00:00:00:dd"
OWN6, PEER6, MOVING6 = "fd00:a::11", "fd00:a::2", "fd00:a::101"
OWN4, PEER4, MOVING4 = "10.10.0.11", "10.10.0.2", "10.10.0.101"
MOVING = (MovingAddress(MOVING6, 64, LINK), MovingAddress(MOVING4, 24, LINK))
PATIENCE_S = 20.0  # how long anything may take at all; nothing is asserted about less


@dataclass
class Pair:
    """Namespace names of the gateway and of its neighbour on one link."""

    gateway: str
    peer: str


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and those it starts, in namespace `name`."""
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.01)
    return holds()


def setup_end(name: str, mac: str, own6: str, own4: str) -> None:
    with NetNS(name, flags=0) as ipr:
        index = ipr.link_lookup(ifname=LINK)[0]
        ipr.link("set", index=index, address=mac, state="up")
        ipr.addr("add", index=index, address=own6, prefixlen=64, flags=0x02)
        ipr.addr("add", index=index, address=own4, prefixlen=24)


@pytest.fixture
def pair() -> Iterator[Pair]:
    tag = uuid.uuid4().hex[:6]
    names = Pair(f"fo-gw-{tag}", f"fo-peer-{tag}")
    try:
        netns.create(names.gateway)
        netns.create(names.peer)
        with NetNS(names.gateway, flags=0) as ipr:
            ipr.link(
                "add",
                ifname=LINK,
                kind="veth",
                peer={"ifname": LINK, "net_ns_fd": names.peer},
            )
        setup_end(names.gateway, GATEWAY_MAC, OWN6, OWN4)
        setup_end(names.peer, PEER_MAC, PEER6, PEER4)
        yield names
    finally:
        for name in (names.gateway, names.peer):
            with contextlib.suppress(FileNotFoundError):
                netns.remove(name)


@pytest.fixture
def addresses(pair: Pair) -> Iterator[NetlinkAddresses]:
    with inside(pair.gateway):
        real = NetlinkAddresses(MOVING)
        try:
            yield real
        finally:
            real.close()


@pytest.fixture(params=["null", "fake", "netlink"])
def any_addresses(request: pytest.FixtureRequest) -> Addresses:
    if request.param == "null":
        return NullAddresses()
    if request.param == "fake":
        return FakeAddresses(time.monotonic_ns)
    real: Addresses = request.getfixturevalue("addresses")
    return real


def neighbour(pair: Pair, host: str) -> str | None:
    """What the peer's neighbour table says about `host`."""
    with NetNS(pair.peer, flags=0) as ipr:
        for entry in ipr.get_neighbours(dst=host):
            return str(entry.get_attr("NDA_LLADDR"))
    return None


def believe(pair: Pair, host: str, mac: str) -> None:
    """Make the peer believe that `host` is at `mac`, as it did of the old owner."""
    with NetNS(pair.peer, flags=0) as ipr:
        index = ipr.link_lookup(ifname=LINK)[0]
        ipr.neigh("replace", dst=host, lladdr=mac, ifindex=index, state=0x02)  # reachable


class TestContract:
    """The real thing, the fake and the null twin alike."""

    def test_add_and_remove_are_idempotent(self, any_addresses: Addresses) -> None:
        assert any_addresses.held() == set()
        any_addresses.remove(MOVING)
        for _ in range(2):
            any_addresses.add(MOVING, 30)
            assert any_addresses.held() == {MOVING6, MOVING4}
        any_addresses.remove(MOVING[:1])
        assert any_addresses.held() == {MOVING4}
        for _ in range(2):
            any_addresses.remove(MOVING)
            assert any_addresses.held() == set()

    def test_announcing_and_asking_changes_nothing(self, any_addresses: Addresses) -> None:
        any_addresses.add(MOVING, 30)
        any_addresses.announce(MOVING)
        assert any_addresses.conflicts(MOVING) == {}
        assert any_addresses.held() == {MOVING6, MOVING4}


def test_an_added_address_can_be_used_at_once(addresses: NetlinkAddresses) -> None:
    """No duplicate address detection: a tentative address could not be bound."""
    addresses.add(MOVING, 30)
    for host, family in ((MOVING6, socket.AF_INET6), (MOVING4, socket.AF_INET)):
        with socket.socket(family, socket.SOCK_DGRAM) as bound:
            bound.bind((host, 0))


def test_the_nodes_own_traffic_does_not_leave_from_it(addresses: NetlinkAddresses) -> None:
    addresses.add(MOVING, 30)
    for peer, own, family in ((PEER6, OWN6, socket.AF_INET6), (PEER4, OWN4, socket.AF_INET)):
        with socket.socket(family, socket.SOCK_DGRAM) as connected:
            connected.connect((peer, 9))
            assert connected.getsockname()[0] == own


def test_it_works_while_an_event_loop_runs(addresses: NetlinkAddresses) -> None:
    async def scenario() -> set[str]:
        addresses.add(MOVING, 30)
        addresses.announce(MOVING)
        return addresses.held()

    assert asyncio.run(scenario()) == {MOVING6, MOVING4}


def test_an_address_that_nobody_renews_leaves_and_the_own_route_stays(
    pair: Pair, addresses: NetlinkAddresses
) -> None:
    addresses.add(MOVING, 1)
    addresses.add(MOVING, 1)  # a renewal too must leave the route alone
    assert eventually(lambda: addresses.held() == set())
    with NetNS(pair.gateway, flags=0) as ipr:
        routes = [r for r in ipr.get_routes(family=socket.AF_INET6) if r["dst_len"] == 64]
        onlink = [r for r in routes if str(r.get_attr("RTA_DST")) == "fd00:a::"]
        assert len(onlink) == 1
        assert not onlink[0].get_attr("RTA_CACHEINFO")["rta_expires"]


def test_neighbours_hear_every_form_of_the_announcement(
    pair: Pair, addresses: NetlinkAddresses
) -> None:
    with inside(pair.peer):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with sniffer:
        sniffer.bind((LINK, 3))
        sniffer.settimeout(PATIENCE_S)
        addresses.add(MOVING, 30)
        addresses.announce(MOVING)
        seen: list[bytes] = []
        while len(seen) < 3:
            frame = sniffer.recv(2048)
            claim = read_claim(frame)
            if claim is not None and claim.host in (MOVING4, MOVING6):
                assert claim.mac == GATEWAY_MAC
                seen.append(frame)
    scapy = pytest.importorskip("scapy.all")
    advertisement, request, reply = (scapy.Ether(frame) for frame in seen)
    assert advertisement.dst == "33:33:00:00:00:01"
    assert advertisement[scapy.IPv6].dst == "ff02::1"
    assert advertisement[scapy.IPv6].hlim == 255
    assert advertisement[scapy.ICMPv6ND_NA].O == 1
    assert advertisement[scapy.ICMPv6ND_NA].S == 0
    assert advertisement[scapy.ICMPv6NDOptDstLLAddr].lladdr == GATEWAY_MAC
    rebuilt = advertisement.copy()
    del rebuilt[scapy.ICMPv6ND_NA].cksum
    assert scapy.Ether(bytes(rebuilt)).cksum == advertisement.cksum
    assert (request[scapy.ARP].op, reply[scapy.ARP].op) == (1, 2)
    for packet in (request, reply):
        assert packet.dst == "ff:ff:ff:ff:ff:ff"
        assert packet[scapy.ARP].psrc == packet[scapy.ARP].pdst == MOVING4


@pytest.mark.parametrize("host", [MOVING6, MOVING4])
def test_a_neighbour_that_believed_the_old_owner_follows(
    pair: Pair, addresses: NetlinkAddresses, host: str
) -> None:
    believe(pair, host, OLD_OWNER_MAC)
    assert neighbour(pair, host) == OLD_OWNER_MAC
    addresses.add(MOVING, 30)
    addresses.announce(MOVING)
    assert eventually(lambda: neighbour(pair, host) == GATEWAY_MAC)


def test_an_address_that_somebody_else_has_is_found(
    pair: Pair, addresses: NetlinkAddresses
) -> None:
    with NetNS(pair.peer, flags=0) as ipr:
        index = ipr.link_lookup(ifname=LINK)[0]
        ipr.addr("add", index=index, address=MOVING6, prefixlen=64, flags=0x02)
        ipr.addr("add", index=index, address=MOVING4, prefixlen=24)
    assert addresses.conflicts(MOVING) == {MOVING6: PEER_MAC, MOVING4: PEER_MAC}
    with pytest.raises(AddressConflict, match=f"{MOVING4} on access is already taken by 02:"):
        addresses.probe_conflict(MOVING[1])


def test_a_link_that_is_gone_is_one_clear_line(pair: Pair, addresses: NetlinkAddresses) -> None:
    with NetNS(pair.gateway, flags=0) as ipr:
        ipr.link("del", index=ipr.link_lookup(ifname=LINK)[0])
    for attempt in (
        lambda: addresses.add(MOVING, 30),
        lambda: addresses.announce(MOVING),
        lambda: addresses.conflicts(MOVING),
    ):
        with pytest.raises(AddressError, match="access") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_what_the_kernel_refuses_stops_nothing_else(addresses: NetlinkAddresses) -> None:
    wrong = MovingAddress(MOVING4, 33, LINK)
    with pytest.raises(AddressError, match=f"cannot add {MOVING4}/33 .*: Invalid argument"):
        addresses.add([wrong, *MOVING], 30)
    assert addresses.held() == {MOVING6, MOVING4}


def test_more_requests_than_go_into_one_datagram_are_answered_one_by_one(pair: Pair) -> None:
    with inside(pair.gateway):
        netlink = Rtnetlink()
        try:
            index = socket.if_nametoindex(LINK)
            hosts = [f"10.10.0.{number}" for number in range(120, 120 + REQUESTS_MAX + 3)]
            requests = [lasting(adding(index, host, 24, 0), 30) for host in hosts]
            assert netlink.ask(requests) == [0] * len(hosts)
            held = {host for _, host, _ in netlink.held()}
            assert held >= set(hosts)
            gone = [removing(index, host, 24) for host in hosts]
            assert netlink.ask(gone) == [0] * len(hosts)
            assert netlink.ask(gone[:1]) == [errno.EADDRNOTAVAIL]
        finally:
            netlink.close()


def test_an_interface_that_never_was_is_one_clear_line(pair: Pair) -> None:
    with (
        inside(pair.gateway),
        pytest.raises(AddressError, match="interface 'acess' does not exist"),
    ):
        NetlinkAddresses([MovingAddress(MOVING4, 24, "acess")])


def test_the_kernel_left_nothing_behind(pair: Pair, addresses: NetlinkAddresses) -> None:
    """Closing leaves addresses to their lifetime, and sockets to nobody."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with inside(pair.gateway):
        for _ in range(3):
            NetlinkAddresses(MOVING).close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with inside(pair.gateway), IPRoute() as ipr:
        assert ipr.link_lookup(ifname=LINK)
