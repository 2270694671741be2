"""Calls that hang: nothing comes any more and nobody has ended them. Found, not judged.

Knows: which pinholes are watched, what was reported of them, their counters, when a call was
signalled last. Must not know who owns a group or whether such calls are closed.

A call hangs while every watched pinhole of it has been reported silent and no packet has come
since, nor for as long through any other open one: of a party that holds without music there is RTCP
alone (RFC 3264 section 8.4, RFC 3550 section 6.2). Of a call that both sides hold, or all of whose
streams were rejected, no pinhole is watched and nothing is reported. Such ones are looked for, a
few at a time; they hang when neither an offer, an answer nor any packet has come for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from bgf.gateway import Gateway
from bgf.media.datapath import MediaSilent
from bgf.model import Counters, Flow, FlowKey, Gate
from bgf.session import Session, State

CHECKED_MAX: Final = 2_048
"""Calls that may hang and are looked at in one round."""
PASSED_MAX: Final = 2_048
"""Calls among which held ones are looked for in one round."""
SOUGHT_MAX: Final = 64
"""Those of them whose pinholes are worked out: a full node's old calls take minutes."""
NS_PER_MS: Final = 1_000_000
LASTING: Final = (State.ESTABLISHED, State.REOFFERED)
"""What no deadline ends."""


class Hanging(NamedTuple):
    """A call without media, and since when at least (CLOCK_BOOTTIME ns). `held`: none is due."""

    call_id: str
    since_ns: int
    never_started: bool
    held: bool = False


