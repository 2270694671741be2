"""Who is dead, who takes over, and which step is missing. A pure function of what it is given.

Knows: the registry's view, what this node holds, time. Must not know: sockets, clocks, netlink,
how any action is performed. `decide` is run again after every step and from every interrupted
state; it derives what is missing, so it never needs to remember where it was.

Per group, the first rule of `Rule` that fits decides. Deaths and successors:

  a path of a node is dead   when the node says so itself (its own link is down), or when every
                             witness accuses it there. A witness is another member with a fresh
                             lease that once heard the node on that path, hears somebody on it now
                             (who hears nobody blames its own link), and is not itself accused
                             there by more of them than vouch for it.
  a node is dead             when any of its media paths is dead, or its lease has run out while
                             this node watched the registry for a whole lease (its pinholes closed
                             themselves at the same moment).
  the successor              is the first ready living member in the order: not accused and not
                             deaf; fewest groups, so a standby first; lowest id as text. The next
                             in line acts when the ones before it did not within `patience_ns`
                             each. The registry's compare-and-swap has the last word anyway.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from failover.registry import Member, Ownership, View


class Rule(enum.StrEnum):
    """In this order, for each group; the first that fits."""

    LEASE_OVER = "my lease has run out -> hold nothing"
    BLIND = "the registry does not answer -> keep what I hold until my lease ends, take nothing"
    FOREIGN = "the view names another owner of what I hold -> step down at once"
    UNFINISHED = "I own it and a step is not done for this epoch -> the missing steps, in order"
    EXTEND = "I own it, all is done, my lease is longer than its deadline -> move the deadline"
    MINE = "I own it, all is done -> nothing"
    BARRED = "nobody has ever owned it, somebody outside answers for its addresses -> wait"
    PREFERRED = "nobody has ever owned it, I am its preferred node and ready -> claim"
    UNOWNED = "nobody has owned it for a grace period, I am the first in line -> claim"
    UNOWNED_WAIT = "nobody has ever owned it, somebody else is to claim it -> wait"
    WATCH = "its owner is dead, some leases are over, I have not watched for a lease -> wait"
    SUCCEED = "its owner is dead, I am the first in line -> claim"
    FOLLOW = "its owner is dead, somebody else is the first in line -> wait"
    NOBODY = "its owner is dead, nobody is ready to succeed -> wait"
    DOUBT = "its owner is accused, the witnesses do not agree -> wait"
    SETTLED = "its owner lives -> nothing"


STEPS: Final = ("arm", "add addresses", "announce", "wake the gateway", "publish")


@dataclass(frozen=True, slots=True)
class Claim:
    """Compare-and-swap the ownership; the registry fences the older epoch before it returns."""

    group: str
    seen: Ownership


@dataclass(frozen=True, slots=True)
class Arm:
    """Let the packet path forward for `group` until `until_ns`."""

    group: str
    epoch: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class AddAddresses:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Announce:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class WakeGateway:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Publish:
    group: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """Disarm, remove the addresses, tell the gateway."""

    group: str


Action = Claim | Arm | AddAddresses | Announce | WakeGateway | Publish | StepDown


@dataclass(frozen=True, slots=True)
class Policy:
    """What does not change while running. `groups` maps a group to its preferred node."""

    groups: Mapping[str, str]
    paths: tuple[str, ...]
    lease_ns: int
    unowned_grace_ns: int
    patience_ns: int


@dataclass(frozen=True, slots=True)
class Held:
    """How far this node has performed one group: the epoch for which each step is done, or 0.

    `doubtful` is the state after a restart: an earlier life may have left something behind.
    """

    armed: int = 0
    armed_until_ns: int = 0
    addressed: int = 0
    announced: int = 0
    woken: int = 0
    published: int = 0
    doubtful: bool = False

    @property
    def anything(self) -> bool:
        return bool(self.armed or self.addressed or self.announced or self.woken or self.doubtful)


@dataclass(frozen=True, slots=True)
class Local:
    """What only this node knows. Times in ns of CLOCK_BOOTTIME.

    `watching_since_ns`: since when the registry has answered and this node's own lease has been
    fresh, both without a break. `vacant_since` is the previous plan's. `barred` maps a group to
    the reason why it must not be brought up for the first time now.
    """

    groups: Mapping[str, Held]
    lease_deadline_ns: int
    watching_since_ns: int
    vacant_since: Mapping[str, int] = field(default_factory=dict)
    barred: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in order, and why. `urgent`: look again sooner than usual."""

    actions: tuple[Action, ...]
    sentence: str
    rules: tuple[tuple[str, Rule], ...]
    vacant_since: Mapping[str, int] = field(default_factory=dict)
    urgent: bool = False
    gone: tuple[str, ...] = ()
    """Members that nobody hears on any path: nothing of theirs need be waited for."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why a node is held to be dead. `paths` and `witnesses` are empty when only its lease is."""

    paths: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    lease_over: bool = False
    silent: bool = False

    def because(self, node: str) -> str:
        if self.paths and self.witnesses == (node,):
            return f"{node} says that its own link to {_list(self.paths)} is down"
        if self.paths:
            verb = "hears" if len(self.witnesses) == 1 else "hear"
            return f"{_list(self.witnesses)} {verb} nothing from {node} on {_list(self.paths)}"
        if self.silent:
            return f"the lease of {node} has run out and nobody hears it"
        return f"the lease of {node} has run out, so its pinholes are shut, though it still answers"


