"""How a client reaches an `ng` server: UDP, TCP, HTTP or WebSocket, one frame at a time. Blocking.

Knows: sockets and framing. Must not know cookies, tries or what is asked (`client` does). A link
whose connection breaks makes a new one with the next frame: the tries above it are the remedy.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

import h11
import wsproto
from wsproto import events
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from bgf.control.framing import FRAME_BYTES_MAX, Stream
from bgf.control.web import NG_PATH, NG_TYPE, SUBPROTOCOL
from bgf.errors import BgfError
from bgf.model import Address

RECEIVE_BUFFER_BYTES: Final = 4 << 20
"""Asked of the kernel for the socket, so that a window of replies fits."""
BATCH_MAX: Final = 1_024
"""Reads of one `receive`."""
CONNECT_TIMEOUT_S: Final = 1.0
_READ_BYTES = 1 << 17


class Transport(enum.StrEnum):
    UDP = "udp"
    TCP = "tcp"
    HTTP = "http"
    WEBSOCKET = "ws"


MakeSocket = Callable[[socket.AddressFamily, socket.SocketKind], socket.socket]
"""For a client that is at home in another network namespace than its thread."""


class Link(Protocol):
    """`one_at_a_time`: it answers a frame before it takes the next. `receive` waits at most until
    something arrives; both raise OSError only where nothing can be reached."""

    one_at_a_time: bool

    def send(self, frame: bytes) -> None: ...

    def receive(self, timeout_s: float) -> list[bytes]: ...

    def close(self) -> None: ...


class BrokenLink(BgfError):
    """The server's bytes are not the protocol, or it refused in it."""

    code = "broken-link"


