"""Events and effects: one encoding, which the version before and after can live with."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import PortsExhausted
from bgf.events import Command, Effect, Event, Expired, Forget, Verb
from bgf.gateway import Gateway
from tests.fakes.calls import GROUP, POLICIES, REALMS, Callers, unhurried

EVENTS: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
EFFECTS: msgspec.msgpack.Decoder[list[Effect]] = msgspec.msgpack.Decoder(list[Effect])


@unhurried
@given(st.randoms(use_true_random=False))
def test_every_event_and_effect_survives_its_encoding(rng: Random) -> None:
    gateway = Gateway(GROUP, REALMS, policies=POLICIES)
    callers = Callers(rng, flows=gateway.expected_flows)
    for _ in range(12):
        event = callers.next()
        if isinstance(event, Command):
            try:
                event = gateway.draw(event, rng.getrandbits(32))
            except PortsExhausted:
                continue
        assert EVENTS.decode(msgspec.msgpack.encode(event)) == event
        effects = [*gateway.step(event), Forget("x")]
        assert EFFECTS.decode(msgspec.msgpack.encode(effects)) == effects


def test_an_older_command_without_the_last_fields_is_read_with_defaults() -> None:
    full = msgspec.to_builtins(Command(7, "c", Verb.DELETE, "call", ports=(30000,)))
    older = msgspec.msgpack.encode(full[:5])
    assert EVENTS.decode(older) == Command(7, "c", Verb.DELETE, "call")


def test_a_newer_event_with_one_field_more_is_read_without_it() -> None:
    newer = msgspec.msgpack.encode([*msgspec.to_builtins(Expired(7, "call")), "what comes next"])
    assert EVENTS.decode(newer) == Expired(7, "call")


def test_only_what_changes_state_is_journaled() -> None:
    asks = {Verb.PING, Verb.QUERY, Verb.LIST, Verb.STATISTICS}
    assert {verb for verb in Verb if not verb.changes_state} == asks
