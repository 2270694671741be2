"""Members in C, a few at a time over a network in memory, under sanitizers: what gets in their way.

`node_cases.c` and `node_full_cases.c` say what each case does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "statestore"
HERE = Path(__file__).parent
ADAPTERS = {"node_loop.c"}  # sockets and clocks: the cases have their own
CASES = (
    *("ids", "overdue", "place", "damaged", "feed", "memory", "repeated"),
    *("death", "heir-restarted"),
    *("full", "full-joiner", "slow", "silent", "leader-stopped", "leader-cut", "capacity"),
)
RUN_TIMEOUT_S = 170


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = shutil.which("gcc")
    assert gcc is not None, "gcc is missing: apt-get install gcc"
    binary = tmp_path_factory.mktemp("node") / "node_cases"
    sources = [
        *sorted(path for path in STATE.glob("node*.c") if path.name not in ADAPTERS),
        *sorted(STATE.glob("seg*.c")),
        STATE / "wire.c",
        *sorted(HERE.glob("node_*.c")),
    ]
    command = [gcc, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DNODE_MANY=512u"]
    command += [f"-I{STATE}", *map(str, sources), "-Wl,--wrap=malloc", "-lpthread"]
    done = subprocess.run(
        [*command, "-o", str(binary)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return binary


@pytest.mark.parametrize("case", CASES)
def test_case(program: Path, case: str) -> None:
    done = subprocess.run(
        [program, case], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    assert done.returncode == 0 and done.stdout == "ok\n", done.stdout + done.stderr
