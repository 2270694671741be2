"""rtnetlink, as much as the packet path needs: links, routes to one host, neighbours.

Knows: the messages (linux/rtnetlink.h, if_link.h, neighbour.h) as bytes, and one small socket that
asks and hears. Decides nothing. Its own codec, because a route is asked for each new far end of a
call: the general library takes some twenty times as long for the same answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x1, 0x4, 0x40, 0x400

NUD_INCOMPLETE, NUD_REACHABLE, NUD_STALE, NUD_DELAY = 0x01, 0x02, 0x04, 0x08
NUD_PROBE, NUD_FAILED, NUD_NOARP, NUD_PERMANENT = 0x10, 0x20, 0x40, 0x80
NUD_STATIC = NUD_NOARP | NUD_PERMANENT
NUD_VALID = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT

ANSWER_TIMEOUT_S = 2.0
DATAGRAM_BYTES_MAX = 1 << 16
EVENT_BUFFER_BYTES = 4 << 20
BATCH_MESSAGES_MAX = 256

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_CREATE = 0x1, 0x4, 0x300, 0x400
_NTF_USE = 0x01
_RTN_UNICAST = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_XDP, _IFLA_XDP_ATTACHED = 1, 3, 4, 43, 2
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_INFO_DATA = 5, 18, 1, 2
_IFLA_VLAN_ID, _IFLA_VLAN_PROTOCOL, _ETHERTYPE_VLAN = 1, 5, 0x8100
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_VIA, _RTAX_MTU = 1, 4, 5, 8, 18, 2
_NDA_DST, _NDA_LLADDR = 1, 2
_TYPE_MASK = 0x3FFF  # of an attribute: the upper two bits are flags

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=8BI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_U32 = struct.Struct("=I")


class Wire(NamedTuple):
    """Where frames come and go: a device, and the 802.1Q VLAN on it, 0 for untagged ones."""

    ifindex: int
    vlan: int = 0


class Link(NamedTuple):
    """`xdp` is IFLA_XDP_ATTACHED: 0 none, 1 native, 2 generic, 3 offloaded, 4 several.

    `parent` is the ifindex of the device that a VLAN interface lies on, with its `vlan`; 0 for
    all others.
    """

    ifindex: int
    name: str
    mac: bytes
    mtu: int
    xdp: int
    gone: bool = False
    parent: int = 0
    vlan: int = 0

    @property
    def wire(self) -> Wire:
        return Wire(self.parent or self.ifindex, self.vlan)


class Route(NamedTuple):
    """How a host is reached; `gateway` is empty on the link itself, `mtu` 0 when not stated."""

    ifindex: int
    gateway: str
    mtu: int
    unicast: bool


class Neighbour(NamedTuple):
    """`mac` is empty while it is not known."""

    ifindex: int
    host: str
    mac: bytes
    state: int
    gone: bool = False


Message = Link | Route | Neighbour


class NetlinkError(OSError):
    """The kernel refused a request; errno is its answer."""


def _host(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


def _raw(host: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.inet_pton(family, host)


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def _message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return found


def get_route(sequence: int, host: str, ifindex: int) -> bytes:
    """Ask how `host` is reached through that interface."""
    family, raw = _raw(host)
    body = _ROUTE.pack(family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_RTA_DST, raw) + _attribute(_RTA_OIF, _U32.pack(ifindex))
    return _message(RTM_GETROUTE, _NLM_F_REQUEST, sequence, body)


def get_links(sequence: int) -> bytes:
    """Ask for all interfaces."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return _message(RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, body)


def get_neighbours(sequence: int) -> bytes:
    """Ask for the whole neighbour table."""
    body = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return _message(RTM_GETNEIGH, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, body)


def get_neighbour(sequence: int, host: str, ifindex: int) -> bytes:
    """Ask for one neighbour; the kernel answers ENOENT when it has no entry."""
    family, raw = _raw(host)
    body = _NEIGHBOUR.pack(family, ifindex, 0, 0, 0) + _attribute(_NDA_DST, raw)
    return _message(RTM_GETNEIGH, _NLM_F_REQUEST, sequence, body)


def use_neighbour(sequence: int, host: str, ifindex: int) -> bytes:
    """Have the kernel behave as if it had just sent to this neighbour: resolve or confirm it."""
    family, raw = _raw(host)
    body = _NEIGHBOUR.pack(family, ifindex, 0, _NTF_USE, 0) + _attribute(_NDA_DST, raw)
    return _message(RTM_NEWNEIGH, _NLM_F_REQUEST | _NLM_F_CREATE, sequence, body)


def _link(body: bytes, gone: bool) -> Link:
    _, _, ifindex, _, _ = _IFINFO.unpack_from(body)
    found = _attributes(body[_IFINFO.size :])
    mtu = found.get(_IFLA_MTU)
    attached = _attributes(found.get(_IFLA_XDP, b"")).get(_IFLA_XDP_ATTACHED, b"\0")
    return Link(
        ifindex,
        found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
        found.get(_IFLA_ADDRESS, b""),
        _U32.unpack(mtu)[0] if mtu else 0,
        attached[0] if attached else 0,
        gone,
        *_vlan(found),
    )


