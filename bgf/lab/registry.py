"""The lab's etcd: three members on the management network, and the cluster key of the nodes.

Knows: `etcd` members, `processes`, the plan's addresses. Must not know what is kept in etcd.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.etcd import EtcdMember
from bgf.lab.plan import Plan
from bgf.lab.processes import Processes

READY_TIMEOUT_MS = 15_000
POLL_MS = 20
KEY_BYTES = 32


class Registry:
    """etcd of one lab. Its data lies in memory and goes with the lab."""

    def __init__(self, plan: Plan, processes: Processes) -> None:
        self._plan = plan
        self._processes = processes
        self.members = tuple(
            EtcdMember(f"etcd{number}", host, plan.registry_dir / f"etcd{number}")
            for number, host in enumerate(plan.registry_hosts, start=1)
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def start_and_wait(self) -> None:
        """Start the members that do not run; wait until all answer.

        Raises EnvironmentProblem with the last words of one that has ended or stays silent.
        """
        running = {process.name for process in self._processes.running()}
        for member in self.members:
            if member.name not in running:
                argv = member.argv(self.members, token=f"lab-{self._plan.prefix}")
                self._processes.start(member.name, self._plan.registry, argv)
        deadline = time.monotonic() + READY_TIMEOUT_MS / 1000
        while silent := [name for name, healthy in self.healthy().items() if not healthy]:
            running = {process.name for process in self._processes.running()}
            ended = [name for name in silent if name not in running]
            if ended or time.monotonic() > deadline:
                name = (ended or silent)[0]
                what = "has ended" if ended else f"not ready after {READY_TIMEOUT_MS // 1000} s"
                raise EnvironmentProblem(
                    f"{name} {what}; its last words ({self._processes.log_of(name)}): "
                    f"{self._processes.last_words(name) or 'none'}"
                )
            time.sleep(POLL_MS / 1000)

    def restart(self, name: str, before: Sequence[str]) -> None:
        """End a member and start it again, by the command `before`; returns when all answer."""
        (member,) = (member for member in self.members if member.name == name)
        self._processes.stop([p for p in self._processes.running() if p.name == name])
        argv = member.argv(self.members, token=f"lab-{self._plan.prefix}")
        self._processes.start(name, self._plan.registry, [*before, *argv])
        self.start_and_wait()

    def healthy(self) -> dict[str, bool]:
        """Which members answer and know a leader; asked from where they live."""
        return namespaces.run_in(
            self._plan.registry, lambda: {m.name: m.healthy() for m in self.members}
        )

    def make_key(self) -> None:
        """The key that every state server and client of this lab is given, made once, 0600."""
        path = self._plan.key_file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        with os.fdopen(descriptor, "w") as file:
            file.write(f"1 {secrets.token_hex(KEY_BYTES)}\n")
