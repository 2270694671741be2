"""`bgf state`: this node's segment, and its place in the cluster when the file names one.

Embedded: makes the segment, keeps house when it is the first on the host. In a cluster: runs the
state server and tells about it. Readers and writers of the segment need it alive only for what
leaves the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

import statestore
from bgf.admin import AdminServer, Handler
from bgf.config import NodeConfig, StateCluster
from bgf.errors import BgfError, EnvironmentProblem, Malformed
from bgf.runtime.cluster import open_store
from bgf.runtime.process import every, now_ns, until_signalled
from bgf.runtime.registry_adapters import etcd_registry
from bgf.runtime.reloading import Reloader
from statestore import errors as store_errors
from statestore import metrics
from statestore.errors import StateStoreError
from statestore.member_records import PROFILES
from statestore.server import Server, ServerConfig

log = logging.getLogger("bgf.state")
T = TypeVar("T")

HOUSEKEEP_MS: Final = 200
LEAVE_MS: Final = 3_000
ITEMS_MAX: Final = 100_000


class StoreRefused(BgfError):
    """What the store said to an operator's question; `code` is the name of its error."""

    def __init__(self, error: StateStoreError) -> None:
        super().__init__(str(error))
        name = type(error).__name__
        self.code = "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class Keeper(Protocol):
    """What both forms of the process tell."""

    def why_not_ready(self) -> str: ...
    def facts(self, walk: bool) -> dict[str, Any]: ...
    def reading(self) -> metrics.Reading: ...
    def handlers(self) -> dict[str, Handler]: ...


class Embedded:
    """One segment for all processes of the host; of several of these, one keeps house."""

    def __init__(self, node: NodeConfig, store: statestore.Store) -> None:
        self._node = node
        self._store = store
        self.keeper = False

    def keep_house(self) -> None:
        if not self.keeper:
            self.keeper = self._store.try_keeper()
            if self.keeper:
                log.info("keeper of %s", self._node.state.address)
        if self.keeper:
            self._store.housekeep(now_ns())

    def why_not_ready(self) -> str:
        return ""

    def facts(self, walk: bool) -> dict[str, Any]:
        stats = dict(self._store.stats())
        return {"mode": "embedded", "keeper": self.keeper, "stats": stats}

    def reading(self) -> metrics.Reading:
        return metrics.Reading(self._store.stats(), labels={"node": self._node.node.id})

    def handlers(self) -> dict[str, Handler]:
        return {}


class Clustered:
    """A member of the cluster."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def why_not_ready(self) -> str:
        return self._server.why_not_ready()

    def facts(self, walk: bool) -> dict[str, Any]:
        return {
            "mode": "cluster",
            "keeper": True,
            "stats": self._server.stats(),
            "member": self._server.status(walk),
            "members": self._server.members(),
        }

    def reading(self) -> metrics.Reading:
        return self._server.reading()

    def handlers(self) -> dict[str, Handler]:
        async def evict(request: dict[str, Any]) -> dict[str, Any]:
            name = _text(request, "node")
            await asyncio.to_thread(_told, lambda: self._server.evict(name))
            return {"done": f"proposed a view without {name}"}

        def reload_keys(_request: dict[str, Any]) -> dict[str, Any]:
            _told(self._server.reload_keys)
            return {"done": f"read {self._server.config.key_file} again"}

        return {"evict": evict, "reload-keys": reload_keys}


class StateProcess:
    """Answers on the admin socket, whichever form the store has."""

    def __init__(self, node: NodeConfig, keeper: Keeper) -> None:
        self._node = node
        self._keeper = keeper
        self.reloader = Reloader("state", node)

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": lambda _: self._status(False),
            "state": lambda _: asyncio.to_thread(self._status, True),
            "items": self._items,
            "move": self._move,
            "reload": self.reloader.reload,
            "metrics": lambda _: asyncio.to_thread(
                lambda: {"text": metrics.text(self._keeper.reading)}
            ),
            **self._keeper.handlers(),
        }

    def _status(self, walk: bool) -> dict[str, Any]:
        why = self._keeper.why_not_ready()
        return {
            "ready": not why,
            "why": why,
            "process": "state",
            "node": self._node.node.id,
            **_told(lambda: self._keeper.facts(walk)),
        }

    async def _items(self, request: dict[str, Any]) -> dict[str, Any]:
        prefix = _key(request.get("prefix", ""))
        limit = request.get("limit", ITEMS_MAX)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= ITEMS_MAX:
            raise Malformed(f"items: 'limit' must be a whole number from 1 to {ITEMS_MAX}")

        def listed() -> dict[str, Any]:
            with open_store(self._node) as store:
                members = len(store.members())
                found: list[dict[str, Any]] = []
                for handle in store.scan(prefix):
                    if len(found) == limit:
                        return {"items": found, "more": True}
                    with contextlib.suppress(store_errors.NotFound):
                        found.append(_item_row(handle, members, self._node.node.id))
                return {"items": found, "more": False}

        return await asyncio.to_thread(_told, listed)

    async def _move(self, request: dict[str, Any]) -> dict[str, Any]:
        key, to = _key(request.get("key")), _text(request, "to")

        def moved() -> dict[str, Any]:
            with open_store(self._node) as store:
                handle = store.lookup(key)
                store.move(handle, to)
                return {"master": to}

        return await asyncio.to_thread(_told, moved)


def _item_row(handle: statestore.Handle, members: int, own: str) -> dict[str, Any]:
    """Raises NotFound: the item went meanwhile. Nobody else is asked, so that a look moves nothing:
    a version is known where the master is."""
    home = handle.home
    length = version = None
    with contextlib.suppress(store_errors.Away, store_errors.Unavailable):
        if home.master in ("", own):
            version, value = handle.read_versioned()
            length = len(value)
        else:
            length = len(handle.read_local())
    return {
        "key": handle.key.decode("utf-8", "surrogateescape"),
        "master": home.master,
        "replicas": list(home.replicas),
        "learners": list(home.learners),
        "want": home.want,
        "copies_due": max(0, min(home.want, members - 1)),
        "length": length,
        "version": version,
        "hint": home.hint,
    }


def _key(value: object) -> bytes:
    if not isinstance(value, str):
        raise Malformed("'key' and 'prefix' are texts")
    return value.encode("utf-8", "surrogateescape")


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(f"'{name}' is missing")
    return value


def _told(work: Callable[[], T]) -> T:
    """The store's errors as answers."""
    try:
        return work()
    except StateStoreError as error:
        raise StoreRefused(error) from error


