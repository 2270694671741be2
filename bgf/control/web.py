"""`ng` over HTTP and WebSocket: bytes of a connection -> frames, and replies -> bytes. No sockets.

Knows: `POST /ng` with the type application/x-rtpengine-ng, `GET /ping`, and the WebSocket
subprotocol ng.rtpengine.com, as rtpengine has them (its manual on HTTP and WebSocket). h11
(RFC 9112) and wsproto (RFC 6455) read and write the protocols. Must not know what a frame says.
"""

from __future__ import annotations

from typing import Final

import h11
import wsproto
from wsproto import events
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from bgf.control.framing import FRAME_BYTES_MAX

HEAD_BYTES_MAX: Final = 16_384
"""Of a request's line and headers."""
UNREAD_BYTES_MAX: Final = FRAME_BYTES_MAX + HEAD_BYTES_MAX
"""Of what a client may send before its last request is answered."""
NG_PATH: Final = "/ng"
PING_PATH: Final = "/ping"
NG_TYPE: Final = "application/x-rtpengine-ng"
SUBPROTOCOL: Final = "ng.rtpengine.com"


_BROKEN = (CloseReason.PROTOCOL_ERROR, CloseReason.INVALID_FRAME_PAYLOAD_DATA)


class Web:
    """`framing.Wire` of an HTTP connection, which may become a WebSocket."""

    def __init__(self) -> None:
        self.finished = False
        self.fault = ""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._socket: wsproto.WSConnection | None = None
        self._body = bytearray()
        self._out = bytearray()
        self._asked = False  # a frame has been given, and its reply is owed
        self._unread = 0

    @property
    def begun(self) -> bool:
        if self._socket is not None:
            return bool(self._body)
        return not self._asked and (self._http.their_state is h11.SEND_BODY or self._unread > 0)

    def receive(self, data: bytes) -> list[bytes]:
        if self.finished or not data:  # nothing is not the end
            return []
        if self._socket is not None:
            return self._messages(self._socket, data)
        self._unread += len(data)
        if self._asked:
            if self._unread > UNREAD_BYTES_MAX:
                self._end("too-long")
            else:
                self._http.receive_data(data)
            return []
        self._http.receive_data(data)
        return self._requests()

    def reply(self, frame: bytes) -> list[bytes]:
        socket = self._socket
        if socket is not None:
            self._say(socket, _message(frame))
            return []
        if not self._asked:
            return []
        self._respond(200, NG_TYPE, frame)
        return self._requests()

    def drop(self) -> list[bytes]:
        if self._socket is None and self._asked:
            self._respond(400, "text/plain", b"no cookie: the body must be COOKIE SP DICTIONARY\n")
            return self._requests()
        return []

    def take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def _end(self, fault: str = "") -> None:
        self.finished = True
        self.fault = self.fault or fault

    # HTTP

    def _requests(self) -> list[bytes]:
        """Read on until a request asks for something that is not answered at once."""
        try:
            while not self.finished and not self._asked:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    break
                if event is h11.PAUSED:
                    break
                if isinstance(event, h11.Request):
                    frames = self._request(event)
                    if self._socket is not None:
                        return frames
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > FRAME_BYTES_MAX:
                        self._refuse(413, f"a frame has at most {FRAME_BYTES_MAX} bytes")
                elif isinstance(event, h11.EndOfMessage):
                    self._asked, self._unread = True, len(self._http.trailing_data[0])
                    frame = bytes(self._body)
                    self._body.clear()
                    return [frame]
                elif isinstance(event, h11.ConnectionClosed):
                    self._end()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, f"not HTTP: {error}")
        return []

    def _request(self, request: h11.Request) -> list[bytes]:
        headers = {bytes(name): bytes(value) for name, value in request.headers}
        path = request.target.decode("latin-1").partition("?")[0]
        method, kind = request.method, headers.get(b"content-type", b"").partition(b";")[0]
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            return self._upgrade(request, headers)
        if path == PING_PATH:
            if method != b"GET":
                self._refuse(405, "GET is what /ping knows")
            else:
                self._http.next_event()  # the end of a request without a body
                self._respond(200, "text/plain", b"pong\n")
        elif path != NG_PATH:
            self._refuse(404, f"{NG_PATH} and {PING_PATH} are here")
        elif method != b"POST":
            self._refuse(405, f"POST is what {NG_PATH} knows")
        elif kind.strip().lower() != NG_TYPE.encode():
            self._refuse(415, f"the content type must be {NG_TYPE}")
        elif int(headers.get(b"content-length", b"0")) > FRAME_BYTES_MAX:
            self._refuse(413, f"a frame has at most {FRAME_BYTES_MAX} bytes")
        return []

    def _refuse(self, status: int, why: str) -> None:
        """An error answer, and the end: what the client still sends is not read."""
        self._end(f"http-{status}")
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._respond(status, "text/plain", f"{why}\n".encode(), last=True)

    def _respond(self, status: int, kind: str, body: bytes, last: bool = False) -> None:
        headers = [("content-type", kind), ("content-length", str(len(body)))]
        if last:
            headers.append(("connection", "close"))
        self._asked = False
        self._send(h11.Response(status_code=status, headers=headers))
        self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._unread = len(self._http.trailing_data[0])
        else:
            self._end()

    def _send(self, event: h11.Event) -> None:
        self._out += self._http.send(event) or b""

    # WebSocket

    def _upgrade(self, request: h11.Request, headers: dict[bytes, bytes]) -> list[bytes]:
        offered = headers.get(b"sec-websocket-protocol", b"").decode("latin-1").split(",")
        if SUBPROTOCOL not in (one.strip() for one in offered):
            self._refuse(400, f"the subprotocol {SUBPROTOCOL} must be offered")
            return []
        socket = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        try:
            socket.initiate_upgrade_connection(list(request.headers), request.target)
            accept = socket.send(events.AcceptConnection(subprotocol=SUBPROTOCOL))
        except (RemoteProtocolError, LocalProtocolError) as error:
            self._refuse(400, f"not a WebSocket request: {error}")
            return []
        self._out += accept
        self._socket, self._unread = socket, 0
        return self._messages(socket, self._http.trailing_data[0])

    def _messages(self, socket: wsproto.WSConnection, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        try:
            socket.receive_data(data)
            for event in socket.events():
                if isinstance(event, events.BytesMessage | events.TextMessage):
                    part = event.data
                    self._body += part.encode() if isinstance(part, str) else part
                    if len(self._body) > FRAME_BYTES_MAX:
                        why = f"a frame has at most {FRAME_BYTES_MAX} bytes"
                        self._say(socket, events.CloseConnection(CloseReason.MESSAGE_TOO_BIG, why))
                        self._end("too-long")
                        break
                    if event.message_finished:
                        frames.append(bytes(self._body))
                        self._body.clear()
                elif isinstance(event, events.Ping):
                    self._say(socket, event.response())
                elif isinstance(event, events.CloseConnection):
                    # Also how wsproto reports bytes that are no WebSocket frame.
                    self._say(socket, event.response())
                    self._end("bad-websocket" if event.code in _BROKEN else "")
                    break
        except RemoteProtocolError as error:
            self._say(socket, events.CloseConnection(CloseReason.PROTOCOL_ERROR, str(error)[:100]))
            self._end("bad-websocket")
        return frames

    def _say(self, socket: wsproto.WSConnection, event: events.Event) -> None:
        try:
            self._out += socket.send(event)
        except LocalProtocolError:
            self._end()  # it is closing: nobody reads any more


def _message(frame: bytes) -> events.Event:
    """JSON as text, which it is; bencode, which need not be, as bytes."""
    if frame.partition(b" ")[2][:1] == b"{":
        return events.TextMessage(data=frame.decode("utf-8", "replace"))
    return events.BytesMessage(data=frame)
