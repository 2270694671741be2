"""Packets of one call, handed to an operator in pieces over the admin socket.

Knows: the datapath's capture, how long somebody may stay away. Must not know files: bgfctl writes
them. One capture at a time, as the packet path has it; it ends when nobody fetches from it.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from typing import Any, Final, Protocol

from bgf.errors import BgfError, DatapathError, Malformed
from bgf.media.datapath import Capture, Captured
from bgf.model import FlowKey
from bgf.runtime.process import now_ns

FRAMES_MAX: Final = 4_096
"""Frames in one answer."""
AWAY_MS_MAX: Final = 5_000
SNAP_BYTES_DEFAULT: Final = 256


class Source(Protocol):
    """Whoever gives captures: the packet path, or what shares its one capture out."""

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> Capture: ...


class CaptureOver(BgfError):
    """No such capture: it was ended, or nobody had fetched from it for too long."""

    code = "capture-over"


class Captures:
    """Begin, fetch, end; call `expire` every second or so."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._numbers = itertools.count(1)
        self._number = 0
        self._capture: Capture | None = None
        self._fetched_ns = 0

    def begin(self, keys: Iterable[FlowKey], snap_bytes: int = SNAP_BYTES_DEFAULT) -> int:
        """The new capture's number. Raises DatapathError when there is one already."""
        if self._capture is not None:
            raise DatapathError(f"capture {self._number} is running: end it first")
        self._capture = self._source.capture(keys, snap_bytes)
        self._number, self._fetched_ns = next(self._numbers), now_ns()
        return self._number

    def fetch(self, number: object) -> dict[str, Any]:
        """Frames since the last time, at most FRAMES_MAX; `lost` counts from the beginning.

        Raises CaptureOver.
        """
        capture = self._running(number)
        self._fetched_ns = now_ns()
        frames = [_row(one) for one in itertools.islice(capture, FRAMES_MAX)]
        return {"frames": frames, "lost": capture.lost, "more": len(frames) == FRAMES_MAX}

    def end(self, number: object) -> dict[str, Any]:
        """Raises CaptureOver."""
        self._running(number)
        self.close()
        return {"done": f"capture {number} ended"}

    def expire(self) -> None:
        """End it when whoever began it has gone away."""
        if self._capture is not None and now_ns() - self._fetched_ns > AWAY_MS_MAX * 1_000_000:
            self.close()

    def close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()

    def _running(self, number: object) -> Capture:
        if not isinstance(number, int):
            raise Malformed("'capture' is not a capture's number")
        if self._capture is None or number != self._number:
            raise CaptureOver(f"capture {number} is over: begin another")
        return self._capture


def _row(one: Captured) -> dict[str, Any]:
    return {
        "time_ns": one.time_ns,
        "flow": str(one.key),
        "leaving": one.leaving,
        "interface": one.interface,
        "length": one.length,
        "frame": base64.b64encode(one.frame).decode(),
    }
