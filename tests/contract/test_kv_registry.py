"""One suite for both registries: the twin in a host's segment, and etcd's three members."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import statestore
from statestore.etcd import EtcdOptions, EtcdRegistry
from statestore.registry import ABSENT, Change, Check, EmbeddedRegistry, Entry, Registry, Watch
from statestore.store import now_ns
from tests.fakes.etcd_cluster import EtcdCluster, eventually

SIZE_BYTES = 16 << 20
PATIENT = EtcdOptions(timeout_ms=20_000, attempt_ms=5_000)
"""The death of an endpoint is not the subject here: a loaded machine may take its time."""

_numbers = itertools.count()
Connect = Callable[[], Registry]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["embedded", "etcd"])
def connect(request: pytest.FixtureRequest, directory: Path) -> Iterator[Connect]:
    """Each call is another client of the same registry."""
    made: list[Registry] = []
    stores: list[statestore.Store] = []

    def embedded() -> Registry:
        stores.append(statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES))
        made.append(EmbeddedRegistry(stores[-1]))
        return made[-1]

    def real() -> Registry:
        made.append(EtcdRegistry(request.getfixturevalue("etcd").endpoints, PATIENT))
        return made[-1]

    yield embedded if request.param == "embedded" else real
    for registry in made:
        registry.close()
    for store in stores:
        store.close()


@pytest.fixture
def registry(connect: Connect) -> Registry:
    return connect()


@pytest.fixture
def under() -> str:
    """A prefix of the test's own: the etcd is shared."""
    return f"/t{next(_numbers)}/"


def hear(watch: Watch, until: Callable[[dict[str, Change]], bool]) -> dict[str, Change]:
    """Poll until what was heard, the last of each key, is enough."""
    heard: dict[str, Change] = {}

    def enough() -> bool:
        watch.wait(100)
        for change in watch.poll():
            heard.pop(change.key, None)
            heard[change.key] = change
        return until(heard)

    eventually(enough, f"the watch tells enough, not only {heard}")
    return heard


def test_nothing_stands_where_nothing_was_put(registry: Registry, under: str) -> None:
    assert registry.get(under + "a") is None
    assert registry.scan(under) == {}
    assert registry.delete(under + "a") is False


@pytest.mark.parametrize("value", [b"", b'\0\xff\n"{', "ä€".encode(), b"x" * 8_192])
def test_a_value_comes_back_as_it_was(registry: Registry, under: str, value: bytes) -> None:
    revision = registry.put(under + "a", value)
    assert registry.get(under + "a") == Entry(value, revision)


@pytest.mark.parametrize("key", ["ä/€", "with space", 'quo"te\\', "a/b/c", "~"])
def test_a_key_may_be_any_text(registry: Registry, under: str, key: str) -> None:
    revision = registry.put(under + key, b"1")
    assert registry.scan(under) == {under + key: Entry(b"1", revision)}


def test_scan_takes_the_prefix_and_nothing_beside_it(registry: Registry, under: str) -> None:
    name = under.removesuffix("/")
    for key in (name, name + "0", name + ".", name + "/", name + "/a", name + "/b/c"):
        registry.put(key, key.encode())
    assert set(registry.scan(under)) == {under, under + "a", under + "b/c"}
    assert set(registry.scan(name)) >= {name, name + "0", under}


def test_revisions_rise_over_all_keys_and_deletions(registry: Registry, under: str) -> None:
    seen = [registry.put(under + "a", b"1"), registry.put(under + "b", b"1")]
    seen.append(registry.put(under + "a", b"1"))
    assert registry.delete(under + "a") is True
    assert registry.get(under + "a") is None
    seen.append(registry.put(under + "a", b"1"))
    assert seen == sorted(set(seen)) and seen[0] > ABSENT


def test_compare_and_swap_of_what_is_not_there(registry: Registry, under: str) -> None:
    first = registry.compare_and_swap(under + "a", ABSENT, b"1")
    assert first is not None
    assert registry.compare_and_swap(under + "a", ABSENT, b"2") is None
    assert registry.get(under + "a") == Entry(b"1", first)
    assert registry.compare_and_swap(under + "b", first, b"2") is None
    assert registry.get(under + "b") is None


