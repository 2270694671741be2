"""What a cluster of three does: creations, promotion after a death, items that move."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import statestore
from benchmarks.dal_native import Natives
from benchmarks.report import Report
from statestore.errors import Unavailable
from statestore.member_records import Timers
from statestore.server import LocalCluster, Server, local_cluster

# Nobody is to lose a lease because a benchmark keeps the machine busy; evictions are ordered here.
PATIENT: Final = Timers(lease_ms=20_000, renew_ms=500, suspect_ms=30_000, patience_ms=1_000)
CREATES_GOAL, PROMOTION_GOAL, BOOKKEEPING_GOAL = ">= 40000", "<= 100", "<= 64"
CREATES: Final = 100_000
BATCH: Final = 1_024
PAYLOAD: Final = 64 + sum(len(f"f/0/{n}") for n in range(CREATES)) / CREATES
PROMOTED: Final = 100_000
SIZE_BYTES: Final = 128 << 20
WAIT_S: Final = 60.0
STEP_S: Final = 0.002
MOVE_S: Final = 0.1
ACCESSES_MAX: Final = 64
HISTORIES: Final = {1: "== 1", 8: "<= 8"}
MS: Final = 1_000_000.0


def measure(natives: Natives, directory: Path, report: Report, quick: bool) -> None:
    """All rows. Raises Unavailable."""
    creation(natives, directory / "three", report, 1 if quick else 3)
    for history, goal in HISTORIES.items():
        adaptive(directory / f"history{history}", report, history, goal)


def creation(natives: Natives, base: Path, report: Report, rounds: int) -> None:
    """Creations, then promotion. The first member leads and is the master of all."""
    best, promotions, walls, bookkeeping = 0.0, [], [], 0.0
    for number in range(rounds):
        with local_cluster(
            3,
            base / str(number),
            size_bytes=SIZE_BYTES,
            timers=PATIENT,
            history=0,
            promote="at once",
        ) as cluster:
            with statestore.open(cluster.addresses[0], key_file=cluster.key_file) as store:
                used = store.stats()["bytes"]
                found = natives.run(
                    "dal_client",
                    *("create", cluster.addresses[0], cluster.key_file, CREATES, BATCH, 0),
                )
                bookkeeping = (store.stats()["bytes"] - used) / CREATES - PAYLOAD
            best = max(best, found["creates_per_s"])
            natives.run(
                "dal_client",
                *("create", cluster.addresses[0], cluster.key_file, PROMOTED, BATCH, 1),
            )
            spent_ms, wall_ms = promotion(cluster)
            promotions.append(spent_ms)
            walls.append(wall_ms)
    report.add(
        "create_cluster_per_s",
        best,
        "keys/s",
        goal=CREATES_GOAL,
        note=f"three members on this host, {CREATES:,} keys of 64 B, {BATCH} in flight, through C",
    )
    report.add(
        "bookkeeping_bytes_per_item_cluster",
        bookkeeping,
        "B",
        goal=BOOKKEEPING_GOAL,
        note="as in the embedded segment, of items of a cluster where they live; key and value "
        f"are {PAYLOAD:.1f}",
    )
    report.add(
        "promotion_ms",
        min(promotions),
        "ms",
        goal=PROMOTION_GOAL,
        note=f"{PROMOTED:,} items with a replica, their master dead: the time in which the slower "
        "of two heirs applies the view and begins to write",
    )
    report.add(
        "promotion_wall_ms",
        min(walls),
        "ms",
        note="from the eviction's order until all are writable, the registry's part included",
    )


def promotion(cluster: LocalCluster) -> tuple[float, float]:
    """Kill the first member. Milliseconds of the slower heir's work, and until it was done."""
    dead, *heirs = cluster.servers
    before = [_engine(server) for server in heirs]
    dead.stop(leave=False)
    start = time.perf_counter_ns()
    heirs[0].evict(dead.config.node)
    deadline = time.monotonic() + WAIT_S
    while sum(_engine(s)["thawed"] - b["thawed"] for s, b in zip(heirs, before, strict=True)) < (
        PROMOTED
    ):
        if time.monotonic() > deadline:
            raise Unavailable(f"promotion did not end: {[_engine(s) for s in heirs]}")
        time.sleep(STEP_S)
    wall = time.perf_counter_ns() - start
    spent = [_engine(s)["promote_ns"] - b["promote_ns"] for s, b in zip(heirs, before, strict=True)]
    return max(spent) / MS, wall / MS


def _engine(server: Server) -> Mapping[str, int]:
    """The engine's figures."""
    return server.reading().node


def adaptive(base: Path, report: Report, history: int, goal: str) -> None:
    """How often an item is accessed from elsewhere until it lives there."""
    with local_cluster(2, base, timers=PATIENT, history=history, promote="at once") as cluster:
        options = {"key_file": cluster.key_file, "timeout_ms": 10_000}
        with (
            statestore.open(cluster.addresses[0], **options) as owner,  # type: ignore[arg-type]
            statestore.open(cluster.addresses[1], **options) as user,  # type: ignore[arg-type]
        ):
            owner.create("wanted", b"v" * 64)
            handle = user.lookup("wanted")
            accesses = 0
            while handle.home.master != "n2":
                if accesses == ACCESSES_MAX:
                    raise Unavailable(f"an item did not move in {ACCESSES_MAX} accesses")
                handle.read()
                accesses += 1
                settled = time.monotonic() + MOVE_S
                while handle.home.master != "n2" and time.monotonic() < settled:
                    time.sleep(STEP_S)
    report.add(
        f"accesses_until_local_history_{history}",
        accesses,
        "reads",
        goal=goal,
        note="remote reads until the item's master is the reader's own member",
    )
