"""A lane: one rig with a forwarder in it, load in front and a sink behind; what it carries.

Two lanes that are compared stand beside each other and run by turns, never together, and the best
round of each counts: another process on the machine can only make a round worse.

Knows: the rig, generator and sink, XdpDatapath and the bare forwarder as what stands in the middle.
Must not know goals or rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import media_flows
from benchmarks.media_rig import (
    ACCESS,
    CORE,
    CORE4,
    CORE6,
    LOAD_CPU,
    Clock,
    Rig,
    Spent,
    far_host,
    media_host,
)
from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.rtpbench import Bare, Delays, Rewrite, Sink
from bgf.lab.rtpload import Expected, Flood, Meter, MeterTotals, StreamSpec
from bgf.media.datapath import PASSED, Outcome
from bgf.media.xdp import XdpDatapath
from bgf.model import Flow

FOREVER_NS: Final = 1 << 62
"""A group's deadline that no benchmark lives to see."""
WARM_S: Final = 0.2
SETTLE_S: Final = 0.1
SETTLES_MAX: Final = 50
MICROSECOND_NS: Final = 1_000.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What has arrived at the sink, and what forwarding it has cost."""

    packets: int
    spent: Spent

    @property
    def per_core_s(self) -> float:
        """Packets for each second that the processor spent on them, the kernel's share included."""
        return self.packets / self.spent.core_s if self.spent.core_s else 0.0

    @property
    def per_second(self) -> float:
        return self.packets / self.spent.wall_s


@dataclass
class Lane:
    """`tasks` are processes that forward besides the NAPI threads; `dropped` asks the forwarder."""

    rig: Rig
    flood: Flood
    sink: Sink
    tasks: Sequence[int] = ()
    dropped: Callable[[], int] = lambda: 0

    def carry(self, seconds: float, packets_per_second: int = 0) -> Rate:
        """What comes through in a window of `seconds`; by default of all that can be sent."""
        clock_tasks = [*self.rig.pin(), *self.tasks]
        self.flood.run(packets_per_second)
        try:
            time.sleep(WARM_S)
            clock, before = Clock(clock_tasks), self.sink.arrivals().packets
            time.sleep(seconds)
            packets, spent = self.sink.arrivals().packets - before, clock.spent()
        finally:
            self.flood.pause()
        if not packets:
            raise EnvironmentProblem("nothing came through the forwarder: see its own log")
        return Rate(packets, spent)

    def delays(self, packets_per_second: int, seconds: float) -> Delays:
        """How long packets are under way at a rate, evenly spaced."""
        self.rig.pin()
        self.flood.run(packets_per_second)
        time.sleep(WARM_S)
        self.flood.pause()
        self.drained()
        self.sink.time(True)
        self.flood.run(packets_per_second)
        time.sleep(seconds)
        self.flood.pause()
        self.drained()
        found = self.sink.delays()
        self.sink.time(False)
        return found

    def drained(self) -> int:
        """Wait until nothing more arrives; all that has arrived."""
        before = -1
        for _ in range(SETTLES_MAX):
            now = self.sink.arrivals().packets
            if now == before:
                break
            before = now
            time.sleep(SETTLE_S)
        return before


def by_turns(lanes: Sequence[Lane], seconds: float, rounds: int) -> list[Rate]:
    """The best round of each."""
    found = [[lane.carry(seconds) for lane in lanes] for _ in range(rounds)]
    return [max(turn, key=lambda rate: rate.per_core_s) for turn in zip(*found, strict=True)]


@contextlib.contextmanager
def _lane(rig: Rig, streams: Sequence[StreamSpec], tasks: Sequence[int] = ()) -> Iterator[Lane]:
    with (
        Sink(rig.name("callee"), CORE) as sink,
        Flood(rig.name("ue"), ACCESS, streams, cpu=LOAD_CPU) as flood,
    ):
        yield Lane(rig, flood, sink, tasks)


def open_datapath(rig: Rig, pinholes_max: int) -> XdpDatapath:
    """Ours, in the middle of the rig, its group armed for good."""
    realms = {ACCESS: rig.access, CORE: rig.core}
    made = namespaces.run_in(
        rig.name("gw"),
        lambda: XdpDatapath(
            rig.bpffs / "node", realms, [media_flows.group()], pinholes_max=pinholes_max
        ),
    )
    made.arm(media_flows.GROUP, FOREVER_NS)
    return made


@contextlib.contextmanager
def ours(flows: Sequence[Flow], streams: Sequence[StreamSpec]) -> Iterator[Lane]:
    """The gateway's packet path with these pinholes."""
    with Rig() as rig:
        datapath = open_datapath(rig, max(1_024, len(flows)))
        try:
            datapath.install(flows)
            datapath.process()
            if datapath.unresolved:
                raise EnvironmentProblem(f"no next hop for {datapath.unresolved[0]}")
            with _lane(rig, streams) as lane:
                lane.dropped = lambda: sum(
                    count
                    for outcome, count in datapath.drops().items()
                    if outcome not in (Outcome.FORWARD, Outcome.REFLECT, *PASSED)
                )
                yield lane
        finally:
            datapath.close(unpin=True)


def bare_in(rig: Rig) -> Bare:
    """The bare forwarder in the middle of the rig."""
    rewrite = Rewrite(
        rig.mac("callee", CORE),
        rig.mac("gw", rig.core),
        media_host(CORE4, 0),
        far_host(CORE4, 0),
        media_host(CORE6, 0),
        far_host(CORE6, 0),
    )
    return Bare(rig.name("gw"), rig.access, rig.core, rewrite)


@contextlib.contextmanager
def bare(streams: Sequence[StreamSpec]) -> Iterator[Lane]:
    """The bare forwarder in the same place."""
    with Rig() as rig, bare_in(rig), _lane(rig, streams) as lane:
        yield lane


@contextlib.contextmanager
def wire(streams: Sequence[StreamSpec]) -> Iterator[Lane]:
    """No forwarder: the sink stands where it would."""
    with (
        Rig() as rig,
        Sink(rig.name("gw"), rig.access) as sink,
        Flood(rig.name("ue"), ACCESS, streams, cpu=LOAD_CPU) as flood,
    ):
        yield Lane(rig, flood, sink)


@contextlib.contextmanager
def around(
    middle: Callable[[Rig], contextlib.AbstractContextManager[tuple[Sequence[StreamSpec], int]]],
) -> Iterator[Lane]:
    """Another forwarder: `middle` gives the streams that it takes, and its process."""
    with Rig() as rig, middle(rig) as (streams, task), _lane(rig, streams, [task]) as lane:
        yield lane


def verify(lane: Lane, expected: Sequence[Expected], rate: int, seconds: float) -> MeterTotals:
    """Every packet looked at by the meter, in the sink's place: addresses, checksums, streams."""
    lane.sink.close()
    try:
        with Meter(lane.rig.name("callee"), CORE, flows_max=2 * len(expected)) as meter:
            meter.expect(expected)
            lane.flood.run(rate)
            time.sleep(seconds)
            lane.flood.pause()
            time.sleep(SETTLE_S)
            return meter.totals()
    finally:
        lane.sink = Sink(lane.rig.name("callee"), CORE)
