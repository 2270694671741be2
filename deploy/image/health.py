"""What a machine that is up must show: services, packet path, listeners, sandbox, journal, pages.

Knows what a node is made of, and asks the machine by ssh. Must not know how it is run, nor send it
packets or break anything: every look here may be repeated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import seed
from machine import PATIENCE, Machine, check

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "docs/deploy-bare.md", ROOT / "docs/deploy-image.md")
UNITS: Final = ("bgf-state", "bgf-gateway", "bgf-failover", "bgf-monitor")
LISTENERS: Final = {
    *("tcp 22", "tcp 127.0.0.53:53", "tcp 127.0.0.54:53"),
    *("udp 127.0.0.53:53", "udp 127.0.0.54:53"),
    *(f"udp {seed.CONTROL[0]}:{seed.CONTROL[1]}", f"udp {seed.GUEST}:7400"),
    f"tcp {seed.GUEST}:9401",
}
"""Everything that may listen; ssh on all addresses of the management network's security group."""
CAPABILITIES: Final = {
    "bgf-state": 0,
    "bgf-gateway": 0xC000003000,
    "bgf-failover": 0x8000003000,
    "bgf-monitor": 0,
}
"""CAP_NET_ADMIN and CAP_NET_RAW are 0x3000; CAP_BPF, CAP_PERFMON 0x8000000000, 0x4000000000."""
ALONE: Final = "no standby is ready"
"""What a cluster of one node is told, rightly."""
SLOW: Final = ("etcd", "registry", "own lease has run out", "state server does not serve")
"""What a node says whose machine stands still for longer than a lease, as a busy one may."""
EXPOSURE_MAX: Final = 25
"""Of `systemd-analyze security`, tenths: 0 is shut in, 100 is open."""
NATIVE: Final = 1
"""IFLA_XDP's mode: the program runs in the driver."""


def services(vm: Machine) -> None:
    for unit in UNITS:
        shown = vm.properties(unit, "ActiveState", "StatusText", "NRestarts", "Type")
        good = shown["ActiveState"] == "active" and shown["StatusText"]
        check(f"{unit}: {shown['StatusText']}", good and shown["NRestarts"] == "0", shown)
    failed = vm.ssh("systemctl --failed --plain --no-legend").split()
    check("no unit has failed", not failed, " ".join(failed))
    running = vm.ssh("systemctl is-system-running --wait || true").strip()
    check(f"the system is {running}", running == "running", running)
    asked = json.loads(vm.ssh("sudo bgfctl ready --json"))
    check("bgfctl ready", asked["ready"] is True, asked)


def first_boot(vm: Machine) -> None:
    """cloud-init has done what the seed says, and complains of nothing."""
    said = vm.ssh("cloud-init status --wait --long || true").strip()
    check("cloud-init has done its work", said.startswith("status: done"), said)
    owner = vm.ssh("sudo stat -c '%U %a' /etc/bgf/cluster.key").strip()
    check("the cluster key is the services' alone", owner == "bgf 600", owner)
    grown = int(vm.ssh("df --output=size -m / | tail -1"))
    check(f"the root file system has grown to {grown} MiB", grown > 3000, grown)


def state_node(vm: Machine) -> None:
    """etcd is there for a state node, which is made of the same image, and off until then."""
    said = vm.properties("etcd.service", "ActiveState", "UnitFileState")
    off = said == {"ActiveState": "inactive", "UnitFileState": "disabled"}
    check("etcd is off", off, said)
    vm.ssh("sudo systemctl start etcd")
    healthy = vm.ssh("ETCDCTL_API=3 etcdctl endpoint health 2>&1").strip()
    vm.ssh("sudo systemctl stop etcd && sudo rm -rf /var/lib/etcd/default")
    check("etcd starts, and is healthy", "is healthy" in healthy, healthy)


def packet_path(vm: Machine) -> None:
    """The program is on virtio-net, in the driver where it can be, on Debian's own kernel."""
    kernel = vm.ssh("uname -r").strip()
    check(f"Debian's kernel: {kernel}", "cloud-amd64" in kernel, kernel)
    for name in seed.MEDIA:
        link = json.loads(vm.ssh(f"ip -j -d link show {name}"))[0]
        driver = vm.ssh(f"readlink /sys/class/net/{name}/device/driver").strip().rpartition("/")[2]
        modes = {attached["mode"] for attached in link.get("xdp", {}).get("attached", [])}
        modes |= {link["xdp"]["mode"]} if "mode" in link.get("xdp", {}) else set()
        good = driver == "virtio_net" and NATIVE in modes
        check(f"{name}: XDP in {driver}, native", good, link.get("xdp"))
        queues = vm.ssh(f"ls -d /sys/class/net/{name}/queues/rx-*").split()
        check(f"{name}: {len(queues)} receive queues", len(queues) == vm.cores, queues)
        rings = re.findall(r"^RX:\s+(\d+)", vm.ssh(f"sudo ethtool -g {name}"), re.M)
        check(f"{name}: a ring of {rings[-1]} packets", len(set(rings)) == 1, rings)


