"""How large a cluster is, what it takes from a project, and in which order it changes. Pure.

Knows: the parameters of deploy/openstack/cluster.yaml and what they make. Must not know OpenStack's
API, files, nodes that answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bgf.errors import ConfigError

STATE_NODES: Final = 3
PORTS_PER_GATEWAY: Final = 3
SECURITY_GROUPS: Final = 4
SERVER_GROUPS: Final = 2
RULES_FIXED: Final = 25
"""Security group rules that do not depend on the prefixes given, Neutron's own egress included."""
PAIRS_MAX_DEFAULT: Final = 10
"""Neutron's default of max_allowed_address_pair, per port."""
GROUPS_RANGE: Final = (1, 30)
STANDBYS_RANGE: Final = (1, 10)
STACK_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")
DEFAULTS: Final[Mapping[str, Any]] = {
    "groups": 2,
    "standbys": 1,
    "access_cidr_ipv6": "fd00:a::/64",
    "access_cidr_ipv4": "10.10.0.0/24",
    "core_cidr_ipv4": "10.20.0.0/24",
    "core_cidr_ipv6": "fd00:c::/64",
    "anti_affinity": "anti-affinity",
}
"""What the template supposes; a test compares."""
FAMILIES: Final = (
    ("access", 6, "access_ipv6"),
    ("access", 4, "access_ipv4"),
    ("core", 4, "core_ipv4"),
    ("core", 6, "core_ipv6"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """N groups and k standbys."""

    groups: int
    standbys: int

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(f"gw{n + 1}" for n in range(self.groups + self.standbys))

    @property
    def group_ids(self) -> tuple[str, ...]:
        return tuple(f"g{n + 1}" for n in range(self.groups))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a cluster takes from its project's quotas, by the quota's name."""

    compute: Mapping[str, int]
    network: Mapping[str, int]
    pairs: Mapping[str, int] = field(default_factory=dict)
    """Address pairs on each gateway's port, by network."""


def checked_name(name: str) -> str:
    """A stack's name, which is also the cluster's in etcd. Raises ConfigError."""
    if not STACK_NAME.fullmatch(name):
        raise ConfigError(
            f"'{name[:64]}' cannot be a cluster's name: 1 to 32 letters, digits or '-', "
            "beginning with a letter"
        )
    return name


def size_of(parameters: Mapping[str, Any]) -> Size:
    """Raises ConfigError for what the template would refuse."""
    found = {}
    for key, (low, high) in (("groups", GROUPS_RANGE), ("standbys", STANDBYS_RANGE)):
        value = parameters.get(key, DEFAULTS[key])
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = low - 1
        if not low <= number <= high:
            raise ConfigError(f"{key} = {str(value)[:40]}: must be a number from {low} to {high}")
        found[key] = number
    return Size(found["groups"], found["standbys"])


def families(parameters: Mapping[str, Any]) -> dict[str, list[int]]:
    """IP versions of access and core, as the template derives them."""
    found: dict[str, list[int]] = {"access": [], "core": []}
    for realm, version, name in FAMILIES:
        given = bool(parameters.get(f"{realm}_network"))
        key = f"{realm}_subnet_ipv{version}" if given else f"{realm}_cidr_ipv{version}"
        if parameters.get(key, "" if given else DEFAULTS[f"{realm}_cidr_{name[-4:]}"]):
            found[realm].append(version)
    return found


def problems_of(parameters: Mapping[str, Any]) -> list[str]:
    """What is wrong with an environment file before any cloud is asked; one line each."""
    found = []
    for realm, versions in families(parameters).items():
        if not versions:
            found.append(
                f"{realm} has neither IPv4 nor IPv6: give {realm}_subnet_ipv4 or "
                f"{realm}_subnet_ipv6 with {realm}_network, or {realm}_cidr_ipv4 or "
                f"{realm}_cidr_ipv6 without"
            )
    if parameters.get("management_network") and not parameters.get("management_subnet"):
        found.append("management_network is given without management_subnet: give both")
    try:
        first = int(parameters.get("media_port_min", 20000))
        last = int(parameters.get("media_port_max", 59999))
        if last <= first:
            found.append(f"media_port_max = {last} must be above media_port_min = {first}")
    except (TypeError, ValueError):
        found.append("media_port_min and media_port_max must be numbers")
    return found


def needs_of(
    parameters: Mapping[str, Any], gateway: Mapping[str, int], state: Mapping[str, int]
) -> Needs:
    """Of the whole cluster. `gateway` and `state` are flavours: vcpus, and ram in MiB."""
    size, versions = size_of(parameters), families(parameters)
    gateways = len(size.gateways)
    per_group = 1 + sum(len(v) for v in versions.values())
    new = [n for n in ("management", "access", "core") if not parameters.get(f"{n}_network")]
    subnets = sum(1 if n == "management" else len(versions[n]) for n in new)
    routed = "management" in new and bool(parameters.get("external_network"))

    def count(key: str, default: int) -> int:
        value = parameters.get(key)
        return len(value) if isinstance(value, list) else default

    rules = RULES_FIXED + 2 * count("control_peers", 1) + 2 * count("operators", 1)
    rules += 3 * count("monitors", 0) + sum(
        count(f"{realm}_peers_ipv{version}", 1)
        for realm in ("access", "core")
        for version in (4, 6)
    )
    return Needs(
        compute={
            "instances": gateways + STATE_NODES,
            "cores": gateways * gateway.get("vcpus", 0) + STATE_NODES * state.get("vcpus", 0),
            "ram": gateways * gateway.get("ram", 0) + STATE_NODES * state.get("ram", 0),
            "server_groups": SERVER_GROUPS,
            "server_group_members": max(gateways, STATE_NODES),
        },
        network={
            "port": gateways * PORTS_PER_GATEWAY
            + STATE_NODES
            + size.groups * per_group
            + (1 if routed else 0),
            "network": len(new),
            "subnet": subnets,
            "router": 1 if routed else 0,
            "security_group": SECURITY_GROUPS,
            "security_group_rule": rules,
        },
        pairs={
            "management": size.groups,
            **{realm: size.groups * len(v) for realm, v in versions.items()},
        },
    )


def growth(before: Needs, after: Needs) -> Needs:
    """What a change takes beyond what is there; never below nothing."""
    return Needs(
        {k: max(0, v - before.compute.get(k, 0)) for k, v in after.compute.items()}
        | {"server_group_members": after.compute["server_group_members"]},
        {k: max(0, v - before.network.get(k, 0)) for k, v in after.network.items()},
        after.pairs,
    )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What has to be done before a cluster is of another size."""

    before: Size
    after: Size

    @property
    def drained(self) -> tuple[str, ...]:
        """Gateways that go: the last ones; those that stand by now come first."""
        gone = set(self.before.gateways) - set(self.after.gateways)
        return tuple(node for node in reversed(self.before.gateways) if node in gone)

    @property
    def closed(self) -> tuple[str, ...]:
        """Groups that go: their calls must be over."""
        return tuple(g for g in self.before.group_ids if g not in self.after.group_ids)

    @property
    def stay(self) -> tuple[str, ...]:
        """Gateways that go on, and whose file changes."""
        return tuple(node for node in self.before.gateways if node in self.after.gateways)

    @property
    def added(self) -> tuple[str, ...]:
        return tuple(node for node in self.after.gateways if node not in self.before.gateways)

    def sentence(self) -> str:
        words = [f"from {self.before.groups}+{self.before.standbys}"]
        words.append(f"to {self.after.groups}+{self.after.standbys} gateways")
        if self.added:
            words.append(f"({', '.join(self.added)} come)")
        if self.drained:
            words.append(f"({', '.join(self.drained)} go)")
        return " ".join(words)


def upgrade_order(
    gateways: Sequence[str], upgraded: Sequence[str], carries: Mapping[str, int]
) -> list[str]:
    """Who is upgraded after whom: those that carry nothing first, then the least loaded."""
    rest = [node for node in gateways if node not in upgraded]
    return sorted(rest, key=lambda node: (carries.get(node, 0), gateways.index(node)))
