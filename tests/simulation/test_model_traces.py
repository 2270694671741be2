"""The formal model's registry (docs/model/rules.pml) against what the code writes there.

Every view that simulated members write, with crashes, pauses and partitions, has to be a step that
the model's Registry process can take from the one before it: EVICT, ADMIT, or what the model leaves
out by name (a beginning anew, everybody gone). The guards are the model's, in its words.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from statestore.member_records import LAB, Seat, View, decode_record, decode_view
from tests.fakes.member_world import PREFIX, Table, World

SEEDS = 40


class Moment(NamedTuple):
    """A view, and which of its members were complete when it was written. As in the model, a member
    is so until it begins anew, whether its record says so yet, or not any more."""

    view: View
    complete: frozenset[str]


class Traced(Table):
    """The registry, with every view that was ever written."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.complete: set[tuple[str, int]] = set()  # node, incarnation
        self.moments: list[Moment] = []

    def commit(
        self, checks: list[tuple[str, int]], puts: Mapping[str, bytes], deletes: list[str]
    ) -> int | None:
        revision = super().commit(checks, puts, deletes)
        self._note_complete()
        if revision is not None and f"{PREFIX}view" in puts:
            view = decode_view(puts[f"{PREFIX}view"])
            seats = view.members.values()
            names = {s.node for s in seats if (s.node, s.incarnation) in self.complete}
            self.moments.append(Moment(view, frozenset(names)))
        return revision

    def _note_complete(self) -> None:
        records = PREFIX + "m/"
        for key, stored in self.entries.items():
            if key.startswith(records) and (record := decode_record(stored.value)).complete:
                self.complete.add((key.removeprefix(records), record.incarnation))
        for member in self.world.members:
            if member.complete:
                self.complete.add((member.node, member.core.incarnation))


def step(before: View, after: Moment) -> str:
    """Which of the model's transitions leads from one view to the next. Raises AssertionError."""
    view, complete = after
    old, new = ({(slot, seat) for slot, seat in v.members.items()} for v in (before, view))
    gone, came = ({slot for slot, _ in seats} for seats in (old - new, new - old))
    assert view.epoch == before.epoch + 1, "new_view counts one on"
    if not view.members or view.founded != before.founded:
        return "not modelled"
    if gone:
        stayed = {slot for slot, _ in old & new}
        rest = {slot for slot in stayed if view.members[slot].node in complete}
        assert rest, "EVICT: (present & complete & ~B(p)) != 0"
        assert view.leader == before.leader or before.leader in gone, "HEIR: stays if it can"
        assert view.leader in stayed, "HEIR: of those that stay"
        assert view.leader in rest or view.leader == before.leader, "HEIR: a complete member"
    if came and not gone:
        assert view.leader == before.leader, "ADMIT: leader_of does not change"
    if gone and came:
        # A member that began anew takes its own seat: the model's EVICT and ADMIT in one view.
        assert gone == came and len(gone) == 1, "neither EVICT nor ADMIT"
        (slot,) = gone
        assert before.members[slot].node == view.members[slot].node, "neither EVICT nor ADMIT"
        return "EVICT, ADMIT"
    assert gone or came, "a view that changes nothing"
    return "EVICT" if gone else "ADMIT"


def trace(seed: int) -> list[Moment]:
    world = World(seed, LAB)
    world.table = table = Traced(world)
    world.run(12_000, faults=True)
    world.heal()
    world.run(6_000)
    return table.moments


def test_every_view_is_a_step_of_the_model() -> None:
    taken: Counter[str] = Counter()
    for seed in range(SEEDS):
        moments = trace(seed)
        assert moments[0].view.epoch == 1 and len(moments[0].view.members) == 1
        for before, after in itertools.pairwise(moments):
            try:
                taken[step(before.view, after)] += 1
            except AssertionError as wrong:
                raise AssertionError(f"seed {seed}: {wrong}: {before} -> {after}") from None
    assert taken["EVICT"] > SEEDS and taken["ADMIT"] > SEEDS, taken


def _view(epoch: int, leader: int, *slots: int) -> View:
    return View(epoch, leader, {n: Seat(f"n{n}", "::1", 7, n) for n in slots})


@pytest.mark.parametrize(
    ("after", "complete", "rule"),
    [
        (_view(3, 0, 0, 1), "n0 n1", "counts one on"),
        (_view(2, 1, 0, 1), "n0 n1", "stays if it can"),
        (_view(2, 0, 0, 1), "n2", "present & complete"),
        (_view(2, 2, 1, 2), "n1", "a complete member"),
        (_view(2, 0, 0, 1, 3), "n0 n1", "neither EVICT nor ADMIT"),
        (_view(2, 0, 0, 1, 2), "n0 n1", "changes nothing"),
        (_view(2, 1, 0, 1, 2, 3), "n0 n1", "leader_of does not change"),
    ],
)
def test_what_the_model_cannot_do_is_found(after: View, complete: str, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        step(_view(1, 0, 0, 1, 2), Moment(after, frozenset(complete.split())))
