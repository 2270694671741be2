"""TCP connections that carry `ng`: accepted, bounded, read in turns, and closed. asyncio.

Knows: connections and their limits. Must not know frames (`framing.Wire` does) nor commands: every
frame goes to `deliver`, and `Connection.send` takes the reply whenever there is one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from bgf.control.access import Access
from bgf.control.framing import Wire
from bgf.control.sockets import dropped, open_tcp
from bgf.model import Address

CONNECTIONS_MAX: Final = 256
"""Of one listener."""
CONNECTIONS_PER_PEER_MAX: Final = 64
IDLE_S: Final = 600.0
"""A connection that carries nothing for so long is closed; keep-alives find dead peers earlier."""
PARTIAL_S: Final = 10.0
"""So long may a frame take from its first byte to its last."""
OUTGOING_BYTES_MAX: Final = 1 << 20
"""Of replies that a peer has not read yet."""
FRAMES_PER_TURN_MAX: Final = 64
"""Frames of one connection before others have their turn."""
ACCEPT_BATCH_MAX: Final = 16
SWEEP_S: Final = 1.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))

Deliver = Callable[["Connection", bytes], None]


class Connection(asyncio.Protocol):
    """One peer's connection. `send` and `drop` may come at any time, also when it is gone."""

    def __init__(self, streams: Streams, host: str, wire: Wire) -> None:
        self.host = host
        self._streams = streams
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._held: deque[bytes] = deque()  # frames that wait for their turn
        self._turn: asyncio.Handle | None = None
        self._owed = 0
        self._ended = False  # the peer sends no more
        self._alive_s = time.monotonic()
        self._begun_s = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=OUTGOING_BYTES_MAX)
        self._streams.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._alive_s = time.monotonic()
        frames = self._wire.receive(data)
        if frames:
            self._begun_s = 0.0  # what is half there now has just begun
        self._held.extend(frames)
        self._after()
        if self._turn is None:
            self._work()

    def eof_received(self) -> bool:
        self._ended = True
        return bool(self._owed or self._held)

    def pause_writing(self) -> None:
        self._abort("slow-reader")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._held.clear()
        if self._turn is not None:
            self._turn.cancel()
        self._streams.forget(self)

    # What the server calls

    def send(self, reply: bytes) -> bool:
        """False when nobody is there any more: he asks again."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._settle(self._wire.reply(reply))
        return True

    def drop(self) -> None:
        """The frame delivered last has no cookie: no reply can come."""
        self._settle(self._wire.drop())

    def close(self) -> None:
        """At once, without the peer's doing."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now_s: float) -> None:
        if now_s - self._alive_s > IDLE_S:
            self._abort("idle")
        elif self._begun_s and not self._held and now_s - self._begun_s > PARTIAL_S:
            self._abort("slow-sender")

    def _settle(self, waiting: list[bytes]) -> None:
        self._owed -= 1
        self._alive_s = time.monotonic()
        self._after()
        if waiting:
            self._held.extend(waiting)
            if self._turn is None:
                self._later(0)

    def _work(self) -> None:
        """Deliver what is held, as far as turn and rate allow; meanwhile nothing more is read."""
        self._turn = None
        transport, streams = self._transport, self._streams
        for _ in range(FRAMES_PER_TURN_MAX):
            if not self._held or transport is None:
                break
            now_ns = time.monotonic_ns()
            if not streams.access.take(self.host, now_ns):
                streams.counts["rate-limited"] += 1
                self._later(streams.access.wait_ns(self.host, now_ns) / 1e9)
                break
            self._owed += 1
            streams.deliver(self, self._held.popleft())
        if self._held and self._turn is None:
            self._later(0)
        self._after()

    def _later(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._turn = loop.call_later(wait_s, self._work) if wait_s else loop.call_soon(self._work)

    def _after(self) -> None:
        """Write what there is; close when it is over; read on when nothing waits."""
        transport, wire = self._transport, self._wire
        if transport is None or transport.is_closing():
            return
        out = wire.take()
        if out:
            transport.write(out)
        self._begun_s = (self._begun_s or time.monotonic()) if wire.begun else 0.0
        over = wire.finished or self._ended
        if over and not self._held and (self._owed <= 0 or wire.fault):
            if wire.fault:
                self._streams.counts[wire.fault] += 1
            transport.close()
        elif self._held or wire.finished:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _abort(self, why: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._streams.counts[why] += 1
            self._transport.abort()


class Streams:
    """One listener and its connections. `counts` is shared with the server's."""

    def __init__(
        self,
        address: Address,
        wire: Callable[[], Wire],
        deliver: Deliver,
        access: Access,
        counts: Counter[str],
    ) -> None:
        """Bind at once. Raises EnvironmentProblem."""
        self._socket = self.listener = open_tcp(address, access)
        self.address = Address(address.host, int(self._socket.getsockname()[1]))
        self.deliver = deliver
        self.access = access
        self.counts = counts
        self.connections: set[Connection] = set()
        self._wire = wire
        self._hosts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._dropped = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self._acceptable)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    def pause(self) -> None:
        """Accept nobody; connections go on."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._loop = None

    def hang_up(self) -> None:
        """Close all connections: who is there asks elsewhere."""
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self.connections):
            connection.close()

    def close(self) -> None:
        self.pause()
        self.hang_up()
        self._socket.close()

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._leave(connection.host)

    def look(self) -> None:
        """Count what the kernel has dropped before it was a connection."""
        total = dropped(self._socket)
        if total != self._dropped:
            self.counts["tcp-dropped"] += (total - self._dropped) & 0xFFFF_FFFF
            self._dropped = total

    def _sweep(self) -> None:
        now_s = time.monotonic()
        self.look()
        for connection in tuple(self.connections):
            connection.sweep(now_s)
        if self._loop is not None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _acceptable(self) -> None:
        for _ in range(ACCEPT_BATCH_MAX):
            try:
                accepted, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.counts["unaccepted"] += 1  # out of descriptors, or the peer has left
                return
            self._admit(accepted, str(peer[0]))

    def _admit(self, accepted: socket.socket, host: str) -> None:
        refused = ""
        if not self.access.admits(host):
            refused = "stranger"
        elif self._hosts.total() >= CONNECTIONS_MAX or (
            self._hosts[host] >= CONNECTIONS_PER_PEER_MAX
        ):
            refused = "too-many-connections"
        if refused or self._loop is None:
            self.counts[refused or "unaccepted"] += 1
            accepted.close()
            return
        self.counts["connections"] += 1
        self._hosts[host] += 1
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
        connection = Connection(self, host, self._wire())
        task: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: connection, accepted)
        )
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._connected(done, host, accepted))

    def _connected(self, task: asyncio.Task[object], host: str, accepted: socket.socket) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            accepted.close()
            self._leave(host)

    def _leave(self, host: str) -> None:
        self._hosts[host] -= 1
        if self._hosts[host] <= 0:
            del self._hosts[host]
