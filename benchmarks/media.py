"""The packet path's figures beside its peers, all of them in one run.

    python -m benchmarks.media                  some minutes
    python -m benchmarks.media --quick          under a minute, the same rows
    python -m benchmarks.media --json FILE      rows in the form of DESIGN section 9
    python -m benchmarks.media --plot FILE      a picture (PNG)
    python -m benchmarks.media --only program   one part (rates, scale, install, program)

Needs root, two processors and Linux 5.18; rtpengine for the rates. Do nothing else on the machine
meanwhile: the best round of each counts, but a round is not undisturbed by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import media_program, media_rates
from benchmarks.media_plot import plot
from benchmarks.media_rates import Bench
from benchmarks.media_rig import LOAD_CPU
from benchmarks.report import Report
from bgf.errors import BgfError

LINE_WIDTH = 160  # of the table, when nobody looks
PARTS = {
    "rates": media_rates.forwarding,
    "scale": media_rates.scale,
    "install": media_rates.install,
    "program": media_program.measure,
}
SECONDS, QUICK_SECONDS = 2.0, 0.4
ROUNDS, QUICK_ROUNDS = 9, 3


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.media",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, the same rows")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE")
    parser.add_argument("--only", choices=sorted(PARTS), default=None, help="one part alone")
    given = parser.parse_args()
    report = Report("media", 0)
    seconds, rounds = (QUICK_SECONDS, QUICK_ROUNDS) if given.quick else (SECONDS, ROUNDS)
    # Whoever measures stays off the processor that forwards.
    os.sched_setaffinity(0, {LOAD_CPU})
    try:
        with tempfile.TemporaryDirectory(prefix="bgf-media-bench-") as name:
            bench = Bench(report, Path(name), seconds, rounds)
            for part, measure in PARTS.items():
                if given.only in (None, part):
                    print(f"  {part}", file=sys.stderr, flush=True)
                    measure(bench)
    except (BgfError, OSError) as error:
        print(f"benchmarks.media: {error}", file=sys.stderr)
        return 3
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    if given.json is not None:
        report.write(given.json)
    if given.plot is not None:
        plot(bench, given.plot)
        print(f"plot: {given.plot}")
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
