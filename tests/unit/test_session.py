"""One call, command by command: the transition table and what it means for the pinholes."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf import session as sessions
from bgf.errors import Misuse
from bgf.events import Command, Event, Expired, Nominated, Reply, Result, Verb
from bgf.model import Address, Component, Flow, Gate, Source
from bgf.session import (
    HALF_OPEN_MAX_MS,
    REPLIES_MAX,
    REPLY_KEPT_MS,
    STREAMS_MAX,
    TABLE,
    Session,
    Site,
    State,
    Trigger,
    trigger_of,
)
from tests.fakes.calls import GROUP, NS_PER_MS, NS_PER_S, REALMS, Callers, command, line, unhurried

SITE = Site(GROUP, REALMS)
ALICE, ALICE4, BOB = "fd00:a::2", "10.10.0.2", "10.20.0.2"
OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE


class Call:
    """A session under test, which draws port after port."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.port = 30000
        self.cookies = 0

    def do(self, verb: Verb, *media: object, **fields: object) -> Reply:
        self.cookies += 1
        made = command(verb, f"c{self.cookies}", *media, **fields)  # type: ignore[arg-type]
        return self.apply(made)

    def apply(self, made: Event) -> Reply:
        if isinstance(made, Command):
            count = sessions.demand(self.session, made)
            ports = tuple(range(self.port, self.port + 2 * count, 2))
            self.port += 2 * count
            made = msgspec.structs.replace(made, ports=ports, entropy=bytes(range(24)))
        self.session, reply, _ = sessions.apply(self.session, made, SITE)
        return reply or Reply("", Result.OK)

    @property
    def state(self) -> State:
        return self.session.state if self.session else State.NEW

    def stands_at(self, state: State) -> bool:
        return self.state is state

    @property
    def flows(self) -> list[Flow]:
        return list(sessions.flows(self.session).values())

    def towards(self, realm: str, component: Component = Component.RTP, stream: int = 0) -> Flow:
        (flow,) = (
            f
            for f in self.flows
            if (f.realm_out, f.component, f.stream) == (realm, component, stream)
        )
        return flow


@pytest.fixture
def call() -> Call:
    """An established call, IPv6 access to IPv4 core, pairs 30000 and 30002."""
    call = Call()
    assert call.do(OFFER, line(ALICE, 4000)).result is Result.OK
    assert call.do(ANSWER, line(BOB, 6000)).result is Result.OK
    return call


def test_the_table_is_complete() -> None:
    assert set(TABLE) == {(state, trigger) for state in State for trigger in Trigger}


@unhurried
@given(st.randoms(use_true_random=False))
def test_random_walks_stay_inside_the_table(rng: Random) -> None:
    callers, call = Callers(rng, calls=1), Call()
    for _ in range(30):
        event = callers.next()
        before = call.session
        known = isinstance(event, Command) and before and before.kept_reply(event.cookie)
        reply = call.apply(event)
        if isinstance(event, Command):
            assert reply.cookie == event.cookie
        if known:
            assert reply == known
            assert call.session is before
        elif reply.result is Result.OK:
            trigger = trigger_of(event.verb) if isinstance(event, Command) else Trigger.EXPIRED
            allowed = TABLE[before.state if before else State.NEW, trigger][1]
            early = isinstance(event, Expired) and call.session is before
            assert early or call.state in allowed
        elif before:
            assert call.session
            assert call.session.streams == before.streams
            assert call.session.state is before.state
        for flow in call.flows:
            assert (flow.gate is Gate.OPEN) <= (flow.remote is not None)
            assert flow.remote is None or flow.remote.family is flow.local_out.family
            assert flow.local_in.port % 2 == (flow.component is Component.RTCP)
        assert len({flow.local_in.port for flow in call.flows}) == len(call.flows)
        if call.state is State.DELETED:
            assert not call.flows


