"""A member's death with thousands of items: its copies are confirmed by number, nobody is told of
changes that are none, and what is not urgent waits.

Real engines in this process, with the registry's embedded twin.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import statestore
from statestore.server import LocalCluster, Server, local_cluster
from tests.fakes.state_cluster import TIMEOUT_MS, TIMERS, wait_for

ITEMS = 600
CHANGED = 50
SIZE_BYTES = 16 << 20
REST_S = 0.5
"""NODE_REST_NS: so long after a death no copy is made again."""
URGENT_S = 0.1
"""NODE_URGENT_NS: so long only those inherited items begin that are asked for."""


def figures(servers: tuple[Server, ...]) -> Counter[str]:
    total: Counter[str] = Counter()
    for server in servers:
        total.update(server.status()["counters"])
    return total


def standing(
    directory: Path, members: int, repair_per_s: int
) -> AbstractContextManager[LocalCluster]:
    return local_cluster(
        members,
        directory / "cluster",
        size_bytes=SIZE_BYTES,
        timers=TIMERS,
        history=0,
        promote="at once",
        repair_per_s=repair_per_s,
    )


@pytest.mark.parametrize("repair_per_s", [1, 100_000], ids=["copies-missing", "copies-made-again"])
def test_heirs_ask_their_copies_by_number(directory: Path, repair_per_s: int) -> None:
    with standing(directory, 4, repair_per_s) as cluster:
        dead, survivors = cluster.servers[0], cluster.servers[1:]

        def beside(number: int) -> statestore.Store:
            return statestore.open(
                cluster.addresses[number], key_file=cluster.key_file, timeout_ms=TIMEOUT_MS
            )

        pairs = [(f"f/{number}", str(number).encode()) for number in range(ITEMS)]
        with beside(0) as owner:
            owner.create_many(pairs, replicas=15)
            for key, _ in pairs[:CHANGED]:
                owner.lookup(key).write(b"changed " + key.encode(), sync=True)
        values = {key.encode(): value for key, value in pairs}
        values |= {key.encode(): b"changed " + key.encode() for key, _ in pairs[:CHANGED]}
        with beside(1) as heir:
            handles = [heir.lookup(key) for key in values]
            watch = heir.watch("f/")
            before = figures(survivors)
            dead.stop(leave=False)
            survivors[0].evict(dead.config.node)
            wait_for(
                "every item has a new master, and its copies count",
                lambda: (
                    figures(survivors)["thawed"] - before["thawed"] == ITEMS
                    and not any(server.status()["unreplicated"] for server in survivors)
                ),
            )
            spent = figures(survivors)
            spent.subtract(before)
            assert spent["confirmed"] > ITEMS * 9 // 10, spent
            assert spent["copies"] < ITEMS // 10, "values were sent to those who had them"
            assert watch.poll(ITEMS) == [], "watchers were told of changes that are none"
            assert heir.read_many(handles, settled=True) == list(values.values())
            assert heir.read_many(handles) == list(values.values())
            for handle in handles[:: ITEMS // 10]:
                handle.write(b"of a new master", sync=True)
            wait_for("what is written is told", lambda: len(watch.poll(ITEMS)) > 0)


def test_copies_are_made_again_but_not_at_once(directory: Path) -> None:
    with standing(directory, 3, 100_000) as cluster:
        dead, survivors = cluster.servers[0], cluster.servers[1:]
        with statestore.open(
            cluster.addresses[0], key_file=cluster.key_file, timeout_ms=TIMEOUT_MS
        ) as owner:
            owner.create_many([(f"f/{number}", b"") for number in range(ITEMS)], replicas=1)
        before = figures(survivors)["repaired"]
        died_s = time.monotonic()
        dead.stop(leave=False)
        survivors[0].evict(dead.config.node)
        wait_for("the first copy is made", lambda: figures(survivors)["repaired"] > before)
        assert time.monotonic() - died_s > REST_S
        wait_for("all copies are made", lambda: figures(survivors)["repaired"] == before + ITEMS)


def test_what_is_asked_for_begins_first(directory: Path) -> None:
    with standing(directory, 3, 1) as cluster:
        dead, survivors = cluster.servers[0], cluster.servers[1:]

        def beside(number: int) -> statestore.Store:
            return statestore.open(
                cluster.addresses[number], key_file=cluster.key_file, timeout_ms=TIMEOUT_MS
            )

        with beside(0) as owner:
            owner.create_many([(f"f/{number}", b"") for number in range(ITEMS)], replicas=2)
        with beside(1) as heir:
            handles = [heir.lookup(f"f/{number}") for number in range(CHANGED)]
            before = figures(survivors)["thawed"]
            dead.stop(leave=False)
            ordered_s = time.monotonic()
            survivors[0].evict(dead.config.node)
            assert heir.raise_fence("g", 1)  # as a new owner does; after the new view, then
            for handle in handles:  # of either heir
                handle.write(b"asked for", sync=True)
            begun = figures(survivors)["thawed"] - before
            early = time.monotonic() - ordered_s < URGENT_S  # else the machine was busy
            assert begun == CHANGED if early else begun >= CHANGED
            wait_for(
                "the others begin too",
                lambda: (
                    figures(survivors)["thawed"] - before == ITEMS
                    and not any(server.status()["unreplicated"] for server in survivors)
                ),
            )
            assert [handle.read() for handle in handles] == [b"asked for"] * CHANGED
