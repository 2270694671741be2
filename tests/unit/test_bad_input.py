"""What peers may send: bad frames, odd words, wrong tags, far too much.

Frames go in and come out as on the wire; only the socket is missing. `test_lessons` says what for.
"""

from __future__ import annotations

from typing import Any

import pytest

from bgf.control import bencode
from bgf.control.client import decode_reply, encode_request
from bgf.control.sdp import MEDIA_LINES_MAX, SDP_BYTES_MAX
from bgf.gateway import STRAYS_MAX, Limits
from bgf.hands import Outcome
from bgf.model import Component
from bgf.session import REPLY_KEPT_MS, State
from tests.fakes.calls import NS_PER_MS
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Control, Node
from tests.fakes.ng_requests import ANSWER, DELETE, OFFER, control, established, frame, ports, sdp

# Frames


def test_in_kind() -> None:
    made = control()
    assert made.send(b"k d7:command4:pinge") == b"k d6:result4:ponge"
    assert made.send(b'k {"command": "ping"}') == b'k {"result":"pong"}'
    assert (made.send(b"k d7:commande") or b"").startswith(b"k d12:error-reason")
    assert (made.send(b'k {"command": }') or b"").startswith(b'k {"result":"error"')
    assert (made.send(b"k 4:ping") or b"").startswith(b"k d12:error-reason")


def test_unsorted_keys() -> None:
    made = control()
    keys = sorted(OFFER, reverse=True)
    parts = b"".join(bencode.encode(k.replace("_", "-")) + bencode.encode(OFFER[k]) for k in keys)
    reply = made.send(b"k d%be" % parts)
    assert reply is not None and decode_reply(reply)[1]["result"] == "ok"


@pytest.mark.parametrize(
    "datagram",
    [b"", b" ", b"d7:command4:pinge", b'{"command":"ping"}', b" d7:command4:pinge",
     b"k\0k d7:command4:pinge", "\u00e9 d7:command4:pinge".encode(), b"x" * 200 + b" d1:ae",
     b"\xff" * 60_000],
    ids=range(9),
)  # fmt: skip
def test_no_cookie_is_dropped(datagram: bytes) -> None:
    made = control()
    assert made.send(datagram) is None
    assert made.outcomes == [] and made.node.shared.journals == {}


def test_a_repeated_cookie_gets_the_stored_reply() -> None:
    """The same bytes, whatever else has happened since, errors too, and nothing is done twice."""
    made = control()
    frames = [
        frame("k1", **OFFER),
        frame("k2", **(ANSWER | {"sdp": sdp("10.20.0.2", 7000, 7002)})),  # an error
        frame("k3", **ANSWER),
        frame("k4", **OFFER, flags=["frobnicate"]),
    ]
    first = [made.send(datagram) for datagram in frames]
    assert b"they must match" in (first[1] or b"")
    entries = list(made.node.entries("c"))
    assert [made.send(datagram) for datagram in frames] == first
    assert list(made.node.entries("c")) == entries
    last = made.send(frame("k5", **DELETE))
    assert made.send(frame("k5", **DELETE)) == last
    assert made.send(frames[2]) == first[2]  # late, and still no new life
    session = made.node.gateway.session("c")
    assert session is not None and session.state is State.DELETED


def test_a_cookie_with_another_description_is_told_so() -> None:
    """Not by the stored reply, which does not fit; nothing changes."""
    made = established()
    made.ask(cookie="k1", **OFFER)
    entries = list(made.node.entries("c"))
    reply = made.ask(cookie="k1", **(OFFER | {"sdp": sdp("10.10.0.2", 6000, 6002)}))
    assert reply == {
        "result": "error",
        "error-reason": "cookie k1 was another command's: each needs its own",
    }
    assert list(made.node.entries("c")) == entries


def test_a_delete_that_is_repeated_does_not_meet_a_call_that_has_begun_since() -> None:
    """A 407 deletes what was never offered; its repetition comes after the next INVITE, which may
    be another owner's."""
    made = control()
    first = made.send(frame("k1", **DELETE))
    second = Control(Node(made.node.shared, Pinholes()), made.now_ns)
    assert second.ask(cookie="k2", **OFFER)["result"] == "ok"
    assert second.send(frame("k1", **DELETE)) == first
    third = Control(Node(made.node.shared, Pinholes()), made.now_ns)
    assert third.send(frame("k1", **DELETE)) == first
    assert third.node.gateway.usage().sessions == 1


