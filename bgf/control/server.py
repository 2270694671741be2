"""The `ng` socket: UDP in an asyncio loop, bound before its address exists.

Knows: sockets, `ng` framing, counting. Must not know: what a command does. The handler gets
decoded requests and answers when it may (after commit); frames that are no request are answered
and counted here. Replies leave from the very address and port that was asked, since the socket
is bound to it; a socket whose address has moved away can send nothing, which is as it should be.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from bgf.control import ng
from bgf.errors import EnvironmentProblem, PeerError
from bgf.model import Address

RECEIVE_BATCH_MAX = 64
"""Datagrams read per wake-up of the loop, so that a flood starves neither timers nor commits."""
RECEIVE_BUFFER_BYTES = 4 << 20
"""Kernel queue asked for (SO_RCVBUF, forced where privileged): about 2,000 offers."""
_RECEIVE_BYTES = ng.DATAGRAM_BYTES_MAX + 1

# linux/in.h, linux/in6.h, asm-generic/socket.h; Python's socket module lacks them.
IP_FREEBIND = 15
IPV6_FREEBIND = 78
SO_RXQ_OVFL = 40
SO_RCVBUFFORCE = 33


Peer = tuple[Any, ...]
"""A socket address as the kernel gave it: (host, port) or (host, port, flow, scope)."""


class Incoming(NamedTuple):
    """One decoded request and whom to answer: `server.send(incoming.peer, bytes)`."""

    request: ng.Request
    datagram: bytes
    peer: Peer


Handler = Callable[[Incoming], bytes | None]
"""Gives the reply at once, or None to send it later. May raise PeerError: it is answered."""


def listen(address: Address) -> socket.socket:
    """A UDP socket on an address that need not exist yet (IP_FREEBIND).

    Raises EnvironmentProblem naming the address where it cannot be had.
    """
    six = ":" in address.host
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentProblem(
                f"control address {address} is taken: stop its holder "
                f"(ss -lunp 'sport = :{address.port}') or set another control_port"
            ) from None
        raise EnvironmentProblem(f"control address {address}: {error.strerror}") from None
    return sock


class NgServer:
    """One control socket. `counts` is a Counter by reason:

    `received`, `requests`, `replies`, one per error code of a refused frame (`bad-bencode`,
    `missing-key`, ...), `no-cookie` (dropped), `too-long`, `overflowed` (lost in the kernel's
    queue), `unsent` (the kernel took no reply; the peer asks again and gets the stored one).
    """

    def __init__(self, address: Address, handler: Handler) -> None:
        """Bind at once; `start` begins to read. Raises EnvironmentProblem."""
        self._socket = listen(address)
        self._handler = handler
        self._loop: asyncio.AbstractEventLoop | None = None
        self._overflowed = 0
        self.counts: Counter[str] = Counter()
        bound = self._socket.getsockname()
        self.address = Address(address.host, bound[1])

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Read from now on, in `loop` or the running one. What arrived before is read too."""
        self._loop = loop or asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def pause(self) -> None:
        """Stop reading; the socket stays bound and queues."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None

    def close(self) -> None:
        """Stop and unbind. Idempotent."""
        if self._socket.fileno() >= 0:
            self.pause()
            self._socket.close()

    def send(self, peer: Peer, reply: bytes) -> None:
        """Send one datagram from the bound address; a full queue or no route is counted."""
        try:
            self._socket.sendto(reply, peer)
        except OSError:
            self.counts["unsent"] += 1
        else:
            self.counts["replies"] += 1

    def _readable(self) -> None:
        for _ in range(RECEIVE_BATCH_MAX):
            try:
                datagram, ancillary, flags, peer = self._socket.recvmsg(
                    _RECEIVE_BYTES, socket.CMSG_SPACE(4)
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.counts[f"socket-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                return
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL and len(data) >= 4:
                    self._overflow(struct.unpack("=I", data[:4])[0])
            self.counts["received"] += 1
            if flags & socket.MSG_TRUNC:
                self.counts["too-long"] += 1
                continue
            self._one(datagram, peer)

    def _overflow(self, total: int) -> None:
        """The kernel gives a running 32-bit total with each datagram."""
        self.counts["overflowed"] += (total - self._overflowed) & 0xFFFFFFFF
        self._overflowed = total

    def _one(self, datagram: bytes, peer: Peer) -> None:
        try:
            _, request = ng.decode(datagram)
            self.counts["requests"] += 1
            reply = self._handler(Incoming(request, datagram, peer))
        except PeerError as error:
            self.counts[error.code] += 1
            reply = ng.refuse(datagram, error)
        if reply is not None:
            self.send(peer, reply)
