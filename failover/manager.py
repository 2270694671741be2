"""The performer of the failover process: wakes at deadlines, asks the cores, does what they say.

Knows: the adapters it was given, the order of a turn, what has been done. Must not know: how a
death is recognised (`detector`, `decide`), when a lease ends (`lease`), how an address moves
(`addresses`). `wake` is one turn without waiting, so the simulation runs the same code under its
own clock; `run` is the loop around it.

Registry trouble never stops media: the lease goes on, by the peers' word if the registry stays
away (`vouching`); takeovers wait, and the sentence says so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from failover.actions import Action, Claim, MakeOffer, Publish, StepDown, Withdraw
from failover.adapters import (
    Addresses,
    Armer,
    Fencer,
    Memory,
    NullMemory,
    NullVouchLink,
    Prober,
    VouchLink,
    Watchdog,
)
from failover.claims import Claims, attempted
from failover.config import FailoverConfig
from failover.decide import Local, Plan, Policy, decide
from failover.detector import Detector, Peer
from failover.flapping import Flaps
from failover.history import History, TimelineEvent
from failover.lease import Lease
from failover.news import News
from failover.own_links import OwnLinks
from failover.own_record import OwnRecord
from failover.performer import Performer
from failover.registry import (
    Member,
    Offer,
    Ownership,
    Registry,
    RegistryPending,
    RegistryUnavailable,
    View,
)
from failover.resting import Resting
from failover.safety import Safety
from failover.status import status
from failover.strain import Strain
from failover.testimony import Testimony, Word
from failover.timeline import Timeline
from failover.turns import Turns
from failover.voucher import Voucher
from failover.vouching import Standing
from failover.wishes import Wishes

MS: Final = 1_000_000
FAR_NS: Final = 1 << 62
ROUNDS_MAX: Final = 8  # decide-perform rounds in one turn
URGENT_POLLS: Final = 4  # looks at the registry per probe interval while a death is in doubt


class Manager:
    """Performs for one node. Every argument is an adapter; `clock` is CLOCK_BOOTTIME in ns.

    `ready` says whether this node's gateway could take a group over now. `wake_gateway(group,
    epoch)` tells the gateway that it owns the group at that epoch, or with epoch 0 that it no
    longer does; it must not wait. `bury(node)` says that nobody hears a member any more, so that
    the state plane need not wait for its lease; it must not wait either. `unready` says what a
    planned move to this node would have to wait for, `health` which of its processes are unwell,
    `control` whom the state plane hears; all three tell what they know, without asking anybody.
    `on_event` gets every timeline event as it happens. `fencer` and `watchdog` are null by default,
    and so are `link` and `memory`, by which nodes vouch for each other while there is no registry.
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
        unready: Callable[[], Sequence[str]] = tuple,
        health: Callable[[], Mapping[str, str]] = dict,
        control: Callable[[], Mapping[str, bool]] = dict,
        on_event: Callable[[TimelineEvent], None] = lambda _: None,
        fencer: Fencer | None = None,
        watchdog: Watchdog | None = None,
        link: VouchLink | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._config = config
        self._registry = registry
        self._prober = prober
        self._clock = clock
        self._ready = ready
        self._unready = unready
        self._health = health
        self._control = control
        self._bury = bury
        self._buried: frozenset[str] = frozenset()
        now_ns = clock()
        self._me = config.node
        self._incarnation = now_ns
        self.history = History()
        self._timeline = Timeline(clock, self.history, on_event)
        self._tell = self._timeline.tell
        self._interval_ns = config.probe_interval_ms * MS
        self._policy = Policy(
            groups={name: group.preferred for name, group in config.groups.items()},
            paths=tuple(sorted(config.sources.keys() - config.control_paths)),
            control_paths=tuple(sorted(config.control_paths)),
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
            control_paths=config.control_paths,
        )
        self._lease = Lease(self._policy.lease_ns)
        self._strain = Strain(self._policy.lease_ns)
        self._flaps = Flaps()
        self._view: View | None = None
        self._plan = Plan((), f"{self._me} has just started.", ())
        self._resting = Resting()
        self._own_record = OwnRecord()
        self._watching_since_ns: int | None = None
        self._next_look_ns = now_ns
        self._links_down: tuple[str, ...] = ()
        self._links = OwnLinks(self._interval_ns * config.detect_multiplier)
        self._drained = False
        self._remembered = False
        self._wishes = Wishes(self._me, config.groups, config.peers)
        self._news = News(self._me, self._tell)
        self.tally: Counter[str] = Counter()
        self._hands = Performer(
            config,
            armer=armer,
            addresses=addresses,
            clock=clock,
            wake_gateway=wake_gateway,
            tell=lambda event, group, epoch, text: self._tell(event, group, self._me, epoch, text),
            tally=self.tally,
        )
        self._trouble = self._hands.trouble
        self._link = link or NullVouchLink()
        self._testimony = Testimony(config.node, now_ns, self._policy.lease_ns)
        self._turns = Turns(self.wake, clock)
        self._voucher = Voucher(
            config.node,
            config.peers,
            self._policy.lease_ns,
            link=self._link,
            memory=memory or NullMemory(),
            started_ns=now_ns,
            tell=lambda event, text: self._tell(event, "", self._me, 0, text),
            tally=self.tally,
            hear_word=self._hear_word,
        )
        self._safety = Safety(
            config.node,
            self._policy.lease_ns,
            fencer=fencer,
            watchdog=watchdog,
            tell=lambda event, node, text: self._tell(event, "", node, 0, text),
            bury=bury,
            tally=self.tally,
        )
        self._claims = Claims(
            self._me,
            registry,
            self._voucher,
            took=self._safety.took,
            tell=self._tell,
            tally=self.tally,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Take turns until `stop` is set. Addresses and deadlines are left to their lifetimes."""
        self._prober.watch(self._hear_probes)
        self._voucher.watch(self._hear_words)
        await self._turns.run(stop)

    def wake(self) -> int:
        """One turn: hear, ask, renew, look, act. Returns when the next one is due at the latest."""
        self.hear()
        now_ns = self._clock()
        probes = self._detector.tick(now_ns)
        self._strain.note(self._detector.tally.late_ns, now_ns)
        for probe in probes:
            self._prober.send(probe)
        if probes:
            self._hear_probes()  # answers of what is near are here already
        self._note_links()
        self._take_confirmation()
        self._let_lapse()
        changed = self._note_suspicions()
        due = self._testimony.is_due(self._record(0), self._own_record.stands, now_ns)
        if due or self._plan.asks or now_ns >= self._lease.next_renewal_ns():
            self._renew()
            changed = True
        changed |= self._voucher.turn(self._clock(), self._lease.reached_ns, self._hands.held)
        if changed or probes or now_ns >= self._next_look_ns:
            self._look_and_act()
        now_ns = self._clock()
        lease_ns = max(self._lease.deadline_ns, self._voucher.until_ns())
        self._hands.keep_up(now_ns < lease_ns)
        self._safety.feed(self._hands.held, lease_ns, now_ns)
        return min(
            self._detector.next_deadline(),
            self._lease.next_renewal_ns(),
            self._next_look_ns,
            self._testimony.write_by_ns if self._testimony.write_by_ns > now_ns else FAR_NS,
            self._voucher.due_ns(self._lease.reached_ns),
            lease_ns if lease_ns > now_ns else self._next_look_ns,
            *self._hands.next_announcement_ns(),
        )

    def hear(self) -> None:
        """Take in what has arrived, without deciding anything: cheap, and at any time."""
        self._hear_probes()
        self._hear_words()

    def _hear_probes(self) -> None:
        for datagram, path in self._prober.drain():
            self._detector.receive(datagram, path, self._clock())

    def _hear_words(self) -> None:
        self._voucher.hear(self._clock(), self._lease.reached_ns)

    def timeline(self) -> list[TimelineEvent]:
        """The last events, oldest first."""
        return self._timeline.events()

    def standing(self) -> Mapping[str, Standing]:
        """The groups that go on by the peers' word, while the registry is out of reach."""
        return self._voucher.standing

    def status(self) -> dict[str, Any]:
        """What an operator asks: plain types only."""
        return status(
            me=self._me,
            now_ns=self._clock(),
            config=self._config,
            plan=self._plan,
            view=self._view or self._voucher.view,
            own=self._record(self._lease.deadline_ns),
            held=self._hands.held,
            detector=self._detector,
            lease=self._lease,
            trouble=self._trouble,
            links_down=self._links_down,
            wishes=self._wishes.wanted(),
            restless=self._flaps.restless(),
            tally=self.tally,
            vouching=self._voucher.status(self._clock()),
        )

    # -- what an operator wants ------------------------------------------------------------

    def switch_over(self, group: str, to: str) -> None:
        """Move a group of this node's to `to`, without losing packets. Raises MoveRefused.

        It happens in the next turns; a move that cannot be made is given up, and told.
        """
        self._wishes.known(group)
        owner = (self._view or View()).owners.get(group, Ownership())
        self._wishes.add(group, to, owner, self._hands.held[group].serving, self._clock())
        text = f"an operator wants {group} at {to or 'another node'}"
        self._tell("wanted", group, self._me, owner.epoch, text)
        self._next_look_ns = self._clock()

    def _give_up(self) -> None:
        """Wishes that nobody could fulfil for too long."""
        offered = {group for group, held in self._hands.held.items() if held.offered}
        for group, to in self._wishes.expired(self._clock(), offered).items():
            text = f"{group} does not move to {to or 'another node'}: {self._about(group)}"
            self._tell("given-up", group, self._me, 0, text)

    def drain(self, drained: bool) -> None:
        """Carry nothing any more, or be a standby again. Survives a restart of this process."""
        if drained != self._drained:
            self._drained = drained
            text = f"{self._me} is drained" if drained else f"{self._me} is not drained any more"
            self._tell("drained" if drained else "undrained", "", self._me, 0, text)
        self._next_look_ns = self._clock()

    def close(self) -> None:
        """Close the probing sockets; whatever is armed or added runs out by itself."""
        self._prober.close()
        self._voucher.close()
        self._safety.close()

    # -- hearing and telling ---------------------------------------------------------------

    def _note_links(self) -> None:
        lasting = self._links.lasting(self._prober.links_down(), self._clock())
        if lasting != self._links_down:
            self._links_down = lasting
            text = f"own link down: {', '.join(lasting)}" if lasting else "own links are up"
            self._tell("links", "", self._me, 0, text)

    def _note_suspicions(self) -> bool:
        events = self._detector.events()
        for suspicion in events:
            owners = self._view.owners if self._view else {}
            self._news.suspicion(suspicion, owners, self._clock())
        word = self._testimony.say(self._suspects())
        if word is not None and self._link.tell(word) and not self._links_down:
            self._testimony.told(self._clock())
        return bool(events) or word is not None

    def _hear_word(self, word: Word) -> None:
        if self._view is not None and self._testimony.hear(word, self._view):
            self.tally["words_heard"] += 1
            self._next_look_ns = self._clock()
            self._turns.hurry()

    def _suspects(self) -> dict[str, tuple[str, ...]]:
        suspects = self._detector.suspects()
        if self._links_down:
            suspects[self._me] = self._links_down
        return suspects

    def _record(self, lease_deadline_ns: int) -> Member:
        """What this node's record says now."""
        held = self._hands.held
        parties, settled = self._voucher.words(held, self._lease.deadline_ns)
        return Member(
            node=self._me,
            incarnation=self._incarnation,
            lease_deadline_ns=lease_deadline_ns,
            ready=self._ready() and not self._voucher.unready(self._clock()),
            suspects=self._suspects(),
            word=self._testimony.number,
            observing=self._detector.observing(),
            host=self._config.host,
            rack=self._config.rack,
            drained=self._drained,
            unready=(*self._unready(), *self._voucher.unready(self._clock())),
            offers={g: Offer(h.offered_to, h.offered) for g, h in held.items() if h.offered},
            serves={g: h.serving for g, h in held.items() if h.serving},
            health=dict(self._health()),
            strain=self._strain.word(),
            parties=parties,
            settled=settled,
        )

    def _let_lapse(self) -> None:
        """A lease that ran out while nobody looked (this process stood still) ends everything that
        was held under it, before another begins. Somebody else may own it all by now, and what is
        known of the registry is as old as the pause: a fresh lease must not be used to announce it.
        """
        now_ns = self._clock()
        lapsed = 0 < self._lease.deadline_ns <= now_ns
        if lapsed and any(held.anything for held in self._hands.held.values()):
            plan = decide(self._me, self._policy, None, self._local(now_ns), now_ns)
            for action in plan.actions:
                if isinstance(action, StepDown):
                    self._plan = plan
                    self._perform(action)

    def _renew(self) -> bool:
        if not self._remembered and not self._remember():
            return False
        sent_ns = self._clock()
        if not self._lease.alive(sent_ns):
            self._watching_since_ns = None
        record = self._record(self._lease.offer(sent_ns))
        self._voucher.publishing(record.parties, sent_ns)
        try:
            self._registry.publish(record)
        except RegistryPending:
            self._lease.waited()
            self._own_record.pending(record, self._registry.granted_ns())
            return False
        except RegistryUnavailable as error:
            self._own_record.failed()
            self._registry_trouble(error)
            return False
        self._confirm(sent_ns)
        self._own_record.confirmed(record)
        return True

    def _confirm(self, sent_ns: int) -> None:
        now_ns = self._clock()
        if self._lease.confirm(sent_ns, now_ns):
            self._voucher.reached(sent_ns, now_ns)

    def _take_confirmation(self) -> None:
        """Of a renewal whose answer came after we had stopped waiting for it."""
        deadline_ns = self._registry.granted_ns()
        self._own_record.granted(deadline_ns)
        if deadline_ns > self._lease.deadline_ns:
            self._confirm(self._lease.granted(deadline_ns))

    def _remember(self) -> bool:
        """Before the first record: what an earlier life of this node said of itself. The registry
        is asked: a view is as old as its last proof, and before the first record nothing proves it.
        """
        try:
            before = self._registry.record(self._me)
        except RegistryPending:
            return False
        except RegistryUnavailable as error:
            self._lease.offer(self._clock())
            self._registry_trouble(error)
            return False
        self._remembered = True
        self._voucher.remember(before)
        self._drained |= before is not None and before.drained
        return True

    # -- looking and acting ----------------------------------------------------------------

    def _look_and_act(self) -> None:
        self._view = self._look()
        now_ns = self._clock()
        if not self._resting.holds(self._plan, self._view, self._local(now_ns), now_ns):
            self._decide_and_act()
        if self._view is not None and self._lease.alive(self._clock()):
            self._safety.fence(self._view, self._clock())
        self._give_up()
        # Usually the next probes come first, and save a turn of their own.
        pause_ns = self._interval_ns * 5 // 4
        if self._plan.urgent:
            pause_ns = self._interval_ns // URGENT_POLLS
        self._next_look_ns = self._clock() + pause_ns

    def _decide_and_act(self) -> None:
        for _ in range(ROUNDS_MAX):
            now_ns = self._clock()
            local = self._local(now_ns)
            self._plan = decide(self._me, self._policy, self._view, local, now_ns)
            self.tally["decisions"] += 1
            self._resting.note(self._plan, self._view, local, now_ns)
            if self._view is not None:
                self._flaps.note(self._view.members.keys() - {self._me}, self._plan.dead, now_ns)
            failed: set[str] = set()  # what follows a failed step of a group waits for it
            silent = False  # one unanswered claim a turn: each waits as long as the first
            for action in self._plan.actions:
                claims = isinstance(action, Claim)
                if action.group in failed or (silent and claims):
                    failed.add(action.group)
                elif not self._perform(action):
                    failed.add(action.group)
                    silent |= claims and "registry" in self._trouble
            if failed or not self._plan.actions:
                break
        self._bury_the_gone()  # media first
        if self._view is not None and self._lease.alive(self._clock()):
            self._news.plan(self._plan, self._view.owners, self._claims.last_owner)

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
            view = self._testimony.read(self._registry.view())
        except RegistryUnavailable as error:
            self._registry_trouble(error)
            self._watching_since_ns = None
            return None
        if self._trouble.pop("registry", None):
            self._tell("registry-back", "", self._me, 0, "the registry answers again")
        if self._watching_since_ns is None and self._lease.alive(now_ns):
            self._watching_since_ns = now_ns
        for name in view.begun_since(self._view or View()):
            self._detector.expect(name, now_ns)  # is it heard yet?
        self._note_owners(view)
        self._voucher.read(view, now_ns)
        return view

    def _note_owners(self, view: View) -> None:
        """Whatever others did to a group; a wish for what is not ours any more is over."""
        before = self._view.owners if self._view else {}
        for group in self._config.groups:
            owner = view.owners.get(group, Ownership())
            if owner.node == self._me:
                self._claims.read(group, owner)
            else:
                self._wishes.drop(group)
                if self._view is not None and owner != before.get(group, Ownership()):
                    last = before.get(group, Ownership()).node
                    self._claims.last_owner[group] = last
                    text = f"{self._me} sees that {owner.node} owns {group}"
                    text += f", no longer {last}" if last else ""
                    self._tell("moved", group, owner.node, owner.epoch, text)

    def _registry_trouble(self, error: RegistryUnavailable) -> None:
        self.tally["registry_errors"] += 1
        self._lease.waited()
        if "registry" not in self._trouble:
            self._tell("registry-lost", "", self._me, 0, f"{error}; takeovers wait")
        self._trouble["registry"] = str(error)

    def _local(self, now_ns: int) -> Local:
        return Local(
            groups=dict(self._hands.held),
            lease_deadline_ns=self._lease.deadline_ns,
            watching_since_ns=now_ns
            if self._watching_since_ns is None
            else self._watching_since_ns,
            vacant_since=self._plan.vacant_since,
            barred=self._hands.barred(now_ns),
            wishes=self._wishes.wanted(),
            unready=tuple(self._unready()),
            restless=self._flaps.restless(),
            control=self._control(),
            silent_since=self._plan.silent_since,
            standing=self._voucher.standing,
            vouchers=self._voucher.by,
            bound=self._voucher.bound(self._config.groups, now_ns),
            answering_since_ns=self._lease.answering_since_ns,
        )

    def _perform(self, action: Action) -> bool:
        """Do one action and remember it. False when it failed: the next look finds it missing."""
        group = action.group
        try:
            going_on = self._do(action)
        except RegistryUnavailable as error:
            self._registry_trouble(error)
            return False
        except Exception as error:  # of the adapters' own error trees: this step is undone
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
        match action:
            case Claim(_, seen):
                return self._claim(group, seen)
            case Publish(_, epoch):
                if not self._own_record.serves(group, epoch) and not self._renew():
                    return False
                self._hands.remember(action)
                self._tell("published", group, self._me, epoch, "the takeover is complete")
            case MakeOffer(_, epoch, to, _):
                self._hands.remember(action)
                self._renew()  # if that fails, the next turn publishes it
                text = f"{self._me} offers {group} to {to}"
                self._tell("offered", group, self._me, epoch, text)
            case Withdraw():
                self._hands.remember(action)
                self._renew()
                self._wishes.drop(group)
                self._tell("withdrawn", group, self._me, 0, self._about(group))
            case _:
                self._hands.perform(action, self._about(group))
        return True

    def _claim(self, group: str, seen: Ownership) -> bool:
        if seen.epoch == 0 and not self._hands.free(group):
            return False
        view = self._view or View()
        attempt = attempted(seen, view, self._plan, self._about(group))
        won = self._claims.claim(group, attempt, self._clock())
        if won is None:
            self._view = self._look()
            self._claims.refused(group)
            return self._view is not None
        self._view = replace(view, owners={**view.owners, group: won})
        return True

    def _about(self, group: str) -> str:
        return self._plan.about(self._me, group)
