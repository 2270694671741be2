"""`rtpp-flags`: all flags of a command in one string, from a proxy that leaves reading them to us.

Knows: how that string is divided into words, keys and lists. Must not know what a flag does
(`wishes`). Kamailio sends it where its functions are given a via-branch as a parameter of its own.
Source: rtpengine's `ng` manual and its reader of that string.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bgf.control.bencode import Value
from bgf.control.frames import gathered
from bgf.control.words import LISTED_KEYS

KEYS: Final = ("rtpp-flags", "rtpp_flags")
"""Its spellings, besides the one with a space."""

_TO_TAG: Final = "to-tag"
_WORDS: Final = "flags"
_DIRECTION: Final = "direction"
_BARE_DIRECTIONS: Final = ("internal", "external")  # names of interfaces that are words, too
_BRANCHES: Final = frozenset(
    (
        b"1",
        b"2",
        b"auto",
        b"extra",
        b"next",
        b"auto-next",
        b"next-auto",
        b"auto-extra",
        b"extra-auto",
    )
)
"""Values of `via-branch` that tell a proxy's module where to take it from, and name none."""
_NOT_HERE: Final = frozenset(("command", "sdp", *KEYS))

_SECURE, _FEEDBACK, _DTLS = 1, 2, 4
_PROFILES: Final = {
    0: "RTP/AVP",
    _SECURE: "RTP/SAVP",
    _FEEDBACK: "RTP/AVPF",
    _SECURE | _FEEDBACK: "RTP/SAVPF",
    _DTLS: "UDP/TLS/RTP/SAVP",
    _DTLS | _FEEDBACK: "UDP/TLS/RTP/SAVPF",
}
_WHOLE: Final = {name: bits for bits, name in _PROFILES.items()}
_SETS: Final = {"SRTP": _SECURE, "AVPF": _FEEDBACK, "DTLS": _DTLS}
_CLEARS: Final = {"RTP": _SECURE, "AVP": _FEEDBACK}


def expanded(entries: dict[str, Value], *, ends: bool = False) -> dict[str, Value]:
    """A request's entries, with what its `rtpp-flags` say in their place; they are changed.

    A key of the string overrides one beside it, as in rtpengine, which reads the string last; lists
    add up. `ends`: the request is a deletion, to which Kamailio then gives the To tag always; as in
    rtpengine it counts where the word `to-tag` is among the flags. What is no string stays.
    """
    flags: _Flags | None = None
    for key in KEYS:
        text = entries.get(key)
        if isinstance(text, bytes):
            del entries[key]
            flags = flags or _Flags()
            flags.read(text)
    if flags is None:
        return entries
    if ends and not flags.names_callee:
        entries.pop(_TO_TAG, None)
    for name, value in flags.entries().items():
        adds = name in LISTED_KEYS and name != _DIRECTION and name in entries
        entries[name] = gathered(entries[name], value) if adds else value
    return entries


class _Flags:
    """Takes the words in one by one."""

    def __init__(self) -> None:
        self.names_callee = False
        self._lists: dict[str, list[Value]] = {}
        self._others: dict[str, Value] = {}
        self._profile: int | None = None

    def read(self, text: bytes) -> None:
        for key, value in _pairs(text):
            name = key.decode("utf-8", "replace")
            self.names_callee |= name == _TO_TAG
            if value:
                self._pair(name, value)
            elif name in _BARE_DIRECTIONS:
                self._add(_DIRECTION, [key])
            elif name != _TO_TAG and not self._profiled(name):
                self._add(_WORDS, [key])

    def entries(self) -> dict[str, Value]:
        """What was said, by key."""
        found: dict[str, Value] = {**self._others, **self._lists}
        if self._profile is not None:
            # DTLS exchanges keys for SRTP: the one word says the other.
            bits = self._profile & ~_SECURE if self._profile & _DTLS else self._profile
            found["transport-protocol"] = _PROFILES[bits].encode()
        return found

    def _pair(self, name: str, value: bytes) -> None:
        word = f"{name}=".encode() + value
        if name in _NOT_HERE or (name == "via-branch" and value in _BRANCHES):
            self._add(_WORDS, [word])  # which nobody knows, and the reply says so
        elif name == "transcode" or name.startswith("codec-"):
            self._add(_WORDS, [word.replace(b"=", b"-", 1)])
        elif value.startswith(b"["):
            self._add(name, _bracketed(value))
        elif name == _DIRECTION:
            self._add(name, [value])
        elif name in LISTED_KEYS:
            self._add(name, value.split(b","))
        else:
            self._others[name] = value

    def _add(self, name: str, values: Sequence[Value]) -> None:
        self._lists.setdefault(name, []).extend(values)

    def _profiled(self, name: str) -> bool:
        """Is it a word for the transport?"""
        before = self._profile or 0
        if name in _WHOLE:
            self._profile = _WHOLE[name]
        elif name in _SETS:
            self._profile = before | _SETS[name]
        elif name in _CLEARS:
            self._profile = before & ~_CLEARS[name]
        else:
            return False
        return True


def _pairs(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every `key=value`; a word alone has no value. Brackets may hold spaces."""
    words = iter(text.split())
    for word in words:
        key, _, value = word.partition(b"=")
        if value.startswith(b"["):
            parts, depth = [value], value.count(b"[") - value.count(b"]")
            while depth > 0 and (more := next(words, None)) is not None:
                parts.append(more)
                depth += more.count(b"[") - more.count(b"]")
            value = b" ".join(parts)
        if key:
            yield key, value


def _bracketed(value: bytes) -> list[Value]:
    """A list of words; of a dictionary no more than that it is one: none is done here."""
    inner = value.removeprefix(b"[").removesuffix(b"]")
    if b"=" in inner or b"[" in inner:
        return [{}]
    return [*inner.split()]
