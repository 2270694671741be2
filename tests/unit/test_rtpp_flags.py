"""`rtpp-flags`: all flags in one string mean what they mean in keys of their own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.control import ng
from bgf.control.client import encode_request
from bgf.control.rtpp_flags import expanded
from bgf.errors import PeerError
from tests.fakes.calls import unhurried

SDP = (
    "v=0\r\no=u 1 1 IN IP4 10.10.0.2\r\ns=-\r\nc=IN IP4 10.10.0.2\r\nt=0 0\r\n"
    "m=audio 6000 RTP/AVP 8\r\n"
)
OFFER: dict[str, Any] = {"command": "offer", "call-id": "c", "from-tag": "f", "sdp": SDP}


def request(text: str | bytes = b"", **more: Any) -> ng.Request:
    spelled = {key.replace("_", "-"): value for key, value in more.items()}
    flags = {"rtpp-flags": text} if text else {}
    return ng.decode(encode_request("k", OFFER | spelled | flags))[1]


def found(text: str, **entries: Any) -> dict[str, Any]:
    return expanded({**entries, "rtpp-flags": text.encode()})


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("direction=access direction=core", {"direction": ["access", "core"]}),
        ("direction=[access core]", {"direction": ["access", "core"]}),
        ("internal external", {"direction": ["internal", "external"]}),
        ("strict-source asymmetric", {"flags": ["strict-source", "asymmetric"]}),
        ("address-family=IP6 TOS=184 label=ue",
         {"address-family": "IP6", "TOS": 184, "label": "ue"}),
        ("ICE=force ICE=remove", {"ICE": "remove"}),
        ("replace-origin replace-session-connection",
         {"replace": ["origin", "session connection"]}),
        ("replace=origin replace=session-connection",
         {"replace": ["origin", "session-connection"]}),
        ("rtcp-mux-demux rtcp-mux=accept", {"rtcp-mux": ["demux", "accept"]}),
        ("rtcp-mux=demux,accept", {"rtcp-mux": ["demux", "accept"]}),
        ("rtcp-mux=[demux  accept]", {"rtcp-mux": ["demux", "accept"]}),
        ("endpoint-learning-off", {"endpoint-learning": "off"}),
        ("media-address=192.0.2.9", {"media-address": "192.0.2.9"}),
        ("received-from=192.0.2.9 SIP-source-address",
         {"received-from": ["IP4", "192.0.2.9"], "flags": ["SIP-source-address"]}),
        ("received-from=[IP4 192.0.2.9] SIP-source-address",
         {"received-from": ["IP4", "192.0.2.9"], "flags": ["SIP-source-address"]}),
        ("SDES=off SDES-disable OSRTP=accept OSRTP-accept DTLS=off", {}),
        ("RTP AVP", {"transport-protocol": "RTP/AVP"}),
        ("SRTP AVPF", {"transport-protocol": "RTP/SAVPF"}),
        ("via-branch=z9hG4bK1 leg-per-branch",
         {"via-branch": "z9hG4bK1", "flags": ["leg-per-branch"]}),
        ("call-id=d from-tag=g to-tag=t", {"call-id": "d", "from-tag": "g", "to-tag": "t"}),
        ("  replace-origin   ICE=force ", {"replace": "origin", "ICE": "force"}),
        ("frobnicate frobnicate=1", {"flags": ["frobnicate"], "frobnicate": 1}),
        ("generate-mid transcode=PCMU", {"flags": ["generate-mid", "transcode-PCMU"]}),
    ],
)  # fmt: skip
def test_the_string_says_what_keys_say(text: str, keys: dict[str, Any]) -> None:
    read, meant = request(text), request(**keys)
    assert (read.command(1), read.warnings) == (meant.command(1), meant.warnings)
    assert (read.media_host, read.load_limit) == (meant.media_host, meant.load_limit)


@pytest.mark.parametrize("key", ["rtpp-flags", "rtpp_flags", "rtpp flags"])
def test_its_spellings(key: str) -> None:
    made = ng.decode(encode_request("k", OFFER | {key: "ICE=force"}))[1]
    assert (made.flags, made.warnings) == (("ICE=force",), ())


@pytest.mark.parametrize(
    ("words", "transport"),
    [
        ("RTP", "RTP/AVP"),
        ("AVPF", "RTP/AVPF"),
        ("SRTP", "RTP/SAVP"),
        ("SRTP RTP", "RTP/AVP"),
        ("RTP/SAVPF AVP", "RTP/SAVP"),
        ("DTLS", "UDP/TLS/RTP/SAVP"),
        ("DTLS SRTP AVPF", "UDP/TLS/RTP/SAVPF"),
        ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVPF"),
        ("transport-protocol=RTP/SAVP", "RTP/SAVP"),
    ],
)
def test_words_for_the_transport(words: str, transport: str) -> None:
    assert found(words) == {"transport-protocol": transport.encode()}


def test_what_is_beside_the_string_is_overridden_and_lists_add_up() -> None:
    """rtpengine reads the string last, Kamailio writes it last."""
    made = request(
        "from-tag=g ICE=force direction=core direction=access replace=origin fatal",
        ICE="remove",
        direction=["access", "core"],
        replace=["session-connection"],
        flags=["all"],
    )
    assert (made.from_tag, made.realms) == ("g", ("core", "access"))
    assert made.flags == (
        "ICE=force",
        "all",
        "fatal",
        "replace=origin",
        "replace=session-connection",
    )


def test_a_deletion_is_of_one_callee_where_the_string_says_so() -> None:
    """Kamailio gives every deletion of this kind its To tag; rtpengine asks for the word."""
    ends = {"command": "delete", "to_tag": "t"}
    assert request("delete-delay=5", **ends).to_tag == ""
    assert request("delete-delay=5", **ends).flags == ("delete-delay=5",)
    named = request("to-tag fatal", **ends)
    assert (named.to_tag, named.flags, named.warnings) == ("t", ("fatal",), ())
    assert request("to-tag=u", **ends).to_tag == "u"
    assert request(**ends).to_tag == "t"
    assert request("fatal", command="query", to_tag="t").to_tag == "t"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("codec-strip-all codec-offer=PCMA",
         "ignored (not done here): codec-strip-all, codec-offer-PCMA"),
        ("codec=[transcode=[PCMA PCMU] accept=[AMR AMR-WB]] fatal",
         "ignored (not done here): codec"),
        ("SDES=[no-NULL_HMAC_SHA1_32 pad]", "ignored (not done here): SDES"),
        ("via-branch=auto-next", "ignored (unknown): via-branch=auto-next"),
        ("sdp=x command=ping rtpp-flags=fatal",
         "ignored (not done here): rtpp-flags=fatal; ignored (unknown): sdp=x, command=ping"),
        ("direction=a", "direction names 1 realms, not 2, and is ignored"),
        ("a=[b c", "ignored (unknown): a"),
        ("=x = ] [", "ignored (unknown): ], ["),
    ],
)  # fmt: skip
def test_what_is_not_done_is_said(text: str, said: str) -> None:
    assert "; ".join(request(text).warnings) == said


def test_what_is_no_string_is_none_of_it() -> None:
    assert request(rtpp_flags=["fatal"]).warnings == ("ignored (not done here): rtpp-flags",)
    entries: dict[str, Any] = {"flags": [b"fatal"]}
    assert expanded(entries) is entries


def test_a_text_in_place_of_a_list_has_commas() -> None:
    """As in rtpengine, and beside the string, too: Kamailio writes `flags=...` so."""
    made = request(flags="fatal,all", replace="origin,session-connection")
    assert made.flags == ("all", "fatal", "replace=origin", "replace=session-connection")
    assert request(ICE="force,remove").warnings == ("ignored (not done here): ICE=force,remove",)


@unhurried
@given(
    st.lists(
        st.sampled_from(
            (*(b"direction", b"=", b"[", b"]", b" ", b",", b"flags"), b"SRTP", b"\xff")
        ),
        max_size=20,
    )
)
def test_noise_raises_peer_errors_only(parts: list[bytes]) -> None:
    try:
        request(b"".join(parts))
    except PeerError as error:
        assert error.reason
