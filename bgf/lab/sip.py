"""The lab's SIP peers: Kamailio as P-CSCF, SIPp as callers and callees with real RTP.

Knows: how Debian's Kamailio and SIPp are configured, started, told to hang up and asked for
their figures. Must not know: gateways beyond their control addresses, and what a failover is.
Configurations are made from `templates/`, where @NAMES@ stand for what the plan says.

Callers hold their calls until told: an INFO bearing a call's own Call-ID, sent straight to the
caller's SIP port, makes its scenario go on to BYE. So the drill, not a timer, ends the calls.
"""

from __future__ import annotations

import csv
import math
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab import plan as lab_plan
from bgf.lab.plan import CONTROL_PORT, SIP_PORT, Plan
from bgf.lab.processes import Process, Processes

CALLS_MAX = 2_000
CALL_RATE_DEFAULT = 50
HOLD_MS_MAX = 240_000
CALLEE_MARGIN_MS = 30_000
START_TIMEOUT_MS = 10_000
PROBE_TIMEOUT_MS = 250
HANG_UP_BATCH = 25
HANG_UP_PAUSE_MS = 20
POLL_MS = 50
KAMAILIO_CHILDREN = 2
KAMAILIO_SHARED_MB = 32
KAMAILIO_PRIVATE_MB = 4
AUDIO_MS = 1_000
SAMPLE_RATE_HZ = 8_000
TONE_HZ = 400
SIP_BYTES_MAX = 65_535

PACKAGES = {"kamailio": "kamailio", "sipp": "sip-tester", "nsenter": "util-linux"}
"""Program -> Debian package that brings it."""


