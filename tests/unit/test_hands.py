"""Hands do things in one order, stop where the store refuses, and answer last."""

from __future__ import annotations

import msgspec
import pytest

from bgf.errors import DatapathError, Fenced
from bgf.events import DropFlow, Forget, Learned, Notify, PutFlow, Reply, Result, Silent, Verb
from bgf.found import FoundFlows
from bgf.gateway import Gateway, Limits
from bgf.hands import (
    ActiveHands,
    Driver,
    Outcome,
    StandbyHands,
)
from bgf.journal import Mode, Recorder
from bgf.model import Address, Flow, RealmAddress
from bgf.rehearsal import ReplayHands, rehearse
from bgf.session import Site, State
from tests.fakes.calls import GROUP, NS_PER_MS, NS_PER_S, POLICIES, REALMS, command, line
from tests.fakes.flows import Pinholes, Replies, never_heard
from tests.fakes.journal import Fuse, NodeFlows, NodeJournal, Shared

ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)
OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE


class Rig:
    """A driver with everything that it needs, on one fuse."""

    def __init__(
        self, shared: Shared | None = None, mode: Mode = Mode.IMPLICIT, pinholes_max: int = 1000
    ) -> None:
        self.shared = shared or Shared()
        self.fuse = Fuse()
        epoch = self.shared.fence()
        self.pinholes = Pinholes(self.fuse, pinholes_max)
        self.replies = Replies(self.fuse)
        self.hands = ActiveHands(
            NodeJournal(self.shared, epoch, self.fuse),
            NodeFlows(self.shared, epoch, self.fuse),
            self.pinholes,
            self.replies,
        )
        self.gateway = Gateway(GROUP, REALMS, Limits(sessions_max=50))
        self.driver = Driver(self.gateway, Recorder(mode), self.hands, never_heard)

    def establish(self, call: str, entropy: int = 0) -> None:
        made = command(OFFER, f"{call}-o", ALICE, call=call)
        assert self.driver.handle(made, entropy) is Outcome.ANSWERED
        made = command(ANSWER, f"{call}-a", BOB, call=call)
        assert self.driver.handle(made, entropy) is Outcome.ANSWERED

    def refuse(self, *operations: str) -> None:
        self.shared.refuse = lambda operation: operation in operations


def test_the_order_of_an_offer_and_an_end() -> None:
    rig = Rig()
    rig.driver.handle(command(OFFER, "o", ALICE), 0)
    assert rig.fuse.steps == ["check", "mark", "append", "record", "install", "reply"]
    rig.fuse.steps.clear()
    rig.driver.handle(command(DELETE, "d"), 0)
    assert rig.fuse.steps == ["check", "mark", "append", "record", "remove", "reply"]
    rig.fuse.steps.clear()
    assert rig.driver.tick(NS_PER_S + 59_999 * NS_PER_MS) == NS_PER_S + 60_000 * NS_PER_MS
    assert rig.driver.tick(NS_PER_S + 60_000 * NS_PER_MS) is None
    assert rig.fuse.steps == ["forget"]


@pytest.mark.parametrize("verb", [Verb.PING, Verb.QUERY, Verb.LIST, Verb.STATISTICS], ids=str)
def test_what_changes_nothing_writes_nothing(verb: Verb) -> None:
    rig = Rig()
    assert rig.driver.handle(command(verb, "x", ALICE), 0) is Outcome.ANSWERED
    assert rig.fuse.steps == ["check", "reply"]


@pytest.mark.parametrize("verb", [Verb.ANSWER, Verb.DELETE, Verb.BLOCK_MEDIA], ids=str)
def test_what_nobody_knows_is_written_down_and_forgotten(verb: Verb) -> None:
    """Its repetition may come to another owner, when a call has begun under that Call-ID."""
    rig = Rig()
    assert rig.driver.handle(command(verb, "x", ALICE), 0) is Outcome.ANSWERED
    assert rig.fuse.steps == ["check", "mark", "append", "reply"]
    rig.fuse.steps.clear()
    assert rig.driver.tick(NS_PER_S + 60_000 * NS_PER_MS) is None
    assert rig.fuse.steps == ["forget"]


