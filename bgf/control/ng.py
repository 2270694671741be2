"""The `ng` frame codec: datagram -> Request -> Command, and Reply -> datagram. No sockets.

Knows: cookies, bencode and JSON dictionaries, the words that Kamailio and OpenSIPS send. Must
not know: sessions, realms that exist, free ports, time. Two wishes of a peer are never errors:
a word that nobody knows and a word for something a border gateway does not do. Both are named
in the reply's `warning`. Wire forms: Kamailio 5.6 `rtpengine` module; rtpengine's `ng` manual.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from bgf.control import bencode, words
from bgf.control.bencode import BadBencode, Encodable, Value
from bgf.control.sdp import SDP_BYTES_MAX, BadSdp, Sdp, SdpLimit, show
from bgf.errors import LoadLimit, Malformed, Misuse, PeerError, Unsupported
from bgf.events import Command, MediaLine, Reply, Result, Verb
from bgf.model import Address, Component, Counters, Flow

DATAGRAM_BYTES_MAX = 65_507
"""Largest UDP payload over IPv4 (65,535 - 20 - 8)."""
COOKIE_BYTES_MAX = 128
"""Kamailio's has at most 34."""
IDENTIFIER_BYTES_MAX = 512
"""Call-ID, tag, branch, label."""
FLAGS_MAX = 64
"""Flags of one command, all lists together."""
WARNING_WORDS_MAX = 8
"""Words that a warning names before it says `and more`."""

PARALLEL_LIMIT = "Parallel session limit reached"
"""What a proxy without `load limit` support understands as: try the next node."""


class NoCookie(Malformed):
    """No cookie can be read, so nobody can be answered: drop."""

    code = "no-cookie"


class BadJson(Malformed):
    """The frame is not one JSON object."""

    code = "bad-json"


class MissingKey(Malformed):
    """A mandatory key is not there; the reason names it."""

    code = "missing-key"


class BadValue(Malformed):
    """A mandatory key has a value of the wrong kind."""

    code = "bad-value"


class TooMuch(Malformed):
    """One of this file's limits is passed; the reason names it."""

    code = "limit"


class UnknownCommand(Unsupported):
    """Nobody's command."""

    code = "unknown-command"


class OutOfScope(Unsupported):
    """A command of `ng` that asks for what a border gateway is not."""

    code = "out-of-scope"


class Codec(enum.Enum):
    """How the dictionary was written; the answer is written likewise."""

    BENCODE = "bencode"
    JSON = "json"


MANDATORY: dict[Verb, tuple[str, ...]] = {
    Verb.PING: (),
    Verb.OFFER: ("call-id", "from-tag", "sdp"),
    Verb.ANSWER: ("call-id", "from-tag", "to-tag", "sdp"),
    Verb.DELETE: ("call-id",),
    Verb.QUERY: ("call-id",),
}


class Request(msgspec.Struct, frozen=True):
    """One decoded request: the driver keeps it until its reply has been rendered.

    `flags` (sorted), `realms` and `family` are as in `events.Command`; `warnings` go into the
    reply. `media` is what `sdp.media` says, with the addresses that the request puts in their
    place.
    """

    cookie: str
    codec: Codec
    verb: Verb
    call_id: str = ""
    from_tag: str = ""
    to_tag: str = ""
    via_branch: str = ""
    sdp: Sdp | None = None
    media: tuple[MediaLine, ...] = ()
    flags: tuple[str, ...] = ()
    realms: tuple[str, ...] = ()
    family: int = 0
    load_limit: bool = False
    warnings: tuple[str, ...] = ()

    def command(self, now_ns: int) -> Command:
        """The event for the machine, without ports (`msgspec.structs.replace` adds them)."""
        return Command(
            now_ns=now_ns,
            cookie=self.cookie,
            verb=self.verb,
            call_id=self.call_id,
            from_tag=self.from_tag,
            to_tag=self.to_tag,
            via_branch=self.via_branch,
            media=self.media,
            flags=self.flags,
            realms=self.realms,
            family=self.family,
        )


