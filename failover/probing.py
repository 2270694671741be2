"""The probing sockets: S-BFD over UDP, one socket per media path. Decides nothing.

RFC 7881: destination port 7784, any other source port, hop limit 255. What arrives must come
from a configured peer's address with hop limit 255 (RFC 5082), so nobody beyond the link can
pretend that a dead node lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from failover.detector import Probe
from failover.errors import ProbeError
from failover.sbfd import HOP_LIMIT, PORT

IP_RECVTTL: Final = 12  # linux/in.h; these are not in the socket module
IP_FREEBIND: Final = 15
IPV6_FREEBIND: Final = 78  # linux/in6.h
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4)  # one int: the hop limit
SIOCGIFFLAGS: Final = 0x8913
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
DATAGRAM_BYTES_MAX: Final = 128
DRAIN_MAX: Final = 1024  # datagrams per path and call: a flood must not hold the loop


class UdpProber:
    """One socket per path of `sources` (path -> own address), towards `peers` (peer -> path ->
    address). `interfaces` (path -> name) lets it see its own links. Raises ProbeError."""

    def __init__(
        self,
        sources: Mapping[str, str],
        peers: Mapping[str, Mapping[str, str]],
        interfaces: Mapping[str, str],
    ) -> None:
        self.tally: Counter[str] = Counter()
        self._sockets: dict[str, socket.socket] = {}
        self._interfaces = dict(interfaces)
        self._targets = {
            (peer, path): (host, PORT)
            for peer, paths in peers.items()
            for path, host in paths.items()
        }
        self._known: dict[str, set[str]] = {path: set() for path in sources}
        for (_, path), (host, _) in self._targets.items():
            self._known[path].add(host)
        try:
            for path, source in sources.items():
                self._sockets[path] = open_path(path, source, self._interfaces.get(path))
        except BaseException:
            self.close()
            raise
        self._control = next(iter(self._sockets.values()), None)
        self._questions = {
            path: struct.pack("16sh14x", name.encode()[:15], 0)
            for path, name in self._interfaces.items()
        }

    def send(self, probe: Probe) -> None:
        """A path that cannot send counts it, and will hear nothing: that is the message."""
        try:
            self._sockets[probe.path].sendto(probe.datagram, self._targets[probe.peer, probe.path])
        except OSError:
            self.tally["unsent"] += 1

    def drain(self) -> Iterator[tuple[bytes, str]]:
        for path, opened in self._sockets.items():
            for _ in range(DRAIN_MAX):
                try:
                    datagram, ancillary, _, sender = opened.recvmsg(
                        DATAGRAM_BYTES_MAX, ANCILLARY_BYTES
                    )
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error that came back: nothing was heard
                    self.tally["errors"] += 1
                    continue
                if sender[1] != PORT or sender[0] not in self._known[path]:
                    self.tally["strangers"] += 1
                    continue
                if hop_limit_of(ancillary) != HOP_LIMIT:
                    self.tally["routed"] += 1
                    continue
                yield datagram, path

    def links_down(self) -> Sequence[str]:
        """Paths whose interface is down or has no carrier; a vanished interface counts."""
        return [path for path, asked in self._questions.items() if not self._running(asked)]

    def watch(self, readable: Callable[[], None]) -> None:
        watch_paths(self._sockets, readable)

    def close(self) -> None:
        close_paths(self._sockets)

    def _running(self, question: bytes) -> bool:
        if self._control is None:
            return True
        try:
            answer = fcntl.ioctl(self._control.fileno(), SIOCGIFFLAGS, question)
        except OSError:
            return False
        flags: int = struct.unpack_from("h", answer, 16)[0]
        return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def watch_paths(sockets: Mapping[str, socket.socket], readable: Callable[[], None]) -> None:
    """Call `readable` from the running loop whenever something has arrived on any path."""
    loop = asyncio.get_running_loop()
    for opened in sockets.values():
        loop.add_reader(opened.fileno(), readable)


def close_paths(sockets: dict[str, socket.socket]) -> None:
    """Watched or not; none is left in `sockets`."""
    for opened in sockets.values():
        with contextlib.suppress(RuntimeError):  # no loop runs: nobody watches
            asyncio.get_running_loop().remove_reader(opened.fileno())
        opened.close()
    sockets.clear()


def hop_limit_of(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Of a received datagram; the kernel was asked to say it, so 0 means that it did not."""
    for level, kind, data in ancillary:
        if (level, kind) in _HOP_LIMIT_KINDS and len(data) == 4:
            return int.from_bytes(data, sys.byteorder)
    return 0


_HOP_LIMIT_KINDS: Final = (
    (socket.IPPROTO_IP, socket.IP_TTL),
    (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
)


def open_path(path: str, source: str, interface: str | None, port: int = 0) -> socket.socket:
    """A socket that sends and takes datagrams of that link alone, and tells their hop limit.
    Raises ProbeError."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Only the link itself may carry a probe: a detour through another realm would hide that
        # the path is dead.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
        if interface:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if family == socket.AF_INET:
            opened.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        opened.bind((source, port))
    except OSError as error:
        opened.close()
        raise ProbeError(
            f"path {path}: cannot probe from {source}"
            f"{f' on {interface}' if interface else ''}: {error.strerror}"
        ) from None
    return opened
