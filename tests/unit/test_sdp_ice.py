"""ICE lines, loop marks and bundles of a description: read, removed, and written as an agent's."""

from __future__ import annotations

import aioice
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.control.sdp import LOOP_MARKS_MAX, Sdp, parse
from bgf.events import MediaRewrite
from bgf.model import Address, Ice
from tests.fakes.calls import unhurried

HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.4\r\ns=-\r\nc=IN IP4 192.0.2.4\r\nt=0 0\r\n"
AUDIO = "m=audio 9000 RTP/AVP 0\r\n"
VIDEO = "m=video 9002 RTP/AVP 96\r\na=sendonly\r\n"
PWD = "abcdefghijklmnopqrstuv"  # 22 characters, the shortest
OURS = Ice("Wx9+/Abc", "0123456789abcdefghijkl+/")


def at(text: str) -> Address:
    return Address.parse(text)


def credentials(ufrag: str, pwd: str = PWD) -> str:
    return f"a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n"


@pytest.mark.parametrize(
    ("text", "ufrags"),
    [
        (HEAD + AUDIO + VIDEO, ("", "")),
        (HEAD + credentials("abcd") + AUDIO + VIDEO, ("abcd", "abcd")),
        (HEAD + AUDIO + credentials("abcd") + VIDEO, ("abcd", "")),
        (HEAD + credentials("abcd") + AUDIO + VIDEO + credentials("efgh"), ("abcd", "efgh")),
        (HEAD + credentials("abcd") + AUDIO + credentials("efgh") * 2 + VIDEO, ("efgh", "abcd")),
        (HEAD + credentials("a" * 256, "b" * 256) + AUDIO + VIDEO, ("a" * 256,) * 2),
    ],
)
def test_who_does_ice(text: str, ufrags: tuple[str, ...]) -> None:
    sdp = Sdp(text)
    assert tuple(line.ice_ufrag for line in sdp.media) == ufrags
    assert sdp.notes == ()


@pytest.mark.parametrize(
    "lines",
    [
        credentials("abc"),
        credentials("abcd", PWD[1:]),
        credentials("ab cd"),
        credentials("abc\udc80"),
        credentials("a" * 257),
        credentials("abcd", "b" * 257),
        credentials(""),
        "a=ice-ufrag:abcd\r\n",
        f"a=ice-pwd:{PWD}\r\n",
    ],
)
def test_credentials_that_are_none_are_said_and_not_used(lines: str) -> None:
    sdp = Sdp(HEAD + AUDIO + lines)
    assert sdp.media[0].ice_ufrag == ""
    assert sdp.notes == ("m-line 1 has no usable ice-ufrag and ice-pwd: no ICE there",)
    assert "a=ice-" not in sdp.rewrite([MediaRewrite(at("10.2.0.1:7000"))])


def test_a_rejected_line_does_no_ice() -> None:
    (line,) = parse(HEAD + "m=audio 0 RTP/AVP 0\r\n" + credentials("abcd"))
    assert line.ice_ufrag == ""


NOWHERE = HEAD.replace("c=IN IP4 192.0.2.4", "c=IN IP4 0.0.0.0")
TRICKLES = "m=audio 9 RTP/AVP 0\r\n" + credentials("abcd") + "a=sendrecv\r\n"