def test_compare_and_swap_of_what_has_moved_on(registry: Registry, under: str) -> None:
    first = registry.put(under + "a", b"1")
    second = registry.compare_and_swap(under + "a", first, b"2")
    assert second is not None and second > first
    assert registry.compare_and_swap(under + "a", first, b"3") is None
    assert registry.compare_and_swap(under + "a", second + 1000, b"3") is None
    assert registry.get(under + "a") == Entry(b"2", second)


def test_an_old_revision_is_not_valid_again_after_a_deletion(
    registry: Registry, under: str
) -> None:
    first = registry.put(under + "a", b"1")
    registry.delete(under + "a")
    registry.put(under + "a", b"1")
    assert registry.compare_and_swap(under + "a", first, b"2") is None


def test_a_transaction_is_done_whole(registry: Registry, under: str) -> None:
    a, b = registry.put(under + "a", b"1"), registry.put(under + "b", b"1")
    revision = registry.commit(
        [Check(under + "a", a), Check(under + "b", b), Check(under + "c", ABSENT)],
        {under + "a": b"2", under + "c": b"2"},
        [under + "b", under + "never"],
    )
    assert revision is not None
    want = {under + "a": Entry(b"2", revision), under + "c": Entry(b"2", revision)}
    assert registry.scan(under) == want


@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_a_transaction_with_one_wrong_check_does_nothing(
    registry: Registry, under: str, wrong: str
) -> None:
    checks = {"a": registry.put(under + "a", b"1"), "b": registry.put(under + "b", b"1"), "c": 0}
    before = registry.scan(under)
    checks[wrong] += 1
    done = registry.commit(
        [Check(under + key, revision) for key, revision in checks.items()],
        {under + "c": b"2"},
        [under + "a"],
    )
    assert done is None
    assert registry.scan(under) == before


def test_a_transaction_may_check_what_it_does_not_change(registry: Registry, under: str) -> None:
    view = registry.put(under + "view", b"1")
    assert registry.commit([Check(under + "view", view)], {under + "m": b"1"}) is not None
    registry.put(under + "view", b"2")
    assert registry.commit([Check(under + "view", view)], {under + "m": b"2"}) is None
    found = registry.get(under + "m")
    assert found is not None and found.value == b"1"


def test_of_many_who_swap_at_once_one_wins(connect: Connect, under: str) -> None:
    rounds = 20
    won: list[int] = []
    first = connect().put(under + "n", b"begin")

    def race(registry: Registry, name: int) -> None:
        for number in range(rounds):
            found = registry.get(under + "n")
            assert found is not None
            mine = registry.compare_and_swap(
                under + "n", found.revision, f"{name} {number}".encode()
            )
            if mine is not None:
                won.append(mine)

    threads = [
        threading.Thread(target=race, args=(connect(), name), daemon=True) for name in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(won)) == len(won) >= rounds and min(won) > first
    found = connect().get(under + "n")
    assert found is not None and found.revision == max(won)


def test_one_client_serves_many_threads(registry: Registry, under: str) -> None:
    def work(name: int) -> None:
        revision = ABSENT
        for number in range(20):
            swapped = registry.compare_and_swap(under + str(name), revision, str(number).encode())
            assert swapped is not None
            revision = swapped

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.value for entry in registry.scan(under).values()} == {b"19"}
    assert len(registry.scan(under)) == 4


def test_confirm_reads_what_stands(registry: Registry, under: str) -> None:
    before_ns = now_ns()
    absent = registry.confirm(under + "a")
    assert absent.ok and absent.entry is None and absent.sent_at_ns >= before_ns
    revision = registry.put(under + "a", b"1")
    found = registry.confirm(under + "a")
    assert found.ok and found.entry == Entry(b"1", revision)
    assert absent.sent_at_ns <= found.sent_at_ns <= now_ns()


