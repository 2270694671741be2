"""A token bucket whose time is an argument: how many of something may happen in a second.

Knows: arithmetic. Must not know clocks, nor what is counted. It is kept as one number, the time at
which the bucket would be full again (the generic cell rate algorithm, ITU-T I.371 annex A).
"""

from __future__ import annotations

from typing import Final

NS_PER_S: Final = 1_000_000_000


class Rate:
    """At most `per_s` in a second on average, and as many as in one second at once; 0: no limit.

    Begins full. A time that goes back changes nothing: who has waited has waited.
    """

    __slots__ = ("_full_ns", "_interval_ns")

    def __init__(self, per_s: int) -> None:
        self._interval_ns = NS_PER_S // per_s if per_s else 0
        self._full_ns = 0

    def allows(self, now_ns: int) -> bool:
        """Would one more be within the rate?"""
        return self._full_ns - now_ns <= NS_PER_S - self._interval_ns

    def take(self, now_ns: int) -> None:
        """Count one, allowed or not."""
        if self._interval_ns:
            self._full_ns = max(self._full_ns, now_ns) + self._interval_ns

    def wait_ns(self, now_ns: int) -> int:
        """How long until one more is allowed, 0 when it is now."""
        return max(0, self._full_ns - now_ns - NS_PER_S + self._interval_ns)
