"""A simulated registry with its members: crashes, pauses, partitions, delays, from one seed.

Members run the real `Membership`. What has to hold is checked where the registry changes; a
member that is complete stands for one that holds the state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from statestore.member_records import (
    Action,
    Propose,
    Reading,
    Renew,
    Seat,
    Timers,
    View,
    decode_view,
    read,
    transaction,
)
from statestore.membership import Membership, Own, Standing, Step

PREFIX = "/t/dal/"
MS = 1_000_000
TICK_MS = 10
CATCH_UP_MS = 200


class Stored(NamedTuple):
    value: bytes
    revision: int


class Table:
    """The registry: transactions, and a past that a slow watch may still be looking at."""

    def __init__(self) -> None:
        self.entries: dict[str, Stored] = {}
        self.revision = 0

    def commit(
        self, checks: list[tuple[str, int]], puts: Mapping[str, bytes], deletes: list[str]
    ) -> int | None:
        absent = Stored(b"", 0)
        if any(self.entries.get(key, absent).revision != revision for key, revision in checks):
            return None
        self.revision += 1
        entries = {key: stored for key, stored in self.entries.items() if key not in deletes}
        self.entries = entries | {k: Stored(v, self.revision) for k, v in puts.items()}
        return self.revision

    def do(self, action: Action) -> int | None:
        return self.commit(*transaction(PREFIX, action))

    def view(self) -> View | None:
        found = self.entries.get(PREFIX + "view")
        return decode_view(found.value) if found else None


class Message(NamedTuple):
    """A transaction on its way: lands, then its answer comes back."""

    sent_ns: int
    lands_ns: int
    answered_ns: int
    action: Action


class Member:
    """One server: the core, and what the simulation does to it."""

    def __init__(self, node: str, timers: Timers, incarnation: int) -> None:
        self.node = node
        self.timers = timers
        self.running = True
        self.paused_until_ns = 0
        self.cut_until_ns = 0
        self.messages: list[Message] = []
        self.answers: list[tuple[Message, int | None]] = []
        self.begin(incarnation)

    def begin(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.core = Membership(Seat(self.node, "::1", 7, incarnation), self.timers)
        self.complete = False
        self.inside_since_ns: int | None = None
        self.messages, self.answers = [], []
        self.entries: Mapping[str, Stored] = {}
        self.current_ns = 0
        self.last: Step | None = None

    def lease_deadline_ns(self) -> int:
        return self.last.lease_deadline_ns if self.last is not None else 0


class Violation(AssertionError):
    """Something that must never be, was."""


class World:
    """`count` members and their registry; `run` for a while, with faults or without."""

    def __init__(self, seed: int, timers: Timers, count: int = 4, checked: bool = True) -> None:
        self.random = random.Random(seed)
        self.timers = timers
        self.checked = checked
        self.now_ns = 1_000 * MS
        self.table = Table()
        self.incarnations = 0
        self.members = [Member(f"n{i}", timers, self._incarnation()) for i in range(count)]
        self.renewed_ns: dict[Seat, int] = {}  # when the last renewal that landed was sent
        self.evicted: list[str] = []
        self.founded: list[int] = []

    def _incarnation(self) -> int:
        self.incarnations += 1
        return self.incarnations

    def run(self, duration_ms: int, faults: bool = False) -> None:
        for _ in range(duration_ms // TICK_MS):
            self.now_ns += TICK_MS * MS
            if faults:
                self._fault()
            for member in self.members:
                self._deliver(member)
            for member in self.random.sample(self.members, len(self.members)):
                if member.running and member.paused_until_ns <= self.now_ns:
                    self._step(member)

    def _fault(self) -> None:
        member, dice = self.random.choice(self.members), self.random.random()
        span_ns = self.random.randrange(3 * self.timers.suspect_ms) * MS
        if dice < 0.004:
            member.running = False
            if self.random.random() < 0.3:
                member.messages = []  # died before they were out
        elif dice < 0.012 and not member.running:
            member.running = True
            member.begin(self._incarnation())
        elif dice < 0.016:
            member.paused_until_ns = self.now_ns + span_ns
        elif dice < 0.020:
            member.cut_until_ns = self.now_ns + span_ns
        elif dice < 0.022:
            other = self.random.choice(self.members)
            if member.running:
                member.core.evict(other.node)

    def _deliver(self, member: Member) -> None:
        waiting = []
        for message in member.messages:
            if message.lands_ns > self.now_ns or member.cut_until_ns > self.now_ns:
                waiting.append(message)
            else:
                member.answers.append((message, self._land(message)))
        # what is held up for longer than a client waits is lost
        limit_ns = self.now_ns - 2 * self.timers.lease_ms * MS
        member.messages = [m for m in waiting if m.sent_ns > limit_ns]

    def _land(self, message: Message) -> int | None:
        action, before = message.action, self.table.view()
        if isinstance(action, Propose) and not self.checked:
            action = action._replace(unchanged={})
        revision = self.table.do(action)
        if revision is None:
            return None
        if isinstance(action, Propose):
            self._check_view(before, action)
        elif action.view_revision is not None:
            record = action.record
            seat = Seat(action.node, record.host, record.port, record.incarnation)
            known_ns = self.renewed_ns.get(seat, 0)
            self.renewed_ns[seat] = max(known_ns, message.sent_ns)
        return revision

    def _check_view(self, before: View | None, action: Propose) -> None:
        view = action.view
        epoch = before.epoch if before else 0
        if view.epoch != epoch + 1:
            raise Violation(f"epoch {view.epoch} after {epoch}")
        if view.founded == view.epoch:
            self.founded.append(view.epoch)
        for slot, seat in before.members.items() if before else ():
            if view.members.get(slot) == seat:
                continue
            self.evicted.append(seat.node)
            lease_runs = self.renewed_ns.get(seat, 0) + self.timers.lease_ms * MS > self.now_ns
            if lease_runs and f"{seat.node} (silent" in action.why:
                raise Violation(f"{action.why}: but its lease runs ({seat})")

    def _step(self, member: Member) -> None:
        now_ns = self.now_ns
        cut = member.cut_until_ns > now_ns
        if not cut and self.random.random() < 0.7:  # the watch is a little behind, sometimes
            member.entries, member.current_ns = self.table.entries, now_ns
        answers = [answer for answer in member.answers if answer[0].answered_ns <= now_ns]
        member.answers = [a for a in member.answers if a[0].answered_ns > now_ns]
        for message, revision in answers:
            if isinstance(message.action, Renew):
                member.core.renewed(message.action, message.sent_ns, revision)
        seen: Reading = read(PREFIX, member.entries, member.current_ns)
        step = member.core.step(now_ns, Own(member.complete), seen)
        member.last = step
        if step.standing is Standing.INSIDE and step.view is not None:
            if member.inside_since_ns is None:
                member.inside_since_ns = now_ns
            caught_up = now_ns - member.inside_since_ns > CATCH_UP_MS * MS
            member.complete |= step.founding or (caught_up and self._state_lives(step.view))
        elif step.standing is Standing.EVICTED:
            member.complete, member.inside_since_ns = False, None
            member.core.anew(self._incarnation())
        answered_ns = now_ns
        for action in step.actions:  # one after the other, as the server does
            lands_ns = answered_ns + self.random.randrange(1, 40) * MS
            answered_ns = lands_ns + self.random.randrange(1, 20) * MS
            member.messages.append(Message(now_ns, lands_ns, answered_ns, action))

    def _state_lives(self, view: View) -> bool:
        """Is there a complete member to catch up from?"""
        inside = {seat.node for seat in view.members.values()}
        return any(m.running and m.complete and m.node in inside for m in self.members)

    def heal(self) -> None:
        """End all faults and start everybody."""
        for member in self.members:
            member.paused_until_ns = member.cut_until_ns = 0
            if not member.running:
                member.running = True
                member.begin(self._incarnation())

    def whole(self) -> bool:
        """Everybody is inside, serves, is complete, and agrees who leads."""
        view = self.table.view()
        return view is not None and all(
            m.last is not None
            and m.last.standing is Standing.INSIDE
            and m.last.view == view
            and m.complete
            and m.lease_deadline_ns() > self.now_ns
            for m in self.members
        )
