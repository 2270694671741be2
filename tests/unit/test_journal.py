"""What is written down brings the session back, whichever way it was written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf import explain, journal
from bgf.errors import PortsExhausted, StateError, Unreadable
from bgf.events import SCHEMA, Command, Event, Expired, MediaLine, Verb
from bgf.gateway import Gateway
from bgf.journal import (
    COMPACT_AT_BYTES,
    INPUTS_MAX,
    ITEM_MAX_BYTES,
    OPEN_INPUTS_MAX,
    READABLE,
    Kind,
    Mode,
    Recorder,
)
from bgf.model import Address, Flow
from bgf.session import CALL_ID_MAX_BYTES, REPLIES_MAX, STREAMS_MAX, Session
from tests.fakes.calls import GROUP, POLICIES, REALMS, Callers, command, line, unhurried

ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)
MODES = pytest.mark.parametrize("mode", list(Mode))


class Keeper:
    """A machine and the journals that a recorder keeps of it."""

    def __init__(self, mode: Mode) -> None:
        self.gateway = Gateway(GROUP, REALMS, policies=POLICIES)
        self.recorder = Recorder(mode)
        self.journals: dict[str, list[bytes]] = {}

    def step(self, event: Event) -> None:
        plan = self.gateway.plan(event)
        if plan.forgets:
            self.recorder.forget(plan.call_id)
            del self.journals[plan.call_id]
        elif plan.changes:
            record = self.recorder.record(plan)
            if record.replace:
                self.journals[record.call_id] = []
            self.journals.setdefault(record.call_id, []).extend(record.entries)
            self.recorder.done(record)
        self.gateway.commit(plan)

    def restored(self) -> Gateway:
        again = Gateway(GROUP, REALMS, policies=POLICIES)
        for entries in self.journals.values():
            session = journal.replay(entries, again.site)
            assert session
            again.restore(session, 0)
        return again


@MODES
@unhurried
@given(rng=st.randoms(use_true_random=False))
def test_a_machine_restored_from_its_journals_equals_the_lost_one(mode: Mode, rng: Random) -> None:
    keeper = Keeper(mode)
    callers = Callers(rng, calls=3, flows=keeper.gateway.expected_flows)
    for _ in range(30):
        event = callers.next()
        if isinstance(event, Command):
            try:
                event = keeper.gateway.draw(event, rng.getrandbits(64))
            except PortsExhausted:
                continue
        keeper.step(event)
        due = keeper.gateway.due(callers.now_ns)
        if due:
            keeper.step(due)
    again = keeper.restored()
    assert again.digest() == keeper.gateway.digest()
    for call in again.sessions:
        assert again.expected_flows(call) == keeper.gateway.expected_flows(call)
    assert again.next_deadline() == keeper.gateway.next_deadline()
    assert again.usage().pairs_used == keeper.gateway.usage().pairs_used
    assert set(keeper.journals) == set(keeper.gateway.sessions)


@MODES
def test_a_long_call_keeps_its_journal_bounded(mode: Mode) -> None:
    keeper = Keeper(mode)
    keeper.step(keeper.gateway.draw(command(Verb.OFFER, "o", *[ALICE] * 16), 0))
    longest = 0
    for number in range(400):
        keeper.step(command(Verb.ANSWER, f"a{number}", *[BOB] * 16, at_ms=number * 1000))
        entries = keeper.journals["call-1"]
        assert sum(map(len, entries)) < ITEM_MAX_BYTES
        longest = max(longest, len(entries))
    bound = {Mode.EXPLICIT: 1, Mode.CHECKPOINTED: INPUTS_MAX + 3, Mode.IMPLICIT: 400}[mode]
    assert longest <= bound
    assert longest > 1 or mode is Mode.EXPLICIT
    assert keeper.restored().digest() == keeper.gateway.digest()


def test_a_resumed_journal_is_compacted_where_it_would_have_been() -> None:
    first = Keeper(Mode.CHECKPOINTED)
    first.step(first.gateway.draw(command(Verb.OFFER, "o", ALICE), 0))
    for number in range(INPUTS_MAX + 1):
        first.step(command(Verb.ANSWER, f"a{number}", BOB))
    assert len(first.journals["call-1"]) == INPUTS_MAX + 3
    second = Keeper(Mode.CHECKPOINTED)
    second.gateway, second.journals = first.gateway, first.journals
    second.recorder.resume("call-1", first.journals["call-1"])
    second.step(command(Verb.ANSWER, "next", BOB))
    assert len(second.journals["call-1"]) == 1


def test_an_answered_call_is_read_and_not_gone_through() -> None:
    """Its inputs stand before what came of them, for whoever asks why; older versions read both."""
    keeper = Keeper(Mode.CHECKPOINTED)
    keeper.step(keeper.gateway.draw(command(Verb.OFFER, "o", ALICE), 0))
    assert len(keeper.journals["call-1"]) == 1
    keeper.step(command(Verb.ANSWER, "a", BOB))
    kinds = [type(journal.decode(entry)) for entry in keeper.journals["call-1"]]
    assert kinds == [Command, Command, Session]
    assert keeper.restored().digest() == keeper.gateway.digest()
    told = explain.history(keeper.journals["call-1"], keeper.gateway.site)
    assert [entry.what for entry in told] == ["offer", "answer"]
    keeper.journals["call-1"][0] = b"what nobody can read"
    assert keeper.restored().digest() == keeper.gateway.digest()
    keeper.step(keeper.gateway.draw(command(Verb.OFFER, "o2", ALICE), 1))
    keeper.step(command(Verb.ANSWER, "a2", BOB))
    assert len(keeper.journals["call-1"]) == 5, "later inputs are appended"
    assert keeper.restored().digest() == keeper.gateway.digest()
    keeper.journals["call-1"][3] = b"what nobody can read"
    with pytest.raises(StateError):
        keeper.restored()


def test_inputs_before_the_answer_are_few_or_left_out() -> None:
    for offers in range(1, OPEN_INPUTS_MAX + 3):
        keeper = Keeper(Mode.CHECKPOINTED)
        for number in range(offers):
            keeper.step(keeper.gateway.draw(command(Verb.OFFER, f"o{number}", ALICE), number))
        keeper.step(command(Verb.ANSWER, "a", BOB))
        summed_up = offers <= OPEN_INPUTS_MAX
        assert len(keeper.journals["call-1"]) == offers + (2 if summed_up else 1)
        assert keeper.restored().digest() == keeper.gateway.digest()


def test_the_largest_checkpoint_fits_an_item() -> None:
    keeper = Keeper(Mode.EXPLICIT)
    host = "2001:db8:1111:2222:3333:4444:5555:6666"
    long = MediaLine(
        "application", "UDP/TLS/RTP/SAVPF", Address(host, 65534), Address(host, 65535), True
    )
    call = "x" * CALL_ID_MAX_BYTES
    for number in range(2 * REPLIES_MAX):
        made = command(
            Verb.OFFER, f"{number:064}", *[long] * STREAMS_MAX, call=call, from_tag="t" * 256
        )
        keeper.step(keeper.gateway.draw(made, number))
        keeper.step(
            command(
                Verb.ANSWER, f"a{number:064}", *[BOB] * STREAMS_MAX, call=call, from_tag="t" * 256
            )
        )
    assert COMPACT_AT_BYTES < ITEM_MAX_BYTES
    assert len(keeper.journals[call][0]) < COMPACT_AT_BYTES


def test_entries_are_read_back_by_kind() -> None:
    event = Expired(5, "call")
    session = Session("g1", "call")
    assert journal.decode(journal.encode(event)) == event
    assert journal.decode(journal.checkpoint(session)) == session
    assert journal.replay([], Gateway(GROUP, REALMS).site) is None


def test_the_version_before_is_readable_with_fewer_fields() -> None:
    keeper = Keeper(Mode.EXPLICIT)
    keeper.step(keeper.gateway.draw(command(Verb.OFFER, "o", ALICE), 0))
    session = keeper.gateway.session("call-1")
    assert session
    poorer = msgspec.msgpack.encode(_until(session, "replies"))
    older = bytes((SCHEMA - 1, Kind.CHECKPOINT)) + poorer
    assert journal.decode(older) == msgspec.structs.replace(session, replies=())
    event = command(Verb.OFFER, "o", ALICE)
    poorer = msgspec.msgpack.encode(_until(event, "realms"))
    assert journal.decode(bytes((SCHEMA - 1, Kind.INPUT)) + poorer) == event


def _until(value: msgspec.Struct, field: str) -> Any:
    """The fields before that one."""
    return msgspec.to_builtins(value)[: value.__struct_fields__.index(field)]


GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "journal").glob("schema-*.json"))
"""Written by the versions before: entries, and the sessions and flows that they made of them."""
KEPT = [(path.stem, kept) for path in GOLDEN for kept in json.loads(path.read_text())]


@pytest.mark.parametrize(
    ("schema", "kept"),
    KEPT,
    ids=[f"{schema}, {kept['about']}, {kept['mode']}" for schema, kept in KEPT],
)
def test_journals_that_the_versions_before_wrote_are_the_same_calls(
    schema: str, kept: dict[str, Any]
) -> None:
    gateway = Gateway(GROUP, REALMS, None, POLICIES if kept.get("policies") else None)
    session = journal.replay(map(bytes.fromhex, kept["entries"]), gateway.site)
    assert session is not None
    now = msgspec.to_builtins(session)
    fields = dict(zip(Session.__struct_fields__, now, strict=True))
    for name, then in zip(Session.__struct_fields__, kept["session"], strict=False):
        assert _shortened(fields[name], then) == then, name
    if schema == "schema-1":  # which knew nothing of learning
        assert not any(s.rounds != (0, 0) or any(s.learned) for s in session.streams)
    gateway.restore(session, 10**12)
    flows = [msgspec.to_builtins(flow) for flow in gateway.expected_flows(session.call_id)]
    flows = [_shortened(flow, then) for flow, then in zip(flows, kept["flows"], strict=True)]
    known = [list(flow) for flow in kept["flows"]]
    if "strict-source" in session.settings:  # it admitted the described address, and now it learns
        for flow in (*flows, *known):
            flow[Flow.__struct_fields__.index("source")] = None
    assert flows == known
    assert {path.stem for path in GOLDEN} == {f"schema-{number}" for number in READABLE[:-1]}
    # And it goes on from there.
    end = command(Verb.DELETE, "the end", at_ms=10**6)
    gateway.step(end)
    assert gateway.expected_flows(session.call_id) == []


def _shortened(now: Any, then: Any) -> Any:
    """A value without the fields that it has gained since `then`, at any depth."""
    if isinstance(now, list | tuple) and isinstance(then, list):
        return [_shortened(a, b) for a, b in zip(now, then, strict=False)]
    return now


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (b"", "0 bytes"),
        (b"\x01", "1 bytes"),
        (bytes((SCHEMA + 1, 1)) + b"\xc0", f"schema {SCHEMA + 1}"),
        (bytes((SCHEMA, 9)) + b"\xc0", "kind 9"),
        (bytes((SCHEMA, 1)) + b"\xc1", "cannot be read"),
        (bytes((SCHEMA, 2)) + b"\x93\x01\x02\x03", "cannot be read"),
        (journal.encode(Expired(5, "call"))[:-1], "cannot be read"),
        (journal.encode(Expired(5, "call"))[:-1] + b"\xff", "cannot be read"),
        (journal.encode(command(Verb.OFFER, "o", ALICE)), "cannot be replayed"),
    ],
)
def test_unreadable_entries_say_why(entry: bytes, named: str) -> None:
    with pytest.raises(Unreadable, match=named) as caught:
        journal.replay([entry], Gateway(GROUP, REALMS).site)
    assert "\n" not in str(caught.value)


@unhurried
@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else(noise: bytes) -> None:
    for head in (b"", bytes((SCHEMA, 1)), bytes((SCHEMA, 2))):
        with contextlib.suppress(Unreadable):
            journal.replay([head + noise], Gateway(GROUP, REALMS).site)


def test_a_call_that_leaves_has_no_record() -> None:
    gateway = Gateway(GROUP, REALMS)
    gateway.step(gateway.draw(command(Verb.OFFER, "o", ALICE), 0))
    gateway.step(command(Verb.DELETE, "d"))
    deadline_ns = gateway.next_deadline()
    assert deadline_ns
    plan = gateway.plan(Expired(deadline_ns, "call-1"))
    assert plan.forgets
    with pytest.raises(StateError):
        Recorder().record(plan)
