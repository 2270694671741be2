"""The gateway's values in H.248's words: addresses, realms, streams, flows. No bytes, no I/O.

Knows: nothing but itself and `errors`. Everything here is frozen, compares by value and has
one canonical encoding (msgspec, array form), so a value may be a key, an item or a log entry.
No value can contain itself, so the garbage collector need not look at them (`gc=False`).

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


def family_of(host: str) -> Family:
    """Of a canonical textual host."""
    return Family.IP6 if ":" in host else Family.IP4


class Component(enum.IntEnum):
    """Which of a stream's two packet kinds a flow carries (RFC 3550; RFC 5761 when muxed)."""

    RTP = 1
    RTCP = 2


class Gate(enum.IntEnum):
    """H.248 `gm` gate: a closed gate reserves its port and drops what arrives."""

    CLOSED = 0
    OPEN = 1


class Address(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
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


class Source(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Remote source filter of a pinhole (H.248.43 `gm` saf/sam/spf/spr). None means any.

    With `prefix_len` (bits) any host of that prefix is admitted, without it `host` alone. With
    `port_last` any port from `port` to it, both included; without it `port` alone.
    """

    host: str | None = None
    port: int | None = None
    prefix_len: int | None = None
    port_last: int | None = None

    def admits(self, sender: Address) -> bool:
        return self._admits_host(sender.host) and (
            self.port is None or self.port <= sender.port <= (self.port_last or self.port)
        )

    def _admits_host(self, host: str) -> bool:
        if self.host is None or self.prefix_len is None:
            return self.host is None or self.host == host
        # Of one family only, and without the cost of a network object.
        filtered, sender = ipaddress.ip_address(self.host), ipaddress.ip_address(host)
        rest = filtered.max_prefixlen - self.prefix_len
        return filtered.version == sender.version and int(filtered) >> rest == int(sender) >> rest


class Latch(enum.IntEnum):
    """Whose packets teach a flow who sends to it (H.248.37 `ipnapt/latch`; TS 23.334 5.4.2).

    OFF: nobody's, the source filter alone decides. LATCH: the first packet that gate, filter and
    RTP check admit; from then on its sender alone is admitted. RELATCH: as LATCH, but what was
    learned before goes on until a packet of another sender comes, which then replaces it, once.
    STRICT: nobody's, and the source filter must name one host and one port.
    """

    OFF = 0
    LATCH = 1
    RELATCH = 2
    STRICT = 3

    @property
    def learns(self) -> bool:
        return self in (Latch.LATCH, Latch.RELATCH)


class Policer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Two token buckets over a flow's packets (H.248.53 `tman`); 0 says that one is not there.

    `sustained_bytes_s` and `burst_bytes` are its sdr and mbs; `peak_bytes_s` is its pdr, with
    `peak_burst_bytes` in place of the delay variation tolerance (dvt x pdr). A packet counts with
    its IP length, as it arrives; one that is longer than a burst never passes.
    """

    sustained_bytes_s: int = 0
    burst_bytes: int = 0
    peak_bytes_s: int = 0
    peak_burst_bytes: int = 1_500


class Rtp(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """That a flow is RTP, or RTCP by its component, and what is asked of it (RFC 3550, RFC 3551).

    `check` drops what is not version 2 or is shorter than its header. `payload_types` (0..127),
    when there are any, admits these alone. `clock_hz` is the unit of the timestamps, and so of
    the jitter. Statistics are kept of every flow that has this.
    """

    check: bool = False
    payload_types: tuple[int, ...] = ()
    clock_hz: int = 8_000


class Ice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Credentials of our ICE-lite agent towards one party (RFC 8445 section 5.3, RFC 8839 5.4).

    With `remote_ufrag` a check must name it behind `ufrag`; without it any party may be asking.
    """

    ufrag: str
    pwd: str
    remote_ufrag: str = ""


class FlowKey(NamedTuple):
    """What a pinhole is found by: the local address and port where its packets arrive."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(Address(self.host, self.port))


class Flow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One direction of one component of one stream (explicit state; one item in DAL each).

    `remote` is None while the far end is not known (half-open call): the gate is closed then,
    unless `follows` will tell it. `session` names the context, `stream` the m-line (0-based).

    `learned` is the sender that `latch` is known to have taught, None while there is none; to
    raise `latch_round` is to forget it, here and in the packet path (the relatch signal).
    `follows`: packets go to what the flow of the other direction (keyed by our `local_out`) has
    learned, in place of `remote`, as soon as it has. `dscp` 0..63 is written into every packet,
    None keeps the sender's. `rtcp_mux`: RTCP comes on this same pinhole (RFC 5761).
    `inactivity_ms` without a packet is reported, 0 is never. With `ice` STUN checks that arrive
    here are answered and go nowhere. `demux`, with `rtcp_mux`: RTCP that comes here goes on by the
    flow of the next port, for the other side has a port of its own for it. Fields are only ever
    appended.
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
    latch: Latch = Latch.OFF
    learned: Address | None = None
    latch_round: int = 0
    follows: bool = False
    policer: Policer | None = None
    dscp: int | None = None
    rtp: Rtp | None = None
    rtcp_mux: bool = False
    inactivity_ms: int = 0
    ice: Ice | None = None
    demux: bool = False

    @property
    def key(self) -> FlowKey:
        return FlowKey(self.local_in.host, self.local_in.port)

    @property
    def reverse_key(self) -> FlowKey:
        """The key of the flow that goes the other way, where there is one."""
        return FlowKey(self.local_out.host, self.local_out.port)


class Counters(NamedTuple):
    """What a pinhole has forwarded. `last_seen_ns` is CLOCK_BOOTTIME, 0 when never."""

    packets: int = 0
    bytes: int = 0
    last_seen_ns: int = 0


class RtpStatistics(NamedTuple):
    """What a flow's RTP headers say of the path up to here (RFC 3550 section 6.4.1, A.3, A.8).

    `packets` and `bytes` (UDP payload) are RTP alone, `rtcp_packets` what came muxed with it.
    `lost` is cumulative, as in a receiver report, and negative when there are duplicates.
    `jitter` is in timestamp units of `clock_hz`. `ssrc` is the latest, 0 when there was none;
    `restarts` counts jumps of the sequence number that are no loss (A.1). `gap_max_us` is the
    longest time between two packets.
    """

    packets: int = 0
    bytes: int = 0
    expected: int = 0
    lost: int = 0
    jitter: int = 0
    clock_hz: int = 8_000
    ssrc: int = 0
    ssrc_changes: int = 0
    restarts: int = 0
    gap_max_us: int = 0
    rtcp_packets: int = 0

    @property
    def jitter_ms(self) -> float:
        return self.jitter * 1_000 / self.clock_hz


class RealmAddress(msgspec.Struct, frozen=True, array_like=True, gc=False):
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
