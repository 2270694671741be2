"""How long commands took, counted into a fixed row of buckets. No I/O, no clock.

Knows: the buckets. Must not know what a command is: a name comes with each time.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

LIMITS_S: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
"""Upper limits of the buckets, seconds; one more holds what took longer."""


class Latencies:
    """One histogram per name. The names are the caller's, who keeps them few."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums_s: dict[str, float] = {}

    def observe(self, name: str, spent_s: float) -> None:
        counts = self._counts.get(name)
        if counts is None:
            counts = self._counts[name] = [0] * (len(LIMITS_S) + 1)
            self._sums_s[name] = 0.0
        counts[bisect_left(LIMITS_S, spent_s)] += 1
        self._sums_s[name] += spent_s

    def told(self) -> dict[str, Any]:
        """`limits_s`, and per name the count of each bucket (not cumulative) and the sum."""
        return {
            "limits_s": LIMITS_S,
            "names": {
                name: {"counts": counts, "sum_s": self._sums_s[name]}
                for name, counts in self._counts.items()
            },
        }
