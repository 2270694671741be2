"""An `ng` server in a loop of its own thread, with a plain handler, and short words for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from bgf.control import ng, server
from bgf.control.access import Access
from bgf.control.client import NgClient
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.control.newcalls import NewCalls
from bgf.control.server import Incoming, NgServer, Ports
from bgf.events import Reply, Result, Verb
from bgf.model import Address

PATIENCE_S = 20.0
EVERY = Ports(udp=True, tcp=0, http=0)
LISTENER = {
    Transport.UDP: "udp",
    Transport.TCP: "tcp",
    Transport.HTTP: "http",
    Transport.WEBSOCKET: "http",
}
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0\r\n"
)


def echo(incoming: Incoming) -> bytes | None:
    """Pings are answered; everything else is, with its call-id as the warning."""
    request = incoming.request
    if request.verb is Verb.PING:
        return ng.render(request, Reply(request.cookie, Result.PONG))
    return ng.render(request, Reply(request.cookie, Result.OK, warning=request.call_id))


class Serving:
    """A server in a loop of its own thread, and a way to run something in the loop."""

    def __init__(self, bound: NgServer, run: Callable[[Callable[[], None]], None]) -> None:
        self.bound = bound
        self.run = run

    def client(self, transport: Transport, codec: Codec = Codec.BENCODE) -> NgClient:
        address = self.bound.addresses[LISTENER[transport]]
        return NgClient(address, PATIENCE_S, 2, transport=transport, codec=codec)

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        self.run(lambda: found.update(self.bound.counts))
        return found

    def counted(self, reason: str, least: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.counts().get(reason, 0) < least:
            assert time.monotonic() < deadline, f"{reason} stays {self.counts()}"
            time.sleep(0.02)


@contextlib.contextmanager
def serving(
    handler: server.Handler = echo,
    host: str = "127.0.0.1",
    ports: Ports = EVERY,
    access: Access | None = None,
    new_calls: NewCalls | None = None,
) -> Iterator[Serving]:
    bound = NgServer(Address(host, 0), handler, ports, access, new_calls)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    loop.call_soon(bound.start, loop)
    thread.start()

    def run(action: Callable[[], None]) -> None:
        done = threading.Event()

        def act() -> None:
            try:
                action()
            finally:
                done.set()

        loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE_S)

    try:
        yield Serving(bound, run)
    finally:
        run(bound.close)
        run(lambda: None)  # connections are lost in the turn after
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


def tcp(address: Address) -> socket.socket:
    opened = socket.create_connection((address.host, address.port), PATIENCE_S)
    opened.settimeout(PATIENCE_S)
    return opened


def read_all(opened: socket.socket) -> bytes:
    """Until the server closes; a reset is an end as well."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := opened.recv(65_536):
            found += data
    return found
