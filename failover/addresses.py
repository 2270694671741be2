"""Moving addresses: put them on, take them off, tell the neighbours. Decides nothing.

Knows which requests and packets it takes. Must not know groups, owners, epochs. Requests and frames
are built and sockets opened when it starts, so that a takeover only sends.

- IPv6 addresses are added without duplicate address detection (IFA_F_NODAD): the epoch, not the
  link, says who the owner is, and detection would cost a second. Both families are added as
  deprecated (preferred lifetime 0), so that the node's own traffic never leaves from them.
- Each address has a lifetime in the kernel: when the process that should renew it is dead, the
  address leaves the interface by itself and no longer answers its neighbours.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from failover.config import MovingAddress
from failover.errors import AddressConflict, AddressError
from failover.frames import announcements, question, read_claim
from failover.rtnetlink import Rtnetlink, adding, lasting, removing

IFA_F_NODAD: Final = 0x02
IFA_F_NOPREFIXROUTE: Final = 0x200
ETH_P_ALL: Final = 0x0003
CONFLICT_WAIT_MS: Final = 60
CONFLICT_QUESTIONS: Final = 2
FRAMES_READ_MAX: Final = 4096
FRAME_BYTES_MAX: Final = 2048


class NetlinkAddresses:
    """The real thing, on the interfaces that `configured` names, in this network namespace.

    Raises AddressError when an interface is missing or netlink cannot be opened.
    """

    def __init__(self, configured: Sequence[MovingAddress]) -> None:
        self._configured = {address.host for address in configured}
        self._sockets: dict[str, socket.socket] = {}
        self._macs: dict[str, bytes] = {}
        self._indices: dict[str, int] = {}
        self._onlink: dict[str, list[ipaddress.IPv6Network]] = {}
        self._frames: dict[tuple[str, str], tuple[bytes, ...]] = {}
        self._requests: dict[MovingAddress, tuple[bytes, bytes]] = {}
        self._netlink = Rtnetlink()
        try:
            for interface in sorted({address.interface for address in configured}):
                self._open(interface)
        except BaseException:
            self.close()
            raise
        for address in configured:
            self._frames_of(address)
            self._requests_of(address)

    def add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        """Idempotent; renews the lifetime of those that are here. Raises AddressError."""
        requests = [lasting(self._requests_of(one)[0], lifetime_s) for one in addresses]
        self._change("add", addresses, requests)

    def remove(self, addresses: Sequence[MovingAddress]) -> None:
        """Those that are not here are ignored. Raises AddressError."""
        requests = [self._requests_of(one)[1] for one in addresses]
        self._change("remove", addresses, requests, fine=errno.EADDRNOTAVAIL)

    def held(self) -> set[str]:
        """The configured hosts that are on their interfaces now."""
        ours = set(self._indices.values())
        hosts = {host for index, host, _ in self._netlink.held() if index in ours}
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
        self._netlink.close()

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
        self._onlink[interface] = [
            ipaddress.IPv6Network((host, prefix_len), strict=False)
            for at, host, prefix_len in self._netlink.held()
            if at == index and ":" in host
            if host not in self._configured and not host.startswith("fe80:")
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

    def _requests_of(self, address: MovingAddress) -> tuple[bytes, bytes]:
        """To add it, to remove it."""
        if address not in self._requests:
            index = self._indices.get(address.interface)
            if index is None:
                raise AddressError(f"{address}: this interface was not configured at the start")
            flags = 0
            if address.version == 6:
                flags = IFA_F_NODAD
                if self._has_onlink_route(address):
                    # The kernel would give the route it shares with the node's own address the
                    # lifetime of this one, and take it away at the end.
                    flags |= IFA_F_NOPREFIXROUTE
            self._requests[address] = (
                adding(index, address.host, address.prefix_len, flags),
                removing(index, address.host, address.prefix_len),
            )
        return self._requests[address]

    def _change(
        self,
        what: str,
        addresses: Sequence[MovingAddress],
        requests: Sequence[bytes],
        *,
        fine: int = 0,
    ) -> None:
        """All of them; the first refusal other than `fine` is raised when all have been tried."""
        codes = self._netlink.ask(requests)
        for address, code in zip(addresses, codes, strict=True):
            if code not in (0, fine):
                raise AddressError(f"cannot {what} {address}: {_reason(code)}")

    def _has_onlink_route(self, address: MovingAddress) -> bool:
        host = ipaddress.IPv6Address(address.host)
        return any(host in network for network in self._onlink[address.interface])


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


def _reason(code: int) -> str:
    if code == errno.EPERM:
        return "not permitted: CAP_NET_ADMIN is needed, run as root"
    if code == errno.ENODEV:
        return "the interface is gone"
    return os.strerror(code)