def test_a_watch_begins_with_what_stands(connect: Connect, under: str) -> None:
    registry, other = connect(), connect()
    a = registry.put(under + "a", b"1")
    b = registry.put(under + "b", b"2")
    watch = other.watch(under)
    heard = hear(watch, lambda heard: len(heard) == 2)
    assert heard == {
        under + "a": Change(under + "a", Entry(b"1", a)),
        under + "b": Change(under + "b", Entry(b"2", b)),
    }
    assert list(heard) == [under + "a", under + "b"]
    snapshot = watch.snapshot()
    assert {key: seen[:2] for key, seen in snapshot.entries.items()} == registry.scan(under)
    assert watch.poll() == []


def test_a_watch_tells_puts_and_deletions_under_its_prefix_alone(
    connect: Connect, under: str
) -> None:
    registry, other = connect(), connect()
    watch = other.watch(under + "w/")
    registry.put(under + "x", b"beside")
    a = registry.put(under + "w/a", b"1")
    hear(watch, lambda heard: under + "w/a" in heard)
    assert watch.snapshot().entries[under + "w/a"].revision == a
    registry.delete(under + "w/a")
    b = registry.put(under + "w/b", b"2")
    heard = hear(watch, lambda heard: under + "w/b" in heard)
    assert heard == {
        under + "w/a": Change(under + "w/a", None),
        under + "w/b": Change(under + "w/b", Entry(b"2", b)),
    }
    assert set(watch.snapshot().entries) == {under + "w/b"}


def test_a_watch_ends_with_the_last_value_of_every_key(connect: Connect, under: str) -> None:
    registry, other = connect(), connect()
    watch = other.watch(under)
    for number in range(30):
        for key in "abc":
            registry.put(under + key, str(number).encode())
    last = registry.put(under + "end", b"")
    hear(watch, lambda heard: under + "end" in heard)
    entries = watch.snapshot().entries
    assert {entries[under + key].value for key in "abc"} == {b"29"}
    assert entries[under + "end"].revision == last


def test_a_transaction_is_seen_whole(connect: Connect, under: str) -> None:
    registry, other = connect(), connect()
    watch = other.watch(under)
    ended = threading.Event()
    torn: list[object] = []

    def look() -> None:
        while not ended.is_set():
            entries = watch.snapshot().entries
            found = {entries[under + k].value for k in "ab" if under + k in entries}
            if len(found) > 1:
                torn.append(entries)
            watch.wait(1)
            watch.poll()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        for number in range(50):
            value = str(number).encode()
            registry.commit([], {under + "a": value, under + "b": value})
    finally:
        ended.set()
        thread.join()
    assert not torn


def test_a_watch_says_how_current_it_is(connect: Connect, under: str) -> None:
    registry = connect()
    watch = registry.watch(under)
    hear(watch, lambda _: watch.snapshot().current_ns > 0)
    before_ns = now_ns()
    assert watch.snapshot().current_ns <= before_ns or isinstance(registry, EmbeddedRegistry)
    registry.put(under + "a", b"1")
    hear(watch, lambda _: watch.snapshot().current_ns >= before_ns)
    seen = watch.snapshot().entries[under + "a"]
    assert before_ns <= seen.seen_ns <= now_ns()


def test_the_first_sight_of_a_revision_stays(connect: Connect, under: str) -> None:
    registry = connect()
    watch = registry.watch(under)
    registry.put(under + "a", b"1")
    hear(watch, lambda heard: under + "a" in heard)
    first = watch.snapshot().entries[under + "a"]
    registry.put(under + "b", b"1")
    hear(watch, lambda heard: under + "b" in heard)
    assert watch.snapshot().entries[under + "a"] == first
    registry.put(under + "a", b"1")
    hear(watch, lambda heard: under + "a" in heard)
    again = watch.snapshot().entries[under + "a"]
    assert again.revision > first.revision and again.seen_ns > first.seen_ns


def test_waiting_ends_with_news_and_news_with_a_look(connect: Connect, under: str) -> None:
    registry, other = connect(), connect()
    watch = other.watch(under)
    for look in (watch.poll, watch.snapshot):
        registry.put(under + "a", b"1")
        eventually(lambda: watch.wait(100), "the watch wakes up")
        assert watch.wait(60_000)  # nobody has looked yet
        look()
        assert not watch.wait(1)


def test_all_is_well(registry: Registry, under: str) -> None:
    registry.put(under + "a", b"1")
    assert registry.trouble() == ""
    assert registry.answering
