"""A cluster of failover managers in one process, under one clock: semantic fakes, no test.

`World` runs the real `Manager` on every node, and stands in for everything around it: links that
lose, delay and break, reflectors that answer while the machine has power, a packet path that
forwards until its deadline, addresses that leave when their lifetime ends, one registry that a
node may or may not reach. Ask what happened (`history`) or what holds (`serving`), never which
call was made. All randomness comes from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from failover.config import FailoverConfig, GroupConfig, MovingAddress, PeerConfig
from failover.detector import Probe
from failover.errors import AddressError
from failover.history import TimelineEvent
from failover.manager import Manager
from failover.registry import (
    Member,
    MemoryRegistry,
    Offer,
    Ownership,
    Registry,
    RegistryPending,
    RegistryUnavailable,
    View,
)
from failover.sbfd import ControlPacket, reflect
from failover.testimony import Word
from failover.vouching import Recollection, Vouch, VouchRequest

MS = 1_000_000
SECOND = 1_000 * MS
START_NS = 1_000 * SECOND
PATHS = ("access", "core")


@dataclass(frozen=True)
class Claimed:
    """A claim that the registry granted."""

    at_ns: int
    node: str
    group: str
    seen: Ownership
    won: Ownership
    planned: bool = False
    """Its last owner had offered it to this node."""


@dataclass(frozen=True)
class Armed:
    """A deadline moved. `lease_ns` is the end of the lease that the registry has confirmed to the
    node, `owner` what the node last read (or won) about the group."""

    at_ns: int
    node: str
    group: str
    deadline_ns: int
    lease_ns: int
    owner: Ownership

    vouched: tuple[int, int] = (0, 0)
    """(epoch, until when): the group stood by the peers' word."""
    rivals: tuple[str, ...] = ()
    """Others that forward now and must not: by their peers' word, or under a later epoch where
    this node does so by its peers' word."""


@dataclass(frozen=True)
class TurnEnded:
    """A node has taken a turn: what it forwards for, and whose the group is by its last view."""

    at_ns: int
    node: str
    forwards: tuple[str, ...]
    owners: Mapping[str, Ownership]


Happening = Claimed | Armed | TurnEnded


CATCH_UP_MS = 20


def void(_: object) -> None:
    """Whatever came of it."""


class WorldRegistry:
    """The shared registry as one node reaches it."""

    def __init__(self, world: World, node: Node, shared: Registry) -> None:
        self._world = world
        self._node = node
        self._shared = shared
        self._seen: View | None = None

    def view(self) -> View:
        if self._node.registry_slow and self._seen is not None:
            return self._seen
        self._reach()
        if self._node.stopped_until_ns <= self._world.now_ns < self._node.stale_until_ns:
            raise RegistryUnavailable("what is known is older than the pause")
        if self._node.watch_silent:
            raise RegistryUnavailable("nothing heard of what others write")
        view = self._seen = replace(self._shared.view(), current_ns=self._world.now_ns)
        self._node.last_owners = dict(view.owners)
        return view

    def granted_ns(self) -> int:
        return 0

    def record(self, node: str) -> Member | None:
        self._reach()
        return self._shared.record(node)

    def publish(self, member: Member) -> None:
        self._reach()
        self._shared.publish(member)
        self._node.lease_ns = member.lease_deadline_ns

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        self._reach()
        world = self._world
        if (
            world.doubt and world.random.random() < world.doubt
        ):  # it comes through yet, or not; nobody tells
            later_ns = world.now_ns + world.random.randrange(1, 3_000) * MS
            world.later(later_ns, lambda: void(self._claim(group, seen, node)))
            raise RegistryUnavailable("the answer was lost")
        won = self._claim(group, seen, node)
        if won is not None:
            self._node.last_owners[group] = won
        return won

    def _claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        won = self._shared.claim(group, seen, node)
        if won is not None:
            last = self._shared.view().members.get(seen.node)
            planned = last is not None and last.offers.get(group) == Offer(node, seen.epoch)
            claimed = Claimed(self._world.now_ns, node, group, seen, won, planned)
            self._world.history.append(claimed)
        return won

    def _reach(self) -> None:
        if self._node.registry_cut:
            raise RegistryUnavailable(f"no answer since {self._world.now_ns // MS} ms")
        if self._node.registry_slow:
            raise RegistryPending("no answer yet")