class Evidence:
    """One view, read as testimony."""

    def __init__(self, view: View, policy: Policy, now_ns: int, trust_leases: bool) -> None:
        self._view = view
        self._policy = policy
        self.trust_leases = trust_leases
        self.live: dict[str, Member] = {
            name: member
            for name, member in sorted(view.members.items())
            if now_ns < member.lease_deadline_ns
        }
        self._deaths: dict[str, Death | None] = {}

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
                for path in self._policy.paths
                for name in self._witnesses(node, path)
                if not self._hears(name, node, path)
            }
        )

    def absent(self, owner: str) -> list[str]:
        """Members other than `owner` whose lease has run out."""
        return [n for n in sorted(self._view.members) if n != owner and n not in self.live]

    def gone(self) -> tuple[str, ...]:
        """Members that every witness accuses on every path, each path having a witness."""
        return tuple(
            node
            for node in sorted(self._view.members)
            if self._policy.paths
            and all(self._accused_by_all(node, path) for path in self._policy.paths)
        )

    def _accused_by_all(self, node: str, path: str) -> bool:
        heard_by = self._witnesses(node, path)
        return bool(heard_by) and not any(self._hears(name, node, path) for name in heard_by)

    def deaf(self, node: str) -> bool:
        """It once heard somebody on some path, and hears nobody there now."""
        member = self.live.get(node)
        return member is not None and any(
            any(path in paths for paths in member.observing.values())
            and not self._hears_anybody(node, path)
            for path in self._policy.paths
        )

    def load(self, node: str) -> int:
        """How many groups it owns."""
        return sum(1 for ownership in self._view.owners.values() if ownership.node == node)

    def _judge(self, node: str) -> Death | None:
        member = self._view.members.get(node, Member(node, 0, 0))
        confessed = [path for path in self._policy.paths if path in member.suspects.get(node, ())]
        if confessed:
            return Death(paths=tuple(confessed), witnesses=(node,))
        dead_paths: list[str] = []
        witnesses: set[str] = set()
        for path in self._policy.paths:
            heard_by = self._witnesses(node, path)
            if heard_by and not any(self._hears(name, node, path) for name in heard_by):
                dead_paths.append(path)
                witnesses.update(heard_by)
        if dead_paths:
            return Death(tuple(dead_paths), tuple(sorted(witnesses)))
        if node not in self.live and self.trust_leases:
            silent = not any(
                self._hears(name, node, path) for name in self.live for path in self._policy.paths
            )
            return Death(lease_over=True, silent=silent)
        return None

    def _witnesses(self, node: str, path: str) -> list[str]:
        return [
            name
            for name, member in self.live.items()
            if name != node
            and path in member.observing.get(node, ())
            and self._hears_anybody(name, path)
            and not self._outvoted(name, path)
        ]

    def _hears(self, observer: str, node: str, path: str) -> bool:
        member = self.live.get(observer)
        return (
            member is not None
            and observer != node
            and path in member.observing.get(node, ())
            and path not in member.suspects.get(node, ())
        )

    def _hears_anybody(self, observer: str, path: str) -> bool:
        return any(
            self._hears(observer, node, path) for node in self.live.get(observer, _NO_ONE).observing
        )

    def _outvoted(self, node: str, path: str) -> bool:
        accused = vouched = 0
        for name, member in self.live.items():
            if name != node and path in member.observing.get(node, ()):
                if self._hears(name, node, path):
                    vouched += 1
                elif self._hears_anybody(name, path):
                    accused += 1
        return accused > vouched


