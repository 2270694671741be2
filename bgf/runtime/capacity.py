"""Has this node room for what it would take over? Pure: numbers in, sentences out.

Knows: what a call takes of a gateway process's memory, and what is left of each table. Must not
know where the numbers come from, nor what follows. Media ports need no room here: no socket holds
them; the control sockets are open beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SESSION_BYTES: Final = 10_000
"""Own memory of one restored call (`python -m benchmarks.control --only sessions`)."""
STATE_FREE_PARTS: Final = 20
"""A twentieth of the segment must be free: copies are made again after a death."""
PINHOLES_PER_CALL: Final = 4
MEGA: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """What a node's gateway process has. Pinholes are entries of the packet path."""

    pinholes: int
    pinholes_max: int
    recorded: int
    memory_bytes: int
    memory_max_bytes: int
    state_free_bytes: int
    state_bytes: int


def shortfalls(
    room: Room, calls: Mapping[str, int], deaf: frozenset[str] = frozenset()
) -> list[str]:
    """Why the node could not carry one more of the groups in `calls` (their calls, by group that
    another node owns); `deaf` are groups at whose control address it does not listen."""
    found = []
    if room.recorded > room.pinholes_max:
        found.append(
            f"{room.recorded} pinholes are recorded and its packet path has room for "
            f"{room.pinholes_max}: raise media.pinholes_max"
        )
    elif calls and room.pinholes_max - room.pinholes < PINHOLES_PER_CALL:
        found.append(
            f"its packet path is full ({room.pinholes} of {room.pinholes_max} pinholes):"
            " raise media.pinholes_max"
        )
    free = room.memory_max_bytes - room.memory_bytes
    for group, count in sorted(calls.items()):
        if count * SESSION_BYTES > free:
            found.append(
                f"{group}: its {count} calls need {count * SESSION_BYTES // MEGA} MB and the"
                f" gateway process may have {max(0, free) // MEGA} MB more:"
                " raise control.memory_max_mb"
            )
        if group in deaf:
            found.append(f"{group}: it does not listen at the control address")
    if room.state_free_bytes * STATE_FREE_PARTS < room.state_bytes:
        found.append(
            f"its state segment has {room.state_free_bytes // MEGA} of"
            f" {room.state_bytes // MEGA} MB left: raise state.size_mb"
        )
    return found
