"""The `ng` socket and its client, over loopback and in a network namespace of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import IPRoute, netns

from bgf.control import bencode, ng, server
from bgf.control.client import NgClient, NoAnswer, encode_request
from bgf.control.server import Incoming, NgServer
from bgf.errors import EnvironmentProblem, LoadLimit
from bgf.events import Reply, Result, Verb
from bgf.model import Address

LOOPBACK = Address("127.0.0.1", 0)
PATIENCE_S = 20.0
TRIES, TRY_S = 40, 0.5
"""How long a test waits for what must happen; nothing is asserted about how soon it does."""


def pong(incoming: Incoming) -> bytes | None:
    """A gateway that answers pings and refuses everything else."""
    if incoming.request.verb is Verb.PING:
        return ng.render(incoming.request, Reply(incoming.request.cookie, Result.PONG))
    raise LoadLimit("Parallel session limit reached")


@contextlib.contextmanager
def serving(
    handler: server.Handler = pong, address: Address = LOOPBACK
) -> Iterator[tuple[NgServer, Callable[[Callable[[], None]], None]]]:
    """A server in a loop of its own thread; yields it and a way to run something in the loop."""
    bound = NgServer(address, handler)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    loop.call_soon(bound.start, loop)
    thread.start()

    def run(action: Callable[[], None]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE_S)

    try:
        yield bound, run
    finally:
        run(bound.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


@contextlib.contextmanager
def asking(address: Address) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((address.host, address.port))
        yield sock


@pytest.fixture
def namespace() -> Iterator[str]:
    """An empty network namespace with only loopback, which this thread is in."""
    name = f"bgfctl-{os.getpid()}"
    netns.create(name)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        netns.setns(name)
        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
        yield name
    finally:
        netns.setns(before)
        os.close(before)
        netns.remove(name)


IFA_F_NODAD = 0x02  # linux/if_addr.h


def add_to_loopback(host: str, prefix_len: int) -> None:
    with IPRoute() as ip:
        # Without NODAD an IPv6 address is tentative for a moment, even here, and takes no bind.
        ip.addr("add", index=1, address=host, prefixlen=prefix_len, flags=IFA_F_NODAD)
    # Even with it the kernel gets round to it a little later, and takes another source till then.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0))
            except OSError:
                assert time.monotonic() < deadline, f"{host} is not to be had"
            else:
                return
        time.sleep(0.001)


def test_the_client_gets_its_pong() -> None:
    with serving() as (bound, _), NgClient(bound.address) as client:
        assert client.call({"command": "ping"}) == {"result": "pong"}


def test_bad_frames_are_answered_dropped_and_counted_by_reason() -> None:
    frames = [
        (b"k_1 hello", b"k_1 d12:error-reason"),
        (b"k_2 d7:command10:frobnicatee", b"k_2 d12:error-reason29:unknown command 'frobnicate'"),
        (b"k_3 d7:command9:play DTMFe", b"k_3 d12:error-reason"),
        (b"k_4 d7:command6:deletee", b"k_4 d12:error-reason34:missing key 'call-id' in delete"),
        (b'k_5 {"command":"ping"}', b'k_5 {"result":"pong"}'),
        (b"k_6 d7:call-id1:c7:command5:querye", b"k_6 d12:error-reason30:Parallel session limit"),
    ]
    with serving() as (bound, run), asking(bound.address) as peer:
        peer.send(b"x" * 65_507)
        peer.send(b"")
        for request, reply in frames:
            peer.send(request)
            assert peer.recv(65_507).startswith(reply[:20])
        counts = dict[str, int]()
        run(lambda: counts.update(bound.counts))
    assert counts == {
        "received": 8,
        "no-cookie": 2,
        "bad-bencode": 1,
        "unknown-command": 1,
        "out-of-scope": 1,
        "missing-key": 1,
        "requests": 2,
        "load-limit": 1,
        "replies": 6,
    }


@pytest.mark.parametrize(
    ("host", "prefix_len"), [("192.0.2.7", 32), ("2001:db8::7", 128)], ids=["ipv4", "ipv6"]
)
@pytest.mark.usefixtures("namespace")
def test_bound_before_its_address_exists_and_answers_from_it(host: str, prefix_len: int) -> None:
    with serving(address=Address(host, 2223)) as (bound, _):
        # A second address, so that the kernel has another choice for the reply's source.
        add_to_loopback("192.0.2.1" if ":" not in host else "2001:db8::1", prefix_len)
        add_to_loopback(host, prefix_len)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as peer:
            peer.settimeout(TRY_S)
            peer.bind(("192.0.2.1" if ":" not in host else "2001:db8::1", 0))
            # Not connected: whoever answers, from wherever, is seen. More than one try, as any
            # client: the kernel adds the route of an IPv6 address a little later than the address.
            for _ in range(TRIES):
                with contextlib.suppress(OSError):
                    peer.sendto(b"k_1 d7:command4:pinge", (host, 2223))
                    reply, sender = peer.recvfrom(65_507)
                    break
            else:
                pytest.fail(f"no answer in {TRIES} tries of {TRY_S} s")
    assert reply == b"k_1 d6:result4:ponge"
    assert sender[:2] == (host, 2223)
    assert bound.counts["replies"] >= 1


@pytest.mark.usefixtures("namespace")
def test_a_server_without_its_address_counts_what_it_cannot_send() -> None:
    bound = NgServer(Address("192.0.2.7", 2223), pong)
    try:
        bound.send(("127.0.0.1", 9), b"k_1 d6:result4:ponge")
        assert bound.counts == {"unsent": 1}
    finally:
        bound.close()


def test_a_taken_address_is_one_clear_line() -> None:
    with serving() as (bound, _), pytest.raises(EnvironmentProblem) as caught:
        NgServer(bound.address, pong)
    assert str(caught.value) == (
        f"control address {bound.address} is taken: stop its holder "
        f"(ss -lunp 'sport = :{bound.address.port}') or set another control_port"
    )


def test_a_reply_may_come_later() -> None:
    held: list[Incoming] = []
    first = threading.Event()

    def hold(incoming: Incoming) -> None:
        held.append(incoming)
        first.set()

    with serving(hold) as (bound, run), asking(bound.address) as peer:
        peer.send(b"k_1 d7:command4:pinge")
        assert first.wait(PATIENCE_S)

        def release() -> None:
            reply = ng.render(held[0].request, Reply("k_1", Result.PONG))
            bound.send(held[0].peer, reply)

        run(release)
        assert peer.recv(100) == b"k_1 d6:result4:ponge"


def test_one_wake_up_reads_a_bounded_batch() -> None:
    seen: list[str] = []
    wanted = server.RECEIVE_BATCH_MAX + 6

    def note(incoming: Incoming) -> None:
        seen.append(incoming.request.cookie)

    bound = NgServer(LOOPBACK, note)
    try:
        with asking(bound.address) as peer:
            for number in range(wanted):
                peer.send(b"k_%d d7:command4:pinge" % number)
        bound.read()
        assert len(seen) == server.RECEIVE_BATCH_MAX
        bound.read()
        bound.read()
        assert seen == [f"k_{number}" for number in range(wanted)]
    finally:
        bound.close()


def test_what_the_kernel_lost_is_counted() -> None:
    """A queue too short for what comes: every datagram is either received or overflowed."""
    sent = 400
    bound = NgServer(LOOPBACK, pong)
    try:
        assert bound._socket is not None
        bound._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        with asking(bound.address) as peer:
            for number in range(sent):
                peer.send(b"k_%d d7:command4:ping1:x500:%se" % (number, b"y" * 500))
            while True:
                before = bound.counts["received"]
                bound.read()
                if bound.counts["received"] == before:
                    break
            # The total rides on a datagram that arrives after the loss.
            peer.send(b"k_last d7:command4:pinge")
        bound.read()
        assert bound.counts["overflowed"] > 0
        assert bound.counts["received"] + bound.counts["overflowed"] == sent + 1
    finally:
        bound.close()


def test_a_paused_server_keeps_its_queue() -> None:
    with serving() as (bound, run):
        run(bound.pause)
        with asking(bound.address) as peer:
            peer.send(b"k_1 d7:command4:pinge")
            run(bound.start)
            assert peer.recv(100) == b"k_1 d6:result4:ponge"


# The client


def test_the_client_asks_again_with_the_same_cookie() -> None:
    cookies: list[str] = []

    def deaf(incoming: Incoming) -> bytes | None:
        cookies.append(incoming.request.cookie)
        if len(cookies) < 3:
            return None
        return ng.render(incoming.request, Reply(incoming.request.cookie, Result.PONG))

    with serving(deaf) as (bound, _), NgClient(bound.address, timeout_s=0.05, tries=200) as client:
        assert client.call({"command": "ping"}) == {"result": "pong"}
        assert client.retries >= 2
    assert len(set(cookies)) == 1


def test_the_client_survives_a_port_that_nobody_holds_yet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", probe.getsockname()[1])
    with NgClient(address, timeout_s=0.05, tries=2) as client:
        with pytest.raises(
            NoAnswer, match=r"no answer from 127\.0\.0\.1:\d+ in 2 tries of 0\.05 s"
        ):
            client.call({"command": "ping"})
        with serving(address=address):
            client.tries = 200
            assert client.call({"command": "ping"}) == {"result": "pong"}


def test_many_calls_keep_their_order_and_their_window() -> None:
    """A server that answers only when the window is full, in reverse order, and never the 5th."""
    pending: list[Incoming] = []
    most = 0
    seen: set[str] = set()
    bound: NgServer

    def shuffle(incoming: Incoming) -> None:
        nonlocal most
        request = incoming.request
        if request.call_id == "call4":
            return
        if request.cookie not in seen:
            seen.add(request.cookie)
            pending.append(incoming)
            most = max(most, len(pending))
        if len(pending) == 7 or len(seen) == 39:
            while pending:
                asked = pending.pop()
                reply = Reply(asked.request.cookie, Result.OK, warning=asked.request.call_id)
                bound.send(asked.peer, ng.render(asked.request, reply))

    requests = [{"command": "delete", "call-id": f"call{number}"} for number in range(40)]
    with serving(shuffle) as (bound, _), NgClient(bound.address, timeout_s=1.0, tries=3) as client:
        replies = client.call_many(requests, window=8)
    expected = [{"result": "ok", "warning": f"call{number}"} for number in range(40)]
    assert replies == [*expected[:4], None, *expected[5:]]
    assert most <= 8


def test_replies_of_others_are_ignored() -> None:
    def noisy(incoming: Incoming) -> bytes | None:
        for stray in (b"", b"zzz", b"zzz d6:result4:ponge", b"\xff\xff"):
            bound.send(incoming.peer, stray)
        return pong(incoming)

    with serving(noisy) as (bound, _), NgClient(bound.address) as client:
        assert client.call({"command": "ping"}) == {"result": "pong"}


def test_the_overflow_total_wraps() -> None:
    bound = NgServer(LOOPBACK, pong)
    try:
        bound._overflow(struct.unpack("=I", b"\xff\xff\xff\xff")[0])
        bound._overflow(4)
        assert bound.counts["overflowed"] == 0xFFFFFFFF + 5
    finally:
        bound.close()


def test_frames_are_what_kamailio_sends() -> None:
    encoded = encode_request("0_7331_0", {"command": "ping"})
    assert encoded == b"0_7331_0 d7:command4:pinge"
    assert bencode.decode(encoded[9:]) == {b"command": b"ping"}
