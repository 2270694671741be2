"""Two network namespaces with a cable between them, and processes in them that can be paused.

Knows: ip(8), signals. Must not know what runs there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from statestore.errors import Unavailable

HOSTS: Final = ("10.211.77.1", "10.211.77.2")
NAME: Final = re.compile(r"dal-bench-(\d+)-\d")
FRAME_BYTES: Final = 14 + 20 + 8
"""Ethernet, IPv4 and UDP: what a veth counts besides the datagram."""
END_S: Final = 10.0


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _sweep() -> None:
    """Namespaces of a run that was killed."""
    for line in _ip("netns", "list").splitlines():
        name = line.partition(" ")[0]
        found = NAME.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class TwoHosts:
    """Host 0 and host 1, gone with the `with`."""

    def __init__(self) -> None:
        self._names = tuple(f"dal-bench-{os.getpid()}-{number}" for number in range(2))
        self._cable = f"dlb{os.getpid() % 100_000}"

    def __enter__(self) -> Self:
        if os.getuid() != 0:
            raise Unavailable("network namespaces need root")
        _sweep()
        try:
            for name in self._names:
                _ip("netns", "add", name)
            ends = [f"{self._cable}{end}" for end in "ab"]
            _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for name, end, host in zip(self._names, ends, HOSTS, strict=True):
                _ip("link", "set", end, "netns", name, "name", "cable")
                _ip("-n", name, "addr", "add", f"{host}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "cable", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        link = ["ip", "link", "del", f"{self._cable}a"]  # only when half made
        subprocess.run(link, capture_output=True, check=False)

    def inside(self, host: int) -> list[str]:
        """A command's beginning, so that it runs on that host."""
        return ["ip", "netns", "exec", self._names[host]]

    def traffic(self) -> tuple[int, int, int, int]:
        """Seen by host 0: packets out, bytes out, packets in, bytes in."""
        shown = json.loads(_ip("-n", self._names[0], "-j", "-s", "link", "show", "dev", "cable"))
        counted = shown[0]["stats64"]
        out, back = counted["tx"], counted["rx"]
        return out["packets"], out["bytes"], back["packets"], back["bytes"]


def datagram_bytes(before: Sequence[int], after: Sequence[int]) -> tuple[int, int]:
    """Mean size of the datagrams out and back between two `traffic`."""
    out, out_bytes, back, back_bytes = (b - a for a, b in zip(before, after, strict=True))
    if not out or not back:
        raise Unavailable("nothing went over the cable")
    return round(out_bytes / out) - FRAME_BYTES, round(back_bytes / back) - FRAME_BYTES


class Spinner:
    """A process that says `ready ...`, may spin, ends with its input, and can be paused meanwhile,
    so that two of them never share a processor."""

    def __init__(self, command: Sequence[str], cwd: str | None = None) -> None:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        self.said = self._answer()
        if not self.said.startswith("ready"):
            self.end()
            raise Unavailable(f"{command[-1]}: did not get ready: {self.said!r}")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """One line in, one line out."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.resume()
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
