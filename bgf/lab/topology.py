"""The lab's machines and cables: namespaces, bridges, veth pairs, addresses. Up, down, cut.

Knows: netlink through pyroute2, and the plan. Must not know what runs in the namespaces.
`record.json` in the run directory names every namespace *before* it is made, so that a lab that
died half-built is recognised as ours and cleaned; a namespace that bears our name and is not in
the record is somebody else's, and is left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.plan import NETWORKS, Plan, Port

Progress = Callable[[str], None]

LOCK_TRIES_MAX = 20
RECORD_BYTES_MAX = 1 << 20
ANSWER_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 65_536

# linux/if_bridge.h, linux/if_link.h, linux/rtnetlink.h, linux/netlink.h
BR_STATE_DISABLED = 0
IFLA_BRPORT_STATE = 1
IFLA_PROTINFO = 12
NLA_F_NESTED = 0x8000
RTM_SETLINK = 19
NLM_F_REQUEST_ACK = 0x5
MNT_DETACH = 2

SYSCTLS = {
    "net/ipv6/conf/{}/accept_dad": 0,
    "net/ipv6/conf/{}/dad_transmits": 0,
    "net/ipv6/conf/{}/accept_ra": 0,
    "net/ipv6/conf/{}/router_solicitations": 0,
    "net/ipv4/conf/{}/rp_filter": 0,
    # The lab's machines answer only for addresses of the interface that was asked.
    "net/ipv4/conf/{}/arp_ignore": 1,
    "net/ipv4/conf/{}/arp_announce": 2,
}


class Record(msgspec.Struct):
    """What this lab has made: namespace name -> inode (0 while it is being made)."""

    prefix: str
    namespaces: dict[str, int] = {}


def require_root() -> None:
    """Raises EnvironmentProblem unless we may make namespaces."""
    if os.geteuid() != 0:
        raise EnvironmentProblem(
            f"the lab needs root (this is uid {os.geteuid()}): run it again with sudo"
        )


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Hold the lab's lock. Raises EnvironmentProblem naming the holder's pid when it is taken.

    The lock file goes away with the run directory, so a lock is good only if its path still
    leads to the file that was locked.
    """
    path = run_dir / "lock"
    descriptor = -1
    for _ in range(LOCK_TRIES_MAX):
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if descriptor < 0:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise EnvironmentProblem(
                f"{run_dir} is held by another lab command (pid {holder}): "
                "wait for it to end, or stop it"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                break
        os.close(descriptor)
        descriptor = -1
    if descriptor < 0:
        raise EnvironmentProblem(f"{path} keeps vanishing: is another lab being torn down?")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            run_dir.rmdir()


class Topology:
    """Namespaces and cables of one plan. The caller holds the lab's lock (`held`)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bpf_dir = plan.run_dir / "bpf"
        self._record_path = plan.run_dir / "record.json"

    # -- record -----------------------------------------------------------------------------

    def _load(self) -> Record:
        try:
            raw = self._record_path.read_bytes()[:RECORD_BYTES_MAX]
        except FileNotFoundError:
            return Record(self.plan.prefix)
        try:
            return msgspec.json.decode(raw, type=Record)
        except msgspec.DecodeError:
            # A record cut short by a crash: nothing can be proven ours by it.
            return Record(self.plan.prefix)

    def _save(self, record: Record) -> None:
        temporary = self._record_path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(self._record_path)

    def _is_ours(self, record: Record, name: str) -> bool:
        inode = record.namespaces.get(name)
        return inode is not None and inode in (0, namespaces.inode_of(name))

    def foreign(self) -> list[str]:
        """Namespaces that bear our names and are not ours."""
        record = self._load()
        return [
            name
            for name in self.plan.namespaces
            if namespaces.exists(name) and not self._is_ours(record, name)
        ]

    # -- up ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Is any part of this lab there (whole or half-built)?"""
        record = self._load()
        return any(namespaces.exists(name) for name in record.namespaces)

    def complete(self) -> bool:
        """Does the whole lab stand?"""
        record = self._load()
        return all(
            namespaces.exists(name) and self._is_ours(record, name) and record.namespaces[name]
            for name in self.plan.namespaces
        ) and all(os.path.ismount(path) for path in self._mounts())

    def up(self, progress: Progress) -> None:
        """Build everything; a whole lab is kept, a half-built one is cleaned first.

        Raises EnvironmentProblem: not root, a namespace of ours belongs to somebody else, no
        bpffs, or the kernel refuses a device.
        """
        require_root()
        foreign = self.foreign()
        if foreign:
            raise EnvironmentProblem(
                f"network namespace '{foreign[0]}' exists and was not made by this lab: "
                f"remove it (ip netns del {foreign[0]}) or choose another prefix"
            )
        if self.complete():
            return
        if self.exists():
            progress("cleaning a half-built lab")
            self._remove_namespaces()
        record = Record(self.plan.prefix)
        for name in self.plan.namespaces:
            record.namespaces[name] = 0
            self._save(record)
            namespaces.create(name)
            record.namespaces[name] = namespaces.inode_of(name)
            namespaces.run_in(name, _prepare_namespace)
        self._save(record)
        namespaces.run_in(self.plan.switch, self._build_switch)
        for name in self.plan.namespaces[1:]:
            ports = self.plan.ports_of(name)
            namespaces.run_in(name, lambda ports=ports: _address(ports))  # type: ignore[misc]
        for path, kind in self._mounts().items():
            self._mount(path, kind)

    def _mounts(self) -> dict[Path, str]:
        """What the nodes need of the host: what is memory on Debian (/run) is memory wherever
        `run_dir` lies. A disk would stall who writes there at every write-back."""
        memory = [self.plan.registry_dir, self.plan.log_dir]
        memory += [self.plan.run_dir / node.id for node in self.plan.nodes]
        return {self.bpf_dir: "bpf", **dict.fromkeys(memory, "tmpfs")}

    def _build_switch(self) -> None:
        for key in ("all", "default"):
            namespaces.write_sysctl(f"net/ipv6/conf/{key}/disable_ipv6", 1)
        with namespaces.netlink() as netlink:
            for network in NETWORKS:
                name = f"br-{network}"
                _add_link(
                    netlink,
                    name,
                    kind="bridge",
                    br_stp_state=0,
                    br_forward_delay=0,
                    br_mcast_snooping=0,
                )
                netlink.link("set", index=_index(netlink, name), state="up")
            for port in self.plan.ports:
                _add_link(
                    netlink,
                    port.switch_port,
                    kind="veth",
                    peer={"ifname": port.interface, "net_ns_fd": port.namespace},
                )
                index = _index(netlink, port.switch_port)
                netlink.link("set", index=index, master=_index(netlink, f"br-{port.network}"))
                namespaces.set_gro(port.switch_port, True)
                netlink.link("set", index=index, state="up")

    @staticmethod
    def _mount(path: Path, kind: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(path):
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(kind.encode(), bytes(path), kind.encode(), 0, b"mode=0700") != 0:
            reason = os.strerror(ctypes.get_errno())
            raise EnvironmentProblem(f"cannot mount a {kind} file system at {path}: {reason}")

    # -- down -------------------------------------------------------------------------------

    def down(self, keep: Sequence[str] = ()) -> None:
        """Remove what the record names, the pins with their file system, and the run directory.

        Entries of the run directory named in `keep` stay. The processes must be gone already.
        Idempotent; foreign namespaces are not touched.
        """
        self._remove_namespaces()
        libc = ctypes.CDLL(None, use_errno=True)
        for path in self._mounts():
            if path.name in keep and os.path.ismount(path):
                shutil.copytree(path, self._kept(path), dirs_exist_ok=True)
            while os.path.ismount(path):
                if libc.umount2(bytes(path), MNT_DETACH) != 0:
                    reason = os.strerror(ctypes.get_errno())
                    raise EnvironmentProblem(f"cannot unmount {path}: {reason}")
            if self._kept(path).exists():
                shutil.copytree(self._kept(path), path, dirs_exist_ok=True)
        # The lock goes last: until then nobody else may build here.
        entries = sorted(self.plan.run_dir.glob("*"), key=lambda path: path.name == "lock")
        for entry in entries:
            if entry.name in keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    @staticmethod
    def _kept(path: Path) -> Path:
        """Where it waits while its file system goes."""
        return path.with_name(f"{path.name}.kept")

    def _remove_namespaces(self) -> None:
        record = self._load()
        for name in list(record.namespaces):
            if namespaces.exists(name) and self._is_ours(record, name):
                namespaces.remove(name)

    def leftovers(self) -> list[str]:
        """What is still there after `down`; empty when nothing is."""
        left = [f"namespace {name}" for name in self.plan.namespaces if namespaces.exists(name)]
        left += [f"mount {path}" for path in self._mounts() if os.path.ismount(path)]
        left += [f"file {p}" for p in sorted(self.plan.run_dir.glob("*")) if p.name != "lock"]
        return left


class Cutter:
    """Pulls all cables of one node out of the switches, at once. Made beforehand.

    Disabling the switch ports is one system call that takes effect without waiting. Taking the
    links down as well (the carrier goes) follows, since the kernel waits for its readers there: at
    once with `cut`, whenever it is called after `unplug`.
    """

    def __init__(self, plan: Plan, namespace: str) -> None:
        self._switch = plan.switch
        self._names = [port.switch_port for port in plan.ports_of(namespace)]
        self._indexes = namespaces.run_in(plan.switch, self._look_up)
        self._disable = b"".join(_disable_port(index) for index in self._indexes)

    def cut(self, kill: Callable[[], None]) -> int:
        """Cut, and call `kill` (the node's processes) at once; then the carrier goes.

        Returns the time just before both, CLOCK_BOOTTIME in ns. Raises EnvironmentProblem when
        the switch refuses.
        """
        at_ns = self.unplug(kill)
        self.take_down()
        return at_ns

    def unplug(self, kill: Callable[[], None]) -> int:
        """As `cut`, but for the carrier."""
        return namespaces.run_in(self._switch, lambda: self._cut(kill))

    def take_down(self) -> None:
        """The carrier goes."""
        namespaces.run_in(self._switch, lambda: self._set("down"))

    def restore(self) -> None:
        # A bridge puts a port back to forwarding when its link comes up (no spanning tree here).
        namespaces.run_in(self._switch, lambda: self._set("up"))

    def _look_up(self) -> list[int]:
        with namespaces.netlink() as netlink:
            return [_index(netlink, name) for name in self._names]

    def _cut(self, kill: Callable[[], None]) -> int:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as wire:
            wire.settimeout(ANSWER_TIMEOUT_S)
            # Of this thread only, which ends here: nothing may come between the two.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            wire.sendto(self._disable, (0, 0))
            kill()
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            _check_answers(wire, len(self._indexes))
        return at_ns

    def _set(self, state: str) -> None:
        with namespaces.netlink() as netlink:
            for index in self._indexes:
                netlink.link("set", index=index, state=state)


def _disable_port(index: int) -> bytes:
    """RTM_SETLINK of a bridge port: state disabled (linux/rtnetlink.h, linux/if_link.h)."""
    state = struct.pack("=HHB3x", 5, IFLA_BRPORT_STATE, BR_STATE_DISABLED)
    attribute = struct.pack("=HH", 4 + len(state), IFLA_PROTINFO | NLA_F_NESTED) + state
    body = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, index, 0, 0) + attribute
    return struct.pack("=IHHII", 16 + len(body), RTM_SETLINK, NLM_F_REQUEST_ACK, index, 0) + body


def _check_answers(wire: socket.socket, count: int) -> None:
    """Read `count` acknowledgements. Raises EnvironmentProblem on the first refusal."""
    seen = 0
    while seen < count:
        datagram = wire.recv(ANSWER_BYTES_MAX)
        at = 0
        while at + 20 <= len(datagram):
            length, _kind, _flags, _sequence, _port, problem = struct.unpack_from(
                "=IHHIIi", datagram, at
            )
            if problem:
                raise EnvironmentProblem(f"cannot cut a cable: {os.strerror(-problem)}")
            seen += 1
            at += max(20, (length + 3) & ~3)


def _prepare_namespace() -> None:
    for pattern, value in SYSCTLS.items():
        for scope in ("all", "default"):
            namespaces.write_sysctl(pattern.format(scope), value)
    with namespaces.netlink() as netlink:
        netlink.link("set", index=_index(netlink, "lo"), state="up")


def _address(ports: tuple[Port, ...]) -> None:
    with namespaces.netlink() as netlink:
        for port in ports:
            index = _index(netlink, port.interface)
            namespaces.set_tx_checksum(port.interface, False)
            netlink.link("set", index=index, state="up")
            for address in port.addresses:
                host, _, prefix_len = address.partition("/")
                netlink.addr("add", index=index, address=host, prefixlen=int(prefix_len))


def _index(netlink: Any, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise EnvironmentProblem(f"network device '{name}' is missing: run 'bgfctl lab down' first")
    return int(found[0])


def _add_link(netlink: Any, name: str, **parameters: Any) -> None:
    try:
        netlink.link("add", ifname=name, **parameters)
    except Exception as problem:
        raise EnvironmentProblem(
            f"cannot create network device '{name}' ({parameters.get('kind')}): {problem}"
        ) from None
