"""Streams of `ng`, however they are cut: plain TCP, HTTP, WebSocket. No sockets."""

from __future__ import annotations

import itertools

import wsproto
from hypothesis import given
from hypothesis import strategies as st
from wsproto import events

from bgf.control import framing
from bgf.control.client import encode_request
from bgf.control.frames import Codec
from bgf.control.framing import Stream
from bgf.control.links import _Plain, _Post, _WebSocket
from bgf.control.web import NG_TYPE, SUBPROTOCOL, Web
from bgf.model import Address
from tests.fakes.calls import unhurried

values = st.recursive(
    st.integers(-(10**17), 10**17) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
cookies = st.from_regex(r"[!-~]{1,30}", fullmatch=True)
frames = st.lists(
    st.builds(
        encode_request,
        cookies,
        st.dictionaries(st.text(max_size=8), values, max_size=5),
        st.sampled_from(Codec),
    ),
    max_size=5,
)


cuts = st.lists(st.integers(0, 10_000), max_size=30)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@unhurried
@given(
    frames, st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from([b"", b"\n", b"\r\n"])
)
def test_frames_come_out_as_they_went_in(sent: list[bytes], at: list[int], between: bytes) -> None:
    stream, found = Stream(), []
    for part in cut(between.join(sent), at):
        found += stream.receive(part)
    assert found == sent
    assert not stream.begun and not stream.finished and stream.take() == b""


@unhurried
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_are_frames_or_an_end(data: bytes, at: list[int]) -> None:
    """And the same however they are cut."""

    def run(parts: list[bytes]) -> tuple[list[bytes], bytes, bool, str]:
        stream, found = Stream(), []
        for part in parts:
            found += stream.receive(part)
        return found, stream.take(), stream.finished, stream.fault

    for head in (b"", b"k_1 d", b'k_1 {"a":"'):
        whole = run([head + data])
        assert run(cut(head + data, at)) == whole
        assert bool(whole[3]) == whole[2]


def test_a_long_frame_that_drips_is_looked_at_once() -> None:
    """A byte at a time, 60,000 of them: what was seen is not looked at again."""
    frame = b'k_1 {"a":"' + b"x" * 60_000 + b'"}'
    stream = Stream()
    found: list[bytes] = []
    for at in range(len(frame)):
        found += stream.receive(frame[at : at + 1])
    assert found == [frame]


def test_the_largest_frame_passes_and_the_next_does_not() -> None:
    def of(size: int) -> bytes:
        return b"k_1 d1:a%d:" % (size - 15) + b"x" * (size - 15) + b"e"

    most = framing.FRAME_BYTES_MAX
    assert len(of(most)) == most
    assert Stream().receive(of(most)) == [of(most)]
    stream = Stream()
    assert stream.receive(of(most + 1)) == [] and stream.fault == "too-long"
    assert b"k_1 d12:error-reason" in stream.take()


@unhurried
@given(frames, cuts)
def test_a_client_and_a_server_understand_each_other_however_it_is_cut(
    sent: list[bytes], at: list[int]
) -> None:
    address = Address("192.0.2.1", 80)
    for client, server in ((_Plain(), Stream()), (_WebSocket(), Web()), (_Post(), Web())):
        got, replies = between(client, server, address, sent, at)
        assert got == replies == sent, client


def between(
    client: _Plain | _WebSocket | _Post,
    server: Stream | Web,
    address: Address,
    sent: list[bytes],
    at: list[int],
) -> tuple[list[bytes], list[bytes]]:
    """What the server got and the client was answered, when the server says everything again."""
    got: list[bytes] = []
    replies: list[bytes] = []
    for number in range(len(sent) + 1):
        data = client.frame(sent[number - 1]) if number else client.open(address)
        while data:
            for part in cut(data, at):
                for frame in server.receive(part):
                    got.append(frame)
                    assert server.reply(frame) == []
            answer, data = server.take(), b""
            for part in cut(answer, at):
                found, more = client.receive(part) if part else ([], b"")
                replies += found
                data += more
    return got, replies


@unhurried
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8), st.integers(0, 3))
def test_any_bytes_on_the_web_raise_nothing(data: bytes, at: list[int], kind: int) -> None:
    post = f"POST /ng HTTP/1.1\r\nHost: x\r\nContent-Type: {NG_TYPE}\r\n".encode()
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    upgrade = client.send(events.Request(host="x", target="/", subprotocols=[SUBPROTOCOL]))
    head = (b"", b"GET /ping HTTP/1.1\r\n", post, upgrade)[kind]
    web = Web()
    for part in cut(head + data, at):
        for frame in web.receive(part):
            assert web.drop() is not None and isinstance(frame, bytes)
    web.take()
    assert web.receive(b"more") is not None


def test_a_request_that_is_not_answered_bounds_what_follows() -> None:
    web = Web()
    post = (
        f"POST /ng HTTP/1.1\r\nHost: x\r\nContent-Type: {NG_TYPE}\r\nContent-Length: 3\r\n\r\nk d"
    )
    assert web.receive(post.encode()) == [b"k d"]
    for _ in range(100):
        assert web.receive(b"x" * 1_000) == []
        if web.finished:
            break
    assert web.fault == "too-long"
