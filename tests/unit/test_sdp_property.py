"""Whatever a description looks like, a rewrite changes what must change, and nothing gets through.

`tests/unit/test_sdp.py` has the single lines; here whole descriptions and whole exchanges.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bgf.control import bencode, ng
from bgf.control.client import decode_reply, encode_request
from bgf.control.sdp import Sdp, parse, rewrite
from bgf.errors import PortsExhausted
from bgf.events import Reply, Result, Verb
from bgf.gateway import Gateway
from bgf.model import Address, Flow, Gate, RealmAddress
from tests.fakes.calls import GROUP, NS_PER_S, REALMS, unhurried
from tests.fakes.sdp_strategies import (
    CALLEE,
    CALLER,
    UNSPECIFIED,
    Description,
    answers,
    carried_part,
    descriptions,
    is_over_udp,
    skeleton,
    wanted,
)

OURS = st.sampled_from(("10.20.0.101", "fd00:a::101"))
BOTH = msgspec.structs.replace(
    GROUP, addresses=(*GROUP.addresses, RealmAddress("core", "fd00:c::101", 64))
)
HELD = tuple(UNSPECIFIED.values())


@unhurried
@given(descriptions())
def test_what_was_put_in_is_read_out(description: Description) -> None:
    read = parse(description.text)
    assert [(line.kind, line.transport) for line in read] == [
        (line.kind, line.transport) for line in description.lines
    ]
    for line, meant, carried in zip(read, description.lines, description.carried, strict=True):
        assert line.rtp.port == (meant.port if carried else 0)
        assert not carried or line.rtp.host == str(Address.of(meant.host, 0).host)


@unhurried
@given(descriptions(), OURS, st.booleans(), st.booleans(), st.booleans())
def test_every_other_line_survives_raw_and_in_its_place(
    description: Description, host: str, origin: bool, mux: bool, stated: bool
) -> None:
    text = description.text
    out = Sdp(text).rewrite(
        wanted(description, host, 30_000, mux=mux), replace_origin=origin, rtcp_attribute=stated
    )
    ended = text.endswith("\n")
    before, after = skeleton(text), skeleton(out)
    if not ended:  # a line behind the last one gives that one its end
        before, after = ([line.rstrip("\r") for line in lines] for lines in (before, after))
        after = [line for line in after if line]
        before = [line for line in before if line]
    assert after == before
    crlf = "\r\n" in text
    assert all(line.endswith("\r") == crlf for line in out.split("\n")[:-1])
    assert out.endswith("\n") or not ended


@unhurried
@given(descriptions(), OURS, st.booleans(), st.booleans())
def test_nothing_of_the_sender_gets_through(
    description: Description, host: str, mux: bool, stated: bool
) -> None:
    out = Sdp(description.text).rewrite(
        wanted(description, host, 30_000, mux=mux), replace_origin=True, rtcp_attribute=stated
    )
    assert description.party.leaks(description.text) or not any(description.carried)
    if any(line.port and not is_over_udp(line.transport) for line in description.lines):
        return  # the ends of such a line talk directly: their addresses have to get through
    assert not description.party.leaks(out)
    # Without `replace=origin` its one address may stay, in that line only.
    kept = rewrite(description.text, wanted(description, host, 30_000, mux=mux))
    assert not description.party.leaks("\n".join(kept.split("\n")[2:]))


@unhurried
@given(descriptions(), OURS)
def test_where_an_m_line_passes_the_others_give_nothing_away(
    description: Description, host: str
) -> None:
    carried = any(description.carried) or not all(line.port for line in description.lines)
    out = Sdp(description.text).rewrite(wanted(description, host, 30_000), replace_origin=True)
    assert not carried or not description.party.leaks(carried_part(out))
    passed = description.text.count("\n") - carried_part(description.text).count("\n")
    stated = out.count("\n") - carried_part(out).count("\n")
    # At most an address for each, where the session's spoke for it.
    assert stated - passed in range(len(description.lines) + 1) or not description.text.endswith(
        "\n"
    )


@unhurried
@given(descriptions(), OURS, st.booleans(), st.booleans())
def test_a_rewrite_says_what_was_wanted_and_once_more_changes_nothing(
    description: Description, host: str, origin: bool, mux: bool
) -> None:
    want = wanted(description, host, 30_000, mux=mux)
    out = rewrite(description.text, want, replace_origin=origin)
    assert rewrite(out, want, replace_origin=origin) == out
    read = parse(out)
    assert len(read) == len(description.lines)
    for line, asked, meant in zip(read, want, description.lines, strict=True):
        assert line.rtp.port == asked.rtp.port
        if asked.rtp.port:
            held = meant.host in HELD
            assert line.rtp.host == (UNSPECIFIED[6 if ":" in host else 4] if held else host)
            assert line.rtcp_mux == mux
            has_rtcp = "RTP/" in meant.transport and not held and not mux
            assert not has_rtcp or line.rtcp == asked.rtcp


# A whole exchange, in frames.


class Proxy:
    """Frames in and out of a machine, as a proxy would see them."""

    def __init__(self) -> None:
        self.gateway = Gateway(BOTH, REALMS)
        self.asked = 0

    def ask(self, verb: str, text: str, **fields: Any) -> tuple[Reply, str]:
        """The machine's reply, and the SDP in the frame."""
        self.asked += 1
        raw = text.encode("utf-8", "surrogateescape")
        body: dict[str, Any] = {"command": verb, "call-id": "c", "from-tag": "a", "sdp": raw}
        if verb == "answer":
            body["to-tag"] = "b"
        _, request = ng.decode(encode_request(f"k{self.asked}", body | fields))
        command = self.gateway.draw(request.command(NS_PER_S * self.asked), self.asked << 64)
        (reply,) = (e for e in self.gateway.step(command) if isinstance(e, Reply))
        _, rendered = decode_reply(ng.render(request, reply))
        return reply, str(rendered.get("sdp", ""))

    def flows(self, realm_in: str, stream: int) -> list[Flow]:
        """RTP and RTCP that arrive in a realm."""
        flows = self.gateway.expected_flows("c")
        return [f for f in flows if (f.realm_in, f.stream) == (realm_in, stream)]


