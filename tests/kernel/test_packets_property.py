"""The program and the semantic fake agree about any flow and any packet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgf.media import frames
from bgf.media.datapath import Outcome, Verdict
from bgf.model import Address, Flow, Gate, Source
from tests.fakes.datapath import FakeDatapath, Packet
from tests.fakes.packet_lab import CALLEE4, CALLEE6, REALMS, UE4, UE6, group
from tests.fakes.packet_path import (
    DISCRIMINATOR,
    FAR_DEADLINE_NS,
    PacketPath,
    flow,
    packet_path,
)

OURS = {
    "access": ("fd00:a::101", "10.10.0.101"),
    "core": ("fd00:c::101", "10.20.0.101"),
}
THEIRS = {"access": (UE6, UE4), "core": (CALLEE6, CALLEE4)}
NODES = ("fd00:a::11", "10.10.0.11", "fd00:c::11", "10.20.0.11")
NOBODY4 = "192.0.2.1"  # no route leads there
PORTS = st.sampled_from([30_000, 30_001, 30_002, 7784, 65_535])
PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.integers(1_440, 1_480).map(bytes),
    # S-BFD, more or less
    st.builds(
        lambda head, mine, yours, rest: bytes(head) + mine.to_bytes(4) + yours.to_bytes(4) + rest,
        st.tuples(
            st.sampled_from([0x20, 0x21, 0x40]),
            st.sampled_from([0x40, 0x62, 0xC0, 0x44, 0x41]),
            st.sampled_from([0, 3]),
            st.sampled_from([23, 24, 25]),
        ),
        st.sampled_from([0, 9]),
        st.sampled_from([0, DISCRIMINATOR, DISCRIMINATOR + 1]),
        st.sampled_from([bytes(12), bytes(11), bytes(13)]),
    ),
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    realm_in, realm_out = draw(st.permutations(["access", "core"]))
    if draw(st.booleans()):
        realm_out = realm_in
    version = draw(st.integers(0, 1))
    remote = THEIRS[realm_out][version]
    if version and draw(st.integers(0, 9)) == 0:
        remote = NOBODY4
    host = draw(st.one_of(st.none(), st.sampled_from([*THEIRS["access"], *THEIRS["core"]])))
    return flow(
        str(Address(draw(st.sampled_from(OURS[realm_in])), draw(PORTS))),
        str(Address(OURS[realm_out][version], draw(PORTS))),
        draw(st.one_of(st.just(str(Address(remote, draw(PORTS)))), st.none())),
        source=Source(host, draw(st.one_of(st.none(), PORTS))),
        gate=draw(st.sampled_from([Gate.OPEN, Gate.OPEN, Gate.CLOSED])),
        group=draw(st.sampled_from(["g1", "g1", "g1", "g2"])),
    )


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    version = draw(st.integers(0, 1))
    realm = draw(st.sampled_from(["access", "core"]))
    receivers = [OURS["access"][version], OURS["core"][version], *NODES[version::2]]
    return Packet(
        draw(st.one_of(st.just(realm), st.sampled_from(["access", "core"]))),
        Address(THEIRS[realm][version], draw(PORTS)),
        Address(draw(st.sampled_from(receivers)), draw(PORTS)),
        draw(PAYLOADS),
        hops=draw(st.sampled_from([0, 1, 2, 64, 255])),
        to_us=draw(st.integers(0, 9)) > 0,
    )


@pytest.fixture(scope="module")
def path() -> Iterator[PacketPath]:
    with packet_path(group("g1"), group("g2", ())) as made:
        yield made


def told(verdict: Verdict) -> tuple[Outcome, frames.Datagram | None, bytes]:
    """What both must agree about: all but the link layer, whose MAC addresses the fake invents."""
    kept = verdict.outcome in (Outcome.FORWARD, Outcome.REFLECT)
    frame = verdict.frame if kept else b""
    return verdict.outcome, frames.read(frame), frame[12:]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(installed=st.lists(flows(), max_size=4), sent=st.lists(packets(), min_size=1, max_size=6))
def test_program_and_fake_agree(
    path: PacketPath, installed: list[Flow], sent: list[Packet]
) -> None:
    fake = FakeDatapath([group("g1"), group("g2", ())], REALMS, discriminator=DISCRIMINATOR)
    fake.unreachable.add(NOBODY4)
    for datapath in (path.datapath, fake):
        datapath.install(installed)
        datapath.arm("g1", FAR_DEADLINE_NS)
    try:
        # A packet at random seldom meets a pinhole: each flow also gets one made for it.
        packets_sent = list(sent)
        for made in installed:
            sender = THEIRS[made.realm_in][made.local_in.family == 4]
            host = made.source.host or sender
            if (":" in host) == (":" in made.local_in.host):
                port = made.source.port or 4_000
                packets_sent.append(
                    Packet(made.realm_in, Address(host, port), made.local_in, b"media")
                )
        for packet in packets_sent:
            frame = frames.build(
                packet.sender,
                packet.receiver,
                packet.payload,
                destination_mac=path.lab.macs["gw", packet.realm] if packet.to_us else b"\2" * 6,
                source_mac=b"\2\0\0\0\0\x09",
                hops=packet.hops,
            )
            ran = path.run(frame, packet.realm)
            said = Verdict(ran.outcome, frame=ran.frame)
            assert told(said) == told(fake.send(packet)), packet
        assert path.datapath.keys() == fake.keys()
    finally:
        path.datapath.remove(path.datapath.keys())
