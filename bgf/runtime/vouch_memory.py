"""`<run_dir>/failover.words`: what a failover process has promised and claimed, for the next one.

Knows: the file, and that it means nothing after the machine was switched on again. Must not know
what a promise is for. The directory is in memory: a machine that boots has forgotten.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from failover.vouching import Recollection

BYTES_MAX: Final = 1 << 20


class _Kept(msgspec.Struct):
    boot: str
    recollection: Recollection


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


class MemoryFile:
    """`failover.adapters.Memory` of one boot of this machine."""

    def __init__(self, run_dir: Path, boot: str) -> None:
        self._path = run_dir / "failover.words"
        self._boot = boot

    def load(self) -> Recollection | None:
        try:
            with self._path.open("rb") as file:
                kept = _decode(file.read(BYTES_MAX))
        except (OSError, msgspec.MsgspecError):
            return None
        return kept.recollection if self._boot and kept.boot == self._boot else None

    def keep(self, recollection: Recollection) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(_encode(_Kept(self._boot, recollection)))
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            raise
