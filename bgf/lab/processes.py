"""Starting and ending the lab's processes: in a namespace, by pid and start time, never by name.

Knows: fork/exec through `nsenter`, /proc, process groups. Must not know what a process is for.
A process is recorded in `processes.jsonl` with its start time, since pids recur, and carries the
variable BGF_LAB=<run dir> in its environment, so that one whose record was lost (we were killed
in between) and the children of a recorded one are found as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces

TAG = "BGF_LAB"
RECORDS_MAX = 10_000
STOP_GRACE_MS = 4_000
KILL_GRACE_MS = 4_000
POLL_MS = 20
LOG_TAIL_LINES = 3
LOG_TAIL_BYTES = 4_096


class Process(msgspec.Struct, frozen=True):
    """A started process. `start_ticks` is field 22 of /proc/PID/stat: with the pid, an identity."""

    pid: int
    start_ticks: int
    name: str
    node: str


def start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 when it is gone or a zombie.

    Not yet while other threads of it are: they have its sockets (proc(5), state and num_threads).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text[text.rfind(")") + 2 :].split()
    if len(fields) < 20 or fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1):
        return 0
    return int(fields[19])


def is_alive(process: Process) -> bool:
    # One that was gone before its start time could be read has 0, as has one that is gone now.
    return process.start_ticks != 0 and start_ticks(process.pid) == process.start_ticks


def _signal(process: Process, number: int) -> None:
    """To the process and its group, if it is still the one that we started."""
    if not is_alive(process):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)


class Processes:
    """All processes of the lab in `run_dir`, whoever of us started them."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.log_dir = run_dir / "log"
        self._record = run_dir / "processes.jsonl"
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        namespace: str,
        argv: Sequence[str],
        *,
        node: str = "",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `argv` in `namespace`; output goes to log/<node->name.log.

        Raises EnvironmentProblem when the program cannot be executed.
        """
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with self.log_of(name, node).open("ab") as log:
            try:
                child = subprocess.Popen(
                    ["nsenter", f"--net={namespaces.path_of(namespace)}", "--", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=cwd or self.run_dir,
                    env={**os.environ, **(environment or {}), TAG: str(self.run_dir)},
                    start_new_session=True,
                )
            except OSError as problem:
                raise EnvironmentProblem(
                    f"cannot start {name} in {namespace}: {problem.strerror} (nsenter is in the "
                    "Debian package util-linux)"
                ) from None
        process = Process(child.pid, start_ticks(child.pid), name, node)
        self._children[child.pid] = child
        with self._record.open("ab") as record:
            record.write(msgspec.json.encode(process) + b"\n")
        return process

    def log_of(self, name: str, node: str = "") -> Path:
        return self.log_dir / (f"{node}-{name}.log" if node else f"{name}.log")

    def tail(self, process: Process) -> str:
        """The last lines of a process's log, joined: what a failure message should carry."""
        return self.last_words(process.name, process.node)

    def last_words(self, name: str, node: str = "") -> str:
        """As `tail`, of a process that is known by its name alone."""
        try:
            with self.log_of(name, node).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return " / ".join(lines[-LOG_TAIL_LINES:])

    def exit_status(self, process: Process) -> int | None:
        """Exit code of one of our children, None while it runs (negative: by that signal)."""
        child = self._children.get(process.pid)
        if child is None:
            return None if is_alive(process) else -1
        return child.poll()

    def recorded(self) -> list[Process]:
        try:
            lines = self._record.read_bytes().splitlines()[:RECORDS_MAX]
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Process))
        return found

    def running(self, node: str | None = None) -> list[Process]:
        """Recorded processes that are alive, of one node or of all."""
        for child in self._children.values():
            child.poll()
        return [p for p in self.recorded() if (node is None or p.node == node) and is_alive(p)]

    def _tagged(self) -> list[Process]:
        """Every process that carries this lab's tag, recorded or not."""
        tag = f"{TAG}={self.run_dir}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if tag in (entry / "environ").read_bytes().split(b"\0"):
                    pid = int(entry.name)
                    ticks = start_ticks(pid)
                    if ticks:
                        found.append(Process(pid, ticks, "", ""))
        return found

    def kill_now(self, targets: Iterable[Process]) -> None:
        """SIGKILL, no goodbye. The signals are on their way when this returns."""
        for process in targets:
            _signal(process, signal.SIGKILL)

    def end_now(self, targets: Sequence[Process]) -> None:
        """The same; returns when they are gone."""
        self.kill_now(targets)
        self._gone(targets, KILL_GRACE_MS)

    @contextlib.contextmanager
    def aimed_at(
        self, targets: Iterable[Process], number: signal.Signals = signal.SIGKILL
    ) -> Iterator[Callable[[], None]]:
        """A function that sends a signal to all of `targets` without looking anything up."""
        with contextlib.ExitStack() as stack:
            descriptors = []
            for process in targets:
                with contextlib.suppress(ProcessLookupError):
                    descriptor = os.pidfd_open(process.pid)
                    stack.callback(os.close, descriptor)
                    if is_alive(process):
                        descriptors.append(descriptor)

            def kill() -> None:
                for descriptor in descriptors:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, number)

            yield kill

    def stop(self, targets: Sequence[Process]) -> None:
        """SIGTERM, a grace period, SIGKILL; returns when they are gone."""
        for process in targets:
            _signal(process, signal.SIGTERM)
        if not self._gone(targets, STOP_GRACE_MS):
            self.kill_now(targets)
            self._gone(targets, KILL_GRACE_MS)

    def stop_all(self) -> list[Process]:
        """End everything of this lab, stray children included; returns what would not end."""
        self.stop(self.running())
        strays = self._tagged()
        if strays:
            self.kill_now(strays)
            self._gone(strays, KILL_GRACE_MS)
        self._children.clear()
        return self.running() + self._tagged()

    def _gone(self, targets: Sequence[Process], grace_ms: int) -> bool:
        deadline = time.monotonic() + grace_ms / 1000
        while True:
            for child in self._children.values():
                child.poll()
            if not any(is_alive(process) for process in targets):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_MS / 1000)
