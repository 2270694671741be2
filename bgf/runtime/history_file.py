"""`<run_dir>/failover.history`: a failover process's past, over its restarts.

Knows: the file, and that times of another boot mean nothing. Must not know what an event says.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from failover.history import History

log = logging.getLogger("bgf.failover")

BYTES_MAX: Final = 16 << 20
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Of this machine, until it is booted again: who has it shares our CLOCK_BOOTTIME."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class HistoryFile:
    """Loads at the start; `save` writes when something was added."""

    def __init__(self, run_dir: Path, history: History, boot: str) -> None:
        self._path = run_dir / "failover.history"
        self._history = history
        self._boot = boot

    def load(self, groups: Sequence[str]) -> None:
        """What is no history of this boot is passed over."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self._path.open("rb") as file:
                kept = json.loads(file.read(BYTES_MAX))
            if isinstance(kept, dict) and kept.get("boot") == self._boot:
                events = kept.get("groups")
                if isinstance(events, dict):
                    lists = {g: v for g, v in events.items() if isinstance(v, list)}
                    self._history.load(lists, groups)

    def save(self) -> None:
        """A failure is logged: a history is not worth a failover process."""
        if not self._history.changed:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            text = json.dumps({"boot": self._boot, "groups": self._history.dump()})
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the history is not kept: %s", error)
