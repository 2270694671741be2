"""The generator's process: RTP for all streams of one side, on time, from one namespace.

With `flood` in its task it sends at rates that no process could time: the kernel program keeps the
schedule then, and holds a processor until it is told to pause.

Run as `python -m bgf.lab.rtpgen`, spoken to by `rtpload.Generator` over its standard input and
output, one JSON object a line. It is a process of its own so that its timing does not depend on
its parent's. It lives as long as its standard input is open.

Knows: the clock, the generator program, the neighbour table. Decides nothing but when to wake:
what is due is computed by `rtpclock`, the packets are written by the kernel program.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

from pyroute2 import netns

from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import _rtpload, namespaces, rtpwire
from bgf.lab.rtpclock import SECOND_NS, Pace
from bgf.lab.rtpneigh import Neighbours, hardware_address
from bgf.media import _xdp
from bgf.model import Address

RESOLVE_TIMEOUT_MS = 5_000
"""How long every destination may take to answer ARP or neighbour discovery at the start."""

RESOLVE_POLL_MS = 20
USE_INTERVAL_NS = SECOND_NS
"""How often the kernel is told that we are still sending to each destination."""

IDLE_WAIT_NS = SECOND_NS
"""Wake at least this often."""

NICE = -15
"""The instrument must not wait behind what it measures; it sleeps most of the time."""

CLONE_NEWNET = 0x4000_0000
XDP_FLAGS_SKB_MODE = 1 << 1
BPF_F_TEST_XDP_LIVE_FRAMES = 2
FIRST = rtpwire.pack_index(0)
FLOOD_RUNS = 65_536
"""Runs of the flooding program in one go: a few ms, so that commands are heard soon."""
FLOOD_BATCH = 64
"""As many as a veth's NAPI takes in one go."""
COMMAND_OCTETS_MAX = 65_536
STOP = b"stop"
EXIT_FAILED = 3
SEQUENCE_FACTOR = 0x9E37
"""Spreads the first sequence numbers, so that wraps of 16 bits do not happen all at once."""


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _anchor(program: int) -> tuple[int, int]:
    """Attach the generator program to the idle loopback of a new, nameless namespace.

    Returns descriptors of that namespace and of the link. Without it the kernel would enter the
    program into its XDP dispatcher at every run and take it out again afterwards, and each of the
    two waits for an RCU grace period: 10 ms and more, where a run takes microseconds.
    """
    found: list[int] = []
    failures: list[OSError] = []

    def attach() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            found.append(
                _xdp.link_create_xdp(program, socket.if_nametoindex("lo"), XDP_FLAGS_SKB_MODE)
            )
        except OSError as problem:
            failures.append(problem)

    thread = threading.Thread(target=attach)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0], found[1]


