"""From receivers' reports to outages and verdicts: pure functions over values, no I/O.

Knows: flow reports, times, percentiles. Must not know how anything was measured or is shown.
An outage is what a listener would hear: the largest gap between two arrivals around the kill. It
contains one ordinary packet interval (20 ms), which is not subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bgf.lab.rtpclock import outage
from bgf.lab.rtpwire import FlowReport

NS_PER_MS = 1_000_000
STEPS = ("detected", "decided", "armed", "announced", "first_packet")
GENERATED, SIP = "generated", "sip"
TO_ACCESS, TO_CORE = "to access", "to core"


@dataclass(frozen=True, slots=True)
class FlowOutage:
    """One flow's silence. Times in ms after the kill; `end_ms` is None while it is silent.

    `exact` is False when a larger gap before the kill hides this one, which it then bounds.
    """

    direction: str
    kind: str
    destination: str
    source: str
    start_ms: float
    end_ms: float | None
    outage_ms: float
    exact: bool = True

    @property
    def recovered(self) -> bool:
        return self.end_ms is not None


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and nearest-rank percentiles."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        if not ordered:
            return cls()
        return cls(
            len(ordered),
            sum(ordered) / len(ordered),
            percentile(ordered, 50),
            percentile(ordered, 99),
            ordered[-1],
        )

    def as_json(self) -> dict[str, float]:
        return {
            "mean": round(self.mean, 3),
            "p50": round(self.p50, 3),
            "p99": round(self.p99, 3),
            "max": round(self.max, 3),
        }


def percentile(ordered: Sequence[float], rank: float) -> float:
    """Nearest rank: the smallest value that at least `rank` percent do not exceed."""
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def outages(
    reports: Iterable[FlowReport], direction: str, hosts: frozenset[str], t0_ns: int, now_ns: int
) -> list[FlowOutage]:
    """The silence around `t0_ns` of every flow that comes from one of `hosts` (a group)."""
    found = []
    for report in reports:
        if report.source.host not in hosts:
            continue
        gap = outage(report, t0_ns, now_ns)
        found.append(
            FlowOutage(
                direction,
                GENERATED if report.generated else SIP,
                str(report.destination),
                str(report.source),
                (gap.start_ns - t0_ns) / NS_PER_MS,
                None if gap.end_ns is None else (gap.end_ns - t0_ns) / NS_PER_MS,
                gap.duration_ns / NS_PER_MS,
                gap.exact,
            )
        )
    return found


def why(events: Iterable[Mapping[str, Any]], group: str, killed: str) -> str:
    """The last decision about `group`, and what was found out about the killed node since."""
    told = list(events)
    decided = [e for e in told if e.get("event") == "decided" and e.get("group") == group]
    if not decided:
        return ""
    last = max(decided, key=lambda event: int(event.get("epoch", 0)))
    words = [str(last.get("reason", ""))]
    found = [e for e in told if e.get("event") == "condition" and e.get("node") == killed]
    words += [str(e.get("reason", "")) for e in sorted(found, key=lambda e: int(e["at_ns"]))]
    reasons = ", then ".join(word for word in dict.fromkeys(words) if word)
    return f"{last.get('sentence', '')} [{reasons}]"


def strangers(reports: Iterable[FlowReport], hosts: frozenset[str]) -> int:
    """Packets that came from none of `hosts`, the addresses of all groups."""
    return sum(report.packets for report in reports if report.source.host not in hosts)


def relapsed(flows: Sequence[FlowOutage], later: Iterable[FlowOutage]) -> list[FlowOutage]:
    """`flows`, those without an end that a `later` look found silent."""
    silent = {(f.direction, f.destination, f.source) for f in later if not f.recovered}
    return [
        replace(flow, end_ms=None)
        if (flow.direction, flow.destination, flow.source) in silent
        else flow
        for flow in flows
    ]


def mute_calls(flows: Iterable[FlowOutage]) -> int:
    """SIP calls that lost their media for good, in at least one direction (at least so many)."""
    silent = [flow.direction for flow in flows if flow.kind == SIP and not flow.recovered]
    return max(silent.count(TO_ACCESS), silent.count(TO_CORE))


def timeline(
    events: Iterable[Mapping[str, object]], t0_ns: int, group: str
) -> dict[str, float | None]:
    """ms after the kill of the first event of each step that concerns `group` (or a whole node).

    `events` are those of every survivor: {"event", "group", "at_ns", ...}. None: did not happen.
    """
    steps: dict[str, float | None] = dict.fromkeys(STEPS)
    for event in events:
        name, at_ns = event.get("event"), event.get("at_ns")
        if name not in steps or not isinstance(at_ns, int) or at_ns < t0_ns:
            continue
        if event.get("group") not in (group, "", None):
            continue
        at_ms = (at_ns - t0_ns) / NS_PER_MS
        held = steps[str(name)]
        if held is None or at_ms < held:
            steps[str(name)] = at_ms
    return steps


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run. Times in ms after the kill; packets where a name says nothing else.

    `calls_completed` had media until they were hung up, and a 200 to their BYE.
    `others_max_ms` is the largest gap among flows of the groups that were not killed.
    `after_max_ms` is the largest gap in the second after media was back. `late_ms` is how far the
    load generator itself was behind at most, `skipped` the packets that it could not send in the
    measured window: the machine was too busy then, and the outage contains the instrument's gaps.
    `why` is the new owner's reason in its own words.
    """

    run: int
    killed: str
    owner: str
    calls_started: int
    calls_completed: int
    sessions: int
    flows: tuple[FlowOutage, ...]
    others: int
    others_max_ms: float
    timeline_ms: Mapping[str, float | None]
    pinholes_before: int
    pinholes_left: int
    wrong_destination: int
    wrong_source: int
    bad_checksum: int
    generated: int
    late_ms: float
    skipped: int
    after_max_ms: float = 0.0
    problems: tuple[str, ...] = field(default=())
    why: str = ""

    @property
    def calls_dropped(self) -> int:
        return self.calls_started - self.calls_completed

    @property
    def silent(self) -> int:
        """Flows that never came back."""
        return sum(not flow.recovered for flow in self.flows)

    def spread(self, *, direction: str | None = None, kind: str | None = None) -> Spread:
        return Spread.of(
            flow.outage_ms
            for flow in self.flows
            if direction in (None, flow.direction) and kind in (None, flow.kind)
        )