def test_a_repeated_cookie_writes_nothing() -> None:
    rig = Rig()
    rig.establish("a")
    rig.fuse.steps.clear()
    assert rig.driver.handle(command(OFFER, "a-o", ALICE, call="a"), 9) is Outcome.ANSWERED
    assert rig.fuse.steps == ["check", "reply"]
    assert rig.replies.sent[-1] == rig.replies.sent[0]


def test_explicit_journals_are_replaced() -> None:
    rig = Rig(mode=Mode.EXPLICIT)
    rig.establish("a")
    assert rig.fuse.steps.count("replace") == 2
    assert len(rig.shared.journals["a"]) == 1


def test_a_fenced_owner_does_nothing_and_answers_nobody() -> None:
    rig = Rig()
    rig.establish("a")
    rig.shared.fence()
    sent, flows = list(rig.replies.sent), dict(rig.shared.flows)
    before = rig.gateway.digest()
    assert rig.driver.handle(command(DELETE, "d", call="a"), 0) is Outcome.FENCED
    assert rig.driver.handle(command(Verb.PING, "p"), 0) is Outcome.FENCED
    assert rig.driver.tick(10**18) is None
    assert (rig.replies.sent, rig.shared.flows) == (sent, flows)
    assert rig.pinholes.flows == flows
    assert rig.gateway.digest() == before
    assert rig.driver.failures[-1].startswith("fenced: ")


@pytest.mark.parametrize("verb", [Verb.PING, Verb.QUERY, Verb.DELETE, Verb.OFFER], ids=str)
def test_a_fenced_owner_does_not_even_answer_what_writes_nothing(verb: Verb) -> None:
    rig = Rig()
    rig.establish("a")
    rig.replies.sent.clear()
    rig.shared.fence()
    made = command(verb, "a-o", call="a" if verb is Verb.OFFER else "b")
    assert rig.driver.handle(made, 0) is Outcome.FENCED
    assert rig.replies.sent == []


def test_a_full_store_is_an_error_reply_and_no_state() -> None:
    rig = Rig()
    rig.refuse("append")
    made = command(OFFER, "o", ALICE)
    assert rig.driver.handle(made, 0) is Outcome.REFUSED
    assert (rig.replies.last.result, rig.gateway.sessions) == (Result.ERROR, {})
    assert "full" in rig.replies.last.reason
    rig.refuse()
    assert rig.driver.handle(made, 0) is Outcome.ANSWERED
    assert rig.replies.last.result is Result.OK


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("field", ["call_id", "from_tag", "cookie", "kind"])
def test_text_that_is_no_utf8_is_an_error_reply(field: str, mode: Mode) -> None:
    rig, raw = Rig(mode=mode), "\udcff"
    made = command(OFFER, "o", msgspec.structs.replace(ALICE, kind=raw if field == "kind" else "x"))
    if field != "kind":
        made = msgspec.structs.replace(made, **{field: raw})
    assert rig.driver.handle(made, 0) is Outcome.REFUSED
    assert (rig.gateway.sessions, rig.shared.journals) == ({}, {})
    assert "UTF-8" in rig.replies.last.reason


def test_exhausted_ports_are_told_as_kamailio_expects() -> None:
    rig = Rig()
    lines = [ALICE] * 10
    for number in range(5):
        rig.driver.handle(command(OFFER, f"o{number}", *lines, call=f"c{number}"), number)
    assert rig.driver.handle(command(OFFER, "x", ALICE, call="more"), 0) is Outcome.REFUSED
    assert rig.replies.last == Reply("x", Result.ERROR, "Ran out of ports")


def test_flows_that_could_not_be_recorded_come_before_anything_new() -> None:
    rig = Rig()
    rig.refuse("record")
    made = command(OFFER, "o", ALICE)
    assert rig.driver.handle(made, 0) is Outcome.FAILED
    assert rig.driver.handle(command(OFFER, "p", ALICE, call="other"), 0) is Outcome.FAILED
    assert (rig.replies.sent, set(rig.gateway.sessions)) == ([], {"call-1"})
    rig.refuse()
    assert rig.driver.handle(made, 0) is Outcome.ANSWERED
    assert rig.replies.last.result is Result.OK
    assert len(rig.shared.flows) == len(rig.pinholes.flows) == 4


