"""Moving addresses: put them on, take them off, tell the neighbours. Decides nothing.

Knows netlink and packet sockets. Must not know groups, owners, epochs. Frames are built and
sockets opened when it starts, so that a takeover only sends.

- IPv6 addresses are added without duplicate address detection (IFA_F_NODAD): the epoch, not the
  link, says who the owner is, and detection would cost a second. Both families are added as
  deprecated (preferred lifetime 0), so that the node's own traffic never leaves from them.
- Each address has a lifetime in the kernel: when the process that should renew it is dead, the
  address leaves the interface by itself and no longer answers its neighbours.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from failover.config import MovingAddress
from failover.errors import AddressConflict, AddressError
from failover.frames import announcements, question, read_claim

IFA_F_NODAD: Final = 0x02
IFA_F_NOPREFIXROUTE: Final = 0x200
ETH_P_ALL: Final = 0x0003
CONFLICT_WAIT_MS: Final = 60
CONFLICT_QUESTIONS: Final = 2
FRAMES_READ_MAX: Final = 4096
FRAME_BYTES_MAX: Final = 2048

T = TypeVar("T")


class NetlinkAddresses:
    """The real thing, on the interfaces that `configured` names, in this network namespace.

    pyroute2's plain calls refuse to run in a thread with a running event loop, so one worker
    thread owns the netlink socket; every call waits for it. Raises AddressError when an
    interface is missing or netlink cannot be opened.
    """

    def __init__(self, configured: Sequence[MovingAddress]) -> None:
        self._configured = {address.host for address in configured}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._sockets: dict[str, socket.socket] = {}
        self._macs: dict[str, bytes] = {}
        self._indices: dict[str, int] = {}
        self._onlink: dict[str, list[ipaddress.IPv6Network]] = {}
        self._frames: dict[tuple[str, str], tuple[bytes, ...]] = {}
        self._ipr: Any = None
        try:
            self._ipr = self._call(IPRoute)
            for interface in sorted({address.interface for address in configured}):
                self._open(interface)
        except BaseException:
            self.close()
            raise
        for address in configured:
            self._frames_of(address)

    def add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        """Idempotent; renews the lifetime of those that are here. Raises AddressError."""
        self._call(lambda: self._add(addresses, lifetime_s))

    def remove(self, addresses: Sequence[MovingAddress]) -> None:
        """Those that are not here are ignored. Raises AddressError."""
        self._call(lambda: self._remove(addresses))

    def held(self) -> set[str]:
        """The configured hosts that are on their interfaces now."""
        hosts = self._call(
            lambda: {
                host for index in self._indices.values() for host, _ in _dump(self._ipr, index)
            }
        )
        return hosts & self._configured

    def announce(self, addresses: Sequence[MovingAddress]) -> None:
        """One round for all of them. Repeating it is the caller's business."""
        for address in addresses:
            for frame in self._frames_of(address):
                try:
                    self._sockets[address.interface].send(frame)
                except OSError as error:
                    raise AddressError(
                        f"cannot announce {address}: {error.strerror}; is the interface up?"
                    ) from None

    def conflicts(self, addresses: Sequence[MovingAddress]) -> Mapping[str, str]:
        """Ask twice, wait CONFLICT_WAIT_MS for answers. Host -> MAC of whoever answers."""
        wanted = {address.host for address in addresses}
        interfaces = {address.interface for address in addresses}
        own = {mac.hex(":") for mac in self._macs.values()}
        listeners = [_packet_socket(name, ETH_P_ALL) for name in sorted(interfaces)]
        found: dict[str, str] = {}
        try:
            for asked in range(CONFLICT_QUESTIONS):
                for address in addresses:
                    self._ask(address)
                until = time.monotonic() + CONFLICT_WAIT_MS / 1000 / CONFLICT_QUESTIONS
                for _ in range(FRAMES_READ_MAX):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    readable, _, _ = select.select(listeners, [], [], left)
                    for listener in readable:
                        claim = read_claim(listener.recv(FRAME_BYTES_MAX))
                        if claim and claim.host in wanted and claim.mac not in own:
                            found[claim.host] = claim.mac
                if found and asked:
                    break
        finally:
            for listener in listeners:
                listener.close()
        return found

    def probe_conflict(self, address: MovingAddress) -> None:
        """Raises AddressConflict when somebody else on the link is `address`."""
        for host, mac in self.conflicts([address]).items():
            raise AddressConflict(
                f"{host} on {address.interface} is already taken by {mac}:"
                " remove it there or configure another address"
            )

    def close(self) -> None:
        """Close the sockets. Addresses stay, for the rest of their lifetime."""
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()
        if self._ipr is not None:
            self._call(self._ipr.close)
            self._ipr = None
        self._worker.shutdown()

    def _call(self, work: Callable[[], T]) -> T:
        return self._worker.submit(work).result()

    def _open(self, interface: str) -> None:
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            raise AddressError(
                f"interface '{interface}' does not exist here: create it or correct [realms]"
            ) from None
        self._indices[interface] = index
        self._sockets[interface] = opened = _packet_socket(interface, 0)
        self._macs[interface] = opened.getsockname()[4]
        own = self._call(lambda: _dump(self._ipr, index))
        self._onlink[interface] = [
            ipaddress.IPv6Network((host, prefix_len), strict=False)
            for host, prefix_len in own
            if ":" in host and host not in self._configured and not host.startswith("fe80:")
        ]

    def _frames_of(self, address: MovingAddress) -> tuple[bytes, ...]:
        key = (address.interface, address.host)
        if key not in self._frames:
            self._frames[key] = announcements(self._mac_of(address), address.host)
        return self._frames[key]

    def _mac_of(self, address: MovingAddress) -> bytes:
        mac = self._macs.get(address.interface)
        if mac is None:
            raise AddressError(f"{address}: this interface was not configured at the start")
        return mac

    def _ask(self, address: MovingAddress) -> None:
        try:
            self._sockets[address.interface].send(question(self._mac_of(address), address.host))
        except OSError as error:
            raise AddressError(
                f"cannot ask the link for {address}: {error.strerror}; is the interface up?"
            ) from None

    def _add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        for address in addresses:
            flags = 0
            if address.version == 6:
                flags = IFA_F_NODAD
                if self._has_onlink_route(address):
                    # The kernel would give the route it shares with the node's own address the
                    # lifetime of this one, and take it away at the end.
                    flags |= IFA_F_NOPREFIXROUTE
            try:
                self._ipr.addr(
                    "replace",
                    index=self._indices[address.interface],
                    address=address.host,
                    prefixlen=address.prefix_len,
                    flags=flags,
                    preferred_lft=0,
                    valid_lft=lifetime_s,
                )
            except (NetlinkError, OSError) as error:
                raise AddressError(f"cannot add {address}: {_reason(error)}") from None

    def _remove(self, addresses: Sequence[MovingAddress]) -> None:
        for address in addresses:
            try:
                self._ipr.addr(
                    "del",
                    index=self._indices[address.interface],
                    address=address.host,
                    prefixlen=address.prefix_len,
                )
            except (NetlinkError, OSError) as error:
                if _errno(error) != errno.EADDRNOTAVAIL:
                    raise AddressError(f"cannot remove {address}: {_reason(error)}") from None

    def _has_onlink_route(self, address: MovingAddress) -> bool:
        host = ipaddress.IPv6Address(address.host)
        return any(host in network for network in self._onlink[address.interface])


def _dump(ipr: Any, index: int) -> list[tuple[str, int]]:
    return [
        (
            str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")),
            message["prefixlen"],
        )
        for message in ipr.get_addr(index=index)
    ]


def _packet_socket(interface: str, protocol: int) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    except PermissionError:
        raise AddressError("packet sockets need CAP_NET_RAW: run as root") from None
    try:
        opened.bind((interface, protocol))
    except OSError as error:
        opened.close()
        raise AddressError(f"interface '{interface}' cannot be used: {error.strerror}") from None
    return opened


def _errno(error: Exception) -> int:
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else int(getattr(error, "errno", 0) or 0)


def _reason(error: Exception) -> str:
    code = _errno(error)
    if code == errno.EPERM:
        return "not permitted: CAP_NET_ADMIN is needed, run as root"
    if code == errno.ENODEV:
        return "the interface is gone"
    return str(error)
