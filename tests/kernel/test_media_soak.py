"""The soak in its short form: every packet accounted for while pinholes open and close."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import media_soak
from benchmarks.report import Report
from bgf.errors import EnvironmentProblem

SECONDS = 5.0
RATE, FLOWS = 20_000, 400

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and XDP need root"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor for the load alone"),
]


def test_every_packet_is_accounted_for() -> None:
    report = Report("media soak", 1)
    media_soak.run(media_soak.Options(SECONDS, flows=FLOWS, rate=RATE), report, lambda line: None)
    found = {row.name: row.value for row in report.rows}
    assert report.all_met(), found
    assert found["sent"] > 0
    assert found["forwarded"] > 0
    assert found["dropped_no-pinhole"] > 0
    assert found["received"] == found["forwarded"] - found["refused_behind"]


def test_nothing_is_left_behind() -> None:
    prefix = f"bgf-media-bench-{os.getpid()}-"
    assert not list(Path("/run/netns").glob(f"{prefix}*"))
    assert not list(Path("/run").glob(f"{prefix}*"))


def test_a_rig_that_fails_half_way_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise EnvironmentProblem("no addresses today")

    monkeypatch.setattr("benchmarks.media_rig.Rig._addresses", fail)
    with pytest.raises(EnvironmentProblem, match="today"):
        media_soak.run(media_soak.Options(0.1, flows=10, rate=1), Report("t", 1), print)
    test_nothing_is_left_behind()