class FakeArmer:
    """A packet path's deadlines: it forwards while they lie ahead."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self._deadlines: dict[str, int] = {}
        self.epochs: dict[str, int] = {}

    def arm(self, group: str, deadline_ns: int) -> None:
        self._deadlines[group] = deadline_ns
        if deadline_ns:
            owner = self._node.last_owners.get(group, Ownership())
            self.epochs[group] = owner.epoch
            self._world.history.append(
                Armed(
                    self._world.now_ns,
                    self._node.name,
                    group,
                    deadline_ns,
                    self._node.lease_ns,
                    owner,
                    self._vouched(group),
                    tuple(self._rivals(group)),
                )
            )

    def _vouched(self, group: str) -> tuple[int, int]:
        manager = self._node.manager
        stands = manager.standing().get(group) if manager is not None else None
        return (0, 0) if stands is None else (stands.epoch, stands.until_ns)

    def by_word(self, group: str) -> bool:
        """Does it forward for longer than the registry's lease allows?"""
        return self.forwards(group) and self._deadlines[group] > self._node.lease_ns

    def _rivals(self, group: str) -> Iterable[str]:
        for name, other in self._world.nodes.items():
            if other is self._node or not other.powered or not other.armer.forwards(group):
                continue
            later = other.armer.epochs[group] > self.epochs[group]
            if other.armer.by_word(group) or (later and self.by_word(group)):
                yield name

    def forwards(self, group: str) -> bool:
        return self._world.now_ns < self._deadlines.get(group, 0)


class FakeAddresses:
    """Addresses with lifetimes, announcements as (time, host), and strangers on the link."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._until: dict[str, int] = {}
        self.announced: list[tuple[int, str]] = []
        self.strangers: dict[str, str] = {}
        self.refuse = ""

    def add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        if self.refuse:
            raise AddressError(self.refuse)
        for address in addresses:
            self._until[address.host] = self._clock() + lifetime_s * SECOND

    def remove(self, addresses: Sequence[MovingAddress]) -> None:
        for address in addresses:
            self._until.pop(address.host, None)

    def held(self) -> set[str]:
        return {host for host, until_ns in self._until.items() if self._clock() < until_ns}

    def announce(self, addresses: Sequence[MovingAddress]) -> None:
        self.announced += [(self._clock(), address.host) for address in addresses]

    def conflicts(self, addresses: Sequence[MovingAddress]) -> Mapping[str, str]:
        hosts = {address.host for address in addresses}
        return {host: mac for host, mac in self.strangers.items() if host in hosts}


class FakeProber:
    """One node's end of all its links."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self.inbox: list[tuple[bytes, str]] = []

    def send(self, probe: Probe) -> None:
        self._world.carry(self._node, probe)

    def drain(self) -> Iterable[tuple[bytes, str]]:
        waiting, self.inbox = self.inbox, []
        return waiting

    def links_down(self) -> Sequence[str]:
        return sorted(self._node.links_cut) if self._world.carrier_is_seen else ()

    def watch(self, readable: Callable[[], None]) -> None:
        """The world calls `Manager.hear` itself."""

    def close(self) -> None:
        self.inbox.clear()


class FakeVouchLink:
    """One node's end of the way to the other failover processes, over the same links."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self.life = world.now_ns  # it differs from that of its earlier processes
        self.inbox: list[VouchRequest | Vouch | Word] = []

    def send(self, message: VouchRequest | Vouch) -> None:
        to = message.to if isinstance(message, VouchRequest) else message.owner
        self._world.carry_word(self._node, self._world.nodes[to], message)

    def tell(self, word: Word) -> bool:
        for name in () if self._world.words_lost else self._node.config.peers:
            self._world.carry_word(self._node, self._world.nodes[name], word)
        return True  # on its way, whatever becomes of it

    def drain(self) -> Iterable[VouchRequest | Vouch | Word]:
        waiting, self.inbox = self.inbox, []
        return waiting

    def watch(self, readable: Callable[[], None]) -> None:
        """The world calls `Manager.hear` itself."""

    def close(self) -> None:
        self.inbox.clear()


class FakeMemory:
    """A file of one boot of a machine."""

    def __init__(self) -> None:
        self.kept: Recollection | None = None

    def load(self) -> Recollection | None:
        return self.kept

    def keep(self, recollection: Recollection) -> None:
        self.kept = recollection


@dataclass(eq=False)
class Node:
    """One machine. `life` counts its agent's restarts, so that a turn of an old life is void."""

    name: str
    config: FailoverConfig
    powered: bool = True
    links_cut: set[str] = field(default_factory=set)
    registry_cut: bool = False
    registry_slow: bool = False
    """It answers nothing for now, and what was seen last is not too old to act on."""
    watch_silent: bool = False
    """It can write to the registry, and is not told what others write."""
    ready: bool = True
    unready: tuple[str, ...] = ()
    health: dict[str, str] = field(default_factory=dict)
    stopped_until_ns: int = 0
    frozen_until_ns: int = 0
    stale_until_ns: int = 0
    lease_ns: int = 0
    last_owners: dict[str, Ownership] = field(default_factory=dict)
    life: int = 0
    manager: Manager | None = None
    woken: dict[str, int] = field(default_factory=dict)
    buried: list[str] = field(default_factory=list)
    events: list[TimelineEvent] = field(default_factory=list)
    armer: FakeArmer = field(init=False)
    addresses: FakeAddresses = field(init=False)
    prober: FakeProber = field(init=False)
    link: FakeVouchLink | None = None
    memory: FakeMemory = field(default_factory=FakeMemory)


def group_addresses(number: int) -> tuple[MovingAddress, ...]:
    """The moving addresses of group `number`, as in the lab."""
    return (
        MovingAddress(f"fd00:a::10{number}", 64, "access"),
        MovingAddress(f"10.10.0.10{number}", 24, "access"),
        MovingAddress(f"10.20.0.10{number}", 24, "core"),
    )


