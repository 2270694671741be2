"""`<run_dir>/gateway.ready`: what a gateway process says of itself to its node's failover process.

A file and not an item: taking a group over must not wait for the state plane, nor ask it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

VALID_MS: Final = 1_500
LACKING_MS: Final = 1_000  # pinholes on their way are no lack
LOOK_MS: Final = 10
BYTES_MAX: Final = 4_096
LACKS_MAX: Final = 16
NS_PER_MS: Final = 1_000_000

_encode = msgspec.json.Encoder().encode


class ReadyMark(msgspec.Struct, frozen=True):
    """`at_ns` is CLOCK_BOOTTIME: when the process last followed the feed.

    `recorded` is how many pinholes the state plane has, `pinholes` how many the packet path
    holds, `refused` how many the packet path would not take. `lacks` says for what there would be
    no room here, LACKS_MAX sentences at most.
    """

    at_ns: int
    pinholes: int
    sessions: int
    recorded: int = 0
    refused: int = 0
    lacks: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(ReadyMark).decode


class Readiness:
    """Written by the gateway process, read by the failover process, several times a second."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "gateway.ready"
        self._mark: ReadyMark | None = None
        self._looked_ns = -LOOK_MS * NS_PER_MS
        self._full_ns = 0
        self._file: tuple[int, int] = (0, 0)

    def publish(self, mark: ReadyMark) -> None:
        """Replace the mark; a reader sees the old one or the new one. Raises OSError."""
        temporary = self._path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(mark))
        temporary.replace(self._path)
        self._looked_ns = -LOOK_MS * NS_PER_MS

    def fresh(self, now_ns: int) -> bool:
        """Has the gateway process said within VALID_MS that it follows the feed?"""
        mark = self._look(now_ns)
        return mark is not None and 0 <= now_ns - mark.at_ns < VALID_MS * NS_PER_MS

    def lacks(self, now_ns: int) -> list[str]:
        """Why a planned move to this node would have to wait; nothing when it would not."""
        mark = self._look(now_ns)
        if mark is None or not self.fresh(now_ns):
            return ["its gateway process does not follow the change feed, or is dead"]
        lacking = now_ns - self._full_ns >= LACKING_MS * NS_PER_MS
        if mark.pinholes < mark.recorded and lacking:
            return ["its packet path lacks recorded pinholes", *mark.lacks]
        return list(mark.lacks)

    def _look(self, now_ns: int) -> ReadyMark | None:
        """The mark, read again when the last look is LOOK_MS old."""
        if 0 <= now_ns - self._looked_ns < LOOK_MS * NS_PER_MS:
            return self._mark
        self._looked_ns = now_ns
        try:
            found = self._path.stat()
            if self._file != (found.st_ino, found.st_mtime_ns):  # each mark is a file of its own
                self._mark = self._read()
        except (OSError, msgspec.MsgspecError):
            self._mark, self._file = None, (0, 0)
        if self._mark is None or self._mark.pinholes >= self._mark.recorded:
            self._full_ns = now_ns
        return self._mark

    def _read(self) -> ReadyMark:
        """The mark, and which file it was in. Raises OSError, MsgspecError."""
        with self._path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            mark = _decode(file.read(BYTES_MAX))
        self._file = (found.st_ino, found.st_mtime_ns)
        return mark
