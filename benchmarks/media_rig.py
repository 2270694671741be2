"""Three network namespaces in a row, a forwarder in the middle, and what it costs its processor.

    ue --- access, gw, core --- callee

The load generator holds LOAD_CPU. Everything that forwards is on FORWARD_CPU: the NAPI of the
gateway's access interface is a kernel thread pinned there, and the receiver's runs on top of it.

Knows: ip(8), /proc, the lab's namespaces. Must not know what forwards, or what is measured.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces

LOAD_CPU: Final = 0
FORWARD_CPU: Final = 1
FORWARD_NICE: Final = -19
"""Of every forwarder: what else runs on the machine must not decide who forwards better."""
SPACES: Final = ("ue", "gw", "callee")
NAME: Final = re.compile(r"bgf-media-bench-(\d+)-.*")
READY_S: Final = 10.0
STEP_S: Final = 0.01
NS: Final = 1e-9

ACCESS4, ACCESS6 = "10.10.0.%d", "fd00:a::%d"
CORE4, CORE6 = "10.20.0.%d", "fd00:c::%d"
MEDIA_HOSTS: Final = 8
"""Addresses of the gateway in each realm and family, numbered from 101."""
FAR_HOSTS: Final = 32
"""Addresses of the callee in each family, numbered from 11. All have its hardware address."""
ACCESS, CORE = "access", "core"

_number = itertools.count(1)


def media_host(template: str, index: int) -> str:
    return template % (101 + index % MEDIA_HOSTS)


def far_host(template: str, index: int) -> str:
    return template % (11 + index % FAR_HOSTS)


def _call(command: Sequence[str], lines: Sequence[str] = ()) -> str:
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise EnvironmentProblem(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _sweep() -> None:
    """Namespaces and mounts of a run that was killed."""
    for line in _call(["ip", "netns", "list"]).splitlines():
        found = NAME.fullmatch(line.partition(" ")[0])
        if found and not Path(f"/proc/{found[1]}").exists():
            namespaces.remove(found[0])
    for path in Path("/run").glob("bgf-media-bench-*"):
        found = NAME.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _unmount(path)


def _no_address_detection(interfaces: Iterable[str]) -> None:
    for interface in interfaces:
        namespaces.write_sysctl(f"net/ipv6/conf/{interface}/accept_dad", 0)


def _unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], capture_output=True, check=False)
    with contextlib.suppress(OSError):
        path.rmdir()


class Rig:
    """One set of three namespaces and a BPF file system, gone with the `with`."""

    def __init__(self) -> None:
        me = f"{os.getpid()}-{next(_number)}"
        self._prefix = f"bgf-media-bench-{me}-"
        self.access = f"bma{me}"
        self.core = f"bmc{me}"
        self.bpffs = Path("/nowhere")

    def __enter__(self) -> Self:
        if os.getuid() != 0:
            raise EnvironmentProblem("network namespaces and XDP need root")
        if (os.cpu_count() or 1) < 2:
            raise EnvironmentProblem("two processors are needed: one for the load, one to forward")
        _sweep()
        try:
            self.bpffs = Path(tempfile.mkdtemp(prefix=self._prefix, dir="/run"))
            _call(["mount", "-t", "bpf", "bpf", str(self.bpffs)])
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. Idempotent."""
        for space in SPACES:
            namespaces.remove(self.name(space))
        if self.bpffs.is_dir():
            _unmount(self.bpffs)

    def name(self, space: str) -> str:
        return self._prefix + space

    def inside(self, space: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name(space), *command]

    def ip(self, space: str, lines: Iterable[str]) -> None:
        """Many ip(8) commands in one go."""
        _call(["ip", "-n", self.name(space), "-batch", "-"], [*lines, ""])

    def mac(self, space: str, interface: str) -> bytes:
        line = _call(["ip", "-n", self.name(space), "-o", "link", "show", "dev", interface])
        return bytes.fromhex(line.split("link/ether ")[1].split()[0].replace(":", ""))

    def _build(self) -> None:
        for space in SPACES:
            namespaces.create(self.name(space))
        queues = "numrxqueues 1 numtxqueues 1"
        for end, inner, host in ((self.access, ACCESS, "ue"), (self.core, CORE, "callee")):
            _call(
                f"ip -n {self.name('gw')} link add {end} {queues} type veth"
                f" peer name {inner} netns {self.name(host)} {queues}".split()
            )
        links = {"ue": (ACCESS,), "gw": (self.access, self.core), "callee": (CORE,)}
        for space, names in links.items():
            namespaces.run_in(self.name(space), partial(_no_address_detection, names))
            self.ip(space, [f"link set {name} up" for name in ("lo", *names)])
            for name in names:
                # What a socket sends must have its checksum; a redirected frame needs a NAPI.
                _call(self.inside(space, "ethtool", "-K", name, "tx", "off", "gro", "on"))
        # From now on its NAPI is a thread, also after XDP has been attached or detached.
        threaded = f"echo 1 > /sys/class/net/{self.access}/threaded"
        _call(self.inside("gw", "sh", "-c", threaded))
        self._addresses()
        self.pin()

    def _addresses(self) -> None:
        far4 = [far_host(CORE4, n) for n in range(FAR_HOSTS)]
        far6 = [far_host(CORE6, n) for n in range(FAR_HOSTS)]
        callee = [f"address add {host}/16 dev {CORE}" for host in far4]
        callee += [f"address add {host}/64 dev {CORE} nodad" for host in far6]
        self.ip("callee", callee)
        self.ip("ue", [f"address add {ACCESS4 % 10}/16 dev {ACCESS}",
                       f"address add {ACCESS6 % 10}/64 dev {ACCESS} nodad"])  # fmt: skip
        gw = []
        for link, four, six in ((self.access, ACCESS4, ACCESS6), (self.core, CORE4, CORE6)):
            for index in range(MEDIA_HOSTS):
                gw.append(f"address add {media_host(four, index)}/16 dev {link}")
                gw.append(f"address add {media_host(six, index)}/64 dev {link} nodad")
        mac = self.mac("callee", CORE).hex(":")
        gw += [f"neigh replace {h} lladdr {mac} dev {self.core} nud permanent" for h in far4 + far6]
        self.ip("gw", gw)

    def napi_threads(self) -> list[int]:
        """Process ids of the kernel threads that receive on the gateway's access interface."""
        found = []
        for path in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if path.read_text().startswith(f"napi/{self.access}-"):
                    found.append(int(path.parent.name))
        return found

    def pin(self) -> list[int]:
        """Bring them to FORWARD_CPU: again after each attachment, which may make them anew."""
        deadline = time.monotonic() + READY_S
        while not (threads := self.napi_threads()):
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"{self.access} has no NAPI thread: Linux 5.12 or later, and /sys, are needed"
                )
            time.sleep(STEP_S)
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, {FORWARD_CPU})
                os.setpriority(os.PRIO_PROCESS, thread, FORWARD_NICE)
        return threads

    def link_statistics(self, space: str, interface: str) -> dict[str, int]:
        """What the driver counts (`ethtool -S`)."""
        shown = _call(self.inside(space, "ethtool", "-S", interface))
        pairs = (line.strip().partition(": ") for line in shown.splitlines()[1:])
        return {name: int(value) for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor time between two readings, in seconds."""

    wall_s: float
    core_s: float
    """What forwarding has cost; see `Clock`."""
    tasks_s: float
    softirq_s: float
    busy_s: float


class Clock:
    """What the forwarding processor spends on the tasks named.

    Three readings. `tasks_s`: the run time of these tasks and of the processor's softirq daemon by
    the scheduler's own count (/proc/PID/task/*/schedstat, ns). `softirq_s` and `busy_s`: what
    /proc/stat says of the processor, which also has softirqs that ran on top of nobody.

    Whether a softirq on top of a task is in that task's time depends on how the kernel was built
    (CONFIG_IRQ_TIME_ACCOUNTING). Where it is, `core_s` is the tasks' time. Where it is not, or
    nobody can tell, it is that and all softirqs of the processor, but no more than it was busy. So
    the kernel's share is counted, and never too little, for each forwarder alike.
    """

    def __init__(self, tasks: Iterable[int]) -> None:
        daemon = _daemon()
        self._tasks = [*tasks, *([daemon] if daemon else [])]
        self._whole = tasks_hold_softirqs()
        self._begin = self._read()

    def spent(self) -> Spent:
        """Since the clock was made."""
        wall, tasks, softirq, busy = (
            end - begin for begin, end in zip(self._begin, self._read(), strict=True)
        )
        core = tasks if self._whole else min(tasks + softirq, busy)
        return Spent(wall, core, tasks, softirq, busy)

    def _read(self) -> tuple[float, float, float, float]:
        softirq, busy = _stat()
        return time.monotonic(), sum(map(_run_s, self._tasks)), softirq, busy


def tasks_hold_softirqs() -> bool:
    """Is what runs on top of a task in that task's time? False when nobody can tell."""
    release = os.uname().release
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{release}")):
        with contextlib.suppress(OSError):
            raw = path.read_bytes()
            text = gzip.decompress(raw) if path.suffix == ".gz" else raw
            return b"CONFIG_TICK_CPU_ACCOUNTING=y" in text and (
                b"CONFIG_IRQ_TIME_ACCOUNTING=y" not in text
            )
    return False


def _daemon() -> int | None:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == f"ksoftirqd/{FORWARD_CPU}":
                return int(path.parent.name)
    return None


def _run_s(pid: int) -> float:
    """Run time of all threads of a process, seconds."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[0])
    return total * NS


def _stat() -> tuple[float, float]:
    """Seconds that the forwarding processor has spent in softirqs, and busy at all."""
    tick = os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{FORWARD_CPU} "):
            user, nice, system, _idle, _wait, irq, softirq = map(int, line.split()[1:8])
            return (irq + softirq) / tick, (user + nice + system + irq + softirq) / tick
    raise EnvironmentProblem(f"/proc/stat has no processor {FORWARD_CPU}")
