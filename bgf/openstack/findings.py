"""What speaks for and against a cluster in a project, from facts that somebody gathered. Pure.

Knows: limits, and what each costs a gateway. Must not know how a fact is obtained. A finding is one
sentence with a way out; `fail` stops `up`, `warn` does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bgf.openstack.plan import PAIRS_MAX_DEFAULT, STATE_NODES, Needs

MTU_IPV6_MIN: Final = 1280  # RFC 8200 section 5
MTU_WANTED: Final = 1500
EXTENSIONS: Final = {
    "allowed-address-pairs": "a gateway could not take a moving address",
    "port-security": "address pairs could not be admitted",
    "security-group": "nothing would keep strangers away",
}
MULTIQUEUE: Final = ("hw_vif_multiqueue_enabled", "hw:vif_multiqueue_enabled")
VCPUS_MIN: Final = 2

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was looked at, how it is, and the sentence for a person."""

    level: str
    what: str
    sentence: str

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "what": self.what, "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class Quota:
    """A project's limit and what is used; -1 is no limit."""

    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A network that the cluster is to stand in."""

    role: str
    name: str
    mtu: int
    port_security: bool = True
    versions: tuple[int, ...] = ()
    """IP versions of the subnets that are named for the cluster."""
    distributed: tuple[str, ...] = ()
    """Routers on it that are distributed."""
    subnet_elsewhere: tuple[str, ...] = ()
    """Subnets named for it that are another network's."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found of a project; `missing` are things named that are not there, as sentences."""

    services: frozenset[str]
    extensions: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    compute: Mapping[str, Quota] = field(default_factory=dict)
    network: Mapping[str, Quota] = field(default_factory=dict)
    networks: Sequence[NetworkFacts] = ()
    image_properties: Mapping[str, Any] = field(default_factory=dict)
    flavor_specs: Mapping[str, Any] = field(default_factory=dict)
    flavor_vcpus: int = 0
    hosts: int = 0
    """Compute hosts that are up, 0 where the project may not know."""
    anti_affinity: str = "anti-affinity"
    gateways: int = 0
    refused: str = ""
    """What Heat has against the parameters."""


def examine(facts: Facts, needs: Needs) -> list[Finding]:
    """Everything worth saying, what stops a cluster first."""
    found = [
        *_services(facts),
        *_missing(facts),
        *_parameters(facts),
        *_quotas(facts.compute, needs.compute),
        *_quotas(facts.network, needs.network),
        *_extensions(facts),
        *_pairs(needs),
        *_networks(facts),
        *_queues(facts),
        *_hosts(facts),
    ]
    order = {FAIL: 0, WARN: 1, OK: 2}
    return sorted(found, key=lambda finding: order[finding.level])


def may_begin(findings: Sequence[Finding]) -> bool:
    return all(finding.level != FAIL for finding in findings)


def _services(facts: Facts) -> Iterator[Finding]:
    for name in ("compute", "network", "image", "orchestration"):
        if name not in facts.services:
            yield Finding(FAIL, name, f"the catalogue has no {name} service: ask the cloud's owner")


