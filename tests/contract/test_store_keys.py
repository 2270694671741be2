"""Opening a store of a cluster: its key, rotated while it is used, wrong, or not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import statestore
from statestore import Handle
from statestore.server import write_key_file
from tests.fakes.state_cluster import NODES, SIZE_BYTES, Cluster, wait_for


@pytest.fixture
def cluster(directory: Path) -> Iterator[Cluster]:
    started = Cluster(directory)
    yield started
    started.close()


@pytest.mark.parametrize(
    ("lines", "mode", "says"),
    [("", 0o600, "no key"), ("1 " + "ab" * 32 + "\n", 0o644, "0600"), ("1 xy\n", 0o600, "line 1")],
)
def test_a_key_file_that_will_not_do(
    cluster: Cluster, tmp_path: Path, lines: str, mode: int, says: str
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(lines)
    key_file.chmod(mode)
    with pytest.raises(statestore.Invalid, match=says):
        statestore.open(f"dal://{cluster.servers[0].address}", key_file=key_file)


def test_over_the_network_a_key_is_needed(cluster: Cluster) -> None:
    with pytest.raises(statestore.Invalid, match="key file"):
        statestore.open(f"dal://{cluster.servers[0].address}")


def test_with_a_wrong_key_nobody_answers(cluster: Cluster, tmp_path: Path) -> None:
    write_key_file(tmp_path / "key")
    address = f"dal://{cluster.servers[0].address}"
    with (
        statestore.open(address, key_file=tmp_path / "key", timeout_ms=100) as store,
        pytest.raises(statestore.Unavailable, match="no server"),
    ):
        store.lookup("a")


def test_keys_are_rotated_without_a_pause(cluster: Cluster) -> None:
    with cluster.over_the_network(0) as far, cluster.beside(1) as near:
        handle = far.create("a", bytes(8))
        theirs = near.lookup("a")
        old = cluster.key_file.read_text()
        new = "2 " + "5a" * 32 + "\n"
        total = 0
        reloads = [server.reload_keys for server in cluster.servers]
        reloads += [far.reload_keys, near.reload_keys]
        for text in (old + new, new + old, new):
            cluster.key_file.write_text(text)
            for reload in reloads:
                reload()
                for one in (handle, theirs):
                    total += 1
                    assert one.add(1) == total
        with cluster.over_the_network(2) as late:
            assert late.lookup("a").add(1) == total + 1


def test_a_member_s_segment_without_its_server_serves_nothing(
    directory: Path, tmp_path: Path
) -> None:
    write_key_file(tmp_path / "key")
    address = f"dal://{directory}"
    statestore.open(address, size_bytes=SIZE_BYTES).close()
    with statestore.open(address, key_file=tmp_path / "key", timeout_ms=50) as store:
        for operation in (
            lambda: store.create("a", b""),
            lambda: store.lookup("a"),
            lambda: store.raise_fence("g", 1),
        ):
            with pytest.raises(statestore.NotServing):
                operation()


def test_without_a_key_a_member_s_memory_is_all_there_is(cluster: Cluster) -> None:
    handles: dict[str, Handle] = {}
    with cluster.beside(0) as store:
        for node in NODES:
            handle = store.create(f"keyless/{node}", node.encode(), replicas=0)
            store.move(handle, node)
            wait_for("it moves", lambda h=handle, n=node: h.home.master == n)  # type: ignore[misc]
            handles[node] = handle
        address = cluster.servers[0].config.address
        with statestore.open(address) as keyless:
            assert keyless.lookup("keyless/n0").read() == b"n0"
            with pytest.raises(statestore.Unavailable, match="key file"):
                keyless.lookup("keyless/n1").read()
            with pytest.raises(statestore.Unavailable, match="key file"):
                keyless.create("keyless/new", b"")
