"""Session descriptions: what is read out of them, and that only the lines that must change do."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgf.control.sdp import (
    MEDIA_LINES_MAX,
    SDP_BYTES_MAX,
    BadAddress,
    BadPort,
    BadSdp,
    NoMedia,
    Sdp,
    SdpLimit,
    parse,
    rewrite,
)
from bgf.errors import Misuse
from bgf.events import MediaLine, MediaRewrite
from bgf.model import Address

SIPP = (
    "v=0\r\no=user1 53655765 2353687637 IN IP4 10.10.0.2\r\ns=-\r\nc=IN IP4 10.10.0.2\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
    "a=fmtp:101 0-11,16\r\n"
)
VOLTE = (
    "v=0\r\no=- 1 1 IN IP6 fd00:a::2\r\ns=-\r\nc=IN IP6 fd00:a::2\r\nb=AS:41\r\nt=0 0\r\n"
    "m=audio 50010 RTP/AVP 104 102\r\nb=AS:41\r\nb=RS:512\r\na=rtpmap:104 AMR-WB/16000/1\r\n"
    "a=curr:qos local none\r\na=des:qos mandatory local sendrecv\r\na=sendrecv\r\n"
    "a=rtcp:50011\r\na=ptime:20\r\nm=video 50020 RTP/AVP 113\r\nb=AS:408\r\n"
    "a=rtpmap:113 H264/90000\r\na=rtcp-mux\r\na=sendonly\r\n"
)
BROWSER = (
    "v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
    "a=ice-options:trickle\r\na=recvonly\r\n"
    "m=audio 9000 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 192.0.2.4\r\na=rtcp:9 IN IP4 0.0.0.0\r\n"
    "a=candidate:1 1 udp 2130706431 10.0.0.5 9000 typ host\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 AB:CD\r\na=mid:0\r\n"
    "a=rtcp-mux\r\na=rtcp-rsize\r\na=rtcp-fb:111 transport-cc\r\na=end-of-candidates\r\n"
    "m=video 0 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 192.0.2.4\r\na=bundle-only\r\na=mid:1\r\n"
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
REAL = (SIPP, VOLTE, BROWSER)


def at(text: str) -> Address:
    return Address.parse(text)


def ours(sdp: Sdp, host: str = "10.20.0.101", port: int = 30_000) -> tuple[MediaRewrite, ...]:
    """A rewrite as the gateway would ask for it: our pair for every live m-line."""
    return tuple(
        MediaRewrite(
            Address(host, port + 2 * number if line.rtp.port else 0),
            Address(host, port + 2 * number + 1) if line.rtcp is not None else None,
            line.rtcp_mux,
        )
        for number, line in enumerate(sdp.media)
    )


def test_a_plain_offer() -> None:
    assert parse(SIPP) == (
        MediaLine(
            "audio",
            "RTP/AVP",
            at("10.10.0.2:6000"),
            at("10.10.0.2:6001"),
            payload_types=(8, 101),
            dtmf_types=(101,),
        ),
    )


def test_volte_audio_and_video() -> None:
    assert parse(VOLTE) == (
        MediaLine(
            "audio",
            "RTP/AVP",
            at("[fd00:a::2]:50010"),
            at("[fd00:a::2]:50011"),
            payload_types=(104, 102),
            clock_hz=16_000,
        ),
        MediaLine(
            "video",
            "RTP/AVP",
            at("[fd00:a::2]:50020"),
            at("[fd00:a::2]:50021"),
            rtcp_mux=True,
            direction="sendonly",
            payload_types=(113,),
            clock_hz=90_000,
        ),
    )


def test_media_level_addresses_and_session_level_direction() -> None:
    audio, video = parse(BROWSER)
    transport = "UDP/TLS/RTP/SAVPF"
    assert audio == MediaLine(
        *("audio", transport, at("192.0.2.4:9000"), None, True, "recvonly", (111,)),
        ice_ufrag="abcd",
        dtls=True,
    )
    assert video == MediaLine(
        "video", transport, at("192.0.2.4:0"), None, False, "recvonly", (96,), 90_000
    )


@pytest.mark.parametrize(
    ("media", "types", "clock_hz"),
    [
        ("audio 6000 RTP/AVP 0 8", (0, 8), 8_000),
        ("audio 6000 RTP/AVP 9", (9,), 8_000),  # G.722: 8,000 for historical reasons
        ("audio 6000 RTP/AVP 14", (14,), 90_000),
        ("audio 6000 RTP/AVP 11 0", (11, 0), 44_100),
        ("video 6000 RTP/AVP 31", (31,), 90_000),
        ("video 6000 RTP/AVP 97", (97,), 90_000),
        ("audio 6000 RTP/AVP 96 97\r\na=rtpmap:97 x/1\r\na=rtpmap:96 opus/48000/2",
         (96, 97), 48_000),
        ("audio 6000 RTP/AVP 96\r\na=rtpmap:96 opus/0", (96,), 8_000),
        ("audio 6000 RTP/AVP 96\r\na=rtpmap:96 opus/99999999999", (96,), 8_000),
        ("audio 6000 RTP/AVP 96\r\na=rtpmap:96 opus/\u0663", (96,), 8_000),
        ("audio 6000 RTP/AVP 128 -1 x 4711 \u0663 5", (5,), 8_000),
        ("audio 6000 RTP/AVP", (), 8_000),
        ("image 6000 udptl t38", (), 8_000),
        ("audio 6000 RTP/AVP " + " ".join(map(str, range(100))), tuple(range(32)), 8_000),
    ],
)  # fmt: skip
def test_payload_types_and_the_clock_of_the_first(
    media: str, types: tuple[int, ...], clock_hz: int
) -> None:
    (line,) = parse(f"v=0\r\nc=IN IP4 10.10.0.2\r\nm={media}\r\n")
    assert (line.payload_types, line.clock_hz) == (types, clock_hz)


@pytest.mark.parametrize(
    ("attribute", "rtcp"),
    [
        ("", "10.10.0.2:6001"),
        ("a=rtcp:6007", "10.10.0.2:6007"),
        ("a=rtcp:6007 IN IP4 10.10.0.9", "10.10.0.9:6007"),
        ("a=rtcp:0", None),
        ("a=rtcp:9 IN IP4 0.0.0.0", None),
        ("a=rtcp-mux-only", None),
        ("a=rtcp-mux\na=rtcp:6000", None),
        ("a=rtcp-mux\na=rtcp:6001", "10.10.0.2:6001"),
    ],
)
def test_where_rtcp_goes(attribute: str, rtcp: str | None) -> None:
    line = parse(f"{SIPP}{attribute}\r\n".replace("\r\n", "\n"))[0]
    assert line.rtcp == (at(rtcp) if rtcp else None)


def test_the_last_port_has_no_implied_rtcp() -> None:
    assert parse(SIPP.replace("6000", "65535"))[0].rtcp is None


@pytest.mark.parametrize("host", ["IN IP4 0.0.0.0", "IN IP6 ::"])
def test_hold_by_no_address(host: str) -> None:
    held = SIPP.replace("c=IN IP4 10.10.0.2", f"c={host}")
    line = parse(held)[0]
    assert line.rtp.port == 6000
    assert line.direction == "sendonly"
    assert "c=IN IP6 ::\r\n" in rewrite(held, [MediaRewrite(at("[fd00:a::101]:30000"))])
    assert "c=IN IP4 0.0.0.0\r\n" in rewrite(held, [MediaRewrite(at("10.20.0.101:30000"))])


MSRP = "m=message 2855 TCP/MSRP *\r\na=path:msrp://10.10.0.2:2855/x;tcp\r\na=rtcp-mux\r\n"


def test_what_is_not_over_udp_is_passed_on_as_it_is_and_said() -> None:
    sdp = Sdp(SIPP + MSRP + "a=candidate:1 1 TCP 5 10.10.0.2 9 typ host tcptype active\r\n"
              "m=image 6002 udptl t38\r\n")  # fmt: skip
    assert [line.rtp.port for line in sdp.media] == [6000, 0, 6002]
    assert sdp.media[2].rtcp is None
    assert sdp.notes == (
        "m-line 2 (message TCP/MSRP) is not over UDP: it is passed on as it is, its ends talk"
        " directly",
    )
    text = sdp.rewrite(ours(sdp))
    # The session's address is ours now: the m-line states its own.
    path = MSRP.partition("\r\n")[2]
    assert f"m=message 2855 TCP/MSRP *\r\nc=IN IP4 10.10.0.2\r\n{path}a=candidate:1" in text
    assert "m=image 30004 udptl t38\r\n" in text
    assert text.count("c=IN IP4 10.20.0.101\r\n") == 1


def test_an_m_line_that_passes_keeps_its_own_address_and_a_rejected_one_is_no_other() -> None:
    text = SIPP + MSRP.replace("\r\n", "\r\nc=IN IP4 10.10.0.9\r\n", 1)
    assert "TCP/MSRP *\r\nc=IN IP4 10.10.0.9\r\na=path" in rewrite(text, ours(Sdp(text)))
    rejected = Sdp(SIPP + "m=message 0 TCP/MSRP *\r\n")
    assert rejected.notes == ()
    assert rejected.rewrite(ours(rejected)).endswith("m=message 0 TCP/MSRP *\r\n")


def test_nothing_changes_where_all_m_lines_pass() -> None:
    text = SIPP.partition("m=")[0] + MSRP
    assert rewrite(text, ours(Sdp(text))) == text


def test_rewritten_offer_line_by_line() -> None:
    sdp = Sdp(VOLTE)
    changed = {
        "o=- 1 1 IN IP6 fd00:a::2": "o=- 1 1 IN IP4 10.20.0.101",
        "c=IN IP6 fd00:a::2": "c=IN IP4 10.20.0.101",
        "m=audio 50010 RTP/AVP 104 102": "m=audio 30000 RTP/AVP 104 102",
        "a=rtcp:50011": "a=rtcp:30001",
        "m=video 50020 RTP/AVP 113": "m=video 30002 RTP/AVP 113",
    }
    expected = [changed.get(line, line) for line in VOLTE.split("\r\n")]
    assert sdp.rewrite(ours(sdp), replace_origin=True).split("\r\n") == expected


def test_the_origin_stays_unless_asked() -> None:
    sdp = Sdp(VOLTE)
    assert "o=- 1 1 IN IP6 fd00:a::2\r\n" in sdp.rewrite(ours(sdp))


def test_ice_and_bundle_go_and_the_rest_of_a_browsers_offer_stays() -> None:
    sdp = Sdp(BROWSER)
    assert sdp.rewrite(ours(sdp)).split("\r\n") == [
        "v=0",
        "o=- 4611 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=recvonly",
        "m=audio 30000 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 10.20.0.101",
        "a=fingerprint:sha-256 AB:CD",
        "a=mid:0",
        "a=rtcp-mux",
        "a=rtcp-rsize",
        "a=rtcp-fb:111 transport-cc",
        "m=video 0 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 10.20.0.101",
        "a=mid:1",
        "",
    ]


@pytest.mark.parametrize(
    ("stated", "wanted", "lines"),
    [
        ("", MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001")), []),
        ("", MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7005")), ["a=rtcp:7005"]),
        (
            "",
            MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.2:7001")),
            ["a=rtcp:7001 IN IP4 10.2.0.2"],
        ),
        (
            "",
            MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7000"), rtcp_mux=True),
            ["a=rtcp:7000", "a=rtcp-mux"],
        ),
        ("a=rtcp-mux", MediaRewrite(at("10.2.0.1:7000")), []),
        ("a=rtcp-mux-only", MediaRewrite(at("10.2.0.1:7000")), []),
        ("a=rtcp-mux", MediaRewrite(at("10.2.0.1:7000"), rtcp_mux=True), ["a=rtcp-mux"]),
        ("a=rtcp:9", MediaRewrite(at("10.2.0.1:7000")), []),
        ("a=rtcp:9", MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001")), ["a=rtcp:7001"]),
        (
            "a=rtcp:9 IN IP4 1.2.3.4",
            MediaRewrite(at("10.2.0.1:7000"), at("10.2.0.1:7001")),
            ["a=rtcp:7001 IN IP4 10.2.0.1"],
        ),
        ("a=rtcp:9", MediaRewrite(at("10.2.0.1:0"), at("10.2.0.1:1")), []),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n", ""])
def test_rtcp_lines(stated: str, wanted: MediaRewrite, lines: list[str], end: str) -> None:
    eol = end or "\r\n"
    text = eol.join(
        ["v=0", "c=IN IP4 1.1.1.1", "m=audio 8 RTP/AVP 0", *([stated] if stated else [])]
    )
    out = rewrite(text + end, [wanted])
    expected = ["v=0", "c=IN IP4 10.2.0.1", f"m=audio {wanted.rtp.port} RTP/AVP 0", *lines]
    assert out.removesuffix(eol).split(eol) == expected
    assert out.endswith(eol) or not end


def test_no_rtcp_attribute() -> None:
    sdp = Sdp(VOLTE)
    assert "a=rtcp:" not in sdp.rewrite(ours(sdp), rtcp_attribute=False)


def test_an_m_line_on_another_address_gets_its_own_connection() -> None:
    text = "v=0\nc=IN IP4 1.1.1.1\nm=audio 8 RTP/AVP 0\nm=video 10 RTP/AVP 1\ni=cam\na=x\n"
    out = rewrite(text, [MediaRewrite(at("10.0.0.1:20")), MediaRewrite(at("10.0.0.2:22"))])
    assert out == (
        "v=0\nc=IN IP4 10.0.0.1\nm=audio 20 RTP/AVP 0\n"
        "m=video 22 RTP/AVP 1\ni=cam\nc=IN IP4 10.0.0.2\na=x\n"
    )


def test_a_range_of_ports_becomes_one_pair() -> None:
    sdp = Sdp(SIPP.replace("6000", "6000/2"))
    assert sdp.notes == ("m-line 1 states several ports, one pair is carried",)
    assert "m=audio 30000 RTP/AVP 8 101\r\n" in sdp.rewrite(ours(sdp))


def test_the_wrong_number_of_rewrites_is_our_fault() -> None:
    with pytest.raises(Misuse, match="1 rewrites for an sdp of 2"):
        Sdp(VOLTE).rewrite([MediaRewrite(at("1.1.1.1:2"))])


BAD: list[tuple[str, type[BadSdp], str]] = [
    ("", BadSdp, "not with 'v='"),
    ("x" * 10, BadSdp, "not with 'v='"),
    (SIPP.partition("m=")[0], NoMedia, "no m-line"),
    (SIPP.replace("6000", "65536"), BadPort, "'65536' is out of range 0..65535"),
    (SIPP.replace("6000", "60000000"), BadPort, "out of range"),
    (SIPP.replace("6000", "-1"), BadPort, "'-1' is not a number"),
    (SIPP.replace("6000", "٣"), BadPort, "is not a number"),
    (SIPP.replace("6000", ""), BadPort, "'' is not a number"),
    (SIPP.replace("audio 6000 RTP/AVP 8 101", "audio"), BadSdp, "sdp line 6"),
    (SIPP.replace("audio ", " "), BadSdp, "not a word"),
    (SIPP.replace("RTP/AVP", "RTP/\udcffAVP"), BadSdp, "not a word"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP4 fd00::1"), BadAddress, "IP6 address, IP4 is"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP6 10.0.0.1"), BadAddress, "IP4 address, IP6 is"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP4 a.example"), BadAddress, "names are not"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP4 10.10.0.256"), BadAddress, "sdp line 4"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP4 224.2.1.1/127"), BadAddress, "multicast"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP6 ff02::1"), BadAddress, "multicast"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP6 fe80::1%eth0"), BadAddress, "scoped"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN IP6 ::ffff:1.2.3.4"), BadAddress, "IPv4-mapped"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=ATM X 1"), BadAddress, "is not 'IN IP4|IP6 address'"),
    (SIPP.replace("c=IN IP4 10.10.0.2", "c=IN FOO 1"), BadAddress, "neither IP4 nor IP6"),
    (SIPP.replace("c=IN IP4 10.10.0.2\r\n", ""), BadAddress, "sdp line 5: no c= line"),
    (SIPP + "a=rtcp:70000\r\n", BadPort, "sdp line 10"),
    (SIPP + "a=rtcp:x\r\n", BadPort, "is not a number"),
    (SIPP + "a=rtcp:1 IN IP4 name.example\r\n", BadAddress, "sdp line 10"),
    (SIPP + "a=x\0y\r\n", BadSdp, "NUL"),
    (SIPP + "a=x\rm=video 1 RTP/AVP 0\r\n", BadSdp, "carriage return"),
    (SIPP + "hello\r\n", BadSdp, "sdp line 10: 'hello' is not 'letter=value'"),
    (SIPP + "m=audio 2 RTP/AVP 0\r\n" * 99, SdpLimit, f"more than {MEDIA_LINES_MAX} m-lines"),
    (SIPP + "a=x:" + "y" * 65_536 + "\r\n", SdpLimit, f"the limit is {SDP_BYTES_MAX}"),
]


@pytest.mark.parametrize(("text", "kind", "reason"), BAD)
def test_bad_descriptions(text: str, kind: type[BadSdp], reason: str) -> None:
    with pytest.raises(kind) as caught:
        Sdp(text)
    assert type(caught.value) is kind
    assert reason in caught.value.reason
    assert caught.value.reason.isascii() and caught.value.reason.isprintable()


def test_nulls_unicode_and_odd_bytes_where_they_may_be() -> None:
    text = SIPP.replace("s=-", "s=Grüße ☎ \udcff") + "a=x: \x0b\x85\u2028 \r\n\r\n"
    assert rewrite(text, [MediaRewrite(at("10.10.0.2:6000"), at("10.10.0.2:6001"))]) == text


# What a rewrite may change, remove or add, and nothing else.
MUTABLE = (
    "c=",
    "o=",
    "m=",
    "a=rtcp:",
    "a=rtcp-mux",
    "a=candidate:",
    "a=remote-candidates:",
    "a=ice-",
    "a=end-of-candidates",
    "a=group:BUNDLE",
    "a=bundle-only",
)


def untouched(text: str) -> list[str]:
    return [line for line in text.split("\n") if not line.startswith(MUTABLE)]


extra_lines = st.sampled_from(
    [
        "a=x-unknown:1 2 3",
        "a=rtcp-fb:* nack",
        "a=rtcp:5000",
        "a=rtcp-mux",
        "a=candidate:1 1 udp 1 10.0.0.1 5 typ host",
        "a=inactive",
        "b=AS:64",
        "i=a title",
        "c=IN IP4 192.0.2.77",
        "k=clear:x",
        "z=0 0",
        "a=\udc80\udcfe",
        "",
    ]
)


@st.composite
def descriptions(draw: st.DrawFn) -> str:
    end = draw(st.sampled_from(["\r\n", "\n"]))
    lines = draw(st.sampled_from(REAL)).replace("\r\n", "\n").rstrip("\n").split("\n")
    for _ in range(draw(st.integers(0, 6))):
        lines.insert(draw(st.integers(1, len(lines))), draw(extra_lines))
    return end.join(lines) + draw(st.sampled_from([end, ""]))


@unhurried
@given(descriptions(), st.sampled_from(["10.20.0.101", "fd00:a::101"]), st.booleans())
def test_a_rewrite_changes_only_the_lines_it_must(text: str, host: str, origin: bool) -> None:
    sdp = Sdp(text)
    wanted = ours(sdp, host)
    out = sdp.rewrite(wanted, replace_origin=origin)
    # A description without a line end at its end may get one.
    before, after = untouched(text), untouched(out)
    assert [line.rstrip("\r") for line in after if line.rstrip("\r")] == [
        line.rstrip("\r") for line in before if line.rstrip("\r")
    ]
    assert text[-1] != "\n" or before == after
    # What it now says is what was wanted, and saying it again changes nothing.
    for line, given_line, want in zip(parse(out), sdp.media, wanted, strict=True):
        assert (line.kind, line.transport) == (given_line.kind, given_line.transport)
        assert line.rtp.port == want.rtp.port
        if want.rtp.port:
            assert line.rtp.host in (host, "0.0.0.0", "::")
            assert line.rtcp_mux == want.rtcp_mux
            if want.rtcp is not None and line.rtp.host == host:
                assert line.rtcp == want.rtcp
    assert rewrite(out, wanted, replace_origin=origin) == out


@unhurried
@given(st.sampled_from(REAL))
def test_a_rewrite_to_what_it_says_is_the_identity(text: str) -> None:
    if text is BROWSER:
        text = rewrite(text, ours(Sdp(text)))
    own = tuple(MediaRewrite(line.rtp, line.rtcp, line.rtcp_mux) for line in parse(text))
    assert rewrite(text, own) == text


@unhurried
@given(
    st.text(max_size=300)
    | st.binary(max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape"))
)
def test_noise_raises_bad_sdp_or_nothing(noise: str) -> None:
    for text in (noise, "v=0\r\n" + noise, SIPP + noise, "v=0\nm=" + noise):
        consume(text)


@unhurried
@given(st.sampled_from(REAL), st.data())
def test_a_damaged_description_raises_bad_sdp_or_nothing(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        patch = data.draw(st.text(max_size=4) | st.sampled_from(["\n", "\r", " ", "m=", "c=", "/"]))
        text = text[:place] + patch + text[place + cut :]
    consume(text)


def consume(text: str) -> None:
    try:
        sdp = Sdp(text)
    except BadSdp as error:
        assert error.reason.isascii() and error.reason.isprintable()
    else:
        assert len(parse(sdp.rewrite(ours(sdp), replace_origin=True))) == len(sdp.media)