class Worker:
    """Streams, their hardware addresses and their schedule, inside the namespace already."""

    def __init__(
        self,
        interface: str,
        streams: list[rtpwire.StreamSpec],
        packets_per_second: int,
        program: str = "generate",
    ) -> None:
        self._neighbours = Neighbours(interface)
        self._own_mac = hardware_address(interface)
        self._rate = packets_per_second
        self._hops = {
            host: i for i, host in enumerate(sorted({s.destination.host for s in streams}))
        }
        if len(self._hops) > _rtpload.HOPS_MAX:
            raise EnvironmentProblem(
                f"{len(self._hops)} destination hosts; a generator takes {_rtpload.HOPS_MAX}"
            )
        self._macs: dict[str, bytes] = {}
        self._fds = _rtpload.load(len(streams), 1)
        self._count = len(streams)
        _xdp.map_update_batch(
            self._fds["streams"],
            b"".join(rtpwire.pack_index(i) for i in range(len(streams))),
            b"".join(self._packed(stream) for stream in streams),
            len(streams),
        )
        self._anchor, link = _anchor(self._fds[program])
        self._fds["link"] = link
        self._pace: Pace | None = None
        self._use_ns = 0
        self._frame = bytes(rtpwire.FRAME_OCTETS)
        self._context = rtpwire.pack_context(self._neighbours.ifindex)
        self.skipped = self.late_max_ns = self.mac_changes = self.bursts = 0

    def fileno(self) -> int:
        return self._neighbours.fileno()

    def _packed(self, stream: rtpwire.StreamSpec) -> bytes:
        first = stream.ssrc * SEQUENCE_FACTOR
        hop = self._hops[stream.destination.host]
        return rtpwire.pack_stream(stream, hop, first & 0xFFFF, first & 0xFFFF_FFFF)

    def _cursor(self) -> rtpwire.Cursor:
        held = _xdp.map_lookup(self._fds["cursor"], FIRST)
        if held is None:
            raise EnvironmentProblem("the generator's cursor map is gone: restart the generator")
        return rtpwire.Cursor.unpack(held)

    def _move_cursor(self, position: int) -> None:
        held = self._cursor()
        cursor = rtpwire.Cursor(position, held.sent, held.failed, self._count)
        _xdp.map_update(self._fds["cursor"], FIRST, cursor.pack())

    def resolve(self) -> None:
        """Learn every destination's hardware address. Raises EnvironmentProblem naming one."""
        deadline_ns = now() + RESOLVE_TIMEOUT_MS * 1_000_000
        self._neighbours.ask()
        while True:
            self._neighbours.use(self._hops.keys() - self._macs.keys())
            select.select([self._neighbours], [], [], RESOLVE_POLL_MS / 1_000)
            self.follow()
            missing = sorted(self._hops.keys() - self._macs.keys())
            if not missing:
                break
            if now() > deadline_ns:
                raise EnvironmentProblem(
                    f"no hardware address for {missing[0]} after {RESOLVE_TIMEOUT_MS} ms"
                    f" ({len(missing)} of {len(self._hops)} hosts): is it up and on this link?"
                )
        self.mac_changes = 0

    def follow(self) -> None:
        """Take over every hardware address that has changed. A vanished one is kept."""
        for host, mac in self._neighbours.read():
            hop = self._hops.get(host)
            if hop is None or not mac or self._macs.get(host) == mac:
                continue
            self._macs[host] = mac
            self.mac_changes += 1
            _xdp.map_update(
                self._fds["hops"], rtpwire.pack_index(hop), rtpwire.pack_hop(mac, self._own_mac)
            )

    def start(self) -> None:
        self._pace = Pace(self._count, self._rate, now())
        self._move_cursor(0)

    def tick(self) -> int:
        """Send what is due; returns for how long to sleep, in ns."""
        woke_ns = now()
        if woke_ns - self._use_ns >= USE_INTERVAL_NS:
            self._use_ns = woke_ns
            self._neighbours.use(self._hops)
        pace = self._pace
        if pace is None:
            return IDLE_WAIT_NS
        burst = pace.burst(woke_ns)
        if burst.skip:
            self.skipped += burst.skip
            self._move_cursor(pace.next + burst.skip)
        if burst.packets:
            self.bursts += 1
            self.late_max_ns = max(self.late_max_ns, burst.late_ns)
            _xdp.prog_test_run(
                self._fds["generate"],
                self._frame,
                self._context,
                burst.packets,
                BPF_F_TEST_XDP_LIVE_FRAMES,
                burst.batch,
            )
        pace.advance(burst.skip, burst.packets)
        return min(IDLE_WAIT_NS, pace.wait_ns(woke_ns, now()))

    def set_rate(self, packets_per_second: int) -> None:
        """The flood's rate from now on, all streams together; 0: as fast as it goes."""
        pace = rtpwire.pack_pace(now(), packets_per_second)
        _xdp.map_update(self._fds["pace"], FIRST, pace)

    def flood(self) -> None:
        """Hold the processor for a while; what falls due meanwhile is sent."""
        self.bursts += 1
        _xdp.prog_test_run(
            self._fds["flood"],
            self._frame,
            self._context,
            FLOOD_RUNS,
            BPF_F_TEST_XDP_LIVE_FRAMES,
            FLOOD_BATCH,
        )

    def counts(self) -> dict[str, int]:
        cursor = self._cursor()
        return {
            "sent": cursor.sent,
            "skipped": self.skipped,
            "failed": cursor.failed,
            "late_max_ns": self.late_max_ns,
            "mac_changes": self.mac_changes,
            "bursts": self.bursts,
            "cpu_ns": time.process_time_ns(),
        }

    def close(self) -> None:
        self._neighbours.close()
        os.close(self._anchor)
        for fd in self._fds.values():
            os.close(fd)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _streams(rows: list[list[Any]]) -> list[rtpwire.StreamSpec]:
    return [
        rtpwire.StreamSpec(Address(source, sport), Address(destination, dport), ssrc)
        for source, sport, destination, dport, ssrc in rows
    ]


