"""Session descriptions, line by line: what a border gateway must read, and what it must change.

Knows: RFC 8866 lines, offer/answer's ports and directions (RFC 3264), RFC 3605 `a=rtcp`, RFC 5761
`a=rtcp-mux`. Must not know: codecs, sockets, sessions. Every line that need not change survives
byte for byte and in its place, whatever it says.

What changes, and why:

| line | becomes |
|---|---|
| `c=` (session, media) | the gateway's address: media must come to it; on hold that of nobody |
| `m=` port | the gateway's port, 0 where rejected; `/2` goes, one pair is carried |
| `a=rtcp:` | the gateway's RTCP port where it is not RTP + 1, or where it was stated |
| `a=rtcp-mux` | as agreed with the gateway |
| ICE lines | removed: a candidate of the far end would lead media around the gateway |
| at the end of an m-line | ICE lines of the gateway's own, where ICE is done (`sdp_ice`) |
| `a=altc:`, `a=ccap:`, `a=alt:` | removed: other addresses of the same kind (RFC 6947, RFC 7006) |
| `a=group:BUNDLE`, `a=bundle-only` | removed: every m-line has a port of its own here |
| `o=` address | the gateway's, when `replace=origin` asks for it |
| at the end of the session's lines | `a=x-bgf-loop:` and the group, for `loop-protect` |

An m-line that is not over UDP (MSRP, BFCP over TCP) is left as it is, with everything under it: its
ends talk to each other directly. It gets a `c=` of its own where the session's spoke for it.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

from bgf.control import _codec, sdp_ice
from bgf.errors import Malformed, Misuse
from bgf.events import DISCARD_PORT, MediaLine, MediaRewrite
from bgf.model import PORT_MAX, Address, Family

SDP_BYTES_MAX = 32_768
"""A session description longer than this is refused; VoLTE's have about 1,500 bytes."""
MEDIA_LINES_MAX = 16
"""m-lines of one description; each costs two port pairs."""
TOKEN_CHARS_MAX = 64
"""Length of an m-line's media and transport words."""
LOOP_MARKS_MAX = 8
"""Groups that may have marked a description, each once."""
TYPES_CACHED_MAX = 4_096
"""Lists of payload types of which one copy is kept."""
HOSTS_CACHED_MAX = 4_096
"""Connection values remembered in their canonical form."""

DIRECTIONS = frozenset(("sendrecv", "sendonly", "recvonly", "inactive"))
UNSPECIFIED = {Family.IP4: "0.0.0.0", Family.IP6: "::"}
"""The addresses that mean hold (RFC 2543 B.5, still sent; RFC 3264 8.4), unless ICE has yet to say
more (`MediaLine.undisclosed`)."""

LOOP_MARK = "a=x-bgf-loop:"
_UNSPECIFIED_HOSTS = frozenset(UNSPECIFIED.values())
_STATIC_CLOCKS_HZ = {6: 16_000, 10: 44_100, 11: 44_100, 14: 90_000, 16: 11_025, 17: 22_050}
_STATIC_VIDEO = range(25, 35)
_CLOCK_HZ = {"video": 90_000}
_CLOCK_HZ_DEFAULT = 8_000
_HELD = {"sendrecv": "sendonly", "recvonly": "inactive"}


class BadSdp(Malformed):
    """A description that cannot be used; the reason names the line."""

    code = "sdp-malformed"


class NoMedia(BadSdp):
    """No m-line at all."""

    code = "sdp-no-media"


class BadPort(BadSdp):
    """A port that is not 0..65535."""

    code = "sdp-port"


class BadAddress(BadSdp):
    """A host that is no unicast address of the stated family."""

    code = "sdp-address"


class SdpLimit(BadSdp):
    """Larger than one of this file's limits."""

    code = "sdp-limit"


def show(value: str) -> str:
    """A peer's text for an error line: short, printable ASCII, in quotes."""
    return ascii(value[:TOKEN_CHARS_MAX])


@functools.lru_cache(maxsize=HOSTS_CACHED_MAX)
def _host(value: str) -> str:
    """The canonical host of `IN IP4 1.2.3.4` (RFC 8866 section 5.7). Raises BadAddress."""
    fields = value.split()
    if len(fields) != 3 or fields[0] != "IN":
        raise BadAddress(f"{show(value)} is not 'IN IP4|IP6 address'")
    kind, host = fields[1], fields[2]
    if kind not in ("IP4", "IP6"):
        raise BadAddress(f"address type {show(kind)} is neither IP4 nor IP6")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        base, _, suffix = host.partition("/")
        if suffix and set(base) <= set("0123456789abcdefABCDEF.:"):
            raise BadAddress(
                f"{show(host)} is a multicast range, only unicast is carried"
            ) from None
        raise BadAddress(f"{show(host)} is not an {kind} address; names are not resolved") from None
    if address.version != int(kind[2]):
        raise BadAddress(f"{show(host)} is an IP{address.version} address, {kind} is stated")
    if address.is_multicast:
        raise BadAddress(f"{show(host)} is multicast, only unicast is carried")
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise BadAddress(f"{show(host)} is scoped or IPv4-mapped and has no meaning elsewhere")
    return str(address)


