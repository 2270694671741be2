"""State servers by node, each on a segment that outlives it; the registry is its embedded twin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import statestore
from statestore import Store
from statestore.registry import EmbeddedRegistry
from statestore.server import Server, ServerConfig, write_key_file
from tests.fakes.state_cluster import TIMEOUT_MS, member_config, wait_for


class Hosts:
    """Servers by node, each on a segment that outlives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key_file = directory / "cluster.key"
        write_key_file(self._key_file)
        self._table = statestore.open(f"dal://{directory / 'registry'}", size_bytes=8 << 20)
        self.registry = EmbeddedRegistry(self._table)
        self.servers: dict[str, Server] = {}

    def config(self, node: str) -> ServerConfig:
        return member_config(self._directory, node, self._key_file)

    def start(self, node: str) -> str:
        """Returns when it is ready: its incarnation."""
        server = self.servers[node] = Server(self.config(node), self.registry)
        server.start()
        wait_for(f"{node} is ready", lambda: not server.why_not_ready())
        return str(server.status()["incarnation"])

    def leave(self, node: str) -> None:
        assert self.servers.pop(node).stop(timeout_ms=TIMEOUT_MS), f"{node} left without order"

    @contextlib.contextmanager
    def store(self, node: str, replicas: int) -> Iterator[Store]:
        address = self.servers[node].config.address
        with statestore.open(
            address, key_file=self._key_file, replicas=replicas, timeout_ms=TIMEOUT_MS
        ) as store:
            yield store

    def close(self) -> None:
        for server in self.servers.values():
            server.stop(leave=False)
        self._table.close()