def _enter(name: str) -> None:
    """Move this process, single-threaded so far, into a namespace. Raises EnvironmentProblem."""
    try:
        netns.setns(str(namespaces.path_of(name)), flags=0)
    except OSError as problem:
        raise EnvironmentProblem(
            f"cannot enter network namespace '{name}': {problem.strerror}"
        ) from None


class Commands:
    """The parent's words, one a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = b""

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> list[bytes]:
        """The lines that have arrived; `stop` when the input has ended."""
        data = os.read(self._descriptor, COMMAND_OCTETS_MAX)
        if not data:
            return [STOP]
        *lines, self._pending = (self._pending + data).split(b"\n")
        return lines


def _serve(worker: Worker, commands: Commands) -> None:
    """Alternate between sending, neighbour changes and commands until the input ends."""
    waited: list[Worker | Commands] = [worker, commands]
    wait_ns = 0
    while True:
        ready, _, _ = select.select(waited, [], [], wait_ns / SECOND_NS)
        if worker in ready:
            worker.follow()
        for line in commands.read() if commands in ready else ():
            if line == b"start":
                worker.start()
                _say({"started": True})
            else:
                _say(worker.counts())
                if line == STOP:
                    return
        wait_ns = worker.tick()


def _serve_flood(worker: Worker, commands: Commands) -> None:
    """Send all the time between `rate` and `pause`, until the input ends."""
    waited: list[Worker | Commands] = [worker, commands]
    running = False
    worker.start()
    while True:
        wait_ns = 0 if running else IDLE_WAIT_NS
        ready, _, _ = select.select(waited, [], [], wait_ns / SECOND_NS)
        if worker in ready:
            worker.follow()
        for line in commands.read() if commands in ready else ():
            word, _, number = line.partition(b" ")
            if word == b"rate":
                worker.set_rate(int(number))
                running = True
            elif word == b"pause":
                running = False
            _say(worker.counts())
            if word == STOP:
                return
        if running:
            worker.flood()


def main() -> int:
    """Read the task, resolve, say `ready` or `error`, serve. Exit code 0, or EXIT_FAILED."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; its end is our end
    commands = sys.stdin.fileno()
    task = b""
    while not task.endswith(b"\n"):
        data = os.read(commands, COMMAND_OCTETS_MAX)
        if not data:
            return 0
        task += data
    try:
        request = json.loads(task)
        _enter(request["netns"])
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
        flooding = "flood" in request
        if flooding:
            os.sched_setaffinity(0, {request["flood"]["cpu"]})
        worker = Worker(
            request["interface"],
            _streams(request["streams"]),
            request["rate"],
            "flood" if flooding else "generate",
        )
        worker.resolve()
    except (BgfError, OSError) as problem:
        _say({"error": str(problem)})
        return EXIT_FAILED
    gc.collect()
    gc.freeze()
    gc.disable()  # the loop makes no cycles; a collection would only make a burst late
    _say({"ready": True})
    try:
        (_serve_flood if flooding else _serve)(worker, Commands(commands))
    except OSError as problem:  # the interface was deleted, say: the parent sees our end
        print(f"RTP generator on '{request['interface']}': {problem}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
