"""How much memory this process has, and why no new call may begin when it is too much.

Knows /proc and control groups. Must not know calls. What counts is what is the process's own
(resident less shared): the state segment, which it maps, has its own bound.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

MEMORY_PART: Final = 0.75
"""Of what the process may have, where the configuration does not say."""
_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_PAGE_BYTES = resource.getpagesize()


def resident_bytes() -> int:
    """Resident memory of this process that it shares with nobody (proc(5), statm)."""
    _, resident, shared, *_ = _STATM.read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES


def allowed_bytes() -> int:
    """The machine's memory, or what the control group leaves of it (cgroup v2)."""
    total = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
    found = int(total.split()[1]) * 1024
    try:
        group = _CGROUP.read_text().strip().rpartition("::")[2].lstrip("/")
        folder = _CGROUP_ROOT / group
        while folder.is_relative_to(_CGROUP_ROOT):
            limit = folder / "memory.max"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                found = min(found, int(text))
            folder = folder.parent
    except (OSError, ValueError):
        pass  # no control groups of that kind here
    return found


class Load:
    """Measured now and then (`measure`), asked for every new call (`overload`)."""

    def __init__(self, memory_max_mb: int = 0) -> None:
        """0: three quarters of what the process may have."""
        self.allow(memory_max_mb)
        self.memory_bytes = 0
        self.measure()

    def allow(self, memory_max_mb: int) -> None:
        """As at the start: another limit."""
        self.memory_max_bytes = memory_max_mb << 20 or int(allowed_bytes() * MEMORY_PART)

    def measure(self) -> None:
        self.memory_bytes = resident_bytes()

    def overload(self) -> str:
        """`name of the limit: why`, '' when a new call may begin."""
        if self.memory_bytes < self.memory_max_bytes:
            return ""
        return (
            f"memory_max_mb: {self.memory_bytes >> 20} MB are resident,"
            f" {self.memory_max_bytes >> 20} are allowed: use another node"
        )
