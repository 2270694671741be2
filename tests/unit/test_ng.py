"""The `ng` codec: transcripts of real messages, and everything a peer may get wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgf import errors
from bgf.control import bencode, ng, words
from bgf.control.client import decode_reply, encode_request
from bgf.control.sdp import SDP_BYTES_MAX, BadAddress, BadPort, NoMedia, SdpLimit
from bgf.errors import LoadLimit, Misuse, PeerError, PortsExhausted
from bgf.events import CallReport, Command, MediaRewrite, Party, Reply, Result, Verb
from bgf.model import Address, Component, Counters, Flow, Ice, RtpStatistics

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "ng").glob("*.json"))
WRITE = os.environ.get("BGF_GOLDEN") == "write"
"""Set to rewrite what the transcripts expect; read the difference before keeping it."""

SDP = (
    "v=0\r\no=u 1 1 IN IP4 10.10.0.2\r\ns=-\r\nc=IN IP4 10.10.0.2\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 8\r\n"
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
OFFER: dict[str, Any] = {"command": "offer", "call-id": "c", "from-tag": "f", "sdp": SDP}


def frame(**changes: Any) -> bytes:
    """An offer with these keys changed; a value of None leaves the key out."""
    entries = {key.replace("_", "-"): value for key, value in changes.items()}
    merged = {key: value for key, value in (OFFER | entries).items() if value is not None}
    return encode_request("k_1", merged)


def frame_json(**changes: Any) -> bytes:
    return b"k_1 " + json.dumps(OFFER | changes).encode()


def request(**changes: Any) -> ng.Request:
    return ng.decode(frame(**changes))[1]


def warned(**changes: Any) -> str:
    return "; ".join(request(**changes).warnings)


# Transcripts


def transcript_effect(
    effect: dict[str, Any], asked: ng.Request
) -> tuple[Reply, list[Counters], list[RtpStatistics]]:
    def address(text: str | None) -> Address | None:
        return Address.parse(text) if text else None

    flows, counters, heard = [], [], []
    for entry in effect.get("flows", ()):
        flows.append(
            Flow(
                entry["group"],
                entry["session"],
                entry["stream"],
                Component[entry["component"]],
                entry["realm_in"],
                Address.parse(entry["local_in"]),
                entry["realm_out"],
                Address.parse(entry["local_out"]),
                address(entry["remote"]),
            )
        )
        counters.append(Counters(*entry["counters"]))
        heard.append(RtpStatistics(*entry.get("rtp", ())))
    created_s = effect.get("created_s", 0)
    told = effect.get("report", {})
    parties = [Party(**one) for one in told.get("parties", ())]
    parties = parties or [Party(asked.from_tag), Party(asked.to_tag)]
    report = CallReport(
        created_s,
        told.get("signalled_s", created_s),
        (parties[0], parties[1]),
        msgspec.convert(
            told.get("media", ()), tuple[tuple[tuple[str, str, str], tuple[str, str, str]], ...]
        ),
        told.get("recording", "off"),
    )
    reply = Reply(
        asked.cookie,
        Result(effect["result"]),
        effect.get("reason", ""),
        effect.get("warning", ""),
        tuple(
            MediaRewrite(
                Address.parse(line["rtp"]),
                address(line.get("rtcp")),
                line.get("rtcp_mux", False),
                Ice(*line["ice"]) if "ice" in line else None,
            )
            for line in effect.get("media", ())
        ),
        tuple(flows),
        report=report if flows else None,
        calls=tuple(effect.get("calls", ())),
        loop_mark=effect.get("loop_mark", ""),
    )
    return reply, counters, heard


def run(transcript: dict[str, Any]) -> dict[str, Any]:
    """What the codec makes of a transcript: its outputs, as they stand in the file."""
    datagram = "".join(transcript["request"]).encode()
    try:
        _, decoded = ng.decode(datagram)
    except PeerError as error:
        refusal = ng.refuse(datagram, error)
        assert refusal is not None
        return {"error": error.code, "reply": refusal.decode().splitlines(keepends=True)}
    command = decoded.command(0)
    # Canonical as a journal has it, and back.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=Command) == command
    effect = transcript["effect"]
    reply, counters, heard = transcript_effect(effect, decoded)
    statistics = effect.get("statistics")
    measured = ng.Measured(counters, heard, effect.get("boot_s", 0.0), statistics)
    rendered = ng.render(decoded, reply, measured)
    fields = {
        name: value
        for name in command.__struct_fields__
        if (value := getattr(command, name)) and name != "media"
    }
    return {
        "command": msgspec.to_builtins(fields),
        "media": [
            f"{line.kind} {line.transport} {line.rtp} rtcp {line.rtcp}"
            f"{' mux' if line.rtcp_mux else ''} {line.direction}"
            f"{f' ice {line.ice_ufrag}' if line.ice_ufrag else ''}{' dtls' if line.dtls else ''}"
            for line in command.media
        ],
        "reply": rendered.decode().splitlines(keepends=True),
    }


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_transcript(path: Path) -> None:
    transcript = json.loads(path.read_text())
    outputs = json.loads(json.dumps(run(transcript)))  # as a file has it
    if WRITE:
        inputs = {
            key: transcript[key] for key in ("about", "request", "effect") if key in transcript
        }
        path.write_text(json.dumps(inputs | outputs, indent=1, ensure_ascii=False) + "\n")
    else:
        assert {key: transcript.get(key) for key in outputs} == outputs


def test_there_are_transcripts() -> None:
    assert len(GOLDEN) >= 30


# Spellings


@pytest.mark.parametrize(
    "spelled",
    [
        {"address family": "IP6"},
        {"address-family": "IP6"},
        {"flags": ["address-family=IP6"]},
    ],
)
def test_spaces_and_hyphens_are_one(spelled: dict[str, Any]) -> None:
    assert request(**spelled).family == 6


def test_flags_are_normalised() -> None:
    made = request(
        flags=["strict source", "asymmetric", "replace-origin", "rtcp-mux-demux", "trust-address"],
        replace=["origin", "session connection"],
        rtcp_mux=["accept"],
        ICE="remove",
        TOS=184,
    )
    assert list(made.flags) == [
        "ICE=remove",
        "TOS=184",
        "asymmetric",
        "replace=origin",
        "replace=session-connection",
        "rtcp-mux=accept",
        "rtcp-mux=demux",
        "strict-source",
    ]
    assert not made.warnings


def test_realms_and_family() -> None:
    made = request(direction=["access", "core"], address_family="IP4").command(7)
    assert (made.now_ns, made.realms, made.family, made.ports) == (7, ("access", "core"), 4, ())


def test_a_key_that_holds_a_list_adds_up_when_it_is_given_twice() -> None:
    """OpenSIPS writes a word that it does not know once for each value: `direction=a`, twice."""
    whole = frame(replace="origin").removesuffix(b"e")
    twice = b"9:direction6:access9:direction4:core7:replacel18:session-connectione5:flags5:fatal"
    made = ng.decode(whole + twice + b"5:flagsl3:allee")[1]
    assert made.realms == ("access", "core")
    assert made.flags == ("all", "fatal", "replace=origin", "replace=session-connection")
    assert made.warnings == ()
    three = ng.decode(whole + b"9:direction1:a9:directionl1:b1:cee")[1]
    assert (three.realms, three.warnings) == (
        (),
        ("direction names 3 realms, not 2, and is ignored",),
    )
    # Of any other key the first counts; in JSON two spellings are one key.
    assert ng.decode(whole + b"7:call-id1:xe")[1].call_id == "c"
    spelled = frame_json(**{"rtcp-mux": ["offer"], "rtcp mux": "accept", "TOS": 8})
    assert ng.decode(spelled)[1].flags == ("TOS=8", "rtcp-mux=accept", "rtcp-mux=offer")


def test_bencode_and_json_give_the_same_command() -> None:
    entries = OFFER | {"flags": ["fatal"], "direction": ["a", "b"], "TOS": 8, "via-branch": "z9"}
    packed = ng.decode(encode_request("k", entries))[1]
    spelled = ng.decode(b"k " + json.dumps(entries).encode())[1]
    assert packed.command(1) == spelled.command(1)


@pytest.mark.parametrize(
    ("host", "stated"), [("192.0.2.9", "IN IP4 192.0.2.9"), ("2001:DB8::9", "IN IP6 2001:db8::9")]
)
def test_the_media_address_stands_in_place_of_ours(host: str, stated: str) -> None:
    """rtpengine writes it wherever its own would stand, and sends to whom the SDP describes."""
    sdp = SDP + "a=rtcp:6009 IN IP4 10.10.0.2\r\nm=video 0 RTP/AVP 96\r\nc=IN IP4 10.10.0.2\r\n"
    made = request(media_address=host, sdp=sdp, replace=["origin"])
    assert [str(line.rtp) for line in made.media] == ["10.10.0.2:6000", "10.10.0.2:0"]
    ours = MediaRewrite(
        Address("10.20.0.101", 30_000),
        Address("10.20.0.101", 30_001),
        ice=Ice("abcdefgh", "abcdefghabcdefghabcdefgh"),
    )
    rejected = MediaRewrite(Address("10.20.0.101", 0))
    reply = Reply("k_1", Result.OK, media=(ours, rejected))
    out = str(decode_reply(ng.render(made, reply))[1]["sdp"])
    assert "10.20.0.101" not in out and "10.10.0.2" not in out
    for line in (f"o=u 1 1 {stated}", f"a=rtcp:30001 {stated}"):
        assert f"{line}\r\n" in out
    assert out.count(f"c={stated}\r\n") == 2
    assert f" {stated.rsplit(maxsplit=1)[-1]} 30000 typ host\r\n" in out
    assert f" {stated.rsplit(maxsplit=1)[-1]} 30001 typ host\r\n" in out
    for nowhere in (None, "0.0.0.0"):
        plain = ng.render(request(sdp=sdp, media_address=nowhere), reply)
        assert b"c=IN IP4 10.20.0.101\r\n" in plain


def test_the_signalling_source_overrides_the_sdp_when_asked() -> None:
    source = {"received-from": ["IP4", "192.0.2.9"]}
    assert str(request(**source).media[0].rtp) == "10.10.0.2:6000"
    assert str(request(flags=["SIP-source-address"], **source).media[0].rtp) == "192.0.2.9:6000"
    both = request(flags=["SIP-source-address"], media_address="192.0.2.77", **source)
    assert (str(both.media[0].rtp), both.media_host) == ("192.0.2.9:6000", "192.0.2.77")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flags": ["frobnicate"]}, "ignored (unknown): frobnicate"),
        ({"frobnicate": "x"}, "ignored (unknown): frobnicate"),
        ({"frobnicate": b"\xff" * 9_000}, "ignored (unknown): frobnicate"),
        ({"frobnicate": {"a": [1]}}, "ignored (unknown): frobnicate"),
        ({"flags": ["always-transcode"]}, "ignored (not done here): always-transcode"),
        ({"codec": {"strip": ["all"]}}, "ignored (not done here): codec"),
        ({"ICE": "force"}, ""),
        ({"ICE": "maybe"}, "ignored (not done here): ICE=maybe"),
        ({"ICE": "optional"}, "ICE=optional is done as ICE=force: no other candidate passes"),
        ({"ICE-lite": "both"}, ""),
        ({"rtcp-mux": ["demux", "perhaps"]}, "ignored (not done here): rtcp-mux=perhaps"),
        ({"replace": ["username"]}, "ignored (not done here): replace=username"),
        ({"SDES": ["off"]}, ""),
        ({"SDES": ["off", "pad"]}, "ignored (not done here): SDES"),
        ({"OSRTP": "accept"}, ""),
        ({"address-family": "IP5"}, "address-family 'IP5' is neither IP4 nor IP6"),
        ({"direction": ["access"]}, "direction names 1 realms, not 2, and is ignored"),
        ({"media-address": "name"}, "media-address: 'name' is not an IP address"),
        ({"transport-protocol": "RTP/SAVP"}, "m-line 1 stays RTP/AVP, 'RTP/SAVP' is not made"),
        ({"transport-protocol": "RTP/AVP"}, ""),
        (
            {"flags": [f"x{number}" for number in range(20)]},
            "ignored (unknown): x0, x1, x2, x3, x4, x5, x6, x7 and more",
        ),
    ],
)
def test_what_is_not_done_is_a_warning_never_an_error(changes: dict[str, Any], said: str) -> None:
    assert warned(**changes) == said


def test_warnings_of_codec_and_machine_stand_together() -> None:
    made = request(flags=["frobnicate"])
    reply = Reply("k_1", Result.OK, warning="call not found")
    assert decode_reply(ng.render(made, reply))[1] == {
        "result": "ok",
        "warning": "call not found; ignored (unknown): frobnicate",
    }


# What a peer may get wrong

SCOPE = "this is a border gateway"
REFUSED: list[tuple[bytes, str, str]] = [
    (b"k_1 hello", "bad-bencode", "neither a bencode dictionary"),
    (b"k_1 ", "bad-bencode", "neither a bencode dictionary"),
    (b"k_1 d7:command", "bad-bencode", "ends at byte 10"),
    (b"k_1 d7:command5:offer", "bad-bencode", "ends at byte 17"),
    (b"k_1 d-1:xe", "bad-bencode", "0x2d"),
    (b"k_1 d3:TOSi" + b"9" * 5_000 + b"ee", "bad-bencode", "18 digits"),
    (b"k_1 d1:a" + b"l" * 60_000, "bad-bencode", "nested deeper than 16"),
    (b"k_1 {", "bad-json", "not JSON"),
    (b'k_1 {"command":', "bad-json", "not JSON"),
    (b'k_1 {"a":"\xff"}', "bad-json", "not JSON"),
    (b'k_1 {"a":"\\ud800"}', "bad-json", "not JSON"),
    (b'k_1 {"a":' + b"[" * 60_000, "bad-json", "not JSON"),
    (b'k_1 {"a":' + b"[" * 20 + b"]" * 20 + b"}", "bad-json", "nested deeper than 16"),
    (b"k_1 {} x", "bad-json", "not JSON"),
    (frame_json(TOS=-(10**18)), "bad-json", "an integer has more than 18 digits"),
    (frame_json(TOS="@").replace(b'"@"', b"9" * 60_000), "bad-json", "not JSON"),
    (b"k_1 de", "missing-key", "missing key 'command'"),
    (b"k_1 {}", "missing-key", "missing key 'command'"),
    (frame(command=None), "missing-key", "missing key 'command'"),
    (frame(call_id=None), "missing-key", "missing key 'call-id' in offer"),
    (frame(call_id=""), "missing-key", "missing key 'call-id' in offer"),
    (frame(from_tag=None), "missing-key", "missing key 'from-tag' in offer"),
    (frame(sdp=None), "missing-key", "missing key 'sdp' in offer"),
    (frame(command="answer"), "missing-key", "missing key 'to-tag' in answer"),
    (frame(command="delete", call_id=None), "missing-key", "missing key 'call-id' in delete"),
    (frame(command="query", call_id=None), "missing-key", "missing key 'call-id' in query"),
    (frame(command=["offer"]), "bad-value", "'command' is not a string"),
    (frame(call_id=["c"]), "bad-value", "'call-id' is not a string"),
    (frame(call_id=b"\xffc"), "bad-value", "'call-id' is not UTF-8 at byte 0"),
    (frame(call_id="a\0b"), "bad-value", "'call-id' has unprintable characters: 'a\\x00b'"),
    (frame(from_tag="a\nb"), "bad-value", "'from-tag' has unprintable characters"),
    (frame(sdp=["x"]), "bad-value", "'sdp' is not a string"),
    (frame(flags=[["x"]]), "bad-value", "'flags' is not a string"),
    (frame(call_id="c" * 513), "limit", "'call-id' has 513 bytes, the limit is 512"),
    (
        frame(ICE=[f"f{n}" for n in range(2)], flags=[f"TOS={n}" for n in range(65)]),
        "limit",
        "64",
    ),
    (frame(command="frobnicate"), "unknown-command", "unknown command 'frobnicate'"),
    (frame(command="OFFER"), "unknown-command", "unknown command 'OFFER'"),
    (frame(command=b"\xff\0"), "unknown-command", "unknown command '\\ufffd\\x00'"),
    *((frame(command=name), "out-of-scope", SCOPE) for name in words.OUT_OF_SCOPE),
    (frame(command="play-media"), "out-of-scope", SCOPE),
    (frame(sdp="v=0\r\n"), NoMedia.code, "sdp has no m-line"),
    (frame(sdp=SDP.replace("6000", "65536")), BadPort.code, "out of range"),
    (frame(sdp=SDP.replace("IP4 10.10.0.2", "IP4 fd00::1")), BadAddress.code, "IP4 is stated"),
    (frame(sdp=SDP.replace("IP4 10.10.0.2", "IP4 a.example")), BadAddress.code, "names are not"),
    (frame(sdp=SDP + "m=audio 1 RTP/AVP 0\r\n" * 99), SdpLimit.code, "more than 16 m-lines"),
    (frame(sdp=SDP + "a=" + "x" * 64_000), SdpLimit.code, f"the limit is {SDP_BYTES_MAX}"),
    (frame(sdp=b"\0" * 9), "sdp-malformed", "NUL"),
    (frame(sdp=b"\xff" * 9), "sdp-malformed", "not with 'v='"),
    (b"k_1 " + b"x" * 65_504, "limit", "frame of 65508 bytes, the limit is 65507"),
]


@pytest.mark.parametrize(("datagram", "code", "reason"), REFUSED)
def test_bad_input_is_answered_with_its_reason(datagram: bytes, code: str, reason: str) -> None:
    with pytest.raises(PeerError) as caught:
        ng.decode(datagram)
    assert caught.value.code == code
    assert reason in caught.value.reason
    refusal = ng.refuse(datagram, caught.value)
    assert refusal is not None
    if datagram.startswith(b"k_1 {"):
        assert json.loads(refusal.removeprefix(b"k_1 ")) == {
            "result": "error",
            "error-reason": caught.value.reason,
        }
    else:
        assert decode_reply(refusal) == (
            "k_1",
            {"result": "error", "error-reason": caught.value.reason},
        )


@pytest.mark.parametrize(
    "datagram",
    [b"", b" ", b"k", b"k" * 65_507, b" d4:x", b"\xff\xff d", b"a\0b d", b"k" * 129 + b" de"],
)
def test_without_a_cookie_there_is_no_answer(datagram: bytes) -> None:
    with pytest.raises(ng.NoCookie) as caught:
        ng.decode(datagram)
    assert ng.refuse(datagram, caught.value) is None


@pytest.mark.parametrize("seed", range(4))
def test_sixty_four_kib_of_noise(seed: int) -> None:
    noise = bytes((n * 2_654_435_761 + seed * 97) >> 7 & 0xFF for n in range(65_507))
    for datagram in (noise, b"k_1 " + noise[4:], b"k_1 d" + noise[5:], b"k_1 {" + noise[5:]):
        with pytest.raises(PeerError):
            ng.decode(datagram)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
bencode_values = st.recursive(
    st.integers(-(10**18) + 1, 10**18 - 1) | st.binary(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    sorted(
        {"command", "call-id", "call id", "from-tag", "to-tag", "via-branch", "sdp", "flags"}
        | {"direction", "supports", "received-from"}
        | words.CARRIED_KEYS
        | words.DECLINED_KEYS
        | words.NEUTRAL_KEYS
        | words.HANDLED_KEYS
    )
) | st.text(max_size=8)
commands = st.sampled_from(["ping", "offer", "answer", "delete", "query", "list"])


def survives(datagram: bytes) -> None:
    """Whatever comes: a request whose reply can be rendered, or a PeerError."""
    try:
        _, decoded = ng.decode(datagram)
    except PeerError as error:
        refusal = ng.refuse(datagram, error)
        assert refusal is None or ng.split(refusal)[0] == ng.split(datagram)[0]
        return
    command = decoded.command(1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=Command) == command
    media = tuple(
        MediaRewrite(Address("10.0.0.1", 2 * line.rtp.port and 2)) for line in command.media
    )
    ng.render(decoded, Reply(decoded.cookie, Result.OK, media=media))
    ng.render(decoded, Reply(decoded.cookie, Result.ERROR, reason="x"))


@unhurried
@given(st.binary(max_size=400))
def test_noise_raises_peer_errors_only(noise: bytes) -> None:
    for datagram in (noise, b"k " + noise, b"k d" + noise, b"k {" + noise):
        survives(datagram)


@unhurried
@given(commands, st.dictionaries(keys, bencode_values, max_size=6))
def test_odd_bencode_raises_peer_errors_only(command: str, odd: dict[str, Any]) -> None:
    survives(encode_request("k", OFFER | {"command": command, "to-tag": "t"} | odd))


@unhurried
@given(commands, st.dictionaries(keys, json_values, max_size=6))
def test_odd_json_raises_peer_errors_only(command: str, odd: dict[str, Any]) -> None:
    survives(b"k " + json.dumps(OFFER | {"command": command, "to-tag": "t"} | odd).encode())


@unhurried
@given(st.sampled_from(GOLDEN), st.data())
def test_damaged_transcripts_raise_peer_errors_only(path: Path, data: st.DataObject) -> None:
    datagram = bytearray("".join(json.loads(path.read_text())["request"]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(datagram) - 1))
        datagram[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
    survives(bytes(datagram))


# Replies


def test_load_limit_for_who_understands_it_and_for_who_does_not() -> None:
    reply = Reply("k_1", Result.LOAD_LIMIT, "9 calls, the limit is 9")
    assert decode_reply(ng.render(request(supports=["load limit"]), reply))[1] == {
        "result": "load limit",
        "message": "9 calls, the limit is 9",
    }
    assert decode_reply(ng.render(request(), reply))[1] == {
        "result": "error",
        "error-reason": "Parallel session limit reached",
    }


def test_refusals_of_the_driver() -> None:
    limited = frame(supports=["load limit"])
    refusal = ng.refuse(limited, LoadLimit("too many"))
    assert refusal == b"k_1 d7:message8:too many6:result10:load limite"
    refusal = ng.refuse(frame(), LoadLimit("Parallel session limit reached"))
    assert refusal == b"k_1 d12:error-reason30:Parallel session limit reached6:result5:errore"
    refusal = ng.refuse(frame(), PortsExhausted("Ran out of ports"))
    assert refusal == b"k_1 d12:error-reason16:Ran out of ports6:result5:errore"


def test_an_sdp_survives_byte_for_byte() -> None:
    odd = SDP.encode() + b"a=x:\xff\xfe\xc3 \xe2\x98\x8e\r\n"
    made = request(sdp=odd)
    media = (MediaRewrite(Address("10.10.0.2", 6000), Address("10.10.0.2", 6001)),)
    _, body = ng.split(ng.render(made, Reply("k_1", Result.OK, media=media)))
    assert bencode.decode(body)[b"sdp"] == odd


def test_a_reply_that_fits_no_datagram_is_an_error() -> None:
    # 200 octets of control characters are 1,200 in JSON; the request is just below the limit.
    long = SDP + "a=x:" + "\x01" * 10_800 + "\r\n"
    datagram = b"k_1 " + json.dumps(OFFER | {"sdp": long}).encode()
    assert len(datagram) < ng.DATAGRAM_BYTES_MAX
    made = ng.decode(datagram)[1]
    media = (MediaRewrite(Address("10.10.0.2", 6000), Address("10.10.0.2", 6001)),)
    reply = Reply("k_1", Result.OK, media=media, warning="w" * 1_000)
    rendered = ng.render(made, reply)
    assert b"does not fit into a datagram" in rendered


def test_counters_that_do_not_belong_to_the_flows_are_our_fault() -> None:
    with pytest.raises(Misuse):
        ng.render(request(), Reply("k_1", Result.OK), ng.Measured([Counters()]))


def test_query_names_the_parties_it_is_told() -> None:
    made = ng.decode(encode_request("k_1", {"command": "query", "call-id": "c"}))[1]
    access, core = Address("fd00:a::101", 30_000), Address("10.20.0.101", 30_002)
    caller, callee = Address("fd00:a::2", 6000), Address("10.20.0.9", 7000)
    flows = (
        Flow("g", "c", 0, Component.RTP, "access", access, "core", core, callee),
        Flow("g", "c", 0, Component.RTP, "core", core, "access", access, caller),
    )
    counters = (Counters(10, 1_720), Counters(9, 1_548))
    report = CallReport(1_700_000_000, 1_700_000_009, (Party("ft"), Party("tt")))
    reply = Reply("k_1", Result.OK, flows=flows, report=report)
    rendered = ng.render(made, reply, ng.Measured(counters))
    body: Any = decode_reply(rendered)[1]
    assert (body["created"], body["last signal"]) == (1_700_000_000, 1_700_000_009)
    assert body["totals"]["RTP"] == {"packets": 19, "bytes": 3_268, "errors": 0}
    assert body["totals"]["RTCP"] == {"packets": 0, "bytes": 0, "errors": 0}
    stream = body["tags"]["ft"]["medias"][0]["streams"][0]
    assert (stream["local address"], stream["local port"]) == ("fd00:a::101", 30_000)
    assert stream["endpoint"] == {"family": "IPv6", "address": "fd00:a::2", "port": 6000}
    assert stream["stats"] == {"packets": 10, "bytes": 1_720, "errors": 0}
    assert body["tags"]["tt"]["medias"][0]["streams"][0]["stats"]["packets"] == 9


def test_every_verb_of_the_machine_is_decoded() -> None:
    for verb in Verb:
        made = request(command=str(verb), to_tag="t")
        assert made.verb is verb
        assert (made.sdp is not None) == (verb in (Verb.OFFER, Verb.ANSWER))


def test_every_error_of_the_room_has_its_own_code() -> None:
    codes = [
        kind.code for kind in (ng.NoCookie, ng.BadJson, ng.MissingKey, ng.BadValue, ng.TooMuch)
    ]
    codes += [ng.UnknownCommand.code, ng.OutOfScope.code, ng.BadBencode.code, ng.BadSdp.code]
    codes += [errors.Malformed.code, errors.Unsupported.code]
    assert len(set(codes)) == len(codes)
