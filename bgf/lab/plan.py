"""What the lab looks like: networks, namespaces, addresses, nodes and groups. No I/O.

Knows: names and numbers, from which everything else in this room is made. Must not know how a
namespace is created or a process is started. One plan, one prefix: two labs with different
prefixes and run directories do not meet.

The layout is the paper's test bed in small: an access network (IPv6 and IPv4), a core network
(IPv4), a management network; N active nodes, k standbys; callers with the load generator on the
access side, callees with it on the core side, and the P-CSCF between them; etcd, whose three
members decide who owns what, on the management network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bgf.errors import ConfigError

ACTIVES_MAX = 8
NODES_MAX = 9
NETWORKS = ("access", "core", "mgmt")
CONTROL_PORT = 2223
"""Of `ng` over UDP and TCP."""
CONTROL_HTTP_PORT = 2225
SIP_PORT = 5060
STATE_PORT = 7400
METRICS_PORT = 9400
MONITOR_PORT = 9401
PORTS = (30_000, 39_999)
DEFAULT_PREFIX = "bgf-"
DEFAULT_RUN_DIR = Path("/run/bgf-lab")


@dataclass(frozen=True, slots=True)
class Port:
    """One cable: `interface` of `namespace`, plugged into the switch `network`."""

    namespace: str
    interface: str
    network: str
    addresses: tuple[str, ...]
    switch_port: str


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A gateway machine. `paths` are its own addresses per network, without prefix length."""

    id: str
    number: int
    namespace: str
    paths: dict[str, str]


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A service group: its moving addresses per network, with prefix lengths."""

    id: str
    preferred: str
    control: str
    addresses: dict[str, tuple[str, ...]]

    @property
    def control_host(self) -> str:
        return self.control.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole lab. `switch`, `access`, `core`, `cscf`, `registry` are namespace names.

    etcd's members are no gateway nodes: they live in `registry`, on the management network, one
    per address of `registry_hosts`.
    """

    prefix: str
    run_dir: Path
    switch: str
    access: str
    core: str
    cscf: str
    registry: str
    registry_hosts: tuple[str, ...]
    nodes: tuple[NodePlan, ...]
    groups: tuple[GroupPlan, ...]
    ports: tuple[Port, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        others = (self.switch, self.access, self.core, self.cscf, self.registry)
        return (*others, *(node.namespace for node in self.nodes))

    def node(self, node_id: str) -> NodePlan:
        """Raises ConfigError naming the nodes that there are."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        known = ", ".join(n.id for n in self.nodes)
        raise ConfigError(f"the lab has no node '{node_id}': it has {known}")

    def group(self, group_id: str) -> GroupPlan:
        """Raises ConfigError naming the groups that there are."""
        for group in self.groups:
            if group.id == group_id:
                return group
        known = ", ".join(g.id for g in self.groups)
        raise ConfigError(f"the lab has no group '{group_id}': it has {known}")

    def state_dir(self, node: NodePlan) -> Path:
        """Where a node's own segment is. No other node opens it."""
        return self.run_dir / node.id / "state"

    @property
    def log_dir(self) -> Path:
        """Of all processes."""
        return self.run_dir / "log"

    @property
    def registry_dir(self) -> Path:
        return self.run_dir / "etcd"

    @property
    def key_file(self) -> Path:
        """The cluster key, that every state server and client of the lab is given."""
        return self.run_dir / "etc" / "cluster.key"

    def ports_of(self, namespace: str) -> tuple[Port, ...]:
        return tuple(port for port in self.ports if port.namespace == namespace)


ACCESS_HOST6, ACCESS_HOST4 = "fd00:a::2", "10.10.0.2"
ACCESS_LOAD6, ACCESS_LOAD4 = "fd00:a::100", "10.10.0.100"
CORE_HOST4, CORE_LOAD4 = "10.20.0.2", "10.20.0.100"
CSCF_ACCESS6, CSCF_ACCESS4 = "fd00:a::5", "10.10.0.5"
CSCF_CORE4, CSCF_MGMT4 = "10.20.0.5", "10.30.0.5"
REGISTRY_HOSTS = ("10.30.0.201", "10.30.0.202", "10.30.0.203")


def make_plan(
    *,
    actives: int = 2,
    standbys: int = 1,
    prefix: str = DEFAULT_PREFIX,
    run_dir: Path = DEFAULT_RUN_DIR,
) -> Plan:
    """The lab for N active nodes and k standbys. Raises ConfigError when out of range."""
    if not 1 <= actives <= ACTIVES_MAX:
        raise ConfigError(f"{actives} active nodes: choose 1 to {ACTIVES_MAX}")
    if not 1 <= standbys <= NODES_MAX - actives:
        raise ConfigError(f"{standbys} standbys: choose 1 to {NODES_MAX - actives}")
    if not 1 <= len(prefix) <= 8 or "/" in prefix:
        raise ConfigError(f"lab prefix '{prefix}': use 1 to 8 characters without '/'")
    switch = f"{prefix}net"
    access, core, cscf = f"{prefix}access", f"{prefix}core", f"{prefix}cscf"
    registry = f"{prefix}etcd"

    def port(namespace: str, network: str, *addresses: str) -> Port:
        return Port(
            namespace, network, network, addresses, f"{namespace.removeprefix(prefix)}-{network}"
        )

    ports = [
        port(
            access,
            "access",
            *(f"{host}/64" for host in (ACCESS_HOST6, ACCESS_LOAD6)),
            *(f"{host}/24" for host in (ACCESS_HOST4, ACCESS_LOAD4)),
        ),
        port(core, "core", f"{CORE_HOST4}/24", f"{CORE_LOAD4}/24"),
        port(cscf, "access", f"{CSCF_ACCESS6}/64", f"{CSCF_ACCESS4}/24"),
        port(cscf, "core", f"{CSCF_CORE4}/24"),
        port(cscf, "mgmt", f"{CSCF_MGMT4}/24"),
        port(registry, "mgmt", *(f"{host}/24" for host in REGISTRY_HOSTS)),
    ]
    nodes = []
    for number in range(1, actives + standbys + 1):
        last = 10 + number
        node = NodePlan(
            id=f"n{number}",
            number=number,
            namespace=f"{prefix}n{number}",
            paths={
                "access": f"10.10.0.{last}",
                "core": f"10.20.0.{last}",
                "mgmt": f"10.30.0.{last}",
            },
        )
        nodes.append(node)
        ports += [
            port(node.namespace, "access", f"fd00:a::{last}/64", f"{node.paths['access']}/24"),
            port(node.namespace, "core", f"{node.paths['core']}/24"),
            port(node.namespace, "mgmt", f"{node.paths['mgmt']}/24"),
        ]
    groups = tuple(
        GroupPlan(
            id=f"g{number}",
            preferred=f"n{number}",
            control=f"10.30.0.{100 + number}/24",
            addresses={
                "access": (f"fd00:a::{100 + number}/64", f"10.10.0.{100 + number}/24"),
                "core": (f"10.20.0.{100 + number}/24",),
            },
        )
        for number in range(1, actives + 1)
    )
    return Plan(
        prefix=prefix,
        run_dir=run_dir,
        switch=switch,
        access=access,
        core=core,
        cscf=cscf,
        registry=registry,
        registry_hosts=REGISTRY_HOSTS,
        nodes=tuple(nodes),
        groups=groups,
        ports=tuple(ports),
    )
