"""The loop around a process's turns: one timer each, and no task, since there are many a second.

Knows: the running event loop. Must not know what a turn does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

SLEEP_MIN_S: Final = 0.0005


class Turns:
    """Calls `turn`, again when it says that the next is due (ns of `clock`)."""

    def __init__(self, turn: Callable[[], int], clock: Callable[[], int]) -> None:
        self._turn = turn
        self._clock = clock
        self._next: asyncio.Handle | None = None
        """None within a turn, and before and after all of them."""
        self._failure: asyncio.Future[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Whatever a turn raises ends it, and is raised here."""
        self._failure = asyncio.get_running_loop().create_future()
        stopped = asyncio.ensure_future(stop.wait())
        ends: set[asyncio.Future[Any]] = {stopped, self._failure}
        self._take()
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            self._failure.cancel()
            if self._next is not None:
                self._next.cancel()
                self._next = None
            stopped.cancel()

    def hurry(self) -> None:
        """The next turn is due now: something has been heard. Within a turn it means nothing."""
        if self._next is not None:
            self._next.cancel()
            self._next = asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        assert self._failure is not None
        self._next = None
        if self._failure.done():
            return
        try:
            until_ns = self._turn()
        except Exception as error:
            self._failure.set_exception(error)
            return
        pause_s = max((until_ns - self._clock()) / 1e9, SLEEP_MIN_S)
        self._next = asyncio.get_running_loop().call_later(pause_s, self._take)
