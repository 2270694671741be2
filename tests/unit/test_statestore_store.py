"""The store through its Python face: what each call does, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import statestore
from statestore import Change, Handle, Kind, Store
from statestore.store import SEGMENT_NAME

COUNTED = 1_000
SIZE_BYTES = 8 << 20
MS = 1_000_000
SOUND_KEYS = ("unreachable", "misplaced", "torn_refs", "shared_blocks", "dead", "orphans", "locked")


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as opened:
        yield opened
        assert_sound(opened)


def assert_sound(store: Store) -> None:
    found = store.verify()
    assert {name: found[name] for name in SOUND_KEYS} == dict.fromkeys(SOUND_KEYS, 0)


# -- items --


def test_create_read_write_delete(store: Store) -> None:
    handle = store.create("a", b"one")
    assert (handle.key, handle.read()) == (b"a", b"one")
    handle.write(bytearray(b"two, and longer"))
    assert store.lookup(b"a").read() == b"two, and longer"
    handle.delete()
    with pytest.raises(statestore.NotFound, match="'a'"):
        store.lookup("a")
    with pytest.raises(statestore.NotFound):
        handle.read()


def test_create_refuses_what_exists(store: Store) -> None:
    store.create("a", b"one")
    with pytest.raises(statestore.Exists, match="'a'"):
        store.create("a", b"two")
    assert store.lookup("a").read() == b"one"
    assert store.put("a", b"three").read() == b"three"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 24, 25, 4096, 65535, 65536])
def test_values_of_every_size_class(store: Store, length: int) -> None:
    value = os.urandom(length)
    handle = store.put("sized", b"")
    for _ in range(3):
        handle.write(value)
        assert handle.read() == value
        handle.write(b"")
        assert handle.read() == b""


def test_a_handle_finds_its_item_again_after_it_was_deleted_and_made_anew(store: Store) -> None:
    stale = store.create("a", b"first")
    store.lookup("a").delete()
    store.create("b", b"takes the slot")
    store.create("a", b"second")
    before = store.stats()["auth_misses"]
    assert stale.read() == b"second"
    assert store.stats()["auth_misses"] == before + 1
    stale.write(b"third")
    assert store.lookup("a").read() == b"third"
    assert store.lookup("b").read() == b"takes the slot"


def test_compare_and_swap_takes_only_the_version_it_saw(store: Store) -> None:
    handle = store.create("a", b"one")
    version, value = handle.read_versioned()
    assert value == b"one"
    assert handle.compare_and_swap(version, b"two")
    assert not handle.compare_and_swap(version, b"three")
    assert handle.read() == b"two"


def test_add_counts_and_wraps(store: Store) -> None:
    handle = store.create("n", struct.pack("<q", 2**63 - 1))
    assert handle.add(-1) == 2**63 - 2
    assert handle.add(2) == -(2**63)
    store.create("text", b"no counter")
    with pytest.raises(statestore.Invalid, match="'text'"):
        store.lookup("text").add(1)


def test_appends_keep_order_through_growth_to_the_limit(store: Store) -> None:
    handle = store.append("j", b"first", capacity=64)
    entries = [b"first"]
    with pytest.raises(statestore.TooBig, match="'j'"):
        for number in range(70000):
            entry = bytes([number % 251]) * (number % 97)
            handle.append(entry)
            entries.append(entry)
    assert handle.entries() == entries
    assert 60000 < len(handle.read()) <= statestore.VALUE_BYTES_MAX
    handle.write(statestore.pack_entries([b"checkpoint"]))
    handle.append(b"next")
    assert store.lookup("j").entries() == [b"checkpoint", b"next"]
    assert statestore.unpack_entries(handle.read()) == [b"checkpoint", b"next"]
    for broken in (b"\1", b"\0\0\0", b"\5\0\0\0abcd"):
        with pytest.raises(statestore.Invalid, match="no journal"):
            statestore.unpack_entries(broken)


def test_entries_of_what_was_not_appended(store: Store) -> None:
    with pytest.raises(statestore.Invalid, match="'a'"):
        store.create("a", b"\xff\xff\xff\xff").entries()


def test_scan_sees_the_prefix_and_nothing_else(store: Store) -> None:
    for number in range(2000):
        store.create(f"s/{number}", str(number).encode())
    store.create("t/1", b"")
    store.grant("a fence", 1)
    assert {(h.key, h.read()) for h in store.scan("s/")} == {
        (f"s/{n}".encode(), str(n).encode()) for n in range(2000)
    }
    assert len(list(store.scan())) == 2001


# -- the feed --


def test_watch_reports_changes_of_its_prefix(store: Store) -> None:
    watch = store.watch("w/")
    assert watch.poll() == []
    handle = store.create("w/1", b"")
    store.create("x/1", b"")
    assert watch.poll() == [Change(Kind.PUT, b"w/1")]
    handle.write(b"again")
    handle.append(b"entry")
    assert watch.poll(1) == [Change(Kind.PUT, b"w/1")]
    assert watch.poll() == [Change(Kind.PUT, b"w/1")]
    handle.delete()
    assert watch.poll() == [Change(Kind.DELETE, b"w/1")]
    assert watch.sequence == store.stats()["feed_sequence"]


def test_watch_says_what_is_true_now(store: Store) -> None:
    watch = store.watch("w/")
    store.create("w/1", b"").delete()
    assert watch.poll() == [Change(Kind.DELETE, b"w/1")] * 2


def test_a_watcher_that_is_too_slow_is_told_to_rescan(store: Store) -> None:
    watch = store.watch()
    handle = store.create("w", b"")
    for _ in range(store.stats()["feed_capacity"]):
        handle.write(b"")
    with pytest.raises(statestore.Overrun, match="scan"):
        watch.poll()
    assert watch.poll() == []
    handle.write(b"")
    assert watch.poll() == [Change(Kind.PUT, b"w")]


# -- fences --


def test_an_older_grant_is_refused_everywhere(store: Store) -> None:
    assert store.fence("g1") == 0
    old = store.grant("g1", 3)
    handle = store.create("a", bytes(8), grant=old)
    assert (old.fence, old.epoch) == (b"g1", 3)
    assert store.raise_fence("g1", 3)
    handle.write(bytes(8), grant=old)
    assert store.raise_fence("g1", 4)
    refused: list[Callable[[], object]] = [
        lambda: handle.write(b"x", grant=old),
        lambda: handle.write(b"x", old),
        lambda: handle.append(b"x", grant=old),
        lambda: handle.add(1, grant=old),
        lambda: handle.delete(grant=old),
        lambda: handle.compare_and_swap(handle.read_versioned()[0], b"x", grant=old),
        lambda: store.put("a", b"x", grant=old),
        lambda: store.create("b", b"x", grant=old),
        lambda: store.append("b", b"x", grant=old),
    ]
    for operation in refused:
        with pytest.raises(statestore.Fenced, match="epoch 4") as caught:
            operation()
        assert caught.value.epoch_seen == 4
    assert handle.read() == bytes(8)
    assert [h.key for h in store.scan()] == [b"a"]
    handle.write(b"new", grant=store.grant("g1", 4))
    handle.write(b"other", grant=store.grant("g2", 0))


def test_a_fence_never_falls(store: Store) -> None:
    assert store.raise_fence("g1", 7)
    assert store.raise_fence("g1", 7)
    assert not store.raise_fence("g1", 6)
    assert store.fence("g1") == 7


def test_a_grant_of_another_store_is_no_grant(store: Store, directory: Path) -> None:
    with statestore.open(f"dal://{directory}") as other, pytest.raises(TypeError, match="grant"):
        store.create("a", b"", grant=other.grant("g1", 1))


# -- keeping --


def test_items_expire_when_the_keeper_comes(store: Store) -> None:
    store.put("mortal", b"", ttl_ms=1000)
    store.put("reprieved", b"", ttl_ms=1000)
    store.put("reprieved", b"")
    store.put("immortal", b"")
    start = statestore.store.now_ns()
    assert store.housekeep(start).expired == 0
    watch = store.watch()
    assert store.housekeep(start + 1001 * MS).expired == 1
    assert watch.poll() == [Change(Kind.DELETE, b"mortal")]
    assert sorted(h.key for h in store.scan()) == [b"immortal", b"reprieved"]


def test_only_one_keeps_house(store: Store, directory: Path) -> None:
    assert store.try_keeper() and store.try_keeper()
    with statestore.open(f"dal://{directory}") as other:
        assert not other.try_keeper()
        store.close()
        assert other.try_keeper()
    reopened = statestore.open(f"dal://{directory}")
    store._segment = reopened._segment  # for the fixture's last look


def test_deleted_items_leave_their_room_to_others(store: Store) -> None:
    for _ in range(3):
        handles = [store.create(f"k/{n}", bytes(n % 500)) for n in range(3000)]
        used = store.stats()["bytes"]
        for handle in handles:
            handle.delete()
    assert store.stats()["items"] == 0
    assert store.stats()["bytes"] == 0
    assert used > 3000 * 64


# -- refusals --


def test_a_full_segment_says_so_and_goes_on(store: Store) -> None:
    handles: list[Handle] = []
    with pytest.raises(statestore.Full, match="no room"):
        for number in range(100000):
            handles.append(store.create(f"big/{number}", bytes(60000)))
    assert len(handles) > 50
    handles.pop().delete()
    store.create("fits", bytes(60000))
    assert all(handle.read() == bytes(60000) for handle in handles)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (b"k" * (statestore.KEY_BYTES_MAX + 1), b"", statestore.TooBig),
        (b"k", bytes(statestore.VALUE_BYTES_MAX + 1), statestore.TooBig),
        (b"\0reserved", b"", statestore.Invalid),
    ],
)
def test_what_can_be_no_item(
    store: Store, key: bytes, value: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.create(key, value)
    assert list(store.scan()) == []


def test_the_longest_key_and_the_empty_one(store: Store) -> None:
    for key in (b"k" * statestore.KEY_BYTES_MAX, b""):
        watch = store.watch(key)
        store.create(key, b"v")
        assert store.lookup(key).read() == b"v"
        assert watch.poll() == [Change(Kind.PUT, key)]


def test_a_closed_store_answers_unavailable(directory: Path) -> None:
    store = statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES)
    handle = store.create("a", b"")
    store.close()
    store.close()
    for operation in (handle.read, lambda: store.lookup("a"), store.stats):
        with pytest.raises(statestore.Unavailable, match="closed"):
            operation()


def test_readonly_reads_and_refuses_to_write(store: Store, directory: Path) -> None:
    store.create("a", b"value")
    with statestore.open(f"dal://{directory}", readonly=True) as reader:
        handle = reader.lookup("a")
        assert handle.read() == b"value"
        assert [h.key for h in reader.scan()] == [b"a"]
        for operation in (
            lambda: handle.write(b"x"),
            handle.delete,
            lambda: reader.create("b", b""),
            lambda: reader.raise_fence("g", 1),
            lambda: reader.housekeep(0),
        ):
            with pytest.raises(statestore.Unavailable):
                operation()
    assert store.lookup("a").read() == b"value"


@pytest.mark.parametrize("address", ["/run/x", "dal://host/x", "etcd:///x", "dal://", ""])
def test_an_address_of_another_kind(address: str) -> None:
    with pytest.raises(statestore.Invalid, match="dal:///"):
        statestore.open(address)


def test_nothing_there_and_not_told_to_make_it(directory: Path) -> None:
    with pytest.raises(statestore.Unavailable, match="state process"):
        statestore.open(f"dal://{directory}", create=False)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("size_bytes", [0, (4 << 20) - 1, (32 << 30) + 1])
def test_a_size_out_of_range(directory: Path, size_bytes: int) -> None:
    with pytest.raises(statestore.Invalid, match="MiB"):
        statestore.open(f"dal://{directory}", size_bytes=size_bytes)


def test_the_file_is_private_and_reserved_to_the_last_byte(store: Store, directory: Path) -> None:
    status = (directory / SEGMENT_NAME).stat()
    assert store.stats()["clients"] == 1
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 >= SIZE_BYTES


@pytest.mark.parametrize("key_bytes", [16, 23, 24, 32])
def test_an_item_of_64_bytes_has_no_more_than_64_of_bookkeeping(
    directory: Path, key_bytes: int
) -> None:
    """Blocks and labels (decision 62); the size at which the next class begins is the worst."""
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
        before = store.stats()["bytes"]
        for number in range(COUNTED):
            store.create(f"{number:0{key_bytes}}", bytes(64))
        each = (store.stats()["bytes"] - before) / COUNTED
    assert each - key_bytes - 64 <= 64


def damaged(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "error", "says"),
    [
        (0, b"notmagic", statestore.Corrupt, "not a segment"),
        (8, b"\x63", statestore.WrongVersion, "layout 99"),
        (16, b"\xff", statestore.Corrupt, "damaged"),
        (24, b"\xff\xff", statestore.Corrupt, "damaged"),
    ],
)
def test_a_damaged_header(
    directory: Path, offset: int, data: bytes, error: type[Exception], says: str
) -> None:
    statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES).close()
    damaged(directory / SEGMENT_NAME, offset, data)
    with pytest.raises(error, match=says):
        statestore.open(f"dal://{directory}")


@pytest.mark.parametrize("length", [0, 100, 1 << 20])
def test_a_truncated_file(directory: Path, length: int) -> None:
    statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES).close()
    os.truncate(directory / SEGMENT_NAME, length)
    with pytest.raises(statestore.Corrupt, match="remove it"):
        statestore.open(f"dal://{directory}")


@pytest.mark.parametrize("seed", range(8))
def test_garbage_behind_the_header_may_be_read_safely(directory: Path, seed: int) -> None:
    """Anything may come out but a crash or a hang: errors, wrong values, nothing."""
    path = directory / SEGMENT_NAME
    with statestore.open(f"dal://{directory}", size_bytes=4 << 20) as first:
        for number in range(500):
            first.put(f"k/{number}", bytes(number)).write(bytes(number))
    noise = bytes((seed * 131 + i * i * 7) % 256 for i in range(4096))
    size = path.stat().st_size
    start = 4096 + 256 * 192  # past the header and the clients
    for at in range(start + seed * 512, size - len(noise), 8192 * (seed + 1)):
        damaged(path, at, noise)
    with statestore.open(f"dal://{directory}") as store:
        watch = store.watch()
        for number in range(0, 500, 7):
            for operation in (
                lambda key: store.lookup(key).read(),
                lambda key: store.put(key, b"new"),
                lambda key: store.lookup(key).append(b"x"),
                lambda key: store.lookup(key).delete(),
            ):
                try:
                    operation(f"k/{number}")
                except statestore.StateStoreError:
                    continue
        for handle in store.scan():
            try:
                handle.read()
            except statestore.StateStoreError:
                continue
        with contextlib.suppress(statestore.StateStoreError):
            watch.poll()
        store.stats()


def test_a_directory_too_small_is_told_in_one_line(directory: Path) -> None:
    free = os.statvfs(directory)
    size_bytes = 32 << 30
    if free.f_bavail * free.f_frsize >= size_bytes:
        pytest.skip("this machine has room for the largest segment")
    with pytest.raises(statestore.Full, match="MiB free of the 32768 MiB asked for"):
        statestore.open(f"dal://{directory}", size_bytes=size_bytes)
    assert list(directory.iterdir()) == []


# -- against a model --

KEYS = st.sampled_from([b"a", b"b", b"ab", b"a" * 200])
VALUES = st.binary(max_size=300) | st.binary(min_size=5000, max_size=9000)
ENTRY = st.binary(max_size=60)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("create"), KEYS, VALUES),
        st.tuples(st.just("append"), KEYS, ENTRY),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(st.just("swap"), KEYS, VALUES),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPERATIONS)
def test_the_store_is_a_dictionary(operations: list[tuple[str, bytes, bytes]]) -> None:
    model: dict[bytes, bytes] = {}
    handles: dict[bytes, Handle] = {}  # old ones: they must find their way
    with (
        tempfile.TemporaryDirectory(prefix="statestore-", dir="/dev/shm") as directory,
        statestore.open(f"dal://{directory}", size_bytes=4 << 20) as store,
    ):
        watch = store.watch()
        mirror: dict[bytes, bytes] = {}
        for name, key, data in operations:
            if name == "put":
                handles.setdefault(key, store.put(key, data)).write(data)
                model[key] = data
            elif name == "create" and key not in model:
                store.create(key, data)
                model[key] = data
            elif name == "create":
                with pytest.raises(statestore.Exists):
                    store.create(key, data)
            elif key not in model:
                with pytest.raises(statestore.NotFound):
                    handles[key].delete() if key in handles else store.lookup(key)
            elif name == "append":
                handles.get(key, store.lookup(key)).append(data)
                model[key] += statestore.pack_entries([data])
            elif name == "delete":
                handles.get(key, store.lookup(key)).delete()
                del model[key]
            else:
                handle = handles.get(key, store.lookup(key))
                assert handle.compare_and_swap(handle.read_versioned()[0], data)
                model[key] = data
            for change in watch.poll():
                if change.kind is Kind.PUT:
                    mirror[change.key] = store.lookup(change.key).read()
                else:
                    mirror.pop(change.key, None)
        assert {handle.key: handle.read() for handle in store.scan()} == model == mirror
        assert_sound(store)
