"""One store, whatever its address: embedded, beside its own server, sharing one, over the network.

Every test gets two clients of one store. What only a cluster has is asked of the cluster kinds.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

import statestore
from statestore import Change, Home, Kind, Store
from statestore.server import write_key_file
from tests.fakes.state_cluster import NODES, SIZE_BYTES, Cluster, wait_for

MS = 1_000_000

KINDS = ("embedded", "sidecar", "shared", "remote")
CLUSTERS = KINDS[1:]
_numbers = count()


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="statestore-", dir=memory if memory.is_dir() else None
    ) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def cluster(work: Path) -> Iterator[Cluster]:
    started = Cluster(work)
    yield started
    started.close()


@dataclass
class Two:
    """Two clients of one store, and a prefix that is this test's alone."""

    kind: str
    a: Store
    b: Store
    prefix: str

    def key(self, name: str) -> str:
        return self.prefix + name

    def grown_old(self, name: str) -> None:
        """Let an item's time to live pass."""
        if self.kind == "embedded":
            self.a.housekeep(statestore.store.now_ns() + 3_600_000 * MS)

    def eventually(self, what: str, true: Callable[[], bool]) -> None:
        """At once where it is one memory; in a while over the network."""
        if self.kind == "embedded":
            assert true(), what
        else:
            wait_for(what, true)


def made(request: pytest.FixtureRequest) -> Iterator[Two]:
    kind = request.param
    with contextlib.ExitStack() as undo:
        if kind == "embedded":
            address = f"dal://{request.getfixturevalue('directory')}"
            stores = [statestore.open(address, size_bytes=SIZE_BYTES) for _ in range(2)]
        else:
            cluster: Cluster = request.getfixturevalue("cluster")
            stores = {
                "sidecar": lambda: [cluster.beside(0), cluster.beside(1)],
                "shared": lambda: [cluster.beside(1), cluster.beside(1)],
                "remote": lambda: [cluster.over_the_network(1), cluster.over_the_network(2)],
            }[kind]()
        for store in stores:
            undo.callback(store.close)
        yield Two(kind, stores[0], stores[1], f"t{next(_numbers)}/")


@pytest.fixture(params=KINDS)
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    yield from made(request)


@pytest.fixture(params=CLUSTERS)
def clustered(request: pytest.FixtureRequest) -> Iterator[Two]:
    yield from made(request)


# -- items --


def test_what_one_creates_the_other_reads_writes_and_deletes(two: Two) -> None:
    handle = two.a.create(two.key("a"), b"one")
    assert (handle.key, handle.read()) == (two.key("a").encode(), b"one")
    theirs = two.b.lookup(two.key("a"))
    assert theirs.read() == b"one"
    theirs.write(bytearray(b"two, and longer"))
    assert handle.read() == b"two, and longer"
    handle.write(b"three")
    assert theirs.read() == b"three"
    theirs.delete()
    with pytest.raises(statestore.NotFound, match="a'"):
        handle.read()
    for store in (two.a, two.b):
        with pytest.raises(statestore.NotFound):
            store.lookup(two.key("a"))


def test_create_refuses_what_exists_and_put_replaces_it(two: Two) -> None:
    two.a.create(two.key("a"), b"one")
    for store in (two.a, two.b):
        with pytest.raises(statestore.Exists, match="a'"):
            store.create(two.key("a"), b"two")
    assert two.b.put(two.key("a"), b"three").read() == b"three"
    assert two.a.put(two.key("b"), b"new").read() == b"new"
    assert two.a.lookup(two.key("a")).read() == b"three"


@pytest.mark.parametrize("length", [0, 1, 8, 1000, 1400, 4096, 65535, 65536])
def test_values_of_every_length(two: Two, length: int) -> None:
    value = os.urandom(length)
    handle = two.a.create(two.key("sized"), value)
    theirs = two.b.lookup(two.key("sized"))
    assert handle.read() == theirs.read() == value
    theirs.write(b"short")
    assert handle.read() == b"short"
    theirs.write(value)
    assert handle.read() == value


def test_a_handle_finds_its_item_again_after_it_was_made_anew(two: Two) -> None:
    stale = two.a.create(two.key("a"), b"first")
    theirs = two.b.lookup(two.key("a"))
    theirs.read()
    two.b.lookup(two.key("a")).delete()
    two.b.create(two.key("a"), b"second")
    assert stale.read() == b"second"
    theirs.write(b"third")
    assert stale.read() == b"third"


