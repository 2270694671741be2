"""What a gateway process has left, and for which of the others' groups that is too little.

Knows: where the numbers are. Must not know how they are judged (`capacity`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgf.runtime.capacity import Room, shortfalls

if TYPE_CHECKING:
    from bgf.runtime.gateway_process import GatewayProcess


def room_of(process: GatewayProcess) -> Room:
    """What the node has, and what of it is in use."""
    stats = process.store.stats()
    return Room(
        process.datapath.installed,
        process.datapath.capacity,
        process.recorded.count(),
        process.load.memory_bytes,
        process.load.memory_max_bytes,
        stats["free"],
        stats["total"],
    )


def lacks(process: GatewayProcess) -> list[str]:
    """Why this node could not carry one more of the groups that others serve."""
    elsewhere = [served for served in process.served.values() if served.driver is None]
    deaf = frozenset(served.group.id for served in elsewhere if served.server is None)
    calls = {served.group.id: process.feed.calls(served.group.id) for served in elsewhere}
    return shortfalls(room_of(process), calls, deaf)
