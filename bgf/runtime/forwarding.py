"""Copies of media to a recorder: the UDP payload of each packet, from a bounded queue.

Knows: frames as they leave, one socket. Must not know calls. A recorder that is slow or gone costs
copies, which are counted, and nothing else.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter, deque
from typing import Final

from bgf.errors import EnvironmentProblem
from bgf.model import Address

QUEUE_MAX: Final = 4_096
"""Payloads that wait for the socket; the oldest give way."""
SEND_BUFFER_BYTES: Final = 1 << 20
SO_BINDTODEVICE: Final = 25  # asm-generic/socket.h
ETHERNET: Final = 14
ETHER_TYPE_AT: Final = 12
VLAN_TYPES: Final = (0x8100, 0x88A8)
IP4_TYPE, IP6_TYPE = 0x0800, 0x86DD
IP6_HEADER: Final = 40
UDP_HEADER: Final = 8


def udp_payload(frame: bytes) -> bytes | None:
    """What a frame of UDP over IP carries, whole; None for another one, or one that was cut."""
    at, kind = ETHERNET, int.from_bytes(frame[ETHER_TYPE_AT:ETHERNET], "big")
    while kind in VLAN_TYPES and len(frame) >= at + 4:
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    if kind == IP4_TYPE and len(frame) > at:
        at += 4 * (frame[at] & 0x0F)
    elif kind == IP6_TYPE:
        at += IP6_HEADER
    else:
        return None
    if len(frame) < at + UDP_HEADER:
        return None
    (length,) = struct.unpack_from("!H", frame, at + 4)
    payload = frame[at + UDP_HEADER : at + length]
    return payload if length >= UDP_HEADER and len(payload) == length - UDP_HEADER else None


class Forwarding:
    """One node's. `tally`: `sent`, and by why not: `queue-full`, `cut`, `unreachable`."""

    def __init__(self, recorder: Address, interface: str = "") -> None:
        """Raises EnvironmentProblem."""
        family = socket.AF_INET6 if ":" in recorder.host else socket.AF_INET
        self._places = [(recorder.host, recorder.port), (recorder.host, recorder.port + 1)]
        self._queue: deque[tuple[int, bytes]] = deque()
        self.tally: Counter[str] = Counter()
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if interface:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, interface.encode())
        except OSError as problem:
            self._socket.close()
            raise EnvironmentProblem(
                f"recorder {recorder} by way of {interface}: {problem.strerror}"
            ) from None

    def forward(self, frame: bytes, *, control: bool) -> None:
        """Queue one frame's payload; `control`: it is RTCP, and goes to the port after RTP's."""
        payload = udp_payload(frame)
        if payload is None:
            self.tally["cut"] += 1
            return
        if len(self._queue) >= QUEUE_MAX:
            self._queue.popleft()
            self.tally["queue-full"] += 1
        self._queue.append((int(control), payload))

    def flush(self) -> None:
        """Send what the socket takes. Never waits, never raises."""
        while self._queue:
            to, payload = self._queue[0]
            try:
                self._socket.sendto(payload, self._places[to])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                if problem.errno in (errno.ENOBUFS, errno.ENOMEM):
                    return
                self.tally["unreachable"] += 1
            else:
                self.tally["sent"] += 1
            self._queue.popleft()

    def close(self) -> None:
        self.flush()
        self._socket.close()
