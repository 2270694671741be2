"""Before a group's machine may answer: its fence raised everywhere, its state writable again.

Both may take as long as a dead member's lease, so they happen in a thread with a store of its
own; media goes on meanwhile, and commands wait. Knows the store; must not know calls or packets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import statestore
from bgf.errors import NotNow, StateError
from bgf.runtime.process import now_ns
from bgf.runtime.store_adapters import Copies, StoreJournal
from statestore.errors import StateStoreError

log = logging.getLogger("bgf.takeover")

RETRY_MS: Final = 10
"""Between two tries; each of them waits for the store itself, as long as its timeout is."""


class Prepared(NamedTuple):
    """The call that the last owner has marked, and how long the last try took: the fence's raise,
    and the mark written anew; ms."""

    marked: str
    fence_ms: float
    settle_ms: float

    def __str__(self) -> str:
        return f"fence {self.fence_ms:.1f}, settled {self.settle_ms:.1f}"


class Takeover:
    """`await prepare(group, epoch)`; one at a time. The store is opened at the start: nearly every
    takeover is the first of its process, and should not pay for that."""

    def __init__(self, open_store: Callable[[], statestore.Store], copies: Copies) -> None:
        self._open_store = open_store
        self._copies = copies
        self._store: statestore.Store | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="takeover")
        self._pool.submit(self._open_early)

    async def prepare(self, group: str, epoch: int) -> Prepared | None:
        """Return when nobody can write, or read as current, under an older epoch, and what the
        last owner wrote can be written on. None: the fence stands past `epoch`.

        Tries until it is cancelled: who owns the group says for how long that makes sense.
        """
        loop = asyncio.get_running_loop()
        told = ""
        while True:
            try:
                return await loop.run_in_executor(self._pool, self._prepare, group, epoch)
            except (NotNow, StateError, StateStoreError) as error:
                if not told:
                    told = str(error)
                    log.info(
                        "group %s epoch %d: waits for the state plane: %s", group, epoch, told,
                        extra={"group": group, "epoch": epoch, "reason": "waits"},
                    )  # fmt: skip
            await asyncio.sleep(RETRY_MS / 1000)

    def reload_keys(self) -> None:
        """Read the cluster's key file again. Raises StateStoreError."""
        if self._store is not None:
            self._store.reload_keys()

    def close(self) -> None:
        """After the last `prepare` was cancelled."""
        self._pool.submit(self._close)
        self._pool.shutdown()

    def _open_early(self) -> None:
        try:
            self._store = self._open_store()
        except StateStoreError as error:
            log.info("opens its store when it is needed: %s", error)

    def _prepare(self, group: str, epoch: int) -> Prepared | None:
        if self._store is None:
            self._store = self._open_store()  # of this thread: no other may use it
        began_ns = now_ns()
        if not self._store.raise_fence(group, epoch):
            return None
        raised_ns = now_ns()
        grant = self._store.grant(group, epoch)
        marked = StoreJournal(self._store, group, grant, self._copies).settle()
        return Prepared(marked, (raised_ns - began_ns) / 1e6, (now_ns() - raised_ns) / 1e6)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
