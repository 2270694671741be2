"""The whole product, small: real calls and load, a power cut, the standby takes over."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import bgf
from bgf import preflight
from bgf.errors import ConfigError
from bgf.lab.drill import DrillOptions, run_drill
from bgf.lab.lab import Lab
from bgf.lab.sip import missing_packages

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing_packages()) or bool(preflight.machine((5, 18))),
    reason="the lab needs root, BPF, Linux 5.18, kamailio and sip-tester",
)

CALLS, FLOWS = 4, 20
PREFIX = f"d{os.getpid() % 100_000}-"
WAIT_S = 120


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a lab of ours may be; afterwards it must be gone, whatever happened."""
    path = tmp_path / "r"
    yield path
    lab = Lab(path, prefix=PREFIX)
    gone = not lab.topology.exists() and not lab.processes.running()
    lab.down(print)
    assert gone, "the drill left its lab standing"


@pytest.mark.timeout(300)
def test_no_call_is_dropped_when_its_gateway_loses_power(run_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    options = DrillOptions(
        calls=CALLS,
        flows=FLOWS,
        run_dir=run_dir,
        prefix=PREFIX,
        json_path=tmp_path / "report.json",
        plot_path=tmp_path / "outage.png",
    )
    report = run_drill(options, lines.append)
    (run,) = report.runs
    story = "\n".join(lines)
    assert run.problems == (), story
    assert (run.calls_started, run.calls_completed, run.silent) == (CALLS, CALLS, 0), story
    assert (run.pinholes_left, run.wrong_destination, run.wrong_source) == (0, 0, 0), story
    assert run.bad_checksum == 0 and run.pinholes_before > 0
    assert run.owner not in ("", run.killed)
    # Which SIP calls are on the killed group is decided by a hash of their names.
    assert FLOWS <= len(run.flows) <= FLOWS + 2 * CALLS
    assert len(run.flows) + run.others == FLOWS + 2 * CALLS
    # Each step was taken, by somebody who had taken those before it.
    steps = [run.timeline_ms[step] for step in ("detected", "decided", "armed")]
    assert None not in steps and steps == sorted(steps, key=float), story  # type: ignore[arg-type]
    assert run.timeline_ms["announced"] is not None and run.timeline_ms["first_packet"] is not None
    # Nobody was heard before somebody was allowed to forward.
    assert all(flow.outage_ms > 0 for flow in run.flows)

    written = json.loads((tmp_path / "report.json").read_text())
    assert written["calls"]["dropped"] == 0 and written["flows"] == len(run.flows)
    assert (tmp_path / "outage.png").read_bytes().startswith(b"\x89PNG")
    shown = io.StringIO()
    report.render(Console(file=shown, width=120))
    assert "first packet" in shown.getvalue()
    assert not run_dir.exists()


SCRIPT = """
import signal, sys
from pathlib import Path
from bgf.lab.drill import DrillOptions, run_drill
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
options = DrillOptions(calls=2, flows=4, run_dir=Path(sys.argv[1]), prefix=sys.argv[2])
run_drill(options, lambda line: print(line, flush=True))
"""


def drill_until(run_dir: Path, word: str) -> subprocess.Popen[str]:
    """A drill in a process of its own, at the moment when it says `word`."""
    root = str(Path(bgf.__path__[0]).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run_dir), PREFIX],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if word in line:
            return process
    process.wait(WAIT_S)
    pytest.fail(f"the drill ended without saying '{word}': {''.join(said)}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("word", ["nodes:", "steady"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_takes_its_lab_down(
    run_dir: Path, word: str, number: signal.Signals
) -> None:
    with drill_until(run_dir, word) as process:
        process.send_signal(number)
        process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    assert not run_dir.exists()


@pytest.mark.timeout(300)
def test_a_killed_drill_is_cleaned_up_by_lab_down(run_dir: Path) -> None:
    with drill_until(run_dir, "steady") as process:
        process.kill()
        process.communicate(timeout=WAIT_S)
    lab = Lab(run_dir, prefix=PREFIX)
    assert lab.topology.exists() and lab.processes.running()
    lab.down(print)
    assert not run_dir.exists() and not lab.processes.running()


def test_an_unknown_group_is_refused_before_anything_is_built(run_dir: Path) -> None:
    options = DrillOptions(group="g9", run_dir=run_dir, prefix=PREFIX)
    with pytest.raises(ConfigError, match="no group 'g9': it has g1, g2"):
        run_drill(options, print)
    assert not run_dir.exists()
