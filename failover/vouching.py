"""The peers' word: how an owner's lease goes on while nobody reaches the registry. No I/O.

Knows: whose word an owner needs, what this node has promised to whom and until when, what it has
tried to claim. Must not know: bytes, sockets, keys, clocks, how anything is taken over.

The rules (decision 46 has the argument):
  - an owner that cannot renew asks each of its *parties*: everybody who might take over from it.
    Only when all of them vouch for a group does its deadline move, by the shortest length granted,
    counted from when it asked.
  - who vouches does not reach the registry (or only for the one lease that a registry is bridged
    which answers now one, now another), knows of no later owner, has no claim of its own under
    way, and promises to leave the group alone for longer than it granted, by its own clock. The
    promise holds whatever it learns meanwhile; only the owner itself gives it back, by saying in
    its record that nothing here is open any longer than the registry's lease.
  - the parties stand in the owner's own record, and the registry grants a claim to nobody else. So
    an owner may do without the word of somebody who was not there, and a newcomer waits until the
    owner has taken note of it.
  - who has forgotten what it promised (a machine that was switched on again) vouches for nobody
    before it has seen the registry, and takes nothing for as long as a forgotten promise may hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from failover.registry import Member, Ownership, View

LENGTH_LEASES: Final = 4
"""An extension, in leases: longer than a peer's failover process takes to be started again."""
MARGIN_PARTS: Final = 8
"""A promise outlasts what was granted by this part of it: two clocks may go differently."""
UNREACHED_FIFTHS: Final = 2
"""No renewal for so many fifths of a lease, two turns: then the registry is out of reach."""
REPEAT_PARTS: Final = 16
"""An owner asks again after this part of a lease, until all have answered; then after a half."""
ROUNDS_MAX: Final = 8
"""Questions whose answers are still taken."""
LIVES_MAX: Final = 16
"""Earlier lives of a peer that are remembered, so that a recording of one is no question."""
PARTIES_KEPT_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class VouchRequest:
    """`owner` asks `to`: may I go on with these groups (at these epochs) for `length_ns`?

    `life` is drawn at random when a failover process starts; in it, `number` only rises.
    """

    owner: str
    to: str
    life: int
    number: int
    length_ns: int
    groups: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Vouch:
    """The answer of `by` to that question: for which of the groups, for how long; or why not."""

    by: str
    owner: str
    life: int
    number: int
    length_ns: int = 0
    groups: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Promise:
    """Until when the groups of an owner are left alone. Times are CLOCK_BOOTTIME of this node."""

    life: int
    number: int
    until_ns: int
    groups: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recollection:
    """What must outlive this process: promises by owner, the epochs that it has claimed and may
    own, and until when a promise of still earlier may hold."""

    promises: Mapping[str, Promise] = field(default_factory=dict)
    claims: Mapping[str, int] = field(default_factory=dict)
    blank_until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """One group of this node's: it stands by its peers' word, at `epoch`, until `until_ns`."""

    epoch: int
    until_ns: int


@dataclass(slots=True)
class _Round:
    number: int
    sent_ns: int
    groups: Mapping[str, int]
    parties: frozenset[str]
    answered: set[str] = field(default_factory=set)


def promise_ns(length_ns: int) -> int:
    """How long a promise holds, for what it grants."""
    return length_ns + length_ns // MARGIN_PARTS


