"""The machine that a new owner has at hand when its fence is raised: as it would be made then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import statestore
from bgf.gateway import Gateway
from bgf.model import Address, Component, Flow
from bgf.runtime.at_hand import AtHand
from bgf.runtime.feed import FlowFeed
from bgf.runtime.store_adapters import StoreFlows
from tests.fakes.gateway_machine import GROUP

PORTS = range(30_000, 30_048, 2)


@pytest.fixture
def store(directory: Path) -> Iterator[statestore.Store]:
    with statestore.open(f"dal://{directory}", size_bytes=8 << 20) as opened:
        yield opened


def flow(port: int, session: str) -> Flow:
    return Flow(
        "g1", session, 0, Component.RTP,
        "access", Address("fd00:a::101", port), "core", Address("10.20.0.101", port + 2),
    )  # fmt: skip


class World:
    """A group's recorded flows, a feed of them, and how often a machine was made."""

    def __init__(self, store: statestore.Store) -> None:
        self.recorded = StoreFlows(store, "g1", store.grant("g1", 1))
        self.feed = FlowFeed(store)
        self.made = 0
        for call_id, ports in (("one", (30_000, 30_004)), ("two", (30_002,))):
            self.recorded.record(call_id, [flow(port, call_id) for port in ports])
        self.feed.load()
        self.at_hand = AtHand(self.feed, "g1", self.make)

    def make(self) -> Gateway:
        self.made += 1
        return Gateway(GROUP, ("access", "core"))

    def after(self, meanwhile: Callable[[], object], marked: str = "") -> dict[int, str]:
        """Whose each pair is in the machine that a takeover gets, `meanwhile` having happened."""
        self.at_hand.begin()
        meanwhile()
        self.feed.drain()
        found = self.feed.found("g1", marked)
        machine = self.at_hand.machine(found)
        owners = {port: machine.call_of(flow(port, "").key) for port in PORTS}
        known = {port: call_id for port, call_id in owners.items() if call_id}
        assert known == found.pairs and set(machine.adopted()) == set(found.calls())
        return known


KNOWN = {30_000: "one", 30_004: "one", 30_002: "two"}


@pytest.mark.parametrize("marked", ["", "one", "unheard of"])
def test_when_nothing_has_changed_it_is_the_one_that_was_begun(
    store: statestore.Store, marked: str
) -> None:
    world = World(store)
    assert world.after(lambda: None, marked) == KNOWN
    assert world.made == 1


def test_what_the_last_owner_still_wrote_is_in_it(store: statestore.Store) -> None:
    world = World(store)
    late = [flow(30_006, "three")]
    assert world.after(lambda: world.recorded.record("three", late)) == KNOWN | {30_006: "three"}
    assert world.made == 2


def test_what_he_closed_is_not(store: statestore.Store) -> None:
    world = World(store)
    assert world.after(lambda: world.recorded.record("one", [])) == {30_002: "two"}


def test_the_marked_call_is_as_its_master_says(store: statestore.Store) -> None:
    world = World(store)

    def behind_the_feed() -> None:
        world.feed.drain()
        world.recorded.record("one", [flow(30_008, "one")])

    world.feed.drain = list  # type: ignore[method-assign]
    assert world.after(behind_the_feed, "one") == {30_002: "two", 30_008: "one"}


def test_a_group_that_was_hushed_meanwhile_is_begun_anew(store: statestore.Store) -> None:
    world = World(store)

    def away_and_back() -> None:
        world.feed.hush("g1")
        world.recorded.record("two", [])
        world.feed.hear("g1")
        world.feed.load()

    assert world.after(away_and_back) == {30_000: "one", 30_004: "one"}


def test_each_try_has_its_own(store: statestore.Store) -> None:
    world = World(store)
    world.at_hand.begin()
    found = world.feed.found("g1", "")
    first = world.at_hand.machine(found)
    assert world.at_hand.machine(found) is not first
    assert AtHand(world.feed, "g1", world.make).machine(found) is not first  # never begun
