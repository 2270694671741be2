"""Who may send, who is learned, what is policed, marked, checked and watched."""

from __future__ import annotations

import msgspec
import pytest

from bgf import session as sessions
from bgf.events import Abandoned, Event, Learned, MediaLine, Notify, Relatch, Silent, Verb
from bgf.model import Address, Component, Flow, FlowKey, Gate, Latch, Policer, Rtp, Source
from bgf.policy import ANY, Policies, RealmPolicy, RtpCheck, StreamRule
from bgf.session import Session, Site, State, Step
from bgf.session_flows import flows, tos_dscp
from tests.fakes.calls import GROUP, NS_PER_S, REALMS, command, line

OFFER, ANSWER = Verb.OFFER, Verb.ANSWER
ALICE, BOB = "fd00:a::2", "10.20.0.2"
NAT, NAT_TOO, ANOTHER = (
    Address("2001:db8::7", 61_000),
    Address("2001:db8::7", 61_001),
    Address("2001:db8::66", 9),
)
LATCHING: Policies = {"access": RealmPolicy(Latch.LATCH)}


class Call:
    """An established call, access (latching by default) to core."""

    def __init__(
        self,
        *flags: str,
        policies: Policies = LATCHING,
        alice: MediaLine | None = None,
        bob: MediaLine | None = None,
    ) -> None:
        self.site = Site(GROUP, REALMS, policies)
        self.session: Session | None = None
        self.number = 0
        self.flags = flags
        self.say(OFFER, alice or line(ALICE, 4000), ports=(30000, 30002))
        self.say(ANSWER, bob or line(BOB, 6000))

    def say(self, verb: Verb, *media: MediaLine, **fields: object) -> Step:
        self.number += 1
        made = command(verb, f"c{self.number}", *media, **({"flags": self.flags} | fields))  # type: ignore[arg-type]
        return self.see(made)

    def see(self, event: Event) -> Step:
        step = sessions.apply(self.session, event, self.site)
        self.session = step.session
        return step

    def learn(self, flow: Flow, peer: Address, latch_round: int | None = None) -> Session | None:
        latch_round = flow.latch_round if latch_round is None else latch_round
        return self.see(Learned(NS_PER_S, "call-1", flow.key, peer, latch_round)).session

    def from_(self, realm: str, component: Component = Component.RTP) -> Flow:
        (flow,) = (
            flow
            for flow in flows(self.session, self.site.policies).values()
            if (flow.realm_in, flow.component) == (realm, component)
        )
        return flow


@pytest.mark.parametrize(
    ("policy", "flags", "latch", "source"),
    [
        (Latch.OFF, (), Latch.OFF, Source(ALICE)),
        (Latch.OFF, ("symmetric",), Latch.LATCH, Source()),
        (Latch.OFF, ("endpoint-learning=heuristic",), Latch.LATCH, Source()),
        (Latch.OFF, ("strict-source",), Latch.LATCH, Source()),
        (Latch.OFF, ("strict-source", "endpoint-learning=off"), Latch.STRICT, Source(ALICE, 4000)),
        (Latch.OFF, ("asymmetric",), Latch.OFF, Source()),
        (Latch.LATCH, (), Latch.LATCH, Source()),
        (Latch.LATCH, ("SIP-source-address",), Latch.LATCH, Source(ALICE)),
        (Latch.LATCH, ("strict-source",), Latch.LATCH, Source()),
        (Latch.LATCH, ("strict-source", "SIP-source-address"), Latch.LATCH, Source(ALICE)),
        (Latch.LATCH, ("asymmetric", "strict-source"), Latch.STRICT, Source(ALICE, 4000)),
        (Latch.LATCH, ("strict-source", "symmetric"), Latch.LATCH, Source()),
        (Latch.LATCH, ("endpoint-learning=off",), Latch.OFF, Source(ALICE)),
        (Latch.LATCH, ("endpoint-learning=no-learning",), Latch.OFF, Source(ALICE)),
        (Latch.LATCH, ("asymmetric",), Latch.OFF, Source()),
        (Latch.STRICT, (), Latch.STRICT, Source(ALICE, 4000)),
        (Latch.STRICT, ("symmetric",), Latch.LATCH, Source()),
        (Latch.STRICT, ("strict-source",), Latch.STRICT, Source(ALICE, 4000)),
        (Latch.STRICT, ("asymmetric",), Latch.OFF, Source()),
        (Latch.STRICT, ("asymmetric", "strict-source"), Latch.STRICT, Source(ALICE, 4000)),
    ],
)
def test_flags_go_before_the_policy_of_the_realm(
    policy: Latch, flags: tuple[str, ...], latch: Latch, source: Source
) -> None:
    call = Call(*flags, policies={"access": RealmPolicy(policy)})
    flow = call.from_("access")
    assert (flow.latch, flow.source, flow.gate) == (latch, source, Gate.OPEN)
    assert call.from_("core").follows is (latch is Latch.LATCH)
    if latch is Latch.STRICT:
        assert call.from_("access", Component.RTCP).source == Source(ALICE, 4001)


