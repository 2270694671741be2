"""Everything in a request that is not an identifier: flags, realms, family, and what is declined.

Knows: the words that Kamailio and OpenSIPS send (`words`). Must not know what a flag does. Two
wishes are never errors: a word that nobody knows, and a word for something that a border gateway
does not do. Both are named in the reply's `warning`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from bgf.control import words
from bgf.control.bencode import Value
from bgf.control.frames import TooMuch, text_of
from bgf.control.sdp import UNSPECIFIED, show
from bgf.errors import Malformed
from bgf.events import MediaLine
from bgf.model import Address

FLAGS_MAX = 64
"""Flags of one command, all lists together."""
LEG_MARK = ";"
"""Between a Call-ID and the leg of it, in the name of a call."""
WARNING_WORDS_MAX = 8
"""Words that a warning names before it says `and more`."""

WISHES_CACHED_MAX = 1_024
"""Wishes remembered, so that each proxy's usual ones are read once."""
WISHES_CHARS_MAX = 4_096
"""Larger ones are not remembered."""

_OFF = frozenset(value.encode() for value in words.OFF)
_PREFIXES = tuple(f"{key}-" for key in words.PREFIXED_KEYS)


class Wishes(NamedTuple):
    """What a request wishes: `flags` (sorted), `realms` and `family` are as in `events.Command`;
    `host` stands in place of what its SDP says, `media_host` in place of our addresses in the SDP
    that is made of it, `transport` is what it would have made of it."""

    flags: tuple[str, ...]
    realms: tuple[str, ...]
    family: int
    load_limit: bool
    host: str
    media_host: str
    transport: str
    remarks: tuple[str, ...]
    ignored: tuple[str, ...]
    by_leg: bool

    def warnings(self, media: tuple[MediaLine, ...]) -> tuple[str, ...]:
        """What the reply must warn of."""
        if self.transport in ("", "accept"):
            return self.remarks + self.ignored
        return (*self.remarks, *self._stays(media), *self.ignored)

    def leg(self, call_id: str, via_branch: str) -> tuple[str, str, Wishes]:
        """What the call and its branch are named here, and the wishes with what is to be remarked.

        A leg has a name that no SIP element gives (RFC 3261 section 25.1: no semicolon in a
        Call-ID), and a branch no more."""
        if via_branch and call_id:
            return f"{call_id}{LEG_MARK}{via_branch}", "", self
        remark = f"{words.LEG_PER_BRANCH} without via-branch: one leg for all"
        return call_id, via_branch, self._replace(remarks=(*self.remarks, remark))

    def _stays(self, media: tuple[MediaLine, ...]) -> Iterator[str]:
        """Where the asked transport is not what the SDP has: the gateway translates none."""
        for number, line in enumerate(media, 1):
            if line.rtp.port and "RTP/" in line.transport and line.transport != self.transport:
                yield f"m-line {number} stays {line.transport}, {show(self.transport)} is not made"


_Kept = tuple[tuple[str, Hashable], ...]


class _TooLong(Exception):
    """Not to be remembered."""


def wished(entries: dict[str, Value]) -> Wishes:
    """Read the keys that are no identifiers. Raises TooMuch, BadValue.

    A proxy's route says the same of every call: that is read once.
    """
    try:
        return known(
            tuple(
                [
                    (name, tuple(value) if isinstance(value, list) else value)
                    for name, value in entries.items()
                ]
            )
        )
    except (TypeError, _TooLong):  # TypeError: dictionaries, or lists in lists
        return Reader(entries).result()


@functools.lru_cache(maxsize=WISHES_CACHED_MAX)
def known(key: _Kept) -> Wishes:
    """Raises _TooLong, and what a Reader raises; neither is remembered."""
    if len(repr(key)) > WISHES_CHARS_MAX:
        raise _TooLong
    entries: Any = {name: list(value) if isinstance(value, tuple) else value for name, value in key}
    return Reader(entries).result()


class Reader:
    """Takes the keys in one by one."""

    def __init__(self, entries: dict[str, Value]) -> None:
        self.flags: list[str] = []
        self.realms: tuple[str, ...] = ()
        self.family = 0
        self.load_limit = False
        self.host = ""
        self.media_host = ""
        self.transport = ""
        self.by_leg = False
        self._source = ""
        self._unknown: list[str] = []
        self._declined: list[str] = []
        self._remarks: list[str] = []
        for key, value in entries.items():
            self._key(key, value)
        if "SIP-source-address" in self.flags:
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
        """A list of texts; one text counts as a list of one, or has commas between several."""
        if isinstance(value, bytes) and key in words.LISTED_KEYS:
            return text_of(value, key).split(",")
        return [text_of(entry, key) for entry in (value if isinstance(value, list) else [value])]

    def _word(self, word: str) -> None:
        if word in words.CARRIED:
            self._flag(word)
        elif word == words.LEG_PER_BRANCH:
            self.by_leg = True
        elif word == words.RECORD_CALL:
            self._flag(f"{word}=on")
        elif word in words.NEUTRAL:
            pass
        elif "=" in word:
            self._pair(*word.split("=", 1))
        elif word.startswith(_PREFIXES):
            key = next(prefix for prefix in _PREFIXES if word.startswith(prefix))
            self._pair(key[:-1], word.removeprefix(key))
        elif word in words.DECLINED or word.startswith(words.DECLINED_PREFIXES):
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
            host = self._host(key, value)
            self.media_host = "" if host in UNSPECIFIED.values() else host
        elif key == "replace":
            word = value.replace(" ", "-")
            if word in words.REPLACED:
                self._flag(f"replace={word}")
            else:
                self._declined.append(f"replace={word}")
        elif key == "ICE" and value not in words.ICE_VALUES:
            self._declined.append(f"ICE={value}")
        elif key == "ICE" and value in words.ICE_WITH_CANDIDATES:
            # A candidate of the far end would lead media around the gateway: ours is the only one.
            self._remarks.append(f"ICE={value} is done as ICE=force: no other candidate passes")
            self._flag("ICE=force")
        elif key == "rtcp-mux" and value not in words.MUX_VALUES:
            self._declined.append(f"rtcp-mux={value}")
        elif key in words.CARRIED_KEYS:
            if key == "address":
                value = self._host(key, value) or value
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

    def result(self) -> Wishes:
        ignored = []
        for what, names in (("not done here", self._declined), ("unknown", self._unknown)):
            if names:
                named = ", ".join(show(name)[1:-1] for name in names[:WARNING_WORDS_MAX])
                more = " and more" if len(names) > WARNING_WORDS_MAX else ""
                ignored.append(f"ignored ({what}): {named}{more}")
        return Wishes(
            tuple(sorted(self.flags)),
            self.realms,
            self.family,
            self.load_limit,
            self.host,
            self.media_host,
            self.transport,
            tuple(self._remarks),
            tuple(ignored),
            self.by_leg,
        )