def split(datagram: bytes) -> tuple[str, bytes]:
    """Cookie and dictionary of a frame. Raises NoCookie (answering is impossible then)."""
    cookie, space, body = datagram[: COOKIE_BYTES_MAX + 1].partition(b" ")
    if not space or not cookie:
        raise NoCookie(f"no cookie in the first {COOKIE_BYTES_MAX} bytes")
    if not cookie.isascii() or not cookie.decode("ascii", "replace").isprintable():
        raise NoCookie("the cookie is not printable ASCII")
    del body
    return cookie.decode("ascii"), datagram[len(cookie) + 1 :]


def decode(datagram: bytes) -> tuple[str, Request]:
    """Read one frame.

    Raises NoCookie (drop it) or another PeerError (`refuse` writes the answer); nothing else.
    """
    cookie, body = split(datagram)
    if len(datagram) > DATAGRAM_BYTES_MAX:
        raise TooMuch(f"frame of {len(datagram)} bytes, the limit is {DATAGRAM_BYTES_MAX}")
    codec, entries = _entries(body)
    return cookie, _request(cookie, codec, entries)


def _entries(body: bytes) -> tuple[Codec, dict[str, Value]]:
    """The dictionary with hyphens for spaces in its keys."""
    lead = body[:1]
    if lead == b"d":
        codec, raw = Codec.BENCODE, bencode.decode(body)
    elif lead == b"{":
        codec, raw = Codec.JSON, _json(body)
    else:
        raise BadBencode(
            "neither a bencode dictionary ('d') nor a JSON object ('{') after the cookie"
        )
    entries: dict[str, Value] = {}
    for key, value in raw.items():
        entries.setdefault(key.decode("utf-8", "replace").replace(" ", "-"), value)
    return codec, entries


def _json(body: bytes) -> dict[bytes, Value]:
    """A JSON object as the values bencode would have given (RFC 8259)."""
    try:
        value = msgspec.json.decode(body)
        converted = _from_json(value, 0)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadJson(f"not JSON: {error}") from None
    if not isinstance(converted, dict):
        raise BadJson("not a JSON object")
    return converted


