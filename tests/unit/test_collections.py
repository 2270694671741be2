"""The collector of cycles stands aside while a great many values are made, whoever makes them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from bgf.runtime.process import no_collections


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_it_stands_aside_until_the_last_has_ended() -> None:
    first, second = no_collections(), no_collections()
    first.__enter__()
    second.__enter__()
    assert not gc.isenabled()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_what_was_made_is_not_looked_at_again() -> None:
    gc.collect()
    before = gc.get_freeze_count()
    with no_collections():
        made = [[number] for number in range(1_000)]
    assert gc.get_freeze_count() - before >= len(made)


def test_it_comes_back_after_a_failure() -> None:
    with pytest.raises(KeyError), no_collections():
        raise KeyError("a fault")
    assert gc.isenabled()
