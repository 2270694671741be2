"""The runtime's small parts: readiness, leases across clocks, parked commands, the feed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import statestore
from bgf.control import ng
from bgf.control.client import encode_request
from bgf.control.server import Incoming
from bgf.errors import StateError, Unserved
from bgf.events import DropFlow, PutFlow
from bgf.model import Address as At
from bgf.model import Component, Flow
from bgf.runtime.feed import LATE_POLLS, FlowFeed
from bgf.runtime.readiness import LACKING_MS, LOOK_MS, VALID_MS, Readiness, ReadyMark
from bgf.runtime.registry_adapters import ClusterRegistry
from bgf.runtime.served import PARKED_MAX, Served
from bgf.runtime.store_adapters import (
    EMBEDDED,
    StoreFlows,
    StoreJournal,
    encode_flows,
    pairs_in,
)
from bgf.runtime.takeover import Takeover
from failover.registry import Member, Ownership, RegistryUnavailable
from statestore.errors import Full, NotServing, Unavailable
from statestore.registry import EmbeddedRegistry
from statestore.views import Views
from tests.fakes.calls import GROUP
from tests.fakes.thin_handle import ThinHandle

MS = 1_000_000


@pytest.fixture
def store(directory: Path) -> Iterator[statestore.Store]:
    with statestore.open(f"dal://{directory}", size_bytes=8 << 20) as opened:
        yield opened


def test_readiness_is_a_word_that_ages(tmp_path: Path) -> None:
    readiness, now_ns = Readiness(tmp_path), 10**12
    assert not readiness.fresh(now_ns)
    readiness.publish(ReadyMark(now_ns, 4, 1))
    assert readiness.fresh(now_ns) and readiness.fresh(now_ns + (VALID_MS - 1) * MS)
    assert not readiness.fresh(now_ns + VALID_MS * MS)
    assert not readiness.fresh(now_ns - 1)  # of another boot
    (tmp_path / "gateway.ready").write_bytes(b"\xffhalf")
    now_ns += LOOK_MS * MS
    assert not readiness.fresh(now_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.ready"]
    why = readiness.lacks(now_ns)
    assert why == ["its gateway process does not follow the change feed, or is dead"]


def test_pinholes_on_their_way_are_no_lack_for_a_while(tmp_path: Path) -> None:
    readiness, now_ns = Readiness(tmp_path), 10**12
    readiness.publish(ReadyMark(now_ns, 4, 1, recorded=4))
    assert readiness.lacks(now_ns) == []
    for passed_ms, lacks in ((500, False), (LACKING_MS, True)):
        at_ns = now_ns + passed_ms * MS
        readiness.publish(ReadyMark(at_ns, 4, 1, recorded=6))
        assert bool(readiness.lacks(at_ns)) is lacks
        assert readiness.fresh(at_ns)  # it could still take over: nearly everything is better


class Clock:
    """One host's CLOCK_BOOTTIME."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


def test_a_lease_is_counted_by_the_clock_of_who_reads_it(store: statestore.Store) -> None:
    """Two hosts whose clocks are an hour apart agree on how long a lease still is, or the reader
    takes it to be longer: never shorter."""
    shared = EmbeddedRegistry(store)
    here, there = Clock(5_000 * MS), Clock(3_600_000 * MS)
    writer = ClusterRegistry(Views(shared, "/x/", clock=there), 1e12, there)
    views = Views(shared, "/x/", clock=here)
    reader = ClusterRegistry(views, 1e12, here)
    writer.publish(Member("n1", 1, there.now_ns + 800 * MS, ready=True))
    member = reader.view().members["n1"]
    seen_ns = views.view().seen_ns["n1"]
    assert member.lease_deadline_ns == seen_ns + 800 * MS
    writer.publish(Member("n1", 1, there.now_ns - 1))  # over already
    assert reader.view().members["n1"].lease_deadline_ns <= views.view().seen_ns["n1"]
    assert reader.claim("g1", Ownership(), "n2") == Ownership("n2", 1)
    assert writer.view().owners == {"g1": Ownership("n2", 1)}


