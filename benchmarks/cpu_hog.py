"""Keeps the machine's processors as busy as asked, whatever else runs on it.

    python -m benchmarks.cpu_hog --percent 90

One process per processor, each of which works or sleeps in turns of some milliseconds so that the
whole machine's use, as /proc/stat tells it, stays where it is to be. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

TURN_S: Final = 0.02
LOOK_S: Final = 0.2
STEP: Final = 0.5
"""Of what is missing is added to one's own share at every look."""
PROC_STAT: Final = Path("/proc/stat")


def busy_ticks() -> tuple[int, int]:
    """(ticks in which the processors worked, all ticks) since boot, of the whole machine."""
    values = [int(value) for value in PROC_STAT.read_text().splitlines()[0].split()[1:9]]
    idle = values[3] + values[4]
    return sum(values) - idle, sum(values)


class Use:
    """How busy the machine was since the last look, in percent."""

    def __init__(self) -> None:
        self._before = busy_ticks()

    def percent(self) -> float:
        busy, every = busy_ticks()
        was_busy, was_every = self._before
        self._before = (busy, every)
        return 100 * (busy - was_busy) / max(1, every - was_every)


def _one(percent: float) -> None:
    use, share, look_s = Use(), percent / 100, time.monotonic() + LOOK_S
    while not select.select([sys.stdin], [], [], TURN_S * (1 - share))[0]:
        until_s = time.monotonic() + TURN_S * share
        while time.monotonic() < until_s:
            pass
        if time.monotonic() >= look_s:
            look_s = time.monotonic() + LOOK_S
            share += STEP * (percent - use.percent()) / 100
            share = min(1.0, max(0.0, share))


def main() -> int:
    """As many as there are processors, until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_hog", description=__doc__)
    parser.add_argument("--percent", type=float, default=90.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        _one(given.percent)
        return 0
    command = [sys.executable, "-m", "benchmarks.cpu_hog", "--one", f"--percent={given.percent}"]
    hogs = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(os.cpu_count() or 1)]
    try:
        sys.stdin.buffer.read()
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
