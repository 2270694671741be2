"""What went wrong elsewhere, and what `ng` peers do: each lesson a test by name.

LESSONS quotes the collected facts about `ng` and about what users of existing gateways suffer from,
as far as they concern control, and names the tests that hold each: what others suffered from is
here, what peers may send in `test_bad_input`.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from bgf import journal
from bgf.events import Learned, Nominated, Relatch, Verb
from bgf.hands import Outcome
from bgf.journal import Mode
from bgf.model import Address, Gate
from bgf.session import Session, Stream
from tests.fakes.calls import GROUP, NS_PER_S, command, line
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Control, Node
from tests.fakes.journal import Shared
from tests.fakes.ng_requests import ANSWER, DELETE, OFFER, control, established, frame, ports

ROOT = Path(__file__).parents[2]
HERE, BAD_INPUT = "tests/unit/test_lessons.py", "tests/unit/test_bad_input.py"


class Lesson(NamedTuple):
    """Where it was learned, what it says, and the tests that hold it (`test`, or `file::test`)."""

    where: str
    says: str
    tests: tuple[str, ...]


LESSONS = (
    Lesson("ng", "first byte `d` is bencode, `{` is JSON; answer in kind", ("test_in_kind",)),
    Lesson("ng", "Keys may come unsorted", ("test_unsorted_keys",)),
    Lesson(
        "ng",
        "replies must leave from the address and port that was asked",
        (
            "tests/integration/test_ng_socket.py"
            "::test_bound_before_its_address_exists_and_answers_from_it",
        ),
    ),
    Lesson(
        "ng",
        "A repeated cookie gets the stored reply, kept 30-60 s, errors too",
        (
            "test_a_repeated_cookie_gets_the_stored_reply",
            "test_a_delete_that_is_repeated_does_not_meet_a_call_that_has_begun_since",
            "test_stored_replies_are_given_up",
        ),
    ),
    Lesson(
        "ng",
        "a duplicate of one in flight waits for it",
        ("test_a_duplicate_of_one_in_flight_gets_its_one_answer",),
    ),
    Lesson("ng", "No cookie: dropped", ("test_no_cookie_is_dropped",)),
    Lesson(
        "ng", "What we do not do answers `result: error` with a reason", ("test_what_is_not_done",)
    ),
    Lesson("ng", "to-tag (swapped for an offer inside a reply)", ("test_swapped_tags",)),
    Lesson("ng", "wrong tags", ("test_wrong_tags_harm_nobody",)),
    Lesson("ng", "integer TOS; everything else `k=v` as a string", ("test_integers_and_strings",)),
    Lesson("ng", "Accept hyphen and space spellings", ("test_hyphens_and_spaces",)),
    Lesson(
        "ng",
        "ignore unknown flags with a warning, never an error",
        ("test_unknown_words_are_a_warning",),
    ),
    Lesson(
        "ng",
        "Kamailio tries its next node only on `load limit`, its older word for it, or"
        " 'Ran out of ports'",
        ("test_the_next_node_is_tried", "test_ports_exhausted"),
    ),
    Lesson(
        "ng",
        "A delete of an unknown call is `ok` with a warning, unless flag `fatal`",
        ("test_delete_of_an_unknown_call",),
    ),
    Lesson(
        "ng",
        "In-dialog requests may come without flags: remember a call's settings",
        ("test_settings_are_remembered",),
    ),
    Lesson(
        "ng",
        "The same Call-ID can cross the same P-CSCF twice; a duplicate delete is harmless",
        ("test_a_call_that_crosses_twice_and_is_deleted_twice",),
    ),
    Lesson("ng", "Re-offers must keep the ports", ("test_reoffers_keep_their_ports",)),
    Lesson(
        "ng",
        "`ICE=force` on one leg and `ICE=remove` on the other even for plain VoLTE",
        ("test_ice_words_for_plain_volte",),
    ),
    Lesson(
        "ng",
        "Query statistics Kamailio reads: totals, created, tags",
        ("test_query_has_what_kamailio_reads",),
    ),
    Lesson(
        "ng",
        "UDP first; also TCP, HTTP POST and WebSocket",
        ("tests/integration/test_ng_transports.py::test_every_transport_codec_and_family",),
    ),
    Lesson(
        "ng",
        "It tries 5 times at 1 s with the same cookie: the budget for control failover",
        (
            "tests/integration/test_kamailio.py::test_what_is_lost_is_asked_for_again",
            "tests/integration/test_kamailio_kills.py::test_the_owner_dies",
        ),
    ),
    Lesson(
        "ng",
        "Commands Kamailio sends",
        (
            "tests/unit/test_ng.py::test_every_verb_of_the_machine_is_decoded",
            "tests/integration/test_ng_commands.py"
            "::test_orders_take_hold_of_media_and_outlive_their_node",
        ),
    ),
    Lesson(
        "ng",
        "Replies: ok, error, pong, load limit; error-reason, warning, sdp",
        ("tests/unit/test_ng.py::test_transcript",),
    ),
    Lesson(
        "ng",
        "INVITE and UPDATE are offers, replies answers, ACK and PRACK with SDP answers, SDP in a"
        " reply to an SDP-less INVITE an offer, BYE, CANCEL and refusals deletes",
        ("tests/integration/test_kamailio.py::test_a_call_is_carried",),
    ),
    Lesson(
        "ng",
        "The same Call-ID can cross the same P-CSCF twice, and both passages carry media",
        (
            "tests/unit/test_ng_legs.py::test_each_leg_is_a_call_with_pinholes_of_its_own",
            "tests/integration/test_kamailio.py::test_a_call_is_carried",
            "tests/kernel/test_packets_latch.py::test_two_users_of_one_gateway",
        ),
    ),
    Lesson(
        "#1322",
        "the address takeover is the product",
        (
            "tests/integration/test_cluster.py::test_calls_outlive_their_node",
            "tests/kernel/test_addresses.py::test_neighbours_hear_every_form_of_the_announcement",
        ),
    ),
    Lesson(
        "#1443 #1483",
        "keys and rollover counters are the parties' own: what is encrypted passes end to end",
        ("tests/unit/test_sdp_ice.py::test_what_is_encrypted_end_to_end_stays",),
    ),
    Lesson(
        "#1360",
        "no out-of-tree module: bpf(2) is all, and where it is missing that is said",
        ("tests/unit/test_preflight.py::test_no_bpf",),
    ),
    Lesson(
        "#1069",
        "show per-CPU load",
        (
            "tests/unit/test_gateway_admin.py::test_packets_are_told_by_realm_reason_and_cpu",
            "tests/kernel/test_packets_edges.py::test_outcomes_are_counted_by_realm_and_cpu",
        ),
    ),
    Lesson(
        "keepalived #166 #2066",
        "periodic announcements; fencing lease",
        (
            "tests/unit/test_manager.py"
            "::test_announcements_come_in_a_burst_and_then_again_and_again",
            "tests/integration/test_cluster.py"
            "::test_an_isolated_node_steps_down_and_serves_again_as_standby",
        ),
    ),
    Lesson(
        "open5gs #3481",
        "IPv6 access is a first-class path",
        (
            "tests/integration/test_kamailio.py::test_a_call_is_carried",
            "tests/kernel/test_packets.py::test_napt_in_all_four_family_pairs",
        ),
    ),
    Lesson(
        "#1157",
        "IP_FREEBIND; restoring is not binding",
        (
            "tests/integration/test_ng_socket.py"
            "::test_a_server_without_its_address_counts_what_it_cannot_send",
        ),
    ),
    Lesson("#660", "replicate half-open calls", ("test_offer_on_one_answer_on_the_other",)),
    Lesson(
        "#2054 #1767",
        "every stream field is in one schema; a test walks it",
        ("test_every_field_of_a_call_is_written_and_read_back",),
    ),
    Lesson(
        "#1308 #1334",
        "versioned schema; N-1 restore test",
        ("test_journals_of_the_versions_before_are_read",),
    ),
    Lesson("#522 PR#253", "timers run only on the fenced owner", ("test_timers_of_a_loser",)),
    Lesson("#2007 #1645", "tombstones, reconciliation", ("test_deleted_calls_stay_deleted",)),
    Lesson(
        "#1905",
        "prefix; never flush",
        (
            "tests/unit/test_statestore_store.py::test_scan_sees_the_prefix_and_nothing_else",
            "tests/contract/test_kv_registry.py::test_scan_takes_the_prefix_and_nothing_beside_it",
        ),
    ),
    Lesson(
        "#1423 PR#445",
        "the store is never on the media path; bounded waits",
        ("test_trouble_of_the_store_hangs_nobody",),
    ),
    Lesson("#1257", "stable node identity", ("test_own_calls_after_a_restart",)),
    Lesson(
        "#699 #887 #1654",
        "exhausted, unbindable, leaked: three errors, three metrics",
        ("test_ports_exhausted", "test_ports_unbindable", "test_ports_leaked"),
    ),
    Lesson("bad input", "an SDP of 64 KiB", ("test_an_sdp_of_64_kib",)),
    Lesson("bad input", "100 m-lines", ("test_a_hundred_m_lines",)),
    Lesson("bad input", "negative ports", ("test_odd_ports",)),
    Lesson(
        "bad input",
        "an `ng` flood from a stranger",
        (
            "tests/integration/test_ng_limits.py::test_a_stranger_is_neither_answered_nor_decoded",
            "tests/integration/test_ng_limits.py::test_a_strangers_flood_takes_no_place_of_a_peers",
        ),
    ),
    Lesson(
        "bad input",
        "a cookie of another command, bytes of any kind",
        (
            "test_a_cookie_with_another_description_is_told_so",
            "tests/unit/test_fuzz_ng.py::test_nothing_but_errors_of_peers_comes_out",
        ),
    ),
    Lesson("bad input", "unicode, nulls", ("test_unicode_nulls_and_raw_bytes",)),
)


def _home(test: str) -> str:
    return HERE if f"def {test}(" in (ROOT / HERE).read_text() else BAD_INPUT


def test_every_lesson_has_its_test() -> None:
    """A renamed test would silently leave its lesson unguarded."""
    for lesson in LESSONS:
        assert lesson.tests, lesson.says
        for test in lesson.tests:
            file, _, name = test.rpartition("::")
            tree = ast.parse((ROOT / (file or _home(name))).read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"{lesson.where} ({lesson.says}): no {test}"


# What others suffered from


@pytest.mark.parametrize("mode", Mode)
def test_offer_on_one_answer_on_the_other(mode: Mode) -> None:
    first = control(mode=mode)
    towards_b = ports(first.ask(**OFFER))
    second = Control(Node(first.node.shared, Pinholes(), mode=mode))
    assert second.ask(cookie="k2", **ANSWER)["result"] == "ok"
    flows = second.node.gateway.expected_flows("c")
    assert {flow.gate for flow in flows} == {Gate.OPEN}
    assert str(flows[2].local_in.port) == towards_b[0]
    # The one that lost the group answers nobody, and does nothing.
    assert first.send(frame("late", **ANSWER)) is None
    assert first.outcomes[-1] is Outcome.FENCED


def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in msgspec.structs.fields(kind)
    }


def test_every_field_of_a_call_is_written_and_read_back() -> None:
    """A call is led through everything until no field has its default any more: whatever is added
    later must come here, and survives a checkpoint."""
    site = control().node.gateway.site
    seen: dict[str, set[str]] = {"Session": set(), "Stream": set()}
    for session in _eventful():
        item = journal.decode(journal.checkpoint(session))
        assert item == session
        assert journal.replay([journal.checkpoint(session)], site) == session
        for name, value in [("Session", session), *(("Stream", one) for one in session.streams)]:
            defaults = _defaults(type(value))
            for field in value.__struct_fields__:
                if getattr(value, field) != defaults[field]:
                    seen[name].add(field)
    for kind in (Session, Stream):
        assert seen[kind.__name__] >= set(kind.__struct_fields__) - NOT_LED_TO, kind


NOT_LED_TO = frozenset[str]()
"""Fields that other files' tests lead to, and prove there that they survive."""


