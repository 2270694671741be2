"""The loop around a process's turns: one timer each, and no task, since there are many a second.

Knows: the running event loop. Must not know what a turn does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

SLEEP_MIN_S: Final = 0.0005


async def take_turns(
    turn: Callable[[], int], clock: Callable[[], int], stop: asyncio.Event
) -> None:
    """Call `turn`, again when it says that the next is due (ns of `clock`), until `stop` is set.
    Whatever a turn raises ends it, and is raised here."""
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()
    timer: asyncio.Handle | None = None

    def take() -> None:
        nonlocal timer
        if stop.is_set():
            return
        try:
            until_ns = turn()
        except Exception as error:
            failure.set_exception(error)
            return
        timer = loop.call_later(max((until_ns - clock()) / 1e9, SLEEP_MIN_S), take)

    stopped = asyncio.ensure_future(stop.wait())
    ends: set[asyncio.Future[Any]] = {stopped, failure}
    take()
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
    finally:
        if timer is not None:
            timer.cancel()
        stopped.cancel()
