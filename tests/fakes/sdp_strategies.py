"""Session descriptions as phones, browsers and odd equipment write them, for property tests.

A description's own addresses and ports are of ranges that nothing else in it uses (`Party`), so
that a test can tell by plain search whether one of them got through to the other side. Written from
RFC 8866, 3264, 3605, 5761, 8839, 4568, 4145, 3312; every line that a gateway need not understand
is there to survive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from bgf.events import MediaRewrite
from bgf.model import Address

UNSPECIFIED = {4: "0.0.0.0", 6: "::"}


class Party(NamedTuple):
    """Who writes: the hosts and ports that are his alone."""

    name: str
    net4: str
    net6: str
    ports: range

    def host(self, family: int, number: int) -> str:
        return f"{self.net6}{number + 16:x}" if family == 6 else f"{self.net4}{number + 16}"

    def leaks(self, text: str) -> list[str]:
        """This party's hosts and ports that stand in a text."""
        low = text.lower()
        hosts = [net for net in (self.net4, self.net6) if net in low]
        found = (int(word) for word in re.findall(r"(?<![0-9])[0-9]{5}(?![0-9])", text))
        return hosts + [str(port) for port in found if port in self.ports]


# Port 5xxxx and 6xxxx: neither the gateway's, nor in any other line that is written below.
CALLER = Party("caller", "198.51.100.", "2001:db8:a11:ce::", range(50_000, 55_000))
CALLEE = Party("callee", "203.0.113.", "2001:db8:b0b::", range(60_000, 65_000))


class Line(NamedTuple):
    """An m-line as it was meant: what a test expects to be read out of it. `port` 0: rejected."""

    kind: str
    transport: str
    formats: str
    family: int
    host: str
    port: int


class Description(NamedTuple):
    """A text and what was put into it."""

    text: str
    party: Party
    lines: tuple[Line, ...]

    @property
    def carried(self) -> tuple[bool, ...]:
        """Which m-lines a gateway for UDP can carry and nobody has rejected."""
        return tuple(bool(line.port) and is_over_udp(line.transport) for line in self.lines)


def is_over_udp(transport: str) -> bool:
    return transport.upper().startswith(("RTP/", "UDP")) and not transport.endswith("/TCP")


def carried_part(text: str) -> str:
    """A text without the m-lines that a gateway for UDP leaves to their ends."""
    kept: list[str] = []
    passing = False
    for line in text.split("\n"):
        if line.startswith("m="):
            _, port, transport = line.rstrip("\r").split(" ", 3)[:3]
            passing = port.partition("/")[0] != "0" and not is_over_udp(transport)
        if not passing:
            kept.append(line)
    return "\n".join(kept)


