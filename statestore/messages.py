"""Inboxes: messages between the clients of a cluster.

Knows: names, messages in order. Must not know: the network, what a message says.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statestore._segment import Segment

HELD_MAX = 1024  # messages of all inboxes of a store that were fetched for one and are another's


class Post:
    """All inboxes of one store: fetches, and sorts by name."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._held: dict[bytes, deque[bytes]] = {}

    def open(self, name: bytes) -> Inbox:
        self._segment.inbox(name)
        self._held.setdefault(name, deque())
        return Inbox(self, name)

    def take(self, name: bytes) -> bytes | None:
        own = self._held[name]
        while not own:
            if sum(map(len, self._held.values())) >= HELD_MAX:
                return None  # somebody has to take theirs first
            found = self._segment.take()
            if found is None:
                return None
            self._held.setdefault(found[0], deque()).append(found[1])
        return own.popleft()


class Inbox:
    """One place where messages arrive: at most once, in order per sender."""

    def __init__(self, post: Post, name: bytes) -> None:
        self._post = post
        self.name = name

    def take(self) -> bytes | None:
        """The next message, None when there is none. Never waits."""
        return self._post.take(self.name)