def _eventful() -> list[Session]:
    """Sessions of one call, from its offer to its end and its second life."""
    made = control()
    node = made.node
    found: list[Session] = []

    def keep() -> None:
        session = node.gateway.session("call-1")
        assert session is not None
        found.append(session)

    def run(event: Any) -> None:
        node.run(event)
        keep()

    alice, bob = line("10.10.0.2", 4000), line("10.20.0.2", 6000)
    flags = ("SIP-source-address", "symmetric")
    video = line("10.10.0.2", 4002, kind="video")
    run(command(Verb.OFFER, "1", alice, video, flags=flags))
    gone = line("10.20.0.2", 6002, kind="video")
    run(command(Verb.ANSWER, "2", bob, gone, at_ms=10))
    key = node.gateway.expected_flows("call-1")[0].key
    run(Learned(2 * NS_PER_S, "call-1", key, Address("10.10.0.2", 61_000), 0))
    run(Relatch(3 * NS_PER_S, "call-1"))
    swapped = {"from_tag": "bob", "to_tag": "alice"}
    run(command(Verb.OFFER, "3", bob, line("10.20.0.2", 0, kind="video"), at_ms=4_000, **swapped))
    off = line("10.10.0.2", 0, kind="video")
    run(command(Verb.ANSWER, "4", alice, off, at_ms=4_100, **swapped))
    run(command(Verb.DELETE, "5", at_ms=9_000))
    run(command(Verb.OFFER, "6", alice, at_ms=10_000, wall_s=1_700_000_000, via_branch="z1"))
    run(command(Verb.ANSWER, "7", bob, at_ms=10_100, via_branch="z1"))
    run(command(Verb.ANSWER, "8", bob, at_ms=10_200, to_tag="carol"))
    run(command(Verb.BLOCK_MEDIA, "9", at_ms=10_300))
    # Once more: with ICE, and with rtcp-mux on one side alone.
    run(command(Verb.DELETE, "10", at_ms=10_400, from_tag=""))
    flags = ("ICE=force", "rtcp-mux=demux")
    alice = line("10.10.0.2", 4000, mux=True, ice="abcd")
    run(command(Verb.OFFER, "11", alice, at_ms=11_000, flags=flags))
    run(command(Verb.ANSWER, "12", bob, at_ms=12_000))
    key = node.gateway.expected_flows("call-1")[0].key
    run(Nominated(14 * NS_PER_S, "call-1", key, Address("10.10.0.2", 62_000)))
    return found


