"""What was typed on the control plane and how long it took, at the end of a run."""

from __future__ import annotations

import pytest

from tests.openstack.shell import TOOK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOOK:
        terminalreporter.section("what was typed, in seconds")
    for line, seconds in TOOK.items():
        terminalreporter.write_line(f"{seconds:6.0f}  {line}")
