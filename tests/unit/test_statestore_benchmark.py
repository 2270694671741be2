"""The benchmark's own parts: programs that build and tell the truth, rows that are computed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import statestore
from benchmarks import dal_embedded, dal_table
from benchmarks.dal_namespaces import FRAME_BYTES, datagram_bytes
from benchmarks.dal_native import Natives, figures
from benchmarks.report import Report
from statestore.errors import Unavailable


@pytest.fixture(scope="module")
def natives(tmp_path_factory: pytest.TempPathFactory) -> Natives:
    return Natives(tmp_path_factory.mktemp("natives"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with statestore.open(f"dal://{tmp_path}/state", size_bytes=32 << 20):
        yield f"dal://{tmp_path}/state"


def test_reads_and_writes_through_c(natives: Natives, address: str) -> None:
    found = natives.run("dal_client", "local", address, "-", 1000, 2)
    assert found["read"] > 0
    assert found["write"] > 0


def test_creates_what_it_counts(natives: Natives, address: str) -> None:
    natives.run("dal_client", "create", address, "-", 500, 1, 0)
    with statestore.open(address) as store:
        assert sum(1 for _ in store.scan("f/")) == 500


def test_contention_finds_nothing_wrong(natives: Natives, address: str) -> None:
    report = Report("test", 1)
    dal_embedded.contention(natives, address, report, 2)
    wrong = {row.name: row.value for row in report.rows if row.name != "contended_starved"}
    assert wrong == {"contended_torn": 0, "contended_lost": 0}


def test_a_store_that_is_not_there_is_one_line(natives: Natives, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="dal_client: "):
        natives.run("dal_client", "local", f"dal://{tmp_path}/none", "-", 10, 1)


def test_figures_are_lines_of_two_words() -> None:
    assert figures("read 1.5\nnoise\nwrite 2\n") == {"read": 1.5, "write": 2.0}


def test_a_datagram_is_what_a_frame_carries() -> None:
    after = (10, 10 * (100 + FRAME_BYTES), 5, 5 * (60 + FRAME_BYTES))
    assert datagram_bytes((0, 0, 0, 0), after) == (100, 60)
    with pytest.raises(Unavailable):
        datagram_bytes(after, after)


def test_table_one_shows_what_was_measured_and_what_was_published() -> None:
    report = Report("test", 1)
    report.add("local_read_64B_c_ns", 13.0, "ns")
    shown = io.StringIO()
    dal_table.render(report, Console(file=shown, width=120))
    line = next(text for text in shown.getvalue().splitlines() if "local read" in text)
    assert "0.013" in line
    assert "69.84" in line
    assert " - " in line
