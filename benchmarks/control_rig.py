"""Gateways to ask by `ng`: real processes in network namespaces, and rtpengine beside them.

Knows: the lab's topology, a node's configuration, rtpengine's command line. Must not know what is
measured. Everything carries a prefix of its own and is gone with the `with`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bgf import config
from bgf.control.client import NgClient
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import namespaces, nodes
from bgf.lab.lab import Lab
from bgf.lab.nodes import Timers
from bgf.lab.plan import CONTROL_PORT, NodePlan
from bgf.model import Address

BINARY: Final = "rtpengine"
RTPENGINE: Final = Address("127.0.0.1", 12_223)
PORTS: Final = (10_000, 65_533)
CONTROL_NETWORK: Final = "10.30.0.0/24"
STATE_MB: Final = 512
STATE_GROWN_MB: Final = 1_024
PINHOLES: Final = 262_144
READY_S: Final = 30.0
STEP_S: Final = 0.02
END_S: Final = 10.0
LOG_CHARS: Final = 300
LAG_MS: Final = 5_000
"""Nothing is to be shed: what takes long is to be seen."""
NICE: Final = -15
"""Of all who are measured, and of who asks: other work on the machine is not to count."""
TIMERS: Final = Timers(50, 6, lease_ms=2_000, state_profile="safe")
"""Nobody is to be taken for dead because the benchmark keeps the machine busy."""


class Gateways:
    """`nodes` gateway nodes; the first owns every group. `clustered`: a segment and a state server
    each, etcd, the journal on both before a reply; else one segment of one host."""

    def __init__(self, *, nodes: int, groups: int, clustered: bool, journal: str) -> None:
        self.clustered = clustered
        self.journal = journal
        self._count = nodes
        run_dir = Path(f"/run/bgf-control-{os.getpid()}")
        prefix = f"cb{os.getpid() % 10_000}-"
        self.lab = Lab(run_dir, prefix=prefix, actives=groups, standbys=1, timers=TIMERS)
        self.nodes = self.lab.plan.nodes[:nodes]

    @property
    def namespace(self) -> str:
        """Of the first node: clients there reach it over its loopback."""
        return self.nodes[0].namespace

    def control(self, number: int = 0) -> Address:
        return Address(self.lab.plan.groups[number].control_host, CONTROL_PORT)

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Raises BgfError when something does not come up."""
        lab = self.lab
        with lab.exclusive():
            try:
                lab.topology.up(lambda _: None)
                if self.clustered:
                    lab.registry.make_key()
                    lab.registry.start_and_wait()
                for node in self.nodes:
                    path = lab.nodes.config_file(node)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(config.dump(self.config(node)))
                for kinds in (("state", "gateway"), ("failover",)):
                    for node in self.nodes:
                        self.start(node, kinds)
                    lab.nodes.wait_ready(lambda _: None, nodes=self.nodes, kinds=kinds)
                self._until(self._owned, "the first node owns all groups")
                yield
            finally:
                lab.down(lambda _: None)

    @contextlib.contextmanager
    def built(self) -> Iterator[None]:
        """The namespaces alone. Raises BgfError."""
        with self.lab.exclusive():
            try:
                self.lab.topology.up(lambda _: None)
                yield
            finally:
                self.lab.down(lambda _: None)

    def start(self, node: NodePlan, kinds: tuple[str, ...]) -> None:
        for kind in kinds:
            command = [
                "nice",
                "-n",
                str(NICE),
                *nodes.command(kind, self.lab.nodes.config_file(node)),
            ]
            started = self.lab.processes.start(kind, node.namespace, command, node=node.id)
            # A session of its own is a group of its own for the scheduler, whatever it is in it.
            with contextlib.suppress(OSError):  # a kernel without such groups
                Path(f"/proc/{started.pid}/autogroup").write_text(f"{NICE}\n")

    def ask(self, node: NodePlan, kind: str, request: str = "status", **more: object) -> Any:
        return self.lab.nodes.ask(node.id, kind, request, **more)

    def pid(self, node: NodePlan, kind: str) -> int:
        """Of a node's process. Raises EnvironmentProblem when it does not run."""
        for process in self.lab.processes.running(node.id):
            if process.name == kind:
                return process.pid
        raise EnvironmentProblem(f"{node.id} {kind} does not run")

    def kill(self, node: NodePlan) -> None:
        """All of a node's processes, at once."""
        self.lab.processes.kill_now(self.lab.processes.running(node.id))

    def _until(self, true: Any, what: str) -> None:
        deadline = time.monotonic() + READY_S
        while not true():
            if time.monotonic() > deadline:
                raise EnvironmentProblem(f"not within {READY_S:g} s: {what}")
            time.sleep(STEP_S)

    def _owned(self) -> bool:
        groups = self.ask(self.nodes[0], "gateway")["groups"]
        return all(group["role"] == "active" for group in groups.values())

    def config(self, node: NodePlan) -> config.NodeConfig:
        made = nodes.node_config(self.lab.plan, node, TIMERS)
        first = self.nodes[0].id
        groups = tuple(
            msgspec.structs.replace(group, ports=PORTS, preferred=first) for group in made.groups
        )
        known = {one.id for one in self.nodes}
        peers = tuple(peer for peer in made.failover.peers if peer.id in known)
        state = dataclasses.replace(made.state, size_mb=STATE_MB)
        if not self.clustered:
            shared = self.lab.plan.state_dir(self.nodes[0])
            state = config.StateSection(f"dal://{shared}", STATE_MB)
        return dataclasses.replace(
            made,
            state=state,
            media=dataclasses.replace(made.media, pinholes_max=PINHOLES),
            groups=groups,
            failover=dataclasses.replace(made.failover, peers=peers),
            control=dataclasses.replace(
                made.control,
                journal=self.journal,
                peers=(CONTROL_NETWORK,),
                rate_per_peer=0,
                lag_max_ms=LAG_MS,
            ),
        )


