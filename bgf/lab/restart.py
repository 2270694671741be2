"""One node of a lab that stands: its processes ended in good order and started again.

Knows: the lab's records, the order (state ends last and starts first). Must not know why. The
configuration files stay as they are: whoever made the lab may have chosen other timers than ours.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from bgf.admin import AdminClient
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab.nodes import KINDS, command
from bgf.lab.processes import Processes
from bgf.lab.topology import RECORD_BYTES_MAX, Record

STATE_READY_S: Final = 30.0
POLL_S: Final = 0.05
ASK_S: Final = 1.0


def is_lab(run_dir: Path) -> bool:
    """Does a lab stand there?"""
    return (run_dir / "record.json").exists()


def restart(run_dir: Path, node: str) -> None:
    """Returns when the processes are started; whether they are ready is for others to ask.

    Raises EnvironmentProblem: no such node, or its state server does not come back.
    """
    try:
        raw = (run_dir / "record.json").read_bytes()[:RECORD_BYTES_MAX]
        prefix = msgspec.json.decode(raw, type=Record).prefix
    except (OSError, msgspec.DecodeError):
        raise EnvironmentProblem(f"no lab stands in {run_dir}") from None
    file = run_dir / "etc" / f"{node}.toml"
    if not file.exists():
        raise EnvironmentProblem(f"the lab in {run_dir} has no node '{node}': {file} is missing")
    processes = Processes(run_dir)
    running = {process.name: process for process in processes.running(node)}
    for kind in reversed(KINDS):
        if kind in running:
            processes.stop([running[kind]])
    for kind in KINDS:
        processes.start(kind, f"{prefix}{node}", command(kind, file), node=node)
        if kind == "state":
            _until_ready(run_dir, node)


def _until_ready(run_dir: Path, node: str) -> None:
    client = AdminClient(run_dir / node / "state.sock", ASK_S)
    deadline = time.monotonic() + STATE_READY_S
    while True:
        try:
            if client.call("status").get("ready"):
                return
            why = "it says that it is not ready"
        except BgfError as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise EnvironmentProblem(f"{node} state: not ready after {STATE_READY_S:g} s: {why}")
        time.sleep(POLL_S)
