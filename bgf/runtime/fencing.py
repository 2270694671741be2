"""The fencer of a node on OpenStack: a process per attempt, from a thread, one at a time.

Knows how the attempt is started and what it prints. Must not know who is to be fenced, nor Nova.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bgf.config_safety import FencingSection
from bgf.runtime.scheduling import be_ordinary
from failover.fencing import Fenced

START_S: Final = 30.0
"""What an attempt may take beside Nova's own time."""


class NovaFencer:
    """`failover.adapters.Fencer` by Nova."""

    def __init__(self, section: FencingSection) -> None:
        self._section = section
        self._pool = ThreadPoolExecutor(1, "fence", initializer=be_ordinary)
        self._under_way: set[str] = set()
        self._ended: deque[Fenced] = deque()

    def fence(self, node: str) -> None:
        if node not in self._under_way:
            self._under_way.add(node)
            self._pool.submit(self._attempt, node)

    def outcomes(self) -> Sequence[Fenced]:
        found = []
        while self._ended:
            found.append(self._ended.popleft())
        return found

    def close(self) -> None:
        """An attempt that is under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _attempt(self, node: str) -> None:
        section = self._section
        words = [sys.executable, "-m", "bgf.openstack.fence", "--cloud", section.cloud]
        words += ["--clouds-file", str(section.clouds_file), "--cluster", section.cluster]
        words += ["--timeout", str(section.timeout_s)]
        words += ["--force-down"] if section.force_down else []
        try:
            done = subprocess.run(
                [*words, node],
                capture_output=True,
                text=True,
                timeout=section.timeout_s + START_S,
                check=False,
            )
            said = json.loads(done.stdout.strip().splitlines()[-1])
            outcome = Fenced(node, bool(said["ok"]), str(said["why"]))
        except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
            outcome = Fenced(node, False, f"not fenced: {type(error).__name__}: {error}"[:300])
        self._under_way.discard(node)
        self._ended.append(outcome)