_NO_ONE: Final = Member("", 0, 0)


def decide(me: str, policy: Policy, view: View | None, local: Local, now_ns: int) -> Plan:
    """What node `me` has to do now. `view` is None while the registry does not answer.

    Deterministic, without side effects, and idempotent: performing any prefix of the actions and
    deciding again gives the rest.
    """
    if now_ns >= local.lease_deadline_ns:
        return _plan_without_lease(me, policy, local)
    if view is None:
        return _plan_blind(me, policy, local)

    trust_leases = now_ns - local.watching_since_ns >= policy.lease_ns
    evidence = Evidence(view, policy, now_ns, trust_leases)
    extra_load: dict[str, int] = {}
    actions: list[Action] = []
    rules: list[tuple[str, Rule]] = []
    clauses: list[str] = []
    vacant_since: dict[str, int] = {}
    for group in sorted(policy.groups):
        owner = view.owners.get(group, Ownership())
        held = local.groups.get(group, Held())
        if owner.node == me:
            rule, steps, clause = _own(group, owner, held, local)
        elif held.anything:
            rule, steps = Rule.FOREIGN, [StepDown(group)]
            clause = (
                f"steps down from {group}: {owner.node} owns it at epoch {owner.epoch}"
                if owner.node
                else f"steps down from {group}: nobody owns it"
            )
        else:
            death = evidence.death(owner.node) if owner.node else None
            if owner.node and death is None:
                accusers = evidence.accusers(owner.node)
                rule, steps = (Rule.DOUBT if accusers else Rule.SETTLED), []
                clause = (
                    f"leaves {group} with {owner.node}: only {_list(accusers)} "
                    f"{'hears' if len(accusers) == 1 else 'hear'} nothing from it somewhere"
                    if accusers
                    else f"sees {owner.node} serve {group}"
                )
            else:
                since_ns = min(local.vacant_since.get(group, now_ns), now_ns)
                vacant_since[group] = since_ns
                line = _line(evidence, policy, view, owner.node, extra_load)
                if line:
                    extra_load[line[0]] = extra_load.get(line[0], 0) + 1
                vacancy = _Vacancy(group, owner, now_ns - since_ns, line, death)
                rule, steps, clause = _fill(me, policy, evidence, local, vacancy)
        rules.append((group, rule))
        actions += steps
        clauses.append(clause)
    return Plan(
        actions=tuple(actions),
        sentence=f"{me} {'; '.join(clauses)}." if clauses else f"{me} has no groups to look after.",
        rules=tuple(rules),
        vacant_since=vacant_since,
        urgent=any(rule in _URGENT for _, rule in rules),
        gone=tuple(node for node in evidence.gone() if node != me),
    )


_URGENT: Final = frozenset({Rule.DOUBT, Rule.FOLLOW, Rule.NOBODY})


def _plan_without_lease(me: str, policy: Policy, local: Local) -> Plan:
    drops = [g for g in sorted(policy.groups) if local.groups.get(g, Held()).anything]
    sentence = (
        f"{me} steps down from {_list(drops)}: its own lease has run out."
        if drops
        else f"{me} holds nothing and takes nothing: it has no lease."
    )
    return Plan(
        actions=tuple(StepDown(group) for group in drops),
        sentence=sentence,
        rules=tuple((group, Rule.LEASE_OVER) for group in sorted(policy.groups)),
    )


def _plan_blind(me: str, policy: Policy, local: Local) -> Plan:
    holds = [g for g in sorted(policy.groups) if local.groups.get(g, Held()).anything]
    what = f"keeps {_list(holds)} until its lease ends and" if holds else "holds nothing and"
    return Plan(
        actions=(),
        sentence=f"{me} {what} takes nothing over: the registry does not answer.",
        rules=tuple((group, Rule.BLIND) for group in sorted(policy.groups)),
        vacant_since=local.vacant_since,
    )


