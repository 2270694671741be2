"""Which of this node's own links are down for good. No I/O, no clock of its own.

Knows: which were seen down, and since when. Must not know how that is seen, or what follows.
"""

from __future__ import annotations

from collections.abc import Collection


class OwnLinks:
    """A link counts as down after `patience_ns`, the time in which a peer would be silent."""

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._since_ns: dict[str, int] = {}

    def lasting(self, down: Collection[str], now_ns: int) -> tuple[str, ...]:
        """Those that have been down for long enough, told that these are down now; sorted."""
        self._since_ns = {path: self._since_ns.get(path, now_ns) for path in sorted(down)}
        return tuple(
            path
            for path, since_ns in self._since_ns.items()
            if now_ns - since_ns >= self._patience_ns
        )
