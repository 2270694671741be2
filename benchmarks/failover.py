"""The paper's figure 8 with our curves, and every other figure of a failover. Needs root.

    python -m benchmarks.failover --quick                    every part once, small: some minutes
    python -m benchmarks.failover --json F --plot P          all of it, 20 runs each: two hours
    python -m benchmarks.failover --json F --resume          goes on where it was interrupted
    python -m benchmarks.failover --json F --resume --slice-s 280    stops after a while
    python -m benchmarks.failover --only lab-20000           one part (a prefix names several)
    python -m benchmarks.failover --only false-alarms --minutes 60

Four actives and a standby; RTP at the receivers, per flow and direction. Parts: PARTS. The false
alarms of an hour are measured only when asked for, by --only or --minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import failover_parts, failover_peer, failover_plot, failover_rows
from benchmarks.failover_book import Book, Sample
from benchmarks.failover_rows import POWER_OFFS, PowerOff
from benchmarks.report import Report
from benchmarks.yardstick import additions_per_us
from bgf import config
from bgf.errors import BgfError

RUNS, QUICK_RUNS = 20, 2
QUICK_FLOWS_MAX: Final = 1_000
QUICK_MINUTES: Final = 0.5
MINUTES: Final = 60.0
LINE_WIDTH: Final = 160  # of the table, when nobody looks
ALARMS: Final = "false-alarms"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """`measure(count)` yields that many samples, or of that many minutes; `want` is how many."""

    name: str
    key: str
    want: float
    measure: Callable[[float], Iterator[Sample]]
    per_minute: bool = False

    def have(self, book: Book) -> float:
        """Runs, or minutes, that are there already."""
        found = book.of(self.key)
        return sum(float(s["minutes"]) for s in found) if self.per_minute else len(found)


def parts(given: argparse.Namespace, progress: Progress) -> list[Part]:
    """All of them, in the order of measuring."""
    quick, seed = bool(given.quick), int(given.seed)
    runs = given.runs or (QUICK_RUNS if quick else RUNS)
    found = []
    for part in POWER_OFFS:
        small = replace(part, flows=min(part.flows, QUICK_FLOWS_MAX)) if quick else part

        def cut(count: float, part: PowerOff = small) -> Iterator[Sample]:
            return failover_parts.power_off(part, int(count), seed, progress)

        found.append(Part(part.name, part.name, runs, cut))
    for name, measure in (
        ("crash", failover_parts.crash),
        ("upgrade", failover_parts.upgrade),
        ("switchover", failover_parts.switchover),
        ("control", failover_parts.control),
    ):

        def several(count: float, measure=measure) -> Iterator[Sample]:  # type: ignore[no-untyped-def]
            return measure(int(count), quick, seed, progress)  # type: ignore[no-any-return]

        found.append(Part(name, name, runs, several))
    found.append(
        Part("overhead", "overhead", 1, lambda _: failover_parts.overhead(quick, progress))
    )
    for peer in failover_peer.PEERS:

        def beside(count: float, peer: failover_peer.Peer = peer) -> Iterator[Sample]:
            return failover_peer.measure(peer, int(count), quick, seed, progress)

        found.append(Part(peer.name, peer.name, runs, beside))
    minutes = given.minutes or (QUICK_MINUTES if quick else MINUTES)
    for profile in sorted(config.PROFILES, reverse=True):

        def watch(count: float, profile: str = profile) -> Iterator[Sample]:
            return failover_parts.alarms(profile, count, progress)

        found.append(Part(f"{ALARMS}-{profile}", f"alarms-{profile}", minutes, watch, True))
    return found


def wanted(part: Part, given: argparse.Namespace) -> bool:
    """Is it to be measured?"""
    if given.only:
        return any(part.name == name or part.name.startswith(f"{name}-") for name in given.only)
    return not part.per_minute or bool(given.minutes)


def run(given: argparse.Namespace, book: Book, progress: Progress) -> bool:
    """What is wanted and not there yet; False when the time was over before the end."""
    end_s = time.monotonic() + (given.slice_s or 10 * 365 * 86_400)
    for part in parts(given, progress):
        left = part.want - part.have(book)
        if not wanted(part, given) or left <= 1e-6:
            continue
        progress(f"{part.name}: {left:g} {'minutes' if part.per_minute else 'runs'}")
        if part.per_minute:
            left = min(left, max(0.0, (end_s - time.monotonic()) / 60))
        with closing(part.measure(left)) as samples:  # type: ignore[type-var]
            for sample in samples:
                book.add(part.key, sample | {"speed": round(additions_per_us(), 2)})
                if time.monotonic() > end_s:
                    break
        if time.monotonic() > end_s:
            return all(p.have(book) >= p.want for p in parts(given, progress) if wanted(p, given))
    return True


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run, 4
    when the slice was over before the end."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failover",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="every part small, a few runs")
    parser.add_argument("--runs", type=int, default=None, help=f"of each part (default {RUNS})")
    parser.add_argument("--minutes", type=float, default=None, help=f"of {ALARMS}")
    parser.add_argument("--only", action="append", metavar="PART", help="repeatable; or a prefix")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    parser.add_argument("--seed", type=int, default=1, help="draws the moment of each death")
    parser.add_argument("--slice-s", type=float, default=None, help="begin no run after so long")
    parser.add_argument("--resume", action="store_true", help="go on with what --json holds")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    began_s = time.monotonic()

    def progress(line: str) -> None:
        print(f"  {time.monotonic() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    known = parts(given, progress)
    if given.list:
        print("\n".join(part.name for part in known))
        return 0
    for name in given.only or ():
        if not any(wanted(part, argparse.Namespace(only=[name])) for part in known):
            parser.error(
                f"--only {name}: no such part; there are {', '.join(p.name for p in known)}"
            )
    whole = True
    try:
        book = Book(given.json, resume=given.resume)
        whole = run(given, book, progress)
    except (BgfError, OSError) as error:
        print(f"benchmarks.failover: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("benchmarks.failover: interrupted; go on with --resume", file=sys.stderr)
        return 130
    report = Report("failover", given.seed)
    failover_rows.rows(report, book.of)
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    book.finish(report)
    if given.plot is not None:
        failover_plot.plot(book.of, given.plot)
    if not whole:
        print("benchmarks.failover: the slice is over; go on with --resume", file=sys.stderr)
        return 4
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
