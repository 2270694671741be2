"""Calls that hang: all their media has stopped and nobody has ended them. Found, not judged.

Knows: which pinholes are watched, what was reported of them, their counters. Must not know who
owns a group or whether such calls are closed. A call hangs while every watched pinhole of it has
been reported silent and no packet has come since, nor for as long through any other open one: of a
party that holds without music there is RTCP alone (RFC 3264 section 8.4, RFC 3550 section 6.2). A
call that both sides hold has none that is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from bgf.gateway import Gateway
from bgf.media.datapath import MediaSilent
from bgf.model import Counters, FlowKey, Gate

CHECKED_MAX: Final = 2_048
"""Calls with a silent pinhole that are looked at in one round."""
NS_PER_MS: Final = 1_000_000


class Hanging(NamedTuple):
    """A call without media, and since when at least (CLOCK_BOOTTIME ns)."""

    call_id: str
    since_ns: int
    never_started: bool


class Silence:
    """What one group's owner knows of silence. `machine` is the group's."""

    def __init__(
        self, machine: Gateway, counters: Callable[[Sequence[FlowKey]], Sequence[Counters]]
    ) -> None:
        self._machine = machine
        self._counters = counters
        self._silent: dict[str, dict[FlowKey, tuple[int, int]]] = {}  # (last_seen_ns, since_ns)
        self._round: list[str] = []

    def __len__(self) -> int:
        return len(self._silent)

    def go_on(self, machine: Gateway) -> None:
        """The group has another machine on this node: what was reported is not said again."""
        self._machine = machine

    def count_from(self, now_ns: int) -> None:
        """No silence is older than this: nobody can say what media did elsewhere before."""
        for known in self._silent.values():
            for key, (last_seen_ns, since_ns) in known.items():
                known[key] = last_seen_ns, max(since_ns, now_ns)

    def note(self, call_id: str, report: MediaSilent, now_ns: int) -> None:
        """A pinhole of the call has been silent for its limit."""
        flows = self._machine.expected_flows(call_id)
        limit_ms = next((flow.inactivity_ms for flow in flows if flow.key == report.key), 0)
        # Its last packet may be of before a hold, or of an earlier ownership.
        since_ns = max(report.last_seen_ns, now_ns - limit_ms * NS_PER_MS)
        self._silent.setdefault(call_id, {})[report.key] = (report.last_seen_ns, since_ns)

    def forget(self, call_id: str) -> None:
        self._silent.pop(call_id, None)

    def hanging(self, now_ns: int, limit: int = CHECKED_MAX) -> list[Hanging]:
        """Those among the next `limit` calls with a silent pinhole that hang now.

        What has media again, or is gone, is forgotten on the way.
        """
        if not self._round:
            self._round = list(self._silent)
        asked, self._round = self._round[:limit], self._round[limit:]
        return self._check(asked, now_ns)

    def all_hanging(self, now_ns: int) -> list[Hanging]:
        """All of them, for a person who asks."""
        return self._check(list(self._silent), now_ns)

    def _check(self, calls: Iterable[str], now_ns: int) -> list[Hanging]:
        found = []
        for call_id in calls:
            known = self._silent.get(call_id)
            if known is None or self._is_to_come(call_id, known):
                continue
            flows = self._machine.expected_flows(call_id)
            limits = {flow.key: flow.inactivity_ms for flow in flows if flow.inactivity_ms}
            seen = self._last_seen([flow.key for flow in flows if flow.gate is Gate.OPEN])
            for key in list(known):
                if key not in limits or seen[key] > known[key][0]:
                    del known[key]
            if not known:
                del self._silent[call_id]
            elif len(known) == len(limits):
                heard_ns = max((at for key, at in seen.items() if key not in known), default=0)
                if heard_ns <= now_ns - max(limits.values()) * NS_PER_MS:
                    since_ns = max(heard_ns, *(since for _, since in known.values()))
                    never = not any(last for last, _ in known.values())
                    found.append(Hanging(call_id, since_ns, never))
        return found

    def _last_seen(self, keys: Sequence[FlowKey]) -> dict[FlowKey, int]:
        counters = self._counters(keys)
        return {key: one.last_seen_ns for key, one in zip(keys, counters, strict=True)}

    def _is_to_come(self, call_id: str, known: Iterable[FlowKey]) -> bool:
        """Is the call still to be restored? Until then nobody knows what is watched of it."""
        machine = self._machine
        if machine.session(call_id) is not None:
            return False
        return any(machine.call_of(key) == call_id for key in known)
