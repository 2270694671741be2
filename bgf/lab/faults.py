"""What can be done to a lab, and undone. Decides nothing: `catalogue` says what, `trial` when.

Knows: processes by node and name, switch ports, packet filters in the switch, control groups,
etcd's members. Must not know calls, media, or what is expected of a gateway.

Packets are lost by rules of nftables in the switch (numgen): a netem qdisc is not in every kernel,
and a frame that an XDP program redirects passes no qdisc of the sender.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from bgf.admin import AdminRefused, AdminUnreachable
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.catalogue import NETWORKS, PROCESSES, Blow, Role, Verb
from bgf.lab.lab import Lab
from bgf.lab.nodes import WATCHED, command
from bgf.lab.plan import NodePlan
from bgf.lab.processes import Process, is_alive
from bgf.lab.starving import Starved

Progress = Callable[[str], None]

NFT_TIMEOUT_S: Final = 10
TABLE: Final = "bgf_lab_faults"
HALT_TIMEOUT_MS: Final = 20_000
MOVE_TIMEOUT_MS: Final = 20_000
HALT_POLL_MS: Final = 1
POLL_MS: Final = 50
CC_TIMEOUT_S: Final = 60


def missing() -> list[str]:
    """Debian packages without which some faults cannot be done."""
    return [] if _nft() else ["nftables"]


def _nft() -> str:
    return shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin") or ""


WORDS_FILE: Final = "failover.words"
"""What a failover process has promised, in a node's run directory: it does not outlive power."""


