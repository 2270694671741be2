"""Does this node's failover process get its turns in time? No I/O, no clock of its own.

Knows: how late it was, and when. Must not know: whom that concerns. The words are published with
the member record, for WINDOW after the fact, so that they change seldom.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from failover.reasons import State

WINDOW_NS: Final = 5_000_000_000
OVERLOADED_PARTS: Final = 10  # late for a tenth of the window
SUSPENDED_LEASE_PARTS: Final = 2  # one pause of half a lease


class Strain:
    """Fed with the detector's running total of lateness."""

    def __init__(self, lease_ns: int) -> None:
        self._pause_ns = lease_ns // SUSPENDED_LEASE_PARTS
        self._total_ns = 0
        self._late: deque[tuple[int, int]] = deque()

    def note(self, late_total_ns: int, now_ns: int) -> None:
        """The total as it is now; what was added since the last call was one stretch."""
        added_ns = late_total_ns - self._total_ns
        self._total_ns = late_total_ns
        if added_ns > 0:
            self._late.append((now_ns, added_ns))
        while self._late and now_ns - self._late[0][0] >= WINDOW_NS:
            self._late.popleft()

    def word(self) -> str:
        """`suspended`, `overloaded`, or nothing."""
        stretches = [late_ns for _, late_ns in self._late]
        if any(late_ns >= self._pause_ns for late_ns in stretches):
            return State.SUSPENDED.value
        if sum(stretches) >= WINDOW_NS // OVERLOADED_PARTS:
            return State.OVERLOADED.value
        return ""
