"""The lab's slow disk: flushes wait, nothing else does, and what waits can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("gcc") is None, reason="needs root and gcc"
)

DELAY_MS = 300
# Prints how long each of three flushes took, and another system call, in ms.
FLUSHES = """
import os, sys, time
file = open(sys.argv[1], "wb", buffering=0)
for work in (os.fsync, os.fdatasync, os.fsync, os.fstat):
    file.write(b"x")
    began = time.monotonic()
    work(file.fileno())
    print((time.monotonic() - began) * 1000, flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("slowdisk") / "slowdisk"
    with resources.as_file(resources.files("bgf.lab") / "slowdisk.c") as source:
        subprocess.run(
            ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-o", made, source],
            check=True,
            timeout=60,
        )
    yield made


def _started(program: Path, directory: Path, delay_ms: int) -> subprocess.Popen[str]:
    delay = directory / "delay"
    delay.write_bytes(struct.pack("=q", delay_ms))
    command = [sys.executable, "-c", FLUSHES, str(directory / "data")]
    return subprocess.Popen([str(program), str(delay), *command], stdout=subprocess.PIPE, text=True)


def test_a_flush_waits_as_long_as_it_is_told(program: Path, tmp_path: Path) -> None:
    child = _started(program, tmp_path, DELAY_MS)
    assert child.stdout is not None
    took_ms = [float(child.stdout.readline())]
    (tmp_path / "delay").open("r+b").write(struct.pack("=q", 0))  # no more, from now on
    took_ms += [float(line) for line in child.stdout]
    assert child.wait(60) == 0
    assert took_ms[0] >= DELAY_MS - 1 and len(took_ms) == 4


def test_nothing_else_waits_and_who_waits_can_be_killed(program: Path, tmp_path: Path) -> None:
    child = _started(program, tmp_path, 60_000)
    deadline = time.monotonic() + 60
    while not (tmp_path / "data").exists() or not (tmp_path / "data").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)  # it flushes now
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    while _of(program):
        assert time.monotonic() < deadline, "the one who held it up has stayed"
        time.sleep(0.01)


def _of(program: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.split(b"\0")[0] == str(program).encode():
                found.append(entry.name)
    return found
