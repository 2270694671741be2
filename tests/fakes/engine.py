"""A state server's engine without a network: it knows its view, its lease, if it is complete.

It catches up when the view's leader is complete, which it is told by the test's `World`.
"""

from __future__ import annotations

import itertools
import threading

from statestore.engine import ServerConfig
from statestore.errors import Away, NotFound, Unavailable
from statestore.store import now_ns

PORTS = itertools.count(7400)


class World:
    """All engines of one test, by node."""

    def __init__(self) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.incarnations = itertools.count(1)

    def __call__(self, config: ServerConfig) -> FakeEngine:
        if not config.key_file.exists():
            raise Unavailable(f"key file {config.key_file}: there is none")
        self.engines[config.node] = FakeEngine(self, config)
        return self.engines[config.node]


class FakeEngine:
    """What `statestore.server.Engine` asks for. `stuck`: never hands its masters over."""

    def __init__(self, world: World, config: ServerConfig) -> None:
        self._world = world
        self._node = config.node
        self.incarnation = next(world.incarnations)
        self.port = next(PORTS)
        self.views: list[tuple[int, int, list[tuple[int, str, str, int, int]], list[int]]] = []
        self.lease_ns = 0
        self.complete = False
        self.leaving = False
        self.stuck = False
        self.lagging: list[int] = []
        self.keys_read = 1
        self.moved: list[tuple[bytes, int]] = []
        self.items = {b"mine"}
        self.closed = False
        self._end = threading.Event()

    def run(self) -> None:
        self._end.wait()

    def stop(self) -> None:
        self._end.set()

    def close(self) -> None:
        self.closed = True

    def set_view(
        self,
        epoch: int,
        leader: int,
        members: list[tuple[int, str, str, int, int]],
        left: list[int],
    ) -> None:
        assert not self.views or epoch > self.views[-1][0], "views go forward"
        self.views.append((epoch, leader, members, left))
        leads = any(slot == leader and node == self._node for slot, node, *_ in members)
        self.complete = self.complete or leads

    def set_lease(self, deadline_ns: int) -> None:
        assert deadline_ns >= self.lease_ns, "a lease is never taken back"
        self.lease_ns = deadline_ns

    def begin_anew(self) -> int:
        self.incarnation = next(self._world.incarnations)
        self.views, self.lease_ns, self.complete, self.items = [], 0, False, set()
        return self.incarnation

    def move(self, key: bytes, slot: int) -> None:
        if key not in self.items:
            raise Away("not ours") if key == b"theirs" else NotFound(f"item {key!r}")
        self.moved.append((key, slot))

    def leave(self) -> None:
        self.leaving = True

    def unwanted(self) -> list[int]:
        lagging, self.lagging = self.lagging, []
        return lagging

    def reload_keys(self) -> None:
        self.keys_read += 1

    @property
    def inside(self) -> bool:
        return bool(self.views) and any(
            node == self._node and incarnation == self.incarnation
            for _, node, _, _, incarnation in self.views[-1][2]
        )

    def stats(self, walk: bool = False) -> dict[str, int]:
        if self.inside and not self.complete:
            leader = next((m for m in self.views[-1][2] if m[0] == self.views[-1][1]), None)
            self.complete = leader is not None and self._world.engines[leader[1]].complete
        epoch, leader_slot = self.views[-1][:2] if self.views else (0, 255)
        serving = self.inside and self.complete and now_ns() < self.lease_ns
        return {
            "phase": 3 if self.inside and self.complete else 1 if self.inside else 0,
            "complete": int(self.complete),
            "serving": int(serving),
            "leading": int(self.inside and self.complete and epoch > 0),
            "leader": leader_slot,
            "epoch": epoch,
            "applied": epoch,
            "last": epoch,
            "left": int(self.leaving and not self.stuck),
            "masters": len(self.items) if walk else 0,
        }
