"""What is ordered of a call: whose media, until when, which callee; and that it is state."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from bgf import journal, session_orders
from bgf.events import Expired, Reply, Result, Verb
from bgf.gateway import Gateway
from bgf.journal import Mode, Recorder
from bgf.media.datapath import Outcome
from bgf.model import Address, Component, Flow, Gate
from bgf.session import State
from bgf.session_flows import NO_RTP
from bgf.session_orders import FORKS_MAX
from bgf.session_values import HALF_OPEN_MAX_MS, Orders, Recording, Treatment
from tests.fakes.calls import GROUP, NS_PER_MS, NS_PER_S, REALMS, command, line
from tests.fakes.datapath import FakeDatapath, Packet

ALICE, BOB, CAROL = "10.10.0.2", "10.20.0.2", "10.20.0.3"
OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE
DTMF = 101


class Call:
    """One call in a machine, with its pinholes in a packet path, and its journal."""

    def __init__(self) -> None:
        self.gateway = Gateway(GROUP, REALMS)
        self.recorder = Recorder(Mode.IMPLICIT)
        self.entries: list[bytes] = []
        self.datapath = FakeDatapath([GROUP], now_ns=lambda: 1)
        self.datapath.arm("g1", 1 << 62)
        self.cookies = 0

    def do(self, verb: Verb, *media: Any, **fields: Any) -> Reply:
        self.cookies += 1
        made = command(verb, f"c{self.cookies}", *media, **fields)
        plan = self.gateway.plan(self.gateway.draw(made, 0))
        if plan.changes:
            record = self.recorder.record(plan)
            self.entries += record.entries
        self.gateway.commit(plan)
        self.datapath.remove(self.datapath.keys() - {flow.key for flow in self.flows})
        self.datapath.install(self.flows)
        return next(effect for effect in plan.effects if isinstance(effect, Reply))

    @property
    def flows(self) -> list[Flow]:
        return self.gateway.expected_flows("call-1")

    @property
    def state(self) -> State:
        session = self.gateway.session("call-1")
        return session.state if session is not None else State.NEW

    def stands_at(self, state: State) -> bool:
        return self.state is state

    def recording(self, recording: Recording) -> bool:
        return self.orders.recording is recording

    @property
    def orders(self) -> Orders:
        session = self.gateway.session("call-1")
        assert session is not None
        return session.orders

    def carries(
        self, realm: str, component: Component = Component.RTP, kind: int = 8, stream: int = 0
    ) -> Outcome:
        """What becomes of a packet that a party in `realm` sends."""
        (flow,) = (
            f
            for f in self.flows
            if (f.realm_in, f.component, f.stream) == (realm, component, stream)
        )
        host = flow.source.host or ALICE
        second = 200 if kind < 0 else kind
        payload = bytes((0x80, second)).ljust(28, b"\0")
        return self.datapath.send(
            Packet(realm, Address(host, 4000), flow.local_in, payload)
        ).outcome

    def replayed(self) -> None:
        """What is written down is the same call."""
        again = journal.replay(self.entries, self.gateway.site)
        assert again == self.gateway.session("call-1")


def described(host: str, port: int, *, mux: bool = False, transport: str = "RTP/AVP") -> Any:
    made = line(host, port, mux=mux)
    return msgspec.structs.replace(
        made, payload_types=(8, DTMF), dtmf_types=(DTMF,), transport=transport
    )


@pytest.fixture
def call() -> Call:
    return established()


def established(**what: Any) -> Call:
    call = Call()
    assert call.do(OFFER, described(ALICE, 4000, **what)).result is Result.OK
    assert call.do(ANSWER, described(BOB, 6000, **what), at_ms=1).result is Result.OK
    assert call.carries("access") is call.carries("core") is Outcome.FORWARD
    return call


RTP, RTCP = Component.RTP, Component.RTCP


# Blocking and silencing


@pytest.mark.parametrize(
    ("whom", "sides"),
    [
        ({"from_tag": ""}, "both"),
        ({"from_tag": "alice"}, "access"),
        ({"from_tag": "bob"}, "core"),
        ({"from_tag": "bob", "flags": ("all",)}, "both"),
        ({"from_tag": "", "flags": (f"address={BOB}",)}, "core"),
        ({"from_tag": "bob", "flags": (f"address={ALICE}",)}, "access"),
    ],
)
def test_media_is_blocked_of_whom_it_is_meant(call: Call, whom: dict[str, Any], sides: str) -> None:
    assert call.do(Verb.BLOCK_MEDIA, **whom).result is Result.OK
    for realm in REALMS:
        for component in Component:
            blocked = sides in ("both", realm)
            expected = Outcome.GATE_CLOSED if blocked else Outcome.FORWARD
            assert call.carries(realm, component) is expected
    call.replayed()
    # A re-offer does not undo it, the contrary order does.
    call.do(OFFER, described(ALICE, 4000), to_tag="bob", at_ms=50)
    call.do(ANSWER, described(BOB, 6000), at_ms=51)
    assert Outcome.GATE_CLOSED in {call.carries(realm) for realm in REALMS}
    assert call.do(Verb.UNBLOCK_MEDIA, **whom).result is Result.OK
    assert {call.carries(realm) for realm in REALMS} == {Outcome.FORWARD}
    assert call.orders.treatments == ((), ())
    call.replayed()


def test_a_label_names_a_party() -> None:
    call = Call()
    call.do(OFFER, described(ALICE, 4000), flags=("label=caller",))
    call.do(ANSWER, described(BOB, 6000), flags=("label=callee",))
    assert call.orders.labels == ("caller", "callee")
    call.do(Verb.BLOCK_MEDIA, from_tag="", flags=("label=callee",))
    assert call.carries("core") is Outcome.GATE_CLOSED
    assert call.carries("access") is Outcome.FORWARD
    call.replayed()


@pytest.mark.parametrize(
    ("whom", "named"),
    [
        ({"from_tag": "mallory"}, "tag 'mallory'"),
        ({"flags": ("label=x",)}, "label 'x'"),
        ({"flags": ("address=10.9.9.9",)}, "media address 10.9.9.9"),
    ],
)
def test_a_party_that_is_not_there_is_an_error(
    call: Call, whom: dict[str, Any], named: str
) -> None:
    reply = call.do(Verb.BLOCK_MEDIA, **whom)
    assert reply.result is Result.ERROR
    assert named in reply.reason
    assert call.carries("access") is Outcome.FORWARD


def test_silence_stops_audio_and_leaves_rtcp() -> None:
    call = Call()
    video = line(ALICE, 4100, kind="video"), line(BOB, 6100, kind="video")
    call.do(OFFER, described(ALICE, 4000), video[0])
    call.do(ANSWER, described(BOB, 6000), video[1])
    call.do(Verb.SILENCE_MEDIA, from_tag="alice")
    assert call.carries("access") is Outcome.GATE_CLOSED
    assert call.carries("access", RTCP, -1) is Outcome.FORWARD
    assert call.carries("access", stream=1) is Outcome.FORWARD
    assert call.carries("core") is Outcome.FORWARD
    call.do(Verb.UNSILENCE_MEDIA, from_tag="alice")
    assert call.carries("access") is Outcome.FORWARD


def test_silence_where_rtcp_shares_the_port() -> None:
    call = established(mux=True)
    call.do(Verb.SILENCE_MEDIA, from_tag="alice")
    assert call.carries("access") is Outcome.BAD_RTP
    assert call.carries("access", kind=-1) is Outcome.FORWARD
    assert call.carries("core") is Outcome.FORWARD
    (flow,) = (f for f in call.flows if (f.realm_in, f.component) == ("access", RTP))
    assert flow.rtp is not None and flow.rtp.payload_types == NO_RTP
    # Keys that are exchanged on the media port cannot be filtered: there the gate closes.
    dtls = established(mux=True, transport="UDP/TLS/RTP/SAVPF")
    dtls.do(Verb.SILENCE_MEDIA, from_tag="alice")
    assert dtls.carries("access") is Outcome.GATE_CLOSED


def test_telephone_events_are_blocked_and_nothing_else(call: Call) -> None:
    assert call.do(Verb.BLOCK_DTMF, from_tag="alice").warning == ""
    assert call.carries("access", kind=DTMF) is Outcome.BAD_RTP
    assert call.carries("access", kind=8) is Outcome.FORWARD
    assert call.carries("access", kind=127) is Outcome.FORWARD
    assert call.carries("core", kind=DTMF) is Outcome.FORWARD
    call.do(Verb.UNBLOCK_DTMF, from_tag="alice")
    assert call.carries("access", kind=DTMF) is Outcome.FORWARD
    call.replayed()


def test_telephone_events_that_cannot_be_blocked_are_said() -> None:
    plain = Call()
    plain.do(OFFER, line(ALICE, 4000))
    assert "names telephone-event" in plain.do(Verb.BLOCK_DTMF).warning
    dtls = established(transport="UDP/TLS/RTP/SAVPF")
    assert "DTLS" in dtls.do(Verb.BLOCK_DTMF).warning
    assert dtls.carries("access", kind=DTMF) is Outcome.FORWARD


def test_what_is_blocked_is_not_called_silent(call: Call) -> None:
    call.do(Verb.BLOCK_MEDIA)
    assert not any(flow.inactivity_ms for flow in call.flows)


# Copies


def test_copies_are_orders_that_the_machine_lists(call: Call) -> None:
    gateway = call.gateway
    assert not gateway.copied
    before = gateway.copied_version
    call.do(Verb.START_FORWARDING, from_tag="bob")
    assert call.orders.treatments == ((), (Treatment.FORWARDED,))
    assert set(gateway.copied) == {"call-1"} and gateway.copied_version > before
    call.do(Verb.STOP_FORWARDING, from_tag="")
    assert not gateway.copied
    call.do(Verb.START_RECORDING)
    assert call.recording(Recording.ON) and set(gateway.copied) == {"call-1"}
    call.do(Verb.PAUSE_RECORDING)
    assert call.recording(Recording.PAUSED) and not gateway.copied
    call.do(Verb.START_RECORDING)
    # A new owner knows it from the journal.
    other = Gateway(GROUP, REALMS)
    session = journal.replay(call.entries, other.site)
    assert session is not None
    other.restore(session, NS_PER_S)
    assert set(other.copied) == {"call-1"}
    call.do(DELETE)
    assert not gateway.copied
    call.replayed()


def test_record_call_in_an_offer_and_nothing_to_pause() -> None:
    call = Call()
    call.do(OFFER, described(ALICE, 4000), flags=("record-call=on",))
    assert call.recording(Recording.ON)
    call.do(ANSWER, described(BOB, 6000), flags=("record-call=off",))
    assert call.recording(Recording.OFF)
    assert "nothing to pause" in call.do(Verb.PAUSE_RECORDING).warning


# Ends


def test_an_unknown_call_is_an_error_for_every_order() -> None:
    for verb in session_orders.ORDERS:
        call = Call()
        reply = call.do(verb)
        assert reply.result is Result.ERROR and "is not here" in reply.reason
        assert call.stands_at(State.DELETED) and not call.flows
        call.replayed()


def test_a_repeated_cookie_is_no_second_order(call: Call) -> None:
    made = command(Verb.BLOCK_MEDIA, "same", at_ms=5)
    first = call.gateway.step(made)
    call.do(Verb.UNBLOCK_MEDIA)
    assert [e for e in call.gateway.step(made) if isinstance(e, Reply)] == [first[-1]]
    assert call.carries("access") is Outcome.FORWARD


def test_a_put_off_end_comes_in_time_and_an_offer_calls_it_off(call: Call) -> None:
    delayed = {"flags": ("delete-delay=30",), "at_ms": 1_000}
    assert call.do(DELETE, **delayed).result is Result.OK
    assert call.carries("access") is Outcome.FORWARD
    due_ns = NS_PER_S + 31_000 * NS_PER_MS
    assert call.gateway.next_deadline() == due_ns
    call.replayed()
    call.do(OFFER, described(ALICE, 4000), to_tag="bob", at_ms=2_000)
    assert call.gateway.next_deadline() is None
    call.do(ANSWER, described(BOB, 6000), at_ms=2_001)
    call.do(DELETE, **delayed)
    assert call.gateway.due(due_ns - 1) is None
    end = call.gateway.due(due_ns)
    assert end == Expired(due_ns, "call-1")
    call.gateway.step(end)
    assert call.stands_at(State.DELETED) and not call.flows
    assert call.gateway.totals.ended == 1 and call.gateway.totals.unanswered == 0


def test_an_end_without_delay_overtakes_a_put_off_one(call: Call) -> None:
    call.do(DELETE, flags=("delete-delay=30",))
    call.do(DELETE, flags=("delete-delay=0",))
    assert call.stands_at(State.DELETED)


@pytest.mark.parametrize(
    ("said", "delay_s"), [("7", 7), ("9999999999", 3_600), ("-1", 0), ("x", 0), ("", 0)]
)
def test_delays_are_bounded(call: Call, said: str, delay_s: int) -> None:
    call.do(DELETE, flags=(f"delete-delay={said}",), at_ms=0)
    if delay_s:
        assert call.orders.ends_ns == NS_PER_S + delay_s * NS_PER_S
    else:
        assert call.stands_at(State.DELETED)


@pytest.mark.parametrize(
    "tags",
    [
        {"from_tag": "alice"},
        {"from_tag": "bob"},
        {"from_tag": "alice", "to_tag": "bob"},
        {"from_tag": "bob", "to_tag": "alice"},
        {"from_tag": ""},
    ],
)
def test_either_leg_of_a_call_of_two_ends_it(call: Call, tags: dict[str, str]) -> None:
    assert call.do(DELETE, **tags).warning == ""
    assert call.stands_at(State.DELETED)


def test_nobody_of_the_call_ends_nothing(call: Call) -> None:
    for tags in ({"from_tag": "mallory"}, {"from_tag": "alice", "to_tag": "mallory"}):
        reply = call.do(DELETE, **tags)
        assert reply.result is Result.OK and "nothing deleted" in reply.warning
        reply = call.do(DELETE, flags=("fatal",), **tags)
        assert reply.result is Result.ERROR and "no party with tag 'mallory'" in reply.reason
    assert call.carries("access") is Outcome.FORWARD


# Forks


def forked() -> Call:
    """Alice's call has rung at Bob, then at Carol, who is in force."""
    call = Call()
    for branch in ("z1", "z2"):
        call.do(OFFER, described(ALICE, 4000), via_branch=branch)
    call.do(ANSWER, described(BOB, 6000), via_branch="z1")
    call.do(ANSWER, described(CAROL, 7000), via_branch="z2", to_tag="carol")
    assert sent_to(call) == Address(CAROL, 7000)
    return call


