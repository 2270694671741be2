"""`ng` over every transport, codec and family, between real sockets; limits and strangers too."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import IPRoute

from bgf.control import ng, server, streams
from bgf.control.access import Access
from bgf.control.client import NgClient, NoAnswer, encode_request
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.control.newcalls import NewCalls
from bgf.control.server import Incoming, NgServer, Ports
from bgf.errors import EnvironmentProblem
from bgf.events import Reply, Result, Verb
from bgf.model import Address
from tests.integration.test_ng_socket import (
    IFA_F_NODAD,
    PATIENCE_S,
    add_to_loopback,
    namespace,
)

__all__ = ["namespace"]

EVERY = Ports(udp=True, tcp=0, http=0)
LISTENER = {Transport.UDP: "udp", Transport.TCP: "tcp", Transport.HTTP: "http"}
LISTENER[Transport.WEBSOCKET] = "http"
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
SDP += "m=audio 4000 RTP/AVP 0\r\n"


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
    import asyncio

    bound = NgServer(Address(host, 0), handler, ports, access, new_calls)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
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


# Each transport, each codec, each family


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("codec", list(Codec), ids=lambda codec: codec.value)
@pytest.mark.parametrize("transport", list(Transport), ids=lambda transport: transport.value)
def test_every_transport_codec_and_family(transport: Transport, codec: Codec, host: str) -> None:
    with serving(host=host) as there, there.client(transport, codec) as client:
        assert client.call({"command": "ping"}) == {"result": "pong"}
        requests = [{"command": "delete", "call-id": f"call{number}"} for number in range(100)]
        replies = client.call_many(requests, window=32)
        assert replies == [{"result": "ok", "warning": f"call{n}"} for n in range(100)]
        # An SDP of nearly all that a frame may have comes and goes whole.
        long = {"command": "offer", "call-id": "c" * 200, "from-tag": "a"}
        long["sdp"] = SDP + "a=x-fill:" + "é" * 15_000 + "\r\n"
        assert client.call(long) == {"result": "ok", "warning": "c" * 200}
        assert client.call({"command": "nonsense"})["result"] == "error"
        assert client.retries == 0


@pytest.mark.parametrize("transport", list(Transport), ids=lambda transport: transport.value)
def test_a_reply_may_come_later(transport: Transport) -> None:
    held: list[Incoming] = []
    first = threading.Event()

    def hold(incoming: Incoming) -> None:
        held.append(incoming)
        first.set()

    with serving(hold) as there, there.client(transport) as client:
        replies: list[object] = []
        asking = threading.Thread(target=lambda: replies.append(client.call({"command": "ping"})))
        asking.start()
        assert first.wait(PATIENCE_S)
        (incoming,) = held
        there.run(lambda: there.bound.send(incoming.peer, echo(incoming) or b""))
        asking.join(PATIENCE_S)
        assert replies == [{"result": "pong"}]


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("transport", list(Transport), ids=lambda transport: transport.value)
@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"], ids=["ipv4", "ipv6"])
def test_bound_before_its_address_exists(host: str, transport: Transport) -> None:
    prefixes = ("192.0.2.0/24", "2001:db8::/32")
    with serving(host=host, access=Access(prefixes)) as there:
        add_to_loopback(host, 128 if ":" in host else 32)
        address = there.bound.addresses[LISTENER[transport]]
        with NgClient(address, 0.5, 40, transport=transport) as client:
            # The kernel chooses the address itself as our source: it is of the prefix.
            assert client.call({"command": "ping"}) == {"result": "pong"}


@pytest.mark.parametrize("name", ["tcp", "http"])
def test_a_taken_port_is_one_clear_line(name: str) -> None:
    with serving() as there:
        taken = there.bound.addresses[name].port
        ports = Ports(False, taken, None) if name == "tcp" else Ports(False, None, taken)
        with pytest.raises(EnvironmentProblem) as caught:
            NgServer(Address("127.0.0.1", 0), echo, ports)
        assert str(caught.value) == (
            f"control address 127.0.0.1:{taken} is taken: stop its holder "
            f"(ss -ltnp 'sport = :{taken}') or set another control.listen port"
        )


def test_with_peers_a_taken_address_is_taken_as_well() -> None:
    """Two sockets share the port: a third must not, whoever it belongs to."""
    with serving(access=Access(("127.0.0.0/8",))) as there, pytest.raises(EnvironmentProblem):
        NgServer(there.bound.address, echo, access=Access(("127.0.0.0/8",)))


# Connections that break, and those that are broken off


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.HTTP, Transport.WEBSOCKET])
def test_the_client_connects_again_with_the_same_cookie(transport: Transport) -> None:
    cookies: list[str] = []

    def once_deaf(incoming: Incoming) -> bytes | None:
        cookies.append(incoming.request.cookie)
        if len(cookies) == 1:
            there.bound.hang_up()
            return None
        return echo(incoming)

    with serving(once_deaf) as there:
        address = there.bound.addresses[LISTENER[transport]]
        with NgClient(address, 0.2, 100, transport=transport) as client:
            assert client.call({"command": "ping"}) == {"result": "pong"}
        there.run(lambda: None)
        assert there.bound.connections <= 1
    assert len(set(cookies)) == 1 < len(cookies)


def test_frames_split_anywhere_and_several_at_once_over_tcp() -> None:
    frames = [
        encode_request("k_1", {"command": "delete", "call-id": "one"}),
        encode_request("k_2", {"command": "delete", "call-id": 'a"}{\\'}, Codec.JSON),
        encode_request("k_3", {"command": "ping", "x": [1, -2, {"y": "z"}]}),
        b"k_4 d5:wrongd1:a1:be2:xxi3ee",
        encode_request("k_5", {"command": "ping"}, Codec.JSON),
    ]
    stream = b"\r\n".join(frames)
    with serving() as there:
        with tcp(there.bound.addresses["tcp"]) as whole:
            whole.sendall(stream)
            whole.shutdown(socket.SHUT_WR)
            replies = read_all(whole)
        with tcp(there.bound.addresses["tcp"]) as split:
            split.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(stream)):
                split.sendall(stream[at : at + 1])
            split.shutdown(socket.SHUT_WR)
            assert read_all(split) == replies
        for cookie in (b"k_1 d", b'k_2 {"result":"ok"', b"k_3 d", b"k_4 d12:error", b'k_5 {"res'):
            assert cookie in replies


@pytest.mark.parametrize(
    ("sent", "answer", "reason"),
    [
        (b"k_1 hello", b"k_1 d12:error-reason", "bad-bencode"),
        (b"k_1 dx", b"k_1 d12:error-reason", "bad-bencode"),
        (b"k_1 di-12345678901234567890e", b"k_1 d12:error-reason", "bad-bencode"),
        (b"k_1 d123456789:", b"k_1 d12:error-reason", "bad-bencode"),
        (b"k_1 d" + b"l" * 40, b"k_1 d12:error-reason", "bad-bencode"),
        (b"k_1 d70000:", b"k_1 d12:error-reason", "too-long"),
        (b'k_1 {"a":"' + b"x" * 70_000, b'k_1 {"', "too-long"),
        (b"k_1 {\\", b'k_1 {"', "bad-json"),
        (b"x" * 200, b"", "no-cookie"),
        (b"\xff\xff\xff d7:command4:pinge", b"", "no-cookie"),
        (b" d7:command4:pinge", b"", "no-cookie"),
        (b"GET / HTTP/1.1\r\n\r\n", b"GET d12:error-reason", "bad-bencode"),
    ],
)
def test_a_stream_that_is_no_ng_is_answered_counted_and_closed(
    sent: bytes, answer: bytes, reason: str
) -> None:
    with serving() as there:
        with tcp(there.bound.addresses["tcp"]) as peer:
            peer.sendall(sent)
            found = read_all(peer)
        assert found.startswith(answer) and bool(found) == bool(answer)
        there.counted(reason)
        with there.client(Transport.TCP) as client:
            assert client.call({"command": "ping"}) == {"result": "pong"}


# HTTP and WebSocket as rtpengine has them


def test_http_says_what_it_knows_and_what_not() -> None:
    ng_type = "application/x-rtpengine-ng"
    body = b"k_1 d7:command4:pinge"
    with serving() as there:
        at = there.bound.addresses["http"]

        def ask(method: str, path: str, sent: bytes = b"", kind: str = "") -> tuple[int, bytes]:
            asked = http.client.HTTPConnection(at.host, at.port, timeout=PATIENCE_S)
            try:
                asked.request(method, path, sent or None, {"Content-Type": kind} if kind else {})
                answer = asked.getresponse()
                return answer.status, answer.read()
            finally:
                asked.close()

        assert ask("GET", "/ping") == (200, b"pong\n")
        assert ask("POST", "/ng", body, ng_type) == (200, b"k_1 d6:result4:ponge")
        assert ask("POST", "/ng", body, "Application/X-Rtpengine-NG; charset=utf-8")[0] == 200
        assert ask("POST", "/ng", b"nothing", ng_type)[0] == 400
        assert ask("POST", "/ng", b"", ng_type)[0] == 400
        assert ask("POST", "/ng", body)[0] == 415
        assert ask("POST", "/ng", body, "application/json")[0] == 415
        assert ask("GET", "/ng", b"", ng_type)[0] == 405
        assert ask("POST", "/ping", body)[0] == 405
        assert ask("GET", "/admin")[0] == 404
        assert ask("POST", "/ng", b"x" * 70_000, ng_type)[0] == 413
        with tcp(at) as peer:
            peer.sendall(b"\x00\x01 not http\r\n\r\n")
            assert read_all(peer).startswith(b"HTTP/1.1 400 ")
        with tcp(at) as peer:
            peer.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000)
            assert read_all(peer).startswith(b"HTTP/1.1 4")


def test_http_requests_follow_each_other_and_are_answered_in_order() -> None:
    post = b"POST /ng HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-rtpengine-ng\r\n"
    chunked = (
        post
        + b"Transfer-Encoding: chunked\r\n\r\n3\r\nk_2\r\n12\r\n d7:command4:pinge\r\n0\r\n\r\n"
    )
    waits = post + b"Expect: 100-continue\r\nContent-Length: 21\r\n\r\n"
    body = b"k_1 d7:command4:pinge"
    plain = post + b"Content-Length: 21\r\n\r\n" + body
    with serving() as there, tcp(there.bound.addresses["http"]) as peer:
        peer.sendall(plain + chunked + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" + waits)
        found = b""
        while b"100" not in found.rpartition(b"pong\n")[2]:
            found += peer.recv(65_536)
        assert found.count(b"HTTP/1.1 200") == 3
        assert found.index(b"k_1 d") < found.index(b"k_2 d") < found.index(b"pong\n")
        peer.sendall(b"k_9" + body[3:])
        peer.shutdown(socket.SHUT_WR)
        assert b"k_9 d6:result4:ponge" in read_all(peer)


def test_a_websocket_needs_the_subprotocol() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    ours = b"Sec-WebSocket-Protocol: chat, ng.rtpengine.com\r\n\r\n"
    with serving() as there:
        with tcp(there.bound.addresses["http"]) as peer:
            peer.sendall(head + b"\r\n")
            assert read_all(peer).startswith(b"HTTP/1.1 400 ")
        with tcp(there.bound.addresses["http"]) as peer:
            peer.sendall(head.replace(b"13", b"12") + ours)
            assert read_all(peer).startswith(b"HTTP/1.1 4")
        with tcp(there.bound.addresses["http"]) as peer:
            # A message in two fragments with a ping between them, all right behind the request.
            frames = b"\x01\x85\0\0\0\0k_1 {" + b"\x89\x81\0\0\0\0p"
            frames += b'\x80\x91\0\0\0\0"command":"ping"}'
            peer.sendall(head + ours + frames)
            found = b""
            while b'k_1 {"result":"pong"}' not in found:
                found += peer.recv(65_536)
            assert b"101 Switching" in found or found.startswith(b"HTTP/1.1 101")
            assert b"\x8a\x01p" in found
            assert b'\x81\x15k_1 {"result":"pong"}' in found
            peer.sendall(b"\x88\x80\0\0\0\0")
            assert read_all(peer) == b"\x88\x00"
        with tcp(there.bound.addresses["http"]) as peer:
            peer.sendall(head + ours + b"\xff\xff")
            assert b"HTTP/1.1 101" in read_all(peer)
        there.counted("bad-websocket")
        with tcp(there.bound.addresses["http"]) as peer:
            part = b"\x02\xfe" + struct.pack(">H", 60_000) + b"\0\0\0\0" + b"x" * 60_000
            peer.sendall(head + ours + part + b"\x00" + part[1:])
            assert struct.pack(">H", 1009) in read_all(peer)
        there.counted("too-long")


# Limits


def test_connections_are_bounded_per_peer_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CONNECTIONS_MAX", 3)
    monkeypatch.setattr(streams, "CONNECTIONS_PER_PEER_MAX", 2)
    with serving(ports=Ports(True, 0, None)) as there, contextlib.ExitStack() as stack:
        at = there.bound.addresses["tcp"]

        def from_(host: str) -> socket.socket:
            opened = socket.socket()
            opened.settimeout(PATIENCE_S)
            opened.bind((host, 0))
            opened.connect((at.host, at.port))
            return stack.enter_context(opened)

        first, second = from_("127.0.0.1"), from_("127.0.0.1")
        assert read_all(from_("127.0.0.1")) == b""
        third = from_("127.0.0.2")
        assert read_all(from_("127.0.0.3")) == b""
        for one in (first, second, third):
            one.sendall(b"k_1 d7:command4:pinge")
            assert one.recv(100) == b"k_1 d6:result4:ponge"
        assert there.counts()["too-many-connections"] == 2
        first.close()
        there.counted("connections", 3)
        deadline = time.monotonic() + PATIENCE_S
        while there.bound.connections > 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        again = from_("127.0.0.1")
        again.sendall(b"k_1 d7:command4:pinge")
        assert again.recv(100) == b"k_1 d6:result4:ponge"


def test_who_sends_slowly_or_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SWEEP_S", 0.05)
    monkeypatch.setattr(streams, "PARTIAL_S", 0.2)
    with serving() as there:
        for name, part in (
            ("tcp", b"k_1 d7:comm"),
            ("http", b"POST /ng HTTP/1.1\r\nHost"),
        ):
            with tcp(there.bound.addresses[name]) as peer:
                peer.sendall(part)
                assert read_all(peer) == b""
        assert there.counts()["slow-sender"] == 2
        monkeypatch.setattr(streams, "IDLE_S", 0.2)
        with tcp(there.bound.addresses["tcp"]) as peer:
            assert read_all(peer) == b""
        assert there.counts()["idle"] == 1


def test_who_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "OUTGOING_BYTES_MAX", 65_536)
    frame = encode_request("k_1", {"command": "delete", "call-id": "x" * 500})
    with serving() as there:
        listener = there.bound._streams["tcp"]._socket
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # connections have it, too
        with tcp(there.bound.addresses["tcp"]) as peer:
            with contextlib.suppress(OSError):
                for _ in range(4_000):
                    peer.sendall(frame * 10)
            there.counted("slow-reader")


def test_a_stream_that_never_pauses_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last bytes are always half a frame, each time of another one."""
    monkeypatch.setattr(streams, "SWEEP_S", 0.02)
    monkeypatch.setattr(streams, "PARTIAL_S", 0.3)
    frame = b"k_1 d7:command4:pinge"
    with serving() as there, tcp(there.bound.addresses["tcp"]) as peer:
        deadline = time.monotonic() + 1.0
        sent = 0
        peer.sendall(frame[:7])
        while time.monotonic() < deadline:
            peer.sendall(frame[7:] + frame[:7])
            sent += 1
            time.sleep(0.01)
        peer.sendall(frame[7:])
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer).count(b"pong") == sent + 1


