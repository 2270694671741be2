"""Why a call is as it is: words for every closed gate, who brought every event, how it ended."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf import explain
from bgf.errors import PortsExhausted, Unreadable
from bgf.events import (
    Abandoned,
    Command,
    Event,
    Learned,
    MediaLine,
    Nominated,
    Relatch,
    Result,
    Verb,
)
from bgf.explain import Why
from bgf.gateway import Gateway
from bgf.journal import Mode
from bgf.model import Address, Component, Counters, Gate
from tests.fakes.calls import (
    GROUP,
    NS_PER_MS,
    NS_PER_S,
    POLICIES,
    REALMS,
    Callers,
    command,
    line,
    unhurried,
)
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE
ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)


def node(mode: Mode = Mode.IMPLICIT) -> Node:
    return Node(Shared(), Pinholes(), mode=mode)


def reasons(made: Node, call: str = "call-1", seen_ns: int = 0, now_ns: int = 0) -> list[str]:
    """`1 RTP towards core: why: reason: media` of each pinhole."""
    session = made.gateway.session(call)
    assert session is not None
    flows = made.gateway.expected_flows(call)
    found = explain.pinholes(session, flows, [Counters(1, 1, seen_ns)] * len(flows), now_ns)
    return [
        f"{hole.stream + 1} {hole.component.name} to"
        f" {hole.flow.realm_out if hole.flow else 'nobody'}: {hole.why}: {hole.reason}"
        + (f": {hole.media}" if hole.media else "")
        for hole in found
    ]


def test_a_half_open_call() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE))
    assert set(reasons(made)) == {
        f"1 {component} to {realm}: no-answer: gate closed because the answer has not come"
        for component in ("RTP", "RTCP")
        for realm in REALMS
    }


def test_an_established_call_flows_falls_silent_or_never_begins() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE), command(ANSWER, "a", BOB))
    now_ns = 100 * NS_PER_S
    for seen_ns, said in (
        (now_ns - NS_PER_S, "flowing"),
        (now_ns - 12 * NS_PER_S, "silent for 12 s"),
        (0, "no packet yet"),
    ):
        assert reasons(made, seen_ns=seen_ns, now_ns=now_ns)[0] == (
            f"1 RTP to core: open: gate open: {said}"
        )


def test_a_hold_names_who_holds_and_from_whom_nothing_is_due() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE), command(ANSWER, "a", BOB))
    held = line("::", 4000, direction="sendonly")
    made.run(command(OFFER, "h", held), command(ANSWER, "i", BOB))
    up, _, down, _ = reasons(made)
    assert down == "1 RTP to access: held: held: alice (access) has said ::, nowhere to send to"
    assert up.startswith("1 RTP to core: open")
    quiet = line("fd00:a::2", 4000, direction="sendonly")
    made.run(
        command(OFFER, "q", quiet),
        command(ANSWER, "r", line("10.20.0.2", 6000, direction="recvonly")),
    )
    assert reasons(made)[2] == (
        "1 RTP to access: open: gate open: no packet yet; none is due: bob (core) is recvonly"
    )


def test_a_rejected_line_names_who_rejected_it_with_and_without_ports() -> None:
    made = node()
    video = line("fd00:a::2", 4002, kind="video")
    made.run(
        command(OFFER, "o", ALICE, video),
        command(ANSWER, "a", BOB, line("10.20.0.2", 0, kind="video")),
    )
    assert reasons(made)[4] == (
        "2 RTP to core: rejected: rejected m-line 2: bob (core) has said port 0"
    )
    gone = line("fd00:a::2", 0, kind="video")
    made.run(
        command(OFFER, "p", ALICE, gone),
        command(ANSWER, "b", BOB, line("10.20.0.2", 0, kind="video")),
    )
    assert reasons(made)[-1] == (
        "2 RTP to nobody: rejected: rejected m-line 2: alice (access) has said port 0"
    )


def test_rtcp_that_is_muxed_or_not_wanted() -> None:
    made = node()
    made.run(
        command(OFFER, "o", line("fd00:a::2", 4000, mux=True)),
        command(ANSWER, "a", line("10.20.0.2", 6000, mux=True)),
    )
    assert "RTCP comes with the RTP" in reasons(made)[1]
    made.run(
        command(OFFER, "p", line("fd00:a::2", 4000)),
        command(ANSWER, "b", line("10.20.0.2", 6000, rtcp=False)),
    )
    assert reasons(made)[1] == "1 RTCP to core: no-rtcp: gate closed: bob (core) takes no RTCP"


def test_a_sender_whom_nobody_knows() -> None:
    made = node()
    held = line("::", 4000, direction="sendonly")
    made.run(command(OFFER, "o", held), command(ANSWER, "a", BOB))
    assert reasons(made)[0].startswith(
        "1 RTP to core: no-sender: gate closed: nobody knows where alice (access) sends from"
    )


def test_an_agent_that_has_chosen_nobody_yet() -> None:
    made = node()
    browser = line("0.0.0.0", 9, mux=True, rtcp=False, ice="abcd")
    made.run(command(OFFER, "o", browser), command(ANSWER, "a", BOB))
    said = (
        "no-nominee: gate closed: alice (access) names no address, and no check of ICE has chosen"
        " one"
    )
    assert reasons(made) == [
        f"1 {component} to {realm}: {said}"
        for realm in ("core", "access")
        for component in ("RTP", "RTCP")
    ]
    (key,) = {
        flow.key
        for flow in made.gateway.expected_flows("call-1")
        if flow.ice and flow.component == 1
    }
    made.do(Nominated(NS_PER_S, "call-1", key, Address("10.10.0.7", 7777)))
    assert reasons(made)[0] == "1 RTP to core: open: gate open: no packet yet"
    assert reasons(made)[2] == "1 RTP to access: open: gate open: no packet yet"


def test_rtcp_of_another_family() -> None:
    made = node()
    odd = MediaLine("audio", "RTP/AVP", Address("10.20.0.2", 6000), Address("fd00:c::2", 6001))
    made.run(command(OFFER, "o", ALICE), command(ANSWER, "a", odd))
    assert reasons(made)[1].startswith("1 RTCP to core: other-family: gate closed: bob (core)")


def test_what_was_ordered() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE), command(ANSWER, "a", BOB))
    made.run(command(Verb.BLOCK_MEDIA, "b"))
    assert reasons(made)[0] == (
        "1 RTP to core: blocked: blocked: what alice (access) sends, by a command"
    )
    assert reasons(made)[2].startswith("1 RTP to access: open")
    made.run(command(Verb.UNBLOCK_MEDIA, "c"), command(Verb.SILENCE_MEDIA, "d", from_tag="bob"))
    assert reasons(made)[2] == (
        "1 RTP to access: blocked: silenced: what bob (core) sends, by a command"
    )
    made.run(command(DELETE, "e", flags=("delete-delay=5",)))
    made.driver.tick(8 * NS_PER_S)
    told = explain.history(made.entries("call-1"), made.gateway.site)
    assert [(one.what, one.party) for one in told[2:6]] == [
        ("block media", "alice (access)"),
        ("unblock media", "alice (access)"),
        ("silence media", "bob (core)"),
        ("delete", "alice (access)"),
    ]
    end = explain.ending(told)
    assert end is not None and (end.by, end.detail) == ("timer", "a deletion that was put off")


def test_history_tells_who_brought_what_and_what_came_of_it() -> None:
    made = node()
    made.run(
        command(OFFER, "o", ALICE, flags=("SIP-source-address",)),
        command(ANSWER, "x", BOB, BOB, at_ms=5),
        command(ANSWER, "a", BOB, at_ms=20),
    )
    key = made.gateway.expected_flows("call-1")[0].key
    peer = Address("2001:db8::7", 4000)
    made.run(
        Learned(2 * NS_PER_S, "call-1", key, peer, 0),
        Relatch(3 * NS_PER_S, "call-1"),
        command(OFFER, "o2", line("10.20.0.9", 6000), at_ms=9_000, from_tag="bob", to_tag="alice"),
        command(ANSWER, "a2", ALICE, at_ms=9_100, from_tag="bob", to_tag="alice"),
        Abandoned(60 * NS_PER_S, "call-1", 45_000),
    )
    told = explain.history(made.entries("call-1"), made.gateway.site)
    assert [(one.by, one.party, one.what, one.state) for one in told] == [
        ("control", "alice (access)", "offer", "offered"),
        ("control", "bob (core)", "answer", "offered"),
        ("control", "bob (core)", "answer", "established"),
        ("packet path", "", "learned", "established"),
        ("operator", "", "relatch", "established"),
        ("control", "bob (core)", "offer", "reoffered"),
        ("control", "alice (access)", "answer", "established"),
        ("owner", "", "abandoned", "deleted"),
    ]
    assert told[0].detail == "audio [fd00:a::2]:4000, SIP-source-address"
    assert told[1].outcome.startswith("error the answer's SDP has 2 m-lines, the offer's 1")
    assert told[2].at_ns - told[0].at_ns == 20 * NS_PER_MS
    end = explain.ending(told)
    assert end is not None and end.detail == "no media for 45 s (media.close_hanging_s)"


def test_a_call_that_was_held_to_its_end_names_the_limit_of_those() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE), command(ANSWER, "a", BOB))
    made.run(Abandoned(5_000 * NS_PER_S, "call-1", 4_000_000, held=True))
    end = explain.ending(explain.history(made.entries("call-1"), made.gateway.site))
    assert end is not None and end.detail == "no media for 4000 s (media.close_held_s)"


def test_the_end_of_a_call_is_the_one_that_ended_it() -> None:
    made = node()
    made.run(command(OFFER, "o", ALICE), command(DELETE, "d"), command(DELETE, "d2", at_ms=9))
    made.run(command(OFFER, "o2", ALICE, at_ms=50))
    told = explain.history(made.entries("call-1"), made.gateway.site)
    assert explain.ending(told) is None
    assert made.driver.tick(400 * NS_PER_S) is not None
    told = explain.history(made.entries("call-1"), made.gateway.site)
    end = explain.ending(told)
    assert end is not None and (end.by, end.detail) == ("timer", "no answer in time")


def test_a_checkpoint_says_that_it_sums_up() -> None:
    made = node(Mode.EXPLICIT)
    made.run(command(OFFER, "o", ALICE), command(DELETE, "d"))
    told = explain.history(made.entries("call-1"), made.gateway.site)
    assert [(one.by, one.what, one.state) for one in told] == [("journal", "checkpoint", "deleted")]
    assert explain.ending(told) is None


def test_a_journal_that_cannot_be_read_says_so() -> None:
    with pytest.raises(Unreadable):
        explain.history([b"\xff\x01junk"], node().gateway.site)


@unhurried
@given(st.randoms(use_true_random=False))
def test_every_closed_gate_has_its_reason_and_no_open_one_has(rng: Random) -> None:
    gateway = Gateway(GROUP, REALMS, policies=POLICIES)
    callers = Callers(rng, flows=gateway.expected_flows)
    for _ in range(25):
        event: Event = callers.next()
        if isinstance(event, Command):
            try:
                event = gateway.draw(event, rng.getrandbits(64))
            except PortsExhausted:
                continue
        gateway.step(event)
        for call, session in gateway.sessions.items():
            flows = gateway.expected_flows(call)
            found = explain.pinholes(session, flows, [Counters()] * len(flows), callers.now_ns)
            for hole in found:
                assert hole.reason
                assert hole.why is not Why.BLOCKED  # nobody has ordered that
                if hole.flow is None:
                    assert (hole.why, hole.component) == (Why.REJECTED, Component.RTP)
                else:
                    is_open = hole.flow.gate is Gate.OPEN
                    assert (hole.why is Why.OPEN) == is_open
                    assert bool(hole.media) == is_open


@unhurried
@given(st.randoms(use_true_random=False), st.sampled_from(Mode))
def test_a_history_ends_where_the_call_is(rng: Random, mode: Mode) -> None:
    made = node(mode)
    callers = Callers(rng, flows=made.gateway.expected_flows)
    for _ in range(25):
        event = callers.next()
        if not isinstance(event, Command) and type(event).__name__ == "Expired":
            made.driver.tick(callers.now_ns)
        else:
            made.do(event, rng.getrandbits(64))
        for call, session in made.gateway.sessions.items():
            told = explain.history(made.entries(call), made.gateway.site)
            assert told[-1].state == session.state.value
            assert all(one.by and one.what for one in told)
            replies = {kept.reply.cookie: kept.reply.result for kept in session.replies}
            for one in told:
                if one.cookie in replies and replies[one.cookie] is Result.OK:
                    assert one.outcome.startswith(("ok", "error"))