def sent_to(call: Call) -> Address | None:
    (flow,) = (f for f in call.flows if (f.realm_in, f.component) == ("access", RTP))
    return flow.remote if flow.gate is Gate.OPEN else None


@pytest.mark.parametrize("by", [{"to_tag": "bob"}, {"via_branch": "z1"}], ids=str)
def test_a_fork_that_is_not_in_force_goes_alone(by: dict[str, str]) -> None:
    call = forked()
    assert call.do(DELETE, **by).warning == ""
    assert call.stands_at(State.ESTABLISHED) and sent_to(call) == Address(CAROL, 7000)
    assert call.gateway.next_deadline() is None
    call.replayed()
    call.do(DELETE, to_tag="carol")
    assert call.stands_at(State.DELETED)


@pytest.mark.parametrize("by", [{"to_tag": "carol"}, {"via_branch": "z2"}], ids=str)
def test_the_fork_before_is_in_force_again_and_has_its_time(by: dict[str, str]) -> None:
    call = forked()
    call.do(DELETE, at_ms=100, **by)
    assert call.stands_at(State.ESTABLISHED) and sent_to(call) == Address(BOB, 6000)
    assert call.gateway.next_deadline() == NS_PER_S + (100 + HALF_OPEN_MAX_MS) * NS_PER_MS
    call.replayed()
    call.do(ANSWER, described(BOB, 6000), via_branch="z1", at_ms=200)
    assert call.gateway.next_deadline() is None
    call.do(DELETE, to_tag="bob")
    assert call.stands_at(State.DELETED)


