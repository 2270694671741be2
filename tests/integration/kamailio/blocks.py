"""The blocks of which the SIPp scenarios in tests/integration/sipp are made.

Knows: SIPp's keywords and what each message of ours repeats. Must not know scenarios, addresses
or gateways. A scenario says `@NAME@` or `@NAME(arguments)@`, the arguments parted by commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

SCENARIOS = Path(__file__).parents[1] / "sipp"
HOLD_MS = 60_000
"""How long an agent waits to be told to go on: longer than the test does."""

_BLOCK = re.compile(r"@([A-Z][A-Z0-9_]*)(?:\(([^)@]*)\))?@")
_OWN = "[local_ip]:[local_port]"
_VIA = f"Via: SIP/2.0/[transport] {_OWN};branch=[branch]"
_FROM = f"From: <sip:caller@{_OWN}>;tag=[pid]caller[call_number]"
_CONTACT = f"Contact: <sip:agent@{_OWN}>"
_REQUEST = f"Call-ID: [call_id]\n{_CONTACT}\nMax-Forwards: 70"
_TAG = "[pid]callee[call_number]-"
_ROUTED = "[last_Via:]\n[last_Record-Route:]\n[last_From:]\n"


def _via_of(back: str) -> str:
    return f"Via: SIP/2.0/[transport] {_OWN};branch=[branch-{back}]"


def _sdp(
    direction: str = "sendrecv",
    version: str = "1",
    formats: str = "0",
    connection: str = "",
    *,
    port: str = "[rtpstream_audio_port]",
) -> str:
    host = "IN IP[media_ip_type] [media_ip]"
    maps = {"0": "a=rtpmap:0 PCMU/8000", "8": "a=rtpmap:8 PCMA/8000"}
    lines = (
        "v=0",
        f"o=agent 1 {version} {host}",
        "s=-",
        f"c={'IN IP4 0.0.0.0' if connection == 'zero' else host}",
        "t=0 0",
        f"m=audio {port} RTP/AVP {formats}",
        *(maps[payload_type] for payload_type in formats.split()),
        "a=ptime:20",
        f"a={direction}",
    )
    return "\n".join(lines)


def _kept() -> str:
    """Take an INVITE, and what a later reply to it must repeat: other requests come between."""
    headers = {"via": "Via:", "record": "Record-Route:", "from": "From:", "to": "To:"}
    actions = "".join(
        f'<ereg regexp=".*" search_in="hdr" header="{header}" check_it="true" assign_to="{name}"/>'
        for name, header in headers.items()
    )
    return f'<recv request="INVITE"><action>{actions}</action></recv>'


_BLOCKS: dict[str, Callable[..., str]] = {
    # The caller's first request; its later ones; CANCEL and the ACK of a refusal, so many
    # messages after the INVITE whose branch they bear.
    "FIRST": lambda: f"{_VIA}\n{_FROM}\nTo: <@TARGET@>\n{_REQUEST}@ROUTE@",
    "WITHIN": lambda: f"{_VIA}\n{_FROM}\nTo: <@TARGET@>[peer_tag_param]\n[routes]\n{_REQUEST}",
    "CANCEL": lambda back: (
        f"{_via_of(back)}\n{_FROM}\nTo: <@TARGET@>\nCall-ID: [call_id]\nMax-Forwards: 70@ROUTE@"
    ),
    "REFUSED": lambda back: (
        f"{_via_of(back)}\n{_FROM}\n[last_To:]\nCall-ID: [call_id]\nMax-Forwards: 70@ROUTE@"
    ),
    # The callee's own request within the dialog; replies to the first INVITE, at once or later.
    "BACK": lambda: f"{_VIA}\nFrom: [$callee];tag={_TAG}1\nTo: [$caller]\n[routes]\n{_REQUEST}",
    "REPLY": lambda tag: (
        f"{_ROUTED}[last_To:];tag={_TAG}{tag}\n[last_Call-ID:]\n[last_CSeq:]\n{_CONTACT}"
    ),
    "REPLY_WITHIN": lambda: f"{_ROUTED}[last_To:]\n[last_Call-ID:]\n[last_CSeq:]\n{_CONTACT}",
    "REPLY_LATER": lambda tag: (
        "Via: [$via]\nRecord-Route: [$record]\nFrom: [$from]\n"
        f"To: [$to];tag={_TAG}{tag}\n[last_Call-ID:]\nCSeq: 1 INVITE\n{_CONTACT}"
    ),
    "KEEP_INVITE": _kept,
    "SDP": _sdp,
    # What another branch would say: it never sends.
    "SDP_SECOND": lambda direction: _sdp(direction, port="17000"),
    "MEDIA": lambda: '<nop><action><exec rtp_stream="@AUDIO@,-1,0"/></action></nop>',
    "SAY": lambda word: f'<nop><action><log message="{word} [call_id]"/></action></nop>',
}


def literal(text: str) -> str:
    """A text in which no bracket begins a keyword of SIPp's."""
    return text.replace("[", r"\x5B")


def scenario(name: str, **values: object) -> str:
    """The text of a scenario, its blocks and @NAMES@ filled in. Raises KeyError for one unknown."""

    def fill(found: re.Match[str]) -> str:
        name, arguments = found[1], found[2]
        if name in values:
            return str(values[name])
        block = _BLOCKS[name]
        return expand(block(*arguments.split(",")) if arguments is not None else block())

    def expand(text: str) -> str:
        return _BLOCK.sub(fill, text)

    values.setdefault("HOLD_MS", HOLD_MS)
    return expand((SCENARIOS / f"{name}.xml").read_text())
