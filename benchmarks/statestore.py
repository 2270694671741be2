"""The state store's local figures, through Python, on one segment in memory.

    python -m benchmarks.statestore                 about a minute
    python -m benchmarks.statestore --quick         fewer repetitions, the same rows
    python -m benchmarks.statestore --json FILE     rows in the form of DESIGN section 9

Every figure is the best of several repetitions: the cost of the code, not of its neighbours.
References are published ones (Table I of the paper): local read and write of DAL and of S6.
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path

from rich.console import Console

import statestore
from benchmarks.report import Report
from statestore import Store

DAL_READ_NS, S6_WRITE_NS = 120.0, 170.0
READ_GOAL, WRITE_GOAL = "<= 80", "<= 150"
ITEMS = 1_000_000
SIZE_BYTES = 1 << 30
VALUE = b"v" * 64
ENTRY = b"e" * 200
ENTRIES = 300
LINE_WIDTH = 120  # of the table, when nobody looks


def per_call_ns(call: Callable[[], object], calls: int, rounds: int) -> float:
    """Best of `rounds`: nanoseconds per call, the loop included."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in repeat(None, calls):
            call()
        best = min(best, time.perf_counter_ns() - start)
    return best / calls


def each_ns(call: Callable[[str], object], keys: Iterable[str], count: int) -> float:
    """Nanoseconds per key of one pass."""
    start = time.perf_counter_ns()
    for key in keys:
        call(key)
    return (time.perf_counter_ns() - start) / count


def local(store: Store, report: Report, calls: int, rounds: int) -> None:
    """One item, warm."""
    handle = store.put("one", VALUE)
    grant = store.grant("g1", 1)
    write = handle.write
    report.add(
        "python_call_ns",
        per_call_ns(VALUE.isascii, calls, rounds),
        "ns",
        note="a C method that does nothing: the floor of the next two",
    )
    report.add(
        "read_64B_ns",
        per_call_ns(handle.read, calls, rounds),
        "ns",
        goal=READ_GOAL,
        reference=DAL_READ_NS,
        note="reference: DAL local read",
    )
    report.add(
        "write_64B_ns",
        per_call_ns(lambda: write(VALUE), calls, rounds),
        "ns",
        goal=WRITE_GOAL,
        reference=S6_WRITE_NS,
        note="reference: S6 local write",
    )
    report.add(
        "write_64B_fenced_ns",
        per_call_ns(lambda: write(VALUE, grant), calls, rounds),
        "ns",
        note="the same, checked against a fence",
    )
    version = handle.read_versioned()[0]
    report.add("read_versioned_64B_ns", per_call_ns(handle.read_versioned, calls, rounds), "ns")
    assert handle.compare_and_swap(version, VALUE)


def journal(store: Store, report: Report, rounds: int) -> None:
    """A journal from its first entry to 60 kB."""
    best = float("inf")
    for _ in range(rounds):
        append = store.put("journal", b"").append
        start = time.perf_counter_ns()
        for _ in repeat(None, ENTRIES):
            append(ENTRY)
        best = min(best, time.perf_counter_ns() - start)
        store.lookup("journal").delete()
    report.add("append_200B_ns", best / ENTRIES, "ns", note=f"{ENTRIES} entries, growth included")


def million(store: Store, report: Report, dice: random.Random) -> None:
    """Many items: the index, the feed, memory that is not in a cache."""
    keys = [f"f/g1/fd00:a::101/{n}" for n in range(ITEMS)]
    used = store.stats()["bytes"]
    watch = store.watch("f/")
    report.add("create_ns", each_ns(lambda key: store.create(key, VALUE), keys, ITEMS), "ns")
    report.add("items", float(store.stats()["items"]), "items", goal=f">= {ITEMS}")
    report.add("bytes_per_item", (store.stats()["bytes"] - used) / ITEMS, "B")
    dice.shuffle(keys)
    gc.freeze()  # the benchmark's own million keys are not what is measured
    some = keys[: ITEMS // 5]
    handles = {key: store.lookup(key) for key in some}
    report.add("lookup_cold_ns", each_ns(store.lookup, some, len(some)), "ns")
    report.add("read_cold_ns", each_ns(lambda key: handles[key].read(), some, len(some)), "ns")
    report.add(
        "write_cold_ns", each_ns(lambda key: handles[key].write(VALUE), some, len(some)), "ns"
    )
    start = time.perf_counter_ns()
    found = sum(1 for _ in store.scan("f/"))
    report.add("scan_ns", (time.perf_counter_ns() - start) / found, "ns", note="per item")
    try:
        watch.poll()
    except statestore.Overrun:
        for key in some[:4096]:
            handles[key].write(VALUE)
        start = time.perf_counter_ns()
        changes = len(watch.poll())
        report.add("watch_ns", (time.perf_counter_ns() - start) / changes, "ns", note="per change")
    start = time.perf_counter_ns()
    store.housekeep()
    report.add("housekeep_us", (time.perf_counter_ns() - start) / 1000, "us", note="nothing to do")
    report.add("delete_ns", each_ns(lambda key: handles[key].delete(), some, len(some)), "ns")


def takeover(store: Store, directory: Path, report: Report) -> None:
    """A fence raised against a stopped writer, and the first write after it."""
    script = (
        "import sys, statestore\n"
        "store = statestore.open(sys.argv[1]); grant = store.grant('b', 1)\n"
        "handle = store.put('b', b'', grant=grant); print('go', flush=True)\n"
        "while True: handle.write(b'x' * 4000, grant=grant)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, f"dal://{directory}"],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        start = time.perf_counter_ns()
        store.raise_fence("b", 2)
        raised = time.perf_counter_ns()
        store.put("b", VALUE)
        report.add("raise_fence_us", (raised - start) / 1000, "us", note="its writer is stopped")
        report.add(
            "first_write_us",
            (time.perf_counter_ns() - raised) / 1000,
            "us",
            goal="<= 5000",
            note="to the item it may have locked",
        )
    finally:
        process.kill()
        process.communicate()


def main() -> int:
    """Measure and print; 0 when every goal is met, 1 when one is missed, 3 when it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statestore", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws the order of the keys")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, the same rows")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where (default: tmpfs)")
    given = parser.parse_args()
    calls, rounds = (200_000, 3) if given.quick else (1_000_000, 7)
    report = Report("statestore, one host", given.seed)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="statestore-bench-", dir=given.dir) as name,
            statestore.open(f"dal://{name}", size_bytes=SIZE_BYTES) as store,
        ):
            local(store, report, calls, rounds)
            journal(store, report, rounds * 10)
            takeover(store, Path(name), report)
            million(store, report, random.Random(given.seed))
    except (statestore.StateStoreError, OSError) as error:
        print(f"benchmarks.statestore: {error}", file=sys.stderr)
        return 3
    report.render(Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
    if given.json is not None:
        report.write(given.json)
    return 0 if report.all_met() else 1


if __name__ == "__main__":
    sys.exit(main())
