"""What the tests of several rooms share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory where the machine has one, as a state segment wants it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="statestore-", dir=memory if memory.is_dir() else None
    ) as name:
        yield Path(name)
