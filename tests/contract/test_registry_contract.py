"""One suite for every registry: the null twin in memory, the segment's, and etcd's.

What it holds them to is `failover.registry.Registry`: one claimant wins, epochs only rise, a
record is whole, and (where there is a store) the winner's epoch is fenced.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import statestore
from bgf.runtime.registry_adapters import ClusterRegistry, StoreRegistry
from failover.registry import (
    Member,
    MemoryRegistry,
    Ownership,
    Registry,
    RegistryUnavailable,
    View,
)
from statestore.etcd import EtcdOptions, EtcdRegistry
from statestore.registry import EmbeddedRegistry
from statestore.store import now_ns
from statestore.views import EmbeddedViews, RawView, Views
from tests.fakes.etcd_cluster import EtcdCluster, eventually

SIZE_BYTES = 4 << 20
STALE_MS = 300.0


PATIENT = EtcdOptions(timeout_ms=20_000, attempt_ms=5_000)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), size=1) as cluster:
        yield cluster


class Fences:
    """A store's fences, as far as a claim needs them."""

    def __init__(self) -> None:
        self.raised: dict[str, int] = {}

    def __call__(self, group: str, epoch: int) -> bool:
        self.raised[group] = max(epoch, self.raised.get(group, 0))
        return self.raised[group] == epoch


@pytest.fixture
def connect(etcd: EtcdCluster) -> Iterator[Callable[[], Views]]:
    """Each call is another process's views of the same registry."""
    prefix = f"/t{next(_numbers)}/"
    made: list[tuple[EtcdRegistry, Views]] = []

    def views() -> Views:
        registry = EtcdRegistry(etcd.endpoints, PATIENT)
        made.append((registry, Views(registry, prefix, Fences())))
        return made[-1][1]

    yield views
    for registry, opened in made:
        opened.close()
        registry.close()


@pytest.fixture(params=["memory", "embedded", "etcd"])
def registry(request: pytest.FixtureRequest, directory: Path) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
    elif request.param == "etcd":
        yield StoreRegistry(request.getfixturevalue("connect")())
    else:
        with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
            yield StoreRegistry(EmbeddedViews(store))


def test_it_begins_empty(registry: Registry) -> None:
    assert registry.view() == View({}, {})


def test_a_member_is_read_as_it_was_published(registry: Registry) -> None:
    first = Member("n1", 1, 100)
    suspects = {"n2": ("access", "core"), "n3": ()}
    later = Member("n1", 2, 200, True, suspects, {"n2": ("access", "core"), "n3": ("core",)})
    registry.publish(first)
    registry.publish(Member("n2", 7, 300))
    assert registry.view().members["n1"] == first
    registry.publish(later)
    assert registry.view().members == {"n1": later, "n2": Member("n2", 7, 300)}


def test_the_first_claim_of_a_group_nobody_owned(registry: Registry) -> None:
    assert registry.claim("g1", Ownership(), "n1") == Ownership("n1", 1)
    assert registry.view().owners == {"g1": Ownership("n1", 1)}


def test_of_two_claims_on_one_sight_the_first_wins(registry: Registry) -> None:
    seen = registry.claim("g1", Ownership(), "n1")
    assert seen is not None
    assert registry.claim("g1", seen, "n2") == Ownership("n2", 2)
    assert registry.claim("g1", seen, "n3") is None
    assert registry.claim("g1", Ownership(), "n3") is None
    assert registry.view().owners["g1"] == Ownership("n2", 2)


def test_a_sight_that_never_was_wins_nothing(registry: Registry) -> None:
    assert registry.claim("g1", Ownership("n9", 4), "n1") is None
    registry.claim("g1", Ownership(), "n1")
    assert registry.claim("g1", Ownership("n1", 9), "n2") is None
    assert registry.claim("g1", Ownership("n2", 1), "n2") is None
    assert registry.view().owners == {"g1": Ownership("n1", 1)}


def test_an_owner_says_who_may_take_over(registry: Registry) -> None:
    first = registry.claim("g1", Ownership(), "n1")
    assert first is not None
    registry.publish(Member("n1", 1, 100, parties=("n2", "n3")))
    assert registry.claim("g1", first, "n4") is None
    second = registry.claim("g1", first, "n3")
    assert second == Ownership("n3", 2)
    assert registry.claim("g1", second, "n4") == Ownership("n4", 3)  # n3 has said nothing
    registry.publish(Member("n4", 1, 100, parties=("n1",)))
    assert registry.claim("g1", Ownership("n4", 3), "n4") == Ownership("n4", 4)


