"""Is this machine fit: privileges, kernel, BPF, bpffs, Debian packages, interfaces, ports.

Two halves: `check_*` are pure (facts in, one clear line out, or None), `read_*` fetch the facts.
`machine`, `lab` and `node` put them together for the load generator's lab and for a node. Every
line names the thing, the value and the way out. Must not know how anything is then used, and
changes nothing: the BPF probe loads a program of two instructions and lets it go.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import ipaddress
import os
import platform
import re
import shutil
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bgf.config import NodeConfig
from bgf.errors import EnvironmentProblem
from bgf.model import Address, Group

KERNEL_FLOOR: Final = (5, 15)
LOAD_KERNEL_FLOOR: Final = (5, 18)  # live frames of BPF_PROG_TEST_RUN
PROCESSES_SCANNED_MAX: Final = 20_000
BINARY_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian package -> what it must have put on the path.
NODE_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {"iproute2": ("ip",)}
LAB_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "iproute2": ("ip",),
    "util-linux": ("nsenter",),
    "kamailio": ("kamailio",),
    "sip-tester": ("sipp",),
    "etcd-server": ("etcd",),
}

# linux/capability.h
CAP_SYS_ADMIN: Final = 21
CAPABILITIES: Final = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}
NODE_CAPABILITIES: Final = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
BPF_CAPABILITIES: Final = {39: "CAP_BPF"}
LOAD_CAPABILITIES: Final = {38: "CAP_PERFMON"}
"""Parts of CAP_SYS_ADMIN. Whoever loads the packet program needs the second: without it the kernel
guards each of its array accesses against speculation, or refuses it."""

TCP_LISTEN: Final = "0A"  # proc_net_tcp(5): the state of a listener
IP_FREEBIND: Final = 15  # linux/in.h, valid for IPv6 sockets too; Python has no name for it

# bpf(2): number of the system call by machine, and linux/bpf.h
BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
BPF_PROG_LOAD: Final = 5
BPF_PROG_TYPE_XDP: Final = 6
# perf_event_open(2), and linux/perf_event.h: a software event that carries what a program puts out
PERF_SYSCALL: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
PERF_TYPE_SOFTWARE: Final = 1
PERF_COUNT_SW_BPF_OUTPUT: Final = 10
PERF_SAMPLE_RAW: Final = 1 << 10
PERF_ATTR_SIZE_VER0: Final = 64
PERF_FLAG_FD_CLOEXEC: Final = 8
PARANOID: Final = Path("/proc/sys/kernel/perf_event_paranoid")
XDP_PASS_PROGRAM: Final = bytes.fromhex("b700000002000000 9500000000000000")  # r0 = 2; exit


class Problem(NamedTuple):
    """A failed check. `line` stands alone."""

    check: str
    line: str


class PreflightFailed(EnvironmentProblem):
    """One or more checks failed; `problems` has them one by one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(p.line for p in problems))
        self.problems = tuple(problems)


class BoundSocket(NamedTuple):
    """A bound UDP or listening TCP socket of this network namespace. `inode` leads to the
    process."""

    host: str
    port: int
    inode: int


# The checks: pure.


def check_root(uid: int) -> Problem | None:
    if uid == 0:
        return None
    return Problem(
        "root", f"not root (uid {uid}): namespaces, XDP and addresses need it; run with sudo"
    )


def check_capabilities(effective: int) -> Problem | None:
    """Root in a container may lack what root has: `effective` is CapEff of /proc/self/status."""
    missing = [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]
    if not missing:
        return None
    return Problem(
        "capabilities",
        f"root here lacks {', '.join(missing)}: run on the machine itself or in a privileged "
        "container",
    )


def check_node_capabilities(effective: int, *, loads: bool = True) -> Problem | None:
    """A node needs no root: these few suffice, and the units of the Debian package give them.

    `loads`: does this process load the packet program, or only find it?
    """
    needed = dict(NODE_CAPABILITIES)
    if not effective >> CAP_SYS_ADMIN & 1:
        needed |= BPF_CAPABILITIES | (LOAD_CAPABILITIES if loads else {})
    missing = [name for bit, name in needed.items() if not effective >> bit & 1]
    if not missing:
        return None
    return Problem(
        "capabilities",
        f"{', '.join(missing)} lacking: start it as root or by its systemd unit, not in a "
        "restricted container",
    )


