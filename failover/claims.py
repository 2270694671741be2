"""Claims, and what became of each: granted, refused, or unanswered and known later.

Knows: the registry's `claim`, who has to hear of a takeover. Must not know who is dead or whose
turn it is (`decide`).

A claim whose answer was lost may have come through. The next view that names this node the owner
at that epoch says so, and what belongs to a takeover is done then: the dead owner is fenced, the
takeover is counted and told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from failover.decide import Plan
from failover.reasons import State
from failover.registry import Ownership, Registry, View
from failover.timeline import Tell
from failover.voucher import Voucher


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim and why: of a group that stood as `seen` in `view`. `dead`: its owner is held to
    be."""

    seen: Ownership
    view: View
    dead: bool
    reason: str
    sentence: str


def attempted(seen: Ownership, view: View, plan: Plan, sentence: str) -> Attempt:
    """With the reason why its last owner loses the group, in one word or two."""
    dead = seen.node in plan.dead
    condition = plan.conditions.get(seen.node)
    reason = (condition.state if condition else State.SILENT).value if dead else "planned move"
    return Attempt(seen, view, dead, reason if seen.node else "first bring-up", sentence)


class Claims:
    """Of one node; the last one of each group is kept."""

    def __init__(
        self,
        me: str,
        registry: Registry,
        voucher: Voucher,
        *,
        took: Callable[[str, str, int, View], None],
        tell: Tell,
        tally: Counter[str],
    ) -> None:
        self._me = me
        self._registry = registry
        self._voucher = voucher
        self._took = took
        self._tell = tell
        self._tally = tally
        self._open: dict[str, Attempt] = {}
        self.last_owner: dict[str, str] = {}
        """Of each group that has moved: who had it before."""

    def claim(self, group: str, attempt: Attempt, now_ns: int) -> Ownership | None:
        """None: the registry refused it, if no earlier try of it came through (`refused`). Raises
        RegistryUnavailable: nobody knows yet."""
        self._voucher.claiming(group, attempt.seen.epoch + 1, now_ns)
        self._open[group] = attempt
        won = self._registry.claim(group, attempt.seen, self._me)
        if won is not None:
            self._book(group, won)
        return won

    def refused(self, group: str) -> None:
        """It said no, and the view that was read since does not show that an earlier try of it
        came through. A later one may."""
        attempt = self._open.get(group)
        if attempt is not None:
            self._voucher.claim_failed(group)
            self._tally["claims_lost"] += 1
            text = f"somebody else was faster than {self._me} at {group}"
            self._tell("refused", group, self._me, attempt.seen.epoch + 1, text)

    def read(self, group: str, owner: Ownership) -> None:
        """Who owns it now, by a new view."""
        attempt = self._open.get(group)
        if attempt is not None and owner == Ownership(self._me, attempt.seen.epoch + 1):
            self._book(group, owner)

    def _book(self, group: str, won: Ownership) -> None:
        attempt = self._open.pop(group)
        self._tally["claims_won"] += 1
        self._voucher.won(group, won)
        last = self.last_owner[group] = attempt.seen.node
        if attempt.dead:
            self._took(last, group, won.epoch, attempt.view)
        self._tell(
            "decided",
            group,
            self._me,
            won.epoch,
            attempt.sentence,
            reason=attempt.reason,
            last=last,
        )
