"""bgfctl about media, as an operator runs it: RTP per stream, drops, hanging calls, captures."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapReader

from bgf.errors import DatapathError, UnknownCall
from tests.fakes.nodes import FakeNodes, says
from tests.integration.test_ctl_cli import (
    CALL,
    TRACE,
    bgfctl,
    check_golden,
    fakes,
    flow,
    gateway_status,
    run_dir,
)

__all__ = ["fakes", "run_dir"]

RTP = {
    "packets": 450_000,
    "bytes": 77_400_000,
    "expected": 450_123,
    "lost": 123,
    "loss_percent": 0.03,
    "jitter_ms": 1.25,
    "ssrc": "0000abcd",
    "ssrc_changes": 1,
    "restarts": 0,
    "gap_max_ms": 62.5,
    "rtcp_packets": 0,
    "mos": 4.4,
}


class Gateway:
    """What a gateway of this version answers."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.frames = 7
        self.busy = False

    def handlers(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "sessions": self.sessions,
            "session": self.session,
            "trace": self.trace,
            "relatch": self.relatch,
            "capture": self.capture,
            "capture-fetch": self.fetch,
            "capture-end": self.end,
        }

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        status = gateway_status("n1", {"g1": "active"}, 4)
        status["packets"] = {
            "by_realm": {
                "access": {"forward": 10, "policed": 3, "bad-rtp": 12, "icmp": 9},
                "core": {"forward": 10, "icmp": 4},
            },
            "by_cpu": {"0": 48},
        }
        status["groups"]["g1"] |= {
            "hanging": 2,
            "failed": {"ports-exhausted": 5, "ports-leaked": 1, "not-now": 3},
        }
        return status

    def sessions(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        rows: list[dict[str, Any]] = [
            {"call_id": CALL, "group": "g1", "state": "established", "flows": 4,
             "created_age_s": 9_000, "hanging": True, "silent_s": 3_600.5, "never_started": False},
            {"call_id": "lively", "group": "g1", "state": "established", "flows": 4,
             "created_age_s": 5, "hanging": False},
        ]  # fmt: skip
        return {"sessions": rows[:1] if request.get("hanging") else rows}

    def session(self, request: dict[str, Any]) -> dict[str, Any]:
        self.known(request)
        latched = {"latch": "latch", "learned": "[2001:db8::7]:61000", "latch_round": 1}
        return {
            "call_id": CALL,
            "group": "g1",
            "flow_list": [
                flow(0, rtp=RTP, **latched),
                flow(1, rtp=RTP | {"packets": 0}, latch="relatch", learned="", latch_round=1),
            ],
        }

    def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return {"outcome": "bad-rtp", "interface": "", "source": "", "destination": ""}

    def relatch(self, request: dict[str, Any]) -> dict[str, Any]:
        self.known(request)
        return {"call_id": CALL, "flows": 2}

    def capture(self, request: dict[str, Any]) -> dict[str, Any]:
        self.known(request)
        if self.busy:
            raise DatapathError("capture 1 is running: end it first")
        self.asked.append(request)
        return {"capture": 4, "call_id": CALL, "flows": 4}

    def fetch(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request["capture"] == 4
        count, self.frames = min(3, self.frames), max(0, self.frames - 3)
        frame = {"time_ns": 5, "length": 214, "frame": base64.b64encode(bytes(60)).decode()}
        return {"frames": [frame] * count, "lost": 2, "more": count == 3}

    def end(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return {"done": "capture 4 ended"}

    @staticmethod
    def known(request: dict[str, Any]) -> None:
        if request["call_id"] != CALL:
            raise UnknownCall(f"call '{request['call_id']}' is not on node n1")


@pytest.fixture
def gateway(run_dir: Path, fakes: FakeNodes) -> Gateway:
    made, directory = Gateway(), run_dir / "n1"
    fakes.serve(directory / "state.sock", {"status": says({"ready": True})})
    fakes.serve(directory / "gateway.sock", made.handlers())
    owners = {"g1": {"node": "n1", "epoch": 4}}
    failover = {"ready": True, "node": "n1", "owners": owners, "sentence": "I own g1"}
    fakes.serve(directory / "failover.sock", {"status": says(failover)})
    return made


def test_status_shows_drops_ports_and_hanging_calls(gateway: Gateway, run_dir: Path) -> None:
    outcome = bgfctl("status", "--run-dir", str(run_dir))
    check_golden("status-media", outcome, run_dir)


def test_hanging_calls(gateway: Gateway, run_dir: Path) -> None:
    outcome = bgfctl("sessions", "list", "--hanging", "--run-dir", str(run_dir))
    check_golden("sessions-hanging", outcome, run_dir)
    assert gateway.asked[0]["hanging"] is True
    outcome = bgfctl("sessions", "list", "--hanging", "--json", "--run-dir", str(run_dir))
    assert [row["call_id"] for row in json.loads(outcome.out)["sessions"]] == [CALL]


def test_a_call_with_its_streams_and_latches(gateway: Gateway, run_dir: Path) -> None:
    outcome = bgfctl("sessions", "show", CALL, "--run-dir", str(run_dir))
    check_golden("sessions-show-media", outcome, run_dir)


def test_trace_asks_for_rtp_or_for_what_is_given(gateway: Gateway, run_dir: Path) -> None:
    where = ("--run-dir", str(run_dir))
    assert bgfctl("trace", *TRACE, "--payload-type", "101", *where).code == 0
    assert bgfctl("trace", *TRACE, "--payload", "80ff", *where).code == 0
    assert [(q.get("payload_type"), q.get("payload")) for q in gateway.asked] == [
        (101, None), (None, "80ff")
    ]  # fmt: skip
    assert bgfctl("trace", *TRACE, "--payload-type", "128", *where).code == 2


def test_relatch(gateway: Gateway, run_dir: Path) -> None:
    where = ("--run-dir", str(run_dir))
    outcome = bgfctl("relatch", CALL, "--json", *where)
    assert json.loads(outcome.out) == {"node": "n1", "call_id": CALL, "flows": 2}
    outcome = bgfctl("relatch", "nobody", *where)
    assert (outcome.code, outcome.err) == (1, "bgfctl: no call 'nobody' on n1\n")


def test_a_capture_becomes_a_file(gateway: Gateway, run_dir: Path) -> None:
    file = run_dir / "call.pcap"
    where = ("--run-dir", str(run_dir), "--seconds", "0.2")
    outcome = bgfctl("capture", CALL, "-w", str(file), "--snap", "60", "--json", *where)
    assert outcome.code == 0
    assert json.loads(outcome.out) == {
        "node": "n1", "call_id": CALL, "file": str(file), "packets": 7, "lost": 2,
    }  # fmt: skip
    assert "2 frames found no room" in outcome.err
    with RawPcapReader(str(file)) as reader:
        assert [meta.wirelen for _, meta in reader] == [214] * 7
    assert gateway.asked[0]["snap_bytes"] == 60
    assert gateway.asked[-1]["command"] == "capture-end"


def test_a_capture_that_cannot_be_leaves_the_file_that_was_there(
    gateway: Gateway,
    run_dir: Path,
) -> None:
    file = run_dir / "call.pcap"
    file.write_text("precious")
    where = ("--run-dir", str(run_dir), "--seconds", "0.2")
    outcome = bgfctl("capture", "nobody", "-w", str(file), *where)
    assert (outcome.code, outcome.err) == (1, "bgfctl: no call 'nobody' on n1\n")
    gateway.busy = True
    outcome = bgfctl("capture", CALL, "-w", str(file), *where)
    assert outcome.code == 1 and "capture 1 is running" in outcome.err
    assert file.read_text() == "precious"
    gateway.busy = False
    outcome = bgfctl("capture", CALL, "-w", str(run_dir / "none" / "x"), *where)
    assert outcome.code == 3 and "cannot be written" in outcome.err
    assert gateway.asked[-1]["command"] == "capture-end"
