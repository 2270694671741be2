"""`ng` over every transport, codec and family, between real sockets."""

from __future__ import annotations

import http.client
import socket
import struct
import threading

import pytest

from bgf.control.access import Access
from bgf.control.bencode import TextValue
from bgf.control.client import NgClient, NoAnswer, encode_request
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.control.server import Incoming, NgServer, Ports
from bgf.errors import EnvironmentProblem
from bgf.model import Address
from tests.fakes.ng_serving import LISTENER, PATIENCE_S, SDP, echo, read_all, serving, tcp
from tests.integration.test_ng_socket import add_to_loopback, namespace

__all__ = ["namespace"]

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
        asking = threading.Thread(
            target=lambda: replies.append(client.call({"command": "ping"})), daemon=True
        )
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
        # The kernel chooses the address itself as our source: it is of the prefix. A socket that is
        # connected while an IPv6 address comes up may keep a route from before: then another one.
        replies = (asked(address, transport) for _ in range(40))
        assert next(filter(None, replies), None) == {"result": "pong"}


def asked(address: Address, transport: Transport) -> dict[str, TextValue] | None:
    with NgClient(address, 0.5, 2, transport=transport) as client:
        try:
            return client.call({"command": "ping"})
        except NoAnswer:
            return None


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


def test_the_client_says_whom_it_could_not_reach() -> None:
    with (
        NgClient(Address("127.0.0.1", 9), 0.05, 2, transport=Transport.TCP) as client,
        pytest.raises(NoAnswer, match=r"no answer from 127\.0\.0\.1:9 in 2 tries"),
    ):
        client.call({"command": "ping"})
