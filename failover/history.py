"""What this node saw of each group's past: the last events, bounded. No I/O.

Knows: timeline events. Must not know: how they come about, where the history is kept over a
restart (`dump` and `load` give plain values for somebody else to keep).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

EVENTS_PER_GROUP_MAX: Final = 96
TEXT_CHARS_MAX: Final = 600
TEXTS: Final = ("event", "group", "node", "sentence", "reason", "last")


class TimelineEvent(TypedDict):
    """One moment of a failover. `at_ns` is CLOCK_BOOTTIME; `epoch` 0 where there is none.

    `reason` of a decision says in one word why `last`, its last owner, lost the group.
    """

    event: str
    group: str
    node: str
    epoch: int
    at_ns: int
    sentence: str
    reason: str
    last: str


class History:
    """Events by group, oldest first."""

    def __init__(self) -> None:
        self._events: dict[str, deque[TimelineEvent]] = {}
        self.changed = False

    def note(self, event: TimelineEvent) -> None:
        """Events that concern no group are of the timeline only."""
        if event["group"]:
            event = event | {"sentence": event["sentence"][:TEXT_CHARS_MAX]}
            group = self._events.setdefault(event["group"], deque(maxlen=EVENTS_PER_GROUP_MAX))
            group.append(event)
            self.changed = True

    def of(self, group: str) -> list[TimelineEvent]:
        return list(self._events.get(group, ()))

    def dump(self) -> dict[str, list[TimelineEvent]]:
        """All of it, as plain values."""
        self.changed = False
        return {group: list(events) for group, events in self._events.items()}

    def load(self, kept: Mapping[str, Sequence[Any]], groups: Sequence[str]) -> None:
        """What an earlier life dumped, of known groups; what is no event is left out."""
        for group in groups:
            for found in kept.get(group, ())[-EVENTS_PER_GROUP_MAX:]:
                event = _event(found)
                if event is not None and event["group"] == group:
                    self.note(event)
        self.changed = False


def _event(found: Any) -> TimelineEvent | None:
    if not isinstance(found, dict):
        return None
    texts = [found.get(name) for name in TEXTS]
    numbers = [found.get(name) for name in ("epoch", "at_ns")]
    if not all(isinstance(text, str) and len(text) <= TEXT_CHARS_MAX for text in texts):
        return None
    if not all(isinstance(number, int) for number in numbers):
        return None
    return TimelineEvent(
        event=str(texts[0]),
        group=str(texts[1]),
        node=str(texts[2]),
        sentence=str(texts[3]),
        reason=str(texts[4]),
        last=str(texts[5]),
        epoch=int(numbers[0] or 0),
        at_ns=int(numbers[1] or 0),
    )
