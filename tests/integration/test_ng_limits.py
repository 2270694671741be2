"""What bounds `ng` on real sockets: connections, slow peers, rates, strangers, and load."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from bgf.control import server, streams
from bgf.control.access import Access
from bgf.control.client import encode_request
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.control.newcalls import NewCalls
from bgf.control.server import Incoming, NgServer, Ports
from bgf.model import Address
from tests.fakes.ng_serving import PATIENCE_S, SDP, echo, read_all, serving, tcp
from tests.integration.test_ng_socket import IFA_F_NODAD, namespace

__all__ = ["namespace"]


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
            # The backlog of a busy processor is overtaken by another one's: order is not kept.
            there.counted("stranger", 100)
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
            bound.read()
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