def test_journals_of_the_versions_before_are_read() -> None:
    golden = sorted((ROOT / "tests" / "golden" / "journal").glob("schema-*.json"))
    assert golden, "each schema that was ever written has its golden journal"
    for path in golden:
        assert int(path.stem.removeprefix("schema-")) in journal.READABLE
        assert json.loads(path.read_text())


def test_timers_of_a_loser() -> None:
    """Half-open calls time out on their owner, once, and on nobody else."""
    first = control()
    first.ask(**OFFER)
    second = Node(first.node.shared, Pinholes(), now_ns=first.now_ns)
    late_ns = first.now_ns + 3_600 * NS_PER_S
    recorded = dict(second.shared.flows)
    entries = list(second.entries("c"))
    first.node.driver.tick(late_ns)
    assert first.node.driver.fenced
    assert second.shared.flows == recorded and list(second.entries("c")) == entries
    second.restore_all(first.now_ns)
    second.driver.tick(late_ns)
    assert second.shared.flows == {}


def test_deleted_calls_stay_deleted() -> None:
    """By a late answer, an old offer's repetition, a takeover, a flow left in the packet path."""
    first = established()
    offer = first.node.replies.sent[0][0]
    first.ask(**DELETE)
    assert first.ask(**ANSWER)["result"] == "error"
    assert first.ask(cookie=offer, **OFFER)["result"] == "ok"
    left = Pinholes()
    left.flows = dict(established().node.shared.flows)
    second = Control(Node(first.node.shared, left, now_ns=first.now_ns))
    second.node.restore_all(first.now_ns)
    assert left.flows == {} and second.node.shared.flows == {}
    assert second.ask(cookie=offer, **OFFER)["result"] == "ok"
    assert second.node.gateway.usage().sessions == 0