class Silence:
    """What one group's owner knows of silence. `machine` is the group's.

    `began_ns` is when it became the owner, `ahead_ns` how far the time of calls is ahead of
    CLOCK_BOOTTIME. A held call hangs when it was quiet for `quiet_ns`; 0: none does.
    """

    def __init__(
        self,
        machine: Gateway,
        counters: Callable[[Sequence[FlowKey]], Sequence[Counters]],
        began_ns: int,
        ahead_ns: int,
    ) -> None:
        self._machine = machine
        self._counters = counters
        self._began_ns = began_ns
        self._ahead_ns = ahead_ns
        self.quiet_ns = 0
        self._silent: dict[str, dict[FlowKey, tuple[int, int]]] = {}  # (last_seen_ns, since_ns)
        self._held: dict[str, None] = {}
        self._round: list[str] = []
        self._to_pass: list[str] = []

    def __len__(self) -> int:
        return len(self._may_hang())

    def go_on(self, machine: Gateway) -> None:
        """The group has another machine on this node: what was reported is not said again."""
        self._machine = machine

    def count_from(self, now_ns: int) -> None:
        """No silence is older than this: nobody can say what media did elsewhere before."""
        self._began_ns = now_ns
        for known in self._silent.values():
            for key, (last_seen_ns, since_ns) in known.items():
                known[key] = last_seen_ns, max(since_ns, now_ns)

    def note(self, call_id: str, report: MediaSilent, now_ns: int) -> None:
        """A pinhole of the call has been silent for its limit."""
        flows = self._machine.expected_flows(call_id)
        limit_ms = next((flow.inactivity_ms for flow in flows if flow.key == report.key), 0)
        # Its last packet may be of before a hold, or of an earlier ownership.
        since_ns = max(report.last_seen_ns, now_ns - limit_ms * NS_PER_MS)
        self._silent.setdefault(call_id, {})[report.key] = (report.last_seen_ns, since_ns)

    def seek(self, now_ns: int) -> None:
        """Look for held calls that are quiet among the next ones. Raises DatapathError."""
        if not self.quiet_ns or now_ns - self._began_ns < self.quiet_ns:
            return
        if not self._to_pass:
            self._to_pass = list(self._machine.sessions)
        left = SOUGHT_MAX
        for _ in range(min(PASSED_MAX, len(self._to_pass))):
            call_id = self._to_pass.pop()
            session = self._machine.session(call_id)
            if session is None or call_id in self._held or not self._is_old(session, now_ns):
                continue
            if self._quiet(session, self._machine.expected_flows(call_id), now_ns) is not None:
                self._held[call_id] = None
            left -= 1
            if not left:
                return

    def forget(self, call_id: str) -> None:
        self._silent.pop(call_id, None)
        self._held.pop(call_id, None)

    def hanging(self, now_ns: int, limit: int = CHECKED_MAX) -> list[Hanging]:
        """Those among the next `limit` calls that may hang which do so now.

        What has media again, or is gone, is forgotten on the way. Raises DatapathError.
        """
        if not self._round:
            self._round = list(self._may_hang())
        asked, self._round = self._round[:limit], self._round[limit:]
        return self._check(asked, now_ns)

    def all_hanging(self, now_ns: int) -> list[Hanging]:
        """All of them, for a person who asks. Raises DatapathError."""
        return self._check(self._may_hang(), now_ns)

    def _may_hang(self) -> dict[str, object]:
        return {**self._silent, **self._held}

    def _check(self, calls: Iterable[str], now_ns: int) -> list[Hanging]:
        found = []
        for call_id in calls:
            flows = self._machine.expected_flows(call_id)
            one = self._silenced(call_id, flows, now_ns) or self._kept(call_id, flows, now_ns)
            if one is not None:
                found.append(one)
        return found

    def _silenced(self, call_id: str, flows: Sequence[Flow], now_ns: int) -> Hanging | None:
        """Of a call with silent pinholes, as far as they are still watched and silent."""
        known = self._silent.get(call_id)
        if known is None or self._is_to_come(call_id, known):
            return None
        limits = {flow.key: flow.inactivity_ms for flow in flows if flow.inactivity_ms}
        seen = self._last_seen([flow.key for flow in flows if flow.gate is Gate.OPEN])
        for key in list(known):
            if key not in limits or seen[key] > known[key][0]:
                del known[key]
        if not known:
            del self._silent[call_id]
        if not known or len(known) < len(limits):
            return None
        heard_ns = max((at for key, at in seen.items() if key not in known), default=0)
        if heard_ns > now_ns - max(limits.values()) * NS_PER_MS:
            return None
        since_ns = max(heard_ns, *(since for _, since in known.values()))
        return Hanging(call_id, since_ns, not any(last for last, _ in known.values()))

    def _kept(self, call_id: str, flows: Sequence[Flow], now_ns: int) -> Hanging | None:
        """Of a call that was found held and quiet, as long as it is."""
        if call_id not in self._held:
            return None
        session = self._machine.session(call_id)
        found = self._quiet(session, flows, now_ns) if session is not None else None
        if found is None:
            del self._held[call_id]
        return found

    def _quiet(self, session: Session, flows: Sequence[Flow], now_ns: int) -> Hanging | None:
        """None for a call that is not held, or not for long."""
        if not self._is_old(session, now_ns) or any(flow.inactivity_ms for flow in flows):
            return None
        heard_ns = max(self._last_seen([flow.key for flow in flows]).values(), default=0)
        since_ns = max(self._began_ns, self._signalled_ns(session), heard_ns)
        if not self.quiet_ns or now_ns - since_ns < self.quiet_ns:
            return None
        return Hanging(session.call_id, since_ns, not heard_ns, held=True)

    def _is_old(self, session: Session, now_ns: int) -> bool:
        """Is it one that lasts, and was not signalled of late?"""
        return session.state in LASTING and now_ns - self._signalled_ns(session) >= self.quiet_ns

    def _signalled_ns(self, session: Session) -> int:
        """When the last offer or answer came, CLOCK_BOOTTIME. Of an answer the wall clock alone
        is known, which may have been set since: it moves this on, never back."""
        return max(session.changed_ns, session.signalled_s * 1_000 * NS_PER_MS) - self._ahead_ns

    def _last_seen(self, keys: Sequence[FlowKey]) -> dict[FlowKey, int]:
        counters = self._counters(keys)
        return {key: one.last_seen_ns for key, one in zip(keys, counters, strict=True)}

    def _is_to_come(self, call_id: str, known: Iterable[FlowKey]) -> bool:
        """Is the call still to be restored? Until then nobody knows what is watched of it."""
        machine = self._machine
        if machine.session(call_id) is not None:
            return False
        return any(machine.call_of(key) == call_id for key in known)
