"""One client of the `ng` protocol with nothing in its own way: frames made beforehand, one socket.

Knows: what Kamailio sends for a call, and how replies begin. Must not know whom it asks.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bgf.control.client import encode_request
from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.model import Address

TIMEOUT_S: Final = 2.0
RECEIVE_BYTES: Final = 65_536
CALLER, CALLEE = "as5f1b2c9e", "gK0c77d1a2"
WINDOW: Final = 16

SDP: Final = "\r\n".join(
    (
        "v=0",
        "o=- 3911 3911 IN IP4 {host}",
        "s=-",
        "c=IN IP4 {host}",
        "t=0 0",
        "m=audio {port} RTP/AVP 8 0 96 101",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:96 AMR-WB/16000",
        "a=fmtp:96 mode-change-capability=2;max-red=0",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=ptime:20",
        "a=maxptime:240",
        "a=sendrecv",
        "",
    )
)


class Call(NamedTuple):
    """The frames of one call."""

    offer: bytes
    answer: bytes
    delete: bytes
    query: bytes


def call(name: str, number: int) -> Call:
    """Call `number` of the run `name`, audio between two IPv4 hosts, as Kamailio asks for it."""
    port = 10_000 + 2 * (number % 20_000)
    call_id = f"{name}-{number:x}@10.10.0.100"
    via = f"z9hG4bK{number:08x}{name}"
    common = {
        "supports": ["load limit"],
        "call-id": call_id,
        "via-branch": via,
        "received-from": ["IP4", "10.10.0.100"],
        "from-tag": CALLER,
        "ICE": "remove",
        "replace": ["origin", "session-connection"],
    }
    cookie = f"{number}_{name}"
    offer = common | {
        "command": "offer",
        "direction": ["access", "core"],
        "sdp": SDP.format(host="10.10.0.100", port=port),
    }
    answer = common | {
        "command": "answer",
        "to-tag": CALLEE,
        "sdp": SDP.format(host="10.20.0.100", port=port),
    }
    delete = {
        "command": "delete",
        "call-id": call_id,
        "from-tag": CALLER,
        "to-tag": CALLEE,
        "received-from": ["IP4", "10.10.0.100"],
    }
    return Call(
        encode_request(f"1{cookie}", offer),
        encode_request(f"2{cookie}", answer),
        encode_request(f"3{cookie}", delete),
        encode_request(f"4{cookie}", {"command": "query", "call-id": call_id}),
    )


def calls(name: str, count: int, first: int = 0) -> list[Call]:
    return [call(name, number) for number in range(first, first + count)]


@dataclass
class Timed:
    """Milliseconds from a request to its reply, how many were late to be sent, and how many were
    answered with something else than success."""

    latencies_ms: list[float] = field(default_factory=list)
    behind: int = 0
    refused: int = 0


class Client:
    """One connected socket inside `namespace`. Closed with the `with`."""

    def __init__(self, namespace: str, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = namespaces.socket_in(namespace, family, socket.SOCK_DGRAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect((address.host, address.port))
        self._address = address

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, frame: bytes) -> bytes:
        """The reply. Raises EnvironmentProblem when there is none, or it is no success."""
        self._socket.send(frame)
        return self._reply()

    def _reply(self) -> bytes:
        try:
            reply = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise EnvironmentProblem(f"{self._address} does not answer: {error}") from None
        if b"6:result2:ok" not in reply:
            raise EnvironmentProblem(f"{self._address} answers {reply[:200]!r}")
        return reply

    def closed_loop(self, load: list[Call]) -> float:
        """Offer, answer and delete of each, one command at a time. Calls per second."""
        ask = self.ask
        began = time.perf_counter()
        for offer, answer, delete, _ in load:
            ask(offer)
            ask(answer)
            ask(delete)
        return len(load) / (time.perf_counter() - began)

    def windowed(self, load: list[Call]) -> None:
        """Offer and answer of each call, WINDOW commands under way."""
        for at in range(0, len(load), WINDOW):
            batch = load[at : at + WINDOW]
            for frames in ([one.offer for one in batch], [one.answer for one in batch]):
                for frame in frames:
                    self._socket.send(frame)
                for _ in frames:
                    self._reply()

    def until_answered(self, frames: list[bytes], every_s: float, wait_s: float) -> int:
        """Send one after the other until somebody answers one: when, CLOCK_BOOTTIME ns."""
        deadline = time.monotonic() + wait_s
        for frame in itertools.cycle(frames):
            with contextlib.suppress(OSError):  # nobody may be there now
                self._socket.send(frame)
            if select.select([self._socket], [], [], every_s)[0]:
                with contextlib.suppress(OSError):
                    self._socket.recv(RECEIVE_BYTES)
                    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if time.monotonic() > deadline:
                break
        raise EnvironmentProblem(f"{self._address} does not answer within {wait_s:g} s")

    def paced(self, load: list[Call], calls_per_s: float, held: int) -> Timed:
        """Calls begun at that rate, whatever the replies do; each is answered at once and deleted
        when `held` later ones have begun."""
        timed = Timed()
        steps = list(_steps(load, held))
        gap_s = len(load) / calls_per_s / len(steps)
        pending: dict[bytes, float] = {}
        began, sent = time.perf_counter(), 0
        while sent < len(steps) or pending:
            now = time.perf_counter()
            due = began + sent * gap_s
            if sent < len(steps) and now >= due:
                timed.behind += now - due > gap_s
                frame = steps[sent]
                pending[frame[: frame.index(b" ")]] = now
                self._socket.send(frame)
                sent += 1
                continue
            wait = (due - now) if sent < len(steps) else TIMEOUT_S
            readable, _, _ = select.select([self._socket], [], [], wait)
            if not readable:
                if sent >= len(steps):
                    raise EnvironmentProblem(f"{len(pending)} commands were not answered")
                continue
            reply = self._socket.recv(RECEIVE_BYTES)
            at = pending.pop(reply[: reply.index(b" ")])
            timed.latencies_ms.append((time.perf_counter() - at) * 1_000)
            timed.refused += b"6:result2:ok" not in reply
        return timed


def _steps(load: list[Call], held: int) -> Iterator[bytes]:
    """Commands in the order of sending."""
    for number, one in enumerate(load):
        yield one.offer
        yield one.answer
        if number >= held:
            yield load[number - held].delete
    for one in load[max(0, len(load) - held) :]:
        yield one.delete