def test_a_fork_goes_while_a_new_stream_is_only_offered() -> None:
    call = forked()
    call.do(OFFER, described(ALICE, 4000), described(ALICE, 4100), to_tag="carol", at_ms=50)
    assert call.do(DELETE, to_tag="carol", at_ms=100).warning == ""
    assert sent_to_first(call) == Address(BOB, 6000)
    call.replayed()


def sent_to_first(call: Call) -> Address | None:
    return next(
        f.remote for f in call.flows if (f.stream, f.realm_in, f.component) == (0, "access", RTP)
    )


def test_the_last_answered_fork_goes_and_another_still_rings() -> None:
    call = Call()
    for branch in ("z1", "z2"):
        call.do(OFFER, described(ALICE, 4000), via_branch=branch)
    call.do(ANSWER, described(BOB, 6000), via_branch="z1")
    ports = {flow.local_in for flow in call.flows}
    call.do(DELETE, to_tag="bob", at_ms=10)
    assert call.stands_at(State.OFFERED) and sent_to(call) is None
    assert {flow.local_in for flow in call.flows} == ports
    call.replayed()
    assert (
        call.do(ANSWER, described(CAROL, 7000), via_branch="z2", to_tag="carol", at_ms=20).result
        is Result.OK
    )
    assert sent_to(call) == Address(CAROL, 7000)
    call.replayed()


