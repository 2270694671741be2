"""What a new owner can do while its fence is raised: know whose each port pair is.

Knows: the feed, how a machine adopts. Must not know: fences, journals, who owns the group. Twenty
thousand pairs take as long to adopt as the fence to be raised, and nobody need wait for both.
"""

from __future__ import annotations

from collections.abc import Callable

from bgf.gateway import Gateway
from bgf.runtime.feed import FlowFeed, PackedFlows


class AtHand:
    """The machine of one takeover. `make` gives one that knows of no call."""

    def __init__(self, feed: FlowFeed, group: str, make: Callable[[], Gateway]) -> None:
        self._feed = feed
        self._group = group
        self._make = make
        self._made: Gateway | None = None
        self._stamp = 0

    def begin(self) -> None:
        """Adopt what is known now."""
        self._made = self._make()
        self._made.adopt(self._feed.pairs_of(self._group))
        self._stamp = self._feed.stamp(self._group)

    def machine(self, found: PackedFlows) -> Gateway:
        """One that has adopted `found` and nothing else; another one at each call."""
        made, self._made = self._made, None
        same = found.pairs is self._feed.pairs_of(self._group)
        if made is None or not same or self._stamp != self._feed.stamp(self._group):
            made = self._make()
            made.adopt(found.pairs)
        return made
