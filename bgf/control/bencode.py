"""Bencode, as the `ng` protocol frames its dictionaries (BitTorrent BEP 3, keys in any order).

Knows: bytes. Must not know: what any key means. Byte strings stay bytes, so that what a peer
sent can be sent on unchanged. Everything read is bounded before it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from bgf.errors import Malformed

Value = int | bytes | list["Value"] | dict[bytes, "Value"]
"""What decoding gives."""
Encodable = int | bytes | str | Sequence["Encodable"] | Mapping[str, "Encodable"]
"""What encoding takes: text is UTF-8, lone surrogates are the raw bytes they stand for."""

DEPTH_MAX = 16
"""Nesting, in containers; a real `ng` request has two, a query's reply seven."""
INTEGER_DIGITS_MAX = 18
"""Digits of an integer: what fits 64 bits with its sign whatever the digits are."""
LENGTH_DIGITS_MAX = 8
"""Digits of a byte string's length prefix."""
KEYS_CACHED_MAX = 512
"""Keys remembered as they are written: replies have the same few."""


class BadBencode(Malformed):
    """The bytes are not bencode; the reason names the offset in the dictionary."""

    code = "bad-bencode"


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """The value that begins at offset `at`, and the offset behind it."""
    # Strings first and in one go: they are nine tenths of what is read. isdigit() on bytes is
    # ASCII only, so no sign, underscore or space reaches int().
    colon = data.find(b":", at, at + LENGTH_DIGITS_MAX + 1)
    if colon > 0 and (digits := data[at:colon]).isdigit():
        begin = colon + 1
        end = begin + int(digits)
        if end > len(data):
            left = len(data) - begin
            raise BadBencode(f"string of {int(digits)} bytes at byte {at}, {left} are left")
        return data[begin:end], end
    lead = data[at : at + 1]
    if lead in (b"d", b"l"):
        if depth >= DEPTH_MAX:
            raise BadBencode(f"nested deeper than {DEPTH_MAX} at byte {at}")
        return _dictionary(data, at, depth) if lead == b"d" else _list(data, at, depth)
    if lead == b"i":
        return _integer(data, at)
    if lead.isdigit():
        raise BadBencode(f"a string length has 1 to {LENGTH_DIGITS_MAX} digits and ':' (byte {at})")
    if not lead:
        raise BadBencode(f"ends at byte {at} where a value must follow")
    raise BadBencode(f"no value begins with byte 0x{lead.hex()} (at byte {at})")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Value], int]:
    at += 1
    values: list[Value] = []
    while data[at : at + 1] != b"e":
        value, at = _value(data, at, depth + 1)
        values.append(value)
    return values, at + 1


def _dictionary(data: bytes, at: int, depth: int) -> tuple[dict[bytes, Value], int]:
    """A dictionary; of a key given twice the first counts, as in rtpengine."""
    at += 1
    entries: dict[bytes, Value] = {}
    while data[at : at + 1] != b"e":
        begun = at
        key, at = _value(data, at, depth + 1)
        if not isinstance(key, bytes):
            raise BadBencode(f"a dictionary key must be a string (at byte {begun})")
        value, at = _value(data, at, depth + 1)
        entries.setdefault(key, value)
    return entries, at + 1


def _integer(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"e", at + 1, at + INTEGER_DIGITS_MAX + 3)
    digits = data[at + 1 : end] if end > 0 else b""
    unsigned = digits.removeprefix(b"-")
    if not unsigned.isdigit() or len(unsigned) > INTEGER_DIGITS_MAX:
        raise BadBencode(f"an integer has 1 to {INTEGER_DIGITS_MAX} digits and 'e' (byte {at})")
    return int(digits), end + 1


def decode(data: bytes) -> dict[bytes, Value]:
    """Read one dictionary. White space after it is ignored. Raises BadBencode, nothing else."""
    if data[:1] != b"d":
        raise BadBencode("not a dictionary: it does not begin with 'd'")
    entries, end = _dictionary(data, 0, 0)
    if end != len(data) and data[end:].strip():
        raise BadBencode(f"{len(data) - end} bytes follow the dictionary")
    return entries


def encode(value: Encodable) -> bytes:
    """Write a value, dictionary keys sorted as BEP 3 wants them."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Encodable, parts: list[bytes]) -> None:
    # By exact type first: a query's reply has some two hundred values, and deletes answer so too.
    if type(value) is str:
        parts.append(_string(value))
    elif type(value) is int:
        parts.append(b"i%de" % value)
    elif type(value) is dict:
        parts.append(b"d")
        for key in sorted(value):  # by code point, as their UTF-8 sorts
            parts.append(_key(key))
            _encode(value[key], parts)
        parts.append(b"e")
    elif isinstance(value, bytes):
        parts.append(b"%d:%b" % (len(value), value))
    elif isinstance(value, str):
        parts.append(_string(value))
    elif isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, Mapping):
        _encode(dict(value), parts)
    else:
        parts.append(b"l")
        for entry in value:
            _encode(entry, parts)
        parts.append(b"e")


def _string(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return b"%d:%b" % (len(raw), raw)


_key = functools.lru_cache(maxsize=KEYS_CACHED_MAX)(_string)


def text(value: Value) -> TextValue:
    """The same with every byte string as text (UTF-8, other bytes as lone surrogates)."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [text(entry) for entry in value]
    if isinstance(value, dict):
        return {key.decode("utf-8", "surrogateescape"): text(entry) for key, entry in value.items()}
    return value


TextValue = int | str | list["TextValue"] | dict[str, "TextValue"]
"""A decoded value with text in place of bytes, as JSON would give it."""
