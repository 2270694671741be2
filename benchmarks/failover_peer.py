"""rtpengine with Redis and keepalived in our gateways' place: same lab, same load, same meter.

Knows: how their documentation sets such a pair up. Redis holds the calls; the standby's rtpengine
subscribes to the active one's keyspace and so has every call before it is needed; keepalived moves
the same virtual addresses by VRRP; both rtpengines bind them before they are there
(`ip_nonlocal_bind`). All from Debian, rtpengine in userspace. Must not know goals.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.control_rig import BINARY, version
from benchmarks.failover_book import Sample
from benchmarks.failover_rig import Cluster, Progress, rates
from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.lab import check_machine, interruptible
from bgf.lab.measure import Spread
from bgf.lab.nodes import Timers
from bgf.lab.plan import CONTROL_PORT, NodePlan

FLOWS, QUICK_FLOWS = 1_000, 200
"""rtpengine in userspace needs a third of a core for so many."""
REDIS_PORT: Final = 6_379
ROUTER_ID: Final = 51
KEYSPACE: Final = {"active": 1, "standby": 2}
PRIORITY: Final = {"active": 150, "standby": 100}
GROUP: Final = "g1"
READY_S: Final = 30.0
SETTLE_S: Final = 2.0
PACKAGES: Final = {
    "redis-server": "redis-server",
    "keepalived": "keepalived",
    BINARY: "rtpengine-daemon",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """keepalived's advertisements: their interval in seconds, and VRRP's version for it."""

    name: str
    advert_s: float
    vrrp_version: int

    @property
    def told(self) -> str:
        return f"VRRP {self.vrrp_version}, one every {self.advert_s:g} s"


PEERS: Final = (Peer("peer-default", 1.0, 2), Peer("peer-fast", 0.1, 3))
"""As shipped, and the shortest interval that its authors speak of without a warning."""


def measure(peer: Peer, runs: int, quick: bool, seed: int, progress: Progress) -> Iterator[Sample]:
    """A fresh pair for each run: nobody's second life is measured. Raises BgfError."""
    for binary, package in PACKAGES.items():
        if shutil.which(binary) is None and shutil.which(binary, path="/usr/sbin") is None:
            raise EnvironmentProblem(f"{binary} is missing: apt-get install {package}")
    flows, told = QUICK_FLOWS if quick else FLOWS, version()
    for number in range(runs):
        pair = _Pair(peer, Cluster(Timers(), progress, seed=seed + number))
        with pair.up():
            sample = pair.die(flows)
        progress(
            f"{peer.name}, run {number + 1}/{runs}: silence {sample['mean_ms']:.0f} ms in the mean,"
            f" {sample['max_ms']:.0f} at most"
        )
        yield sample | {"version": told, "adverts": peer.told, "flows": flows}


