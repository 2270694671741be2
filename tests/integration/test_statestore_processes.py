"""Several processes on one segment: races, deaths, stops, forks."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import statestore
from statestore import Kind, Store

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(120)
SIZE_BYTES = 8 << 20
PATIENCE_S = 30
SOUND_KEYS = ("unreachable", "misplaced", "torn_refs", "shared_blocks", "dead", "orphans", "locked")

PRELUDE = """
import os, signal, struct, sys, statestore
def say(word):
    sys.stdout.write(word + "\\n"); sys.stdout.flush()
store = statestore.open(sys.argv[1], size_bytes=int(sys.argv[2]))
"""


class Process:
    """A Python process that has the segment open as `store`; `script` goes on from there."""

    def __init__(self, directory: Path, script: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, f"dal://{directory}", str(SIZE_BYTES)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            bufsize=0,  # `select` must see all that was not read
        )
        self.pid = self._popen.pid

    def hear(self) -> str:
        """The next word; raises once the process has ended, or says nothing for too long."""
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], PATIENCE_S)
        word = self._popen.stdout.readline() if ready else b""
        assert word, f"process {self.pid} says nothing (exit {self._popen.poll()})"
        return bytes(word).decode().strip()

    def tell(self, line: str = "") -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        return self._popen.wait(PATIENCE_S)

    def end(self) -> None:
        self._popen.kill()
        self._popen.communicate()


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    with statestore.open(f"dal://{directory}", size_bytes=SIZE_BYTES) as opened:
        yield opened


@pytest.fixture
def start(directory: Path) -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.end()


def begin(started: list[Process], directory: Path, script: str) -> Process:
    process = Process(directory, script)
    started.append(process)
    return process


def assert_sound(store: Store) -> None:
    found = store.verify()
    assert {name: found[name] for name in SOUND_KEYS} == dict.fromkeys(SOUND_KEYS, 0)


def test_all_who_race_to_make_the_segment_share_one(start: list[Process], directory: Path) -> None:
    script = 'say("open"); sys.stdin.readline(); store.put(str(os.getpid()), b""); say("put")'
    processes = [begin(start, directory, script) for _ in range(5)]
    for process in processes:
        assert process.hear() == "open"
        process.tell()
        assert process.hear() == "put"
    with statestore.open(f"dal://{directory}", create=False) as store:
        assert {handle.key for handle in store.scan()} == {str(p.pid).encode() for p in processes}
    assert [path.name for path in directory.iterdir()] == ["segment"]


def test_no_addition_is_lost_between_processes(
    store: Store, start: list[Process], directory: Path
) -> None:
    counter = store.create("n", bytes(8))
    script = 'h = store.lookup("n")\nfor _ in range(20000): h.add(1)\nstore.close()'
    processes = [begin(start, directory, script) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert struct.unpack("<q", counter.read()) == (60000,)
    assert_sound(store)


def test_a_killed_writer_leaves_whole_values_and_no_lock(
    store: Store, start: list[Process], directory: Path
) -> None:
    keys = [f"k/{n}" for n in range(4)]
    for key in keys:
        store.put(key, b"")
    script = """
say("go")
i = 0
while True:
    i += 1
    store.put("k/%d" % (i % 4), bytes([i % 251]) * (i % 3000))
    store.append("j", bytes([i % 251]) * 50)
    if i % 40 == 0: store.lookup("j").delete()
"""
    watch = store.watch("k/")
    for delay_ms in range(0, 60, 5):
        process = begin(start, directory, script)
        assert process.hear() == "go"
        time.sleep(delay_ms / 1000)
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        for key in keys:
            value = store.lookup(key).read()
            # Killed before it came to this key, it left what the last round put there.
            assert value in (value[:1] * len(value), b"survivor's")
            store.put(key, b"survivor's")
        store.append("j", b"survivor's")
        assert set(store.lookup("j").entries()[-1:]) == {b"survivor's"}
        store.housekeep()
        assert store.stats()["clients"] == 1
        assert_sound(store)
    try:
        assert {change.key for change in watch.poll()} <= {key.encode() for key in keys}
    except statestore.Overrun:
        assert watch.poll() == []


def test_a_watcher_follows_another_process(
    store: Store, start: list[Process], directory: Path
) -> None:
    watch = store.watch("f/")
    script = """