def _from_json(value: object, depth: int) -> Value:
    if depth > bencode.DEPTH_MAX:
        raise ValueError(f"nested deeper than {bencode.DEPTH_MAX}")
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        if abs(value) >= 10**bencode.INTEGER_DIGITS_MAX:
            raise ValueError(f"an integer has more than {bencode.INTEGER_DIGITS_MAX} digits")
        return int(value)
    if isinstance(value, list):
        return [_from_json(entry, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {
            str(key).encode(): _from_json(entry, depth + 1)
            for key, entry in value.items()
            if entry is not None
        }
    return str(value).encode()


def _request(cookie: str, codec: Codec, entries: dict[str, Value]) -> Request:
    if "command" not in entries:
        raise MissingKey("missing key 'command'")
    verb = _verb(entries.pop("command"))
    if verb is Verb.PING:
        return Request(cookie, codec, verb)
    for key in MANDATORY[verb]:
        if not entries.get(key):
            raise MissingKey(f"missing key '{key}' in {verb}")
    call_id = _identifier(entries, "call-id")
    from_tag = _identifier(entries, "from-tag")
    to_tag = _identifier(entries, "to-tag")
    via_branch = _identifier(entries, "via-branch")
    raw = entries.pop("sdp", b"")
    sdp = _sdp(raw) if verb in (Verb.OFFER, Verb.ANSWER) else None
    wishes = _Wishes(entries)
    media = sdp.media if sdp is not None else ()
    if wishes.host:
        media = tuple(_moved(line, wishes.host) for line in media)
    if sdp is not None:
        wishes.check_transport(media)
    return Request(
        cookie,
        codec,
        verb,
        call_id,
        from_tag,
        to_tag,
        via_branch,
        sdp,
        media,
        tuple(sorted(wishes.flags)),
        wishes.realms,
        wishes.family,
        wishes.load_limit,
        (*wishes.warnings(), *(sdp.notes if sdp is not None else ())),
    )


_VERBS: dict[bytes, Verb] = {verb.value.encode(): verb for verb in Verb}


def _verb(value: Value) -> Verb:
    if not isinstance(value, bytes):
        raise BadValue("'command' is not a string")
    verb = _VERBS.get(value)
    if verb is not None:
        return verb
    command = value.decode("utf-8", "replace").replace("-", " ")
    what = words.OUT_OF_SCOPE.get(command)
    if what is not None:
        raise OutOfScope(f"'{command}' is not supported: this is a border gateway, it {what}")
    raise UnknownCommand(f"unknown command {show(command)}")


def _text(value: Value, key: str) -> str:
    """A short printable text. Numbers are taken as their digits. Raises BadValue, TooMuch."""
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, bytes):
        raise BadValue(f"'{key}' is not a string")
    if len(value) > IDENTIFIER_BYTES_MAX:
        raise TooMuch(f"'{key}' has {len(value)} bytes, the limit is {IDENTIFIER_BYTES_MAX}")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise BadValue(f"'{key}' is not UTF-8 at byte {error.start}") from None
    if not text.isprintable():
        raise BadValue(f"'{key}' has unprintable characters: {show(text)}")
    return text


def _identifier(entries: dict[str, Value], key: str) -> str:
    value = entries.pop(key, None)
    return "" if value is None else _text(value, key)


def _sdp(value: Value) -> Sdp:
    if not isinstance(value, bytes):
        raise BadValue("'sdp' is not a string")
    if len(value) > SDP_BYTES_MAX:
        raise SdpLimit(f"sdp has {len(value)} bytes, the limit is {SDP_BYTES_MAX}")
    return Sdp(value.decode("utf-8", "surrogateescape"))


def _moved(line: MediaLine, host: str) -> MediaLine:
    rtcp = line.rtcp
    return msgspec.structs.replace(
        line,
        rtp=Address(host, line.rtp.port),
        rtcp=Address(host, rtcp.port) if rtcp is not None else None,
    )


_OFF = frozenset(value.encode() for value in words.OFF)


class _Wishes:
    """Everything in a request that is not an identifier: flags, realms, family, warnings."""

    def __init__(self, entries: dict[str, Value]) -> None:
        self.flags: list[str] = []
        self.realms: tuple[str, ...] = ()
        self.family = 0
        self.load_limit = False
        self.host = ""
        self.transport = ""
        self._source = ""
        self._unknown: list[str] = []
        self._declined: list[str] = []
        self._remarks: list[str] = []
        for key, value in entries.items():
            self._key(key, value)
        if self._source and "SIP-source-address" in self.flags and not self.host:
            self.host = self._source
        if len(self.flags) > FLAGS_MAX:
            raise TooMuch(f"{len(self.flags)} flags, the limit is {FLAGS_MAX}")

    def _key(self, key: str, value: Value) -> None:
        if key == "flags":
            for word in self._words(key, value):
                self._word(word.replace(" ", "-"))
        elif key == "supports":
            self.load_limit = "load-limit" in (
                word.replace(" ", "-") for word in self._words(key, value)
            )
        elif key == "direction":
            realms = tuple(self._words(key, value))
            if len(realms) == 2:
                self.realms = realms
            else:
                self._remarks.append(f"direction names {len(realms)} realms, not 2, and is ignored")
        elif key == "received-from":
            self._source = self._host(key, (self._words(key, value) or [""])[-1])
        elif key in words.NEUTRAL_KEYS:
            pass
        elif key in words.CARRIED_KEYS or key in words.HANDLED_KEYS:
            for word in self._words(key, value):
                self._pair(key, word)
        elif key in words.DECLINED_KEYS:
            entries = value if isinstance(value, list) else [value]
            if not all(isinstance(entry, bytes) and entry in _OFF for entry in entries):
                self._declined.append(key)
        else:
            self._unknown.append(key)

    @staticmethod
    def _words(key: str, value: Value) -> list[str]:
        """A list of texts; one text counts as a list of one."""
        return [_text(entry, key) for entry in (value if isinstance(value, list) else [value])]

    def _word(self, word: str) -> None:
        if word in words.CARRIED:
            self._flag(word)
        elif word in words.NEUTRAL:
            pass
        elif "=" in word:
            self._pair(*word.split("=", 1))
        elif word.startswith(("replace-", "rtcp-mux-")):
            key = "replace" if word.startswith("replace-") else "rtcp-mux"
            self._pair(key, word.removeprefix(f"{key}-"))
        elif word in words.DECLINED or word.startswith(
            ("SDES-", "DTLS-", "codec-", "transcode-", "T.38-")
        ):
            self._declined.append(word)
        else:
            self._unknown.append(word)

    def _pair(self, key: str, value: str) -> None:
        if key == "address-family":
            self.family = {"IP4": 4, "IP6": 6}.get(value, 0)
            if not self.family:
                self._remarks.append(f"address-family {show(value)} is neither IP4 nor IP6")
        elif key == "transport-protocol":
            self.transport = value
        elif key == "media-address":
            self.host = self._host(key, value)
        elif key == "replace":
            word = value.replace(" ", "-")
            if word in words.REPLACED:
                self._flag(f"replace={word}")
            else:
                self._declined.append(f"replace={word}")
        elif key == "ICE" and value not in ("remove", "default"):
            # Candidates are removed whatever is asked; without its own, the gateway is the only
            # address left, and plain RTP is what both ends fall back to (RFC 8839 section 4.2.5).
            self._declined.append(f"ICE={value}")
        elif key in words.CARRIED_KEYS:
            if key == "TOS" and not (len(value) <= 3 and value.isdigit() and int(value) <= 255):
                self._remarks.append(f"TOS {show(value)} is not in 0..255, and is ignored")
            else:
                self._flag(f"{key}={value}")
        elif key in words.DECLINED_KEYS:
            if value.encode() not in _OFF:
                self._declined.append(f"{key}={value}")
        else:
            self._unknown.append(f"{key}={value}")

    def _flag(self, flag: str) -> None:
        if flag not in self.flags:
            self.flags.append(flag)

    def _host(self, key: str, host: str) -> str:
        try:
            return Address.of(host, 0).host
        except Malformed as error:
            self._remarks.append(f"{key}: {error.reason}")
            return ""

    def check_transport(self, media: tuple[MediaLine, ...]) -> None:
        """Say where the asked transport is not what the SDP has: the gateway translates none."""
        if self.transport in ("", "accept"):
            return
        for number, line in enumerate(media, 1):
            if line.rtp.port and "RTP/" in line.transport and line.transport != self.transport:
                self._remarks.append(
                    f"m-line {number} stays {line.transport}, {show(self.transport)} is not made"
                )

    def warnings(self) -> list[str]:
        out = list(self._remarks)
        for what, names in (("not done here", self._declined), ("unknown", self._unknown)):
            if names:
                named = ", ".join(show(name)[1:-1] for name in names[:WARNING_WORDS_MAX])
                more = " and more" if len(names) > WARNING_WORDS_MAX else ""
                out.append(f"ignored ({what}): {named}{more}")
        return out


def refuse(datagram: bytes, error: PeerError) -> bytes | None:
    """The error reply to a datagram, in its own codec; None where it has no cookie.

    For errors that are no `Reply` of the machine: those of `decode`, and the driver's own.
    """
    try:
        cookie, body = split(datagram)
    except NoCookie:
        return None
    codec = Codec.JSON if body[:1] == b"{" else Codec.BENCODE
    limited = isinstance(error, LoadLimit)
    if limited:
        try:
            limited = decode(datagram)[1].load_limit
        except PeerError:
            limited = False
    return _frame(cookie, codec, _failure(error.reason, load_limit=limited))


def _failure(reason: str, *, load_limit: bool) -> dict[str, Encodable]:
    if load_limit:
        return {"result": Result.LOAD_LIMIT.value, "message": reason}
    return {"result": Result.ERROR.value, "error-reason": reason or "unspecified"}


def render(
    request: Request,
    reply: Reply,
    counters: Sequence[Counters] = (),
    *,
    created_s: int = 0,
    tags: tuple[str, str] | None = None,
) -> bytes:
    """The datagram that answers `request` with what the machine said.

    `counters` go with `reply.flows`, in order (`Datapath.counters`); zeros when left out.
    `created_s` is the call's begin in Unix seconds. `tags` are (offerer's, answerer's); the
    request's from-tag and to-tag otherwise. Raises Misuse when `reply.media` does not fit.
    """
    body: dict[str, Encodable]
    if reply.result is Result.ERROR:
        body = _failure(reply.reason, load_limit=False)
    elif reply.result is Result.LOAD_LIMIT:
        supported = request.load_limit
        body = _failure(reply.reason if supported else PARALLEL_LIMIT, load_limit=supported)
    else:
        body = {"result": reply.result.value}
        warning = "; ".join(filter(None, (reply.warning, *request.warnings)))
        if warning:
            body["warning"] = warning
        if reply.media and request.sdp is not None:
            body["sdp"] = request.sdp.rewrite(
                reply.media,
                replace_origin="replace=origin" in request.flags,
                rtcp_attribute="no-rtcp-attribute" not in request.flags,
            )
        if request.verb is Verb.QUERY or reply.flows or counters:
            body |= _statistics(request, reply.flows, counters, created_s, tags)
    frame = _frame(request.cookie, request.codec, body)
    if len(frame) > DATAGRAM_BYTES_MAX:
        reason = f"the reply of {len(frame)} bytes does not fit into a datagram"
        return _frame(request.cookie, request.codec, _failure(reason, load_limit=False))
    return frame


def _frame(cookie: str, codec: Codec, body: Mapping[str, Encodable]) -> bytes:
    encoded = bencode.encode(body) if codec is Codec.BENCODE else msgspec.json.encode(body)
    return b"%b %b" % (cookie.encode(), encoded)


def _statistics(
    request: Request,
    flows: Sequence[Flow],
    counters: Sequence[Counters],
    created_s: int,
    tags: tuple[str, str] | None,
) -> dict[str, Encodable]:
    """What Kamailio reads of a query or delete: `totals`, `created`, `tags` by tag.

    A flow belongs to the party that sends it: of each stream's two, the first is the offerer's
    (the machine's order; realms and hosts would not do, both sides may be in one realm).
    """
    counts = list(counters) or [Counters()] * len(flows)
    if len(counts) != len(flows):
        raise Misuse(f"{len(counts)} counters for {len(flows)} flows")
    names = tags or (request.from_tag, request.to_tag)
    totals = {component: [0, 0] for component in Component}
    sides: tuple[dict[int, dict[Component, tuple[Flow, Counters]]], ...] = ({}, {})
    for flow, count in zip(flows, counts, strict=True):
        totals[flow.component][0] += count.packets
        totals[flow.component][1] += count.bytes
        second = flow.component in sides[0].get(flow.stream, ())
        sides[second].setdefault(flow.stream, {})[flow.component] = (flow, count)
    senders = {flow.local_out: flow.remote for flow in flows}
    parties: dict[str, Encodable] = {}
    for number, (tag, streams) in enumerate(zip(names, sides, strict=True), 1):
        if not streams:
            continue
        parties[tag or f"<untagged {number}>"] = {
            "tag": tag,
            "created": created_s,
            "medias": [
                {
                    "index": stream + 1,
                    "streams": [
                        _stream(*entry, senders.get(entry[0].local_in))
                        for _, entry in sorted(components.items())
                    ],
                }
                for stream, components in sorted(streams.items())
            ],
        }
    return {
        "created": created_s,
        "totals": {
            component.name: {"packets": packets, "bytes": octets, "errors": 0}
            for component, (packets, octets) in totals.items()
        },
        "tags": parties,
        "SSRC": {},
    }


def _stream(flow: Flow, count: Counters, sender: Address | None) -> Encodable:
    return {
        "local address": flow.local_in.host,
        "local port": flow.local_in.port,
        "family": f"IPv{flow.local_in.family.value}",
        "endpoint": _endpoint(sender),
        "flags": [flow.component.name],
        "stats": {"packets": count.packets, "bytes": count.bytes, "errors": 0},
    }


def _endpoint(address: Address | None) -> Encodable:
    if address is None:
        return {}
    return {
        "family": f"IPv{address.family.value}",
        "address": address.host,
        "port": address.port,
    }


__all__ = [
    "BadBencode",
    "BadJson",
    "BadSdp",
    "BadValue",
    "Codec",
    "MissingKey",
    "NoCookie",
    "OutOfScope",
    "Request",
    "TooMuch",
    "UnknownCommand",
    "decode",
    "refuse",
    "render",
    "split",
]
