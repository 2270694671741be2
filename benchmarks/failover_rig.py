"""A cluster of four actives and a standby under RTP, for as many deaths as one wants to look at.

Knows: the lab, its `ng` load, its generators and meters, how a dead node comes back. Must not know
what is a figure. One cluster serves many rounds: who died comes back as the standby, and the next
death is that of whoever owns the group then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from bgf import config
from bgf.control.client import NgClient
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import measure, namespaces
from bgf.lab.lab import Lab, check_machine, interruptible
from bgf.lab.measure import TO_ACCESS, TO_CORE, FlowOutage
from bgf.lab.ngload import LoadSession, close_sessions, open_sessions
from bgf.lab.nodes import Timers
from bgf.lab.plan import CONTROL_PORT
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from bgf.model import Address

Progress = Callable[[str], None]

ACTIVES, STANDBYS = 4, 1
PORTS: Final = (10_000, 65_533)
PINHOLES: Final = 262_144
STATE_MB: Final = 384
REPAIR_PER_S: Final = 2_000
"""Copies made again: the default of a node."""
PACKETS_PER_S: Final = 50
CARRIED_PER_S: Final = 50_000
"""Packets/s that two cores carry through generators, two switches, gateway and meters at once,
beside five nodes' processes, without the load itself being late: with 100,000 it leaves out
thousands of packets after a death, and what is measured is the machine."""
THIN_PER_S: Final = 1
METER_ROOM: Final = 4_096
PHASE_MS: Final = 500
RESET_MS: Final = 200
LOOK_MS: Final = 50
LOOK_REST: Final = 9
"""A look at 20,000 flows takes the processor from those that are looked at: a tenth of the time."""
BACK_S: Final = 20.0
HEARD_S: Final = 90.0
READY_S: Final = 120.0
MOVE_S: Final = 20.0
POLL_S: Final = 0.1
OPEN_TRIES: Final = 30
"""Of a second each."""
MS: Final = 1_000_000


def now_ns() -> int:
    """CLOCK_BOOTTIME, as everybody who is measured."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def rates(flows: int, carried_per_s: int = CARRIED_PER_S) -> tuple[int, int]:
    """(flows at 50 packets/s, flows thinned out to THIN_PER_S) for that many flows."""
    if flows * PACKETS_PER_S <= carried_per_s:
        return flows, 0
    full = (carried_per_s - flows * THIN_PER_S) // (PACKETS_PER_S - THIN_PER_S)
    full -= full % 2
    return full, flows - full


@dataclass(frozen=True, slots=True)
class Death:
    """One power-off. Times in ms after it; `steps` are the first events of the survivors."""

    killed: str
    owner: str
    flows: tuple[FlowOutage, ...]
    thinned_silent: int
    steps: Mapping[str, float | None]
    answered_ms: float
    restored_ms: float
    skipped: int
    late_ms: float

    @property
    def outages_ms(self) -> list[float]:
        return [flow.outage_ms for flow in self.flows]

    def between(self, first: str, last: str) -> float | None:
        """ms from one step to another, None when one of them was not seen."""
        begin, end = self.steps.get(first), self.steps.get(last)
        return None if begin is None or end is None else end - begin


@dataclass
class Load:
    """Sessions of one group, their generators, and the meters of both sides. `timed` sessions
    send at the full rate; the figures are theirs."""

    sessions: list[LoadSession]
    timed: int
    meters: dict[str, Meter]
    generators: list[Generator] = field(default_factory=list)

    def reports(self) -> dict[str, list[Any]]:
        """What each side has heard, generated flows only."""
        return {d: [r for r in m.flows() if r.generated] for d, m in self.meters.items()}

    def is_timed(self, ssrc: int) -> bool:
        return (ssrc - 1) // 2 < self.timed

    def counts(self) -> tuple[int, float]:
        """(packets that were never sent for being late, how late one was at most, ms)."""
        told = [generator.counts() for generator in self.generators]
        return sum(c.skipped for c in told), max((c.late_max_ns for c in told), default=0) / MS

    def lost(self) -> list[int]:
        """Packets missing so far by RTP sequence, of each flow and direction."""
        return [r.lost for reports in self.reports().values() for r in reports]


