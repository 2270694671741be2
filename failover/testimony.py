"""Who is silent, by everybody's word: words by the link, laid over the registry's view. No I/O.

Knows: words, records, which is the later one, when the record may follow. Must not know sockets,
clocks, what follows from silence.

When an owner falls silent all its witnesses have something to say at once, and a takeover needs
what the last of them says. So they tell each other directly, and the registry, which has a claim
to grant meanwhile, a little later (decision 55). The rules:
  - a word says whom its speaker suspects now, all of it, and has a number; the speaker's record
    says which word it holds already. The later of the two counts
  - a word counts only beside a record of the same life of its speaker: whether that one has a
    lease, is ready, whom it has ever heard, the record alone says
  - whom this node suspects itself counts at once
  - a word that is lost is in the record WRITTEN_LATER_PARTS-th of a lease later; at once if it may
    not have left this machine (a link of its own is down)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from failover.registry import Member, View

WRITTEN_LATER_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Word:
    """`by`, in the life that began at `incarnation`, suspects these peers on these paths, and
    nobody else. In one life `number` only rises."""

    by: str
    incarnation: int
    number: int
    suspects: Mapping[str, tuple[str, ...]]


class Testimony:
    """Of one node: what it says, what it has heard. At most one word of each member is kept."""

    def __init__(self, me: str, incarnation: int, lease_ns: int) -> None:
        self._me = me
        self._later_ns = lease_ns // WRITTEN_LATER_PARTS
        self._own = Word(me, incarnation, 0, {})
        self._heard: dict[str, Word] = {}
        self._laid: tuple[Mapping[str, Member], Mapping[str, Member]] | None = None
        self.write_by_ns = 0
        """Until then the registry need not know of the last word."""

    @property
    def number(self) -> int:
        """Of the last word that was said here: the record tells it."""
        return self._own.number

    def say(self, suspects: Mapping[str, tuple[str, ...]]) -> Word | None:
        """A new word, if anything has changed since the last one."""
        if suspects == self._own.suspects:
            return None
        self._own = replace(self._own, number=self._own.number + 1, suspects=dict(suspects))
        self._laid = None
        return self._own

    def told(self, now_ns: int) -> None:
        """The last word is on its way to the peers."""
        if now_ns >= self.write_by_ns:
            self.write_by_ns = now_ns + self._later_ns

    def hear(self, word: Word, view: View) -> bool:
        """A peer's word. True when it is news."""
        known = self._heard.get(word.by)
        if word.by == self._me or not _later(word, view.members.get(word.by)):
            return False
        same_life = known is not None and known.incarnation == word.incarnation
        if known is not None and same_life and known.number >= word.number:
            return False
        self._heard[word.by] = word
        self._laid = None
        return True

    def read(self, view: View) -> View:
        """The view with every later word in it; the same mapping for the same members."""
        if self._laid is None or self._laid[0] is not view.members:
            self._laid = view.members, self._lay_over(view.members)
        members = self._laid[1]
        return view if members is view.members else replace(view, members=members)

    def is_due(self, record: Member, published: Member | None, now_ns: int) -> bool:
        """Must `record` be written, `published` being what the registry has?"""
        if published is not None and now_ns < self.write_by_ns:
            record = replace(record, suspects=published.suspects, word=published.word)
        return record != published

    def _lay_over(self, members: Mapping[str, Member]) -> Mapping[str, Member]:
        self._heard = {
            by: word for by, word in self._heard.items() if _later(word, members.get(by))
        }
        words = dict(self._heard)
        if _later(self._own, members.get(self._me)):
            words[self._me] = self._own
        if not words:
            return members
        said = {by: replace(members[by], suspects=word.suspects) for by, word in words.items()}
        return {**members, **said}


def _later(word: Word, record: Member | None) -> bool:
    return (
        record is not None and record.incarnation == word.incarnation and word.number > record.word
    )
