"""One suite for both Datapaths, the kernel's and the semantic fake: they answer alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import msgspec
import pytest

from bgf.errors import DatapathError
from bgf.media import frames
from bgf.media.datapath import Datapath, Outcome, Verdict
from bgf.model import Address, Counters, Flow, FlowKey, Gate, Latch, Source
from tests.fakes.datapath import FakeDatapath, Packet
from tests.fakes.packet_lab import CALLEE4, CALLEE6, REALMS, UE4, UE6, group
from tests.fakes.packet_path import (
    DISCRIMINATOR,
    FAR_DEADLINE_NS,
    PacketPath,
    flow,
    packet_path,
    realm_of,
)

PINHOLES_MAX = 1_000
IN6, OUT4 = "[fd00:a::101]:30000", "10.20.0.101:31000"
UP = flow(IN6, OUT4, f"{CALLEE4}:5000")
DOWN = flow(OUT4, IN6, f"[{UE6}]:4000")
UE, CALLEE = Address(UE6, 4000), Address(CALLEE4, 5000)


class Bench(Protocol):
    """A Datapath, and packets that arrive at it and are counted."""

    datapath: Datapath

    def arrive(self, sender: Address, receiver: Address, payload: bytes) -> Outcome: ...

    def trace(self, sender: Address, receiver: Address, payload: bytes) -> Verdict: ...


class FakeBench:
    def __init__(self) -> None:
        self.fake = FakeDatapath(
            [group("g1"), group("g2", ())],
            REALMS,
            discriminator=DISCRIMINATOR,
            pinholes_max=PINHOLES_MAX,
        )
        self.datapath: Datapath = self.fake

    def arrive(self, sender: Address, receiver: Address, payload: bytes) -> Outcome:
        return self.fake.send(Packet(realm_of(receiver.host), sender, receiver, payload)).outcome

    def trace(self, sender: Address, receiver: Address, payload: bytes) -> Verdict:
        return self.fake.trace(sender, receiver, realm_of(receiver.host), payload)


class RealBench:
    def __init__(self, path: PacketPath) -> None:
        self.path = path
        self.datapath: Datapath = path.datapath

    def arrive(self, sender: Address, receiver: Address, payload: bytes) -> Outcome:
        frame = self.path.frame(sender, receiver, payload)
        return self.path.run(frame, realm_of(receiver.host), counted=True).outcome

    def trace(self, sender: Address, receiver: Address, payload: bytes) -> Verdict:
        with self.path.lab.inside("gw"):
            return self.datapath.trace(sender, receiver, realm_of(receiver.host), payload)


@pytest.fixture(scope="module")
def real() -> Iterator[RealBench]:
    with packet_path(group("g1"), group("g2", ()), pinholes_max=PINHOLES_MAX) as path:
        yield RealBench(path)


@pytest.fixture(params=["fake", "xdp"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made: Bench = FakeBench() if request.param == "fake" else request.getfixturevalue("real")
    made.datapath.arm("g1", FAR_DEADLINE_NS)
    yield made
    made.datapath.remove(made.datapath.keys())


def test_what_is_installed_is_there_and_forwards(bench: Bench) -> None:
    bench.datapath.install([UP, DOWN])
    assert bench.datapath.keys() == {UP.key, DOWN.key}
    verdict = bench.trace(UE, UP.local_in, b"rtp")
    assert (verdict.outcome, verdict.interface) == (Outcome.FORWARD, "core")
    assert (verdict.source, verdict.destination) == (UP.local_out, CALLEE)
    sent = frames.read(verdict.frame)
    assert sent is not None
    assert (sent.payload, sent.hops) == (b"rtp", 63)
    assert bench.trace(CALLEE, DOWN.local_in, b"rtp").destination == UE


def test_installing_twice_is_installing_once(bench: Bench) -> None:
    bench.datapath.install([UP])
    bench.datapath.install([UP, UP])
    assert bench.datapath.keys() == {UP.key}
    assert bench.trace(UE, UP.local_in, b"").outcome is Outcome.FORWARD


def test_of_two_with_one_key_the_later_stands(bench: Bench) -> None:
    other = flow(IN6, OUT4, f"{CALLEE4}:6000")
    bench.datapath.install([UP, other])
    assert bench.trace(UE, UP.local_in, b"").destination == Address(CALLEE4, 6000)


def test_replacing_keeps_counters_and_changes_the_rest(bench: Bench) -> None:
    bench.datapath.install([UP])
    assert bench.arrive(UE, UP.local_in, b"12345") is Outcome.FORWARD
    bench.datapath.install([flow(IN6, "[fd00:c::101]:31000", f"[{CALLEE6}]:7000")])
    assert bench.trace(UE, UP.local_in, b"").destination == Address(CALLEE6, 7000)
    [counted] = bench.datapath.counters([UP.key])
    assert (counted.packets, counted.bytes) == (1, 5)


def test_counters_follow_the_order_asked(bench: Bench) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bench.datapath.install([UP, DOWN])
    for payload in (b"", b"1", b"22"):
        assert bench.arrive(UE, UP.local_in, payload) is Outcome.FORWARD
    unknown = FlowKey("fd00:a::101", 39_998)
    down, nobody, up = bench.datapath.counters([DOWN.key, unknown, UP.key])
    assert (down, nobody) == (Counters(), Counters())
    assert (up.packets, up.bytes) == (3, 3)
    after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before_ns <= up.last_seen_ns <= after_ns
    assert bench.datapath.counters([]) == []


def test_a_new_pinhole_starts_from_zero(bench: Bench) -> None:
    for _ in range(3):
        bench.datapath.install([UP])
        assert bench.datapath.counters([UP.key]) == [Counters()]
        assert bench.arrive(UE, UP.local_in, b"x") is Outcome.FORWARD
        bench.datapath.remove([UP.key])
        assert bench.datapath.counters([UP.key]) == [Counters()]


def test_removed_is_gone_and_unknown_is_ignored(bench: Bench) -> None:
    bench.datapath.install([UP, DOWN])
    bench.datapath.remove([UP.key, UP.key, FlowKey("fd00:a::101", 39_998)])
    assert bench.datapath.keys() == {DOWN.key}
    assert bench.trace(UE, UP.local_in, b"").outcome is Outcome.NO_PINHOLE
    bench.datapath.remove([])


def test_outcomes_are_counted_but_traces_are_not(bench: Bench) -> None:
    bench.datapath.install([UP])
    before = dict(bench.datapath.drops())
    assert bench.arrive(UE, UP.local_in, b"") is Outcome.FORWARD
    assert bench.arrive(UE, Address("fd00:a::101", 30_002), b"") is Outcome.NO_PINHOLE
    bench.trace(UE, UP.local_in, b"")
    bench.trace(UE, Address("fd00:a::101", 30_002), b"")
    after = bench.datapath.drops()
    assert set(after) == set(Outcome) - {Outcome.PASS}
    moved = {o: after[o] - before[o] for o in after if after[o] != before[o]}
    assert moved == {Outcome.FORWARD: 1, Outcome.NO_PINHOLE: 1}
    assert bench.datapath.counters([UP.key])[0].packets == 1


def test_forwards_only_before_the_deadline(bench: Bench) -> None:
    bench.datapath.install([UP])
    for deadline_ns, expected in (
        (0, Outcome.DISARMED),
        (time.clock_gettime_ns(time.CLOCK_BOOTTIME), Outcome.DISARMED),
        (FAR_DEADLINE_NS, Outcome.FORWARD),
    ):
        bench.datapath.arm("g1", deadline_ns)
        assert bench.trace(UE, UP.local_in, b"").outcome is expected


def test_arming_one_group_arms_no_other(bench: Bench) -> None:
    second = flow("[fd00:a::101]:30010", "10.20.0.101:31010", f"{CALLEE4}:5000", group="g2")
    bench.datapath.install([second])
    assert bench.trace(UE, second.local_in, b"").outcome is Outcome.DISARMED
    bench.datapath.arm("g2", FAR_DEADLINE_NS)
    bench.datapath.arm("g1", 0)
    assert bench.trace(UE, second.local_in, b"").outcome is Outcome.FORWARD
    bench.datapath.arm("g2", 0)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (flow(IN6, OUT4, f"{CALLEE4}:5000", gate=Gate.CLOSED), Outcome.GATE_CLOSED),
        (flow(IN6, OUT4, None), Outcome.GATE_CLOSED),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source(UE6, None)), Outcome.FORWARD),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source(None, 4000)), Outcome.FORWARD),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source(UE6, 4000)), Outcome.FORWARD),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source(UE6, 4001)), Outcome.BAD_SOURCE),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source("fd00:a::9", 4000)), Outcome.BAD_SOURCE),
        (flow(IN6, OUT4, f"{CALLEE4}:5000", source=Source("0.0.0.0")), Outcome.BAD_SOURCE),
        # 10.20.0.99 is on the link and nobody has it
        (flow(IN6, OUT4, "192.0.2.1:5000"), Outcome.NO_NEIGHBOUR),
    ],
)
def test_gate_source_and_neighbour(bench: Bench, installed: Flow, expected: Outcome) -> None:
    if isinstance(bench, FakeBench):
        bench.fake.unreachable.add("192.0.2.1")
    bench.datapath.install([installed])
    assert bench.trace(UE, installed.local_in, b"").outcome is expected


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        (UE, Address("fd00:a::101", 30_002), Outcome.NO_PINHOLE),
        (UE, Address("fd00:a::11", 30_000), Outcome.PASS),
        (Address(UE4, 4000), Address("10.10.0.101", 30_000), Outcome.NO_PINHOLE),
        (Address(UE4, 4000), Address("10.10.0.11", 30_000), Outcome.PASS),
    ],
)
def test_without_a_pinhole(
    bench: Bench, sender: Address, receiver: Address, expected: Outcome
) -> None:
    bench.datapath.install([UP])
    assert bench.trace(sender, receiver, b"").outcome is expected


def test_a_pinhole_is_none_in_another_realm(bench: Bench) -> None:
    bench.datapath.install([UP])
    if isinstance(bench, RealBench):
        with bench.path.lab.inside("gw"):
            verdict = bench.datapath.trace(UE, UP.local_in, "core", b"")
    else:
        verdict = bench.datapath.trace(UE, UP.local_in, "core", b"")
    assert verdict.outcome is Outcome.NO_PINHOLE


def test_a_full_table_installs_nothing(bench: Bench) -> None:
    def numbered(count: int) -> list[Flow]:
        return [flow(f"10.10.0.101:{30_000 + n}", OUT4, f"{CALLEE4}:5000") for n in range(count)]

    bench.datapath.install(numbered(PINHOLES_MAX - 1))
    with pytest.raises(DatapathError, match=f"{PINHOLES_MAX}"):
        bench.datapath.install([UP, DOWN])
    assert len(bench.datapath.keys()) == PINHOLES_MAX - 1
    bench.datapath.install([UP])
    bench.datapath.install(numbered(PINHOLES_MAX - 1))
    assert len(bench.datapath.keys()) == PINHOLES_MAX
    assert bench.trace(UE, UP.local_in, b"").outcome is Outcome.FORWARD


def test_misuse_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(DatapathError, match="'g9'"):
        bench.datapath.arm("g9", 1)
    with pytest.raises(DatapathError, match="'g9'"):
        bench.datapath.install([UP, flow(IN6, OUT4, None, group="g9")])
    with pytest.raises(DatapathError, match="two IP versions"):
        bench.datapath.install([UP, flow(OUT4, IN6, f"{CALLEE4}:5000")])
    with pytest.raises(DatapathError, match="two IP versions"):
        bench.datapath.trace(UE, CALLEE, "access", b"")
    with pytest.raises(DatapathError, match="'mgmt'"):
        bench.datapath.trace(UE, UP.local_in, "mgmt", b"")
    assert bench.datapath.keys() == set()


# ---- whom a latch has learned -------------------------------------------------------------------


def learned(port: int, **more: object) -> Flow:
    """`UP`, whose sender was learned, by this node or by another."""
    peer = Address(UE6, port)
    return msgspec.structs.replace(UP, **{"latch": Latch.LATCH, "learned": peer, **more})


@pytest.mark.parametrize(
    ("signalled", "alone"),
    [("[2001:db8::77]:4000", Outcome.NO_NEIGHBOUR), (None, Outcome.NO_PEER)],
)
def test_media_goes_by_the_next_hop_of_who_was_learned_elsewhere(
    bench: Bench, signalled: str | None, alone: Outcome
) -> None:
    """As after a takeover: its packets came to another node, and nothing leads to the address
    that it signalled."""
    if isinstance(bench, FakeBench):
        bench.fake.unreachable.add("2001:db8::77")
    follower = flow(OUT4, IN6, signalled, follows=True)
    known, unknown = learned(4_711), learned(0, learned=None)
    relatched = learned(0, learned=None, latch=Latch.RELATCH, latch_round=1)

    def back() -> tuple[Outcome, Address | None]:
        verdict = bench.trace(CALLEE, follower.local_in, b"back")
        return verdict.outcome, verdict.destination

    for steps in (
        [[known, follower]],
        [[follower, known]],
        [[known], [follower]],
        [[follower], [known]],
        [[unknown, follower], [known]],
        [[known, follower], [relatched]],
        [[known, follower], [relatched], [follower]],
    ):
        for step in steps:
            bench.datapath.install(step)
        assert back() == (Outcome.FORWARD, Address(UE6, 4_711)), steps
        bench.datapath.remove([UP.key])
        assert back() == (alone, None), steps
        bench.datapath.remove([follower.key])
    bench.datapath.install([known, follower])
    bench.datapath.relatch(UP.key)
    assert back() == (alone, None)


def test_who_was_learned_while_the_group_was_elsewhere_is_believed(bench: Bench) -> None:
    """The side learns anew here, where the old sender goes on; the new one comes elsewhere."""
    follower = flow(OUT4, IN6, f"[{UE6}]:4000", follows=True)
    old, new, stranger = (Address(UE6, port) for port in (4_711, 4_712, 4_713))
    bench.datapath.install([learned(0, learned=None), follower])
    assert bench.arrive(old, UP.local_in, b"") is Outcome.FORWARD
    bench.datapath.install([learned(0, learned=None, latch=Latch.RELATCH, latch_round=1)])
    bench.datapath.install([learned(new.port, latch_round=1)])
    assert bench.trace(CALLEE, follower.local_in, b"").destination == new
    outcomes = [bench.arrive(sender, UP.local_in, b"") for sender in (old, stranger, new)]
    assert outcomes == [Outcome.BAD_SOURCE, Outcome.BAD_SOURCE, Outcome.FORWARD]
    bench.datapath.reports()


# ---- captures -----------------------------------------------------------------------------------


def test_each_of_two_calls_through_this_node_is_captured_both_ways(bench: Bench) -> None:
    """Two users of one gateway, two calls: what is copied of the one has both directions, whichever
    pinhole comes first; and each packet once for each call."""
    first = [flow(IN6, OUT4, "10.20.0.101:33000"), flow(OUT4, IN6, f"[{UE6}]:4000")]
    second = [
        flow("10.20.0.101:33000", "[fd00:a::101]:34000", f"[{UE6}]:6000"),
        flow("[fd00:a::101]:34000", "10.20.0.101:33000", OUT4),
    ]
    bench.datapath.install([*first, *second])
    there = [(first[0].key.port, False, b"there"), (first[0].key.port, True, b"there")]
    back = [(first[1].key.port, True, b"back")]
    other = [
        (second[0].key.port, True, b"there"),
        (second[1].key.port, False, b"back"),
        (second[1].key.port, True, b"back"),
    ]
    for wanted, expected in (
        (first, [*there, *back]),
        (second, other),
        ([*first, *second], [*there, *back, *other]),
    ):
        with contextlib.closing(bench.datapath.capture([one.key for one in wanted])) as capture:
            assert bench.arrive(UE, UP.local_in, b"there") is Outcome.FORWARD
            callee = Address(UE6, 6_000)
            assert bench.arrive(callee, second[1].local_in, b"back") is Outcome.FORWARD
            found = list(capture)
        told = [(one.key.port, one.leaving, _payload(one.frame)) for one in found]
        assert sorted(told) == sorted(expected)
        assert {one.interface for one in found} == {"access"}


def _payload(frame: bytes) -> bytes:
    datagram = frames.read(frame)
    assert datagram is not None
    return datagram.payload
