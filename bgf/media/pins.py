"""The packet path's pins: create or reopen them, attach, remove; and arming by whoever opens them.

Knows: a bpffs directory, `set/` with every map and the program, `links/` with one link for each
interface. A pinned set outlives its process, so reopening is the usual case. Knows the layout of
no map but `config`, `groups` and `armed`. Decides nothing about flows.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bgf.errors import DatapathError, EnvironmentProblem
from bgf.media import _xdp, layout

KERNEL_MIN = (5, 15)
MAPS = (
    "config",
    "cpus",
    "groups",
    "armed",
    "interfaces",
    "addresses",
    "ports",
    "pinholes",
    "stats",
    "latches",
    "nexthops",
    "reports",
    "captured",
    "checks",
)
PROGRAM = "bgf_xdp"
ATTACH_MODES = ("auto", "native", "generic")

_XDP_FLAGS = {"native": 1 << 2, "generic": 1 << 1}  # linux/if_link.h
_log = logging.getLogger("bgf.media")


class Attachment(NamedTuple):
    """How the program sits on an interface. `reason` says why it is not native, if it is not."""

    mode: str
    reason: str = ""


def check_kernel(release: str) -> None:
    """Raises EnvironmentProblem when a kernel of this `uname -r` cannot carry the packet path."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < KERNEL_MIN:
        raise EnvironmentProblem(
            f"Linux {release} is too old for the packet path: "
            f"{KERNEL_MIN[0]}.{KERNEL_MIN[1]} or later is needed"
        )


def _refused(error: OSError, doing: str) -> EnvironmentProblem:
    if error.errno in (errno.EPERM, errno.EACCES) and "processed" not in str(error):
        return EnvironmentProblem(
            f"{doing}: the kernel refuses BPF ({os.strerror(error.errno)}): run as root, or with "
            "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
        )
    if error.errno == errno.ENOSYS:
        return EnvironmentProblem(f"{doing}: this kernel is built without BPF (CONFIG_BPF_SYSCALL)")
    text = " ".join(str(error.strerror or error).split())
    return EnvironmentProblem(f"{doing}: {text}")


def _check_bpffs(pin_dir: Path) -> None:
    try:
        pin_dir.mkdir(parents=True, exist_ok=True)
        good = _xdp.is_bpffs(pin_dir)
    except OSError as error:
        raise EnvironmentProblem(
            f"pin directory {pin_dir}: {os.strerror(error.errno or 0)}"
        ) from None
    if not good:
        raise EnvironmentProblem(
            f"pin directory {pin_dir} is on no BPF file system: mount one there or above it "
            f"(mount -t bpf bpf {pin_dir})"
        )


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _open_pinned(directory: Path, names: Iterable[str]) -> dict[str, int]:
    fds: dict[str, int] = {}
    try:
        for name in names:
            fds[name] = _xdp.obj_get(directory / name)
    except OSError as error:
        close_all(fds.values())
        if error.errno == errno.ENOENT:
            raise EnvironmentProblem(
                f"the pins in {directory} are of another version: stop the node and remove "
                f"{directory.parent}"
            ) from None
        raise _refused(error, f"opening the pins in {directory}") from None
    return fds


def _has_our_sizes(fds: Mapping[str, int]) -> bool:
    """Holds between versions of one layout number that was never released, too."""
    sizes = {
        "interfaces": _xdp.SIZEOF_INTERFACE,
        "pinholes": _xdp.SIZEOF_PINHOLE,
        "stats": _xdp.SIZEOF_STATS,
        "latches": _xdp.SIZEOF_LATCH,
        "nexthops": _xdp.SIZEOF_NEXTHOP,
    }
    return all(_xdp.map_info(fds[name])["value_size"] == size for name, size in sizes.items())


def _is_our_build(program: int) -> bool:
    """Is the running program this version's? The kernel's tag is over the instructions alone."""
    ours = _xdp.load_bgf(ports=1, pinholes=1, stats=1, latches=1, nexthops=1)
    try:
        return _xdp.prog_info(ours[PROGRAM])["tag"] == _xdp.prog_info(program)["tag"]
    finally:
        close_all(ours.values())


def open_set(pin_dir: Path, sizes: Mapping[str, int]) -> tuple[dict[str, int], bool]:
    """Descriptors of all maps and the program by name, and whether they were there already.

    A new set appears under its name all at once, so one interrupted half-way is never reopened.
    Raises EnvironmentProblem: kernel too old, no bpffs, no permission, pins of another layout.
    """
    check_kernel(os.uname().release)
    _check_bpffs(pin_dir)
    ready = pin_dir / "set"
    if ready.exists():
        fds = _open_pinned(ready, (*MAPS, PROGRAM))
        config = _xdp.map_lookup(fds["config"], layout.U32.pack(0))
        found = layout.U32.unpack_from(config)[0] if config and len(config) >= 4 else 0
        if found != _xdp.LAYOUT or not _has_our_sizes(fds):
            close_all(fds.values())
            raise EnvironmentProblem(
                f"the pins in {ready} have layout {found}, this version {_xdp.LAYOUT}: stop the "
                f"node and remove {pin_dir}"
            )
        if not _is_our_build(fds[PROGRAM]):
            _log.warning(
                "the pinned packet program is of another build and goes on as it is: to use this "
                "version's, stop the node, remove %s and start again",
                pin_dir,
            )
        return fds, True
    try:
        fds = _xdp.load_bgf(**sizes)
    except OSError as error:
        raise _refused(error, "loading the packet program") from None
    unfinished = pin_dir / "new"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        config = layout.CONFIG.pack(_xdp.LAYOUT, 0, 0)
        _xdp.map_update(fds["config"], layout.U32.pack(0), config)
        for name, fd in fds.items():
            _xdp.obj_pin(fd, unfinished / name)
        unfinished.rename(ready)
    except OSError as error:
        close_all(fds.values())
        shutil.rmtree(unfinished, ignore_errors=True)
        raise _refused(error, f"pinning in {pin_dir}") from None
    return fds, False


