"""The manager under a clock of our own, with semantic fakes: what holds after what happens."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from failover.adapters import NullAddresses, NullArmer, NullProber
from failover.config import FailoverConfig, GroupConfig, MovingAddress, PeerConfig
from failover.errors import FailoverConfigError
from failover.history import TimelineEvent
from failover.manager import Manager
from failover.performer import ANNOUNCE_BURST_MS
from failover.registry import Member, MemoryRegistry, Ownership, RegistryUnavailable, View
from failover.timeline import TIMELINE_MAX
from tests.fakes.failover import MS, FakeArmer, World, cluster_configs, group_addresses


def settled() -> World:
    """Three nodes: n1 serves g1, n2 serves g2, n3 stands by; a second has passed."""
    world = World(3, 2, seed=7)
    world.run(1000)
    assert world.serving("g1") == ["n1"]
    assert world.serving("g2") == ["n2"]
    return world


def names(events: list[TimelineEvent], group: str = "g1") -> list[str]:
    return [event["event"] for event in events if event["group"] == group]


class AgeingRegistry(MemoryRegistry):
    """As etcd seen through a watch: what is known is too old to act on until somebody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.current = False

    def view(self) -> View:
        if not self.current:
            raise RegistryUnavailable("nothing heard for 661 ms")
        return super().view()

    def record(self, node: str) -> Member | None:
        self.current = True
        return super().record(node)


def test_a_process_that_was_slow_to_start_asks_and_so_gets_in() -> None:
    world = World(3, 2, seed=7, registry=AgeingRegistry())
    world.run(1000)
    assert world.serving("g1") == ["n1"] and world.serving("g2") == ["n2"]


def test_preferred_nodes_bring_their_groups_up() -> None:
    world = settled()
    assert world.owner("g1") == Ownership("n1", 1)
    assert world.owner("g2") == Ownership("n2", 1)
    assert world.nodes["n1"].woken == {"g1": 1, "g2": 0}
    assert world.manager("n3").status()["sentence"] == "n3 sees n1 serve g1; sees n2 serve g2."


def test_nothing_moves_while_nothing_happens() -> None:
    world = settled()
    world.loss = 0.02
    world.run(20_000)
    assert world.owner("g1") == Ownership("n1", 1)
    assert world.owner("g2") == Ownership("n2", 1)
    assert world.serving("g1") == ["n1"]


def test_the_standby_takes_over_from_a_machine_without_power() -> None:
    world = settled()
    world.power_off("n1")
    took_ms = world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=150)
    assert took_ms >= 30  # three intervals of silence, less what had passed before the cut
    assert world.owner("g1") == Ownership("n3", 2)
    assert world.serving("g2") == ["n2"]
    assert world.nodes["n3"].woken["g1"] == 2
    told = names(world.nodes["n3"].events)
    assert told[-8:] == [
        "detected",
        "decided",
        "armed",
        "addressed",
        "announced",
        "woken",
        "published",
        "condition",  # media first
    ]
    decided = [e for e in world.nodes["n3"].events if e["event"] == "decided"][-1]
    assert (decided["node"], decided["epoch"]) == ("n3", 2)
    assert "n2 and n3 hear nothing from n1 on" in decided["sentence"]


def test_a_node_that_returns_is_a_standby() -> None:
    world = settled()
    world.power_off("n1")
    world.run(500)
    world.power_on("n1")
    world.run(5_000)
    assert world.owner("g1") == Ownership("n3", 2)
    assert world.serving("g1") == ["n3"]
    assert not world.nodes["n1"].addresses.held()
    world.power_off("n3")
    world.run_until(lambda: world.serving("g1") == ["n1"], within_ms=150)


def test_a_node_that_returns_is_heard_as_soon_as_it_is_known_to_be_there() -> None:
    world = settled()
    world.power_off("n3")
    world.run(20_000)  # by now it is asked once a second
    world.power_on("n3")
    world.run_until(lambda: "n3" in world.manager("n1").status()["members"], within_ms=100)
    world.run_until(lambda: not world.manager("n1").status()["suspects"], within_ms=100)


