"""The media room's codecs: map keys and values, UDP frames, rtnetlink messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.media import _xdp, frames, layout, netlink
from bgf.media.datapath import Outcome
from bgf.model import Address, Component, Counters, Flow, FlowKey, Gate, Source


def is_written_so(host: str) -> bool:
    return not host.startswith("::ffff:")


HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    # What is v4-mapped stands for IPv4 and is refused on the wire.
    st.ip_addresses(v=6).map(str).filter(is_written_so),
)
PORTS = st.integers(0, 65_535)
ADDRESSES = st.builds(Address.of, HOSTS, PORTS)
MAC = bytes.fromhex("020000000001")


def test_the_outcomes_are_the_same_on_both_sides() -> None:
    assert set(layout.OUTCOMES) == set(Outcome)
    assert len(_xdp.OUTCOMES) == len(set(_xdp.OUTCOMES))
    assert layout.OUTCOMES[0] is Outcome.PASS


@given(HOSTS)
def test_addresses_survive_packing(host: str) -> None:
    packed = layout.pack_address(host)
    assert len(packed) == 16
    assert layout.unpack_address(packed) == host


@given(ADDRESSES, st.integers(1, 2**32 - 1))
def test_keys_survive_packing(local: Address, ifindex: int) -> None:
    raw = layout.pack_key(local, ifindex)
    assert raw[20:22] == local.port.to_bytes(2)  # in network byte order
    assert layout.unpack_key(raw) == (FlowKey(local.host, local.port), ifindex)


@given(ADDRESSES, ADDRESSES, st.one_of(st.none(), ADDRESSES), st.booleans())
def test_pinholes_survive_packing(
    local_in: Address, local_out: Address, remote: Address | None, opened: bool
) -> None:
    if remote and int.from_bytes(layout.pack_address(remote.host)) + remote.port == 0:
        return
    gate = Gate.OPEN if opened else Gate.CLOSED
    flow = Flow(
        "g1", "c", 0, Component.RTP, "a", local_in, "b", local_out, remote, Source("::1", 9), gate
    )
    raw = layout.pack_pinhole(flow, layout.pack_key(local_in, 3), 5, 6, 7)
    assert len(raw) == _xdp.SIZEOF_PINHOLE
    host = remote.host if remote else None
    assert layout.unpack_pinhole(raw) == layout.Pinhole(flow.key, 3, host, 5, 6, 7)
    flags = struct.unpack_from("=I", raw, 80)[0]
    assert bool(flags & _xdp.OPEN) == (opened and remote is not None)
    assert bool(flags & _xdp.OUT_IP6) == (local_out.family == 6)


@given(st.sets(st.integers(1, 100_000), max_size=60))
def test_interfaces_stand_where_the_program_looks(ifindexes: set[int]) -> None:
    places = layout.place_interfaces(ifindexes)
    if places is None:
        return
    assert set(places) == ifindexes
    assert len(set(places.values())) == len(ifindexes)
    for ifindex, place in places.items():
        assert (place - ifindex) % _xdp.INTERFACE_PLACES < _xdp.PROBES


def test_interfaces_that_find_no_place() -> None:
    size = _xdp.INTERFACE_PLACES
    assert layout.place_interfaces(range(1, size + 1)) is not None
    crowd = [1 + n * size for n in range(_xdp.PROBES)]
    assert layout.place_interfaces(crowd) == {i: 1 + n for n, i in enumerate(crowd)}
    assert layout.place_interfaces([*crowd, 1 + _xdp.PROBES * size]) is None


def test_statistics_add_up_over_the_cpus() -> None:
    raw = layout.STATS.pack(1, 10, 5) + layout.STATS.pack(2, 20, 9) + layout.STATS.pack(0, 0, 0)
    assert layout.sum_stats(raw) == Counters(3, 30, 9)


@given(st.binary(max_size=64))
def test_the_checksum_makes_the_whole_sum_to_nothing(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    whole = even + frames.checksum(data).to_bytes(2)
    words = sum(struct.unpack(f">{len(whole) // 2}H", whole))
    assert words % 0xFFFF == 0
    assert words > 0


@given(HOSTS, PORTS, PORTS, st.binary(max_size=200), st.integers(0, 255))
def test_frames_survive_reading(
    host: str, sport: int, dport: int, payload: bytes, hops: int
) -> None:
    other = "::9" if ":" in host else "192.0.2.9"
    sender, receiver = Address.of(host, sport), Address.of(other, dport)
    frame = frames.build(sender, receiver, payload, destination_mac=MAC, source_mac=MAC, hops=hops)
    assert frames.read(frame) == frames.Datagram(sender, receiver, hops, payload)
    assert frames.read(frame + bytes(18)) == frames.Datagram(sender, receiver, hops, payload)


@given(st.binary(max_size=100))
def test_reading_noise_is_no_crash(noise: bytes) -> None:
    for kind in (b"\x08\x00", b"\x86\xdd"):
        for start in (b"\x45", b"\x60"):
            frames.read(MAC + MAC + kind + start + noise)


def netlink_message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_netlink_messages_are_read() -> None:
    link = struct.pack("=BxHiII", 0, 1, 5, 0, 0)
    link += attribute(3, b"access\0") + attribute(1, MAC) + attribute(4, struct.pack("=I", 1_400))
    link += attribute(43 | 0x8000, attribute(2, b"\x01"))
    route = struct.pack("=8BI", 2, 32, 0, 0, 0, 0, 0, 1, 0)
    route += attribute(4, struct.pack("=I", 5)) + attribute(5, bytes([10, 0, 0, 1]))
    route += attribute(8, attribute(2, struct.pack("=I", 1_280)))
    neighbour = struct.pack("=BxxxiHBB", 10, 5, netlink.NUD_REACHABLE, 0, 0)
    neighbour += attribute(1, bytes(15) + b"\x01") + attribute(2, MAC)
    data = b"".join(
        (
            netlink_message(netlink.RTM_NEWLINK, link),
            netlink_message(netlink.RTM_NEWROUTE, route),
            netlink_message(netlink.RTM_DELNEIGH, neighbour),
            netlink_message(2, struct.pack("=i", -2)),
        )
    )
    assert [value for _, _, value in netlink.messages(data)] == [
        netlink.Link(5, "access", MAC, 1_400, 1),
        netlink.Route(5, "10.0.0.1", 1_280, True),
        netlink.Neighbour(5, "::1", MAC, netlink.NUD_REACHABLE, True),
        2,
    ]


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
def test_netlink_requests_name_their_target(host: str) -> None:
    raw = layout.pack_address(host)[-4 if "." in host else 0 :]
    for request in (
        netlink.get_route(1, host, 5),
        netlink.get_neighbour(1, host, 5),
        netlink.use_neighbour(1, host, 5),
    ):
        assert struct.unpack_from("=I", request)[0] == len(request)
        assert raw in request
        assert struct.pack("=I", 5) in request
