"""Reads and replays the failover transcripts in tests/golden/failover. No test in here.

Lines that a person writes: what the registry's view says, the clock, who we are; then `decide`,
or `perform` (do what was decided, semantically). Lines that begin with `=`, `|` or `>` are the
answer: the sentence, the rule per group, the actions in order. `!` is the condition of a node that
is not well, `?` a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from failover.actions import Action, Arm, Claim, Held, MakeOffer, done
from failover.decide import Local, Plan, Policy, Rule, decide
from failover.registry import Member, Offer, Ownership, View
from failover.vouching import Standing

MS = 1_000_000
ANSWER = ("=", "|", ">", "!", "?")


def describe(action: Action) -> str:
    """One action as a reader sees it, times in ms."""
    match action:
        case Claim(group, seen):
            return f"Claim {group} after {seen.node or 'nobody'}@{seen.epoch}"
        case Arm(group, epoch, until_ns):
            return f"Arm {group}@{epoch} until {until_ns // MS}"
        case MakeOffer(group, epoch, to, until_ns):
            return f"MakeOffer {group}@{epoch} to {to} until {until_ns // MS}"
    at: int | None = getattr(action, "epoch", None)
    return f"{type(action).__name__} {action.group}" + (f"@{at}" if at else "")


@dataclass
class Stage:
    """The whole input of `decide`, line by line."""

    groups: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    control_paths: tuple[str, ...] = ()
    timers: dict[str, int] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    owners: dict[str, Ownership] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)
    wishes: dict[str, str] = field(default_factory=dict)
    unready: tuple[str, ...] = ()
    restless: frozenset[str] = frozenset()
    control: dict[str, bool] = field(default_factory=dict)
    vacant: Mapping[str, int] = field(default_factory=dict)
    silent: Mapping[str, int] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    vouchers: tuple[str, ...] = ()
    bound: dict[str, str] = field(default_factory=dict)
    me: str = ""
    lease_ns: int = 0
    watching_ns: int = 0
    now_ns: int = 0
    known_ns: int = 0
    answering_ns: int = 0
    answers: bool = True
    plan: Plan | None = None
    rules: list[Rule] = field(default_factory=list)

    def feed(self, line: str) -> list[str]:
        """Take one written line; return the lines that answer it."""
        word, *rest = line.split()
        match word:
            case "groups":
                self.groups = dict(_pair(item) for item in rest)
            case "paths":
                self.paths = tuple(rest)
            case "control-paths":
                self.control_paths = tuple(rest)
            case "timers":
                self.timers = {k: int(v) for k, v in (_pair(item) for item in rest)}
            case "at":
                self.now_ns = int(rest[0]) * MS
            case "member":
                self.members[rest[0]] = _member(rest)
            case "gone":
                del self.members[rest[0]]
            case "owner":
                self.owners[rest[0]] = Ownership(rest[1], int(rest[2]))
            case "registry":
                self.answers = rest[0] == "answers"
            case "me":
                self._become(rest)
            case "known":  # as of when the view is the whole truth; unwritten: now
                self.known_ns = int(rest[0]) * MS
            case "answering":
                self.answering_ns = int(rest[0]) * MS
            case "lease":
                self.lease_ns = int(rest[0]) * MS
            case "held":
                self.held[rest[0]] = _held(rest[1:])
            case "barred":
                self.barred[rest[0]] = " ".join(rest[1:])
            case "wish":
                self.wishes[rest[0]] = rest[1] if len(rest) > 1 else ""
            case "unready":
                self.unready = (" ".join(rest),) if rest else ()
            case "restless":
                self.restless = frozenset(rest)
            case "control":
                self.control = {k: v == "yes" for k, v in (_pair(item) for item in rest)}
            case "stands":
                self.standing = {rest[0]: Standing(int(rest[1]), int(rest[2]) * MS)}
                self.vouchers = tuple(rest[3:])
            case "bound":
                self.bound = {rest[0]: " ".join(rest[1:])} if rest else {}
            case "decide":
                return self._decide()
            case "perform":
                self._perform(int(rest[0]) if rest else None)
            case _:
                raise AssertionError(f"transcript line not understood: {line}")
        return []

    def _become(self, rest: list[str]) -> None:
        self.me = rest[0]
        options = dict(_pair(item) for item in rest[1:])
        self.lease_ns = int(options["lease"]) * MS
        self.watching_ns = int(options["watching"]) * MS
        self.held, self.vacant, self.barred, self.silent = {}, {}, {}, {}
        self.wishes, self.unready, self.restless, self.control = {}, (), frozenset(), {}
        self.standing, self.vouchers, self.bound = {}, (), {}
        self.known_ns = self.answering_ns = 0

    def _decide(self) -> list[str]:
        policy = Policy(
            groups=self.groups,
            paths=self.paths,
            lease_ns=self.timers["lease"] * MS,
            unowned_grace_ns=self.timers["grace"] * MS,
            patience_ns=self.timers["patience"] * MS,
            control_paths=self.control_paths,
        )
        local = Local(
            self.held,
            self.lease_ns,
            self.watching_ns,
            self.vacant,
            self.barred,
            self.wishes,
            self.unready,
            self.restless,
            self.control,
            self.silent,
            self.standing,
            self.vouchers,
            self.bound,
            self.answering_ns,
        )
        view = View(self.members, self.owners, self.known_ns) if self.answers else None
        self.plan = decide(self.me, policy, view, local, self.now_ns)
        assert decide(self.me, policy, view, local, self.now_ns) == self.plan
        self.vacant, self.silent = self.plan.vacant_since, self.plan.silent_since
        self.rules += [rule for _, rule in self.plan.rules]
        lines = [f"= {self.plan.sentence}"]
        lines += [f"| {group}: {rule.name}" for group, rule in self.plan.rules]
        lines += [f"> {describe(action)}" for action in self.plan.actions]
        lines += [
            f"! {node} {condition.state.value}: {condition.sentence}"
            for node, condition in self.plan.conditions.items()
        ]
        lines += [f"? {warning}" for warning in self.plan.warnings]
        lines += ["> ask the registry"] if self.plan.asks else []
        return lines

    def _perform(self, count: int | None) -> None:
        assert self.plan is not None
        for action in self.plan.actions[:count]:
            if isinstance(action, Claim):
                assert self.owners.get(action.group, Ownership()) == action.seen
                self.owners[action.group] = Ownership(self.me, action.seen.epoch + 1)
            self.held[action.group] = done(self.held.get(action.group, Held()), action)
        if self.me in self.members:  # what it does shows in its record
            self.members[self.me] = replace(
                self.members[self.me],
                offers={
                    g: Offer(h.offered_to, h.offered) for g, h in self.held.items() if h.offered
                },
                serves={g: h.serving for g, h in self.held.items() if h.serving},
            )


def replay(text: str) -> tuple[str, Stage]:
    """The transcript with its answers written anew, and the stage as it ended."""
    stage = Stage()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(ANSWER):
            continue
        lines.append(line)
        written = line.partition("#")[0].strip()
        if written:
            lines += stage.feed(written)
    return "\n".join(lines) + "\n", stage


def _pair(item: str) -> tuple[str, str]:
    key, _, value = item.partition("=")
    return key, value


def _member(rest: list[str]) -> Member:
    """`member n1 lease=5900 [ready] hears n2:a,b ... [silent n3:a ...]`; also `drained`, `host=`,
    `rack=`, `parties=n2,n3`, `strain=`, `unready=`, `gateway=`, `offers=g1:n3@1`, `serves=g1@1`."""
    member = Member(rest[0], 1, 0)
    observing: dict[str, tuple[str, ...]] = {}
    suspects: dict[str, tuple[str, ...]] = {}
    into: dict[str, tuple[str, ...]] = {}
    for word in rest[1:]:
        if word.startswith("lease="):
            member = replace(member, lease_deadline_ns=int(word[6:]) * MS)
        elif word == "ready":
            member = replace(member, ready=True)
        elif word.startswith("parties="):
            member = replace(member, parties=tuple(word[8:].split(",")))
        elif word == "drained":
            member = replace(member, drained=True)
        elif "=" in word:
            member = _with(member, *_pair(word))
        elif word in ("hears", "silent"):
            into = observing if word == "hears" else suspects
        else:
            peer, _, paths = word.partition(":")
            into[peer] = tuple(paths.split(","))
            if into is suspects and peer != member.node:
                observing.setdefault(peer, ())
                observing[peer] = tuple(sorted({*observing[peer], *paths.split(",")}))
    return replace(member, observing=observing, suspects=suspects)


def _with(member: Member, key: str, value: str) -> Member:
    match key:
        case "host":
            return replace(member, host=value)
        case "rack":
            return replace(member, rack=value)
        case "strain":
            return replace(member, strain=value)
        case "unready":
            return replace(member, unready=(value.replace("_", " "),))
        case "gateway" | "state":
            return replace(member, health={**member.health, key: value.replace("_", " ")})
        case "offers":
            group, _, where = value.partition(":")
            to, _, epoch = where.partition("@")
            return replace(member, offers={**member.offers, group: Offer(to, int(epoch))})
        case "serves":
            group, _, epoch = value.partition("@")
            return replace(member, serves={**member.serves, group: int(epoch)})
    raise AssertionError(f"a member has no {key}")


def _held(rest: list[str]) -> Held:
    """`held g1 epoch=1 until=6000` (everything done for that epoch), or each field by its name."""
    values = dict(_pair(item) for item in rest)
    epoch = int(values.pop("epoch", 0))
    held = Held(armed=epoch, addressed=epoch, announced=epoch, woken=epoch, published=epoch)
    held = replace(held, armed_until_ns=int(values.pop("until", 0)) * MS)
    known = {f.name for f in fields(Held)}
    assert known >= set(values), f"a held group has {', '.join(sorted(known))}"
    given: dict[str, Any] = {
        name: value if name == "offered_to" else int(value) * (MS if name.endswith("_ns") else 1)
        for name, value in values.items()
    }
    if "doubtful" in given:
        given["doubtful"] = bool(given["doubtful"])
    return replace(held, **given)
