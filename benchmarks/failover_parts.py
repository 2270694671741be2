"""The parts of the failover benchmark: what is done to a cluster, one sample per run.

Knows: the rig, what each part does with it. Must not know goals or rows. A part yields its samples
as they come, so that what was measured before an interruption is not lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.control_rig import resident_mb
from benchmarks.cpu_hog import Use
from benchmarks.failover_book import Sample
from benchmarks.failover_rig import (
    ACTIVES,
    CARRIED_PER_S,
    THIN_PER_S,
    Cluster,
    Death,
    Load,
    Progress,
    now_ns,
    rates,
)
from benchmarks.failover_rows import PowerOff
from bgf.errors import EnvironmentProblem
from bgf.lab.measure import Spread
from bgf.lab.ngload import close_sessions, open_sessions
from bgf.lab.nodes import Timers
from bgf.lab.plan import NodePlan

PROCESS_FLOWS, QUICK_FLOWS = 2_000, 400
CONTROL_FLOWS, QUICK_CONTROL_FLOWS = 20_000, 1_000
CONTROL_CARRIED_PER_S: Final = 25_000
"""Of media while control is measured: what two cores carry beside it, five nodes being busy."""
ALARM_FLOWS: Final = 1_000
SLICE_S: Final = 60.0
BUSY_PERCENT: Final = 90.0
SETTLE_S: Final = 1.0
OVERHEAD_S: Final = 20.0
OVERHEAD_STATE_MB: Final = 96
"""The segment has this size from the beginning; what CONTROL_FLOWS take of it is in the note."""
CALM: Final = "safe"
"""The timers of parts in which nobody is to die."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


def power_off(part: PowerOff, runs: int, seed: int, progress: Progress) -> Iterator[Sample]:
    """The owner's power is cut; it comes back as the standby; again."""
    cluster = Cluster(Timers.of(part.profile), progress, seed=seed)
    with cluster.up(), cluster.load(part.flows) as load:
        for number in range(runs):
            death = cluster.die(load)
            sample = _sample(death, part.flows)
            progress(
                f"{part.name}, run {number + 1}/{runs}: {death.killed} died, {death.owner} took it,"
                f" silence {sample['mean_ms']:.0f} ms in the mean, {sample['max_ms']:.0f} at most"
            )
            yield sample
            cluster.revive(death.killed)


def _sample(death: Death, flows: int, carried_per_s: int = CARRIED_PER_S) -> Sample:
    spread = Spread.of(death.outages_ms)
    full, thin = rates(flows, carried_per_s)
    return {
        "killed": death.killed,
        "owner": death.owner,
        "flows": flows,
        "full": full,
        "thin": thin,
        "thin_per_s": THIN_PER_S,
        "mean_ms": round(spread.mean, 3),
        "p50_ms": round(spread.p50, 3),
        "p99_ms": round(spread.p99, 3),
        "max_ms": round(spread.max, 3),
        "silent": death.thinned_silent + sum(not flow.recovered for flow in death.flows),
        "steps": {k: None if v is None else round(v, 3) for k, v in death.steps.items()},
        "answered_ms": round(death.answered_ms, 3),
        "restored_ms": round(death.restored_ms, 3),
        "skipped": death.skipped,
        "late_ms": round(death.late_ms, 3),
    }


def crash(runs: int, quick: bool, seed: int, progress: Progress) -> Iterator[Sample]:
    """The owner's gateway process is killed and started again while media flows."""
    yield from _restarts(runs, quick, seed, progress, killed=True)


def upgrade(runs: int, quick: bool, seed: int, progress: Progress) -> Iterator[Sample]:
    """As `crash`, ended in good order."""
    yield from _restarts(runs, quick, seed, progress, killed=False)


