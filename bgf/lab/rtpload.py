"""RTP load and the outage meter: streams in at one side of the gateways, timed at the other.

`Generator` sends RTP streams out of an interface of a namespace at 50 packets/s each, through a
process of its own (`rtpgen`); `Flood` sends as many packets as wanted, or as possible. `Meter`
attaches an XDP program to an interface of the receiving namespace and keeps, per flow, first and
last arrival, the largest gap, loss, order, duplicates and deliveries to the wrong place. `outage`
computes a flow's silence around a kill from a report.

Knows: namespaces, bpf(2) through `bgf.media._xdp`, its own light skeleton. Must not know the
gateways or the drill. Needs Linux 5.18 (live frames) and root. What it sends reaches a veth only
if the other end has GRO on or an XDP program. Times are CLOCK_BOOTTIME in ns.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import bgf
from bgf.errors import EnvironmentProblem, Misuse
from bgf.lab import _rtpload, namespaces, rtpwire
from bgf.lab.rtpclock import PACKETS_PER_SECOND_MAX, Outage, outage
from bgf.lab.rtpwire import Expected, FlowReport, MeterTotals, StreamSpec
from bgf.media import _xdp

__all__ = [
    "Expected",
    "Flood",
    "FlowReport",
    "Generator",
    "GeneratorCounts",
    "Meter",
    "MeterTotals",
    "Outage",
    "StreamSpec",
    "outage",
]

FLOWS_DEFAULT = 16_384
ANSWER_TIMEOUT_MS = 10_000
"""How long the generator's process may take to answer, resolving addresses included."""

STREAM_TIMEOUT_MS = 0.1
"""And how much longer for each stream: they are packed one by one."""

FLOOD_RATE_MAX = 100_000_000
EXIT_TIMEOUT_MS = 2_000
XDP_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE: generic mode would take the frames after the driver
GAP_EPOCH_MAX = 0xFFFF_FFFF
_FIRST = rtpwire.pack_index(0)


