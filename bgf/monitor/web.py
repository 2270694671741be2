"""A small HTTP server for reading: GET and HEAD, one answer per connection, or a stream of events.

Knows: h11 (RFC 9112), server-sent events (WHATWG HTML 9.2), limits, the headers that keep a browser
from doing anything but showing. Must not know what is served: a route gives bytes or a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import h11

from bgf.errors import EnvironmentProblem
from bgf.model import Address

log = logging.getLogger("bgf.monitor")

CONNECTIONS_MAX: Final = 64
STREAMS_MAX: Final = 16
HEAD_BYTES_MAX: Final = 8_192
READ_BYTES: Final = 4_096
REQUEST_S_MAX: Final = 5.0
SEND_S_MAX: Final = 10.0
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "connection": "close",
}


class Response(NamedTuple):
    """A whole answer."""

    body: bytes
    type: str = "text/plain; charset=utf-8"
    status: int = 200


class Stream(NamedTuple):
    """An answer of server-sent events: each item is the data of one, without line breaks."""

    events: AsyncIterator[str]


Route = Callable[[str], Awaitable[Response | Stream | None]]
"""Path, without query -> answer; None: there is no such thing."""


class WebServer:
    """Serves `route` on one address. `counts` by reason: requests, refused, ..."""

    def __init__(self, address: Address, route: Route) -> None:
        self.address = address
        self.counts: Counter[str] = Counter()
        self._route = route
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._streams = 0

    async def start(self) -> None:
        """Raises EnvironmentProblem: the address is not here, or taken."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self.address.host, self.address.port, limit=HEAD_BYTES_MAX
            )
        except OSError as error:
            raise EnvironmentProblem(
                f"monitor.listen = {self.address}: {error.strerror or error}; "
                "set another address of this node, or free it"
            ) from None
        port = self._server.sockets[0].getsockname()[1]
        self.address = Address(self.address.host, int(port))

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > CONNECTIONS_MAX:
                self.counts["refused"] += 1
            else:
                await self._converse(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError):
            self.counts["broken"] += 1  # it went away, is slow, or speaks something else
        except asyncio.CancelledError:
            pass  # closing; a cancelled stream callback would be logged as an error
        finally:
            self._clients.discard(task)
            with contextlib.suppress(Exception):
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                request = await _request(http, reader)
        except h11.RemoteProtocolError as error:
            self.counts["malformed"] += 1
            answer = Response(b"not HTTP\n", status=error.error_status_hint)
            return await _send(http, writer, answer, whole=True)
        if request is None:
            return None
        self.counts["requests"] += 1
        if request.method not in (b"GET", b"HEAD"):
            answer = Response(b"only GET and HEAD: this page changes nothing\n", status=405)
            return await _send(http, writer, answer, whole=True)
        path = request.target.decode("latin-1").partition("?")[0]
        try:
            found = await self._route(path)
        except Exception:
            log.exception("%s cannot be served", path[:80])
            found = Response(b"internal error: see the log of bgf monitor\n", status=500)
        found = found or Response(b"there is no such page; / is one\n", status=404)
        if isinstance(found, Response):
            return await _send(http, writer, found, whole=request.method == b"GET")
        if self._streams >= STREAMS_MAX:
            self.counts["refused"] += 1
            busy = Response(b"too many pages are open\n", status=503)
            return await _send(http, writer, busy, whole=True)
        self._streams += 1
        try:
            await _stream(http, reader, writer, found)
        finally:
            self._streams -= 1
        return None


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        http.receive_data(await reader.read(READ_BYTES))


def _head(status: int, more: Mapping[str, str]) -> h11.Response:
    return h11.Response(status_code=status, headers=list({**HEADERS, **more}.items()))


async def _send(
    http: h11.Connection, writer: asyncio.StreamWriter, answer: Response, whole: bool
) -> None:
    head = {"content-type": answer.type, "content-length": str(len(answer.body))}
    out = http.send(_head(answer.status, head)) or b""
    if whole:
        out += http.send(h11.Data(data=answer.body)) or b""
        out += http.send(h11.EndOfMessage()) or b""
    writer.write(out)
    async with asyncio.timeout(SEND_S_MAX):
        await writer.drain()


async def _stream(
    http: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    stream: Stream,
) -> None:
    writer.write(http.send(_head(200, {"content-type": "text/event-stream"})) or b"")
    gone = asyncio.create_task(reader.read(1))  # its end, or a word out of turn
    try:
        async for event in stream.events:
            if gone.done():
                return
            data = http.send(h11.Data(data=f"data: {event}\n\n".encode()))
            writer.write(data or b"")
            async with asyncio.timeout(SEND_S_MAX):
                await writer.drain()
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
