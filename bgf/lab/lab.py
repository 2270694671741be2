"""The lab as one thing: up, status, down. What `bgfctl lab` and the drill use.

Knows: the order of things. Everything it does is done by `topology`, `processes`, `nodes`, `sip`.
Each operation holds the lab's lock; `exclusive` holds it over several.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bgf import preflight
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab.nodes import KINDS, SESSIONS_MAX, Adjust, Nodes, Timers
from bgf.lab.plan import DEFAULT_PREFIX, DEFAULT_RUN_DIR, make_plan
from bgf.lab.processes import Process, Processes
from bgf.lab.registry import Registry
from bgf.lab.sip import SipPeers, require_packages
from bgf.lab.topology import Cutter, Topology, held, require_root

Progress = Callable[[str], None]


def check_machine(run_dir: Path) -> None:
    """Raises EnvironmentProblem: not root, kernel too old, no BPF, a Debian package missing."""
    require_root()
    preflight.require(preflight.lab(run_dir / "bpf"))
    require_packages()


@dataclass(slots=True)
class _Holding:
    """How many operations of this process hold the lock, one inside the other."""

    depth: int = 0


class Lab:
    """One lab, found by its run directory and prefix."""

    def __init__(
        self,
        run_dir: str | Path = DEFAULT_RUN_DIR,
        *,
        prefix: str = DEFAULT_PREFIX,
        actives: int = 2,
        standbys: int = 1,
        timers: Timers | None = None,
        sessions_max: int = SESSIONS_MAX,
        adjust: Adjust = lambda made: made,
    ) -> None:
        self.plan = make_plan(
            actives=actives, standbys=standbys, prefix=prefix, run_dir=Path(run_dir)
        )
        self.topology = Topology(self.plan)
        self.processes = Processes(self.plan.run_dir)
        self.registry = Registry(self.plan, self.processes)
        self.nodes = Nodes(self.plan, self.processes, timers, sessions_max, adjust)
        self.sip = SipPeers(self.plan, self.processes)
        self._lock = _Holding()

    def share_lock(self, other: Lab) -> None:
        """Be covered by the `exclusive` of another Lab of the same run directory."""
        self._lock = other._lock

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lab's lock (re-entrant). Raises EnvironmentProblem naming who holds it."""
        require_root()
        with contextlib.ExitStack() as stack:
            if not self._lock.depth:
                stack.enter_context(held(self.plan.run_dir))
            self._lock.depth += 1
            try:
                yield
            finally:
                self._lock.depth -= 1

    def up(self, progress: Progress) -> None:
        """Bring everything up and wait until it is ready; what stands already is kept.

        Raises EnvironmentProblem; a lab that could not be brought up whole is taken down again.
        """
        check_machine(self.plan.run_dir)
        with self.exclusive():
            try:
                self._up(progress)
            except BaseException as failure:
                if isinstance(failure, KeyboardInterrupt | BgfError) and self._ours_to_clean():
                    progress("taking the unfinished lab down again")
                    self.down(lambda _: None, keep_logs=isinstance(failure, BgfError))
                raise

    def _ours_to_clean(self) -> bool:
        return not self.topology.foreign()

    def _up(self, progress: Progress) -> None:
        if self.topology.exists() and not self.topology.complete():
            progress("cleaning what an earlier lab has left")
            self.processes.stop_all()
        if not self.topology.complete():
            # A lab that failed has left its logs; they would be taken for those of this one.
            shutil.rmtree(self.plan.log_dir, ignore_errors=True)
        progress(f"networks: {len(self.plan.namespaces)} namespaces, {len(self.plan.ports)} cables")
        self.topology.up(progress)
        self.start_nodes(progress)
        if not any(process.name == "kamailio" for process in self.processes.running()):
            progress("P-CSCF: Kamailio")
            self.sip.start_proxy()
        progress("the lab is up")

    def start_nodes(self, progress: Progress) -> None:
        """etcd and the gateway nodes, on networks that stand; returns when all are ready."""
        progress(f"etcd: {len(self.registry.members)} members")
        self.registry.make_key()
        self.registry.start_and_wait()
        progress(f"nodes: {', '.join(node.id for node in self.plan.nodes)}")
        self.nodes.start_and_wait(progress)

    def down(self, progress: Progress, *, keep_logs: bool = False) -> None:
        """End every process, remove every namespace, pin and file of the lab. Idempotent.

        `keep_logs` leaves the log directory, for a lab that failed. Raises EnvironmentProblem
        naming what could not be removed. A second Ctrl-C does not interrupt it.
        """
        with self.exclusive(), undisturbed():
            progress("ending the lab's processes")
            # All of it goes: nobody is left to hand a master or a leadership over to.
            self.processes.kill_now(
                process
                for process in self.processes.running()
                if process.name == "state" or process.name in self.registry.names
            )
            stubborn = self.processes.stop_all()
            progress("removing namespaces, pins and files")
            self.topology.down(keep=("log",) if keep_logs else ())
            left = self.topology.leftovers()
            if keep_logs:
                left = [item for item in left if item != f"file {self.processes.log_dir}"]
            left += [f"process {process.pid} {process.name}" for process in stubborn]
        if left:
            raise EnvironmentProblem(f"the lab is not wholly gone: {', '.join(left)}")

    def status(self) -> dict[str, Any]:
        """What stands, what runs, and what each process of each node says of itself."""
        running = self.processes.running()
        nodes: dict[str, Any] = {}
        for node in self.plan.nodes:
            mine = {process.name: process.pid for process in running if process.node == node.id}
            nodes[node.id] = {kind: {"pid": mine.get(kind, 0)} for kind in KINDS}
            for kind in KINDS:
                if kind in mine:
                    nodes[node.id][kind] |= self._ask(node.id, kind)
        complete = self.topology.complete()
        return {
            "run_dir": str(self.plan.run_dir),
            "state": "up" if complete else "half" if self.topology.exists() else "down",
            "namespaces": list(self.plan.namespaces) if complete else [],
            "foreign": self.topology.foreign(),
            "processes": len(running),
            "nodes": nodes if complete else {},
            "etcd": self.registry.healthy() if complete else {},
            "groups": {
                group.id: {"control": group.control, "preferred": group.preferred}
                for group in self.plan.groups
            },
        }

    def _ask(self, node: str, kind: str) -> dict[str, Any]:
        try:
            return dict(self.nodes.ask(node, kind))
        except BgfError as problem:
            return {"ready": False, "problem": str(problem)}

    def cutter(self, node_id: str) -> Cutter:
        return Cutter(self.plan, self.plan.node(node_id).namespace)

    def power_off(self, node_id: str) -> int:
        """Kill every process of a node and pull its cables; returns when it began (BOOTTIME ns).

        No goodbye: what the kernel of the dead node still holds cannot reach anybody either. Its
        memory is gone with it: the state segment too.
        """
        victims = self.processes.running(node_id)
        cutter = self.cutter(node_id)
        with self.processes.aimed_at(victims) as kill:
            at_ns = cutter.cut(kill)
        self._clear_away(node_id, victims)
        return at_ns

    @contextlib.contextmanager
    def frozen_out(self, node_id: str) -> Iterator[int]:
        """As `power_off` for everybody else: every process of the node stands still, its cables
        are pulled. When this began (BOOTTIME ns); a `power_off` is made of it in the end.

        A machine without power does not end processes, detach programs and take links down; here
        the machine that measures would do all that, under the lock that a takeover needs.
        """
        victims = self.processes.running(node_id)
        cutter = self.cutter(node_id)
        with self.processes.aimed_at(victims, signal.SIGSTOP) as stop:
            at_ns = cutter.unplug(stop)
        try:
            yield at_ns
        finally:
            self.processes.end_now(victims)
            self._clear_away(node_id, victims)
            cutter.take_down()

    def _clear_away(self, node_id: str, victims: Sequence[Process]) -> None:
        """What the victims may have started goes with them, and the machine's memory too."""
        self.processes.kill_now(victims)
        for file in self.plan.state_dir(self.plan.node(node_id)).glob("*"):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no Ctrl-C or SIGTERM interrupt the body (main thread only; elsewhere they cannot)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the body as Ctrl-C does, so that `finally` runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
