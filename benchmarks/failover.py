"""Media outage after a power-off, measured at the receivers: the drill, repeated.

    python -m benchmarks.failover                 ten runs, the figures of the issue
    python -m benchmarks.failover --quick         two small runs
    python -m benchmarks.failover --json FILE     rows in the form of DESIGN section 9

Needs root. The reference of each outage row is the paper's 1.6 s.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bgf.errors import BgfError
from bgf.lab.drill import DrillOptions, run_drill

RUNS, QUICK_RUNS = 10, 2
QUICK_CALLS, QUICK_FLOWS = 20, 400


def main() -> int:
    """Run and print; 0 when every goal is met, 1 when one is missed, 3 when it could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--runs", type=int, default=None, help=f"default {RUNS}")
    parser.add_argument("--calls", type=int, default=None)
    parser.add_argument("--flows", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1, help="draws the moment of each kill")
    parser.add_argument("--quick", action="store_true", help="two small runs")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--plot", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    options = DrillOptions(
        calls=given.calls or (QUICK_CALLS if given.quick else 100),
        flows=given.flows or (QUICK_FLOWS if given.quick else 2_000),
        runs=given.runs or (QUICK_RUNS if given.quick else RUNS),
        seed=given.seed,
        json_path=given.json,
        plot_path=given.plot,
    )
    try:
        report = run_drill(options, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    except BgfError as error:
        print(f"benchmarks.failover: {error}", file=sys.stderr)
        return 3
    report.render(Console())
    return 0 if all(row["met"] for row in report.rows()) else 1


if __name__ == "__main__":
    sys.exit(main())