@pytest.mark.parametrize(
    ("lines", "holds"),
    [
        (TRICKLES, False),
        (TRICKLES.replace("a=sendrecv\r\n", ""), False),
        (TRICKLES.replace("audio 9 ", "audio 9000 "), True),  # of old equipment
        (TRICKLES.replace("a=ice-pwd:", "a=x-pwd:"), True),
        ("m=audio 9 RTP/AVP 0\r\n", True),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["session", "media"])
def test_who_leaves_all_to_ice_is_not_on_hold(lines: str, holds: bool, own: bool) -> None:
    """RFC 8839 section 4.2.5, RFC 8840 section 4.1.1."""
    text = NOWHERE + lines
    if own:
        text = HEAD + lines.replace("AVP 0\r\n", "AVP 0\r\nc=IN IP4 0.0.0.0\r\n")
    sdp = Sdp(text)
    assert sdp.media[0].undisclosed is not holds
    assert sdp.media[0].direction == ("sendonly" if holds else "sendrecv")
    out = sdp.rewrite([MediaRewrite(at("10.2.0.1:7000"), ice=OURS)])
    assert ("c=IN IP4 0.0.0.0\r\n" in out) is holds
    assert ("a=sendrecv\r\n" in out) is ("a=sendrecv" in lines)
    assert parse(out)[0].rtp.host == ("0.0.0.0" if holds else "10.2.0.1")


def test_a_session_speaks_for_who_leaves_all_to_ice_and_for_who_holds() -> None:
    video = "m=video 9 RTP/AVP 96\r\n" + credentials("efgh")
    wanted = [MediaRewrite(at("10.2.0.1:7000")), MediaRewrite(at("10.2.0.1:7002"))]
    both = Sdp(NOWHERE + TRICKLES + video).rewrite(wanted)
    assert both.count("c=") == both.count("c=IN IP4 10.2.0.1\r\n") == 1
    held = Sdp(NOWHERE + TRICKLES + VIDEO).rewrite(wanted)
    assert held.count("c=") == 2 and "c=IN IP4 0.0.0.0\r\nt=0 0\r\n" in held
    assert [line.rtp.host for line in parse(held)] == ["10.2.0.1", "0.0.0.0"]


def test_a_browsers_trickled_offer() -> None:
    text = (
        "v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n"
        f"{credentials('abcd')}a=ice-options:trickle\r\na=sendrecv\r\na=rtcp-mux\r\n"
    )
    (line,) = parse(text)
    assert (line.direction, line.rtcp, line.rtcp_mux) == ("sendrecv", None, True)
    out = Sdp(text).rewrite([MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001"))])
    assert "m=audio 7000 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 10.2.0.1\r\n" in out
    assert "a=rtcp:7001 IN IP4 10.2.0.1\r\n" in out and "0.0.0.0" not in out


def test_the_lines_of_an_ice_lite_agent() -> None:
    text = HEAD + "a=ice-options:trickle\r\n" + AUDIO + credentials("abcd") + "a=x\r\n" + VIDEO
    sdp = Sdp(text)
    out = sdp.rewrite(
        [
            MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001"), ice=OURS),
            MediaRewrite(at("[fd00::1]:7002"), None, True, OURS),
        ]
    )
    assert out.split("\r\n") == [
        *HEAD.replace("c=IN IP4 192.0.2.4", "c=IN IP4 10.2.0.1").split("\r\n")[:-1],
        "a=ice-lite",
        "a=ice-options:ice2",
        "m=audio 7000 RTP/AVP 0",
        "a=x",
        "a=ice-ufrag:Wx9+/Abc",
        "a=ice-pwd:0123456789abcdefghijkl+/",
        "a=candidate:1 1 UDP 2130706431 10.2.0.1 7000 typ host",
        "a=candidate:1 2 UDP 2130706430 10.2.0.1 7001 typ host",
        "m=video 7002 RTP/AVP 96",
        "c=IN IP6 fd00::1",
        "a=sendonly",
        "a=rtcp-mux",
        "a=ice-ufrag:Wx9+/Abc",
        "a=ice-pwd:0123456789abcdefghijkl+/",
        "a=candidate:1 1 UDP 2130706431 fd00::1 7002 typ host",
        "",
    ]


def test_another_implementation_reads_our_candidates() -> None:
    wanted = MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001"), ice=OURS)
    out = Sdp(HEAD + AUDIO).rewrite([wanted])
    lines = [line for line in out.split("\r\n") if line.startswith("a=candidate:")]
    found = [aioice.Candidate.from_sdp(line.removeprefix("a=candidate:")) for line in lines]
    assert [(c.component, c.host, c.port, c.type) for c in found] == [
        (1, "10.2.0.1", 7000, "host"),
        (2, "10.2.0.1", 7001, "host"),
    ]
    assert [c.priority for c in found] == [
        aioice.candidate.candidate_priority(component, "host") for component in (1, 2)
    ]


def test_no_ice_on_a_rejected_line() -> None:
    out = Sdp(HEAD + AUDIO).rewrite([MediaRewrite(at("10.2.0.1:0"), ice=OURS)])
    assert "a=ice" not in out and "a=candidate" not in out


def test_what_is_encrypted_end_to_end_stays() -> None:
    secured = (
        HEAD + "a=fingerprint:sha-256 AB:CD\r\na=setup:actpass\r\n"
        "m=audio 9000 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x|2^20|1:4\r\n"
        "a=crypto:2 AEAD_AES_128_GCM inline:y\r\na=tls-id:abc\r\n"
        "m=video 9002 UDP/TLS/RTP/SAVPF 96\r\na=fingerprint:sha-1 00\r\na=setup:passive\r\n"
    )
    sdp = Sdp(secured)
    own = [MediaRewrite(line.rtp, line.rtcp, ice=None) for line in sdp.media]
    assert sdp.rewrite(own) == secured
    assert [line.dtls for line in sdp.media] == [True, True]
    assert [line.dtls for line in parse(HEAD + AUDIO + VIDEO + "a=fingerprint:x y\r\n")] == [
        False,
        True,
    ]


def test_loop_marks_are_found_kept_and_added() -> None:
    text = HEAD + "a=x-bgf-loop:g2\r\n" + AUDIO
    sdp = Sdp(text)
    assert sdp.loop_marks == ("g2",)
    out = sdp.rewrite([MediaRewrite(at("10.2.0.1:7000"), ice=OURS)], loop_mark="g1")
    assert Sdp(out).loop_marks == ("g2", "g1")
    assert "a=x-bgf-loop:g2\r\na=ice-lite\r\na=ice-options:ice2\r\na=x-bgf-loop:g1\r\nm=" in out
    many = HEAD + "a=x-bgf-loop:g\udc80\r\n" + "a=x-bgf-loop:g\r\n" * 99 + AUDIO
    assert Sdp(many).loop_marks == ("g",) * LOOP_MARKS_MAX


def test_a_line_that_is_offered_in_a_bundle_only_is_rejected_and_said() -> None:
    text = (
        HEAD
        + "a=group:BUNDLE 0 1\r\na=group:LS 0 1\r\n"
        + AUDIO
        + "m=video 0 RTP/AVP 96\r\na=bundle-only\r\na=mid:1\r\n"
    )
    sdp = Sdp(text)
    assert sdp.notes == ("m-line 2 is offered in a bundle only: bundling is refused, and it too",)
    out = sdp.rewrite([MediaRewrite(at("10.2.0.1:7000")), MediaRewrite(at("10.2.0.1:0"))])
    assert "BUNDLE" not in out and "bundle-only" not in out
    assert "a=group:LS 0 1\r\n" in out and "m=video 0 RTP/AVP 96\r\na=mid:1\r\n" in out


UNKNOWN = st.sampled_from(
    ["a=x-thing:1", "a=fmtp:96 a=1;b", "a=ssrc:1 cname:x", "a=msid:a b", "a=extmap:1 urn:x",
     "a=crypto:1 X inline:y", "a=setup:active", "b=AS:64", "a=icey", "a=ic", "a=candidates:1",
     "a=groups:BUNDLE", "a=mid:0", "a=sctp-port:5000", "a=tls-id:\udc80"]
)  # fmt: skip
CHANGED = ("a=candidate:1 1 udp 5 10.0.0.1 9 typ host", "a=ice-lite", "a=end-of-candidates",
           "a=remote-candidates:1 10.0.0.1 9", "a=ice-pacing:50", "a=ice-mismatch",
           *credentials("abcd").split("\r\n")[:2])  # fmt: skip
ADDED = ("a=ice-", "a=candidate:", "a=rtcp:", "a=x-bgf-loop:", "c=", "m=")


@unhurried
@given(
    st.lists(UNKNOWN, max_size=8),
    st.lists(UNKNOWN | st.sampled_from(CHANGED), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_unknown_attributes_survive_in_their_order(
    shared: list[str], own: list[str], ice: bool, msrp: bool
) -> None:
    lines = [*HEAD.split("\r\n")[:-1], *shared, AUDIO.strip(), *own]
    passed = ["m=message 9 TCP/MSRP *", *own] if msrp else []
    text = "\r\n".join([*lines, *passed, ""])
    rewrites = [
        MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7005"), ice=OURS if ice else None),
        *([MediaRewrite(at("10.2.0.1:0"))] if msrp else []),
    ]
    out = Sdp(text).rewrite(rewrites, loop_mark="g1" if ice else "").split("\r\n")
    end = out.index("m=message 9 TCP/MSRP *") if msrp else -1
    kept = [line for line in out[:end] if not line.startswith(ADDED)]
    assert kept == [line for line in lines if not line.startswith(("c=", "m=")) if
                    line not in CHANGED]  # fmt: skip
    if msrp:  # that part, nobody has touched
        assert out[end:] == [passed[0], "c=IN IP4 192.0.2.4", *own, ""]
