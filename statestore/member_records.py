"""What members keep in the registry: views, records, the transactions that change them.

Knows: keys below a prefix, JSON, timers. Must not know: what to decide, clocks, the registry
itself. Keys: `view` (View) and `m/<node>` (Record, rewritten with every renewal).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

SLOTS_MAX = 16
NO_SLOT = 255
"""The leader of a view without members: all have left in good order."""
LATE_RENEWALS = 3
"""A judge that has not looked, or renewed, within so many renewals accuses nobody."""


class BadRecord(ValueError):
    """What stands in the registry is no view or record; one line."""


@dataclass(frozen=True, slots=True)
class Timers:
    """lease: a member serves so long after it sent its last confirmation. renew: how often it
    asks for one. suspect: a record that does not change for so long is a dead member's.
    patience: how long each further proposer leaves the eviction to the one before it."""

    lease_ms: int
    renew_ms: int
    suspect_ms: int
    patience_ms: int

    def __post_init__(self) -> None:
        values = (self.lease_ms, self.renew_ms, self.suspect_ms, self.patience_ms)
        if min(values) <= 0:
            raise ValueError(f"timers {values} ms: each must be more than 0")
        if self.renew_ms * LATE_RENEWALS > self.lease_ms:
            raise ValueError(
                f"renew {self.renew_ms} ms: at most a third of the lease of {self.lease_ms} ms, "
                "so that one lost renewal ends no service"
            )
        if self.suspect_ms < self.lease_ms + self.renew_ms:
            raise ValueError(
                f"suspect {self.suspect_ms} ms: at least lease and renewal together, "
                f"{self.lease_ms + self.renew_ms} ms, so that nobody is evicted who serves"
            )


SAFE = Timers(lease_ms=3_000, renew_ms=500, suspect_ms=5_000, patience_ms=500)
FAST = Timers(lease_ms=1_000, renew_ms=150, suspect_ms=1_500, patience_ms=150)
LAB = Timers(lease_ms=400, renew_ms=80, suspect_ms=600, patience_ms=80)
PROFILES: Mapping[str, Timers] = {"safe": SAFE, "fast": FAST, "lab": LAB}


class Seat(msgspec.Struct, frozen=True):
    """One member in a view."""

    node: str
    host: str
    port: int
    incarnation: int


class View(msgspec.Struct, frozen=True):
    """The value of `view`.

    `left`: slots whose member left in good order with this very view. `founded`: the epoch in
    which the state began; its leader was complete from then on with what it had, and everything
    else is lost or never was.
    """

    epoch: int
    leader: int
    members: dict[int, Seat]
    left: list[int] = []
    founded: int = 1

    def slot_of(self, node: str) -> int | None:
        return next((slot for slot, seat in self.members.items() if seat.node == node), None)


class Record(msgspec.Struct, frozen=True):
    """The value of `m/<node>`. `applied`: how far its copy of the map log is."""

    host: str
    port: int
    incarnation: int
    complete: bool
    count: int
    applied: int = 0


_encode = msgspec.json.Encoder().encode
_decode_view = msgspec.json.Decoder(View).decode
_decode_record = msgspec.json.Decoder(Record).decode


def encode_view(view: View) -> bytes:
    return _encode(view)


def encode_record(record: Record) -> bytes:
    return _encode(record)


def decode_view(value: bytes) -> View:
    """Raises BadRecord for what is no view, or one that contradicts itself."""
    try:
        view = _decode_view(value)
    except msgspec.MsgspecError as error:
        raise BadRecord(f"{value[:40]!r} is no view: {error}") from None
    slots = {*view.members, *view.left}
    nodes = {seat.node for seat in view.members.values()}
    leader = view.leader in view.members if view.members else view.leader == NO_SLOT
    if not (
        leader
        and view.epoch >= view.founded >= 1
        and all(0 <= slot < SLOTS_MAX for slot in slots)
        and len(nodes) == len(view.members)
    ):
        raise BadRecord(f"view of epoch {view.epoch}: leader, slots or nodes contradict themselves")
    return view


def decode_record(value: bytes) -> Record:
    """Raises BadRecord."""
    try:
        return _decode_record(value)
    except msgspec.MsgspecError as error:
        raise BadRecord(f"{value[:40]!r} is no member's record: {error}") from None


def left_slots(before: View | None, now: View) -> list[int]:
    """The slots of `before` whose member left in good order: known only if no view between was
    missed."""
    return now.left if before is not None and now.epoch == before.epoch + 1 else []


class Stored(Protocol):
    """A registry entry."""

    @property
    def value(self) -> bytes: ...
    @property
    def revision(self) -> int: ...


class Reading(NamedTuple):
    """What stands in the registry, as one member sees it. `current_ns`: when this was the whole
    truth, 0 for never; `trouble`: one line on what does not answer now."""

    view: View | None
    view_revision: int
    records: Mapping[str, tuple[Record, int]]
    current_ns: int
    trouble: str = ""
    broken: str = ""


def read(prefix: str, entries: Mapping[str, Stored], current_ns: int, trouble: str = "") -> Reading:
    """Make a Reading of a snapshot. A broken record is as good as none; a broken view is told."""
    view, revision, broken = None, 0, ""
    found = entries.get(prefix + "view")
    if found is not None:
        revision = found.revision
        try:
            view = decode_view(found.value)
        except BadRecord as error:
            broken = f"key {prefix}view: {error}; restore or delete it (etcdctl)"
    records = {}
    for key, entry in entries.items():
        if key.startswith(prefix + "m/"):
            try:
                records[key[len(prefix) + 2 :]] = (decode_record(entry.value), entry.revision)
            except BadRecord:
                continue
    return Reading(view, revision, records, current_ns, trouble, broken)


class Propose(NamedTuple):
    """Put this view, if `view` stands at `view_revision` and each of `unchanged`'s records at
    its revision; remove the records of `forget`. `why` is for people."""

    view: View
    view_revision: int
    unchanged: Mapping[str, int]
    forget: tuple[str, ...]
    why: str


class Renew(NamedTuple):
    """Put the own record; unless `view_revision` is None, if `view` stands at it."""

    node: str
    record: Record
    view_revision: int | None


Action = Propose | Renew


def transaction(
    prefix: str, action: Action
) -> tuple[list[tuple[str, int]], dict[str, bytes], list[str]]:
    """(checks, puts, deletes) as `registry.commit` takes them."""
    if isinstance(action, Renew):
        checked = action.view_revision
        checks = [] if checked is None else [(prefix + "view", checked)]
        return checks, {f"{prefix}m/{action.node}": encode_record(action.record)}, []
    checks = [(prefix + "view", action.view_revision)]
    checks += [(f"{prefix}m/{node}", revision) for node, revision in action.unchanged.items()]
    deletes = [f"{prefix}m/{node}" for node in action.forget]
    return checks, {prefix + "view": encode_view(action.view)}, deletes
