"""One suite for every registry: the null twin in memory, and the embedded one in shared memory.

What it holds them to is `failover.registry.Registry`: one claimant wins, epochs only rise, a
record is whole, and (where there is a store) the winner's epoch is fenced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import statestore
from bgf.runtime.store_adapters import StoreRegistry
from failover.registry import (
    Member,
    MemoryRegistry,
    Ownership,
    Registry,
    RegistryUnavailable,
    View,
)
from statestore.views import EmbeddedViews

SIZE_BYTES = 4 << 20


@pytest.fixture(params=["memory", "embedded"])
def registry(request: pytest.FixtureRequest, directory: Path) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
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

    threads = [threading.Thread(target=race, args=(node,)) for node in won]
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
        store.put("v/o/g1", b"bad")
        with pytest.raises(RegistryUnavailable, match="g1"):
            registry.view()
