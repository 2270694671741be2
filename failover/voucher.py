"""The peers' word, performed: what `vouching` decides is kept, sent, heard and told.

Knows: the link to the peers, what is remembered over a restart, in which order. Must not know who
may vouch (`vouching`), bytes and keys (the link), nor what is taken over (`decide`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from failover.actions import Held
from failover.adapters import Memory, VouchLink
from failover.evidence import listed
from failover.registry import Member, Ownership, View
from failover.testimony import Word
from failover.vouching import Recollection, Standing, Vouch, Vouching, VouchRequest, promise_ns

MS: Final = 1_000_000
FAR_NS: Final = 1 << 62
STARTED: Final = "it was switched on lately, and a word that it gave before may hold yet"


class Voucher:
    """Of one failover process. `tell(event, sentence)` hears when standing begins and ends."""

    def __init__(
        self,
        me: str,
        peers: Collection[str],
        lease_ns: int,
        *,
        link: VouchLink,
        memory: Memory,
        started_ns: int,
        tell: Callable[[str, str], None],
        tally: Counter[str],
        hear_word: Callable[[Word], None] = lambda _: None,
    ) -> None:
        self._me = me
        self._lease_ns = lease_ns
        self._link = link
        self._memory = memory
        self._tell = tell
        self._tally = tally
        self._hear_word = hear_word
        remembered = memory.load()
        self._core = Vouching(me, peers, lease_ns, link.life, remembered or Recollection())
        self._kept = remembered
        if remembered is None:  # what an earlier life may have promised is over by then
            self._core.blank_until_ns = started_ns + promise_ns(self._core.length_ns)
        self._blank = remembered is None
        self._remembered = False
        self._served_before: Mapping[str, int] = {}
        self._view: View | None = None
        self._live: tuple[str, ...] = ()
        self._renewed_ns = 0
        self._seen_ns = 0
        self._lenient_until_ns = 0
        self._served: dict[str, int] = {}
        self._moved = False
        self._told = False
        self._open = False  # something was served at the last turn

    @property
    def standing(self) -> Mapping[str, Standing]:
        return self._core.standing

    @property
    def by(self) -> tuple[str, ...]:
        return self._core.by

    @property
    def view(self) -> View:
        """The last that was seen, however old."""
        return self._view or View()

    def until_ns(self) -> int:
        """Until when anything stands by the peers' word; 0 when nothing does."""
        return max((one.until_ns for one in self._core.standing.values()), default=0)

    def _reach_ns(self, renewed_ns: int) -> int:
        """When this node last reached the registry: when it renewed, and knew what others wrote,
        whichever is longer ago. What is owned goes on only while both are so."""
        return min(renewed_ns, self._seen_ns) if self._seen_ns else renewed_ns

    # -- turns -----------------------------------------------------------------------------

    def hear(self, now_ns: int, renewed_ns: int) -> None:
        """Answer who asks, take in who answers. At any time, decides nothing else.

        `renewed_ns`, here and below: when the last renewal that succeeded was sent."""
        reached_ns = self._reach_ns(renewed_ns)
        for message in self._link.drain():
            if isinstance(message, Word):
                self._hear_word(message)
            elif isinstance(message, Vouch):
                self._moved |= self._core.heard(message, now_ns)
            else:
                self._answer(message, now_ns, reached_ns)

    def turn(self, now_ns: int, renewed_ns: int, held: Mapping[str, Held]) -> bool:
        """Ask what is due now. True when a deadline has moved since the last turn."""
        reached_ns = self._reach_ns(renewed_ns)
        owners = self._view.owners if self._view else {}
        self._served = {  # what of this node's own is open here, by the last view
            group: one.armed
            for group, one in held.items()
            if one.armed
            and not one.released
            and owners.get(group) == Ownership(self._me, one.armed)
            and now_ns < one.armed_until_ns
        }
        for request in self._core.ask(now_ns, reached_ns, self._served):
            self._tally["vouches_asked"] += 1
            self._link.send(request)
        self._tell_standing(now_ns, reached_ns)
        moved, self._moved = self._moved, False
        return moved

    def _tell_standing(self, now_ns: int, reached_ns: int) -> None:
        """Once the registry's lease alone would not do any more."""
        over = now_ns >= reached_ns + self._lease_ns
        stands = bool(self._core.stands(now_ns)) and over
        if stands and not self._told:
            text = f"{self._me} serves on by the word of {listed(self.by)}: nobody reaches the"
            self._tell("vouched", f"{text} registry, and nobody takes anything over meanwhile")
        elif self._told and not stands:
            reached = "the registry has renewed its lease" if not self._core.asking else self._why()
            self._tell("vouched-over", f"{self._me} does not stand by its peers' word: {reached}")
        elif over and self._open and not self._served:
            why = self._lacking() or "it has no peers whose word would do"
            text = f"{self._me} serves nothing: the registry is out of its reach, and"
            self._tell("unvouched", f"{text} nobody vouches for it: {why}")
        self._told = stands
        self._open = bool(self._served)

    def due_ns(self, renewed_ns: int) -> int:
        """When a turn has something to do at the latest."""
        needed = self._served and renewed_ns and self._core.parties.needed()
        return self._core.due_ns(self._reach_ns(renewed_ns)) if needed else FAR_NS

    def read(self, view: View, now_ns: int) -> None:
        """A view of the registry."""
        if self._seen_ns and now_ns - self._seen_ns >= self._core.unreached_ns:
            self._lenient_until_ns = now_ns + self._lease_ns
        self._seen_ns = view.current_ns or now_ns
        self._view = view
        kept = self._core.parties.latest if now_ns < self._lenient_until_ns else ()
        self._live = tuple(
            name
            for name, member in sorted(view.members.items())
            if name != self._me and (now_ns < member.lease_deadline_ns or name in kept)
        )
        self._core.read(view, now_ns)
        self._blank &= not self._remembered
        if self._remembered:
            self._keep()

    def won(self, group: str, won: Ownership) -> None:
        """A claim was granted."""
        view = self._view or View()
        self._view = replace(view, owners={**view.owners, group: won})

    def reached(self, sent_ns: int, now_ns: int) -> None:
        """A renewal that was sent then has succeeded. After a while without one, or without a
        view, the others' records are as old: that says nothing about them for another lease."""
        if self._renewed_ns and now_ns - self._renewed_ns >= self._core.unreached_ns:
            self._lenient_until_ns = now_ns + self._lease_ns
        self._renewed_ns = now_ns
        self._core.parties.confirmed(sent_ns, now_ns)
        self._core.reached(self._reach_ns(sent_ns), now_ns)

    def remember(self, before: Member | None) -> None:
        """What the registry has of an earlier life of this node, or that there was none."""
        self._served_before = before.serves if before is not None else {}
        if before is None:
            self._core.blank_until_ns = 0
        self._remembered = True
        self._keep()

    def publishing(self, parties: Collection[str], sent_ns: int) -> None:
        """A record that names them is about to be sent."""
        self._core.parties.published(parties, sent_ns)

    def claiming(self, group: str, epoch: int, now_ns: int) -> None:
        """Before a claim is sent: a process that dies meanwhile must not forget it."""
        self._core.claiming(group, epoch, now_ns)
        self._keep()

    def claim_failed(self, group: str) -> None:
        self._core.claim_failed(group)

    # -- what the others need --------------------------------------------------------------

    def words(
        self, held: Mapping[str, Held], lease_deadline_ns: int
    ) -> tuple[tuple[str, ...], tuple[int, int]]:
        """`parties` and `settled` of this node's record. While the parties are asked, they stay."""
        doubtful = any(one.doubtful for one in held.values())
        open_until_ns = max((one.armed_until_ns for one in held.values()), default=0)
        settled = self._core.settled(FAR_NS if doubtful else open_until_ns, lease_deadline_ns)
        return self._core.parties.latest if self._core.asking else self._live, settled

    def bound(self, groups: Collection[str], now_ns: int) -> dict[str, str]:
        """Groups that this node must not take, or take up, now, and why."""
        found = {}
        view = self._view or View()
        for group in groups:
            promised = self._core.promised(group, now_ns)
            owner = view.owners.get(group, Ownership())
            done = owner.node == self._me and self._served_before.get(group) == owner.epoch
            if promised is not None:
                to, until_ns = promised
                left_ms = (until_ns - now_ns) // MS
                found[group] = f"{to} has its word for {left_ms} ms more"
            elif now_ns < self._core.blank_until_ns and owner.epoch and not done:
                first = owner == Ownership(self._me, 1)  # there was nobody to promise it to
                if not first:
                    found[group] = STARTED
        return found

    def unready(self, now_ns: int) -> list[str]:
        """What a planned move to this node would have to wait for."""
        return [STARTED] if now_ns < self._core.blank_until_ns else []

    def status(self, now_ns: int) -> dict[str, Any]:
        """Plain types only."""
        stands = self._core.stands(now_ns)
        return {
            "stands": {g: (one.until_ns - now_ns) // MS for g, one in sorted(stands.items())},
            "by": list(self.by) if stands else [],
            "refused": dict(self._core.refusals),
            "silent": list(self._core.silent),
            "parties": list(self._core.parties.latest),
            "promised": {o: left_ns // MS for o, left_ns in self._core.promises(now_ns).items()},
            "asking": self._core.asking,
            "sentence": self._sentence(now_ns),
        }

    def watch(self, readable: Callable[[], None]) -> None:
        self._link.watch(readable)

    def close(self) -> None:
        self._link.close()

    def _answer(self, request: VouchRequest, now_ns: int, reached_ns: int) -> None:
        answer = self._core.answer(
            request, now_ns, reached_ns=reached_ns, view=self._view, blank=self._blank
        )
        if answer is None:
            return
        if answer.groups:
            if not self._keep():
                return
            self._tally["vouches_given"] += 1
        self._link.send(answer)

    def _keep(self) -> bool:
        """What cannot be remembered is not promised. A claim goes on: the next life will find
        that it remembers nothing, and be careful."""
        recollection = self._core.recollection()
        if recollection != self._kept:
            try:
                self._memory.keep(recollection)
            except OSError as error:
                self._kept = None
                self._tally["unremembered"] += 1
                self._tell("failed", f"cannot remember what it promised: {error}")
                return False
            self._kept = recollection
        return True

    def _sentence(self, now_ns: int) -> str:
        """How it stands while the registry is away, for an operator; empty when it is not."""
        left = self._core.promises(now_ns)
        stands = self._core.stands(now_ns)
        if stands:
            text = (
                f"the registry is gone for all: {listed(sorted(stands))} goes on by the word of"
                f" {listed(self.by)}, and no takeover is possible meanwhile"
            )
            left_ms = (min(one.until_ns for one in stands.values()) - now_ns) // MS
            lacking = self._lacking()
            return f"{text}; it ends in {left_ms} ms: {lacking}" if lacking else text
        away = self._renewed_ns and now_ns - self._renewed_ns >= self._core.unreached_ns
        if self._core.asking or (away and self._served and not self._core.parties.needed()):
            return f"no lease without the registry: {self._lacking() or 'nobody can vouch for it'}"
        if left:
            return f"its word is given to {listed(left)}: it takes nothing over from there"
        return ""

    def _lacking(self) -> str:
        """Whose word is missing, and why."""
        silent = [f"{name} does not answer" for name in self._core.silent]
        return "; ".join([*self._core.refusals.values(), *silent])

    def _why(self) -> str:
        return self._lacking() or "its time is over"
