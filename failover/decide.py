"""Who is dead, who takes over, and which step is missing. A pure function of what it is given.

Knows: the registry's view, what this node holds, time. Must not know: sockets, clocks, netlink,
how any action is performed. `decide` is run again after every step and from every interrupted
state; it derives what is missing, so it never needs to remember where it was.

Who is dead, `evidence` says; who is next, `placement`. The next in line acts when the ones before
it did not within `patience_ns` each, of a registry that answers: asked then, it must say so. Its
compare-and-swap has the last word anyway.

A planned move needs three turns of three nodes at most: the owner publishes an offer; who is
offered it claims it, arms, announces and says that it serves; the old owner, hearing that, lets the
addresses go and forwards what still comes to it until its deadline, which it does not move again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from failover.actions import (
    STEPS,
    Action,
    AddAddresses,
    Announce,
    Arm,
    Claim,
    Held,
    LetGo,
    MakeOffer,
    Publish,
    StepDown,
    WakeGateway,
    Withdraw,
)
from failover.evidence import NO_ONE, Death, Evidence, listed
from failover.placement import Placement, warnings
from failover.reasons import Condition, Seen, conditions, next_change_ns, silent_since
from failover.registry import Offer, Ownership, View
from failover.vouching import Standing

ANYBODY: Final = ""
"""A wish for a group to go to whoever is next in line."""


class Rule(enum.StrEnum):
    """In this order, for each group; the first that fits."""

    EARLIER_LIFE = "I have just started and have no lease yet -> what was armed before runs out"
    LEASE_OVER = "my lease has run out -> hold nothing"
    BLIND = "the registry does not answer -> keep what I hold until my lease ends, take nothing"
    VOUCHED = "my lease cannot be renewed, all who could take it over vouch -> serve it meanwhile"
    HANDING = "I gave it away, it is not served there yet -> go on as I am until my deadline"
    RELEASE = "I gave it away, it is served there -> let the addresses go"
    HANDED_OVER = "I gave it away and let it go -> forward what still comes until my deadline"
    FOREIGN = "the view names another owner of what I hold -> step down at once"
    BOUND = "its last owner has my word, or may have -> leave it alone until that ends"
    UNFINISHED = "I own it and a step is not done for this epoch -> the missing steps, in order"
    WITHDRAW = "I offered it, it is not to go there any more -> take the offer back"
    OFFERED = "I offered it -> go on until it is claimed"
    OFFER = "it is to move and somebody is ready for it -> offer it"
    STUCK = "it is to move and nobody is ready for it -> keep it"
    EXTEND = "I own it, all is done, my lease is longer than its deadline -> move the deadline"
    MINE = "I own it, all is done -> nothing"
    INVITED = "its living owner offers it to me and I am ready -> claim"
    UNREADY = "its living owner offers it to me and I am not ready -> leave it"
    BARRED = "nobody has ever owned it, somebody outside answers for its addresses -> wait"
    PREFERRED = "nobody has ever owned it, I am its preferred node and ready -> claim"
    UNOWNED = "nobody has owned it for a grace period, I am the first in line -> claim"
    UNOWNED_WAIT = "nobody has ever owned it, somebody else is to claim it -> wait"
    WATCH = "its owner is dead, some leases are over, I have not watched for a lease -> wait"
    RESTLESS = "its owner died too often lately and is only accused -> wait a lease"
    NEWCOMER = "its owner is dead and had not taken note of whoever is ready -> wait"
    SUCCEED = "its owner is dead, I am the first in line -> claim"
    FOLLOW = "its owner is dead, somebody else is the first in line -> wait"
    NOBODY = "its owner is dead, nobody is ready to succeed -> wait"
    DOUBT = "its owner is accused, the witnesses do not agree -> wait"
    SETTLED = "its owner lives -> nothing"


@dataclass(frozen=True, slots=True)
class Policy:
    """What does not change while running. `groups` maps a group to its preferred node; `paths`
    carry media, `control_paths` do not."""

    groups: Mapping[str, str]
    paths: tuple[str, ...]
    lease_ns: int
    unowned_grace_ns: int
    patience_ns: int
    offer_ns: int = 2_000_000_000
    control_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """What only this node knows. Times in ns of CLOCK_BOOTTIME.

    `watching_since_ns`: since when the registry has answered and this node's own lease has been
    fresh, both without a break; `answering_since_ns`: since when it has kept no renewal of this
    node's waiting. `vacant_since` and `silent_since` are the previous plan's.
    `barred` maps a group to the reason why it must not be brought up for the first time now.
    `wishes` maps a group of this node's to where an operator wants it, or to ANYBODY. `restless`
    and `control` are what `flapping` and the state plane say of other nodes. `standing` are the
    groups that go on by the word of `vouchers`; `bound` maps a group that this node must leave
    alone to the reason (`vouching`).
    """

    groups: Mapping[str, Held]
    lease_deadline_ns: int
    watching_since_ns: int
    vacant_since: Mapping[str, int] = field(default_factory=dict)
    barred: Mapping[str, str] = field(default_factory=dict)
    wishes: Mapping[str, str] = field(default_factory=dict)
    unready: tuple[str, ...] = ()
    restless: frozenset[str] = frozenset()
    control: Mapping[str, bool] = field(default_factory=dict)
    silent_since: Mapping[str, int] = field(default_factory=dict)
    standing: Mapping[str, Standing] = field(default_factory=dict)
    vouchers: tuple[str, ...] = ()
    bound: Mapping[str, str] = field(default_factory=dict)
    answering_since_ns: int = 0


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
    dead: tuple[str, ...] = ()
    """Members that are held to be dead, for whatever reason."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """What is wrong with other members."""
    warnings: tuple[str, ...] = ()
    silent_since: Mapping[str, int] = field(default_factory=dict)
    clauses: Mapping[str, str] = field(default_factory=dict)
    """The part of the sentence that is about each group."""
    rests_until_ns: int = 0
    """Until then, the same view and the same local knowledge give the same plan (`resting`); 0
    when they need not."""
    doubted: frozenset[str] = frozenset()
    """Members that somebody suspects, or whose lease is over: each renewal of theirs counts."""
    asks: bool = False
    """What follows depends on what the registry says now: renew, which makes the view current."""

    def about(self, me: str, group: str) -> str:
        """The sentence of one group alone."""
        clause = self.clauses.get(group)
        return f"{me} {clause}." if clause else self.sentence


Verdict = tuple[Rule, Sequence[Action], str]


def decide(me: str, policy: Policy, view: View | None, local: Local, now_ns: int) -> Plan:
    """What node `me` has to do now. `view` is None while the registry does not answer.

    Deterministic, without side effects, and idempotent: performing any prefix of the actions and
    deciding again gives the rest.
    """
    alive = now_ns < local.lease_deadline_ns
    if any(now_ns < one.until_ns for one in local.standing.values()) and (not alive or not view):
        return _plan_vouched(me, policy, view, local, now_ns)
    if not alive:
        return _plan_without_lease(me, policy, local)
    if view is None:
        return _plan_blind(me, policy, local)
    trust_leases = now_ns - local.watching_since_ns >= policy.lease_ns
    evidence = Evidence(
        view,
        policy.paths,
        now_ns,
        trust_leases=trust_leases,
        control_paths=policy.control_paths,
    )
    return _Decision(me, policy, evidence, local).plan()


def _plan_without_lease(me: str, policy: Policy, local: Local) -> Plan:
    """Before the first lease of this life, what an earlier one may have left is left alone: it was
    armed no longer than that one's lease, and whoever owns it by then, a first view tells."""
    first = not local.lease_deadline_ns
    rules: list[tuple[str, Rule]] = []
    drops, leaves = [], []
    for group in sorted(policy.groups):
        held = local.groups.get(group, Held())
        earlier = first and held == Held(doubtful=True)
        rules.append((group, Rule.EARLIER_LIFE if earlier else Rule.LEASE_OVER))
        leaves += [group] if earlier else []
        drops += [group] if held.anything and not earlier else []
    sentence = f"{me} holds nothing and takes nothing: it has no lease."
    if drops:
        sentence = f"{me} steps down from {listed(drops)}: its own lease has run out."
    elif leaves:
        sentence = (
            f"{me} takes nothing and leaves {listed(leaves)} as an earlier life did: no lease yet."
        )
    return Plan(
        actions=tuple(StepDown(group) for group in drops), sentence=sentence, rules=tuple(rules)
    )


