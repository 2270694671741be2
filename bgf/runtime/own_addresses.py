"""This node's own fixed address in each media realm: what it probes its peers from.

Asked of the kernel, not of the file: the file names interfaces, and a wrong source address in it
would be one more way to be deaf.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from pyroute2 import IPRoute

from bgf.config import NodeConfig
from bgf.errors import EnvironmentProblem


def own_addresses(node: NodeConfig) -> dict[str, str]:
    """Realm -> own address of the family that the peers are probed with there.

    A group's moving addresses are never one's own. Raises EnvironmentProblem naming the
    interface that is missing or has no usable address.
    """
    moving = {a.host for g in node.groups for a in g.addresses}
    moving |= {group.control.host for group in node.groups}
    wanted: dict[str, int] = {}
    for peer in node.failover.peers:
        for path, host in peer.paths.items():
            wanted[path] = ipaddress.ip_address(host).version
    found: dict[str, str] = {}
    with IPRoute() as route:
        for realm, version in wanted.items():
            interface = node.realms[realm].interface
            hosts = [h for h in _hosts(route, interface, version) if h not in moving]
            if not hosts:
                raise EnvironmentProblem(
                    f"interface {interface} (realm {realm}) has no IPv{version} address of its"
                    " own to probe the peers from: add one"
                )
            found[realm] = hosts[0]
    return found


def _hosts(route: Any, interface: str, version: int) -> list[str]:
    indices = route.link_lookup(ifname=interface)
    if not indices:
        raise EnvironmentProblem(f"interface {interface} does not exist: create it or rename it")
    family = {4: 2, 6: 10}[version]
    hosts = []
    for message in route.get_addr(family=family, index=indices[0]):
        host = str(ipaddress.ip_address(message.get_attr("IFA_ADDRESS")))
        if not ipaddress.ip_address(host).is_link_local:
            hosts.append(host)
    return hosts
