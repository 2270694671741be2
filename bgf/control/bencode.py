"""Bencode, as the `ng` protocol frames its dictionaries (BitTorrent BEP 3, keys in any order).

Knows: bytes. Must not know: what any key means. Byte strings stay bytes, so that what a peer
sent can be sent on unchanged. Everything read is bounded before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bgf.control import _codec
from bgf.errors import Malformed

Value = int | bytes | list["Value"] | dict[bytes, "Value"]
"""What decoding gives."""
Encodable = int | bytes | str | Sequence["Encodable"] | Mapping[str, "Encodable"]
"""What encoding takes: text is UTF-8, lone surrogates are the raw bytes they stand for."""

DEPTH_MAX = _codec.DEPTH_MAX
"""Nesting that is read, in containers; a real `ng` request has two, a query's reply seven."""
INTEGER_DIGITS_MAX = _codec.INTEGER_DIGITS_MAX
"""Digits of an integer: what fits 64 bits with its sign whatever the digits are."""
LENGTH_DIGITS_MAX = _codec.LENGTH_DIGITS_MAX
"""Digits of a byte string's length prefix."""


class BadBencode(Malformed):
    """The bytes are not bencode; the reason names the offset in the dictionary."""

    code = "bad-bencode"


def decode(data: bytes) -> dict[bytes, Value]:
    """Read one dictionary; of a key given twice the first counts. White space after it is ignored.
    Raises BadBencode, nothing else."""
    try:
        return _codec.decode(data, 0)
    except ValueError as error:
        raise BadBencode(str(error)) from None


def decode_named(data: bytes, at: int, gathered: frozenset[str] = frozenset()) -> dict[str, Value]:
    """As `decode`, from an offset, with text for keys and hyphens for the spaces in them. What a
    key of `gathered` says each time it is given is one list."""
    try:
        return _codec.decode(data, at, True, gathered)
    except ValueError as error:
        raise BadBencode(str(error)) from None


def encode(value: Encodable, before: bytes = b"") -> bytes:
    """Write a value behind some bytes, dictionary keys sorted as BEP 3 wants them."""
    return _codec.encode(value, before)


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
