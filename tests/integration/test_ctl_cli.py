"""bgfctl as an operator runs it, against nodes that answer on real admin sockets.

Whole outputs stand in tests/golden/ctl; BGF_GOLDEN=write writes them anew, to be read by a
person before they are committed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bgf import __version__
from bgf.errors import UnknownCall
from tests.fakes.nodes import FakeNodes, says

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "ctl"
TIMEOUT_S = 60
CALL = "1-4242@10.10.0.2"


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def bgfctl(*arguments: str, **environment: str) -> Outcome:
    """Run it in a process of its own, off a terminal, 100 columns wide."""
    done = subprocess.run(
        [sys.executable, "-m", "bgf.ctl.main", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb", **environment},
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


def check_golden(name: str, outcome: Outcome, run_dir: Path) -> None:
    """The whole run (code, both streams) is as in the golden file."""
    shown = f"exit {outcome.code}\n--- stdout\n{outcome.out}--- stderr\n{outcome.err}"
    shown = shown.replace(str(run_dir), "/tmp/bgf-XXXXXXXX")
    shown = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("BGF_GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shown)
    assert shown == file.read_text()


def gateway_status(node: str, roles: dict[str, str], pinholes: int) -> dict[str, Any]:
    return {
        "ready": True,
        "node": node,
        "process": "gateway",
        "groups": {
            group: {
                "role": role,
                "epoch": 4 if group == "g1" else 1,
                "sessions": 100 if role == "active" else 0,
                "pending": 40 if role == "active" and group == "g1" else 0,
                "restored_in_ms": 6.5 if role == "active" and group == "g1" else 0.0,
                "flows": 800 if group == "g1" else 400,
                "failures": [],
            }
            for group, role in roles.items()
        },
        "pinholes": pinholes,
        "drops": {"forward": 123456, "reflect": 99, "no-pinhole": 3, "bad-source": 4},
        "unresolved": [],
        "attachments": {
            "access": {"mode": "native", "reason": ""},
            "core": {"mode": "generic", "reason": "the driver refuses"}
            if node == "n2"
            else {"mode": "native", "reason": ""},
        },
        "ng": {"requests": 300},
    }


def failover_status(node: str, suspects: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "ready": True,
        "node": node,
        "owners": {"g1": {"node": "n3", "epoch": 4}, "g2": {"node": "n2", "epoch": 1}},
        "suspects": suspects,
        "sentence": "all well" if node == "n2" else "I own g1 at epoch 4",
    }


SESSIONS = [
    {"call_id": CALL, "group": "g1", "state": "established", "flows": 8, "created_age_s": 9000.4},
    {
        "call_id": "a-rather-long-call-id-as-some-equipment-makes-them-3f9c1e77b2@[fd00:a::2]",
        "group": "g2",
        "state": "offered",
        "flows": 4,
        "created_age_s": 12.0,
    },
]


def flow(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "stream": 0,
        "component": "RTCP" if number else "RTP",
        "realm_in": "access",
        "local_in": f"[fd00:a::101]:{30000 + number}",
        "realm_out": "core",
        "local_out": f"10.20.0.101:{30002 + number}",
        "remote": f"10.20.0.2:{6000 + number}",
        "gate": "open",
        "packets": 450_000,
        "bytes": 77_400_000,
        "last_seen_ns": 0,
        **changes,
    }


@dataclass
class Cluster:
    run_dir: Path
    fakes: FakeNodes


@pytest.fixture
def run_dir() -> Iterator[Path]:
    # Of one length whatever the test's name and TMPDIR: tables fold by it, sockets have limits.
    made = Path(tempfile.mkdtemp(prefix="bgf-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def fakes() -> Iterator[FakeNodes]:
    made = FakeNodes()
    yield made
    made.close()


@pytest.fixture
def cluster(run_dir: Path, fakes: FakeNodes) -> Cluster:
    """n1 is dead (its sockets stand), n2 owns g2, n3 has taken g1 over and restores it."""
    (run_dir / "n1").mkdir()
    for process in ("state", "gateway", "failover"):
        (run_dir / "n1" / f"{process}.lock").touch()
    for node in ("n2", "n3"):
        roles = {"g1": "standby", "g2": "active"}
        if node == "n3":
            roles = {"g1": "active", "g2": "standby"}
        mine = [row for row in SESSIONS if roles[str(row["group"])] == "active"]

        def session(request: dict[str, Any], node: str = node) -> dict[str, Any]:
            if request["call_id"] != CALL or node != "n3":
                raise UnknownCall(f"no call '{request['call_id']}' here")
            return {
                "call_id": CALL,
                "group": "g1",
                "state": "established",
                "created_age_s": 9000.4,
                "streams": 1,
                "flows": 2,
                "tags": ["caller", "callee"],
                "realms": ["access", "core"],
                "journal_entries": 2,
                # Never seen: the clock of this test is the real one.
                "flow_list": [flow(0), flow(1, gate="closed", remote="", packets=0, bytes=0)],
            }

        def trace(request: dict[str, Any], node: str = node) -> dict[str, Any]:
            if node == "n2":
                return {"outcome": "disarmed", "interface": "", "source": None}
            return {
                "outcome": "forward",
                "interface": "core",
                "source": "10.20.0.101:30002",
                "destination": "10.20.0.2:6000",
            }

        directory = run_dir / node
        fakes.serve(directory / "state.sock", {"status": says({"ready": True, "keeper": True})})
        fakes.serve(
            directory / "gateway.sock",
            {
                "status": says(gateway_status(node, roles, 800)),
                "sessions": says({"sessions": mine}),
                "session": session,
                "trace": trace,
            },
        )
        fakes.serve(
            directory / "failover.sock",
            {"status": says(failover_status(node, {"n1": ["access", "core"]}))},
        )
    return Cluster(run_dir, fakes)


def test_status_after_a_takeover(cluster: Cluster) -> None:
    outcome = bgfctl("status", "--run-dir", str(cluster.run_dir))
    check_golden("status", outcome, cluster.run_dir)


def test_status_of_nodes_that_are_well(cluster: Cluster) -> None:
    outcome = bgfctl("status", "--run-dir", str(cluster.run_dir), "--node", "n2", "--node", "n3")
    check_golden("status-well", outcome, cluster.run_dir)


def test_status_for_machines(cluster: Cluster) -> None:
    outcome = bgfctl("status", "--run-dir", str(cluster.run_dir), "--json")
    assert outcome.code == 1
    found = json.loads(outcome.out)
    assert found["ready"] is False
    assert [n["ready"] for n in found["nodes"]] == [False, True, True]
    assert found["nodes"][0]["processes"]["state"]["code"] == "unreachable"
    assert found["groups"][0]["owner"] == "n3"
    assert found["groups"][0]["epoch"] == 4
    assert found["problems"] == [f"n1: none of its processes answers in {cluster.run_dir}/n1"]


def test_status_by_configuration_file(cluster: Cluster, run_dir: Path) -> None:
    file = run_dir / "n2.toml"
    file.write_text(CONFIG.replace("RUN", str(run_dir)))
    outcome = bgfctl("status", "--config", str(file), "--json")
    assert outcome.code == 0  # g1 is n3's, which is another machine's to speak of
    found = json.loads(outcome.out)
    assert [n["node"] for n in found["nodes"]] == ["n2"] and found["problems"] == []


CONFIG = """
[node]
id = "n2"
discriminator = 2
run_dir = "RUN/n2"
[state]
address = "dal://RUN/state"
[media]
pin_dir = "RUN/bpf"
[realms.lan]
interface = "lo"
[[groups]]
id = "g2"
control = "127.0.0.9/32"
control_port = 2223
control_realm = "lan"
ports = [30000, 30001]
addresses = { lan = ["127.0.0.10/32"] }
[control]
default_realms = ["lan", "lan"]
"""


def test_sessions_list(cluster: Cluster) -> None:
    outcome = bgfctl("sessions", "list", "--run-dir", str(cluster.run_dir))
    check_golden("sessions-list", outcome, cluster.run_dir)


def test_sessions_of_one_group_for_machines(cluster: Cluster) -> None:
    where = ("--run-dir", str(cluster.run_dir))
    outcome = bgfctl("sessions", "list", *where, "--group", "g1", "--json")
    assert outcome.code == 0
    (found,) = json.loads(outcome.out)["sessions"]
    assert (found["call_id"], found["node"]) == (CALL, "n3")


def test_sessions_show(cluster: Cluster) -> None:
    outcome = bgfctl("sessions", "show", CALL, "--run-dir", str(cluster.run_dir))
    check_golden("sessions-show", outcome, cluster.run_dir)


def test_a_call_that_nobody_knows(cluster: Cluster) -> None:
    outcome = bgfctl("sessions", "show", "nobody", "--run-dir", str(cluster.run_dir))
    check_golden("sessions-show-unknown", outcome, cluster.run_dir)


def test_trace(cluster: Cluster) -> None:
    question = ("--from", "[fd00:a::2]:4000", "--to", "[fd00:a::101]:30000", "--realm", "access")
    outcome = bgfctl("trace", *question, "--run-dir", str(cluster.run_dir))
    check_golden("trace", outcome, cluster.run_dir)
    outcome = bgfctl("trace", *question, "--run-dir", str(cluster.run_dir / "n3"), "--json")
    assert outcome.code == 0
    (found,) = json.loads(outcome.out)["traces"]
    assert found["destination"] == "10.20.0.2:6000"


def test_nothing_answers(cluster: Cluster) -> None:
    n1 = str(cluster.run_dir / "n1")
    for command in (["sessions", "list"], ["sessions", "show", CALL]):
        outcome = bgfctl(*command, "--run-dir", n1)
        assert (outcome.code, outcome.out) == (3, "")
        assert outcome.err == (
            f"bgfctl: n1 gateway: {n1}/gateway.sock: no such socket: the process is not running\n"
        )


def test_a_process_that_answers_nonsense_is_told_apart(cluster: Cluster) -> None:
    odd = cluster.run_dir / "n9"
    cluster.fakes.serve(odd / "gateway.sock", {"sessions": says({"sessions": [1, "x", {}]})})
    outcome = bgfctl("sessions", "list", "--run-dir", str(odd))
    assert outcome.code == 0
    outcome = bgfctl("trace", *TRACE, "--run-dir", str(odd))
    assert outcome.code == 1
    assert "unknown command 'trace'" in " ".join(outcome.out.split())


TRACE = ("--from", "10.0.0.1:4", "--to", "10.0.0.2:6", "--realm", "core")


@pytest.mark.parametrize(
    ("arguments", "code", "says_"),
    [
        (["statsu"], 2, "no command 'statsu'; did you mean 'status'? (see 'bgfctl --help')"),
        (["status", "--jsno"], 2, "No such option '--jsno'"),
        (["status", "--config", "/none.toml"], 2, "/none.toml: cannot be read: No such file"),
        (["status", "--run-dir", "/none"], 3, "no node has run in /none: start the lab with"),
        (["sessions"], 2, "Missing command. (see 'bgfctl sessions --help')"),
        (["sessions", "list", "--limit", "0"], 2, "Invalid value for '--limit': 0 is not in"),
        (["trace", "--from", "x"], 2, "Invalid value for '--from': 'x' is not host:port"),
        (["trace", *TRACE[2:]], 2, "Missing option '--from'"),
        (["drill", "power-off", "--calls", "-1"], 2, "drill: calls = -1 is out of range 0.."),
        (["drill", "power-off", "--runs", "0"], 2, "drill: runs = 0 is out of range 1.."),
        (["drill", "power-off", "--json", "/proc/none/x"], 2, "Invalid value for '--json': '/proc"),
        (["rtpload", "nothing"], 2, "no command 'nothing'"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_a_code(arguments: list[str], code: int, says_: str) -> None:
    outcome = bgfctl(*arguments)
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.startswith(f"bgfctl: {says_}"), outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("", "--help", "status --help", "sessions -h", "sessions show -h", "trace -h"),
        "sessions why -h",
        *("lab --help", "lab up -h", "drill -h", "drill power-off -h", "rtpload -h"),
        *("rtpload bench -h", "rtpload send -h", "rtpload meter -h"),
    ],
)
def test_help_is_on_standard_output(line: str) -> None:
    outcome = bgfctl(*line.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert "Examples:\n" in outcome.out
    assert "Exit codes: 0 fine; 1 " in " ".join(outcome.out.split())


def test_version() -> None:
    outcome = bgfctl("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"bgfctl, version {__version__}\n"


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_that_has_seen_enough(cluster: Cluster, more: tuple[str, ...]) -> None:
    """`bgfctl status | head -0` ends without a word on standard error."""
    where = ("--run-dir", str(cluster.run_dir))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "bgf.ctl.main", "status", *where, *more],
            stdout=pipe,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == 0