def test_a_view_that_is_too_old_is_no_view(store: statestore.Store) -> None:
    views = Views(EmbeddedRegistry(store), "/x/")
    far = Clock(views.view().current_ns + 10**15)
    with pytest.raises(RegistryUnavailable, match="nothing heard from etcd for"):
        ClusterRegistry(views, 500, far).view()


def incoming(cookie: str, port: int = 5000) -> Incoming:
    datagram = encode_request(cookie, {"command": "ping"})
    return Incoming(ng.decode(datagram)[1], datagram, ("10.30.0.5", port))


def test_commands_wait_for_a_takeover_once_each_and_not_without_end() -> None:
    served = Served(GROUP)
    assert served.role == "standby"
    served.park(incoming("a"))
    served.park(incoming("b"))
    served.park(incoming("a"))  # the same again
    served.park(incoming("a", port=5001))  # somebody else's
    kept = served.unpark()
    assert [(i.request.cookie, cast(tuple[str, int], i.peer)[1]) for i in kept] == [
        ("a", 5000),
        ("b", 5000),
        ("a", 5001),
    ]
    assert served.unpark() == []
    for number in range(PARKED_MAX + 10):
        served.park(incoming(f"c{number}"))
    assert len(served.unpark()) == PARKED_MAX


def test_a_takeover_waits_for_the_state_plane(directory: Path) -> None:
    tries = []

    def opened() -> statestore.Store:
        tries.append(1)
        if len(tries) < 3:
            raise NotServing("not in the view yet")
        return statestore.open(f"dal://{directory}", size_bytes=8 << 20)

    async def run() -> None:
        takeover = Takeover(opened, EMBEDDED)
        assert await takeover.prepare("g1", 4)
        assert await takeover.prepare("g1", 4)  # again, after a restart
        assert not await takeover.prepare("g1", 3)
        takeover.close()

    asyncio.run(run())
    assert len(tries) == 3
    with statestore.open(f"dal://{directory}") as store:
        assert store.fence("g1") == 4


def test_a_takeover_opens_its_store_before_it_is_needed(directory: Path) -> None:
    opened = threading.Event()

    def open_store() -> statestore.Store:
        opened.set()
        return statestore.open(f"dal://{directory}", size_bytes=8 << 20)

    takeover = Takeover(open_store, EMBEDDED)
    assert opened.wait(10)
    takeover.close()


def marks(store: statestore.Store) -> list[bytes]:
    return sorted(handle.key for handle in store.scan("m/"))


def owner(store: statestore.Store, epoch: int) -> StoreJournal:
    store.raise_fence("g1", epoch)
    return StoreJournal(store, "g1", store.grant("g1", epoch))


def test_an_owner_begins_with_the_mark_of_the_one_before(store: statestore.Store) -> None:
    first = owner(store, 9)
    assert first.settle() == "" and marks(store) == []
    first.mark("call-9")
    second = owner(store, 10)
    assert second.marked() == "call-9"
    assert second.settle() == "call-9" and marks(store) == [b"m/g1/10", b"m/g1/9"]
    second.mark("call-10")
    second.tidy()
    assert marks(store) == [b"m/g1/10"]
    assert owner(store, 11).marked() == "call-10"
    again = StoreJournal(store, "g1", store.grant("g1", 11))  # of the same epoch, restarted
    again.mark("call-11")
    assert again.marked() == "call-11"
    restarted = StoreJournal(store, "g1", store.grant("g1", 11))
    assert restarted.settle() == "call-11"


