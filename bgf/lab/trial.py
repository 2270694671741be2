"""One fault on a lab that stands: calls and media, the blow, the repair, the verdict.

Real calls through Kamailio and generated RTP both ways on every group; proxies that open, change
and end calls all the while; then what `catalogue` says is done to it, undone, and everything that
must be true afterwards is looked at. The lab is as it was, and can be used for the next.

Knows: the order of a trial and its limits. Must not know how a fault is done (`faults`), what is
expected of it (`catalogue`), what is wrong (`invariants`, `ledger`).
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import claims, invariants, measure, namespaces
from bgf.lab import plan as lab_plan
from bgf.lab.catalogue import Fault, Moves, Role, Verb
from bgf.lab.faults import Faults
from bgf.lab.lab import Lab
from bgf.lab.ledger import GONE, Answer, lost
from bgf.lab.measure import GENERATED, TO_ACCESS, TO_CORE, FlowOutage, Spread
from bgf.lab.ngload import LoadSession, open_sessions
from bgf.lab.proxying import Proxy, closed_calls
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from bgf.lab.rtpwire import FlowReport
from bgf.lab.sip import SipPeers
from bgf.lab.wholeness import owners, spread_out, wait_whole

Progress = Callable[[str], None]

METER_ROOM: Final = 4_096
CLOSING: Final = 4
"""Calls with media, per group, that a proxy ends while things break."""
HEARD_TIMEOUT_MS: Final = 30_000
HEARD_PACKETS_MIN: Final = 5
STEADY_MS: Final = 300
PHASE_MS_MAX: Final = 300
RESET_MS: Final = 150
BACK_TIMEOUT_MS: Final = 25_000
MOVED_TIMEOUT_MS: Final = 20_000
AFTER_MS: Final = 500
HANG_UP_TIMEOUT_MS: Final = 60_000
DRAIN_TIMEOUT_MS: Final = 15_000
QUIET_TIMEOUT_MS: Final = 15_000
POLL_MS: Final = 50
MS_NS: Final = 1_000_000
BROKEN_MAX: Final = 20
NS_OF_SILENCE: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How much goes on: SIP calls over all groups, and generated flows (two a session) of each."""

    calls: int = 6
    flows: int = 24


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What came of one fault. Times in ms; `whole_ms` counts from the repair. `flows` are those of
    the watched group, `others` of the rest. `broken` is what must not be; none: it passed."""

    fault: str
    text: str
    seed: int
    group: str
    owner_before: str
    owner_after: str
    struck: Mapping[str, str] = field(default_factory=dict)
    flows: tuple[FlowOutage, ...] = ()
    others: tuple[FlowOutage, ...] = ()
    packets_lost: int = 0
    calls_started: int = 0
    calls_completed: int = 0
    asked: int = 0
    unanswered: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    epochs: int = 0
    whole_ms: float = 0.0
    timeline_ms: Mapping[str, float | None] = field(default_factory=dict)
    why: str = ""
    skipped: int = 0
    broken: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.broken

    def spread(self, direction: str | None = None) -> Spread:
        return Spread.of(f.outage_ms for f in self.flows if direction in (None, f.direction))

    def others_spread(self) -> Spread:
        return Spread.of(f.outage_ms for f in self.others)


class Trial:
    """`run` once. The lab stands, and its lock is held."""

    def __init__(
        self, lab: Lab, fault: Fault, scale: Scale, *, seed: int, lease_ms: int, progress: Progress
    ) -> None:
        self._lab = lab
        self._plan = lab.plan
        self._fault = fault
        self._scale = scale
        self._seed = seed
        self._lease_ms = lease_ms
        self._progress = progress
        self._group = lab.plan.groups[0].id
        self._chance = random.Random(f"{seed} {fault.name}")
        self._name = f"{fault.name.replace('-', '')}{time.clock_gettime_ns(time.CLOCK_BOOTTIME):x}"
        self._broken: list[str] = []
        self._kept: list[LoadSession] = []
        self._sip = SipPeers(lab.plan, lab.processes)

    def run(self) -> TrialResult:
        """Everything. Raises EnvironmentProblem when it could not even begin, or there is no
        verdict; whatever is broken otherwise is in the result. All that was done to the lab is
        undone either way."""
        self._ready()
        with contextlib.ExitStack() as stack:
            try:
                return self._go(stack)
            finally:
                self._sip.end_calls()

    # -- before -----------------------------------------------------------------------------

    def _ready(self) -> None:
        _, left = wait_whole(self._lab, self._fault.whole_ms, self._progress)
        if left:
            raise EnvironmentProblem(f"the lab is not whole before {self._fault.name}: {left[0]}")
        spread_out(self._lab, self._progress, rested=self._halts or self._fault.moves is Moves.MUST)
        wait_whole(self._lab, self._fault.whole_ms, self._progress)

    @property
    def _halts(self) -> bool:
        return any(blow.verb is Verb.HALT_AT for blow in self._fault.prepare)

    def _roles(self) -> dict[Role, str]:
        owned = owners(self._lab)
        members = self._lab.registry.members
        leads = namespaces.run_in(
            self._plan.registry, lambda: [m.name for m in members if m.leads()]
        )
        idle = [node.id for node in self._plan.nodes if node.id not in owned.values()]
        others = [owner for group, owner in sorted(owned.items()) if group != self._group]
        return {
            Role.ACTIVE: owned[self._group],
            Role.OTHER: others[0] if others else "",
            Role.STANDBY: idle[0] if idle else "",
            Role.LEADER: leads[0] if leads else members[0].name,
            Role.MEMBER: next(m.name for m in members if m.name not in leads),
        }

    def _open(self, stack: contextlib.ExitStack) -> tuple[list[Proxy], list[LoadSession]]:
        """Load sessions on every group, and a proxy for each; calls of the proxies stand."""
        proxies, sessions = [], []
        per_group = self._scale.flows // 2 + CLOSING
        for at, group in enumerate(self._plan.groups):
            proxy = Proxy(self._plan, group, self._name)
            stack.callback(proxy.close)
            opened = open_sessions(
                proxy.client, per_group, f"{self._name}{group.id}", _silent, at * per_group
            )
            sessions += opened
            proxy.sessions, proxy.closing = opened, CLOSING
            self._kept += opened[CLOSING:]
            proxy.prepare()
            proxies.append(proxy)
        return proxies, sessions

    def _generators(
        self, meters: Mapping[str, Meter], sessions: list[LoadSession]
    ) -> Iterator[Generator]:
        up = [StreamSpec(s.caller, s.access, 2 * s.number + 1) for s in sessions]
        down = [StreamSpec(s.callee, s.core, 2 * s.number + 2) for s in sessions]
        meters[TO_CORE].expect([Expected(s.callee, s.core, 2 * s.number + 1) for s in sessions])
        meters[TO_ACCESS].expect([Expected(s.caller, s.access, 2 * s.number + 2) for s in sessions])
        yield Generator(self._plan.access, "access", up)
        yield Generator(self._plan.core, "core", down)

    def _wait_heard(self, meters: Mapping[str, Meter], sessions: int) -> None:
        deadline = _deadline(HEARD_TIMEOUT_MS)
        while True:
            missing = []
            for direction, meter in meters.items():
                heard = [r for r in meter.flows() if r.packets >= HEARD_PACKETS_MIN]
                load = sum(r.generated for r in heard)
                if load < sessions or len(heard) - load < self._scale.calls:
                    missing.append(
                        f"{load} generated and {len(heard) - load} SIP flows {direction}"
                    )
            if not missing:
                return
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"only heard after {HEARD_TIMEOUT_MS // 1000} s: {', '.join(missing)}, of "
                    f"{sessions} and {self._scale.calls}; {'; '.join(self._sip.errors())}"
                )
            _sleep_ms(POLL_MS)

    # -- the trial --------------------------------------------------------------------------

    def _go(self, stack: contextlib.ExitStack) -> TrialResult:
        lab, fault, scale = self._lab, self._fault, self._scale
        room = 4 * (scale.flows + scale.calls) + METER_ROOM
        hosts6 = (lab_plan.ACCESS_HOST6, lab_plan.ACCESS_HOST4)
        meters = {
            TO_ACCESS: stack.enter_context(Meter(self._plan.access, "access", room, watch=hosts6)),
            TO_CORE: stack.enter_context(
                Meter(self._plan.core, "core", room, watch=(lab_plan.CORE_HOST4,))
            ),
        }
        proxies, sessions = self._open(stack)
        generators = [stack.enter_context(g) for g in self._generators(meters, sessions)]
        if scale.calls:
            self._sip.start_calls(scale.calls)
        for generator in generators:
            generator.start()
        self._wait_heard(meters, len(sessions))

        faults = Faults(lab, self._roles(), self._progress)
        stack.callback(faults.heal)
        if fault.prepare:
            self._progress("making ready for it")
            faults.strike(fault.prepare)
            if self._halts:
                # A process was started again for it: one death more, after which its node may be
                # held to die too often, and rightly come last.
                spread_out(lab, self._progress, rested=True)
            faults.roles = self._roles()
        roles = faults.roles
        since = claims.revision(self._plan)
        logs = self._log_sizes()
        _sleep_ms(STEADY_MS + self._chance.uniform(0, PHASE_MS_MAX))
        for meter in meters.values():
            meter.reset_gaps()
        lost_before = self._packets_lost(meters)
        skipped = sum(g.counts().skipped for g in generators)
        _sleep_ms(RESET_MS)
        for proxy in proxies:
            proxy.start()
            stack.callback(proxy.stop)

        struck = {role.value: roles[role] for role in {b.role for b in fault.blows} & roles.keys()}
        who = ", ".join(f"{role} {node}" for role, node in struck.items())
        self._progress(f"{fault.text} ({who})")
        t0_ns = faults.strike(fault.blows)
        self._last(faults, meters, t0_ns)
        owner_after = self._registered_owner(faults)
        self._progress("repairing")
        faults.heal()
        whole_ms, left = wait_whole(lab, fault.whole_ms, self._progress)
        # etcd may have been what was broken
        owner_after = owner_after or self._registered_owner(faults)
        self._broken += invariants.moved_as_expected(
            fault.moves, roles[Role.ACTIVE], owner_after, self._group
        )
        if left:
            self._broken.append(f"not whole {fault.whole_ms // 1000} s after the repair: {left[0]}")
        self._wait_back(meters, t0_ns, BACK_TIMEOUT_MS)
        _sleep_ms(AFTER_MS)
        for proxy in proxies:
            proxy.stop()
        flows, others = self._heard(meters, t0_ns)
        skipped = sum(g.counts().skipped for g in generators) - skipped
        packets_lost = self._packets_lost(meters) - lost_before
        silent = [f for f in (*flows, *others) if not f.recovered]
        if silent:
            self._broken.append(
                f"{len(silent)} of {len(flows) + len(others)} flows are silent for good: "
                f"{silent[0].source} to {silent[0].destination}, and more"
            )
        lost_some = fault.held and packets_lost > 0
        if lost_some and not skipped:
            self._broken.append(f"{packets_lost} packets of calls were lost: none was to be")
        events = self._events()
        started, completed = self._verify(proxies)
        self._end(meters, generators, proxies)
        history = claims.history(self._plan, since)
        texts = [(node, _read_from(file, size)) for (node, file), size in logs.items()]
        said = [one for node, text in texts for one in invariants.said(node, text)]
        if fault.said and not any(fault.said in text for _, text in texts):
            self._broken.append(f"nobody said '{fault.said}'")
        self._broken += invariants.one_owner(history, said)
        if lost_some and skipped and not self._broken:
            raise EnvironmentProblem(
                f"no verdict: {packets_lost} packets of calls were lost, none was to be, but the "
                f"load generator itself left out {skipped}: the machine was too busy to tell"
            )
        counts = sum((proxy.ledger.counts for proxy in proxies), Counter[str]())
        steps = measure.timeline(events, t0_ns, self._group)
        back = [f.end_ms for f in flows if f.end_ms is not None and f.end_ms > 0]
        moved = owner_after != roles[Role.ACTIVE]
        steps["first_packet"] = min(back, default=None) if moved else None
        return TrialResult(
            fault=fault.name,
            text=fault.text,
            seed=self._seed,
            group=self._group,
            owner_before=roles[Role.ACTIVE],
            owner_after=owner_after,
            struck=struck,
            flows=tuple(flows),
            others=tuple(others),
            packets_lost=packets_lost,
            calls_started=started,
            calls_completed=completed,
            asked=counts["asked"],
            unanswered=counts[Answer.NONE],
            refused=counts[Answer.REFUSED],
            slowest_ms=max(proxy.slowest_ms for proxy in proxies),
            epochs=len([one for one in history if one.revision > since]),
            whole_ms=whole_ms,
            timeline_ms=steps,
            why=measure.why(events, self._group, roles[Role.ACTIVE]) if moved else "",
            skipped=skipped,
            broken=tuple(dict.fromkeys(self._broken))[:BROKEN_MAX],
        )

    def _last(self, faults: Faults, meters: Mapping[str, Meter], t0_ns: int) -> None:
        """Until it has lasted: its time, a move that must come, or media that is back."""
        fault, before = self._fault, faults.roles[Role.ACTIVE]
        _sleep_ms(fault.lasts_ms)
        deadline = _deadline(MOVED_TIMEOUT_MS)
        while fault.moves is Moves.MUST and time.monotonic() < deadline:
            if self._registered_owner(faults) not in ("", before):
                break
            _sleep_ms(POLL_MS)
        if not fault.lasts_ms:
            self._wait_back(meters, t0_ns, BACK_TIMEOUT_MS)

    def _registered_owner(self, faults: Faults) -> str:
        """As etcd has it; empty when it does not say. Those of its members that have been silenced
        are not waited for: the fault would last the longer for it."""
        hosts = [m.address for m in self._lab.registry.members if m.name not in faults.mute]
        return claims.owner(self._plan, self._group, hosts)

    # -- media ------------------------------------------------------------------------------

    def _heard(
        self, meters: Mapping[str, Meter], t0_ns: int
    ) -> tuple[list[FlowOutage], list[FlowOutage]]:
        """Flows of the watched group and of the others; not those that were closed on purpose."""
        kept = {str(a) for s in self._kept for a in (s.caller, s.callee)}
        mine = self._hosts({self._group})
        rest = self._hosts({group.id for group in self._plan.groups}) - mine
        found: tuple[list[FlowOutage], list[FlowOutage]] = ([], [])
        for direction, meter in meters.items():
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            reports = meter.flows()
            for hosts, into in ((mine, found[0]), (rest, found[1])):
                into += [
                    flow
                    for flow in measure.outages(reports, direction, hosts, t0_ns, now_ns)
                    if flow.kind != GENERATED or flow.destination in kept
                ]
        return found

    def _hosts(self, groups: set[str]) -> frozenset[str]:
        return frozenset(
            address.partition("/")[0]
            for group in self._plan.groups
            if group.id in groups
            for addresses in group.addresses.values()
            for address in addresses
        )

    def _wait_back(self, meters: Mapping[str, Meter], t0_ns: int, timeout_ms: int) -> None:
        deadline = _deadline(timeout_ms)
        while time.monotonic() < deadline:
            _sleep_ms(POLL_MS)
            flows, others = self._heard(meters, t0_ns)
            if all(flow.recovered and flow.exact for flow in (*flows, *others)):
                return
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if now_ns - t0_ns > 3 * NS_OF_SILENCE and all(
                flow.recovered for flow in (*flows, *others)
            ):
                return

    def _packets_lost(self, meters: Mapping[str, Meter]) -> int:
        kept = {str(a) for s in self._kept for a in (s.caller, s.callee)}
        return sum(
            report.lost
            for report in self._reports(meters)
            if report.generated and str(report.destination) in kept
        )

    def _reports(self, meters: Mapping[str, Meter]) -> list[FlowReport]:
        return [report for meter in meters.values() for report in meter.flows()]

    # -- after ------------------------------------------------------------------------------

    def _verify(self, proxies: list[Proxy]) -> tuple[int, int]:
        """Every call is as it was promised, and can be changed; then all end. SIP calls started and
        completed."""
        self._progress("asking for every call")
        left: list[tuple[Proxy, str]] = []
        for proxy in proxies:
            seen = {call_id: proxy.look(call_id) for call_id in proxy.ledger.calls}
            if wrong := lost(proxy.ledger, seen):
                self._broken += wrong
                for call_id in seen:
                    if any(call_id in line for line in wrong):
                        self._explain(proxy, call_id)
            left += [(proxy, call) for call, state in seen.items() if state not in (None, GONE)]
            problems = [line for line in map(proxy.modify, proxy.sessions[CLOSING:]) if line]
            self._broken += problems[:BROKEN_MAX]
        started, completed = self._hang_up()
        for proxy, call_id in left:
            if line := proxy.end(call_id):
                self._broken.append(line)
                self._explain(proxy, call_id)
        return started, completed

    def _explain(self, proxy: Proxy, call_id: str) -> None:
        """What the proxy asked of a call that is not as it should be, and what the nodes know of
        it, into `calls.log` beside their logs."""
        lines = [f"== {call_id}", *proxy.story(call_id)]
        for node in self._plan.nodes:
            with contextlib.suppress(BgfError):
                said = self._lab.nodes.ask(node.id, "gateway", "why", call_id=call_id)
                lines.append(f"{node.id}: {json.dumps(said)}")
        with (self._lab.processes.log_dir / "calls.log").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def _hang_up(self) -> tuple[int, int]:
        if not self._scale.calls:
            return 0, 0
        self._sip.hang_up()
        deadline = _deadline(HANG_UP_TIMEOUT_MS)
        while not self._sip.done() and time.monotonic() < deadline:
            _sleep_ms(POLL_MS)
        stats = self._sip.stats()
        started = max(stats.started, self._scale.calls)
        if stats.completed < started:
            self._broken.append(f"{started - stats.completed} of {started} SIP calls were dropped")
            self._broken += self._sip.errors()[:2]
        return started, stats.completed

    def _end(
        self,
        meters: Mapping[str, Meter],
        generators: list[Generator],
        proxies: list[Proxy],
    ) -> None:
        """All calls end while their parties send on: nothing may come through, nothing be left."""
        for proxy in proxies:
            for session in proxy.sessions:
                if session.call_id not in proxy.closed:
                    line = proxy.end(session.call_id)
                    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                    proxy.closed[session.call_id] = (session, now_ns)
                    self._broken += [line] if line else []
        _sleep_ms(invariants.SLACK_MS * 2)
        heard = {str(r.destination): r.last_ns for r in self._reports(meters) if r.generated}
        for generator in generators:
            generator.stop()
        for proxy in proxies:
            self._broken += invariants.stays_closed(
                closed_calls(proxy.closed, heard), self._lease_ms
            )
        everywhere = self._hosts({group.id for group in self._plan.groups})
        strangers = measure.strangers(self._reports(meters), everywhere)
        totals = [meter.totals() for meter in meters.values()]
        for what, count in (
            ("from addresses of no group", strangers),
            ("at the wrong place", sum(total.wrong_destination for total in totals)),
            ("from the wrong gateway address", sum(total.wrong_source for total in totals)),
            ("with a bad checksum", sum(total.bad_checksum for total in totals)),
        ):
            if count:
                self._broken.append(f"{count} packets arrived {what}")
        self._nothing_left()

    def _nothing_left(self) -> None:
        deadline = _deadline(DRAIN_TIMEOUT_MS)
        while True:
            left = []
            for node in self._plan.nodes:
                try:
                    said = self._lab.nodes.ask(node.id, "gateway")
                except BgfError as problem:
                    left.append(str(problem))
                    continue
                if said.get("pinholes"):
                    left.append(f"{said['pinholes']} pinholes are left on {node.id}")
                left += [
                    f"{one['sessions']} calls of {group} are left on {node.id}"
                    for group, one in said.get("groups", {}).items()
                    if one.get("sessions")
                ]
            if not left or time.monotonic() > deadline:
                break
            _sleep_ms(POLL_MS)
        self._broken += left
        left = wait_whole(self._lab, QUIET_TIMEOUT_MS, self._progress, quiet=True)[1]
        self._broken += left[:2]

    # -- what the nodes said ----------------------------------------------------------------

    def _log_sizes(self) -> dict[tuple[str, Any], int]:
        found = {}
        for node in self._plan.nodes:
            for kind in ("failover", "gateway"):
                file = self._lab.processes.log_of(kind, node.id)
                found[node.id, file] = file.stat().st_size if file.exists() else 0
        return found

    def _events(self) -> list[dict[str, Any]]:
        """Of every node, from its history: a process that was started again remembers."""
        found: list[dict[str, Any]] = []
        for node in self._plan.nodes:
            with contextlib.suppress(BgfError):
                answer = self._lab.nodes.ask(node.id, "failover", "history", group=self._group)
                found += answer.get("events", [])
        return found


def _read_from(file: Any, size: int) -> str:
    try:
        with file.open("rb") as log:
            log.seek(size)
            return str(log.read().decode("utf-8", "replace"))
    except OSError:
        return ""


def _silent(_: int) -> None:
    return


def _deadline(timeout_ms: int) -> float:
    return time.monotonic() + timeout_ms / 1000


def _sleep_ms(duration_ms: float) -> None:
    time.sleep(duration_ms / 1000)
