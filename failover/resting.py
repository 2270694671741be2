"""Whether the last plan still holds, so that a turn need not decide anew. Pure; no I/O, no clock.

Knows: what the plan was made from. Must not know what it says: `decide` tells itself how long the
same knowledge gives the same plan (`Plan.rests_until_ns`).

A probe that was answered is no news. News is: another owner; a member's record that says something
else, not only a later end of its lease (of members in doubt that counts too); anything that this
node knows itself; a moment that the plan waits for. Whatever happens, a plan is made anew after
BELT_NS: should anything here be overlooked once, that is how late it is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from failover.decide import Local, Plan
from failover.registry import Member, View

BELT_NS: Final = 250_000_000


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan, what it was made from, and when."""

    plan: Plan
    view: View | None
    local: Local
    at_ns: int

    def holds(self, view: View | None, local: Local, now_ns: int) -> bool:
        """Would `decide` say the same now?"""
        until_ns = min(self.plan.rests_until_ns, self.at_ns + BELT_NS)
        if now_ns >= until_ns or view is None or self.view is None or local != self.local:
            return False
        if view.owners is not self.view.owners and view.owners != self.view.owners:
            return False
        return view.members is self.view.members or self._members_say_the_same(self.view, view)

    def _members_say_the_same(self, before: View, after: View) -> bool:
        if before.members.keys() != after.members.keys():
            return False
        doubted = self.plan.doubted
        return all(
            member is before.members[node]
            or member == before.members[node]
            or (node not in doubted and _only_renewed(before.members[node], member))
            for node, member in after.members.items()
        )


def _only_renewed(before: Member, after: Member) -> bool:
    """A lease that ends earlier than it did is news."""
    if after.lease_deadline_ns < before.lease_deadline_ns:
        return False
    return replace(after, lease_deadline_ns=before.lease_deadline_ns) == before


class Resting:
    """The last decision of a process."""

    def __init__(self) -> None:
        self._last: Decided | None = None

    def note(self, plan: Plan, view: View | None, local: Local, now_ns: int) -> None:
        """That was decided now."""
        self._last = Decided(plan, view, local, now_ns)

    def holds(self, plan: Plan, view: View | None, local: Local, now_ns: int) -> bool:
        """`plan` asked for nothing, and nothing that it was made from has changed since."""
        last = self._last
        if last is None or last.plan is not plan or not last.holds(view, local, now_ns):
            return False
        if last.view is not view:  # not to be compared again
            self._last = replace(last, view=view)
        return True