def quiet(vm: Machine) -> None:
    """Nothing listens that should not. A process of ours that asks the state plane does it from a
    port that the kernel chose, at the address where this node's state server is."""
    first, last = map(int, vm.ssh("sudo sysctl -n net.ipv4.ip_local_port_range").split())
    listening = set()
    for line in vm.ssh("sudo ss -Hltunp").splitlines():
        protocol, _, _, _, local, *rest = line.split()
        address = re.sub(r"%\w+", "", local)
        host, _, port = address.rpartition(":")
        if host in ("0.0.0.0", "[::]", "*"):
            address = port
        asks = (protocol, host) == ("udp", seed.GUEST) and first <= int(port) <= last
        if not (asks and '(("bgf",' in " ".join(rest)):
            listening.add(f"{protocol} {address}")
    said = f"listening: {', '.join(sorted(listening))}"
    check(said, listening <= LISTENERS, listening - LISTENERS)
    settings = {"net.core.rmem_max": "8388608", "kernel.panic": "10", "kernel.panic_on_oops": "1"}
    for name, wanted in settings.items():
        found = vm.ssh(f"sudo sysctl -n {name}").strip()
        check(f"{name} = {found}", found == wanted, found)
    removes = vm.ssh("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 "
                     "org.freedesktop.login1.Manager RemoveIPC").strip()  # fmt: skip
    check("RemoveIPC=no", removes == "b false", removes)


def _entries(vm: Machine, filters: str) -> list[dict[str, Any]]:
    said = vm.ssh(f"sudo journalctl -b -o json --no-pager {filters}")
    return [json.loads(line) for line in said.splitlines()]


def journal(vm: Machine) -> None:
    """Whatever a process says carries fields, and nothing of ours is a warning. Before anything is
    broken on purpose."""
    lines = _entries(vm, "-u 'bgf-*' _TRANSPORT=journal _UID=$(id -u bgf)")
    bare = [x["MESSAGE"] for x in lines if not {"BGF_NODE", "BGF_PROCESS"} <= x.keys()]
    check(
        f"journal: {len(lines)} lines, all with BGF_NODE and BGF_PROCESS", lines and not bare, bare
    )
    active = _entries(vm, "-u bgf-gateway BGF_GROUP=g1 BGF_REASON=active -n 1")
    epochs = [entry.get("BGF_EPOCH") for entry in active]
    check(f"journal: BGF_GROUP=g1 BGF_EPOCH={epochs}", epochs and all(epochs), active)
    known = (ALONE, *(SLOW if PATIENCE > 1 else ()))
    warnings = [entry for entry in _entries(vm, "-p warning") if _is_ours(entry)]
    ours = [
        said for one in warnings if not any(word in (said := str(one["MESSAGE"])) for word in known)
    ]
    check("journal: no warning of ours, or about ours", not ours, "\n".join(ours))


def _is_ours(entry: dict[str, Any]) -> bool:
    names = (entry.get(name, "") for name in ("_SYSTEMD_UNIT", "UNIT", "SYSLOG_IDENTIFIER"))
    return any(name.startswith("bgf") for name in names) or "bgf" in str(entry["MESSAGE"])


def sandbox(vm: Machine) -> None:
    """As the kernel sees them: a user without power, and what capabilities are left. As systemd
    judges the units where they stand."""
    for unit, bits in CAPABILITIES.items():
        pid = vm.properties(unit, "MainPID")["MainPID"]
        status = vm.ssh(f"cat /proc/{pid}/status")
        pairs = (line.split(":", 1) for line in status.splitlines() if ":" in line)
        said = {name: value.split() for name, value in pairs}
        held = int(said["CapEff"][0], 16)
        good = held == bits and said["Uid"][0] != "0" and said["Seccomp"][0] == "2"
        check(f"{unit}: user {said['Uid'][0]}, capabilities {held:#x}, seccomp", good, status)
        asked = f"systemd-analyze security --threshold={EXPOSURE_MAX} --no-pager {unit}.service"
        verdict = vm.ssh(asked).strip().splitlines()[-1]
        check(verdict.lstrip("→ "), verdict)
    names = " ".join(f"{unit}.service" for unit in UNITS)
    said_of_units = vm.ssh(f"systemd-analyze verify --man=no bgf.target {names} 2>&1").strip()
    check("systemd finds nothing wrong in the units", not said_of_units, said_of_units)


def pages(vm: Machine) -> None:
    """What the pages type on a node, line by line."""
    for page in PAGES:
        blocks = re.findall(r"^```sh on a node\n(.*?)^```", page.read_text(), re.M | re.S)
        lines = [line for block in blocks for line in block.splitlines() if line]
        for line in lines:
            vm.ssh(line)
        check(f"{page.name}: {len(lines)} commands run", lines)
