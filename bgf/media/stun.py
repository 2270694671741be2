"""STUN messages as ICE uses them: requests read, answers written (RFC 8489, RFC 8445 section 7).

Knows: the wire format, MESSAGE-INTEGRITY with short-term credentials, FINGERPRINT. Must not know
sockets, flows, who is allowed to ask. Everything here is pure; a message that is none is None.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import struct
import zlib
from typing import Final, NamedTuple

from bgf.model import Address

HEADER: Final = struct.Struct(">HHI12s")
COOKIE: Final = 0x2112A442
MESSAGE_BYTES_MAX: Final = 1_452
ATTRIBUTES_MAX: Final = 32

BINDING_REQUEST: Final = 0x0001
BINDING_SUCCESS: Final = 0x0101
BINDING_ERROR: Final = 0x0111

USERNAME: Final = 0x0006
MESSAGE_INTEGRITY: Final = 0x0008
ERROR_CODE: Final = 0x0009
UNKNOWN_ATTRIBUTES: Final = 0x000A
XOR_MAPPED_ADDRESS: Final = 0x0020
PRIORITY: Final = 0x0024
USE_CANDIDATE: Final = 0x0025
FINGERPRINT: Final = 0x8028
ICE_CONTROLLED: Final = 0x8029
ICE_CONTROLLING: Final = 0x802A

_UNDERSTOOD: Final = frozenset((USERNAME, MESSAGE_INTEGRITY, PRIORITY, USE_CANDIDATE))
_OPTIONAL_FROM: Final = 0x8000  # RFC 8489 section 14: not understood, these are ignored
_ATTRIBUTE: Final = struct.Struct(">HH")
_INTEGRITY_BYTES: Final = 20
_FINGERPRINT_MASK: Final = 0x5354554E
_COOKIE_BYTES: Final = COOKIE.to_bytes(4, "big")


class Message(NamedTuple):
    """A message whose form and fingerprint are right. `integrity_at` is where its
    MESSAGE-INTEGRITY begins, -1 when it has none; attributes behind that one are not in here."""

    kind: int
    transaction: bytes
    attributes: dict[int, bytes]
    raw: bytes
    integrity_at: int

    @property
    def unknown(self) -> list[int]:
        """Attributes that must be understood and are not."""
        return [kind for kind in self.attributes if kind < _OPTIONAL_FROM and
                kind not in _UNDERSTOOD]  # fmt: skip

    def is_signed_by(self, pwd: str) -> bool:
        """Does its integrity prove that the sender has this password (RFC 8489 section 14.5)?"""
        if self.integrity_at < 0:
            return False
        want = _integrity(self.raw[: self.integrity_at], pwd)
        return hmac.compare_digest(want, self.attributes[MESSAGE_INTEGRITY])


def read(raw: bytes) -> Message | None:
    """A STUN message; None for what is none, or has a fingerprint that is wrong or missing."""
    if not HEADER.size <= len(raw) <= MESSAGE_BYTES_MAX:
        return None
    kind, length, cookie, transaction = HEADER.unpack_from(raw)
    if cookie != COOKIE or kind >> 14 or length != len(raw) - HEADER.size:
        return None
    attributes: dict[int, bytes] = {}
    at, integrity_at = HEADER.size, -1
    for _ in range(ATTRIBUTES_MAX):
        if at + _ATTRIBUTE.size > len(raw):
            return None
        name, size = _ATTRIBUTE.unpack_from(raw, at)
        value = raw[at + _ATTRIBUTE.size : at + _ATTRIBUTE.size + size]
        if len(value) != size:
            return None
        if name == FINGERPRINT:  # always the last
            whole = at + _ATTRIBUTE.size + size == len(raw)
            good = whole and value == _fingerprint(raw[:at])
            return Message(kind, transaction, attributes, raw, integrity_at) if good else None
        if name == MESSAGE_INTEGRITY and integrity_at < 0:
            if size != _INTEGRITY_BYTES:
                return None
            integrity_at = at
            attributes[name] = value
        elif integrity_at < 0:
            attributes.setdefault(name, value)  # the first of a kind counts
        at += _ATTRIBUTE.size + (size + 3) // 4 * 4
    return None


def success(request: Message, sender: Address, pwd: str) -> bytes:
    """The answer that tells the sender its address, with integrity and fingerprint."""
    return _signed(BINDING_SUCCESS, request.transaction, [_mapped(request, sender)], pwd)


def error(request: Message, code: int, reason: str, pwd: str) -> bytes:
    """An error answer (RFC 8489 section 14.8); 420 names what was not understood."""
    body = struct.pack(">HBB", 0, code // 100, code % 100) + reason.encode()
    attributes = [(ERROR_CODE, body)]
    if code == 420:
        names = b"".join(name.to_bytes(2, "big") for name in request.unknown)
        attributes.append((UNKNOWN_ATTRIBUTES, names))
    return _signed(BINDING_ERROR, request.transaction, attributes, pwd)


def _mapped(request: Message, sender: Address) -> tuple[int, bytes]:
    """XOR-MAPPED-ADDRESS (RFC 8489 section 14.2)."""
    packed = ipaddress.ip_address(sender.host).packed
    mask = _COOKIE_BYTES + request.transaction
    port = sender.port ^ COOKIE >> 16
    hidden = bytes(byte ^ key for byte, key in zip(packed, mask, strict=False))
    family = 2 if len(packed) == 16 else 1
    return XOR_MAPPED_ADDRESS, struct.pack(">BBH", 0, family, port) + hidden


def _signed(kind: int, transaction: bytes, attributes: list[tuple[int, bytes]], pwd: str) -> bytes:
    body = b"".join(
        _ATTRIBUTE.pack(name, len(value)) + value + bytes(-len(value) % 4)
        for name, value in attributes
    )
    head = HEADER.pack(kind, len(body), COOKIE, transaction)
    proof = _integrity(head + body, pwd)
    body += _ATTRIBUTE.pack(MESSAGE_INTEGRITY, len(proof)) + proof
    length = len(body) + _ATTRIBUTE.size + 4
    message = HEADER.pack(kind, length, COOKIE, transaction) + body
    return message + _ATTRIBUTE.pack(FINGERPRINT, 4) + _fingerprint(message)


def _integrity(before: bytes, pwd: str) -> bytes:
    """HMAC-SHA1 over all that stands before it, as if it ended the message."""
    length = len(before) - HEADER.size + _ATTRIBUTE.size + _INTEGRITY_BYTES
    counted = before[:2] + length.to_bytes(2, "big") + before[4:]
    return hmac.new(pwd.encode(), counted, hashlib.sha1).digest()


def _fingerprint(before: bytes) -> bytes:
    return (zlib.crc32(before) ^ _FINGERPRINT_MASK).to_bytes(4, "big")
