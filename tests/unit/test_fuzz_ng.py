"""The fuzzer of control's bytes for a moment, always the same one, and that it bites."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bgf.control import sdp, wishes
from tests.fuzz import fuzz_ng
from tests.fuzz.fuzz_ng import Fuzzer, Mutator, seeds

RUNS = 1_500


def runs(fuzzer: Fuzzer, count: int) -> None:
    end = fuzzer.runs + count
    fuzzer.go_on(lambda: fuzzer.runs >= end)


def test_nothing_but_errors_of_peers_comes_out() -> None:
    fuzzer = Fuzzer(1)
    fuzzer.begin()
    begun = len(fuzzer.coverage.reached)
    runs(fuzzer, RUNS)
    assert not fuzzer.crashes, fuzzer.crashes[0]
    assert len(fuzzer.coverage.reached) > begun, "mutations reach nothing new"
    assert len(fuzzer.kept) > len(seeds()) // 8


def test_the_same_seed_does_the_same() -> None:
    made = []
    for _ in range(2):
        fuzzer = Fuzzer(7)
        fuzzer.begin()
        runs(fuzzer, 50)
        made.append((fuzzer.runs, fuzzer.kept))
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("where", "name"), [(sdp, "_refuse"), (wishes.Reader, "_pair")], ids=["sdp", "words"]
)
def test_it_finds_what_breaks(where: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(where, name)

    def broken(*arguments: object) -> object:
        if any(isinstance(one, str) and "-1" in one for one in arguments):
            raise IndexError(name)
        return real(*arguments)

    fuzzer = Fuzzer(1)
    fuzzer.begin()
    monkeypatch.setattr(where, name, broken)
    for _ in range(20):
        runs(fuzzer, 500)
        if fuzzer.crashes:
            break
    assert "IndexError" in fuzzer.crashes[0]


def test_work_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a clock: by the lines that are executed."""
    real = sdp._media

    def slow(*arguments: Any) -> object:
        for _ in range(3_000):
            sdp.show("x")
        return real(*arguments)

    monkeypatch.setattr(sdp, "_media", slow)
    monkeypatch.setattr(fuzz_ng, "LINES_BASE", 2_000)
    monkeypatch.setattr(fuzz_ng, "LINES_PER_BYTE", 0)
    fuzzer = Fuzzer(1)
    fuzzer.one(next(raw for raw in seeds() if b"m=audio" in raw))
    assert "lines, 2000 allowed" in fuzzer.crashes[0]


def test_mutations_keep_their_size() -> None:
    mutator = Mutator(random.Random(1))
    raw = seeds()[0]
    for _ in range(100):
        raw = mutator.mutate(raw, seeds()[1]) or b"x"
        assert len(raw) <= 8_192