def test_a_peers_rate_holds_a_stream_back_and_drops_datagrams() -> None:
    rate = 50
    access = Access(rate_per_peer=rate)
    with serving(access=access) as there:
        with there.client(Transport.TCP) as client:
            replies = client.call_many([{"command": "ping"}] * (rate + 20), window=64)
            assert replies == [{"result": "pong"}] * (rate + 20)
            assert client.retries == 0
        at = there.bound.address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.connect((at.host, at.port))
            for number in range(4 * rate):
                peer.send(b"k_%d d7:command4:pinge" % number)
        there.counted("rate-limited")


# Strangers


@pytest.fixture
def two_hosts(namespace: str) -> Iterator[str]:
    """Loopback addresses of a peer and a stranger, of both families."""
    del namespace
    with IPRoute() as ip:
        for host in ("fd00:c::1", "fd00:c::2", "fd00:d::2"):
            ip.addr("add", index=1, address=host, prefixlen=128, flags=IFA_F_NODAD)
    yield ""


PEERS = ("127.0.1.0/24", "fd00:c::/32")
FAMILIES = [("127.0.1.1", "127.0.1.2", "127.0.2.2"), ("fd00:c::1", "fd00:c::2", "fd00:d::2")]


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@pytest.mark.usefixtures("two_hosts")
@pytest.mark.parametrize(("host", "peer", "stranger"), FAMILIES, ids=["ipv4", "ipv6"])
def test_a_stranger_is_neither_answered_nor_decoded(host: str, peer: str, stranger: str) -> None:
    frame = b"k_1 d7:command4:pinge"
    with serving(host=host, access=Access(PEERS)) as there:
        at = there.bound.address
        with socket.socket(family_of(host), socket.SOCK_DGRAM) as other:
            other.bind((stranger, 0))
            for _ in range(100):
                other.sendto(frame, (host, at.port))
            with socket.socket(family_of(host), socket.SOCK_DGRAM) as ours:
                ours.bind((peer, 0))
                ours.settimeout(PATIENCE_S)
                ours.sendto(frame, (host, at.port))
                assert ours.recvfrom(100)[0] == b"k_1 d6:result4:ponge"
            there.run(there.bound.look)
            counts = there.counts()
            assert counts["stranger"] == 100
            assert counts["received"] == counts["requests"] == counts["replies"] == 1
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(100)
        for name in ("tcp", "http"):
            target = there.bound.addresses[name]
            with socket.socket(family_of(host), socket.SOCK_STREAM) as other:
                other.bind((stranger, 0))
                other.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    other.connect((host, target.port))
            with socket.socket(family_of(host), socket.SOCK_STREAM) as ours:
                ours.bind((peer, 0))
                ours.settimeout(PATIENCE_S)
                ours.connect((host, target.port))
        there.counted("tcp-dropped")


