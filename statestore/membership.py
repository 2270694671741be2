"""Who is in the view: what one member proposes, from what it sees in the registry. Decides only.

Knows: views, records, leases, silence. Must not know: the registry, clocks, threads, the segment.

Every view is one transaction on `view`, epoch + 1. A renewal is one as well: it
rewrites the own record if `view` still stands as this member knows it, and is therefore the
confirmation on which the lease runs, counted from when it was sent. An eviction for silence
requires in its transaction that the silent member's record has not been renewed meanwhile: so
whoever is evicted for silence has no lease any more.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from statestore.member_records import (
    LATE_RENEWALS,
    NO_SLOT,
    SLOTS_MAX,
    Action,
    Propose,
    Reading,
    Record,
    Renew,
    Seat,
    Timers,
    View,
)

WANTED_MAX = 64
MS = 1_000_000


class Standing(enum.Enum):
    """Where this member stands."""

    UNREACHED = "the registry was not reached yet"
    JOINING = "asks to join"
    INSIDE = "in the view"
    LEAVING = "in the view, about to leave"
    LEFT = "has left in good order"
    EVICTED = "not in the view any more: begin anew"
    REPLACED = "another process has this node's place"
    REFUSED = "the registry's content cannot be used"


class Step(NamedTuple):
    """What to do, and what is so. Perform the actions in order, and tell the core their results.

    `view`: hand it to the node whenever its epoch is new, before anything else. `founding`: it
    makes this member complete with what it has. `lease_deadline_ns`: serve until then, 0: not.
    """

    actions: tuple[Action, ...]
    standing: Standing
    view: View | None
    slot: int | None
    founding: bool
    lease_deadline_ns: int
    sentence: str


class Own(NamedTuple):
    """What the node says of itself."""

    complete: bool
    applied: int = 0


class Membership:
    """One member's decisions. `seat.incarnation` is the segment's; `epoch_seen` the epoch of the
    last view that the segment was told, 0 for a new one."""

    def __init__(self, seat: Seat, timers: Timers, epoch_seen: int = 0) -> None:
        if not seat.node or "/" in seat.node:
            raise ValueError(f"node name {seat.node!r}: must not be empty or contain a slash")
        self._seat = seat
        self._timers = timers
        self._own = Own(False)
        self._epoch = epoch_seen
        self._segment_epoch = epoch_seen
        self._left_epoch = 0
        self._was_inside = epoch_seen > 0
        self._last_view: View | None = None
        self._leaving = False
        self._again = False
        self._confirmed_ns = 0
        self._step_ns = 0
        self._count = self._confirmed_count = 0
        self._renewal: tuple[int, int | None, Own] | None = None  # when, against what, saying what
        self._proposal: tuple[int, int] | None = None  # against which revision, when
        self._watched: dict[Seat, tuple[int, int]] = {}  # record's revision, since when so
        self._absent_since_ns: int | None = None
        self._wanted: dict[str, int | None] = {}  # node -> the incarnation to evict

    # -- from outside --

    @property
    def incarnation(self) -> int:
        """Of the segment with which it is, or asks to be, in the view."""
        return self._seat.incarnation

    def evict(self, node: str) -> None:
        """The failover decision says that this node is dead: propose so at once."""
        if len(self._wanted) < WANTED_MAX:
            self._wanted.setdefault(node, None)

    def again(self) -> None:
        """This member led the view before its process was restarted, and cannot lead on in it: the
        same members in the next one."""
        self._again = True

    def leave(self) -> None:
        """The node has handed over what it had: leave the view in good order."""
        self._leaving = True

    def anew(self, incarnation: int) -> None:
        """The node has begun anew with an empty segment: join as somebody new. What it held against
        others, it held when it was cut off: they have the state, and it has nothing."""
        self._seat = msgspec.structs.replace(self._seat, incarnation=incarnation)
        self._wanted.clear()
        self._was_inside = False
        self._segment_epoch = 0
        self._last_view = None
        self._confirmed_ns = 0
        self._renewal = None

    def renewed(self, renewal: Renew, sent_at_ns: int, revision: int | None) -> int:
        """The result of a Renew: until when (ns) it lets this member serve, 0: it does not.
        `revision` None: the view has changed; read the prefix anew."""
        if revision is None or renewal.view_revision is None:
            return 0
        if renewal.record.incarnation != self._seat.incarnation:  # has begun anew meanwhile
            return 0
        self._confirmed_ns = max(self._confirmed_ns, sent_at_ns)
        self._confirmed_count = renewal.record.count
        return self._lease_ns()

    # -- deciding --

    def step(self, now_ns: int, own: Own, seen: Reading) -> Step:
        """Call it when the registry's content changes, and at least once per renewal."""
        self._own = own
        punctual = self._punctual(now_ns, seen)
        self._step_ns = now_ns
        view = seen.view
        if seen.current_ns == 0:
            why = seen.trouble or "connecting"
            return self._idle(Standing.UNREACHED, f"the registry was not reached yet: {why}")
        if seen.broken:
            return self._idle(Standing.REFUSED, f"not serving after the lease: {seen.broken}")
        if view is not None and view.epoch < self._epoch and (self._was_inside or self._last_view):
            return self._idle(
                Standing.REFUSED,
                f"the registry went back from epoch {self._epoch} to {view.epoch}: was an old "
                "backup restored? stop all members, then start them again",
            )
        if view is None:
            return self._without_view(now_ns)
        self._absent_since_ns = None
        self._epoch = view.epoch
        slot = view.slot_of(self._seat.node)
        if slot is None or view.members[slot].incarnation != self._seat.incarnation:
            return self._outside(now_ns, seen, view, slot)
        return self._inside(now_ns, seen, view, slot, punctual)

    def _punctual(self, now_ns: int, seen: Reading) -> bool:
        """Did this judge look, hear and renew in time? Otherwise all clocks begin again: what was
        silent may have been us, or the registry."""
        oldest = min(self._step_ns, self._confirmed_ns, seen.current_ns)
        if now_ns - oldest <= LATE_RENEWALS * self._timers.renew_ms * MS:
            return True
        self._watched.clear()
        return False

    def _idle(self, standing: Standing, sentence: str) -> Step:
        """Nothing to do; a lease that runs, runs on."""
        return Step((), standing, None, None, False, self._lease_ns(), sentence)

    def _lease_ns(self) -> int:
        return self._confirmed_ns + self._timers.lease_ms * MS if self._confirmed_ns else 0

    def _without_view(self, now_ns: int) -> Step:
        """No view stands: the first member makes one; one that was in a view makes it again."""
        me = self._seat
        if self._leaving:
            return self._idle(Standing.LEFT, f"{me.node} has left; no view stands")
        if self._last_view is None:
            if self._was_inside:
                return self._begin_anew(f"no view stands, and {me.node} was in epoch {self._epoch}")
            first = View(self._epoch + 1, 0, {0: me}, [], self._epoch + 1)
            actions = self._renewal_due(now_ns, None)
            actions += self._proposal_due(now_ns, first, 0, f"{me.node} makes the first view")
            return Step(actions, Standing.JOINING, None, None, False, 0, "no view yet: makes it")
        if self._absent_since_ns is None:
            self._absent_since_ns = now_ns
        last = self._last_view
        order = sorted(last.members, key=lambda slot: (slot != last.leader, slot))
        mine = last.slot_of(me.node)
        rank = order.index(mine) if mine is not None else len(order)
        sentence = f"the registry has lost view {self._epoch}"
        actions = ()
        if now_ns - self._absent_since_ns >= rank * self._timers.patience_ms * MS:
            again = msgspec.structs.replace(last, epoch=self._epoch + 1, left=[])
            why = f"{sentence}; {me.node} puts it back"
            actions = self._proposal_due(now_ns, again, 0, why)
        return Step(actions, Standing.INSIDE, None, None, False, self._lease_ns(), sentence)

    def _begin_anew(self, why: str) -> Step:
        self._confirmed_ns = 0
        return Step((), Standing.EVICTED, None, None, False, 0, f"{why}; begins anew")

    def _outside(self, now_ns: int, seen: Reading, view: View, old_slot: int | None) -> Step:
        me = self._seat
        self._own = Own(False, self._own.applied)  # whoever joins has to catch up
        if self._leaving:
            self._confirmed_ns = 0
            text = f"{me.node} has left; view {view.epoch} stands"
            self._left_epoch = self._left_epoch or view.epoch
            told = view if view.epoch == self._left_epoch else None  # later ones are not ours
            return Step((), Standing.LEFT, told, None, False, 0, text)
        # Nobody has written since the last one left: that one's segment is all there is.
        was_last = not view.members and view.epoch == self._segment_epoch
        if self._was_inside and not was_last:
            self._confirmed_ns = 0
            if old_slot is not None and self._last_view is not None:
                other = view.members[old_slot]
                text = (
                    f"another process has the place of {me.node} in view {view.epoch}: "
                    f"{other.host} port {other.port}; stop one of the two"
                )
                return Step((), Standing.REPLACED, view, None, False, 0, text)
            step = self._begin_anew(f"{me.node} is not in view {view.epoch} any more")
            return step._replace(view=view)
        free = [slot for slot in range(SLOTS_MAX) if slot not in view.members]
        if old_slot is None and not free:
            text = f"view {view.epoch} is full ({SLOTS_MAX} members): {me.node} waits for a place"
            return Step((), Standing.JOINING, view, None, False, 0, text)
        slot = old_slot if old_slot is not None else free[0]
        members = {**view.members, slot: me}
        why = f"{me.node} joins in slot {slot}"
        if old_slot is not None:
            why += ", its earlier incarnation is gone"
        new, more = self._compose(view, members, [], seen)
        actions = self._renewal_due(now_ns, None)
        actions += self._proposal_due(now_ns, new, seen.view_revision, why + more)
        text = f"asks to join view {view.epoch} ({len(view.members)} members)"
        return Step(actions, Standing.JOINING, view, None, False, 0, text)

    def _inside(self, now_ns: int, seen: Reading, view: View, slot: int, punctual: bool) -> Step:
        self._was_inside = True
        self._last_view = view
        actions = self._renewal_due(now_ns, seen.view_revision)
        standing, text = Standing.INSIDE, ""
        changes: tuple[Action, ...] = ()
        if self._leaving:
            standing = Standing.LEAVING
            changes, text = self._leave_view(now_ns, seen, view, slot)
        silent = self._silent(now_ns, seen, view) if punctual else {}
        if not changes:
            changes = self._evictions(now_ns, seen, view, slot, silent)
        if self._again and not changes:
            new, _ = self._compose(view, dict(view.members), [], seen)
            why = f"{self._seat.node} was restarted while it led: the same members again"
            changes = self._proposal_due(now_ns, new, seen.view_revision, why)
        self._again = False
        lease_ns = self._lease_ns()
        if not text:
            text = f"slot {slot} of view {view.epoch}, {len(view.members)} members, "
            text += "leads" if view.leader == slot else f"slot {view.leader} leads"
        if now_ns >= lease_ns:
            ended = f"ended {(now_ns - lease_ns) / 1e9:.1f} s ago" if lease_ns else "has not begun"
            text += f"; does not serve, its lease {ended}"
        if seen.trouble:
            text += f"; {seen.trouble}"
        # A leader was complete when it was chosen, or founds; the founding view itself may have
        # been missed.
        founding = view.leader == slot and not self._own.complete
        # The view first: calls wait for an eviction, and it would wait for a renewal's answer.
        return Step(changes + actions, standing, view, slot, founding, lease_ns, text)

    # -- renewing and proposing --

    def _renewal_due(self, now_ns: int, view_revision: int | None) -> tuple[Action, ...]:
        if self._renewal is not None:
            sent_ns, against, said = self._renewal
            # A confirmed one stands through a new view; a refused one is made again at once.
            stands = against == view_revision or self._confirmed_count == self._count
            stands = stands and said.complete == self._own.complete
            if stands and now_ns - sent_ns < self._timers.renew_ms * MS:
                return ()
        self._renewal = (now_ns, view_revision, self._own)
        self._count += 1
        me = self._seat
        record = Record(
            me.host, me.port, me.incarnation, self._own.complete, self._count, self._own.applied
        )
        return (Renew(me.node, record, view_revision),)

    def _proposal_due(
        self,
        now_ns: int,
        view: View,
        revision: int,
        why: str,
        *,
        unchanged: Mapping[str, int] | None = None,
        forget: tuple[str, ...] = (),
    ) -> tuple[Action, ...]:
        """Once per state of `view`, and again after a while if nothing came of it."""
        if self._proposal is not None:
            against, proposed_ns = self._proposal
            if against == revision and now_ns - proposed_ns < self._timers.patience_ms * MS:
                return ()
        self._proposal = (revision, now_ns)
        return (Propose(view, revision, unchanged or {}, forget, why),)

    # -- judging --

    def _record_of(self, seat: Seat, seen: Reading) -> tuple[Record, int] | None:
        """The seat's own record, not one of another incarnation of the node."""
        found = seen.records.get(seat.node)
        return found if found is not None and found[0].incarnation == seat.incarnation else None

    def _merit(self, seat: Seat, seen: Reading) -> tuple[bool, int]:
        """Sorts complete members first, then those that have most."""
        if seat == self._seat:
            return (not self._own.complete, 0 if self._own.complete else -self._own.applied)
        found = self._record_of(seat, seen)
        if found is None:
            return (True, 0)
        return (not found[0].complete, 0 if found[0].complete else -found[0].applied)

    def _is_complete(self, seat: Seat, seen: Reading) -> bool:
        return not self._merit(seat, seen)[0]

    def _silent(self, now_ns: int, seen: Reading, view: View) -> dict[int, int]:
        """slot -> for how long (ns) its record has not changed, by our own clock."""
        watched: dict[Seat, tuple[int, int]] = {}
        silent = {}
        for slot, seat in view.members.items():
            if seat == self._seat:
                continue
            found = self._record_of(seat, seen)
            revision = found[1] if found is not None else 0
            known = self._watched.get(seat)
            watched[seat] = known if known and known[0] == revision else (revision, now_ns)
            silent[slot] = now_ns - watched[seat][1]
        self._watched = watched
        return silent

    def _demanded(self, view: View) -> Iterator[int]:
        """Slots to evict at once. A demand is for the incarnation in the view when it was made."""
        for node, incarnation in list(self._wanted.items()):
            slot = view.slot_of(node)
            seat = view.members[slot] if slot is not None else None
            if (
                seat is None
                or node == self._seat.node
                or seat.incarnation != (incarnation or seat.incarnation)
            ):
                del self._wanted[node]
                continue
            self._wanted[node] = seat.incarnation
            assert slot is not None
            yield slot

    def _evictions(
        self, now_ns: int, seen: Reading, view: View, slot: int, silent: Mapping[int, int]
    ) -> tuple[Action, ...]:
        suspect_ns = self._timers.suspect_ms * MS
        suspects = {other for other, silence_ns in silent.items() if silence_ns >= suspect_ns}
        living = [s for s in view.members if s not in suspects]
        order = sorted(living, key=lambda s: (self._merit(view.members[s], seen), s))
        patience_ns = order.index(slot) * self._timers.patience_ms * MS
        overdue = any(silent[other] >= suspect_ns + patience_ns for other in suspects)
        demanded = set(self._demanded(view)) - suspects
        complete = [s for s in living if self._is_complete(view.members[s], seen)]
        if demanded and demanded >= set(complete):
            demanded -= set(complete)  # the state's last holder goes for its silence alone
        if not overdue and not demanded:
            return ()
        gone = sorted(suspects | demanded)
        members = {s: seat for s, seat in view.members.items() if s not in gone}
        unchanged = {}
        for seat in (view.members[each] for each in gone if each in suspects):
            found, own_record = seen.records.get(seat.node), self._record_of(seat, seen)
            if own_record is not None or found is None:  # another incarnation's renews nothing
                unchanged[seat.node] = own_record[1] if own_record is not None else 0
        new, more = self._compose(view, members, [], seen)
        why = "evicts " + ", ".join(
            f"{view.members[s].node} (silent for {silent[s] / 1e9:.1f} s)"
            if s in suspects
            else f"{view.members[s].node} (declared dead)"
            for s in gone
        )
        forget = tuple(view.members[s].node for s in gone)
        return self._proposal_due(
            now_ns, new, seen.view_revision, why + more, unchanged=unchanged, forget=forget
        )

    def _leave_view(
        self, now_ns: int, seen: Reading, view: View, slot: int
    ) -> tuple[tuple[Action, ...], str]:
        members = {s: seat for s, seat in view.members.items() if s != slot}
        demanded = set(self._demanded(view))  # these cannot go on with what is sequenced here
        others = [
            s for s, seat in members.items() if s not in demanded and self._is_complete(seat, seen)
        ]
        if members and not others and self._own.complete:
            return (), (
                f"cannot leave view {view.epoch} yet: no other member is complete, "
                "and this one's state would be lost"
            )
        new, more = self._compose(view, members, [slot], seen)
        why = f"{self._seat.node} leaves in good order{more}"
        forget = (self._seat.node,)
        actions = self._proposal_due(now_ns, new, seen.view_revision, why, forget=forget)
        return actions, f"leaves view {view.epoch}"

    def _compose(
        self, view: View, members: dict[int, Seat], left: list[int], seen: Reading
    ) -> tuple[View, str]:
        """The next view with these members, its leader chosen; and what else is to be said."""
        epoch, founded = view.epoch + 1, view.founded
        if view.leader in members and members[view.leader] == view.members[view.leader]:
            return View(epoch, view.leader, members, left, founded), ""
        if not members:
            return View(epoch, NO_SLOT, members, left, founded), "; nobody is left"
        leader = min(members, key=lambda slot: (self._merit(members[slot], seen), slot))
        more = f"; slot {leader} leads"
        if not self._is_complete(members[leader], seen):
            founded = epoch
            if view.members:
                more += ": no complete member is left, state that was not replicated is lost"
        return View(epoch, leader, members, left, founded), more