def _missing(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.missing:
        yield Finding(FAIL, "names", sentence)
    if not facts.missing:
        yield Finding(OK, "names", "image, flavours, key pair, networks and zones are there")


def _parameters(facts: Facts) -> Iterator[Finding]:
    if facts.refused:
        yield Finding(FAIL, "parameters", facts.refused)
    elif not facts.missing and "orchestration" in facts.services:
        yield Finding(OK, "parameters", "Heat would take them")


def _quotas(quotas: Mapping[str, Quota], needs: Mapping[str, int]) -> Iterator[Finding]:
    for name, needed in needs.items():
        quota = quotas.get(name)
        if quota is None or not needed:
            continue
        free = quota.limit - quota.used
        what = f"quota {name}"
        if quota.limit < 0:
            yield Finding(OK, what, f"{needed} needed, no limit")
        elif name == "server_group_members" and needed > quota.limit:
            why = f"a server group may have {quota.limit} members, {needed} are needed"
            yield Finding(FAIL, what, f"{why}: ask for a larger quota")
        elif name != "server_group_members" and needed > free:
            why = f"{needed} needed, {max(0, free)} of {quota.limit} are free"
            yield Finding(FAIL, what, f"{why}: ask for {needed - free} more, or free some")
        else:
            yield Finding(OK, what, f"{needed} needed, {free} of {quota.limit} are free")


def _extensions(facts: Facts) -> Iterator[Finding]:
    if "network" not in facts.services:
        return
    for name, consequence in EXTENSIONS.items():
        if name in facts.extensions:
            yield Finding(OK, f"extension {name}", "Neutron has it")
        else:
            why = f"Neutron lacks the extension {name}: {consequence}"
            yield Finding(FAIL, f"extension {name}", why)
    if "dvr" in facts.extensions:
        yield Finding(
            WARN,
            "distributed routing",
            "Neutron has it: behind a distributed router a moving address may not answer after a "
            "move; routers of access and core should be centralised (distributed: false)",
        )


def _pairs(needs: Needs) -> Iterator[Finding]:
    for role, pairs in needs.pairs.items():
        what = f"address pairs, {role}"
        if pairs > PAIRS_MAX_DEFAULT:
            yield Finding(
                WARN,
                what,
                f"each gateway's {role} port gets {pairs} address pairs, Neutron's default allows "
                f"{PAIRS_MAX_DEFAULT}: have max_allowed_address_pair raised, or take fewer groups",
            )
        else:
            yield Finding(OK, what, f"{pairs} on each port, {PAIRS_MAX_DEFAULT} are always allowed")


def _networks(facts: Facts) -> Iterator[Finding]:
    for net in facts.networks:
        where = f"network {net.name} ({net.role})"
        for subnet in net.subnet_elsewhere:
            why = f"subnet {subnet} is not on {net.name}: name one that is"
            yield Finding(FAIL, where, why)
        if not net.port_security:
            why = "its port security is off, so security groups cannot be: switch it on"
            yield Finding(FAIL, where, why)
        if net.mtu and net.mtu < MTU_IPV6_MIN and 6 in net.versions:
            why = f"its MTU is {net.mtu}, IPv6 needs {MTU_IPV6_MIN}: raise it"
            yield Finding(FAIL, where, why)
        elif net.mtu and net.mtu < MTU_WANTED and net.role != "management":
            why = (
                f"its MTU is {net.mtu}: larger packets of the other side are refused; "
                "audio is smaller, video may not be"
            )
            yield Finding(WARN, where, why)
        else:
            yield Finding(OK, where, f"MTU {net.mtu or 'unknown'}, port security on")
        for router in net.distributed:
            why = (
                f"router {router} is distributed: it does not follow an address that moves; "
                "let it be centralised"
            )
            yield Finding(WARN, where, why)
    media = {net.role: net for net in facts.networks if net.role != "management"}
    mtus = {net.mtu for net in media.values() if net.mtu}
    if len(mtus) > 1:
        listed = ", ".join(f"{net.name} {net.mtu}" for net in media.values())
        yield Finding(WARN, "MTU", f"access and core differ ({listed}): make them equal")
    if facts.networks and not any(6 in net.versions for net in facts.networks):
        yield Finding(WARN, "IPv6", "no IPv6 anywhere: users with IPv6 alone cannot be served")


def _queues(facts: Facts) -> Iterator[Finding]:
    if facts.missing:
        return
    on = str(facts.image_properties.get(MULTIQUEUE[0], facts.flavor_specs.get(MULTIQUEUE[1], "")))
    if on.lower() != "true":
        yield Finding(
            WARN,
            "virtio queues",
            "one queue per interface: set hw_vif_multiqueue_enabled=true on the image "
            "(openstack image set --property hw_vif_multiqueue_enabled=true IMAGE)",
        )
    elif facts.flavor_vcpus < VCPUS_MIN:
        why = f"the gateways' flavour has {facts.flavor_vcpus} core: no more than one queue"
        yield Finding(WARN, "virtio queues", f"{why}; take one with two or more")
    else:
        yield Finding(OK, "virtio queues", f"one for each of {facts.flavor_vcpus} cores")


def _hosts(facts: Facts) -> Iterator[Finding]:
    wanted = max(facts.gateways, STATE_NODES)
    if facts.anti_affinity != "anti-affinity" or not facts.hosts:
        return
    if facts.hosts < wanted:
        yield Finding(
            FAIL,
            "hosts",
            f"{wanted} hosts are needed so that no two gateways share one, {facts.hosts} are up: "
            "take fewer gateways, or anti_affinity: soft-anti-affinity",
        )
    else:
        yield Finding(OK, "hosts", f"{wanted} needed, {facts.hosts} are up")
