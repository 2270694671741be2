"""The `ng` server of one group: UDP, TCP, HTTP and WebSocket in an asyncio loop.

Knows: transports, `ng` framing, who may speak, counting, and that new calls come after the others.
Must not know: what a command does, nor which calls there are. The handler gets decoded requests and
answers when it may (after commit); frames that are no request are answered and counted here.
Replies leave from the very address and port that was asked, since each socket is bound to it; a
socket whose address has moved away can send nothing, which is as it should be.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bgf.control import ng
from bgf.control.access import Access
from bgf.control.framing import Stream
from bgf.control.newcalls import Ask, NewCalls
from bgf.control.sockets import SO_RXQ_OVFL, dropped, open_udp, refilter
from bgf.control.streams import Connection, Streams
from bgf.control.web import Web
from bgf.errors import PeerError
from bgf.events import Reply, Result
from bgf.model import Address

log = logging.getLogger("bgf.control")

RECEIVE_BATCH_MAX: Final = 64
"""Datagrams read per wake-up of the loop, so that a flood starves neither timers nor commits."""
NEW_SLICE_MS: Final = 5
"""How long new calls are served before the sockets are looked at again: the others come first."""
LOOK_S: Final = 1.0
"""How often strangers are counted; nobody is woken by them."""
STRANGERS_READ_MAX: Final = 64
"""Datagrams of strangers read per look: more than their queue holds, so that all are counted."""
STRANGERS_TOLD_S: Final = 60.0
_RECEIVE_BYTES = ng.DATAGRAM_BYTES_MAX + 1


Peer = tuple[Any, ...] | Connection
"""A socket address as the kernel gave it, (host, port) or (host, port, flow, scope); or a
connection. Compares equal for the same place."""


class Incoming(NamedTuple):
    """One decoded request and whom to answer: `server.send(incoming.peer, bytes)`."""

    request: ng.Request
    datagram: bytes
    peer: Peer

    @property
    def host(self) -> str:
        """Whose command it is."""
        return self.peer.host if isinstance(self.peer, Connection) else str(self.peer[0])


Handler = Callable[[Incoming], bytes | None]
"""Gives the reply at once, or None to send it later. May raise PeerError: it is answered."""


class Ports(NamedTuple):
    """What to listen on besides the control address's own UDP port; None: not. 0: any port."""

    udp: bool = True
    tcp: int | None = None
    http: int | None = None