def test_a_learned_peer_becomes_state_of_its_pinhole_alone() -> None:
    call = Call()
    flow = call.from_("access")
    assert (flow.learned, flow.latch_round) == (None, 0)
    known = call.learn(flow, NAT)
    assert call.from_("access").learned == NAT
    assert call.from_("access", Component.RTCP).learned is None
    assert call.from_("core").remote == Address(ALICE, 4000)  # what it follows goes before it
    assert call.learn(flow, NAT) is known, "the same again is no news, and writes nothing"
    call.learn(call.from_("access", Component.RTCP), NAT_TOO)
    assert call.from_("access", Component.RTCP).learned == NAT_TOO
    assert call.from_("access").learned == NAT
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(call.session), type=Session) == (
        call.session
    )


@pytest.mark.parametrize("policies", [{}, LATCHING], ids=["off", "latch"])
def test_strict_source_learns_and_then_holds_to_who_was_learned(policies: Policies) -> None:
    """As rtpengine does; the packet path drops everybody else from then on (`Latch`)."""
    call = Call("strict-source", policies=policies)
    flow = call.from_("access")
    assert (flow.latch, flow.source, flow.learned) == (Latch.LATCH, Source(), None)
    call.learn(flow, NAT)
    flow = call.from_("access")
    assert (flow.latch, flow.learned, call.from_("core").follows) == (Latch.LATCH, NAT, True)


def test_who_is_asymmetric_and_strict_is_whom_the_description_names() -> None:
    call = Call("asymmetric", "strict-source")
    flow = call.from_("access")
    call.learn(flow, NAT)
    assert call.from_("access") == flow and flow.source == Source(ALICE, 4000)
    # Held from the start: nobody has said whence he sends, and not everybody may.
    held = Call("asymmetric", "strict-source", alice=line("::", 4000))
    assert held.from_("access").gate is Gate.CLOSED
    assert Call("asymmetric", alice=line("::", 4000)).from_("access").gate is Gate.OPEN


@pytest.mark.parametrize(
    ("key", "peer", "latch_round"),
    [
        (FlowKey("fd00:a::101", 30000), NAT, 1),
        (FlowKey("fd00:a::101", 30004), NAT, 0),
        (FlowKey("10.20.0.101", 30002), Address(BOB, 9), 0),  # core does not latch
        (FlowKey("fd00:a::101", 30000), Address("203.0.113.1", 9), 0),
    ],
)
def test_what_cannot_be_or_comes_too_late_is_not_learned(
    key: FlowKey, peer: Address, latch_round: int
) -> None:
    call = Call()
    before = call.session
    call.see(Learned(NS_PER_S, "call-1", key, peer, latch_round))
    assert call.session is before


def test_a_description_with_another_address_lets_its_side_learn_anew() -> None:
    call = Call()
    call.learn(call.from_("access"), NAT)
    moved = line("fd00:a::3", 4444)
    call.say(OFFER, moved)
    assert call.from_("access").learned == NAT, "not before the answer"
    call.say(ANSWER, line(BOB, 6000))
    flow = call.from_("access")
    assert (flow.latch, flow.latch_round, flow.learned) == (Latch.RELATCH, 1, None)
    before = call.session
    call.learn(flow, NAT, latch_round=0)
    assert call.session is before, "a report of the round before came late"
    call.learn(flow, ANOTHER)
    flow = call.from_("access")
    assert (flow.latch, flow.latch_round, flow.learned) == (Latch.LATCH, 1, ANOTHER)


def test_a_hold_and_its_end_learn_nothing_anew() -> None:
    call = Call()
    call.learn(call.from_("access"), NAT)
    for held in (line("::", 4000, direction="sendonly"), line(ALICE, 4000)):
        call.say(OFFER, held)
        call.say(ANSWER, line(BOB, 6000))
        flow = call.from_("access")
        assert (flow.latch_round, flow.learned) == (0, NAT)
    assert flow.gate is Gate.OPEN


