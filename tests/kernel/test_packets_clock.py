"""The packet program's clock: read seldom under load, exact where a lease ends (bpf/clock.h)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bgf.media import _xdp, layout
from bgf.model import Address, Gate
from tests.fakes.packet_lab import CALLEE4, UE4
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath, flow, packet_path

OPEN = flow("10.10.0.101:30000", "10.20.0.101:31000", f"{CALLEE4}:5000")
CLOSED = flow("10.10.0.101:30002", "10.20.0.101:31002", f"{CALLEE4}:5000", gate=Gate.CLOSED)
FLOOD = 20_000
"""Packets at a closed gate, which stay as they are: so many of them that the clock is kept."""
DROP, REDIRECT = 1, 4
WAIT_NS = 1_000_000


@pytest.fixture
def path() -> Iterator[PacketPath]:
    with packet_path() as made:
        made.datapath.install([OPEN, CLOSED])
        made.datapath.arm("g1", FAR_DEADLINE_NS)
        yield made


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Runner:
    """Runs the program on packets to either flow, with nothing read or counted in between."""

    def __init__(self, path: PacketPath) -> None:
        self._program = path._program
        self._frames = {
            port: path.frame(Address(UE4, 4_000), Address("10.10.0.101", port), bytes(20))
            for port in (30_000, 30_002)
        }
        ifindex = path.datapath._realms.wire("access").ifindex
        size = len(self._frames[30_000])
        self._context = layout.XDP_MD.pack(0, size, 0, ifindex, 0, 0)

    def run(self, port: int, repeat: int = 1) -> int:
        frame = self._frames[port]
        return _xdp.prog_test_run(self._program, frame, self._context, repeat=repeat)[0]

    def flood(self) -> None:
        assert self.run(30_002, FLOOD) == DROP


def test_a_lease_ends_at_its_time_whatever_the_load(path: PacketPath) -> None:
    """Nothing passes behind the deadline, though the clock was kept from before it."""
    with path.lab.inside("gw"):
        runner = Runner(path)
        for _ in range(10):
            assert runner.run(30_000) == REDIRECT
            runner.flood()
            deadline = now_ns() + WAIT_NS
            path.datapath.arm("g1", deadline)
            runner.run(30_000)
            while now_ns() < deadline:
                pass
            assert [runner.run(30_000) for _ in range(20)] == [DROP] * 20
            path.datapath.arm("g1", FAR_DEADLINE_NS)


def test_a_packet_with_time_around_it_has_its_own_reading(path: PacketPath) -> None:
    with path.lab.inside("gw"):
        runner = Runner(path)
        for _ in range(50):
            before = now_ns()
            assert runner.run(30_000) == REDIRECT
            after = now_ns()
            assert before <= path.datapath.counters([OPEN.key])[0].last_seen_ns <= after


def test_what_is_kept_is_never_ahead_and_does_not_last(path: PacketPath) -> None:
    with path.lab.inside("gw"):
        runner = Runner(path)
        for _ in range(5):
            runner.flood()
            assert runner.run(30_000) == REDIRECT
            after = now_ns()
            assert path.datapath.counters([OPEN.key])[0].last_seen_ns <= after
            time.sleep(0.1)  # many ticks
            assert runner.run(30_000) == REDIRECT
            assert path.datapath.counters([OPEN.key])[0].last_seen_ns > after