def _vlan(found: dict[int, bytes]) -> tuple[int, int]:
    """The parent and the VLAN of an 802.1Q interface; zeros for what is none."""
    info = _attributes(found.get(_IFLA_LINKINFO, b""))
    data = _attributes(info.get(_IFLA_INFO_DATA, b""))
    parent, vlan = found.get(_IFLA_LINK, b""), data.get(_IFLA_VLAN_ID, b"")
    protocol = data.get(_IFLA_VLAN_PROTOCOL, _ETHERTYPE_VLAN.to_bytes(2, "big"))
    if info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") != b"vlan" or len(parent) != _U32.size:
        return 0, 0
    if int.from_bytes(protocol, "big") != _ETHERTYPE_VLAN:
        return 0, 0
    return _U32.unpack(parent)[0], int.from_bytes(vlan, sys.byteorder)


def _route(body: bytes) -> Route:
    kind = _ROUTE.unpack_from(body)[7]
    found = _attributes(body[_ROUTE.size :])
    gateway = found.get(_RTA_GATEWAY, b"")
    via = found.get(_RTA_VIA, b"")[2:]  # a gateway of the other family, behind its family
    mtu = _attributes(found.get(_RTA_METRICS, b"")).get(_RTAX_MTU)
    oif = found.get(_RTA_OIF)
    hop = gateway or via
    return Route(
        _U32.unpack(oif)[0] if oif else 0,
        _host(hop) if len(hop) in (4, 16) else "",
        _U32.unpack(mtu)[0] if mtu else 0,
        kind == _RTN_UNICAST,
    )


def _neighbour(body: bytes, gone: bool) -> Neighbour | None:
    _, ifindex, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = _attributes(body[_NEIGHBOUR.size :])
    raw = found.get(_NDA_DST, b"")
    if len(raw) not in (4, 16):  # a bridge's forwarding entry
        return None
    return Neighbour(ifindex, _host(raw), found.get(_NDA_LLADDR, b""), state, gone)


def messages(data: bytes) -> Iterator[tuple[int, int, Message | int | None]]:
    """Each message of a datagram as (type, sequence, value); of an error the errno (0: an ack)."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        body = data[at + _HEADER.size : at + size]
        at += size + -size % 4
        value: Message | int | None = None
        if kind == _NLMSG_ERROR:
            value = -int(struct.unpack_from("=i", body)[0])
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            value = _link(body, kind == RTM_DELLINK)
        elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
            value = _route(body)
        elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            value = _neighbour(body, kind == RTM_DELNEIGH)
        yield kind, sequence, value


class Netlink:
    """Asks the kernel of the calling thread's network namespace, and hears what changes in it."""

    def __init__(self, groups: int = 0) -> None:
        self._ask = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._ask.settimeout(ANSWER_TIMEOUT_S)
        self._ask.bind((0, 0))
        # Its own socket for what waits for no answer: refusals must not fill the other's buffer.
        self._tell = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._tell.setblocking(False)
        self._tell.bind((0, 0))
        self._hear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._hear.setblocking(False)
        self._hear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER_BYTES)
        self._hear.bind((0, groups))
        self._sequence = 0

    def close(self) -> None:
        self._ask.close()
        self._tell.close()
        self._hear.close()

    def fileno(self) -> int:
        """Readable when `events` has something."""
        return self._hear.fileno()

    def events(self) -> list[Message] | None:
        """What has been announced since; None when some of it was lost (then ask anew)."""
        found: list[Message] = []
        while True:
            try:
                data = self._hear.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise
            found += [v for _, _, v in messages(data) if isinstance(v, Link | Route | Neighbour)]

    def links(self) -> list[Link]:
        return [m for m in self._dump(get_links(self._next())) if isinstance(m, Link)]

    def neighbours(self) -> list[Neighbour]:
        return [m for m in self._dump(get_neighbours(self._next())) if isinstance(m, Neighbour)]

    def route(self, host: str, ifindex: int) -> Route | None:
        """None when the kernel knows no way."""
        answer = self._one(get_route(self._next(), host, ifindex))
        return answer if isinstance(answer, Route) else None

    def neighbour(self, host: str, ifindex: int) -> Neighbour | None:
        answer = self._one(get_neighbour(self._next(), host, ifindex))
        return answer if isinstance(answer, Neighbour) else None

    def use(self, hops: list[tuple[int, str]]) -> None:
        """Have these (ifindex, host) neighbours resolved or confirmed; answers come as events.

        A neighbour that the kernel refuses (interface down, table full) is left out in silence:
        it stays unresolved, and is asked for again at the next round.
        """
        for start in range(0, len(hops), BATCH_MESSAGES_MAX):
            batch = hops[start : start + BATCH_MESSAGES_MAX]
            with contextlib.suppress(OSError):
                self._tell.send(b"".join(use_neighbour(self._next(), h, i) for i, h in batch))
                while self._tell.recv(DATAGRAM_BYTES_MAX):
                    pass

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    def _receive(self, sequence: int) -> Iterator[tuple[int, Message | int | None]]:
        while True:
            try:
                data = self._ask.recv(DATAGRAM_BYTES_MAX)
            except TimeoutError:
                raise NetlinkError(errno.ETIMEDOUT, "the kernel does not answer") from None
            for kind, number, value in messages(data):
                if number == sequence:
                    yield kind, value

    def _one(self, request: bytes) -> Message | None:
        self._ask.send(request)
        for _, value in self._receive(self._sequence):
            if isinstance(value, int):
                return None
            return value
        raise AssertionError("unreachable")

    def _dump(self, request: bytes) -> list[Message]:
        self._ask.send(request)
        found: list[Message] = []
        for kind, value in self._receive(self._sequence):
            if kind == _NLMSG_DONE:
                break
            if isinstance(value, int):
                raise NetlinkError(value, os.strerror(value))
            if value is not None:
                found.append(value)
        return found
