"""Kamailio and SIPp around the lab: plays a scenario, kills the owner, looks what is left.

Knows: the lab, the wire's trigger, how SIPp is started and told to go on. Must not know what a
scenario is about (`scenarios`) nor what its messages say (`blocks`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgf.control.sdp import Sdp
from bgf.errors import BgfError
from bgf.lab import namespaces
from bgf.lab import plan as lab_plan
from bgf.lab.lab import Lab
from bgf.lab.nodes import SESSIONS_MAX, Timers
from bgf.lab.plan import CONTROL_PORT, SIP_PORT
from bgf.lab.processes import Process
from bgf.lab.rtpload import Meter
from bgf.lab.sip import SipPeers, find_program, request, tone, uri
from bgf.model import Address
from tests.integration.kamailio import blocks
from tests.integration.kamailio.scenarios import Hold, Proxy, Scenario, Way
from tests.integration.kamailio.wire import Moment, NgWire, Passed

HERE = Path(__file__).parent
WAIT_S = 40.0
POLL_S = 0.02
HEARD_PACKETS = 10
STREAM_PACKETS = 5
FLOWS_MAX = 8_192
SIPP_TIMEOUT_MS = 20_000
"""For each message that an agent waits for: beyond Kamailio's five tries of a second."""
QUIET: Callable[[str], None] = lambda _line: None  # noqa: E731


@dataclass(frozen=True, slots=True)
class Kill:
    """When the owner goes: at which command of the scenario (1 is the first), at which moment of
    it, and how: all its processes by SIGKILL, or its power with all its cables."""

    number: int
    moment: Moment
    power: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """A SIPp. `said` is the file of what its scenario says."""

    process: Process
    host: str
    namespace: str
    said: Path
    errors: Path


