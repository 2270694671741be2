"""`bgfctl drill on-node` against a node that is one process with three admin sockets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.ctl import main as ctl
from bgf.ctl.node_drill import pid_of
from bgf.drill_book import ENVIRONMENT_NAME, read

NODE = """
import asyncio, sys
from pathlib import Path
from bgf.admin import AdminServer

async def main():
    flow = {"local_in": "10.0.0.1:1", "realm_in": "access", "realm_out": "core",
            "rtp": {"gap_max_ms": 21.0}}
    said = {
        "status": lambda _: {"ready": True, "groups": {"g1": {"role": "active", "sessions": 1}}},
        "sessions": lambda _: {"sessions": [{"call_id": "c"}]},
        "session": lambda _: {"flow_list": [flow]},
        "history": lambda _: {"events": []},
    }
    servers = [AdminServer(Path(sys.argv[1]) / f"{name}.sock", said)
               for name in ("state", "gateway", "failover")]
    for server in servers:
        await server.start()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class Served:
    """The node's process, started again when it dies: a service manager of a few lines."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.started = 0
        self._ended = threading.Event()
        self._child = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", NODE, str(self.run_dir)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        self.started += 1
        return child

    @property
    def pid(self) -> int:
        return self._child.pid

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            if self._child.poll() is not None:
                self._child = self._start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._child.kill()
        self._child.communicate()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv(ENVIRONMENT_NAME, str(tmp_path / "drills.jsonl"))
    run_dir = tmp_path / "n1"
    run_dir.mkdir()
    served = Served(run_dir)
    yield served
    served.close()


def drill(*words: str) -> int:
    return ctl.run(["drill", "on-node", *words])


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_killed_process_is_found_by_its_socket_and_its_return_awaited(
    node: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    before = node.pid
    assert pid_of(node.run_dir / "gateway.sock") == before
    assert drill("kill", "gateway", "--run-dir", str(node.run_dir), "--yes", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert node.started == 2 and node.pid != before
    assert (found["calls_started"], found["calls_completed"]) == (1, 1)
    assert found["flows"] == 1 and found["outage_ms"]["max"] == 0.0
    (entry,) = read()
    assert entry["where"] == "n1" and entry["passed"] and "kill its gateway" in entry["fault"]
    assert ctl.run(["drills"]) == 0
    assert "kill its gateway" in capsys.readouterr().out


def test_a_stopped_process_goes_on_by_itself(node: Served) -> None:
    words = ("stop", "failover", "--seconds", "0.4", "--run-dir", str(node.run_dir), "--yes")
    seen: list[str] = []

    def watch() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and "T" not in seen:
            seen.append(state_of(node.pid))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert drill(*words) == 0
    watcher.join()
    assert "T" in seen and state_of(node.pid) != "T" and node.started == 1


def test_nothing_is_done_unasked(node: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert drill("kill", "gateway", "--run-dir", str(node.run_dir)) == 3
    told = capsys.readouterr().err
    assert "g1 with 1 calls" in told and "--yes" in told
    assert node.started == 1 and not read()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("kill", "kamailio"), "no process 'kamailio'"),
        (("link-down", "core"), "needs --config FILE"),
        (("explode", "core"), "Invalid value"),
    ],
)
def test_what_cannot_be_done_is_said(
    node: Served, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert drill(*words, "--run-dir", str(node.run_dir), "--yes") == 2
    assert says in capsys.readouterr().err
    assert node.started == 1
