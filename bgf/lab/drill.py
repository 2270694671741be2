"""The drill: real calls, a power cut, and what the receivers heard of it.

One run: a fresh lab; load sessions on the group that is to lose its node, SIP calls over all
groups; media in both directions; the owner's processes killed and its cables pulled; media back;
every call hung up through the new owner; nothing left. The outage is what the meters at the
receivers measured, never what a gateway says of itself; the gateways only tell *when* they did
what (the timeline) and how many pinholes they hold.

Knows: the order of a run and its limits. Must not know packets, SIP or netlink.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgf.control.client import NgClient
from bgf.errors import BgfError, ConfigError, EnvironmentProblem
from bgf.lab import measure, namespaces
from bgf.lab import plan as lab_plan
from bgf.lab import report as report_module
from bgf.lab.lab import Lab, check_machine, interruptible
from bgf.lab.measure import TO_ACCESS, TO_CORE, FlowOutage, RunResult
from bgf.lab.ngload import SESSIONS_MAX, LoadSession, close_sessions, open_sessions
from bgf.lab.nodes import Timers
from bgf.lab.plan import CONTROL_PORT, DEFAULT_PREFIX, DEFAULT_RUN_DIR
from bgf.lab.report import Report
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from bgf.lab.sip import CALLS_MAX
from bgf.model import Address

Progress = Callable[[str], None]

RUNS_MAX = 100
FLOWS_MAX = 2 * SESSIONS_MAX
METER_ROOM = 4_096
HEARD_TIMEOUT_MS = 30_000
HEARD_PACKETS_MIN = 5
STEADY_MS = 1_000
PHASE_MS_MAX = 500
RESET_MS = 200
BACK_TIMEOUT_MS = 20_000
FIRST_LOOK_MS = 250
LOOK_MS = 50
SETTLE_MS = 1_000
HANG_UP_TIMEOUT_MS = 60_000
DRAIN_TIMEOUT_MS = 10_000
POLL_MS = 200
TELL_MS = 2_000
PROBLEMS_MAX = 20


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """What to drill. `flows` are generated RTP flows, one direction each; a session has two.

    `group` loses its node. `seed` draws the moment of each kill within PHASE_MS_MAX, so that
    kills do not fall into step with timers. `keep` leaves the last run's lab standing.
    """

    calls: int = 100
    flows: int = 2_000
    runs: int = 1
    group: str = "g1"
    json_path: Path | None = None
    plot_path: Path | None = None
    keep: bool = False
    seed: int = 1
    run_dir: Path = DEFAULT_RUN_DIR
    prefix: str = DEFAULT_PREFIX
    actives: int = 2
    standbys: int = 1
    timers: Timers = field(default_factory=Timers)

    def check(self) -> None:
        """Raises ConfigError naming the option, its value and its range."""
        for name, value, low, high in (
            ("calls", self.calls, 0, CALLS_MAX),
            ("flows", self.flows, 0, FLOWS_MAX),
            ("runs", self.runs, 1, RUNS_MAX),
        ):
            if not low <= value <= high:
                raise ConfigError(f"drill: {name} = {value} is out of range {low}..{high}")
        if not self.calls and not self.flows:
            raise ConfigError("drill: neither calls nor flows: there is nothing to hear")


def run_drill(options: DrillOptions, progress: Progress) -> Report:
    """Run the drill `options.runs` times, each on a fresh lab, and take the lab down each time.

    Writes the JSON report and the plot where `options` says so. Raises BgfError (not root, a
    missing package, a lab in use, a node that does not come up) after taking the lab down; the
    logs are then kept. Ctrl-C and SIGTERM take it down as well.
    """
    options.check()
    check_machine(options.run_dir)
    lab = _lab(options)
    lab.plan.group(options.group)
    chance = random.Random(options.seed)
    results: list[RunResult] = []
    with lab.exclusive(), interruptible():
        if lab.topology.exists() or lab.processes.running():
            progress("a lab stands already: taking it down for a fresh one")
            lab.down(_silent)
        for number in range(1, options.runs + 1):
            told = _numbered(progress, number, options.runs)
            keep = options.keep and number == options.runs
            phase_ms = chance.uniform(0, PHASE_MS_MAX)
            run = _Run(_lab(options, lab), options, number, phase_ms, told)
            results.append(run.up_and_down(keep))
    plotted = ""
    if options.plot_path is not None:
        progress(f"drawing {options.plot_path}")
        worst = max(results, key=lambda run: run.spread().max)
        report_module.plot(worst, options.plot_path)
        plotted = str(options.plot_path)
    report = Report(
        tuple(results), options.seed, report_module.machine(), report_module.commit(), plotted,
        options.timers.profile,
    )  # fmt: skip
    if options.json_path is not None:
        report.write(options.json_path)
    return report


def _lab(options: DrillOptions, held: Lab | None = None) -> Lab:
    """A Lab that has started nothing yet; it shares the lock of `held`."""
    lab = Lab(
        options.run_dir,
        prefix=options.prefix,
        actives=options.actives,
        standbys=options.standbys,
        timers=options.timers,
    )
    if held is not None:
        lab.share_lock(held)
    return lab


def _silent(_: str) -> None:
    return


def _numbered(progress: Progress, number: int, runs: int) -> Progress:
    if runs == 1:
        return progress
    return lambda line: progress(f"run {number}/{runs}: {line}")


class _Run:
    """One power cut on one lab."""

    def __init__(
        self, lab: Lab, options: DrillOptions, number: int, phase_ms: float, progress: Progress
    ) -> None:
        self._lab = lab
        self._options = options
        self._number = number
        self._phase_ms = phase_ms
        self._progress = progress
        self._group = lab.plan.group(options.group)
        self._hosts = frozenset(
            address.partition("/")[0]
            for addresses in self._group.addresses.values()
            for address in addresses
        )
        self._all_hosts = frozenset(
            address.partition("/")[0]
            for group in lab.plan.groups
            for addresses in group.addresses.values()
            for address in addresses
        )
        self._problems: list[str] = []
        self._sessions: list[LoadSession] = []

    def up_and_down(self, keep: bool) -> RunResult:
        """Lab up, the run, lab down: also after a failure (the logs stay then) and on Ctrl-C."""
        lab = self._lab
        finished = failed = False
        try:
            lab.up(self._progress)
            with contextlib.ExitStack() as stack:
                result = self._go(stack)
            finished = True
            return result
        except BgfError:
            failed = True
            raise
        finally:
            if not (keep and finished) and lab.topology.exists():
                self._progress("taking the lab down")
                lab.down(_silent, keep_logs=failed)
                if failed:
                    self._progress(f"the logs of this run are in {lab.processes.log_dir}")

    def _go(self, stack: contextlib.ExitStack) -> RunResult:
        lab, options, plan = self._lab, self._options, self._lab.plan
        victim = self._owner()
        survivors = [node.id for node in plan.nodes if node.id != victim]
        flows_max = 2 * (options.flows + options.calls) + METER_ROOM
        access = stack.enter_context(
            Meter(
                plan.access,
                "access",
                flows_max,
                watch=(lab_plan.ACCESS_HOST6, lab_plan.ACCESS_HOST4),
            )
        )
        core = stack.enter_context(
            Meter(plan.core, "core", flows_max, watch=(lab_plan.CORE_HOST4,))
        )
        meters = {TO_ACCESS: access, TO_CORE: core}
        client = stack.enter_context(self._client())
        self._open(client)
        generators = [stack.enter_context(g) for g in self._generators(meters)]
        if options.calls:
            self._progress(f"SIP: {options.calls} calls through Kamailio, RTP both ways")
            lab.sip.start_calls(options.calls)
            self._wait_heard(meters, 0)
        if generators:
            self._progress(f"load: {2 * len(self._sessions)} RTP flows, 50 packets/s each")
            for generator in generators:
                generator.start()
            self._wait_heard(meters, len(self._sessions))
        pinholes_before = self._pinholes([victim])
        self._progress(f"steady: {pinholes_before} pinholes on {victim}")
        _sleep_ms(STEADY_MS + self._phase_ms)
        for meter in meters.values():
            meter.reset_gaps()
        _sleep_ms(RESET_MS)

        skipped = sum(generator.counts().skipped for generator in generators)

        t0_ns = lab.power_off(victim)
        self._progress(f"power off: {victim}, which owned {self._group.id}")
        flows = self._wait_back(meters, t0_ns)
        skipped = sum(generator.counts().skipped for generator in generators) - skipped
        others = self._others(meters, t0_ns)
        flows, after_max_ms = self._watch_on(meters, flows)
        events = self._events(survivors)
        owner = self._owner(survivors)
        # What arrived where it should not is counted to the very end of the media.
        counts = [generator.stop() for generator in generators]
        _sleep_ms(POLL_MS)
        totals = [meter.totals() for meter in meters.values()]
        strangers = sum(
            measure.strangers(meter.flows(), self._all_hosts) for meter in meters.values()
        )
        if any(total.table_full for total in totals):
            self._complain("a meter's table was full: its figures are incomplete")

        started, completed = self._hang_up(owner)
        # Hung up properly, yet mute since the kill: that caller was dropped.
        completed = max(0, min(completed, started - measure.mute_calls([*flows, *others])))
        self._close(client, owner)
        left = self._drained(survivors)
        return RunResult(
            run=self._number,
            killed=victim,
            owner=owner,
            calls_started=started,
            calls_completed=completed,
            sessions=len(self._sessions),
            flows=tuple(flows),
            others=len(others),
            others_max_ms=max((flow.outage_ms for flow in others), default=0.0),
            timeline_ms=self._timeline(events, flows, t0_ns),
            pinholes_before=pinholes_before,
            pinholes_left=left,
            wrong_destination=sum(total.wrong_destination for total in totals),
            wrong_source=sum(total.wrong_source for total in totals) + strangers,
            bad_checksum=sum(total.bad_checksum for total in totals),
            generated=sum(total.generated for total in totals),
            late_ms=max((c.late_max_ns for c in counts), default=0) / measure.NS_PER_MS,
            skipped=skipped,
            after_max_ms=after_max_ms,
            problems=tuple(self._problems[:PROBLEMS_MAX]),
            why=measure.why(events, self._group.id, victim),
        )

    # -- before the cut ---------------------------------------------------------------------

    def _client(self) -> NgClient:
        """An `ng` client at the proxy's place, towards the group's moving control address."""
        address = Address(self._group.control_host, CONTROL_PORT)
        return namespaces.run_in(
            self._lab.plan.cscf, lambda: NgClient(address, prefix=f"drill{self._number}")
        )

    def _open(self, client: NgClient) -> None:
        count = (self._options.flows + 1) // 2
        if not count:
            return
        self._progress(f"load: opening {count} sessions on {self._group.id} by ng")
        told = _Paced(self._progress)
        self._sessions = open_sessions(
            client,
            count,
            f"load{self._number}",
            lambda done: told(f"load: {done} of {count} sessions open"),
        )

    def _generators(self, meters: dict[str, Meter]) -> Iterator[Generator]:
        """One generator per side, its streams expected by the meter of the other side."""
        if not self._sessions:
            return
        up = [StreamSpec(s.caller, s.access, 2 * s.number + 1) for s in self._sessions]
        down = [StreamSpec(s.callee, s.core, 2 * s.number + 2) for s in self._sessions]
        meters[TO_CORE].expect(
            [Expected(s.callee, s.core, 2 * s.number + 1) for s in self._sessions]
        )
        meters[TO_ACCESS].expect(
            [Expected(s.caller, s.access, 2 * s.number + 2) for s in self._sessions]
        )
        yield Generator(self._lab.plan.access, "access", up)
        yield Generator(self._lab.plan.core, "core", down)

    def _wait_heard(self, meters: dict[str, Meter], sessions: int) -> None:
        """Until both flows of every SIP call and of `sessions` have been heard.

        Raises EnvironmentProblem saying what is missing, and what the parts say of it.
        """
        options = self._options
        told = _Paced(self._progress)
        deadline = _deadline(HEARD_TIMEOUT_MS)
        while True:
            missing = []
            for direction, meter in meters.items():
                reports = meter.flows()
                heard = sum(r.generated and r.packets >= HEARD_PACKETS_MIN for r in reports)
                sip = sum(not r.generated and r.packets >= HEARD_PACKETS_MIN for r in reports)
                if heard < sessions:
                    missing.append(f"{sessions - heard} generated flows {direction}")
                if sip < options.calls:
                    missing.append(f"{options.calls - sip} SIP flows {direction}")
            if not missing:
                return
            if time.monotonic() > deadline:
                stats = self._lab.sip.stats()
                reasons = [*self._lab.sip.errors(), *self._drops()]
                raise EnvironmentProblem(
                    f"not heard after {HEARD_TIMEOUT_MS // 1000} s: {', '.join(missing)} "
                    f"(SIP: {stats.started} started, {stats.failed} failed"
                    f"{'; ' + '; '.join(reasons) if reasons else ''})"
                )
            told(f"waiting for {', '.join(missing)}")
            _sleep_ms(POLL_MS)

    # -- after the cut ----------------------------------------------------------------------

    def _flows(self, meters: dict[str, Meter], t0_ns: int) -> list[FlowOutage]:
        found = []
        for direction, meter in meters.items():
            # The time before the reading: a long one must not look like a silence.
            now_ns = _now_ns()
            found += measure.outages(meter.flows(), direction, self._hosts, t0_ns, now_ns)
        return found

    def _others(self, meters: dict[str, Meter], t0_ns: int) -> list[FlowOutage]:
        """Flows of the groups whose node was not touched."""
        hosts = self._all_hosts - self._hosts
        found = []
        for direction, meter in meters.items():
            now_ns = _now_ns()
            found += measure.outages(meter.flows(), direction, hosts, t0_ns, now_ns)
        return found

    def _wait_back(self, meters: dict[str, Meter], t0_ns: int) -> list[FlowOutage]:
        """Until media is back on all flows, or BACK_TIMEOUT_MS have passed (told, not raised).

        Looks as soon as it may be back, so that no later gap is taken for the outage.
        """
        told = _Paced(self._progress)
        begun = time.monotonic()
        _sleep_ms(FIRST_LOOK_MS)
        while True:
            flows = self._flows(meters, t0_ns)
            past_ms = (time.monotonic() - begun) * 1000
            silent = sum(not flow.recovered for flow in flows)
            hidden = sum(not flow.exact for flow in flows)
            if not silent and (not hidden or past_ms > SETTLE_MS):
                break
            if past_ms > BACK_TIMEOUT_MS:
                self._complain(f"{silent} of {len(flows)} flows stayed silent")
                for line in self._drops():
                    self._complain(line)
                break
            told(f"media is not back yet on {silent} of {len(flows)} flows")
            _sleep_ms(LOOK_MS)
        spread = measure.Spread.of(flow.outage_ms for flow in flows)
        self._progress(
            f"media is back on {len(flows) - silent} of {len(flows)} flows: "
            f"silence {spread.mean:.0f} ms in the mean, {spread.max:.0f} ms at most"
        )
        return flows

    def _watch_on(
        self, meters: dict[str, Meter], flows: list[FlowOutage]
    ) -> tuple[list[FlowOutage], float]:
        """Is it back for good? The flows with those that fell silent again, and the largest gap."""
        for meter in meters.values():
            meter.reset_gaps()
        from_ns = _now_ns()
        _sleep_ms(SETTLE_MS)
        later = self._flows(meters, from_ns)
        checked = measure.relapsed(flows, later)
        again = sum(f.recovered and not g.recovered for f, g in zip(flows, checked, strict=True))
        if again:
            self._complain(f"{again} of {len(flows)} flows came back and fell silent again")
        return checked, max((flow.outage_ms for flow in later if flow.recovered), default=0.0)

    def _timeline(
        self, events: list[dict[str, Any]], flows: list[FlowOutage], t0_ns: int
    ) -> dict[str, float | None]:
        steps = measure.timeline(events, t0_ns, self._group.id)
        # A packet that was on its way when the power went off ends no silence worth the name.
        ends = [flow.end_ms for flow in flows if flow.end_ms is not None and flow.end_ms > 0]
        steps["first_packet"] = min(ends, default=None)
        return {step: None if at is None else round(at, 3) for step, at in steps.items()}

    def _hang_up(self, owner: str) -> tuple[int, int]:
        """BYE for every SIP call; returns calls started and completed."""
        lab = self._lab
        if not self._options.calls:
            return 0, 0
        self._progress(f"hanging up {self._options.calls} SIP calls through {owner}")
        told = _Paced(self._progress)
        deadline = _deadline(HANG_UP_TIMEOUT_MS)
        lab.sip.hang_up()
        while not lab.sip.done():
            if time.monotonic() > deadline:
                self._complain(
                    f"SIPp has not ended {HANG_UP_TIMEOUT_MS // 1000} s after hanging up"
                )
                break
            stats = lab.sip.stats()
            told(f"{stats.completed} of {stats.started} calls have ended")
            _sleep_ms(POLL_MS)
        stats = lab.sip.stats()
        started = max(stats.started, self._options.calls)
        if stats.completed < started:
            for line in lab.sip.errors():
                self._complain(line)
        return started, stats.completed

    def _close(self, client: NgClient, owner: str) -> None:
        if self._sessions:
            self._progress(f"load: closing {len(self._sessions)} sessions through {owner}")
            problems = close_sessions(client, self._sessions)
            if problems:
                self._complain(f"{len(problems)} sessions could not be closed: {problems[0]}")

    def _drained(self, survivors: list[str]) -> int:
        """Pinholes left on any survivor once they have had time to go."""
        deadline = _deadline(DRAIN_TIMEOUT_MS)
        while (left := self._pinholes(survivors)) and time.monotonic() < deadline:
            _sleep_ms(POLL_MS)
        return left

    # -- what the nodes say -----------------------------------------------------------------

    def _pinholes(self, nodes: list[str]) -> int:
        """The most pinholes that any of these nodes holds."""
        return max(int(self._lab.nodes.ask(node, "gateway").get("pinholes", 0)) for node in nodes)

    def _owner(self, among: list[str] | None = None) -> str:
        """Who owns the group, as the failover processes have it. Raises EnvironmentProblem."""
        names = among or [node.id for node in self._lab.plan.nodes]
        nodes = [self._lab.plan.node(name) for name in names]
        owner = self._lab.nodes.owners(nodes).get(self._group.id, "")
        if owner not in names:
            raise EnvironmentProblem(
                f"group {self._group.id} is owned by '{owner}', which is none of "
                f"{', '.join(names)}: see the failover logs in {self._lab.processes.log_dir}"
            )
        return owner

    def _events(self, survivors: list[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for node in survivors:
            try:
                found += self._lab.nodes.ask(node, "failover", "timeline").get("events", [])
            except BgfError as problem:
                self._complain(f"no timeline from {node}: {problem}")
        return found

    def _drops(self) -> list[str]:
        """Why the nodes' packet programs drop, for a failure's text."""
        lines = []
        for node in self._lab.plan.nodes:
            with contextlib.suppress(BgfError):
                drops = self._lab.nodes.ask(node.id, "gateway").get("drops", {})
                shown = ", ".join(f"{name} {n}" for name, n in sorted(drops.items()) if n)
                if shown:
                    lines.append(f"{node.id} packets: {shown}")
        return lines

    def _complain(self, line: str) -> None:
        self._problems.append(line)
        self._progress(f"PROBLEM: {line}")


class _Paced:
    """Passes a line on at most every TELL_MS, the first one after that long."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._last >= TELL_MS / 1000:
            self._last = time.monotonic()
            self._progress(line)


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _deadline(timeout_ms: int) -> float:
    return time.monotonic() + timeout_ms / 1000


def _sleep_ms(duration_ms: float) -> None:
    time.sleep(duration_ms / 1000)