MEDIA = (
    ("audio", "RTP/AVP", "0 8 101"),
    ("audio", "RTP/AVP", "104 102 9"),
    ("audio", "RTP/SAVP", "8"),
    ("audio", "RTP/AVPF", "96"),
    ("audio", "UDP/TLS/RTP/SAVPF", "111 0"),
    ("audio", "RTP/AVP", ""),
    ("video", "RTP/AVP", "31 97"),
    ("video", "RTP/SAVPF", "113"),
    ("text", "RTP/AVP", "98"),
    ("image", "udptl", "t38"),
    ("image", "UDPTL", "t38"),
    ("application", "UDP/DTLS/SCTP", "webrtc-datachannel"),
    ("application", "UDP/BFCP", "*"),
    ("message", "TCP/MSRP", "*"),
    ("application", "TCP/BFCP", "*"),
    ("audio", "TCP/RTP/AVP", "0"),
    ("x-odd", "RTP/AVP", "127"),
)
SESSION_LINES = (
    "i=a title", "u=http://example.invalid/x", "e=x@example.invalid", "p=+1 617 555 6011",
    "b=AS:64", "b=TIAS:24000", "r=7d 1h 0 25h", "z=2882 -1h", "k=prompt", "a=tool:x 1.2",
    "a=msid-semantic: WMS *", "a=setup:actpass", "a=sendrecv-not", "a=group:LS 0 1",
    "a=ice-options:trickle", "a=ice-lite", "a=group:BUNDLE 0 1 2", "a=X-nat:0", "y=0100000001",
    "a=fingerprint:sha-256 12:DF:3E:5D:49", "a=charset:ISO-8859-1", "a=\udce9t\udce9", "a=",
)  # fmt: skip
MEDIA_LINES = (
    "a=rtpmap:0 PCMU/8000", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-16",
    "a=rtpmap:104 AMR-WB/16000/1", "a=fmtp:104 mode-change-capability=2;max-red=220",
    "a=rtpmap:97 H264/90000", "a=fmtp:97 profile-level-id=42e01f", "a=ptime:20", "a=maxptime:240",
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20|1:32",
    "a=fingerprint:sha-256 4A:AD:B9:B1:3F", "a=setup:actpass", "a=tls-id:abc3de65cddef001be82",
    "a=curr:qos local none", "a=curr:qos remote none", "a=des:qos mandatory local sendrecv",
    "a=mid:0", "a=ssrc:2231627014 cname:x", "a=extmap:1 urn:ietf:params:rtp-hdrext:toffset",
    "a=rtcp-fb:* nack pli", "a=rtcp-rsize", "a=rtcp-xr:rcvr-rtt=all", "a=T38FaxVersion:0",
    "a=T38MaxBitRate:14400", "a=label:1", "a=silenceSupp:off - - - -", "a=imageattr:97 send *",
    "a=path:msrp://gw.example.invalid/x;tcp", "a=accept-types:text/plain", "a=sctp-port:5000",
    "a=confid:1", "a=floorid:2 m-stream:1", "b=AS:41", "b=RS:512", "b=RR:1500", "k=clear:x",
    "a=unknown", "a=unknown:", "a=x-\udcff\udc80:1", "a=Gr\u00fc\u00dfe:\u2603", "a= leading",
    "a=sendrecvx", "a=rtcp-foo", "a=rtcp", "a=rtcpx:1", "a=candidatex:1", "a=ice", "a=groupX",
)  # fmt: skip
ICE_LINES = (
    "a=ice-ufrag:8hhY", "a=ice-pwd:asd88fgpdd777uzjYhagZg", "a=end-of-candidates",
    "a=ice-mismatch", "a=ice-pacing:50",
)  # fmt: skip
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@st.composite
def _media(
    draw: st.DrawFn, party: Party, at: int, families: Sequence[int], session_host: str
) -> tuple[Line, list[str]]:
    """An m-line and the lines under it."""
    kind, transport, formats = draw(st.sampled_from(MEDIA))
    family = 6 if ":" in session_host else 4
    host, connections = session_host, list[str]()
    if not session_host or draw(st.integers(0, 3)) == 0:
        family = draw(st.sampled_from(families))
        held = draw(st.integers(0, 9)) == 0
        host = UNSPECIFIED[family] if held else party.host(family, at)
        connections = [f"c=IN IP{family} {host}"]
    port = 0 if draw(st.integers(0, 6)) == 0 else party.ports[10 * at]
    several = "/2" if port and draw(st.integers(0, 20)) == 0 else ""
    lines = [f"m={kind} {port}{several} {transport} {formats}".rstrip(), *connections]
    if draw(st.booleans()):
        lines.insert(1, "i=camera 1")
    more = draw(st.lists(st.sampled_from(MEDIA_LINES), max_size=6))
    if draw(st.booleans()):
        more.append(f"a={draw(st.sampled_from(DIRECTIONS))}")
    if port and draw(st.integers(0, 2)) == 0:
        stated = draw(st.sampled_from(("", f" IN IP{family} {party.host(family, at + 40)}")))
        more.append(f"a=rtcp:{party.ports[10 * at + draw(st.sampled_from((1, 5)))]}{stated}")
    if draw(st.integers(0, 2)) == 0:
        more.append(draw(st.sampled_from(("a=rtcp-mux", "a=rtcp-mux-only"))))
    if draw(st.integers(0, 3)) == 0:
        where = f"{party.host(family, at + 80)} {party.ports[10 * at + 7]}"
        related = where.replace(" ", " rport ")
        more += [
            f"a=candidate:1 1 udp 2130706431 {where} typ host",
            f"a=candidate:2 2 UDP 1694498814 {where} typ srflx raddr {related}",
            f"a=remote-candidates:1 {where}",
            *draw(st.lists(st.sampled_from(ICE_LINES), max_size=4)),
        ]
    if draw(st.integers(0, 7)) == 0:
        beside, port_beside = party.host(family, at + 60), party.ports[10 * at + 8]
        more += [
            f"a=altc:1 IP{family} {beside} {port_beside}",  # RFC 6947
            f"a=ccap:1 IN IP{family} {beside}",  # RFC 7006
            f"a=alt:1 1 : 9DD4B5E2 000000B1 {beside} {port_beside}",  # of old soft phones
        ]
    lines += draw(st.permutations(more)) if more else []
    return Line(kind, transport, formats, family, host, port), lines