@pytest.mark.usefixtures("two_hosts")
def test_a_strangers_flood_takes_no_place_of_a_peers() -> None:
    """Far more than the queue holds, while nobody reads; then all of the peer's are there."""
    host, peer, stranger = FAMILIES[0]
    sent, asked = 20_000, 50
    bound = NgServer(Address(host, 0), echo, access=Access(PEERS))
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        ):
            other.bind((stranger, 0))
            ours.bind((peer, 0))
            flood = b"k_1 d7:command4:ping1:x1000:" + b"y" * 1000 + b"e"
            for number in range(sent):
                other.sendto(flood, (host, bound.address.port))
                if number % (sent // asked) == 0:
                    ours.sendto(b"k_%d d7:command4:pinge" % number, (host, bound.address.port))
            bound._readable()
            bound.look()
        assert bound.counts["requests"] == asked
        assert bound.counts["stranger"] == sent
        assert bound.counts["overflowed"] == 0
    finally:
        bound.close()


# New calls come last


def test_commands_of_running_calls_overtake_new_ones_and_new_ones_are_shed() -> None:
    order: list[str] = []
    begun: set[str] = set()
    gate = threading.Event()

    def slow(incoming: Incoming) -> bytes | None:
        order.append(incoming.request.call_id)
        begun.add(incoming.request.call_id)
        if incoming.request.call_id == "first":
            assert gate.wait(PATIENCE_S)  # meanwhile everything else arrives
        if incoming.request.call_id.startswith("new"):
            time.sleep(0.01)
        return echo(incoming)

    def offer(call_id: str) -> dict[str, object]:
        request = {"command": "offer", "call-id": call_id, "from-tag": "a", "sdp": SDP}
        return {**request, "supports": ["load limit"]}

    def known(call_id: str) -> bool:
        return call_id in begun or call_id.startswith("old")

    new = NewCalls(known, lag_max_ms=400)
    with serving(slow, new_calls=new) as there:
        at = there.bound.address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect((at.host, at.port))

            def send(cookie: str, request: object) -> None:
                peer.send(encode_request(cookie, request))  # type: ignore[arg-type]

            send("k_first", {"command": "delete", "call-id": "first"})
            for number in range(200):
                send(f"n_{number}", offer(f"new{number}"))
            send("n_0", offer("new0"))  # the same again: one answer
            send("d_5", {"command": "delete", "call-id": "new5"})  # its offer waits
            for number in range(50):
                send(f"o_{number}", offer(f"old{number}"))
            gate.set()
            replies: dict[str, bytes] = {}
            while len(replies) < 1 + 200 + 1 + 50:
                cookie, _, body = peer.recv(65_536).partition(b" ")
                replies[cookie.decode()] = body
        counts = there.counts()
    assert order[0] == "first"
    olds = [at for at, call_id in enumerate(order) if call_id.startswith("old")]
    news = [at for at, call_id in enumerate(order) if call_id.startswith("new")]
    served = {call_id for call_id in order if call_id.startswith("new")}
    # Datagrams are read a batch at a time; one new call, longer than a slice, is served in between.
    batches = (200 + 1 + 1 + 50) // server.RECEIVE_BATCH_MAX + 1
    assert len([at for at in news if at < max(olds)]) <= batches
    shed = [body for body in replies.values() if b"load limit" in body]
    assert 0 < len(shed) == counts["shed-lag_max_ms"] == 200 - len(served)
    assert order.index("new5") < len(order) - 1 - order[::-1].index("new5")


def test_over_memory_new_calls_are_refused_with_the_reason() -> None:
    why = "memory_max_mb: 9 MB are resident, 8 are allowed: use another node"
    new = NewCalls(lambda call_id: call_id == "old", lambda: why)
    asked = {"command": "offer", "from-tag": "a", "sdp": SDP}
    with serving(new_calls=new) as there, there.client(Transport.TCP, Codec.JSON) as client:
        refused = client.call({**asked, "call-id": "new", "supports": ["load limit"]})
        assert refused == {"result": "load limit", "message": why}
        plain = client.call({**asked, "call-id": "new"})
        assert plain["error-reason"] == "Parallel session limit reached"
        assert client.call({**asked, "call-id": "old"})["result"] == "ok"
        assert client.call({"command": "delete", "call-id": "gone"})["result"] == "ok"
        assert there.counts()["shed-memory_max_mb"] == 2


def test_the_client_says_whom_it_could_not_reach() -> None:
    with (
        NgClient(Address("127.0.0.1", 9), 0.05, 2, transport=Transport.TCP) as client,
        pytest.raises(NoAnswer, match=r"no answer from 127\.0\.0\.1:9 in 2 tries"),
    ):
        client.call({"command": "ping"})