def _link_path(pin_dir: Path, interface: str) -> Path:
    # bpffs takes no dots in names, and VLAN interfaces have them
    return pin_dir / "links" / interface.replace("%", "%25").replace(".", "%2e")


def attach(pin_dir: Path, program: int, interface: str, ifindex: int, mode: str) -> str:
    """Have the program run on an interface, by a pinned link; '' or why it is generic there.

    A link that is there already stays, switched to `program` in one step if it runs another.
    Raises EnvironmentProblem naming the interface.
    """
    path = _link_path(pin_dir, interface)
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):
        link = _xdp.obj_get(path)
        try:
            info = _xdp.link_info(link)
            if info["ifindex"] == ifindex:
                if info["prog_id"] != _xdp.prog_info(program)["id"]:
                    _xdp.link_update(link, program)
                return ""
            path.unlink()  # of an interface that is gone
        finally:
            os.close(link)
    reason = "asked for" if mode == "generic" else ""
    for attempt in ("native", "generic") if mode == "auto" else (mode,):
        try:
            link = _xdp.link_create_xdp(program, ifindex, _XDP_FLAGS[attempt])
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise EnvironmentProblem(
                    f"interface {interface} has another XDP program: remove it "
                    f"(ip link set dev {interface} xdp off)"
                ) from None
            if error.errno in (errno.EPERM, errno.ENODEV) or attempt == mode or reason:
                raise _refused(error, f"interface {interface}, {attempt} XDP") from None
            reason = f"native XDP refused: {os.strerror(error.errno or 0)}"
            _log.warning("interface %s: %s; generic XDP instead, slower", interface, reason)
            continue
        try:
            _xdp.obj_pin(link, path)
        except OSError as error:
            raise _refused(error, f"pinning the link of {interface}") from None
        finally:
            os.close(link)
        break
    return reason


def detach_others(pin_dir: Path, interfaces: Iterable[str]) -> None:
    """Take the program off every interface that is not among these."""
    keep = {_link_path(pin_dir, name) for name in interfaces}
    directory = pin_dir / "links"
    for path in list(directory.iterdir()) if directory.exists() else []:
        if path in keep:
            continue
        with contextlib.suppress(OSError):
            link = _xdp.obj_get(path)
            try:
                _xdp.link_detach(link)
            finally:
                os.close(link)
        path.unlink(missing_ok=True)


def remove(pin_dir: Path) -> None:
    """Detach everywhere and remove every pin; what was never there is no error."""
    detach_others(pin_dir, ())
    for name in ("set", "new", "links"):
        shutil.rmtree(pin_dir / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        pin_dir.rmdir()  # fails when it is the mount itself, or holds what is not ours


def read_groups(fd: int) -> dict[str, int]:
    """Group id -> index, as the pinned `groups` map has them."""
    indices, names = _xdp.map_lookup_batch(fd)
    size = _xdp.GROUP_ID_LEN
    found = {}
    for at in range(len(indices) // 4):
        name = names[at * size : (at + 1) * size].rstrip(b"\0").decode()
        if name:
            found[name] = layout.U32.unpack_from(indices, at * 4)[0]
    return found


class ArmedMap:
    """Arms groups of a packet path that another process holds: needs only its pins.

    Raises EnvironmentProblem when the pins are not there yet (try again once the gateway process
    has started) and DatapathError for a group that they do not know.
    """

    def __init__(self, pin_dir: Path | str, groups: Iterable[str]) -> None:
        ready = Path(pin_dir) / "set"
        if not ready.exists():
            raise EnvironmentProblem(
                f"no packet path is pinned in {pin_dir}: start the gateway process of this node"
            )
        fds = _open_pinned(ready, ("config", "groups", "armed"))
        self._fd = fds.pop("armed")
        try:
            known = read_groups(fds["groups"])
            missing = sorted(set(groups) - set(known))
            if missing:
                raise DatapathError(
                    f"the packet path in {pin_dir} does not know group {', '.join(missing)}: "
                    "restart the gateway process with this configuration"
                )
        except BaseException:
            os.close(self._fd)
            raise
        finally:
            close_all(fds.values())
        self._keys = {group: layout.U32.pack(known[group]) for group in groups}

    def arm(self, group: str, deadline_ns: int) -> None:
        """Forward for `group` while CLOCK_BOOTTIME < `deadline_ns`; 0 disarms at once."""
        _xdp.map_update(self._fd, self._key(group), layout.U64.pack(deadline_ns))

    def deadline_ns(self, group: str) -> int:
        value = _xdp.map_lookup(self._fd, self._key(group))
        return int(layout.U64.unpack(value)[0]) if value else 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _key(self, group: str) -> bytes:
        try:
            return self._keys[group]
        except KeyError:
            raise DatapathError(f"group {group} was not named when the map was opened") from None