class Cluster:
    """The lab with room for 20,000 flows in one group. Use `up` once."""

    def __init__(
        self,
        timers: Timers,
        progress: Progress,
        *,
        seed: int = 1,
        on_first: Sequence[str] = (),
        state_mb: int = STATE_MB,
    ) -> None:
        """The first node is preferred for the groups `on_first` as well."""
        self._state_mb = state_mb
        self._progress = progress
        self._chance = random.Random(seed)
        self._on_first = frozenset(on_first)
        self.timers = timers
        self.lab = Lab(
            Path(f"/run/bgf-fig8-{os.getpid()}"),
            prefix=f"f{os.getpid() % 10_000}-",
            actives=ACTIVES,
            standbys=STANDBYS,
            timers=timers,
            adjust=self._adjust,
        )
        self.plan = self.lab.plan

    def _adjust(self, made: config.NodeConfig) -> config.NodeConfig:
        groups = tuple(
            msgspec.structs.replace(
                group,
                ports=PORTS,
                preferred=self.plan.nodes[0].id if group.id in self._on_first else group.preferred,
            )
            for group in made.groups
        )
        cluster = made.state.cluster
        assert cluster is not None
        cluster = dataclasses.replace(cluster, repair_per_s=REPAIR_PER_S)
        return dataclasses.replace(
            made,
            groups=groups,
            media=dataclasses.replace(made.media, pinholes_max=PINHOLES),
            state=dataclasses.replace(made.state, size_mb=self._state_mb, cluster=cluster),
        )

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Raises BgfError; whatever happens, nothing is left."""
        check_machine(self.plan.run_dir)
        lab = self.lab
        with lab.exclusive(), interruptible():
            try:
                lab.topology.up(self._progress)
                lab.start_nodes(self._progress)
                yield
            finally:
                lab.down(lambda _: None)

    # -- load --------------------------------------------------------------------------------

    def client(self, group: str = "g1", prefix: str = "fig8") -> NgClient:
        """At the proxy's place, and more patient: sessions are no figure of ours."""
        address = Address(self.plan.group(group).control_host, CONTROL_PORT)
        return namespaces.run_in(
            self.plan.cscf, lambda: NgClient(address, tries=OPEN_TRIES, prefix=prefix)
        )

    @contextlib.contextmanager
    def load(
        self, flows: int, group: str = "g1", carried_per_s: int = CARRIED_PER_S
    ) -> Iterator[Load]:
        """`flows` one-way flows of a group, two a session, sending; heard at both ends."""
        full, thin = rates(flows, carried_per_s)
        sessions = (flows + 1) // 2
        with contextlib.ExitStack() as stack:
            meters = {
                TO_ACCESS: stack.enter_context(
                    Meter(self.plan.access, "access", 2 * flows + METER_ROOM)
                ),
                TO_CORE: stack.enter_context(Meter(self.plan.core, "core", 2 * flows + METER_ROOM)),
            }
            client = stack.enter_context(self.client(group))
            self._progress(f"opening {sessions:,} sessions on {group}")
            opened = open_sessions(client, sessions, f"{group}load", lambda _: None)
            load = Load(opened, full // 2, meters)
            meters[TO_CORE].expect([Expected(s.callee, s.core, 2 * s.number + 1) for s in opened])
            meters[TO_ACCESS].expect(
                [Expected(s.caller, s.access, 2 * s.number + 2) for s in opened]
            )
            for part, rate in (
                (opened[: full // 2], PACKETS_PER_S),
                (opened[full // 2 :], THIN_PER_S),
            ):
                if part:
                    load.generators += [
                        stack.enter_context(generator) for generator in self._sides(part, rate)
                    ]
            for generator in load.generators:
                generator.start()
            told = f"{full:,} flows at {PACKETS_PER_S} packets/s"
            self._progress(told + (f", {thin:,} at {THIN_PER_S}" if thin else ""))
            self.until(lambda: self._heard(load), HEARD_S, "every flow is heard")
            yield load
            for generator in load.generators:
                generator.stop()
            left = close_sessions(client, opened)
            if left:
                self._progress(f"PROBLEM: {len(left)} sessions were not closed: {left[0]}")

    def _sides(self, sessions: Sequence[LoadSession], rate: int) -> Iterator[Generator]:
        up = [StreamSpec(s.caller, s.access, 2 * s.number + 1) for s in sessions]
        down = [StreamSpec(s.callee, s.core, 2 * s.number + 2) for s in sessions]
        yield Generator(self.plan.access, "access", up, rate)
        yield Generator(self.plan.core, "core", down, rate)

    @staticmethod
    def _heard(load: Load) -> bool:
        heard = sum(r.packets > 1 for reports in load.reports().values() for r in reports)
        return bool(heard >= 2 * len(load.sessions))

    # -- a death -----------------------------------------------------------------------------

    def owners(self, without: str = "") -> dict[str, tuple[int, str]]:
        """Group -> (epoch, owner): the newest that any of the nodes has seen."""
        found: dict[str, tuple[int, str]] = {}
        for node in self.plan.nodes:
            if node.id == without:
                continue
            with contextlib.suppress(BgfError):
                told = self.lab.nodes.ask(node.id, "failover").get("owners", {})
                for group, held in told.items():
                    one = (int(held["epoch"]), str(held["node"]))
                    found[group] = max(found.get(group, (0, "")), one)
        return found

    def owner(self, group: str = "g1", without: str = "") -> str:
        """Raises EnvironmentProblem when nobody owns it, or nobody can say for long."""
        named = ["", without]
        self.until(
            lambda: self.owners(without).get(group, (0, ""))[1] not in named,
            READY_S,
            f"somebody owns {group}",
        )
        return self.owners(without)[group][1]

    def draw(self) -> None:
        """Wait for a moment that keeps no step with anybody's timers."""
        time.sleep(self._chance.uniform(0, PHASE_MS) / 1000)

    def hosts(self, group: str) -> frozenset[str]:
        """The media addresses of a group."""
        where = self.plan.group(group).addresses.values()
        return frozenset(address.partition("/")[0] for one in where for address in one)

    def standby(self) -> str:
        """A node that owns nothing. Raises EnvironmentProblem when all do."""
        owning = {owner for _, owner in self.owners().values()}
        for node in self.plan.nodes:
            if node.id not in owning:
                return node.id
        raise EnvironmentProblem("every node owns a group: there is no standby")

    def move(self, group: str, to: str) -> None:
        """By plan. Raises EnvironmentProblem when it does not get there."""
        self.lab.nodes.ask(self.owner(group), "failover", "switchover", group=group, to=to)
        self.until(lambda: self.owner(group) == to, MOVE_S, f"{group} moves to {to}")

    def suspicions(self, since_ns: int) -> int:
        """How often any node has suspected another one since then."""
        return sum(
            event["event"] == "detected" and event["at_ns"] >= since_ns
            for node in self.plan.nodes
            for event in self.lab.nodes.ask(node.id, "failover", "timeline").get("events", [])
        )

    def restart(self, node_id: str, kind: str, *, killed: bool) -> None:
        """End one process of a node, start it again, and wait until it is ready."""
        processes = self.lab.processes
        victims = [p for p in processes.running(node_id) if p.name == kind]
        if killed:
            processes.kill_now(victims)
        processes.stop(victims)
        self.lab.nodes.start([self.plan.node(node_id)], kinds=(kind,))
        self.lab.nodes.wait_ready(lambda _: None)

    def settle(self, sessions: int = 0, group: str = "g1") -> str:
        """Wait until every node is ready, heard, and holds what it would take over: the owner."""
        lab = self.lab
        lab.nodes.wait_ready(lambda _: None)
        self.until(lambda: self._spare(group, sessions), READY_S, "a standby could take over")
        return self.owner(group)

    def _spare(self, group: str, sessions: int) -> bool:
        """Every member in the view, nothing waiting for its copies, every packet path filled."""
        for node in self.plan.nodes:
            state = self.lab.nodes.ask(node.id, "state")
            gateway = self.lab.nodes.ask(node.id, "gateway")
            member = state.get("member", {})
            whole = len(state.get("members", [])) == len(self.plan.nodes)
            if not whole or not member.get("serving") or member.get("unreplicated"):
                return False
            failover = self.lab.nodes.ask(node.id, "failover")
            if not failover["ready"]:
                return False  # not long after a boot, too (decision 46)
            if failover["damped"]:
                return False  # deaths that follow so fast are flapping, and taken for that
            if gateway["groups"][group]["pending"] or gateway["pinholes"] < 4 * sessions:
                return False
        return True

    def die(self, load: Load, group: str = "g1", *, also: str = "", sessions: int = 0) -> Death:
        """Wait for a whole cluster, freeze the owner out, and look until media is back.

        `also`: another group of that node, which is to be restored as well.
        """
        victim = self.settle(sessions or len(load.sessions), group)
        self.draw()
        for meter in load.meters.values():
            meter.reset_gaps()
        time.sleep(RESET_MS / 1000)
        skipped, _ = load.counts()
        hosts = self.hosts(group)
        asked = self._asker(load.sessions[0], group)
        with self.lab.frozen_out(victim) as t0_ns:
            answered_ms = asked(t0_ns)
            flows, silent = self.back(load, hosts, t0_ns)
            heir = self.owner(group, without=victim)
            restored_ms = max(
                self._restored_ms(name, victim, t0_ns) for name in (group, also) if name
            )
            ends = [f.end_ms for f in flows if f.end_ms is not None and f.end_ms > 0]
            steps = self._steps(victim, group, t0_ns)
            steps["first_packet"] = min(ends, default=None)
            skipped_now, late_ms = load.counts()
        return Death(
            killed=victim,
            owner=heir,
            flows=tuple(flows),
            thinned_silent=silent,
            steps=steps,
            answered_ms=answered_ms,
            restored_ms=restored_ms,
            skipped=skipped_now - skipped,
            late_ms=late_ms,
        )

    def _restored_ms(self, group: str, victim: str, t0_ns: int) -> float:
        heir = self.owner(group, without=victim)
        self.until(lambda: self._restored(heir, group), READY_S, f"all of {group} is restored")
        told = self.lab.nodes.ask(heir, "gateway")["groups"][group]
        return (int(told["began_ns"]) - t0_ns) / MS + float(told["restored_in_ms"])

    def _restored(self, node: str, group: str) -> bool:
        told = self.lab.nodes.ask(node, "gateway")["groups"][group]
        return bool(told["role"] == "active" and told["restored_in_ms"] and not told["pending"])

    def back(self, load: Load, hosts: frozenset[str], t0_ns: int) -> tuple[list[FlowOutage], int]:
        """Outages of the timed flows, once all of them are back; how many others stayed silent."""
        deadline = time.monotonic() + BACK_S
        while True:
            flows: list[FlowOutage] = []
            silent = 0
            for direction, meter in load.meters.items():
                read_ns = now_ns()
                reports = [r for r in meter.flows() if r.generated]
                timed = [r for r in reports if load.is_timed(r.ssrc)]
                flows += measure.outages(timed, direction, hosts, t0_ns, read_ns)
                rest = [r for r in reports if not load.is_timed(r.ssrc)]
                silent += sum(r.last_ns < t0_ns for r in rest if r.source.host in hosts)
            back = all(flow.recovered and flow.exact for flow in flows) and not silent
            if back or time.monotonic() > deadline:
                return flows, silent
            took_s = (now_ns() - read_ns) / 1e9
            time.sleep(max(LOOK_MS / 1000, LOOK_REST * took_s))

    def _asker(self, session: LoadSession, group: str) -> Callable[[int], float]:
        """Made before the death; then: ms until somebody answers a query about a call."""
        made = self.client(group, "asker")
        made.timeout_s, made.tries = 0.004, int(BACK_S / 0.004)

        def ask(t0_ns: int) -> float:
            try:
                reply = made.call({"command": "query", "call-id": session.call_id})
                if reply.get("result") != "ok":
                    raise EnvironmentProblem(f"{session.call_id} is not known any more: {reply}")
                return (now_ns() - t0_ns) / MS
            finally:
                made.close()

        return ask

    def cables_dropped(self) -> dict[str, int]:
        """Packets that the lab's own cables had no place for so far: those to the receivers, and
        those of the gateways, both ends. No gateway has lost these (docs/failover.md, "Packets that
        the lab loses")."""
        plan = self.plan
        receivers = {plan.access, plan.core}
        media = [port for port in plan.ports if port.network in ("access", "core")]
        ends: dict[str, dict[str, str]] = {}  # namespace -> interface -> whose
        for port in media:
            whose = "receivers" if port.namespace in receivers else "gateways"
            ends.setdefault(plan.switch, {})[port.switch_port] = whose
            if whose == "gateways":
                ends.setdefault(port.namespace, {})[port.interface] = whose
        dropped = {"receivers": 0, "gateways": 0}
        for namespace, named in ends.items():
            for name, count in namespaces.run_in(namespace, _drops).items():
                if name in named:
                    dropped[named[name]] += count
        return dropped

    def _steps(self, victim: str, group: str, t0_ns: int) -> dict[str, float | None]:
        steps: dict[str, float | None] = {}
        for node in self.plan.nodes:
            if node.id == victim:
                continue
            events = self.lab.nodes.ask(node.id, "failover", "timeline").get("events", [])
            for event in events:
                at_ms = (event["at_ns"] - t0_ns) / MS
                if at_ms >= 0 and event["group"] in (group, ""):
                    held = steps.get(event["event"])
                    steps[event["event"]] = at_ms if held is None else min(held, at_ms)
        return steps

    def revive(self, node_id: str) -> None:
        """Power on: a machine that remembers nothing, on the same cables."""
        node = self.plan.node(node_id)
        pins = self.plan.run_dir / "bpf" / node.id
        shutil.rmtree(pins, ignore_errors=True)
        moving = {
            a.partition("/")[0]
            for group in self.plan.groups
            for where in (*group.addresses.values(), (group.control,))
            for a in where
        }
        namespaces.run_in(node.namespace, lambda: _forget(moving))
        self.lab.cutter(node_id).restore()
        self.lab.nodes.start([node])

    def until(self, true: Callable[[], bool], within_s: float, what: str) -> None:
        """Raises EnvironmentProblem when it is not so within that time."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(BgfError, KeyError):
                if true():
                    return
            if time.monotonic() > deadline:
                raise EnvironmentProblem(f"not within {within_s:g} s: {what}")
            time.sleep(POLL_S)


def _forget(moving: set[str]) -> None:
    """Addresses that the last life of this machine had taken."""
    with namespaces.netlink() as netlink:
        for message in [
            *netlink.get_addr(family=socket.AF_INET),
            *netlink.get_addr(family=socket.AF_INET6),
        ]:
            host = message.get_attr("IFA_ADDRESS")
            if host not in moving:
                continue
            try:
                netlink.addr(
                    "del", index=message["index"], address=host, prefixlen=message["prefixlen"]
                )
            except NetlinkError as error:  # its lifetime has just ended
                if error.code != errno.EADDRNOTAVAIL:
                    raise


def _drops() -> dict[str, int]:
    """Of each interface of this namespace, in both directions."""
    with namespaces.netlink() as netlink:
        return {
            link.get_attr("IFLA_IFNAME"): sum(
                int(link.get_attr("IFLA_STATS64")[what]) for what in ("tx_dropped", "rx_dropped")
            )
            for link in netlink.get_links()
        }
