"""A callee who is in force again after another one's deletion: media confirms it, silence ends it.

One who answered in a reliable 183 gives no other answer (RFC 3262 section 5): only its media says
that it is the one who picked up.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bgf import journal
from bgf.errors import DatapathError
from bgf.events import Expired, Heard, Verb
from bgf.hands import Outcome
from bgf.journal import Mode
from bgf.model import Counters, Flow, FlowKey
from bgf.runtime import reports as reports_module
from bgf.runtime.reports import MediaReports
from bgf.session import HALF_OPEN_MAX_MS, NS_PER_MS, State
from bgf.session_orders import HEARD_MAX_MS
from tests.fakes.calls import NS_PER_S, command, line
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

ALICE, BOB, CAROL = line("10.10.0.2", 4000), line("10.20.0.2", 6000), line("10.20.0.3", 7000)
DELETED_MS = 100
DUE_NS = NS_PER_S + (DELETED_MS + HALF_OPEN_MAX_MS) * NS_PER_MS


def back_in_force(mode: Mode = Mode.CHECKPOINTED) -> Node:
    """Bob has answered, then Carol, and Carol's branch was deleted."""
    node = Node(Shared(), Pinholes(), mode=mode)
    for branch in ("z1", "z2"):
        node.run(command(Verb.OFFER, f"o-{branch}", ALICE, via_branch=branch))
    node.run(command(Verb.ANSWER, "a-z1", BOB, via_branch="z1", at_ms=10))
    node.run(command(Verb.ANSWER, "a-z2", CAROL, via_branch="z2", to_tag="carol", at_ms=20))
    node.run(command(Verb.DELETE, "d-z2", to_tag="carol", at_ms=DELETED_MS))
    assert node.gateway.next_deadline() == DUE_NS
    return node


def state(node: Node) -> State:
    session = node.gateway.session("call-1")
    return session.state if session is not None else State.NEW


@pytest.mark.parametrize("mode", Mode)
def test_a_callee_who_is_heard_stays(mode: Mode) -> None:
    node = back_in_force(mode)
    asked: list[Sequence[Flow]] = []

    def heard_ms_ago(flows: Sequence[Flow]) -> int:
        asked.append(flows)
        return 20

    node.driver.heard_ms_ago = heard_ms_ago
    node.driver.tick(DUE_NS - 1)
    assert not asked, "the packet path is asked when it matters"
    flows = node.gateway.expected_flows("call-1")
    node.driver.tick(DUE_NS)
    assert state(node) is State.ESTABLISHED and node.gateway.next_deadline() is None
    assert asked == [flows] and node.gateway.expected_flows("call-1") == flows
    # It is state: whoever comes next need not hear it.
    second = Node(node.shared, Pinholes(), mode=mode)
    second.restore_all(DUE_NS)
    second.driver.tick(DUE_NS + 3_600 * NS_PER_S)
    assert second.gateway.digest() == node.gateway.digest()
    second.run(command(Verb.DELETE, "bye", to_tag="bob", at_ms=999_999))
    assert second.shared.flows == {}


@pytest.mark.parametrize("ago_ms", [None, HEARD_MAX_MS + 1, HALF_OPEN_MAX_MS])
def test_a_callee_who_is_not_heard_goes_in_time(ago_ms: int | None) -> None:
    node = back_in_force()
    node.driver.heard_ms_ago = lambda _flows: ago_ms
    node.driver.tick(DUE_NS)
    assert state(node) is State.DELETED and node.shared.flows == {}
    assert node.gateway.totals.ended == 1


def test_nobody_knows_whether_it_is_heard_and_it_waits() -> None:
    node = back_in_force()

    def trouble(_flows: Sequence[Flow]) -> int:
        raise DatapathError("counters: the map is gone")

    node.driver.heard_ms_ago = trouble
    node.driver.tick(DUE_NS)
    assert state(node) is State.ESTABLISHED and node.driver.tally == {"datapath": 1}
    node.driver.heard_ms_ago = lambda _flows: 0
    node.driver.tick(DUE_NS + NS_PER_S)
    assert state(node) is State.ESTABLISHED and node.gateway.next_deadline() is None


def test_a_new_owner_asks_its_own_packet_path() -> None:
    """The deadline has passed while nobody owned the group."""
    node = back_in_force()
    second = Node(node.shared, Pinholes())
    second.driver.heard_ms_ago = lambda _flows: 5
    second.restore_all(DUE_NS)
    second.driver.tick(DUE_NS + 2 * NS_PER_S)
    assert state(second) is State.ESTABLISHED and second.gateway.next_deadline() is None


def test_a_put_off_deletion_comes_whatever_flows() -> None:
    node = back_in_force()
    node.driver.heard_ms_ago = lambda _flows: 0
    node.run(command(Verb.DELETE, "late", flags=("delete-delay=30",), at_ms=DELETED_MS + 1))
    node.driver.tick(NS_PER_S + (DELETED_MS + 1) * NS_PER_MS + 30 * NS_PER_S)
    assert state(node) is State.DELETED


def test_half_open_calls_end_whatever_flows() -> None:
    node = Node(Shared(), Pinholes())
    node.driver.heard_ms_ago = lambda _flows: 0
    node.run(command(Verb.OFFER, "o", ALICE))
    node.driver.tick(NS_PER_S + HALF_OPEN_MAX_MS * NS_PER_MS)
    assert state(node) is State.DELETED
    assert node.driver.see(Heard(DUE_NS, "call-1", 0)) is Outcome.ANSWERED
    assert state(node) is State.DELETED


def test_a_word_of_media_is_written_down_only_where_it_counts() -> None:
    node = back_in_force()
    entries = len(node.entries("call-1"))
    node.run(Heard(DUE_NS, "call-1", 7))
    assert len(node.entries("call-1")) == entries + 1
    assert journal.decode(node.entries("call-1")[-1]) == Heard(DUE_NS, "call-1", 7)
    node.run(Heard(DUE_NS + 1, "call-1", 7))
    assert len(node.entries("call-1")) == entries + 1
    node.gateway.step(Expired(DUE_NS, "call-1"))
    assert state(node) is State.ESTABLISHED, "the deadline is no more"


def test_the_latest_packet_of_any_open_pinhole_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Path:
        def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
            return [Counters(1, 1, (number + 1) * NS_PER_S) for number, _ in enumerate(keys)]

    node = back_in_force()
    monkeypatch.setattr(reports_module, "now_ns", lambda: 10 * NS_PER_S)
    reports = MediaReports(Path(), {})  # type: ignore[arg-type]
    flows = node.gateway.expected_flows("call-1")
    assert reports.heard_ms_ago(flows) == 10_000 - 1_000 * len(flows)
    assert reports.heard_ms_ago([]) is None
