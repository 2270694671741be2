"""What has happened on this node, as it happens: kept for a while, told to whoever listens.

Knows: events, when. Must not know why anything happens, where a history is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from failover.history import History, TimelineEvent

TIMELINE_MAX: Final = 512  # events kept for the admin socket


class Tell(Protocol):
    """`Timeline.tell`, for who must not know the rest of it."""

    def __call__(
        self,
        event: str,
        group: str,
        node: str,
        epoch: int,
        sentence: str,
        *,
        reason: str = "",
        last: str = "",
    ) -> None: ...


class Timeline:
    """`clock` is CLOCK_BOOTTIME in ns; `history` and `on_event` get every event as it happens."""

    def __init__(
        self,
        clock: Callable[[], int],
        history: History,
        on_event: Callable[[TimelineEvent], None],
    ) -> None:
        self._clock = clock
        self._history = history
        self._on_event = on_event
        self._events: deque[TimelineEvent] = deque(maxlen=TIMELINE_MAX)

    def events(self) -> list[TimelineEvent]:
        """The last TIMELINE_MAX, oldest first."""
        return list(self._events)

    def tell(
        self,
        event: str,
        group: str,
        node: str,
        epoch: int,
        sentence: str,
        *,
        reason: str = "",
        last: str = "",
    ) -> None:
        """It happens now."""
        told = TimelineEvent(
            event=event,
            group=group,
            node=node,
            epoch=epoch,
            at_ns=self._clock(),
            sentence=sentence,
            reason=reason,
            last=last,
        )
        self._events.append(told)
        self._history.note(told)
        self._on_event(told)
