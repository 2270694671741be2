"""The short form of chaos: a fault of each kind, with real processes, calls and media."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from bgf import preflight
from bgf.lab.catalogue import FAULTS
from bgf.lab.chaos import ChaosOptions, lacks, run_chaos
from bgf.lab.lab import Lab
from bgf.lab.sip import missing_packages
from bgf.lab.trial import Scale

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or bool(missing_packages())
    or bool(preflight.machine((5, 18)))
    or bool(lacks()),
    reason="the lab needs root, BPF, Linux 5.18, kamailio, sip-tester and nftables",
)

CALLS, FLOWS = 4, 12
PREFIX = f"f{os.getpid() % 100_000}-"


@pytest.mark.timeout(600)
def test_what_must_hold_holds_after_a_fault_of_each_kind(tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    lines: list[str] = []
    # Patient timers: a machine that stalls among all these tests is no dead node.
    options = ChaosOptions(
        faults=tuple(fault for fault in FAULTS if fault.short),
        scale=Scale(CALLS, FLOWS),
        profile="safe",
        run_dir=run_dir,
        prefix=PREFIX,
        logs_to=tmp_path / "logs",
    )
    try:
        report = run_chaos(options, lines.append)
    finally:
        lab = Lab(run_dir, prefix=PREFIX)
        gone = not lab.topology.exists() and not lab.processes.running()
        lab.down(lambda _: None)
    story = "\n".join(lines)
    assert gone, "chaos left its lab standing"
    assert not [(t.fault, t.broken) for t in report.trials if t.broken], story
    assert {trial.fault for trial in report.trials} == {fault.name for fault in options.faults}
    for trial in report.trials:
        assert trial.asked and not trial.refused, trial.fault
        assert trial.calls_started == trial.calls_completed == CALLS
        # Every flow of both groups and every SIP call, each way.
        assert len(trial.flows) + len(trial.others) == 2 * FLOWS + 2 * CALLS
    moved = next(t for t in report.trials if t.fault == "power-off-active")
    assert moved.owner_before != moved.owner_after and moved.epochs >= 1 and moved.why
    shown = io.StringIO()
    report.render(Console(file=shown, width=200))
    assert f"{len(report.trials)} of {len(report.trials)} trials passed" in shown.getvalue()