@pytest.mark.parametrize("operation", ["mark", "append", "record", "forget"])
def test_trouble_of_the_store_hangs_nobody(operation: str) -> None:
    """Answered with the reason or not at all; media stays as it is; then all goes on."""
    made = established()
    before = dict(made.node.datapath.flows)  # type: ignore[attr-defined]
    made.node.shared.refuse = lambda asked: asked == operation
    made.send(frame("t1", **(OFFER | {"call_id": "new"})))
    made.send(frame("t2", **DELETE))
    assert len(made.outcomes) == 4
    after = made.node.datapath.flows  # type: ignore[attr-defined]
    assert operation == "forget" or before.items() <= after.items()
    made.node.shared.refuse = lambda asked: False
    for cookie, body in (("t1", OFFER | {"call_id": "new"}), ("t2", DELETE)):
        assert made.ask(cookie=f"{cookie}-again", **body)["result"] == "ok"
    assert made.node.shared.flows == made.node.datapath.flows  # type: ignore[attr-defined]


def test_own_calls_after_a_restart() -> None:
    first = established()
    digest = first.node.gateway.digest()
    second = Node(first.node.shared, first.node.datapath, now_ns=first.now_ns)
    second.restore_all(first.now_ns)
    assert second.gateway.digest() == digest
    assert Control(second).ask(cookie="k3", **ANSWER)["result"] == "ok"