def test_compare_and_swap_takes_only_the_version_it_saw(two: Two) -> None:
    handle = two.a.create(two.key("a"), b"one")
    theirs = two.b.lookup(two.key("a"))
    version, value = theirs.read_versioned()
    assert (version, value) == handle.read_versioned()
    assert theirs.compare_and_swap(version, b"two")
    assert not handle.compare_and_swap(version, b"three")
    assert not theirs.compare_and_swap(version, b"three")
    assert handle.read() == b"two"


def test_counters_lose_nothing(two: Two) -> None:
    handle = two.a.create(two.key("n"), struct.pack("<q", 2**63 - 1))
    theirs = two.b.lookup(two.key("n"))
    assert theirs.add(-1) == 2**63 - 2
    assert handle.add(2) == -(2**63)
    handle.write(bytes(8))
    for _ in range(100):
        handle.add(1)
        theirs.add(2)
    assert struct.unpack("<q", handle.read()) == struct.unpack("<q", theirs.read()) == (300,)
    theirs.write(b"no counter")
    with pytest.raises(statestore.Invalid, match="n'"):
        theirs.add(1)


def test_appends_of_both_keep_order(two: Two) -> None:
    handle = two.a.append(two.key("j"), b"first", capacity=64)
    theirs = two.b.append(two.key("j"), b"second")
    expected = [b"first", b"second"]
    for number in range(50):
        entry = bytes([number]) * number
        (handle if number % 3 else theirs).append(entry)
        expected.append(entry)
    assert handle.entries() == theirs.entries() == expected
    with pytest.raises(statestore.TooBig):
        for _ in range(3):
            theirs.append(bytes(30_000))
    theirs.write(statestore.pack_entries([b"checkpoint"]))
    handle.append(b"next")
    assert theirs.entries() == [b"checkpoint", b"next"]


def test_many_values_come_together(two: Two) -> None:
    """Of the store's own memory, of another member's, and of nobody's."""
    keys = [two.key(str(number)) for number in range(300)]
    for number, key in enumerate(keys):
        (two.a if number % 2 else two.b).put(key, key.encode() * (number % 40))
    two.b.put(two.key("large"), bytes(60_000))
    handles = [two.a.lookup(key) for key in keys]
    wanted = [key.encode() * (number % 40) for number, key in enumerate(keys)]
    assert two.a.read_many(handles) == wanted
    two.eventually(
        "every copy that counts has it", lambda: two.a.read_many(handles, settled=True) == wanted
    )
    assert two.a.read_many([]) == two.a.read_many([], settled=True) == []
    two.b.lookup(keys[7]).delete()
    two.b.put(keys[8], b"anew")
    large = two.a.lookup(two.key("large"))
    gone, anew, far = two.a.read_many([handles[7], handles[8], large])
    assert gone is None and anew == b"anew" and far in (None, bytes(60_000))
    assert large.read() == bytes(60_000)
    with pytest.raises(TypeError, match="handles of this store"):
        two.a.read_many([two.b.lookup(keys[0])])


def test_a_time_to_live_passes(two: Two) -> None:
    two.a.put(two.key("mortal"), b"", ttl_ms=200)
    reprieved = two.b.put(two.key("reprieved"), b"", ttl_ms=200)
    two.b.put(two.key("reprieved"), b"")
    two.grown_old("mortal")

    def gone() -> bool:
        try:
            two.b.lookup(two.key("mortal"))
        except statestore.NotFound:
            return True
        return False

    two.eventually("mortal expires", gone)
    assert reprieved.read() == b""


# -- many --


def test_many_at_once_and_a_scan_of_them(two: Two) -> None:
    pairs = [(two.key(f"s/{n}"), str(n).encode()) for n in range(1500)]
    two.a.create(two.key("s/7"), b"mine")
    two.a.create(two.key("t"), b"")
    assert two.b.create_many(pairs) == [two.key("s/7").encode()]
    wanted = {key.encode(): value for key, value in pairs} | {two.key("s/7").encode(): b"mine"}
    for store in (two.a, two.b):
        two.eventually(
            "the map has all",
            lambda s=store: len(list(s.scan(two.key("s/")))) == 1500,  # type: ignore[misc]
        )
    found = {handle.key: handle for handle in two.a.scan(two.key("s/"))}
    assert found.keys() == wanted.keys()
    for key in list(wanted)[::100]:
        assert found[key].read() == wanted[key]
    assert list(two.a.scan(two.key("none/"))) == []


