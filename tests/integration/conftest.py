"""A long suite in slices: what has passed is noted and left out next time, the rest is for later.

Knows: pytest's hooks. Must not know what is tested. `--passed FILE` adds the names of tests that
pass to the file and does not run those that are in it; `--minutes N` begins no test after so long.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("slices")
    group.addoption(
        "--passed", type=Path, metavar="FILE", help="leave out what FILE names; add what passes"
    )
    group.addoption("--minutes", type=float, metavar="N", help="begin no test after N minutes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("passed", None) or config.getoption("minutes", None):
        config.pluginmanager.register(_Slice(config), "slice")


class _Slice:
    def __init__(self, config: pytest.Config) -> None:
        self._file: Path | None = config.getoption("passed", None)
        minutes: float | None = config.getoption("minutes", None)
        self._until_s = time.monotonic() + 60 * minutes if minutes else None
        self._left = 0

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        passed = self._passed()
        done = [item for item in items if item.nodeid in passed]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item.nodeid not in passed]

    def pytest_runtest_setup(self) -> None:
        if self._until_s is not None and time.monotonic() > self._until_s:
            self._left += 1
            pytest.skip("time is up")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._file is not None and report.when == "call" and report.passed:
            with self._file.open("a") as file:
                file.write(f"{report.nodeid}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left:
            terminalreporter.write_line(f"{self._left} left for another slice: time was up")

    def _passed(self) -> set[str]:
        if self._file is None or not self._file.exists():
            return set()
        return set(self._file.read_text().splitlines())