def test_what_failed_is_carried_out_by_the_timer_too() -> None:
    rig = Rig()
    rig.establish("a")
    rig.refuse("record")
    assert rig.driver.handle(command(DELETE, "d", call="a"), 0) is Outcome.FAILED
    rig.driver.tick(NS_PER_S)
    assert len(rig.shared.flows) == 4
    rig.refuse()
    rig.driver.tick(NS_PER_S)
    assert rig.shared.flows == rig.pinholes.flows == {}


def test_a_journal_that_could_not_be_forgotten_goes_later() -> None:
    rig = Rig()
    rig.establish("a")
    rig.driver.handle(command(DELETE, "d", call="a"), 0)
    rig.refuse("forget")
    rig.driver.tick(NS_PER_S + 60_000 * NS_PER_MS)
    assert (rig.gateway.sessions, set(rig.shared.journals)) == ({}, {"a"})
    rig.refuse()
    rig.establish("a")
    assert len(rig.shared.journals["a"]) == 2


def test_a_full_packet_path_promises_nothing_and_lets_other_calls_pass() -> None:
    rig = Rig(pinholes_max=6)
    rig.establish("a")
    made = command(OFFER, "o", ALICE, call="b")
    assert rig.driver.handle(made, 0) is Outcome.FAILED
    assert rig.driver.handle(made, 0) is Outcome.FAILED
    assert all(cookie != "o" for cookie, _ in rig.replies.sent)
    assert rig.driver.handle(command(Verb.QUERY, "q", call="a"), 0) is Outcome.ANSWERED
    assert rig.driver.handle(command(DELETE, "d", call="a"), 0) is Outcome.ANSWERED
    assert rig.driver.handle(made, 0) is Outcome.ANSWERED
    assert rig.replies.last.result is Result.OK
    assert rig.pinholes.flows == rig.shared.flows


def test_a_call_that_the_packet_path_refused_can_be_deleted() -> None:
    rig = Rig(pinholes_max=6)
    rig.establish("a")
    assert rig.driver.handle(command(OFFER, "o", ALICE, call="b"), 0) is Outcome.FAILED
    assert rig.driver.handle(command(DELETE, "d", call="b"), 0) is Outcome.ANSWERED
    assert {flow.session for flow in rig.shared.flows.values()} == {"a"}
    assert rig.pinholes.flows == rig.shared.flows


# Taking over


def test_a_call_is_restored_when_it_is_asked_for() -> None:
    old = Rig()
    old.establish("a", 1)
    old.establish("b", 2)
    old.driver.handle(command(OFFER, "c-o", ALICE, call="c"), 3)
    new = Rig(old.shared)
    # As the feed has left them, but for what the old owner was working on.
    new.pinholes.flows = {k: f for k, f in old.shared.flows.items() if f.session != "c"}
    new.driver.take_over(FoundFlows(old.shared.flows.values()), NS_PER_S)
    assert set(new.gateway.sessions) == {"c"}  # the last one worked on
    assert new.driver.handle(command(ANSWER, "c-a", BOB, call="c"), 0) is Outcome.ANSWERED
    assert new.driver.handle(command(OFFER, "a-o", ALICE, call="a"), 0) is Outcome.ANSWERED
    assert new.replies.last == old.replies.sent[0][1]
    assert set(new.gateway.sessions) == {"a", "c"}
    assert new.driver.restore_some(NS_PER_S) == 0
    assert set(new.gateway.sessions) == {"a", "b", "c"}
    assert new.pinholes.flows == new.shared.flows
    assert old.driver.handle(command(DELETE, "d", call="a"), 0) is Outcome.FENCED


