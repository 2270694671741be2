"""A cluster of real state servers in this process, with the registry's embedded twin."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import statestore
from statestore import Store
from statestore.member_records import Timers
from statestore.registry import EmbeddedRegistry
from statestore.server import Server, ServerConfig, write_key_file

SIZE_BYTES = 24 << 20
NODES = ("n0", "n1", "n2")
# Long enough that a machine under load loses no lease: who wants one lost brings other timers.
TIMERS = Timers(lease_ms=20_000, renew_ms=500, suspect_ms=30_000, patience_ms=1_000)
TIMEOUT_MS = 20_000
WAIT_S = 60.0


def wait_for(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s in vain: {what}"
        time.sleep(0.005)


def member_config(directory: Path, node: str, key_file: Path) -> ServerConfig:
    """A member on this host, whose segment is below `directory`."""
    return ServerConfig(
        directory=directory / node,
        node=node,
        host="127.0.0.1",
        port=0,
        key_file=key_file,
        size_bytes=SIZE_BYTES,
        history=0,
        timers=TIMERS,
    )


class Cluster:
    """Three servers on this host, with the registry's embedded twin."""

    def __init__(self, directory: Path) -> None:
        self.key_file = directory / "cluster.key"
        write_key_file(self.key_file)
        self.servers: list[Server] = []
        self.tables: list[Store] = []
        for node in NODES:
            table = statestore.open(f"dal://{directory / 'registry'}", size_bytes=8 << 20)
            self.tables.append(table)
            config = member_config(directory, node, self.key_file)
            self.servers.append(Server(config, EmbeddedRegistry(table)))
        for server in self.servers:
            server.start()
        for server in self.servers:
            wait_for(
                f"{server.config.node}: {server.why_not_ready()}",
                lambda s=server: s.ready and len(s.members()) == len(NODES),  # type: ignore[misc]
            )

    def open(self, address: str) -> Store:
        return statestore.open(address, key_file=self.key_file, replicas=1, timeout_ms=TIMEOUT_MS)

    def beside(self, node: int) -> Store:
        return self.open(self.servers[node].config.address)

    def over_the_network(self, node: int) -> Store:
        return self.open(f"dal://{self.servers[node].address}")

    def close(self) -> None:
        for server in self.servers:
            server.stop(leave=False)
        for table in self.tables:
            table.close()