def test_an_offer_reserves_closed_pinholes_on_both_sides() -> None:
    call = Call()
    reply = call.do(OFFER, line(ALICE, 4000))
    assert reply.media[0].rtp == Address("10.20.0.101", 30002)
    assert reply.media[0].rtcp == Address("10.20.0.101", 30003)
    assert {str(flow.key) for flow in call.flows} == {
        "[fd00:a::101]:30000", "[fd00:a::101]:30001", "10.20.0.101:30002", "10.20.0.101:30003",
    }  # fmt: skip
    assert all(flow.gate is Gate.CLOSED and flow.remote is None for flow in call.flows)


def test_the_answer_opens_them(call: Call) -> None:
    out, back = call.towards("core"), call.towards("access")
    assert (out.local_in, out.local_out) == (back.local_out, back.local_in)
    assert (out.remote, out.source) == (Address(BOB, 6000), Source(ALICE))
    assert (back.remote, back.source) == (Address(ALICE, 4000), Source(BOB))
    assert call.towards("core", Component.RTCP).remote == Address(BOB, 6001)
    assert all(flow.gate is Gate.OPEN for flow in call.flows)


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        ((), Source(ALICE)),
        (("strict-source",), Source()),
        (("asymmetric",), Source()),
        (("asymmetric", "strict-source", "trust-address"), Source(ALICE, 4000)),
    ],
)
def test_source_filters(flags: tuple[str, ...], source: Source) -> None:
    call = Call()
    call.do(OFFER, line(ALICE, 4000), flags=flags)
    call.do(ANSWER, line(BOB, 6000))
    assert call.towards("core").source == source


@pytest.mark.parametrize(
    ("host", "family", "realms", "given"),
    [
        (ALICE, 0, (), "10.20.0.101"),
        (ALICE4, 0, (), "10.20.0.101"),
        (BOB, 0, ("core", "access"), "10.10.0.101"),
        (BOB, 6, ("core", "access"), "fd00:a::101"),
        (BOB, 0, ("core", "core"), "10.20.0.101"),
        ("0.0.0.0", 0, ("core", "access"), "10.10.0.101"),
        ("::", 0, ("core", "access"), "fd00:a::101"),
    ],
)
def test_family_towards_the_receiver(
    host: str, family: int, realms: tuple[str, ...], given: str
) -> None:
    reply = Call().do(OFFER, line(host, 4000), family=family, realms=realms)
    assert reply.media[0].rtp.host == given


def test_reoffers_from_either_side_keep_the_ports(call: Call) -> None:
    before = call.flows
    reply = call.do(OFFER, line(BOB, 6000), from_tag="bob", to_tag="alice")
    assert call.stands_at(State.REOFFERED)
    assert reply.media[0].rtp == Address("fd00:a::101", 30000)
    reply = call.do(ANSWER, line(ALICE, 4000), from_tag="bob", to_tag="alice")
    assert reply.media[0].rtp == Address("10.20.0.101", 30002)
    reply = call.do(OFFER, line(ALICE, 4000), to_tag="bob")
    assert reply.media[0].rtp == Address("10.20.0.101", 30002)
    call.do(ANSWER, line(BOB, 6000))
    assert call.flows == before


def test_a_reoffer_is_not_in_force_before_its_answer(call: Call) -> None:
    before = call.flows
    call.do(OFFER, line(ALICE, 4444), to_tag="bob")
    assert call.flows == before
    call.do(ANSWER, line(BOB, 6000))
    assert call.towards("access").remote == Address(ALICE, 4444)