WORDS = st.fixed_dictionaries(
    {},
    optional={
        "ICE": st.sampled_from(("remove", "default", "force", "optional")),
        "rtcp-mux": st.lists(st.sampled_from(("offer", "require", "demux", "accept", "reject"))),
        "replace": st.lists(st.sampled_from(("origin", "session-connection"))),
        "flags": st.lists(
            st.sampled_from(("trust-address", "asymmetric", "strict-source", "frobnicate"))
        ),
        "direction": st.just(["access", "core"]),
        "TOS": st.sampled_from((0, 184, 999)),
        "address-family": st.sampled_from(("IP4", "IP6")),
    },
)


def shown(text: str) -> list[tuple[str, str, str, int, str]]:
    """The m-lines of a rewritten offer as its receiver reads them."""
    formats = [raw.rstrip("\r").split(" ", 3)[3:] for raw in text.split("\n") if raw[:2] == "m="]
    return [
        (line.kind, line.transport, "".join(words), line.rtp.port, line.rtp.host)
        for line, words in zip(parse(text), formats, strict=True)
    ]


@unhurried
@given(descriptions(), WORDS, st.data())
def test_an_answer_pairs_up_with_its_offer(
    offer: Description, words: dict[str, Any], data: st.DataObject
) -> None:
    proxy = Proxy()
    reply, towards_callee = proxy.ask("offer", offer.text, **words)
    assert reply.result is Result.OK, reply.reason
    untouched = all(line.port and not is_over_udp(line.transport) for line in offer.lines)
    ours = carried_part("\n".join(towards_callee.split("\n")[2:]))
    assert untouched or not CALLER.leaks(ours)
    answer = data.draw(answers(shown(towards_callee)))
    reply, towards_caller = proxy.ask("answer", answer.text, **words)
    assert reply.result is Result.OK, reply.reason
    for text in (towards_callee, towards_caller):
        body = carried_part("\n".join(text.split("\n")[2:]))
        assert untouched or not (CALLER.leaks(body) or CALLEE.leaks(body))
    given_back, offered = parse(towards_caller), parse(towards_callee)
    assert len(given_back) == len(offered) == len(offer.lines)
    for index, (carried, line, back, out) in enumerate(
        zip(offer.carried, answer.lines, given_back, offered, strict=True)
    ):
        assert (back.kind, back.transport) == (out.kind, out.transport)
        assert bool(out.rtp.port) == carried
        assert bool(back.rtp.port) == bool(line.port)
        up, down = proxy.flows("access", index), proxy.flows("core", index)
        components = 2 if "RTP/" in out.transport else 1
        assert len(up) == len(down) == (components if carried else 0)
        if not line.port:
            assert all(flow.gate is Gate.CLOSED for flow in (*up, *down))
            continue
        meant = offer.lines[index]
        assert up[0].local_in.port == back.rtp.port
        assert down[0].local_in.port == out.rtp.port
        assert (up[0].gate is Gate.CLOSED) >= (line.host in HELD)
        assert (down[0].gate is Gate.CLOSED) >= (meant.host in HELD)
        if line.host not in HELD:
            assert up[0].remote == Address.of(line.host, line.port)
        if meant.host not in HELD:
            assert down[0].remote == Address.of(meant.host, meant.port)
    # A new description of the same lines keeps our ports.
    again = offer.text.replace(f" {CALLER.ports[10]} ", f" {CALLER.ports[12]} ")
    reply, once_more = proxy.ask("offer", again, **{"to-tag": "b"}, **words)
    assert reply.result is Result.OK, reply.reason
    assert [line.rtp.port for line in parse(once_more)] == [line.rtp.port for line in offered]


@unhurried
@given(descriptions(), st.data())
def test_an_answer_with_another_number_of_lines_is_refused_and_changes_nothing(
    offer: Description, data: st.DataObject
) -> None:
    proxy = Proxy()
    _, towards_callee = proxy.ask("offer", offer.text)
    lines = shown(towards_callee)
    odd = [*lines, ("audio", "RTP/AVP", "0", 60_000, "203.0.113.9")]
    if len(lines) > 1 and data.draw(st.booleans()):
        odd = lines[:-1]
    before = proxy.gateway.expected_flows("c")
    reply, out = proxy.ask("answer", data.draw(answers(odd)).text)
    assert (reply.result, out) == (Result.ERROR, "")
    assert "they must match" in reply.reason
    assert proxy.gateway.expected_flows("c") == before


@unhurried
@given(descriptions(media_max=8), st.integers(0, 2**64))
def test_an_offer_draws_two_pairs_for_each_line_it_carries_and_none_else(
    offer: Description, entropy: int
) -> None:
    gateway = Gateway(BOTH, REALMS)
    body: dict[str, Any] = {"command": "offer", "call-id": "c", "from-tag": "a",
            "sdp": offer.text.encode("utf-8", "surrogateescape")}  # fmt: skip
    command = ng.decode(b"k %b" % bencode.encode(body))[1].command(NS_PER_S)
    assert command.verb is Verb.OFFER
    assert gateway.demand(command) == 2 * sum(offer.carried)
    try:
        gateway.step(gateway.draw(command, entropy))
    except PortsExhausted:
        raise AssertionError("50 pairs are enough for 8 lines") from None
    assert gateway.usage().pairs_used == 2 * sum(offer.carried)
