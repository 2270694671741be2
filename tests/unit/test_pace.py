"""How fast a member sends to another: the arithmetic between a sender and slow receivers.

`pace_cases.c` says what each case does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "statestore"


def test_a_slow_member_is_not_drowned(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is missing: apt-get install gcc"
    binary = tmp_path / "pace"
    command = [compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{STATE}"]
    command += [str(Path(__file__).with_name("pace_cases.c")), str(STATE / "node_pace.c")]
    built = subprocess.run(
        [*command, "-o", str(binary)], capture_output=True, text=True, timeout=120, check=False
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([binary], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stdout + done.stderr