class _Pair:
    """The first node active, the last one standby, for the first group's addresses."""

    def __init__(self, peer: Peer, cluster: Cluster) -> None:
        self._peer = peer
        self._cluster = cluster
        self._lab = cluster.lab
        self._plan = cluster.plan
        self._nodes = {"active": self._plan.nodes[0], "standby": self._plan.nodes[-1]}
        self._group = self._plan.group(GROUP)

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        check_machine(self._plan.run_dir)
        with self._lab.exclusive(), interruptible():
            try:
                self._lab.topology.up(lambda _: None)
                self._start()
                yield
            finally:
                self._lab.down(lambda _: None)

    def die(self, flows: int) -> Sample:
        """Load, the active one's power cut, and what the receivers heard."""
        cluster = self._cluster
        with cluster.load(flows) as load:
            time.sleep(SETTLE_S)
            cluster.draw()
            for meter in load.meters.values():
                meter.reset_gaps()
            skipped, _ = load.counts()
            with self._lab.frozen_out(self._nodes["active"].id) as t0_ns:
                found, silent = cluster.back(load, cluster.hosts(GROUP), t0_ns)
                skipped_now, late_ms = load.counts()
            load.sessions.clear()  # who could close them is dead, or goes with the lab
        spread = Spread.of(flow.outage_ms for flow in found)
        full, thin = rates(flows)
        return {
            "full": full,
            "thin": thin,
            "mean_ms": round(spread.mean, 3),
            "max_ms": round(spread.max, 3),
            "silent": silent + sum(not flow.recovered for flow in found),
            "skipped": skipped_now - skipped,
            "late_ms": round(late_ms, 3),
        }

    def _start(self) -> None:
        run, processes = self._plan.run_dir, self._lab.processes
        host = self._plan.registry_hosts[0]
        processes.start(
            "redis",
            self._plan.registry,
            [
                *("redis-server", "--bind", host, "--port", str(REDIS_PORT), "--save", ""),
                *("--appendonly", "no", "--protected-mode", "no", "--dir", str(run)),
                *("--notify-keyspace-events", "KEA"),
            ],
        )
        namespaces.run_in(
            self._plan.registry,
            partial(self._until, ["redis-cli", "-h", host, "ping"], "Redis answers"),
        )
        for role, node in self._nodes.items():
            namespaces.run_in(node.namespace, _bind_anywhere)
            processes.start(BINARY, node.namespace, self._rtpengine(role, host), node=node.id)
            conf = run / f"keepalived-{node.id}.conf"
            conf.write_text(self._keepalived(role, node))
            files = [f"--{kind}={run / f'{node.id}-{kind}.pid'}" for kind in ("pid", "vrrp_pid")]
            processes.start(
                "keepalived",
                node.namespace,
                ["keepalived", "-n", "-l", "-P", "-f", str(conf), *files],
                node=node.id,
            )
        self._cluster.until(self._answers, READY_S, "rtpengine answers at the virtual address")

    def _rtpengine(self, role: str, redis: str) -> list[str]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        other = "standby" if role == "active" else "active"
        interfaces = [
            f"--interface={realm}/{address.partition('/')[0]}"
            for realm, addresses in self._group.addresses.items()
            for address in addresses
        ]
        return [
            *("prlimit", f"--nofile={hard}:{hard}", "--", BINARY),
            *("--config-file=none", "--foreground", "--log-stderr", "--log-level=4", "--table=-1"),
            *interfaces,
            f"--listen-ng={self._group.control_host}:{CONTROL_PORT}",
            *("--port-min=10000", "--port-max=65000", "--num-threads=2"),
            *("--timeout=3600", "--silent-timeout=3600"),
            f"--redis={redis}:{REDIS_PORT}/{KEYSPACE[role]}",
            f"--subscribe-keyspace={KEYSPACE[other]}",
        ]

    def _keepalived(self, role: str, node: NodePlan) -> str:
        first, *more = [
            f"{address} dev {realm}"
            for realm, addresses in {
                "mgmt": (self._group.control,),
                **self._group.addresses,
            }.items()
            for address in sorted(addresses, key=lambda one: ":" in one)
        ]
        inside = [first, *(one for one in more if ":" not in one)]
        beside = [one for one in more if ":" in one]
        return "\n".join(
            (
                "global_defs {",
                f"  router_id {node.id}",
                f"  vrrp_version {self._peer.vrrp_version}",
                "}",
                f"vrrp_instance {GROUP} {{",
                f"  state {'MASTER' if role == 'active' else 'BACKUP'}",
                "  interface mgmt",
                f"  virtual_router_id {ROUTER_ID}",
                f"  priority {PRIORITY[role]}",
                f"  advert_int {self._peer.advert_s:g}",
                "  virtual_ipaddress {",
                *(f"    {one}" for one in inside),
                "  }",
                "  virtual_ipaddress_excluded {",
                *(f"    {one}" for one in beside),
                "  }",
                "}",
                "",
            )
        )

    def _answers(self) -> bool:
        with self._cluster.client(GROUP, "ready") as client:
            client.timeout_s, client.tries = 0.2, 1
            return client.call({"command": "ping"}).get("result") == "pong"

    def _until(self, command: list[str], what: str) -> None:
        def done() -> bool:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        self._cluster.until(done, READY_S, what)


def _bind_anywhere() -> None:
    for version_ in ("ipv4", "ipv6"):
        namespaces.write_sysctl(f"net/{version_}/ip_nonlocal_bind", 1)