def check_kernel(
    release: str, floor: tuple[int, int] = KERNEL_FLOOR, what: str = "the gateway"
) -> Problem | None:
    needed = f"{floor[0]}.{floor[1]}"
    match = re.match(r"(\d{1,6})\.(\d{1,6})", release)
    if match is None:
        return Problem(
            "kernel", f"kernel release '{release[:64]}' cannot be read: {what} needs Linux {needed}"
        )
    if (int(match[1]), int(match[2])) >= floor:
        return None
    return Problem(
        "kernel",
        f"Linux {release} is too old: {what} needs {needed} or later (Debian 12 has 6.1)",
    )


def check_bpf(number: int) -> Problem | None:
    """`number` is the errno of loading a trivial XDP program, 0 when that worked."""
    if number == 0:
        return None
    way_out = {
        errno.ENOSYS: "this kernel has no bpf(2): boot one with CONFIG_BPF_SYSCALL=y",
        errno.EPERM: "not permitted: run as root outside a restricted container "
        "(lockdown or seccomp may forbid it too)",
        errno.EINVAL: "XDP programs are refused: boot a kernel with CONFIG_NET and CONFIG_BPF",
    }.get(number, "this machine cannot run the packet program")
    return Problem("bpf", f"bpf(2) answers {errno.errorcode.get(number, number)}: {way_out}")


def check_perf_events(number: int, paranoid: str) -> Problem | None:
    """`number` is the errno of opening a perf event ring, 0 when that worked; `paranoid` what
    `kernel.perf_event_paranoid` says."""
    if number == 0:
        return None
    way_out = {
        # a restriction of Debian's kernels: CAP_PERFMON counts only where this is 2 or less
        errno.EACCES: f"kernel.perf_event_paranoid is {paranoid}: set it to 2 "
        "(the package's /usr/lib/sysctl.d/60-bgf.conf: systemctl restart systemd-sysctl)",
        errno.EPERM: "not permitted: run as root outside a restricted container, or by its unit",
        errno.ENOSYS: "this kernel has no perf events: boot one with CONFIG_PERF_EVENTS=y",
    }.get(number, "captures and STUN checks could not leave the packet program")
    name = errno.errorcode.get(number, number)
    return Problem("perf events", f"perf_event_open(2) answers {name}: {way_out}")


def check_bpffs(mounts: str, filesystems: str, directory: Path) -> Problem | None:
    """Pins need bpffs: `directory` lies on one already, or one can be mounted there."""
    if mounted_kind(mounts, directory) == "bpf":
        return None
    if any(line.split()[-1:] == ["bpf"] for line in filesystems.splitlines()):
        return None
    return Problem(
        "bpffs",
        f"{directory} is not on a bpf file system and this kernel cannot mount one: "
        "boot a kernel with CONFIG_BPF_SYSCALL=y",
    )


