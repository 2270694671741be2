"""The wire between Kamailio and a gateway: forwards `ng`, counts commands, pulls a trigger.

Knows: UDP, cookies, the name of a command. Must not know what a gateway is nor how one is killed.
A command is counted when its cookie is first seen, so Kamailio's own repetitions count once. The
trigger is pulled by the thread that forwards: what it does is done before anything else passes.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bgf.control import bencode
from bgf.lab import namespaces
from bgf.model import Address

DATAGRAM_MAX = 65_535
POLL_S = 0.1
PEERS_MAX = 256
COUNTED = ("offer", "answer", "delete")


class Moment(enum.StrEnum):
    """When the trigger is pulled, as seen from the gateway."""

    ARRIVING = "arriving"  # the command never reaches it
    COMMITTED = "committed"  # it has written and replied, and nobody hears the reply
    ANSWERED = "answered"  # the reply is on its way to Kamailio


@dataclass
class Passed:
    """One command. `replies` counts those that Kamailio was given, `asked` how often it asked;
    `first_reply` is what the gateway said first, `reply` what it said last."""

    cookie: bytes
    command: str
    request: dict[str, bencode.TextValue]
    number: int = 0
    asked: int = 0
    replies: int = 0
    reply: dict[str, bencode.TextValue] = field(default_factory=dict)
    first_reply: dict[str, bencode.TextValue] = field(default_factory=dict)


class NgWire:
    """Listens on `at` in `namespace` and forwards to `gateway`, until `close`."""

    def __init__(self, namespace: str, at: Address, gateway: Address) -> None:
        self._namespace = namespace
        self._gateway = (gateway.host, gateway.port)
        self._front = namespaces.socket_in(namespace, socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind((at.host, at.port))
        self._backs: dict[Any, socket.socket] = {}
        self._peers: dict[socket.socket, Any] = {}
        self._lock = threading.Lock()
        self._passed: dict[bytes, Passed] = {}
        self._number, self._moment = 0, Moment.ARRIVING
        self._pull: Callable[[], None] | None = None
        self.lose_first_reply = False
        self.lose_first_request = False
        self.pulled = threading.Event()
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="ng-wire")
        self._thread.start()

    def begin(self) -> None:
        """Forget what has passed; no trigger, nothing lost."""
        with self._lock:
            self._passed = {}
            self._pull = None
            self.lose_first_reply = self.lose_first_request = False
            self.pulled.clear()

    def arm(self, number: int, moment: Moment, pull: Callable[[], None]) -> None:
        """Call `pull` at this moment of the command `number`, 1 being the next that is new."""
        with self._lock:
            self._number, self._moment, self._pull = number, moment, pull

    def passed(self) -> list[Passed]:
        """The commands since `begin`, in the order in which they were first seen."""
        with self._lock:
            return list(self._passed.values())

    def commands(self) -> list[str]:
        return [one.command for one in self.passed()]

    def settled(self) -> bool:
        """Has Kamailio its reply to everything that it has asked?"""
        return all(one.replies for one in self.passed())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for opened in (self._front, *self._backs.values()):
            opened.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            for ready in select.select([self._front, *self._peers], [], [], POLL_S)[0]:
                # A gateway that is gone may answer with ICMP: Kamailio is to see silence.
                with contextlib.suppress(ConnectionError):
                    if ready is self._front:
                        self._asked(*self._front.recvfrom(DATAGRAM_MAX))
                    else:
                        self._answered(ready.recv(DATAGRAM_MAX), self._peers[ready])

    def _asked(self, datagram: bytes, peer: Any) -> None:
        cookie, _, body = datagram.partition(b" ")
        request = _dictionary(body)
        command = str(request.get("command", ""))
        with self._lock:
            found = self._passed.get(cookie)
            if found is None and command in COUNTED:
                found = Passed(cookie, command, request)
                found.number = len(self._passed) + 1
                self._passed[cookie] = found
            if found is not None:
                found.asked += 1
                if self._hits(found, Moment.ARRIVING) or (
                    self.lose_first_request and found.asked == 1
                ):
                    return
        self._back(peer).send(datagram)

    def _answered(self, datagram: bytes, peer: Any) -> None:
        cookie, _, body = datagram.partition(b" ")
        with self._lock:
            found = self._passed.get(cookie)
            if found is not None:
                if self._hits(found, Moment.COMMITTED):
                    return
                found.reply = _dictionary(body)
                lost = self.lose_first_reply and not found.first_reply
                found.first_reply = found.first_reply or found.reply
                if lost:
                    return
                found.replies += 1
            self._front.sendto(datagram, peer)
            if found is not None:
                self._hits(found, Moment.ANSWERED)

    def _hits(self, one: Passed, moment: Moment) -> bool:
        if self._pull is None or moment is not self._moment:
            return False
        if one.number != self._number:
            return False
        pull, self._pull = self._pull, None
        try:
            pull()
        except BaseException as failure:  # told by whoever looks: this thread goes on
            self.failures.append(failure)
        self.pulled.set()
        return True

    def _back(self, peer: Any) -> socket.socket:
        """A socket of its own for each of Kamailio's, so that replies find their way."""
        if peer not in self._backs:
            assert len(self._backs) < PEERS_MAX
            made = namespaces.socket_in(self._namespace, socket.AF_INET, socket.SOCK_DGRAM)
            made.connect(self._gateway)
            self._backs[peer], self._peers[made] = made, peer
        return self._backs[peer]


def _dictionary(body: bytes) -> dict[str, bencode.TextValue]:
    """What a datagram says; empty when it is no dictionary."""
    try:
        value = bencode.text(bencode.decode(body))
    except Exception:  # a wire carries anything
        return {}
    return value if isinstance(value, dict) else {}
