"""A state server that was out of the view comes back as somebody new; the last one out does not.

Real engines in this process, with the registry's embedded twin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import statestore
from statestore import Store
from statestore.registry import EmbeddedRegistry
from statestore.server import Server, ServerConfig, write_key_file
from tests.fakes.state_cluster import SIZE_BYTES, TIMEOUT_MS, TIMERS, wait_for


class Hosts:
    """Servers by node, each on a segment that outlives it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key_file = directory / "cluster.key"
        write_key_file(self._key_file)
        self._table = statestore.open(f"dal://{directory / 'registry'}", size_bytes=8 << 20)
        self.servers: dict[str, Server] = {}

    def start(self, node: str) -> str:
        """Returns when it is ready: its incarnation."""
        config = ServerConfig(
            directory=self._directory / node,
            node=node,
            host="127.0.0.1",
            port=0,
            key_file=self._key_file,
            size_bytes=SIZE_BYTES,
            history=0,
            timers=TIMERS,
        )
        server = self.servers[node] = Server(config, EmbeddedRegistry(self._table))
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


@pytest.fixture
def hosts(directory: Path) -> Iterator[Hosts]:
    made = Hosts(directory)
    yield made
    made.close()


def test_who_left_comes_back_as_somebody_new(hosts: Hosts) -> None:
    """The map that its segment has may end in operations that nobody else has ever seen: a leader
    sequences before it tells. Going on with it, it would refuse others' copies for ever."""
    hosts.start("n0")
    before = hosts.start("n1")
    with hosts.store("n0", 1) as store:
        store.put(b"call", b"as it was")
        hosts.leave("n1")
        store.put(b"call", b"changed meanwhile")
        after = hosts.start("n1")
        assert after != before
        wait_for("n1 has its copy", lambda: not hosts.servers["n0"].status()["unreplicated"])
    with hosts.store("n1", 1) as store:
        assert store.lookup(b"call").read() == b"changed meanwhile"


def test_the_last_one_out_goes_on_with_what_it_has(hosts: Hosts) -> None:
    before = hosts.start("n0")
    with hosts.store("n0", 0) as store:
        store.put(b"call", b"kept")
    hosts.leave("n0")
    assert hosts.start("n0") == before
    with hosts.store("n0", 0) as store:
        assert store.lookup(b"call").read() == b"kept"


def test_who_left_before_the_last_one_does_not_bring_old_state_back(hosts: Hosts) -> None:
    early = hosts.start("n0")
    late = hosts.start("n1")
    hosts.leave("n0")
    with hosts.store("n1", 0) as store:
        store.put(b"call", b"only n1 knows")
    hosts.leave("n1")
    assert hosts.start("n0") != early
    assert hosts.start("n1") != late  # n0 was first: nobody has that call any more
    with hosts.store("n1", 0) as store, pytest.raises(statestore.NotFound):
        store.lookup(b"call")
