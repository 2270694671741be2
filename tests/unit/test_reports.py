"""What the packet path reports reaches the machine that it is about, and no other one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from bgf.events import Notify, Verb
from bgf.found import FoundFlows
from bgf.gateway import Gateway, Limits
from bgf.hands import ActiveHands, Driver, Outcome
from bgf.journal import Recorder, replay
from bgf.media.datapath import MediaSilent, PeerLearned, Report
from bgf.model import Address, Counters, Flow, FlowKey
from bgf.runtime import reports as reports_module
from bgf.runtime.reports import LogNotices, MediaReports
from bgf.runtime.served import Served
from bgf.session import Site, State
from tests.fakes.calls import GROUP, NS_PER_S, POLICIES, REALMS, command, line
from tests.fakes.flows import Pinholes, Replies
from tests.fakes.journal import NodeFlows, NodeJournal, Shared

ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)
NAT = Address("2001:db8::7", 61_000)


class Path:
    """A packet path that says what a test puts into its mouth."""

    def __init__(self) -> None:
        self.said: list[Report] = []
        self.seen: dict[FlowKey, int] = {}

    def reports(self) -> list[Report]:
        said, self.said = self.said, []
        return said

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        return [Counters(1, 1, self.seen.get(key, 0)) for key in keys]


class Node:
    """One node, its group standby until `serve`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, close_hanging_s: int = 0, close_held_s: int = 0
    ) -> None:
        self.now_ns = 100 * NS_PER_S
        monkeypatch.setattr(reports_module, "now_ns", lambda: self.now_ns)
        monkeypatch.setattr(reports_module, "call_ns", lambda: self.now_ns)
        self.shared, self.path = Shared(), Path()
        self.served = Served(GROUP)
        self.reports = MediaReports(
            self.path,  # type: ignore[arg-type]
            {"g1": self.served},
            close_hanging_s,
            close_held_s,
        )
        self.counts: Counter[str] = Counter()

    def serve(self) -> Driver:
        epoch = self.shared.fence()
        hands = ActiveHands(
            NodeJournal(self.shared, epoch),
            NodeFlows(self.shared, epoch),
            Pinholes(),
            Replies(),
            LogNotices("g1", self.counts),
        )
        driver = Driver(
            Gateway(GROUP, REALMS, Limits(), POLICIES), Recorder(), hands, self.reports.heard_ms_ago
        )
        driver.take_over(FoundFlows(self.shared.flows.values()), self.now_ns)
        self.served.driver = driver
        return driver

    def establish(self, call: str = "call-1", entropy: int = 0) -> None:
        driver = self.served.driver
        assert driver is not None
        for made in (
            command(Verb.OFFER, f"{call}-o", ALICE, call=call),
            command(Verb.ANSWER, f"{call}-a", BOB, call=call),
        ):
            assert driver.handle(made, entropy) is Outcome.ANSWERED

    def flow(self, call: str = "call-1", realm: str = "access") -> Flow:
        """The RTP pinhole as it is recorded."""
        return next(
            flow
            for flow in self.shared.flows.values()
            if (flow.session, flow.realm_in, flow.component) == (call, realm, 1)
        )

    def hear(self, *said: Report) -> None:
        self.path.said += said
        self.reports.take()
        self.reports.deliver()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(monkeypatch)
    node.serve()
    node.establish()
    return node


def test_a_learned_peer_is_journaled_and_recorded(node: Node) -> None:
    node.hear(PeerLearned(node.flow().key, NAT, 0))
    assert node.flow().learned == NAT
    session = replay(node.shared.journals["call-1"], Site(GROUP, REALMS, POLICIES))
    assert session is not None and session.streams[0].learned[0] == NAT
    entries = len(node.shared.journals["call-1"])
    node.hear(PeerLearned(node.flow().key, NAT, 0))
    assert len(node.shared.journals["call-1"]) == entries, "the same again writes nothing"
    assert (node.reports.waiting, node.reports.tally["learned"]) == (0, 2)


def test_what_a_standby_hears_waits_for_its_time(node: Node) -> None:
    """Armed first, owner later: packets teach the pinholes before the machine is there."""
    node.served.driver = None
    key = node.flow().key
    node.hear(PeerLearned(key, Address("2001:db8::1", 1), 0))
    node.hear(PeerLearned(key, NAT, 0))
    assert (node.reports.waiting, node.flow().learned) == (1, None)
    node.serve()  # nothing restored yet
    node.reports.deliver()
    assert node.flow().learned == NAT
    assert node.reports.waiting == 0


def test_what_is_said_of_a_lost_group_is_no_news(node: Node) -> None:
    key = node.flow().key
    node.served.driver = None
    node.hear(PeerLearned(key, NAT, 0), MediaSilent(key, 0))
    node.reports.discard("g1")
    node.serve()
    node.reports.deliver()
    assert node.flow().learned is None and not node.counts


def test_reports_of_nobodys_pinholes_are_counted_and_gone(node: Node) -> None:
    node.hear(
        PeerLearned(FlowKey("192.0.2.1", 30_000), NAT, 0),
        PeerLearned(FlowKey("fd00:a::101", 30_198), NAT, 0),
        MediaSilent(FlowKey("fd00:a::101", 30_198), 0),
    )
    assert node.reports.waiting == 0
    assert (node.reports.tally["foreign"], node.reports.tally["late"]) == (1, 1)


