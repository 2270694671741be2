"""`make image-test`: boots the image under QEMU as a cloud would, and calls through it. Twice.

Knows QEMU, cloud-init's NoCloud seed, ssh, what a node must show. Must not know how the image was
made. All of it runs in a network namespace of its own, which is the gateway's outside world: three
taps are its management, access and core networks, caller and callee live at their ends. First boot:
BIOS; second boot of the same disk: UEFI. Usage: test.py [IMAGE] [--accel tcg] [--keep]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from machine import Failed, Machine, say
from media import Call

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/deploy-bare.md"
LOGS: Final = ROOT / "dist"
BOOT_S: Final = {"kvm": 400, "tcg": 1_200}
"""How long a boot may take until everything is ready; a busy machine is no failure."""
SETTLE_S: Final = 240
NETWORKS: Final = {
    "mgmt": ("10.30.0.1/24",),
    "access": ("10.10.0.1/24", "fd00:a::1/64"),
    "core": ("10.20.0.1/24",),
}
GUEST: Final = "10.30.0.11"
CONTROL: Final = ("10.30.0.101", 2223)
MEDIA: Final = {"access": "10.10.0.101", "core": "10.20.0.101"}
CALLER: Final = ("10.10.0.1", 40_000)
CALLEE: Final = ("10.20.0.1", 50_000)
UNITS: Final = ("bgf-state", "bgf-gateway", "bgf-failover")
LISTENERS: Final = {
    *("tcp 22", "tcp 127.0.0.53:53", "tcp 127.0.0.54:53"),
    *("udp 127.0.0.53:53", "udp 127.0.0.54:53", "udp 10.30.0.101:2223"),
}
"""Everything that may listen; ssh on all addresses of the management network's security group."""

NODE: Final = """\
[node]
id = "n1"
discriminator = 1
run_dir = "/run/bgf"
[state]
address = "dal:///dev/shm/bgf/state"
size_mb = 64
[media]
pin_dir = "/sys/fs/bpf/bgf"
pinholes_max = 4096
[realms.access]
interface = "access"
[realms.core]
interface = "core"
[realms.mgmt]
interface = "mgmt"
media = false
[[groups]]
id = "g1"
preferred = "n1"
control = "10.30.0.101/24"
control_port = 2223
control_realm = "mgmt"
ports = [30000, 30999]
addresses = { access = ["10.10.0.101/24", "fd00:a::101/64"], core = ["10.20.0.101/24"] }
[control]
default_realms = ["access", "core"]
peers = ["10.30.0.1"]
[failover]
profile = "safe"
"""


def run(*argv: str | Path, **more: Any) -> str:
    words = [str(a) for a in argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise Failed(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-400:]}")
    return str(done.stdout)


@contextlib.contextmanager
def networks() -> Iterator[None]:
    """The taps of this namespace, and who lives at their ends."""
    run("ip", "link", "set", "lo", "up")
    for name, addresses in NETWORKS.items():
        # As many queues as the machine has cores: what a cloud with multiqueue gives.
        run("ip", "tuntap", "add", f"t-{name}", "mode", "tap", "multi_queue")
        for address in addresses:
            run("ip", "address", "add", address, "dev", f"t-{name}", "nodad")
        run("ip", "link", "set", f"t-{name}", "up")
    yield


def mac(name: str) -> str:
    return f"52:54:00:00:00:{list(NETWORKS).index(name) + 1:02x}"


def seed(work: Path, key: str) -> Path:
    """A NoCloud seed: a small disk with the label that cloud-init looks for."""
    node = json.dumps(NODE)
    (work / "meta-data").write_text("instance-id: image-test\nlocal-hostname: n1\n")
    (work / "user-data").write_text(
        "#cloud-config\n"
        f"ssh_authorized_keys: [{json.dumps(key)}]\n"
        "write_files:\n"
        f"  - {{path: /etc/bgf/node.toml, content: {node}}}\n"
    )
    own = {"mgmt": [f"{GUEST}/24"], "access": ["10.10.0.11/24"], "core": ["10.20.0.11/24"]}
    ethernets = {
        name: {
            "match": {"macaddress": mac(name)},
            "set-name": name,
            "addresses": own[name],
            "dhcp4": False,
            "dhcp6": False,
        }
        for name in NETWORKS
    }
    (work / "network-config").write_text(json.dumps({"version": 2, "ethernets": ethernets}))
    disk = work / "seed.img"
    disk.write_bytes(b"")
    os.truncate(disk, 4 << 20)
    run("mkfs.vfat", "-n", "CIDATA", disk)
    run(
        "mcopy", "-i", disk, *(work / n for n in ("meta-data", "user-data", "network-config")), "::"
    )
    return disk