def test_the_newest_mark_counts_wherever_it_is(store: statestore.Store) -> None:
    """An owner that marked nothing leaves a gap; one that died before it had tidied up, a trace."""
    owner(store, 3).mark("call-3")
    owner(store, 5).mark("call-5")
    after = owner(store, 8)
    assert after.settle() == "call-5"
    after.tidy()
    assert marks(store) == [b"m/g1/5"] and after.marked() == "call-5"
    after.mark("call-8")
    assert marks(store) == [b"m/g1/5", b"m/g1/8"]
    last = owner(store, 9)
    assert last.settle() == "call-8" and last.marked() == "call-8"
    last.tidy()
    assert marks(store) == [b"m/g1/9"]


def test_a_full_store_does_not_keep_an_owner_from_beginning(
    store: statestore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> statestore.Handle:
        raise Full("no room")

    owner(store, 3).mark("call-3")
    after = owner(store, 4)
    with monkeypatch.context() as patched:
        patched.setattr(statestore.Store, "create", full)
        assert after.settle() == "call-3" and marks(store) == [b"m/g1/3"]
    after.mark("call-4")
    assert after.marked() == "call-4"


def flow(port: int, session: str = "call") -> Flow:
    return Flow(
        "g1", session, 0, Component.RTP,
        "access", At("fd00:a::101", port), "core", At("10.20.0.101", port + 2),
    )  # fmt: skip


class Thin:
    """A store some of whose items are elsewhere, and which may not answer."""

    def __init__(self, store: statestore.Store) -> None:
        self._store = store
        self.copies = True
        self.answers = True

    def watch(self, prefix: bytes) -> statestore.Watch:
        return self._store.watch(prefix)

    def scan(self, prefix: bytes) -> Iterator[ThinHandle]:
        for handle in self._store.scan(prefix):
            yield ThinHandle(handle, lambda: self.copies)

    def lookup(self, key: bytes) -> ThinHandle:
        if not self.answers:
            raise Unavailable("nobody answers")
        return ThinHandle(self._store.lookup(key), lambda: self.copies)


def test_the_feed_waits_for_copies_and_asks_for_late_ones(store: statestore.Store) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    thin = Thin(store)
    feed = FlowFeed(thin)  # type: ignore[arg-type]
    thin.copies = False
    flows.record("call", [flow(30_000)])
    assert feed.poll() == [] and feed.missing == 1
    soon = feed.waits
    thin.copies = True
    flows.record("call", [flow(30_000)])  # its copy comes: that is a change as well
    assert feed.poll() == [PutFlow(flow(30_000))] and feed.missing == 0
    assert soon and not feed.waits
    thin.copies = False
    flows.record("other", [flow(30_002, "other")])
    told = [effect for _ in range(LATE_POLLS + 2) for effect in feed.poll()]
    assert told == [PutFlow(flow(30_002, "other"))] and feed.missing == 0


def test_a_feed_read_anew_keeps_what_it_knows_until_the_copy_comes(
    store: statestore.Store,
) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    flows.record("call", [flow(30_000)])
    thin = Thin(store)
    feed = FlowFeed(thin)  # type: ignore[arg-type]
    assert feed.load() == [PutFlow(flow(30_000))]
    thin.copies = False
    assert feed.load() == [] and feed.missing == 1
    assert set(feed.everything()) == {flow(30_000)}


def test_a_change_that_cannot_be_looked_up_now_is_not_forgotten(store: statestore.Store) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    thin = Thin(store)
    feed = FlowFeed(thin)  # type: ignore[arg-type]
    flows.record("call", [flow(30_000)])
    thin.answers = False
    assert feed.drain() == [] and feed.missing == 1
    thin.answers = True
    told = [effect for _ in range(LATE_POLLS + 2) for effect in feed.poll()]
    assert told == [PutFlow(flow(30_000))]


def test_the_marked_calls_flows_are_read_from_their_masters(store: statestore.Store) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    flows.record("call", [flow(30_000), flow(30_004)])
    flows.record("other", [flow(30_002, "other")])
    feed = FlowFeed(store)
    feed.load()
    flows.record("call", [flow(30_006)])  # what the copies here do not know yet
    found = feed.found("g1", "call")
    assert list(found.flows("call")) == [flow(30_006)]
    assert found.pairs == {30_006: "call", 30_002: "other"}
    known = feed.found("g1", "other")
    assert list(known.flows("call")) == [flow(30_000), flow(30_004)]
    assert known.pairs == {30_000: "call", 30_004: "call", 30_002: "other"}
    flows.record("call", [])
    gone = feed.found("g1", "call")
    assert (list(gone.calls()), gone.pairs) == (["other"], {30_002: "other"})
    assert (list(gone.pairs_of("call")), list(gone.pairs_of("other"))) == ([], [30_002])


def test_a_marked_calls_flows_that_cannot_be_read_stop_the_takeover(
    store: statestore.Store,
) -> None:
    """Its port pairs would be free to draw, and somebody's voice is on them."""
    grant = store.grant("g1", 1)
    StoreFlows(store, "g1", grant).record("call", [flow(30_000)])
    feed = FlowFeed(store)
    feed.load()
    store.lookup(b"f/g1/call").write(b"\xffof another version", grant=grant)
    with pytest.raises(StateError):
        feed.found("g1", "call")


def test_what_is_found_is_the_feeds_until_it_is_kept(store: statestore.Store) -> None:
    """A takeover that fails half-way is begun anew, with all that was found."""
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    flows.record("call", [flow(30_000), flow(30_004)])
    flows.record("other", [flow(30_002, "other")])
    feed = FlowFeed(store)
    feed.load()
    found = feed.found("g1", "call")
    assert found.span == (30_000, 30_004) and set(found.pairs_of("call")) == {30_000, 30_004}
    found.forget("call")
    assert "call" not in found and list(found.calls()) == ["other"] and feed.calls("g1") == 2
    again = feed.found("g1", "call")
    assert set(again.calls()) == {"call", "other"}
    again.forget("call")
    feed.hush("g1")
    again.keep()
    again.forget("other")
    assert list(again.calls()) == [] and not again.flows("other")


def test_a_flows_item_that_is_none_has_no_pairs() -> None:
    whole = encode_flows([flow(30_001), flow(30_002)])
    assert pairs_in(whole) == {30_000, 30_002}
    for broken in (b"", whole[:1], whole[:-1], b"\x01\x00", b"\xff" * 40):
        assert pairs_in(broken) == set()


def test_a_hushed_group_is_passed_over_until_it_is_heard_again(store: statestore.Store) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    flows.record("call", [flow(30_000)])
    feed = FlowFeed(store)
    assert feed.load() == [PutFlow(flow(30_000))]
    feed.hush("g1")
    flows.record("other", [flow(30_002, "other")])
    assert feed.drain() == [] and list(feed.everything()) == []
    feed.hear("g1")
    assert set(feed.load()) == {PutFlow(flow(30_000)), PutFlow(flow(30_002, "other"))}


def test_a_port_that_went_from_call_to_call_is_not_closed_by_the_first(
    store: statestore.Store,
) -> None:
    flows = StoreFlows(store, "g1", store.grant("g1", 1))
    feed = FlowFeed(store)
    flows.record("call", [flow(30_000), flow(30_002)])
    feed.drain()
    flows.record("next", [flow(30_000, "next")])
    flows.record("call", [flow(30_002)])
    assert feed.drain() == [PutFlow(flow(30_000, "next"))]
    flows.record("call", [])
    assert feed.drain() == [DropFlow("g1", flow(30_002).key)]
    assert feed.found("g1", "").pairs == {30_000: "next"}


def test_commands_are_refused_with_a_sentence_when_the_state_plane_is_away_for_long() -> None:
    served = Served(GROUP)
    assert not served.owned_by("n2", "n1")
    served.refuse_unserved(9_000_000_000)  # another node's: it is silent here
    assert served.owned_by("n1", "n1") and served.owned_before == "n2"
    served.refuse_unserved(5_000_000_000)  # the proxy asks again
    with pytest.raises(Unserved, match=r"has not served this node for 7 s .*cannot be changed"):
        served.refuse_unserved(7_000_000_000)