NARROW = msgspec.structs.replace(GROUP, ports=(30_000, 30_003))


def test_ports_exhausted() -> None:
    made = control(group=NARROW)
    assert made.ask(**OFFER)["result"] == "ok"
    reply = made.ask(**(OFFER | {"call_id": "two"}))
    assert reply == {"result": "error", "error-reason": "Ran out of ports"}
    assert made.node.driver.tally == {"ports-exhausted": 1}
    assert made.ask(**ANSWER)["result"] == "ok", "a running call needs no new ones"
    made.ask(**DELETE)
    assert made.ask(**(OFFER | {"call_id": "two"}))["error-reason"] == "Ran out of ports"
    made.now_ns += 6 * NS_PER_S
    assert made.ask(**(OFFER | {"call_id": "two"}))["result"] == "ok"


def test_ports_unbindable() -> None:
    """The packet path refuses; the call is not promised what it has not got."""
    made = Control(Node(Shared(), Pinholes(limit=4)))
    assert made.ask(**OFFER)["result"] == "ok"
    assert made.send(frame("u", **(OFFER | {"call_id": "two"}))) is None
    assert made.outcomes[-1] is Outcome.FAILED
    assert made.node.driver.tally == {"ports-unbindable": 1}
    made.ask(**DELETE)
    assert b"2:ok" in (made.send(frame("u", **(OFFER | {"call_id": "two"}))) or b"")


def test_ports_leaked() -> None:
    made = control()
    made.node.gateway._pool.take(30_100, "nobody")
    assert made.node.driver.audit(made.now_ns) == 1
    assert made.node.driver.tally == {"ports-leaked": 1}
    assert made.node.driver.audit(made.now_ns) == 0