def _host_at(value: str, line: int) -> str:
    try:
        return _host(value)
    except BadAddress as error:
        raise BadAddress(f"sdp line {line}: {error.reason}") from None


def _refuse(what: str, line: int, text: str) -> None:
    """Say what is wrong with a line; what is not ASCII may still be right. Raises BadSdp."""
    if what == "port-number":
        raise BadPort(f"sdp line {line}: port {show(text)} is not a number")
    if what == "port":
        raise BadPort(f"sdp line {line}: port {show(text)} is out of range 0..{PORT_MAX}")
    if what == "m-lines":
        raise SdpLimit(f"sdp has more than {MEDIA_LINES_MAX} m-lines")
    if what == "m-line":
        raise BadSdp(f"sdp line {line}: {show(text)} is not 'm=media port transport formats'")
    if what == "word":
        raise BadSdp(f"sdp line {line}: {show(text)} is not a word of an m-line")
    if text[1:2] != "=" or not text[0].isalpha():
        raise BadSdp(f"sdp line {line}: {show(text.rstrip())} is not 'letter=value'")


def _clock_hz(kind: str, payload_types: Sequence[int]) -> int:
    """The timestamp clock of an m-line's first format as far as RFC 3551 table 4 and 5 tell."""
    first = payload_types[0] if payload_types else 0
    if first in _STATIC_VIDEO:
        return 90_000
    if first < 96:
        return _STATIC_CLOCKS_HZ.get(first, _CLOCK_HZ_DEFAULT)
    return _CLOCK_HZ.get(kind, _CLOCK_HZ_DEFAULT)


class _Section(NamedTuple):
    """What one m-line and the lines under it say, as `_codec.read_sdp` gives it. `at` counts from
    0; `host` None and `rtcp_port` -1: not stated."""

    at: int
    kind: str
    transport: str
    port: int
    carried: bool
    host: str | None
    several: bool
    direction: str
    rtcp_host: str | None
    rtcp_port: int
    mux: bool
    mux_only: bool
    dtls: bool
    payload_types: tuple[int, ...]
    clock_hz: int
    dtmf_types: tuple[int, ...]
    bundled: bool
    ufrag: str
    pwd: str


class Sdp:
    """A parsed description. Immutable by convention; `rewrite` gives text, never changes it.

    Attributes: `media`, one MediaLine per m-line in order; `notes`, what will not be carried as
    stated, for the reply's warning; `loop_marks`, the groups that have marked it.

    In `media` a transport that is not over UDP has `rtp.port` 0 as if rejected. A host of
    `0.0.0.0` or `::` means hold, and `direction` then says so (sendonly or inactive); not where it
    is `undisclosed`.
    """

    __slots__ = ("_raw", "loop_marks", "media", "notes")

    def __init__(self, text: str | bytes) -> None:
        """Parse. Raises BadSdp or a subclass, nothing else."""
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        if len(raw) > SDP_BYTES_MAX:
            raise SdpLimit(f"sdp has {len(raw)} bytes, the limit is {SDP_BYTES_MAX}")
        if b"\0" in raw:
            raise BadSdp(f"sdp has a NUL byte at {raw.index(0)}")
        # Somebody else may take a bare CR for a line end and see lines that we did not.
        if raw.count(b"\r") != raw.count(b"\r\n"):
            raise BadSdp("sdp has a carriage return without a line feed")
        if not raw.startswith(b"v="):
            begins = raw[:64].decode("utf-8", "surrogateescape")[:16]
            raise BadSdp(f"sdp begins with {show(begins)}, not with 'v='")
        self._raw = raw
        sections, self.loop_marks = _codec.read_sdp(raw, _host_at, _refuse)
        if not sections:
            raise NoMedia("sdp has no m-line")
        notes: list[str] = []
        self.media = tuple(
            [
                _media(_Section(*section), number, notes)
                for number, section in enumerate(sections, 1)
            ]
        )
        self.notes = tuple(notes)

    @property
    def text(self) -> str:
        """As it came."""
        return self._raw.decode("utf-8", "surrogateescape")

    def rewrite(
        self,
        media: Sequence[MediaRewrite],
        *,
        replace_origin: bool = False,
        rtcp_attribute: bool = True,
        loop_mark: str = "",
    ) -> str:
        """As `rewritten`, as text; bytes that are not UTF-8 become lone surrogates."""
        made = self.rewritten(
            media,
            replace_origin=replace_origin,
            rtcp_attribute=rtcp_attribute,
            loop_mark=loop_mark,
        )
        return made.decode("utf-8", "surrogateescape")

    def rewritten(
        self,
        media: Sequence[MediaRewrite],
        *,
        replace_origin: bool = False,
        rtcp_attribute: bool = True,
        loop_mark: str = "",
    ) -> bytes:
        """The text for the far side. `media` has one entry per m-line, in order.

        `rtcp_attribute` False never states a RTCP port (flag `no-rtcp-attribute`). Raises Misuse
        when `media` has another length: that is the gateway's fault, not the peer's.
        """
        if len(media) != len(self.media):
            raise Misuse(f"{len(media)} rewrites for an sdp of {len(self.media)} m-lines")
        whole: tuple[str, ...] = ()
        wanted: list[tuple[str, int, str | None, int, bool, bytes, bool]] = []
        for line, one in zip(self.media, media, strict=True):
            rtp, rtcp, ice, mux = one.rtp, one.rtcp, b"", one.rtcp_mux
            shown = line.undisclosed
            if one.ice is not None and rtp.port:
                whole = sdp_ice.LITE_LINES
                ice = _lines(sdp_ice.lines(one))
            if rtcp is None:
                wanted.append((rtp.host, rtp.port, None, 0, mux, ice, shown))
            else:
                wanted.append((rtp.host, rtp.port, rtcp.host, rtcp.port, mux, ice, shown))
        if loop_mark:
            whole = (*whole, f"{LOOP_MARK}{loop_mark}")
        return _codec.rewrite_sdp(
            self._raw,
            _host_at,
            _refuse,
            tuple(wanted),
            replace_origin,
            rtcp_attribute,
            _lines(whole),
        )


