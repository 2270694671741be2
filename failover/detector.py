"""Who is silent, on which path: the S-BFD initiator of one node towards all its peers. No I/O.

Knows: probes, answers, time. Must not know: sockets, clocks, groups, owners, what follows from
silence. `receive` and `tick` are told the time; `tick` returns datagrams for somebody to send.

The rules:
  - one session per (peer, path); a probe each interval; any valid answer says "heard now"
  - silent after multiplier x interval without an answer, and only if ever heard before
  - the observer's own lateness does not count as the peer's silence: time that passed while this
    detector should have run and did not is added to every timeout (Lifeguard, Dadgar et al. 2018,
    section IV: distrust yourself first)
  - paths of one peer that would fall silent one after the other within TOGETHER_PARTS-th of an
    interval do so together, at the last one's time: one word to the registry instead of two, and
    the second is what a takeover waits for
  - a session that recovered FLAPS_FREE times within FLAP_WINDOW_NS gets twice the timeout, then
    four times, up to 2 ** FLAP_DOUBLINGS_MAX (flap damping as routers do it for BFD)
  - on a path that carries no media (management) everything takes CONTROL_FACTOR times as long:
    nobody takes over for its sake, it only tells what is wrong
  - a peer that has not answered SLOW_AFTER_PROBES probes is asked once a second (RFC 5880
    section 6.8.3 asks for at least that interval while a session is not up), and as often as any
    again once it is said to have come back: a standby counts only when it is heard
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from failover.errors import FailoverConfigError, MalformedPacket
from failover.sbfd import DISCRIMINATOR_MAX, INTERVAL_MAX_US, MULTIPLIER_MAX, ControlPacket, State

SLOW_INTERVAL_NS: Final = 1_000_000_000
SLOW_AFTER_PROBES: Final = 50
FLAPS_FREE: Final = 3
FLAP_WINDOW_NS: Final = 15_000_000_000
FLAP_DOUBLINGS_MAX: Final = 3
CONTROL_FACTOR: Final = 5
LATENESS_FREE_PARTS: Final = 4  # up to a quarter of an interval late is normal timer jitter
TOGETHER_PARTS: Final = 8
EVENTS_MAX: Final = 256
PARSED_MAX: Final = 512

# A reflector's answers are the same bytes again and again; what is malformed is not kept.
_parse: Final = lru_cache(maxsize=PARSED_MAX)(ControlPacket.parse)


class Probe(NamedTuple):
    """Send `datagram` to `peer` on `path`, to UDP port 7784."""

    peer: str
    path: str
    datagram: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """A node to watch: its reflector's discriminator, and the paths to it."""

    discriminator: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What changed about one peer: the paths on which it is silent now; none when it is back.

    `since_ns` is when it was last heard on the path that fell silent last.
    """

    peer: str
    paths_silent: tuple[str, ...]
    since_ns: int

    def __str__(self) -> str:
        if not self.paths_silent:
            return f"{self.peer} answers again"
        return f"nothing from {self.peer} on {', '.join(self.paths_silent)}"


@dataclass(slots=True)
class Tally:
    """What came and went, for the operator."""

    sent: int = 0
    heard: int = 0
    malformed: int = 0
    foreign: int = 0
    looped: int = 0
    not_up: int = 0
    late_ns: int = 0


@dataclass(slots=True)
class _Session:
    peer: str
    path: str
    probe_up: bytes
    probe_down: bytes
    interval_ns: int
    send_ns: int
    heard_ns: int = 0
    heard_observed_ns: int = 0  # the same moment on the clock that stands still when we are late
    ever_heard: bool = False
    silent: bool = False
    unanswered: int = 0
    recoveries: deque[int] = field(default_factory=lambda: deque(maxlen=16))


class Detector:
    """Probes `peers`; says who is silent. All times are ns of one clock that counts suspend.

    `control_paths` are those that carry no media.
    """

    def __init__(
        self,
        discriminator: int,
        peers: Mapping[str, Peer],
        interval_ns: int,
        multiplier: int,
        now_ns: int,
        *,
        control_paths: Collection[str] = (),
    ) -> None:
        if not 0 < interval_ns // 1000 <= INTERVAL_MAX_US:
            raise FailoverConfigError(f"probe interval {interval_ns} ns: must be 1 us..4294 s")
        if not 1 <= multiplier <= MULTIPLIER_MAX:
            raise FailoverConfigError(f"detect multiplier {multiplier}: must be 1..255")
        self._mine = discriminator
        self._interval_ns = interval_ns
        self._multiplier = multiplier
        self._by_discriminator: dict[int, str] = {}
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._events: deque[Suspicion] = deque(maxlen=EVENTS_MAX)
        self._seen_ns = now_ns
        self._due_ns = now_ns
        self._found: dict[str, dict[str, tuple[str, ...]]] = {}
        self.tally = Tally()
        self._claim_discriminator(discriminator, "this node")
        for name, peer in peers.items():
            self._claim_discriminator(peer.discriminator, name)
            for path in peer.paths:
                own_ns = interval_ns * (CONTROL_FACTOR if path in control_paths else 1)
                up, down = (
                    ControlPacket(
                        my_discriminator=discriminator,
                        your_discriminator=peer.discriminator,
                        state=state,
                        multiplier=multiplier,
                        desired_min_tx_us=min(own_ns // 1000, INTERVAL_MAX_US),
                        demand=True,
                    ).encode()
                    for state in (State.UP, State.DOWN)
                )
                self._sessions[name, path] = _Session(name, path, up, down, own_ns, now_ns)
        self._due_ns = self._soonest_ns()

    def receive(self, datagram: bytes, path: str, now_ns: int) -> bool:
        """An answer arrived on `path`. False when it was not one; it is counted, never raised."""
        self._observe(now_ns)
        try:
            packet = _parse(datagram)
        except MalformedPacket:
            self.tally.malformed += 1
            return False
        if packet.demand:  # RFC 7880 section 7.3.3: our own probe, sent back unchanged
            self.tally.looped += 1
            return False
        peer = self._by_discriminator.get(packet.my_discriminator, "")
        session = self._sessions.get((peer, path))
        if packet.your_discriminator != self._mine or session is None:
            self.tally.foreign += 1
            return False
        if packet.state != State.UP:  # out of service by its own word: as good as silent
            self.tally.not_up += 1
            return False
        self.tally.heard += 1
        session.heard_ns = now_ns
        session.heard_observed_ns = now_ns - self.tally.late_ns
        session.unanswered = 0
        if not session.ever_heard:
            session.ever_heard = True
            self._found.clear()
        session.send_ns = min(session.send_ns, now_ns + session.interval_ns)
        self._due_ns = min(self._due_ns, session.send_ns)
        if session.silent:
            session.silent = False
            self._found.clear()
            session.recoveries.append(now_ns)
            self._report(session.peer, now_ns)
        return True

    def tick(self, now_ns: int) -> list[Probe]:
        """Let time pass: judge silence, and return the probes that are due."""
        self._observe(now_ns)
        observed_ns = now_ns - self.tally.late_ns
        changed: dict[str, int] = {}
        probes: list[Probe] = []
        for session, verdict_ns in self._verdicts(now_ns, observed_ns):
            if observed_ns >= verdict_ns:
                session.silent = True
                self._found.clear()
                changed[session.peer] = max(changed.get(session.peer, 0), session.heard_ns)
        for session in self._sessions.values():
            if now_ns >= session.send_ns:
                up = session.ever_heard and not session.silent
                datagram = session.probe_up if up else session.probe_down
                probes.append(Probe(session.peer, session.path, datagram))
                session.unanswered += 1
                pause_ns = self._pause_of(session)
                session.send_ns = max(session.send_ns + pause_ns, now_ns + pause_ns // 2)
        for peer, since_ns in changed.items():
            self._report(peer, since_ns)
        self.tally.sent += len(probes)
        self._due_ns = self._soonest_ns()
        return probes

    def expect(self, peer: str, now_ns: int) -> None:
        """It is said to have come back: where it is not heard, it is asked now."""
        for session in self._sessions.values():
            if session.peer == peer and (session.silent or not session.ever_heard):
                session.unanswered = 0
                session.send_ns = min(session.send_ns, now_ns)
                self._due_ns = min(self._due_ns, now_ns)

    def next_deadline(self) -> int:
        """When `tick` must be called at the latest. What was heard since the last one may have put
        it off; that is found out then."""
        return self._due_ns

    def _soonest_ns(self) -> int:
        late_ns = self.tally.late_ns
        due_ns = min(
            [s.send_ns for s in self._sessions.values()], default=self._seen_ns + SLOW_INTERVAL_NS
        )
        verdicts = self._verdicts(self._seen_ns, due_ns - late_ns)
        return min([due_ns, *(at_ns + late_ns for _, at_ns in verdicts)])

    def events(self) -> list[Suspicion]:
        """What changed since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def suspects(self) -> dict[str, tuple[str, ...]]:
        """Peer -> the paths on which it was heard once and is silent now."""
        return dict(self._paths_where("silent", lambda session: session.silent))

    def observing(self) -> dict[str, tuple[str, ...]]:
        """Peer -> the paths on which it has ever been heard."""
        return dict(self._paths_where("heard", lambda session: session.ever_heard))

    def damped(self, now_ns: int) -> dict[str, tuple[str, ...]]:
        """Peer -> the paths on which it came back so often lately that its next silence counts
        later than usual."""
        return self._search(lambda session: self._doublings(session, now_ns) > 0)

    def _paths_where(
        self, what: str, holds: Callable[[_Session], bool]
    ) -> Mapping[str, tuple[str, ...]]:
        """Asked each turn, and seldom another answer: kept under `what` until then."""
        if what not in self._found:
            self._found[what] = self._search(holds)
        return self._found[what]

    def _search(self, holds: Callable[[_Session], bool]) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for session in self._sessions.values():
            if holds(session):
                found.setdefault(session.peer, []).append(session.path)
        return {peer: tuple(sorted(paths)) for peer, paths in sorted(found.items())}

    def _claim_discriminator(self, discriminator: int, owner: str) -> None:
        if not 0 < discriminator <= DISCRIMINATOR_MAX:
            raise FailoverConfigError(
                f"discriminator {discriminator} of {owner}: must be 1..{DISCRIMINATOR_MAX}"
            )
        other = self._by_discriminator.setdefault(discriminator, owner)
        if other != owner:
            raise FailoverConfigError(
                f"discriminator {discriminator} of {owner} is {other}'s: must be unique"
            )

    def _observe(self, now_ns: int) -> None:
        """Add to our lateness what passed since we should have run (once, however often asked)."""
        late_ns = now_ns - max(self._due_ns, self._seen_ns)
        if late_ns > self._interval_ns // LATENESS_FREE_PARTS:
            self.tally.late_ns += late_ns
        self._seen_ns = max(self._seen_ns, now_ns)

    def _timeout_of(self, session: _Session, now_ns: int) -> int:
        return (session.interval_ns * self._multiplier) << self._doublings(session, now_ns)

    @staticmethod
    def _doublings(session: _Session, now_ns: int) -> int:
        recent = sum(1 for at_ns in session.recoveries if now_ns - at_ns < FLAP_WINDOW_NS)
        return min(max(recent - FLAPS_FREE + 1, 0), FLAP_DOUBLINGS_MAX)

    def _verdicts(self, now_ns: int, until_ns: int) -> Iterator[tuple[_Session, int]]:
        """Sessions that are not silent, and when each will be if nothing is heard, in observed
        time. A path waits for the next one of its peer if that is due shortly after it. None at
        all when no session can be due by `until_ns`: while everybody answers, the usual case."""
        for s in self._sessions.values():
            if (
                s.heard_observed_ns + s.interval_ns * self._multiplier <= until_ns
                and s.ever_heard
                and not s.silent
            ):
                break
        else:
            return
        timeouts: dict[str, list[tuple[int, _Session]]] = {}
        for session in self._sessions.values():
            if session.ever_heard and not session.silent:
                at_ns = session.heard_observed_ns + self._timeout_of(session, now_ns)
                timeouts.setdefault(session.peer, []).append((at_ns, session))
        shortly_ns = self._interval_ns // TOGETHER_PARTS
        for of_peer in timeouts.values():
            of_peer.sort(key=lambda one: -one[0])
            verdict_ns = before_ns = of_peer[0][0]
            for at_ns, session in of_peer:
                if before_ns - at_ns > shortly_ns:
                    verdict_ns = at_ns
                before_ns = at_ns
                yield session, verdict_ns

    def _pause_of(self, session: _Session) -> int:
        if session.unanswered > SLOW_AFTER_PROBES:
            return max(session.interval_ns, SLOW_INTERVAL_NS)
        return session.interval_ns

    def _report(self, peer: str, since_ns: int) -> None:
        silent = tuple(
            sorted(s.path for s in self._sessions.values() if s.peer == peer and s.silent)
        )
        self._events.append(Suspicion(peer, silent, since_ns))