for n in range(500): store.put("f/%d" % n, b"flow")
for n in range(0, 500, 2): store.lookup("f/%d" % n).delete()
store.close(); say("done")
"""
    process = begin(start, directory, script)
    mirror: set[bytes] = set()
    done = False
    while not done:
        done = process.hear() == "done"
        for change in watch.poll():
            (mirror.add if change.kind is Kind.PUT else mirror.discard)(change.key)
    assert mirror == {f"f/{n}".encode() for n in range(1, 500, 2)}


def test_a_stopped_owner_is_fenced_when_it_goes_on(
    store: Store, start: list[Process], directory: Path
) -> None:
    script = """
grant = store.grant("g1", 1)
handle = store.put("j", b"0", grant=grant)
say("go")
try:
    n = 0
    while True:
        n += 1
        handle.write(b"%d" % n, grant=grant)
except statestore.Fenced as error:
    say("fenced at %d" % error.epoch_seen)
"""
    process = begin(start, directory, script)
    assert process.hear() == "go"
    process.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert store.raise_fence("g1", 2)
    stands = store.lookup("j").read()
    process.signal(signal.SIGCONT)
    assert process.hear() == "fenced at 2"
    assert store.lookup("j").read() == stands
    store.put("j", b"the new owner's", grant=store.grant("g1", 2))
    assert process.wait() == 0
    store.housekeep()
    assert_sound(store)


def test_a_running_owner_is_fenced_too(store: Store, start: list[Process], directory: Path) -> None:
    script = """
say("go")
for epoch in range(1, 400, 2):
    try:
        grant = store.grant("g1", epoch)
        while True:
            store.append("j", b"x" * 10, grant=grant)
            if len(store.lookup("j").read()) > 4000: store.put("j", b"", grant=grant)
    except statestore.Fenced:
        pass
say("end")
"""
    process = begin(start, directory, script)
    assert process.hear() == "go"
    handle = store.put("j", b"")
    for epoch in range(2, 402, 2):
        assert store.raise_fence("g1", epoch)
        # The writer may have its next grant already, but no older one has an effect.
        if store.fence("g1") == epoch:
            handle.read()
    assert store.raise_fence("g1", 1000)
    stands = handle.read()
    assert process.hear() == "end"
    assert handle.read() == stands
    assert process.wait() == 0
    store.housekeep()
    assert_sound(store)


def test_the_keepers_lock_goes_to_the_next_when_it_dies(
    store: Store, start: list[Process], directory: Path
) -> None:
    script = "say(str(store.try_keeper())); sys.stdin.readline()"
    first = begin(start, directory, script)
    assert first.hear() == "True"
    assert not store.try_keeper()
    first.signal(signal.SIGKILL)
    first.wait()
    assert store.try_keeper()
    assert store.housekeep().dead_clients == 1
    assert begin(start, directory, script).hear() == "False"


def test_nothing_is_shared_with_a_forked_child(
    store: Store, start: list[Process], directory: Path
) -> None:
    script = """
handle = store.create("a", b"parent's")
watch = store.watch()
store.try_keeper()
if os.fork() == 0:
    for operation in (
        handle.read, lambda: handle.write(b"child's"), handle.delete, lambda: handle.append(b""),
        store.stats, store.verify, store.housekeep, store.watch, watch.poll,
        lambda: store.lookup("a"), lambda: store.create("c", b""), lambda: list(store.scan()),
        lambda: store.grant("f", 1), lambda: store.fence("f"), lambda: store.raise_fence("f", 1),
    ):
        try:
            operation()
        except statestore.Unavailable as error:
            say("refused" if "fork" in str(error) else str(error))
        else:
            say("allowed")
    store.close()
    with statestore.open(sys.argv[1]) as mine:
        mine.put("b", b"child's own")
        say("keeper" if mine.try_keeper() else "no keeper")
    os._exit(0)
os.wait()
say(handle.read().decode())
sys.stdin.readline()
"""
    process = begin(start, directory, script)
    words = list(iter(process.hear, "parent's"))
    assert words == ["refused"] * 15 + ["no keeper"]
    assert store.lookup("b").read() == b"child's own"
    assert store.stats()["clients"] == 2
    process.signal(signal.SIGKILL)
    process.wait()
    assert store.housekeep().dead_clients == 1