def cluster_configs(
    nodes: int, groups: int, *, interval_ms: int = 20, lease_ms: int = 1000
) -> dict[str, FailoverConfig]:
    """n1..nN, of which the first `groups` are each preferred for one group."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    return {
        name: FailoverConfig(
            node=name,
            discriminator=number,
            sources={"access": f"10.10.0.{10 + number}", "core": f"10.20.0.{10 + number}"},
            peers={
                peer: PeerConfig(
                    other, {"access": f"10.10.0.{10 + other}", "core": f"10.20.0.{10 + other}"}
                )
                for other, peer in enumerate(names, 1)
                if peer != name
            },
            groups={
                f"g{group}": GroupConfig(group_addresses(group), preferred=f"n{group}")
                for group in range(1, groups + 1)
            },
            interfaces={path: path for path in PATHS},
            probe_interval_ms=interval_ms,
            lease_ms=lease_ms,
            unowned_grace_ms=3000,
        )
        for number, name in enumerate(names, 1)
    }


class World:
    """N nodes under one clock. `loss` is a probability per datagram and direction, `doubt` one per
    claim: that its answer is lost, and it comes through later, if at all."""

    def __init__(
        self,
        nodes: int = 3,
        groups: int = 2,
        *,
        seed: int = 0,
        interval_ms: int = 20,
        lease_ms: int = 1000,
        registry: Registry | None = None,
        start: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.now_ns = START_NS
        self.loss = 0.0
        self.doubt = 0.0
        self.lateness_ns_max = 2 * MS
        self.carrier_is_seen = True
        self.words_lost = False
        self.history: list[Happening] = []
        self.shared: Registry = registry if registry is not None else MemoryRegistry()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self.nodes: dict[str, Node] = {}
        configs = cluster_configs(nodes, groups, interval_ms=interval_ms, lease_ms=lease_ms)
        for name, config in configs.items():
            node = Node(name, config)
            node.prober = FakeProber(self, node)
            self._blank(node)
            self.nodes[name] = node
        if start:
            for name in self.nodes:
                self.start(name)

    # -- what a test does ------------------------------------------------------------------

    def start(self, name: str) -> None:
        """(Re)start the agent of a powered node."""
        node = self.nodes[name]
        node.life += 1
        node.prober.inbox.clear()
        node.last_owners = {}
        node.link = FakeVouchLink(self, node)
        node.manager = Manager(
            node.config,
            registry=WorldRegistry(self, node, self.shared),
            armer=node.armer,
            addresses=node.addresses,
            prober=node.prober,
            clock=lambda: self.now_ns,
            ready=lambda: node.ready,
            wake_gateway=node.woken.__setitem__,
            bury=node.buried.append,
            unready=lambda: node.unready,
            health=lambda: node.health,
            on_event=node.events.append,
            link=node.link,
            memory=node.memory,
        )
        self._turn_later(node, self.now_ns)

    def kill_agent(self, name: str) -> None:
        """The process dies; machine, packet path and addresses stay as they are."""
        self.nodes[name].manager = None
        self.nodes[name].life += 1

    def power_off(self, name: str) -> None:
        self.kill_agent(name)
        self.nodes[name].powered = False
        self._blank(self.nodes[name])

    def power_on(self, name: str) -> None:
        self.nodes[name].powered = True
        self.start(name)

    def stop_agent(self, name: str, for_ms: int) -> None:
        """SIGSTOP, then SIGCONT: its packet path goes on answering. What it knows of the registry
        is as old as the pause for a moment, while it can write there at once."""
        self.nodes[name].stopped_until_ns = self.now_ns + for_ms * MS
        self.nodes[name].stale_until_ns = self.nodes[name].stopped_until_ns + CATCH_UP_MS * MS

    def freeze(self, name: str, for_ms: int) -> None:
        """The whole machine stands still, its reflector too."""
        self.stop_agent(name, for_ms)
        self.nodes[name].frozen_until_ns = self.now_ns + for_ms * MS

    def run(self, for_ms: int) -> None:
        """Let time pass."""
        end_ns = self.now_ns + for_ms * MS
        while self._queue and self._queue[0][0] <= end_ns:
            at_ns, _, what = heapq.heappop(self._queue)
            self.now_ns = max(self.now_ns, at_ns)
            what()
        self.now_ns = end_ns

    def run_until(self, holds: Callable[[], bool], within_ms: int) -> int:
        """Let time pass until `holds`; how many ms it took. AssertionError when it never does."""
        for passed_ms in range(within_ms + 1):
            if holds():
                return passed_ms
            self.run(1)
        raise AssertionError(f"did not hold within {within_ms} ms: {self.describe()}")

    # -- what a test asks ------------------------------------------------------------------

    def serving(self, group: str) -> list[str]:
        """Nodes that would forward a packet sent to the group now: powered, armed, addressed."""
        number = int(group[1:])
        hosts = {address.host for address in group_addresses(number)}
        return [
            name
            for name, node in self.nodes.items()
            if node.powered and node.armer.forwards(group) and hosts <= node.addresses.held()
        ]

    def reaches(self, host: str) -> str:
        """The node that a neighbour sends to for `host`: whoever announced it last."""
        last = {
            name: max(at_ns for at_ns, said in node.addresses.announced if said == host)
            for name, node in self.nodes.items()
            if any(said == host for _, said in node.addresses.announced)
        }
        return max(last, key=lambda name: last[name], default="")

    def delivers(self, group: str) -> bool:
        """Would a packet to any of the group's addresses be forwarded now?"""
        hosts = (address.host for address in group_addresses(int(group[1:])))
        nodes = {self.reaches(host) for host in hosts}
        return all(
            name and self.nodes[name].powered and self.nodes[name].armer.forwards(group)
            for name in nodes
        )

    def owner(self, group: str) -> Ownership:
        return self.shared.view().owners.get(group, Ownership())

    def manager(self, name: str) -> Manager:
        manager = self.nodes[name].manager
        assert manager is not None, f"{name} has no agent now"
        return manager

    def describe(self) -> str:
        lines = [f"t={(self.now_ns - START_NS) // MS} ms"]
        for name, node in self.nodes.items():
            said = node.manager.status()["sentence"] if node.manager else "(no agent)"
            lines.append(
                f"{name} powered={node.powered} cut={sorted(node.links_cut)}"
                f" held={sorted(node.addresses.held())}: {said}"
            )
        return "\n".join(lines)

    # -- the machinery ---------------------------------------------------------------------

    def carry(self, sender: Node, probe: Probe) -> None:
        """A probe to a reflector, and its answer back."""
        target = self.nodes[probe.peer]
        delay_ns = self.random.randrange(50_000, 1_500_000)
        if probe.path in sender.links_cut or self.random.random() < self.loss:
            return
        self.later(self.now_ns + delay_ns, lambda: self._reflect(sender, target, probe))

    def carry_word(self, sender: Node, target: Node, message: VouchRequest | Vouch | Word) -> None:
        """A datagram to another failover process, on every path; it may come twice, or late."""
        for path in PATHS:
            if path in sender.links_cut or self.random.random() < self.loss:
                continue
            delay_ns = self.random.randrange(50_000, 1_500_000)
            self.later(self.now_ns + delay_ns, lambda path=path: self._word(target, message, path))  # type: ignore[misc]

    def _word(self, node: Node, message: VouchRequest | Vouch | Word, path: str) -> None:
        if not node.powered or path in node.links_cut or self.now_ns < node.frozen_until_ns:
            return
        if node.link is None or self.random.random() < self.loss:
            return
        node.link.inbox.append(message)
        if node.manager is not None and self.now_ns >= node.stopped_until_ns:
            node.manager.hear()

    def _reflect(self, sender: Node, target: Node, probe: Probe) -> None:
        working = target.powered and self.now_ns >= target.frozen_until_ns
        if not working or probe.path in target.links_cut or self.random.random() < self.loss:
            return
        request = ControlPacket.parse(probe.datagram)
        if request.your_discriminator != target.config.discriminator:
            return
        answer = reflect(request).encode()
        delay_ns = self.random.randrange(50_000, 1_500_000)
        self.later(self.now_ns + delay_ns, lambda: self._arrive(sender, answer, probe.path))

    def _arrive(self, node: Node, datagram: bytes, path: str) -> None:
        if not node.powered or path in node.links_cut or self.now_ns < node.frozen_until_ns:
            return
        node.prober.inbox.append((datagram, path))
        if node.manager is not None and self.now_ns >= node.stopped_until_ns:
            node.manager.hear()

    def _blank(self, node: Node) -> None:
        """What a machine knows after its power was off: nothing."""
        node.armer = FakeArmer(self, node)
        node.addresses = FakeAddresses(lambda: self.now_ns)
        node.memory = FakeMemory()

    def later(self, at_ns: int, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (at_ns, self._order, what))

    def _turn_later(self, node: Node, due_ns: int) -> None:
        life = node.life
        late_ns = self.random.randrange(0, self.lateness_ns_max + 1)
        self.later(max(due_ns, self.now_ns) + late_ns, lambda: self._turn(node, life))

    def _turn(self, node: Node, life: int) -> None:
        if life != node.life or node.manager is None:
            return
        if self.now_ns < node.stopped_until_ns:
            self.later(node.stopped_until_ns, lambda: self._turn(node, life))
            return
        due_ns = node.manager.wake()
        groups = node.config.groups
        forwards = tuple(group for group in groups if node.armer.forwards(group))
        self.history.append(TurnEnded(self.now_ns, node.name, forwards, dict(node.last_owners)))
        self._turn_later(node, due_ns)
