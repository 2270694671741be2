"""The state plane's protocol with its real C code, in simulated clusters: dal/sim.h says how.

A seed is a whole history: members, clients, faults, the network. A failure prints its seed, the
rule that was broken and the last events; `dal_sim --seed N --trace` shows all of them.
`make simulate` runs 10,000. The mutants are the proof that the checks bite: each takes one
safeguard out of the engine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "dal"
STORE = ROOT / "statestore"
PROTOCOL = ("node*.c", "client*.c")
ADAPTERS = ("node_loop.c",)  # sockets and clocks: the simulation has its own
PARTS = ("seg*.c", "link*.c", "wire.c", "crypto.c")
WORLD = ("dal_sim.c", "sim_*.c", "check_*.c", "wgl.c")
FLAGS = [
    "-std=c11",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-D_GNU_SOURCE",
    f"-I{STORE}",
    f"-I{HERE}",
]
WRAPPED = "-Wl,--wrap=clock_gettime,--wrap=getrandom,--wrap=wire_decode"
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SEEDS = 300
SHARES = 6  # run two at a time
SANITIZED_SEEDS = 12
AT_ONCE_SEEDS = 60
TIGHT_SEEDS = 120
MUTANTS = (
    *("NO_EPOCH_CHECK", "ACK_EARLY", "THAW_EARLY", "PROMOTE_AT_ONCE", "SAME_UNSEEN"),
    "LEGACY_LEFT",
)
MUTANT_SEEDS = 300  # how many worlds the checks may take to notice a mutant
# What shows in time with promotion after the lease (), and with promotion at once.
BITE_AT_ONCE: dict[str, list[tuple[str, ...]]] = {
    "NO_EPOCH_CHECK": [(), ("--at-once",)],
    "ACK_EARLY": [(), ("--at-once",)],
    "SAME_UNSEEN": [("--at-once", "--from", "4201")],
}  # the others are what at once is
TIGHT_MUTANTS = ("SAME_UNSEEN",)  # one world in thousands shows it, and only where all is full
RUN_TIMEOUT_S = 170


def sources(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(directory.glob(pattern))]
    found = [path for path in found if path.name not in ADAPTERS]
    assert found, f"no sources in {directory}"
    return found


def gcc(*arguments: str) -> None:
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is missing: apt-get install gcc"
    done = subprocess.run(
        [compiler, *arguments], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr


def compile_all(paths: list[Path], into: Path, *flags: str) -> list[str]:
    into.mkdir(exist_ok=True)
    objects = [str(into / f"{path.stem}.o") for path in paths]
    with ThreadPoolExecutor(2) as pool:
        for job in [
            pool.submit(gcc, *FLAGS, *flags, "-c", str(path), "-o", target)
            for path, target in zip(paths, objects, strict=True)
        ]:
            job.result()
    return objects


def link(objects: list[str], binary: Path, *flags: str) -> Path:
    gcc(*flags, *objects, WRAPPED, "-lnettle", "-o", str(binary))
    return binary


def run(binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With its segments in memory, in a directory that goes whatever becomes of the program."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="dal-sim-", dir=memory if memory.is_dir() else None
    ) as segments:
        return subprocess.run(
            [str(binary), "--directory", segments, *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dal_sim")


@pytest.fixture(scope="module")
def surroundings(work: Path) -> list[str]:
    """Everything but the protocol: compiled once, linked with each mutant."""
    paths = sources(STORE, PARTS) + sources(HERE, WORLD)
    return compile_all(paths, work / "parts", "-O2")


@pytest.fixture(scope="module")
def protocol(work: Path, surroundings: list[str]) -> Callable[..., Path]:
    def build(name: str, *flags: str) -> Path:
        objects = compile_all(sources(STORE, PROTOCOL), work / name, "-O2", *flags)
        return link([*objects, *surroundings], work / f"dal_sim-{name}")

    return build


@pytest.fixture(scope="module")
def simulator(protocol: Callable[..., Path]) -> Path:
    return protocol("whole")


def test_the_linearizability_checker_knows_good_histories_from_bad(work: Path) -> None:
    binary = work / "wgl_test"
    gcc(*FLAGS, *SANITIZERS, str(HERE / "wgl.c"), str(HERE / "wgl_test.c"), "-o", str(binary))
    done = subprocess.run(
        [str(binary)], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr


def test_no_rule_is_broken(simulator: Path) -> None:
    shares = [
        ("--from", str(first), "--count", str(SEEDS // SHARES))
        for first in range(1, SEEDS, SEEDS // SHARES)
    ]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda share: run(simulator, *share), shares))
    counts: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for done in runs:
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr
        totals, faults = done.stdout.splitlines()[-2:]
        counts.update({name: int(n) for n, name in re.findall(r"(\d+) ([a-z]+)", totals)})
        happened.update({name: int(n) for name, n in re.findall(r"([a-z-]+) (\d+)", faults)})
    # A key whose writers were mostly left in doubt may have more orders than can be tried.
    assert counts["worlds"] == SEEDS and counts["undecided"] * 100 <= SEEDS, counts
    assert counts["evictions"] > SEEDS / 10 and counts["operations"] > SEEDS * 50, counts
    never = [name for name, count in happened.items() if count == 0]
    assert not never, f"faults that never happened: {never}"


def test_no_rule_is_broken_when_every_limit_is_met(protocol: Callable[..., Path]) -> None:
    """Tables of two places, walks of two items, a snapshot in pieces of one entry."""
    binary = protocol("tight", "-DNODE_TIGHT")
    half = TIGHT_SEEDS // 2
    shares = [("--from", str(first), "--count", str(half)) for first in (1, 1 + half)]
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda share: run(binary, *share), shares):
            assert done.returncode == 0, done.stdout[-20000:] + done.stderr


def test_masters_that_begin_at_once_lose_no_write(simulator: Path) -> None:
    """Reads may be old for a lease after an eviction; nothing that was acknowledged may be."""
    first = str(SEEDS + 1)
    done = run(simulator, "--from", first, "--count", str(AT_ONCE_SEEDS), "--at-once")
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    evictions = re.search(r"(\d+) evictions", done.stdout)
    assert evictions is not None and int(evictions[1]) > AT_ONCE_SEEDS / 10, done.stdout


def test_a_seed_is_a_whole_history(simulator: Path) -> None:
    first, second = (run(simulator, "--from", "1", "--count", "8", "--digest") for _ in range(2))
    digests = re.findall(r"digest ([0-9a-f]{16})", first.stdout)
    assert len(set(digests)) == 8 and first.stdout == second.stdout


def test_under_the_sanitizers(work: Path) -> None:
    paths = sources(STORE, PROTOCOL + PARTS) + sources(HERE, WORLD)
    objects = compile_all(paths, work / "sanitized", *SANITIZERS)
    binary = link(objects, work / "dal_sim-sanitized", *SANITIZERS)
    done = run(binary, "--from", "1001", "--count", str(SANITIZED_SEEDS))
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-20000:]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checks_bite(mutant: str, protocol: Callable[..., Path]) -> None:
    tight = ["-DNODE_TIGHT"] if mutant in TIGHT_MUTANTS else []
    binary = protocol(mutant, f"-DDAL_MUTANT_{mutant}", *tight)
    for mode in BITE_AT_ONCE.get(mutant, [()]):
        done = run(binary, "--count", str(MUTANT_SEEDS), "--first", "--quiet", *mode)
        assert done.returncode == 1 and "broke a rule" in done.stdout, done.stdout + done.stderr


def test_usage_is_said_in_one_place(simulator: Path) -> None:
    done = run(simulator, "--without", "gravity")
    assert done.returncode == 2 and "usage:" in done.stderr
