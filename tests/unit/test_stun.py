"""STUN messages and an ICE-lite agent's answers, against an independent implementation (aioice)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from aioice import stun as theirs
from hypothesis import given
from hypothesis import strategies as st

from bgf.events import Verb
from bgf.media import ice, stun
from bgf.media.checks import StunCheck
from bgf.media.ice import Check
from bgf.model import Address, Flow, FlowKey, Ice
from bgf.model import Source as Filter
from bgf.runtime.checks import TAKEN_MAX, IceAgent
from bgf.runtime.served import Served
from tests.fakes.calls import GROUP, command, line, unhurried
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

OURS = Ice("Wx9+/Abc", "0123456789abcdefghijkl+/", "abcd")
SENDER = Address("192.0.2.7", 40_000)
SENDERS = (SENDER, Address("2001:db8::7", 65_535))


def request(
    username: str = "Wx9+/Abc:abcd",
    pwd: str = OURS.pwd,
    *,
    method: theirs.Method = theirs.Method.BINDING,
    kind: theirs.Class = theirs.Class.REQUEST,
    use: bool = False,
    **attributes: object,
) -> theirs.Message:
    made = theirs.Message(message_method=method, message_class=kind)
    made.attributes["USERNAME"] = username
    made.attributes["PRIORITY"] = 1_853_824_767
    if use:
        made.attributes["USE-CANDIDATE"] = None
    for name, value in attributes.items():
        made.attributes[name.replace("_", "-")] = value
    made.add_message_integrity(pwd.encode())
    return made


def raw(message: theirs.Message) -> bytes:
    return bytes(message)


def understood(reply: bytes | None) -> theirs.Message:
    """As the peer reads it: the fingerprint is checked on the way."""
    read = theirs.parse_message(reply or b"")
    assert read.check_message_integrity(OURS.pwd.encode())
    assert "FINGERPRINT" in read.attributes
    return read


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("use", [True, False])
def test_a_check_is_answered_as_the_peer_expects(sender: Address, use: bool) -> None:
    asked = request(use=use, ICE_CONTROLLING=7)
    said = ice.answer(OURS, raw(asked), sender)
    assert said.check is Check.ANSWERED
    assert said.nominated == use
    read = understood(said.reply)
    assert read.message_class is theirs.Class.RESPONSE
    assert read.transaction_id == asked.transaction_id
    assert read.attributes["XOR-MAPPED-ADDRESS"] == (sender.host, sender.port)


def test_any_peer_may_ask_before_it_is_known() -> None:
    early = Ice(OURS.ufrag, OURS.pwd)
    assert ice.answer(early, raw(request("Wx9+/Abc:who")), SENDER).check is Check.ANSWERED


@pytest.mark.parametrize(
    ("message", "check"),
    [
        (raw(request("Wx9+/Abc:other")), Check.BAD_USERNAME),
        (raw(request("abcd:Wx9+/Abc")), Check.BAD_USERNAME),
        (raw(request("Wx9+/Abc")), Check.BAD_USERNAME),
        (raw(request(pwd="y" * 22)), Check.BAD_INTEGRITY),
        (raw(request(kind=theirs.Class.INDICATION)), Check.NOT_A_REQUEST),
        (raw(request(kind=theirs.Class.RESPONSE)), Check.NOT_A_REQUEST),
        (raw(request(method=theirs.Method.ALLOCATE)), Check.NOT_A_REQUEST),
        (raw(request())[:-1], Check.NOT_STUN),
        (raw(request())[:-8], Check.NOT_STUN),  # without its fingerprint
        (raw(request())[:-1] + b"\0", Check.NOT_STUN),
        (b"", Check.NOT_STUN),
        (bytes(20), Check.NOT_STUN),
        (b"\0\1\0\4\x21\x12\xa4\x42" + bytes(12) + b"\0\6\xff\xff", Check.NOT_STUN),
        (raw(request()) + bytes(2_000), Check.NOT_STUN),
    ],
)
def test_wrong_ones_are_dropped_and_named(message: bytes, check: Check) -> None:
    assert ice.answer(OURS, message, SENDER) == ice.Answer(check)


def test_a_peer_that_wants_to_be_controlled_is_told_otherwise() -> None:
    said = ice.answer(OURS, raw(request(ICE_CONTROLLED=5, use=True)), SENDER)
    assert (said.check, said.nominated) == (Check.ROLE_CONFLICT, False)
    read = understood(said.reply)
    assert read.attributes["ERROR-CODE"] == (487, "Role Conflict")


def test_what_must_be_understood_and_is_not_is_named() -> None:
    said = ice.answer(OURS, raw(request(CHANNEL_NUMBER=5)), SENDER)
    assert said.check is Check.UNKNOWN_ATTRIBUTE
    read = understood(said.reply)
    assert read.attributes["ERROR-CODE"][0] == 420


def test_what_stands_behind_the_integrity_does_not_count() -> None:
    """Nobody has signed it (RFC 8489 section 14.5)."""
    signed = raw(request())[:-8]
    forged = signed + b"\0\x25\0\0"  # USE-CANDIDATE
    head = forged[:2] + (len(forged) - 20 + 8).to_bytes(2, "big") + forged[4:]
    whole = head + b"\x80\x28\0\4" + stun._fingerprint(head)
    said = ice.answer(OURS, whole, SENDER)
    assert (said.check, said.nominated) == (Check.ANSWERED, False)


@unhurried
@given(st.binary(max_size=200), st.integers(0, 130), st.integers(0, 40))
def test_noise_and_damage_raise_nothing_and_are_not_believed(
    noise: bytes, place: int, cut: int
) -> None:
    good = raw(request(use=True))
    damaged = good[:place] + noise[:4] + good[place + cut :]
    for message in (noise, b"\0\1" + noise, damaged):
        if message != good:
            assert ice.answer(OURS, message, SENDER).reply is None


class Source:
    """Checks as they come, and what was said to them."""

    def __init__(self) -> None:
        self.waiting: list[StunCheck] = []
        self.said: list[bytes] = []
        self.lost = 3
        self.unsent = 0

    def take(self) -> Iterator[StunCheck]:
        while self.waiting:
            yield self.waiting.pop(0)

    def answer(self, check: StunCheck, message: bytes) -> None:
        self.said.append(message)


KEY = FlowKey("10.10.0.101", 30_000)


def arrived(message: bytes) -> StunCheck:
    return StunCheck(1, KEY, SENDER, message, bytes(60), 2)


def agent(source: Source, flow: Flow | None) -> IceAgent:
    return IceAgent(source, {}, lambda group, key: flow if key == KEY else None)


def test_what_comes_too_fast_is_shed_and_counted() -> None:
    source = Source()
    made = agent(source, None)
    source.waiting = [arrived(b"x")] * (TAKEN_MAX + 5)
    made.take()
    assert made.counts["shed"] == 5
    assert made.counts["no-flow"] == TAKEN_MAX
    assert made.counts["lost"] == 3
    assert not source.said


def node() -> tuple[Node, Served]:
    made = Node(Shared(), Pinholes())
    served = Served(GROUP)
    return made, served


def test_a_choice_waits_for_the_owner_and_is_told_once() -> None:
    """The standby that has just been armed answers; its machine hears of it when it is there."""
    made, served = node()
    made.run(command(Verb.OFFER, "1", line("10.10.0.2", 4000, ice="abcd")))
    made.run(command(Verb.ANSWER, "2", line("10.20.0.2", 6000)))
    recorded = {flow.key: flow for flow in made.gateway.expected_flows("call-1")}
    flow = next(one for one in recorded.values() if one.ice)
    assert flow.ice is not None
    source = Source()
    ours = IceAgent(source, {GROUP.id: served}, lambda _, key: recorded.get(key))
    name = f"{flow.ice.ufrag}:{flow.ice.remote_ufrag}"
    check = StunCheck(1, flow.key, SENDER, raw(request(name, flow.ice.pwd, use=True)), bytes(60), 2)
    source.waiting = [check, check]
    ours.take()
    assert len(source.said) == 2
    ours.deliver()
    assert ours.counts["waiting"] == 1
    served.driver = made.driver
    ours.deliver()
    ours.deliver()
    assert ours.counts["waiting"] == 0
    assert ours.counts["nominated"] == 1
    after = {one.key: one for one in made.gateway.expected_flows("call-1")}
    assert after[flow.key].source == Filter(SENDER.host, SENDER.port)
    # What is known is no news.
    recorded.update(after)
    source.waiting = [check]
    ours.take()
    assert ours.counts["waiting"] == 0
    # Another node's group is no business of ours.
    other = msgspec.structs.replace(SENDER, port=9)
    source.waiting = [check._replace(sender=other)]
    ours.take()
    assert ours.counts["waiting"] == 1
    ours.discard(GROUP.id)
    assert ours.counts["waiting"] == 0