class UdpLink:
    """One connected socket: only the server is heard."""

    one_at_a_time = False

    def __init__(self, address: Address, make: MakeSocket = socket.socket) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = make(family, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.setblocking(False)
            self._socket.connect((address.host, address.port))
        except OSError:
            self._socket.close()
            raise

    def send(self, frame: bytes) -> None:
        # A full buffer, or a port that nobody holds yet: the retry is the remedy for both.
        with contextlib.suppress(OSError):
            self._socket.send(frame)

    def receive(self, timeout_s: float) -> list[bytes]:
        select.select([self._socket], [], [], max(0.0, timeout_s))
        frames: list[bytes] = []
        for _ in range(BATCH_MAX):
            try:
                frames.append(self._socket.recv(FRAME_BYTES_MAX))
            except BlockingIOError:
                break
            except OSError:
                continue  # ICMP port unreachable: as good as no answer, the tries go on
        return frames

    def close(self) -> None:
        self._socket.close()


class _Client(Protocol):
    """A client's side of a connection's protocol. Raises BrokenLink."""

    one_at_a_time: bool

    def open(self, address: Address) -> bytes: ...

    def frame(self, frame: bytes) -> bytes: ...

    def receive(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Replies, and what has to be written at once. `data` b"" is the end."""


class StreamLink:
    """A TCP connection that carries `protocol`; made when there is something to send."""

    def __init__(
        self, address: Address, protocol: Callable[[], _Client], make: MakeSocket = socket.socket
    ) -> None:
        self._address = address
        self._make = make
        self._protocol = protocol
        self._client = protocol()
        self.one_at_a_time = self._client.one_at_a_time
        self._socket: socket.socket | None = None
        self._family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

    def send(self, frame: bytes) -> None:
        with contextlib.suppress(OSError, BrokenLink):
            if self._socket is None:
                self._connect()
            assert self._socket is not None
            self._write(self._client.frame(frame))

    def receive(self, timeout_s: float) -> list[bytes]:
        if self._socket is None:
            time.sleep(max(0.0, timeout_s))
            return []
        select.select([self._socket], [], [], max(0.0, timeout_s))
        frames: list[bytes] = []
        try:
            for _ in range(BATCH_MAX):
                data = self._socket.recv(_READ_BYTES)
                found, answer = self._client.receive(data)
                frames += found
                if answer:
                    self._write(answer)
                if not data:
                    self._hang_up()
                    break
        except BlockingIOError:
            pass
        except (OSError, BrokenLink):
            self._hang_up()
        return frames

    def close(self) -> None:
        self._hang_up()

    def _connect(self) -> None:
        self._client = self._protocol()
        made = self._make(self._family, socket.SOCK_STREAM)
        try:
            made.settimeout(CONNECT_TIMEOUT_S)
            made.connect((self._address.host, self._address.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            made.close()
            raise
        self._socket = made
        self._write(self._client.open(self._address))
        made.setblocking(False)

    def _write(self, data: bytes) -> None:
        """All of it; a server that does not read for a while is hung up on."""
        assert self._socket is not None
        self._socket.settimeout(CONNECT_TIMEOUT_S)
        try:
            self._socket.sendall(data)
            self._socket.setblocking(False)
        except OSError:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Plain:
    """Frames one after another."""

    one_at_a_time = False

    def __init__(self) -> None:
        self._stream = Stream()

    def open(self, address: Address) -> bytes:
        return b""

    def frame(self, frame: bytes) -> bytes:
        return frame

    def receive(self, data: bytes) -> tuple[list[bytes], bytes]:
        frames = self._stream.receive(data)
        if self._stream.finished:
            raise BrokenLink(f"the server's stream is no ng ({self._stream.fault})")
        return frames, b""


class _Post:
    """One request after another on a connection."""

    one_at_a_time = True

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._host = ""
        self._status = 0
        self._body = bytearray()

    def open(self, address: Address) -> bytes:
        self._host = str(address)
        return b""

    def frame(self, frame: bytes) -> bytes:
        if self._http.our_state is not h11.IDLE:
            raise BrokenLink("the last request is not answered")
        headers = [("host", self._host), ("content-type", NG_TYPE)]
        headers.append(("content-length", str(len(frame))))
        request = h11.Request(method="POST", target=NG_PATH, headers=headers)
        parts = [self._http.send(request), self._http.send(h11.Data(data=frame))]
        parts.append(self._http.send(h11.EndOfMessage()))
        return b"".join(part or b"" for part in parts)

    def receive(self, data: bytes) -> tuple[list[bytes], bytes]:
        frames: list[bytes] = []
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return frames, b""
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    body = bytes(self._body)
                    self._body.clear()
                    if self._status != 200:
                        raise BrokenLink(f"HTTP {self._status}: {body[:100]!r}")
                    frames.append(body)
                    if h11.MUST_CLOSE in (self._http.our_state, self._http.their_state):
                        return frames, b""
                    self._http.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return frames, b""
        except h11.ProtocolError as error:
            raise BrokenLink(f"not HTTP: {error}") from None


class _WebSocket:
    """Frames as messages: JSON as text, bencode as bytes."""

    one_at_a_time = False

    def __init__(self) -> None:
        self._socket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._early: list[bytes] = []  # until the server has accepted
        self._open = False
        self._body = bytearray()

    def open(self, address: Address) -> bytes:
        request = events.Request(host=str(address), target="/", subprotocols=[SUBPROTOCOL])
        return self._socket.send(request)

    def frame(self, frame: bytes) -> bytes:
        if not self._open:
            self._early.append(frame)
            return b""
        message: events.Event = events.BytesMessage(data=frame)
        if frame.partition(b" ")[2][:1] == b"{":
            message = events.TextMessage(data=frame.decode("utf-8", "replace"))
        try:
            return self._socket.send(message)
        except LocalProtocolError as error:
            raise BrokenLink(f"the WebSocket is closing: {error}") from None

    def receive(self, data: bytes) -> tuple[list[bytes], bytes]:
        frames: list[bytes] = []
        answer = bytearray()
        try:
            self._socket.receive_data(data or None)
            for event in self._socket.events():
                if isinstance(event, events.AcceptConnection):
                    self._open = True
                    early, self._early = self._early, []
                    for frame in early:
                        answer += self.frame(frame)
                elif isinstance(event, events.BytesMessage | events.TextMessage):
                    part = event.data
                    self._body += part.encode() if isinstance(part, str) else part
                    if event.message_finished:
                        frames.append(bytes(self._body))
                        self._body.clear()
                elif isinstance(event, events.Ping):
                    answer += self._socket.send(event.response())
                elif isinstance(event, events.CloseConnection | events.RejectConnection):
                    raise BrokenLink("the server has closed the WebSocket")
        except (LocalProtocolError, RemoteProtocolError) as error:
            raise BrokenLink(f"not a WebSocket: {error}") from None
        return frames, bytes(answer)


_STREAMS: dict[Transport, Callable[[], _Client]] = {
    Transport.TCP: _Plain,
    Transport.HTTP: _Post,
    Transport.WEBSOCKET: _WebSocket,
}


def connect(
    address: Address, transport: Transport = Transport.UDP, make: MakeSocket = socket.socket
) -> Link:
    """Raises OSError when the address cannot be routed to (UDP; the others try later)."""
    if transport is Transport.UDP:
        return UdpLink(address, make)
    return StreamLink(address, _STREAMS[transport], make)
