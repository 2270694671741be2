"""A new owner's calls come back in the background, while it answers for those that are asked for.

Knows: the clock and the loop. Must not know calls or journals: the driver restores.
"""

from __future__ import annotations

import asyncio
import logging

from bgf.errors import StateError
from bgf.hands import Driver
from bgf.runtime.process import call_ns, now_ns, rare_collections
from bgf.runtime.served import Served

log = logging.getLogger("bgf.gateway")

RESTORE_AFTER_MS = 100
"""Who has waited for the takeover is answered first, and other groups of a dead node are taken."""
RESTORE_BATCH, RESTORE_SLICE_MS, RESTORE_PAUSE_MS, RESTORE_RETRY_MS = 32, 4, 1, 50
"""Calls restored in the background between two looks at the clock, and for how long between two
looks at the sockets: control comes first."""


def restore_in_background(
    served: Served, driver: Driver, began_ns: int, tasks: set[asyncio.Task[None]]
) -> None:
    """`restore_all` as one of `tasks` until it ends."""

    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("restoring in the background stopped", exc_info=error)

    async def undisturbed() -> None:
        with rare_collections():
            await restore_all(served, driver, began_ns)

    task = asyncio.create_task(undisturbed())
    tasks.add(task)
    task.add_done_callback(ended)


async def restore_all(served: Served, driver: Driver, began_ns: int) -> None:
    """The calls that nobody has asked for yet, a slice of time between two looks at the
    sockets; then what is recorded of them, and what no call wants."""
    told, left = False, 0
    await asyncio.sleep(RESTORE_AFTER_MS / 1000)
    while served.driver is driver and not (driver.fenced or driver.doubtful):
        before, until_ns = left, now_ns() + RESTORE_SLICE_MS * 1_000_000
        try:
            while True:
                steps, left = left, driver.restore_some(call_ns(), RESTORE_BATCH)
                served.pending = driver.unread
                if left in (0, steps) or now_ns() > until_ns or (driver.restored and not told):
                    break
        except StateError as error:
            log.info(
                "group %s: restoring waits: %s", served.group.id, error,
                extra={"group": served.group.id, "epoch": served.epoch, "reason": "waits"},
            )  # fmt: skip
            before = left = max(1, left)
        if driver.restored and not told:
            told = True
            served.restored_in_ms = (now_ns() - began_ns) / 1e6
            log.info(
                "group %s epoch %d: %d calls restored in %.1f ms", served.group.id,
                served.epoch, driver.gateway.usage().sessions, served.restored_in_ms,
                extra={"group": served.group.id, "epoch": served.epoch, "reason": "restored"},
            )  # fmt: skip
        if not left:
            log.info(
                "group %s epoch %d: %d surplus pinholes closed, all in order after %.1f ms",
                served.group.id, served.epoch, driver.sweep(), (now_ns() - began_ns) / 1e6,
                extra={"group": served.group.id, "epoch": served.epoch, "reason": "in-order"},
            )  # fmt: skip
            return
        if left == before:
            await asyncio.sleep(RESTORE_RETRY_MS / 1000)
        else:
            await asyncio.sleep(RESTORE_PAUSE_MS / 1000 if told else 0)
