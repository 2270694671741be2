"""The collector of cycles stands aside while a great many values are made, whoever makes them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from bgf.runtime.process import GC_MANY, GC_YOUNG, rare_collections


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_it_stands_aside_until_the_last_has_ended() -> None:
    first, second = rare_collections(), rare_collections()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold()[0] == GC_MANY
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] == GC_MANY
    second.__exit__(None, None, None)
    assert gc.get_threshold()[0] == GC_YOUNG


def test_what_was_made_is_neither_looked_at_nor_looked_at_again() -> None:
    gc.collect()
    before, rounds = gc.get_freeze_count(), gc.get_stats()[0]["collections"]
    with rare_collections():
        made = [[number] for number in range(2 * GC_YOUNG)]
        assert gc.get_stats()[0]["collections"] == rounds
    assert gc.get_freeze_count() - before >= len(made)


def test_it_comes_back_after_a_failure() -> None:
    with pytest.raises(KeyError), rare_collections():
        raise KeyError("a fault")
    assert gc.get_threshold()[0] == GC_YOUNG