def test_a_rejected_reoffer_leaves_the_call_as_it_was(call: Call) -> None:
    before = call.flows
    call.do(OFFER, line(ALICE, 0), to_tag="bob")  # answered 488: the gateway hears nothing of it
    call.do(OFFER, line(ALICE, 4000), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert call.flows == before


def test_a_caller_may_change_its_address_and_family(call: Call) -> None:
    call.do(OFFER, line(ALICE4, 4000), to_tag="bob")
    reply = call.do(ANSWER, line(BOB, 6000))
    assert reply.media[0].rtp == Address("10.10.0.101", 30000)
    assert call.towards("core").source == Source(ALICE4)
    assert {flow.local_in.host for flow in call.flows} == {"10.10.0.101", "10.20.0.101"}


def test_the_last_fork_wins_and_ports_stay(call: Call) -> None:
    reply = call.do(ANSWER, line("10.20.0.3", 7000), to_tag="bob2", via_branch="2")
    assert reply.media[0].rtp == Address("fd00:a::101", 30000)
    assert call.towards("core").remote == Address("10.20.0.3", 7000)
    assert call.session
    assert call.session.tags == ("alice", "bob2")


def test_a_branch_offered_again_gets_the_same_ports() -> None:
    call = Call()
    first = call.do(OFFER, line(ALICE, 4000), via_branch="1")
    assert call.do(OFFER, line(ALICE, 4000), via_branch="2").media == first.media


def test_a_late_answer_to_an_older_offer_does_not_take_the_newer_ones_place(call: Call) -> None:
    call.do(OFFER, line(BOB, 6666), from_tag="bob", to_tag="alice")
    call.do(ANSWER, line(BOB, 6000))  # the INVITE's 200, after bob's UPDATE
    assert call.stands_at(State.REOFFERED)
    call.do(ANSWER, line(ALICE, 4000), from_tag="bob", to_tag="alice")
    assert call.stands_at(State.ESTABLISHED)
    assert call.towards("core").remote == Address(BOB, 6666)


def test_rtcp_mux_is_agreed_by_both_or_not_at_all() -> None:
    call = Call()
    assert call.do(OFFER, line(ALICE, 4000, mux=True)).media[0].rtcp_mux
    reply = call.do(ANSWER, line(BOB, 6000))
    assert not reply.media[0].rtcp_mux
    assert call.towards("core", Component.RTCP).gate is Gate.OPEN
    reply = call.do(ANSWER, line(BOB, 6000, mux=True))
    assert reply.media[0].rtcp_mux
    assert reply.media[0].rtcp is None
    assert call.towards("core", Component.RTCP).gate is Gate.CLOSED
    assert call.towards("core").gate is Gate.OPEN


@pytest.mark.parametrize("direction", ["sendonly", "recvonly", "inactive"])
def test_hold_by_direction_keeps_the_pinholes_open(call: Call, direction: str) -> None:
    before = call.flows
    call.do(OFFER, line(ALICE, 4000, direction=direction), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert call.flows == before


def test_hold_by_address_closes_one_direction_and_resumes(call: Call) -> None:
    before = call.flows
    call.do(OFFER, line("0.0.0.0", 4000), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert (call.towards("access").gate, call.towards("access").remote) == (Gate.CLOSED, None)
    assert call.towards("core") == before[0]  # music on hold still comes from where it came
    call.do(OFFER, line(ALICE, 4000), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert call.flows == before


def test_a_browser_that_leaves_all_to_ice_is_not_on_hold() -> None:
    """It trickles, or shows mDNS names alone: 0.0.0.0 and port 9 (RFC 8839 section 4.2.5)."""
    call, browser = Call(), line("0.0.0.0", 9, mux=True, rtcp=False, ice="abcd")
    call.do(OFFER, browser)
    reply = call.do(ANSWER, line(BOB, 6000))
    assert reply.media[0].ice is not None
    out, back = call.towards("core"), call.towards("access")
    assert (out.gate, back.gate, back.remote) == (Gate.CLOSED, Gate.CLOSED, None)
    chosen = Address("10.10.0.7", 7777)
    call.apply(Nominated(NS_PER_S, "call-1", out.key, chosen))
    out, back = call.towards("core"), call.towards("access")
    assert (out.gate, out.source) == (Gate.OPEN, Source("10.10.0.7", 7777))
    assert (back.gate, back.remote) == (Gate.OPEN, chosen)
    assert call.towards("access", Component.RTCP).remote == chosen
    # Offered once more so it goes on; any other port of 0.0.0.0 is the hold of old.
    before = call.flows
    call.do(OFFER, browser, to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert call.flows == before
    call.do(OFFER, line("0.0.0.0", 4000, mux=True, rtcp=False, ice="abcd"), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert (call.towards("access").gate, call.towards("core").gate) == (Gate.CLOSED, Gate.OPEN)


def test_where_ice_is_refused_nobody_says_where_a_browser_is() -> None:
    call = Call()
    call.do(OFFER, line("0.0.0.0", 9, mux=True, rtcp=False, ice="abcd"), flags=("reject-ICE",))
    call.do(ANSWER, line(BOB, 6000))
    assert all(flow.gate is Gate.CLOSED and flow.ice is None for flow in call.flows)


def test_rejected_and_reactivated_lines(call: Call) -> None:
    call.do(OFFER, line(ALICE, 4000), line(ALICE, 4002), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000), line(BOB, 0))
    assert {flow.gate for flow in call.flows if flow.stream == 1} == {Gate.CLOSED}
    assert call.session
    kept = call.session.streams[1].ports
    call.do(OFFER, line(ALICE, 4000), line(ALICE, 4002), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000), line(BOB, 6002))
    assert call.session
    assert call.session.streams[1].ports == kept
    assert call.towards("core", stream=1).gate is Gate.OPEN
    reply = call.do(OFFER, line(ALICE, 4000), line(ALICE, 0), to_tag="bob")
    assert reply.media[1].rtp.port == 0
    assert call.towards("core", stream=1).gate is Gate.OPEN
    call.do(ANSWER, line(BOB, 6000), line(BOB, 0))
    assert {flow.stream for flow in call.flows} == {0}
    reply = call.do(OFFER, line(ALICE, 4000), line(ALICE, 4004), to_tag="bob")
    assert reply.media[1].rtp.port not in (0, *kept)


def test_lines_that_vanish_are_released_with_the_answer(call: Call) -> None:
    call.do(OFFER, line(ALICE, 4000), line(ALICE, 4002), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000), line(BOB, 6002))
    call.do(OFFER, line(ALICE, 4000), to_tag="bob")
    call.do(ANSWER, line(BOB, 6000))
    assert call.session
    assert len(call.session.ports()) == 2


def test_settings_are_remembered(call: Call) -> None:
    reply = call.do(OFFER, line(BOB, 6000), from_tag="bob", to_tag="alice", realms=REALMS)
    assert "core, access" in reply.warning
    reply = call.do(
        OFFER, line(BOB, 6000), from_tag="bob", to_tag="alice", realms=("core", "access")
    )
    assert not reply.warning
    assert reply.media[0].rtp.host == "fd00:a::101"


def test_a_repeated_cookie_has_no_second_effect(call: Call) -> None:
    made = command(OFFER, "same", line(ALICE, 4444), to_tag="bob")
    reply = call.apply(made)
    call.do(ANSWER, line(BOB, 6000))
    before = call.session
    assert call.apply(made) == reply
    assert call.session is before


def test_a_deleted_call_does_not_come_back_by_an_old_offer() -> None:
    call = Call()
    made = command(OFFER, "old", line(ALICE, 4000))
    reply = call.apply(made)
    call.do(DELETE)
    assert call.apply(made) == reply
    assert (call.state, call.flows) == (State.DELETED, [])


def test_a_call_id_may_be_used_again_after_its_end(call: Call) -> None:
    call.do(DELETE)
    call.do(OFFER, line(BOB, 4000), realms=("core", "access"), from_tag="x")
    assert call.session
    assert (call.state, call.session.realms) == (State.OFFERED, ("core", "access"))
    assert call.session.tags == ("x", "")


def test_deleting_twice_and_deleting_nothing_is_ok_with_a_warning(call: Call) -> None:
    assert not call.do(DELETE).warning
    assert call.do(DELETE, flags=("fatal",)).warning
    other = Call()
    reply = other.do(DELETE)
    assert (reply.result, bool(reply.warning)) == (Result.OK, True)
    assert other.stands_at(State.DELETED), "so that its repetition harms nobody"
    assert other.do(DELETE, flags=("fatal",)).result is Result.ERROR


def test_a_tombstone_lasts_as_long_as_its_last_reply(call: Call) -> None:
    call.do(DELETE, at_ms=1000)
    call.do(ANSWER, line(BOB, 6000), at_ms=5000)
    end_ns = NS_PER_S + (5000 + REPLY_KEPT_MS) * NS_PER_MS
    assert call.session
    assert call.session.deadline_ns() == end_ns
    call.apply(Expired(end_ns - 1, "call-1"))
    assert call.stands_at(State.DELETED)
    call.apply(Expired(end_ns, "call-1"))
    assert call.session is None


def test_a_half_open_call_ends_by_itself_and_an_answered_one_does_not(call: Call) -> None:
    half = Call()
    half.do(OFFER, line(ALICE, 4000))
    late = Expired(NS_PER_S + HALF_OPEN_MAX_MS * NS_PER_MS, "call-1")
    half.apply(late)
    assert half.stands_at(State.DELETED)
    call.apply(late)
    assert call.stands_at(State.ESTABLISHED)


def test_the_reply_cache_is_bounded_in_number_and_time(call: Call) -> None:
    for _ in range(2 * REPLIES_MAX):
        call.do(ANSWER, line(BOB, 6000), at_ms=10)
    assert call.session
    assert len(call.session.replies) == REPLIES_MAX
    call.do(ANSWER, line(BOB, 6000), at_ms=10 + REPLY_KEPT_MS)
    assert len(call.session.replies) == 1


@pytest.mark.parametrize(
    ("fields", "media", "named"),
    [
        ({}, (), "no media line"),
        ({"call": ""}, (line(ALICE, 4000),), "call-id"),
        ({"call": "x" * 257}, (line(ALICE, 4000),), "256"),
        ({}, (line(ALICE, 4000),) * (STREAMS_MAX + 1), str(STREAMS_MAX)),
        ({"realms": ("access", "moon")}, (line(ALICE, 4000),), "moon"),
        ({"realms": ("access",)}, (line(ALICE, 4000),), "realms"),
        ({"realms": ("core", "access")}, (line(ALICE, 4000),), "IP6"),
        ({"family": 6}, (line(ALICE, 4000),), "family 6"),
        ({"family": 5}, (line(ALICE, 4000),), "family 5"),
    ],
)
def test_refused_offers_name_what_is_wrong(
    fields: dict[str, object], media: tuple[object, ...], named: str
) -> None:
    call = Call()
    reply = call.do(OFFER, *media, **fields)
    assert reply.result is Result.ERROR
    assert named in reply.reason
    assert "\n" not in reply.reason
    assert call.session is None


@pytest.mark.parametrize(
    ("media", "named"),
    [
        ((line(BOB, 1), line(BOB, 3)), "2 m-lines"),
        ((), "0 m-lines"),
        ((line(ALICE, 6000),), "family"),
    ],
)
def test_refused_answers_change_nothing(media: tuple[object, ...], named: str) -> None:
    call = Call()
    call.do(OFFER, line(ALICE, 4000))
    before = call.flows
    reply = call.do(ANSWER, *media)
    assert reply.result is Result.ERROR
    assert named in reply.reason
    assert (call.state, call.flows) == (State.OFFERED, before)
    assert call.do(ANSWER, line(BOB, 6000)).result is Result.OK


def test_an_offer_without_its_ports_is_our_own_mistake() -> None:
    with pytest.raises(Misuse, match="draw them first"):
        sessions.apply(None, command(OFFER, "c", line(ALICE, 4000)), SITE)


def test_demand_counts_what_is_missing(call: Call) -> None:
    two = command(OFFER, "x", line(ALICE, 4000), line(ALICE, 0), line(ALICE, 4002), to_tag="bob")
    assert sessions.demand(None, two) == 4
    assert sessions.demand(call.session, two) == 2
    assert sessions.demand(call.session, msgspec.structs.replace(two, cookie="c1")) == 0
    assert sessions.demand(call.session, command(ANSWER, "x", line(BOB, 1))) == 0
