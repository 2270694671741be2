"""Whom to have switched off for good, and when not to keep this machine alive. No I/O.

Knows: whose groups this node took, leases, how often anybody was fenced. Must not know how a node
is fenced. No takeover waits for it: the lease, the epochs and the deadline in the packet path are
what keeps two owners apart. Fencing turns "held to be dead" into "is dead" (decision 40).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from failover.actions import Held
from failover.registry import Member, View

SECOND: Final = 1_000_000_000
TRIES_MAX: Final = 3
RETRY_NS: Final = 30 * SECOND
FENCED_MAX: Final = 2
"""Nodes that one node may have fenced within WINDOW_NS: it may be the one that is wrong."""
WINDOW_NS: Final = 600 * SECOND


@dataclass(frozen=True, slots=True)
class Fenced:
    """What came of one attempt. `ok`: it is proven to be off."""

    node: str
    ok: bool
    why: str


@dataclass(slots=True)
class _Case:
    groups: dict[str, int]
    incarnation: int
    tries: int = 0
    next_ns: int = 0
    over: bool = False


class Fencing:
    """The cases of one node: the former owners of what it has taken.

    A node is due when it has lost a group to this one, which still owns it, and its lease is over:
    while it renews, it reads the registry, and lets go by itself.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._cases: dict[str, _Case] = {}
        self._times: deque[tuple[int, str]] = deque()
        self.withheld: frozenset[str] = frozenset()
        """Whom only the limit spares now."""

    def took(self, node: str, group: str, epoch: int, view: View) -> None:
        """`group` was taken at `epoch` from `node`, which is held to be dead."""
        incarnation = view.members.get(node, Member("", 0, 0)).incarnation
        case = self._cases.get(node)
        if case is None or case.incarnation != incarnation:
            case = self._cases[node] = _Case({}, incarnation)
        case.groups[group] = epoch

    def due(self, view: View, now_ns: int) -> list[str]:
        """Whom to fence now; each is counted as tried."""
        while self._times and now_ns - self._times[0][0] > WINDOW_NS:
            self._times.popleft()
        found, withheld = [], set()
        for node, case in sorted(self._cases.items()):
            if case.over or case.tries >= TRIES_MAX or now_ns < case.next_ns:
                continue
            member = view.members.get(node)
            if member is not None and member.incarnation != case.incarnation:
                case.over = True  # it has come back
                continue
            owned = any(
                (o := view.owners.get(g)) is not None and (o.node, o.epoch) == (self._me, epoch)
                for g, epoch in case.groups.items()
            )
            if not owned or (member is not None and now_ns < member.lease_deadline_ns):
                continue
            lately = {other for _, other in self._times}
            if node not in lately and len(lately) >= FENCED_MAX:
                withheld.add(node)
                continue
            case.tries += 1
            case.next_ns = now_ns + RETRY_NS
            self._times.append((now_ns, node))
            found.append(node)
        self.withheld = frozenset(withheld)
        return found

    def ended(self, outcome: Fenced) -> None:
        """An attempt is over; one that did not succeed is made again."""
        case = self._cases.get(outcome.node)
        if case is not None and outcome.ok:
            case.over = True


def may_live(held: Mapping[str, Held], lease_deadline_ns: int, now_ns: int, lease_ns: int) -> bool:
    """Whether the watchdog is to be fed: not when this node cannot let go of what is not its own.

    That is: its lease has been over for another whole lease, and it is still armed or addressed.
    """
    stuck = any(h.armed or h.addressed for h in held.values())
    return not stuck or now_ns < lease_deadline_ns + lease_ns
