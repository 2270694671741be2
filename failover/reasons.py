"""What is wrong with a node, as far as what is observed can tell. Pure; decides nothing.

Knows: one view's evidence, who answers on the management network (the control path) and whom the
state plane still hears there. Must
not know: groups, what follows from a condition (`decide` does not ask).

  what is observed                                               what it is
  its own word: a link without carrier                           link dead
  silent on some paths, heard on others                          link dead
  silent on all paths, has renewed its lease since               link dead (all of them)
  silent on all paths, the management network too                node dead, or it stands still
  silent on all paths, two renewals missing or lease over        node dead, or it stands still
  silent on all paths, too early to say                          silent
  heard, silent on the management network                        management cut
  heard there too, lease over                                    process dead (failover)
  heard, lease over, the state plane hears its host              process dead (failover)
  heard, lease over, the state plane does not hear its host   management cut, or both processes
  heard, lease over, nobody can say                              process dead or management cut
  lease fresh, its own word about a process                      process dead (gateway, state)
  lease fresh, its failover process stood still lately           suspended
  lease fresh, its failover process runs late                    overloaded
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from failover.evidence import Evidence, listed
from failover.lease import RENEWALS_PER_LEASE

RENEWALS_MISSED: Final = 2
NEVER_NS: Final = 1 << 62
CONTROL_LEASES: Final = 2  # the state plane takes longer to miss somebody than a lease is


class State(enum.StrEnum):
    """One word for the operator; `WELL` is never listed."""

    WELL = "well"
    SILENT = "silent"
    NODE_DEAD = "node dead"
    PROCESS_DEAD = "process dead"
    LINK_DEAD = "link dead"
    MANAGEMENT_CUT = "management cut"
    REGISTRY_GONE = "registry gone"
    UNRENEWED = "process dead or management cut"
    OVERLOADED = "overloaded"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Condition:
    """A state other than well, and the observation behind it."""

    state: State
    sentence: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the testimony of one moment does not say: who is heard by the state plane (absent:
    not known), and since when each node has been silent on all paths, from the last look."""

    control: Mapping[str, bool] = field(default_factory=dict)
    silent_since: Mapping[str, int] = field(default_factory=dict)


def silent_since(evidence: Evidence, before: Mapping[str, int]) -> dict[str, int]:
    """Since when each member has been silent on all paths that anybody can judge."""
    found = {}
    for node in evidence.view.members.keys() & evidence.suspected:
        silent, heard = _paths(evidence, node)
        if silent and not heard:
            found[node] = before.get(node, evidence.now_ns)
    return found


def conditions(evidence: Evidence, seen: Seen, lease_ns: int, me: str = "") -> dict[str, Condition]:
    """Every member but `me` that is not well, and why."""
    found = {}
    for node in sorted(evidence.view.members.keys() - {me}):
        condition = _condition(evidence, seen, lease_ns, node)
        if condition is not None:
            found[node] = condition
    return found


def next_change_ns(evidence: Evidence, lease_ns: int) -> int:
    """The first moment at which time alone may change what this evidence says: a lease ends, a
    renewal is missed, an end is long ago. In the past of it, only another record does."""
    overdue_ns = lease_ns * RENEWALS_MISSED // RENEWALS_PER_LEASE
    moments = []
    for node, member in evidence.view.members.items():
        end_ns = member.lease_deadline_ns
        moments.append(end_ns)
        if node in evidence.suspected or node not in evidence.live:
            moments += [end_ns - lease_ns + overdue_ns + 1, end_ns + lease_ns * CONTROL_LEASES]
    return min((at_ns for at_ns in moments if at_ns > evidence.now_ns), default=NEVER_NS)