@pytest.mark.parametrize("late", [ANSWER, DELETE | {"command": "block media"}], ids=str)
def test_an_error_that_is_asked_for_again_does_not_meet_a_call_that_has_begun_since(
    late: dict[str, Any],
) -> None:
    made = control()
    first = made.send(frame("k1", **late))
    assert first is not None and b"5:error" in first
    second = Control(Node(made.node.shared, Pinholes()), made.now_ns)
    assert second.ask(cookie="k2", **OFFER)["result"] == "ok"
    before = second.node.gateway.digest()
    assert second.send(frame("k1", **late)) == first
    assert second.node.gateway.digest() == before


def test_what_nobody_knows_keeps_no_new_call_out() -> None:
    """Few tombstones are of calls that never were; beyond, a reply is kept in memory alone."""
    made = control(limits=Limits(strays_max=4))
    for number in range(6):
        made.send(frame(f"s{number}", **DELETE | {"call_id": f"s{number}"}))
    assert made.node.gateway.usage().tombstones == 4
    assert len(made.node.shared.journals) == 4 and len(made.node.gateway._strays) == 2
    assert made.ask(cookie="k", **OFFER | {"call_id": "s5"})["result"] == "ok"
    assert b"2:ok" in (made.send(frame("s5", **DELETE | {"call_id": "s5"})) or b"")
    assert made.node.gateway.usage().sessions == 1
    made.now_ns += (REPLY_KEPT_MS + 1) * NS_PER_MS
    made.node.driver.tick(made.now_ns)
    assert made.node.gateway.usage().tombstones == 0 and made.node.shared.journals.keys() == {"s5"}


def test_replies_to_nobodys_commands_are_bounded() -> None:
    made = control(limits=Limits(strays_max=0))
    for number in range(STRAYS_MAX + 1):
        made.send(frame(f"s{number}", **DELETE | {"call_id": f"s{number}"}))
    assert len(made.node.gateway._strays) == STRAYS_MAX
    assert made.node.gateway.usage().tombstones == 0


def test_stored_replies_are_given_up() -> None:
    made = established()
    made.now_ns += (REPLY_KEPT_MS + 1) * NS_PER_MS
    made.ask(cookie="late", **OFFER)
    session = made.node.gateway.session("c")
    assert session is not None
    assert [kept.reply.cookie for kept in session.replies] == ["late"]


def test_a_duplicate_of_one_in_flight_gets_its_one_answer() -> None:
    """The store is slow at the first try, so nobody is answered; Kamailio asks again."""
    made = control()
    made.node.shared.not_now = lambda operation: operation == "append"
    assert made.send(frame("k1", **OFFER)) is None
    assert made.send(frame("k1", **OFFER)) is None
    assert made.outcomes == [Outcome.FAILED] * 2
    made.node.shared.not_now = lambda operation: False
    answer = made.send(frame("k1", **OFFER))
    assert answer is not None and made.send(frame("k1", **OFFER)) == answer
    assert len(made.node.entries("c")) == 1
    # The flows fail after the entry is written: done when asked again, not twice.
    made.node.shared.not_now = lambda operation: operation == "record"
    assert made.send(frame("k2", **ANSWER)) is None
    made.node.shared.not_now = lambda operation: False
    assert b"2:ok" in (made.send(frame("k2", **ANSWER)) or b"")
    assert len(made.node.entries("c")) == 3  # the offer, the answer, what came of them
    assert made.node.shared.flows == made.node.datapath.flows  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["play media", "play DTMF", "frobnicate", ""])
def test_what_is_not_done(name: str) -> None:
    reply = control().ask(command=name, call_id="c", from_tag="a")
    assert reply["result"] == "error" and reply["error-reason"]


def test_the_next_node_is_tried() -> None:
    made = control(limits=Limits(sessions_max=0))
    assert made.ask(**OFFER) == {
        "result": "error", "error-reason": "Parallel session limit reached"
    }  # fmt: skip
    assert made.ask(**OFFER, supports=["load limit"])["result"] == "load limit"


# Words


def test_hyphens_and_spaces() -> None:
    made = control()
    spaced = {key.replace("_", " "): value for key, value in OFFER.items()}
    reply = made.send(encode_request("k", spaced | {"flags": ["trust address"]}))
    assert reply is not None and decode_reply(reply)[1]["result"] == "ok"


