"""The kernel's watchdog device, hardware or softdog: the machine resets unless it is fed.

Knows: watchdog(4)'s calls. Must not know when to feed it: `fencing.may_live` does.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any, Final

from failover.errors import FailoverError

SET_TIMEOUT: Final = 0xC0045706  # WDIOC_SETTIMEOUT, linux/watchdog.h
FEED_EVERY_NS: Final = 1_000_000_000


class WatchdogError(FailoverError):
    """The device is missing, busy, or not a watchdog; the text names it."""

    code = "watchdog"


class LinuxWatchdog:
    """Open from now on: from here the machine resets `timeout_s` after the last `feed`.

    Raises WatchdogError. The driver may grant another timeout: `timeout_s` says which.
    """

    def __init__(
        self, device: str, timeout_s: int, ioctl: Callable[..., Any] = fcntl.ioctl
    ) -> None:
        try:
            self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise WatchdogError(
                f"watchdog {device}: {error.strerror}: load its driver (modprobe softdog), or "
                "give the server one (hw_watchdog_action=reset on the image)"
            ) from None
        self._fed_ns = -FEED_EVERY_NS
        try:
            granted = ioctl(self._fd, SET_TIMEOUT, struct.pack("i", timeout_s))
        except OSError as error:
            self.close()
            raise WatchdogError(f"{device} is no watchdog: {error.strerror}") from None
        self.timeout_s = int(struct.unpack("i", granted)[0])

    def feed(self, now_ns: int) -> None:
        """At most once a second; a write that fails is tried again the next time."""
        if now_ns - self._fed_ns < FEED_EVERY_NS:
            return
        try:
            os.write(self._fd, b"\0")
        except OSError:
            return
        self._fed_ns = now_ns

    def close(self) -> None:
        """On purpose, so that nothing resets ('V' is the magic close of watchdog(4))."""
        try:
            os.write(self._fd, b"V")
        except OSError:
            pass
        finally:
            os.close(self._fd)
