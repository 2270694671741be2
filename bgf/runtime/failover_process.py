"""`bgf failover`: detection, lease, addresses, and the one hand on the packet path's safety catch.

Wires `failover.manager` to the registry in the state store, netlink, probing sockets and the
pinned `armed` map.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import statestore
from bgf.admin import AdminServer
from bgf.config import NodeConfig
from bgf.errors import BgfError, ConfigError, EnvironmentProblem
from bgf.media.xdp import ArmedMap
from bgf.runtime.own_addresses import own_addresses
from bgf.runtime.process import now_ns, retrying, until_signalled, wake_socket
from bgf.runtime.store_adapters import Readiness, StoreRegistry
from failover.addresses import NetlinkAddresses
from failover.config import FailoverConfig, GroupConfig, MovingAddress, PeerConfig
from failover.errors import FailoverConfigError, FailoverError
from failover.manager import Manager, TimelineEvent
from failover.probing import UdpProber
from statestore.errors import StateStoreError
from statestore.views import EmbeddedViews

log = logging.getLogger("bgf.failover")


def failover_config(node: NodeConfig, sources: Mapping[str, str]) -> FailoverConfig:
    """The node's file as the failover room wants it. `sources`: own address by media realm."""
    groups = {}
    for group in node.groups:
        moving = [
            MovingAddress(a.host, a.prefix_len, node.realms[a.realm].interface)
            for a in group.addresses
        ]
        control = MovingAddress(
            group.control.host,
            group.control_prefix_len,
            node.realms[group.control_realm].interface,
        )
        groups[group.id] = GroupConfig((*moving, control), group.preferred)
    try:
        return FailoverConfig(
            node=node.node.id,
            discriminator=node.node.discriminator,
            sources=sources,
            interfaces={path: node.realms[path].interface for path in sources},
            peers={p.id: PeerConfig(p.discriminator, p.paths) for p in node.failover.peers},
            groups=groups,
            probe_interval_ms=node.failover.probe_interval_ms,
            detect_multiplier=node.failover.detect_multiplier,
            lease_ms=node.failover.lease_ms,
            announce_interval_ms=node.failover.announce_interval_ms,
        )
    except FailoverConfigError as error:
        raise ConfigError(str(error)) from error


class Waker:
    """Tells the gateway process of this node to look at the registry; never waits."""

    def __init__(self, run_dir: Path) -> None:
        self._path = str(wake_socket(run_dir))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def __call__(self, group: str, epoch: int) -> None:
        try:
            self._socket.sendto(f"{group} {epoch}".encode()[:64], self._path)
        except OSError as error:  # it polls the registry anyway
            log.info("the gateway process was not woken: %s", error.strerror)

    def close(self) -> None:
        self._socket.close()


def _log_event(event: TimelineEvent) -> None:
    level = logging.WARNING if event["event"] in ("failed", "conflict") else logging.INFO
    where = f" {event['group']} epoch {event['epoch']}" if event["group"] else ""
    log.log(level, "%s%s: %s", event["event"], where, event["sentence"])


async def run(node: NodeConfig) -> None:
    """The process, until it is told to stop. Addresses and deadlines then run out by themselves."""
    store = await retrying(
        "the state segment (is `bgf state` running?)",
        lambda: statestore.open(node.state.address, create=False),
        (StateStoreError, OSError),
    )
    armer = await retrying(
        "the packet path (is `bgf gateway` running?)",
        lambda: ArmedMap(node.media.pin_dir, [group.id for group in node.groups]),
        (BgfError, OSError),
    )
    sources = await asyncio.to_thread(own_addresses, node)
    config = failover_config(node, sources)
    readiness = Readiness(store, node.node.id)
    waker = Waker(node.node.run_dir)
    try:
        addresses = NetlinkAddresses(
            [address for group in config.groups.values() for address in group.addresses]
        )
        prober = UdpProber(
            sources, {name: peer.paths for name, peer in config.peers.items()}, config.interfaces
        )
    except FailoverError as error:
        raise EnvironmentProblem(str(error)) from error
    manager = Manager(
        config,
        registry=StoreRegistry(EmbeddedViews(store)),
        armer=armer,
        addresses=addresses,
        prober=prober,
        clock=now_ns,
        ready=lambda: readiness.fresh(now_ns()),
        wake_gateway=waker,
        on_event=_log_event,
    )

    def status(_request: dict[str, Any]) -> dict[str, Any]:
        return manager.status() | {"process": "failover", "peers": manager.status()["hears"]}

    def timeline(_request: dict[str, Any]) -> dict[str, Any]:
        return {"events": manager.timeline()}

    stop = asyncio.Event()
    try:
        async with AdminServer(
            node.node.socket("failover"), {"status": status, "timeline": timeline}
        ):
            log.info("ready: probing from %s", dict(sources))
            await until_signalled([asyncio.create_task(manager.run(stop))])
    finally:
        stop.set()
        manager.close()
        addresses.close()
        waker.close()
        armer.close()
        store.close()
