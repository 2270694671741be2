"""Calls that hang: all their media has stopped and nobody has ended them. Found, not judged.

Knows: which pinholes are watched, what was reported of them, their counters. Must not know who
owns a group or whether such calls are closed. A call hangs while every watched pinhole of it has
been reported silent and no packet has come since; a call on hold has none that is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from bgf.media.datapath import MediaSilent
from bgf.model import Counters, Flow, FlowKey

CHECKED_MAX: Final = 2_048
"""Calls with a silent pinhole that are looked at in one round."""


class Hanging(NamedTuple):
    """A call without media, and since when at least (CLOCK_BOOTTIME ns)."""

    call_id: str
    since_ns: int
    never_started: bool


class Silence:
    """What one group's owner knows of silence. `flows_of` gives a call's pinholes."""

    def __init__(
        self,
        flows_of: Callable[[str], Sequence[Flow]],
        counters: Callable[[Sequence[FlowKey]], Sequence[Counters]],
    ) -> None:
        self._flows_of = flows_of
        self._counters = counters
        self._silent: dict[str, dict[FlowKey, tuple[int, int]]] = {}  # (last_seen_ns, since_ns)
        self._round: list[str] = []

    def __len__(self) -> int:
        return len(self._silent)

    def note(self, call_id: str, report: MediaSilent, now_ns: int) -> None:
        """A pinhole of the call has been silent for its limit."""
        limit_ms = next(
            (f.inactivity_ms for f in self._flows_of(call_id) if f.key == report.key), 0
        )
        since_ns = report.last_seen_ns or now_ns - limit_ms * 1_000_000
        self._silent.setdefault(call_id, {})[report.key] = (report.last_seen_ns, since_ns)

    def forget(self, call_id: str) -> None:
        self._silent.pop(call_id, None)

    def hanging(self, limit: int = CHECKED_MAX) -> list[Hanging]:
        """Those among the next `limit` calls with a silent pinhole that hang now.

        What has media again, or is gone, is forgotten on the way.
        """
        if not self._round:
            self._round = list(self._silent)
        asked, self._round = self._round[:limit], self._round[limit:]
        return self._check(asked)

    def all_hanging(self) -> list[Hanging]:
        """All of them, for a person who asks."""
        return self._check(list(self._silent))

    def _check(self, calls: Iterable[str]) -> list[Hanging]:
        found = []
        for call_id in calls:
            known = self._silent.get(call_id)
            if known is None:
                continue
            watched = [flow.key for flow in self._flows_of(call_id) if flow.inactivity_ms]
            counters = dict(zip(watched, self._counters(watched), strict=True))
            for key in list(known):
                if key not in counters or counters[key].last_seen_ns > known[key][0]:
                    del known[key]
            if not known:
                del self._silent[call_id]
            elif len(known) == len(watched):
                since_ns = max(since for _, since in known.values())
                never = not any(last for last, _ in known.values())
                found.append(Hanging(call_id, since_ns, never))
        return found
