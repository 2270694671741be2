"""Who comes next: the order of successors, by what is known of them, load and failure domains.

Knows: one view's evidence, who is restless, what this plan has given away already. Must not know:
this node's own state, when anybody acts.

  the line   every ready living member that is not itself held to be dead, in this order: neither
             accused nor deaf; not drained; not restless (it died too often lately); fewest groups,
             so a standby first; not on the host, then not in the rack, of the node that died;
             fewest groups on its own host, then in its own rack; lowest id as text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from failover.evidence import NO_ONE, Evidence, listed


class Placement:
    """The line for each group of one plan. `restless` nodes come last."""

    def __init__(self, evidence: Evidence, restless: Collection[str]) -> None:
        self._evidence = evidence
        self._restless = restless
        self._given: dict[str, int] = {}
        self._hosts = {name: member.host for name, member in evidence.view.members.items()}
        self._racks = {name: member.rack for name, member in evidence.view.members.items()}

    def line(self, dead: str, *, drained_too: bool) -> list[str]:
        """Who may succeed `dead` (empty: nobody owned it), first in line first."""
        ready = [
            name
            for name, member in self._evidence.live.items()
            if member.ready
            and name != dead
            and (drained_too or not member.drained)
            and self._evidence.death(name) is None
        ]
        return sorted(ready, key=lambda name: self._rank(name, dead))

    def give(self, node: str) -> None:
        """This plan leaves one more group to `node`."""
        self._given[node] = self._given.get(node, 0) + 1

    def load(self, node: str) -> int:
        """Groups that it owns, or is to own by this plan."""
        return self._evidence.load(node) + self._given.get(node, 0)

    def _rank(self, name: str, dead: str) -> tuple[int | str, ...]:
        evidence = self._evidence
        member = evidence.live[name]
        other = evidence.view.members.get(dead, NO_ONE)
        return (
            bool(evidence.accusers(name)) or evidence.deaf(name),
            member.drained,
            name in self._restless,
            self.load(name),
            bool(member.host) and member.host == other.host,
            bool(member.rack) and member.rack == other.rack,
            self._crowd(self._hosts, member.host),
            self._crowd(self._racks, member.rack),
            name,
        )

    def _crowd(self, domains: Mapping[str, str], domain: str) -> int:
        """Groups of all nodes in that domain; an untold domain is shared with nobody."""
        return sum(self.load(n) for n, theirs in domains.items() if domain and theirs == domain)


def warnings(evidence: Evidence, groups: Collection[str], restless: Collection[str]) -> list[str]:
    """What an operator has to know before the next death, one line each."""
    owners = {g: o.node for g, o in evidence.view.owners.items() if g in groups and o.node}
    found = []
    for node in sorted(set(owners.values())):
        carried = [group for group in sorted(owners) if owners[group] == node]
        if len(carried) > 1 and evidence.death(node) is None:
            found.append(f"{node} carries {listed(carried)}: it has the load of {len(carried)}")
    standbys = [
        name
        for name, member in evidence.live.items()
        if name not in owners.values()
        and member.ready
        and not member.drained
        and evidence.death(name) is None
    ]
    if owners and not standbys:
        found.append("no standby is ready: the next death puts two groups on one node")
    elif owners and all(name in restless for name in standbys):
        found.append(f"the only standby is restless: {listed(standbys)} died often lately")
    return found
