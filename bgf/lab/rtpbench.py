"""Measuring a packet path: a bare forwarder in its place, a sink behind it, a stopwatch on it.

`Bare` forwards every packet and finds nothing out: the least that any forwarder must do. `Sink`
counts what arrives and how long it was under way. `time_program` runs a pinned XDP program many
times over a packet (BPF_PROG_TEST_RUN) and tells what one run takes.

Knows: bpf(2) through `bgf.media._xdp`, its own light skeleton, the layouts of rtpbench.h. Must not
know what is measured. Needs root; times are CLOCK_BOOTTIME in ns.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bgf.errors import EnvironmentProblem, Misuse
from bgf.lab import _rtpload, namespaces, rtpwire
from bgf.media import _xdp

XDP_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE
DELAY_SUB = 16
"""Classes in an octave, as rtpbench.h has them: a delay is known to 1/16 of itself."""

HOPS = 254
"""Runs on one packet in `time_program`: each takes one from its TTL or hop limit."""

_XDP_MD = struct.Struct("=IIIIII")
_BARE = struct.Struct("=12sI4s4s16s16s")
_ARRIVALS = struct.Struct("=QQQQ")
_DELAY = struct.Struct("=Q")
_FIRST = rtpwire.pack_index(0)

for _layout, _octets in ((_BARE, 56), (_ARRIVALS, 32)):
    if _layout.size != _octets:
        raise AssertionError(
            f"{_layout.format} has {_layout.size} octets, rtpbench.h says {_octets}"
        )


class _Attached:
    """The benchmark's programs and maps, one of them on an interface, until `close`."""

    def __init__(self, program: str, netns: str, interface: str) -> None:
        """Raises EnvironmentProblem; nothing is left behind then."""
        self._fds: dict[str, int] = {}
        try:
            self._fds = _rtpload.load_bench()
            self._fds["link"] = namespaces.run_in(netns, lambda: self._attach(program, interface))
        except OSError as problem:
            self.close()
            raise EnvironmentProblem(
                f"{program} on '{interface}' in namespace '{netns}': {problem.strerror}"
                " (another XDP program there? root?)"
            ) from None
        except BaseException:
            self.close()
            raise

    def _attach(self, program: str, interface: str) -> int:
        ifindex = socket.if_nametoindex(interface)
        return _xdp.link_create_xdp(self._fds[program], ifindex, XDP_NATIVE)

    def close(self) -> None:
        """Detach and forget everything. Idempotent."""
        for name in sorted(self._fds, key=lambda name: name != "link"):
            with contextlib.suppress(OSError):
                os.close(self._fds[name])
        self._fds = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Rewrite:
    """What the bare forwarder writes into every packet, hosts as text, hardware addresses raw."""

    destination_mac: bytes
    source_mac: bytes
    source4: str
    destination4: str
    source6: str
    destination6: str


class Bare(_Attached):
    """Every UDP packet that arrives at `interface` leaves from `leaving` with other addresses."""

    def __init__(self, netns: str, interface: str, leaving: str, rewrite: Rewrite) -> None:
        super().__init__("bare_program", netns, interface)
        self._ifindex = namespaces.run_in(netns, lambda: socket.if_nametoindex(interface))
        value = _BARE.pack(
            rewrite.destination_mac + rewrite.source_mac,
            namespaces.run_in(netns, lambda: socket.if_nametoindex(leaving)),
            rtpwire.pack_host(rewrite.source4)[12:],
            rtpwire.pack_host(rewrite.destination4)[12:],
            rtpwire.pack_host(rewrite.source6),
            rtpwire.pack_host(rewrite.destination6),
        )
        _xdp.map_update(self._fds["bare"], _FIRST, value)

    def rewrite(self, frame: bytes) -> bytes:
        """The frame as it would leave; it is not sent."""
        return bytes(_run(self._fds["bare_program"], frame, self._ifindex, 1).frame)

    def nanoseconds(self, frame: bytes, rounds: int) -> list[int]:
        """What one run on `frame` takes, once per round. See `time_program`."""
        program = self._fds["bare_program"]
        return [_run(program, frame, self._ifindex, HOPS).nanoseconds for _ in range(rounds)]


