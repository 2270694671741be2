"""Types of the extension that runs a member of the cluster: node.h in a loop with a socket."""

from typing import final

Member = tuple[int, str, str, int, int]
"""slot, node, host, port, incarnation"""

@final
class Node:
    """One state server. `run` is the loop: call it in a thread of its own; everything else may be
    called from any thread meanwhile and waits for at most one round of the loop."""

    def __init__(
        self,
        segment: str,
        name: str,
        host: str,
        port: int,
        key_file: str,
        *,
        history: int = 8,
        promote_delay_ns: int = 0,
        resend_ns: int = 20_000_000,
        repair_per_s: int = 2_000,
        busy: bool = False,
    ) -> None:
        """Binds UDP host:port (0: any). Raises Unavailable (address, keys, segment), Invalid."""
    @property
    def incarnation(self) -> int: ...
    @property
    def port(self) -> int: ...
    def run(self) -> None:
        """Until stop. Releases the GIL."""
    def stop(self) -> None: ...
    def set_view(self, epoch: int, leader: int, members: list[Member], left: list[int]) -> None: ...
    def set_lease(self, deadline_ns: int) -> None: ...
    def begin_anew(self) -> int:
        """Drop all items and become a new incarnation (returned): after having been evicted."""
    def move(self, key: bytes, slot: int) -> None: ...
    def leave(self) -> None:
        """Begin to hand over; stats()["left"] says when it is done."""
    def unwanted(self) -> list[int]:
        """Slots to be evicted: they take none of the key map's operations, or lag too far."""
    def reload_keys(self) -> None: ...
    def stats(self, walk: bool = False) -> dict[str, int]:
        """node_stats; phase 0 outside, 1 joining, 2 changing, 3 active; latencies under
        `latency_<operation>_<bucket>` (power-of-two microseconds)."""
    def close(self) -> None:
        """Ends run, too. What other threads have begun ends first; what they begin is refused."""