def resident_mb(pid: int) -> tuple[float, float]:
    """A process's own resident memory, and what it has mapped of shared memory (MB)."""
    own = shared = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            own += int(value.split()[0])
        elif name == "RssShmem":
            shared = int(value.split()[0])
    return own / 1024, shared / 1024


def version() -> str:
    """rtpengine's, as it says itself."""
    done = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().removeprefix("Version: ")


@contextlib.contextmanager
def rtpengine(namespace: str, interfaces: dict[str, str], directory: Path) -> Iterator[Address]:
    """Debian's, in userspace, in the same namespace and with the same interfaces as the gateway.

    `interfaces`: realm -> address. Raises EnvironmentProblem.
    """
    if shutil.which(BINARY) is None:
        raise EnvironmentProblem(f"{BINARY} is missing; scripts/setup.sh installs it")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [
        *("prlimit", f"--nofile={hard}:{hard}", "setpriv", "--pdeathsig", "KILL", "--"),
        *("nsenter", f"--net={namespaces.path_of(namespace)}", "--"),
        *("nice", "-n", str(NICE), BINARY),
        *("--config-file=none", "--foreground", "--log-stderr", "--log-level=3", "--table=-1"),
        *(f"--interface={realm}/{host}" for realm, host in interfaces.items()),
        f"--listen-ng={RTPENGINE}",
        *(f"--port-min={PORTS[0]}", f"--port-max={PORTS[1]}", "--delete-delay=0"),
    ]
    log = directory / "rtpengine.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=directory
        )
    try:
        namespaces.run_in(namespace, lambda: _until_ready(process, log))
        yield RTPENGINE
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    with NgClient(RTPENGINE, timeout_s=0.05, tries=1) as client:
        while True:
            with contextlib.suppress(BgfError):
                if client.call({"command": "ping"}).get("result") == "pong":
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                said = " ".join(log.read_text(errors="replace").split())[-LOG_CHARS:]
                raise EnvironmentProblem(f"{BINARY} does not answer: {said}")
            time.sleep(STEP_S)