def test_flows_without_a_journal_and_pinholes_without_a_flow_are_closed() -> None:
    old = Rig()
    for number, call in enumerate("abc"):
        old.establish(call, number)
    new = Rig(old.shared)
    new.pinholes.flows = dict(old.shared.flows)
    stray = next(flow for flow in old.shared.flows.values() if flow.session == "b")
    old.shared.recorded["b"] = tuple(f for f in old.shared.recorded["b"] if f != stray)
    foreign = _elsewhere(stray)
    new.pinholes.flows[foreign.key] = foreign
    del old.shared.journals["b"]
    new.driver.take_over(FoundFlows(old.shared.flows.values()), NS_PER_S)
    assert new.driver.sweep() == 0  # not before all are restored
    assert [new.driver.restore_some(NS_PER_S, batch=1) for _ in range(4)] == [3, 2, 1, 0]
    assert {flow.session for flow in new.shared.flows.values()} == {"a", "c"}
    assert new.driver.sweep() == 1
    assert set(new.pinholes.flows) == {*new.shared.flows, foreign.key}
    assert new.gateway.usage().pairs_used == 4


def _elsewhere(flow: Flow) -> Flow:
    """The pinhole of another group on the same node."""
    addresses = (RealmAddress("access", "fd00:a::102", 64), RealmAddress("core", "10.20.0.102", 24))
    other = Gateway(msgspec.structs.replace(GROUP, id="g2", addresses=addresses), REALMS)
    effects = other.step(other.draw(command(OFFER, "o", ALICE), 0))
    return next(effect.flow for effect in effects if isinstance(effect, PutFlow))


def test_an_unreadable_journal_is_an_error_and_its_pinholes_stay() -> None:
    old = Rig()
    old.establish("a", 1)
    old.establish("b", 2)
    old.shared.journals["a"].append(b"\xff\xff")
    new = Rig(old.shared)
    new.pinholes.flows = dict(old.shared.flows)
    new.driver.take_over(FoundFlows(old.shared.flows.values()), NS_PER_S)
    assert new.driver.handle(command(DELETE, "d", call="a"), 0) is Outcome.REFUSED
    assert "schema 255" in new.replies.last.reason
    assert new.driver.restore_some(NS_PER_S) == 0
    assert new.driver.sweep() == 0
    assert len(new.pinholes.flows) == 8
    assert new.gateway.usage().pairs_used == 4


def test_a_restored_journal_goes_on_where_it_was() -> None:
    old = Rig(mode=Mode.CHECKPOINTED)
    old.establish("a", 1)
    new = Rig(old.shared, Mode.CHECKPOINTED)
    new.driver.take_over(FoundFlows(old.shared.flows.values()), NS_PER_S)
    new.driver.handle(command(DELETE, "d", call="a"), 0)
    third = Rig(old.shared)
    third.driver.take_over(FoundFlows(old.shared.flows.values()), NS_PER_S)
    session = third.gateway.session("a")
    assert session
    assert session.state is State.DELETED
    assert third.gateway.digest() == new.gateway.digest()


# The other hands


def test_standby_hands_install_and_answer_nobody() -> None:
    rig, pinholes = Rig(), Pinholes()
    rig.establish("a")
    standby = StandbyHands(pinholes)
    flows = list(rig.shared.flows.values())
    standby.perform([*map(PutFlow, flows), Reply("x", Result.OK), Forget("a")])
    assert pinholes.flows == rig.shared.flows
    standby.perform([DropFlow("g1", flows[0].key)])
    assert len(pinholes.flows) == 3
    with pytest.raises(DatapathError):
        StandbyHands(Pinholes(limit=1)).perform([*map(PutFlow, flows)])


def test_replay_hands_repeat_a_life() -> None:
    rig, hands = Rig(), ReplayHands()
    again = Gateway(GROUP, REALMS)
    offer = rig.gateway.draw(command(OFFER, "o", ALICE), 5)
    answer = command(ANSWER, "a", BOB)
    for made in (offer, answer):
        rig.driver.handle(made, 5)
    rehearse(again, [offer, answer], hands)
    assert hands.replies == [reply for _, reply in rig.replies.sent]
    assert hands.flows == rig.pinholes.flows
    assert again.digest() == rig.gateway.digest()
    rehearse(again, [command(DELETE, "d")], hands)
    assert hands.flows == {}