def _condition(evidence: Evidence, seen: Seen, lease_ns: int, node: str) -> Condition | None:
    member = evidence.view.members[node]
    live = node in evidence.live
    if live and node not in evidence.suspected and not member.health and not member.strain:
        return None
    silent, heard = _paths(evidence, node)
    if live and (confessed := evidence.confessed(node)):
        return Condition(
            State.LINK_DEAD, f"{node} says that its own link to {listed(confessed)} is down"
        )
    if silent and not heard:
        return _silent(evidence, seen, lease_ns, node)
    if heard and not silent and evidence.control(node) is False:
        kept = "renews its lease still" if live else "does not renew its lease"
        text = f"{node} answers on {listed(heard)} and not on {listed(evidence.control_paths)}"
        return Condition(State.MANAGEMENT_CUT, f"{text}, and {kept}: its management network is cut")
    if live and silent:
        text = f"{node} is silent on {listed(silent)} and heard on {listed(heard)}"
        return Condition(State.LINK_DEAD, text)
    if not live and heard:
        return _unrenewed(evidence, seen, lease_ns, node)
    if not live:
        return Condition(State.SILENT, f"{node} does not renew its lease, and nobody can hear it")
    if member.health:
        wrong = listed(
            [f"its {name} process: {why}" for name, why in sorted(member.health.items())]
        )
        return Condition(State.PROCESS_DEAD, f"{node} says of {wrong}")
    if member.strain == State.SUSPENDED:
        return Condition(State.SUSPENDED, f"{node} stood still for a while and is back")
    if member.strain == State.OVERLOADED:
        return Condition(State.OVERLOADED, f"{node} does not get its turns in time")
    return None


def _silent(evidence: Evidence, seen: Seen, lease_ns: int, node: str) -> Condition:
    """Silent wherever anybody listens."""
    member = evidence.view.members[node]
    renewed_ns = member.lease_deadline_ns - lease_ns
    overdue_ns = lease_ns * RENEWALS_MISSED // RENEWALS_PER_LEASE
    if node in evidence.live and renewed_ns > seen.silent_since.get(node, evidence.now_ns):
        which = "media links" if evidence.control(node) else "links"
        text = f"{node} is silent on every path but renews its lease: all its {which} are dead"
        return Condition(State.LINK_DEAD, text)
    if evidence.control(node) is False:
        text = f"{node} is silent on every path, {listed(evidence.control_paths)} too: dead, or it"
        return Condition(State.NODE_DEAD, f"{text} stands still")
    if node not in evidence.live or evidence.now_ns - renewed_ns > overdue_ns:
        text = f"{node} is silent on every path and does not renew its lease: dead, or it stands"
        return Condition(State.NODE_DEAD, f"{text} still")
    text = f"{node} is silent on every path; whether it renews its lease is not known yet"
    return Condition(State.SILENT, text)


def _unrenewed(evidence: Evidence, seen: Seen, lease_ns: int, node: str) -> Condition:
    """Its packet path answers, its failover process does not renew."""
    base = f"{node} answers probes but does not renew its lease"
    if evidence.control(node):
        where = listed(evidence.control_paths)
        return Condition(
            State.PROCESS_DEAD,
            f"{base}, though it answers on {where} too: its failover process is dead or stopped,"
            " or its way to the registry is cut",
        )
    control = seen.control.get(node)
    over_ns = evidence.now_ns - evidence.view.members[node].lease_deadline_ns
    if control is None or (control and over_ns < lease_ns * CONTROL_LEASES):
        return Condition(
            State.UNRENEWED,
            f"{base}: its failover process is dead, or its way to the registry is cut",
        )
    if control:
        return Condition(
            State.PROCESS_DEAD,
            f"{base}, though its state server does: its failover process is dead or stopped",
        )
    return Condition(
        State.MANAGEMENT_CUT,
        f"{base}, nor does its state server: its management network is cut, or both are dead",
    )


def _paths(evidence: Evidence, node: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(silent on, heard on), of the paths that somebody can judge."""
    silent = tuple(path for path in evidence.paths if evidence.accused_by_all(node, path))
    heard = tuple(
        path for path in evidence.paths if path not in silent and evidence.heard_by_any(node, path)
    )
    return silent, heard