class NgServer:
    """One group's control address. `counts` is a Counter by reason:

    `received`, `requests`, `replies`, one per error code of a refused frame (`bad-bencode`,
    `missing-key`, ...), `no-cookie` (dropped), `too-long`, `overflowed` (lost in the kernel's
    queue), `unsent` (the kernel took no reply, or the connection is gone; the peer asks again and
    gets the stored one), `stranger`, `rate-limited`, `shed-...` (new calls answered `load limit`
    by `newcalls.Shed`), and what `streams` counts.
    """

    def __init__(
        self,
        address: Address,
        handler: Handler,
        ports: Ports = Ports(),  # noqa: B008 - a frozen value
        access: Access | None = None,
        new_calls: NewCalls | None = None,
    ) -> None:
        """Bind at once; `start` begins to read. Without `new_calls` all commands are equal.

        Raises EnvironmentProblem.
        """
        self.counts: Counter[str] = Counter()
        self._handler = handler
        self._access = access or Access()
        self._new = new_calls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drainer: asyncio.Handle | None = None
        self._looker: asyncio.Handle | None = None
        self._overflowed = 0
        self._strangers_dropped = 0
        self._told_s = 0.0
        self._streams: dict[str, Streams] = {}
        self._socket: socket.socket | None = None
        self._strangers: socket.socket | None = None
        self.address = address
        try:
            if ports.udp:
                self._socket, self._strangers = open_udp(address, self._access)
                self.address = Address(address.host, int(self._socket.getsockname()[1]))
            for name, port, wire in (("tcp", ports.tcp, Stream), ("http", ports.http, Web)):
                if port is not None:
                    at = Address(address.host, port)
                    self._streams[name] = Streams(at, wire, self._one, self._access, self.counts)
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> dict[str, Address]:
        """Where each transport listens: udp, tcp, http."""
        found = {"udp": self.address} if self._socket is not None else {}
        return found | {name: streams.address for name, streams in self._streams.items()}

    def admit(self, prefixes: Sequence[str] | None, rate_per_peer: int) -> bool:
        """Other peers and another rate, while commands go on. False: between everybody and some, it
        takes other sockets; the rate alone is taken then. Raises OSError."""
        access = self._access
        possible = (prefixes is None) == (access.prefixes is None)
        access.change(prefixes if possible else access.prefixes, rate_per_peer)
        if possible and self._socket is not None:
            refilter(self._socket, access, self.address.family)
        for streams in self._streams.values() if possible else ():
            refilter(streams.listener, access, self.address.family)
        return possible

    def lag(self, lag_max_ms: int) -> None:
        """How long a new call may wait, from now on."""
        if self._new is not None:
            self._new.lag(lag_max_ms)

    @property
    def connections(self) -> int:
        return sum(len(streams.connections) for streams in self._streams.values())

    @property
    def waiting(self) -> int:
        """New calls that wait for their turn."""
        return len(self._new) if self._new is not None else 0

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Read from now on, in `loop` or the running one. What arrived before is read too."""
        self._loop = loop or asyncio.get_running_loop()
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self.read)
        for streams in self._streams.values():
            streams.start(self._loop)
        if self._strangers is not None:
            self._looker = self._loop.call_later(LOOK_S, self._look_again)

    def pause(self) -> None:
        """Stop reading; the sockets stay bound and queue."""
        if self._loop is None:
            return
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
        for streams in self._streams.values():
            streams.pause()
        for handle in (self._drainer, self._looker):
            if handle is not None:
                handle.cancel()
        self._loop = self._drainer = self._looker = None

    def hang_up(self) -> None:
        """Close all connections, and forget who waits: they ask elsewhere."""
        if self._new is not None:
            self._new.clear()
        for streams in self._streams.values():
            streams.hang_up()

    def close(self) -> None:
        """Stop and unbind. Idempotent."""
        self.pause()
        for one in (self._socket, self._strangers):
            if one is not None:
                one.close()
        for streams in self._streams.values():
            streams.close()

    def send(self, peer: Peer, reply: bytes) -> None:
        """Answer from the address that was asked; what cannot be sent now is counted."""
        if isinstance(peer, Connection):
            sent = peer.send(reply)
        else:
            assert self._socket is not None  # only it knows such peers
            try:
                self._socket.sendto(reply, peer)
                sent = True
            except OSError:
                sent = False
        self.counts["replies" if sent else "unsent"] += 1

    def take_up(self, incoming: Incoming) -> None:
        """Serve a command that the handler has kept, as if it came now."""
        self._admit(incoming)

    def look(self) -> None:
        """Count what strangers have sent, and say now and then who they are."""
        if self._strangers is None or self._strangers.fileno() < 0:
            return
        total, names = dropped(self._strangers), []
        count = (total - self._strangers_dropped) & 0xFFFF_FFFF
        self._strangers_dropped = total
        for _ in range(STRANGERS_READ_MAX):
            try:
                names.append(str(self._strangers.recvfrom(1)[1][0]))
            except OSError:
                break
        count += len(names)
        if count:
            self.counts["stranger"] += count
            self._tell(names, count)

    # Inside.

    def _look_again(self) -> None:
        self.look()
        if self._loop is not None:
            self._looker = self._loop.call_later(LOOK_S, self._look_again)

    def _tell(self, names: list[str], count: int) -> None:
        now_s = time.monotonic()
        if names and (not self._told_s or now_s - self._told_s > STRANGERS_TOLD_S):
            self._told_s = now_s
            log.warning(
                "%s: %d datagrams of strangers dropped, of %s among them: who may command stands"
                " in control.peers", self.address, count, names[0],
            )  # fmt: skip

    def read(self) -> None:
        """Serve what has arrived, when there is something; the loop calls it."""
        assert self._socket is not None
        for _ in range(RECEIVE_BATCH_MAX):
            try:
                datagram, ancillary, flags, peer = self._socket.recvmsg(
                    _RECEIVE_BYTES, socket.CMSG_SPACE(4)
                )
            except (BlockingIOError, InterruptedError):
                if self._drainer is not None:  # nobody else waits: no need for another turn
                    self._drainer.cancel()
                    self._drain()
                return
            except OSError as error:
                self.counts[f"socket-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                return
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL and len(data) >= 4:
                    self._overflow(struct.unpack("=I", data[:4])[0])
            if not self._access.admits(peer[0]):
                self.counts["stranger"] += 1
                continue
            if not self._access.take(peer[0], time.monotonic_ns()):
                self.counts["rate-limited"] += 1
                continue
            if flags & socket.MSG_TRUNC:
                self.counts["received"] += 1
                self.counts["too-long"] += 1
                continue
            self._one(peer, datagram)

    def _overflow(self, total: int) -> None:
        """The kernel gives a running 32-bit total with each datagram."""
        self.counts["overflowed"] += (total - self._overflowed) & 0xFFFFFFFF
        self._overflowed = total

    def _one(self, peer: Peer, datagram: bytes) -> None:
        self.counts["received"] += 1
        try:
            _, request = ng.decode(datagram)
        except PeerError as error:
            self._refuse(peer, datagram, error)
            return
        self.counts["requests"] += 1
        self._admit(Incoming(request, datagram, peer))

    def _admit(self, incoming: Incoming) -> None:
        """Serve at once, or put a new call where it waits for its turn, or shed it."""
        if self._new is None:
            self._serve(incoming)
            return
        what = self._new.ask(incoming.request, incoming.peer, incoming, time.monotonic_ns())
        if what is Ask.SERVE:
            self._serve(incoming)
        elif isinstance(what, str):
            self._shed(incoming, what)
        elif what is Ask.WAIT:
            self._drain_soon()

    def _drain_soon(self) -> None:
        if self._drainer is None and self._loop is not None:
            self._drainer = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """New calls, for a slice of time."""
        self._drainer = None
        assert self._new is not None
        begun_ns = now_ns = time.monotonic_ns()
        while now_ns - begun_ns < NEW_SLICE_MS * 1_000_000:
            found = self._new.next(now_ns)
            if found is None:
                return
            incoming, why = found
            if why:
                self._shed(incoming, why)
            else:
                self._serve(incoming)
            ended_ns = time.monotonic_ns()
            if not why:
                self._new.took(ended_ns - now_ns)
            now_ns = ended_ns
        self._drain_soon()

    def _shed(self, incoming: Incoming, reason: str) -> None:
        self.counts[f"shed-{reason.partition(':')[0]}"] += 1
        request = incoming.request
        reply = Reply(request.cookie, Result.LOAD_LIMIT, reason)
        self.send(incoming.peer, ng.render(request, reply))

    def _serve(self, incoming: Incoming) -> None:
        try:
            reply = self._handler(incoming)
        except PeerError as error:
            self._refuse(incoming.peer, incoming.datagram, error)
            return
        if reply is not None:
            self.send(incoming.peer, reply)

    def _refuse(self, peer: Peer, datagram: bytes, error: PeerError) -> None:
        self.counts[error.code] += 1
        reply = ng.refuse(datagram, error)
        if reply is not None:
            self.send(peer, reply)
        elif isinstance(peer, Connection):
            peer.drop()