def _own(
    group: str, owner: Ownership, held: Held, local: Local
) -> tuple[Rule, Sequence[Action], str]:
    """I own it: which steps are missing for this epoch?"""
    epoch = owner.epoch
    until_ns = local.lease_deadline_ns
    stale_deadline = held.armed_until_ns < until_ns
    steps: list[tuple[bool, Action]] = [
        (held.armed == epoch and not stale_deadline, Arm(group, epoch, until_ns)),
        (held.addressed == epoch, AddAddresses(group, epoch)),
        (held.announced == epoch, Announce(group, epoch)),
        (held.woken == epoch, WakeGateway(group, epoch)),
        (held.published == epoch and not held.doubtful, Publish(group, epoch)),
    ]
    missing = [action for done, action in steps if not done]
    if not missing:
        return Rule.MINE, [], f"serves {group} at epoch {epoch}"
    if len(missing) == 1 and held.armed == epoch and isinstance(missing[0], Arm):
        return Rule.EXTEND, missing, f"serves {group} at epoch {epoch} and moves its deadline"
    names = [name for name, (done, _) in zip(STEPS, steps, strict=True) if not done]
    return Rule.UNFINISHED, missing, f"takes {group} up at epoch {epoch}: {', '.join(names)}"


@dataclass(frozen=True, slots=True)
class _Vacancy:
    group: str
    owner: Ownership
    age_ns: int
    line: Sequence[str]
    death: Death | None


def _fill(
    me: str, policy: Policy, evidence: Evidence, local: Local, vacancy: _Vacancy
) -> tuple[Rule, Sequence[Action], str]:
    """Nobody living owns it: is it mine to claim, and now?"""
    group, owner, line, death = vacancy.group, vacancy.owner, vacancy.line, vacancy.death
    claim = Claim(group, owner)
    epoch = owner.epoch + 1
    rank = line.index(me) if me in line else None
    warning = _warning(evidence, me)
    if death is None:
        preferred = policy.groups[group]
        if group in local.barred:
            return Rule.BARRED, [], f"does not bring {group} up: {local.barred[group]}"
        if rank is not None and preferred == me:
            clause = f"claims {group} at epoch {epoch}: nobody has owned it and it is preferred"
            return Rule.PREFERRED, [claim], clause
        waited_ns = vacancy.age_ns - policy.unowned_grace_ns
        if rank is not None and waited_ns >= rank * policy.patience_ns:
            why = f"nobody has owned it and {preferred or 'no preferred node'} did not come"
            return Rule.UNOWNED, [claim], f"claims {group} at epoch {epoch}: {why}{warning}"
        return Rule.UNOWNED_WAIT, [], f"waits for {preferred or 'somebody'} to claim {group}"
    because = death.because(owner.node)
    missing = evidence.absent(owner.node)
    if missing and not evidence.trust_leases:
        clause = f"waits a lease for {_list(missing)} to renew before {group} moves: {because}"
        return Rule.WATCH, [], clause
    if rank is not None and vacancy.age_ns >= rank * policy.patience_ns:
        late = f", and {_list(line[:rank])} did not act" if rank else ""
        clause = f"claims {group} at epoch {epoch}: {because}{late}{warning}"
        return Rule.SUCCEED, [claim], clause
    if not line:
        return Rule.NOBODY, [], f"finds nobody ready to take {group}: {because}"
    return Rule.FOLLOW, [], f"leaves {group} to {line[0]}: {because}"


def _line(
    evidence: Evidence,
    policy: Policy,
    view: View,
    owner: str,
    extra_load: Mapping[str, int],
) -> list[str]:
    """Who may succeed `owner`, first in line first."""
    ready = [
        name
        for name, member in evidence.live.items()
        if member.ready and name != owner and evidence.death(name) is None
    ]
    return sorted(
        ready,
        key=lambda name: (
            bool(evidence.accusers(name)) or evidence.deaf(name),
            evidence.load(name) + extra_load.get(name, 0),
            name,
        ),
    )


def _warning(evidence: Evidence, node: str) -> str:
    load = evidence.load(node)
    return f" (warning: no standby is ready, {node} already owns {load})" if load else ""


def _list(names: Collection[str]) -> str:
    ordered = list(names)
    if len(ordered) < 2:
        return "".join(ordered)
    return f"{', '.join(ordered[:-1])} and {ordered[-1]}"


def done(held: Held, action: Action) -> Held:
    """What is held once `action` has been performed. The performer's only bookkeeping."""
    match action:
        case Arm(_, epoch, until_ns):
            return replace(held, armed=epoch, armed_until_ns=until_ns)
        case AddAddresses(_, epoch):
            return replace(held, addressed=epoch)
        case Announce(_, epoch):
            return replace(held, announced=epoch)
        case WakeGateway(_, epoch):
            return replace(held, woken=epoch)
        case Publish(_, epoch):
            return replace(held, published=epoch, doubtful=False)
        case StepDown():
            return Held()
        case Claim():
            return held
