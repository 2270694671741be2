"""Which hardware address a host has now: the kernel's neighbour table, followed by netlink.

Knows: rtnetlink's neighbour messages (linux/neighbour.h, RFC 4861 and ARP stay the kernel's).
Must not know RTP. Spoken on a bare socket, not through pyroute2, whose 0.9 runs an event loop of
its own: the generator waits on this descriptor within its tick and reads changes at once.

`use` asks the kernel to treat a host as one that we are sending to: it resolves it, and probes it
again when the entry is stale, exactly as for a socket's packets, without sending one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bgf.errors import EnvironmentProblem

RECEIVE_OCTETS = 65_536
RECEIVE_BUFFER_OCTETS = 1 << 20
MESSAGES_MAX = 1_000
"""Datagrams read in one go; the rest waits for the next tick."""

# linux/rtnetlink.h, linux/neighbour.h, linux/netlink.h
RTMGRP_NEIGH = 1 << 2
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
NLMSG_ERROR = 2
NLM_F_REQUEST = 0x1
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NTF_USE = 0x01
NDA_DST = 1
NDA_LLADDR = 2
NUD_VALID = 0xDE  # permanent, noarp, reachable, probe, stale, delay: the address is usable
MAC_OCTETS = 6
# net/if.h, linux/sockios.h
SIOCGIFHWADDR = 0x8927
IFNAMSIZ = 16
HWADDR_AT = IFNAMSIZ + 2

_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")


class Neighbour(NamedTuple):
    """One host's entry. `mac` is empty while the kernel has no usable address for it."""

    host: str
    mac: bytes


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _text(address: bytes) -> str:
    """The canonical text of a packed address (RFC 5952), empty if it is none."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    return socket.inet_ntop(socket.AF_INET6, address) if len(address) == 16 else ""


def parse(datagram: bytes, ifindex: int) -> list[Neighbour]:
    """The entries of interface `ifindex` told in one netlink datagram; all else is skipped."""
    found = []
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(datagram, at)
        if length < _HEADER.size or at + length > len(datagram):
            break
        body = datagram[at + _HEADER.size : at + length]
        at += (length + 3) & ~3
        if kind not in (RTM_NEWNEIGH, RTM_DELNEIGH) or len(body) < _NEIGHBOUR.size:
            continue
        _family, index, state, _ntf, _type = _NEIGHBOUR.unpack_from(body)
        if index != ifindex:
            continue
        attributes = dict(_attributes(body[_NEIGHBOUR.size :]))
        host, mac = _text(attributes.get(NDA_DST, b"")), attributes.get(NDA_LLADDR, b"")
        usable = kind == RTM_NEWNEIGH and state & NUD_VALID and len(mac) == MAC_OCTETS
        if host:
            found.append(Neighbour(host, mac if usable else b""))
    return found


def _request(kind: int, flags: int, ifindex: int, ntf: int, host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET if host else socket.AF_UNSPEC
    body = _NEIGHBOUR.pack(family, ifindex, 0, ntf, 0)
    if host:
        address = socket.inet_pton(family, host)
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), NDA_DST) + address
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


class Neighbours:
    """The neighbours of one interface in the namespace of the caller."""

    def __init__(self, interface: str) -> None:
        """Raises EnvironmentProblem when there is no such interface."""
        try:
            self.ifindex = socket.if_nametoindex(interface)
        except OSError:
            raise EnvironmentProblem(f"no interface '{interface}' in this namespace") from None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)
        self._socket.bind((0, RTMGRP_NEIGH))

    def fileno(self) -> int:
        return self._socket.fileno()

    def use(self, hosts: Iterable[str]) -> None:
        """Ask the kernel to resolve, or keep resolved, these hosts. Answers come by `read`."""
        for host in hosts:
            request = _request(RTM_NEWNEIGH, NLM_F_CREATE, self.ifindex, NTF_USE, host)
            # A full queue only delays: `use` is called again and again.
            with contextlib.suppress(BlockingIOError):
                self._socket.sendto(request, (0, 0))

    def ask(self) -> None:
        """Ask for the whole table (after a start, or when events were lost)."""
        with contextlib.suppress(BlockingIOError):
            self._socket.sendto(_request(RTM_GETNEIGH, NLM_F_DUMP, self.ifindex, 0, ""), (0, 0))

    def read(self) -> list[Neighbour]:
        """What has become known since the last call, oldest first. Never waits."""
        found: list[Neighbour] = []
        for _ in range(MESSAGES_MAX):
            try:
                datagram = self._socket.recv(RECEIVE_OCTETS)
            except BlockingIOError:
                break
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                self.ask()
                continue
            found += parse(datagram, self.ifindex)
        return found

    def close(self) -> None:
        self._socket.close()


def hardware_address(interface: str) -> bytes:
    """The interface's own address, six octets. Raises EnvironmentProblem.

    By ioctl: /sys shows the namespace that mounted it, not the caller's.
    """
    request = struct.pack("256s", interface.encode()[: IFNAMSIZ - 1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            answer = fcntl.ioctl(handle, SIOCGIFHWADDR, request)
        except OSError as problem:
            raise EnvironmentProblem(
                f"hardware address of '{interface}': {problem.strerror}"
            ) from None
    return answer[HWADDR_AT : HWADDR_AT + MAC_OCTETS]