@dataclass(frozen=True)
class Arrivals:
    """What a sink has counted: generated packets, their UDP payload, and everything else."""

    packets: int
    bytes: int
    others: int


class Sink(_Attached):
    """Counts and drops the generated packets that arrive at `interface`; others pass."""

    def __init__(self, netns: str, interface: str) -> None:
        super().__init__("sink_program", netns, interface)

    def arrivals(self) -> Arrivals:
        packets, octets, others, _timed = _ARRIVALS.unpack(self._held())
        return Arrivals(packets, octets, others)

    def time(self, on: bool) -> None:
        """Record delays from now on, or no more. What was recorded before is forgotten.

        Call it while nothing arrives: the counts are written back here.
        """
        keys = b"".join(rtpwire.pack_index(i) for i in range(_rtpload.DELAYS))
        zeros = bytes(_DELAY.size * _rtpload.DELAYS)
        _xdp.map_update_batch(self._fds["delays"], keys, zeros, _rtpload.DELAYS)
        packets, octets, others, _timed = _ARRIVALS.unpack(self._held())
        _xdp.map_update(self._fds["arrivals"], _FIRST, _ARRIVALS.pack(packets, octets, others, on))

    def delays(self) -> Delays:
        """From the writing of a packet to its arrival here, since `time`."""
        _, raw = _xdp.map_lookup_batch(self._fds["delays"])
        return Delays(tuple(count for (count,) in _DELAY.iter_unpack(raw)))

    def _held(self) -> bytes:
        return _xdp.map_lookup(self._fds["arrivals"], _FIRST) or bytes(_ARRIVALS.size)


@dataclass(frozen=True)
class Delays:
    """Packets by class of delay; see rtpbench.h."""

    counts: Sequence[int]

    @property
    def packets(self) -> int:
        return sum(self.counts)

    def percentile_ns(self, share: float) -> float:
        """The delay that `share` (0..1) of the packets did not exceed; 0 without packets.

        It is the upper end of its class, so at most 1/16 too large and never too small.
        """
        wanted, seen = share * self.packets, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return class_end_ns(index)
        return 0.0


def delay_class(delay_ns: int) -> int:
    """The class of a delay, as the program computes it."""
    shift = max(0, delay_ns.bit_length() - 1 - (DELAY_SUB.bit_length() - 1))
    return min(DELAY_SUB * shift + (delay_ns >> shift), _rtpload.DELAYS - 1)


def class_end_ns(index: int) -> float:
    """The largest delay of a class."""
    if index < 2 * DELAY_SUB:
        return float(index)
    shift = index // DELAY_SUB - 1
    return float(((index - DELAY_SUB * shift + 1) << shift) - 1)


@dataclass(frozen=True)
class _Ran:
    verdict: int
    frame: bytes
    nanoseconds: int


def _run(program: int, frame: bytes, ifindex: int, repeat: int) -> _Ran:
    context = _XDP_MD.pack(0, len(frame), 0, ifindex, 0, 0)
    verdict, out, nanoseconds, context = _xdp.prog_test_run(program, frame, context, repeat)
    return _Ran(verdict, out[_XDP_MD.unpack(context)[0] :], nanoseconds)


def time_program(
    pinned: Path, frame: bytes, ifindex: int, rounds: int, expect: Callable[[int, bytes], bool]
) -> list[int]:
    """What one run of the XDP program pinned at `pinned` takes, in ns, once per round.

    In the caller's network namespace. A round is HOPS runs one after the other, each on what the
    one before has left of the frame: so the program must turn it into one that it treats the same
    (a pinhole that leads back to itself), and TTL or hop limit must be 255. `expect` is asked
    about the verdict and the frame after a whole round; Misuse is raised when it says no.
    """
    program = _xdp.obj_get(pinned)
    try:
        found = []
        for _ in range(rounds):
            ran = _run(program, frame, ifindex, HOPS)
            if not expect(ran.verdict, ran.frame):
                raise Misuse(
                    f"{pinned.name} ended with verdict {ran.verdict} on {len(ran.frame)} octets:"
                    " it does not treat every run alike"
                )
            found.append(ran.nanoseconds)
        return found
    finally:
        os.close(program)
