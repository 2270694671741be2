"""One group on this node: its socket always, its machine while the node owns it.

Knows: what the group's state here is, and the commands that wait for it. Must not know when that
changes: `gateway_process` does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from bgf.control.server import Incoming, NgServer, Peer
from bgf.errors import Unserved
from bgf.events import Verb
from bgf.hands import Driver
from bgf.model import Group

REFUSE_AFTER_MS: Final = 6_000
"""Until then silence is better than an error: a proxy asks again (Kamailio: five times, a second
apart), and by then it may be done. An error would lose the deletion of a call."""
PARKED_MAX: Final = 1_024
"""Commands that wait for a takeover to be complete. Who is not kept asks again."""
PARKED_NEW_MAX: Final = 768
"""Of them, offers that look like those of new calls (no to-tag): running calls come first."""


class Served:
    """`epoch` is that of the machine, or of the takeover under way; 0: neither."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.epoch = 0
        self.ours = False  # by the last view of the registry, whether it can be served or not
        self.owned_before = ""  # the other node that was seen to own it last
        self.driver: Driver | None = None
        self.takeover: asyncio.Task[None] | None = None
        self.lost_epoch = 0
        self.pending = 0
        self.began_ns = 0
        self.ready_in_ms = 0.0
        self.restored_in_ms = 0.0
        self.server: NgServer | None = None
        self.asked: tuple[Incoming, list[bytes]] | None = None
        self.outcomes: Counter[str] = Counter()
        self._parked: dict[tuple[Peer, str], Incoming] = {}
        self._parked_new = 0

    @property
    def role(self) -> str:
        if self.driver is not None:
            return "active"
        return "standby" if self.takeover is None else "taking over"

    def owned_by(self, owner: str, me: str) -> bool:
        """The registry says so: is it this node's?"""
        self.ours = owner == me
        if owner not in ("", me):
            self.owned_before = owner
        return self.ours

    def refuse_unserved(self, unserved_ns: int) -> None:
        """It is this node's, and the state plane has not served here for longer than anybody asks
        again: silence would only keep a proxy waiting. Raises Unserved."""
        if self.ours and unserved_ns >= REFUSE_AFTER_MS * 10**6:
            raise Unserved(
                f"the state plane has not served this node for {unserved_ns // 10**9} s (its lease"
                " ended; has etcd a majority?): calls go on, and cannot be changed meanwhile"
            )

    def park(self, incoming: Incoming) -> None:
        """Keep a command until the group can be served; a repetition takes its place."""
        request = incoming.request
        new = request.verb is Verb.OFFER and not request.to_tag
        if len(self._parked) < PARKED_MAX and not (new and self._parked_new >= PARKED_NEW_MAX):
            self._parked_new += new and (incoming.peer, request.cookie) not in self._parked
            self._parked[incoming.peer, request.cookie] = incoming
            self.outcomes["parked"] += 1

    def unpark(self) -> list[Incoming]:
        """All that were kept, oldest first."""
        kept, self._parked, self._parked_new = list(self._parked.values()), {}, 0
        return kept
