"""The machine of one service group: events in, effects out, the same everywhere.

Knows: the group's sessions, its port pool, its limits, and which deadline comes next. Must not
know its role, the clock, the journal, sockets or the packet path: `step` decides, `hands`
perform, and the runtime stamps time and entropy into what it asks.

`step` is `plan` (pure) followed by `commit` (in memory): a driver puts the journal between the
two, so that an entry which the store refuses leaves the machine as it was.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from bgf import session as sessions
from bgf import session_orders
from bgf.errors import Misuse
from bgf.events import (
    Command,
    DropFlow,
    Effect,
    Event,
    Expired,
    Forget,
    PutFlow,
    Reply,
    Result,
    Verb,
)
from bgf.found import Found
from bgf.model import Flow, FlowKey, Group
from bgf.policy import Policies
from bgf.ports import PortPool
from bgf.rate import Rate
from bgf.session import ENTROPY_BYTES, NS_PER_MS, REPLY_KEPT_MS, Session, Site, State
from bgf.totals import Totals

PORT_ENTROPY_BITS = 64
ENTROPY_BITS = PORT_ENTROPY_BITS + 8 * ENTROPY_BYTES
"""Bits of randomness that a driver gives to `draw`."""

_ENCODER = msgspec.msgpack.Encoder()
LATEST_MAX = 64
"""Calls whose flows are remembered: most are asked about again at once."""

STRAYS_MAX = 4_096
"""Replies kept for commands about calls that were not here, beside those that are tombstones."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one group. A pair of a deleted call rests for `quarantine_ms`: what its party
    still sends must not reach the next call. `new_calls_per_s` 0: no limit. `strays_max` bounds
    those tombstones that commands about nobody's calls leave: they fill no store."""

    sessions_max: int = 20_000
    tombstones_max: int = 200_000
    quarantine_ms: int = 5_000
    new_calls_per_s: int = 0
    strays_max: int = 10_000


class Plan(NamedTuple):
    """What an event will do. `changes` says whether it must be journaled before `commit`."""

    event: Event
    call_id: str
    before: Session | None
    after: Session | None
    effects: list[Effect]

    @property
    def changes(self) -> bool:
        return self.after is not self.before

    @property
    def forgets(self) -> bool:
        return self.before is not None and self.after is None


class Usage(NamedTuple):
    """How full the machine is: calls (half-open ones included), tombstones, port pairs."""

    sessions: int
    tombstones: int
    pairs_used: int
    pairs_quarantined: int
    pairs_free: int


