"""Entering network namespaces: run a function in one, set its sysctls and offloads.

Knows: setns(2), /proc/sys/net, the ethtool ioctl. Must not know what the lab looks like.
Everything enters in a thread of its own, which then ends: the caller's namespace never changes.
Sockets made inside stay inside.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns

from bgf.errors import EnvironmentProblem

T = TypeVar("T")

NETNS_DIR = Path("/run/netns")

# linux/ethtool.h and linux/sockios.h
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17
ETHTOOL_SGRO = 0x2C
IFNAMSIZ = 16


def path_of(name: str) -> Path:
    return NETNS_DIR / name


def exists(name: str) -> bool:
    return path_of(name).exists()


def inode_of(name: str) -> int:
    """Identity of the namespace behind a name; 0 when there is none."""
    try:
        return path_of(name).stat().st_ino
    except FileNotFoundError:
        return 0


def create(name: str) -> None:
    """Make a named namespace as `ip netns add` does. Raises EnvironmentProblem."""
    try:
        netns.create(name)
    except Exception as problem:
        raise EnvironmentProblem(f"cannot create network namespace '{name}': {problem}") from None
    if not exists(name):
        raise EnvironmentProblem(
            f"cannot create network namespace '{name}': is this process allowed to unshare(2)?"
        )


def remove(name: str) -> None:
    """Forget a named namespace; what runs in it keeps it alive until it ends. Idempotent."""
    try:
        netns.remove(name)
    except OSError as problem:
        if problem.errno not in (errno.ENOENT, errno.EINVAL):
            raise
    path_of(name).unlink(missing_ok=True)


def run_in(name: str, work: Callable[[], T]) -> T:
    """Run `work` in a thread inside namespace `name`; its result or its exception is ours.

    Raises EnvironmentProblem when the namespace does not exist or may not be entered.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            netns.setns(str(path_of(name)), flags=0)
        except OSError as problem:
            failures.append(
                EnvironmentProblem(f"cannot enter network namespace '{name}': {problem.strerror}")
            )
            return
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=body, name=f"in-{name}", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def socket_in(name: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in namespace `name` wherever it is used."""
    return run_in(name, lambda: socket.socket(family, kind, protocol))


def write_sysctl(key: str, value: int) -> None:
    """Set `net/...` in the namespace of the calling thread; a missing key is ignored (no IPv6)."""
    try:
        Path("/proc/sys", key).write_text(f"{value}\n")
    except FileNotFoundError:
        return


def _ethtool(interface: str, command: int, value: int) -> None:
    data = ctypes.create_string_buffer(struct.pack("II", command, value))
    request = struct.pack(
        f"{IFNAMSIZ}sP16x", interface.encode()[: IFNAMSIZ - 1], ctypes.addressof(data)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, SIOCETHTOOL, request)
        except OSError as problem:
            raise EnvironmentProblem(
                f"ethtool setting {command:#x} of '{interface}': {problem.strerror}"
            ) from None


def set_gro(interface: str, on: bool) -> None:
    """GRO on a veth end starts its NAPI; without it, frames redirected to it vanish."""
    _ethtool(interface, ETHTOOL_SGRO, int(on))


def set_tx_checksum(interface: str, on: bool) -> None:
    """Off: sockets write whole UDP checksums, which an XDP program may then update."""
    _ethtool(interface, ETHTOOL_STXCSUM, int(on))


def netlink() -> Any:
    """A pyroute2 IPRoute for the calling thread's namespace (untyped library)."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - its import takes a while, not every CLI call needs it

    return IPRoute()
