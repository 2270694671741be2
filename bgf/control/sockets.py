"""Control sockets: bound before their address exists, strangers kept apart by the kernel.

Knows: socket options of Linux. Must not know frames. With prefixes given, a UDP address has two
sockets of one reuseport group: a packet filter chooses, so that what strangers send fills a queue
of its own, which nobody waits in and the kernel counts. A TCP listener drops their packets.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Final, NamedTuple

from bgf.control.access import Access, packet_filter
from bgf.errors import EnvironmentProblem
from bgf.model import Address, Family

RECEIVE_BUFFER_BYTES: Final = 4 << 20
"""Kernel queue asked for (SO_RCVBUF, forced where privileged): about 2,000 offers."""
STRANGERS_BUFFER_BYTES: Final = 4_096
"""Of the socket that strangers' datagrams go to: enough to see who they are."""
BACKLOG: Final = 64
"""Connections that wait to be accepted."""

# linux/in.h, linux/in6.h, asm-generic/socket.h, linux/sock_diag.h; Python's module lacks them.
IP_FREEBIND: Final = 15
IPV6_FREEBIND: Final = 78
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33
SO_RXQ_OVFL: Final = 40
SO_ATTACH_REUSEPORT_CBPF: Final = 51
SO_MEMINFO: Final = 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8
_FILTER_BYTES = 8  # struct sock_filter
_WHOLE = 0xFFFF_FFFF


class UdpSockets(NamedTuple):
    """Where peers' datagrams arrive, and strangers' where they are told apart."""

    peers: socket.socket
    strangers: socket.socket | None


def open_udp(address: Address, access: Access) -> UdpSockets:
    """Bind, though the address need not exist yet (IP_FREEBIND).

    Raises EnvironmentProblem naming the address where it cannot be had.
    """
    if access.prefixes is None:
        return UdpSockets(_bound(address, socket.SOCK_DGRAM, RECEIVE_BUFFER_BYTES), None)
    if address.port:
        # Sockets of a reuseport group do not mind each other: somebody else's must be minded.
        _bound(address, socket.SOCK_DGRAM, 0).close()
    peers = _bound(address, socket.SOCK_DGRAM, RECEIVE_BUFFER_BYTES, shared=True)
    strangers = None
    try:
        at = Address(address.host, int(peers.getsockname()[1]))
        strangers = _bound(at, socket.SOCK_DGRAM, STRANGERS_BUFFER_BYTES, shared=True)
        program = packet_filter(access.prefixes, address.family, peer=0, stranger=1)
        _attach(peers, SO_ATTACH_REUSEPORT_CBPF, program)
    except (OSError, EnvironmentProblem) as error:
        for one in (peers, strangers):
            if one is not None:
                one.close()
        raise EnvironmentProblem(f"control address {address}: {error}") from None
    return UdpSockets(peers, strangers)


def refilter(opened: socket.socket, access: Access, family: Family) -> None:
    """The packet filter of other prefixes for an open socket; at once, and nothing queued is lost.
    Raises OSError."""
    if access.prefixes is not None:
        tcp = opened.type == socket.SOCK_STREAM
        peer, stranger = (_WHOLE, 0) if tcp else (0, 1)
        program = packet_filter(access.prefixes, family, peer=peer, stranger=stranger)
        _attach(opened, SO_ATTACH_FILTER if tcp else SO_ATTACH_REUSEPORT_CBPF, program)


def open_tcp(address: Address, access: Access) -> socket.socket:
    """A listening socket; as `open_udp`."""
    opened = _bound(address, socket.SOCK_STREAM, 0)
    try:
        if access.prefixes is not None:
            program = packet_filter(access.prefixes, address.family, peer=_WHOLE, stranger=0)
            _attach(opened, SO_ATTACH_FILTER, program)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _problem(address, error, tcp=True) from None
    return opened


def dropped(opened: socket.socket) -> int:
    """How many packets the kernel has dropped at this socket; a running 32-bit total."""
    return int(
        _MEMINFO.unpack(opened.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[_MEMINFO_DROPS]
    )


def _bound(
    address: Address, kind: socket.SocketKind, buffer_bytes: int, *, shared: bool = False
) -> socket.socket:
    six = address.family is Family.IP6
    opened = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
    try:
        opened.setblocking(False)
        if six:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            # A restarted process must not wait for connections of the one before to be forgotten.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if buffer_bytes:
            try:
                opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            opened.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        opened.bind((address.host, address.port))
    except OSError as error:
        opened.close()
        raise _problem(address, error, tcp=kind == socket.SOCK_STREAM) from None
    return opened


def _problem(address: Address, error: OSError, *, tcp: bool) -> EnvironmentProblem:
    if error.errno != errno.EADDRINUSE:
        return EnvironmentProblem(f"control address {address}: {error.strerror}")
    option, key = ("-ltnp", "control.listen port") if tcp else ("-lunp", "control_port")
    return EnvironmentProblem(
        f"control address {address} is taken: stop its holder "
        f"(ss {option} 'sport = :{address.port}') or set another {key}"
    )


def _attach(opened: socket.socket, option: int, program: bytes) -> None:
    """struct sock_fprog: a length in instructions and a pointer, which is followed at once."""
    held = ctypes.create_string_buffer(program, len(program))
    value = struct.pack("@HP", len(program) // _FILTER_BYTES, ctypes.addressof(held))
    opened.setsockopt(socket.SOL_SOCKET, option, value)
