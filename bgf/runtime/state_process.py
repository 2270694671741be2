"""`bgf state`: makes the segment, holds the keeper's lock when it can, keeps house.

Several may run on one host over one segment; one of them is the keeper, the others wait for its
lock. Readers and writers need none of them to be alive.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import statestore
from bgf.admin import AdminServer
from bgf.config import NodeConfig
from bgf.errors import EnvironmentProblem
from bgf.runtime.process import every, now_ns, until_signalled
from statestore.errors import StateStoreError

log = logging.getLogger("bgf.state")

HOUSEKEEP_MS = 200


class StateProcess:
    """The composition of one node's state process."""

    def __init__(self, node: NodeConfig, store: statestore.Store) -> None:
        self.node = node
        self.store = store
        self.keeper = False

    def keep_house(self) -> None:
        if not self.keeper:
            self.keeper = self.store.try_keeper()
            if self.keeper:
                log.info("keeper of %s", self.node.state.address)
        if self.keeper:
            self.store.housekeep(now_ns())

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "ready": True,
            "process": "state",
            "node": self.node.node.id,
            "keeper": self.keeper,
            "stats": dict(self.store.stats()),
        }


async def run(node: NodeConfig) -> None:
    """The process, until it is told to stop."""
    try:
        store = statestore.open(
            node.state.address, create=True, size_bytes=node.state.size_mb << 20
        )
    except StateStoreError as error:
        raise EnvironmentProblem(str(error)) from error
    try:
        process = StateProcess(node, store)
        process.keep_house()
        async with AdminServer(node.node.socket("state"), {"status": process.status}):
            log.info("ready: %s", node.state.address)
            await until_signalled([asyncio.create_task(every(HOUSEKEEP_MS, process.keep_house))])
    finally:
        store.close()
