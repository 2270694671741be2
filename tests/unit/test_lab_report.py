"""From receivers' reports to the drill's figures, its verdict, table, JSON and picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bgf.errors import Misuse
from bgf.lab import measure, report
from bgf.lab.measure import GENERATED, SIP, TO_ACCESS, TO_CORE, FlowOutage, RunResult, Spread
from bgf.lab.rtpwire import FlowReport
from bgf.model import Address

MS = 1_000_000
T0 = 5_000 * MS
GATEWAY = "10.20.0.101"


def flow_report(**changes: Any) -> FlowReport:
    """A flow from our gateway, silent from 10 ms before T0 to 130 ms after it."""
    values: dict[str, Any] = {
        "destination": Address("10.20.0.100", 10_000),
        "source": Address(GATEWAY, 30_000),
        "ssrc": 1,
        "packets": 500,
        "first_ns": T0 - 2_000 * MS,
        "last_ns": T0 + 1_990 * MS,
        "max_gap_ns": 140 * MS,
        "gap_end_ns": T0 + 130 * MS,
        "lost": 6,
        "reordered": 0,
        "duplicates": 0,
        "wrong_source": 0,
        "wrong_destination": 0,
        "generated": True,
    }
    return FlowReport(**(values | changes))


def flow(outage_ms: float, *, direction: str = TO_CORE, kind: str = GENERATED) -> FlowOutage:
    return FlowOutage(direction, kind, "a", "b", -5.0, outage_ms - 5.0, outage_ms)


def run_result(**changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "run": 1,
        "killed": "n1",
        "owner": "n3",
        "calls_started": 100,
        "calls_completed": 100,
        "sessions": 2,
        "flows": (
            flow(90.0),
            flow(110.0, direction=TO_ACCESS),
            flow(100.0, kind=SIP),
            flow(120.0, direction=TO_ACCESS, kind=SIP),
        ),
        "others": 10,
        "others_max_ms": 21.0,
        "timeline_ms": {
            "detected": 61.0,
            "decided": 66.0,
            "armed": 70.0,
            "announced": 71.0,
            "first_packet": 80.0,
        },
        "pinholes_before": 8,
        "pinholes_left": 0,
        "wrong_destination": 0,
        "wrong_source": 0,
        "bad_checksum": 0,
        "generated": 1_000,
        "late_ms": 1.5,
        "skipped": 0,
    }
    return RunResult(**(values | changes))


def whole(*runs: RunResult) -> report.Report:
    return report.Report(runs or (run_result(),), seed=7, machine={"cores": 2}, commit="abc")


def test_an_outage_is_the_gap_at_the_receiver() -> None:
    (found,) = measure.outages([flow_report()], TO_CORE, frozenset({GATEWAY}), T0, T0 + 2_000 * MS)
    assert (found.start_ms, found.end_ms, found.outage_ms) == (-10.0, 130.0, 140.0)
    assert found.recovered and found.kind == GENERATED


def test_a_flow_that_stays_silent_has_no_end() -> None:
    silent = flow_report(last_ns=T0 - 10 * MS, gap_end_ns=0, max_gap_ns=0)
    (found,) = measure.outages([silent], TO_CORE, frozenset({GATEWAY}), T0, T0 + 2_000 * MS)
    assert found.end_ms is None and not found.recovered
    assert found.outage_ms == 2_010.0


def test_flows_of_other_groups_are_left_out_and_strangers_counted() -> None:
    other = flow_report(source=Address("10.20.0.102", 30_000))
    stranger = flow_report(source=Address("10.20.0.9", 1), packets=3)
    ours = frozenset({GATEWAY})
    assert measure.outages([other, stranger], TO_CORE, ours, T0, T0 + MS) == []
    assert measure.strangers([flow_report(), other, stranger], ours | {"10.20.0.102"}) == 3


def test_a_call_that_is_mute_both_ways_is_one_call() -> None:
    mute = [
        replace(flow(100.0, direction=direction, kind=SIP), end_ms=None)
        for direction in (TO_ACCESS, TO_CORE, TO_CORE)
    ]
    generated = replace(flow(100.0), end_ms=None)
    assert measure.mute_calls([*mute, generated, flow(90.0, kind=SIP)]) == 2
    assert measure.mute_calls([flow(90.0, kind=SIP)]) == 0


def test_a_flow_that_falls_silent_again_has_not_come_back() -> None:
    flows = [flow(90.0), flow(95.0, direction=TO_ACCESS)]
    later = [flow(20.0), replace(flow(400.0, direction=TO_ACCESS), end_ms=None)]
    checked = measure.relapsed(flows, later)
    assert [f.recovered for f in checked] == [True, False]
    assert [f.outage_ms for f in checked] == [90.0, 95.0]


def test_a_gap_hidden_by_a_larger_one_before_the_kill_is_marked() -> None:
    hidden = flow_report(gap_end_ns=T0 - 30 * MS)
    (found,) = measure.outages([hidden], TO_CORE, frozenset({GATEWAY}), T0, T0 + 2_000 * MS)
    assert found.recovered and not found.exact


def test_the_timeline_takes_the_first_event_after_the_kill_of_this_group() -> None:
    def event(name: str, at_ms: float, group: str = "g1") -> dict[str, object]:
        return {"event": name, "group": group, "at_ns": T0 + round(at_ms * MS)}

    events: list[dict[str, object]] = [
        event("decided", -500),
        event("detected", 62, ""),
        event("detected", 60, ""),
        event("decided", 64, "g2"),
        event("decided", 65),
        event("armed", 68),
        event("armed", 900),
        event("noise", 1),
        {"event": "announced", "group": "g1", "at_ns": "soon"},
    ]
    assert measure.timeline(events, T0, "g1") == {
        "detected": 60.0,
        "decided": 65.0,
        "armed": 68.0,
        "announced": None,
        "first_packet": None,
    }


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_a_spread_is_ordered_and_made_of_its_values(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.count == len(values)
    assert min(values) <= spread.p50 <= spread.p99 <= spread.max == max(values)
    assert spread.p50 in values and spread.p99 in values
    assert min(values) - 1e-6 <= spread.mean <= max(values) + 1e-6


@pytest.mark.parametrize(
    ("values", "p50", "p99"),
    [([3.0], 3.0, 3.0), ([1.0, 2.0], 1.0, 2.0), ([4.0, 1.0, 9.0], 4.0, 9.0)],
)
def test_percentiles_are_nearest_rank(values: list[float], p50: float, p99: float) -> None:
    spread = Spread.of(values)
    assert (spread.p50, spread.p99) == (p50, p99)


def test_nothing_measured_is_an_empty_spread() -> None:
    assert Spread.of([]) == Spread()


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [(300, "<= 300", True), (300.1, "<= 300", False), (0, "== 0", True), (1, "== 0", False),
     (5, ">= 5", True)],
)  # fmt: skip
def test_met_is_computed_from_the_goal(value: float, goal: str, met: bool) -> None:
    assert report.meets(value, goal) is met


def test_a_goal_that_cannot_be_read_is_misuse() -> None:
    with pytest.raises(Misuse, match="about 300"):
        report.meets(1, "about 300")


def test_the_json_has_what_the_demo_promises() -> None:
    made = json.loads(json.dumps(whole().to_json()))
    assert made["calls"] == {"started": 100, "completed": 100, "dropped": 0}
    assert made["outage_ms"] == {"mean": 105.0, "p50": 100.0, "p99": 120.0, "max": 120.0}
    assert (made["flows"], made["pinholes_left"], made["seed"]) == (4, 0, 7)
    assert set(made["timeline_ms"]) == set(measure.STEPS)
    assert made["runs"][0]["outage_ms_by"]["sip to access"]["max"] == 120.0
    assert "flows" in made["runs"][0] and made["runs"][0]["flows"] == 4
    for row in made["rows"]:
        assert set(row) == {"name", "value", "unit", "reference", "ratio", "goal", "met"}
        assert row["met"] is True
    assert made["ok"] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"calls_completed": 99},
        {"pinholes_left": 1},
        {"wrong_destination": 1},
        {"wrong_source": 1},
        {"bad_checksum": 1},
        {"problems": ("a meter was full",)},
        {"flows": (flow(501.0),)},
        {"flows": (flow(301.0), flow(302.0))},
        {"flows": (replace(flow(100.0), end_ms=None),)},
    ],
)
def test_any_fault_in_any_run_spoils_the_verdict(changes: dict[str, Any]) -> None:
    assert whole().ok
    assert not whole(run_result(**changes)).ok
    # Enough quiet flows to hide a mean, yet not a fault.
    if "flows" not in changes:
        assert not whole(run_result(), run_result(run=2, **changes)).ok


def test_no_run_is_not_a_success() -> None:
    empty = report.Report((), seed=1)
    assert not empty.ok
    empty.render(Console(file=io.StringIO()))


def test_the_timeline_over_runs_ignores_what_did_not_happen() -> None:
    partial = {"detected": 81.0, "decided": None, "armed": None, "announced": None}
    both = whole(run_result(), run_result(run=2, timeline_ms=partial))
    assert both.timeline_ms()["detected"] == 71.0
    assert both.timeline_ms()["decided"] == 66.0
    assert whole(run_result(timeline_ms={})).timeline_ms()["armed"] is None


def test_the_tables_show_kill_owner_steps_and_verdict() -> None:
    shown = io.StringIO()
    bad = run_result(run=2, pinholes_left=3, problems=("2 of 4 flows stayed silent [x]",))
    whole(run_result(), bad).render(Console(file=shown, width=120, color_system=None))
    text = shown.getvalue()
    for wanted in ("n1 → n3", "first packet", "80.0", "pinholes left", "NO", "silent [x]"):
        assert wanted in text


def test_many_runs_are_summed_up_and_an_overloaded_instrument_is_said() -> None:
    shown = io.StringIO()
    runs = [run_result(run=number, skipped=7 if number == 3 else 0) for number in range(1, 11)]
    whole(*runs).render(Console(file=shown, width=120, color_system=None))
    text = shown.getvalue()
    assert "10: n1 → n3" in text and "mean" in text
    assert "run 3: the machine was too busy" in text and "upper bound" in text


def test_the_picture_is_a_png_even_with_a_flow_that_stays_silent(tmp_path: Path) -> None:
    mixed = run_result(flows=(flow(90.0), replace(flow(400.0), end_ms=None)))
    for name, run in (("mixed", mixed), ("empty", run_result(flows=(), timeline_ms={}))):
        path = tmp_path / "deep" / f"{name}.png"
        report.plot(run, path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_report_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "report.json"
    whole().write(path)
    assert json.loads(path.read_text())["calls"]["started"] == 100


def test_why_is_the_last_decision_and_what_was_found_out_since() -> None:
    def told(name: str, group: str, at_ns: int, reason: str, **more: object) -> dict[str, Any]:
        return {"event": name, "group": group, "at_ns": at_ns, "reason": reason} | more

    events = [
        told("decided", "g1", 1, "first bring-up", epoch=1, sentence="n1 claims g1."),
        told("condition", "g1", 50, "node dead", node="n1"),
        told("decided", "g1", 30, "silent", epoch=2, sentence="n3 claims g1."),
        told("condition", "g1", 29, "silent", node="n1"),
        told("decided", "g2", 31, "silent", epoch=3, sentence="n3 claims g2."),
    ]
    assert measure.why(events, "g1", "n1") == "n3 claims g1. [silent, then node dead]"
    assert measure.why([], "g1", "n1") == ""