class Rig:
    """One lab, a wire per group, and Kamailio with one configuration at a time."""

    def __init__(self, lab: Lab, wires: dict[str, NgWire], access: Meter, core: Meter) -> None:
        self.lab = lab
        self.wires = wires
        self.wire = next(iter(wires.values()))
        self._meters = {lab.plan.access: access, lab.plan.core: core}
        self._dir = lab.plan.run_dir / "agents"
        self._dir.mkdir(exist_ok=True)
        self._audio = self._dir / "tone.ulaw"
        self._audio.write_bytes(tone())
        self._count = itertools.count(1)
        self._peers: SipPeers | None = None
        self._running: tuple[Proxy, int] | None = None
        self.dead: list[tuple[str, bool]] = []
        self.broken = False

    # -- Kamailio ----------------------------------------------------------------------------

    def proxy(self, proxy: Proxy, groups: int = 1) -> None:
        """Have Kamailio run with this configuration, asking so many groups' gateways."""
        if self._running == (proxy, groups):
            return
        self.stop_proxy()
        hosts = [_wire_host(number) for number in range(groups)]
        peers = SipPeers(
            self.lab.plan,
            self.lab.processes,
            gateways=hosts,
            proxy=str(self._configuration(proxy)),
        )
        peers.start_proxy()
        self._peers, self._running = peers, (proxy, groups)

    def _configuration(self, proxy: Proxy) -> Path:
        if proxy is not Proxy.LEGS:
            return HERE / f"{proxy.value}.cfg"
        first, rest = (HERE / f"{Proxy.PCSCF.value}.cfg").read_text().split("\n", 1)
        path = self._dir / f"{proxy.value}.cfg"
        path.write_text(f"{first}\n#!define WITH_LEGS\n{rest}")
        return path

    def stop_proxy(self) -> None:
        if self._peers is not None:
            self._peers.stop()
        self._peers, self._running = None, None

    # -- scenarios ---------------------------------------------------------------------------

    def play(self, scenario: Scenario, proxy: Proxy, kill: Kill | None = None) -> list[Passed]:
        """One call from its INVITE to its end. Returns the commands that it made.

        Fails when an agent does, media is not heard, or anything is left on a living node.
        """
        with self._careful():
            return self._play(scenario, proxy, kill)

    @contextlib.contextmanager
    def _careful(self) -> Iterator[None]:
        """After a failure nobody knows what is left: `broken` says so."""
        self.broken = True
        yield
        self.broken = False

    def _play(self, scenario: Scenario, proxy: Proxy, kill: Kill | None) -> list[Passed]:
        self.proxy(proxy)
        if kill is not None:
            self._arm(kill)
        with self.agents(scenario, proxy) as (caller, callees, call_id):
            for hold in scenario.holds:
                self._hold(scenario, hold, caller, callees[0], call_id)
            self._end(caller, *callees)
        if kill is not None:
            # The last moment comes when Kamailio has its reply: the call may have ended already.
            self._wait(f"the moment has come: {kill}", self.wire.pulled.is_set)
            assert not self.wire.failures, self.wire.failures
            wait_for("somebody else owns the group", lambda: self.owner() in self.living())
        self.settle()
        passed = self.wire.passed()
        refused = [(one.command, one.reply) for one in passed if one.reply.get("result") != "ok"]
        assert not refused, refused
        return passed

    def play_many(
        self,
        scenario: Scenario,
        proxy: Proxy,
        calls: int,
        rate: int,
        *,
        groups: int = 1,
        settle: bool = True,
    ) -> None:
        """So many calls, so many a second; every one completes, and nothing is left of them."""
        with self._careful():
            self.proxy(proxy, groups)
            with self.agents(scenario, proxy, calls, rate) as (caller, callees, _):
                self._end(caller, *callees, within_s=WAIT_S + 2 * calls / rate)
            if settle:
                self.settle()

    def settle(self) -> None:
        """Everything asked is answered, and nothing left."""
        for wire in self.wires.values():
            wait_for("Kamailio has all its replies", wire.settled)
        self.nothing_left()

    def mute(self, host: str, command: str, since_ns: int) -> set[Address]:
        """Addresses of ours that replies to `command` have named, and from which `host` has heard
        no stream since then (CLOCK_BOOTTIME). A port may have served several calls."""
        heard = {
            flow.source
            for meter in self._meters.values()
            for flow in meter.flows(since_ns)
            if flow.destination.host == host and flow.packets >= STREAM_PACKETS
        }
        named = {
            Sdp(str(one.reply["sdp"])).media[0].rtp
            for one in self.wire.passed()
            if one.command == command and "sdp" in one.reply
        }
        assert named, f"no {command} has been answered"
        return named - heard

    @contextlib.contextmanager
    def agents(
        self, scenario: Scenario, proxy: Proxy, calls: int = 1, rate: int = 1
    ) -> Iterator[tuple[Agent, list[Agent], str]]:
        """Callees first, then the caller: who calls whom and for how many calls."""
        way, number = scenario.way, next(self._count)
        call_id = f"{number}-{os.getpid()}-%u"
        values: dict[str, object] = {
            "TARGET": blocks.literal(way.target(proxy, scenario.callee_name)),
            "ROUTE": blocks.literal(way.route(proxy)),
            "AUDIO": self._audio,
            "CORE4": lab_plan.CSCF_CORE4,
            **scenario.values,
        }
        plan = self.lab.plan
        near, far = (plan.access, plan.core) if way.originating else (plan.core, plan.access)
        far = plan.access if way is Way.ON_NET else far
        started: list[Agent] = []

        def start(file: str, host: str, namespace: str, *more: str) -> Agent:
            name = f"{number}-{file}"
            path = self._dir / f"{name}.xml"
            path.write_text(blocks.scenario(file, **values))
            said, errors = self._dir / f"{name}.said", self._dir / f"{name}.errors"
            argv = [find_program("sipp"), *more, "-sf", str(path), "-nostdin", "-m", str(calls)]
            argv += ["-i", uri(host), "-mi", host, "-p", str(SIP_PORT)]
            argv += ["-trace_logs", "-log_file", str(said)]
            argv += ["-trace_err", "-error_file", str(errors)]
            # What comes late or twice ends no call; what never comes does.
            argv += ["-recv_timeout", str(SIPP_TIMEOUT_MS), "-default_behaviors", "all,-abortunexp"]
            process = self.lab.processes.start(
                name, namespace, argv, cwd=self._dir, environment={"TERM": "xterm"}
            )
            started.append(Agent(process, host, namespace, said, errors))
            return started[-1]

        try:
            callees = [start(file, host or way.callee, far) for file, host in scenario.callees]
            for callee in callees:
                wait_for(f"{callee.process.name} listens", lambda c=callee: _listens(c.process))  # type: ignore[misc]
            # Who is slow is not swamped: so many calls at once, as are made in two seconds.
            pace = ("-r", str(rate), "-l", str(2 * rate), "-cid_str", call_id)
            at = f"{uri(way.proxy)}:{SIP_PORT}"
            yield start(scenario.caller, way.caller, near, at, *pace), callees, call_id
        finally:
            self.lab.processes.stop([agent.process for agent in started])

    def _hold(
        self, scenario: Scenario, hold: Hold, caller: Agent, callee: Agent, call_id: str
    ) -> None:
        self._wait(f"the caller says '{hold.word}'", lambda: _says(caller, hold.word), caller)
        agents = {"caller": caller, "callee": callee}
        for agent in map(agents.__getitem__, hold.heard):
            before = self.heard(agent)
            self._wait(
                f"media is heard at {agent.process.name} ({hold.word})",
                lambda a=agent, b=before: self.heard(a) >= b + HEARD_PACKETS,  # type: ignore[misc]
                caller,
            )
        told = agents[hold.tell]
        family = socket.AF_INET6 if ":" in told.host else socket.AF_INET
        with namespaces.socket_in(told.namespace, family, socket.SOCK_DGRAM) as wire:
            wire.bind((told.host, 0))
            own = f"{uri(told.host)}:{wire.getsockname()[1]}"
            call = call_id.replace("%u", "1")
            branch = f"{next(self._count)}x"
            wire.sendto(request("INFO", told.host, own, call, branch), (told.host, SIP_PORT))

    def heard(self, agent: Agent) -> int:
        """Packets that came to an agent's address, all from gateways."""
        flows = [
            flow
            for flow in self._meters[agent.namespace].flows()
            if flow.destination.host == agent.host
        ]
        strangers = {flow.source.host for flow in flows} - self._gateway_hosts()
        assert not strangers, f"media from {strangers}"
        return sum(flow.packets for flow in flows)

    def _gateway_hosts(self) -> set[str]:
        return {
            address.partition("/")[0]
            for group in self.lab.plan.groups
            for addresses in group.addresses.values()
            for address in addresses
        }

    def _wait(self, what: str, true: Callable[[], bool], *agents: Agent) -> None:
        """Until it is so, or an agent has ended before it was."""

        def true_or_over() -> bool:
            if true():
                return True
            ended = [a for a in agents if self.lab.processes.exit_status(a.process) is not None]
            assert not ended or true(), f"{what}: {self._last_words(*ended)}"
            return False

        wait_for(what, true_or_over)

    def _end(self, *agents: Agent, within_s: float = WAIT_S) -> None:
        status = self.lab.processes.exit_status
        wait_for(
            "the agents' end", lambda: all(status(a.process) is not None for a in agents), within_s
        )
        failed = [agent for agent in agents if status(agent.process) != 0]
        assert not failed, self._last_words(*failed)

    def _last_words(self, *agents: Agent) -> str:
        """What went wrong, without what each dead call still received."""
        words = []
        for agent in agents:
            text = agent.errors.read_text("utf-8", "replace") if agent.errors.exists() else ""
            wrong = [entry for entry in text.split("\t") if "Dead call" not in entry]
            status = self.lab.processes.exit_status(agent.process)
            words.append(f"{agent.process.name} ended with {status}: {' '.join(wrong)[:2_000]}")
        words.append(f"commands: {[(p.command, p.asked, p.replies) for p in self.wire.passed()]}")
        return "\n".join(word[:2_000] for word in words)

    # -- gateways ----------------------------------------------------------------------------

    def _arm(self, kill: Kill) -> None:
        owner = self.owner()
        lab = self.lab
        victims = lab.processes.running(owner)

        def pull() -> None:
            self.dead.append((owner, kill.power))
            if kill.power:
                lab.power_off(owner)
            else:
                lab.processes.kill_now(victims)

        self.wire.arm(kill.number, kill.moment, pull)

    def living(self) -> list[str]:
        dead = {node for node, _ in self.dead}
        return [node.id for node in self.lab.plan.nodes if node.id not in dead]

    def owner(self, group: str = "") -> str:
        """As the living have it; '' for nobody. Waits for one of them to say so."""
        group = group or self.lab.plan.groups[0].id
        owners: dict[str, str] = {}

        def told() -> bool:
            nodes = [self.lab.plan.node(node) for node in self.living()]
            owners.update(self.lab.nodes.owners(nodes))
            return group in owners

        wait_for(f"somebody says who owns {group}", told)
        return owners[group]

    def status(self, node: str) -> dict[str, Any]:
        return dict(self.lab.nodes.ask(node, "gateway"))

    def nothing_left(self) -> None:
        """No pinhole, no call, no port on any living node, and nothing that went wrong."""
        left: list[str] = ["not asked"]

        def nothing() -> bool:
            left[:] = self._left()
            return not left

        try:
            wait_for("nothing is left", nothing)
        except AssertionError:
            raise AssertionError(f"left over: {left}") from None

    def _left(self) -> list[str]:
        found = []
        served: set[str] = set()
        for node in self.living():
            try:
                status = self.status(node)
            except BgfError as problem:
                found.append(f"{node}: {problem}")
                continue
            if status["pinholes"]:
                found.append(f"{node}: {status['pinholes']} pinholes")
            for group, held in status["groups"].items():
                if held["role"] == "active":
                    served.add(group)
                held["failed"].pop("ports-exhausted", None)  # a refusal, said to who asked
                for what in ("sessions", "flows", "pairs_used", "pending", "failed"):
                    if held[what]:
                        found.append(f"{node} {group}: {what} {held[what]} {held['failures']}")
        found += [f"nobody serves {g.id}" for g in self.lab.plan.groups if g.id not in served]
        return found

    def heal(self) -> None:
        """What was killed comes back as a standby; returns when every node can lose another."""
        if self.dead:
            with self._careful():
                self._heal()

    def _heal(self) -> None:
        lab = self.lab
        while self.dead:
            node, power = self.dead[-1]
            if power:
                lab.cutter(node).restore()
            wait_for(f"{node} is gone", lambda n=node: not lab.processes.running(n))  # type: ignore[misc]
            lab.nodes.start([lab.plan.node(node)])
            self.dead.pop()
        lab.nodes.wait_ready(QUIET)
        wait_for("every node could take over", self._all_members)

    def _all_members(self) -> bool:
        for node in self.lab.plan.nodes:
            members = self.lab.nodes.ask(node.id, "failover")["members"]
            for peer in self.lab.plan.nodes:
                known = members.get(peer.id)  # none yet, after a pause of the registry
                if peer.id != node.id and not (known and known["ready"] and known["lease_left_ms"]):
                    return False
        return True


