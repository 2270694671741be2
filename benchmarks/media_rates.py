"""How many packets, and how long they take: ours, a bare forwarder and rtpengine in one run.

Rates are packets for each second that the forwarding processor spent on them, the kernel's share
included (media_rig.Clock); on a machine that does nothing else it is busy all the time, and they
are packets/s. Where two are compared they run by turns and the best round of each counts.

Knows: lanes, goals, rows. Must not know packets or maps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import media_flows, media_lanes
from benchmarks.media_lanes import MICROSECOND_NS, Lane, Rate, by_turns
from benchmarks.media_rig import FAR_HOSTS, Rig
from benchmarks.media_rtpengine import rtpengine, version
from benchmarks.report import Report
from bgf.errors import EnvironmentProblem
from bgf.lab.rtpbench import Delays
from bgf.media.xdp import XdpDatapath
from bgf.model import Flow

FLOWS: Final = 20_000
FEW, MANY = 1_000, 200_000
CALLS: Final = 2_000
"""rtpengine's: fewer flows than ours, which is in its favour."""
OFFERED: Final = (25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000)
"""Packets/s offered to rtpengine: a process that is flooded spends its time on what it loses."""
INSTALLED: Final = 100_000
KILO: Final = 1_000.0
VERIFY_RATE, VERIFY_S = 200_000, 0.5
HALF: Final = 0.5
PERCENTILE: Final = 0.99
DELAY_LEAST_US: Final = 0.1
"""Less cannot be told from nothing."""

BARE_GOAL, MANY_GOAL, SIX_GOAL = ">= 0.75", ">= 0.75", ">= 0.8"
RTPENGINE_GOAL, INSTALL_GOAL, DELAY_GOAL = ">= 12", "<= 200", "<= 1"


@dataclass
class Bench:
    """What every measurement here needs, and what the plot is drawn from."""

    report: Report
    directory: Path
    seconds: float
    rounds: int
    rates: dict[str, Rate] = field(default_factory=dict)
    delays: dict[str, Delays] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)

    def row(
        self,
        name: str,
        rate: Rate,
        note: str,
        reference: Rate | None = None,
        goal: str | None = None,
    ) -> None:
        """One rate; `reference` is the one that it is compared with."""
        self.rates[name] = rate
        spent = rate.spent
        self.report.add(
            f"{name}_kpps",
            rate.per_core_s / KILO,
            "k/core-s",
            reference=reference.per_core_s / KILO if reference else None,
            goal=goal,
            goal_on_ratio=goal is not None,
            note=f"{note}; {rate.per_second / KILO:,.0f} k/s with {spent.core_s / spent.wall_s:.2f}"
            f" of the processor (tasks {spent.tasks_s / spent.wall_s:.2f}, softirq"
            f" {spent.softirq_s / spent.wall_s:.2f}, /proc/stat {spent.busy_s / spent.wall_s:.2f})",
        )


def measure(bench: Bench) -> None:
    """All rows of this file."""
    forwarding(bench)
    scale(bench)
    install(bench)


def forwarding(bench: Bench) -> None:
    """Everything on, against the bare forwarder, IPv6 in, and rtpengine; then the delays."""
    streams4, streams6 = media_flows.streams(FLOWS), media_flows.streams(FLOWS, in6=True)
    with contextlib.ExitStack() as stack:
        four = stack.enter_context(media_lanes.ours(media_flows.flows(FLOWS), streams4))
        verified(bench, "4to4", four, out6=False)
        six = stack.enter_context(media_lanes.ours(media_flows.flows(FLOWS, in6=True), streams6))
        verified(bench, "6to4", six, out6=False)
        bare = stack.enter_context(media_lanes.bare(streams4))
        rate4, rate6, rate_bare = by_turns([four, six, bare], bench.seconds, bench.rounds)
        what = f"{FLOWS:,} flows by turns"
        bench.row("bare", rate_bare, f"IPv4, rewrite and redirect, no lookup, {what}")
        bench.row("forward_4to4", rate4, f"everything on, {what}", rate_bare, BARE_GOAL)
        bench.row("forward_6to4", rate6, f"everything on, {what}", rate4, SIX_GOAL)

        peer = stack.enter_context(
            media_lanes.around(lambda rig: rtpengine(rig, CALLS, bench.directory))
        )
        rate_peer = best_offered(bench, peer)
        bench.row("rtpengine", rate_peer, f"{version()}, userspace, {CALLS:,} flows")
        bench.report.add(
            "forward_over_rtpengine",
            rate4.per_core_s / rate_peer.per_core_s,
            "x",
            goal=RTPENGINE_GOAL,
            note="packets per core-second, kernel's share counted for both",
        )
        wire = stack.enter_context(media_lanes.wire(streams4))
        delay(bench, {"ours": (four, rate4), "rtpengine": (peer, rate_peer)}, wire)


