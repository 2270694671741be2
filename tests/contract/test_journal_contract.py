"""One suite for the journal and flow store of the hands: the fake of the simulations, and the
state store's adapters on an embedded segment and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import statestore
from bgf import journal
from bgf.errors import Fenced
from bgf.events import Command, Verb
from bgf.model import Address, Component, Flow
from bgf.records import FlowStore, Journal
from bgf.runtime.feed import FlowFeed
from bgf.runtime.store_adapters import EMBEDDED, EVERYWHERE, Copies, StoreFlows, StoreJournal
from statestore.member_records import Timers
from statestore.server import local_cluster
from tests.fakes.journal import NodeFlows, NodeJournal, Shared

# Nobody's death is the subject here: a busy machine must not look like one.
PATIENT = Timers(lease_ms=20_000, renew_ms=500, suspect_ms=30_000, patience_ms=1_000)
LONG_CALL_ID = "x" * 240 + "@example.com"


class World(NamedTuple):
    """`node(epoch)` gives that owner's hands; `fence()` begins the next epoch and returns it."""

    node: Callable[[int], tuple[Journal, FlowStore]]
    fence: Callable[[], int]
    flows: Callable[[], set[Flow]]


def fake() -> World:
    shared = Shared()
    return World(
        lambda epoch: (NodeJournal(shared, epoch), NodeFlows(shared, epoch)),
        shared.fence,
        lambda: set(shared.flows.values()),
    )


def real(
    store: statestore.Store, journals: Copies = EMBEDDED, pinholes: Copies = EMBEDDED
) -> World:
    def node(epoch: int) -> tuple[Journal, FlowStore]:
        grant = store.grant("g1", epoch)
        return (
            StoreJournal(store, "g1", grant, journals),
            StoreFlows(store, "g1", grant, pinholes),
        )

    def fence() -> int:
        epoch = store.fence("g1") + 1
        assert store.raise_fence("g1", epoch)
        return epoch

    def flows() -> set[Flow]:
        feed = FlowFeed(store)
        feed.load()
        return set(feed.everything())

    return World(node, fence, flows)


@pytest.fixture
def store(directory: Path) -> Iterator[statestore.Store]:
    with statestore.open(f"dal://{directory}", size_bytes=16 << 20) as opened:
        yield opened


@pytest.fixture
def clustered(directory: Path) -> Iterator[statestore.Store]:
    """A client of one member of two."""
    with (
        local_cluster(2, directory / "cluster", timers=PATIENT) as cluster,
        statestore.open(
            cluster.addresses[1], create=False, key_file=cluster.key_file, timeout_ms=20_000
        ) as opened,
    ):
        yield opened


