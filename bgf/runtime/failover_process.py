"""`bgf failover`: detection, lease, addresses, and the one hand on the packet path's safety catch.

Wires `failover.manager` to the registry, netlink, probing sockets and the pinned `armed` map. In a
cluster the registry is etcd, and nothing here asks the state plane: media must not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bgf.admin import AdminClient, AdminServer
from bgf.config import NodeConfig
from bgf.errors import BgfError, ConfigError, EnvironmentProblem
from bgf.media.xdp import ArmedMap
from bgf.runtime.cluster import open_store, views_of
from bgf.runtime.failover_admin import FailoverAdmin
from bgf.runtime.fencing import NovaFencer
from bgf.runtime.history_file import HistoryFile, boot_id
from bgf.runtime.own_addresses import own_addresses
from bgf.runtime.patient_registry import PatientRegistry
from bgf.runtime.process import every, now_ns, retrying, until_signalled, wake_socket
from bgf.runtime.readiness import Readiness
from bgf.runtime.reloading import Reloader
from bgf.runtime.scheduling import is_real_time, take_real_time
from bgf.runtime.vouch_link import UdpVouchLink
from bgf.runtime.vouch_memory import MemoryFile
from bgf.runtime.witness import Witness
from failover.addresses import NetlinkAddresses
from failover.config import FailoverConfig, GroupConfig, MovingAddress, PeerConfig
from failover.errors import FailoverConfigError, FailoverError
from failover.history import TimelineEvent
from failover.manager import Manager
from failover.probing import UdpProber
from failover.watchdog import LinuxWatchdog
from statestore.errors import StateStoreError

log = logging.getLogger("bgf.failover")

BURY_TIMEOUT_S = 1.0
SAVE_MS = 1_000
WARNED = (
    *("failed", "conflict", "condition", "warning", "given-up", "withdrawn"),
    *("fenced", "fence-failed", "fence-withheld"),
    *("registry-lost", "vouched", "vouched-over", "unvouched"),
)


def failover_config(node: NodeConfig, sources: Mapping[str, str]) -> FailoverConfig:
    """The node's file as the failover room wants it. `sources`: own address by realm probed."""
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
            host=node.node.host,
            rack=node.node.rack,
            profile=node.failover.profile,
            control_paths=frozenset(path for path in sources if not node.realms[path].media),
            **asdict(node.failover.timers),
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


class Gravedigger:
    """Tells this node's state server that nobody hears a member any more, from a thread.

    The view without it is one transaction away; its copies are not waited for any longer.
    """

    def __init__(self, node: NodeConfig) -> None:
        self._client = AdminClient(node.node.socket("state"), BURY_TIMEOUT_S)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bury")

    def __call__(self, node: str) -> None:
        self._pool.submit(self._tell, node)

    def _tell(self, node: str) -> None:
        try:
            self._client.call("evict", node=node)
        except BgfError as error:  # then its lease has to run out
            log.warning("the state server was not told that %s is gone: %s", node, error)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _log_event(event: TimelineEvent) -> None:
    level = logging.WARNING if event["event"] in WARNED else logging.INFO
    where = f" {event['group']} epoch {event['epoch']}" if event["group"] else ""
    about = {
        "group": event["group"],
        "epoch": event["epoch"] or None,
        "reason": event["reason"] or event["event"],
        "peer": event["node"],
    }
    log.log(level, "%s%s: %s", event["event"], where, event["sentence"], extra=about)


def _sentence(said: dict[str, Any]) -> str:
    """How it goes, for systemd, from the manager's status."""
    owned = sorted(group for group, held in said["groups"].items() if held["epoch"])
    parts = [
        "drained" if said["drained"] else f"serves {', '.join(owned) or 'no group'}",
        f"hears {', '.join(sorted(said['hears'])) or 'nobody'}",
    ]
    if not said["lease_left_ms"]:
        parts.append("has no lease")
    parts += [said["vouching"]["sentence"]] if said["vouching"]["sentence"] else []
    parts += said["unready"] or [f"{what}: {text}" for what, text in said["trouble"].items()]
    return "; ".join(parts)


