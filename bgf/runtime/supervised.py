"""What systemd is told of a process: ready, how it goes in one sentence, alive, going.

Knows sd_notify(3): one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names. Must
not know what a process does. Without that variable nothing is sent. The protocol is stable and
meant to be spoken without libsystemd, so no library stands between (decision 38).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

log = logging.getLogger("bgf")

PATH_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")
LOOK_MS: Final = 1_000
"""How often a process says that it lives, unless the watchdog wants it more often."""
PINGS_PER_WATCHDOG: Final = 4
STATUS_CHARS_MAX: Final = 256

Sentence = Callable[[], str]


class Supervisor:
    """The way to systemd, if it started us. Takes its variables out of `environment`: they are not
    for children. Nothing here raises: a supervisor that is deaf is no reason to stop."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        path = environment.pop(PATH_VARIABLE, "")
        usec, pid = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
        self._socket: socket.socket | None = None
        self._said = ""
        self.watchdog_ms = 0.0
        if not path.startswith(("/", "@")):
            return
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        if usec.isascii() and usec.isdigit() and pid in ("", str(os.getpid())):
            self.watchdog_ms = int(usec) / 1_000

    @property
    def interval_ms(self) -> float:
        """Between two signs of life."""
        if not self.watchdog_ms:
            return LOOK_MS
        return min(LOOK_MS, self.watchdog_ms / PINGS_PER_WATCHDOG)

    def ready(self) -> None:
        self._send("READY=1")

    def alive(self, sentence: str) -> None:
        """A sign of life; the sentence is sent when it is another one than last time."""
        said = " ".join(sentence.split())[:STATUS_CHARS_MAX]
        lines = ["WATCHDOG=1"] if self.watchdog_ms else []
        if said != self._said:
            lines.append(f"STATUS={said}")
        if lines and self._send("\n".join(lines)):
            self._said = said

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> bool:
        if self._socket is None:
            return False
        with contextlib.suppress(OSError):  # its queue is full, or it is gone: the next one counts
            self._socket.sendto(text.encode(), self._path)
            return True
        return False


async def supervise(supervisor: Supervisor, sentence: Sentence | None) -> None:
    """Say ready, then that we live, for ever. In the event loop of what it vouches for: one that is
    stuck is a process that is silent."""
    supervisor.ready()
    while True:
        supervisor.alive(_asked(sentence))
        await asyncio.sleep(supervisor.interval_ms / 1_000)


def _asked(sentence: Sentence | None) -> str:
    if sentence is None:
        return "ready"
    try:
        return sentence()
    except Exception:
        log.exception("what systemd is told could not be found out")
        return "cannot say how it goes: see the log"
