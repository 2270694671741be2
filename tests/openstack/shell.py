"""The operator of a test on a control plane: types, times what was typed, shows what it said.

Knows bash and the page. Must not know what is right.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.openstack.page import sections

STEP_S = 3000
TOOK: dict[str, float] = {}
"""Seconds by what was typed, for the end of the run."""


class Shell:
    """The operator's, in the operator's directory. `took` are the seconds of what was typed."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place, self._environment = place, environment
        self.took = TOOK

    def __call__(self, line: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.place, env=self._environment, input=answer,
            capture_output=True, text=True, check=False, timeout=STEP_S,
        )  # fmt: skip
        self.took[line] = time.monotonic() - began
        said = done.stderr if "--json" in line else done.stdout + done.stderr
        print(f"\n$ {line}\n{said}({self.took[line]:.0f} s)")
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def typed(self, section: str, number: int, answer: str = "") -> str:
        """A command of the page, as it stands there, and well; what it says."""
        done = self(sections()[section][number], answer)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr
