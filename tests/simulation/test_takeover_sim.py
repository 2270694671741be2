"""A node dies, or is only paused, between any two steps of its work; another takes over.

Safety: one reply per cookie, whoever gives it; a pair belongs to one call; recorded flows and
pinholes are what the sessions say. Healing: when every call has ended nothing is left anywhere.
Every failure is a seed, a mode and a step; the test's name prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import msgspec
import pytest

from bgf.events import Command, Reply, Verb
from bgf.found import FoundFlows
from bgf.gateway import Gateway
from bgf.hands import ActiveHands, Driver, Outcome
from bgf.journal import Mode, Recorder
from bgf.model import FlowKey
from bgf.session import State
from tests.fakes.calls import GROUP, NS_PER_MS, NS_PER_S, POLICIES, REALMS, Callers, line
from tests.fakes.flows import Pinholes, Replies, never_heard
from tests.fakes.journal import Crash, Fuse, NodeFlows, NodeJournal, Shared

COMMANDS = 14
SEEDS = range(12)
ROUNDS_MAX = 100


class Node:
    """The owner of the group at one epoch. Its pinholes start as its feed has left them."""

    def __init__(self, shared: Shared, mode: Mode, fuse: Fuse, now_ns: int) -> None:
        self.shared = shared
        self.fuse = fuse
        epoch = shared.fence()
        self.journal = NodeJournal(shared, epoch, fuse)
        self.flows = NodeFlows(shared, epoch, fuse)
        self.pinholes = Pinholes(fuse)
        self.pinholes.flows = dict(shared.flows)
        self.replies = Replies(fuse)
        hands = ActiveHands(self.journal, self.flows, self.pinholes, self.replies)
        machine = Gateway(GROUP, REALMS, policies=POLICIES)
        self.driver = Driver(machine, Recorder(mode), hands, never_heard)
        self.driver.take_over(FoundFlows(shared.flows.values()), now_ns)

    def become_slow_at(self, step: int, meanwhile: Callable[[], None]) -> None:
        self.fuse = _Pause(step, meanwhile)
        for part in (self.journal, self.flows, self.pinholes, self.replies):
            part.fuse = self.fuse


class World:
    """A client that repeats itself until it is answered, and the nodes that come and go."""

    def __init__(self, seed: int, mode: Mode, crash_at: int | None, pause: bool = False) -> None:
        self.rng = Random(seed)
        self.mode = mode
        self.pause = pause
        self.shared = Shared()
        self.now_ns = NS_PER_S
        self.promised: dict[str, Reply] = {}
        self.node = Node(self.shared, mode, Fuse(crash_at), self.now_ns)
        self.zombie: Node | None = None
        if pause and crash_at is not None:
            self.node.become_slow_at(crash_at, self.replace)

    def replace(self) -> None:
        self.zombie = self.node
        self.node = Node(self.shared, self.mode, Fuse(), self.now_ns)

    def say(self, command: Command, entropy: int) -> None:
        """Send until answered; the node may die meanwhile."""
        node = self.node
        try:
            node.driver.handle(command, entropy)
        except Crash:
            self.replace()
        self.note(node)
        if self.node is not node:
            if self.pause:
                assert node.driver.handle(command, entropy) in (Outcome.FENCED, Outcome.ANSWERED)
                self.note(node)
            # Somebody else comes first, and would like the very same ports.
            other = Command(
                self.now_ns,
                "first",
                Verb.OFFER,
                "call-9",
                "alice",
                media=(line("10.10.0.2", 4000),),
            )
            assert self.node.driver.handle(other, entropy) is Outcome.ANSWERED
            self.check()
            assert self.node.driver.handle(command, entropy) is not Outcome.FAILED
            self.note(self.node)
        assert command.cookie in self.promised, f"{command} was never answered"

    def hear(self) -> None:
        """The packet path of whoever owns the group has something to say of one call."""
        flows = list(self.shared.flows.values())
        flow = self.rng.choice(flows)
        event = Callers(self.rng).seen(flow.session, [flow])
        event = msgspec.structs.replace(event, now_ns=self.now_ns)
        node = self.node
        try:
            node.driver.see(event)
        except Crash:
            self.replace()
        if self.node is not node:
            assert self.node.driver.see(event) is Outcome.ANSWERED  # it says so again

    def tick(self) -> None:
        node = self.node
        try:
            node.driver.tick(self.now_ns)
        except Crash:
            self.replace()
        self.node.driver.tick(self.now_ns)

    def note(self, node: Node) -> None:
        """Safety of the replies."""
        for cookie, reply in node.replies.sent:
            assert self.promised.setdefault(cookie, reply) == reply, f"two replies to {cookie}"
        node.replies.sent.clear()

    def check(self) -> None:
        """Safety of what is recorded, at any time."""
        owners: dict[int, str] = {}
        for flow in self.shared.flows.values():
            pair = flow.local_in.port // 2
            assert owners.setdefault(pair, flow.session) == flow.session, f"pair {pair} twice"
        gateway, recorded = self.node.driver.gateway, self.shared.flows
        for call in gateway.sessions:
            expected = {flow.key: flow for flow in gateway.expected_flows(call)}
            of_call = {key: flow for key, flow in recorded.items() if flow.session == call}
            assert of_call == expected, f"{call}: the record differs from the session"
            assert expected.items() <= self.node.pinholes.flows.items(), f"{call}: not installed"

    def restore_all(self) -> None:
        for _ in range(ROUNDS_MAX):
            if self.node.driver.restore_some(self.now_ns, batch=2) == 0:
                break

    def heal(self) -> None:
        """Everything restored and ended: nothing may be left."""
        self.restore_all()
        self.node.driver.sweep()
        self.check()
        assert self.node.pinholes.flows == self.shared.flows
        assert self.node.driver.failures == []
        for number in range(ROUNDS_MAX):
            sessions = self.node.driver.gateway.sessions.values()
            alive = sorted(s.call_id for s in sessions if s.state is not State.DELETED)
            if not alive:
                break
            self.say(Command(self.now_ns, f"end-{number}", Verb.DELETE, alive[0]), 0)
            self.restore_all()
        left: dict[FlowKey, object] = {**self.shared.flows, **self.node.pinholes.flows}
        assert left == {}, "leaked pinholes"
        self.now_ns += 60_000 * NS_PER_MS
        self.tick()
        self.restore_all()  # it may have died of this tick, too
        self.tick()
        assert self.shared.journals == {}, "leaked journals"
        assert self.node.driver.gateway.usage().pairs_used == 0


class _Pause(Fuse):
    """The node does not die: it is only too slow once, and wakes after its successor began."""

    def __init__(self, at: int, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._at = at
        self._meanwhile = meanwhile

    def step(self, name: str) -> None:
        if len(self.steps) == self._at:
            self._at = -1
            self._meanwhile()
        super().step(name)


def script(world: World) -> Iterator[tuple[Command, int]]:
    """Commands with fresh cookies; many want the same ports."""
    callers, seen = Callers(world.rng, calls=3), set[str]()
    while len(seen) < COMMANDS:
        made = callers.next()
        if not isinstance(made, Command) or made.cookie in seen:
            continue
        seen.add(made.cookie)
        world.now_ns = made.now_ns
        yield made, world.rng.choice((0, 0, world.rng.getrandbits(64)))


def play(seed: int, mode: Mode, crash_at: int | None, pause: bool = False) -> int:
    """One world from its beginning to its end; the number of steps that its first node took."""
    world = World(seed, mode, crash_at, pause)
    first = world.node
    for command, entropy in script(world):
        world.say(command, entropy)
        world.check()
        if world.rng.random() < 0.3:
            world.say(command, entropy + 1)
        if world.rng.random() < 0.3:
            world.tick()
        if world.shared.flows and world.rng.random() < 0.6:
            world.hear()
            world.check()
        if world.node is not first and world.rng.random() < 0.3:
            world.node.driver.restore_some(world.now_ns, batch=1)
        world.check()
    world.heal()
    return len(first.fuse.steps)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", SEEDS)
def test_power_off_between_any_two_steps(seed: int, mode: Mode) -> None:
    steps = play(seed, mode, None)
    assert steps > 20
    for crash_at in range(steps):
        print(f"seed={seed} mode={mode} crash_at={crash_at}")
        play(seed, mode, crash_at)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pause_between_any_two_steps(seed: int) -> None:
    for pause_at in range(play(seed, Mode.CHECKPOINTED, None)):
        print(f"seed={seed} pause_at={pause_at}")
        play(seed, Mode.CHECKPOINTED, pause_at, pause=True)


def _every_crash(seeds: range) -> None:
    for seed in seeds:
        for crash_at in range(play(seed, Mode.IMPLICIT, None)):
            play(seed, Mode.IMPLICIT, crash_at)


def test_the_checker_sees_a_port_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mark, a new call can draw ports that only an unread journal knows of."""
    monkeypatch.setattr(NodeJournal, "marked", lambda self: "")
    with pytest.raises(AssertionError):
        _every_crash(range(3))


def test_the_checker_sees_a_reply_before_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = ActiveHands.commit

    def late(self: ActiveHands, record: object) -> None:
        self._replier.reply("c0", Reply("c0", "ok"))  # type: ignore[arg-type]
        commit(self, record)  # type: ignore[arg-type]

    monkeypatch.setattr(ActiveHands, "commit", late)
    with pytest.raises(AssertionError):
        _every_crash(range(3))


def test_the_checker_sees_flows_that_are_not_reconciled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgf.hands.reconcile", lambda expected, found: [])
    with pytest.raises(AssertionError):
        _every_crash(range(3))
