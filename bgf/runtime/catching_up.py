"""A new owner begins when it knows all that is recorded of its group.

Knows: the feed, what it lacks. Must not know: calls, fences, who owns the group. A member that has
just joined has the keys of all items before their values; flows that nobody here knows of would be
those of no call, and stay in every packet path.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from bgf.runtime.feed import Changes, FlowFeed
from bgf.runtime.process import now_ns

log = logging.getLogger("bgf.takeover")

CATCH_UP_MS: Final = 2_000
"""For values that are not to be had; a group does without control no longer than that for them."""
PAUSE_MS: Final = 5


class Follower(Protocol):
    """Who follows the feed. `behind`: it has to be read anew, once the member here serves."""

    feed: FlowFeed
    behind: bool

    def follow(self) -> None: ...

    def apply_feed(self, changes: Changes) -> None: ...


async def catch_up(follower: Follower, group: str, epoch: int) -> None:
    """Until the feed has the value of each item of the group. Raises what the store raises."""
    until_ns = now_ns() + CATCH_UP_MS * 1_000_000
    while True:
        follower.follow()
        if not follower.behind:
            if group not in follower.feed.unread():
                return
            if now_ns() > until_ns:
                log.error(
                    "group %s epoch %d: begins without the flows of some calls: %d values are not"
                    " to be had", group, epoch, follower.feed.missing,
                    extra={"group": group, "epoch": epoch, "reason": "incomplete"},
                )  # fmt: skip
                return
            follower.apply_feed(follower.feed.fetch(group))
        await asyncio.sleep(PAUSE_MS / 1000)
