"""One view of the registry, read as testimony: who is dead, who says so, who may be believed.

Knows: members, what each hears, leases. Must not know: groups' future, this node's own part in
it, clocks. The rules:

  a path of a node is dead   when the node says so itself (its own link is down), or when every
                             witness accuses it there. A witness is another member with a fresh
                             lease that once heard the node on that path, hears somebody on it now
                             (who hears nobody blames its own link), and is not itself accused
                             there by more of them than vouch for it.
  a node is dead             when any of its media paths is dead, or its lease has run out while
                             this node watched the registry for a whole lease (its pinholes closed
                             themselves at the same moment).
  a control path             carries no media: whoever is silent there alone is not dead; it tells
                             the reasons apart (`reasons`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from failover.registry import Member, View


@dataclass(frozen=True, slots=True)
class Death:
    """Why a node is held to be dead. `paths` and `witnesses` are empty when only its lease is."""

    paths: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    lease_over: bool = False
    silent: bool = False

    def because(self, node: str) -> str:
        if self.paths and self.witnesses == (node,):
            return f"{node} says that its own link to {listed(self.paths)} is down"
        if self.paths:
            verb = "hears" if len(self.witnesses) == 1 else "hear"
            return f"{listed(self.witnesses)} {verb} nothing from {node} on {listed(self.paths)}"
        if self.silent:
            return f"the lease of {node} has run out and nobody hears it"
        return f"the lease of {node} has run out, so its pinholes are shut, though it still answers"


class Evidence:
    """Questions about one view at one moment. `paths` are the media paths that are probed,
    `control_paths` the others."""

    def __init__(
        self,
        view: View,
        paths: Sequence[str],
        now_ns: int,
        *,
        trust_leases: bool,
        control_paths: Sequence[str] = (),
    ) -> None:
        self.view = view
        self.paths = tuple(paths)
        self.control_paths = tuple(control_paths)
        self.now_ns = now_ns
        self.trust_leases = trust_leases
        self.live: dict[str, Member] = {
            name: member
            for name, member in sorted(view.members.items())
            if now_ns < member.lease_deadline_ns
        }
        self.suspected = {
            node
            for member in self.live.values()
            for node, silent in member.suspects.items()
            if silent
        }
        """Whom anybody with a lease suspects of anything."""
        self._deaths: dict[str, Death | None] = {}
        self._hearing: dict[tuple[str, str], bool] = {}
        self._heard_by: dict[tuple[str, str], list[str]] = {}

    def death(self, node: str) -> Death | None:
        """Why `node` is dead; None while it is held to live."""
        if node not in self._deaths:
            self._deaths[node] = self._judge(node)
        return self._deaths[node]

    def accusers(self, node: str) -> list[str]:
        """The witnesses that accuse `node` on any path, agreed or not."""
        return sorted(
            {
                name
                for path in self.paths
                for name in self.witnesses(node, path)
                if not self.hears(name, node, path)
            }
        )

    def absent(self, owner: str) -> list[str]:
        """Members other than `owner` whose lease has run out."""
        return [n for n in sorted(self.view.members) if n != owner and n not in self.live]

    def gone(self) -> tuple[str, ...]:
        """Members that every witness accuses on every path, each path having a witness."""
        return tuple(
            node
            for node in sorted(self.view.members)
            if self.paths and all(self.accused_by_all(node, path) for path in self.paths)
        )

    def accused_by_all(self, node: str, path: str) -> bool:
        heard_by = self.witnesses(node, path)
        return bool(heard_by) and not any(self.hears(name, node, path) for name in heard_by)

    def heard_by_any(self, node: str, path: str) -> bool:
        """Does any member with a fresh lease hear it there?"""
        return any(self.hears(name, node, path) for name in self.live)

    def control(self, node: str) -> bool | None:
        """Is it heard on the control paths? None: it is not probed there, nobody can say, or only
        some hear it."""
        if any(self.accused_by_all(node, path) for path in self.control_paths):
            return False
        judged = [path for path in self.control_paths if self.witnesses(node, path)]
        if judged and all(
            self.hears(name, node, path) for path in judged for name in self.witnesses(node, path)
        ):
            return True
        return None

    def deaf(self, node: str) -> bool:
        """It once heard somebody on some path, and hears nobody there now."""
        member = self.live.get(node)
        return member is not None and any(
            any(path in paths for paths in member.observing.values())
            and not self._hears_anybody(node, path)
            for path in self.paths
        )

    def load(self, node: str) -> int:
        """How many groups it owns."""
        return sum(1 for ownership in self.view.owners.values() if ownership.node == node)

    def confessed(self, node: str) -> tuple[str, ...]:
        """The paths on which it says itself that its own link is down."""
        member = self.view.members.get(node, NO_ONE)
        return tuple(path for path in self.paths if path in member.suspects.get(node, ()))

    def witnesses(self, node: str, path: str) -> list[str]:
        """Who may testify about `node` on `path`."""
        if (node, path) not in self._heard_by:
            self._heard_by[node, path] = [
                name
                for name, member in self.live.items()
                if name != node
                and path in member.observing.get(node, ())
                and self._hears_anybody(name, path)
                and not self._outvoted(name, path)
            ]
        return self._heard_by[node, path]

    def hears(self, observer: str, node: str, path: str) -> bool:
        member = self.live.get(observer)
        return (
            member is not None
            and observer != node
            and path in member.observing.get(node, ())
            and path not in member.suspects.get(node, ())
        )

    def _judge(self, node: str) -> Death | None:
        confessed = self.confessed(node)
        if confessed:
            return Death(paths=confessed, witnesses=(node,))
        dead_paths: list[str] = []
        witnesses: set[str] = set()
        for path in self.paths:
            if self.accused_by_all(node, path):
                dead_paths.append(path)
                witnesses.update(self.witnesses(node, path))
        if dead_paths:
            return Death(tuple(dead_paths), tuple(sorted(witnesses)))
        if node not in self.live and self.trust_leases:
            silent = not any(self.heard_by_any(node, path) for path in self.paths)
            return Death(lease_over=True, silent=silent)
        return None

    def _hears_anybody(self, observer: str, path: str) -> bool:
        if (observer, path) not in self._hearing:
            self._hearing[observer, path] = any(
                self.hears(observer, node, path)
                for node in self.live.get(observer, NO_ONE).observing
            )
        return self._hearing[observer, path]

    def _outvoted(self, node: str, path: str) -> bool:
        accused = vouched = 0
        for name, member in self.live.items():
            if name != node and path in member.observing.get(node, ()):
                if self.hears(name, node, path):
                    vouched += 1
                elif self._hears_anybody(name, path):
                    accused += 1
        return accused > vouched


NO_ONE: Final = Member("", 0, 0)


def listed(names: Collection[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    ordered = list(names)
    if len(ordered) < 2:
        return "".join(ordered)
    return f"{', '.join(ordered[:-1])} and {ordered[-1]}"
