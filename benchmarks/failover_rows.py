"""From samples to the figures of the issue: pure, goals and floors included.

Knows: the fields of samples, what is to be reached. Must not know how anything was measured. The
floor of an outage is what the method cannot go below: the mean time that a silence takes to be
noticed, netlink, and the announcement; `reference` of such a row is its floor. An outage holds one
packet interval (20 ms) of ordinary spacing, which no floor contains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.failover_book import Sample
from benchmarks.report import Report
from bgf import config
from bgf.lab.measure import Spread

PAPER_OUTAGE_MS, PAPER_CONTROL_MS, PAPER_MEMORY_MB = 1_600.0, 7_700.0, 200.0
GOALS: Final = {"lab": ("<= 120", "<= 200"), "safe": ("<= 600", None), "fast": (None, None)}
TAKEOVER_GOAL: Final = "<= 15"
ANSWER_GOAL, RESTORED_GOAL = "<= 50", "<= 2000"
MEMORY_GOAL: Final = "<= 200"
FLAT_GOAL: Final = "<= 1.25"
PEERS: Final = ("peer-default", "peer-fast")
FLOWS: Final = (100, 1_000, 5_000, 10_000, 20_000)
SAFE_FLOWS: Final = (100, 5_000, 20_000)
BUSY_LATE_MS: Final = 20.0


@dataclass(frozen=True, slots=True)
class PowerOff:
    """A part: so many flows on the node that dies, under those timers."""

    profile: str
    flows: int

    @property
    def name(self) -> str:
        return f"{self.profile}-{self.flows}"


POWER_OFFS: Final = (
    *(PowerOff("lab", flows) for flows in FLOWS),
    *(PowerOff("safe", flows) for flows in SAFE_FLOWS),
)


def detection_ms(profile: str) -> float:
    """How long a silence takes to be noticed in the mean: between multiplier - 1 and multiplier
    intervals, evenly."""
    timers = config.PROFILES[profile]
    return timers.probe_interval_ms * (timers.detect_multiplier - 0.5)


def floor_ms(profile: str, samples: Sequence[Sample]) -> float:
    """Detection by the timers, netlink and announcement as they were."""
    steps = [
        _between(s, "armed", "addressed") + _between(s, "addressed", "announced") for s in samples
    ]
    return detection_ms(profile) + sum(steps) / max(1, len(steps))


def _between(sample: Sample, first: str, last: str) -> float:
    steps = sample.get("steps", {})
    begin, end = steps.get(first), steps.get(last)
    return 0.0 if begin is None or end is None else max(0.0, float(end) - float(begin))


def _mean(samples: Sequence[Sample], key: str) -> float:
    return sum(float(s[key]) for s in samples) / len(samples)


def rows(report: Report, of: Callable[[str], Sequence[Sample]]) -> None:
    """All figures of the parts that have samples."""
    means: dict[int, float] = {}
    for part in POWER_OFFS:
        samples = of(part.name)
        if samples:
            _power_off(report, part, samples)
            if part.profile == "lab":
                means[part.flows] = _mean(samples, "mean_ms")
    if len(means) > 1:
        few, many = min(means), max(means)
        report.add(
            "flat", means[many] / means[few], "times", goal=FLAT_GOAL,
            note=f"mean outage with {many:,} flows beside that with {few:,}",
        )  # fmt: skip
    _takeover(report, [s for part in POWER_OFFS for s in of(part.name)])
    for part_name in ("crash", "upgrade"):
        _process(report, part_name, of(part_name))
    _switchover(report, of("switchover"))
    _control(report, of("control"))
    for profile in config.PROFILES:
        _false_alarms(report, profile, of(f"alarms-{profile}"))
    _overhead(report, of("overhead"))
    for name in PEERS:
        _peer(report, name, of(name))
    _speed(report, of)


def _power_off(report: Report, part: PowerOff, samples: Sequence[Sample]) -> None:
    mean_goal, max_goal = GOALS[part.profile]
    floor = floor_ms(part.profile, samples)
    late = max(float(s["late_ms"]) for s in samples)
    skipped = sum(int(s["skipped"]) for s in samples)
    note = f"{len(samples)} runs, {_thinned(samples[-1])}"
    if skipped or late > BUSY_LATE_MS:
        note += f"; the load itself was up to {late:.0f} ms late, {skipped} packets not sent"
    name = f"outage_{part.profile}_{part.flows}"
    report.add(
        f"{name}_mean", _mean(samples, "mean_ms"), "ms", goal=mean_goal, reference=floor, note=note
    )
    report.add(
        f"{name}_max", max(float(s["max_ms"]) for s in samples), "ms", goal=max_goal,
        reference=floor, note="of any flow and direction in any run; reference: the floor",
    )  # fmt: skip
    silent = sum(int(s["silent"]) for s in samples)
    report.add(f"{name}_silent", silent, "flows", goal="== 0", note="that did not come back")


def _thinned(sample: Sample) -> str:
    full, thin, rate = (int(sample[key]) for key in ("full", "thin", "thin_per_s"))
    return f"{full:,} flows at 50/s" + (f", {thin:,} thinned out to {rate}/s" if thin else "")


def _takeover(report: Report, samples: Sequence[Sample]) -> None:
    taken = [
        _between(s, "decided", "first_packet")
        for s in samples
        if s.get("steps", {}).get("decided") is not None
    ]
    if not taken:
        return
    spread = Spread.of(taken)
    announced = [_between(s, "decided", "announced") for s in samples]
    report.add(
        "takeover_alone_mean", spread.mean, "ms", goal=TAKEOVER_GOAL,
        reference=sum(announced) / len(announced),
        note=f"decision to first packet at a receiver, {spread.count} runs; reference: to the "
        "announcement",
    )  # fmt: skip
    report.add("takeover_alone_p99", spread.p99, "ms", goal=TAKEOVER_GOAL)


def _process(report: Report, name: str, samples: Sequence[Sample]) -> None:
    if samples:
        how = "killed (SIGKILL)" if name == "crash" else "ended (SIGTERM)"
        report.add(
            f"gateway_{name}_lost", sum(int(s["lost"]) for s in samples), "packets", goal="== 0",
            note=f"{len(samples)} runs, {int(samples[-1]['flows']):,} flows: the gateway process "
            f"{how} and started again; the lab's own cables dropped "
            f"{sum(int(s.get('cables_dropped', 0)) for s in samples)} meanwhile",
        )  # fmt: skip


def _switchover(report: Report, samples: Sequence[Sample]) -> None:
    if samples:
        report.add(
            "switchover_lost_max", max(int(s["lost_max"]) for s in samples), "packets", goal="<= 1",
            note=f"of any flow, {len(samples)} moves, {int(samples[-1]['flows']):,} flows; "
            f"{sum(int(s['lost']) for s in samples)} of all",
        )  # fmt: skip


def _control(report: Report, samples: Sequence[Sample]) -> None:
    if not samples:
        return
    sessions = int(samples[-1]["sessions"])
    after = [float(s["answered_ms"]) - float(s["steps"].get("announced") or 0) for s in samples]
    spread = Spread.of(after)
    report.add(
        "first_answer_mean", spread.mean, "ms", goal=ANSWER_GOAL,
        note=f"after the announcement, about one of {sessions:,} calls; {len(after)} runs, at most "
        f"{spread.max:.0f} ms",
    )  # fmt: skip
    restored = [float(s["restored_ms"]) - float(s["steps"].get("announced") or 0) for s in samples]
    report.add(
        "restored_mean", sum(restored) / len(restored), "ms", goal=RESTORED_GOAL,
        reference=PAPER_CONTROL_MS,
        note=f"after the announcement, all {sessions:,} sessions; reference: the paper's recovery",
    )  # fmt: skip


def _false_alarms(report: Report, profile: str, samples: Sequence[Sample]) -> None:
    if not samples:
        return
    minutes = sum(float(s["minutes"]) for s in samples)
    busy = sum(float(s["busy"]) * float(s["minutes"]) for s in samples) / max(minutes, 1e-9)
    report.add(
        f"false_takeovers_{profile}", sum(int(s["takeovers"]) for s in samples), "takeovers",
        goal="== 0" if profile == "safe" else None,
        note=f"in {minutes:.3g} minutes of load, {busy:.0f} % CPU use; "
        f"{sum(int(s['suspicions']) for s in samples)} suspicions that led to none",
    )  # fmt: skip


def _overhead(report: Report, samples: Sequence[Sample]) -> None:
    if not samples:
        return
    sample = samples[-1]
    report.add(
        "extra_memory", float(sample["extra_mb"]), "MB", goal=MEMORY_GOAL,
        reference=PAPER_MEMORY_MB,
        note="state and failover processes and the state segment of a node that knows "
        f"{int(sample['sessions']):,} sessions ({sample['segment_used_mb']:.0f} of its "
        f"{sample['segment_mb']} MB in use); the gateway process takes "
        f"{sample['gateway_mb']:.0f} MB",
    )  # fmt: skip
    report.add(
        "extra_cpu", float(sample["extra_cpu"]), "% of a core",
        note=f"state and failover processes, {sample['profile']} profile, nothing happening; the "
        f"gateway process takes {float(sample['gateway_cpu']):.1f}",
    )  # fmt: skip


def _peer(report: Report, name: str, samples: Sequence[Sample]) -> None:
    if not samples:
        return
    spread = Spread.of(float(s["mean_ms"]) for s in samples)
    last = samples[-1]
    report.add(
        f"{name.replace('-', '_')}_outage_mean", spread.mean, "ms",
        note=f"rtpengine {last['version']}, Redis, keepalived ({last['adverts']}), "
        f"{int(last['flows']):,} flows, {len(samples)} runs",
    )  # fmt: skip
    report.add(
        f"{name.replace('-', '_')}_outage_max",
        max(float(s["max_ms"]) for s in samples),
        "ms",
        note=f"{sum(int(s['silent']) for s in samples)} flows did not come back",
    )


def _speed(report: Report, of: Callable[[str], Sequence[Sample]]) -> None:
    """How fast the machine was at each part: what its figures may be compared with."""
    alarms = (f"alarms-{profile}" for profile in config.PROFILES)
    others = ("crash", "upgrade", "switchover", "control", *alarms, "overhead", *PEERS)
    seen = {
        name: [float(s["speed"]) for s in of(name) if "speed" in s]
        for name in (*(part.name for part in POWER_OFFS), *others)
    }
    speeds = [speed for found in seen.values() for speed in found]
    if speeds:
        each = (f"{name} {sum(s) / len(s):.1f}" for name, s in seen.items() if s)
        report.add(
            "machine_speed", sum(speeds) / len(speeds), "additions/us",
            note=f"of one Python thread, the cluster and its load beside it: {', '.join(each)}",
        )  # fmt: skip


def curve(
    of: Callable[[str], Sequence[Sample]], profile: str
) -> Iterator[tuple[int, Mapping[str, float]]]:
    """(flows, mean, most, floor in ms) of the parts of a profile that have samples."""
    for part in POWER_OFFS:
        samples = of(part.name)
        if part.profile == profile and samples:
            yield (
                part.flows,
                {
                    "mean": _mean(samples, "mean_ms"),
                    "max": max(float(s["max_ms"]) for s in samples),
                    "floor": floor_ms(profile, samples),
                },
            )
