"""What an operator asks of a gateway process: captures, traces, tallies, reconciliation."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bgf import pcap
from bgf.errors import BgfError, DatapathError, Malformed
from bgf.events import DropFlow, PutFlow
from bgf.media.datapath import Captured, Outcome, Tally
from bgf.media.differences import Difference
from bgf.model import (
    Address,
    Component,
    Counters,
    Flow,
    FlowKey,
    Gate,
    Latch,
    Policer,
    Rtp,
    RtpStatistics,
    Source,
)
from bgf.runtime import captures as captures_module
from bgf.runtime.captures import AWAY_MS_MAX, FRAMES_MAX, CaptureOver, Captures
from bgf.runtime.gateway_admin import _payload
from bgf.runtime.reconcile import reconcile
from bgf.runtime.rows import flow_row, tally_rows

KEY = FlowKey("10.20.0.101", 30_000)


class Tap:
    """A capture of frames that a test provides."""

    def __init__(self, frames: Iterable[Captured]) -> None:
        self._frames = list(frames)
        self.lost = 3
        self.closed = False

    def __iter__(self) -> Iterator[Captured]:
        while self._frames:
            yield self._frames.pop(0)

    def close(self) -> None:
        self.closed = True


class Tapped:
    """A packet path with one tap."""

    def __init__(self, frames: int) -> None:
        self.tap = Tap(
            Captured(n, KEY, n % 2 == 1, "core", 200, bytes([n % 256]) * 60) for n in range(frames)
        )
        self.asked: list[tuple[list[FlowKey], int]] = []

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> Tap:
        self.asked.append((list(keys), snap_bytes))
        return self.tap


def test_a_capture_is_fetched_in_pieces_and_ended_once() -> None:
    path = Tapped(FRAMES_MAX + 2)
    captures = Captures(path)  # type: ignore[arg-type]
    number = captures.begin([KEY], 60)
    assert path.asked == [([KEY], 60)]
    with pytest.raises(DatapathError, match="is running"):
        captures.begin([KEY])
    first, second = captures.fetch(number), captures.fetch(number)
    assert (len(first["frames"]), first["more"], first["lost"]) == (FRAMES_MAX, True, 3)
    assert (len(second["frames"]), second["more"]) == (2, False)
    assert first["frames"][1] == {
        "time_ns": 1,
        "flow": str(KEY),
        "leaving": True,
        "interface": "core",
        "length": 200,
        "frame": base64.b64encode(bytes([1]) * 60).decode(),
    }
    captures.end(number)
    assert path.tap.closed
    for number_gone in (number, number + 1):
        with pytest.raises(CaptureOver):
            captures.fetch(number_gone)
    with pytest.raises(Malformed):
        captures.fetch("1")


def test_a_capture_ends_when_nobody_comes_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = [10**12]
    monkeypatch.setattr(captures_module, "now_ns", lambda: clock_ns[0])
    path = Tapped(1)
    captures = Captures(path)  # type: ignore[arg-type]
    number = captures.begin([KEY])
    for _ in range(3):
        clock_ns[0] += AWAY_MS_MAX * 1_000_000
        captures.expire()
        captures.fetch(number)
    clock_ns[0] += AWAY_MS_MAX * 1_000_000 + 1
    captures.expire()
    assert path.tap.closed
    with pytest.raises(CaptureOver):
        captures.fetch(number)


def test_frames_become_a_file_that_others_read(tmp_path: Path) -> None:
    from scapy.utils import RawPcapReader  # slow to import

    file = tmp_path / "x.pcap"
    frames = [(1_700_000_000_123_456_789, bytes(60), 60), (1_700_000_001 * 10**9, b"\1" * 14, 900)]
    file.write_bytes(pcap.header(256) + b"".join(pcap.record(t, f, n) for t, f, n in frames))
    with RawPcapReader(str(file)) as reader:
        assert (reader.linktype, reader.snaplen, reader.nano) == (1, 256, True)
        read = [(meta.sec * 10**9 + meta.usec, data, meta.wirelen) for data, meta in reader]
    assert read == frames


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        ({}, b"\x80\x00" + bytes(10)),
        ({"payload_type": 101}, b"\x80\x65" + bytes(10)),
        ({"payload": "00ff"}, b"\x00\xff"),
        ({"payload": ""}, b""),
        ({"payload": "0", }, None),
        ({"payload": 7}, None),
        ({"payload": "00" * 1_473}, None),
        ({"payload_type": 128}, None),
        ({"payload_type": "0"}, None),
    ],
)  # fmt: skip
def test_what_is_traced_is_rtp_unless_it_is_given(
    request_: dict[str, Any], payload: bytes | None
) -> None:
    if payload is None:
        with pytest.raises(BgfError, match="trace: "):
            _payload(request_)
    else:
        assert _payload(request_) == payload


def test_packets_are_told_by_realm_reason_and_cpu() -> None:
    rows = tally_rows(
        [
            Tally("access", 0, Outcome.FORWARD, 5),
            Tally("access", 1, Outcome.FORWARD, 7),
            Tally("access", 1, Outcome.POLICED, 2),
            Tally("core", 1, Outcome.BAD_RTP, 1),
        ]
    )
    assert rows == {
        "by_realm": {"access": {"forward": 12, "policed": 2}, "core": {"bad-rtp": 1}},
        "by_cpu": {"0": 5, "1": 10},
    }


def flow(port: int = 30_000, **fields: Any) -> Flow:
    return Flow(
        "g1", "call", 0, Component.RTP, "core", Address("10.20.0.101", port),
        "access", Address("10.10.0.101", port + 2), Address("10.10.0.2", 4000),
        **{"gate": Gate.OPEN, **fields},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (Source(), "any:any"),
        (Source("10.0.0.1", 4000), "10.0.0.1:4000"),
        (Source("10.0.0.0", None, 24), "10.0.0.0/24:any"),
        (Source("fd00::", 4000, 64, 4010), "[fd00::/64]:4000-4010"),
    ],
)
def test_a_flow_is_told_with_all_that_steers_it(source: Source, shown: str) -> None:
    told = flow_row(
        flow(
            source=source,
            latch=Latch.RELATCH,
            learned=Address("10.0.0.9", 9),
            latch_round=2,
            policer=Policer(16_000, 3_000, 32_000),
            dscp=46,
            rtp=Rtp(),
            inactivity_ms=30_000,
        ),
        Counters(100, 17_200, 5),
        RtpStatistics(100, 17_200, 102, 2, 80, 8_000, 0xABCD, 1, 0, 40_000, 3),
    )
    assert told["source"] == shown
    assert {key: told[key] for key in ("latch", "learned", "latch_round", "dscp")} == {
        "latch": "relatch", "learned": "10.0.0.9:9", "latch_round": 2, "dscp": 46,
    }  # fmt: skip
    assert (told["sustained_bytes_s"], told["peak_bytes_s"]) == (16_000, 32_000)
    rtp = told["rtp"]
    assert (rtp["loss_percent"], rtp["jitter_ms"], rtp["gap_max_ms"]) == (1.96, 10.0, 40.0)
    assert (rtp["ssrc"], rtp["ssrc_changes"], rtp["rtcp_packets"]) == ("0000abcd", 1, 3)
    assert 4.0 < rtp["mos"] < 4.4
    assert "rtp" not in flow_row(flow(), Counters(), RtpStatistics())


class Found:
    """A packet path as an earlier process left it."""

    def __init__(self, flows: Iterable[Flow], odd: Mapping[FlowKey, Difference]) -> None:
        self.flows = {flow.key: flow for flow in flows}
        self.odd = dict(odd)

    def keys(self) -> set[FlowKey]:
        return set(self.flows)

    def remove(self, keys: Iterable[FlowKey]) -> None:
        for key in keys:
            self.flows.pop(key, None)

    def differences(self, flows: Iterable[Flow]) -> dict[FlowKey, Difference]:
        found = {flow.key: Difference.MISSING for flow in flows if flow.key not in self.flows}
        return found | self.odd

    def apply(self, changes: list[PutFlow | DropFlow]) -> None:
        for change in changes:
            assert isinstance(change, PutFlow)
            self.flows[change.flow.key] = change.flow


def test_a_restart_repairs_and_says_what_it_found_in_one_line() -> None:
    wanted = [flow(port) for port in range(30_000, 30_006)]
    kept, closed, mistaken, fast, missing, _ = wanted
    late = msgspec.structs.replace(flow(30_102), local_in=Address("10.20.0.102", 30_102))
    path = Found(
        [*(flow(port) for port in (*range(30_000, 30_004), 30_005, 30_100)), late],
        {
            closed.key: Difference.GATE,
            mistaken.key: Difference.PEER,
            fast.key: Difference.POLICER,
        },
    )
    found = reconcile(path, wanted, path.apply, {late.local_in.host})
    assert found.line == (
        "6 pinholes recorded, 1 missing, 1 with another gate, 1 with another peer,"
        " 1 with another policer, 1 surplus"
    )
    assert path.keys() == {flow.key for flow in wanted} | {late.key}
    assert missing.key in path.flows and kept.key in path.flows
    path.odd.clear()
    found = reconcile(path, wanted, path.apply, {late.local_in.host})
    assert found.line == "6 pinholes recorded, all as they should be"
    assert reconcile(Found([], {}), [], path.apply).line == (
        "0 pinholes recorded, all as they should be"
    )
