"""`ng` requests: datagram -> Request -> Command. No sockets.

Knows: which keys each command has, and that keys are written with hyphens or spaces. Must not
know: sessions, realms that exist, free ports, time. Wire forms: Kamailio 5.6 `rtpengine` module;
rtpengine's `ng` manual.
"""

from __future__ import annotations

import msgspec

from bgf.control import rtpp_flags, words
from bgf.control.bencode import Value
from bgf.control.frames import (
    DATAGRAM_BYTES_MAX,
    BadValue,
    Codec,
    MissingKey,
    TooMuch,
    cookie_of,
    entries,
    text_of,
)
from bgf.control.sdp import SDP_BYTES_MAX, Sdp, SdpLimit, show
from bgf.control.wishes import wished
from bgf.errors import Unsupported
from bgf.events import Command, MediaLine, Verb
from bgf.model import Address

LOOP_PROTECT = "loop-protect"
LOOP_MARK = "loop-mark="
"""The flags that a group knows its own SDP by (`bgf.session_offers`)."""


class UnknownCommand(Unsupported):
    """Nobody's command."""

    code = "unknown-command"


class OutOfScope(Unsupported):
    """A command of `ng` that asks for what a border gateway is not."""

    code = "out-of-scope"


NO_CALL = frozenset((Verb.PING, Verb.LIST, Verb.STATISTICS))
"""Commands that are about no call."""
MANDATORY: dict[Verb, tuple[str, ...]] = {
    **{verb: () if verb in NO_CALL else ("call-id",) for verb in Verb},
    Verb.OFFER: ("call-id", "from-tag", "sdp"),
    Verb.ANSWER: ("call-id", "from-tag", "to-tag", "sdp"),
}


class Request(msgspec.Struct, frozen=True):
    """One decoded request: the driver keeps it until its reply has been rendered.

    `flags` (sorted), `realms` and `family` are as in `events.Command`; `warnings` go into the
    reply. `media` is what `sdp.media` says, with the addresses that the request puts in their
    place; `media_host` stands in place of ours in the SDP of the reply.
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
    media_host: str = ""

    def command(self, now_ns: int, wall_s: int = 0, carried: tuple[int, ...] = ()) -> Command:
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
            wall_s=wall_s,
            carried=carried,
        )


def decode(datagram: bytes) -> tuple[str, Request]:
    """Read one frame.

    Raises NoCookie (drop it) or another PeerError (`refuse` writes the answer); nothing else.
    """
    cookie = cookie_of(datagram)
    if len(datagram) > DATAGRAM_BYTES_MAX:
        raise TooMuch(f"frame of {len(datagram)} bytes, the limit is {DATAGRAM_BYTES_MAX}")
    codec, found = entries(datagram, len(cookie) + 1)
    return cookie, _request(cookie, codec, found)


def _request(cookie: str, codec: Codec, entries: dict[str, Value]) -> Request:
    if "command" not in entries:
        raise MissingKey("missing key 'command'")
    verb = _verb(entries.pop("command"))
    if verb is Verb.PING:
        return Request(cookie, codec, verb)
    entries = rtpp_flags.expanded(entries, ends=verb is Verb.DELETE)
    for key in MANDATORY[verb]:
        if not entries.get(key):
            raise MissingKey(f"missing key '{key}' in {verb}")
    call_id = _identifier(entries, "call-id")
    from_tag = _identifier(entries, "from-tag")
    to_tag = _identifier(entries, "to-tag")
    via_branch = _identifier(entries, "via-branch")
    raw = entries.pop("sdp", b"")
    sdp = _sdp(raw) if verb in (Verb.OFFER, Verb.ANSWER) else None
    wishes = wished(entries)
    if wishes.by_leg:
        call_id, via_branch, wishes = wishes.leg(call_id, via_branch)
    if sdp is None:
        return Request(
            cookie,
            codec,
            verb,
            call_id,
            from_tag,
            to_tag,
            via_branch,
            flags=wishes.flags,
            realms=wishes.realms,
            family=wishes.family,
            load_limit=wishes.load_limit,
            warnings=wishes.warnings(()),
        )
    media, flags = sdp.media, wishes.flags
    if wishes.host:
        media = tuple(_moved(line, wishes.host) for line in media)
    if sdp.loop_marks and LOOP_PROTECT in flags and not wishes.by_leg:  # each leg has its own
        flags = tuple(sorted((*flags, *(f"{LOOP_MARK}{group}" for group in sdp.loop_marks))))
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
        flags,
        wishes.realms,
        wishes.family,
        wishes.load_limit,
        (*wishes.warnings(media), *sdp.notes),
        wishes.media_host,
    )


_VERBS: dict[bytes, Verb] = {
    spelled.encode(): verb
    for verb in Verb
    for spelled in (verb.value, verb.value.replace(" ", "-"))
}


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


def _identifier(entries: dict[str, Value], key: str) -> str:
    value = entries.pop(key, None)
    return "" if value is None else text_of(value, key)


def _sdp(value: Value) -> Sdp:
    if not isinstance(value, bytes):
        raise BadValue("'sdp' is not a string")
    if len(value) > SDP_BYTES_MAX:
        raise SdpLimit(f"sdp has {len(value)} bytes, the limit is {SDP_BYTES_MAX}")
    return Sdp(value)


def _moved(line: MediaLine, host: str) -> MediaLine:
    rtcp = line.rtcp
    return msgspec.structs.replace(
        line,
        rtp=Address(host, line.rtp.port),
        rtcp=Address(host, rtcp.port) if rtcp is not None else None,
    )
