"""The lab's gateway nodes: their configuration, their three processes, whether they are ready.

Knows: `bgf.config`'s values, the `bgf` command, the admin sockets. Must not know how a process
is started (`processes`) or a network built (`topology`), nor anything inside a node.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bgf import config
from bgf.admin import AdminClient, AdminRefused, AdminUnreachable
from bgf.errors import ConfigError, EnvironmentProblem
from bgf.lab.etcd import CLIENT_PORT
from bgf.lab.plan import (
    CONTROL_HTTP_PORT,
    CONTROL_PORT,
    CSCF_MGMT4,
    METRICS_PORT,
    MONITOR_PORT,
    PORTS,
    STATE_PORT,
    GroupPlan,
    NodePlan,
    Plan,
)
from bgf.lab.previous import Previous
from bgf.lab.processes import Process, Processes
from bgf.model import Address, Group, RealmAddress

KINDS = ("state", "gateway", "failover")
WATCHED = ("state", "gateway")
PATHS = ("access", "core", "mgmt")
READY_TIMEOUT_MS = 60_000
POLL_MS = 50
ADMIN_TIMEOUT_S = 5.0
STATE_MB = 96
PINHOLES_MIN = 65_536
SESSIONS_MAX = 20_000
LAG_MAX_MS = 5_000
"""A small machine that stalls under a whole lab is no reason to refuse calls."""
Progress = Callable[[str], None]
Adjust = Callable[[config.NodeConfig], config.NodeConfig]


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers that a lab runs with: of failover in ms, of the state servers by profile."""

    probe_interval_ms: int = 20
    detect_multiplier: int = 3
    lease_ms: int = 1_000
    announce_interval_ms: int = 5_000
    state_profile: str = "fast"
    patience_ms: int = 150
    unowned_grace_ms: int = 10_000
    profile: str = "lab"

    @classmethod
    def of(cls, profile: str) -> Timers:
        """Those of a profile by name: safe, fast or lab. Raises ConfigError."""
        if profile not in config.PROFILES:
            known = ", ".join(config.PROFILES)
            raise ConfigError(f"profile = '{profile[:32]}' is none: must be one of {known}")
        state = "safe" if profile == "safe" else "fast"
        return cls(**asdict(config.PROFILES[profile]), state_profile=state, profile=profile)


def _split(address: str) -> tuple[str, int]:
    host, _, prefix_len = address.partition("/")
    return host, int(prefix_len)


def _group(plan: GroupPlan) -> Group:
    control, prefix_len = _split(plan.control)
    return Group(
        id=plan.id,
        control=Address(control, CONTROL_PORT),
        control_realm="mgmt",
        control_prefix_len=prefix_len,
        ports=PORTS,
        addresses=tuple(
            RealmAddress(realm, *_split(address))
            for realm, addresses in plan.addresses.items()
            for address in addresses
        ),
        preferred=plan.preferred,
    )


def node_config(
    plan: Plan, node: NodePlan, timers: Timers | None = None, sessions_max: int = SESSIONS_MAX
) -> config.NodeConfig:
    """The configuration of one node of the plan. Every node probes all others on every network."""
    timers = timers or Timers()
    return config.NodeConfig(
        node=config.NodeSection(node.id, node.number, plan.run_dir / node.id),
        state=config.StateSection(
            f"dal://{plan.state_dir(node)}",
            STATE_MB,
            config.StateCluster(
                listen=Address(node.paths["mgmt"], STATE_PORT),
                key_file=plan.key_file,
                etcd=tuple(f"http://{host}:{CLIENT_PORT}" for host in plan.registry_hosts),
                name="lab",
                profile=timers.state_profile,
                metrics=Address(node.paths["mgmt"], METRICS_PORT),
            ),
        ),
        media=config.MediaSection(
            plan.run_dir / "bpf" / node.id,
            max(PINHOLES_MIN, len(plan.groups) * (PORTS[1] - PORTS[0] + 1)),
            "auto",
        ),
        realms={
            "access": config.Realm("access", "access"),
            "core": config.Realm("core", "core"),
            "mgmt": config.Realm("mgmt", "mgmt", media=False),
        },
        groups=tuple(_group(group) for group in plan.groups),
        control=config.ControlSection(
            ("access", "core"),
            config.Listen(tcp=CONTROL_PORT, http=CONTROL_HTTP_PORT),
            peers=(f"{CSCF_MGMT4}/32",),
            sessions_max=sessions_max,
            lag_max_ms=LAG_MAX_MS,
        ),
        failover=config.FailoverSection(
            config.FailoverTimers(
                timers.probe_interval_ms,
                timers.detect_multiplier,
                timers.lease_ms,
                timers.announce_interval_ms,
                timers.patience_ms,
                timers.unowned_grace_ms,
            ),
            tuple(
                config.Peer(
                    peer.id,
                    peer.number,
                    {path: peer.paths[path] for path in PATHS},
                )
                for peer in plan.nodes
                if peer.id != node.id
            ),
            timers.profile,
        ),
        monitor=config.MonitorSection(
            Address(node.paths["mgmt"], MONITOR_PORT),
            tuple(
                Address(peer.paths["mgmt"], MONITOR_PORT)
                for peer in plan.nodes
                if peer.id != node.id
            ),
        ),
    )


def command(kind: str, config_file: Path) -> list[str]:
    """How to run a node's process with the interpreter that we run in."""
    return [sys.executable, "-m", "bgf", kind, "--config", str(config_file)]


