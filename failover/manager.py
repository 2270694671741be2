"""The performer of the failover process: wakes at deadlines, asks the cores, does what they say.

Knows: the adapters it was given, the order of a turn, what has been done. Must not know: how a
death is recognised (`detector`, `decide`), when a lease ends (`lease`), how an address moves
(`addresses`). `wake` is one turn without waiting, so the simulation runs the same code under its
own clock; `run` is the loop around it.

Registry trouble never stops media: the lease goes on, takeovers wait, and the sentence says so.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypedDict

from failover.adapters import Addresses, Armer, Prober
from failover.config import FailoverConfig
from failover.decide import (
    Action,
    AddAddresses,
    Announce,
    Arm,
    Claim,
    Held,
    Local,
    Plan,
    Policy,
    Publish,
    StepDown,
    WakeGateway,
    decide,
    done,
)
from failover.detector import Detector, Peer, Suspicion
from failover.lease import Lease
from failover.registry import Member, Ownership, Registry, RegistryUnavailable, View

MS: Final = 1_000_000
TIMELINE_MAX: Final = 512  # events kept for the admin socket
ROUNDS_MAX: Final = 8  # decide-perform rounds in one turn
URGENT_POLLS: Final = 4  # looks at the registry per probe interval while a death is in doubt
ANNOUNCE_BURST_MS: Final = (3, 20)  # after the first announcement, which goes out at once
CONFLICT_RETRY_MS: Final = 5000
LIFETIME_EXTRA_S: Final = 1  # kernel address lifetime beyond the lease, which it counts in seconds
SLEEP_MIN_S: Final = 0.0005


class TimelineEvent(TypedDict):
    """One moment of a failover. `at_ns` is CLOCK_BOOTTIME; `epoch` 0 where there is none."""

    event: str
    group: str
    node: str
    epoch: int
    at_ns: int
    sentence: str


class Manager:
    """Performs for one node. Every argument is an adapter; `clock` is CLOCK_BOOTTIME in ns.

    `ready` says whether this node's gateway could take a group over now. `wake_gateway(group,
    epoch)` tells the gateway that it owns the group at that epoch, or with epoch 0 that it no
    longer does; it must not wait. `bury(node)` says that nobody hears a member any more, so that
    the state plane need not wait for its lease; it must not wait either. `on_event` gets every
    timeline event as it happens.
    """

    def __init__(
        self,
        config: FailoverConfig,
        *,
        registry: Registry,
        armer: Armer,
        addresses: Addresses,
        prober: Prober,
        clock: Callable[[], int],
        ready: Callable[[], bool],
        wake_gateway: Callable[[str, int], None],
        bury: Callable[[str], None] = lambda _: None,
        on_event: Callable[[TimelineEvent], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._registry = registry
        self._armer = armer
        self._addresses = addresses
        self._prober = prober
        self._clock = clock
        self._ready = ready
        self._wake_gateway = wake_gateway
        self._bury = bury
        self._buried: frozenset[str] = frozenset()
        self._on_event = on_event
        now_ns = clock()
        self._me = config.node
        self._incarnation = now_ns
        self._interval_ns = config.probe_interval_ms * MS
        self._policy = Policy(
            groups={name: group.preferred for name, group in config.groups.items()},
            paths=tuple(sorted(config.sources)),
            lease_ns=config.lease_ms * MS,
            unowned_grace_ns=config.unowned_grace_ms * MS,
            patience_ns=config.patience_ms * MS,
        )
        self._detector = Detector(
            config.discriminator,
            {
                name: Peer(p.discriminator, tuple(sorted(p.paths)))
                for name, p in config.peers.items()
            },
            self._interval_ns,
            config.detect_multiplier,
            now_ns,
        )
        self._lease = Lease(self._policy.lease_ns)
        self._lifetime_s = -(-config.lease_ms // 1000) + LIFETIME_EXTRA_S
        self._held = {name: Held(doubtful=True) for name in config.groups}
        self._barred: dict[str, tuple[int, str]] = {}
        self._view: View | None = None
        self._plan = Plan((), f"{self._me} has just started.", ())
        self._published: tuple[object, ...] | None = None
        self._watching_since_ns: int | None = None
        self._next_look_ns = now_ns
        self._refresh_ns = now_ns
        self._announce_at: dict[str, deque[int]] = {}
        self._links_down: tuple[str, ...] = ()
        self._link_down_since: dict[str, int] = {}
        self._trouble: dict[str, str] = {}
        self._timeline: deque[TimelineEvent] = deque(maxlen=TIMELINE_MAX)
        self.tally: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Take turns until `stop` is set. Addresses and deadlines are left to their lifetimes."""
        self._prober.watch(self.hear)
        while not stop.is_set():
            until_ns = self.wake()
            wait_s = max((until_ns - self._clock()) / 1e9, SLEEP_MIN_S)
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                continue

    def wake(self) -> int:
        """One turn: hear, ask, renew, look, act. Returns when the next one is due at the latest."""
        self.hear()
        now_ns = self._clock()
        probes = self._detector.tick(now_ns)
        for probe in probes:
            self._prober.send(probe)
        self.hear()
        self._note_links()
        changed = self._note_suspicions()
        if changed or self._own_words() != self._published or now_ns >= self._renewal_due_ns():
            self._renew()
            changed = True
        if changed or probes or now_ns >= self._next_look_ns:
            self._look_and_act()
        self._keep_up()
        return min(
            self._detector.next_deadline(),
            self._renewal_due_ns(),
            self._next_look_ns,
            *(times[0] for times in self._announce_at.values() if times),
        )

    def hear(self) -> None:
        """Take in what has arrived, without deciding anything: cheap, and at any time."""
        for datagram, path in self._prober.drain():
            self._detector.receive(datagram, path, self._clock())

    def timeline(self) -> list[TimelineEvent]:
        """The last TIMELINE_MAX events, oldest first."""
        return list(self._timeline)

    def status(self) -> dict[str, Any]:
        """What an operator asks: plain types only."""
        now_ns = self._clock()
        view = self._view or View()
        return {
            "node": self._me,
            "sentence": self._plan.sentence,
            "ready": self._ready(),
            "lease_left_ms": max(0, self._lease.deadline_ns - now_ns) // MS,
            "registry": self._trouble.get("registry", "ok"),
            "trouble": dict(self._trouble),
            "owners": {g: {"node": o.node, "epoch": o.epoch} for g, o in view.owners.items()},
            "members": {
                name: {
                    "ready": member.ready,
                    "lease_left_ms": max(0, member.lease_deadline_ns - now_ns) // MS,
                    "suspects": {peer: list(paths) for peer, paths in member.suspects.items()},
                }
                for name, member in view.members.items()
            },
            "groups": {
                name: {
                    "epoch": held.armed,
                    "armed_left_ms": max(0, held.armed_until_ns - now_ns) // MS,
                    "steps": {
                        "armed": held.armed,
                        "addressed": held.addressed,
                        "announced": held.announced,
                        "woken": held.woken,
                        "published": held.published,
                    },
                }
                for name, held in self._held.items()
            },
            "hears": {peer: list(paths) for peer, paths in self._detector.observing().items()},
            "suspects": {peer: list(paths) for peer, paths in self._detector.suspects().items()},
            "links_down": list(self._links_down),
            "probes": {
                "sent": self._detector.tally.sent,
                "heard": self._detector.tally.heard,
                "malformed": self._detector.tally.malformed,
                "foreign": self._detector.tally.foreign,
                "looped": self._detector.tally.looped,
                "not_up": self._detector.tally.not_up,
                "own_lateness_ms": self._detector.tally.late_ns // MS,
            },
            "counters": dict(self.tally),
        }

    def close(self) -> None:
        """Close the probing sockets; whatever is armed or added runs out by itself."""
        self._prober.close()

    # -- hearing and telling ---------------------------------------------------------------

    def _note_links(self) -> None:
        """A link of our own counts as down after the time in which a peer would be silent."""
        now_ns = self._clock()
        down = self._prober.links_down()
        self._link_down_since = {
            path: self._link_down_since.get(path, now_ns) for path in sorted(down)
        }
        patience_ns = self._interval_ns * self._config.detect_multiplier
        lasting = tuple(
            path
            for path, since_ns in self._link_down_since.items()
            if now_ns - since_ns >= patience_ns
        )
        if lasting != self._links_down:
            self._links_down = lasting
            text = f"own link down: {', '.join(lasting)}" if lasting else "own links are up"
            self._tell("links", "", self._me, 0, text)

    def _note_suspicions(self) -> bool:
        events = self._detector.events()
        for suspicion in events:
            self._tell_suspicion(suspicion)
        return bool(events)

    def _tell_suspicion(self, suspicion: Suspicion) -> None:
        now_ns = self._clock()
        owners = self._view.owners if self._view else {}
        groups = [g for g, owner in sorted(owners.items()) if owner.node == suspicion.peer] or [""]
        name = "detected" if suspicion.paths_silent else "recovered"
        age_ms = (now_ns - suspicion.since_ns) / MS
        text = f"{self._me} hears {suspicion}"
        text += f", last heard {age_ms:.0f} ms ago" if suspicion.paths_silent else ""
        for group in groups:
            epoch = owners[group].epoch if group else 0
            self._tell(name, group, suspicion.peer, epoch, text)

    def _own_words(self) -> tuple[object, ...]:
        """What this node's record says, apart from its lease."""
        suspects = self._detector.suspects()
        if self._links_down:
            suspects[self._me] = self._links_down
        return (self._ready(), suspects, self._detector.observing())

    def _renewal_due_ns(self) -> int:
        return self._lease.next_renewal_ns()

    def _renew(self) -> bool:
        words = self._own_words()
        ready, suspects, observing = words
        assert isinstance(suspects, dict) and isinstance(observing, dict)
        sent_ns = self._clock()
        if not self._lease.alive(sent_ns):
            self._watching_since_ns = None
        member = Member(
            node=self._me,
            incarnation=self._incarnation,
            lease_deadline_ns=self._lease.offer(sent_ns),
            ready=bool(ready),
            suspects=suspects,
            observing=observing,
        )
        try:
            self._registry.publish(member)
        except RegistryUnavailable as error:
            self._registry_trouble(error)
            return False
        self._lease.confirm(sent_ns)
        self._published = words
        return True

    # -- looking and acting ----------------------------------------------------------------

    def _look_and_act(self) -> None:
        self._view = self._look()
        for _ in range(ROUNDS_MAX):
            now_ns = self._clock()
            self._plan = decide(self._me, self._policy, self._view, self._local(now_ns), now_ns)
            failed: set[str] = set()  # what follows a failed step of a group waits for it
            for action in self._plan.actions:
                if action.group not in failed and not self._perform(action):
                    failed.add(action.group)
            if failed or not self._plan.actions:
                break
        self._bury_the_gone()  # media first
        # Usually the next probes come first, and save a turn of their own.
        pause_ns = self._interval_ns * 5 // 4
        if self._plan.urgent:
            pause_ns = self._interval_ns // URGENT_POLLS
        self._next_look_ns = self._clock() + pause_ns

    def _bury_the_gone(self) -> None:
        """Once each time that a member falls silent everywhere."""
        if self._view is None:
            return
        for node in sorted(set(self._plan.gone) - self._buried):
            self.tally["buried"] += 1
            self._tell("gone", "", node, 0, f"nobody hears {node} anywhere")
            self._bury(node)
        self._buried = frozenset(self._plan.gone)

    def _look(self) -> View | None:
        now_ns = self._clock()
        try:
            view = self._registry.view()
        except RegistryUnavailable as error:
            self._registry_trouble(error)
            self._watching_since_ns = None
            return None
        if self._trouble.pop("registry", None):
            self._tell("registry-back", "", self._me, 0, "the registry answers again")
        if self._watching_since_ns is None and self._lease.alive(now_ns):
            self._watching_since_ns = now_ns
        return view

    def _registry_trouble(self, error: RegistryUnavailable) -> None:
        self.tally["registry_errors"] += 1
        if "registry" not in self._trouble:
            self._tell("registry-lost", "", self._me, 0, f"{error}; takeovers wait")
        self._trouble["registry"] = str(error)

    def _local(self, now_ns: int) -> Local:
        return Local(
            groups=self._held,
            lease_deadline_ns=self._lease.deadline_ns,
            watching_since_ns=now_ns
            if self._watching_since_ns is None
            else self._watching_since_ns,
            vacant_since=self._plan.vacant_since,
            barred={g: why for g, (until_ns, why) in self._barred.items() if now_ns < until_ns},
        )

    def _perform(self, action: Action) -> bool:
        """Do one action and remember it. False when it failed: the next look finds it missing."""
        group = action.group
        try:
            going_on = self._do(action)
        except RegistryUnavailable as error:
            self._registry_trouble(error)
            return False
        except (
            Exception
        ) as error:  # the adapters have error trees of their own; this step is undone
            self.tally["failed_actions"] += 1
            name = f"{type(action).__name__} {group}"
            if self._trouble.get(name) != str(error):
                self._trouble[name] = str(error)
                self._tell("failed", group, self._me, 0, f"{name}: {error}")
            return False
        self._trouble.pop(f"{type(action).__name__} {group}", None)
        return going_on

    def _do(self, action: Action) -> bool:
        group = action.group
        moving = self._config.groups[group].addresses
        match action:
            case Claim(_, seen):
                return self._claim(group, seen)
            case Arm(_, epoch, until_ns):
                self._armer.arm(group, until_ns)
                if self._held[group].armed != epoch:
                    self._tell("armed", group, self._me, epoch, f"{group} forwards here")
            case AddAddresses(_, epoch):
                self._addresses.add(moving, self._lifetime_s)
                hosts = ", ".join(address.host for address in moving)
                self._tell("addressed", group, self._me, epoch, f"{hosts} are here")
            case Announce(_, epoch):
                self._addresses.announce(moving)
                now_ns = self._clock()
                burst = [now_ns + ms * MS for ms in ANNOUNCE_BURST_MS]
                every_ns = self._config.announce_interval_ms * MS
                self._announce_at[group] = deque([*burst, now_ns + every_ns])
                self._tell("announced", group, self._me, epoch, "told every neighbour")
            case WakeGateway(_, epoch):
                self._wake_gateway(group, epoch)
                self._tell("woken", group, self._me, epoch, "the gateway process was told")
            case Publish(_, epoch):
                if not self._renew():
                    return False
                self._tell("published", group, self._me, epoch, "the takeover is complete")
            case StepDown():
                self._step_down(group)
        self._held[group] = done(self._held[group], action)
        return True

    def _claim(self, group: str, seen: Ownership) -> bool:
        if seen.epoch == 0 and not self._free(group):
            return False
        won = self._registry.claim(group, seen, self._me)
        if won is None:
            self.tally["claims_lost"] += 1
            text = f"somebody else was faster than {self._me} at {group}"
            self._tell("refused", group, self._me, seen.epoch + 1, text)
            self._view = self._look()
            return self._view is not None
        self.tally["claims_won"] += 1
        view = self._view or View()
        self._view = replace(view, owners={**view.owners, group: won})
        self._tell("decided", group, self._me, won.epoch, self._plan.sentence)
        return True

    def _free(self, group: str) -> bool:
        """Before a first bring-up: does nobody on the links answer for the group's addresses?"""
        taken = self._addresses.conflicts(self._config.groups[group].addresses)
        if not taken:
            self._barred.pop(group, None)
            return True
        who = ", ".join(f"{host} is {mac}" for host, mac in sorted(taken.items()))
        why = f"somebody else answers for its addresses ({who}): remove them there"
        now_ns = self._clock()
        self._barred[group] = (now_ns + CONFLICT_RETRY_MS * MS, why)
        self._tell("conflict", group, self._me, 0, why)
        return False

    def _step_down(self, group: str) -> None:
        """Each part is tried whatever becomes of the others; the first failure is raised after."""
        self._announce_at.pop(group, None)
        held = self._held[group]
        failures: list[Exception] = []
        parts: Sequence[Callable[[], None]] = (
            lambda: self._armer.arm(group, 0),
            lambda: self._addresses.remove(self._config.groups[group].addresses),
            lambda: self._wake_gateway(group, 0),
        )
        for part in parts:
            try:
                part()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        for name in [name for name in self._trouble if name.endswith(f" {group}")]:
            del self._trouble[name]
        if not held.doubtful or held.armed or held.addressed:
            self._tell("stepped-down", group, self._me, 0, self._plan.sentence)

    # -- keeping up ------------------------------------------------------------------------

    def _keep_up(self) -> None:
        """Repeat announcements and renew address lifetimes, of what is owned and done only."""
        now_ns = self._clock()
        alive = self._lease.alive(now_ns)
        for group, times in self._announce_at.items():
            if alive and times and now_ns >= times[0]:
                while times and now_ns >= times[0]:
                    times.popleft()
                if not times:
                    times.append(now_ns + self._config.announce_interval_ms * MS)
                self._try_upkeep("announce", group)
        if alive and now_ns >= self._refresh_ns:
            self._refresh_ns = now_ns + self._lifetime_s * 1000 * MS // 4
            for group, held in self._held.items():
                if held.addressed:
                    self._try_upkeep("refresh", group)

    def _try_upkeep(self, what: str, group: str) -> None:
        moving = self._config.groups[group].addresses
        try:
            if what == "announce":
                self._addresses.announce(moving)
            else:
                self._addresses.add(moving, self._lifetime_s)
        except Exception as error:
            self.tally["failed_upkeep"] += 1
            self._trouble[f"{what} {group}"] = str(error)
        else:
            self._trouble.pop(f"{what} {group}", None)

    def _tell(self, event: str, group: str, node: str, epoch: int, sentence: str) -> None:
        told = TimelineEvent(
            event=event, group=group, node=node, epoch=epoch, at_ns=self._clock(), sentence=sentence
        )
        self._timeline.append(told)
        self._on_event(told)
