"""`ng` over a byte stream: where a frame ends. No sockets.

Knows: that `cookie SP dictionary` delimits itself: a bencode dictionary by its own lengths, a JSON
object by its brackets (rtpengine's listen-tcp-ng does the first alone). Must not know what a frame
says. Every byte is looked at once, however slowly they come.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from bgf.control import ng
from bgf.control.bencode import DEPTH_MAX, INTEGER_DIGITS_MAX, LENGTH_DIGITS_MAX, BadBencode
from bgf.errors import PeerError

FRAME_BYTES_MAX: Final = ng.DATAGRAM_BYTES_MAX
"""Of one frame on every transport, as it is on UDP."""


class Wire(Protocol):
    """What carries frames on one connection. Nothing that a peer sends raises.

    `finished`: close when `take` has been written. `begun`: half of something has arrived. `fault`
    is the code of what ended it, '' while nothing has.
    """

    finished: bool
    fault: str

    @property
    def begun(self) -> bool: ...

    def receive(self, data: bytes) -> list[bytes]:
        """The frames that are complete now."""

    def reply(self, frame: bytes) -> list[bytes]:
        """Send a reply; gives the frames that had to wait for it."""

    def drop(self) -> list[bytes]:
        """Say that the frame given last cannot be answered; as `reply`."""

    def take(self) -> bytes:
        """What is to be written, once."""


class TooLong(ng.TooMuch):
    """A frame, or what stands before it, is longer than a frame may be."""

    code = "too-long"


class Stream:
    """`Wire` of plain TCP: frames one after another, replies in any order. Line ends between frames
    are skipped. After bytes that end nowhere the connection cannot go on."""

    def __init__(self) -> None:
        self.finished = False
        self.fault = ""
        self._in = bytearray()
        self._out = bytearray()
        self._scan: _Bencode | _Json | None = None

    @property
    def begun(self) -> bool:
        return bool(self._in)

    def receive(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        self._in += data
        while not self.finished:
            try:
                end = self._end()
            except PeerError as error:
                self._break(error)
                break
            if not end:
                break
            frames.append(bytes(self._in[:end]))
            del self._in[:end]
            self._scan = None
        return frames

    def reply(self, frame: bytes) -> list[bytes]:
        self._out += frame
        return []

    def drop(self) -> list[bytes]:
        self.finished = True  # who sends no cookie is not heard to the end
        return []

    def take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def _end(self) -> int:
        """Length of the frame at the beginning, 0 while it is not all there."""
        if self._scan is None:
            if bytes(self._in[:1]) in (b"\r", b"\n"):
                del self._in[: len(self._in) - len(self._in.lstrip(b"\r\n"))]
            space = self._in.find(b" ", 0, ng.COOKIE_BYTES_MAX + 1)
            if space < 0:
                if len(self._in) > ng.COOKIE_BYTES_MAX:
                    raise ng.NoCookie(f"no cookie in the first {ng.COOKIE_BYTES_MAX} bytes")
                return 0
            lead = bytes(self._in[space + 1 : space + 2])
            if not lead:
                return 0
            if lead not in (b"d", b"{"):
                raise BadBencode("neither 'd' nor '{' after the cookie")
            self._scan = _Bencode(space + 1) if lead == b"d" else _Json(space + 1)
        end = self._scan.end(self._in)
        if (end or len(self._in)) > FRAME_BYTES_MAX or self._scan.at > FRAME_BYTES_MAX:
            raise TooLong(f"the frame has more than {FRAME_BYTES_MAX} bytes")
        return end

    def _break(self, error: PeerError) -> None:
        self.finished, self.fault = True, error.code
        answer = ng.refuse(bytes(self._in[: ng.COOKIE_BYTES_MAX + 2]), error)
        self._out += answer or b""
        self._in.clear()


class _Bencode:
    """Walks through a bencode dictionary that begins at `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self._depth = 0

    def end(self, data: bytearray) -> int:
        """The offset behind it, 0 while it is not there. Raises BadBencode."""
        while self.at < len(data):
            lead = bytes(data[self.at : self.at + 1])
            if lead in (b"d", b"l"):
                self._depth += 1
                self.at += 1
                if self._depth > DEPTH_MAX:
                    raise BadBencode(f"nested deeper than {DEPTH_MAX}")
            elif lead == b"e":
                self._depth -= 1
                self.at += 1
                if not self._depth:
                    return self.at
            elif lead == b"i":
                if not self._skip(data, b"e", INTEGER_DIGITS_MAX + 2):
                    return 0
            elif lead.isdigit():
                digits = self._skip(data, b":", LENGTH_DIGITS_MAX)
                if not digits:
                    return 0
                if not digits.isdigit():
                    raise BadBencode(f"a string's length is no number: {digits!r}")
                self.at += int(digits)
            else:
                raise BadBencode(f"a byte that begins no value: {lead!r}")
        return 0

    def _skip(self, data: bytearray, stop: bytes, most: int) -> bytes:
        """What stands before the next `stop`, and go behind it; b"" while that is not there."""
        found = data.find(stop, self.at, self.at + most + 1)
        if found < 0:
            if len(data) - self.at > most:
                raise BadBencode(f"no {stop.decode()!r} within {most} bytes of a number")
            return b""
        skipped = bytes(data[self.at : found])
        self.at = found + 1
        return skipped


_MARK = re.compile(rb'["\\{}\[\]]')
_STRING_MARK = re.compile(rb'["\\]')


class _Json:
    """Walks through a JSON object that begins at `at`, by its brackets and strings alone."""

    def __init__(self, at: int) -> None:
        self.at = at
        self._depth = 0
        self._quoted = False

    def end(self, data: bytearray) -> int:
        """The offset behind it, 0 while it is not there. Raises ng.BadJson."""
        while self.at < len(data):
            found = (_STRING_MARK if self._quoted else _MARK).search(data, self.at)
            if found is None:
                self.at = len(data)
                break
            mark, self.at = data[found.start()], found.end()
            if mark == ord("\\"):
                if not self._quoted:
                    raise ng.BadJson("not JSON: a backslash outside a string")
                self.at += 1  # what is escaped, maybe still to come
            elif mark == ord('"'):
                self._quoted = not self._quoted
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return self.at
        return 0
