"""The program and the plain Python model agree on the outcome and every byte, whatever comes.

Rates in these flows are so low that time does not matter: what a bucket holds is its burst. What
does depend on time, jitter and gaps, the tables look at.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgf.media import frames
from bgf.media.datapath import Outcome
from bgf.model import Address, Component, Flow, Gate, Ice, Latch, Policer, Rtp, Source
from tests.fakes.packet_lab import CALLEE4, CALLEE6, GROUP_ADDRESSES, REALMS, UE4, UE6, group
from tests.fakes.packet_model import Interface, PacketModel
from tests.fakes.packet_path import DISCRIMINATOR, FAR_DEADLINE_NS, PacketPath, packet_path

OURS = {"access": ("fd00:a::101", "10.10.0.101"), "core": ("fd00:c::101", "10.20.0.101")}
THEIRS = {"access": (UE6, UE4), "core": (CALLEE6, CALLEE4)}
NOBODY4 = "192.0.2.1"  # no route leads there
PORTS = st.sampled_from([30_000, 30_001, 7784])
THEIR_PORTS = st.sampled_from([4_000, 4_001])
FUZZ_FRAMES = int(os.environ.get("FUZZ_FRAMES", "20000"))
TWO_HEADERS = 14 + 4 + 40 + 8 + 12

RTP = st.builds(
    lambda first, kind, sequence, ssrc, rest: (
        struct.pack(">BBHII", first, kind, sequence, 160, ssrc) + bytes(rest)
    ),
    st.sampled_from([0x80, 0x80, 0x80, 0x82, 0x40, 0x8F]),
    st.sampled_from([0, 8, 0x80, 101, 64, 200, 201, 223]),
    st.sampled_from([1, 1, 2, 3, 3_000, 3_001, 65_437, 65_438, 65_535, 32_000]),
    st.sampled_from([7, 7, 8]),
    st.sampled_from([0, 8, 20]),
)
STUN = st.builds(
    lambda kind, length, cookie, rest: struct.pack(">HHI", kind, length, cookie) + bytes(rest),
    st.sampled_from([1, 0x101, 0x3FF, 0x401, 0x8001]),
    st.sampled_from([0, 8, 3, 0xFFFC]),
    st.sampled_from([0x2112A442, 0x2112A442, 0x2112A443]),
    st.sampled_from([0, 11, 12, 40]),
)
PAYLOADS = st.one_of(
    *(st.binary(max_size=24), RTP, RTP, STUN, st.integers(1_440, 1_480).map(bytes))
)


@pytest.fixture(scope="module")
def path() -> Iterator[PacketPath]:
    with packet_path(group("g1"), group("g2", ())) as made:
        yield made


def model_of(path: PacketPath) -> PacketModel:
    hosts = {
        (space, host): path.lab.macs[space, realm]
        for space, realm in (("ue", "access"), ("callee", "core"))
        for host in THEIRS[realm]
    }
    spaces = {"access": "ue", "core": "callee"}
    model = PacketModel(
        ["g1", "g2"],
        {realm: Interface(name, path.lab.macs["gw", realm]) for realm, name in REALMS.items()},
        {address.host for address in GROUP_ADDRESSES},
        lambda realm, host: hosts.get((spaces[realm], host)),
    )
    model.discriminator = DISCRIMINATOR
    model.deadlines["g1"] = FAR_DEADLINE_NS
    return model


@st.composite
def sources(draw: st.DrawFn, version: int) -> Source:
    hosts = [
        THEIRS["access"][version],
        THEIRS["core"][version],
        "fd00::" if version == 0 else "10.0.0.0",
    ]
    host = draw(st.one_of(st.none(), st.sampled_from(hosts)))
    prefix = draw(st.one_of(st.none(), st.sampled_from([0, 8, 9, 24, 32]))) if host else None
    port = draw(st.one_of(st.none(), THEIR_PORTS, PORTS))
    last = draw(st.one_of(st.none(), st.just(65_535))) if port else None
    return Source(host, port, prefix, last)


@st.composite
def flows(draw: st.DrawFn) -> list[Flow]:
    """A flow, and often the one of the other direction."""
    realms = [draw(st.sampled_from(["access", "core"])) for _ in range(2)]
    versions = [draw(st.integers(0, 1)) for _ in range(2)]
    ends = [
        Address(OURS[realm][version], draw(PORTS))
        for realm, version in zip(realms, versions, strict=True)
    ]

    def one(come: int, go: int) -> Flow:
        realm, version = realms[go], versions[go]
        hosts = [THEIRS[realm][version], OURS[realm][version], NOBODY4 if version else UE6]
        host = draw(st.sampled_from([hosts[0], *hosts]))
        remote = Address(host, draw(PORTS if host == hosts[1] else THEIR_PORTS))
        follows = draw(st.booleans())
        teacher = draw(st.sampled_from(list(Latch)[:3]))
        peer = Address(THEIRS[realms[come]][versions[come]], draw(THEIR_PORTS))
        return Flow(
            draw(st.sampled_from(["g1", "g1", "g1", "g2"])),
            "call",
            0,
            draw(st.sampled_from(list(Component))),
            realms[come],
            ends[come],
            realm,
            ends[go],
            draw(st.sampled_from([remote, remote, None])),
            draw(st.one_of(st.just(Source()), sources(versions[come]))),
            draw(st.sampled_from([Gate.OPEN, Gate.OPEN, Gate.OPEN, Gate.CLOSED])),
            latch=teacher,
            learned=draw(st.sampled_from([None, None, peer])) if teacher.learns else None,
            latch_round=draw(st.sampled_from([0, 0, 1])),
            follows=follows,
            policer=draw(
                st.sampled_from(
                    [None, None, Policer(1, 33), Policer(1, 66), Policer(1, 300, 1, 53), Policer()]
                )
            ),
            dscp=draw(st.sampled_from([None, 0, 46])),
            rtp=draw(st.sampled_from([None, Rtp(), Rtp(True), Rtp(True, (0, 101), 16_000)])),
            rtcp_mux=draw(st.booleans()),
            ice=draw(st.sampled_from([None, None, Ice("abcd", "x" * 22)])),
            demux=draw(st.booleans()),
        )

    made = [one(0, 1)]
    if draw(st.booleans()) and ends[0] != ends[1]:
        made.append(one(1, 0))
    return made


@st.composite
def networks(draw: st.DrawFn) -> list[Flow]:
    """Flows of a few calls; some lead to each other's pinholes."""
    made = [flow for pair in draw(st.lists(flows(), min_size=1, max_size=3)) for flow in pair]
    led = []
    for flow in made:
        ends = [
            other.local_in
            for other in made
            if other.realm_in == flow.realm_out
            and other.local_in.family == flow.local_out.family
            and other.key != flow.key
        ]
        if ends and draw(st.integers(0, 2)) == 0:
            led.append(msgspec.structs.replace(flow, remote=draw(st.sampled_from(ends))))
        else:
            led.append(flow)
    return led