def test_what_needs_nobodys_answer_waits_for_none(two: Two) -> None:
    """A wait that nothing ends takes a second each; together they would take half a minute."""
    handles = [two.a.put(two.key(str(number)), b"here", sync=True) for number in range(8)]
    before = time.monotonic()
    for _ in range(30):
        assert two.a.read_many(handles) == [b"here"] * 8
    assert time.monotonic() - before < 15


def test_watches_tell_what_either_has_changed(two: Two) -> None:
    watches = [two.a.watch(two.key("w/")), two.b.watch(two.key("w/"))]
    assert [watch.poll() for watch in watches] == [[], []]

    def seen(change: Change) -> None:
        for watch in watches:
            two.eventually(str(change), lambda w=watch: change in w.poll())  # type: ignore[misc]

    two.a.create(two.key("x"), b"")
    key = two.key("w/1").encode()
    mine = two.b.create(key, b"")
    seen(Change(Kind.PUT, key))
    theirs = two.a.lookup(key)
    for writer in (mine, theirs, theirs):  # the second time it knows where the item lies
        writer.write(b"again")
        seen(Change(Kind.PUT, key))
    theirs.delete()
    seen(Change(Kind.DELETE, key))


# -- fences --


def test_a_fence_is_raised_for_all(two: Two) -> None:
    fence = two.key("g")
    assert two.a.fence(fence) == two.b.fence(fence) == 0
    old = two.b.grant(fence, 3)
    handle = two.b.create(two.key("a"), bytes(8), grant=old)
    assert two.a.raise_fence(fence, 3)
    handle.write(bytes(8), grant=old)
    assert two.a.raise_fence(fence, 4)
    assert not two.b.raise_fence(fence, 2)
    version = handle.read_versioned()[0]
    refused: list[Callable[[], object]] = [
        lambda: handle.write(b"x", grant=old),
        lambda: handle.append(b"x", grant=old),
        lambda: handle.add(1, grant=old),
        lambda: handle.delete(grant=old),
        lambda: handle.compare_and_swap(version, b"x", grant=old),
        lambda: two.b.put(two.key("a"), b"x", grant=old),
        lambda: two.b.create(two.key("b"), b"x", grant=old),
        lambda: two.b.append(two.key("b"), b"x", grant=old),
    ]
    for operation in refused:
        with pytest.raises(statestore.Fenced, match="epoch 4") as caught:
            operation()
        assert caught.value.epoch_seen == 4
    assert handle.read() == bytes(8)
    assert two.a.fence(fence) == two.b.fence(fence) == 4
    handle.write(b"new", grant=two.b.grant(fence, 4))
    two.a.lookup(two.key("a")).write(b"other", grant=two.a.grant(two.key("h"), 0))


