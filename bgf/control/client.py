"""A client of the `ng` protocol, as patient as Kamailio's: for the lab, the tests, and scripts.

Knows: how a proxy asks (same cookie on every try) and how many may be under way. Must not know:
anything of the gateway's inside.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from bgf.control import bencode
from bgf.control.bencode import Encodable, TextValue
from bgf.control.links import MakeSocket, Transport, connect
from bgf.control.ng import COOKIE_BYTES_MAX, BadJson, Codec, split
from bgf.errors import BgfError
from bgf.model import Address

TRIES = 5
"""Kamailio's `rtpengine_retr`."""
TIMEOUT_S = 1.0
"""Kamailio's `rtpengine_tout_ms`, in seconds."""
WINDOW_MAX = 1_024
"""Requests that `call_many` may have under way."""


class NoAnswer(BgfError):
    """Nobody answered within all tries."""

    code = "no-answer"


def encode_request(
    cookie: str, request: Mapping[str, Encodable], codec: Codec = Codec.BENCODE
) -> bytes:
    """One frame. `cookie` is printable ASCII without spaces, at most 128 bytes."""
    encode = bencode.encode if codec is Codec.BENCODE else msgspec.json.encode
    return b"%b %b" % (cookie.encode("ascii"), encode(request))


def decode_reply(frame: bytes) -> tuple[str, dict[str, TextValue]]:
    """Cookie and dictionary of a reply, in either codec. Raises bgf.errors.Malformed."""
    cookie, body = split(frame)
    if body[:1] == b"{":
        try:
            return cookie, msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError) as error:
            raise BadJson(f"not JSON: {error}") from None
    decoded = bencode.text(bencode.decode(body))
    assert isinstance(decoded, dict)
    return cookie, decoded


class NgClient:
    """A blocking client with one connection or connected socket, usable as a context manager.

    `tries` times `timeout_s` seconds each, always with the same cookie. A UDP socket belongs to the
    network namespace of the thread that made the client, those of connections to that of the call,
    unless `make` says otherwise. Not for several threads at once.
    """

    def __init__(
        self,
        address: Address,
        timeout_s: float = TIMEOUT_S,
        tries: int = TRIES,
        prefix: str = "bgf",
        *,
        transport: Transport = Transport.UDP,
        codec: Codec = Codec.BENCODE,
        make: MakeSocket = socket.socket,
    ) -> None:
        """Connect. `prefix` begins every cookie: clients of one gateway need different ones.

        Raises OSError when the address cannot be routed to.
        """
        if not prefix or len(prefix) > COOKIE_BYTES_MAX // 2 or not prefix.isalnum():
            raise ValueError(f"cookie prefix {prefix!r} is not a short word of letters and digits")
        self.address = address
        self.timeout_s = timeout_s
        self.tries = tries
        self.retries = 0
        self._codec = codec
        self._link = connect(address, transport, make)
        # Cookies of two clients, and of two runs of one, differ.
        self._cookie = f"{prefix}_{secrets.token_hex(6)}"
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._link.close()

    def call(self, request: Mapping[str, Encodable]) -> dict[str, TextValue]:
        """One request and its reply. Raises NoAnswer."""
        reply = self.call_many([request], window=1)[0]
        if reply is None:
            raise NoAnswer(
                f"no answer from {self.address} in {self.tries} tries of {self.timeout_s:g} s: "
                "is a gateway process serving this group?"
            )
        return reply

    def call_many(
        self, requests: Sequence[Mapping[str, Encodable]], window: int = 64
    ) -> list[dict[str, TextValue] | None]:
        """Replies in the order of `requests`, at most `window` under way (over HTTP one); None: no
        answer.

        Replies of another request, or that are not `ng`, are ignored.
        """
        if not 1 <= window <= WINDOW_MAX:
            raise ValueError(f"window {window} is not within 1..{WINDOW_MAX}")
        window = 1 if self._link.one_at_a_time else window
        replies: list[dict[str, TextValue] | None] = [None] * len(requests)
        waiting: dict[str, tuple[int, bytes]] = {}
        due: dict[str, tuple[float, int]] = {}  # in sending order, so in the order of deadlines
        begun = 0
        while begun < len(requests) or waiting:
            while begun < len(requests) and len(waiting) < window:
                self._sequence += 1
                cookie = f"{self._cookie}_{self._sequence}"
                frame = encode_request(cookie, requests[begun], self._codec)
                waiting[cookie] = (begun, frame)
                self._link.send(frame)
                due[cookie] = (time.monotonic() + self.timeout_s, 1)
                begun += 1
            for cookie, reply in self._receive(due):
                if cookie in waiting:
                    replies[waiting.pop(cookie)[0]] = reply
                    del due[cookie]
            self._resend(waiting, due)
        return replies

    def _receive(
        self, due: Mapping[str, tuple[float, int]]
    ) -> list[tuple[str, dict[str, TextValue]]]:
        """Wait until something arrives or the first deadline passes; give all that is there."""
        deadline = next(iter(due.values()))[0]
        found: list[tuple[str, dict[str, TextValue]]] = []
        for frame in self._link.receive(deadline - time.monotonic()):
            try:
                found.append(decode_reply(frame))
            except BgfError:
                continue
        return found

    def _resend(
        self, waiting: dict[str, tuple[int, bytes]], due: dict[str, tuple[float, int]]
    ) -> None:
        now = time.monotonic()
        while due:
            cookie, (deadline, tried) = next(iter(due.items()))
            if deadline > now:
                return
            del due[cookie]
            if tried >= self.tries:
                del waiting[cookie]
                continue
            self.retries += 1
            self._link.send(waiting[cookie][1])
            due[cookie] = (now + self.timeout_s, tried + 1)
