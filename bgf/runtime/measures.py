"""What a reply must say of counters: read from the packet path at the moment that it is true.

Knows: which commands are answered with figures, that those of a deleted call must be read before
its pinholes go, and how much of a full node is looked at for its statistics. Must not know roles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bgf.control import call_report, statistics
from bgf.control.bencode import Encodable
from bgf.control.ng import Measured, Request
from bgf.control.statistics import Calls, ControlCounts, Ports, Scores, Traffic
from bgf.errors import DatapathError
from bgf.events import Reply, Result, Verb
from bgf.gateway import Gateway
from bgf.media.datapath import PASSED, Datapath, Outcome
from bgf.model import Component, FlowKey
from bgf.quality import mos
from bgf.runtime.latency import Latencies
from bgf.runtime.process import now_ns
from bgf.runtime.served import Served
from bgf.totals import Totals

NS_PER_S: Final = 1_000_000_000
NOTHING: Final = Measured()
DELETES_KEPT_MAX: Final = 4_096
"""Replies to deletions that are kept for who asks again: their counters are nowhere any more."""
SCORED_MAX: Final = 2_000
"""Streams looked at for the node's mean quality and packet length."""
STATISTICS_KEPT_MS: Final = 1_000
"""How old `statistics` may be: reading all of a full node's counters is work."""
NOT_ERRORS: Final = frozenset((*PASSED, Outcome.FORWARD, Outcome.REFLECT, Outcome.CHECK))


