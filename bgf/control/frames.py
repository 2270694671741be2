"""An `ng` frame: a cookie, a space and a dictionary in bencode or JSON <-> values. No sockets.

Knows: both notations and their limits. Must not know commands.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from bgf.control import bencode, words
from bgf.control.bencode import BadBencode, Encodable, Value
from bgf.control.sdp import show
from bgf.errors import Malformed

DATAGRAM_BYTES_MAX = 65_507
"""Largest UDP payload over IPv4 (65,535 - 20 - 8)."""
COOKIE_BYTES_MAX = 128
"""Kamailio's has at most 34."""
IDENTIFIER_BYTES_MAX = 512
"""Call-ID, tag, branch, label."""


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


class Codec(enum.Enum):
    """How the dictionary was written; the answer is written likewise."""

    BENCODE = "bencode"
    JSON = "json"


def cookie_of(datagram: bytes) -> str:
    """What a frame's answer must begin with; its dictionary follows one space behind. Raises
    NoCookie (answering is impossible then)."""
    end = datagram.find(b" ", 0, COOKIE_BYTES_MAX + 1)
    if end <= 0:
        raise NoCookie(f"no cookie in the first {COOKIE_BYTES_MAX} bytes")
    cookie = datagram[:end]
    if cookie.isascii() and (text := cookie.decode("ascii")).isprintable():
        return text
    raise NoCookie("the cookie is not printable ASCII")


def split(datagram: bytes) -> tuple[str, bytes]:
    """Cookie and dictionary of a frame. Raises NoCookie."""
    cookie = cookie_of(datagram)
    return cookie, datagram[len(cookie) + 1 :]


def entries(datagram: bytes, at: int) -> tuple[Codec, dict[str, Value]]:
    """The dictionary that begins there, with hyphens for spaces in its keys. Of a key given twice
    the first counts; those that hold lists add up, which in JSON two spellings can alone: of one
    name the last counts there (RFC 8259 section 4). Raises BadBencode, BadJson."""
    lead = datagram[at : at + 1]
    if lead == b"d":
        return Codec.BENCODE, bencode.decode_named(datagram, at, words.LISTED_KEYS)
    if lead != b"{":
        raise BadBencode(
            "neither a bencode dictionary ('d') nor a JSON object ('{') after the cookie"
        )
    found: dict[str, Value] = {}
    for key, value in _json(datagram[at:]).items():
        name = key.decode("utf-8", "replace").replace(" ", "-")
        if name not in found:
            found[name] = value
        elif name in words.LISTED_KEYS:
            found[name] = gathered(found[name], value)
    return Codec.JSON, found


def gathered(before: Value, value: Value) -> list[Value]:
    """What a key says that is given twice."""
    return [*as_list(before), *as_list(value)]


def as_list(value: Value) -> list[Value]:
    """A list; what is none counts as a list of one."""
    return value if isinstance(value, list) else [value]


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


def frame(cookie: str, codec: Codec, body: Mapping[str, Encodable]) -> bytes:
    head = cookie.encode() + b" "
    return (
        bencode.encode(body, head) if codec is Codec.BENCODE else head + msgspec.json.encode(body)
    )


def text_of(value: Value, key: str) -> str:
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