class Parties:
    """Whose word this node would need. What may stand in its record counts, not what should."""

    @dataclass(slots=True)
    class _Published:
        names: frozenset[str]
        sent_ns: int
        known_ns: int | None = None  # since when it is known to stand in the registry

    def __init__(self) -> None:
        self._published: deque[Parties._Published] = deque()

    def published(self, names: Collection[str], sent_ns: int) -> None:
        """A record with these parties is on its way, or may be."""
        if self._published and self._published[-1].names == frozenset(names):
            return
        self._published.append(self._Published(frozenset(names), sent_ns))
        if len(self._published) > PARTIES_KEPT_MAX:  # nothing is ever proven: keep the union
            oldest = self._published.popleft()
            self._published[0].names |= oldest.names
            self._published[0].known_ns = None

    @property
    def latest(self) -> tuple[str, ...]:
        return tuple(sorted(self._published[-1].names)) if self._published else ()

    def confirmed(self, sent_ns: int, now_ns: int) -> None:
        """The record that was sent then stands."""
        for one in reversed(self._published):
            if one.sent_ns <= sent_ns:
                if one.known_ns is None:
                    one.known_ns = now_ns
                return

    def proven(self, current_ns: int) -> None:
        """A view was the whole truth at that time. What it shows cannot have been claimed by
        anybody who did not stand in a record that was there before. One that stood by then has
        replaced all before it, whether they ever stood or not."""
        for at in range(len(self._published) - 1, 0, -1):
            known_ns = self._published[at].known_ns
            if known_ns is not None and known_ns <= current_ns:
                for _ in range(at):
                    self._published.popleft()
                return

    def needed(self) -> frozenset[str]:
        """Empty: nobody's word suffices, since there is nobody, or anybody may take over."""
        if not all(one.names for one in self._published):
            return frozenset()
        return frozenset().union(*(one.names for one in self._published))


