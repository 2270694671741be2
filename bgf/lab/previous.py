"""An earlier version of the product: a checkout with its extensions built, and how a lab's nodes
are configured and started by it.

Knows: that version's own lab, asked in a process of its own. Must not know what differs since.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.errors import ConfigError, EnvironmentProblem
from bgf.lab.plan import Plan

ANSWER_TIMEOUT_S: Final = 60
# Node -> the text of its file. Only what has stood in every version since there were profiles.
_CONFIGURATIONS: Final = """
import json, sys
from pathlib import Path
from bgf import config
from bgf.lab.nodes import Timers, node_config
from bgf.lab.plan import make_plan
asked = json.loads(sys.argv[1])
plan = make_plan(**asked["plan"], run_dir=Path(asked["run_dir"]))
timers = Timers.of(asked["profile"])
print(json.dumps({n.id: config.dump(node_config(plan, n, timers)) for n in plan.nodes}))
"""


@dataclass(frozen=True, slots=True)
class Previous:
    """The checkout at `root`. Raises ConfigError when it is none that could run."""

    root: Path

    def __post_init__(self) -> None:
        for part in ("bgf/lab/nodes.py", "statestore/_node.abi3.so", "bgf/media/_xdp.abi3.so"):
            if not (self.root / part).exists():
                raise ConfigError(
                    f"'{self.root}' is no earlier version that could run: it has no {part} "
                    "(scripts/previous.sh COMMIT makes one)"
                )

    @property
    def environment(self) -> dict[str, str]:
        """What makes `python -m bgf` that version."""
        return {"PYTHONPATH": str(self.root.resolve())}

    def configurations(self, plan: Plan, profile: str) -> Mapping[str, str]:
        """Node -> its file as that version writes it. Raises EnvironmentProblem."""
        standbys = sum(
            1 for node in plan.nodes if not any(g.preferred == node.id for g in plan.groups)
        )
        asked = {
            "plan": {
                "actives": len(plan.nodes) - standbys,
                "standbys": standbys,
                "prefix": plan.prefix,
            },
            "run_dir": str(plan.run_dir),
            "profile": profile,
        }
        done = subprocess.run(
            [sys.executable, "-c", _CONFIGURATIONS, json.dumps(asked)],
            env={**os.environ, **self.environment},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
        try:
            return dict(json.loads(done.stdout))
        except ValueError:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise EnvironmentProblem(
                f"the version in {self.root} cannot configure this lab: {last[:200]}"
            ) from None