def test_a_branch_that_fails_before_it_answers_leaves_the_others() -> None:
    call = Call()
    for branch in ("z1", "z2"):
        call.do(OFFER, described(ALICE, 4000), via_branch=branch)
    call.do(DELETE, to_tag="busy", via_branch="z1")
    assert call.stands_at(State.OFFERED)
    call.do(DELETE, to_tag="busy", via_branch="z2")
    assert call.stands_at(State.DELETED)


def test_forks_are_bounded() -> None:
    call = Call()
    call.do(OFFER, described(ALICE, 4000))
    for number in range(FORKS_MAX + 5):
        call.do(ANSWER, described(BOB, 6000), to_tag=f"fork-{number}", at_ms=number * 100_000)
    session = call.gateway.session("call-1")
    assert session is not None and len(session.forks) == FORKS_MAX


# What is told


def test_a_list_is_bounded_and_tells_of_living_calls() -> None:
    gateway = Gateway(GROUP, REALMS)
    for number in range(5):
        made = command(OFFER, f"o{number}", line(ALICE, 4000), call=f"call-{number}")
        gateway.step(gateway.draw(made, 0))
    gateway.step(command(DELETE, "d", call="call-1"))
    (reply,) = gateway.step(command(Verb.LIST, "l"))
    assert isinstance(reply, Reply)
    assert reply.calls == ("call-0", "call-2", "call-3", "call-4")
    (reply,) = gateway.step(command(Verb.LIST, "l", flags=("limit=2",)))
    assert isinstance(reply, Reply) and len(reply.calls) == 2