def mounted_kind(mounts: str, directory: Path) -> str:
    """Type of the file system that `directory` is (or would be) on, by /proc/mounts text."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # proc(5): space, tab, backslash and newline stand as octal escapes
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1]))
        depth = len(point.parts)
        if directory.is_relative_to(point) and depth >= best:
            best, kind = depth, fields[2]
    return kind


def check_packages(
    packages: Mapping[str, Sequence[str]], has: Callable[[str], bool]
) -> Problem | None:
    """All missing packages in one line: they are installed by one command."""
    missing = {
        package: lacking
        for package, binaries in packages.items()
        if (lacking := [b for b in binaries if not has(b)])
    }
    if not missing:
        return None
    named = ", ".join(f"{package} (for {', '.join(b)})" for package, b in missing.items())
    plural = "s" if len(missing) > 1 else ""
    return Problem(
        "packages",
        f"missing Debian package{plural}: {named}: apt-get install {' '.join(missing)}",
    )


def check_fencing(driver: str, has_library: bool) -> Problem | None:
    """Hard fencing speaks to Nova by openstacksdk, which the Debian package only suggests."""
    if driver != "nova" or has_library:
        return None
    return Problem(
        "fencing",
        "failover.fencing.driver is 'nova' and Python's module 'openstack' is missing: nobody "
        "could be fenced: apt-get install python3-openstacksdk, or set driver = 'none'",
    )


def check_port(
    what: str, address: Address, number: int, owner: str = "", protocol: str = "udp"
) -> Problem | None:
    """`number` is the errno of binding to `address`, 0 when it is free; `owner` has it now."""
    if number == 0:
        return None
    if number == errno.EADDRINUSE:
        by = f" by {owner}" if owner else ""
        line = f"{what} {address}/{protocol} is taken{by}: stop it or choose another port"
    else:
        why = os.strerror(number)
        line = f"{what} {address}/{protocol} cannot be bound: {why}: correct the address"
    return Problem("port", line)


def find_socket(address: Address, bound: Iterable[BoundSocket]) -> BoundSocket | None:
    """The socket that keeps `address` from being bound: its own, or one on every address."""
    everywhere = ("::",) if ":" in address.host else ("0.0.0.0", "::")
    return next(
        (s for s in bound if s.port == address.port and s.host in (address.host, *everywhere)), None
    )


def check_interface(realm: str, interface: str, present: Iterable[str]) -> Problem | None:
    present = sorted(set(present) - {"lo"})
    if interface in present or interface == "lo":
        return None
    return Problem(
        "interface",
        f"realm '{realm}': no interface '{interface}' here: "
        f"present {', '.join(present[:16]) or 'none'}; correct realms.{realm}.interface",
    )


def check_address(
    group: str, host: str, interface: str, present: Mapping[str, str]
) -> Problem | None:
    """A moving address may be here only where the group would put it."""
    where = present.get(host)
    if where is None or where == interface:
        return None
    return Problem(
        "address",
        f"group '{group}': address {host} is taken: it stands on interface '{where}', not on "
        f"'{interface}'; remove it there (ip address del) or correct the configuration",
    )


def parse_sockets(text: str, state: str = "") -> list[BoundSocket]:
    """Sockets from the text of /proc/net/udp, udp6, tcp or tcp6; with `state`, those in it.

    Each 32-bit word of an address stands there as this machine's integer of its bytes.
    """
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or (state and fields[3] != state):
            continue
        with contextlib.suppress(ValueError):
            printed, port = fields[1].split(":")
            words = [int(printed[i : i + 8], 16) for i in range(0, len(printed), 8)]
            host = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
            found.append(BoundSocket(str(host), int(port, 16), int(fields[9])))
    return found


# The readers: facts of this machine and this network namespace.


def read_uid() -> int:
    return os.geteuid()


def read_capabilities() -> int:
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return -1  # no such line: nothing to complain about


def read_release() -> str:
    return os.uname().release


def read_bpf() -> int:
    """Load a two-instruction XDP program and close it; the errno, 0 when it worked."""
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return 0
    program = ctypes.create_string_buffer(XDP_PASS_PROGRAM, len(XDP_PASS_PROGRAM))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ",
        BPF_PROG_TYPE_XDP,
        len(XDP_PASS_PROGRAM) // 8,
        ctypes.addressof(program),
        ctypes.addressof(licence),
    ).ljust(128, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    handle = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(BPF_PROG_LOAD), attributes, ctypes.c_uint(128)
    )
    if handle < 0:
        return ctypes.get_errno()
    os.close(handle)
    return 0


def read_perf_event() -> int:
    """Open a ring as the packet path does and close it; the errno, 0 when it worked."""
    number = PERF_SYSCALL.get(platform.machine())
    if number is None:
        return 0
    kind, count, every = PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT, 1
    attributes = struct.pack("=IIQQQ", kind, PERF_ATTR_SIZE_VER0, count, every, PERF_SAMPLE_RAW)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    handle = libc.syscall(
        *(ctypes.c_long(number), attributes.ljust(PERF_ATTR_SIZE_VER0, b"\0")),
        # of every process, on the first processor, in no group
        *(ctypes.c_long(-1), ctypes.c_long(0), ctypes.c_long(-1)),
        ctypes.c_ulong(PERF_FLAG_FD_CLOEXEC),
    )
    if handle < 0:
        return ctypes.get_errno()
    os.close(handle)
    return 0


def has_binary(name: str) -> bool:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{BINARY_PATH}") is not None


def has_module(name: str) -> bool:
    """Could it be imported? Finds a top-level module without importing it."""
    return importlib.util.find_spec(name) is not None


def read_sockets(protocol: str = "udp") -> list[BoundSocket]:
    """Those of `udp` that are bound, those of `tcp` that listen."""
    texts = [_text(Path("/proc/net", name)) for name in (protocol, f"{protocol}6")]
    return [
        s for text in texts for s in parse_sockets(text, TCP_LISTEN if protocol == "tcp" else "")
    ]


def read_bind(address: Address, protocol: str = "udp") -> int:
    """The errno of binding a socket to `address`, whether or not it is on an interface."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind | socket.SOCK_CLOEXEC) as trial:
        try:
            if protocol == "tcp":  # what is left of old connections keeps nobody out
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            trial.bind((address.host, address.port))
        except OSError as problem:
            return problem.errno or errno.EINVAL
    return 0