def _restarts(
    runs: int, quick: bool, seed: int, progress: Progress, *, killed: bool
) -> Iterator[Sample]:
    flows = QUICK_FLOWS if quick else PROCESS_FLOWS
    cluster = Cluster(Timers.of(CALM), progress, seed=seed)
    with cluster.up(), cluster.load(flows) as load:
        for number in range(runs):
            owner = cluster.settle(flows // 2)
            before, skipped = _quiet(load), load.counts()[0]
            dropped = cluster.cables_dropped()
            cluster.restart(owner, "gateway", killed=killed)
            after = _quiet(load)
            lost = [now - then for now, then in zip(after, before, strict=True)]
            now_dropped = cluster.cables_dropped()
            dropped = {where: now_dropped[where] - count for where, count in dropped.items()}
            progress(
                f"run {number + 1}/{runs}: {owner}'s gateway is back, {sum(lost)} packets lost,"
                f" the lab's cables dropped {dropped['receivers']} on their way to the receivers,"
                f" {dropped['gateways']} at the gateways"
            )
            yield {
                "flows": flows,
                "lost": sum(lost),
                "lost_max": max(lost),
                "skipped": load.counts()[0] - skipped,
                "cables_dropped": sum(dropped.values()),
            }


def _quiet(load: Load) -> list[int]:
    """Losses by flow, once what was under way has arrived."""
    time.sleep(SETTLE_S)
    return load.lost()


def switchover(runs: int, quick: bool, seed: int, progress: Progress) -> Iterator[Sample]:
    """The group moves to the standby and on, by plan."""
    flows = QUICK_FLOWS if quick else PROCESS_FLOWS
    cluster = Cluster(Timers.of(CALM), progress, seed=seed)
    with cluster.up(), cluster.load(flows) as load:
        for number in range(runs):
            owner = cluster.settle(flows // 2)
            to = cluster.standby()
            before = _quiet(load)
            cluster.move("g1", to)
            after = _quiet(load)
            lost = [now - then for now, then in zip(after, before, strict=True)]
            progress(f"run {number + 1}/{runs}: {owner} to {to}, {sum(lost)} packets lost")
            yield {"flows": flows, "lost": sum(lost), "lost_max": max(lost)}


def control(runs: int, quick: bool, seed: int, progress: Progress) -> Iterator[Sample]:
    """The owner of two full groups dies: when does the next one answer, when has it all?"""
    flows = QUICK_CONTROL_FLOWS if quick else CONTROL_FLOWS
    cluster = Cluster(Timers.of("lab"), progress, seed=seed, on_first=("g1", "g2"))
    load_of = cluster.load(flows, carried_per_s=CONTROL_CARRIED_PER_S)
    with cluster.up(), cluster.client("g2", "second") as client, load_of as load:
        progress(f"opening {flows // 2:,} sessions on g2")
        second = open_sessions(client, flows // 2, "g2load", lambda _: None)
        for number in range(runs):
            owner = cluster.settle(flows)
            if cluster.owner("g2") != owner:  # each heir of the last death has one
                cluster.move("g2", owner)
            death = cluster.die(load, also="g2", sessions=flows)
            sample = _sample(death, flows, CONTROL_CARRIED_PER_S)
            sample |= {"sessions": flows // 2 + len(second)}
            progress(
                f"run {number + 1}/{runs}: answered after {death.answered_ms:.0f} ms, "
                f"restored after {death.restored_ms:.0f} ms"
            )
            yield sample
            cluster.revive(death.killed)
        close_sessions(client, second)


def alarms(profile: str, minutes: float, progress: Progress) -> Iterator[Sample]:
    """Load, and a machine that is busy: who is taken for dead?"""
    cluster = Cluster(Timers.of(profile), progress)
    with cluster.up(), cluster.load(ALARM_FLOWS) as load:
        cluster.settle(len(load.sessions))
        command = [sys.executable, "-m", "benchmarks.cpu_hog", f"--percent={BUSY_PERCENT}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as hog:
            try:
                time.sleep(SETTLE_S)
                end_s = time.monotonic() + minutes * 60
                while (left_s := end_s - time.monotonic()) > 0:
                    sample = _slice(cluster, min(SLICE_S, left_s))
                    progress(
                        f"{profile}: {sample['takeovers']} takeovers, {sample['suspicions']}"
                        f" suspicions at {sample['busy']:.0f} % CPU use,"
                        f" {left_s / 60:.0f} minutes left"
                    )
                    yield sample
            finally:
                assert hog.stdin is not None
                hog.stdin.close()


def _slice(cluster: Cluster, seconds: float) -> Sample:
    use, owners, since_ns = Use(), cluster.owners(), now_ns()
    time.sleep(seconds)
    later = cluster.owners()
    return {
        "minutes": seconds / 60,
        "takeovers": sum(later[g][0] - epoch for g, (epoch, _) in owners.items() if g in later),
        "suspicions": cluster.suspicions(since_ns),
        "busy": round(use.percent(), 1),
    }


def overhead(quick: bool, progress: Progress) -> Iterator[Sample]:
    """What a node's processes take while it knows everybody's calls and nothing happens."""
    flows = QUICK_CONTROL_FLOWS if quick else CONTROL_FLOWS
    profile = "safe"
    cluster = Cluster(Timers.of(profile), progress, state_mb=OVERHEAD_STATE_MB)
    with cluster.up(), cluster.client("g1", "overhead") as client:
        progress(f"opening {flows // 2:,} sessions")
        opened = open_sessions(client, flows // 2, "over", lambda _: None)
        owner = cluster.settle(flows // 2)
        node = cluster.plan.node(owner)
        pids = {p.name: p.pid for p in cluster.lab.processes.running(owner)}
        before = {name: _ticks(pid) for name, pid in pids.items()}
        time.sleep(OVERHEAD_S)
        spent = {
            name: 100 * (_ticks(pid) - before[name]) / TICKS / OVERHEAD_S
            for name, pid in pids.items()
        }
        memory = {name: resident_mb(pid) for name, pid in pids.items()}
        yield {
            "profile": profile,
            "nodes": ACTIVES + 1,
            "sessions": len(opened),
            "segment_mb": OVERHEAD_STATE_MB,
            "segment_used_mb": _used_mb(cluster, owner),
            "extra_mb": memory["state"][0] + memory["failover"][0] + _segment_mb(cluster, node),
            "gateway_mb": memory["gateway"][0],
            "extra_cpu": spent["state"] + spent["failover"],
            "gateway_cpu": spent["gateway"],
            "memory_mb": {name: own for name, (own, _) in memory.items()},
            "cpu": spent,
        }
        close_sessions(client, opened)


def _used_mb(cluster: Cluster, node: str) -> float:
    stats = cluster.lab.nodes.ask(node, "state", "state").get("stats", {})
    return (int(stats.get("total", 0)) - int(stats.get("free", 0))) / (1 << 20)


def _segment_mb(cluster: Cluster, node: NodePlan) -> float:
    """What the node's segment has of its tmpfs."""
    files = [f for f in Path(cluster.plan.state_dir(node)).rglob("*") if f.is_file()]
    return sum(f.stat().st_blocks * 512 for f in files) / (1 << 20)


def _ticks(pid: int) -> int:
    """CPU time of a process so far. Raises EnvironmentProblem when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise EnvironmentProblem(f"process {pid} is gone") from None
    fields = text[text.rfind(")") + 2 :].split()
    return int(fields[11]) + int(fields[12])
