"""What the tests of several rooms share."""

from __future__ import annotations

import faulthandler
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory in memory where the machine has one, as a state segment wants it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="statestore-", dir=memory if memory.is_dir() else None
    ) as name:
        yield Path(name)


EXIT_S_MAX = 30


def pytest_unconfigure() -> None:
    """A thread that a failed test left must not keep the run from ending: its stack is told."""
    faulthandler.dump_traceback_later(EXIT_S_MAX, exit=True)
