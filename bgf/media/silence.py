"""Which flows have fallen silent: looked for only when a flow's time could be up. No I/O.

A flow that was seen at t cannot be silent before t + its limit, so it is looked at then and not
earlier: with 200,000 flows and a limit of half a minute that is 7,000 looks a second, not millions.
Only an armed group's flows count: where nothing is forwarded, nothing is silent.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bgf.media.datapath import MediaSilent
from bgf.model import FlowKey

LOOKS_MAX = 20_000
"""Flows looked at by one call; the rest by the next."""


@dataclass(slots=True)
class _Watched:
    group: str
    limit_ns: int
    since_ns: int
    told: tuple[int, int] | None = None
    """The silence that was reported: last_seen, and since when its group was armed"""


class SilenceWatch:
    """`watch` flows, then ask `due` every second or so."""

    def __init__(self) -> None:
        self._flows: dict[FlowKey, _Watched] = {}
        self._checks: list[tuple[int, FlowKey]] = []

    def __len__(self) -> int:
        return len(self._flows)

    def watch(self, key: FlowKey, group: str, limit_ms: int, now_ns: int) -> None:
        """Begin, or go on with what is the same; 0 ends it."""
        if not limit_ms:
            self._flows.pop(key, None)
            return
        old = self._flows.get(key)
        if old and (old.group, old.limit_ns) == (group, limit_ms * 1_000_000):
            return
        self._flows[key] = _Watched(group, limit_ms * 1_000_000, now_ns)
        heapq.heappush(self._checks, (now_ns + limit_ms * 1_000_000, key))

    def forget(self, key: FlowKey) -> None:
        self._flows.pop(key, None)

    def due(
        self,
        now_ns: int,
        armed_since: Mapping[str, int],
        last_seen: Callable[[Sequence[FlowKey]], Sequence[int]],
    ) -> list[MediaSilent]:
        """Flows silent for their limit. `armed_since` has the groups that are armed now, and since
        when; `last_seen` reads times of the last packet, 0 for never. Told is each silence once for
        each time that its group is armed: the owner of before has heard of it, today's has not."""
        keys: dict[FlowKey, None] = {}
        while self._checks and self._checks[0][0] <= now_ns and len(keys) < LOOKS_MAX:
            key = heapq.heappop(self._checks)[1]
            if key in self._flows:
                keys[key] = None
        found = []
        for key, seen_ns in zip(keys, last_seen(list(keys)), strict=True):
            flow = self._flows[key]
            armed_ns = armed_since.get(flow.group)
            start_ns = max(seen_ns, flow.since_ns, armed_ns or 0)
            if armed_ns is None:
                flow.told, start_ns = None, now_ns
            elif now_ns - start_ns >= flow.limit_ns:
                if flow.told != (seen_ns, armed_ns):
                    found.append(MediaSilent(key, seen_ns))
                    flow.told = seen_ns, armed_ns
                start_ns = now_ns
            heapq.heappush(self._checks, (start_ns + flow.limit_ns, key))
        return found