def wait(what: str, holds: Callable[[], object], seconds: float) -> Any:
    """What `holds` gives once it is true. Raises Failed with what was last found instead."""
    until, last = time.monotonic() + seconds, ""
    while True:
        try:
            found = holds()
            if found:
                return found
        except Failed as problem:
            last = f": {problem}"
        if time.monotonic() > until:
            raise Failed(f"not within {seconds:.0f} s: {what}{last}")
        time.sleep(0.5)


def check(what: str, good: object, found: object = "") -> None:
    if not good:
        raise Failed(f"{what}{f': found {found}' if found != '' else ''}")
    say(f"ok: {what}")


# What a machine that is up must show.


def services(vm: Machine) -> None:
    for unit in UNITS:
        shown = vm.properties(unit, "ActiveState", "StatusText", "NRestarts", "Type")
        good = shown["ActiveState"] == "active" and shown["StatusText"]
        check(f"{unit}: {shown['StatusText']}", good, shown)
    failed = vm.ssh("systemctl --failed --plain --no-legend").split()
    check("no unit has failed", not failed, " ".join(failed))
    asked = json.loads(vm.ssh("sudo bgfctl ready --json"))
    check("bgfctl ready", asked["ready"] is True, asked)


def packet_path(vm: Machine) -> None:
    """The program is on virtio-net, in the driver where it can be, on Debian's own kernel."""
    kernel = vm.ssh("uname -r").strip()
    check(f"Debian's kernel: {kernel}", "cloud-amd64" in kernel, kernel)
    for name in ("access", "core"):
        link = json.loads(vm.ssh(f"ip -j -d link show {name}"))[0]
        driver = vm.ssh(f"readlink /sys/class/net/{name}/device/driver").strip().rpartition("/")[2]
        modes = {attached["mode"] for attached in link.get("xdp", {}).get("attached", [])}
        modes |= {link["xdp"]["mode"]} if "mode" in link.get("xdp", {}) else set()
        check(
            f"{name}: XDP in {driver}, native",
            driver == "virtio_net" and 1 in modes,
            link.get("xdp"),
        )
    channels = vm.ssh("ls -d /sys/class/net/access/queues/rx-*").split()
    check(f"{len(channels)} receive queues", len(channels) == vm.cores, channels)


def quiet(vm: Machine) -> None:
    """Nothing listens that should not."""
    listening = set()
    for line in vm.ssh("sudo ss -Hltun").splitlines():
        protocol, _, _, _, local = line.split()[:5]
        address = local.replace("%lo", "").replace("%mgmt", "")
        if address.rpartition(":")[0] in ("0.0.0.0", "[::]", "*"):
            address = address.rpartition(":")[2]
        listening.add(f"{protocol} {address}")
    check(
        f"listening: {', '.join(sorted(listening))}", listening <= LISTENERS, listening - LISTENERS
    )
    settings = {"net.core.rmem_max": "8388608", "kernel.panic": "10"}
    for name, wanted in settings.items():
        found = vm.ssh(f"sudo sysctl -n {name}").strip()
        check(f"{name} = {found}", found == wanted, found)
    removes = vm.ssh("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 "
                     "org.freedesktop.login1.Manager RemoveIPC").strip()  # fmt: skip
    check("RemoveIPC=no", removes == "b false", removes)