def test_words_bring_a_takeover_forward_and_their_loss_does_not_prevent_it() -> None:
    def took_ms(words_lost: bool) -> int:
        world = settled()
        world.words_lost = words_lost
        world.power_off("n1")
        return world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=250)

    assert took_ms(words_lost=False) < 70
    assert took_ms(words_lost=False) + 100 < took_ms(words_lost=True)  # an eighth of a lease


def test_a_cut_media_link_moves_the_group_and_the_old_owner_lets_go() -> None:
    world = settled()
    world.carrier_is_seen = False  # the observers alone find out
    world.nodes["n2"].links_cut.add("access")
    world.run_until(lambda: world.serving("g2") == ["n3"], within_ms=200)
    assert not world.nodes["n2"].addresses.held()
    assert world.serving("g1") == ["n1"]
    assert "stepped-down" in names(world.nodes["n2"].events, "g2")


def test_an_observer_with_a_dead_link_accuses_nobody() -> None:
    world = settled()
    world.carrier_is_seen = False
    world.nodes["n3"].links_cut |= {"access", "core"}
    world.run(3_000)
    assert world.owner("g1") == Ownership("n1", 1)
    assert world.owner("g2") == Ownership("n2", 1)


def test_of_two_nodes_the_one_that_sees_its_link_down_gives_the_group_away() -> None:
    world = World(2, 1, seed=3)
    world.run(1000)
    world.nodes["n1"].links_cut.add("core")
    world.run_until(lambda: world.serving("g1") == ["n2"], within_ms=200)
    assert any(event["event"] == "links" for event in world.nodes["n1"].events)


def test_a_stopped_agent_is_no_dead_node_within_its_lease() -> None:
    world = settled()
    world.stop_agent("n1", 600)
    world.run(600)
    assert world.serving("g1") == ["n1"]
    world.run(1_000)
    assert world.owner("g1") == Ownership("n1", 1)


def test_a_dead_agent_loses_its_groups_with_its_lease_and_its_addresses_leave() -> None:
    world = settled()
    world.kill_agent("n1")
    world.run(500)
    assert world.serving("g1") == ["n1"]  # media goes on within the lease
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=700)
    assert not world.nodes["n1"].armer.forwards("g1")
    world.run(2_000)
    assert not world.nodes["n1"].addresses.held()


def test_a_restarted_agent_goes_on_without_a_new_epoch() -> None:
    world = settled()
    world.kill_agent("n1")
    world.run(300)
    world.start("n1")
    world.run(3_000)
    assert world.owner("g1") == Ownership("n1", 1)
    assert world.serving("g1") == ["n1"]


def test_registry_trouble_waits_and_says_so_and_ends() -> None:
    world = settled()
    for node in world.nodes.values():
        node.registry_cut = True
    world.run(150)
    assert world.serving("g1") == ["n1"]
    status = world.manager("n1").status()
    assert "the registry does not answer" in status["sentence"]
    assert status["registry"].startswith("no answer since")
    world.run(350)
    status = world.manager("n1").status()
    assert "by the word of n2 and n3" in status["sentence"]
    assert "no takeover is possible meanwhile" in status["vouching"]["sentence"]
    assert status["owners"]["g1"] == {"node": "n1", "epoch": 1}  # as last known
    assert "given to n1 and n2" in world.manager("n3").status()["vouching"]["sentence"]
    world.run(10_000)
    assert world.serving("g1") == ["n1"]
    world.power_off("n2")
    world.run(4_500)
    assert world.serving("g1") == world.serving("g2") == []  # no word, and every lease has run out
    assert not world.nodes["n1"].addresses.held()
    for node in world.nodes.values():
        node.registry_cut = False
    world.run_until(lambda: world.serving("g1") == ["n1"], within_ms=500)
    world.run_until(lambda: world.serving("g2") == ["n3"], within_ms=2_500)
    assert {"registry-lost", "registry-back"} <= set(names(world.nodes["n1"].events, ""))
    assert world.manager("n1").status()["registry"] == "ok"


def test_a_node_that_is_not_ready_takes_nothing() -> None:
    world = settled()
    world.nodes["n3"].ready = False
    world.run(100)
    world.power_off("n1")
    world.run_until(lambda: world.serving("g1") == ["n2"], within_ms=200)
    decided = [e for e in world.nodes["n2"].events if e["event"] == "decided"][-1]
    assert "warning: no standby is ready, n2 already owns 1" in decided["sentence"]