def _plan_blind(me: str, policy: Policy, local: Local) -> Plan:
    holds = [g for g in sorted(policy.groups) if local.groups.get(g, Held()).anything]
    what = f"keeps {listed(holds)} until its lease ends and" if holds else "holds nothing and"
    return Plan(
        actions=(),
        sentence=f"{me} {what} takes nothing over: the registry does not answer.",
        rules=tuple((group, Rule.BLIND) for group in sorted(policy.groups)),
        vacant_since=local.vacant_since,
    )


def _plan_vouched(me: str, policy: Policy, view: View | None, local: Local, now_ns: int) -> Plan:
    """What stands by the peers' word goes on, and is finished where a takeover was interrupted;
    everything else ends with the lease."""
    alive = now_ns < local.lease_deadline_ns
    actions: list[Action] = []
    rules: list[tuple[str, Rule]] = []
    serves, keeps, drops = [], [], []
    for group in sorted(policy.groups):
        held = local.groups.get(group, Held())
        stands = local.standing.get(group, _NOTHING)
        epoch = stands.epoch
        mine = view is None or view.owners.get(group) == Ownership(me, epoch)
        covered = now_ns < stands.until_ns and held.armed == epoch and not held.released
        if covered and mine:
            rules.append((group, Rule.VOUCHED))
            serves.append(group)
            steps: list[tuple[bool, Action]] = [
                (held.armed_until_ns >= stands.until_ns, Arm(group, epoch, stands.until_ns)),
                (held.addressed == epoch, AddAddresses(group, epoch)),
                (held.announced == epoch, Announce(group, epoch)),
                (held.woken == epoch, WakeGateway(group, epoch)),
            ]
            actions += [action for done, action in steps if not done]
        elif alive and not covered:
            rules.append((group, Rule.BLIND))
            keeps += [group] if held.anything else []
        else:
            rules.append((group, Rule.FOREIGN if covered else Rule.LEASE_OVER))
            drops += [group] if held.anything else []
            actions += [StepDown(group)] if held.anything else []
    parts = [f"serves {listed(serves)} by the word of {listed(local.vouchers)}"] if serves else []
    parts += [f"keeps {listed(keeps)} until its lease ends"] if keeps else []
    parts += [f"steps down from {listed(drops)}"] if drops else []
    why = ": the registry is out of reach of all, and nobody takes anything over meanwhile"
    return Plan(
        actions=tuple(actions),
        sentence=f"{me} {'; '.join(parts) or 'holds nothing'}{why if serves else ''}.",
        rules=tuple(rules),
        vacant_since=local.vacant_since,
    )


