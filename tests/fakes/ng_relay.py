"""A gateway in a hundred lines: answers `ng` and relays RTP in user space, for a few calls.

It is a semantic fake: a caller's packet really comes out at the callee, from the address that
the SDP named. One call has one socket per side; what arrives at one leaves from the other.
"""

from __future__ import annotations

import select
import socket
import threading
from dataclasses import dataclass, field

from bgf.control import bencode
from bgf.control.sdp import Sdp
from bgf.events import MediaRewrite
from bgf.lab import namespaces
from bgf.lab.plan import CONTROL_PORT, GroupPlan
from bgf.model import Address

DATAGRAM_MAX = 65_535
POLL_S = 0.2


@dataclass
class _Side:
    """Towards one party: our socket there, and where its media is."""

    wire: socket.socket
    remote: Address

    @property
    def local(self) -> Address:
        return Address(*self.wire.getsockname()[:2])


@dataclass
class NgRelay:
    """Serves `group` in `namespace`, whose addresses it puts on the interfaces there."""

    namespace: str
    group: GroupPlan
    requests: list[dict[str, bencode.TextValue]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._callers: dict[str, _Side] = {}
        self._callees: dict[str, _Side] = {}
        self._forward: dict[socket.socket, tuple[_Side, _Side]] = {}
        self._stop = threading.Event()
        namespaces.run_in(self.namespace, self._address)
        self._control = self._socket(self.group.control_host, CONTROL_PORT)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def commands(self, command: str) -> list[dict[str, bencode.TextValue]]:
        return [request for request in self.requests if request["command"] == command]

    def open_calls(self) -> int:
        return len(self._callers)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for call_id in list(self._callers):
            self._forget(call_id)
        self._control.close()

    def _address(self) -> None:
        addresses = {"mgmt": (self.group.control,), **self.group.addresses}
        with namespaces.netlink() as netlink:
            for interface, found in addresses.items():
                for address in found:
                    host, _, prefix_len = address.partition("/")
                    index = netlink.link_lookup(ifname=interface)[0]
                    netlink.addr(  # no duplicate address detection: it must take a bind at once
                        "add", index=index, address=host, prefixlen=int(prefix_len), flags=0x02
                    )

    def _socket(self, host: str, port: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = namespaces.socket_in(self.namespace, family, socket.SOCK_DGRAM)
        made.bind((host, port))
        return made

    def _serve(self) -> None:
        while not self._stop.is_set():
            wires = [self._control, *self._forward]
            for wire in select.select(wires, [], [], POLL_S)[0]:
                if wire is self._control:
                    data, sender = wire.recvfrom(DATAGRAM_MAX)
                    self._control.sendto(self._answer(data), sender)
                elif wire in self._forward:  # a delete may have closed it since select
                    data = wire.recv(DATAGRAM_MAX)
                    out, _ = self._forward[wire]
                    out.wire.sendto(data, (out.remote.host, out.remote.port))

    def _answer(self, data: bytes) -> bytes:
        cookie, _, body = data.partition(b" ")
        request = bencode.text(bencode.decode(body))
        assert isinstance(request, dict)
        self.requests.append(request)
        reply: dict[str, bencode.Encodable] = {"result": "ok"}
        call_id = str(request.get("call-id"))
        match request["command"]:
            case "ping":
                reply = {"result": "pong"}
            case "offer" | "answer":
                reply["sdp"] = self._open(call_id, str(request["sdp"]), request["command"])
            case "delete":
                self._forget(call_id)
        return cookie + b" " + bencode.encode(reply)

    def _open(self, call_id: str, text: str, command: object) -> str:
        """Take what the sender of this SDP says of itself; name our address towards the other."""
        sdp = Sdp(text)
        remote = sdp.media[0].rtp
        if command == "offer":
            host6, host4 = (a.partition("/")[0] for a in self.group.addresses["access"])
            self._callers[call_id] = _Side(
                self._socket(host6 if ":" in remote.host else host4), remote
            )
            core = self.group.addresses["core"][0].partition("/")[0]
            self._callees[call_id] = _Side(self._socket(core), Address(core, 9))
            ours = self._callees[call_id].local
        else:
            caller, callee = self._callers[call_id], self._callees[call_id]
            callee.remote = remote
            self._forward[caller.wire] = (callee, caller)
            self._forward[callee.wire] = (caller, callee)
            ours = caller.local
        return sdp.rewrite([MediaRewrite(ours, Address(ours.host, ours.port + 1))])

    def _forget(self, call_id: str) -> None:
        for sides in (self._callers, self._callees):
            side = sides.pop(call_id, None)
            if side is not None:
                self._forward.pop(side.wire, None)
                side.wire.close()
