"""`<run_dir>/gateway.ready`: what a gateway process says of itself to its node's failover process.

A file and not an item: taking a group over must not wait for the state plane, nor ask it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

VALID_MS: Final = 1_500
BYTES_MAX: Final = 256

_encode = msgspec.json.Encoder().encode


class ReadyMark(msgspec.Struct, frozen=True):
    """`at_ns` is CLOCK_BOOTTIME: when the process last followed the feed."""

    at_ns: int
    pinholes: int
    sessions: int


_decode = msgspec.json.Decoder(ReadyMark).decode


class Readiness:
    """Written by the gateway process, read by the failover process, several times a second."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "gateway.ready"

    def publish(self, mark: ReadyMark) -> None:
        """Replace the mark; a reader sees the old one or the new one. Raises OSError."""
        temporary = self._path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(mark))
        temporary.replace(self._path)

    def fresh(self, now_ns: int) -> bool:
        """Has the gateway process said within VALID_MS that it follows the feed?"""
        try:
            with self._path.open("rb") as file:
                mark = _decode(file.read(BYTES_MAX))
        except (OSError, msgspec.MsgspecError):
            return False
        return 0 <= now_ns - mark.at_ns < VALID_MS * 1_000_000
