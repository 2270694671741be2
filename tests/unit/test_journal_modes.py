"""Owners of one group in any mode, one after the other, dying at any point: the calls are the same.

A machine that never dies is beside them, and is given every event whose entry was written.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf import journal
from bgf.errors import PortsExhausted
from bgf.events import Command, Event, Verb
from bgf.gateway import Gateway
from bgf.journal import Mode, Recorder
from bgf.session import State
from tests.fakes.calls import GROUP, POLICIES, REALMS, Callers, command, line, unhurried

EVENTS = 40
DEATHS = 0.25


class Owner:
    """A machine that came from journals, and goes on writing them in a mode of its own."""

    def __init__(self, mode: Mode, journals: dict[str, list[bytes]]) -> None:
        self.gateway = Gateway(GROUP, REALMS, policies=POLICIES)
        self.recorder = Recorder(mode)
        self.journals = journals
        for call_id, entries in journals.items():
            session = journal.replay(entries, self.gateway.site)
            assert session is not None
            self.gateway.restore(session, 0)
            self.recorder.resume(call_id, entries)

    def step(self, event: Event, *, dies_before_commit: bool = False) -> None:
        plan = self.gateway.plan(event)
        if plan.forgets:
            self.recorder.forget(plan.call_id)
            self.journals.pop(plan.call_id, None)
        elif plan.changes:
            record = self.recorder.record(plan)
            if record.replace:
                self.journals[record.call_id] = []
            self.journals.setdefault(record.call_id, []).extend(record.entries)
            self.recorder.done(record)
        if not dies_before_commit:
            self.gateway.commit(plan)


@unhurried
@given(rng=st.randoms(use_true_random=False))
def test_owners_in_any_mode_that_die_anywhere_leave_the_same_calls(rng: Random) -> None:
    modes = list(Mode)
    immortal = Gateway(GROUP, REALMS, policies=POLICIES)
    owner = Owner(rng.choice(modes), {})
    callers = Callers(rng, calls=3, flows=immortal.expected_flows)
    for _ in range(EVENTS):
        event: Event = callers.next()
        if isinstance(event, Command):
            try:
                event = immortal.draw(event, rng.getrandbits(64))
            except PortsExhausted:
                continue
        died, early = rng.random() < DEATHS, rng.random() < 0.5
        owner.step(event, dies_before_commit=died and early)
        immortal.step(event)
        due = None if died else immortal.due(callers.now_ns)
        if due is not None:
            owner.step(due)
            immortal.step(due)
        if died:
            owner = Owner(rng.choice(modes), owner.journals)
        assert owner.gateway.digest() == immortal.digest()
    for call_id in immortal.sessions:
        assert owner.gateway.expected_flows(call_id) == immortal.expected_flows(call_id)
    assert set(owner.journals) == set(immortal.sessions)


@pytest.mark.parametrize("writer", list(Mode))
@pytest.mark.parametrize("reader", list(Mode))
def test_a_half_open_call_is_the_same_whoever_wrote_it(writer: Mode, reader: Mode) -> None:
    first = Owner(writer, {})
    caller, callee = line("fd00:a::2", 4000), line("10.20.0.2", 6000)
    first.step(first.gateway.draw(command(Verb.OFFER, "o", caller), 0))
    digest = first.gateway.digest()
    second = Owner(reader, first.journals)
    assert second.gateway.digest() == digest
    session = second.gateway.session("call-1")
    assert session is not None and session.state is State.OFFERED
    answered = command(Verb.ANSWER, "a", callee)
    second.step(answered)
    first.gateway.step(answered)
    assert second.gateway.digest() == first.gateway.digest()
    assert Owner(writer, second.journals).gateway.digest() == first.gateway.digest()
