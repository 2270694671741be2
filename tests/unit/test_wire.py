"""The wire encoding: round trips, every bound, and the layout written down once more."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [Path(__file__).with_name("wire_program.c"), ROOT / "statestore" / "wire.c"]
RUN_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = shutil.which("gcc")
    assert gcc is not None, "gcc is missing: apt-get install gcc"
    binary = tmp_path_factory.mktemp("wire") / "wire_program"
    command = [gcc, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += [f"-I{ROOT / 'statestore'}", *map(str, SOURCES), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return binary


def run(*command: str | Path) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_random_messages_and_lists_survive_and_damage_is_noticed(program: Path) -> None:
    assert run(program, "1", "3000") == "ok\n"


def test_the_layout(program: Path) -> None:
    op, place = 50, 3
    home = 5 | 3 << 4 | 9 << 6 | 0x8001 << 10 | 0x4002 << 26
    message = struct.pack("<BBBBI", op, 1, 3, 15, 0x7FFF)
    message += struct.pack("<9Q", *range(1, 9), 0x0102030405060708)
    message += struct.pack("<IQB", 0xA0B0C0D0, home, place)
    message += b"\x03key\x05fence" + struct.pack("<I", 5) + b"value"
    assert run(program, "vector").strip() == message.hex()
