"""A call from outside: `ng` as a proxy speaks it, RTP at both ends, every packet accounted for.

Knows the product's own client of `ng`, RTP headers. Must not know what stands in between.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Any, Final, Self

from machine import PATIENCE, Failed

from bgf.control.client import NgClient, NoAnswer
from bgf.model import Address

INTERVAL_S: Final = 0.02
PAYLOAD: Final = bytes(160)
WARM_UP_S: Final = 15.0 * PATIENCE
UNCOUNTED: Final = (1 << 64) - 1
LATE_S: Final = 2.0 * PATIENCE
"""How long the last packets may be under way."""
Place = tuple[str, int]


def _sdp(at: Place) -> str:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {at[0]}\r\ns=-\r\nc=IN IP4 {at[0]}\r\nt=0 0\r\n"
        f"m=audio {at[1]} RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=sendrecv\r\n"
    )


class Call:
    """One call with two talkers, from `with` to its end. `media`: the group's address by realm."""

    def __init__(self, control: Place, media: dict[str, str], caller: Place, callee: Place) -> None:
        self._client = NgClient(Address(*control), prefix="imagetest")
        self._media = media
        self._id = f"image-test-{time.monotonic_ns()}"
        self._ends = {"access": _bound(caller), "core": _bound(callee)}
        self._places = {"access": caller, "core": callee}
        self._to: dict[str, Place] = {}
        self._sent = {"access": 0, "core": 0}
        self._got: dict[str, set[int]] = {"access": set(), "core": set()}
        self._foreign = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Self:
        offered = self._ask("offer", sdp=_sdp(self._places["access"]), direction=["access", "core"])
        self._to["core"] = self._given(offered, "core")
        answered = self._ask("answer", sdp=_sdp(self._places["core"]))
        self._to["access"] = self._given(answered, "access")
        self._warm_up()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(5)
        for end in self._ends.values():
            end.close()
        self._client.close()

    @property
    def sent(self) -> int:
        return sum(self._sent.values())

    def carry(self, seconds: float) -> None:
        time.sleep(seconds)

    def lost(self) -> int:
        """Of all that was sent until now, both ways. Raises Failed for packets of strangers."""
        sent = dict(self._sent)
        until = time.monotonic() + LATE_S
        while True:
            other = {"access": "core", "core": "access"}
            missing = sum(
                len(set(range(sent[end])) - self._got[other[end]]) for end in ("access", "core")
            )
            if not missing or time.monotonic() > until:
                break
            time.sleep(0.05)
        if self._foreign:
            raise Failed(f"{self._foreign} packets came from elsewhere than the gateway")
        return missing

    def answers(self) -> bool:
        try:
            return bool(self._client.call({"command": "ping"})["result"] == "pong")
        except NoAnswer as problem:
            raise Failed(str(problem)) from None

    def end(self) -> bool:
        self._stop.set()
        self._thread.join(5)
        return "warning" not in self._ask("delete")

    def _ask(self, command: str, **more: Any) -> dict[str, Any]:
        tags = {"offer": ("a", ""), "answer": ("a", "b"), "delete": ("a", "")}[command]
        request = {"command": command, "call-id": self._id, "from-tag": tags[0], **more}
        if tags[1]:
            request["to-tag"] = tags[1]
        try:
            reply: dict[str, Any] = self._client.call(request)
        except NoAnswer as problem:
            raise Failed(f"{command}: {problem}") from None
        if reply.get("result") != "ok":
            raise Failed(f"{command} was answered {reply}")
        return reply

    def _given(self, reply: dict[str, Any], realm: str) -> Place:
        """Where this realm's party sends to. Raises Failed for another address than the group's."""
        sdp = str(reply["sdp"])
        host = re.search(r"^c=IN IP4 (\S+)", sdp, re.M)
        port = re.search(r"^m=audio (\d+)", sdp, re.M)
        if not host or not port or host[1] != self._media[realm]:
            raise Failed(f"the SDP towards {realm} does not name {self._media[realm]}: {sdp}")
        return host[1], int(port[1])

    def _warm_up(self) -> None:
        """Until both ends hear each other: neighbours are asked for, senders learned. Not counted.
        Raises Failed."""
        until = time.monotonic() + WARM_UP_S
        heard: set[str] = set()
        while len(heard) < len(self._ends):
            if time.monotonic() > until:
                deaf = ", ".join(sorted(self._ends.keys() - heard))
                raise Failed(f"nothing of the other end arrives within {WARM_UP_S:g} s: {deaf}")
            for name, end in self._ends.items():
                end.sendto(_packet(0, UNCOUNTED), self._to[name])
                end.settimeout(INTERVAL_S)
                with contextlib.suppress(TimeoutError):
                    end.recv(2048)
                    heard.add(name)
        for end in self._ends.values():
            end.settimeout(None)

    def _talk(self) -> None:
        """Both ends send a packet each 20 ms and write down what comes."""
        with selectors.DefaultSelector() as waiting:
            for name, end in self._ends.items():
                waiting.register(end, selectors.EVENT_READ, name)
            due = time.monotonic()
            while not self._stop.is_set():
                for ready, _ in waiting.select(max(0.0, due - time.monotonic())):
                    self._hear(ready.data)
                if time.monotonic() >= due:
                    due += INTERVAL_S
                    for name in self._ends:
                        self._say(name)

    def _say(self, name: str) -> None:
        number = self._sent[name]
        self._ends[name].sendto(_packet(number, number), self._to[name])
        self._sent[name] = number + 1

    def _hear(self, name: str) -> None:
        datagram, source = self._ends[name].recvfrom(2048)
        if source[:2] != self._to[name] or len(datagram) != 12 + len(PAYLOAD):
            self._foreign += 1
            return
        number = struct.unpack_from(">Q", datagram, 12)[0]
        if number != UNCOUNTED:
            self._got[name].add(number)


def _packet(number: int, marked: int) -> bytes:
    """RTP, PCMA; the payload begins with a number of 64 bits that says which one it is."""
    header = struct.pack(">BBHII", 0x80, 8, number & 0xFFFF, number * 160 & 0xFFFFFFFF, 7)
    return header + struct.pack(">Q", marked) + PAYLOAD[8:]


def _bound(at: Place) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(at)
    return opened
