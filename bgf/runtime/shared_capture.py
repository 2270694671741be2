"""The packet path's one capture, for everybody who wants frames: an operator, recordings, copies.

Knows: whose pinholes are wanted, which frames are whose. Must not know what is done with them. The
packet path has one capture; its set of pinholes is changed while it runs, so that somebody who
wants more costs the others no frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bgf.media.datapath import Capture, Captured, Datapath
from bgf.model import FlowKey

PUMPED_MAX: Final = 8_192
"""Frames taken in one go."""
WAITING_MAX: Final = 16_384
"""Frames that wait for one taker; the oldest give way, and are counted as lost."""


class View:
    """One taker's frames; a `Capture` as the packet path's own is."""

    def __init__(self, owner: SharedCapture, keys: Iterable[FlowKey], snap_bytes: int) -> None:
        self._owner = owner
        self.keys = frozenset(keys)
        self.snap_bytes = snap_bytes
        self.lost = 0
        self._frames: deque[Captured] = deque()

    def __iter__(self) -> Iterator[Captured]:
        """What is there now. Raises DatapathError."""
        self._owner.pump()
        while self._frames:
            yield self._frames.popleft()

    def want(self, keys: Iterable[FlowKey], snap_bytes: int = 0) -> None:
        """From now on, these pinholes' frames; 0: as much of each as before."""
        self.keys = frozenset(keys)
        self.snap_bytes = snap_bytes or self.snap_bytes
        self._owner.changed()

    def take(self, one: Captured) -> None:
        if len(self._frames) >= WAITING_MAX:
            self._frames.popleft()
            self.lost += 1
        if len(one.frame) > self.snap_bytes:
            one = msgspec.structs.replace(one, frame=one.frame[: self.snap_bytes])
        self._frames.append(one)

    def fileno(self) -> int:
        """There is none: look often."""
        return -1

    def close(self) -> None:
        self._owner.leave(self)


class SharedCapture:
    """Hands the one capture out to many. `pump` it every few milliseconds."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._views: list[View] = []
        self._capture: Capture | None = None
        self._lost = 0
        self._dirty = False

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> View:
        """A taker of these pinholes' frames, until it is closed. Raises DatapathError."""
        view = View(self, keys, snap_bytes)
        self._drain()  # what was caught before is not for this one
        self._views.append(view)
        try:
            self._agree()
        except BaseException:
            self._views.remove(view)
            raise
        return view

    def changed(self) -> None:
        """Somebody wants other pinholes: seen to by the next `pump` that may."""
        self._dirty = True

    def leave(self, view: View) -> None:
        """A second call does nothing."""
        if view in self._views:
            self._views.remove(view)
            if self._views:
                self._dirty = True
            else:
                self._end()

    def pump(self) -> None:
        """Hand out what there is, have copied what is wanted. Raises DatapathError."""
        self._drain()
        if self._dirty:
            self._agree()

    def close(self) -> None:
        self._views.clear()
        self._end()

    def _agree(self) -> None:
        wanted = frozenset().union(*(view.keys for view in self._views))
        snap_bytes = max((view.snap_bytes for view in self._views), default=0)
        if not wanted:
            self._end()
        elif self._capture is None:
            self._capture = self._datapath.capture(wanted, snap_bytes)
        else:
            self._capture.want(wanted, snap_bytes)
        self._dirty = False

    def _end(self) -> None:
        self._drain()
        capture, self._capture, self._lost = self._capture, None, 0
        if capture is not None:
            capture.close()

    def _drain(self) -> None:
        if self._capture is None:
            return
        for count, one in enumerate(self._capture, 1):
            for view in self._views:
                if one.key in view.keys:
                    view.take(one)
            if count >= PUMPED_MAX:
                break
        if self._capture.lost > self._lost:
            for view in self._views:
                view.lost += self._capture.lost - self._lost
            self._lost = self._capture.lost