@st.composite
def descriptions(
    draw: st.DrawFn,
    party: Party = CALLER,
    families: Sequence[int] = (4, 6),
    *,
    media_max: int = 4,
) -> Description:
    """A description that can be read; how it looks is anybody's guess."""
    family = draw(st.sampled_from(families))
    origin = draw(st.sampled_from((party.host(family, 9), "127.0.0.1", "host.example.invalid")))
    kind = 6 if ":" in origin else 4
    lines = ["v=0", f"o=- 3747 2 IN IP{kind} {origin}", draw(st.sampled_from(("s=-", "s= ", "s=")))]
    session_host = ""
    if draw(st.integers(0, 3)):
        held = draw(st.integers(0, 15)) == 0
        session_host = UNSPECIFIED[family] if held else party.host(family, 0)
        lines.append(f"c=IN IP{family} {session_host}")
    lines += draw(st.lists(st.sampled_from(SESSION_LINES), max_size=4))
    lines.insert(draw(st.integers(3, len(lines))), "t=0 0")
    if draw(st.integers(0, 4)) == 0:
        lines.append(f"a={draw(st.sampled_from(DIRECTIONS))}")
    media: list[Line] = []
    for at in range(1, 1 + draw(st.integers(1, media_max))):
        line, under = draw(_media(party, at, families, session_host))
        media.append(line)
        lines += under
    end = draw(st.sampled_from(("\r\n", "\r\n", "\n")))
    last = draw(st.sampled_from((end, end, end + end, "")))
    return Description(end.join(lines) + last, party, tuple(media))


@st.composite
def answers(
    draw: st.DrawFn, offered: Sequence[tuple[str, str, str, int, str]], party: Party = CALLEE
) -> Description:
    """An answer to m-lines as (kind, transport, formats, port, host) that its writer was shown."""
    lines = ["v=0", f"o=b 1 1 IN IP4 {party.host(4, 9)}", "s=x", "t=0 0"]
    media: list[Line] = []
    for at, (kind, transport, formats, port, host) in enumerate(offered, 1):
        family = 6 if ":" in host else 4
        wanted = bool(port) and draw(st.integers(0, 4)) > 0
        held = draw(st.integers(0, 12)) == 0
        own = UNSPECIFIED[family] if held else party.host(family, at)
        number = party.ports[10 * at] if wanted else 0
        lines += [
            f"m={kind} {number} {transport} {formats}".rstrip(),
            f"c=IN IP{family} {own}",
            *draw(st.lists(st.sampled_from(MEDIA_LINES), max_size=3)),
        ]
        if draw(st.booleans()):
            lines.append(f"a={draw(st.sampled_from(DIRECTIONS))}")
        if draw(st.integers(0, 2)) == 0:
            lines.append("a=rtcp-mux")
        if wanted and draw(st.integers(0, 3)) == 0:
            lines.append(f"a=rtcp:{party.ports[10 * at + 5]}")
        media.append(Line(kind, transport, formats, family, own, number))
    end = draw(st.sampled_from(("\r\n", "\n")))
    return Description(end.join(lines) + end, party, tuple(media))


# What a rewrite may change, remove or add.
_MUTABLE = (
    "c=", "o=", "a=rtcp:", "a=rtcp-mux", "a=candidate:", "a=remote-candidates:", "a=ice-",
    "a=end-of-candidates", "a=group:BUNDLE", "a=bundle-only", "a=altc:", "a=ccap:", "a=alt:",
)  # fmt: skip


def skeleton(text: str) -> list[str]:
    """Every line that must survive, raw and in order; of an m-line all but its port."""
    kept: list[str] = []
    for line in text.split("\n"):
        if line.startswith("m="):
            kind, _, rest = line.split(" ", 2)
            kept.append(f"{kind} {rest}")
        elif not line.startswith(_MUTABLE):
            kept.append(line)
    return kept


def wanted(
    description: Description, host: str, first_port: int, *, mux: bool = False
) -> tuple[MediaRewrite, ...]:
    """A rewrite as a gateway would ask for it: a pair of its own for every line it carries."""
    made: list[MediaRewrite] = []
    for index, carried in enumerate(description.carried):
        port = first_port + 2 * index
        rtp = Address(host, port if carried else 0)
        made.append(
            MediaRewrite(rtp, Address(host, port + 1) if carried and not mux else None, mux)
        )
    return tuple(made)