@pytest.mark.parametrize("first_answered", ["n2", "n3"])
def test_while_the_registry_keeps_all_waiting_the_line_stands_still(first_answered: str) -> None:
    """A death while etcd elects a leader: whoever is answered first, the standby is the standby."""
    world = settled()
    world.power_off("n1")
    for node in world.nodes.values():
        node.registry_slow = True
    world.run(400)
    assert world.owner("g1") == Ownership("n1", 1)
    world.nodes[first_answered].registry_slow = False
    world.run(100)
    for node in world.nodes.values():
        node.registry_slow = False
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=100)
    assert world.serving("g2") == ["n2"]


def test_announcements_come_in_a_burst_and_then_again_and_again() -> None:
    world = settled()
    world.power_off("n1")
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=200)
    took_ns = world.now_ns
    world.run(12_000)
    addresses = world.nodes["n3"].addresses
    for host in (address.host for address in group_addresses(1)):
        times = [at_ns for at_ns, announced in addresses.announced if announced == host]
        soon = [at_ns for at_ns in times if at_ns - took_ns < 4_000 * MS]
        assert len(soon) == 1 + len(ANNOUNCE_BURST_MS)
        assert len(times) - len(soon) == 2  # 5 s and 10 s later
    world.nodes["n3"].links_cut.add("core")
    world.run(1_000)
    count = len(addresses.announced)
    world.run(6_000)
    assert len(addresses.announced) == count  # who has stepped down is silent


def test_an_address_that_a_stranger_has_is_not_brought_up() -> None:
    world = World(3, 2, seed=1, start=False)
    for node in world.nodes.values():
        node.addresses.strangers["10.10.0.101"] = "02:00:00:00:00:99"
    for name in world.nodes:
        world.start(name)
    world.run(1_000)
    assert world.owner("g1") == Ownership()
    assert "02:00:00:00:00:99" in world.manager("n1").status()["sentence"]
    assert names(world.nodes["n1"].events).count("conflict") == 1
    world.run(4_000)
    for node in world.nodes.values():
        node.addresses.strangers.clear()
    world.run(8_000)
    assert len(world.serving("g1")) == 1
    world.nodes["n3"].addresses.strangers["10.10.0.101"] = "the old owner, still answering"
    victim = world.owner("g1").node
    world.power_off(victim)
    world.run(300)
    assert world.serving("g1") not in ([], [victim])  # a takeover asks nobody


def test_a_failing_step_is_told_once_and_tried_until_it_works() -> None:
    world = settled()
    addresses = world.nodes["n3"].addresses
    addresses.refuse = "cannot add 10.10.0.101/24 on access: the interface is gone"
    world.power_off("n1")
    world.run(1_000)
    status = world.manager("n3").status()
    assert status["trouble"]["AddAddresses g1"] == addresses.refuse
    assert names(world.nodes["n3"].events).count("failed") == 1
    assert addresses.announced == []  # what follows waits for it
    addresses.refuse = ""
    world.run_until(lambda: world.serving("g1") == ["n3"], within_ms=100)
    assert world.manager("n3").status()["trouble"] == {}


def test_whatever_the_packet_path_raises_media_elsewhere_goes_on() -> None:
    world = settled()

    class Broken(FakeArmer):
        def arm(self, group: str, deadline_ns: int) -> None:
            if group == "g1":
                raise LookupError("g1 is not in the armed map")
            super().arm(group, deadline_ns)

    broken = Broken(world, world.nodes["n3"])
    world.nodes["n3"].armer = broken
    world.start("n3")  # its first act is to disarm what an earlier life may have left
    world.run(2_000)
    assert "StepDown g1" in world.manager("n3").status()["trouble"]
    world.power_off("n2")
    world.run_until(lambda: world.serving("g2") == ["n3"], within_ms=150)


def test_status_and_timeline_are_plain_and_bounded() -> None:
    world = settled()
    status = world.manager("n1").status()
    assert json.loads(json.dumps(status)) == status
    assert status["groups"]["g1"]["epoch"] == 1
    assert status["probes"]["heard"] > 0
    timeline = world.manager("n1").timeline()
    assert json.loads(json.dumps(timeline)) == timeline
    assert timeline == world.nodes["n1"].events
    for _ in range(TIMELINE_MAX):
        world.nodes["n1"].links_cut ^= {"core"}
        world.run(70)
    assert len(world.manager("n1").timeline()) <= TIMELINE_MAX


