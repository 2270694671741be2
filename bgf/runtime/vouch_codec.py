"""What nodes say to each other when they vouch, as authenticated datagrams. No sockets.

Knows: the bytes, the cluster's keys. Must not know who may vouch, nor what a lease is.

  "BGFV", version 1, number of the key (a byte each), message (MessagePack), HMAC-SHA256 of that
Nothing in it is secret. The key is derived from the cluster's (HMAC of a label, RFC 2104), which
its state servers seal with; a recording proves nothing: `vouching` takes each number once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from failover.config import GROUPS_MAX, PEERS_MAX
from failover.testimony import Word
from failover.vouching import Vouch, VouchRequest

MAGIC: Final = b"BGFV\x01"
LABEL: Final = b"bgf failover: vouching 1"
TAG_BYTES: Final = 32
HEAD_BYTES: Final = len(MAGIC) + 1
DATAGRAM_BYTES_MAX: Final = 8_192
NAME_CHARS_MAX: Final = 128
KEY_FILE_BYTES_MAX: Final = 65_536
KEY_BYTES: Final = 32
KEY_ID_MAX: Final = 255

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Question(msgspec.Struct, array_like=True, tag="q", frozen=True):
    owner: _Name
    to: _Name
    life: _Whole
    number: _Whole
    length_ns: _Whole
    groups: Annotated[dict[_Name, _Whole], msgspec.Meta(max_length=GROUPS_MAX)]


class _Answer(msgspec.Struct, array_like=True, tag="a", frozen=True):
    by: _Name
    owner: _Name
    life: _Whole
    number: _Whole
    length_ns: _Whole
    groups: Annotated[list[_Name], msgspec.Meta(max_length=GROUPS_MAX)]
    why: Annotated[str, msgspec.Meta(max_length=4 * NAME_CHARS_MAX)]


class _Word(msgspec.Struct, array_like=True, tag="w", frozen=True):
    by: _Name
    incarnation: _Whole
    number: _Whole
    suspects: Annotated[dict[_Name, list[_Name]], msgspec.Meta(max_length=PEERS_MAX + 1)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Question | _Answer | _Word).decode


class BadDatagram(Exception):
    """Not from a holder of the cluster's key, or nothing that is understood. To be counted."""


class KeyFile:
    """The cluster's key file, read again whenever it changes. Lines `ID HEX64`: the first seals,
    all of them open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[int, bytes] = {}
        self.trouble = ""
        """Why nothing can be sealed, or a change was not taken up."""

    def keys(self) -> Mapping[int, bytes]:
        """Derived keys by number, the sealing one first; the last ones when the file is unfit."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._keys = self._read()
                self._seen, self.trouble = seen, ""
        except (OSError, ValueError) as error:
            self.trouble = f"{self._path}: {getattr(error, 'strerror', None) or error}"
        return self._keys

    def _read(self) -> dict[int, bytes]:
        """Raises OSError, ValueError; the state server says more of what is wrong with it."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o7177:
                raise ValueError("its mode lets others use the keys; chmod it to 0600")
            text = file.read(KEY_FILE_BYTES_MAX).decode("ascii")
        keys: dict[int, bytes] = {}
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if not words:
                continue
            number, key = int(words[0]), bytes.fromhex(words[-1])
            if len(words) != 2 or not 0 <= number <= KEY_ID_MAX or len(key) != KEY_BYTES:
                raise ValueError("a line is not: number, space, 64 hexadecimal digits")
            keys[number] = hmac.digest(key, LABEL, hashlib.sha256)
        if not keys:
            raise ValueError("no key in it")
        return keys


def seal(message: VouchRequest | Vouch | Word, keys: Mapping[int, bytes]) -> bytes:
    """Raises BadDatagram when there is no key, or it would be too long."""
    if not keys:
        raise BadDatagram("no key")
    number, key = next(iter(keys.items()))
    if isinstance(message, VouchRequest):
        body = _encode(
            _Question(
                message.owner, message.to, message.life, message.number, message.length_ns,
                dict(message.groups),
            )
        )  # fmt: skip
    elif isinstance(message, Word):
        suspects = {peer: list(paths) for peer, paths in message.suspects.items()}
        body = _encode(_Word(message.by, message.incarnation, message.number, suspects))
    else:
        body = _encode(
            _Answer(
                message.by, message.owner, message.life, message.number, message.length_ns,
                list(message.groups), message.why[: 4 * NAME_CHARS_MAX],
            )
        )  # fmt: skip
    said = MAGIC + bytes([number]) + body
    if len(said) + TAG_BYTES > DATAGRAM_BYTES_MAX:
        raise BadDatagram(f"{len(said)} bytes: at most {DATAGRAM_BYTES_MAX - TAG_BYTES}")
    return said + hmac.digest(key, said, hashlib.sha256)


def unseal(datagram: bytes, keys: Mapping[int, bytes]) -> VouchRequest | Vouch | Word:
    """Raises BadDatagram."""
    said, tag = datagram[:-TAG_BYTES], datagram[-TAG_BYTES:]
    if len(said) < HEAD_BYTES or not said.startswith(MAGIC):
        raise BadDatagram("no such message")
    key = keys.get(said[HEAD_BYTES - 1])
    if key is None or not hmac.compare_digest(hmac.digest(key, said, hashlib.sha256), tag):
        raise BadDatagram("not sealed with a key of this cluster")
    try:
        message = _decode(said[HEAD_BYTES:])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadDatagram(f"not understood: {error}") from None
    if isinstance(message, _Question):
        return VouchRequest(
            message.owner, message.to, message.life, message.number, message.length_ns,
            message.groups,
        )  # fmt: skip
    if isinstance(message, _Word):
        suspects = {peer: tuple(paths) for peer, paths in message.suspects.items()}
        return Word(message.by, message.incarnation, message.number, suspects)
    return Vouch(
        message.by, message.owner, message.life, message.number, message.length_ns,
        tuple(message.groups), message.why,
    )  # fmt: skip
