"""What the gateway asks of a packet path, whatever carries it out. No I/O here.

Two implementations pass one contract suite: `xdp.XdpDatapath` (the kernel) and the semantic
fake of the tests, which applies the same rules to `Packet` values.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bgf.model import Address, Counters, Flow, FlowKey


class Outcome(enum.StrEnum):
    """What becomes of a packet. All but FORWARD, REFLECT and PASS are counted drops."""

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


class Verdict(msgspec.Struct, frozen=True):
    """The answer to "where would this packet go?". `frame` is the frame as it would leave."""

    outcome: Outcome
    interface: str = ""
    source: Address | None = None
    destination: Address | None = None
    frame: bytes = b""


class Datapath(Protocol):
    """The packet path of one node. All calls are idempotent and keep what they do not name."""

    def install(self, flows: Sequence[Flow]) -> None:
        """Make these pinholes exist exactly so; counters of a replaced key are kept.

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

    def drops(self) -> Mapping[Outcome, int]:
        """Packets by outcome since the program was attached, FORWARD and REFLECT included."""

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        """Ask the live program what it does with such a UDP packet arriving in `realm`."""
