"""Planned moves that an operator asked for: which group, where to, until when it makes sense.

Knows: groups, peers, the wishes that are open. Must not know how a move goes (`decide`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from failover.errors import MoveRefused
from failover.registry import Ownership

WISH_NS: Final = 10_000_000_000  # a planned move that has not begun by then is given up


class Wishes:
    """Of one node."""

    def __init__(self, me: str, groups: Collection[str], peers: Collection[str]) -> None:
        self._me = me
        self._groups = sorted(groups)
        self._peers = sorted(peers)
        self._open: dict[str, tuple[str, int]] = {}

    def add(self, group: str, to: str, owner: Ownership, serving: int, now_ns: int) -> None:
        """`to` may be empty: to whoever is next. Raises MoveRefused."""
        self.known(group)
        if owner.node != self._me:
            raise MoveRefused(
                f"{group} is {owner.node or 'nobody'}'s: only its owner can hand it over"
            )
        if to == self._me:
            raise MoveRefused(f"{group} is {to}'s already")
        if to and to not in self._peers:
            raise MoveRefused(f"no node '{to[:64]}': there are {', '.join(self._peers)}")
        if not serving:
            raise MoveRefused(f"{group} is being taken over by {self._me}: wait for that")
        self._open[group] = (to, now_ns + WISH_NS)

    def known(self, group: str) -> None:
        """Raises MoveRefused for a group that there is not."""
        if group not in self._groups:
            raise MoveRefused(f"no group '{group[:64]}': there are {', '.join(self._groups)}")

    def wanted(self) -> dict[str, str]:
        """Group -> where to."""
        return {group: to for group, (to, _) in self._open.items()}

    def drop(self, group: str) -> None:
        """It is fulfilled, or cannot be any more."""
        self._open.pop(group, None)

    def expired(self, now_ns: int, offered: Collection[str]) -> dict[str, str]:
        """Those that nobody could fulfil for too long; they are dropped. What is `offered` is
        under way."""
        over = {
            group: to
            for group, (to, until_ns) in self._open.items()
            if now_ns >= until_ns and group not in offered
        }
        for group in over:
            del self._open[group]
        return over
