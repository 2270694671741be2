"""One gateway between two hosts, in network namespaces: where kernel tests of media take place.

    ue (access: fd00:a::100, 10.10.0.100) --- gw --- callee (core: 10.20.0.100, fd00:c::100)

Leaves nothing behind: namespaces and the BPF file system go on close, whatever happened between.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pyroute2 import netns

from bgf.model import Address, Group, RealmAddress

REALMS = {"access": "access", "core": "core"}
GROUP_ADDRESSES = (
    RealmAddress("access", "fd00:a::101", 64),
    RealmAddress("access", "10.10.0.101", 24),
    RealmAddress("core", "10.20.0.101", 24),
    RealmAddress("core", "fd00:c::101", 64),
)
UE6, UE4 = "fd00:a::100", "10.10.0.100"
CALLEE6, CALLEE4 = "fd00:c::100", "10.20.0.100"
NODE = {"access": ("fd00:a::11/64", "10.10.0.11/24"), "core": ("fd00:c::11/64", "10.20.0.11/24")}
HOSTS = {
    "ue": ("access", f"{UE6}/64", f"{UE4}/24"),
    "callee": ("core", f"{CALLEE6}/64", f"{CALLEE4}/24"),
}
READY_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 30.0

_number = itertools.count(1)


def group(name: str = "g1", addresses: tuple[RealmAddress, ...] = GROUP_ADDRESSES) -> Group:
    return Group(
        id=name,
        control=Address("10.30.0.101", 2223),
        control_realm="mgmt",
        control_prefix_len=24,
        ports=(30_000, 39_999),
        addresses=addresses,
    )


def run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    """A generous wait for what must come about; the test fails if it never does."""
    end = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        assert time.monotonic() < end, f"never came about: {what}"
        time.sleep(0.01)


class PacketLab:
    """`macs` maps (namespace, interface) to a MAC address; `bpffs` is an empty BPF file system."""

    def __init__(self) -> None:
        self._prefix = f"bgf-m{os.getpid()}-{next(_number)}-"
        self._spaces: list[str] = []
        self.bpffs = Path(tempfile.mkdtemp(prefix="bgf-test-bpf-", dir="/run"))
        self._mounted = False
        try:
            run("mount", "-t", "bpf", "bpf", str(self.bpffs))
            self._mounted = True
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for space in ("gw", *HOSTS):
            run("ip", "netns", "add", self.name(space))
            self._spaces.append(self.name(space))
            self.ip(space, "link", "set", "lo", "up")
        for space, (realm, *addresses) in HOSTS.items():
            # One queue each: a peer with more of them than the gateway refuses native XDP there.
            self.ip("gw", *f"link add {realm} numrxqueues 1 numtxqueues 1 type veth".split(),
                    "peer", "name", realm, "netns", self.name(space),
                    "numrxqueues", "1", "numtxqueues", "1")  # fmt: skip
            for end, hosts in (("gw", NODE[realm]), (space, tuple(addresses))):
                for host in hosts:
                    flags = ("nodad",) if ":" in host else ()
                    self.ip(end, "address", "add", host, "dev", realm, *flags)
                self.ip(end, "link", "set", realm, "up")
            # What a socket sends must have its checksum, as it has on a wire; and a frame that XDP
            # redirects into a veth arrives only where the peer polls it.
            run("nsenter", f"--net=/run/netns/{self.name(space)}", "ethtool", "-K", realm,
                "tx", "off", "gro", "on")  # fmt: skip
        for realm in REALMS:
            # Routes of a link that is not up yet lead nowhere.
            wait_for(f"{realm} is up", partial(self._is_up, realm))
        self.macs = {
            (space, realm): bytes.fromhex(self._mac(space, realm))
            for host, (realm, *_) in HOSTS.items()
            for space in ("gw", host)
        }

    def _is_up(self, interface: str) -> bool:
        routes = self.ip("gw", "-6", "route", "show", "dev", interface)
        link = self.ip("gw", "link", "show", "dev", interface)
        return "state UP" in link and "fd00" in routes and "linkdown" not in routes

    def _mac(self, space: str, interface: str) -> str:
        line = self.ip(space, "-o", "link", "show", "dev", interface)
        return line.split("link/ether ")[1].split()[0].replace(":", "")

    def name(self, space: str) -> str:
        return self._prefix + space

    def ip(self, space: str, *arguments: str) -> str:
        return run("ip", "-n", self.name(space), *arguments)

    def settle_neighbours(self) -> None:
        """Let the gateway know its neighbours for good, so that a test need not wait for them."""
        for space, (realm, *addresses) in HOSTS.items():
            mac = self.macs[space, realm].hex(":")
            for host in addresses:
                self.ip("gw", "neigh", "replace", host.partition("/")[0], "lladdr", mac,
                        "dev", realm, "nud", "permanent")  # fmt: skip

    @contextlib.contextmanager
    def inside(self, space: str) -> Iterator[None]:
        """This thread in that namespace; sockets opened there stay there."""
        with Path("/proc/thread-self/ns/net").open() as home:
            netns.setns(self.name(space))
            try:
                yield
            finally:
                netns.setns(home.fileno())

    def udp(self, space: str, host: str, port: int = 0) -> socket.socket:
        """A bound UDP socket in that namespace, with a generous timeout."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.inside(space):
            opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.settimeout(READY_TIMEOUT_S)
        opened.bind((host, port))
        return opened

    def close(self) -> None:
        for space in self._spaces:
            subprocess.run(("ip", "netns", "del", space), check=False, timeout=COMMAND_TIMEOUT_S)
        self._spaces.clear()
        if self._mounted:
            run("umount", str(self.bpffs))
            self._mounted = False
        shutil.rmtree(self.bpffs, ignore_errors=True)

    def __enter__(self) -> PacketLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