def _lines(lines: Sequence[str]) -> bytes:
    return "".join([f"{line}\n" for line in lines]).encode() if lines else b""


@functools.lru_cache(maxsize=TYPES_CACHED_MAX)
def _types(types: tuple[int, ...]) -> tuple[int, ...]:
    """The same, but one object for all calls that have the like: most offer the same few lists."""
    return types


def _media(section: _Section, number: int, notes: list[str]) -> MediaLine:
    """What an m-line says; what of it will not be carried goes into `notes`."""
    port, host = section.port, section.host
    if port and host is None:
        raise BadAddress(f"sdp line {section.at + 1}: no c= line says where to send to")
    if port and not section.carried:
        notes.append(
            f"m-line {number} ({section.kind} {section.transport}) is not over UDP:"
            " it is passed on as it is, its ends talk directly"
        )
        port = 0
    if section.bundled and not port:
        notes.append(
            f"m-line {number} is offered in a bundle only: bundling is refused, and it too"
        )
    if port and section.several:
        notes.append(f"m-line {number} states several ports, one pair is carried")
    ufrag = ""
    if port and (section.ufrag or section.pwd):
        if sdp_ice.good(section.ufrag, section.pwd):
            ufrag = section.ufrag
        else:
            notes.append(f"m-line {number} has no usable ice-ufrag and ice-pwd: no ICE there")
    direction = section.direction
    if host in _UNSPECIFIED_HOSTS and not (ufrag and port == DISCARD_PORT):
        direction = _HELD.get(direction, direction)
    if host is None:
        host = UNSPECIFIED[Family.IP4]
    return MediaLine(
        section.kind,
        section.transport,
        Address(host, port),
        _rtcp(section, host) if port else None,
        bool(section.mux),
        direction,
        _types(section.payload_types),
        section.clock_hz or _clock_hz(section.kind, section.payload_types),
        _types(section.dtmf_types),
        ufrag,
        bool(section.dtls),
    )


def _rtcp(section: _Section, host: str) -> Address | None:
    """Where RTCP goes: stated (RFC 3605) or the next port (RFC 3550 section 11), or nowhere."""
    if section.mux_only or not section.transport.upper().startswith(("RTP/", "UDP/TLS/RTP/")):
        return None
    if section.rtcp_port < 0:
        return Address(host, section.port + 1) if section.port < PORT_MAX else None
    stated = section.rtcp_host or host
    if not section.rtcp_port or (section.mux and section.rtcp_port == section.port):
        return None
    # Browsers state port 9 of 0.0.0.0 before they know better.
    if stated in _UNSPECIFIED_HOSTS and stated != host:
        return None
    return Address(stated, section.rtcp_port)


def parse(text: str) -> tuple[MediaLine, ...]:
    """The m-lines of a description, in order. Raises BadSdp."""
    return Sdp(text).media


def rewrite(text: str, media: Sequence[MediaRewrite], *, replace_origin: bool = False) -> str:
    """Parse and rewrite in one call; see `Sdp.rewrite`. Raises BadSdp, Misuse."""
    return Sdp(text).rewrite(media, replace_origin=replace_origin)
