"""What being watched costs a gateway: a look at its figures, and commands while it is looked at.

Two nodes, etcd, state replicated; the first owns all groups and has all calls. Then a `bgf monitor`
in a process of its own is scraped once a second: fifteen times as often as Prometheus does it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.control_load import Client, calls
from benchmarks.control_rig import NICE, Gateways
from benchmarks.report import Report
from bgf.errors import BgfError
from bgf.journal import Mode

SESSIONS, QUICK_SESSIONS = 20_000, 1_000
GROUPS: Final = 2
LOOKS: Final = 40
PAUSE_S: Final = 0.1
CALLS_PER_S: Final = 50.0
HELD: Final = 20
LISTEN: Final = "127.0.0.1:9487"
LOOK_GOAL, TEXT_GOAL, DELAY_GOAL = "<= 10", "<= 50", "<= 10"
SETTLE_S: Final = 3.0
LINE_WIDTH: Final = 160
SCRAPER: Final = (
    "import sys, time, urllib.request\n"
    "while True:\n"
    "    began = time.monotonic()\n"
    "    text = urllib.request.urlopen(sys.argv[1], timeout=10).read()\n"
    "    print(len(text), time.monotonic() - began, flush=True)\n"
    "    time.sleep(1)\n"
)


def measure(report: Report, quick: bool) -> None:
    """All rows. Raises BgfError."""
    sessions = QUICK_SESSIONS if quick else SESSIONS
    gateways = Gateways(nodes=2, groups=GROUPS, clustered=True, journal=Mode.CHECKPOINTED.value)
    with gateways.up():
        for group in range(GROUPS):
            with Client(gateways.namespace, gateways.control(group)) as client:
                client.windowed(calls(f"w{group}", sessions // GROUPS))
        time.sleep(SETTLE_S)
        owner = gateways.nodes[0]
        with_calls = f"{sessions:,} calls"
        looks = {
            "gateway_figures_ms": lambda: gateways.ask(owner, "gateway", "figures"),
            "failover_status_ms": lambda: gateways.ask(owner, "failover", "status"),
            "state_metrics_ms": lambda: gateways.ask(owner, "state", "metrics"),
        }
        for name, look in looks.items():
            spent = _timed(look)
            goal = TEXT_GOAL if name.startswith("state") else LOOK_GOAL
            note = f"median of {LOOKS}, {max(spent):.1f} at most, {with_calls}"
            report.add(name, statistics.median(spent), "ms", goal=goal, note=note)
        _disturbed(report, gateways, quick)


def _timed(look: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        look()
        found.append((time.perf_counter() - began) * 1_000)
        time.sleep(PAUSE_S)
    return found


def _disturbed(report: Report, gateways: Gateways, quick: bool) -> None:
    """Commands at a steady rate, without and with scrapes."""
    load = 200 if quick else 1_000
    run_dir = gateways.lab.plan.run_dir / gateways.nodes[0].id
    with Client(gateways.namespace, gateways.control()) as client:
        alone = client.paced(calls("x", load, first=100_000), CALLS_PER_S, HELD).latencies_ms
        command = ["bgf", "monitor", "--run-dir", str(run_dir), "--listen", LISTEN]
        monitor = subprocess.Popen(
            [sys.executable, "-m", *command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(SETTLE_S)
        scraper = subprocess.Popen(
            [sys.executable, "-c", SCRAPER, f"http://{LISTEN}/metrics"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            time.sleep(SETTLE_S)
            watched = client.paced(calls("y", load, first=200_000), CALLS_PER_S, HELD).latencies_ms
        finally:
            for process in (scraper, monitor):
                process.terminate()
            said, _ = scraper.communicate()
            monitor.wait()
    scrapes = [line.split() for line in said.splitlines()]
    spent = [float(seconds) * 1_000 for _, seconds in scrapes]
    size = max(int(length) for length, _ in scrapes)
    report.add(
        "scrape_ms", statistics.median(spent), "ms", goal="<= 250",
        note=f"over HTTP, {len(spent)} of them, {size:,} bytes of text",
    )  # fmt: skip
    for name, rank in (("p50", 0.5), ("p99", 0.99)):
        before, after = _rank(alone, rank), _rank(watched, rank)
        report.add(
            f"command_{name}_delay_ms", max(0.0, after - before), "ms", goal=DELAY_GOAL,
            note=f"of commands while scraped: {before:.1f} ms becomes {after:.1f}",
        )  # fmt: skip


def _rank(values: list[float], rank: float) -> float:
    return sorted(values)[int(rank * (len(values) - 1))]


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monitor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SESSIONS:,} calls")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    report = Report("monitor", 0)  # nothing is drawn
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        measure(report, given.quick)
    except (BgfError, OSError) as error:
        print(f"benchmarks.monitor: {error}", file=sys.stderr)
        return 3
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    if given.json is not None:
        report.write(given.json)
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
