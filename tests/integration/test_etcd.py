"""etcd's members killed, stopped and started again under clients that go on."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from statestore.etcd import EtcdOptions, EtcdRegistry
from statestore.registry import ABSENT, Change, Check, Entry, RegistryUnavailable, Watch
from statestore.store import now_ns
from tests.fakes.etcd_cluster import EtcdCluster, eventually

pytestmark = pytest.mark.timeout(180)

QUICK = EtcdOptions(timeout_ms=400, attempt_ms=200, idle_ms=500)
SLOW = EtcdOptions(timeout_ms=8000, attempt_ms=4000)
"""For questions that are to be answered however busy the machine is."""
PREFIX = "/t/"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path) as started:
        yield started


class Writer:
    """Raises a counter by compare-and-swap, through whatever happens, until ended."""

    def __init__(self, registry: EtcdRegistry, key: str) -> None:
        self._registry = registry
        self._key = key
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged = 0
        self.refused = 0
        self._thread.start()

    def _run(self) -> None:
        revision, number = ABSENT, 0
        while not self._ended.is_set():
            try:
                done = self._registry.compare_and_swap(
                    self._key, revision, str(number + 1).encode()
                )
                if done is None:  # an earlier try of ours that was in doubt
                    found = self._registry.get(self._key)
                    assert found is not None
                    revision, number = found.revision, int(found.value)
                    continue
            except RegistryUnavailable:
                self.refused += 1
                continue
            revision, number = done, number + 1
            self.acknowledged = number

    def go_on(self, count: int = 20) -> None:
        """Wait until it has written so much more."""
        wanted = self.acknowledged + count
        eventually(lambda: self.acknowledged >= wanted, f"{count} more writes of {self._key}")

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def test_it_goes_on_through_the_death_of_each_member(cluster: EtcdCluster) -> None:
    registry, follower = EtcdRegistry(cluster.endpoints), EtcdRegistry(cluster.endpoints)
    watch = follower.watch(PREFIX)
    writer = Writer(registry, PREFIX + "n")
    heard: list[Change] = []
    try:
        writer.go_on()
        for at in range(3):
            cluster.kill(at)
            writer.go_on()
            assert registry.answering
            cluster.start(at)
            cluster.wait_healthy()
            writer.go_on()
        cluster.kill(cluster.leader())
        writer.go_on()
    finally:
        writer.end()

    def told_all() -> bool:
        heard.extend(watch.poll())
        return bool(heard) and heard[-1].entry == registry.get(PREFIX + "n")

    eventually(told_all, "the watch tells the last write")
    numbers = [int(change.entry.value) for change in heard if change.entry is not None]
    assert numbers == sorted(set(numbers)) and numbers[-1] >= writer.acknowledged
    registry.close()
    follower.close()


def test_a_stopped_leader_is_passed_by(cluster: EtcdCluster) -> None:
    registry, follower = EtcdRegistry(cluster.endpoints), EtcdRegistry(cluster.endpoints, QUICK)
    watch = follower.watch(PREFIX)
    writer = Writer(registry, PREFIX + "n")
    leader = cluster.leader()
    try:
        writer.go_on()
        cluster.pause(leader)
        writer.go_on()
        seen = writer.acknowledged

        def told() -> bool:
            entry = watch.snapshot().entries.get(PREFIX + "n")
            return entry is not None and int(entry.value) >= seen

        eventually(told, "the watch leaves the stopped member")
    finally:
        cluster.resume(leader)
        writer.end()
    registry.close()
    follower.close()


def test_all_dead_is_told_and_ends_by_itself(cluster: EtcdCluster) -> None:
    registry = EtcdRegistry(cluster.endpoints, QUICK)
    watch = registry.watch(PREFIX)
    revision = registry.put(PREFIX + "a", b"before")
    eventually(lambda: PREFIX + "a" in watch.snapshot().entries, "the watch tells it")
    for at in range(3):
        cluster.kill(at)
    died_ns = now_ns()
    with pytest.raises(RegistryUnavailable) as caught:
        registry.get(PREFIX + "a")
    told = str(caught.value)
    assert all(endpoint in told for endpoint in cluster.endpoints)
    assert "refused" in told and " s (" in told and "majority" in told and "\n" not in told
    confirmation = registry.confirm(PREFIX + "a")
    assert not confirmation.ok and confirmation.sent_at_ns >= died_ns and confirmation.why
    assert registry.trouble() and not registry.answering
    with pytest.raises(RegistryUnavailable) as refused:
        registry.put(PREFIX + "a", b"never")
    assert refused.value.in_doubt is False  # no connection: it was not sent
    snapshot = watch.snapshot()  # what was known is known, and how old it is
    assert snapshot.entries[PREFIX + "a"][:2] == (b"before", revision)
    assert snapshot.current_ns < died_ns

    for at in range(3):
        cluster.start(at)
    cluster.wait_healthy()

    def answers() -> bool:
        return registry.confirm(PREFIX + "a").ok

    eventually(answers, "it answers again, without being opened anew")
    second = registry.put(PREFIX + "a", b"after")
    third = registry.put(PREFIX + "b", b"after")

    def told_again() -> bool:
        entries = watch.snapshot().entries
        return {k: e.revision for k, e in entries.items()} == {
            PREFIX + "a": second,
            PREFIX + "b": third,
        }

    eventually(told_again, "the watch goes on")
    eventually(lambda: watch.snapshot().current_ns > died_ns, "it is current again")

    eventually(lambda: not registry.trouble(), "no trouble is told any more")
    eventually(lambda: registry.answering, "the last question was answered")
    registry.close()


def test_without_a_majority_nothing_is_answered(cluster: EtcdCluster) -> None:
    registry = EtcdRegistry(cluster.endpoints, QUICK)
    revision = registry.put(PREFIX + "a", b"1")
    watch = registry.watch(PREFIX)
    eventually(lambda: watch.streams > 0, "the watch has a stream")
    cluster.kill(0)
    cluster.kill(1)
    streams = watch.streams
    eventually(lambda: watch.streams > streams + 3, "a member without a leader ends the watch")
    with pytest.raises(RegistryUnavailable):
        registry.get(PREFIX + "a")
    with pytest.raises(RegistryUnavailable) as caught:
        registry.compare_and_swap(PREFIX + "a", revision, b"2")
    cluster.start(0)
    eventually(lambda: registry.confirm(PREFIX + "a").ok, "two of three answer")
    found = registry.get(PREFIX + "a")
    assert found is not None and (found.value == b"1" or caught.value.in_doubt)
    registry.close()


def _whole(wire: socket.socket) -> bytes:
    """One request: its body may come after its head."""
    came, length = b"", 0
    while b"\r\n\r\n" not in came or len(came.partition(b"\r\n\r\n")[2]) < length:
        more = wire.recv(65_536)
        if not more:
            raise ConnectionResetError("half a request")
        came += more
        told = re.search(rb"content-length: (\d+)", came, re.I)
        length = int(told[1]) if told else 0
    return came


class Swallower(socketserver.ThreadingTCPServer):
    """In front of a member: hands requests on, and hangs up instead of answering."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._behind = behind
        self.swallowed = 0

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with contextlib.suppress(OSError), socket.create_connection(self._behind) as onward:
            onward.sendall(_whole(request))
            onward.recv(65_536)  # it has been done
            self.swallowed += 1

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Swallower]:
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


