"""Session descriptions in plain Python: what `bgf.control._codec` must make of every text.

Knows: what `bgf.control.sdp` knows, whose table says what changes and why. Slower and easier to
read; the two are compared for texts that nobody would send.
"""

from __future__ import annotations

import functools
import ipaddress
import sys
from collections.abc import Sequence

from bgf.control import sdp_ice
from bgf.control.sdp import BadAddress, BadPort, BadSdp, NoMedia, SdpLimit
from bgf.errors import Misuse
from bgf.events import MediaLine, MediaRewrite
from bgf.model import PORT_MAX, Address, Family

FOREIGN_SPACE = "".join(char for char in map(chr, range(0x80, 0x3001)) if char.isspace())
"""White space that is not ASCII: it is stripped here and is like any other text in C. RFC 8866 has
no such thing."""
SDP_BYTES_MAX = 32_768
"""A session description longer than this is refused; VoLTE's have about 1,500 bytes."""
MEDIA_LINES_MAX = 16
"""m-lines of one description; each costs two port pairs."""
TOKEN_CHARS_MAX = 64
"""Length of an m-line's media and transport words."""
LOOP_MARKS_MAX = 8
"""Groups that may have marked a description, each once."""
HOSTS_CACHED_MAX = 4_096
"""Connection values remembered in their canonical form."""

DIRECTIONS = frozenset(("sendrecv", "sendonly", "recvonly", "inactive"))
UNSPECIFIED = {Family.IP4: "0.0.0.0", Family.IP6: "::"}
"""The addresses that mean hold (RFC 2543 B.5, still sent; RFC 3264 8.4)."""

_REMOVED = (
    "a=candidate:",
    "a=remote-candidates:",
    "a=ice-",
    "a=end-of-candidates",
    "a=group:BUNDLE",
    "a=bundle-only",
    "a=altc:",
    "a=ccap:",
    "a=alt:",
)
_FINGERPRINT = "a=fingerprint:"
LOOP_MARK = "a=x-bgf-loop:"
_INITIALS = frozenset(
    "".join(
        (
            *(word[2] for word in (*_REMOVED, _FINGERPRINT, LOOP_MARK)),
            *(word[0] for word in DIRECTIONS),
        )
    )
)
_RTPMAP = "a=rtpmap:"
_TELEPHONE_EVENT = "telephone-event/"  # RFC 4733
_STATIC_CLOCKS_HZ = {6: 16_000, 10: 44_100, 11: 44_100, 14: 90_000, 16: 11_025, 17: 22_050}
_STATIC_VIDEO = range(25, 35)
_CLOCK_HZ = {"video": 90_000}
_CLOCK_HZ_DEFAULT = 8_000
_CLOCK_DIGITS_MAX = 6  # 768 kHz is the fastest in use
_PAYLOAD_TYPES_MAX = 32  # of one m-line
_HELD = {"sendrecv": "sendonly", "recvonly": "inactive"}


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


def _stated(host: str) -> str:
    """`IN IP6 fd00::1`: how a `c=`, `o=` or `a=rtcp:` line states a host."""
    return f"IN IP6 {host}" if ":" in host else f"IN IP4 {host}"


def _port(text: str, line: int) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadPort(f"sdp line {line}: port {show(text)} is not a number")
    if len(text) > 5 or int(text) > PORT_MAX:
        raise BadPort(f"sdp line {line}: port {show(text)} is out of range 0..{PORT_MAX}")
    return int(text)


def _clock_hz(kind: str, payload_types: Sequence[int]) -> int:
    """The timestamp clock of an m-line's first format as far as RFC 3551 table 4 and 5 tell."""
    first = payload_types[0] if payload_types else 0
    if first in _STATIC_VIDEO:
        return 90_000
    if first < 96:
        return _STATIC_CLOCKS_HZ.get(first, _CLOCK_HZ_DEFAULT)
    return _CLOCK_HZ.get(kind, _CLOCK_HZ_DEFAULT)