def test_our_own_address_moves_and_what_was_learned_at_the_old_one_is_over() -> None:
    call = Call(alice=line("10.10.0.2", 4000))
    flow = call.from_("access")
    call.learn(flow, Address("203.0.113.5", 7))
    call.say(
        OFFER,
        line(BOB, 6000),
        from_tag="bob",
        to_tag="alice",
        realms=REALMS[::-1],
        family=6,
    )
    flow = call.from_("access")
    assert (flow.local_in.host, flow.learned, flow.latch_round) == ("fd00:a::101", None, 1)


def test_an_operator_lets_every_latching_side_learn_anew() -> None:
    call = Call()
    call.learn(call.from_("access"), NAT)
    call.see(Relatch(NS_PER_S, "call-1"))
    for component in Component:
        flow = call.from_("access", component)
        assert (flow.latch, flow.latch_round, flow.learned) == (Latch.RELATCH, 1, None)
    assert call.from_("core").latch_round == 0
    still = Call(policies={})
    before = still.session
    still.see(Relatch(NS_PER_S, "call-1"))
    assert still.session is before


def test_muxed_rtcp_has_one_latch() -> None:
    call = Call(alice=line(ALICE, 4000, mux=True), bob=line(BOB, 6000, mux=True))
    assert call.from_("access").rtcp_mux
    unused = call.from_("access", Component.RTCP)
    assert (unused.latch, unused.gate, unused.rtcp_mux) == (Latch.OFF, Gate.CLOSED, False)
    assert not call.from_("core", Component.RTCP).follows


@pytest.mark.parametrize(
    ("text", "dscp"),
    [("TOS=184", 46), ("TOS=0", 0), ("TOS=255", 63), ("TOS=256", None), ("TOS=-1", None),
     ("TOS=", None), ("TOS=0184", None), ("TOS=x", None), ("DSCP=46", None)],
)  # fmt: skip
def test_a_tos_flag_is_a_dscp(text: str, dscp: int | None) -> None:
    assert tos_dscp((text,)) == dscp


RULES: Policies = {
    "access": RealmPolicy(
        rules={"audio": StreamRule(Policer(16_000, 3_000), 46), ANY: StreamRule(None, 34)}
    ),
    "core": RealmPolicy(rules={"video": StreamRule(Policer(250_000, 9_000))}),
}


def test_rates_are_of_where_packets_come_from_and_marks_of_where_they_go() -> None:
    call = Call(policies=RULES)
    out, back = call.from_("access"), call.from_("core")
    assert (out.policer, out.dscp) == (Policer(16_000, 3_000), None)
    assert (back.policer, back.dscp) == (None, 46)
    video = Call(
        policies=RULES,
        alice=line(ALICE, 4000, kind="video"),
        bob=line(BOB, 6000, kind="video"),
    )
    assert video.from_("core").policer == Policer(250_000, 9_000)
    assert (video.from_("core").dscp, video.from_("access").policer) == (34, None)


def test_a_calls_own_mark_holds_for_all_of_it_and_outlives_an_answer_without_one() -> None:
    call = Call("TOS=32", policies=RULES)
    call.flags = ("strict-source",)
    call.say(OFFER, line(ALICE, 4000))
    call.say(ANSWER, line(BOB, 6000))
    assert {call.from_(realm).dscp for realm in REALMS} == {8}
    assert call.from_("core").latch is Latch.LATCH
    call.flags = ("TOS=999",)
    call.say(ANSWER, line(BOB, 6000))
    assert call.from_("core").dscp == 8, "what cannot be a mark changes none"


def described(
    host: str, port: int, transport: str, *types: int, clock_hz: int = 8_000
) -> MediaLine:
    return msgspec.structs.replace(
        line(host, port), transport=transport, payload_types=types, clock_hz=clock_hz
    )


