"""The state plane's figures beside its peers, all of them in one run.

    python -m benchmarks.statestore                 about five minutes
    python -m benchmarks.statestore --quick         under a minute, the same rows
    python -m benchmarks.statestore --json FILE     rows in the form of DESIGN section 9
    python -m benchmarks.statestore --only network  one part (embedded, network, cluster)

Needs root (namespaces), redis-server, etcd, gcc, libhiredis. Table I of the paper is printed with
our column and those of the peers measured here.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console

import statestore
from benchmarks import dal_cluster, dal_embedded, dal_network, dal_table
from benchmarks.dal_native import Natives
from benchmarks.report import Report
from statestore.errors import StateStoreError

LINE_WIDTH = 120  # of the table, when nobody looks
PARTS = ("embedded", "network", "cluster")
CONTENTION_S, QUICK_CONTENTION_S = 60, 3


def embedded(natives: Natives, directory: Path, report: Report, quick: bool) -> None:
    """One host, no network."""
    calls, rounds = (200_000, 3) if quick else (1_000_000, 7)
    address = f"dal://{directory}/embedded"
    stores = [
        statestore.open(address + suffix, size_bytes=size)
        for suffix, size in (("", dal_embedded.SIZE_BYTES), ("0", 128 << 20), ("1", 128 << 20))
    ]
    try:
        store = stores[0]
        dal_embedded.native(natives, address, report, calls * 10, rounds)
        dal_embedded.local(store, report, calls, rounds)
        dal_embedded.journal(store, report, rounds * 10)
        dal_embedded.takeover(store, Path(f"{directory}/embedded"), report)
        seconds = QUICK_CONTENTION_S if quick else CONTENTION_S
        dal_embedded.contention(natives, address, report, seconds)
        dal_embedded.million(store, report, random.Random(report.seed))
    finally:
        for each in stores:
            each.close()


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statestore", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws the order of the keys")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, the same rows")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where (default: tmpfs)")
    parser.add_argument("--only", choices=PARTS, default=None, help="one part alone")
    given = parser.parse_args()
    report = Report("statestore", given.seed)
    parts = PARTS if given.only is None else (given.only,)
    try:
        with tempfile.TemporaryDirectory(prefix="statestore-bench-", dir=given.dir) as name:
            directory = Path(name)
            natives = Natives(directory)
            if "embedded" in parts:
                embedded(natives, directory, report, given.quick)
            if "network" in parts:
                dal_network.measure(natives, directory, report, given.quick)
            if "cluster" in parts:
                dal_cluster.measure(natives, directory, report, given.quick)
    except (StateStoreError, OSError) as error:
        print(f"benchmarks.statestore: {error}", file=sys.stderr)
        return 3
    console = Console(width=None if sys.stdout.isatty() else LINE_WIDTH)
    report.render(console)
    dal_table.render(report, console)
    if given.json is not None:
        report.write(given.json)
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
