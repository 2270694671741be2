"""The formal models in their short form: they hold, and they bite.

Knows: scripts/model.sh. `make model` runs the whole of it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "scripts/model.sh", "quick"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_model_holds_and_every_protection_is_missed() -> None:
    done = run(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 5
    assert done.stdout.count("found") == 8


def test_a_protocol_that_is_wrong_fails(tmp_path: Path) -> None:
    """The leader does not wait for acknowledgements: in every model at once."""
    shutil.copytree(ROOT / "docs/model", tmp_path / "docs/model")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/model.sh", tmp_path / "scripts")
    state = tmp_path / "docs/model/state.pml"
    state.write_text("#define MUTANT_COMMIT_ALONE\n" + state.read_text())
    done = run(tmp_path)
    assert done.returncode == 1
    assert "VIOLATED" in done.stdout


def test_a_model_that_does_not_parse_is_not_taken_for_one_that_holds(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/model", tmp_path / "docs/model")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/model.sh", tmp_path / "scripts")
    (tmp_path / "docs/model/rules.pml").write_text("/* nothing */\n")
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("BROKEN") == 10
