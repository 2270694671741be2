"""How many calls have begun and ended, and how: what `statistics` tells. Counts, decides nothing.

Knows: events and what they made of a session. No part of a machine's state: a new owner counts
from where it began.
"""

from __future__ import annotations

import math
from typing import Final

from bgf.events import Abandoned, Event, Expired
from bgf.session import Session, State

NS_PER_S: Final = 1_000_000_000


class Totals:
    """Of one machine, since it was made here. Durations are in seconds."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0  # as a controller asked, at once or later
        self.unanswered = 0  # nobody has answered the offer in time
        self.abandoned = 0  # no media for too long
        self.duration_s = 0.0
        self.duration2_s = 0.0

    def count(self, event: Event, before: Session | None, after: Session | None) -> None:
        """Take in one step."""
        lived, lives = _lives(before), _lives(after)
        if lives and not lived:
            self.begun += 1
        if not lived or lives or before is None:
            return
        if isinstance(event, Abandoned):
            self.abandoned += 1
        elif isinstance(event, Expired) and not before.orders.ends_ns:
            self.unanswered += 1
        else:
            self.ended += 1
        lasted_s = max(0.0, (event.now_ns - before.created_ns) / NS_PER_S)
        self.duration_s += lasted_s
        self.duration2_s += lasted_s * lasted_s

    def add(self, other: Totals) -> None:
        """Take in another machine's."""
        self.begun += other.begun
        self.ended += other.ended
        self.unanswered += other.unanswered
        self.abandoned += other.abandoned
        self.duration_s += other.duration_s
        self.duration2_s += other.duration2_s

    @property
    def over(self) -> int:
        return self.ended + self.unanswered + self.abandoned

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the durations."""
        mean = self.duration_s / self.over if self.over else 0.0
        return math.sqrt(max(0.0, self.duration2_s / self.over - mean * mean)) if self.over else 0.0


def _lives(session: Session | None) -> bool:
    return session is not None and session.state is not State.DELETED
