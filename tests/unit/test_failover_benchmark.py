"""The failover benchmark's arithmetic: samples kept and found again, rows, goals, floors, load."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import failover, failover_rows
from benchmarks.failover_book import Book, Sample
from benchmarks.failover_rig import (
    CARRIED_PER_S,
    PACKETS_PER_S,
    THIN_PER_S,
    rates,
)
from benchmarks.report import Report, Row
from benchmarks.yardstick import additions_per_us
from bgf.errors import ConfigError

STEPS: dict[str, Any] = {
    "detected": 45.0,
    "decided": 60.0,
    "armed": 61.0,
    "addressed": 64.0,
    "announced": 65.0,
    "first_packet": 68.0,
}


def death(**more: Any) -> Sample:
    return {
        "flows": 100, "full": 100, "thin": 0, "thin_per_s": 5, "mean_ms": 90.0, "max_ms": 110.0,
        "silent": 0, "skipped": 0, "late_ms": 1.0, "answered_ms": 95.0, "restored_ms": 165.0,
        "steps": STEPS,
    } | more  # fmt: skip


def found(samples: dict[str, list[Sample]]) -> dict[str, Row]:
    report = Report("failover", 1)
    failover_rows.rows(report, lambda part: samples.get(part, []))
    return {row.name: row for row in report.rows}


@given(st.integers(1, 10_000).map(lambda pairs: 2 * pairs))
def test_the_rate_is_thinned_out_and_never_too_much(flows: int) -> None:
    full, thin = rates(flows)
    assert full + thin == flows and full % 2 == 0 and full > 0
    if thin:
        assert full * PACKETS_PER_S + thin * THIN_PER_S <= CARRIED_PER_S
    assert bool(thin) == (flows * PACKETS_PER_S > CARRIED_PER_S)


def test_an_outage_stands_beside_its_floor() -> None:
    rows = found({"lab-100": [death(), death(mean_ms=130.0, max_ms=190.0)]})
    mean = rows["outage_lab_100_mean"]
    assert (mean.value, mean.goal, mean.met) == (110.0, "<= 120", True)
    assert mean.reference == pytest.approx(20 * 2.5 + 3 + 1)  # detection, netlink, announcement
    assert rows["outage_lab_100_max"].value == 190.0
    assert rows["outage_lab_100_silent"].met
    assert rows["takeover_alone_mean"].value == 8.0 and rows["takeover_alone_mean"].met
    assert "late" not in mean.note
    busy = found({"lab-100": [death(late_ms=59.0, skipped=3)]})["outage_lab_100_mean"]
    assert "59 ms late, 3 packets not sent" in busy.note


def test_flat_compares_many_flows_with_few() -> None:
    rows = found({"lab-100": [death()], "lab-20000": [death(flows=20_000, mean_ms=99.0)]})
    assert rows["flat"].value == pytest.approx(1.1) and rows["flat"].met


def test_safe_and_the_rest() -> None:
    rows = found(
        {
            "safe-100": [death(mean_ms=620.0)],
            "crash": [{"flows": 10, "lost": 1, "lost_max": 1}],
            "switchover": [{"flows": 10, "lost": 3, "lost_max": 1}],
            "control": [death(sessions=20_000)],
            "alarms-safe": [{"minutes": 1, "takeovers": 0, "suspicions": 2, "busy": 90.0}] * 60,
            "alarms-lab": [{"minutes": 1, "takeovers": 1, "suspicions": 2, "busy": 90.0}],
            "peer-default": [
                {"mean_ms": 3_000.0, "max_ms": 3_100.0, "silent": 0, "version": "10.5",
                 "adverts": "one every 1 s", "flows": 1_000}
            ],
        }
    )  # fmt: skip
    assert rows["outage_safe_100_mean"].met is False
    assert rows["outage_safe_100_max"].goal is None
    assert rows["gateway_crash_lost"].met is False
    assert rows["switchover_lost_max"].met
    assert (rows["first_answer_mean"].value, rows["first_answer_mean"].met) == (30.0, True)
    assert rows["restored_mean"].value == 100.0
    assert "60 minutes of load, 90 % CPU use; 120 suspicions" in rows["false_takeovers_safe"].note
    assert rows["false_takeovers_safe"].met and rows["false_takeovers_lab"].met is None
    assert rows["peer_default_outage_mean"].value == 3_000.0


def test_how_fast_the_machine_was_is_told_by_part() -> None:
    assert "machine_speed" not in found({"lab-100": [death()]})  # of a report that is older
    samples = {
        "lab-100": [death(speed=10.0), death(speed=16.0)],
        "control": [death(speed=7.0, sessions=9)],
    }
    row = found(samples)["machine_speed"]
    assert (row.value, row.goal) == (11.0, None)
    assert row.note.endswith("lab-100 13.0, control 7.0")
    assert additions_per_us() > 0


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    book = Book(path, resume=False)
    book.add("lab-100", death())
    assert Book(path, resume=False).of("lab-100") == []
    again = Book(path, resume=True)
    again.add("lab-100", death(mean_ms=91.0))
    report = Report("failover", 1)
    failover_rows.rows(report, again.of)
    again.finish(report)
    document = json.loads(path.read_text())
    assert document["rows"] and document["machine"]
    assert [s["mean_ms"] for s in Book(path, resume=True).of("lab-100")] == [90.0, 91.0]
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
    for wrong in ("{", "[]", '{"samples": 3}', '{"samples": {"a": [4]}}'):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="holds no samples"):
            Book(path, resume=True)


def test_parts_by_name_and_prefix() -> None:
    given_ = argparse.Namespace(
        quick=True, seed=1, runs=None, minutes=None, only=["lab", "false-alarms-safe"]
    )
    known = failover.parts(given_, lambda _: None)
    names = [part.name for part in known if failover.wanted(part, given_)]
    assert names == [*(f"lab-{n}" for n in failover_rows.FLOWS), "false-alarms-safe"]
    given_.only = None
    names = [part.name for part in known if failover.wanted(part, given_)]
    assert "peer-default" in names and not any(name.startswith("false") for name in names)