@pytest.mark.parametrize(
    ("check", "transports", "rtp"),
    [
        (RtpCheck.OFF, ("RTP/AVP", "RTP/AVP"), Rtp(False, (), 16_000)),
        (RtpCheck.HEADER, ("RTP/AVP", "RTP/AVP"), Rtp(True, (), 16_000)),
        (RtpCheck.PAYLOAD_TYPES, ("RTP/AVP", "RTP/SAVP"), Rtp(True, (0, 8, 96, 101), 16_000)),
        # DTLS and STUN come on these ports, too.
        (RtpCheck.HEADER, ("UDP/TLS/RTP/SAVPF",) * 2, Rtp(False, (), 16_000)),
        (RtpCheck.HEADER, ("udptl", "udptl"), None),
        (RtpCheck.HEADER, ("UDP", "UDP"), None),
    ],
)
def test_what_is_asked_of_rtp(
    check: RtpCheck, transports: tuple[str, str], rtp: Rtp | None
) -> None:
    call = Call(
        policies={"access": RealmPolicy(rtp_check=check)},
        alice=described(ALICE, 4000, transports[0], 0, 8, 101),
        bob=described(BOB, 6000, transports[1], 96, 101, clock_hz=16_000),
    )
    assert call.from_("access").rtp == rtp
    if rtp is None:  # what is no RTP has no RTCP either
        assert {flow.component for flow in flows(call.session).values()} == {Component.RTP}
        return
    rtcp = call.from_("access", Component.RTCP).rtp
    assert rtcp == msgspec.structs.replace(rtp, payload_types=())


def test_types_that_one_side_does_not_name_are_not_checked() -> None:
    call = Call(
        policies={"access": RealmPolicy(rtp_check=RtpCheck.PAYLOAD_TYPES)},
        alice=described(ALICE, 4000, "RTP/AVP", 0),
        bob=line(BOB, 6000),  # as the version before journaled it
    )
    assert call.from_("access").rtp == Rtp(True, (), 8_000)


WATCHED: Policies = {realm: RealmPolicy(inactivity_ms=30_000) for realm in REALMS}


@pytest.mark.parametrize(
    ("alice", "bob", "watched"),
    [
        ("sendrecv", "sendrecv", {"access", "core"}),
        ("sendonly", "recvonly", {"access"}),
        ("recvonly", "sendonly", {"core"}),
        ("sendrecv", "recvonly", {"access"}),
        ("inactive", "inactive", set()),
    ],
)
def test_only_media_that_is_to_be_expected_is_watched(
    alice: str, bob: str, watched: set[str]
) -> None:
    call = Call(
        policies=WATCHED,
        alice=line(ALICE, 4000, direction=alice),
        bob=line(BOB, 6000, direction=bob),
    )
    found = {realm for realm in REALMS if call.from_(realm).inactivity_ms == 30_000}
    assert found == watched
    assert all(call.from_(realm, Component.RTCP).inactivity_ms == 0 for realm in REALMS)


def test_silence_is_told_and_changes_nothing() -> None:
    call = Call(policies=WATCHED)
    before, key = call.session, call.from_("core").key
    step = call.see(Silent(NS_PER_S, "call-1", key, 0))
    assert step.notice == Notify("call-1", key, 0, True)
    assert call.see(Silent(NS_PER_S, "call-1", key, 5)).notice == Notify("call-1", key, 0, False)
    assert call.session is before
    assert Call().see(Silent(NS_PER_S, "call-1", key, 0)).notice is None, "not watched any more"


def test_an_abandoned_call_ends_and_its_ports_rest() -> None:
    call = Call(policies=WATCHED)
    call.see(Abandoned(9 * NS_PER_S, "call-1", 90_000))
    assert call.session is not None and call.session.state is State.DELETED
    assert [(rest.at_ns, rest.port) for rest in call.session.rests] == [
        (9 * NS_PER_S, 30000), (9 * NS_PER_S, 30002)
    ]  # fmt: skip
    half_open = Call(policies=WATCHED)
    half_open.session = None
    half_open.say(OFFER, line(ALICE, 4000), ports=(30000, 30002))
    before = half_open.session
    half_open.see(Abandoned(9 * NS_PER_S, "call-1", 90_000))
    assert half_open.session is before, "the half-open timer is another one's affair"


def test_rests_are_bounded_in_time_and_follow_the_call_id() -> None:
    call = Call()
    call.say(Verb.DELETE, at_ms=1_000)
    call.say(OFFER, line(ALICE, 4000), ports=(30004, 30006), at_ms=2_000)
    assert call.session is not None
    assert [rest.port for rest in call.session.rests] == [30000, 30002]
    call.say(Verb.DELETE, at_ms=62_000)
    assert [rest.port for rest in call.session.rests] == [30004, 30006]
