"""What the failover benchmark has seen so far, kept in a file, so that it can stop and go on.

Knows: samples (one per run) by part, the file. Must not know what a sample says. The file is the
report of DESIGN section 9 with the samples beside its rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Report
from bgf.errors import ConfigError

Sample = dict[str, Any]

BYTES_MAX: Final = 64 << 20


class Book:
    """Samples by part, oldest first. Without a path nothing is kept."""

    def __init__(self, path: Path | None, *, resume: bool) -> None:
        """Raises ConfigError: the file is there and is not one of ours."""
        self._path = path
        self._parts: dict[str, list[Sample]] = {}
        if resume and path is not None and path.exists():
            self._parts = _load(path)

    def of(self, part: str) -> list[Sample]:
        return list(self._parts.get(part, ()))

    def add(self, part: str, sample: Sample) -> None:
        """One more, written down at once."""
        self._parts.setdefault(part, []).append(sample)
        self._write({"samples": self._parts})

    def finish(self, report: Report) -> None:
        """The whole report into the file."""
        if self._path is None:
            return
        report.write(self._path)
        self._write(json.loads(self._path.read_text()) | {"samples": self._parts})

    def _write(self, document: dict[str, Any]) -> None:
        if self._path is None:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(self._path)


def _load(path: Path) -> dict[str, list[Sample]]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(BYTES_MAX))
        samples = document["samples"]
        return {str(part): [dict(one) for one in found] for part, found in samples.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(
            f"{path}: cannot go on with it, it holds no samples of this benchmark: "
            "give another --json, or leave --resume out"
        ) from None