class Vouching:
    """One node, as owner and as peer. `recollection` is what its last process left behind."""

    def __init__(
        self,
        me: str,
        peers: Collection[str],
        lease_ns: int,
        life: int,
        recollection: Recollection,
    ) -> None:
        self._me = me
        self._peers = frozenset(peers)
        self._lease_ns = lease_ns
        self._life = life
        self.length_ns = lease_ns * LENGTH_LEASES
        self._promises = dict(recollection.promises)
        self._claims = dict(recollection.claims)
        self._claimed_ns: dict[str, int] = {}
        self.blank_until_ns = recollection.blank_until_ns
        self._lives: dict[str, deque[int]] = {}
        self._numbers: dict[str, int] = {}
        self._number = 0
        self._rounds: deque[_Round] = deque(maxlen=ROUNDS_MAX)
        self._next_ask_ns = 0
        self._words: dict[str, dict[str, Standing]] = {}
        self._settled = 0
        self.parties = Parties()
        self.standing: Mapping[str, Standing] = {}
        self.by: tuple[str, ...] = ()
        """Who vouched for what stands."""
        self.silent: tuple[str, ...] = ()
        """Parties that had not answered when they were asked again."""
        self.refusals: Mapping[str, str] = {}
        self._bridged: frozenset[str] = frozenset()
        """Whose last word was shorter than what was asked for: it must be asked again soon."""

    # -- as a peer -------------------------------------------------------------------------

    def answer(
        self,
        request: VouchRequest,
        now_ns: int,
        *,
        reached_ns: int,
        view: View | None,
        blank: bool,
    ) -> Vouch | None:
        """What to answer; None for what is not for us, or was heard before.

        `reached_ns`: when the last confirmed renewal was sent, 0 for never. `view` is the last one
        that was seen, however old. `blank`: this node may have forgotten what it did. Whoever
        sends the answer first keeps `recollection()`.
        """
        if request.to != self._me or request.owner not in self._peers or not self._new(request):
            return None
        answer = Vouch(self._me, request.owner, request.life, request.number)
        length_ns, since_ns = self.length_ns, now_ns - reached_ns
        if reached_ns and since_ns < self.unreached_ns:
            length_ns = self._bridge_ns(request.owner, now_ns, view)
            if length_ns <= 0:
                return replace(
                    answer, why=f"{self._me} reached the registry {since_ns // 10**6} ms ago"
                )
        if blank:
            return replace(answer, why=f"{self._me} has just started and knows nothing")
        owners = view.owners if view is not None else {}
        groups = tuple(
            group
            for group, epoch in sorted(request.groups.items())
            if self._may_vouch(group, Ownership(request.owner, epoch), owners.get(group))
        )
        if not groups:
            return replace(answer, why=f"{self._me} knows of a later owner")
        length_ns = min(request.length_ns, length_ns)
        self._promise(request, groups, now_ns + promise_ns(length_ns))
        return replace(answer, length_ns=length_ns, groups=groups)

    def promised(self, group: str, now_ns: int) -> tuple[str, int] | None:
        """To whom this node has promised to leave the group alone, and until when."""
        found = [
            (promise.until_ns, owner)
            for owner, promise in self._promises.items()
            if now_ns < promise.until_ns and group in promise.groups
        ]
        return max(found)[::-1] if found else None

    def promises(self, now_ns: int) -> dict[str, int]:
        """Owner -> for how many ns it is left alone yet."""
        return {
            owner: promise.until_ns - now_ns
            for owner, promise in sorted(self._promises.items())
            if now_ns < promise.until_ns
        }

    def read(self, view: View, now_ns: int) -> None:
        """What owners give back, and which claims were settled."""
        for owner, promise in list(self._promises.items()):
            life, number = view.members.get(owner, _NOBODY).settled
            if now_ns >= promise.until_ns or (life == promise.life and number >= promise.number):
                del self._promises[owner]
        for group, owned in view.owners.items():
            if owned.node == self._me:  # a claim in doubt may have come through meanwhile
                self._claims[group] = owned.epoch
        for group, epoch in list(self._claims.items()):
            later = view.current_ns >= self._claimed_ns.get(group, 0)
            if later and view.owners.get(group) != Ownership(self._me, epoch):
                del self._claims[group]  # if it comes through yet, our promises bind us still
        self.parties.proven(view.current_ns)

    def claiming(self, group: str, epoch: int, now_ns: int) -> None:
        """About to claim the group at that epoch: `recollection()` is to be kept first."""
        self._claims[group] = epoch
        self._claimed_ns[group] = now_ns

    def claim_failed(self, group: str) -> None:
        """The registry has refused it: it never took effect."""
        self._claims.pop(group, None)

    def recollection(self) -> Recollection:
        return Recollection(dict(self._promises), dict(self._claims), self.blank_until_ns)

    def _new(self, request: VouchRequest) -> bool:
        lives = self._lives.setdefault(request.owner, deque(maxlen=LIVES_MAX))
        if not lives or lives[-1] != request.life:
            if request.life in lives:
                return False
            lives.append(request.life)
            self._numbers[request.owner] = 0
        if request.number <= self._numbers[request.owner]:
            return False
        self._numbers[request.owner] = request.number
        return True

    def _may_vouch(self, group: str, asked: Ownership, known: Ownership | None) -> bool:
        if self._claims.get(group, 0) > asked.epoch:
            return False
        later = known is not None and known.epoch >= asked.epoch and known != asked
        return not later

    def _bridge_ns(self, owner: str, now_ns: int, view: View | None) -> int:
        """For how long to vouch while the registry answers this node: it may be slow, and answer
        now one, now another. One lease past what the owner's last renewal gave it, and no more."""
        member = view.members.get(owner, _NOBODY) if view is not None else _NOBODY
        return member.lease_deadline_ns + self._lease_ns - now_ns

    def _promise(self, request: VouchRequest, groups: Collection[str], until_ns: int) -> None:
        before = self._promises.get(request.owner)
        named = {group: request.groups[group] for group in groups}
        if before is not None:
            until_ns = max(until_ns, before.until_ns)
            named = {**before.groups, **named}
        self._promises[request.owner] = Promise(request.life, request.number, until_ns, named)

    # -- as an owner -----------------------------------------------------------------------

    def due_ns(self, reached_ns: int) -> int:
        """When to ask next, if the registry is not reached before."""
        return max(self._next_ask_ns, reached_ns + self.unreached_ns)

    def ask(self, now_ns: int, reached_ns: int, groups: Mapping[str, int]) -> list[VouchRequest]:
        """The questions that are due now, for the groups that are served here."""
        needed = self.parties.needed()
        if not groups or not reached_ns or not needed or now_ns < self.due_ns(reached_ns):
            return []
        self._number += 1
        if self._rounds:
            last = self._rounds[-1]
            self.silent = tuple(sorted(last.parties - last.answered))
        self._rounds.append(_Round(self._number, now_ns, dict(groups), needed))
        self._next_ask_ns = now_ns + self._lease_ns // REPEAT_PARTS
        return [
            VouchRequest(self._me, name, self._life, self._number, self.length_ns, dict(groups))
            for name in sorted(needed & self._peers)
        ]

    def heard(self, vouch: Vouch, now_ns: int) -> bool:
        """An answer. True when a deadline may move."""
        asked = next((one for one in self._rounds if one.number == vouch.number), None)
        ours = (vouch.owner, vouch.life) == (self._me, self._life)
        if asked is None or not ours or vouch.by not in asked.parties:
            return False
        refusals = {name: why for name, why in self.refusals.items() if name != vouch.by}
        self.refusals = {**refusals, vouch.by: vouch.why} if vouch.why else refusals
        asked.answered.add(vouch.by)
        words = self._words.setdefault(vouch.by, {})
        for group in asked.groups.keys() & set(vouch.groups):
            word = Standing(asked.groups[group], asked.sent_ns + vouch.length_ns)
            if group not in words or word.until_ns > words[group].until_ns:
                words[group] = word
        short = vouch.length_ns < self.length_ns  # of somebody whom the registry answers
        self._bridged = self._bridged | {vouch.by} if short else self._bridged - {vouch.by}
        if asked.answered >= asked.parties and not self.refusals and not self._bridged:
            self._next_ask_ns = max(self._next_ask_ns, asked.sent_ns + self._lease_ns // 2)
        return self._count(asked.groups, now_ns)

    def _count(self, groups: Mapping[str, int], now_ns: int) -> bool:
        """What stands by everybody's last word, none of which can be taken back."""
        needed = self.parties.needed()
        moved = False
        for group, epoch in groups.items():
            words = [self._words.get(name, {}).get(group) for name in needed]
            if not words or any(word is None or word.epoch != epoch for word in words):
                continue
            until_ns = min(word.until_ns for word in words if word is not None)
            before = self.standing.get(group, Standing(0, 0))
            if now_ns < until_ns and (before.epoch != epoch or until_ns > before.until_ns):
                self.standing = {**self.standing, group: Standing(epoch, until_ns)}
                self.by = tuple(sorted(needed))
                moved = True
        return moved

    def stands(self, now_ns: int) -> dict[str, Standing]:
        """What goes on by the peers' word now."""
        return {group: one for group, one in self.standing.items() if now_ns < one.until_ns}

    def reached(self, sent_ns: int, now_ns: int) -> None:
        """The registry has renewed the lease, which was asked for at `sent_ns`: that counts alone,
        and no answer does any more. Not so if it took as long as being out of reach does: what is
        left of such a lease may be nothing, and the next one may take longer still."""
        if now_ns - sent_ns >= self.unreached_ns:
            return
        self.standing, self._words, self._rounds = {}, {}, deque(maxlen=ROUNDS_MAX)
        self.by, self.silent, self.refusals, self._bridged = (), (), {}, frozenset()

    @property
    def asking(self) -> bool:
        """While this is so, the record must name the parties that were asked."""
        return bool(self._rounds or self.standing)

    def settled(self, open_until_ns: int, lease_deadline_ns: int) -> tuple[int, int]:
        """What to tell in the record: the number of the last question whose answers nothing here
        depends on any more. `open_until_ns` is the latest deadline that is armed."""
        if not self.asking and open_until_ns <= lease_deadline_ns:
            self._settled = self._number
        return self._life, self._settled

    @property
    def unreached_ns(self) -> int:
        """For so long without a renewal, and the registry counts as out of reach."""
        return self._lease_ns * UNREACHED_FIFTHS // 5


_NOBODY: Final = Member("", 0, 0)
