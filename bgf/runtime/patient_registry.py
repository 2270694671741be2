"""A registry that never holds a failover process up: what it is slow to answer is answered later.

Knows: threads, which call is under way. Must not know members, owners, etcd. A claim is the
exception: it is waited for, since what follows depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final

from failover.registry import Member, Ownership, Registry, RegistryPending, View

PATIENCE_PARTS: Final = 20
"""Of a lease: so long a turn of the failover process waits for an answer."""


class PatientRegistry:
    """`failover.registry.Registry` over another one, one write or question at a time."""

    def __init__(self, registry: Registry, lease_ms: int) -> None:
        self._registry = registry
        self._patience_s = lease_ms / PATIENCE_PARTS / 1000
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._publishing: Future[None] | None = None
        self._asking: Future[Member | None] | None = None

    def view(self) -> View:
        return self._registry.view()

    def granted_ns(self) -> int:
        return self._registry.granted_ns()

    def publish(self, member: Member) -> None:
        if self._publishing is not None:
            under_way, self._publishing = self._publishing, None
            if not under_way.done():
                self._publishing = under_way
                raise RegistryPending("the registry has not answered yet")
            under_way.result()  # raises what went wrong; else `granted_ns` has told
        self._publishing = self._pool.submit(self._registry.publish, member)
        if not self._wait(self._publishing):
            raise RegistryPending("the registry has not answered yet")
        done, self._publishing = self._publishing, None
        done.result()

    def record(self, node: str) -> Member | None:
        if self._asking is None:
            self._asking = self._pool.submit(self._registry.record, node)
        if not self._wait(self._asking):
            raise RegistryPending("the registry has not answered yet")
        done, self._asking = self._asking, None
        return done.result()

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        return self._registry.claim(group, seen, node)

    def close(self, close_registry: Callable[[], None]) -> None:
        """Whatever is under way ends by its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        close_registry()

    def _wait(self, future: Future[Member | None] | Future[None]) -> bool:
        """Is it done, whatever came of it?"""
        try:
            future.exception(self._patience_s)
        except FutureTimeout:
            return False
        return True