class _Credentials:
    """What one level of a description states; a level without its own has the session's."""

    def __init__(self, ufrag: str = "", pwd: str = "") -> None:
        self.ufrag = ufrag
        self.pwd = pwd

    def read(self, line: str) -> None:
        if line.startswith(sdp_ice.UFRAG):
            self.ufrag = self.ufrag or line[len(sdp_ice.UFRAG) :].strip()
        elif line.startswith(sdp_ice.PWD):
            self.pwd = self.pwd or line[len(sdp_ice.PWD) :].strip()

    @property
    def stated(self) -> bool:
        return bool(self.ufrag or self.pwd)

    @property
    def good(self) -> bool:
        return sdp_ice.good(self.ufrag, self.pwd)


class _Section:
    """One m-line and the lines under it. Line numbers are indices into `Sdp.lines`."""

    __slots__ = (
        "at",
        "bundled",
        "carried",
        "clock_hz",
        "connections",
        "credentials",
        "direction",
        "dtls",
        "dtmf_types",
        "host",
        "kind",
        "last",
        "mux",
        "mux_only",
        "payload_types",
        "port",
        "rtcp",
        "rtcp_host",
        "rtcp_port",
        "transport",
    )

    def __init__(self, at: int, line: str) -> None:
        self.at = at
        self.last = at
        fields = line[2:].split(" ", 3)
        if len(fields) < 3 or not fields[2]:
            raise BadSdp(f"sdp line {at + 1}: {show(line)} is not 'm=media port transport formats'")
        # Kept with every call: the same few words, once each.
        self.kind, port, self.transport = sys.intern(fields[0]), fields[1], sys.intern(fields[2])
        for word in (self.kind, self.transport):
            if (
                not word
                or len(word) > TOKEN_CHARS_MAX
                or not word.isascii()
                or not word.isprintable()
            ):
                raise BadSdp(f"sdp line {at + 1}: {show(word)} is not a word of an m-line")
        self.port = _port(port.partition("/")[0], at + 1)
        upper = self.transport.upper()
        # A border gateway forwards UDP: RTP/*, UDP/*, UDPTL. TCP/MSRP, TCP/BFCP and the like pass
        # by, their addresses and all.
        self.carried = upper.startswith(("RTP/", "UDP")) and not upper.endswith("/TCP")
        self.connections: list[int] = []
        self.host = ""
        self.direction = ""
        self.rtcp: list[int] = []
        self.rtcp_port: int | None = None
        self.rtcp_host = ""
        self.mux: list[int] = []
        self.mux_only = False
        self.credentials = _Credentials()
        self.dtls = False
        self.bundled = False
        formats = fields[3].split()[:_PAYLOAD_TYPES_MAX] if len(fields) > 3 else []
        rtp = upper.startswith(("RTP/", "UDP/TLS/RTP/"))
        self.payload_types = tuple(
            int(word)
            for word in (formats if rtp else ())
            if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) <= 127
        )
        self.clock_hz = _clock_hz(self.kind, self.payload_types)
        self.dtmf_types: tuple[int, ...] = ()

    @property
    def passes(self) -> bool:
        """Is it left as it is?"""
        return bool(self.port) and not self.carried


