"""What must be open, by the model, and what is, on a packet path in memory; `tests/kernel` has the
same on the kernel's. And the model is no decoration: breaks of the machine that an operator would
hear are put in one at a time, and each must be noticed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bgf import (
    gateway,
    hands,
    journal,
    session,
    session_flows,
    session_ice,
    session_offers,
    session_orders,
)
from bgf.events import Command, DropFlow, Event, MediaLine
from bgf.model import Address, Flow, FlowKey, Gate, Latch, Source
from bgf.ports import PortPool
from bgf.session import State, Step
from bgf.session_values import Session, Site, Stream
from tests.fakes.gateway_machine import effort
from tests.fakes.gateway_memory import CallsInMemory


def test_what_is_open_is_what_must_be() -> None:
    run_state_machine_as_test(CallsInMemory, settings=effort(150, shrink=False))


# Mutants. Each is what somebody might write by mistake, as a patch of one name.

Patch = tuple[Any, str, Any]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """`noticed` is a part of what the machine's test says."""

    says: str
    patch: Callable[[], Patch]
    noticed: str = "open, and must not be|must be open, and is not"


def _kept_at_delete() -> Patch:
    right = gateway._difference

    def wrong(expected: Mapping[FlowKey, Flow], found: Mapping[FlowKey, Flow]) -> list[Any]:
        return [one for one in right(expected, found) if not isinstance(one, DropFlow)]

    return gateway, "_difference", wrong


def _sources_of_before() -> Patch:
    right = session_flows.agreed

    def wrong(stream: Stream, hosts: tuple[str, str], lines: tuple[MediaLine, MediaLine]) -> Stream:
        after = right(stream, hosts, lines)
        kept = [old or new for old, new in zip(stream.sources, after.sources, strict=True)]
        # The filter is taken from the description; a held one has the source alone.
        named = [
            msgspec.structs.replace(line, rtp=source) if source and line.rtp.port else line
            for line, source in zip(after.lines, kept, strict=True)
            if line is not None
        ]
        return msgspec.structs.replace(after, sources=tuple(kept), lines=tuple(named))

    return session_offers, "agreed", wrong


def _in_force_when_offered() -> Patch:
    right = session_offers.offer

    def wrong(before: Session, command: Command, site: Site) -> tuple[Session, Any]:
        after, reply = right(before, command, site)
        side = after.offerer
        streams = [
            msgspec.structs.replace(
                stream,
                lines=(line, stream.lines[1]) if side == 0 else (stream.lines[0], line),
            )
            for stream, line in zip(after.streams, command.media, strict=False)
        ]
        streams += after.streams[len(streams) :]
        return msgspec.structs.replace(after, streams=tuple(streams)), reply

    return session, "_ACTIONS", session._ACTIONS | {session.Action.OFFER: wrong}


def _rtcp_beside_rtp() -> Patch:
    right = session_flows._side

    def wrong(stream: Stream, side: int, mux: bool) -> Any:
        found = right(stream, side, mux)
        if found.rtp is None or found.rtcp is None:
            return found
        return found._replace(rtcp=Address(found.rtp.host, found.rtp.port + 1))

    return session_flows, "_side", wrong


def _host_alone() -> Patch:
    right = session_flows._sender

    def wrong(*args: Any, **more: Any) -> tuple[Latch, Source]:
        latch, source = right(*args, **more)
        return latch, Source(source.host)

    return session_flows, "_sender", wrong


def _first_answer_stays() -> Patch:
    right = session_offers.answer

    def wrong(before: Session, command: Command, site: Site) -> tuple[Session, Any]:
        after, reply = right(before, command, site)
        if before.state is State.ESTABLISHED and before.tags != after.tags:
            return before, reply
        return after, reply

    return session, "_ACTIONS", session._ACTIONS | {session.Action.ANSWER: wrong}


def _any_family() -> Patch:
    right = session_flows._flow

    def wrong(call: Session, index: int, side: int, component: Any, **more: Any) -> Flow:
        flow = right(call, index, side, component, **more)
        far = call.streams[index].lines[1 - side]
        if flow.remote is None and far is not None and far.rtcp is not None:
            both = session_ice.muxes_of(call.streams[index])[1 - side]
            if component == 2 and not both and far.rtcp.host not in session_flows.UNSPECIFIED:
                gate = Gate.OPEN if more["way"].wanted else flow.gate
                return msgspec.structs.replace(flow, remote=far.rtcp, gate=gate)
        return flow

    return session_flows, "_flow", wrong


def _entries_but_the_last() -> Patch:
    right = journal.replay

    def wrong(entries: Iterable[bytes], site: Site) -> Session | None:
        known = list(entries)
        return right(known[:-1] if len(known) > 1 else known, site)

    return hands, "replay", wrong


def _again_and_again() -> Patch:
    return Session, "kept_reply", lambda _self, _cookie: None


def _nobody_waits() -> Patch:
    def wrong(call: Session | None, event: Event) -> Step:
        return Step(call)

    return session, "_expire", wrong


def _released_at_once() -> Patch:
    right = PortPool.release

    def wrong(pool: PortPool, port: int, owner: str, now_ns: int) -> None:
        right(pool, port, owner, now_ns - 60 * 10**9)

    return PortPool, "release", wrong


def _patched(where: Any, name: str, value: Any) -> Callable[[], Patch]:
    return lambda: (where, name, value)


MUTANTS = (
    Mutant("a pinhole is not closed at delete", _kept_at_delete, ""),
    Mutant("the gate stays open on hold", _patched(session_flows, "UNSPECIFIED", ("nobody",)), ""),
    Mutant("after a re-INVITE the source filter is the one before", _sources_of_before),
    Mutant("an offer is in force before it is answered", _in_force_when_offered),
    Mutant("RTCP goes beside RTP, whatever a=rtcp says", _rtcp_beside_rtp),
    Mutant("strict-source forgets the port", _host_alone),
    Mutant("the first fork that answers stays in force", _first_answer_stays),
    Mutant("RTCP to another IP version is sent all the same", _any_family),
    Mutant(
        "rtcp-mux is not seen", _patched(session_flows, "muxes_of", lambda _stream: (False, False))
    ),
    Mutant("a block blocks nothing", _patched(session_flows, "_passes", lambda *_: (True, True))),
    Mutant("nobody latches", _patched(session_flows, "mode_of", lambda *_: Latch.OFF)),
    Mutant("asymmetric is nothing", _patched(session_flows, "ASYMMETRIC", "nothing")),
    Mutant("the last entry of a journal is lost at a takeover", _entries_but_the_last, ""),
    Mutant("a repeated cookie is a second command", _again_and_again, ""),
    Mutant("half-open calls stay for ever", _nobody_waits, ""),
    Mutant(
        "a deleted branch takes the whole call",
        _patched(session_orders, "_fork_meant", lambda *_: ""),
    ),
    Mutant("a released port has no rest", _released_at_once, "had no rest"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.says)
def test_a_break_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a walk that begins with the same seed each time: no luck is needed."""
    where, name, value = mutant.patch()
    monkeypatch.setattr(where, name, value)
    thorough = settings(
        phases=[Phase.generate],
        max_examples=1_000,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, BaseExceptionGroup)) as caught:
        run_state_machine_as_test(CallsInMemory, settings=thorough)
    assert not mutant.noticed or any(
        part in _all(caught.value) for part in mutant.noticed.split("|")
    )


def _all(problem: BaseException) -> str:
    parts = problem.exceptions if isinstance(problem, BaseExceptionGroup) else (problem,)
    return " ".join(str(part) for part in parts)