async def run(node: NodeConfig) -> None:
    """The process, until it is told to stop. Addresses and deadlines then run out by themselves."""
    scheduling = take_real_time(node.failover.realtime_priority)
    refused = node.failover.realtime_priority and not is_real_time()
    log.log(logging.WARNING if refused else logging.INFO, "%s", scheduling)
    clustered = node.state.cluster is not None
    store = None
    if not clustered:
        store = await retrying(
            "the state segment (is `bgf state` running?)",
            lambda: open_store(node),
            (StateStoreError, OSError),
        )
    # Who hears nothing of etcd for half a lease must not take others' silence for their death.
    registry, close_registry = views_of(node, store, node.failover.timers.lease_ms / 2)
    armer = await retrying(
        "the packet path (is `bgf gateway` running?)",
        lambda: ArmedMap(node.media.pin_dir, [group.id for group in node.groups]),
        (BgfError, OSError),
    )
    sources = await asyncio.to_thread(own_addresses, node)
    config = failover_config(node, sources)
    readiness = Readiness(node.node.run_dir)
    gravedigger = Gravedigger(node)
    witness = Witness(node, lambda: readiness.fresh(now_ns()))
    waker = Waker(node.node.run_dir)
    try:
        addresses = NetlinkAddresses(
            [address for group in config.groups.values() for address in group.addresses]
        )
        prober = UdpProber(
            sources, {name: peer.paths for name, peer in config.peers.items()}, config.interfaces
        )
        link = None
        if node.state.cluster is not None:
            ways = {name: peer.paths for name, peer in config.peers.items()}
            link = UdpVouchLink(sources, ways, config.interfaces, node.state.cluster.key_file)
        # Last: once it is open, whoever goes without a word has the machine reset.
        dog = node.failover.safety.watchdog
        watchdog = LinuxWatchdog(dog.device, dog.timeout_s) if dog.device else None
    except FailoverError as error:
        raise EnvironmentProblem(str(error)) from error
    fencing = node.failover.safety.fencing
    fencer = NovaFencer(fencing) if fencing.driver == "nova" else None
    boot = boot_id()
    patient = PatientRegistry(registry, config.lease_ms)
    manager = Manager(
        config,
        registry=patient if clustered else registry,
        armer=armer,
        addresses=addresses,
        prober=prober,
        clock=now_ns,
        ready=lambda: readiness.fresh(now_ns()),
        wake_gateway=waker,
        bury=gravedigger if clustered else lambda _: None,
        unready=lambda: readiness.lacks(now_ns()),
        health=witness.health,
        control=witness.control,
        on_event=_log_event,
        fencer=fencer,
        watchdog=watchdog,
        link=link,
        memory=MemoryFile(node.node.run_dir, boot) if clustered else None,
    )

    history = HistoryFile(node.node.run_dir, manager.history, boot)
    history.load(list(config.groups))
    admin = FailoverAdmin(manager, addresses, config.groups, boot)
    handlers = admin.handlers | {"reload": Reloader("failover", node).reload}
    stop = asyncio.Event()
    try:
        witness.start()
        async with AdminServer(node.node.socket("failover"), handlers):
            log.info("ready: probing from %s", dict(sources))
            await until_signalled(
                [
                    asyncio.create_task(manager.run(stop)),
                    asyncio.create_task(every(SAVE_MS, history.save)),
                ],
                lambda: _sentence(manager.status()),
            )
    finally:
        stop.set()
        manager.close()
        history.save()
        witness.close()
        addresses.close()
        waker.close()
        armer.close()
        gravedigger.close()
        if fencer is not None:
            fencer.close()
        patient.close(close_registry)
        if store is not None:
            store.close()