# -- refusals --


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (b"k" * (statestore.KEY_BYTES_MAX + 1), b"", statestore.TooBig),
        (b"k", bytes(statestore.VALUE_BYTES_MAX + 1), statestore.TooBig),
        (b"\0reserved", b"", statestore.Invalid),
    ],
)
def test_what_can_be_no_item(two: Two, key: bytes, value: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        two.a.create(key, value)


def test_the_longest_key(two: Two) -> None:
    key = two.key("").encode().ljust(statestore.KEY_BYTES_MAX, b"k")
    two.a.create(key, b"v")
    assert two.b.lookup(key).read() == b"v"
    two.a.lookup(key).delete()


def test_a_closed_store_answers_unavailable(two: Two) -> None:
    handle = two.a.create(two.key("a"), b"")
    two.a.close()
    two.a.close()
    for operation in (handle.read, lambda: two.a.lookup(two.key("a")), two.a.stats):
        with pytest.raises(statestore.Unavailable, match="closed"):
            operation()
    assert two.b.lookup(two.key("a")).read() == b""


def test_readonly_reads_and_changes_nothing(two: Two, request: pytest.FixtureRequest) -> None:
    handle = two.a.create(two.key("a"), bytes(8))
    if two.kind == "embedded":
        address, key_file = f"dal://{request.getfixturevalue('directory')}", None
    else:
        cluster: Cluster = request.getfixturevalue("cluster")
        server = cluster.servers[1]
        far = two.kind == "remote"
        address = f"dal://{server.address}" if far else server.config.address
        key_file = cluster.key_file
    with statestore.open(address, readonly=True, key_file=key_file, timeout_ms=20_000) as reader:
        theirs = reader.lookup(two.key("a"))
        assert theirs.read() == bytes(8)
        assert [one.key for one in reader.scan(two.key(""))] == [handle.key]
        refused: list[Callable[[], object]] = [
            lambda: theirs.write(b"x"),
            lambda: theirs.write(b"x", sync=True),
            lambda: theirs.append(b"x"),
            lambda: theirs.add(1),
            theirs.delete,
            lambda: reader.create(two.key("b"), b""),
            lambda: reader.create_many([(two.key("b"), b"")]),
            lambda: reader.raise_fence(two.key("g"), 1),
        ]
        for operation in refused:
            with pytest.raises(statestore.Unavailable):
                operation()
    assert handle.read() == bytes(8)


@pytest.mark.parametrize("way", [{"replicas": 16}, {"replicas": -1}, {"hint": "here"}])
def test_a_way_of_keeping_that_is_none(two: Two, way: dict[str, object]) -> None:
    with pytest.raises(statestore.Invalid):
        two.a.create(two.key("a"), b"", **way)  # type: ignore[arg-type]


# -- copies and homes --


def test_what_was_written_in_sync_is_read_in_sync(two: Two) -> None:
    handle = two.a.create(two.key("a"), b"one", sync=True)
    theirs = two.b.lookup(two.key("a"))
    assert theirs.read(sync=True) == b"one"
    for writer, reader in ((handle, theirs), (theirs, handle)):
        writer.write(b"two", sync=True)
        assert reader.read(sync=True) == b"two"
        version, value = reader.read_versioned(sync=True)
        assert value == b"two"
        assert writer.compare_and_swap(version, bytes(8), sync=True)
        assert writer.add(5, sync=True) == 5
        writer.append(b"entry", sync=True)
        assert len(reader.read(sync=True)) == 8 + 4 + 5
    handle.write(b"late")
    theirs.ensure()
    assert handle.read(sync=True) == b"late"


def test_the_copy_of_this_host(two: Two) -> None:
    handle = two.a.create(two.key("a"), b"one")
    if two.kind == "remote":
        with pytest.raises(statestore.Away, match="no copy"):
            handle.read_local()
    else:
        assert handle.read_local() == b"one"


def test_an_embedded_item_has_no_home(directory: Path) -> None:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
        assert (store.clustered, store.members(), store.epoch()) == (False, [], 0)
        handle = store.create("a", b"", replicas=2, hint="local")
        assert handle.home == Home("")
        for operation in (
            lambda: store.inbox("me"),
            lambda: store.tell("me", b""),
            lambda: store.announce(b""),
        ):
            with pytest.raises(statestore.Unavailable, match="cluster"):
                operation()
        with pytest.raises(statestore.Invalid, match="n1"):
            store.move("a", "n1")


def test_members_by_name(clustered: Two) -> None:
    assert clustered.a.clustered
    for store in (clustered.a, clustered.b):
        members = store.members()
        assert sorted(member.node for member in members) == list(NODES)
        assert [member.leader for member in members].count(True) == 1
        assert [member.own for member in members].count(True) == (clustered.kind != "remote")
        assert store.epoch() > 0
    assert not clustered.a.try_keeper()


def test_a_move_that_is_asked_for(clustered: Two) -> None:
    key = clustered.key("a")
    handle = clustered.a.create(key, b"value", replicas=1)
    theirs = clustered.b.lookup(key)
    for node in NODES:
        clustered.a.move(handle, node)
        wait_for(f"master {node}", lambda n=node: theirs.home.master == n)  # type: ignore[misc]
        assert handle.read() == theirs.read() == b"value"
        handle.write(node.encode(), sync=True)
        assert theirs.read(sync=True) == node.encode()
        theirs.write(b"value", sync=True)
    wait_for("a replica elsewhere", lambda: len(handle.home.replicas) == 1)
    assert handle.home.want == 1
    assert handle.home.master not in handle.home.replicas
    with pytest.raises(statestore.Invalid, match="nowhere"):
        clustered.a.move(key, "nowhere")
    with pytest.raises(statestore.NotFound):
        clustered.a.move(clustered.key("none"), "n1")


def test_a_moved_item_stays_readable_and_keeps_every_write(clustered: Two) -> None:
    handle = clustered.a.create(clustered.key("n"), bytes(8), replicas=0)
    theirs = clustered.b.lookup(clustered.key("n"))
    done = threading.Event()

    def moves() -> None:
        for _ in range(4):
            for node in NODES:
                clustered.b.move(theirs, node)
        done.set()

    mover = threading.Thread(target=moves, daemon=True)
    mover.start()
    sum_seen = 0
    while not done.is_set() or sum_seen < 100:
        sum_seen += 1
        assert handle.add(1) == sum_seen
        assert struct.unpack("<q", handle.read()) == (sum_seen,)
    mover.join()
    assert struct.unpack("<q", theirs.read()) == (sum_seen,)


# -- threads --


def test_threads_may_share_a_store(two: Two) -> None:
    """One waits for the network, the others run: each its own item, and all the same one."""
    two.a.create(two.key("all"), bytes(8))

    def work(number: int) -> None:
        own = two.a.create(two.key(f"own/{number}"), bytes(8))
        shared = two.b.lookup(two.key("all"))
        for step in range(1, 101):
            assert own.add(1) == step
            shared.add(1)
            assert struct.unpack("<q", own.read()) == (step,)

    started = [in_a_thread(lambda n=number: work(n)) for number in range(4)]  # type: ignore[misc]
    for thread, _ in started:
        thread.join()
    assert [failures for _, failures in started] == [[]] * 4
    assert struct.unpack("<q", two.a.lookup(two.key("all")).read()) == (400,)


def test_a_store_closed_under_a_thread_that_waits(cluster: Cluster, tmp_path: Path) -> None:
    write_key_file(tmp_path / "key")  # nobody's: the wait lasts
    address = f"dal://{cluster.servers[0].address}"
    store = statestore.open(address, key_file=tmp_path / "key", timeout_ms=500)
    thread, failures = in_a_thread(lambda: store.lookup("a") and None)
    wait_for("it has begun", lambda: store.stats()["client_operations"] > 0)
    store.close()
    with pytest.raises(statestore.Unavailable, match="closed"):
        store.lookup("a")
    thread.join()
    assert [type(failure) for failure in failures] == [statestore.Unavailable]


# -- messages --


def drained(inbox: statestore.Inbox, wanted: int) -> list[bytes]:
    got: list[bytes] = []

    def enough() -> bool:
        while (message := inbox.take()) is not None:
            got.append(message)
        return len(got) >= wanted

    wait_for(f"{wanted} messages", enough)
    return got


def in_a_thread(operation: Callable[[], None]) -> tuple[threading.Thread, list[Exception]]:
    failures: list[Exception] = []

    def run() -> None:
        try:
            operation()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, failures


def tells(
    store: Store, messages: list[tuple[str, bytes]]
) -> tuple[threading.Thread, list[Exception]]:
    def run() -> None:
        for inbox, text in messages:
            store.tell(inbox, text)

    return in_a_thread(run)


def test_messages_arrive_once_and_in_order(clustered: Two) -> None:
    box = clustered.b.inbox(clustered.key("me"))
    wanted = [str(number).encode() for number in range(200)]
    thread, failures = tells(clustered.a, [(clustered.key("me"), text) for text in wanted])
    assert drained(box, len(wanted)) == wanted
    thread.join()
    assert failures == []
    assert box.take() is None


def test_announcements_reach_every_inbox(clustered: Two) -> None:
    boxes = [clustered.a.inbox(clustered.key("a")), clustered.b.inbox(clustered.key("b"))]

    def all_known() -> bool:
        thread, failures = tells(
            clustered.a, [(clustered.key(name), b"hello") for name in ("a", "b")]
        )
        while thread.is_alive():
            for box in boxes:
                box.take()
        thread.join()
        return not failures

    wait_for("both inboxes are known", all_known)
    for box in boxes:
        while box.take() is not None:
            pass
    thread, failures = in_a_thread(lambda: clustered.b.announce(b"to all"))
    assert [drained(box, 1) for box in boxes] == [[b"to all"]] * 2
    thread.join()
    assert failures == []


def test_a_message_for_nobody(clustered: Two) -> None:
    with pytest.raises(statestore.NotFound, match="nobody"):
        clustered.a.tell(clustered.key("nobody"), b"")
