"""Whatever happens to a group's calls, a replay of what is written gives the same, byte for byte.

All verbs, re-offers, forks, wrong tags, repeated cookies, deadlines, learned senders, silence: the
events of `Callers` and orders beside them, on a driver whose store now and then cannot. After them
the machine, the journals, a checkpoint made anywhere in between, and the next owner's machine under
another clock say the same of every call.
"""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bgf import journal
from bgf.events import Command, Event, Expired, Verb
from bgf.gateway import ENTROPY_BITS, Gateway
from bgf.journal import Mode
from bgf.session import Session
from tests.fakes.calls import GROUP, POLICIES, REALMS, Callers, unhurried
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

ORDERS = [verb for verb in Verb if verb not in (Verb.OFFER, Verb.ANSWER, Verb.DELETE, Verb.PING)]
GAP_NS = 10**15  # between the clocks of two nodes
STEPS = 40

encode = msgspec.msgpack.Encoder().encode


def next_event(callers: Callers, rng: Random) -> Event:
    """One of the callers', or an order that names a party, nobody, or all."""
    event = callers.next()
    if isinstance(event, Command) and rng.random() < 0.25:
        flags = rng.choice(((), ("all",), ("delete-delay=3",), ("fatal",), ("label=x",)))
        return msgspec.structs.replace(
            event, cookie=f"{event.cookie}-order", verb=rng.choice(ORDERS), media=(), flags=flags
        )
    return event


def walk(rng: Random, mode: Mode) -> Node:
    """A node after some of everything; what the store refused or doubted is over."""
    node = Node(Shared(), Pinholes(), mode=mode)
    callers = Callers(rng, flows=node.gateway.expected_flows)
    for _ in range(STEPS):
        event = next_event(callers, rng)
        weak = rng.choice(("", "", "", "", "", "append", "replace", "record", "mark"))
        node.shared.not_now = lambda operation, weak=weak: operation == weak  # type: ignore[misc]
        if isinstance(event, Expired):
            node.driver.tick(callers.now_ns)
        else:
            node.do(event, rng.getrandbits(ENTROPY_BITS))
    node.shared.not_now = lambda operation: False
    node.driver.tick(callers.now_ns)
    node.now_ns = callers.now_ns
    return node


@unhurried
@given(st.randoms(use_true_random=False), st.sampled_from(Mode))
def test_each_journal_gives_its_call(rng: Random, mode: Mode) -> None:
    node = walk(rng, mode)
    site = node.gateway.site
    assert set(node.shared.journals) == set(node.gateway.sessions)
    for call, session in node.gateway.sessions.items():
        assert encode(journal.replay(node.entries(call), site)) == encode(session)


@unhurried
@given(st.randoms(use_true_random=False), st.sampled_from((Mode.IMPLICIT, Mode.CHECKPOINTED)))
def test_a_checkpoint_may_stand_anywhere(rng: Random, mode: Mode) -> None:
    node = walk(rng, mode)
    site = node.gateway.site
    for call, session in node.gateway.sessions.items():
        entries = list(node.entries(call))
        for at in range(1, len(entries) + 1):
            then = journal.replay(entries[:at], site)
            if then is None:
                continue  # forgotten, and begun anew
            point = journal.checkpoint(then)
            assert journal.decode(point) == then
            assert encode(journal.replay([point, *entries[at:]], site)) == encode(session)


@unhurried
@given(st.randoms(use_true_random=False), st.sampled_from(Mode), st.sampled_from(Mode))
def test_the_next_owner_has_the_same_digest(rng: Random, mode: Mode, other: Mode) -> None:
    """In one go, or some calls on demand before the others; and the one after it, again."""
    node = walk(rng, mode)
    wanted = node.gateway.digest()
    for gap_ns in (GAP_NS, -GAP_NS // 2):
        after = Node(node.shared, Pinholes(), mode=other, now_ns=node.now_ns + gap_ns)
        for call in list(node.shared.journals)[:2]:
            after.driver.restore(call, node.now_ns + gap_ns)
        after.restore_all(node.now_ns + gap_ns)
        assert after.gateway.digest() == wanted
        assert after.gateway.usage()[:3] == node.gateway.usage()[:3]
        assert after.shared.flows == node.shared.flows
        assert not after.driver.failures


@unhurried
@given(st.randoms(use_true_random=False))
def test_the_same_events_give_the_same_machine(rng: Random) -> None:
    """Effects and digest, whatever else the process has been asked in between."""
    first, second = (Gateway(GROUP, REALMS, policies=POLICIES) for _ in range(2))
    callers = Callers(rng, flows=first.expected_flows)
    for number in range(STEPS):
        event = next_event(callers, rng)
        if isinstance(event, Command):
            event = first.draw(event, rng.getrandbits(ENTROPY_BITS))
        effects = first.step(event)
        second.plan(Command(callers.now_ns, f"q{number}", Verb.QUERY, event.call_id))
        second.plan(event)
        assert second.step(event) == effects
        assert first.digest() == second.digest()


@unhurried
@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_an_event_reads_back_as_it_was_written(rng: Random, _: int) -> None:
    gateway = Gateway(GROUP, REALMS, policies=POLICIES)
    callers = Callers(rng, flows=gateway.expected_flows)
    for _ in range(STEPS):
        event = next_event(callers, rng)
        if isinstance(event, Command):
            event = gateway.draw(event, rng.getrandbits(ENTROPY_BITS))
        gateway.step(event)
        item = journal.decode(journal.encode(event))
        assert item == event and not isinstance(item, Session)