def test_unknown_words_are_a_warning() -> None:
    made = control()
    reply = made.ask(
        **OFFER, flags=["replace-session-connection", "frobnicate", "x=y"], **{"no-such-key": "1"}
    )
    assert reply["result"] == "ok"
    for word in ("frobnicate", "x=y", "no-such-key"):
        assert word in reply["warning"]
    assert "session-connection" not in reply["warning"]


def test_integers_and_strings() -> None:
    made = control()
    for tos in (184, "184", "TOS"):
        assert made.ask(**OFFER, TOS=tos)["result"] == "ok"
    marked = made.node.gateway.expected_flows("c")
    assert {flow.dscp for flow in marked} == {46}
    assert made.ask(**(OFFER | {"call_id": 4711}))["result"] == "ok"
    assert made.node.gateway.session("4711") is not None


def test_ice_words_for_plain_volte() -> None:
    made = control()
    leg = OFFER | {"transport_protocol": "RTP/AVP", "rtcp_mux": ["demux"]}
    assert made.ask(**leg, ICE="force")["result"] == "ok"
    assert made.ask(**ANSWER, ICE="remove")["result"] == "ok"


# Tags, and calls that come again


def test_swapped_tags() -> None:
    """An offer in a reply (delayed offer): from-tag is still the caller's, who has said nothing."""
    made = control()
    offer = OFFER | {"from_tag": "b", "to_tag": "a", "direction": ["core", "access"]}
    reply = made.ask(**(offer | {"sdp": sdp("10.20.0.2", 7000)}))
    assert "c=IN IP4 10.10.0.101" in reply["sdp"]
    reply = made.ask(**(ANSWER | {"from_tag": "b", "to_tag": "a", "sdp": sdp()}))
    assert "c=IN IP4 10.20.0.101" in reply["sdp"]
    rtp = [f for f in made.node.gateway.expected_flows("c") if f.component is Component.RTP]
    assert {(f.realm_in, str(f.remote)) for f in rtp} == {
        ("core", "10.10.0.2:6000"), ("access", "10.20.0.2:7000")
    }  # fmt: skip


@pytest.mark.parametrize("tags", [("x", ""), ("x", "y"), ("b", "x"), ("x", "a"), ("a", "x")])
@pytest.mark.parametrize("verb", ["offer", "answer", "query", "delete"])
def test_wrong_tags_harm_nobody(verb: str, tags: tuple[str, str]) -> None:
    """Answered, one way or the other; no other port, no pinhole of another call."""
    made = established()
    other = made.ask(**(OFFER | {"call_id": "other"}))
    before = {flow.key for flow in made.node.gateway.expected_flows("c")}
    others = made.node.gateway.expected_flows("other")
    host = "10.20.0.2" if verb == "answer" else "10.10.0.2"
    reply = made.ask(command=verb, call_id="c", from_tag=tags[0], to_tag=tags[1], sdp=sdp(host))
    assert reply["result"] in ("ok", "error")
    after = {flow.key for flow in made.node.gateway.expected_flows("c")}
    assert after <= before
    assert made.node.gateway.expected_flows("other") == others
    assert other["result"] == "ok"


def test_a_call_that_crosses_twice_and_is_deleted_twice() -> None:
    made = established()
    held = {flow.key for flow in made.node.gateway.expected_flows("c")}
    for _ in range(2):  # the second leg of the same Call-ID, with a branch of its own
        assert made.ask(**OFFER, via_branch="z9hG4bK2")["result"] == "ok"
        assert made.ask(**ANSWER)["result"] == "ok"
    assert {flow.key for flow in made.node.gateway.expected_flows("c")} == held
    assert made.ask(**DELETE) == {"result": "ok"}
    again = made.ask(**DELETE)
    assert again["result"] == "ok" and "nothing to delete" in again["warning"]
    assert made.node.gateway.usage().pairs_used == 0


def test_delete_of_an_unknown_call() -> None:
    made = control()
    reply = made.ask(**DELETE)
    assert reply["result"] == "ok" and "not here" in reply["warning"]
    reply = made.ask(**DELETE, flags=["fatal"])
    assert reply["result"] == "error" and "not here" in reply["error-reason"]


def test_settings_are_remembered() -> None:
    made = control()
    made.ask(**OFFER, flags=["asymmetric"], direction=["access", "core"], TOS=184)
    made.ask(**ANSWER)
    assert made.ask(**OFFER)["result"] == made.ask(**ANSWER)["result"] == "ok"
    flows = made.node.gateway.expected_flows("c")
    assert {flow.dscp for flow in flows} == {46}
    assert all(flow.source.host is None for flow in flows)