class SdpModel:
    """A parsed description. Immutable by convention; `rewrite` gives text, never changes it.

    Attributes: `media`, one MediaLine per m-line in order; `notes`, what will not be carried as
    stated, for the reply's warning; `loop_marks`, the groups that have marked it.

    In `media` a transport that is not over UDP has `rtp.port` 0 as if rejected. A host of
    `0.0.0.0` or `::` means hold, and `direction` then says so (sendonly or inactive), but with
    port 9 of an ICE agent.
    """

    __slots__ = (
        *("_credentials", "_dtls", "_origin", "_removed", "_sections", "_session"),
        *("lines", "loop_marks", "media", "notes"),
    )

    def __init__(self, text: str) -> None:
        """Parse. Raises BadSdp or a subclass, nothing else."""
        if len(text) > SDP_BYTES_MAX:
            raise SdpLimit(f"sdp has {len(text)} bytes, the limit is {SDP_BYTES_MAX}")
        if "\0" in text:
            at = text.encode("utf-8", "surrogateescape").index(0)
            raise BadSdp(f"sdp has a NUL byte at {at}")
        # Somebody else may take a bare CR for a line end and see lines that we did not.
        if text.count("\r") != text.count("\r\n"):
            raise BadSdp("sdp has a carriage return without a line feed")
        if not text.startswith("v="):
            raise BadSdp(f"sdp begins with {show(text[:16])}, not with 'v='")
        self.lines = text.split("\n")
        self._sections: list[_Section] = []
        self._session: list[int] = []
        self._origin = -1
        self._removed: list[int] = []
        self._credentials = _Credentials()
        self._dtls = False
        self.loop_marks: tuple[str, ...] = ()
        self._scan()
        self.notes: tuple[str, ...] = ()
        self.media = self._media()

    def _scan(self) -> None:
        section: _Section | None = None
        host, direction = "", "sendrecv"
        for at, raw in enumerate(self.lines):
            lead = raw[:2]
            if lead == "a=":
                # One look at the third character spares most attributes everything else.
                if raw[2:3] not in _INITIALS:
                    pass
                elif raw.startswith(_REMOVED):
                    self._remove(section, at, raw)
                elif raw.startswith(LOOP_MARK):
                    self._marked(raw[len(LOOP_MARK) :].rstrip("\r"))
                elif section is not None:
                    self._attribute(section, at, raw)
                elif raw.startswith(_FINGERPRINT):
                    self._dtls = True
                elif raw[2:].rstrip("\r") in DIRECTIONS:
                    direction = raw[2:].rstrip("\r")
            elif lead == "m=":
                if len(self._sections) == MEDIA_LINES_MAX:
                    raise SdpLimit(f"sdp has more than {MEDIA_LINES_MAX} m-lines")
                section = _Section(at, raw.rstrip("\r"))
                section.host, section.direction = host, direction
                self._sections.append(section)
            elif lead == "c=":
                try:
                    found = _host(raw[2:].rstrip("\r"))
                except BadAddress as error:
                    raise BadAddress(f"sdp line {at + 1}: {error.reason}") from None
                if section is None:
                    self._session.append(at)
                    host = host or found
                else:
                    if not section.connections:
                        section.host = found
                    section.connections.append(at)
            elif lead == "o=" and self._origin < 0:
                self._origin = at
            elif lead[1:] != "=" or not lead[0].isalpha():
                if raw.rstrip("\r"):
                    raise BadSdp(f"sdp line {at + 1}: {show(raw.rstrip())} is not 'letter=value'")
                continue
            if section is not None:
                section.last = at

    def _marked(self, group: str) -> None:
        good = group.isascii() and group.isprintable() and len(group) <= TOKEN_CHARS_MAX
        if good and len(self.loop_marks) < LOOP_MARKS_MAX:
            self.loop_marks += (group,)

    def _remove(self, section: _Section | None, at: int, raw: str) -> None:
        """A line that does not go on: ICE of one m-line or of all, or bundling."""
        if section is None:
            self._credentials.read(raw)
        elif section.passes:
            return
        else:
            section.credentials.read(raw)
            section.bundled |= raw.startswith("a=bundle-only")
        self._removed.append(at)

    @staticmethod
    def _attribute(section: _Section, at: int, raw: str) -> None:
        line = raw.rstrip("\r")
        if line[2:] in DIRECTIONS:
            section.direction = sys.intern(line[2:])
        elif line.startswith("a=rtcp"):
            if line.startswith("a=rtcp:"):
                section.rtcp.append(at)
                port, _, stated = line[7:].strip().partition(" ")
                section.rtcp_port = _port(port, at + 1)
                if stated:
                    try:
                        section.rtcp_host = _host(stated)
                    except BadAddress as error:
                        raise BadAddress(f"sdp line {at + 1}: {error.reason}") from None
            elif line in ("a=rtcp-mux", "a=rtcp-mux-only"):
                section.mux.append(at)
                section.mux_only |= line == "a=rtcp-mux-only"
        elif line.startswith(_FINGERPRINT):
            section.dtls = True
        elif line.startswith(_RTPMAP) and section.payload_types:
            # a=rtpmap:96 AMR-WB/16000/1, of the first format alone (RFC 8866 section 6.6)
            number, _, encoding = line[len(_RTPMAP) :].partition(" ")
            clock = encoding.split("/", 2)[1:2]
            if encoding.lower().startswith(_TELEPHONE_EVENT):
                known = (kind for kind in section.payload_types if str(kind) == number)
                section.dtmf_types = (*section.dtmf_types, *known)
            if number == str(section.payload_types[0]) and clock and clock[0].isascii():
                digits = clock[0].strip()
                if digits.isdigit() and len(digits) <= _CLOCK_DIGITS_MAX and int(digits):
                    section.clock_hz = int(digits)

    def _media(self) -> tuple[MediaLine, ...]:
        if not self._sections:
            raise NoMedia("sdp has no m-line")
        notes: list[str] = []
        media: list[MediaLine] = []
        for number, section in enumerate(self._sections, 1):
            port, host = section.port, section.host
            if port and not host:
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
            if port and "/" in self.lines[section.at].split(" ", 2)[1]:
                notes.append(f"m-line {number} states several ports, one pair is carried")
            ufrag = self._ice_ufrag(section, number, notes) if port else ""
            direction = section.direction
            if host in UNSPECIFIED.values() and not (ufrag and port == 9):
                direction = _HELD.get(direction, direction)
            media.append(
                MediaLine(
                    kind=section.kind,
                    transport=section.transport,
                    rtp=Address(host or UNSPECIFIED[Family.IP4], port),
                    rtcp=self._rtcp(section, host) if port else None,
                    rtcp_mux=bool(section.mux),
                    direction=direction,
                    payload_types=section.payload_types,
                    clock_hz=section.clock_hz,
                    dtmf_types=section.dtmf_types,
                    ice_ufrag=ufrag,
                    dtls=section.dtls or self._dtls,
                )
            )
        self.notes = tuple(notes)
        return tuple(media)

    def _ice_ufrag(self, section: _Section, number: int, notes: list[str]) -> str:
        """The ICE user name that holds for an m-line, '' without usable credentials."""
        own, shared = section.credentials, self._credentials
        found = _Credentials(own.ufrag or shared.ufrag, own.pwd or shared.pwd)
        if found.good:
            return found.ufrag
        if found.stated:
            notes.append(f"m-line {number} has no usable ice-ufrag and ice-pwd: no ICE there")
        return ""

    @staticmethod
    def _rtcp(section: _Section, host: str) -> Address | None:
        """Where RTCP goes: stated (RFC 3605) or the next port (RFC 3550 section 11), or nowhere."""
        if section.mux_only or not section.transport.upper().startswith(("RTP/", "UDP/TLS/RTP/")):
            return None
        if section.rtcp_port is None:
            return Address(host, section.port + 1) if section.port < PORT_MAX else None
        stated = section.rtcp_host or host
        if not section.rtcp_port or (section.mux and section.rtcp_port == section.port):
            return None
        # Browsers state port 9 of 0.0.0.0 before they know better.
        if stated in UNSPECIFIED.values() and stated != host:
            return None
        return Address(stated, section.rtcp_port)

    @property
    def text(self) -> str:
        """As it came."""
        return "\n".join(self.lines)

    def rewrite(
        self,
        media: Sequence[MediaRewrite],
        *,
        replace_origin: bool = False,
        rtcp_attribute: bool = True,
        loop_mark: str = "",
    ) -> str:
        """The text for the far side. `media` has one entry per m-line, in order.

        `rtcp_attribute` False never states a RTCP port (flag `no-rtcp-attribute`). Raises Misuse
        when `media` has another length: that is the gateway's fault, not the peer's.
        """
        if len(media) != len(self._sections):
            raise Misuse(f"{len(media)} rewrites for an sdp of {len(self._sections)} m-lines")
        lines = self.lines
        edits: dict[int, str | None] = dict.fromkeys(self._removed)
        added: dict[int, list[str]] = {}
        live = [m for m in media if m.rtp.port]
        ours = (live[0] if live else media[0]).rtp.host
        passing = [section for section in self._sections if section.passes]
        # An agent that leaves all to ICE is not on hold, whose c= line ever says so for it.
        shown = [line.undisclosed for line in self.media]
        relying = [
            undisclosed
            for section, undisclosed in zip(self._sections, shown, strict=True)
            if section.port and not section.passes and not section.connections
        ]
        spoken = bool(relying) and all(relying)
        if len(passing) < len(self._sections):
            for at in self._session:
                edits[at] = f"c={_stated(self._kept(lines[at], ours, spoken))}"
            for section in passing if self._session else ():
                if not section.connections:
                    added[self._after_title(section)] = [f"c={_stated(section.host)}"]
        whole = list(sdp_ice.LITE_LINES) if any(m.ice for m in live) else []
        whole += [f"{LOOP_MARK}{loop_mark}"] if loop_mark else []
        if whole:
            added[self._sections[0].at - 1] = whole
        if replace_origin and self._origin >= 0:
            fields = lines[self._origin].rstrip("\r").split(" ")
            if len(fields) == 6:
                edits[self._origin] = " ".join((*fields[:4], _stated(ours)[3:]))
        for section, wanted, alone in zip(self._sections, media, shown, strict=True):
            if section.passes:
                continue
            rejected = not wanted.rtp.port
            fields = lines[section.at].rstrip("\r").split(" ", 2)
            edits[section.at] = f"{fields[0]} {wanted.rtp.port} {fields[2]}"
            host = ours if rejected else wanted.rtp.host
            if section.connections:
                first, *others = section.connections
                edits[first] = f"c={_stated(self._kept(lines[first], host, alone))}"
                edits.update(dict.fromkeys(others))
            elif not rejected and (host != ours or (alone and not spoken)):
                added[self._after_title(section)] = [f"c={_stated(host)}"]
            tail = self._rtcp_lines(section, wanted, edits, rtcp_attribute)
            tail += sdp_ice.lines(wanted)
            if tail:
                added.setdefault(section.last, []).extend(tail)
        return self._join(edits, added)

    def _after_title(self, section: _Section) -> int:
        """Where a `c=` line of an m-line follows: behind its `i=`, if it has one."""
        follows = self.lines[section.at + 1 : section.at + 2]
        return section.at + (bool(follows) and follows[0].startswith("i="))

    @staticmethod
    def _kept(line: str, ours: str, shown: bool) -> str:
        """Our host, or the unspecified one of our family where the line says hold."""
        if not shown and _host(line[2:].rstrip("\r")) in UNSPECIFIED.values():
            return UNSPECIFIED[Family.IP6 if ":" in ours else Family.IP4]
        return ours

    def _rtcp_lines(
        self, section: _Section, wanted: MediaRewrite, edits: dict[int, str | None], stated: bool
    ) -> list[str]:
        """Edit the section's RTCP lines; give those that must be added at its end."""
        added: list[str] = []
        rtcp, rtp = wanted.rtcp, wanted.rtp
        edits.update(dict.fromkeys(section.rtcp))
        if stated and rtcp is not None and rtp.port:
            elsewhere = rtcp.host != rtp.host
            if section.rtcp:
                with_host = elsewhere or bool(section.rtcp_host)
                line = f"a=rtcp:{rtcp.port}" + (f" {_stated(rtcp.host)}" if with_host else "")
                edits[section.rtcp[0]] = line
            elif elsewhere or rtcp.port != rtp.port + 1:
                added.append(
                    f"a=rtcp:{rtcp.port}" + (f" {_stated(rtcp.host)}" if elsewhere else "")
                )
        if rtp.port and not wanted.rtcp_mux:
            edits.update(dict.fromkeys(section.mux))
        elif rtp.port and not section.mux:
            added.append("a=rtcp-mux")
        return added

    def _join(self, edits: dict[int, str | None], added: dict[int, list[str]]) -> str:
        lines = self.lines
        end = "\r" if lines[0].endswith("\r") else ""
        out: list[str] = []
        final = len(lines) - 1
        for at, raw in enumerate(lines):
            line: str | None = raw
            if at in edits:
                edited = edits[at]
                line = edited + "\r" if edited is not None and raw.endswith("\r") else edited
            more = added.get(at, ())
            if at == final and (more or line is None):
                # The last line had no line end: what now stands there gets one.
                kept = [line + end] if line is not None else []
                out.extend([*kept, *(extra + end for extra in more), ""])
                continue
            if line is not None:
                out.append(line)
            out.extend(extra + end for extra in more)
        return "\n".join(out)
