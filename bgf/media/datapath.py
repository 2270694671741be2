"""What the gateway asks of a packet path, whatever carries it out. No I/O here.

Two implementations pass one contract suite: `xdp.XdpDatapath` (the kernel) and the semantic
fake of the tests, which applies the same rules to `Packet` values.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from bgf.model import Address, Counters, Flow, FlowKey, Latch, RtpStatistics


class Outcome(enum.StrEnum):
    """What becomes of a packet. All but FORWARD, REFLECT and the `PASSED` are counted drops.

    At a media address; what comes to another address is the kernel's and is PASS.
    """

    FORWARD = "forward"
    REFLECT = "reflect"
    PASS = "pass"
    NO_PINHOLE = "no-pinhole"
    GATE_CLOSED = "gate-closed"
    BAD_SOURCE = "bad-source"
    DISARMED = "disarmed"
    NO_NEIGHBOUR = "no-neighbour"
    FRAGMENT = "fragment"
    MALFORMED = "malformed"
    TTL = "ttl-expired"
    TOO_BIG = "too-big"
    POLICED = "policed"
    BAD_RTP = "bad-rtp"
    NO_PEER = "no-peer"
    RUNT = "runt"
    OPTIONS = "ip-options"
    ICMP = "icmp"
    ICMP_ERROR = "icmp-error"
    VLAN = "foreign-vlan"
    CHECK = "stun-check"


DSCP_MAX = 63
PAYLOAD_TYPE_MAX = 127
CLOCK_HZ_MAX = 999_999_999

PASSED = frozenset({Outcome.PASS, Outcome.ICMP, Outcome.ICMP_ERROR, Outcome.VLAN})
"""Handed to the kernel. All but PASS are counted."""


def objection(flow: Flow) -> str:
    """Why no packet path can do what the flow says; empty when it can."""
    if flow.remote and flow.remote.family is not flow.local_out.family:
        return f"leaves from {flow.local_out} to {flow.remote}: two IP versions"
    source, rtp = flow.source, flow.rtp
    if flow.latch is Latch.STRICT and (
        source.host is None or source.port is None or source.prefix_len or source.port_last
    ):
        return "a strict source is one host and one port"
    if source.prefix_len is not None and not (
        source.host is not None and 0 <= source.prefix_len <= (128 if ":" in source.host else 32)
    ):
        return f"source prefix length {source.prefix_len}"
    if source.port_last is not None and (source.port is None or source.port_last < source.port):
        return f"source ports {source.port} to {source.port_last}"
    if flow.dscp is not None and not 0 <= flow.dscp <= DSCP_MAX:
        return f"DSCP {flow.dscp} is out of 0..{DSCP_MAX}"
    if rtp and not all(0 <= kind <= PAYLOAD_TYPE_MAX for kind in rtp.payload_types):
        return f"payload types {rtp.payload_types} are not all in 0..{PAYLOAD_TYPE_MAX}"
    if rtp and not 0 < rtp.clock_hz <= CLOCK_HZ_MAX:
        return f"a timestamp clock of {rtp.clock_hz} Hz"
    if flow.policer and any(value < 0 for value in msgspec.structs.astuple(flow.policer)):
        return f"{flow.policer}: a negative rate or burst"
    return ""


class Verdict(msgspec.Struct, frozen=True):
    """The answer to "where would this packet go?". `frame` is the frame as it would leave."""

    outcome: Outcome
    interface: str = ""
    source: Address | None = None
    destination: Address | None = None
    frame: bytes = b""


class PeerLearned(msgspec.Struct, frozen=True):
    """The flow `key` has latched onto `peer`, in the round that its Flow asked for.

    May come twice, and again after a restart: it says how things are.
    """

    key: FlowKey
    peer: Address
    latch_round: int


class MediaSilent(msgspec.Struct, frozen=True):
    """No packet of an open flow for its `inactivity_ms`, while its group was armed here.

    `last_seen_ns` (CLOCK_BOOTTIME) 0: media never started here. Comes once for each silence, and
    again when the group is armed anew.
    """

    key: FlowKey
    last_seen_ns: int

    @property
    def never_started(self) -> bool:
        return self.last_seen_ns == 0


Report = PeerLearned | MediaSilent


class Captured(msgspec.Struct, frozen=True):
    """A frame of a captured flow, as it arrived or as it left. `time_ns` is CLOCK_BOOTTIME.

    `length` is the frame's own; `frame` is cut at the capture's limit.
    """

    time_ns: int
    key: FlowKey
    leaving: bool
    interface: str
    length: int
    frame: bytes


class Tally(NamedTuple):
    """Packets of one outcome that arrived in one realm on one CPU."""

    realm: str
    cpu: int
    outcome: Outcome
    packets: int


class Datapath(Protocol):
    """The packet path of one node. All calls are idempotent and keep what they do not name."""

    def install(self, flows: Sequence[Flow]) -> None:
        """Make these pinholes exist exactly so; counters of a replaced key are kept.

        So is what it has learned, unless the flow's `learned` or `latch_round` says otherwise.
        Raises DatapathError when the table is full (nothing of the call is installed then).
        """

    def remove(self, keys: Iterable[FlowKey]) -> None:
        """Close these pinholes; unknown keys are ignored."""

    def arm(self, group: str, deadline_ns: int) -> None:
        """Forward for `group` while CLOCK_BOOTTIME < `deadline_ns`; 0 disarms at once."""

    def keys(self) -> set[FlowKey]:
        """The pinholes that exist now, as the packet path itself holds them."""

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        """Counters in the order of `keys`; zeros for unknown keys."""

    def measured(self, keys: Sequence[FlowKey]) -> tuple[list[Counters], list[RtpStatistics]]:
        """`counters` and `rtp`, of one moment."""

    def drops(self) -> Mapping[Outcome, int]:
        """Packets by outcome since the program was attached, FORWARD and REFLECT included."""

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        """Ask the live program what it does with such a UDP packet arriving in `realm`."""

    def tallies(self) -> Sequence[Tally]:
        """`drops` taken apart by realm and CPU; what is zero is left out."""

    def rtp(self, keys: Sequence[FlowKey]) -> list[RtpStatistics]:
        """RTP statistics in the order of `keys`; zeros for unknown keys and what is no RTP."""

    def relatch(self, key: FlowKey) -> None:
        """Let the flow learn anew, as its latch mode says; an unknown key is ignored."""

    def reports(self) -> list[Report]:
        """What has happened since the last call: peers learned, media fallen silent.

        `fileno` becomes readable for a learned peer; silence is looked for by the call itself, so
        call it every second or so.
        """

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to take in."""

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> Capture:
        """Begin to copy the packets of these flows; they end when the capture is closed.

        Raises DatapathError when another capture is running.
        """


class Capture(Protocol):
    """Frames off the packet path. Iterating gives what is there now and does not wait."""

    lost: int
    """Frames that found no room since the capture began."""

    def __iter__(self) -> Iterator[Captured]: ...

    def want(self, keys: Iterable[FlowKey], snap_bytes: int) -> None:
        """From now on copy these flows, those of them that exist; nothing of a flow that stays is
        lost. Raises DatapathError.
        """

    def fileno(self) -> int:
        """Readable when there are frames."""

    def close(self) -> None:
        """Stop copying. A second call does nothing."""