class Meter:
    """Times what arrives at `interface` of namespace `netns`, until `close`.

    Consumes generated packets, also those that arrive at the wrong place. Records other RTP to
    the hosts `watch` (none: to any host), at most `flows_max` flows in all, and passes it on.
    `pass_generated` lets generated packets go on to the kernel as well.

    One flow is updated by one receive queue at a time; a veth has one unless told otherwise.
    Raises EnvironmentProblem when it cannot attach; nothing is left behind then.
    """

    def __init__(
        self,
        netns: str,
        interface: str,
        flows_max: int = FLOWS_DEFAULT,
        *,
        watch: Sequence[str] = (),
        pass_generated: bool = False,
    ) -> None:
        if not 1 <= flows_max <= _rtpload.FLOWS_MAX:
            raise Misuse(f"flows_max {flows_max} is not in 1..{_rtpload.FLOWS_MAX}")
        if len(watch) > _rtpload.WATCHED_MAX:
            raise Misuse(f"{len(watch)} hosts to watch; at most {_rtpload.WATCHED_MAX}")
        self._expected: list[Expected | StreamSpec] = []
        self._watch_all = not watch
        self._pass_generated = pass_generated
        self._check = False
        self._gap_epoch = 0
        self._fds: dict[str, int] = {}
        try:
            self._fds = _rtpload.load(1, flows_max)
            for host in watch:
                _xdp.map_update(self._fds["watched"], rtpwire.pack_host(host), _FIRST)
            self._configure()
            self._fds["link"] = namespaces.run_in(netns, lambda: self._attach(interface))
        except OSError as problem:
            self.close()
            raise EnvironmentProblem(
                f"RTP meter on '{interface}' in namespace '{netns}': {problem.strerror}"
                " (another XDP program there? Linux 5.18 or later? root?)"
            ) from None
        except BaseException:
            self.close()
            raise

    def _attach(self, interface: str) -> int:
        try:
            ifindex = socket.if_nametoindex(interface)
        except OSError:
            raise EnvironmentProblem(f"no interface '{interface}' for the RTP meter") from None
        return _xdp.link_create_xdp(self._fds["meter_program"], ifindex, XDP_NATIVE)

    def _configure(self) -> None:
        config = rtpwire.pack_meter(
            self._gap_epoch, self._check, self._watch_all, self._pass_generated
        )
        _xdp.map_update(self._fds["meter"], _FIRST, config)

    def expect(self, specs: Sequence[Expected | StreamSpec]) -> None:
        """From now on check generated packets against `specs`, which replace earlier ones.

        `source` is where the packet comes from as it arrives here: the gateway's address.
        Raises Misuse when two streams are expected at one destination, or too many.
        """
        where: dict[bytes, bytes] = {}
        for spec in specs:
            key = rtpwire.pack_endpoint(spec.destination)
            if key in where:
                raise Misuse(f"two streams are expected at {spec.destination}; one is possible")
            where[key] = rtpwire.pack_expected(spec.source, spec.ssrc)
        room = int(_xdp.map_info(self._fds["expected"])["max_entries"])
        if len(where) > room:
            raise Misuse(f"{len(where)} streams expected, flows_max of this meter is {room}")
        old, _values = _xdp.map_lookup_batch(self._fds["expected"])
        size = rtpwire.ENDPOINT_OCTETS
        gone = [k for k in _split(old, size) if k not in where]
        if gone:
            _xdp.map_delete_batch(self._fds["expected"], b"".join(gone), len(gone))
        if where:
            _xdp.map_update_batch(
                self._fds["expected"], b"".join(where), b"".join(where.values()), len(where)
            )
        self._expected = list(specs)
        self._check = bool(specs)
        self._configure()

    def reset_gaps(self) -> None:
        """Forget the largest gaps, so that a window of measurement begins now.

        A silence that has begun already is not forgotten: its first packet afterwards ends it.
        """
        self._gap_epoch = (self._gap_epoch + 1) & GAP_EPOCH_MAX
        self._configure()

    def flows(self, since_ns: int = 0) -> list[FlowReport]:
        """Every flow recorded, by destination and source, and every expected one without a packet.

        With `since_ns`, other RTP whose last packet is older is left out (calls that had ended);
        generated and expected flows are always told.
        """
        keys, values = _xdp.map_lookup_batch(self._fds["reports"])
        reports = [
            rtpwire.unpack_report(key, value, self._gap_epoch)
            for key, value in zip(
                _split(keys, rtpwire.KEY_OCTETS), _split(values, rtpwire.REPORT_OCTETS), strict=True
            )
        ]
        reports = [r for r in reports if r.generated or r.last_ns >= since_ns]
        seen = {(r.destination, r.source) for r in reports}
        reports += [
            rtpwire.never_arrived(spec)
            for spec in self._expected
            if (spec.destination, spec.source) not in seen
        ]
        return sorted(reports, key=lambda r: (r.destination, r.source))

    def totals(self) -> MeterTotals:
        held = _xdp.map_lookup(self._fds["totals"], _FIRST)
        return rtpwire.unpack_totals(held or bytes(rtpwire.TOTALS_OCTETS))

    def close(self) -> None:
        """Detach and forget everything. Idempotent."""
        for name in sorted(self._fds, key=lambda name: name != "link"):
            with contextlib.suppress(OSError):
                os.close(self._fds[name])
        self._fds = {}

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class GeneratorCounts:
    """What a generator has done. Packets, but for `*_ns`, `mac_changes` and `bursts`.

    `skipped` packets were overdue by more than the catch-up limit and never sent (their flows
    show a gap, but no loss): with `late_max_ns` it says how far the instrument itself was off.
    `cpu_ns` is the process's CPU time, in which the kernel may also have carried its packets on.
    """

    sent: int
    skipped: int
    failed: int
    late_max_ns: int
    mac_changes: int
    bursts: int
    cpu_ns: int