class Sent(NamedTuple):
    """A packet that is sent in a realm. `mark` is its traffic class, `label` its flow label or
    its identification; `changes` are bytes changed at the end."""

    realm: str
    payload: bytes
    sender: Address
    receiver: Address
    hops: int = 64
    mark: int = 0
    label: int = 0
    changes: Sequence[tuple[int, int]] = ()

    def frame(self, path: PacketPath) -> bytes:
        raw = bytearray(path.frame(self.sender, self.receiver, self.payload, self.hops))
        if self.receiver.family == 6:
            raw[14:18] = struct.pack(">I", 6 << 28 | self.mark << 20 | self.label)
        else:
            raw[15] = self.mark
            raw[18:20] = struct.pack(">H", self.label & 0xFFFF)
            raw[24:26] = bytes(2)
            raw[24:26] = struct.pack(">H", frames.checksum(bytes(raw[14:34])))
        for at, value in self.changes:
            if at < len(raw):
                raw[at] = value
        return bytes(raw)


MARKS = st.sampled_from([0, 1, 2, 3, 0xB8, 0xFF])
LABELS = st.sampled_from([0, 0xABCDE, 1])


@st.composite
def packets(draw: st.DrawFn) -> Sent:
    version = draw(st.integers(0, 1))
    realm = draw(st.sampled_from(["access", "core"]))
    sender = draw(st.sampled_from([THEIRS[realm][version], OURS[realm][version]]))
    return Sent(
        realm,
        draw(PAYLOADS),
        Address(sender, draw(THEIR_PORTS)),
        Address(OURS[realm][version], draw(PORTS)),
        draw(st.sampled_from([1, 2, 3, 64])),
        draw(MARKS),
        draw(LABELS),
        draw(mangles()),
    )


@st.composite
def media(draw: st.DrawFn, installed: Sequence[Flow]) -> Sent:
    """A packet for one of the pinholes, from whom it may come."""
    flow = draw(st.sampled_from(installed))
    version = int(flow.local_in.family == 4)
    return Sent(
        flow.realm_in,
        draw(st.one_of(st.just(b"media"), PAYLOADS)),
        Address(THEIRS[flow.realm_in][version], draw(THEIR_PORTS)),
        flow.local_in,
        draw(st.sampled_from([2, 3, 64])),
        draw(MARKS),
        draw(LABELS),
    )


