"""What must be true after every fault: observations in, violations out. No I/O.

Knows: the registry's history of owners, what nodes said in their logs, when calls were closed and
when their last packet was heard. Must not know how any of that was obtained. Every function
returns lines for people, none when all is well.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bgf.lab.catalogue import Moves

CLAIMING: Final = ("decided", "armed", "addressed", "announced", "woken", "published", "active")
"""What only the owner of that epoch may say."""
MS_NS: Final = 1_000_000
SLACK_MS: Final = 250
"""An answer is read later than it was given, and a packet is on its way for a while."""

_FAILOVER: Final = re.compile(
    r" failover [A-Z]+ (decided|armed|addressed|announced|woken|published) (\S+) epoch (\d+): "
)
_GATEWAY: Final = re.compile(r" gateway [A-Z]+ group (\S+) epoch (\d+): active here")


@dataclass(frozen=True, slots=True)
class Owned:
    """The registry at `revision`: `group` belongs to `node` since then."""

    revision: int
    group: str
    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Said:
    """A line of a node's own log by which it acts as an owner."""

    node: str
    group: str
    epoch: int
    event: str


def said(node: str, text: str) -> list[Said]:
    """What a node claimed in its logs."""
    found = [
        Said(node, group, int(epoch), event) for event, group, epoch in _FAILOVER.findall(text)
    ]
    return found + [Said(node, g, int(epoch), "active") for g, epoch in _GATEWAY.findall(text)]


def one_owner(history: Sequence[Owned], claims: Iterable[Said]) -> list[str]:
    """Exactly one owner per group and epoch, over the whole time: epochs go up by one, and nobody
    acts at an epoch that the registry has given to somebody else, or to nobody."""
    found = []
    by_group: dict[str, list[Owned]] = defaultdict(list)
    for owned in sorted(history, key=lambda one: one.revision):
        by_group[owned.group].append(owned)
    for group, line in by_group.items():
        for before, after in itertools.pairwise(line):
            if after.epoch != before.epoch + 1:
                found.append(
                    f"{group}: epoch {before.epoch} of {before.node} was followed by epoch "
                    f"{after.epoch} of {after.node}"
                )
    owners = {(owned.group, owned.epoch): owned.node for owned in history}
    first = {group: min(one.epoch for one in line) for group, line in by_group.items()}
    acted: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for claim in claims:
        acted[claim.group, claim.epoch].setdefault(claim.node, claim.event)
    for (group, epoch), nodes in sorted(acted.items()):
        if len(nodes) > 1:
            who = " and ".join(f"{node} ({event})" for node, event in sorted(nodes.items()))
            found.append(f"{group} epoch {epoch}: two owners at once: {who}")
        owner = owners.get((group, epoch), "")
        if not owner and epoch < first.get(group, 0):
            continue  # of before the history that we have
        found += [
            f"{group} epoch {epoch}: {node} says '{event}', but it is "
            f"{f'that of {owner}' if owner else 'nobody’s in the registry'}"
            for node, event in sorted(nodes.items())
            if node != owner
        ]
    return found


@dataclass(frozen=True, slots=True)
class Closed:
    """A call that control has closed: when the answer was read, when it was last heard (0: never).
    Its parties send on all the time."""

    call_id: str
    answered_ns: int
    heard_ns: int


def stays_closed(closed: Iterable[Closed], lease_ms: int) -> list[str]:
    """No pinhole is open that control has closed, beyond the lease of who was cut off then."""
    late_ns = (lease_ms + SLACK_MS) * MS_NS
    return [
        f"call {one.call_id} was released, and its media still came through "
        f"{(one.heard_ns - one.answered_ns) / MS_NS:.0f} ms later (the lease is {lease_ms} ms)"
        for one in closed
        if one.heard_ns > one.answered_ns + late_ns
    ]


def moved_as_expected(moves: Moves, before: str, after: str, group: str) -> list[str]:
    """Did the group stay, or go?"""
    if moves is Moves.MUST and after == before:
        return [f"{group} stayed with {before}: somebody else was to take it over"]
    if moves is Moves.NEVER and after != before:
        return [f"{group} went from {before} to {after or 'nobody'}: it was to stay"]
    return []


def alike(group: str, records: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Every node knows the same pinholes of a group, and its packet path holds them all.
    `records`: node -> {recorded, held, digest}."""
    found = [
        f"{node} holds {one.get('held')} of {one.get('recorded')} pinholes of {group}"
        for node, one in sorted(records.items())
        if one.get("held") != one.get("recorded")
    ]
    if len({one.get("digest") for one in records.values()}) > 1:
        counts = ", ".join(f"{node} {one.get('recorded')}" for node, one in sorted(records.items()))
        found.append(f"the nodes differ about the pinholes of {group}: {counts}")
    return found
