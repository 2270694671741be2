"""Every fuzz target builds, and holds for a moment; `scripts/fuzz.sh` runs them for longer.

The targets' first inputs always run, in a build by gcc; where clang is, it goes on from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HELPERS = {"main", "crypto"}
TARGETS = sorted(
    {path.stem.removeprefix("fuzz_") for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.c")}
    - HELPERS
)
RUN_TIMEOUT_S = 300


def has_libfuzzer() -> bool:
    if shutil.which("clang-14") is None:
        return False
    done = subprocess.run(
        ["clang-14", "--print-runtime-dir"], capture_output=True, text=True, timeout=60, check=True
    )
    return any(Path(done.stdout.strip()).glob("libclang_rt.fuzzer-*.a"))


MODES = ["replay", pytest.param("2", marks=pytest.mark.skipif(not has_libfuzzer(), reason="clang"))]


@pytest.mark.parametrize("mode", ["replay", "2"])
def test_what_reads_the_bytes_of_control(mode: str, tmp_path: Path) -> None:
    """In Python: needs no clang."""
    test_target("ng", mode, tmp_path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_target(target: str, mode: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "fuzz.sh"), mode, target],
        env={**os.environ, "FUZZ_DIR": str(tmp_path), "FUZZ_SEED": "1", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1 and "0 crashes" in done.stdout
    assert int(done.stdout.split()[1]) > 0, "nothing was run"