def test_reoffers_keep_their_ports() -> None:
    made = control()
    towards_b = ports(made.ask(**OFFER))
    towards_a = ports(made.ask(**ANSWER))
    moved = OFFER | {"sdp": sdp("10.10.0.9", 6100)}
    assert ports(made.ask(**moved)) == towards_b
    assert ports(made.ask(**ANSWER)) == towards_a
    back = ANSWER | {"command": "offer", "from_tag": "b", "to_tag": "a"}
    assert ports(made.ask(**back)) == towards_a
    assert ports(made.ask(**(moved | {"command": "answer", "from_tag": "b", "to_tag": "a"}))) == (
        towards_b
    )


def test_query_has_what_kamailio_reads() -> None:
    made = established()
    reply = made.ask(command="query", call_id="c", from_tag="a", to_tag="b")
    assert set(reply["totals"]) >= {"RTP", "RTCP"}
    assert set(reply["totals"]["RTP"]) >= {"packets", "bytes", "errors"}
    assert set(reply["tags"]) == {"a", "b"} and "created" in reply


# Too much, and too odd


def test_an_sdp_of_64_kib() -> None:
    made = control()
    for size in (SDP_BYTES_MAX + 1, 65_000):
        reply = made.ask(**(OFFER | {"sdp": sdp().ljust(size, "x")}))
        assert reply["result"] == "error"
        assert f"sdp has {size} bytes, the limit is {SDP_BYTES_MAX}" in reply["error-reason"]
    assert made.send(b"k " + b"d" * 65_506) is not None  # a frame longer than a datagram can be
    full = sdp(more="a=x:" + "y" * 1_000 + "\r\n")
    assert made.ask(**(OFFER | {"sdp": full}))["result"] == "ok"


def test_a_hundred_m_lines() -> None:
    made = control()
    reply = made.ask(**(OFFER | {"sdp": sdp("10.10.0.2", *range(6000, 6200, 2))}))
    assert reply["result"] == "error"
    assert f"more than {MEDIA_LINES_MAX} m-lines" in reply["error-reason"]
    assert made.node.gateway.usage().pairs_used == 0
    most = sdp("10.10.0.2", *range(6000, 6000 + 2 * MEDIA_LINES_MAX, 2))
    assert len(ports(made.ask(**(OFFER | {"sdp": most})))) == MEDIA_LINES_MAX


@pytest.mark.parametrize(
    "port", ["-1", "-0", "65536", "9" * 20, "0x10", "1e3", "", "+5", " 5", "\u0663"]
)
def test_odd_ports(port: str) -> None:
    made = control()
    for text in (sdp().replace("6000", port), sdp(more=f"a=rtcp:{port}\r\n")):
        reply = made.ask(**(OFFER | {"sdp": text}))
        if reply["result"] == "ok":  # a space too many in front of what is a number
            assert port == " 5" and "a=rtcp: 5" in text
            continue
        assert "sdp line" in reply["error-reason"]
    assert port == " 5" or made.node.shared.flows == {}


KEYS = ("call-id", "from-tag", "to-tag", "via-branch", "sdp", "flags", "command", "supports",
        "direction", "received-from", "TOS", "rtcp-mux", "address-family", "replace")  # fmt: skip
ODD: tuple[Any, ...] = (
    b"\0",
    b"a\0b",
    b"\xff\xfe",
    "\u2028".encode(),
    "\u202eabc".encode(),
    b"\n",
    b"\x1b[2J",
    2**62,
    -1,
    [],
    {},
    [[]],
    ["a", ["b"]],
    {"a": {"b": []}},
    b"x" * 5_000,
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_unicode_nulls_and_raw_bytes(key: str, value: Any) -> None:
    """Anywhere: answered in printable words, nothing thrown, nothing opened that is not wanted."""
    made = control()
    body = {k.replace("_", "-"): v for k, v in OFFER.items()} | {key: value}
    reply = made.send(encode_request("k_1", body))
    assert reply is not None
    told = decode_reply(reply)[1]
    assert told["result"] in ("ok", "error")
    reason = str(told.get("error-reason", "")) + str(told.get("warning", ""))
    assert reason.isprintable()
    # Text of other scripts is a call's own affair.
    assert made.ask(**(OFFER | {"call_id": "gr\u00fc\u00dfe-\u2603"}))["result"] == "ok"