class _Process:
    """A generator's process: its task in, commands and answers, its end."""

    def __init__(self, task: dict[str, Any], streams: Sequence[StreamSpec]) -> None:
        """Returns when every destination is resolved. Raises EnvironmentProblem, Misuse."""
        if not 1 <= len(streams) <= _rtpload.FLOWS_MAX:
            raise Misuse(f"{len(streams)} streams; a generator takes 1..{_rtpload.FLOWS_MAX}")
        if len({s.ssrc for s in streams}) != len(streams):
            raise Misuse("two streams have the same ssrc: it is a stream's identity")
        rows = [
            (s.source.host, s.source.port, s.destination.host, s.destination.port, s.ssrc)
            for s in streams
        ]
        self._counts: GeneratorCounts | None = None
        self._answer_s = (ANSWER_TIMEOUT_MS + len(rows) * STREAM_TIMEOUT_MS) / 1_000
        root = str(Path(bgf.__path__[0]).parent)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bgf.lab.rtpgen"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
        )
        try:
            self._tell(json.dumps({**task, "streams": rows}))
            self._ask()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def counts(self) -> GeneratorCounts:
        """The counts so far, or the last ones after `stop`."""
        if self._counts is not None:
            return self._counts
        self._tell("counts")
        return GeneratorCounts(**self._ask())

    def stop(self) -> GeneratorCounts:
        """Stop sending and end the process; returns what it did. Idempotent."""
        if self._counts is None:
            self._tell("stop")
            self._counts = GeneratorCounts(**self._ask())
            self.close()
        return self._counts

    def close(self) -> None:
        """End the process, whatever it does. Idempotent."""
        process = self._process
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(EXIT_TIMEOUT_MS / 1_000)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def _tell(self, line: str) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._died() from None

    def _ask(self) -> dict[str, int]:
        """The next answer; the process is killed when it takes too long."""
        assert self._process.stdout is not None
        guard = threading.Timer(self._answer_s, self._process.kill)
        guard.start()
        try:
            line = self._process.stdout.readline()
        finally:
            guard.cancel()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            raise EnvironmentProblem(f"RTP generator: {answer['error']}")
        return dict(answer)

    def _died(self) -> EnvironmentProblem:
        try:
            code: int | None = self._process.wait(EXIT_TIMEOUT_MS / 1_000)
        except subprocess.TimeoutExpired:
            code = None
        return EnvironmentProblem(
            f"RTP generator, process {self._process.pid}, is gone or silent (exit code {code});"
            " its own words stand on standard error"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Generator(_Process):
    """Sends `streams` out of `interface` of namespace `netns`, from a process of its own.

    Each stream has `packets_per_second` packets with PCMU of 20 ms, its own phase, sequence
    numbers without gaps and the hardware address that the namespace's kernel has for its
    destination at that moment: a gratuitous ARP or unsolicited NA takes effect on the next
    packet. Destinations must be on the interface's own link. The constructor returns when all of
    them are resolved. Raises EnvironmentProblem (unresolved, no namespace), Misuse.
    """

    def __init__(
        self,
        netns: str,
        interface: str,
        streams: Sequence[StreamSpec],
        packets_per_second: int = 50,
    ) -> None:
        if not 1 <= packets_per_second <= PACKETS_PER_SECOND_MAX:
            raise Misuse(f"{packets_per_second} packets/s is not in 1..{PACKETS_PER_SECOND_MAX}")
        task = {"netns": netns, "interface": interface, "rate": packets_per_second}
        super().__init__(task, streams)

    def start(self) -> None:
        """Begin the schedule now; a second call begins it anew."""
        self._tell("start")
        self._ask()


class Flood(_Process):
    """Sends packets of `streams` by turns, as many as asked for or as the device takes.

    As Generator, but the rate is that of all streams together, up to millions a second, evenly
    spaced by the kernel program itself; processor `cpu` is held for as long as it runs. What falls
    due more than 50 us late is left out. `sent` counts what was handed to the device: how many it
    refused, its own statistics tell.
    """

    def __init__(
        self, netns: str, interface: str, streams: Sequence[StreamSpec], *, cpu: int = 0
    ) -> None:
        task = {"netns": netns, "interface": interface, "rate": 1, "flood": {"cpu": cpu}}
        super().__init__(task, streams)

    def run(self, packets_per_second: int = 0) -> GeneratorCounts:
        """Send from now on; 0 is as fast as it goes. Returns the counts at the beginning."""
        if not 0 <= packets_per_second <= FLOOD_RATE_MAX:
            raise Misuse(f"{packets_per_second} packets/s is not in 0..{FLOOD_RATE_MAX}")
        self._tell(f"rate {packets_per_second}")
        return GeneratorCounts(**self._ask())

    def pause(self) -> GeneratorCounts:
        """Send nothing until `run`. Returns the counts, final until then."""
        self._tell("pause")
        return GeneratorCounts(**self._ask())


def _split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
