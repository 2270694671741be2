"""The machine of a group: deterministic, bounded, and never the same port twice."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import Misuse, PortsExhausted
from bgf.events import Command, DropFlow, Event, Forget, PutFlow, Reply, Result, Verb
from bgf.found import FoundFlows
from bgf.gateway import Gateway, Limits, reconcile
from bgf.model import Flow, FlowKey
from bgf.session import State
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
from tests.fakes.transcript import run

GOLDEN = Path(__file__).parent.parent / "golden" / "gateway"
ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)
OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE


def machine(**limits: int) -> Gateway:
    return Gateway(GROUP, REALMS, Limits(**limits), POLICIES)


def establish(gateway: Gateway, call: str, entropy: int = 0, at_ms: int = 0) -> None:
    offer = command(OFFER, f"{call}-o", ALICE, call=call, at_ms=at_ms)
    gateway.step(gateway.draw(offer, entropy))
    gateway.step(command(ANSWER, f"{call}-a", BOB, call=call, at_ms=at_ms))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_golden_transcript(path: Path) -> None:
    """Set GOLDEN=write to accept what the machine says now, then read the difference."""
    now = run(path.read_text())
    if os.environ.get("GOLDEN") == "write":
        path.write_text(now)
    assert now == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(list(GOLDEN.glob("*.txt"))) >= 4


def walk(rng: Random, gateway: Gateway, steps: int) -> list[Event]:
    """Drive a machine wildly, with its ports and timers; the events as they were stepped."""
    callers, events = Callers(rng, flows=gateway.expected_flows), list[Event]()
    for _ in range(steps):
        made: Event = callers.next()
        if isinstance(made, Command):
            try:
                made = gateway.draw(made, rng.getrandbits(64))
            except PortsExhausted:
                continue
        due = gateway.due(callers.now_ns)
        for event in (made, *([due] if due else [])):
            gateway.step(event)
            events.append(event)
    return events


@unhurried
@given(st.randoms(use_true_random=False))
def test_the_same_events_give_the_same_state_and_effects(rng: Random) -> None:
    first, second = machine(), machine()
    for event in walk(rng, first, 25):
        second.step(event)
    assert first.digest() == second.digest()
    assert first.sessions == second.sessions
    assert first.next_deadline() == second.next_deadline()
    assert first.usage()[:3] == second.usage()[:3]  # resting pairs thaw when a draw looks


@unhurried
@given(st.randoms(use_true_random=False))
def test_effects_add_up_to_the_expected_flows_and_no_port_is_used_twice(rng: Random) -> None:
    gateway, twin, flows = machine(), machine(), dict[FlowKey, Flow]()
    for event in walk(rng, gateway, 25):
        effects = twin.step(event)
        replies = [effect for effect in effects if isinstance(effect, Reply)]
        assert len(replies) == isinstance(event, Command)
        assert not replies or effects[-1] is replies[0]
        for effect in effects:
            if isinstance(effect, PutFlow):
                flows[effect.flow.key] = effect.flow
            elif isinstance(effect, DropFlow):
                del flows[effect.key]
        expected = [flow for call in twin.sessions for flow in twin.expected_flows(call)]
        assert {flow.key: flow for flow in expected} == flows
        assert len({flow.local_in.port for flow in expected}) == len(expected)
        owners = {flow.local_in.port // 2: flow.session for flow in expected}
        assert len(owners) == twin.usage().pairs_used
        assert all(owners[flow.local_in.port // 2] == flow.session for flow in expected)


@unhurried
@given(st.randoms(use_true_random=False))
def test_a_plan_changes_nothing(rng: Random) -> None:
    gateway = machine()
    walk(rng, gateway, 10)
    callers = Callers(rng)
    event = callers.next()
    if isinstance(event, Command):
        event = gateway.draw(event, 1)  # ports that have rested long enough are free from here on
    before, usage = gateway.digest(), gateway.usage()
    plan = gateway.plan(event)
    assert (gateway.digest(), gateway.usage()) == (before, usage)
    gateway.commit(plan)
    assert plan.changes or gateway.digest() == before


def test_the_digest_does_not_depend_on_the_order_of_calls() -> None:
    first, second = machine(), machine()
    establish(first, "a", 1)
    establish(first, "b", 2)
    establish(second, "b", 2)
    establish(second, "a", 1)
    assert first.digest() == second.digest()
    first.step(command(DELETE, "d", call="a"))
    assert first.digest() != second.digest()


def test_a_stale_plan_is_refused() -> None:
    gateway = machine()
    plan = gateway.plan(gateway.draw(command(OFFER, "1", ALICE), 0))
    establish(gateway, "call-1")
    with pytest.raises(Misuse, match="plan again"):
        gateway.commit(plan)


def test_ports_of_another_call_are_refused_before_anything_happens() -> None:
    gateway = machine()
    drawn = gateway.draw(command(OFFER, "1", ALICE, call="a"), 0)
    gateway.step(drawn)
    before = gateway.digest()
    with pytest.raises(Misuse, match="belongs to call a"):
        gateway.step(msgspec.structs.replace(drawn, cookie="2", call_id="b"))
    assert gateway.digest() == before


def test_an_exhausted_range_says_what_kamailio_listens_for() -> None:
    gateway = machine()
    for number in range(50):
        establish(gateway, f"c{number}", number)
    assert gateway.usage().pairs_free == 0
    with pytest.raises(PortsExhausted) as caught:
        gateway.draw(command(OFFER, "x", ALICE, call="one-more"), 0)
    assert caught.value.reason == "Ran out of ports"
    held = command(OFFER, "y", ALICE, call="c7", to_tag="bob")
    assert gateway.draw(held, 0) == held


def test_the_session_limit_counts_live_calls_and_repeated_cookies_pass_it() -> None:
    gateway = machine(sessions_max=2)
    establish(gateway, "a", 1)
    establish(gateway, "b", 2)
    over = gateway.draw(command(OFFER, "x", ALICE, call="c"), 3)
    (reply,) = gateway.step(over)
    assert isinstance(reply, Reply)
    assert (reply.result, "sessions_max" in reply.reason) == (Result.LOAD_LIMIT, True)
    gateway.step(command(DELETE, "d", call="a"))
    assert isinstance(gateway.step(over)[-1], Reply)
    assert gateway.usage().sessions == 2
    (again,) = gateway.step(command(OFFER, "a-o", ALICE, call="a"))
    assert isinstance(again, Reply)
    assert again.result is Result.OK


def test_the_tombstone_limit_is_named() -> None:
    gateway = machine(tombstones_max=1)
    establish(gateway, "a", 1)
    gateway.step(command(DELETE, "d", call="a"))
    (reply,) = gateway.step(gateway.draw(command(OFFER, "x", ALICE, call="b"), 0))
    assert isinstance(reply, Reply)
    assert "tombstones_max" in reply.reason


def test_deadlines_come_in_order_and_stay_until_stepped() -> None:
    gateway = machine()
    assert gateway.next_deadline() is None
    for at_ms, call in enumerate("ab"):
        gateway.step(gateway.draw(command(OFFER, call, ALICE, call=call, at_ms=at_ms), at_ms))
    first_ns = NS_PER_S + 240_000 * NS_PER_MS
    assert gateway.next_deadline() == first_ns
    assert gateway.due(first_ns - 1) is None
    event = gateway.due(first_ns)
    assert event
    assert event == gateway.due(first_ns)
    effects = gateway.step(event)
    assert all(isinstance(effect, DropFlow) for effect in effects)
    assert gateway.next_deadline() == first_ns + NS_PER_MS
    gateway.step(command(ANSWER, "b2", BOB, call="b", at_ms=2))
    assert gateway.next_deadline() == first_ns + 60_000 * NS_PER_MS
    last = gateway.due(first_ns + 60_000 * NS_PER_MS)
    assert last
    assert gateway.step(last) == [Forget("a")]
    assert gateway.next_deadline() is None
    assert set(gateway.sessions) == {"b"}


def test_query_lists_the_flows_of_a_call() -> None:
    gateway = machine()
    establish(gateway, "a")
    (reply,) = gateway.step(command(Verb.QUERY, "q", call="a"))
    assert isinstance(reply, Reply)
    assert list(reply.flows) == gateway.expected_flows("a")
    assert reply.created_ns == NS_PER_S


# Taking over


def adopted() -> tuple[Gateway, Gateway]:
    """A machine with calls a and b, and another that knows their flows only."""
    old, new = machine(), machine()
    establish(old, "a", 1)
    establish(old, "b", 2)
    for call in "ab":
        for _ in range(2):
            new.adopt(FoundPairs(pairs_of(old, call)))
    return old, new


class FoundPairs(FoundFlows):
    """Of flows that nobody reads."""

    def __init__(self, pairs: dict[int, str]) -> None:
        super().__init__()
        self.pairs = pairs

    def calls(self) -> set[str]:
        return set(self.pairs.values())

    def pairs_of(self, call_id: str) -> list[int]:
        return [port for port, owner in self.pairs.items() if owner == call_id]


def pairs_of(gateway: Gateway, call: str) -> dict[int, str]:
    session = gateway.session(call)
    assert session
    return dict.fromkeys(session.ports(), call)


def test_adopted_ports_are_not_drawn() -> None:
    old, new = adopted()
    assert new.usage()._replace(sessions=2) == old.usage()
    taken = {port for session in old.sessions.values() for port in session.ports()}
    free = new.usage().pairs_free
    media = [line("10.10.0.2", 4000)] * 16
    drawn: set[int] = set()
    for number in range(free // 32):
        made = new.draw(command(OFFER, f"n{number}", *media, call=f"n{number}"), number)
        new.step(made)
        drawn |= set(made.ports)
    assert len(drawn) == 32 * (free // 32)
    assert not drawn & taken


def test_a_restored_session_takes_its_adopted_ports_over() -> None:
    old, new = adopted()
    for session in old.sessions.values():
        new.restore(session, NS_PER_S)
        new.restore(session, NS_PER_S)
    assert new.digest() == old.digest()
    assert new.usage() == old.usage()
    assert not new.adopted()


def test_disowned_ports_rest() -> None:
    _, new = adopted()
    for call in "aba":
        new.disown(call, NS_PER_S)
    usage = new.usage()
    assert (usage.pairs_used, usage.pairs_quarantined) == (0, 4)
    assert not new.adopted()


def test_what_another_call_has_is_not_adopted() -> None:
    old, new = adopted()
    new.adopt(FoundPairs(dict.fromkeys(pairs_of(old, "a"), "later")))
    assert set(new.adopted()) == {"a", "b"}
    assert new.usage().pairs_used == 4
    outside = machine()
    outside.adopt(FoundPairs({2: "a"}))
    assert (outside.usage().pairs_used, list(outside.adopted())) == (0, [])


def test_a_new_owner_lets_the_ports_of_ended_calls_rest_as_long_as_the_old_one() -> None:
    """Their clocks have nothing to do with each other: 5 s of one are 5 s of the other."""
    old, gap_ns = machine(), 10**15
    establish(old, "early")
    establish(old, "late", 1)
    ports = {call: old.session(call).ports() for call in ("early", "late")}  # type: ignore[union-attr]
    old.step(command(DELETE, "d1", call="early", at_ms=10_000))
    old.step(command(DELETE, "d2", call="late", at_ms=13_000))
    for offset_ns in (gap_ns, -gap_ns // 2, 0):
        new, now_ns = machine(), 20 * NS_PER_S + offset_ns
        for call in ("late", "early"):
            session = old.session(call)
            assert session is not None
            new.restore(session, now_ns)
        assert new.usage().pairs_quarantined == 4
        free: dict[str, int] = {}
        for ms in range(0, 6_000, 500):
            asked = command(OFFER, "n", ALICE, call="n")
            new.draw(msgspec.structs.replace(asked, now_ns=now_ns + ms * NS_PER_MS), 0)
            usage = new.usage()
            for call, resting in (("late", 2), ("early", 4)):
                if usage.pairs_quarantined < resting:
                    free.setdefault(call, ms)
        assert free == {"early": 2_000, "late": 5_000}
    assert ports["early"].isdisjoint(ports["late"])


def test_a_pair_that_nobody_can_name_is_found_and_freed() -> None:
    gateway = machine()
    establish(gateway, "a")
    held = gateway.ports_held()
    assert len(held) == 2
    assert [gateway.leak(port, NS_PER_S) for port in held] == [None, None]
    gateway._pool.take(30_100, "nobody")
    assert gateway.leak(30_100, NS_PER_S) == "nobody"
    assert gateway.leak(30_100, NS_PER_S) is None
    assert gateway.usage().pairs_quarantined == 1
    assert [gateway.call_of(FlowKey("10.20.0.101", port + 1)) for port in held] == ["a", "a"]


def test_foreign_sessions_are_refused() -> None:
    old, _ = adopted()
    other = Gateway(msgspec.structs.replace(GROUP, id="g2"), REALMS)
    session = old.session("a")
    assert session
    with pytest.raises(Misuse, match="not g2"):
        other.restore(session, 0)


def test_a_session_whose_ports_are_anothers_is_not_taken_in() -> None:
    old, _ = adopted()
    new = machine()
    establish(new, "thief", 1)
    session = old.session("a")
    assert session
    with pytest.raises(Misuse, match="thief"):
        new.restore(session, 0)
    assert new.session("a") is None


def test_reconcile_puts_what_is_missing_or_different_and_drops_the_rest() -> None:
    old, _ = adopted()
    a, b = old.expected_flows("a"), old.expected_flows("b")
    assert reconcile(a, a) == []
    wrong = msgspec.structs.replace(a[1], remote=None)
    effects = reconcile(a, [a[0], wrong, b[0]])
    assert effects == [PutFlow(a[1]), PutFlow(a[2]), PutFlow(a[3]), DropFlow("g1", b[0].key)]


def test_expected_flows_of_the_unknown_and_the_deleted() -> None:
    gateway = machine()
    establish(gateway, "a")
    gateway.step(command(DELETE, "d", call="a"))
    session = gateway.session("a")
    assert session
    assert session.state is State.DELETED
    assert gateway.expected_flows("a") == gateway.expected_flows("nobody") == []
