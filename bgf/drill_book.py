"""The book of drills that were made on this machine: a line of JSON each, the newest last.

Knows: the file, and how long it may become. Must not know what a drill is, nor who reads of it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bgf.admin import Json

DEFAULT_FILE: Final = Path("/var/lib/bgf/drills.jsonl")
ENVIRONMENT_NAME: Final = "BGF_DRILLS"
DRILLS_MAX: Final = 1_000
BYTES_MAX: Final = 16 << 20


def book() -> Path:
    """Where they are kept: BGF_DRILLS, or /var/lib/bgf/drills.jsonl."""
    return Path(os.environ.get(ENVIRONMENT_NAME) or DEFAULT_FILE)


def read(path: Path | None = None) -> list[Json]:
    """All drills, oldest first; what is no drill is passed over. `path`: not the usual file."""
    found: list[Json] = []
    with contextlib.suppress(OSError), (path or book()).open("rb") as file:
        for line in file.read(BYTES_MAX).splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry: Any = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
    return found[-DRILLS_MAX:]


def add(entries: Sequence[Json]) -> None:
    """Behind those that are there; the oldest go. Raises OSError when it cannot be written."""
    path = book()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry) for entry in (*read(), *entries)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines[-DRILLS_MAX:]) + "\n")
    temporary.replace(path)
