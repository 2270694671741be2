"""A long run of the packet path at half of what it carries, every packet accounted for.

    python -m benchmarks.media_soak                 ten minutes
    python -m benchmarks.media_soak --minutes 60
    python -m benchmarks.media_soak --quick         five seconds
    python -m benchmarks.media_soak --json FILE     rows in the form of DESIGN section 9

Pinholes open and close all the time while every stream goes on sending. At the end the books must
close: sent = refused by the wire + dropped by reason + forwarded, and forwarded = refused by the
wire behind + received; and nothing has come through a closed pinhole. Needs root, two processors.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import media_flows, media_lanes
from benchmarks.media_rig import ACCESS, CORE, LOAD_CPU, Rig
from benchmarks.report import Report
from bgf.errors import BgfError
from bgf.lab.rtpbench import Sink
from bgf.lab.rtpload import Flood, Meter, MeterTotals
from bgf.media.datapath import PASSED, Outcome
from bgf.media.xdp import XdpDatapath

MINUTES, QUICK_S = 10.0, 5.0
FLOWS: Final = 2_000
NEVER: Final = 10
"""One stream of so many has no pinhole, ever."""
STEP_S: Final = 0.1
MOVED: Final = 20
"""One pinhole of so many opens or closes in a step."""
CAPACITY_S: Final = 1.0
LEAK_S: Final = 0.3
SETTLE_S, SETTLES_MAX = 0.1, 50
TELL_S: Final = 10.0
LINE_WIDTH: Final = 120
REFUSED: Final = "tx_queue_0_xdp_xmit_errors"
"""What `ethtool -S` of the sending end calls frames that its peer had no room for."""


@dataclass(frozen=True, slots=True)
class Options:
    """`rate` is in packets/s of all streams together; 0: half of what comes through at most."""

    seconds: float
    flows: int = FLOWS
    rate: int = 0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Books:
    """Packets by where they have got to."""

    sent: int
    refused_before: int
    outcomes: Mapping[Outcome, int]
    refused_behind: int
    received: int

    @property
    def forwarded(self) -> int:
        return self.outcomes[Outcome.FORWARD]

    @property
    def drops(self) -> dict[Outcome, int]:
        """By reason; what is not there is left out."""
        return {
            outcome: count
            for outcome, count in self.outcomes.items()
            if count and outcome not in (Outcome.FORWARD, Outcome.REFLECT, *PASSED)
        }

    @property
    def missing_before(self) -> int:
        """Sent, and neither refused nor seen by the packet path."""
        return self.sent - self.refused_before - self.forwarded - sum(self.drops.values())

    @property
    def missing_behind(self) -> int:
        """Forwarded, and neither refused nor received."""
        return self.forwarded - self.refused_behind - self.received


class Soak:
    """One rig under load; `step` opens and closes, `books` counts."""

    def __init__(
        self, rig: Rig, datapath: XdpDatapath, flood: Flood, meter: Meter, options: Options
    ) -> None:
        self._rig, self._datapath, self._flood, self._meter = rig, datapath, flood, meter
        self._random = random.Random(options.seed)
        self._moving = list(range(options.flows - options.flows // NEVER))
        self._moves = max(1, options.flows // MOVED)
        self._open: set[int] = set()
        self._sent_before = flood.counts().sent
        self._counts_before = self._raw()
        self.opened = self.closed = 0
        meter.expect([e for e in media_flows.expected(options.flows) if e.ssrc - 1 in self._moving])

    def begin(self) -> None:
        """Every second one is open."""
        self._install(self._moving[::2])

    def step(self) -> None:
        """Some of the open ones close, as many of the closed ones open; and some are set anew."""
        chosen = self._random.sample(self._moving, self._moves)
        closing = [n for n in chosen if n in self._open]
        self._remove(closing)
        self._install([n for n in chosen if n not in closing])
        again = self._random.sample(sorted(self._open), min(len(self._open), 10))
        self._datapath.install([media_flows.flow(n) for n in again])
        self._datapath.process()

    def leaked(self) -> int:
        """Close all while the load goes on; packets that were sent on after that."""
        self._remove(list(self._open))
        time.sleep(LEAK_S)
        before = self._datapath.drops()[Outcome.FORWARD]
        time.sleep(LEAK_S)
        return self._datapath.drops()[Outcome.FORWARD] - before

    def books(self) -> Books:
        """As they stand once nothing is under way any more: pause the load before."""
        for _ in range(SETTLES_MAX):
            books = self._books()
            if not books.missing_before and not books.missing_behind:
                break
            time.sleep(SETTLE_S)
        return books

    def _books(self) -> Books:
        before, behind, outcomes, received = self._raw()
        first = self._counts_before
        return Books(
            self._flood.counts().sent - self._sent_before,
            before - first[0],
            {outcome: count - first[2][outcome] for outcome, count in outcomes.items()},
            behind - first[1],
            received - first[3],
        )

    def _raw(self) -> tuple[int, int, Mapping[Outcome, int], int]:
        return (
            self._rig.link_statistics("ue", ACCESS)[REFUSED],
            self._rig.link_statistics("gw", self._rig.core)[REFUSED],
            dict(self._datapath.drops()),
            self._meter.totals().generated,
        )

    def _install(self, numbers: list[int]) -> None:
        self._datapath.install([media_flows.flow(n) for n in numbers])
        self._open.update(numbers)
        self.opened += len(numbers)

    def _remove(self, numbers: list[int]) -> None:
        self._datapath.remove(media_flows.flow(n).key for n in numbers)
        self._open.difference_update(numbers)
        self.closed += len(numbers)


def half_capacity(rig: Rig, datapath: XdpDatapath, flood: Flood, flows: int) -> int:
    """Half of the packets/s that come through with every pinhole open."""
    datapath.install(media_flows.flows(flows))
    with Sink(rig.name("callee"), CORE) as sink:
        lane = media_lanes.Lane(rig, flood, sink)
        carried = lane.carry(CAPACITY_S).per_second
        lane.drained()
    datapath.remove(datapath.keys())
    return int(carried / 2)


def run(options: Options, report: Report, progress: Callable[[str], None]) -> None:
    """The whole soak, into `report`. Raises BgfError when it cannot run."""
    streams = media_flows.streams(options.flows)
    with Rig() as rig, Flood(rig.name("ue"), ACCESS, streams, cpu=LOAD_CPU) as flood:
        datapath = media_lanes.open_datapath(rig, max(1_024, options.flows))
        try:
            rate = options.rate or half_capacity(rig, datapath, flood, options.flows)
            progress(f"{rate:,} packets/s for {options.seconds:g} s, {options.flows:,} streams")
            with Meter(rig.name("callee"), CORE, flows_max=2 * options.flows) as meter:
                rig.pin()
                soak = Soak(rig, datapath, flood, meter, options)
                _carry(soak, flood, rate, options, progress)
                leaked = soak.leaked()
                flood.pause()
                moved = f"{soak.opened:,} pinholes opened, {soak.closed:,} closed"
                note = f"at {rate:,} packets/s, {moved}"
                _tell(report, soak.books(), meter.totals(), leaked, note)
        finally:
            datapath.close(unpin=True)


def _carry(
    soak: Soak, flood: Flood, rate: int, options: Options, progress: Callable[[str], None]
) -> None:
    soak.begin()
    flood.run(rate)
    now = begin = time.monotonic()
    told = begin
    while now < begin + options.seconds:
        soak.step()
        time.sleep(STEP_S)
        now = time.monotonic()
        if now - told >= TELL_S:
            told = now
            progress(f"{now - begin:.0f} s, {flood.counts().sent:,} packets")


def _tell(report: Report, books: Books, totals: MeterTotals, leaked: int, note: str) -> None:
    wrong = totals.bad_checksum + totals.wrong_source + totals.wrong_destination
    report.add("sent", books.sent, "packets", note=note)
    report.add("refused_before", books.refused_before, "packets", note="no room in the queue")
    for reason, count in sorted(books.drops.items()):
        report.add(f"dropped_{reason}", count, "packets")
    report.add("forwarded", books.forwarded, "packets")
    report.add("refused_behind", books.refused_behind, "packets", note="no room in the queue")
    report.add("received", books.received, "packets")
    report.add("missing_before", books.missing_before, "packets", goal="== 0")
    report.add("missing_behind", books.missing_behind, "packets", goal="== 0")
    report.add("through_closed", leaked, "packets", goal="== 0", note="after all had closed")
    report.add(
        "wrong", wrong, "packets", goal="== 0", note="checksum, source, destination, never open"
    )


def main() -> int:
    """Run and print; 0 when the books close, 1 when not, 3 when it could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=None, help=f"default {MINUTES:g}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} seconds")
    parser.add_argument("--flows", type=int, default=FLOWS)
    parser.add_argument("--rate", type=int, default=0, help="packets/s; default: half the capacity")
    parser.add_argument("--seed", type=int, default=1, help="draws what opens and closes")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    seconds = QUICK_S if given.quick else MINUTES * 60
    if given.minutes is not None:
        seconds = given.minutes * 60
    report = Report("media soak", given.seed)
    options = Options(seconds, given.flows, given.rate, given.seed)
    try:
        run(options, report, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    except (BgfError, OSError) as error:
        print(f"benchmarks.media_soak: {error}", file=sys.stderr)
        return 3
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    if given.json is not None:
        report.write(given.json)
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