class _Decision:
    """One run over all groups, with the view that the registry gave."""

    def __init__(self, me: str, policy: Policy, evidence: Evidence, local: Local) -> None:
        self._me = me
        self._policy = policy
        self._evidence = evidence
        self._view = evidence.view
        self._local = local
        self._now_ns = evidence.now_ns
        self._placement = Placement(evidence, local.restless)
        self._vacant_since: dict[str, int] = {}
        self._asks = False
        self._offering = any(h.offered and not h.released for h in local.groups.values())

    def plan(self) -> Plan:
        evidence, local, me = self._evidence, self._local, self._me
        actions: list[Action] = []
        rules: list[tuple[str, Rule]] = []
        clauses: dict[str, str] = {}
        for group in sorted(self._policy.groups):
            rule, steps, clause = self._judge(group)
            rules.append((group, rule))
            actions += steps
            clauses[group] = clause
        silent = silent_since(evidence, local.silent_since)
        rests = (
            not actions
            and not local.restless
            and evidence.trust_leases
            and all(rule in _RESTING for _, rule in rules)
        )
        seen = Seen(local.control, silent)
        return Plan(
            actions=tuple(actions),
            sentence=f"{me} {'; '.join(clauses.values())}."
            if clauses
            else f"{me} has no groups to look after.",
            rules=tuple(rules),
            vacant_since=self._vacant_since,
            urgent=any(rule in _URGENT for _, rule in rules),
            gone=tuple(node for node in evidence.gone() if node != me),
            dead=tuple(n for n in sorted(self._view.members) if n != me and evidence.death(n)),
            conditions=conditions(evidence, seen, self._policy.lease_ns, me),
            warnings=tuple(warnings(evidence, self._policy.groups, local.restless)),
            silent_since=silent,
            clauses=clauses,
            rests_until_ns=next_change_ns(evidence, self._policy.lease_ns) if rests else 0,
            doubted=frozenset(evidence.suspected | (self._view.members.keys() - evidence.live)),
            asks=self._asks,
        )

    def _judge(self, group: str) -> Verdict:
        owner = self._view.owners.get(group, Ownership())
        held = self._local.groups.get(group, Held())
        if owner.node == self._me:
            return self._own(group, owner, held)
        if held.anything:
            return self._foreign(group, owner, held)
        death = self._evidence.death(owner.node) if owner.node else None
        if not owner.node or death is not None:
            since_ns = min(self._local.vacant_since.get(group, self._now_ns), self._now_ns)
            if group in self._local.bound:  # others too, about as long: the line begins anew then
                since_ns = self._now_ns
            self._vacant_since[group] = since_ns
            line = self._placement.line(owner.node, drained_too=death is not None)
            last = self._view.members.get(owner.node, NO_ONE)
            admitted = [node for node in line if last.admits(node)]
            if line and not admitted:
                return self._unknown(group, owner, line)
            line = admitted
            if line:
                self._placement.give(line[0])
            return self._fill(_Vacancy(group, owner, since_ns, line, death))
        return self._living(group, owner)

    # -- what I own --------------------------------------------------------------------------

    def _own(self, group: str, owner: Ownership, held: Held) -> Verdict:
        """I own it: which steps are missing for this epoch? Is it to move?"""
        epoch = owner.epoch
        until_ns = self._local.lease_deadline_ns
        stands = self._local.standing.get(group, _NOTHING)
        if stands.epoch == epoch:
            until_ns = max(until_ns, stands.until_ns)
        # Or later: the peers' word had moved it, and the registry's lease counts again.
        stale_deadline = held.armed_until_ns != until_ns
        steps: list[tuple[bool, Action]] = [
            (held.armed == epoch and not stale_deadline, Arm(group, epoch, until_ns)),
            (held.addressed == epoch, AddAddresses(group, epoch)),
            (held.announced == epoch, Announce(group, epoch)),
            (held.woken == epoch, WakeGateway(group, epoch)),
            (held.published == epoch and not held.doubtful, Publish(group, epoch)),
        ]
        missing = [action for done, action in steps if not done]
        if group in self._local.bound and held.armed != epoch:
            clause = f"owns {group} at epoch {epoch} and waits: {self._local.bound[group]}"
            return Rule.BOUND, [], clause
        extends = len(missing) == 1 and held.armed == epoch and isinstance(missing[0], Arm)
        if missing and not extends:
            names = [name for name, (done, _) in zip(STEPS, steps, strict=True) if not done]
            clause = f"takes {group} up at epoch {epoch}: {', '.join(names)}"
            return Rule.UNFINISHED, missing, clause
        moving = self._move(group, epoch, held)
        if moving is not None:
            rule, more, clause = moving
            return rule, [*missing, *more], clause
        if extends:
            clause = f"serves {group} at epoch {epoch} and moves its deadline"
            return Rule.EXTEND, missing, clause
        return Rule.MINE, [], f"serves {group} at epoch {epoch}"

    def _move(self, group: str, epoch: int, held: Held) -> Verdict | None:
        """A planned move of what I serve: one offer at a time."""
        wish = self._wish(group)
        if held.offered:
            to = held.offered_to
            why = self._why_not(to)
            if held.offered != epoch or wish is None or wish not in (ANYBODY, to):
                why = "it is not to move there any more"
            elif not why and self._now_ns >= held.offered_until_ns:
                why = f"{to} did not claim it in time"
            if why:
                return Rule.WITHDRAW, [Withdraw(group)], f"keeps {group}: {why}"
            return Rule.OFFERED, [], f"serves {group} until {to} claims it"
        if wish is None:
            return None
        line = [wish] if wish else self._placement.line(self._me, drained_too=False)
        fit = [node for node in line if not self._why_not(node)]
        if not fit:
            whys = [why for why in map(self._why_not, line[:1]) if why]
            why = listed(whys) or "no other node is ready"
            return Rule.STUCK, [], f"keeps {group}, which is to move: {why}"
        if self._offering:
            return Rule.STUCK, [], f"serves {group}, which moves after the one that is offered"
        self._offering = True
        self._placement.give(fit[0])
        offer = MakeOffer(group, epoch, fit[0], self._now_ns + self._policy.offer_ns)
        return Rule.OFFER, [offer], f"offers {group} to {fit[0]}"

    def _wish(self, group: str) -> str | None:
        wish = self._local.wishes.get(group)
        drained = self._view.members.get(self._me, NO_ONE).drained
        return ANYBODY if wish is None and drained else wish

    def _why_not(self, node: str) -> str:
        """Why `node` could not take over by plan now; empty when it could."""
        member = self._evidence.live.get(node)
        if node == self._me:
            return f"{node} has it already"
        if member is None:
            known = node in self._view.members
            return f"{node} has no lease" if known else f"there is no node {node}"
        if death := self._evidence.death(node):
            return death.because(node)
        if accusers := self._evidence.accusers(node):
            return f"{listed(accusers)} cannot hear {node}"
        if member.drained:
            return f"{node} is drained"
        if not member.ready or member.unready:
            return f"{node} is not ready ({listed(member.unready) or 'its gateway is silent'})"
        return ""

    # -- what others own ---------------------------------------------------------------------

    def _foreign(self, group: str, owner: Ownership, held: Held) -> Verdict:
        """I hold something of a group that is not mine: given away, or lost?"""
        by = f"{owner.node} owns it at epoch {owner.epoch}" if owner.node else "nobody owns it"
        given = bool(held.offered) and (
            (owner.node, owner.epoch) == (held.offered_to, held.offered + 1)
        )
        ends = self._now_ns >= held.armed_until_ns or self._evidence.death(owner.node)
        if not given or ends:
            return Rule.FOREIGN, [StepDown(group)], f"steps down from {group}: {by}"
        if held.released == owner.epoch:
            clause = f"has handed {group} over to {owner.node} and forwards what still comes here"
            return Rule.HANDED_OVER, [], clause
        taker = self._view.members.get(owner.node, NO_ONE)
        if taker.serves.get(group) == owner.epoch:
            clause = f"lets {group} go: {owner.node} serves it at epoch {owner.epoch}"
            return Rule.RELEASE, [LetGo(group, owner.epoch)], clause
        return Rule.HANDING, [], f"forwards for {group} until {owner.node} serves it"

    def _living(self, group: str, owner: Ownership) -> Verdict:
        """Its owner lives and is not me."""
        member = self._view.members.get(owner.node, NO_ONE)
        if member.offers.get(group) == Offer(self._me, owner.epoch):
            why = self._not_mine_to_take(group)
            if why:
                clause = f"leaves {group} with {owner.node}, which offers it: {why}"
                return Rule.UNREADY, [], clause
            clause = f"claims {group} at epoch {owner.epoch + 1}: {owner.node} offers it"
            return Rule.INVITED, [Claim(group, owner)], clause
        accusers = self._evidence.accusers(owner.node)
        if accusers:
            clause = (
                f"leaves {group} with {owner.node}: only {listed(accusers)} "
                f"{'hears' if len(accusers) == 1 else 'hear'} nothing from it somewhere"
            )
            return Rule.DOUBT, [], clause
        return Rule.SETTLED, [], f"sees {owner.node} serve {group}"

    def _not_mine_to_take(self, group: str) -> str:
        """Why I cannot accept an offer now."""
        member = self._evidence.live.get(self._me, NO_ONE)
        if self._local.unready:
            return listed(self._local.unready)
        if group in self._local.bound:
            return self._local.bound[group]
        if not member.ready:
            return "its gateway process is silent"
        if self._evidence.deaf(self._me) or self._evidence.death(self._me):
            return "its own links are in doubt"
        return ""

    # -- what nobody living owns -------------------------------------------------------------

    def _fill(self, vacancy: _Vacancy) -> Verdict:
        """Nobody living owns it: is it mine to claim, and now?"""
        if vacancy.death is None:
            return self._first(vacancy)
        group, owner, line = vacancy.group, vacancy.owner, vacancy.line
        because = vacancy.death.because(owner.node)
        missing = self._evidence.absent(owner.node)
        if missing and not self._evidence.trust_leases:
            clause = f"waits a lease for {listed(missing)} to renew before {group} moves: {because}"
            return Rule.WATCH, [], clause
        accused_only = not vacancy.death.lease_over and vacancy.death.witnesses != (owner.node,)
        waits = self._now_ns - vacancy.since_ns < self._policy.lease_ns
        if owner.node in self._local.restless and accused_only and waits:
            clause = f"waits a lease with {group}, {owner.node} died too often lately: {because}"
            return Rule.RESTLESS, [], clause
        rank = line.index(self._me) if self._me in line else None
        due = rank is not None and self._may_act(vacancy, rank)
        if due and group in self._local.bound:
            clause = f"leaves {group} alone: {self._local.bound[group]}; {because}"
            return Rule.BOUND, [], clause
        if rank is not None and due:
            late = f", and {listed(line[:rank])} did not act" if rank else ""
            clause = f"claims {group} at epoch {owner.epoch + 1}: {because}{late}"
            return Rule.SUCCEED, [Claim(group, owner)], clause + self._warning(line)
        if not line:
            return Rule.NOBODY, [], f"finds nobody ready to take {group}: {because}"
        return Rule.FOLLOW, [], f"leaves {group} to {line[0]}: {because}"

    def _unknown(self, group: str, owner: Ownership, line: Sequence[str]) -> Verdict:
        """Its owner may live and go on by the word of nodes that are not here."""
        parties = self._view.members.get(owner.node, NO_ONE).parties
        clause = (
            f"leaves {group} alone: {owner.node} may go on by the word of {listed(parties)}, and"
            f" {listed(line)} came later"
        )
        return Rule.NEWCOMER, [], clause

    def _first(self, vacancy: _Vacancy) -> Verdict:
        """Nobody has ever owned it."""
        group, line, epoch = vacancy.group, vacancy.line, vacancy.owner.epoch + 1
        claim = Claim(group, vacancy.owner)
        rank = line.index(self._me) if self._me in line else None
        preferred = self._policy.groups[group]
        if group in self._local.barred:
            return Rule.BARRED, [], f"does not bring {group} up: {self._local.barred[group]}"
        if rank is not None and preferred == self._me:
            clause = f"claims {group} at epoch {epoch}: nobody has owned it and it is preferred"
            return Rule.PREFERRED, [claim], clause
        if rank is not None and self._may_act(vacancy, rank, self._policy.unowned_grace_ns):
            why = f"nobody has owned it and {preferred or 'no preferred node'} did not come"
            clause = f"claims {group} at epoch {epoch}: {why}{self._warning(line)}"
            return Rule.UNOWNED, [claim], clause
        return Rule.UNOWNED_WAIT, [], f"waits for {preferred or 'somebody'} to claim {group}"

    def _may_act(self, vacancy: _Vacancy, rank: int, grace_ns: int = 0) -> bool:
        """Did the `rank` nodes before this one have the time to act? Not while the registry kept
        this one waiting, and perhaps them; and a view that does not show it yet says nothing."""
        due_ns = vacancy.since_ns + grace_ns
        if rank:
            due_ns = max(due_ns, self._local.answering_since_ns) + rank * self._policy.patience_ns
            current_ns = self._view.current_ns or self._now_ns
            self._asks |= current_ns < due_ns <= self._now_ns
            return due_ns <= min(current_ns, self._now_ns)
        return due_ns <= self._now_ns

    def _warning(self, line: Sequence[str]) -> str:
        """What this node owns already, or takes in this very plan."""
        load = self._placement.load(self._me) - (1 if line[0] == self._me else 0)
        return f" (warning: no standby is ready, {self._me} already owns {load})" if load else ""


_RESTING: Final = frozenset({Rule.MINE, Rule.SETTLED})
_URGENT: Final = frozenset({Rule.DOUBT, Rule.FOLLOW, Rule.NOBODY, Rule.OFFERED, Rule.HANDING})


_NOTHING: Final = Standing(0, 0)


@dataclass(frozen=True, slots=True)
class _Vacancy:
    group: str
    owner: Ownership
    since_ns: int
    line: Sequence[str]
    death: Death | None
