"""Who died too often lately to be trusted with a group. No I/O, no clock of its own.

A node whose link or machine comes and goes would carry its groups to and fro, each time at the
price of an outage. After FLAPS_MAX deaths within FLAP_WINDOW it is *restless* until it has lived
for QUIET without a break: it comes last in every line, and when an accusation is all that speaks
against it, its groups wait for a lease first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

SECOND: Final = 1_000_000_000
FLAPS_MAX: Final = 3  # deaths, as routers count them for BFD
FLAP_WINDOW_NS: Final = 60 * SECOND
QUIET_NS: Final = 30 * SECOND


@dataclass(slots=True)
class _Record:
    dead: bool = False
    alive_since_ns: int = 0
    deaths: deque[int] = field(default_factory=lambda: deque(maxlen=FLAPS_MAX))
    restless: bool = False


class Flaps:
    """Counts deaths of the other nodes as this node's own plans see them."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def note(self, members: Collection[str], dead: Collection[str], now_ns: int) -> None:
        """What the plan of this moment says. Nodes that are no members any more are forgotten."""
        for node in set(self._records) - set(members):
            del self._records[node]
        for node in members:
            record = self._records.setdefault(node, _Record(alive_since_ns=now_ns))
            if node in dead and not record.dead:
                record.deaths.append(now_ns)
                within = now_ns - record.deaths[0] < FLAP_WINDOW_NS
                record.restless |= len(record.deaths) == FLAPS_MAX and within
            elif node not in dead:
                if record.dead:
                    record.alive_since_ns = now_ns
                elif record.restless and now_ns - record.alive_since_ns >= QUIET_NS:
                    record.restless = False
                    record.deaths.clear()
            record.dead = node in dead

    def restless(self) -> frozenset[str]:
        """Those that have not been quiet for long enough since."""
        return frozenset(node for node, record in self._records.items() if record.restless)
