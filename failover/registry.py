"""Who is a member, who owns which group at which epoch: the interface, and its null twin.

The real thing is a consensus engine (etcd past one machine, an embedded registry on one). This
room sees only the interface. The one write that matters is `claim`: a compare-and-swap of owner
and epoch, so that of two claimants exactly one wins (DESIGN section 4, "decide").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ownership:
    """Group -> owner. Epoch 0 with an empty node means nobody has owned it yet."""

    node: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """An owner's consent: `to` may claim the group while it is still owned at `epoch`."""

    to: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Member:
    """One node as it last described itself. `lease_deadline_ns` is CLOCK_BOOTTIME.

    `ready` says the node could take a group over now (its gateway process follows the feed).
    `suspects` maps a peer's node id to the media paths on which this member, as an observer,
    gets no answer from it; an empty tuple or no entry means it is heard.
    `observing` maps a peer's node id to the media paths on which it has ever been heard: only on
    those is silence a statement (down only after it has been heard once).
    `host` and `rack` are its failure domains, empty when not told. `drained`: it is to carry
    nothing. `unready`: what a planned move to it would have to wait for.
    `offers` maps a group to whom it may go; `serves` maps a group to the epoch for which
    everything is done here. `health` maps a process of the node to what is wrong with it, and
    `strain` is "overloaded" or "suspended" for a while after its failover process was.
    `parties` are those whose word it needs to go on without the registry, and the only ones who may
    take over from it; empty: it goes on by nobody's word, and anybody may. `settled` is (life,
    number) of its last question to them on whose answers it does not depend any more. `word` is the
    number of the last word that it told its peers directly and this record holds (`testimony`).
    """

    node: str
    incarnation: int
    lease_deadline_ns: int
    ready: bool = False
    suspects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    observing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    host: str = ""
    rack: str = ""
    drained: bool = False
    unready: tuple[str, ...] = ()
    offers: Mapping[str, Offer] = field(default_factory=dict)
    serves: Mapping[str, int] = field(default_factory=dict)
    health: Mapping[str, str] = field(default_factory=dict)
    strain: str = ""
    parties: tuple[str, ...] = ()
    settled: tuple[int, int] = (0, 0)
    word: int = 0

    def admits(self, node: str) -> bool:
        """May `node` take over from this one?"""
        return not self.parties or node == self.node or node in self.parties


@dataclass(frozen=True, slots=True)
class View:
    """One consistent reading of the registry, which was the whole truth at `current_ns`
    (CLOCK_BOOTTIME of this node; 0: not known)."""

    members: Mapping[str, Member] = field(default_factory=dict)
    owners: Mapping[str, Ownership] = field(default_factory=dict)
    current_ns: int = field(default=0, compare=False)

    def begun_since(self, before: View) -> list[str]:
        """Members that are in another life than they were."""
        if self.members is before.members:
            return []
        known = {name: member.incarnation for name, member in before.members.items()}
        return [n for n, member in self.members.items() if known.get(n) != member.incarnation]


class Registry(Protocol):
    """Adapters implement it; errors are RegistryUnavailable, never a wrong answer."""

    def view(self) -> View:
        """Members and owners as they are now."""

    def record(self, node: str) -> Member | None:
        """What `node` said of itself last, asked of the registry now, however old the view is. It
        waits as `publish` does; its answer makes the view current again. Raises
        RegistryUnavailable."""

    def publish(self, member: Member) -> None:
        """Replace this node's own record (renews its lease). Raises RegistryUnavailable, or
        RegistryPending when it is still being written: `granted_ns` tells when it was."""

    def granted_ns(self) -> int:
        """The latest `lease_deadline_ns` of a record of this process that is known to stand, 0
        before the first. Never waits."""

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        """Own `group` at `seen.epoch + 1` if it is still as `seen` and the record of its last
        owner, as it stands at that moment, admits `node`; None otherwise.

        It says who may forward. Who acts on the group's state raises its fence to that epoch first,
        and waits for it: media does not.
        """


class RegistryUnavailable(Exception):
    """The registry cannot answer now (no quorum, no segment); says which and since when."""


class RegistryPending(RegistryUnavailable):
    """It has not answered yet; the answer is still waited for, elsewhere."""


class MemoryRegistry:
    """The null twin: one process, no persistence. For tests and simulation."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._owners: dict[str, Ownership] = {}
        self._granted_ns = 0

    def view(self) -> View:
        return View(dict(self._members), dict(self._owners))

    def record(self, node: str) -> Member | None:
        return self._members.get(node)

    def publish(self, member: Member) -> None:
        self._members[member.node] = member
        self._granted_ns = max(self._granted_ns, member.lease_deadline_ns)

    def granted_ns(self) -> int:
        return self._granted_ns

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        if self._owners.get(group, Ownership()) != seen:
            return None
        last = self._members.get(seen.node)
        if last is not None and not last.admits(node):
            return None
        won = Ownership(node, seen.epoch + 1)
        self._owners[group] = won
        return won