class Measures:
    """One node's. `before` a command, `after` it, `of` its reply in between."""

    def __init__(
        self,
        datapath: Datapath,
        served: Mapping[str, Served],
        elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        self._datapath = datapath
        self._served = served
        self._elsewhere = elsewhere
        self._ending: tuple[Reply, Measured] | None = None
        self._asked: Gateway | None = None
        self._deletes: dict[tuple[str, str], tuple[Reply, Measured]] = {}
        self._control = ControlCounts()
        self.latency = Latencies()
        self._past = Totals()
        self._machines: dict[str, Gateway] = {}
        self._bytes = 0
        self._refused = 0
        self._began_ns = self._looked_ns = self._asked_ns = now_ns()
        self._packets = self._errors = 0
        self._statistics: tuple[int, dict[str, Encodable]] | None = None

    def before(self, gateway: Gateway, request: Request) -> None:
        """Read what the command is about to make unreadable."""
        self._ending, self._asked_ns, self._asked = None, now_ns(), gateway
        if request.verb is not Verb.DELETE:
            return
        known = gateway.describe(request.call_id)
        if known is not None:
            try:
                self._ending = known, self._counted(known)
            except DatapathError:
                self._ending = None

    @property
    def carried(self) -> tuple[int, ...]:
        """Of the call that the command may end; empty where there is none."""
        if self._ending is None:
            return ()
        known, measured = self._ending
        return call_report.carried(known, measured.counters)

    def after(self, request: Request, client: str, reply: Reply) -> None:
        """Count a command that was answered, and by whom it was asked."""
        failed = reply.result not in (Result.OK, Result.PONG)
        spent_s = (now_ns() - self._asked_ns) / NS_PER_S
        self._control.count(client, request.verb, spent_s, failed=failed)
        self.latency.observe(request.verb.value, spent_s)
        if failed and request.verb is Verb.OFFER:
            self._refused += 1
        self._ending = None

    def of(self, request: Request, reply: Reply) -> tuple[Reply, Measured]:
        """The reply with the flows and the figures that belong to it."""
        if reply.result is not Result.OK:
            return reply, NOTHING
        if request.verb is Verb.QUERY:
            return reply, self._counted(reply)
        if request.verb is Verb.STATISTICS:
            return reply, Measured(statistics=self.statistics())
        if request.verb is not Verb.DELETE:
            return reply, NOTHING
        asked = (request.call_id, request.cookie)
        if asked not in self._deletes:
            if self._ending is None or reply.warning:
                return reply, NOTHING
            self._deletes[asked] = self._ending
            if len(self._deletes) > DELETES_KEPT_MAX:
                del self._deletes[next(iter(self._deletes))]
            if self._asked is None or self._asked.describe(request.call_id) is None:
                self._bytes += sum(count.bytes for count in self._ending[1].counters)
        known, measured = self._deletes[asked]
        return msgspec.structs.replace(reply, flows=known.flows, report=known.report), measured

    def _counted(self, reply: Reply) -> Measured:
        keys = [flow.key for flow in reply.flows]
        return Measured(*self._datapath.measured(keys), _boot_s())

    # -- the node --------------------------------------------------------------------------

    def statistics(self) -> dict[str, Encodable]:
        """Of this node since its gateway process began, at most STATISTICS_KEPT_MS old."""
        now = now_ns()
        kept = self._statistics
        if kept is None or now - kept[0] > STATISTICS_KEPT_MS * 1_000_000:
            kept = self._statistics = (now, self._look(now))
        return kept[1] | {"controlstatistics": self._control.told()}

    def _look(self, now: int) -> dict[str, Encodable]:
        calls = self.calls()
        ports: list[Ports] = []
        for served in self._served.values():
            machine = served.driver.gateway if served.driver is not None else None
            used = 0 if machine is None else 2 * machine.usage().pairs_used
            first, last = served.group.ports
            ports += [
                Ports(f"{served.group.id}/{one.realm}", one.host, first, last, used)
                for one in served.group.addresses
            ]
        streams, scores, traffic = self._heard(now)
        return statistics.told(
            uptime_s=(now - self._began_ns) / NS_PER_S,
            calls=calls,
            traffic=traffic,
            scores=scores,
            control=self._control,
            ports=ports,
            streams=streams,
        )

    def calls(self) -> Calls:
        """Of this node since its gateway process began. Cheap."""
        totals, live = Totals(), 0
        for served in self._served.values():
            machine = served.driver.gateway if served.driver is not None else None
            self._keep_past(served.group.id, machine)
            if machine is not None:
                live += machine.usage().sessions
                totals.add(machine.totals)
        totals.add(self._past)
        return Calls(
            live,
            self._elsewhere(),
            totals.begun,
            self._refused,
            totals.ended,
            totals.unanswered,
            totals.abandoned,
            totals.duration_s,
            totals.duration2_s,
            totals.deviation_s,
        )

    def _keep_past(self, group: str, machine: Gateway | None) -> None:
        """What a machine has counted outlives it."""
        known = self._machines.get(group)
        if known is not None and known is not machine:
            self._past.add(known.totals)
            del self._machines[group]
        if machine is not None:
            self._machines[group] = machine

    def _heard(self, now: int) -> tuple[int, Scores, Traffic]:
        keys: list[FlowKey] = []
        streams = 0
        for served in self._served.values():
            machine = served.driver.gateway if served.driver is not None else None
            for call_id in () if machine is None else machine.calls(SCORED_MAX):
                if len(keys) >= SCORED_MAX or machine is None:
                    break
                keys += [
                    flow.key
                    for flow in machine.expected_flows(call_id)
                    if flow.component is Component.RTP
                ]
        total = squares = 0.0
        heard = 0
        for rtp in self._datapath.rtp(keys):
            score = mos(rtp)
            streams += rtp.packets > 0
            if score is not None:
                heard, total, squares = heard + 1, total + score, squares + score * score
        counts = self._datapath.counters(keys)
        packets_of, bytes_of = sum(c.packets for c in counts), sum(c.bytes for c in counts)
        drops = self._datapath.drops()
        packets = drops.get(Outcome.FORWARD, 0)
        errors = sum(count for outcome, count in drops.items() if outcome not in NOT_ERRORS)
        passed_s = max(1e-3, (now - self._looked_ns) / NS_PER_S)
        packets_s = max(0, round((packets - self._packets) / passed_s)) if self._packets else 0
        errors_s = max(0, round((errors - self._errors) / passed_s)) if self._packets else 0
        self._looked_ns, self._packets, self._errors = now, packets, errors
        mean = bytes_of / packets_of if packets_of else 0.0
        return (
            streams,
            Scores(heard, total, squares),
            Traffic(
                packets,
                self._bytes + bytes_of,
                errors,
                packets_s,
                round(packets_s * mean),
                errors_s,
            ),
        )


def _boot_s() -> float:
    """The Unix time at which this host's CLOCK_BOOTTIME was 0."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) / NS_PER_S - now_ns() / NS_PER_S