def test_a_store_that_cannot_write_now_gets_it_later(node: Node) -> None:
    node.shared.not_now = lambda operation: operation == "mark"
    node.hear(PeerLearned(node.flow().key, NAT, 0))
    assert node.flow().learned is None
    assert (node.reports.waiting, node.reports.tally["put-off"]) == (1, 1)
    node.shared.not_now = lambda operation: False
    node.reports.deliver()
    assert (node.flow().learned, node.reports.waiting) == (NAT, 0)


def test_one_unreadable_call_does_not_keep_the_others_from_learning(node: Node) -> None:
    node.establish("call-2", 7)
    node.shared.journals["call-1"] = [b"\xff\xffnoise"]
    node.serve()
    node.hear(
        PeerLearned(node.flow("call-1").key, NAT, 0), PeerLearned(node.flow("call-2").key, NAT, 0)
    )
    assert node.flow("call-2").learned == NAT
    assert node.reports.waiting == 0


def test_a_fenced_owner_learns_nothing(node: Node) -> None:
    node.shared.fence()
    node.hear(PeerLearned(node.flow().key, NAT, 0))
    assert node.flow().learned is None
    assert node.served.driver is not None and node.served.driver.fenced


def hanging(node: Node) -> list[str]:
    return [one.call_id for one in node.reports.hanging(node.served)]


def test_a_call_hangs_while_all_its_watched_media_is_silent(node: Node) -> None:
    """Access is watched, core is not; what is not watched cannot be missed."""
    key = node.flow().key
    assert hanging(node) == []
    node.hear(MediaSilent(key, 0))
    assert node.counts == {"media-never-started": 1}
    (one,) = node.reports.hanging(node.served)
    assert (one.since_ns, one.never_started) == (99 * NS_PER_S, True)  # a second of inactivity
    node.path.seen[key] = 101 * NS_PER_S
    assert hanging(node) == [], "a packet came"
    node.path.seen[key] = 0
    assert hanging(node) == [], "and it is asked anew"
    node.path.seen[key] = 103 * NS_PER_S
    node.hear(MediaSilent(key, 103 * NS_PER_S))
    (one,) = node.reports.hanging(node.served)
    assert (one.since_ns, one.never_started) == (103 * NS_PER_S, False)
    assert node.counts["media-stopped"] == 1


def test_a_call_that_ends_or_is_held_hangs_no_more(node: Node) -> None:
    node.hear(MediaSilent(node.flow().key, 0))
    driver = node.served.driver
    assert driver is not None and hanging(node) == ["call-1"]
    held = line("fd00:a::2", 4000, direction="inactive")
    driver.handle(command(Verb.OFFER, "hold", held), 0)
    driver.handle(command(Verb.ANSWER, "hold-a", line("10.20.0.2", 6000)), 0)
    assert hanging(node) == []
    node.establish("call-2", 5)
    node.hear(MediaSilent(node.flow("call-2").key, 0))
    driver.handle(command(Verb.DELETE, "end", call="call-2"), 0)
    assert hanging(node) == []


def test_nobody_ends_a_hanging_call_unless_it_is_wanted(node: Node) -> None:
    node.hear(MediaSilent(node.flow().key, 0))
    node.now_ns += 10**6 * NS_PER_S
    node.reports.look()
    assert hanging(node) == ["call-1"]


def test_the_owner_ends_it_after_the_time_that_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(monkeypatch, close_hanging_s=30)
    driver = node.serve()
    node.establish()
    node.establish("call-2", 7)
    key, lively = node.flow().key, node.flow("call-2").key
    node.hear(MediaSilent(key, 0), MediaSilent(lively, 0))
    node.now_ns += 28 * NS_PER_S
    node.reports.look()
    assert hanging(node) == ["call-1", "call-2"]
    node.path.seen[lively] = node.now_ns
    node.now_ns += 2 * NS_PER_S
    node.reports.look()
    session = driver.gateway.session("call-1")
    assert session is not None and session.state is State.DELETED
    assert {flow.session for flow in node.shared.flows.values()} == {"call-2"}
    assert (node.reports.tally["closed"], hanging(node)) == (1, [])
    # It is in the journal: whoever takes over finds it ended.
    restored = replay(node.shared.journals["call-1"], Site(GROUP, REALMS, POLICIES))
    assert restored is not None and restored.state is State.DELETED


@pytest.mark.parametrize("lost", ["fenced", "not active"])
def test_a_non_owner_ends_nothing(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """rtpengine #522: timeouts on the node that had lost the call ended live ones."""
    node = Node(monkeypatch, close_hanging_s=1)
    driver = node.serve()
    node.establish()
    node.hear(MediaSilent(node.flow().key, 0))
    if lost == "fenced":
        node.shared.fence()
    else:
        node.served.driver = None
    flows = dict(node.shared.flows)
    node.now_ns += 100 * NS_PER_S
    node.reports.look()
    assert node.shared.flows == flows
    session = driver.gateway.session("call-1")
    assert session is not None and session.state is State.ESTABLISHED


def test_notices_are_counted_by_what_they_say() -> None:
    counts: Counter[str] = Counter()
    for never in (True, False, True):
        LogNotices("g1", counts).notify(Notify("call", FlowKey("10.20.0.101", 1), 0, never))
    assert counts == {"media-never-started": 2, "media-stopped": 1}
