"""The time arithmetic of load and meter: when packets are due, how long a flow was silent.

Knows: numbers of nanoseconds (CLOCK_BOOTTIME) and packet counts. Must not know sockets, maps or
clocks: `now_ns` is always an argument. The generator's loop and the drill perform what is
computed here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

SECOND_NS = 1_000_000_000
PACKETS_PER_SECOND_MAX = 1_000
"""One stream's rate; audio with 20 ms frames has 50 (RFC 3551 section 4.5.14)."""

TICK_NS = 1_000_000
"""The generator wakes no more often than this: packets due within it leave together."""

PAUSE_NS = 100_000
"""Between two full bursts while catching up, so that the receivers' queues can empty."""

CATCH_UP_NS_MAX = 100_000_000
"""A packet overdue by more is skipped and counted: a telephone would not send it either."""

BATCH_PACKETS_MAX = 64
"""Packets handed to the device together. A veth queues 256, its NAPI takes 64 at a time."""

BURST_PACKETS_MAX = 128
"""Packets sent in one go."""

SILENCE_NS = 200_000_000
"""A flow without a packet for this long at the time of reading has not come back (ten frames)."""


@dataclass(frozen=True)
class Burst:
    """What to do now: skip `skip` packets, then send `batches` times `batch` packets.

    `late_ns` is how overdue the first packet sent is; 0 when nothing is sent.
    """

    skip: int = 0
    batch: int = 0
    batches: int = 0
    late_ns: int = 0

    @property
    def packets(self) -> int:
        return self.batch * self.batches


class Pace:
    """An even schedule: packet k of `streams` streams is due at start + k * interval / streams.

    Packet k belongs to stream k mod streams, so every stream has its own phase in the interval.
    """

    def __init__(self, streams: int, packets_per_second: int, start_ns: int) -> None:
        if streams < 1 or not 1 <= packets_per_second <= PACKETS_PER_SECOND_MAX:
            raise ValueError(
                f"{streams} streams of {packets_per_second} packets/s: at least one stream of"
                f" 1..{PACKETS_PER_SECOND_MAX} packets/s is needed"
            )
        self._per_second = streams * packets_per_second
        self._start_ns = start_ns
        self.next = 0
        """Number of the first packet neither sent nor skipped."""

    def due_ns(self, packet: int) -> int:
        """When packet number `packet` is due, rounded up."""
        return self._start_ns - (-packet * SECOND_NS // self._per_second)

    def burst(self, now_ns: int) -> Burst:
        """What is due at `now_ns`, within the limits. `advance` it when it is done.

        A burst is whole batches: a remainder of a few packets is left for the next call.
        """
        elapsed_ns = now_ns - self._start_ns
        if elapsed_ns < 0:
            return Burst()
        due = elapsed_ns * self._per_second // SECOND_NS + 1
        oldest = -((CATCH_UP_NS_MAX - elapsed_ns) * self._per_second // SECOND_NS)
        skip = max(0, oldest - self.next)
        first = self.next + skip
        count = min(due - first, BURST_PACKETS_MAX)
        if count <= 0:
            return Burst(skip)
        batches = -(-count // BATCH_PACKETS_MAX)
        return Burst(skip, count // batches, batches, max(0, now_ns - self.due_ns(first)))

    def advance(self, skipped: int, sent: int) -> None:
        self.next += skipped + sent

    def wait_ns(self, woke_ns: int, now_ns: int) -> int:
        """How long to sleep at `now_ns`, having woken at `woke_ns`.

        Until a packet is due, but not within a tick of the last waking, unless more than a tick
        is overdue already: then only long enough for the receivers to take the last burst.
        """
        due_ns = self.due_ns(self.next)
        if now_ns - due_ns > TICK_NS:
            return PAUSE_NS
        return max(PAUSE_NS, due_ns - now_ns, woke_ns + TICK_NS - now_ns)


class Timed(Protocol):
    """The part of a FlowReport that an outage is computed from."""

    @property
    def packets(self) -> int: ...
    @property
    def first_ns(self) -> int: ...
    @property
    def last_ns(self) -> int: ...
    @property
    def max_gap_ns(self) -> int: ...
    @property
    def gap_end_ns(self) -> int: ...


@dataclass(frozen=True)
class Outage:
    """A silence of one flow: from its last packet before it to the first after it.

    `end_ns` is None when the flow had not come back at the time of reading; `duration_ns` is
    then how long it has been silent so far. Where `exact` is False the flow's largest gap ended
    before t0, and `duration_ns` is the most that any gap after t0 can have been.
    """

    start_ns: int
    end_ns: int | None
    duration_ns: int
    exact: bool = True

    @property
    def recovered(self) -> bool:
        return self.end_ns is not None


def outage(flow: Timed, t0_ns: int, now_ns: int, silence_ns: int = SILENCE_NS) -> Outage:
    """The silence of `flow` around `t0_ns` (a kill), as known at `now_ns`.

    The meter keeps one gap per flow, the largest. A larger one before t0 would hide the one
    asked for: call `Meter.reset_gaps()` just before the kill. Then the largest gap either ends
    after t0, and is the answer, or is an ordinary packet interval and bounds it (`exact`).
    A gap always includes one ordinary packet interval (20 ms), which is not subtracted.

    Never silently nothing: a flow without a packet, or silent for `silence_ns` at the time of
    reading, or without two packets since the reset, is an outage without an end. So a stream that
    ended by itself before `now_ns` looks like one that died: ask while it should be alive.
    """
    if not flow.packets:
        return Outage(t0_ns, None, max(0, now_ns - t0_ns))
    silent_ns = now_ns - flow.last_ns
    if silent_ns >= silence_ns:
        return Outage(flow.last_ns, None, silent_ns)
    gap = Outage(flow.gap_end_ns - flow.max_gap_ns, flow.gap_end_ns, flow.max_gap_ns)
    if flow.first_ns > t0_ns and flow.first_ns - t0_ns > gap.duration_ns:
        # Learned after the kill (from another source address, say): silent until its first packet.
        return Outage(t0_ns, flow.first_ns, flow.first_ns - t0_ns)
    if not flow.gap_end_ns:
        return Outage(flow.last_ns, None, silent_ns)
    return gap if flow.gap_end_ns > t0_ns else replace(gap, exact=False)