def read_owner(address: Address, protocol: str = "udp") -> str:
    """Who keeps `address` from being bound, as `name (pid N)`; empty when it cannot be told."""
    bound = find_socket(address, read_sockets(protocol))
    return _process_of(bound.inode) if bound is not None else ""


def _process_of(inode: int) -> str:
    wanted = f"socket:[{inode}]"
    for entry in sorted(Path("/proc").glob("[0-9]*"))[:PROCESSES_SCANNED_MAX]:
        with contextlib.suppress(OSError):
            for handle in (entry / "fd").iterdir():
                if str(handle.readlink()) == wanted:
                    return f"{_text(entry / 'comm').strip()} (pid {entry.name})"
    return ""


def read_interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def read_addresses() -> dict[str, str]:
    """Host address -> interface, for every address of this network namespace."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - a slow import that most callers do without

    names = dict(socket.if_nameindex())
    found: dict[str, str] = {}
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if host is not None:
                found[str(host)] = names.get(message["index"], "?")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


# Put together.


def machine(floor: tuple[int, int] = KERNEL_FLOOR, what: str = "the gateway") -> list[Problem]:
    """What any use needs. A process without root is told that alone: the rest would mislead."""
    found = [check_root(read_uid()), check_kernel(read_release(), floor, what)]
    if found[0] is None:
        found.append(check_capabilities(read_capabilities()) or check_bpf(read_bpf()))
    return [p for p in found if p is not None]


def lab(pin_dir: Path, packages: Mapping[str, Sequence[str]] = LAB_PACKAGES) -> list[Problem]:
    """What the lab with its load generator needs; `pin_dir` is where it mounts its bpffs."""
    found = [
        check_bpffs(_text(Path("/proc/mounts")), _text(Path("/proc/filesystems")), pin_dir),
        check_packages(packages, has_binary),
    ]
    return machine(LOAD_KERNEL_FLOOR, "the load generator") + [p for p in found if p is not None]


def node(config: NodeConfig, *, binds_control: bool = False) -> list[Problem]:
    """What a node's process needs before it starts, in the network namespace it will run in.

    `binds_control` is for the process that will bind the groups' control addresses, and that loads
    the packet program.
    """
    mounts, filesystems = _text(Path("/proc/mounts")), _text(Path("/proc/filesystems"))
    capabilities = check_node_capabilities(read_capabilities(), loads=binds_control)
    fit = [check_kernel(read_release()), capabilities]
    if fit[1] is None:
        fit.append(check_bpf(read_bpf()))
    if fit[1] is None and binds_control:
        fit.append(check_perf_events(read_perf_event(), _text(PARANOID).strip()))
    found = [*fit, check_bpffs(mounts, filesystems, config.media.pin_dir)]
    if not binds_control:  # it is the failover process that fences
        driver = config.failover.safety.fencing.driver
        found.append(check_fencing(driver, has_module("openstack")))
    interfaces, addresses = read_interfaces(), read_addresses()
    found += [check_interface(r.name, r.interface, interfaces) for r in config.realms.values()]
    for group in config.groups:
        if binds_control:
            found += _control_ports(config, group)
        moving = [(group.control_realm, group.control.host)]
        moving += [(a.realm, a.host) for a in group.addresses]
        found += [
            check_address(group.id, host, config.realms[realm].interface, addresses)
            for realm, host in moving
        ]
    return [p for p in found if p is not None]


def _control_ports(config: NodeConfig, group: Group) -> list[Problem | None]:
    """UDP on the group's port, TCP and HTTP (with WebSocket) on those of `control.listen`."""
    listen, host = config.control.listen, group.control.host
    wanted = [("control address", group.control, "udp")] if listen.udp else []
    if listen.tcp:
        wanted.append(("control.listen.tcp", Address(host, listen.tcp), "tcp"))
    if listen.http:
        wanted.append(("control.listen.http", Address(host, listen.http), "tcp"))
    found = []
    for what, address, protocol in wanted:
        number = read_bind(address, protocol)
        owner = read_owner(address, protocol) if number else ""
        found.append(check_port(f"group '{group.id}': {what}", address, number, owner, protocol))
    return found


def require(problems: Sequence[Problem]) -> None:
    """Raises PreflightFailed when there are any."""
    if problems:
        raise PreflightFailed(problems)