class Faults:
    """Blows on one lab. `roles` maps a role to the node or member that has it in this trial."""

    def __init__(self, lab: Lab, roles: Mapping[Role, str], progress: Progress) -> None:
        self._lab = lab
        self._plan = lab.plan
        self.roles = roles
        self._progress = progress
        self._undo: list[Callable[[], None]] = []
        self._rules: list[str] = []
        self._halting: Process | None = None
        self._halted = False
        self.dead: set[str] = set()
        """Nodes without power."""
        self.mute: set[str] = set()
        """Members of etcd that do not answer."""

    def strike(self, blows: Sequence[Blow]) -> int:
        """Do them in order, machines that lose power one after the other at once; returns when it
        began, CLOCK_BOOTTIME in ns. Raises EnvironmentProblem for what this machine cannot do."""
        began_ns = 0
        left = list(blows)
        while left:
            together = [left.pop(0)]
            while together[0].verb is Verb.POWER_OFF and left and left[0].verb is Verb.POWER_OFF:
                together.append(left.pop(0))
            now_ns = _now_ns()
            if together[0].verb is Verb.POWER_OFF:
                at_ns = self._power_off([self.roles[blow.role] for blow in together])
            else:
                at_ns = self._one(together[0]) or now_ns
            began_ns = began_ns or at_ns
        return began_ns

    def heal(self) -> None:
        """Undo everything that can be, the last thing first. Idempotent; all of it is tried."""
        failures: list[Exception] = []
        while self._undo:
            try:
                self._undo.pop()()
            except (BgfError, OSError) as failure:
                failures.append(failure)
        self.mute.clear()
        if failures:
            raise failures[0]

    # -- one blow ---------------------------------------------------------------------------

    def _one(self, blow: Blow) -> int | None:
        who, what, number = self.roles.get(blow.role, ""), blow.what, blow.number
        match blow.verb:
            case Verb.KILL:
                self._kill(who, what)
            case Verb.STOP:
                self._pause(self._process(who, what))
            case Verb.LINK_DOWN:
                self._link_down(who, what)
            case Verb.LOSE | Verb.DEAFEN | Verb.MUTE | Verb.ISOLATE:
                self._filter(blow, who)
            case Verb.STARVE:
                pids = [p.pid for p in self._lab.processes.running(who)]
                starved = Starved(f"bgf-{self._plan.prefix}{who}", pids, number)
                self._undo.append(starved.feed)
            case Verb.FAKE_CLOCK:
                self._fake_clock(who)
            case Verb.SET_CLOCK:
                self._set_clock(who, number)
            case Verb.HALT_AT:
                self._halt_at(who, what)
            case Verb.AWAIT_HALT:
                self._await_halt()
            case Verb.GO_ON:
                if self._halting is not None:
                    _send(self._halting, signal.SIGCONT)
            case Verb.KILL_ETCD | Verb.STOP_ETCD:
                self._etcd(blow)
            case Verb.START_ETCD:
                self._start_etcd()
            case Verb.FAKE_DISK:
                self._fake_disks(self._members(blow))
            case Verb.SLOW_DISK:
                self._slow_disks(self._members(blow), number)
            case Verb.WAIT:
                time.sleep(number / 1000)
            case Verb.TAKE:
                self._take(self._plan.groups[0].id, who)
            case Verb.RESTART:
                return self._restart_all()
            case Verb.POWER_OFF:
                return self._power_off([who])
        return None

    # -- machines ---------------------------------------------------------------------------

    def _power_off(self, nodes: Sequence[str]) -> int:
        for node in nodes:
            self.dead.add(node)
            self._undo.append(lambda node=node: self.power_on(node))  # type: ignore[misc]
        with ThreadPoolExecutor(len(nodes)) as pool:
            return min(pool.map(self._lab.power_off, nodes))

    def power_on(self, node_id: str) -> None:
        """The machine boots: nothing in its kernel, its cables in, its processes started."""
        node = self._plan.node(node_id)
        for pin in sorted((self._plan.run_dir / "bpf" / node.id).glob("**/*"), reverse=True):
            with contextlib.suppress(OSError):
                pin.rmdir() if pin.is_dir() else pin.unlink()
        own = {
            address for port in self._plan.ports_of(node.namespace) for address in port.addresses
        }
        namespaces.run_in(node.namespace, lambda: _forget_addresses(own))
        (self._plan.run_dir / node.id / WORDS_FILE).unlink(missing_ok=True)
        self._lab.cutter(node.id).restore()
        self.dead.discard(node.id)
        self._lab.nodes.start([node])

    # -- processes --------------------------------------------------------------------------

    def _process(self, node: str, name: str) -> Process:
        for process in self._lab.processes.running(node):
            if process.name == name:
                return process
        raise EnvironmentProblem(f"{node} has no {name} process: it has ended by itself")

    def _kill(self, node: str, name: str) -> None:
        self._lab.processes.kill_now([self._process(node, name)])
        self._undo.append(lambda: self._start(self._plan.node(node), (name,)))

    def _pause(self, process: Process) -> None:
        self._undo.append(lambda: _send(process, signal.SIGCONT))
        _send(process, signal.SIGSTOP)

    def _start(self, node: NodePlan, names: Sequence[str]) -> None:
        """Start again what has been killed; returns at once."""
        deadline = time.monotonic() + MOVE_TIMEOUT_MS / 1000
        while {p.name for p in self._lab.processes.running(node.id)} & set(names):
            if time.monotonic() > deadline:
                raise EnvironmentProblem(f"{node.id}: {', '.join(names)} would not die")
            time.sleep(POLL_MS / 1000)
        self._lab.nodes.start([node], names)

    def _restarted(
        self,
        node: NodePlan,
        names: Sequence[str],
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """End these processes and start them anew: by `python -m BEFORE...`, in `environment`."""
        running = [p for p in self._lab.processes.running(node.id) if p.name in names]
        self._lab.processes.stop(running)
        for name in names:
            argv = command(name, self._lab.nodes.config_file(node))
            if before:
                argv[2:3] = before
            self._lab.processes.start(
                name, node.namespace, argv, node=node.id, environment=environment
            )
            if name in WATCHED:
                self._wait_ready(node, (name,))
        self._wait_ready(node, names)

    def _wait_ready(self, node: NodePlan, names: Sequence[str]) -> None:
        for name in names:  # all of them at once would mean that this node serves every group
            self._lab.nodes.wait_ready(self._progress, [node], (name,))

    def _halt_at(self, node_id: str, word: str) -> None:
        """`word` is a step of the watched group's takeover, or what the gateway process says."""
        node = self._plan.node(node_id)
        group = self._plan.groups[0].id
        name, said = ("failover", f"{word} {group}") if " " not in word else ("gateway", word)
        self._restarted(node, (name,), ("bgf.lab.halting", said))
        self._halting = self._process(node_id, name)
        self._undo.append(lambda: self._unhalt(node, name))

    def _unhalt(self, node: NodePlan, name: str) -> None:
        """It goes on; one that may still halt some day is replaced by one that does not."""
        halting, self._halting = self._halting, None
        if halting is not None and is_alive(halting):
            _send(halting, signal.SIGCONT)
            if not self._halted:
                self._restarted(node, (name,))

    def _await_halt(self) -> None:
        assert self._halting is not None
        deadline = time.monotonic() + HALT_TIMEOUT_MS / 1000
        while _state_of(self._halting) != "T":
            if time.monotonic() > deadline or not is_alive(self._halting):
                raise EnvironmentProblem(
                    f"{self._halting.node} {self._halting.name} never came to the step at which "
                    "it was to stand still"
                )
            time.sleep(HALT_POLL_MS / 1000)
        self._halted = True

    def _restart_all(self) -> int:
        """Drained, started again, undrained: node after node. Returns when it began."""
        began_ns = _now_ns()
        for node in self._plan.nodes:
            self._renew(node)
            self._lab.nodes.wait_ready(self._progress)
        return began_ns

    def _renew(self, node: NodePlan) -> None:
        """As an upgrade does it: nothing is carried by a node whose processes start again."""
        self._progress(f"{node.id} is drained, and starts again")
        self._lab.nodes.ask(node.id, "failover", "drain")
        self._until(lambda: not self._carries(node.id), f"{node.id} carries nothing")
        self._restarted(node, PROCESSES)
        self._lab.nodes.ask(node.id, "failover", "undrain")

    def _take(self, group: str, to: str) -> None:
        owner = self._lab.nodes.owners(self._plan.nodes).get(group, "")
        self._lab.nodes.ask(owner, "failover", "switchover", group=group, to=to)
        self._until(lambda: self._carries(to) >= {group}, f"{to} serves {group}")
        self._until(lambda: group not in self._carries(owner), f"{owner} has let {group} go")

    def _carries(self, node_id: str) -> set[str]:
        """The groups that a node owns or still forwards for."""
        said = self._lab.nodes.ask(node_id, "failover")
        held = {g for g, one in said.get("groups", {}).items() if one.get("epoch")}
        owned = {g for g, one in said.get("owners", {}).items() if one.get("node") == node_id}
        return held | owned

    # -- clocks -----------------------------------------------------------------------------

    def _clock_file(self, node: str) -> Path:
        return self._plan.run_dir / "etc" / f"{node}.clock"

    def _set_clock(self, node: str, seconds: float) -> None:
        _put(self._clock_file(node), seconds)

    def _fake_clock(self, node_id: str) -> None:
        """Its processes start again with `wallclock.c` before libc: CLOCK_REALTIME is theirs."""
        node, library = self._plan.node(node_id), self._plan.run_dir / "etc" / "wallclock.so"
        _compile("wallclock.c", library, "-shared", "-fPIC", "-ldl")
        self._set_clock(node_id, 0)
        environment = {"LD_PRELOAD": str(library), "BGF_LAB_CLOCK": str(self._clock_file(node_id))}
        self._restarted(node, PROCESSES, environment=environment)
        self._undo.append(lambda: self._renew(node))

    # -- networks ---------------------------------------------------------------------------

    def _switch_ports(self, node: str, networks: Sequence[str]) -> list[str]:
        ports = self._plan.ports_of(self._plan.node(node).namespace)
        return [port.switch_port for port in ports if port.network in networks]

    def _link_down(self, node: str, network: str) -> None:
        (port,) = self._switch_ports(node, (network,))
        self._undo.append(lambda: self._set_link(port, "up"))
        self._set_link(port, "down")

    def _set_link(self, port: str, state: str) -> None:
        def work() -> None:
            with namespaces.netlink() as netlink:
                (index,) = netlink.link_lookup(ifname=port)
                netlink.link("set", index=index, state=state)

        namespaces.run_in(self._plan.switch, work)

    def _filter(self, blow: Blow, node: str) -> None:
        networks = NETWORKS if blow.verb is Verb.ISOLATE else (blow.what,)
        ports = self._switch_ports(node, networks)
        chance = ""
        if blow.verb is Verb.LOSE:
            chance = f"numgen random mod 100 < {blow.number:.0f} "
        for port in ports:
            if blow.verb is not Verb.MUTE:
                self._rules.append(f'oifname "{port}" {chance}counter drop')
            if blow.verb is not Verb.DEAFEN:
                self._rules.append(f'iifname "{port}" {chance}counter drop')
        self._undo.append(self._unfilter)
        body = "\n".join(self._rules)
        self._nft(
            f"table bridge {TABLE}\ndelete table bridge {TABLE}\n"
            f"table bridge {TABLE} {{\nchain fault {{\ntype filter hook forward priority 0;\n"
            f"{body}\n}}\n}}\n"
        )

    def _unfilter(self) -> None:
        self._rules.clear()
        self._nft(f"table bridge {TABLE}\ndelete table bridge {TABLE}\n")

    def _nft(self, text: str) -> None:
        program = _nft()
        if not program:
            raise EnvironmentProblem("packets cannot be lost here: apt-get install nftables")
        done = namespaces.run_in(
            self._plan.switch,
            lambda: subprocess.run(
                [program, "-f", "-"],
                input=text, capture_output=True, text=True, timeout=NFT_TIMEOUT_S, check=False,
            ),
        )  # fmt: skip
        if done.returncode:
            raise EnvironmentProblem(f"nft refused: {' '.join(done.stderr.split())[:200]}")

    # -- etcd -------------------------------------------------------------------------------

    def _members(self, blow: Blow) -> Sequence[str]:
        return self._lab.registry.names if blow.role is Role.ALL else (self.roles[blow.role],)

    def _etcd(self, blow: Blow) -> None:
        names = self._members(blow)
        members = [p for p in self._lab.processes.running() if p.name in names]
        self.mute.update(names)
        self._undo.append(self._start_etcd)
        if blow.verb is Verb.KILL_ETCD:
            self._lab.processes.kill_now(members)
        for member in members if blow.verb is Verb.STOP_ETCD else ():
            _send(member, signal.SIGSTOP)

    def _start_etcd(self) -> None:
        for member in self._lab.processes.running():
            if member.name in self.mute:
                _send(member, signal.SIGCONT)
        self._lab.registry.start_and_wait()
        self.mute.clear()

    def _disk_file(self, member: str) -> Path:
        return self._plan.run_dir / "etc" / f"{member}.disk"

    def _fake_disks(self, members: Sequence[str]) -> None:
        """One after the other starts again under `slowdisk.c`. They are left so: a disk without
        delay is as fast as any, but for some microseconds."""
        program = self._plan.run_dir / "etc" / "slowdisk"
        if not program.exists():
            _compile("slowdisk.c", program)
        for name in members:
            _put(self._disk_file(name), 0)
            self._lab.registry.restart(name, (str(program), str(self._disk_file(name))))

    def _slow_disks(self, members: Sequence[str], delay_ms: float) -> None:
        for name in members:
            self._undo.append(lambda name=name: _put(self._disk_file(name), 0))  # type: ignore[misc]
            _put(self._disk_file(name), delay_ms)

    def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + MOVE_TIMEOUT_MS / 1000
        while True:
            with contextlib.suppress(AdminUnreachable, AdminRefused):
                if true():
                    return
            if time.monotonic() > deadline:
                raise EnvironmentProblem(f"waited {MOVE_TIMEOUT_MS // 1000} s in vain: {what}")
            time.sleep(POLL_MS / 1000)


def _compile(name: str, into: Path, *flags: str) -> None:
    """One of this package's C files, by the machine's compiler."""
    with resources.as_file(resources.files("bgf.lab") / name) as source:
        argv = ["gcc", "-O1", "-o", str(into), str(source), *flags]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=CC_TIMEOUT_S, check=False
            )
        except OSError as problem:
            raise EnvironmentProblem(f"{name} cannot be compiled without gcc: {problem}") from None
    if done.returncode:
        raise EnvironmentProblem(f"gcc refused {name}: {done.stderr[:200]}")


def _put(path: Path, number: float) -> None:
    """A number of 64 bits, written in place: processes have it mapped."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(struct.pack("=q", int(number)))


def _send(process: Process, number: int) -> None:
    """To the process alone, if it is still the one that was started."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _state_of(process: Process) -> str:
    """R, S, T, ...; empty when it is gone."""
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return ""
    return text[text.rfind(")") + 2 :][:1]


def _forget_addresses(keep: set[str]) -> None:
    """Remove every address of this namespace's interfaces but `keep` (and link-local ones)."""
    with namespaces.netlink() as netlink:
        for message in netlink.get_addr():
            host = message.get_attr("IFA_ADDRESS")
            whole = f"{host}/{message['prefixlen']}"
            if message["scope"] == 0 and whole not in keep:
                try:
                    netlink.addr(
                        "del", index=message["index"], address=host, prefixlen=message["prefixlen"]
                    )
                except NetlinkError as gone:  # its lifetime ended meanwhile
                    if gone.code != errno.EADDRNOTAVAIL:
                        raise


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