def journal(vm: Machine) -> None:
    found = vm.ssh("sudo journalctl -o json -u bgf-gateway BGF_GROUP=g1 BGF_REASON=active -n 1")
    entry = json.loads(found) if found.strip() else {}
    check(
        f"journal: BGF_GROUP=g1 BGF_EPOCH={entry.get('BGF_EPOCH')}", entry.get("BGF_EPOCH"), found
    )


def sandbox(vm: Machine) -> None:
    """As the kernel sees them: a user without power, and what capabilities are left."""
    wanted = {"bgf-state": 0, "bgf-gateway": 0xC000003000, "bgf-failover": 0x8000003000}
    for unit, bits in wanted.items():
        pid = vm.properties(unit, "MainPID")["MainPID"]
        status = vm.ssh(f"cat /proc/{pid}/status")
        pairs = (line.split(":", 1) for line in status.splitlines() if ":" in line)
        said = {name: value.split() for name, value in pairs}
        held = int(said["CapEff"][0], 16)
        good = held == bits and said["Uid"][0] != "0" and said["Seccomp"][0] == "2"
        check(f"{unit}: user {said['Uid'][0]}, capabilities {held:#x}, seccomp", good, status)


def calls(vm: Machine, package: Path | None) -> None:
    """RTP both ways through a call, while what may happen to the processes happens."""

    def through(what: str, during: Callable[[], None], seconds: float = 2.0) -> None:
        before = call.sent
        during()
        call.carry(seconds)
        lost = call.lost()
        check(f"{what}: {call.sent - before} packets, {lost} lost", lost == 0, lost)

    with Call(CONTROL, MEDIA, CALLER, CALLEE) as call:
        through("a call's packets pass, both ways", lambda: None, 5)
        through("bgf-gateway restarted", lambda: vm.restart("bgf-gateway"))
        wait("bgf-gateway answers", call.answers, SETTLE_S)
        through("bgf-failover restarted", lambda: vm.restart("bgf-failover"))
        hang(vm, through)
        if package is not None:
            through("the package upgraded", lambda: upgrade(vm, package))
        check("the call is still known, and ends", call.end())


def hang(vm: Machine, through: Callable[[str, Callable[[], None]], None]) -> None:
    """A process that stands still is found by the watchdog, and started anew."""
    unit = "bgf-gateway"
    old = vm.properties(unit, "MainPID")["MainPID"]
    vm.ssh(f"sudo kill -STOP {old}")

    def again() -> bool:
        shown = vm.properties(unit, "MainPID", "ActiveState")
        return shown["MainPID"] not in ("0", old) and shown["ActiveState"] == "active"

    through(f"{unit} stopped in its tracks", lambda: wait(f"{unit} started anew", again, SETTLE_S))
    said = vm.ssh(f"sudo journalctl -u {unit} -o cat -n 200")
    check("the watchdog says so", "Watchdog timeout" in said, said[-300:])


def upgrade(vm: Machine, package: Path) -> None:
    """A later version over the running one: it restarts nothing."""
    pids = [vm.properties(unit, "MainPID")["MainPID"] for unit in UNITS]
    vm.copy(package, "/tmp/next.deb")
    vm.ssh("sudo dpkg -i /tmp/next.deb")
    now = [vm.properties(unit, "MainPID")["MainPID"] for unit in UNITS]
    check("an upgrade restarts nothing", pids == now, (pids, now))


def pages(vm: Machine) -> None:
    """What the page on bare machines types on a node, line by line."""
    text = PAGE.read_text()
    blocks = re.findall(r"^```sh on a node\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line]
    for line in lines:
        vm.ssh(line, 120)
    check(f"{PAGE.name}: {len(lines)} commands run", lines)


def later(work: Path, deb: Path) -> Path:
    """The same package as a later version."""
    run("dpkg-deb", "-R", deb, work / "later")
    control = work / "later/DEBIAN/control"
    text = control.read_text().splitlines()
    control.write_text(
        "".join(f"{line}+next1\n" if line.startswith("Version:") else f"{line}\n" for line in text)
    )
    made = work / "later.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", work / "later", made)
    return made


