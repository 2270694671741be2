"""A virtual machine under QEMU, as a cloud gives it: disk, seed, three multiqueue virtio networks.

Knows QEMU's options, the console, ssh. Must not know what the machine is for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

CORES: Final = 2
MEMORY_MIB: Final = 1536
PATIENCE: Final = float(os.environ.get("BGF_PATIENCE", "1"))
"""Every wait is so many times as long: for a machine that others keep busy. Measures nothing."""
SSH_S: Final = 120 * PATIENCE
SHUT_DOWN_S: Final = 120 * PATIENCE
TRANSLATED_MIB: Final = 512
"""Without KVM: room for translated code. The default is small for a whole system of Python."""
ACCEL: Final = {"kvm": "kvm", "tcg": f"tcg,thread=multi,tb-size={TRANSLATED_MIB}"}
CONSOLE_CHARS: Final = 100
OVMF_CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_began = time.monotonic()


class Failed(Exception):
    """The test's word for what is not as it should be."""


def say(text: str) -> None:
    print(f"image-test: [{time.monotonic() - _began:4.0f} s] {text}", flush=True)


def wait(what: str, holds: Callable[[], object], seconds: float) -> Any:
    """What `holds` gives once it is true. Raises Failed with what was last found instead."""
    seconds *= PATIENCE
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


class Machine:
    """Powered on when made; `close` cuts the power. `nics`: name -> (tap, MAC)."""

    cores = CORES

    def __init__(
        self,
        *,
        work: Path,
        disk: Path,
        seed: Path,
        nics: Mapping[str, tuple[str, str]],
        firmware: str,
        accel: str,
        address: str,
        key: Path,
    ) -> None:
        self._console = work / f"console-{firmware}.log"
        self._told = ""
        self._told_at = time.monotonic()
        self._ssh = [
            *("ssh", "-q", "-i", str(key), "-o", "StrictHostKeyChecking=no"),
            *(
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "ConnectTimeout=5",
                "-o",
                "BatchMode=yes",
            ),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={work}/ssh-{firmware}"),
            *("-o", "ControlPersist=60"),
        ]
        self._who = f"debian@{address}"
        argv = ["qemu-system-x86_64", "-name", "bgf-image-test", "-nodefaults", "-display", "none"]
        argv += ["-machine", "pc" if firmware == "bios" else "q35", "-accel", ACCEL[accel]]
        # of the host, KVM within KVM may refuse this and that
        argv += ["-cpu", "qemu64" if accel == "kvm" else "max"]
        argv += ["-smp", str(CORES), "-m", str(MEMORY_MIB), "-device", "virtio-rng-pci"]
        argv += ["-serial", f"file:{self._console}"]
        argv += ["-drive", f"if=virtio,file={disk},format=qcow2,cache=unsafe"]
        argv += ["-drive", f"if=virtio,file={seed},format=raw,readonly=on"]
        if firmware == "uefi":
            variables = work / "vars.fd"
            variables.write_bytes(OVMF_VARS.read_bytes())
            argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}"]
            argv += ["-drive", f"if=pflash,format=raw,file={variables}"]
        for name, (tap, mac) in nics.items():
            argv += [
                "-netdev",
                f"tap,id={name},ifname={tap},script=no,downscript=no,queues={CORES}",
            ]
            card = f"virtio-net-pci,netdev={name},mac={mac},rx_queue_size=1024"
            argv += ["-device", f"{card},mq=on,vectors={2 * CORES + 2}"]
        self._log = (work / f"qemu-{firmware}.log").open("wb")
        self._qemu = subprocess.Popen(argv, stdout=self._log, stderr=self._log)
        self._qemu_log = work / f"qemu-{firmware}.log"

    def answers(self) -> bool:
        """Does ssh? Meanwhile the console's last line is the progress."""
        if self._qemu.poll() is not None:
            said = self._qemu_log.read_text("utf-8", "replace").strip()[-300:]
            raise SystemExit(f"image-test: QEMU ended: {said}")
        self._progress()
        return self._run("true", 15 * PATIENCE).returncode == 0

    def _progress(self) -> None:
        try:
            lines = self._console.read_text("utf-8", "replace").split("\n")
        except OSError:
            return
        last = next((x for x in map(_printable, reversed(lines)) if x.strip()), "")
        due = sys.stdout.isatty() or time.monotonic() - self._told_at > 10
        if last != self._told and due:
            self._told, self._told_at = last, time.monotonic()
            say(f"console: {last[:CONSOLE_CHARS]}")

    def ssh(self, command: str, timeout: float = SSH_S) -> str:
        """What the command prints. Raises Failed."""
        done = self._run(command, timeout)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-300:]
            raise Failed(f"`{command}` ended with {done.returncode}: {said}")
        return done.stdout

    def _run(self, command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self._ssh, self._who, command],
                capture_output=True, text=True, timeout=timeout, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"`{command}` has not ended after {timeout:.0f} s") from None

    def copy(self, file: Path, to: str) -> None:
        with file.open("rb") as source:
            done = subprocess.run(
                [*self._ssh, self._who, f"cat >{to}"],
                stdin=source,
                capture_output=True,
                check=False,
            )
        if done.returncode:
            raise Failed(f"could not copy {file.name}: {done.stderr.decode()[-200:]}")

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        said = self.ssh(f"systemctl show {unit} -p {','.join(names)}")
        return {line.partition("=")[0]: line.partition("=")[2] for line in said.splitlines()}

    def restart(self, unit: str) -> None:
        self.ssh(f"sudo systemctl restart {unit}")

    def boot_time(self) -> str:
        return self.ssh("systemd-analyze time").partition("\n")[0].strip()

    def shut_down(self) -> None:
        self._run("sudo systemctl poweroff", 30)
        try:
            self._qemu.wait(SHUT_DOWN_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"has not shut down within {SHUT_DOWN_S} s") from None

    def close(self) -> None:
        if self._qemu.poll() is None:
            self._qemu.kill()
        self._qemu.wait()
        self._log.close()


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
