"""The segment's C core under sanitizers: killed, stopped and interleaved at every store.

`segment_stress.c` says what each mode does. Seeds are fixed: a failure names its own and repeats.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *sorted((ROOT / "statestore").glob("seg*.c")),
    *sorted(Path(__file__).parent.glob("segment_*.c")),
]
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# The thread sanitizer does not follow fences; it needs none, every shared word is atomic.
THREAD = ["-fsanitize=thread", "-Wno-tsan"]
RUN_TIMEOUT_S = 300


def build(directory: Path, name: str, sanitizer: list[str]) -> Path:
    """The stress program, with a 1 ms patience for stopped lock holders."""
    gcc = shutil.which("gcc")
    assert gcc is not None, "gcc is missing: apt-get install gcc"
    binary = directory / name
    command = [gcc, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *sanitizer]
    command += ["-D_GNU_SOURCE", "-DSEGMENT_CRASH_POINTS", "-DSEG_STEAL_AFTER_NS=1000000ull"]
    command += [f"-I{ROOT / 'statestore'}", *map(str, SOURCES), "-lpthread", "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return binary


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="statestore-", dir=shared_memory if shared_memory.is_dir() else None
    ) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def stress(work: Path) -> Path:
    return build(work, "stress-asan", ADDRESS)


def run(binary: Path, mode: str, segment: Path, rounds: int, *prefix: str) -> str:
    command = [*prefix, str(binary), mode, str(segment), str(rounds)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr
    return done.stdout


def test_a_writer_killed_at_each_store_leaves_the_old_or_the_new_value(
    stress: Path, work: Path
) -> None:
    out = run(stress, "crash", work / "crash", 1)
    points = [int(line.split()[-2]) for line in out.splitlines()[:-1]]
    assert len(points) == 23 and min(points) >= 5, "the crash points are not compiled in"


def test_a_writer_stopped_at_each_store_harms_nothing_when_it_goes_on(
    stress: Path, work: Path
) -> None:
    run(stress, "stop", work / "stop", 1)


def test_whoever_takes_over_may_die_as_well(stress: Path, work: Path) -> None:
    run(stress, "twice", work / "twice", 17)


def test_a_client_that_signs_in_during_a_sweep_keeps_what_it_claimed(
    stress: Path, work: Path
) -> None:
    run(stress, "sweep", work / "sweep", 1)


def test_every_interleaving_of_stores_is_allowed(stress: Path, work: Path) -> None:
    run(stress, "schedule", work / "schedule", 250)


def test_processes_killed_at_random(stress: Path, work: Path) -> None:
    run(stress, "kills", work / "kills", 150)


def test_what_the_functions_for_a_cluster_promise(stress: Path, work: Path) -> None:
    run(stress, "cluster", work / "cluster", 1)


def test_the_roster_survives_a_writer_killed_at_each_store(stress: Path, work: Path) -> None:
    run(stress, "roster", work / "roster", 1)


def test_threads_under_the_address_sanitizer(stress: Path, work: Path) -> None:
    run(stress, "threads", work / "threads", 10000)


def test_threads_under_the_thread_sanitizer(work: Path) -> None:
    binary = build(work, "stress-tsan", THREAD)
    # Its shadow memory does not fit every randomised address space.
    setarch = shutil.which("setarch")
    prefix = [setarch, platform.machine(), "-R"] if setarch else []
    run(binary, "threads", work / "tsan", 5000, *prefix)