@st.composite
def mangles(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Bytes of the headers to be changed: mostly none."""
    if draw(st.integers(0, 3)):
        return []
    place, value = st.integers(12, TWO_HEADERS), st.integers(0, 255)
    return draw(st.lists(st.tuples(place, value), min_size=1, max_size=3))


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), installed=networks())
def test_program_and_model_agree(
    path: PacketPath, data: st.DataObject, installed: list[Flow]
) -> None:
    model = model_of(path)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wanted = {flow.key: flow for flow in installed}
    some = st.one_of(media(list(wanted.values())), media(list(wanted.values())), packets())
    rounds = data.draw(st.lists(st.lists(some, min_size=1, max_size=10), min_size=1, max_size=2))
    path.datapath.arm("g1", FAR_DEADLINE_NS)
    try:
        for sent in rounds:
            path.datapath.install(list(wanted.values()))
            for flow in wanted.values():
                model.install(flow, now_ns)
            for packet in sent:
                frame = packet.frame(path)
                expected = model.run(frame, REALMS[packet.realm], now_ns)
                ran = path.send(frame, packet.realm)
                # What is dropped has no frame to speak of.
                left = ran.frame.hex() if expected.frame else ""
                assert (ran.outcome, left) == (expected.outcome, expected.frame.hex()), packet
                assert (ran.action == "drop") == (not expected.frame)
            learned, model.learned = model.learned, []
            assert path.datapath.reports() == learned
            for told in learned:  # control knows it from then on
                knows = msgspec.structs.replace(wanted[told.key], learned=told.peer)
                wanted[told.key] = knows
        keys = list(wanted)
        counted = [(c.packets, c.bytes) for c in path.datapath.counters(keys)]
        assert counted == [model.streams[key].counters[:2] for key in keys]
        for key, heard in zip(keys, path.datapath.rtp(keys), strict=True):
            timeless = {"jitter": 0, "gap_max_us": 0, "clock_hz": 0}
            assert heard._replace(**timeless) == model.streams[key].rtp._replace(**timeless)
    finally:
        path.datapath.remove(path.datapath.keys())
        path.datapath.reports()


def random_frame(rng: random.Random, path: PacketPath) -> bytes:
    """A frame that is near to a good one, or none at all."""
    realm = rng.choice(["access", "core"])
    version = rng.randrange(2)
    if rng.random() < 0.1:
        raw = bytearray(rng.randbytes(rng.randrange(14, 120)))
        raw[:6] = path.lab.macs["gw", realm]
    else:
        sender = Address(rng.choice([*THEIRS[realm][version::2], *OURS[realm][version::2]]),
                         rng.randrange(65_536))  # fmt: skip
        receiver = Address(OURS[realm][version], rng.choice([*range(29_990, 30_010), 7784]))
        raw = bytearray(path.frame(sender, receiver, rng.randbytes(rng.randrange(60))))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.choice([14, 20, 23, rng.randrange(12, TWO_HEADERS)])
        if at < len(raw):
            raw[at] = rng.choice([0x40 | rng.randrange(16), rng.randrange(64), rng.randrange(256)])
    if rng.random() < 0.1:
        raw[12:12] = struct.pack(">HH", rng.choice([0x8100, 0x88A8]), rng.randrange(65_536))
    if rng.random() < 0.1:
        del raw[rng.randrange(14, len(raw) + 1) :]
    return bytes(raw)


def test_nothing_leaks_through_a_closed_pinhole(path: PacketPath) -> None:
    """Random frames at pinholes that are closed, disarmed, filtered or gone: none leaves, except
    as an answer of the reflector, and the model agrees about each. FUZZ_FRAMES sets how many."""
    seed = int.from_bytes(os.urandom(4))
    rng = random.Random(seed)
    model = model_of(path)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    hosts = [host for pair in OURS.values() for host in pair]
    closed = [
        Flow(
            "g2" if port % 3 == 0 else "g1", "call", 0, Component.RTP,
            "access" if host in OURS["access"] else "core", Address(host, port),
            "core", Address(OURS["core"][1], 31_000), Address(CALLEE4, 5_000),
            Source("203.0.113.9" if ":" not in host else "fd00:dead::9") if port % 3 == 1 else
            Source(),
            Gate.CLOSED if port % 3 == 2 else Gate.OPEN,
        )
        for host in hosts
        for port in range(30_000, 30_006)
    ]  # fmt: skip
    path.datapath.arm("g1", FAR_DEADLINE_NS)
    path.datapath.install(closed)
    for flow in closed:
        model.install(flow, now_ns)
    try:
        for number in range(FUZZ_FRAMES):
            frame = random_frame(rng, path)
            realm = rng.choice(["access", "core"])
            ran = path.run(frame, realm)
            where = f"seed {seed}, frame {number}: {frame.hex()}"
            expected = model.run(frame, REALMS[realm], now_ns, traced=True)
            assert ran.outcome is expected.outcome, where
            assert ran.action != "redirect" or ran.outcome is Outcome.REFLECT, where
            if expected.frame:
                assert ran.frame == expected.frame, where
        assert all(count.packets == 0 for count in path.datapath.counters([f.key for f in closed]))
    finally:
        path.datapath.remove(path.datapath.keys())


def test_the_model_is_not_always_right_by_doing_nothing(path: PacketPath) -> None:
    """The random frames above do meet every outcome that a closed pinhole has."""
    rng = random.Random(1)
    model = model_of(path)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    met = {model.run(random_frame(rng, path), REALMS["access"], now_ns).outcome
           for _ in range(3_000)}  # fmt: skip
    assert met >= {
        Outcome.PASS, Outcome.NO_PINHOLE, Outcome.FRAGMENT, Outcome.MALFORMED, Outcome.RUNT,
        Outcome.OPTIONS, Outcome.VLAN,
    }  # fmt: skip