def test_an_answer_that_was_lost_is_found_out(cluster: EtcdCluster) -> None:
    member = cluster.members[0]
    with (
        Swallower((member.address, member.client_port)).running() as swallower,
        contextlib.closing(EtcdRegistry([swallower.endpoint, member.client_url], SLOW)) as registry,
        contextlib.closing(EtcdRegistry([member.client_url], SLOW)) as other,
        contextlib.closing(EtcdRegistry([swallower.endpoint], QUICK)) as alone,
    ):

        def through(work: Callable[[], int | None]) -> int | None:
            """The first answer is lost, the second comes."""
            before, registry._preferred = swallower.swallowed, 0
            done = work()
            assert swallower.swallowed > before
            return done

        first = through(lambda: registry.compare_and_swap(PREFIX + "a", ABSENT, b"mine 1"))
        assert first is not None
        assert registry.get(PREFIX + "a") == Entry(b"mine 1", first)
        done = through(
            lambda: registry.commit(
                [Check(PREFIX + "a", first)], {PREFIX + "b": b"mine 2"}, [PREFIX + "a"]
            )
        )
        assert done is not None
        assert registry.scan(PREFIX) == {PREFIX + "b": Entry(b"mine 2", done)}
        theirs = other.put(PREFIX + "b", b"theirs")
        swap = through(lambda: registry.compare_and_swap(PREFIX + "b", done, b"mine 3"))
        assert swap is None
        assert registry.get(PREFIX + "b") == Entry(b"theirs", theirs)
        with pytest.raises(RegistryUnavailable) as caught:
            alone.put(PREFIX + "c", b"1")
        assert caught.value.in_doubt


