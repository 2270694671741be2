"""The gateway's values in H.248's words: addresses, realms, streams, flows. No bytes, no I/O.

Knows: nothing but itself and `errors`. Everything here is frozen, compares by value and has
one canonical encoding (msgspec, array form), so a value may be a key, an item or a log entry.

A *flow* is one direction of one component (RTP or RTCP) of one stream: the packets that
arrive at `local_in` and leave from `local_out` towards `remote`. Its pinhole is keyed by
`local_in`, the address and port on which its packets arrive (3GPP TS 23.334 clause 5.4).
"""

from __future__ import annotations

import enum
import ipaddress
from typing import NamedTuple

import msgspec

from bgf.errors import Malformed

PORT_MAX = 65_535


class Family(enum.IntEnum):
    """IP version of an address."""

    IP4 = 4
    IP6 = 6


class Component(enum.IntEnum):
    """Which of a stream's two packet kinds a flow carries (RFC 3550; RFC 5761 when muxed)."""

    RTP = 1
    RTCP = 2


class Gate(enum.IntEnum):
    """H.248 `gm` gate: a closed gate reserves its port and drops what arrives."""

    CLOSED = 0
    OPEN = 1


class Address(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A transport address: a canonical textual host and a UDP port in 0..65535."""

    host: str
    port: int

    @property
    def family(self) -> Family:
        return Family.IP6 if ":" in self.host else Family.IP4

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Canonicalise `host` (RFC 5952 for IPv6). Raises Malformed naming the bad value."""
        if not 0 <= port <= PORT_MAX:
            raise Malformed(f"port {port} is out of range 0..{PORT_MAX}")
        try:
            return cls(str(ipaddress.ip_address(host)), port)
        except ValueError:
            raise Malformed(f"'{host[:64]}' is not an IP address") from None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `1.2.3.4:5` or `[2001:db8::1]:5`. Raises Malformed."""
        host, sep, port = text.rpartition(":")
        if not sep or not port.isascii() or not port.isdigit() or len(port) > 5:
            raise Malformed(f"'{text[:64]}' is not host:port ([host]:port for IPv6)")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise Malformed(f"'{text[:64]}': write an IPv6 host in brackets, [host]:port")
        return cls.of(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Source(msgspec.Struct, frozen=True, array_like=True):
    """Remote source filter of a pinhole (H.248.43 `gm` saf/spf). None means any."""

    host: str | None = None
    port: int | None = None

    def admits(self, sender: Address) -> bool:
        return (self.host is None or self.host == sender.host) and (
            self.port is None or self.port == sender.port
        )


class FlowKey(NamedTuple):
    """What a pinhole is found by: the local address and port where its packets arrive."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(Address(self.host, self.port))


class Flow(msgspec.Struct, frozen=True, array_like=True):
    """One direction of one component of one stream (explicit state; one item in DAL each).

    `remote` is None while the far end is not known (half-open call): the gate is closed then.
    `session` names the context, `stream` the m-line (0-based).
    """

    group: str
    session: str
    stream: int
    component: Component
    realm_in: str
    local_in: Address
    realm_out: str
    local_out: Address
    remote: Address | None = None
    source: Source = Source()
    gate: Gate = Gate.CLOSED

    @property
    def key(self) -> FlowKey:
        return FlowKey(self.local_in.host, self.local_in.port)


class Counters(NamedTuple):
    """What a pinhole has forwarded. `last_seen_ns` is CLOCK_BOOTTIME, 0 when never."""

    packets: int = 0
    bytes: int = 0
    last_seen_ns: int = 0


class RealmAddress(msgspec.Struct, frozen=True, array_like=True):
    """A moving address of a group in one realm, with its prefix length in bits."""

    realm: str
    host: str
    prefix_len: int

    @property
    def family(self) -> Family:
        return Family.IP6 if ":" in self.host else Family.IP4


class Group(msgspec.Struct, frozen=True):
    """A service group: the unit of failover (DESIGN section 1, sentence 5).

    `ports` is an inclusive range used on every media address of the group; pairs start even.
    `control` is where the group's `ng` socket answers; it moves with the group.
    `preferred` is the node that may claim the group when nobody has ever owned it.
    """

    id: str
    control: Address
    control_realm: str
    control_prefix_len: int
    ports: tuple[int, int]
    addresses: tuple[RealmAddress, ...]
    preferred: str = ""

    def address_in(self, realm: str, family: Family) -> str | None:
        for address in self.addresses:
            if address.realm == realm and address.family == family:
                return address.host
        return None

    def families_in(self, realm: str) -> tuple[Family, ...]:
        return tuple(a.family for a in self.addresses if a.realm == realm)
