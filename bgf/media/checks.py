"""STUN checks that the packet path copies up, and the answers back onto their wire.

Knows: the perf event rings and struct bgf_captured, packet sockets. Decides nothing: who gets an
answer, `ice` says. An answer is the check's frame turned around: link layer, VLAN tag and hop go
back to where they came from, so that nothing has to be looked up. Never waits.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

from bgf.media import _xdp, frames, layout
from bgf.model import Address, FlowKey

RING_PAGES = 16
"""Of each CPU: 64 KiB, some hundred checks between two looks."""


class StunCheck(NamedTuple):
    """A message that arrived at a pinhole with ICE, with its frame."""

    time_ns: int
    key: FlowKey
    sender: Address
    message: bytes
    frame: bytes
    ifindex: int


class Checks:
    """The rings and a socket to answer by. Raises OSError where the kernel refuses either."""

    def __init__(self, map_fd: int) -> None:
        self._rings: object | None = _xdp.capture_rings(map_fd, _xdp.possible_cpus(), RING_PAGES)
        self._poll = select.epoll()
        for fd in _xdp.capture_fds(self._rings):
            self._poll.register(fd, select.EPOLLIN)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.lost = 0
        self.unsent = 0

    def take(self) -> Iterator[StunCheck]:
        """What has come since, the oldest first."""
        if self._rings is None:
            return
        records, lost = _xdp.capture_drain(self._rings)
        self.lost += lost
        for record in records:
            check = _read(record)
            if check is not None:
                yield check

    def answer(self, check: StunCheck, message: bytes) -> None:
        """Send a message back to where a check came from; what the kernel refuses is counted."""
        frame = _turned(check, message)
        try:
            self._socket.sendto(frame, (socket.if_indextoname(check.ifindex), 0))
        except OSError:
            self.unsent += 1

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._poll.fileno()

    def close(self) -> None:
        if self._rings is not None:
            self._rings = None
            self._poll.close()
            self._socket.close()


def _read(record: bytes) -> StunCheck | None:
    key, time_ns, _, ifindex, _, _, kept = layout.CAPTURED.unpack_from(record)
    flow_key, _ = layout.unpack_key(key)
    frame = record[layout.CAPTURED.size : layout.CAPTURED.size + kept]
    datagram = frames.read(frames.untagged(frame))
    if datagram is None:
        return None
    return StunCheck(time_ns, flow_key, datagram.sender, datagram.payload, frame, ifindex)


def _turned(check: StunCheck, message: bytes) -> bytes:
    local = Address(check.key.host, check.key.port)
    frame = frames.build(
        local, check.sender, message,
        destination_mac=check.frame[6:12], source_mac=check.frame[:6],
    )  # fmt: skip
    tagged = check.frame[12:14] == frames.ETHERTYPE_VLAN.to_bytes(2, "big")
    return frame[:12] + check.frame[12:16] + frame[12:] if tagged else frame