def test_a_report_says_who_and_what() -> None:
    call = Call()
    offered = {"flags": ("label=caller",), "wall_s": 1_700_000_000}
    call.do(OFFER, described(ALICE, 4000), **offered)
    call.do(ANSWER, described(BOB, 6000), via_branch="z1", wall_s=1_700_000_007)
    call.do(Verb.BLOCK_DTMF, from_tag="bob")
    report = call.do(Verb.QUERY).report
    assert report is not None
    assert (report.created_s, report.signalled_s) == (1_700_000_000, 1_700_000_007)
    assert [party.tag for party in report.parties] == ["alice", "bob"]
    assert report.parties[0].label == "caller"
    assert (report.parties[1].branch, report.parties[1].treatments) == ("z1", ("dtmf-blocked",))
    assert report.media == ((("audio", "RTP/AVP", "sendrecv"),) * 2,)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_ordered_the_journal_is_the_call(seed: int) -> None:
    """Orders, forks and ends in any order: refused or not, replay gives the same session, and the
    pinholes are only those of its ports."""
    rng = Random(seed)
    call = Call()
    verbs = [OFFER, OFFER, ANSWER, ANSWER, ANSWER, DELETE, *sorted(session_orders.ORDERS)]
    for step in range(80):
        verb = rng.choice(verbs)
        host = ALICE if verb is OFFER else rng.choice((BOB, CAROL))
        media = [described(host, 4000 + 2 * rng.randrange(4), mux=rng.random() < 0.3)]
        call.do(
            verb,
            *(media if verb in (OFFER, ANSWER) else ()),
            at_ms=step * rng.choice((1, 40)),
            from_tag=rng.choice(("alice", "alice", "alice", "bob", "carol", "")),
            to_tag=rng.choice(("", "bob", "bob", "carol", "dave")) if verb is not OFFER else "",
            via_branch=rng.choice(("", "", "z1", "z2")),
            flags=rng.choice(((), (), ("all",), ("label=x",), ("delete-delay=9",), ("fatal",))),
        )
        call.replayed()
        session = call.gateway.session("call-1")
        held = session.ports() if session is not None else set()
        assert {flow.local_in.port - flow.local_in.port % 2 for flow in call.flows} == held