@pytest.fixture(params=["fake", "embedded", "cluster"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return fake()
    if request.param == "embedded":
        return real(request.getfixturevalue("store"))
    store = request.getfixturevalue("clustered")
    return real(store, Copies(2, sync=True), Copies(EVERYWHERE, sync=True))


def entry(call_id: str, number: int = 0) -> bytes:
    return journal.encode(Command(number, f"cookie-{number}", Verb.DELETE, call_id))


def flow(port: int, session: str = "call") -> Flow:
    return Flow(
        "g1", session, 0, Component.RTP,
        "access", Address("fd00:a::101", port), "core", Address("10.20.0.101", port + 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "call_id", ["call", "with / slashes %2f", "Ünïcode", LONG_CALL_ID, "sha256:1"]
)
def test_entries_come_back_in_order(world: World, call_id: str) -> None:
    written, _ = world.node(world.fence())
    entries = [entry(call_id, number) for number in range(5)]
    for one in entries:
        written.append(call_id, one)
    read, _ = world.node(1)
    for each in (written, read):
        assert list(each.entries(call_id)) == entries
        together = each.several([call_id, "never", call_id])
        assert list(together.get(call_id, entries)) == entries and not together.get("never")
        assert list(each.calls()) == [call_id]
    written.replace(call_id, entries[3:])
    written.append(call_id, entries[0])
    assert list(read.entries(call_id)) == [entries[3], entries[4], entries[0]]
    written.forget(call_id)
    written.forget(call_id)
    assert list(read.entries(call_id)) == []
    assert list(read.calls()) == []
    assert not any(read.several([call_id, "never"]).values())
    read.append(call_id, entries[1])  # through a handle of what is gone
    assert list(read.entries(call_id)) == [entries[1]]


def test_the_mark_is_the_last_one(world: World) -> None:
    kept, _ = world.node(world.fence())
    assert kept.marked() == ""
    for call_id in ("a", LONG_CALL_ID, "b"):
        kept.mark(call_id)
        assert kept.marked() == call_id
    assert world.node(1)[0].marked() == "b"


def test_an_older_epoch_writes_nothing(world: World) -> None:
    old_journal, old_flows = world.node(world.fence())
    old_journal.append("call", entry("call"))
    old_flows.record("call", [flow(30_000)])
    old_journal.check()
    new_journal, new_flows = world.node(world.fence())
    refused: list[Callable[[], None]] = [
        old_journal.check,
        lambda: old_journal.mark("call"),
        lambda: old_journal.append("call", entry("call", 1)),
        lambda: old_journal.append("new", entry("new")),
        lambda: old_journal.replace("call", [entry("call", 2)]),
        lambda: old_journal.forget("call"),
        lambda: old_flows.record("call", [flow(30_000), flow(30_002)]),
        lambda: old_flows.record("other", [flow(30_002, "other")]),
        lambda: old_flows.record("call", []),
    ]
    for write in refused:
        with pytest.raises(Fenced):
            write()
    assert list(new_journal.calls()) == ["call"]
    assert list(new_journal.entries("call")) == [entry("call")]
    assert world.flows() == {flow(30_000)}
    new_journal.append("call", entry("call", 3))
    new_flows.record("call", [])
    assert world.flows() == set()


@pytest.mark.parametrize("call_id", ["call", "with / slashes %2f", LONG_CALL_ID])
def test_the_flows_of_a_call_are_one_item(world: World, call_id: str) -> None:
    _, flows = world.node(world.fence())
    flows.record(call_id, [flow(30_000, call_id), flow(30_002, call_id)])
    flows.record("next", [flow(30_004, "next")])
    assert world.flows() == {
        flow(30_000, call_id),
        flow(30_002, call_id),
        flow(30_004, "next"),
    }
    flows.record(call_id, [flow(30_002, call_id)])
    assert world.flows() == {flow(30_002, call_id), flow(30_004, "next")}
    for _ in range(2):
        flows.record(call_id, [])
        assert world.flows() == {flow(30_004, "next")}
    many = [flow(port, call_id) for port in range(31_000, 31_064, 2)]
    flows.record(call_id, many)  # far more than an item begins with
    assert world.flows() == {flow(30_004, "next"), *many}


def test_another_owners_item_is_written_on(world: World) -> None:
    _, before = world.node(world.fence())
    before.record("call", [flow(30_000)])
    _, after = world.node(world.fence())
    after.record("call", [flow(30_002)])
    assert world.flows() == {flow(30_002)}
    after.record("call", [])
    assert world.flows() == set()


def test_a_feed_tells_what_changed(store: statestore.Store) -> None:
    _, flows = real(store).node(1)
    feed = FlowFeed(store)
    flows.record("call", [flow(30_000)])
    flows.record("other", [flow(30_002, "other")])
    flows.record("other", [])
    told = {one.flow for one in feed.drain() if hasattr(one, "flow")}
    assert told == {flow(30_000)} == set(feed.everything())
    assert feed.drain() == []
    flows.record("call", [flow(30_000)])  # the same again is no news
    assert feed.drain() == []
    flows.record("call", [])
    assert [one.key for one in feed.drain() if hasattr(one, "key")] == [flow(30_000).key]


def test_an_overrun_feed_reads_everything_anew(store: statestore.Store) -> None:
    _, flows = real(store).node(1)
    flows.record("call", [flow(30_000)])
    feed = FlowFeed(store)
    feed.load()
    flows.record("call", [])
    flows.record("other", [flow(30_002, "other")])
    counter = store.put("elsewhere", bytes(8))
    for _ in range(200_000):  # more changes than the feed remembers
        counter.add(1)
    feed.drain()
    assert feed.tally["overruns"] >= 1
    assert set(feed.everything()) == {flow(30_002, "other")}


def test_what_is_no_flow_is_counted_and_passed_over(store: statestore.Store) -> None:
    store.put("f/g1/a call", b"\xc1 not msgpack")
    store.put("f/nonsense", b"")
    feed = FlowFeed(store)
    assert feed.load() == []
    store.put("f/g1/a call", b"\xff again")
    store.put("f/nonsense", b"x")
    assert feed.drain() == []
    assert feed.tally["unreadable"] >= 2 and feed.tally["foreign"] >= 1
