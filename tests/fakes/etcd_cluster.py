"""A real etcd cluster on loopback: members that a test kills, stops and starts again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from bgf.lab.etcd import EtcdMember, endpoints

HOST = "127.0.0.1"
PATIENCE_S = 60.0
STEP_S = 0.02


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds; the patience is for a loaded machine, not part of what is tested."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(STEP_S)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class EtcdCluster:
    """`size` members with their data below `directory`; all ended by leaving the `with`."""

    def __init__(self, directory: Path, size: int = 3) -> None:
        ports = _free_ports(2 * size)
        self.members = [
            EtcdMember(f"e{i}", HOST, directory / f"e{i}", ports[2 * i], ports[2 * i + 1])
            for i in range(size)
        ]
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for at in range(len(self.members)):
                self.start(at)
            self.wait_healthy()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def endpoints(self) -> list[str]:
        return endpoints(self.members)

    def start(self, at: int) -> None:
        """Start a member, for the first time or after its death, on the data that it has."""
        with (self._directory / f"e{at}.log").open("ab") as log:
            self._running[at] = subprocess.Popen(
                # it must not outlive a test run that is killed
                ["setpriv", "--pdeathsig", "KILL", "--", *self.members[at].argv(self.members)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, at: int) -> None:
        """SIGKILL; it is gone when this returns."""
        process = self._running.pop(at)
        process.kill()
        process.wait()

    def forget(self, at: int) -> None:
        """Remove a dead member's data."""
        shutil.rmtree(self.members[at].data_dir)

    def pause(self, at: int) -> None:
        self._running[at].send_signal(signal.SIGSTOP)

    def resume(self, at: int) -> None:
        self._running[at].send_signal(signal.SIGCONT)

    def leader(self) -> int:
        """Which member leads; waits for there to be one."""
        found: list[int] = []

        def one_leads() -> bool:
            found[:] = [at for at in self._running if self.members[at].leads()]
            return len(found) == 1

        eventually(one_leads, "etcd has a leader")
        return found[0]

    def wait_healthy(self) -> None:
        for at in list(self._running):
            eventually(self.members[at].healthy, f"etcd member {at} is healthy")

    def end(self) -> None:
        for at in list(self._running):
            self.kill(at)
