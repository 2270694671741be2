"""Control's figures beside rtpengine, all of them in one run.

    python -m benchmarks.control                some minutes
    python -m benchmarks.control --quick        about a minute, the same rows, fewer sessions
    python -m benchmarks.control --json FILE    rows in the form of DESIGN section 9
    python -m benchmarks.control --only rates   one part: stages (where a command's time goes, in
                                                microseconds), rates, sessions

Needs root (namespaces), etcd, rtpengine of Debian. Do nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import control_rates, control_restore, control_stages
from benchmarks.control_rig import NICE
from benchmarks.report import Report
from bgf.errors import BgfError

LINE_WIDTH = 160  # of the table, when nobody looks
PARTS = {
    "stages": control_stages.measure,
    "rates": control_rates.measure,
    "sessions": control_restore.measure,
}


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls and repetitions")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--only", choices=sorted(PARTS), default=None, help="one part alone")
    given = parser.parse_args()
    report = Report("control", 0)  # nothing is drawn
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        for part, measure in PARTS.items():
            if given.only in (None, part):
                print(f"  {part}", file=sys.stderr, flush=True)
                measure(report, given.quick)
    except (BgfError, OSError) as error:
        print(f"benchmarks.control: {error}", file=sys.stderr)
        return 3
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    if given.json is not None:
        report.write(given.json)
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