class Nodes:
    """The nodes of one lab."""

    def __init__(
        self,
        plan: Plan,
        processes: Processes,
        timers: Timers | None = None,
        sessions_max: int = SESSIONS_MAX,
        adjust: Adjust = lambda made: made,
    ) -> None:
        """`adjust` has the last word about every node's configuration."""
        self._plan = plan
        self._processes = processes
        self._timers = timers or Timers()
        self._sessions_max = sessions_max
        self._adjust = adjust
        self.previous: Previous | None = None
        """Processes that are started, and the files that are written, are those of that version."""

    def config_file(self, node: NodePlan) -> Path:
        return self._plan.run_dir / "etc" / f"{node.id}.toml"

    def start(self, nodes: Iterable[NodePlan] | None = None, kinds: Sequence[str] = KINDS) -> None:
        """Write the configurations and start the processes of these nodes (default: all)."""
        for node in nodes if nodes is not None else self._plan.nodes:
            path = self.config_file(node)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._text(node))
            # A node never has two of a kind: one that lives already is kept.
            running = {process.name for process in self._processes.running(node.id)}
            for kind in kinds:
                if kind not in running:
                    argv = command(kind, path)
                    environment = self.previous.environment if self.previous else None
                    self._processes.start(
                        kind, node.namespace, argv, node=node.id, environment=environment
                    )

    def _text(self, node: NodePlan) -> str:
        """What stands in a node's file."""
        if self.previous is not None:
            return self.previous.configurations(self._plan, self._timers.profile)[node.id]
        made = node_config(self._plan, node, self._timers, self._sessions_max)
        return config.dump(self._adjust(made))

    def ask(self, node_id: str, kind: str, request: str = "status", **more: object) -> Any:
        """What a node's process answers on its admin socket; raises BgfError when nothing."""
        socket = self._plan.run_dir / node_id / f"{kind}.sock"
        return AdminClient(socket, ADMIN_TIMEOUT_S).call(request, **more)

    def not_ready(self, nodes: Sequence[NodePlan], kinds: Sequence[str] = KINDS) -> list[str]:
        """`n1 gateway: why` for every process that does not say that it is ready."""
        waiting = []
        for node in nodes:
            for kind in kinds:
                try:
                    status = self.ask(node.id, kind)
                except (AdminUnreachable, AdminRefused) as problem:
                    waiting.append(f"{node.id} {kind}: {problem}")
                    continue
                if not status.get("ready"):
                    waiting.append(f"{node.id} {kind}: {status.get('why', 'says it is not ready')}")
        return waiting

    def owners(self, nodes: Sequence[NodePlan]) -> dict[str, str]:
        """Group -> owner, as the first of these nodes that answers has it."""
        for node in nodes:
            try:
                owners = self.ask(node.id, "failover").get("owners", {})
            except (AdminUnreachable, AdminRefused):
                continue
            named = {group: str(held.get("node", "")) for group, held in owners.items()}
            return {group: node for group, node in named.items() if node}
        return {}

    def not_settled(self, nodes: Sequence[NodePlan]) -> list[str]:
        """What keeps a cluster of ready nodes from being one that can lose a node.

        Every group has an owner that forwards for it, and every node hears every other on all
        paths: a peer never heard is a peer whose death goes unnoticed, and one that is not heard
        again yet takes nothing over.
        """
        waiting = []
        served: set[str] = set()
        for node in nodes:
            status = self.ask(node.id, "failover")
            served |= {
                group
                for group, held in status.get("groups", {}).items()
                if held.get("steps", {}).get("announced")
            }
            for peer in nodes:
                missing = set(PATHS) - set(status.get("hears", {}).get(peer.id, ()))
                missing |= set(status.get("suspects", {}).get(peer.id, ()))
                if peer.id != node.id and missing:
                    waiting.append(f"{node.id} does not hear {peer.id} on {min(missing)}")
        waiting += [f"nobody serves {g.id}" for g in self._plan.groups if g.id not in served]
        return waiting

    def start_and_wait(self, progress: Progress) -> None:
        """All nodes, in two waves: who watches comes last.

        Nine interpreters that start at once fill a small machine for some seconds, and a watcher
        that is up among them would rightly say that its peers answer late.
        """
        self.start(kinds=WATCHED)
        self.wait_ready(progress, kinds=WATCHED)
        self.start()
        self.wait_ready(progress)

    def wait_ready(
        self,
        progress: Progress,
        nodes: Sequence[NodePlan] | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        """Wait until these processes are ready; with all, also every group served and peer heard.

        Raises EnvironmentProblem with the last words of a process that has ended, or after
        READY_TIMEOUT_MS with the one that is still waited for.
        """
        nodes = self._plan.nodes if nodes is None else nodes
        deadline = time.monotonic() + READY_TIMEOUT_MS / 1000
        told = time.monotonic()
        while True:
            self._check_alive(nodes, kinds)
            waiting = self.not_ready(nodes, kinds)
            if not waiting and kinds == KINDS:
                waiting = self.not_settled(nodes)
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"not ready after {READY_TIMEOUT_MS // 1000} s: {waiting[0]} "
                    f"({len(waiting)} in all; logs in {self._processes.log_dir})"
                )
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                progress(f"waiting: {waiting[0]}{f' (of {len(waiting)})' * (len(waiting) > 1)}")
            time.sleep(POLL_MS / 1000)

    def _check_alive(self, nodes: Sequence[NodePlan], kinds: Sequence[str]) -> None:
        alive = {(process.node, process.name) for process in self._processes.running()}
        for node in nodes:
            for kind in kinds:
                if (node.id, kind) not in alive:
                    gone = Process(0, 0, kind, node.id)
                    raise EnvironmentProblem(
                        f"{node.id} {kind} has ended; its last words "
                        f"({self._processes.log_of(kind, node.id)}): "
                        f"{self._processes.tail(gone) or 'none'}"
                    )