class Gateway:
    """One group's machine. Errors that a peer causes become replies; Misuse is raised."""

    def __init__(
        self,
        group: Group,
        default_realms: tuple[str, str],
        limits: Limits | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.group = group
        self.limits = limits or Limits()
        self.site = Site(group, default_realms, policies or {})
        self._pool = PortPool(*group.ports, self.limits.quarantine_ms)
        self._sessions: dict[str, Session] = {}
        self._tombstones = 0
        self._stray_tombstones = 0
        self._new_calls = Rate(self.limits.new_calls_per_s)  # of this owner: no state of the calls
        self._deadlines: list[tuple[int, str]] = []  # a heap; entries that moved are skipped
        self._adopted: dict[str, Callable[[str], Collection[int]]] = {}
        """Calls known by their flows only, and who knows their pairs."""
        self._latest: dict[str, tuple[Session, dict[FlowKey, Flow]]] = {}  # flows worked out last
        self._copied: dict[str, Session] = {}
        self.copied_version = 0
        self.totals = Totals()
        self._strays: dict[tuple[str, str], tuple[int, Reply]] = {}  # oldest first
        self._heard_ns = 0  # the latest time in what was restored, by whose clock ever

    def take_limits(self, limits: Limits) -> None:
        """Other limits for new calls, from now on. `quarantine_ms` stays what it was."""
        if limits.new_calls_per_s != self.limits.new_calls_per_s:
            self._new_calls = Rate(limits.new_calls_per_s)
        self.limits = limits

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Sessions by Call-ID, tombstones included. A read-only live view."""
        return types.MappingProxyType(self._sessions)

    def session(self, call_id: str) -> Session | None:
        return self._sessions.get(call_id)

    def usage(self) -> Usage:
        pool = self._pool
        return Usage(
            len(self._sessions) - self._tombstones,
            self._tombstones,
            pool.used,
            pool.quarantined,
            pool.free,
        )

    def demand(self, command: Command) -> int:
        """How many port pairs `command` needs in this state."""
        return sessions.demand(self._sessions.get(command.call_id), command)

    def draw(self, command: Command, entropy: int) -> Command:
        """The same command carrying the ports that it needs; takes nothing. Raises PortsExhausted.

        `entropy` is any integer: where in the range the search for each pair starts (the lowest
        64 bits), and what ICE credentials are made of (192 bits above).
        """
        if sessions.wants_entropy(self._sessions.get(command.call_id), command):
            secret = (entropy >> PORT_ENTROPY_BITS) % (1 << 8 * ENTROPY_BYTES)
            command = msgspec.structs.replace(command, entropy=secret.to_bytes(ENTROPY_BYTES))
        count = self.demand(command)
        if not count:
            return command
        ports = self._pool.choose(count, command.now_ns, entropy)
        return msgspec.structs.replace(command, ports=ports)

    def step(self, event: Event) -> list[Effect]:
        """Apply `event`. Deterministic: the same events in give the same effects and state."""
        plan = self.plan(event)
        self.commit(plan)
        return plan.effects

    def plan(self, event: Event) -> Plan:
        """What `step` would do, without doing it. Raises Misuse for ports that are another's."""
        call_id = event.call_id
        before = self._sessions.get(call_id)
        if isinstance(event, Command):
            reply = self._stray(event) or self._aside(event, before)
            if reply is not None:
                return Plan(event, call_id, before, before, [reply])
        after, reply, notice = sessions.apply(before, event, self.site)
        full = self._stray_tombstones >= self.limits.strays_max
        if before is None and full and _is_stray(after):
            after = None
        effects: list[Effect] = []
        if after is not before:
            self._check_ports(call_id, before, after)
            before_flows = self._flows(before)  # first: those of the later value are asked for next
            effects += _difference(self._flows(after), before_flows)
            if after is None:
                effects.append(Forget(call_id))
        if notice is not None:
            effects.append(notice)
        if reply is not None:
            effects.append(reply)
        return Plan(event, call_id, before, after, effects)

    def commit(self, plan: Plan) -> None:
        """Make a plan the state. Raises Misuse when the session has moved on since."""
        if not plan.changes:
            self._keep_stray(plan)
            return
        if self._sessions.get(plan.call_id) is not plan.before:
            raise Misuse(f"call {plan.call_id}: the plan is stale, plan again")
        self._set(plan.call_id, plan.before, plan.after, plan.event.now_ns)
        if isinstance(plan.event, Command) and _begins(plan.before) and not _begins(plan.after):
            self._new_calls.take(plan.event.now_ns)
        self.totals.count(plan.event, plan.before, plan.after)

    def next_deadline(self) -> int | None:
        """When an Expired event is due, in the time of calls, ns; None when nothing waits."""
        while self._deadlines:
            deadline_ns, call_id = self._deadlines[0]
            session = self._sessions.get(call_id)
            if session is not None and session.deadline_ns() == deadline_ns:
                return deadline_ns
            heapq.heappop(self._deadlines)
        return None

    def due(self, now_ns: int) -> Expired | None:
        """The next Expired event whose time has come; stepping it removes it."""
        deadline_ns = self.next_deadline()
        if deadline_ns is None or deadline_ns > now_ns:
            return None
        return Expired(now_ns, self._deadlines[0][1])

    def digest(self) -> bytes:
        """32 bytes over all sessions, in an order of its own: equal digests, equal state."""
        digest = hashlib.blake2b(self.group.id.encode(), digest_size=32)
        for call_id in sorted(self._sessions):
            digest.update(_ENCODER.encode(self._sessions[call_id]))
        return digest.digest()

    # Taking over: what another machine left behind becomes ours.

    def adopt(self, found: Found) -> None:
        """Mark port pairs as those of calls that are not restored yet. What `found` says of such a
        call is asked when it is restored or disowned: it must not have been forgotten by then.

        Without this, a new call could draw the port of a call that still lies in the journal.
        """
        taken = self._pool.take_all(found.pairs, found.span)
        calls = found.calls() if taken is found.pairs else dict.fromkeys(taken.values())
        adopted = dict.fromkeys(calls, found.pairs_of)
        for call_id in adopted.keys() & self._sessions.keys():
            del adopted[call_id]
        self._adopted.update(adopted)

    def adopted(self) -> Iterable[str]:
        """Calls known by their flows only."""
        return tuple(self._adopted)

    def restore(self, session: Session, now_ns: int) -> None:
        """Take a session in as its journal gave it. Harmless when it is here already.

        Raises Misuse when another call holds one of its ports; nothing is taken in then.
        """
        call_id = session.call_id
        if call_id in self._sessions:
            return
        if session.group != self.group.id:
            raise Misuse(f"call {call_id} is of group {session.group}, not {self.group.id}")
        self._check_ports(call_id, None, session)
        self._set(call_id, None, session, now_ns)
        self.disown(call_id, now_ns)
        # The clock of another machine tells how far apart two of its own times are, no more. What
        # it has said last is not younger than now, so this rest is never too short.
        self._heard_ns = max(self._heard_ns, session.last_ns())
        for rest in session.rests:
            self.rest(rest.port, now_ns - (self._heard_ns - rest.at_ns))

    def rest(self, port: int, released_ns: int) -> None:
        """The pair of `port` was released then (in the time of calls, ns), by whoever owned the
        group. One that a call holds is left alone."""
        self._pool.rest(port, released_ns)

    def call_of(self, key: FlowKey) -> str | None:
        """The call that holds a pinhole's port, restored or not."""
        return self._pool.owner(key.port)

    def ports_held(self) -> list[int]:
        """The even ports that are not free to draw, for `leak`."""
        return self._pool.held()

    def leak(self, port: int, now_ns: int) -> str | None:
        """The call in whose name a pair is held that nobody can name any more: a fault of ours.

        The pair then rests and is free again. None when the pair is rightly held, or not at all.
        """
        call_id = self._pool.owner(port)
        if call_id is None:
            return None
        session = self._sessions.get(call_id)
        if session is not None and port in session.ports():
            return None
        if call_id in self._adopted:
            return None
        self._pool.release(port, call_id, now_ns)
        return call_id

    def disown(self, call_id: str, now_ns: int) -> None:
        """Free what was adopted for a call beyond what its session holds, if it has one."""
        pairs_of = self._adopted.pop(call_id, None)
        if pairs_of is None:
            return
        session = self._sessions.get(call_id)
        held = session.ports() if session is not None else set()
        for port in pairs_of(call_id):
            if port not in held:
                self._pool.release(port, call_id, now_ns)

    def expected_flows(self, call_id: str) -> list[Flow]:
        """The pinholes that must exist for a call, none for an unknown or deleted one."""
        return list(self._flows(self._sessions.get(call_id)).values())

    # Inside.

    def _flows(self, session: Session | None) -> dict[FlowKey, Flow]:
        """Worked out once per value of a session, for those that were worked on last."""
        if session is None or not session.streams:
            return {}
        known = self._latest.get(session.call_id)
        if known is not None and known[0] is session:
            return known[1]
        flows = sessions.flows(session, self.site.policies)
        self._latest.pop(session.call_id, None)
        if len(self._latest) >= LATEST_MAX:
            del self._latest[next(iter(self._latest))]
        self._latest[session.call_id] = session, flows
        return flows

    def _aside(self, command: Command, session: Session | None) -> Reply | None:
        """Replies that no session has a part in: nothing changes, nothing is journaled."""
        if sessions.has_looped(command, self.group.id):
            return Reply(command.cookie, Result.OK)
        if command.verb is Verb.PING:
            return Reply(command.cookie, Result.PONG)
        if command.verb is Verb.QUERY:
            return self._query(command)
        if command.verb is Verb.LIST:
            calls = self.calls(session_orders.list_length(command))
            return Reply(command.cookie, Result.OK, calls=calls)
        if command.verb is Verb.STATISTICS:
            return Reply(command.cookie, Result.OK)  # what there is to tell, counters know
        if command.verb is Verb.OFFER and _begins(session):
            repeated = session is not None and session.kept_reply(command.cookie) is not None
            limit = "" if repeated else self._limit_reached(command.now_ns)
            if limit:
                return Reply(command.cookie, Result.LOAD_LIMIT, limit)
        return None

    def _stray(self, command: Command) -> Reply | None:
        """What the same command was told when its call was not here, and no tombstone was to be
        had: a delete that is repeated must not meet a call that has begun since. (A new owner does
        not know of these.)"""
        at_ns, reply = self._strays.get((command.call_id, command.cookie), (0, None))
        return reply if command.now_ns - at_ns < REPLY_KEPT_MS * NS_PER_MS else None

    def _keep_stray(self, plan: Plan) -> None:
        event, known = plan.event, plan.before is not None
        if known or not isinstance(event, Command) or not (event.cookie and event.call_id):
            return
        if not event.verb.changes_state or event.verb is Verb.OFFER:
            return
        for effect in plan.effects:
            if isinstance(effect, Reply):
                self._strays.pop((event.call_id, event.cookie), None)
                self._strays[event.call_id, event.cookie] = (event.now_ns, effect)
        while len(self._strays) > STRAYS_MAX:
            del self._strays[next(iter(self._strays))]

    def _query(self, command: Command) -> Reply:
        known = self.describe(command.call_id, command.cookie)
        if known is None:
            reason = f"call {command.call_id[:64]} is not here: nothing to query"
            return Reply(command.cookie, Result.ERROR, reason)
        return known

    def describe(self, call_id: str, cookie: str = "") -> Reply | None:
        """What a query of a call is answered; None for one that is not here, or no longer."""
        session = self._sessions.get(call_id)
        if session is None or session.state is State.DELETED:
            return None
        return Reply(
            cookie,
            Result.OK,
            flows=tuple(self._flows(session).values()),
            created_ns=session.created_ns,
            report=session_orders.report(session),
        )

    def calls(self, limit: int) -> tuple[str, ...]:
        """At most `limit` of the calls that live, restored or not."""
        live = (key for key, one in self._sessions.items() if one.state is not State.DELETED)
        return tuple(itertools.islice(itertools.chain(live, self._adopted), limit))

    @property
    def copied(self) -> Mapping[str, Session]:
        """The calls whose media is to be recorded or forwarded, by Call-ID. A read-only live
        view; `copied_version` changes when any of them does."""
        return types.MappingProxyType(self._copied)

    def _limit_reached(self, now_ns: int) -> str:
        """`name of the limit: why`, '' when none is. Calls not restored yet count as well."""
        limits, group, ends = self.limits, self.group.id, self._tombstones
        calls = len(self._sessions) - ends + len(self._adopted)
        if calls >= limits.sessions_max:
            return f"sessions_max: group {group} has {calls} calls: use another group"
        if ends >= limits.tombstones_max:
            return f"tombstones_max: group {group} has {ends} ended calls: slow down"
        if not self._new_calls.allows(now_ns):
            rate = limits.new_calls_per_s
            return f"new_calls_per_s: group {group} takes {rate} new calls a second: slow down"
        return ""

    def _check_ports(self, call_id: str, before: Session | None, after: Session | None) -> None:
        if after is None or (before is not None and after.streams is before.streams):
            return
        for port in after.ports():
            owner = self._pool.owner(port)
            if owner is not None and owner != call_id:
                raise Misuse(f"port {port} belongs to call {owner}: call {call_id} must draw again")

    def _set(
        self, call_id: str, before: Session | None, after: Session | None, now_ns: int
    ) -> None:
        held = before.ports() if before is not None else set()
        wanted = after.ports() if after is not None else set()
        if held != wanted:
            for port in sorted(wanted - held):
                self._pool.take(port, call_id)
            for port in sorted(held - wanted):
                self._pool.release(port, call_id, now_ns)
        self._tombstones += _is_tombstone(after) - _is_tombstone(before)
        self._stray_tombstones += _is_stray(after) - _is_stray(before)
        if after is not None and after.orders.copied:
            self._copied[call_id] = after
            self.copied_version += 1
        elif call_id in self._copied:
            del self._copied[call_id]
            self.copied_version += 1
        if after is None:
            self._sessions.pop(call_id, None)
            return
        self._sessions[call_id] = after
        deadline_ns = after.deadline_ns()
        if deadline_ns is not None and (before is None or before.deadline_ns() != deadline_ns):
            heapq.heappush(self._deadlines, (deadline_ns, call_id))


def reconcile(expected: Iterable[Flow], found: Iterable[Flow]) -> list[PutFlow | DropFlow]:
    """What turns `found` into `expected`: missing and different flows put, surplus dropped."""
    return _difference({flow.key: flow for flow in expected}, {flow.key: flow for flow in found})


def _difference(
    expected: Mapping[FlowKey, Flow], found: Mapping[FlowKey, Flow]
) -> list[PutFlow | DropFlow]:
    if not found:
        return [PutFlow(flow) for flow in expected.values()]
    puts = [PutFlow(flow) for key, flow in expected.items() if found.get(key) != flow]
    drops = [DropFlow(flow.group, key) for key, flow in found.items() if key not in expected]
    return [*puts, *drops]


def _begins(session: Session | None) -> bool:
    """Would an offer begin a call where this is?"""
    return session is None or session.state is State.DELETED


def _is_tombstone(session: Session | None) -> bool:
    return session is not None and session.state is State.DELETED


def _is_stray(session: Session | None) -> bool:
    """Is it the tombstone of a call that never was?"""
    return _is_tombstone(session) and session is not None and not session.created_ns