def test_groups_do_not_know_each_other(registry: Registry) -> None:
    registry.claim("g1", Ownership(), "n1")
    registry.claim("g2", Ownership(), "n2")
    registry.claim("g", Ownership(), "n3")
    assert registry.claim("g1", Ownership("n1", 1), "n1") == Ownership("n1", 2)
    owners = registry.view().owners
    assert owners == {
        "g1": Ownership("n1", 2),
        "g2": Ownership("n2", 1),
        "g": Ownership("n3", 1),
    }


def test_a_winner_has_fenced_whoever_came_before(directory: Path) -> None:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
        registry = StoreRegistry(EmbeddedViews(store))
        first = registry.claim("g1", Ownership(), "n1")
        assert first is not None
        grant = store.grant("g1", first.epoch)
        store.put("j/g1/call", b"mine", grant=grant)
        second = registry.claim("g1", first, "n2")
        assert second is not None and second.epoch == 2
        with pytest.raises(statestore.Fenced) as caught:
            store.put("j/g1/call", b"late", grant=grant)
        assert caught.value.epoch_seen == second.epoch
        store.put("j/g1/call", b"new", grant=store.grant("g1", second.epoch))


def test_two_stores_race_for_every_epoch_and_share_none(directory: Path) -> None:
    rounds = 200
    won: dict[str, list[int]] = {"n1": [], "n2": []}

    def race(node: str) -> None:
        with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
            registry = StoreRegistry(EmbeddedViews(store))
            for _ in range(rounds):
                seen = registry.view().owners.get("g1", Ownership())
                mine = registry.claim("g1", seen, node)
                if mine is not None:
                    won[node].append(mine.epoch)

    threads = [threading.Thread(target=race, args=(node,), daemon=True) for node in won]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    epochs = sorted(won["n1"] + won["n2"])
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) >= rounds


def test_a_broken_owner_record_is_told_and_a_withdrawn_member_is_gone(directory: Path) -> None:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as store:
        registry = StoreRegistry(EmbeddedViews(store))
        registry.publish(Member("n1", 1, 100))
        EmbeddedViews(store).withdraw("n1")
        EmbeddedViews(store).withdraw("n1")
        assert registry.view() == View({}, {})
        EmbeddedRegistry(store).put("v/o/g1", b"bad")
        with pytest.raises(RegistryUnavailable, match="g1"):
            registry.view()


def sees(views: Views, enough: Callable[[RawView], bool]) -> RawView:
    """The first view that is enough; a watch tells others' changes after a moment."""
    eventually(lambda: enough(views.view()), "the view shows it")
    return views.view()


def test_what_one_writes_another_sees(connect: Callable[[], Views]) -> None:
    one, other = connect(), connect()
    one.publish("n1", b"first")
    assert one.view().members == {"n1": b"first"}
    sees(other, lambda view: view.members == {"n1": b"first"})
    assert one.claim("g1", ("", 0), "n1") == ("n1", 1)
    assert one.view().owners == {"g1": ("n1", 1)}
    sees(other, lambda view: view.owners == {"g1": ("n1", 1)})
    one.withdraw("n1")
    assert one.view().members == {}
    sees(other, lambda view: view.members == {})
    one.publish("n1", b"again")
    assert one.view().members == {"n1": b"again"}
    sees(other, lambda view: view.members == {"n1": b"again"})


def test_a_claim_on_an_old_sight_asks_before_it_gives_up(connect: Callable[[], Views]) -> None:
    one, other = connect(), connect()
    other.view()
    seen = one.claim("g1", ("", 0), "n1")
    assert seen is not None
    assert other.claim("g1", seen, "n2") == ("n2", 2)  # whether its watch has told it or not
    assert one.claim("g1", seen, "n1") is None
    assert one.claim("g1", ("n2", 2), "n1") == ("n1", 3)


def test_a_winner_has_raised_the_fence(etcd: EtcdCluster) -> None:
    fences = Fences()
    registry = EtcdRegistry(etcd.endpoints, PATIENT)
    views = Views(registry, f"/t{next(_numbers)}/", fences)
    assert views.claim("g1", ("", 0), "n1") == ("n1", 1)
    assert views.claim("g1", ("", 0), "n2") is None
    assert views.claim("g1", ("n1", 1), "n2") == ("n2", 2)
    assert fences.raised == {"g1": 2}
    registry.close()


