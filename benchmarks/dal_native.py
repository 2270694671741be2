"""The benchmark's C programs: built with gcc into a temporary directory, run, their figures read.

Knows: benchmarks/native, how an NF links with libdal. Must not know what the figures mean.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from statestore.errors import Unavailable

SOURCES: Final = Path(__file__).resolve().parent / "native"
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
RUN_S: Final = 300
SERVER_CPU: Final = 1
CLIENT_CPU: Final = 0


def pinned(cpu: int, command: Sequence[str]) -> list[str]:
    """The command on one processor: two that spin must not meet."""
    return ["taskset", "-c", str(cpu), *command]


class Natives:
    """The built programs."""

    def __init__(self, directory: Path) -> None:
        """Raises Unavailable with the compiler's first line."""
        self._directory = directory
        self._build("dal_client", dal_flags())
        self._build("udp_echo", [])
        self._build("redis_client", ["-lhiredis"])

    def _build(self, name: str, libraries: Sequence[str]) -> None:
        if shutil.which("gcc") is None:
            raise Unavailable("gcc is missing; scripts/setup.sh installs it")
        source = SOURCES / f"{name}.c"
        command = ["gcc", *FLAGS, str(source), "-o", self.path(name), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"{source}: {done.stderr.partition(chr(10))[0]}")

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def run(
        self, name: str, *arguments: object, inside: Sequence[str] = (), cpu: int | None = None
    ) -> dict[str, float]:
        """Run to the end: its figures by name. Raises Unavailable with what it said."""
        command = [self.path(name), *map(str, arguments)]
        if cpu is not None:
            command = pinned(cpu, command)
        done = subprocess.run(
            [*inside, *command], capture_output=True, text=True, check=False, timeout=RUN_S
        )
        if done.returncode != 0:
            raise Unavailable(f"{name}: {done.stderr.strip() or f'status {done.returncode}'}")
        return figures(done.stdout)


def figures(text: str) -> dict[str, float]:
    """`name value` lines."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2}


def dal_flags() -> list[str]:
    """What the installed package tells an NF's compiler and linker."""
    command = [sys.executable, "-m", "statestore", "--cflags", "--libs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(done.stderr.strip())
    return shlex.split(done.stdout)
