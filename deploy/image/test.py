"""`make image-test`: boots the image under QEMU as a cloud would, and calls through it. Twice.

Knows the order of boots, looks and breakages. Must not know how the image was made. All of it runs
in a network namespace of its own, which is the gateway's outside world: three taps are its
management, access and core networks, caller and callee live at their ends. The first boot is by
BIOS, the second one, of the same disk, by UEFI. BGF_PATIENCE=4 waits four times as long.
Usage: test.py [IMAGE] [--accel tcg]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import health
import seed
from health import UNITS
from machine import PATIENCE, Failed, Machine, check, say, wait
from media import Call

ROOT: Final = Path(__file__).parents[2]
LOGS: Final = ROOT / "dist"
BOOT_S: Final = {"kvm": 400, "tcg": 1_200}
"""How long a boot may take until everything is ready; a busy machine is no failure."""
SETTLE_S: Final = 240
TRIES: Final = max(1, int(PATIENCE))
"""How often something may be done until it costs no packet: once, unless patience is asked for."""
LEASE_S: Final = 3.0
"""Of the profile `safe`: for so long the packet path stays open without `bgf failover`."""
ETCD_S: Final = 30
"""Until etcd has ended."""
LOOKS: Final = (
    *(health.services, health.first_boot, health.packet_path, health.quiet),
    *(health.journal, health.sandbox, health.pages, health.state_node),
)
CALLER: Final = ("10.10.0.1", 40_000)
CALLEE: Final = ("10.20.0.1", 50_000)


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
    for name, addresses in seed.OUTSIDE.items():
        # As many queues as the machine has cores: what a cloud with multiqueue gives.
        run("ip", "tuntap", "add", f"t-{name}", "mode", "tap", "multi_queue")
        for address in addresses:
            run("ip", "address", "add", address, "dev", f"t-{name}", "nodad")
        run("ip", "link", "set", f"t-{name}", "up")
    yield


@contextlib.contextmanager
def etcd(work: Path) -> Iterator[None]:
    """The cluster's registry, outside: one member, which outlives a boot."""
    peer = seed.ETCD.replace("2379", "2380")
    argv = ["etcd", "--name=etcd1", f"--data-dir={work}/etcd", "--log-level=error"]
    argv += [f"--listen-client-urls={seed.ETCD}", f"--advertise-client-urls={seed.ETCD}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    with (work / "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, f"--initial-cluster=etcd1={peer}"], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(ETCD_S)


def calls(vm: Machine, package: Path | None) -> None:
    """RTP both ways through a call, while what may happen to the processes happens."""

    def through(what: str, during: Callable[[], None], seconds: float = 2.0) -> None:
        for left in reversed(range(TRIES)):
            before, already = call.sent, call.lost()
            during()
            call.carry(seconds)
            lost = call.lost() - already
            if not lost or not left:
                break
            # starved for longer than the owner's lease, the packet path closes, as it must
            say(f"{what}: {lost} packets lost; once more, in case this machine was too busy")
            wait("bgfctl ready", lambda: vm.ssh("sudo bgfctl ready"), SETTLE_S)
            wait("bgf-gateway answers", call.answers, SETTLE_S)
        check(f"{what}: {call.sent - before} packets, {lost} lost", lost == 0, lost)

    with Call(seed.CONTROL, seed.MEDIA, CALLER, CALLEE) as call:
        through("a call's packets pass, both ways", lambda: None, 5)
        through("bgf-gateway restarted", lambda: vm.restart("bgf-gateway"))
        wait("bgf-gateway answers", call.answers, SETTLE_S)
        already, began = call.lost(), time.monotonic()
        vm.restart("bgf-failover")
        if time.monotonic() - began > LEASE_S:
            # longer than the owner's lease, as under emulation: the packet path closes, as it must
            say("bgf-failover restarted: longer than the lease, so what was lost is not counted")
            wait("bgfctl ready", lambda: vm.ssh("sudo bgfctl ready"), SETTLE_S)
            through("bgf-failover restarted, and ready", lambda: None)
        else:
            call.carry(2.0)
            lost = call.lost() - already
            check(f"bgf-failover restarted: {lost} packets lost", lost == 0)
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


def again(vm: Machine) -> None:
    """The node stopped and started as a whole, as after an upgrade."""
    vm.restart("bgf.target")
    wait(
        "bgfctl ready after a restart of bgf.target", lambda: vm.ssh("sudo bgfctl ready"), SETTLE_S
    )
    check("bgf.target restarted, ready again", True)


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
    seeded = seed.make(work, key.with_suffix(".pub").read_text().strip())
    debs = sorted(LOGS.glob("bgf_*.deb"))
    package = later(work, debs[-1]) if debs else None
    took = {}
    nics = {name: (f"t-{name}", seed.mac(name)) for name in seed.OUTSIDE}
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
            address=seed.GUEST,
            key=key,
        )
        try:
            come_up(vm, BOOT_S[accel])
            took[firmware] = time.monotonic() - began
            say(f"ready {took[firmware]:.0f} s after power-on")
            say(wait("the boot is over", vm.boot_time, SETTLE_S))
            for look in LOOKS:
                look(vm)
            calls(vm, package if number == 1 else None)
            again(vm)
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
    work = Path(
        tempfile.mkdtemp(prefix="bgf-image-test.", dir=os.environ.get("TMPDIR", "/var/tmp"))
    )
    try:
        with networks(), etcd(work):
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
    flags = set(re.findall(r"\b(?:vmx|svm)\b", Path("/proc/cpuinfo").read_text()))
    if not Path("/dev/kvm").exists() or not flags:
        # a KVM without the processor's help interprets a boot loader for hours
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
    # told to end: what was begun is taken away all the same
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
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
