"""A new owner whose member has just joined: keys first, values later, and nothing is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import statestore
from bgf.events import PutFlow
from bgf.model import Address, Component, Flow
from bgf.runtime import catching_up
from bgf.runtime.catching_up import catch_up
from bgf.runtime.feed import FETCHED_MAX, Changes, FlowFeed
from bgf.runtime.store_adapters import StoreFlows
from statestore.errors import Unavailable
from tests.fakes.thin_handle import ThinHandle

CALLS = FETCHED_MAX + 20


@pytest.fixture
def store(directory: Path) -> Iterator[statestore.Store]:
    with statestore.open(f"dal://{directory}", size_bytes=8 << 20) as opened:
        yield opened


def flow(number: int, group: str = "g1") -> Flow:
    port = 30_000 + 4 * number
    return Flow(
        group, f"call-{number}", 0, Component.RTP,
        "access", Address("fd00:a::101", port), "core", Address("10.20.0.101", port + 2),
    )  # fmt: skip


class JustJoined:
    """A store that has all keys and no value; `answers`: others can be asked for them."""

    def __init__(self, store: statestore.Store) -> None:
        self._store = store
        self.answers = True
        self.journeys: list[int] = []

    def watch(self, prefix: str) -> statestore.Watch:
        return self._store.watch(prefix)

    def scan(self, prefix: str) -> list[ThinHandle]:
        return [ThinHandle(handle, lambda: False) for handle in self._store.scan(prefix)]

    def lookup(self, key: bytes) -> ThinHandle:
        return ThinHandle(self._store.lookup(key), lambda: False)

    def read_many(self, handles: Sequence[ThinHandle]) -> list[bytes | None]:
        self.journeys.append(len(handles))
        if not self.answers:
            return [None] * len(handles)
        return list(self._store.read_many([one.handle for one in handles]))


class Node:
    """Follows the feed; its member begins to serve at the third look."""

    def __init__(self, feed: FlowFeed, looks: int = 3) -> None:
        self.feed = feed
        self.behind = True
        self.looks = looks
        self.applied: Changes = []

    def follow(self) -> None:
        self.looks -= 1
        if self.looks <= 0 and self.behind:
            self.behind = False
            self.apply_feed(self.feed.load())

    def apply_feed(self, changes: Changes) -> None:
        self.applied += changes


def joined(store: statestore.Store) -> tuple[JustJoined, Node]:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    for number in range(CALLS):
        flows.record(f"call-{number}", [flow(number)])
    StoreFlows(store, "g2", store.grant("g2", 1)).record("call-7", [flow(7, "g2")])
    bare = JustJoined(store)
    return bare, Node(FlowFeed(bare))  # type: ignore[arg-type]


def test_it_waits_until_the_member_serves_and_reads_what_has_not_come(
    store: statestore.Store,
) -> None:
    bare, node = joined(store)
    asyncio.run(catch_up(node, "g1", 3))
    assert not node.behind and "g1" not in node.feed.unread()
    assert node.feed.calls("g1") == node.feed.pairs("g1") == CALLS
    assert set(node.feed.flows("g1").values()) == {flow(number) for number in range(CALLS)}
    assert sorted(bare.journeys) == [CALLS - FETCHED_MAX, FETCHED_MAX]
    assert node.feed.unread() == {"g2"}, "nobody waits for another group"
    assert {one.flow for one in node.applied if isinstance(one, PutFlow)} == {
        flow(number) for number in range(CALLS)
    }


def test_what_is_gone_meanwhile_is_not_waited_for(store: statestore.Store) -> None:
    bare, node = joined(store)
    node.looks = 0
    node.follow()
    StoreFlows(store, "g1", store.grant("g1", 1)).record("call-0", [])
    asyncio.run(catch_up(node, "g1", 3))
    assert node.feed.calls("g1") == CALLS - 1
    assert sum(bare.journeys) == CALLS - 1


def test_what_nobody_gives_is_waited_for_for_a_while(
    store: statestore.Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bare, node = joined(store)
    bare.answers = False
    monkeypatch.setattr(catching_up, "CATCH_UP_MS", 30)
    asyncio.run(catch_up(node, "g1", 3))
    assert "g1" in node.feed.unread() and bare.journeys
    (line,) = caplog.messages
    assert line == (
        f"group g1 epoch 3: begins without the flows of some calls: {CALLS + 1} values are not"
        " to be had"
    )


def test_a_store_that_is_away_is_the_takeovers_business(
    store: statestore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, node = joined(store)

    def away(_: Sequence[ThinHandle]) -> list[bytes | None]:
        raise Unavailable("no server answers")

    monkeypatch.setattr(bare, "read_many", away)
    with pytest.raises(Unavailable):
        asyncio.run(catch_up(node, "g1", 3))
