"""Room for what a node would take over: each sentence, and that room enough says nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.runtime.capacity import MEGA, PINHOLES_PER_CALL, SESSION_BYTES, Room, shortfalls

ROOMY = Room(
    pinholes=400,
    pinholes_max=65_536,
    recorded=400,
    memory_bytes=50 * MEGA,
    memory_max_bytes=500 * MEGA,
    state_free_bytes=60 * MEGA,
    state_bytes=96 * MEGA,
)


def test_room_enough_says_nothing() -> None:
    assert shortfalls(ROOMY, {"g1": 100, "g2": 0}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"recorded": 70_000},
            "70000 pinholes are recorded and its packet path has room for 65536",
        ),
        ({"pinholes": 65_534}, "its packet path is full (65534 of 65536 pinholes)"),
        ({"memory_bytes": 499 * MEGA}, "g1: its 20000 calls need 190 MB"),
        ({"state_free_bytes": 4 * MEGA}, "its state segment has 4 of 96 MB left"),
    ],
)
def test_each_want_is_named_with_its_key(change: dict[str, int], says: str) -> None:
    (line,) = shortfalls(replace(ROOMY, **change), {"g1": 20_000})
    assert line.startswith(says)
    assert re.search(r"raise (media|control|state)\.[a-z_]+", line)


def test_an_owner_of_all_groups_needs_no_room_for_them() -> None:
    full = replace(ROOMY, pinholes=65_536, memory_bytes=500 * MEGA)
    assert shortfalls(full, {}) == []


def test_a_closed_control_socket_is_told() -> None:
    assert shortfalls(ROOMY, {"g1": 1}, frozenset({"g1"})) == [
        "g1: it does not listen at the control address"
    ]


@given(st.integers(0, 100_000), st.integers(0, 2_000 * MEGA))
def test_memory_is_judged_by_calls(calls: int, free: int) -> None:
    room = replace(ROOMY, memory_bytes=10 * MEGA, memory_max_bytes=10 * MEGA + free)
    assert bool(shortfalls(room, {"g1": calls})) == (calls * SESSION_BYTES > free)
    assert PINHOLES_PER_CALL == 4
