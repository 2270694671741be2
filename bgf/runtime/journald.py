"""Log lines as journal entries with fields, where systemd collects what a process says.

Knows the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of fields.
Must not know what is logged. A line gets fields by the `extra` of its call, as in
`log.info("...", extra={"group": "g1", "epoch": 7})`; without systemd only the text is shown.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

JOURNAL: Final = Path("/run/systemd/journal/socket")
STREAM_VARIABLE: Final = "JOURNAL_STREAM"
FIELDS: Final = ("call", "group", "epoch", "reason", "peer")
"""What a line may be about; in the journal BGF_CALL, BGF_GROUP, ..."""
VALUE_BYTES_MAX: Final = 32 * 1024
"""Of one field: what is longer is cut, so that an entry fits into a datagram."""
STDERR: Final = 2

# logging's levels, syslog(3)'s priorities
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_collected(environment: Mapping[str, str]) -> bool:
    """Does the journal read our standard error? systemd.exec(5): JOURNAL_STREAM names its file."""
    device, _, inode = environment.get(STREAM_VARIABLE, "").partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    try:
        status = os.fstat(STDERR)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def entry(fields: Mapping[str, str]) -> bytes:
    """One journal entry. A value of several lines carries its length."""
    parts = []
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")[:VALUE_BYTES_MAX]
        if b"\n" in raw:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(name.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


def priority(level: int) -> int:
    return next((number for floor, number in _PRIORITIES if level >= floor), _DEBUG)


class JournalHandler(logging.Handler):
    """To the journal; a line that it does not take goes to standard error, which it reads too."""

    def __init__(self, process: str, node: str, path: Path = JOURNAL) -> None:
        """Raises OSError when there is no journal."""
        super().__init__()
        self._always = {
            "SYSLOG_IDENTIFIER": f"bgf-{process}",
            "BGF_PROCESS": process,
            "BGF_NODE": node,
        }
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        # A journal that stands still must not hold calls up.
        self._socket.setblocking(False)
        self._plain = logging.StreamHandler()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            fields = {
                "MESSAGE": text,
                "PRIORITY": str(priority(record.levelno)),
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                **self._always,
            }
            for name in FIELDS:
                value = getattr(record, name, None)
                if value not in (None, ""):
                    fields[f"BGF_{name.upper()}"] = str(value)
            self._send(entry(fields), record)
        except Exception:
            self.handleError(record)

    def _send(self, datagram: bytes, record: logging.LogRecord) -> None:
        try:
            self._socket.send(datagram)
        except BlockingIOError:
            return
        except OSError:
            # journald was started anew: its socket is another one now
            try:
                self._socket.connect(self._path)
                self._socket.send(datagram)
            except OSError:
                self._plain.emit(record)

    def close(self) -> None:
        self._socket.close()
        super().close()
