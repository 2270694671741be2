"""The manager beside a registry that answers late, or not, or whose answer is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from failover.adapters import NullAddresses, NullArmer, NullProber
from failover.claims import Attempt, Claims
from failover.config import FailoverConfig, GroupConfig
from failover.history import TimelineEvent
from failover.manager import Manager
from failover.own_record import OwnRecord
from failover.registry import (
    Member,
    MemoryRegistry,
    Ownership,
    RegistryPending,
    RegistryUnavailable,
    View,
)
from tests.fakes.failover import MS, START_NS, World, group_addresses


def settled() -> World:
    world = World(3, 2, seed=7)
    world.run(1000)
    assert world.serving("g1") == ["n1"] and world.serving("g2") == ["n2"]
    return world


def alone(
    registry: MemoryRegistry, clock: Callable[[], int], groups: dict[str, GroupConfig]
) -> Manager:
    return Manager(
        FailoverConfig(node="n1", discriminator=1, sources={}, peers={}, groups=groups),
        registry=registry,
        armer=NullArmer(),
        addresses=NullAddresses(),
        prober=NullProber(),
        clock=clock,
        ready=lambda: True,
        wake_gateway=lambda *_: None,
    )


def of(events: list[TimelineEvent], event: str, group: str = "g1") -> list[TimelineEvent]:
    return [e for e in events if (e["event"], e["group"]) == (event, group)]


def test_a_restarted_process_whose_registry_is_slow_to_answer_lets_media_go_on() -> None:
    """Until its first lease it knows nothing; the earlier life's deadline is still to be met."""
    world = settled()
    node = world.nodes["n1"]
    held = node.addresses.held()
    world.kill_agent("n1")
    world.run(100)
    node.registry_slow = True
    node.events.clear()
    world.start("n1")
    for _ in range(500):
        world.run(1)
        assert world.serving("g1") == ["n1"] and node.addresses.held() == held
    assert "leaves g1 and g2 as an earlier life did" in world.manager("n1").status()["sentence"]
    node.registry_slow = False
    world.run(2_000)
    assert world.owner("g1") == Ownership("n1", 1) and world.serving("g1") == ["n1"]
    assert not of(node.events, "stepped-down")


def test_what_an_earlier_life_left_ends_with_its_lease_when_the_registry_stays_away() -> None:
    world = settled()
    world.kill_agent("n1")
    world.nodes["n1"].registry_cut = True
    world.start("n1")
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=1_500)
    assert not world.nodes["n1"].armer.forwards("g1")
    world.run(3_000)
    assert not world.nodes["n1"].addresses.held()


def test_a_takeover_whose_claim_was_not_answered_is_told_and_counted() -> None:
    world = settled()
    world.doubt = 1.0
    world.power_off("n1")
    world.run_until(lambda: bool(world.serving("g1")), within_ms=5_000)
    world.run(100)
    (taker,) = world.serving("g1")
    told = of(world.nodes[taker].events, "decided")
    (decided,) = [event for event in told if event["epoch"] == 2]
    assert decided["reason"] == "node dead"
    assert f"{taker} claims g1 at epoch 2" in decided["sentence"]
    owned_before = 1 if taker == "n2" else 0
    assert world.manager(taker).tally["claims_won"] == owned_before + 1


class _Word:
    """What a claim asks of the voucher."""

    def claiming(self, group: str, epoch: int, now_ns: int) -> None: ...
    def claim_failed(self, group: str) -> None: ...
    def won(self, group: str, won: Ownership) -> None: ...


class _Unanswering(MemoryRegistry):
    """Grants every claim, and no answer arrives."""

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        super().claim(group, seen, node)
        raise RegistryUnavailable("the answer was lost")


def test_the_dead_owner_is_fenced_whenever_it_is_known_that_the_claim_came_through() -> None:
    took: list[tuple[str, str, int]] = []
    told: list[str] = []
    registry = _Unanswering()
    claims = Claims(
        "n3",
        registry,
        _Word(),  # type: ignore[arg-type]
        took=lambda node, group, epoch, _: took.append((node, group, epoch)),
        tell=lambda event, *_, **__: told.append(event),
        tally=Counter(),
    )
    seen = Ownership("", 0)
    attempt = Attempt(Ownership("n1", 0), View(), True, "node dead", "n3 claims g1.")
    registry._owners["g1"] = attempt.seen
    claims.read("g1", seen)
    try:
        claims.claim("g1", attempt, 0)
    except RegistryUnavailable:
        told.append("unanswered")
    claims.read("g1", attempt.seen)  # a view from before
    assert took == [] and told == ["unanswered"]
    claims.read("g1", registry.view().owners["g1"])
    claims.read("g1", registry.view().owners["g1"])
    assert took == [("n1", "g1", 1)] and told == ["unanswered", "decided"]
    claims.refused("g1")
    assert told == ["unanswered", "decided"] and claims.last_owner == {"g1": "n1"}


class _NoClaims(MemoryRegistry):
    """Everything works but claims, each of which would wait for as long as a timeout."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        self.asked.append(group)
        raise RegistryUnavailable("no answer within 400 ms")


def test_one_turn_waits_for_one_unanswered_claim_however_many_are_due() -> None:
    registry, now_ns = _NoClaims(), START_NS
    groups = {f"g{n}": GroupConfig(group_addresses(n), "n1") for n in (1, 2, 3)}
    manager = alone(registry, lambda: now_ns, groups)
    for turn in range(1, 50):
        now_ns += 50 * MS
        manager.wake()
        assert len(registry.asked) <= turn
    assert len(registry.asked) > 10


class _Late(MemoryRegistry):
    """Each record is written at once, and the answer comes when it is not waited for any more."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Member] = []
        self.late = False

    def publish(self, member: Member) -> None:
        self.published.append(member)
        super().publish(member)
        if self.late:
            raise RegistryPending("no answer yet")


def test_a_record_that_is_confirmed_late_is_not_written_again_and_completes_a_takeover() -> None:
    registry, now_ns = _Late(), START_NS
    manager = alone(registry, lambda: now_ns, {"g1": GroupConfig(group_addresses(1), "n1")})
    registry.late = True
    for _ in range(100):
        now_ns += 5 * MS
        manager.wake()
    assert manager.status()["groups"]["g1"]["steps"]["published"] == 1
    lease_ns = registry.published[0].lease_deadline_ns - START_NS
    renewals = 500 * MS // (lease_ns // 5)
    assert len(registry.published) <= renewals + 4


def test_of_several_records_on_their_way_only_the_confirmed_one_counts() -> None:
    def record(deadline_ns: int, word: int) -> Member:
        return Member("n1", 1, deadline_ns, word=word, serves={"g1": word})

    own = OwnRecord()
    own.pending(record(10, 1), granted_ns=0)
    own.pending(record(20, 2), granted_ns=0)  # behind the first: perhaps it was never sent
    own.granted(10)
    assert own.stands is not None and own.stands.word == 1 and own.serves("g1", 1)
    own.pending(record(30, 3), granted_ns=10)
    own.pending(record(40, 4), granted_ns=30)  # the third has come through in between
    assert own.serves("g1", 3) and not own.serves("g1", 4)
    own.granted(50)  # a later one, of which nothing is known here
    assert own.serves("g1", 3)
    own.pending(record(60, 6), granted_ns=50)
    own.failed()
    own.granted(60)
    assert own.serves("g1", 3)
    own.confirmed(record(70, 7))
    assert own.serves("g1", 7) and own.stands is not None and own.stands.lease_deadline_ns == 0
