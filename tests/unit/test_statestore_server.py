"""A state server's turns: views and leases in order, evictions, a clean stop, what it says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import statestore
from statestore.errors import Away, Invalid, NotFound, Unavailable
from statestore.member_records import Timers, decode_view
from statestore.metrics import text
from statestore.registry import Check, EmbeddedRegistry, RegistryUnavailable
from statestore.server import Server, ServerConfig, write_key_file
from tests.fakes.engine import World

TIMERS = Timers(lease_ms=1_000, renew_ms=60, suspect_ms=1_500, patience_ms=60)
WAIT_S = 30.0


def wait_for(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s in vain: {what}"
        time.sleep(0.01)


class Cluster:
    """Servers with engines that are not real, over one segment's registry."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World()
        self.key_file = directory / "cluster.key"
        write_key_file(self.key_file)
        self.table = statestore.open(f"dal://{directory / 'registry'}", size_bytes=8 << 20)
        self.registry = Switched(self.table)
        self.servers: dict[str, Server] = {}

    def config(self, node: str) -> ServerConfig:
        return ServerConfig(
            directory=self.directory / node,
            node=node,
            host="127.0.0.1",
            key_file=self.key_file,
            size_bytes=4 << 20,
            timers=TIMERS,
        )

    def start(self, *nodes: str) -> None:
        for node in nodes:
            self.servers[node] = Server(self.config(node), self.registry, self.world)
            self.servers[node].start()

    def wait_ready(self, *nodes: str) -> None:
        wait_for(f"{nodes} ready", lambda: not any(self.servers[n].why_not_ready() for n in nodes))

    def names(self, node: str) -> set[str]:
        return {row["node"] for row in self.servers[node].members()}

    def in_view(self) -> set[str]:
        """Who is in the view that the registry has."""
        prefix = next(iter(self.servers.values())).config.prefix
        found = self.registry.get(prefix + "view")
        assert found is not None
        return {seat.node for seat in decode_view(found.value).members.values()}

    def close(self) -> None:
        for server in self.servers.values():
            server.stop(leave=False)
        self.table.close()


class Switched(EmbeddedRegistry):
    """The twin, which a test can cut off."""

    cut = False
    renewals_go: threading.Event | None = None
    renewals_held = 0

    def commit(
        self,
        checks: object,
        puts: Mapping[str, bytes],
        deletes: object = (),
    ) -> int | None:
        if self.cut:
            raise RegistryUnavailable("no answer from etcd at http://nowhere for 1.0 s (test)")
        if self.renewals_go is not None and not any(key.endswith("view") for key in puts):
            self.renewals_held += 1
            self.renewals_go.wait(WAIT_S)
        return super().commit(checks, puts, deletes)  # type: ignore[arg-type]


class OneAway(Switched):
    """A registry one of whose endpoints does not answer; whether another does, a test says."""

    others_answer = True

    def trouble(self) -> str:
        return "no answer from etcd at http://e3:2379 for 9.0 s (test)"

    @property
    def answering(self) -> bool:
        return self.others_answer


@pytest.fixture
def cluster(directory: Path) -> Iterator[Cluster]:
    made = Cluster(directory)
    yield made
    made.close()


def test_the_first_makes_a_view_and_others_join_it(cluster: Cluster) -> None:
    cluster.start("n1")
    cluster.wait_ready("n1")
    assert cluster.servers["n1"].status()["slot"] == 0
    cluster.start("n2", "n3")
    cluster.wait_ready("n2", "n3")
    wait_for("all see all", lambda: all(len(cluster.names(n)) == 3 for n in cluster.servers))
    said = [server.status() for server in cluster.servers.values()]
    assert {row["leader"] for row in said} == {"n1"}
    assert {row["slot"] for row in said} == {0, 1, 2}
    assert all(row["serving"] and row["registry"] == "ok" for row in said)
    assert all(0 < row["lease_left_ms"] <= TIMERS.lease_ms for row in said)
    (row, *_) = cluster.servers["n2"].members()
    assert row["address"] == cluster.servers["n1"].address


def test_a_member_declared_dead_is_out_at_once_and_begins_anew(cluster: Cluster) -> None:
    cluster.start("n1", "n2", "n3")
    cluster.wait_ready("n1", "n2", "n3")
    wait_for("all see all", lambda: all(len(cluster.names(n)) == 3 for n in cluster.servers))
    before = cluster.world.engines["n3"].incarnation
    cluster.servers["n2"].evict("n3")  # the caller's own turn proposes it
    assert cluster.servers["n2"].log_lines["info"] > 0
    wait_for("n3 is somebody new", lambda: cluster.world.engines["n3"].incarnation != before)
    assert cluster.world.engines["n3"].items == set()
    cluster.wait_ready("n3")
    assert cluster.servers["n3"].log_lines["warning"] >= 1
    cluster.servers["n1"].evict("n1")  # nobody evicts itself
    cluster.servers["n1"].evict("n9")  # or who is not there
    cluster.wait_ready("n1")


def test_an_eviction_does_not_wait_for_a_renewal(cluster: Cluster) -> None:
    cluster.start("n1", "n2", "n3")
    cluster.wait_ready("n1", "n2", "n3")
    wait_for("all see all", lambda: all(len(cluster.names(n)) == 3 for n in cluster.servers))
    before = cluster.world.engines["n3"].incarnation
    cluster.registry.renewals_go = threading.Event()
    wait_for("all are renewing", lambda: cluster.registry.renewals_held == 3)
    evicting = threading.Thread(target=cluster.servers["n2"].evict, args=("n3",), daemon=True)
    evicting.start()  # its own turn may find a renewal due, and wait for that afterwards
    wait_for("n3 is out while renewals wait", lambda: "n3" not in cluster.in_view())
    assert not cluster.registry.renewals_go.is_set()
    cluster.registry.renewals_go.set()
    wait_for("n3 is somebody new", lambda: cluster.world.engines["n3"].incarnation != before)


