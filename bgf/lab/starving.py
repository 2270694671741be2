"""A share of a processor for some processes, by a control group of our own (v2 or v1).

Knows: /proc/self/mountinfo's file systems, cgroup files. Must not know what the processes are for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bgf.errors import EnvironmentProblem

PERIOD_US: Final = 100_000
REMOVE_TRIES_MAX: Final = 50
RETRY_MS: Final = 20


class Starved:
    """`pids` and their future children get `percent` of one processor, until `feed`.

    Raises EnvironmentProblem where no control group can be made.
    """

    def __init__(self, name: str, pids: Iterable[int], percent: float) -> None:
        root, version = _hierarchy()
        self._group = root / name
        self._root = root
        quota_us = max(1_000, int(PERIOD_US * percent / 100))
        try:
            self._group.mkdir(exist_ok=True)
            if version == 2:
                with contextlib.suppress(OSError):  # it may be enabled already
                    (root / "cgroup.subtree_control").write_text("+cpu")
                (self._group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            else:
                (self._group / "cpu.cfs_period_us").write_text(f"{PERIOD_US}")
                (self._group / "cpu.cfs_quota_us").write_text(f"{quota_us}")
                if (self._group / "cpu.rt_runtime_us").exists():  # of each processor; else none
                    (self._group / "cpu.rt_period_us").write_text(f"{PERIOD_US}")
                    (self._group / "cpu.rt_runtime_us").write_text(f"{quota_us}")
            for pid in pids:
                (self._group / "cgroup.procs").write_text(f"{pid}")
        except OSError as problem:
            self.feed()
            raise EnvironmentProblem(
                f"a control group for the processor cannot be made in {root}: {problem.strerror}"
            ) from None

    def feed(self) -> None:
        """Give all of them their turns again, and remove the group. Idempotent."""
        for _ in range(REMOVE_TRIES_MAX):
            with contextlib.suppress(OSError):
                for pid in (self._group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(OSError):
                        (self._root / "cgroup.procs").write_text(pid)
            try:
                self._group.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(RETRY_MS / 1000)
            else:
                return


def _hierarchy() -> tuple[Path, int]:
    """Where control groups for the processor are made, and of which version."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        lines = []
    mounts = [(kind, Path(at), options) for _, at, kind, options, *_ in map(str.split, lines)]
    for kind, at, options in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            return at, 1
    for kind, at, _ in mounts:
        with contextlib.suppress(OSError):
            if kind == "cgroup2" and "cpu" in (at / "cgroup.controllers").read_text().split():
                return at, 2
    raise EnvironmentProblem("no control groups for the processor are mounted here")
