"""What a state server needs of its engine, and how one member is configured.

Knows: the engine's calls (`_node.pyi` says what each does). Must not know who calls them when.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from statestore.member_records import SAFE, Timers

MS: Final = 1_000_000
PREFIX: Final = "/dal/members/"


class Engine(Protocol):
    """What is needed of `_node.Node`; its stub says what each does."""

    @property
    def incarnation(self) -> int: ...
    @property
    def port(self) -> int: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    def set_view(
        self,
        epoch: int,
        leader: int,
        members: list[tuple[int, str, str, int, int]],
        left: list[int],
    ) -> None: ...
    def set_lease(self, deadline_ns: int) -> None: ...
    def begin_anew(self) -> int: ...
    def move(self, key: bytes, slot: int) -> None: ...
    def leave(self) -> None: ...
    def unwanted(self) -> list[int]: ...
    def reload_keys(self) -> None: ...
    def stats(self, walk: bool = False) -> dict[str, int]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One member. `timers` are those of its lease; every member of a cluster has the same.

    `promote`: when a new master writes, after the dead one's `lease` or `at once` (what a member
    that is cut off reads may then be over). `history`: accesses that decide a move, 0: none.
    """

    directory: Path
    node: str
    host: str
    key_file: Path
    port: int = 7400
    size_bytes: int = 256 << 20
    history: int = 8
    promote: str = "lease"
    repair_per_s: int = 2_000
    busy: bool = False
    timers: Timers = SAFE
    prefix: str = PREFIX

    @property
    def address(self) -> str:
        return f"dal://{self.directory}"


def open_engine(config: ServerConfig) -> Engine:
    """The real one. Raises Unavailable (address, key file, segment) and Invalid."""
    from statestore._node import Node  # noqa: PLC0415 - clients need no engine

    return Node(
        str(config.directory / "segment"),
        config.node,
        config.host,
        config.port,
        str(config.key_file),
        history=config.history,
        promote_delay_ns=config.timers.lease_ms * MS if config.promote == "lease" else 0,
        repair_per_s=config.repair_per_s,
        busy=config.busy,
    )