class GoingAway(http.server.BaseHTTPRequestHandler):
    """What a member's gateway says while the member is being stopped."""

    def do_POST(self) -> None:
        body = b'{"error":"grpc: the client connection is closing","code":1}'
        self.send_response(408)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_member_that_goes_away_is_passed_over(cluster: EtcdCluster) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), GoingAway) as leaving:
        threading.Thread(target=leaving.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{leaving.server_address[1]}"
        with contextlib.closing(EtcdRegistry([endpoint, *cluster.endpoints], SLOW)) as registry:
            revision = registry.put(PREFIX + "a", b"1")
            assert registry.get(PREFIX + "a") == Entry(b"1", revision)
            assert "is closing" in registry.trouble()
        leaving.shutdown()


def test_a_watch_whose_past_was_compacted_scans(cluster: EtcdCluster) -> None:
    registry, follower = EtcdRegistry(cluster.endpoints), EtcdRegistry(cluster.endpoints, QUICK)
    watch = follower.watch(PREFIX)
    registry.put(PREFIX + "stays", b"1")
    registry.put(PREFIX + "goes", b"1")
    eventually(lambda: len(watch.snapshot().entries) == 2, "the watch tells both")
    watch.poll()
    for at in range(3):
        cluster.kill(at)
    eventually(lambda: bool(follower.trouble()), "the watch has lost its stream")
    follower_endpoints, follower.endpoints = follower.endpoints, ("http://127.0.0.1:1",)
    follower._pools, kept = [follower._pool("http://127.0.0.1:1")], follower._pools
    for at in range(3):
        cluster.start(at)
    cluster.wait_healthy()
    registry.delete(PREFIX + "goes")
    last = registry.put(PREFIX + "new", b"1")
    registry.compact(last)
    follower.endpoints, follower._pools = follower_endpoints, kept
    heard: dict[str, Change] = {}

    def told() -> bool:
        heard.update({change.key: change for change in watch.poll()})
        return len(heard) == 2

    eventually(told, "the watch tells the difference")
    assert heard[PREFIX + "goes"].entry is None
    assert heard[PREFIX + "new"].entry is not None
    assert watch.scans == 2
    assert set(watch.snapshot().entries) == {PREFIX + "stays", PREFIX + "new"}
    registry.close()
    follower.close()


def _value(watch: Watch, key: str) -> bytes | None:
    entry = watch.snapshot().entries.get(PREFIX + key)
    return None if entry is None else entry.value


def test_a_watch_of_a_registry_that_began_again_shows_what_stands(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "first", size=1) as cluster:
        registry = EtcdRegistry(cluster.endpoints, QUICK)
        watch = registry.watch(PREFIX)
        for number in range(20):
            registry.put(PREFIX + "old", str(number).encode())
        # All of it: a history of one change that begins again with one looks the same.
        eventually(lambda: _value(watch, "old") == b"19", "the watch tells it")
        eventually(lambda: watch.streams > 0, "the watch has a stream")
        cluster.kill(0)
        cluster.forget(0)
        cluster.start(0)
        cluster.wait_healthy()
        registry.put(PREFIX + "new", b"1")
        eventually(
            lambda: set(watch.snapshot().entries) == {PREFIX + "new"}, "the watch starts over"
        )
        registry.close()


def test_closing_ends_the_threads_at_once(cluster: EtcdCluster) -> None:
    before = threading.active_count()
    registry = EtcdRegistry(cluster.endpoints)
    cluster.kill(0)
    registry.confirm("/a")
    watches = [registry.watch(f"/t{number}/") for number in range(3)]
    eventually(lambda: all(w.snapshot().current_ns for w in watches), "all watches run")
    registry.close()
    assert threading.active_count() == before
    assert [watch.poll() for watch in watches] == [[], [], []]