def server_config(node: NodeConfig, cluster: StateCluster) -> ServerConfig:
    """The node's file as the state server wants it."""
    return ServerConfig(
        directory=node.state.directory,
        node=node.node.id,
        host=cluster.listen.host,
        port=cluster.listen.port,
        key_file=cluster.key_file,
        size_bytes=node.state.size_mb << 20,
        history=cluster.history,
        promote=cluster.promote,
        repair_per_s=cluster.repair_per_s,
        timers=PROFILES[cluster.profile],
        prefix=f"/{cluster.name}/state/",
    )


@contextlib.contextmanager
def _exporter(cluster: StateCluster, keeper: Keeper) -> Iterator[None]:
    if cluster.metrics is None:
        yield
        return
    exporter = metrics.Exporter(cluster.metrics.host, cluster.metrics.port, keeper.reading)
    try:
        yield
    finally:
        exporter.close()


async def run(node: NodeConfig) -> None:
    """The process, until it is told to stop."""
    try:
        if node.state.cluster is None:
            await _run_embedded(node)
        else:
            await _run_clustered(node, node.state.cluster)
    except StateStoreError as error:
        raise EnvironmentProblem(str(error)) from error


async def _run_embedded(node: NodeConfig) -> None:
    with statestore.open(node.state.address, size_bytes=node.state.size_mb << 20) as store:
        if store.clustered:
            raise EnvironmentProblem(
                f"{node.state.address}: its segment is a cluster member's: add [state.cluster] to "
                "the file, or remove the segment"
            )
        embedded = Embedded(node, store)
        embedded.keep_house()
        process = StateProcess(node, embedded)
        async with AdminServer(node.node.socket("state"), process.handlers()):
            log.info("ready: %s", node.state.address)
            await until_signalled(
                [asyncio.create_task(every(HOUSEKEEP_MS, embedded.keep_house))],
                lambda: f"embedded, {'keeps house' if embedded.keeper else 'another keeps house'}",
            )


async def _run_clustered(node: NodeConfig, cluster: StateCluster) -> None:
    """SIGHUP reads the key file and the node's file again. On SIGTERM what this member is master of
    is handed over."""
    timers = PROFILES[cluster.profile]
    # Half a lease: a question that is not answered by then leaves time for another.
    registry = etcd_registry(cluster, timeout_ms=timers.lease_ms // 2)
    try:
        server = Server(server_config(node, cluster), registry)
        keeper = Clustered(server)
        process = StateProcess(node, keeper)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: _logged(server.reload_keys, process.reloader.hang_up)
        )
        leave = False
        try:
            with _exporter(cluster, keeper):
                async with AdminServer(node.node.socket("state"), process.handlers()):
                    server.start()
                    await until_signalled([], lambda: server.why_not_ready() or "serves")
                    leave = True
                    # Still answering: the others' copies and the operator's questions go on.
                    await asyncio.to_thread(server.stop, True, LEAVE_MS)
        finally:
            if not leave:
                await asyncio.to_thread(server.stop, False)
    finally:
        registry.close()


def _logged(*works: Callable[[], None]) -> None:
    for work in works:
        try:
            work()
        except StateStoreError as error:
            log.error("%s", error)