def test_the_loop_runs_and_stops() -> None:
    """The one test with a real clock: it asserts what happens, not when."""
    registry = MemoryRegistry()
    addresses = NullAddresses()
    config = FailoverConfig(
        node="n1",
        discriminator=1,
        sources={},
        peers={},
        groups={"g1": GroupConfig(group_addresses(1), "n1")},
    )
    stop: asyncio.Event

    async def scenario() -> Manager:
        nonlocal stop
        stop = asyncio.Event()
        manager = Manager(
            config,
            registry=registry,
            armer=NullArmer(),
            addresses=addresses,
            prober=NullProber(),
            clock=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            ready=lambda: True,
            wake_gateway=lambda group, epoch: stop.set() if epoch else None,
        )
        await asyncio.wait_for(manager.run(stop), 30)
        manager.close()
        return manager

    manager = asyncio.run(scenario())
    assert registry.view().owners["g1"] == Ownership("n1", 1)
    assert addresses.held() == {address.host for address in group_addresses(1)}
    assert manager.status()["groups"]["g1"]["steps"]["published"] == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"probe_interval_ms": 0}, "probe_interval_ms is 0"),
        ({"detect_multiplier": 256}, "detect_multiplier is 256"),
        ({"lease_ms": 1}, "lease_ms is 1"),
        ({"sources": {"access": "10.10.0.300"}}, "not an IP address"),
        ({"sources": {}}, "no own address there"),
        ({"sources": {"access": "fd00::1", "core": "10.20.0.11"}}, "one IP version"),
        ({"peers": {"n1": PeerConfig(2, {})}}, "this node itself"),
        ({"groups": {"g1": GroupConfig((MovingAddress("10.0.0.1", 33, "x"),))}}, "prefix length"),
        ({"groups": {f"g{n}": GroupConfig(()) for n in range(65)}}, "number of groups is 65"),
    ],
)
def test_a_configuration_that_cannot_work_says_what_is_wrong(
    change: dict[str, object], word: str
) -> None:
    good = cluster_configs(3, 2)["n1"]
    values = {name: getattr(good, name) for name in FailoverConfig.__dataclass_fields__}
    with pytest.raises(FailoverConfigError, match=word) as caught:
        FailoverConfig(**{**values, **change})
    assert "\n" not in str(caught.value)


def test_a_machine_that_nobody_hears_is_buried_once_whatever_it_owned() -> None:
    world = World(4, 2, seed=7)
    world.run(1000)
    for victim in ("n4", "n1"):  # a standby, then an owner
        world.power_off(victim)
        world.run(500)
    assert world.nodes["n2"].buried == world.nodes["n3"].buried == ["n4", "n1"]
    told = [event["node"] for event in world.nodes["n2"].events if event["event"] == "gone"]
    assert told == ["n4", "n1"]
    world.power_on("n4")
    world.run(3_000)
    world.power_off("n4")
    world.run(500)
    assert world.nodes["n2"].buried == ["n4", "n1", "n4"]


def test_who_hears_nobody_buries_nobody() -> None:
    world = World(2, 1, seed=7)
    world.run(1000)
    world.power_off("n1")
    world.run(500)
    assert world.nodes["n2"].buried == []


@pytest.mark.parametrize("stopped_ms", [1_050, 1_300, 2_000, 6_000])
def test_who_wakes_after_its_lease_takes_no_packet_from_the_new_owner(stopped_ms: int) -> None:
    """It writes its record before it knows that its group is gone. To act on that fresh lease
    would announce addresses that lead nowhere until the new owner repeats its own."""
    world = World()
    world.run(500)
    world.stop_agent("n1", stopped_ms)
    world.run_until(lambda: world.owner("g1").node == "n3", stopped_ms + 1_000)
    world.run_until(lambda: world.delivers("g1"), 200)
    for _ in range(stopped_ms + 6_000):
        world.run(1)
        assert world.delivers("g1"), world.describe()
    assert world.serving("g1") == ["n3"]
