"""`bgf monitor`: the node's figures and its page on the management address. Reads, and no more.

A process of its own, with no privilege but reading the admin sockets: a scrape runs no HTTP beside
control or failover, and what it is asked can harm nobody but itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bgf.config import MonitorSection, NodeConfig
from bgf.ctl.client import Node
from bgf.drill_book import book
from bgf.errors import ConfigError
from bgf.monitor.drills import Drills
from bgf.monitor.monitor import Monitor
from bgf.runtime.process import until_signalled

log = logging.getLogger("bgf.monitor")


async def run(node: NodeConfig) -> None:
    """The process of one node, until it is told to stop. Raises ConfigError."""
    if node.monitor is None:
        raise ConfigError(
            '[monitor] is not in the file: say where to listen, as in listen = "10.30.0.11:9401"'
        )
    await watch(node.monitor, [Node(node.node.id, node.node.run_dir)])


async def watch(section: MonitorSection, nodes: Sequence[Node]) -> None:
    """The page of these nodes, whose run directories are here."""
    drills = Drills(section.drills, book())
    async with Monitor(section.listen, nodes, section.peers, drills) as monitor:
        address = monitor.server.address
        log.info(
            "ready: http://%s/ is the page, http://%s/metrics for Prometheus", address, address
        )
        await until_signalled([])
