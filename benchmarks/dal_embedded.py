"""The state store's figures on one host: through C, through Python, many items, many readers.

Every figure is the best of several repetitions: the cost of the code, not of its neighbours.
References are published ones (Table I of the paper): local read and write of DAL and of S6.
"""

from __future__ import annotations

import gc
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import statestore
from benchmarks.dal_native import Natives
from benchmarks.report import Report
from statestore import Store

DAL_READ_NS, S6_WRITE_NS = 120.0, 170.0
READ_GOAL, WRITE_GOAL = "<= 80", "<= 150"
ITEMS = 1_000_000
SIZE_BYTES = 1 << 30
VALUE = b"v" * 64
ENTRY = b"e" * 200
ENTRIES = 300
C_READ_GOAL, C_WRITE_GOAL = "<= 25", "<= 80"
CREATES_GOAL, BOOKKEEPING_GOAL = ">= 200000", "<= 64"
CREATES = 200_000
READERS = 4
SETTLE_S = 0.3


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


def native(natives: Natives, address: str, report: Report, calls: int, rounds: int) -> None:
    """One item, warm, and many creations, through dal.h."""
    found = natives.run("dal_client", "local", address, "-", calls, rounds)
    report.add(
        "local_read_64B_c_ns",
        found["read"],
        "ns",
        goal=C_READ_GOAL,
        reference=DAL_READ_NS,
        note="by handle; reference: DAL local read, published",
    )
    report.add(
        "local_write_64B_c_ns",
        found["write"],
        "ns",
        goal=C_WRITE_GOAL,
        reference=S6_WRITE_NS,
        note="by handle, no replica; reference: S6 local write, published (DAL: 2,300)",
    )
    rates = [
        natives.run("dal_client", "create", f"{address}{number}", "-", CREATES, 1, 0)
        for number in range(2)
    ]
    report.add(
        "create_embedded_per_s",
        max(rate["creates_per_s"] for rate in rates),
        "keys/s",
        goal=CREATES_GOAL,
        note=f"{CREATES:,} keys of 64 B one by one, through dal.h",
    )


def contention(natives: Natives, address: str, report: Report, seconds: int) -> None:
    """Four readers and a writer on one item; every word of the value is the same number."""
    with ThreadPoolExecutor(READERS + 1) as pool:
        writes = pool.submit(natives.run, "dal_client", "writer", address, "-", seconds)
        time.sleep(SETTLE_S)  # it makes the item
        reads = [
            pool.submit(natives.run, "dal_client", "reader", address, "-", max(seconds - 1, 1))
            for _ in range(READERS)
        ]
        read = [each.result() for each in reads]
        written = writes.result()
    note = f"{READERS} readers, 1 writer, {seconds} s: "
    note += f"{sum(r['reads'] for r in read):,.0f} reads, {written['writes']:,.0f} writes"
    report.add("contended_torn", sum(r["torn"] for r in read), "values", goal="== 0", note=note)
    report.add(
        "contended_lost",
        written["lost"] + sum(r["back"] for r in read),
        "writes",
        goal="== 0",
        note="not read back, a version that is missing, or a value that went back",
    )
    report.add(
        "contended_starved",
        sum(r["starved"] for r in read),
        "reads",
        goal="== 0",
        note="gave up after all tries, or a second without any read",
    )


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
        "local_read_64B_python_ns",
        per_call_ns(handle.read, calls, rounds),
        "ns",
        goal=READ_GOAL,
        reference=DAL_READ_NS,
        note="reference: DAL local read",
    )
    report.add(
        "local_write_64B_python_ns",
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
    each = (store.stats()["bytes"] - used) / ITEMS
    payload = len(VALUE) + sum(map(len, keys)) / ITEMS
    report.add("bytes_per_item", each, "B", note=f"key and value are {payload:.1f} of them")
    report.add(
        "bookkeeping_bytes_per_item",
        each - payload,
        "B",
        goal=BOOKKEEPING_GOAL,
        note="blocks in use (item, key, value, rounded up) and their labels, less key and value; "
        "the index is reserved when the segment is made, 8 B of each 256 to 512: 2 to 4 B "
        "of such an item where it is full",
    )
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