@dataclass(frozen=True, slots=True)
class CallStats:
    """SIPp's cumulative figures. `completed` went through to the 200 of their BYE."""

    started: int = 0
    current: int = 0
    completed: int = 0
    failed: int = 0

    def __add__(self, other: CallStats) -> CallStats:
        return CallStats(
            self.started + other.started,
            self.current + other.current,
            self.completed + other.completed,
            self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """One running SIPp. `call_id` has `%u` for the call's number, 1 to `calls`; empty: a callee."""

    process: Process
    host: str
    calls: int
    statistics: Path
    call_id: str = ""


def missing_packages() -> list[str]:
    """Debian packages that the SIP part of the lab lacks here, sorted."""
    missing = {package for program, package in PACKAGES.items() if not find_program(program)}
    if not _module_dir():
        missing.add("kamailio")
    return sorted(missing)


def require_packages() -> None:
    """Raises EnvironmentProblem with the apt command when a program is missing."""
    missing = missing_packages()
    if missing:
        names = " ".join(missing)
        raise EnvironmentProblem(
            f"missing Debian package{'s' * (len(missing) > 1)} {', '.join(missing)}: "
            f"apt-get install --no-install-recommends {names}"
        )


def find_program(program: str) -> str:
    """Kamailio is in /usr/sbin, which is not on every PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin") or ""


def _module_dir() -> str:
    for pattern in ("usr/lib/*/kamailio/modules", "usr/lib64/kamailio/modules"):
        for directory in sorted(Path("/").glob(pattern)):
            if (directory / "rtpengine.so").exists():
                return str(directory)
    return ""


def render(template: str, **values: object) -> str:
    """A template with its @NAMES@ filled in: one of ours by its name, any other by its path.

    Raises ValueError if a name is left.
    """
    ours = resources.files("bgf.lab").joinpath("templates", template)
    text = (Path(template) if "/" in template else ours).read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    left = re.search(r"@[A-Z0-9_]+@", text)
    if left:
        raise ValueError(f"{template}: nothing given for {left[0]}")
    return text


def mu_law(sample: int) -> int:
    """One 16-bit linear sample as G.711 mu-law (ITU-T G.711, table 2a; bits inverted)."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32_635) + 132
    exponent = magnitude.bit_length() - 8
    return ~(sign | exponent << 4 | (magnitude >> (exponent + 3)) & 0x0F) & 0xFF


def tone() -> bytes:
    """A second of a soft tone, whole periods, so that looping it makes no click."""
    samples = SAMPLE_RATE_HZ * AUDIO_MS // 1000
    return bytes(
        mu_law(round(4_000 * math.sin(2 * math.pi * TONE_HZ * n / SAMPLE_RATE_HZ)))
        for n in range(samples)
    )


class SipPeers:
    """Kamailio, callers and callees of one lab. `gateways` are the `ng` hosts Kamailio asks;
    `proxy` is its template, see `render`."""

    def __init__(
        self,
        plan: Plan,
        processes: Processes,
        *,
        gateways: Sequence[str] | None = None,
        proxy: str = "kamailio.cfg",
    ) -> None:
        self._template = proxy
        self._plan = plan
        self._processes = processes
        self._gateways = tuple(gateways or (g.control_host for g in plan.groups))
        self._dir = plan.run_dir / "sip"
        self._run = f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME):x}"
        self._audio = self._dir / "tone.ulaw"
        self._proxy: Process | None = None
        self._callers: list[Agent] = []
        self._callee: Agent | None = None
        self._hung_up = 0

    # -- Kamailio ---------------------------------------------------------------------------

    def start_proxy(self) -> None:
        """Start Kamailio and wait until it answers on both sides. Start the gateways first: it
        asks each once at its own start and leaves the silent alone for a minute.

        Raises EnvironmentProblem with its last words when it does not come up.
        """
        require_packages()
        self._dir.mkdir(parents=True, exist_ok=True)
        self._audio.write_bytes(tone())
        config = self._dir / "kamailio.cfg"
        config.write_text(
            render(
                self._template,
                CHILDREN=KAMAILIO_CHILDREN,
                ACCESS6=lab_plan.CSCF_ACCESS6,
                ACCESS4=lab_plan.CSCF_ACCESS4,
                CORE4=lab_plan.CSCF_CORE4,
                PORT=SIP_PORT,
                MODULES=_module_dir() + "/",
                RTPENGINES=" ".join(f"udp:{host}:{CONTROL_PORT}" for host in self._gateways),
                CALLEE=f"{lab_plan.CORE_HOST4}:{SIP_PORT}",
                SECOND=f"{lab_plan.CORE_LOAD4}:{SIP_PORT}",
                UE6=lab_plan.ACCESS_HOST6,
                UE4=lab_plan.ACCESS_HOST4,
            )
        )
        argv = [find_program("kamailio"), "-DD", "-E", "-f", str(config), "-w", str(self._dir)]
        argv += ["-m", str(KAMAILIO_SHARED_MB), "-M", str(KAMAILIO_PRIVATE_MB)]
        argv += ["-P", str(self._dir / "kamailio.pid"), "-Y", str(self._dir)]
        self._proxy = self._processes.start("kamailio", self._plan.cscf, argv)
        self._wait_for(
            self._proxy,
            lambda: (
                _answers(self._plan.access, lab_plan.CSCF_ACCESS6)
                and _answers(self._plan.access, lab_plan.CSCF_ACCESS4)
                and _answers(self._plan.core, lab_plan.CSCF_CORE4)
            ),
        )

    # -- SIPp -------------------------------------------------------------------------------

    def start_calls(self, calls: int, rate: int = CALL_RATE_DEFAULT) -> None:
        """Start the callee and the callers: half the calls over IPv6, half over IPv4.

        `rate` is in calls/s. Returns when all are running; `stats` tells how far they are.
        Raises EnvironmentProblem: too many calls, or SIPp does not start.
        """
        if not 1 <= calls <= CALLS_MAX:
            raise EnvironmentProblem(f"{calls} SIP calls: choose 1 to {CALLS_MAX}")
        callee = self._sipp("callee", self._plan.core, lab_plan.CORE_HOST4, calls, [])
        self._callee = callee
        self._wait_for(
            callee.process, lambda: _bound(callee.process.pid, lab_plan.CORE_HOST4, SIP_PORT)
        )
        over6 = (calls + 1) // 2
        sides = (
            (lab_plan.ACCESS_HOST6, lab_plan.CSCF_ACCESS6, over6),
            (lab_plan.ACCESS_HOST4, lab_plan.CSCF_ACCESS4, calls - over6),
        )
        for host, proxy, count in sides:
            if count:
                pace = max(1, rate * count // calls)
                self._callers.append(
                    self._sipp(
                        "caller",
                        self._plan.access,
                        host,
                        count,
                        [f"{uri(proxy)}:{SIP_PORT}", "-r", str(pace), "-l", str(count)],
                    )
                )

    def _sipp(
        self, role: str, namespace: str, host: str, calls: int, extra: Sequence[str]
    ) -> Agent:
        family = 6 if ":" in host else 4
        hold_ms = HOLD_MS_MAX + (CALLEE_MARGIN_MS if role == "callee" else 0)
        name = f"{role}{family}"
        scenario = self._dir / f"{name}.xml"
        scenario.write_text(render(f"{role}.xml", AUDIO=self._audio, HOLD_MS_MAX=hold_ms))
        statistics = self._dir / f"{name}.csv"
        statistics.unlink(missing_ok=True)
        argv = [find_program("sipp"), *extra, "-sf", str(scenario), "-i", uri(host), "-mi", host]
        argv += ["-p", str(SIP_PORT), "-m", str(calls), "-nostdin"]
        argv += ["-trace_stat", "-stf", str(statistics), "-fd", "1"]
        argv += ["-trace_err", "-error_file", str(self._processes.log_dir / f"{name}.errors")]
        call_id = f"{self._run}-{family}-%u" if role == "caller" else ""
        if call_id:
            argv += ["-cid_str", call_id]
        # SIPp draws its screen whether or not anybody looks, so it must be told of a terminal.
        process = self._processes.start(name, namespace, argv, environment={"TERM": "xterm"})
        return Agent(process, host, calls, statistics, call_id)

    def call_ids(self) -> list[str]:
        """Call-IDs of all calls, as the gateways know them."""
        return [
            agent.call_id.replace("%u", str(number))
            for agent in self._callers
            for number in range(1, agent.calls + 1)
        ]

    def hang_up(self) -> None:
        """Tell every caller to send BYE for each of its calls."""
        self._hung_up += 1
        for agent in self._callers:
            family = socket.AF_INET6 if ":" in agent.host else socket.AF_INET
            with namespaces.socket_in(self._plan.access, family, socket.SOCK_DGRAM) as wire:
                wire.bind((agent.host, 0))
                own = f"{uri(agent.host)}:{wire.getsockname()[1]}"
                for number in range(1, agent.calls + 1):
                    call_id = agent.call_id.replace("%u", str(number))
                    wire.sendto(
                        request("INFO", agent.host, own, call_id, f"{self._hung_up}x{number}"),
                        (agent.host, SIP_PORT),
                    )
                    if number % HANG_UP_BATCH == 0:
                        time.sleep(HANG_UP_PAUSE_MS / 1000)

    def stats(self) -> CallStats:
        """The callers' figures, at most a second old (SIPp writes them once a second)."""
        total = CallStats()
        for agent in self._callers:
            total += read_statistics(agent.statistics)
        return total

    def done(self) -> bool:
        """Have all callers and the callee ended, as they do after their last call?"""
        agents = [*self._callers, *([self._callee] if self._callee else [])]
        return all(self._processes.exit_status(agent.process) is not None for agent in agents)

    def errors(self) -> list[str]:
        """The first error lines of the SIPp instances, for the report."""
        found = []
        for path in sorted(self._processes.log_dir.glob("call*.errors")):
            lines = path.read_text("utf-8", "replace").splitlines()
            found += [f"{path.stem}: {line.strip()[:200]}" for line in lines[1:2]]
        return found

    def end_calls(self) -> None:
        """End SIPp, whatever it is doing; Kamailio stays."""
        agents = [*self._callers, *([self._callee] if self._callee else [])]
        self._processes.stop([agent.process for agent in agents])
        self._callers, self._callee = [], None

    def stop(self) -> None:
        """End SIPp and Kamailio, whatever they are doing."""
        self.end_calls()
        if self._proxy:
            self._processes.stop([self._proxy])
        self._proxy = None

    def _wait_for(self, process: Process, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_MS / 1000
        while not ready():
            status = self._processes.exit_status(process)
            if status is not None or time.monotonic() > deadline:
                what = f"ended with {status}" if status is not None else "does not answer"
                raise EnvironmentProblem(
                    f"{process.name} {what}; its last words "
                    f"({self._processes.log_of(process.name)}): "
                    f"{self._processes.tail(process)}"
                )
            time.sleep(POLL_MS / 1000)


def uri(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def request(method: str, host: str, own: str, call_id: str, branch: str) -> bytes:
    """A minimal SIP request (RFC 3261 section 8.1.1) from `own`, host:port."""
    lines = (
        f"{method} sip:lab@{uri(host)}:{SIP_PORT} SIP/2.0",
        f"Via: SIP/2.0/UDP {own};branch=z9hG4bK{branch}",
        "Max-Forwards: 70",
        f"From: <sip:drill@{own}>;tag=drill",
        f"To: <sip:lab@{uri(host)}>",
        f"Call-ID: {call_id}",
        f"CSeq: 1 {method}",
        "Content-Length: 0",
    )
    return "\r\n".join((*lines, "", "")).encode()


def _answers(namespace: str, host: str) -> bool:
    """Does a SIP server at `host` answer OPTIONS (with anything)?"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with namespaces.socket_in(namespace, family, socket.SOCK_DGRAM) as wire:
        wire.settimeout(PROBE_TIMEOUT_MS / 1000)
        try:
            wire.connect((host, SIP_PORT))
            own, port = wire.getsockname()[:2]
            branch = f"{time.monotonic_ns():x}"
            wire.send(request("OPTIONS", host, f"{uri(own)}:{port}", f"probe-{branch}", branch))
            return wire.recv(SIP_BYTES_MAX).startswith(b"SIP/2.0 ")
        except OSError:
            return False


def _bound(pid: int, host: str, port: int) -> bool:
    """Is an IPv4 UDP socket bound to host:port in the namespace of process `pid`?"""
    wanted = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
    try:
        lines = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[1] == wanted for line in lines)


def read_statistics(path: Path) -> CallStats:
    """The last complete line of a SIPp statistics file; zeros when there is none yet."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return CallStats()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines(), delimiter=";"))
    if not rows:
        return CallStats()
    last = rows[-1]

    def number(key: str) -> int:
        value = last.get(key) or "0"
        return int(value) if value.isdigit() else 0

    return CallStats(
        started=number("OutgoingCall(C)"),
        current=number("CurrentCall"),
        completed=number("SuccessfulCall(C)"),
        failed=number("FailedCall(C)"),
    )