def test_fenced_hands_say_so() -> None:
    rig = Rig()
    plan = rig.gateway.plan(rig.gateway.draw(command(OFFER, "o", ALICE), 0))
    rig.shared.fence()
    with pytest.raises(Fenced, match="older"):
        rig.hands.commit(Recorder().record(plan))


def test_what_the_packet_path_learned_is_written_ahead_like_a_command() -> None:
    rig = Rig()
    rig.establish("a")
    flow = rig.gateway.expected_flows("a")[0]
    rig.fuse.steps.clear()
    event = Learned(NS_PER_S, "a", flow.key, Address("2001:db8::7", 9), 0)
    assert rig.driver.see(event) is Outcome.ANSWERED
    assert rig.fuse.steps == ["check"], "the realm does not latch: nothing is new"
    rig.driver.gateway.site = Site(GROUP, REALMS, POLICIES)
    rig.fuse.steps.clear()
    assert rig.driver.see(event) is Outcome.ANSWERED
    assert rig.fuse.steps[:3] == ["check", "mark", "append"]
    assert rig.fuse.steps[-1] == "install" and "reply" not in rig.fuse.steps
    assert rig.shared.flows[flow.key].learned == event.peer


def test_three_troubles_with_ports_have_three_names() -> None:
    """rtpengine #699, #887, #1654: one message for three reasons."""
    rig = Rig(pinholes_max=4)
    rig.establish("a")
    refused = rig.driver.handle(command(OFFER, "b", ALICE, call="b"), 3)
    assert refused is Outcome.FAILED
    assert rig.driver.tally == {"ports-unbindable": 1}
    for number in range(60):
        rig.driver.handle(command(OFFER, f"x{number}", *[ALICE] * 16, call=f"x{number}"), number)
    assert rig.replies.last.reason == "Ran out of ports"
    assert rig.driver.tally["ports-exhausted"] > 0
    assert rig.driver.tally["ports-leaked"] == 0

    rig = Rig()
    rig.establish("a")
    assert [rig.driver.audit(NS_PER_S) for _ in range(3)] == [0, 0, 0]
    rig.gateway._pool.take(30_100, "nobody")
    found = [rig.driver.audit(NS_PER_S, batch=1) for _ in range(6)]
    assert sum(found) == 1
    assert rig.driver.tally == {"ports-leaked": 1}
    assert "30100" in rig.driver.failures[-1] and "nobody" in rig.driver.failures[-1]
    assert rig.gateway.usage().pairs_used == 2


def test_ports_that_others_released_just_now_are_not_drawn_by_the_next_owner() -> None:
    first = Rig()
    first.establish("a")
    ports = sorted(first.gateway.session("a").ports())  # type: ignore[union-attr]
    first.driver.handle(command(DELETE, "d", call="a", at_ms=1_000), 0)
    second = Rig(first.shared)
    released_ns = NS_PER_S + 1_000 * NS_PER_MS
    # The feed has shown their ends here; the call itself is not restored yet.
    second.driver.take_over(FoundFlows(), released_ns, [(port + 1, released_ns) for port in ports])
    assert second.gateway.usage().pairs_quarantined == 2
    second.driver.handle(command(OFFER, "b", ALICE, call="b", at_ms=1_001), 0)
    assert second.gateway.session("b").ports().isdisjoint(ports)  # type: ignore[union-attr]
    second.driver.restore_some(released_ns)
    assert second.gateway.usage().pairs_quarantined == 2


def test_a_notice_reaches_who_is_to_be_told_and_is_not_repeated() -> None:
    rig, told = Rig(), list[Notify]()

    class Notifier:
        def notify(self, notice: Notify) -> None:
            told.append(notice)

    rig.hands._notifier = Notifier()
    rig.gateway.site = Site(GROUP, REALMS, POLICIES)
    rig.establish("a")
    key = rig.gateway.expected_flows("a")[0].key
    rig.fuse.steps.clear()
    assert rig.driver.see(Silent(NS_PER_S, "a", key, 0)) is Outcome.ANSWERED
    assert told == [Notify("a", key, 0, True)]
    assert rig.fuse.steps == ["check"]
    rig.driver.tick(NS_PER_S)
    assert len(told) == 1