def _wire_host(number: int) -> str:
    return f"127.0.0.{number + 1}"


def _listens(process: Process) -> bool:
    """Is any UDP socket of its namespace on the SIP port?"""
    wanted = f":{SIP_PORT:04X}"
    lines = []
    for table in ("udp", "udp6"):
        with contextlib.suppress(OSError):
            lines += Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(wanted) for line in lines)


def _says(agent: Agent, word: str) -> bool:
    try:
        text = agent.said.read_text("utf-8", "replace")
    except FileNotFoundError:
        return False
    return any(line.split(" ")[0] == word for line in text.splitlines())


def wait_for(what: str, true: Callable[[], bool], within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain: {what}"
        time.sleep(POLL_S)


@contextlib.contextmanager
def rig(
    run_dir: Path, prefix: str, timers: Timers | None = None, sessions_max: int = SESSIONS_MAX
) -> Iterator[Rig]:
    """A lab of three nodes and two groups, gateways ready, Kamailio not started yet."""
    lab = Lab(run_dir, prefix=prefix, timers=timers, sessions_max=sessions_max)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lab.exclusive())
        stack.callback(lab.down, QUIET)
        lab.topology.up(QUIET)
        lab.start_nodes(QUIET)
        plan = lab.plan
        wires = {
            group.id: NgWire(
                plan.cscf,
                Address(_wire_host(number), CONTROL_PORT),
                Address(group.control_host, CONTROL_PORT),
            )
            for number, group in enumerate(plan.groups)
        }
        for wire in wires.values():
            stack.callback(wire.close)
        hosts = (lab_plan.ACCESS_HOST6, lab_plan.ACCESS_HOST4)
        access = stack.enter_context(Meter(plan.access, "access", FLOWS_MAX, watch=hosts))
        core = stack.enter_context(
            Meter(plan.core, "core", FLOWS_MAX, watch=(lab_plan.CORE_HOST4,))
        )
        yield Rig(lab, wires, access, core)
    assert not run_dir.exists()


class Rigs:
    """One rig for many tests, and a new one after a test that broke it."""

    def __init__(
        self,
        run_dir: Path,
        prefix: str,
        timers: Timers | None = None,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        self._arguments = (run_dir, prefix, timers, sessions_max)
        self._stack = contextlib.ExitStack()
        self._rig: Rig | None = None

    def fresh(self) -> Rig:
        """A rig on which nothing has passed and nobody is dead."""
        if self._rig is not None and self._rig.broken:
            self._stack.close()
            self._rig = None
        if self._rig is None:
            self._rig = self._stack.enter_context(rig(*self._arguments))
        self._rig.heal()
        for wire in self._rig.wires.values():
            wire.begin()
        return self._rig

    def __enter__(self) -> Rigs:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