def best_offered(bench: Bench, lane: Lane) -> Rate:
    """The best that comes through of any rate offered."""
    found = [
        lane.carry(bench.seconds, offered)
        for _ in range(max(1, bench.rounds // 3))
        for offered in OFFERED
    ]
    return max(found, key=lambda rate: rate.per_core_s)


def verified(bench: Bench, name: str, lane: Lane, out6: bool) -> None:
    """Every packet of a while, looked at: what is measured also does what it should."""
    expected = media_flows.expected(FLOWS, out6)
    totals = media_lanes.verify(lane, expected, VERIFY_RATE, VERIFY_S)
    if not totals.generated:
        raise EnvironmentProblem(f"{name}: nothing came through the packet path")
    wrong = totals.bad_checksum + totals.wrong_source + totals.wrong_destination
    wrong += totals.table_full
    bench.report.add(
        f"wrong_{name}",
        wrong + lane.dropped(),
        "packets",
        goal="== 0",
        note=f"beside {totals.generated:,} that were right: checksum, addresses, stream, dropped",
    )


def delay(bench: Bench, lanes: dict[str, tuple[Lane, Rate]], wire: Lane) -> None:
    """p99 at half of what each carries, less what the same packets take without a forwarder."""
    added: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, (lane, rate) in lanes.items():
        half = int(rate.per_second * HALF)
        through, bare = lane.delays(half, bench.seconds), wire.delays(half, bench.seconds)
        bench.delays[name], bench.delays[f"wire, as for {name}"] = through, bare
        p99, without = (d.percentile_ns(PERCENTILE) / MICROSECOND_NS for d in (through, bare))
        added[name] = max(0.0, p99 - without)
        median = through.percentile_ns(HALF) / MICROSECOND_NS
        notes[name] = (
            f"at {half / KILO:,.0f} k/s; {p99:.1f} us through it (median {median:.1f}),"
            f" {without:.1f} without it"
        )
    bench.report.add(
        "added_delay_p99_us",
        added["ours"],
        "us",
        reference=max(added["rtpengine"], DELAY_LEAST_US),
        goal=DELAY_GOAL,
        goal_on_ratio=True,
        note=notes["ours"],
    )
    bench.report.add(
        "rtpengine_added_delay_p99_us", added["rtpengine"], "us", note=notes["rtpengine"]
    )


def scale(bench: Bench) -> None:
    """Many pinholes against few, all of them in use by turns."""
    with (
        media_lanes.ours(media_flows.flows(FEW), media_flows.streams(FEW)) as few,
        media_lanes.ours(media_flows.flows(MANY), media_flows.streams(MANY)) as many,
    ):
        rate_few, rate_many = by_turns([few, many], bench.seconds, bench.rounds)
    bench.row("pinholes_1000", rate_few, f"{FEW:,} pinholes, all in use by turns")
    bench.row(
        "pinholes_200000", rate_many, f"{MANY:,} pinholes, all in use by turns", rate_few, MANY_GOAL
    )


def install(bench: Bench) -> None:
    """Pinholes from Python into the packet path, and out again."""
    flows = media_flows.flows(INSTALLED)
    with Rig() as rig:
        datapath = media_lanes.open_datapath(rig, INSTALLED)
        try:
            took = [_install(datapath, flows) for _ in range(bench.rounds)]
        finally:
            datapath.close(unpin=True)
    note = f"{INSTALLED:,} flows to {FAR_HOSTS} far ends, the best of {bench.rounds}"
    bench.report.add(
        "install_100000_ms", min(t[0] for t in took), "ms", goal=INSTALL_GOAL, note=note
    )
    bench.report.add("remove_100000_ms", min(t[1] for t in took), "ms", note=note)


def _install(datapath: XdpDatapath, flows: Sequence[Flow]) -> tuple[float, float]:
    """Milliseconds to put them in and to take them out."""
    keys = [flow.key for flow in flows]
    begin = time.perf_counter()
    datapath.install(flows)
    between = time.perf_counter()
    datapath.remove(keys)
    return (between - begin) * KILO, (time.perf_counter() - between) * KILO