def come_up(vm: Machine, seconds: float) -> None:
    """Until it is ready, from the outside in."""

    def active() -> bool:
        found = (vm.properties(unit, "ActiveState") for unit in UNITS)
        return all(shown["ActiveState"] == "active" for shown in found)

    wait("ssh answers", vm.answers, seconds)
    wait("all units are active", active, SETTLE_S)
    wait("bgfctl ready", lambda: vm.ssh("sudo bgfctl ready"), SETTLE_S)


def test(image: Path, accel: str, work: Path) -> dict[str, float]:
    key = work / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    disk = work / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", disk, "4G")
    seeded = seed(work, key.with_suffix(".pub").read_text().strip())
    debs = sorted(LOGS.glob("bgf_*.deb"))
    package = later(work, debs[-1]) if debs else None
    took = {}
    nics = {name: (f"t-{name}", mac(name)) for name in NETWORKS}
    for number, firmware in ((1, "bios"), (2, "uefi")):
        say(f"boot {number}, {firmware}, {accel}")
        began = time.monotonic()
        vm = Machine(
            work=work,
            disk=disk,
            seed=seeded,
            nics=nics,
            firmware=firmware,
            accel=accel,
            address=GUEST,
            key=key,
        )
        try:
            come_up(vm, BOOT_S[accel])
            took[firmware] = time.monotonic() - began
            say(f"ready {took[firmware]:.0f} s after power-on; {vm.boot_time()}")
            for part in (services, packet_path, quiet, journal, sandbox, pages):
                part(vm)
            calls(vm, package if number == 1 else None)
            grown = int(vm.ssh("df --output=size -m / | tail -1"))
            check(f"the root file system has grown to {grown} MiB", grown > 3000, grown)
            vm.shut_down()
        except Failed:
            with contextlib.suppress(Failed):
                (LOGS / "image-test-journal.log").write_text(
                    vm.ssh("sudo journalctl -b --no-pager")
                )
            raise
        finally:
            vm.close()
    return took


def inside(image: Path, accel: str) -> int:
    work = Path(tempfile.mkdtemp(prefix="bgf-image-test.", dir="/var/tmp"))
    try:
        with networks():
            took = test(image, accel, work)
    except Failed as problem:
        LOGS.mkdir(exist_ok=True)
        for console in work.glob("console-*.log"):
            shutil.copy(console, LOGS / f"image-test-{console.name}")
        say(f"FAILED: {problem}")
        say(f"the consoles are in {LOGS}/image-test-console-*.log")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = image.stat().st_size / (1 << 20)
    boots = ", ".join(f"{firmware} {seconds:.0f} s" for firmware, seconds in took.items())
    say(f"image {size:.0f} MiB; from power-on to ready ({accel}): {boots}")
    return 0


def accelerator() -> str:
    """KVM where it works; else pure emulation, which is slower and as good."""
    probe = ["qemu-system-x86_64", "-accel", "kvm", "-machine", "none", "-monitor", "stdio"]
    if not Path("/dev/kvm").exists():
        return "tcg"
    done = subprocess.run(
        [*probe, "-display", "none"], input=b"quit\n", capture_output=True, check=False
    )
    return "kvm" if done.returncode == 0 else "tcg"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", nargs="?", type=Path, help="default: the one in dist/")
    parser.add_argument("--accel", choices=("kvm", "tcg"), help="default: kvm where it works")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("test.py: not root: taps and namespaces need it; run with sudo", file=sys.stderr)
        return 3
    images = sorted(LOGS.glob("bgf_*.qcow2"))
    image = options.image or (images[-1] if images else None)
    if image is None or not image.exists():
        print(f"test.py: no image in {LOGS}: make image", file=sys.stderr)
        return 3
    accel = options.accel or accelerator()
    if options.inside:
        return inside(image.resolve(), accel)
    namespace = f"bgfimg-{os.getpid()}"
    run("ip", "netns", "add", namespace)
    try:
        again = [sys.executable, __file__, str(image), "--accel", accel, "--inside"]
        return subprocess.run(["ip", "netns", "exec", namespace, *again], check=False).returncode
    finally:
        run("ip", "netns", "del", namespace)


if __name__ == "__main__":
    sys.exit(main())