def test_of_racing_claims_one_wins_each_epoch(connect: Callable[[], Views]) -> None:
    rounds = 30
    won: list[int] = []

    def race(views: Views, node: str) -> None:
        for _ in range(rounds):
            mine = views.claim("g1", views.view().owners.get("g1", ("", 0)), node)
            if mine is not None:
                won.append(mine[1])

    threads = [
        threading.Thread(target=race, args=(connect(), f"n{n}"), daemon=True) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, len(won) + 1)) and won


@pytest.mark.parametrize("kind", ["embedded", "etcd"])
def test_a_member_is_dated_by_when_it_was_first_seen_so(
    request: pytest.FixtureRequest, directory: Path, kind: str
) -> None:
    if kind == "etcd":
        connect = request.getfixturevalue("connect")
        one, other = connect(), connect()
    else:
        store = request.getfixturevalue("store")
        one, other = EmbeddedViews(store), EmbeddedViews(store)
    before_ns = now_ns()
    one.publish("n1", b"1")
    one.publish("n2", b"1")
    first = sees(other, lambda view: len(view.members) == 2)
    assert before_ns <= first.seen_ns["n1"] <= now_ns()
    one.publish("n2", b"2")
    second = sees(other, lambda view: view.members["n2"] == b"2")
    assert second.seen_ns["n1"] == first.seen_ns["n1"]
    assert second.seen_ns["n2"] > first.seen_ns["n2"]
    one.publish("n2", b"2")  # the same words again are a renewal
    sees(other, lambda view: view.seen_ns["n2"] > second.seen_ns["n2"])
    own = sees(one, lambda view: view.current_ns > 0)
    assert own.age_ms(own.current_ns + 5_000_000) == 5.0


@pytest.fixture
def store(directory: Path) -> Iterator[statestore.Store]:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as opened:
        yield opened


def test_an_unchanged_record_is_not_written_within_the_renewal_time(
    store: statestore.Store,
) -> None:
    time_ns = [now_ns()]
    registry = EmbeddedRegistry(store)
    views = Views(registry, "v/", renew_ms=3_600_000, clock=lambda: time_ns[0])

    def revision() -> int:
        found = registry.get("v/m/n1")
        return found.revision if found else 0

    views.publish("n1", b"1")
    first = revision()
    views.publish("n1", b"1")
    assert revision() == first
    views.publish("n1", b"2")
    second = revision()
    assert second > first
    time_ns[0] += 2 * 3_600_000 * 1_000_000
    views.publish("n1", b"2")
    assert revision() > second
    third = revision()
    registry.delete("v/m/n1")
    views.publish("n1", b"2")
    assert revision() > third


def test_without_etcd_there_is_no_view_and_a_reason(directory: Path) -> None:
    options = EtcdOptions(timeout_ms=300, attempt_ms=5_000)
    registry = EtcdRegistry(["http://127.0.0.1:1"], options)
    views = Views(registry, "/t/")
    for call in (views.view, views.view, lambda: views.publish("n1", b"1")):
        with pytest.raises(statestore.Unavailable, match=r"127\.0\.0\.1:1 .*refused"):
            call()
    registry.close()


def test_the_own_record_is_asked_of_the_registry(registry: Registry) -> None:
    assert registry.record("n1") is None
    registry.publish(Member("n1", 1, 100, drained=True))
    registry.publish(Member("n2", 1, 100))
    found = registry.record("n1")
    assert found is not None and found.drained
    assert registry.record("n3") is None


def test_who_has_written_nothing_yet_becomes_current_by_asking(
    connect: Callable[[], Views],
) -> None:
    """A failover process that waited for its packet path while others renewed: nothing of its own
    proves how current its view is, and without a current view it would never write."""
    other = StoreRegistry(connect())
    late_views = connect()
    late = ClusterRegistry(late_views, STALE_MS)
    count = 0

    def refused() -> bool:
        nonlocal count
        count += 1
        other.publish(Member("n2", 1, count))  # the stream is never silent
        try:
            late.view()
        except RegistryUnavailable:
            return True
        return False

    eventually(refused, "the view is too old to act on")

    def asked() -> bool:
        late.record("n1")
        return not refused()

    eventually(asked, "it is current again")