def test_who_lags_too_far_is_evicted(cluster: Cluster) -> None:
    cluster.start("n1", "n2")
    cluster.wait_ready("n1", "n2")
    wait_for("n1 sees n2", lambda: cluster.names("n1") == {"n1", "n2"})
    before = cluster.world.engines["n2"].incarnation
    slot = cluster.servers["n2"].status()["slot"]
    cluster.world.engines["n1"].lagging = [slot, 9]  # nobody has slot 9
    wait_for("n2 begins anew", lambda: cluster.world.engines["n2"].incarnation != before)


def test_a_stop_in_good_order_is_seen_as_one(cluster: Cluster) -> None:
    cluster.start("n1", "n2")
    cluster.wait_ready("n1", "n2")
    wait_for("n2 sees n1", lambda: cluster.names("n2") == {"n1", "n2"})
    slot = cluster.servers["n1"].status()["slot"]
    assert cluster.servers.pop("n1").stop(leave=True, timeout_ms=20_000)
    engine = cluster.world.engines["n2"]
    wait_for("n2 is alone", lambda: cluster.names("n2") == {"n2"})
    wait_for("its engine knows", lambda: bool(engine.views) and engine.views[-1][3] == [slot])
    assert cluster.world.engines["n1"].closed
    # The last one leaves as well: a view of nobody, and the next begins from nothing.
    assert cluster.servers.pop("n2").stop(leave=True, timeout_ms=20_000)
    cluster.start("n1")
    cluster.wait_ready("n1")


def test_a_stop_that_cannot_be_in_order_is_one_all_the_same(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start("n1")
    cluster.wait_ready("n1")
    cluster.world.engines["n1"].stuck = True
    with caplog.at_level(logging.WARNING):
        assert not cluster.servers.pop("n1").stop(leave=True, timeout_ms=50)
    assert "leaves without order" in caplog.text
    assert cluster.world.engines["n1"].closed


def test_without_the_registry_the_lease_ends_and_it_is_said_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start("n1")
    cluster.wait_ready("n1")
    with caplog.at_level(logging.INFO):
        cluster.registry.cut = True
        wait_for(
            "it does not serve", lambda: "does not serve" in cluster.servers["n1"].why_not_ready()
        )
        lines = [r.message for r in caplog.records if "no answer from etcd" in r.message]
        assert len(lines) == 1 and "\n" not in lines[0]
        cluster.registry.cut = False
        cluster.wait_ready("n1")
    assert any("answers again" in record.message for record in caplog.records)


def test_a_view_that_is_garbage_is_told_and_not_served(cluster: Cluster) -> None:
    cluster.start("n1")
    cluster.wait_ready("n1")
    prefix = cluster.config("n1").prefix
    cluster.registry.put(prefix + "view", b"{not json")
    wait_for("it says so", lambda: "restore or delete it" in cluster.servers["n1"].why_not_ready())
    found = cluster.registry.get(prefix + "view")
    assert found is not None
    cluster.registry.commit([Check(prefix + "view", found.revision)], {}, [prefix + "view"])
    cluster.wait_ready("n1")  # it puts its last view back


def test_moves_keys_and_metrics(cluster: Cluster) -> None:
    cluster.start("n1", "n2")
    cluster.wait_ready("n1", "n2")
    server, engine = cluster.servers["n1"], cluster.world.engines["n1"]
    wait_for("n1 sees n2", lambda: cluster.names("n1") == {"n1", "n2"})
    slot = cluster.servers["n2"].status()["slot"]
    server.move(b"mine", "n2")
    assert engine.moved == [(b"mine", slot)]
    assert server.node_of(slot) == "n2" and server.node_of(15) == "slot 15"
    with pytest.raises(Away):
        server.move(b"theirs", "n2")
    with pytest.raises(NotFound):
        server.move(b"nothing", "n2")
    with pytest.raises(Invalid, match="no member 'n9' in the view: there are n1, n2"):
        server.move(b"mine", "n9")
    server.reload_keys()
    assert engine.keys_read == 2
    figures = text(server.reading)
    assert 'dal_masters{node="n1"} 1.0' in figures
    assert 'dal_registry_up{node="n1"} 1.0' in figures


def test_one_endpoint_that_is_away_is_no_registry_that_is_away(cluster: Cluster) -> None:
    cluster.registry = registry = OneAway(cluster.table)
    cluster.start("n1")
    cluster.wait_ready("n1")
    server = cluster.servers["n1"]
    assert "http://e3:2379" in str(server.status()["registry"])  # it is told all the same
    assert 'dal_registry_up{node="n1"} 1.0' in text(server.reading)
    registry.others_answer = False
    assert 'dal_registry_up{node="n1"} 0.0' in text(server.reading)


def test_what_cannot_start_is_one_line(cluster: Cluster) -> None:
    with statestore.open(f"dal://{cluster.directory / 'n9'}", size_bytes=4 << 20) as store:
        store.put("key", b"value")
    with pytest.raises(Unavailable, match="holds the items of an embedded store"):
        Server(cluster.config("n9"), cluster.registry, cluster.world)
    cluster.start("n2")
    with pytest.raises(Unavailable, match="another state server has this segment"):
        Server(cluster.config("n2"), cluster.registry, cluster.world)
    config = replace(cluster.config("n1"), key_file=cluster.directory / "none.key")
    with pytest.raises(Unavailable, match=r"key file .*none\.key: there is none"):
        Server(config, cluster.registry, cluster.world)
