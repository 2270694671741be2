"""What is written down of a session, and how it is read back: events <-> bytes.

Knows: the entry format, its versions, and three ways to keep a journal. Must not know where
entries are stored, nor sockets, clocks or roles.

An entry is two bytes, schema version and kind, and a msgpack value in array form. A journal is
a list of entries, inputs and checkpoints: what stands before the last checkpoint tells how it came
to it, what stands after it is replayed. Fields are only appended, with defaults, so this version
reads what the versions before it wrote.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from bgf import session as sessions
from bgf.errors import Misuse, StateError, Unreadable
from bgf.events import SCHEMA, Event
from bgf.gateway import Plan
from bgf.session import Session, Site, State

ITEM_MAX_BYTES: Final = 64 * 1024
COMPACT_AT_BYTES: Final = 48 * 1024  # leaves room for one entry of a datagram's size
FRAME_BYTES: Final = 8  # at most, per entry, for the store's own framing
INPUTS_MAX: Final = 16  # replayed after a checkpoint: bounds the time of restoring one session
OPEN_INPUTS_MAX: Final = 4  # of a call that waits for its answer, kept to stand before it
ENTRIES_COUNTED: Final = 4_096  # of a call; an implicit journal may have more
READABLE: Final = range(1, SCHEMA + 1)


class Mode(enum.StrEnum):
    """What represents a session: the paper's implicit and explicit state, and the mix."""

    IMPLICIT = "implicit"  # inputs only, until the item is full
    EXPLICIT = "explicit"  # the checkpoint only, replaced by every input
    CHECKPOINTED = "checkpointed"  # a checkpoint with the answer, at most INPUTS_MAX inputs since


class Kind(enum.IntEnum):
    INPUT = 1
    CHECKPOINT = 2


class Record(NamedTuple):
    """Append the one entry to the call's journal, or make these the only ones (`replace`)."""

    call_id: str
    entries: tuple[bytes, ...]
    replace: bool


_ENCODER: Final = msgspec.msgpack.Encoder()
_EVENTS: Final[msgspec.msgpack.Decoder[Event]] = msgspec.msgpack.Decoder(Event)
_SESSIONS: Final[msgspec.msgpack.Decoder[Session]] = msgspec.msgpack.Decoder(Session)
_INPUT_HEAD: Final = bytes((SCHEMA, Kind.INPUT))
_CHECKPOINT_HEAD: Final = bytes((SCHEMA, Kind.CHECKPOINT))


def encode(event: Event) -> bytes:
    """The entry of one input."""
    return _INPUT_HEAD + _ENCODER.encode(event)


def checkpoint(session: Session) -> bytes:
    """The entry that stands for all inputs until now."""
    return _CHECKPOINT_HEAD + _ENCODER.encode(session)


def decode(entry: bytes) -> Event | Session:
    """Read an entry. Raises Unreadable when it is of a version or shape that is not known."""
    if len(entry) < 2:
        raise Unreadable(f"journal entry of {len(entry)} bytes is cut off: drop this journal")
    if entry[0] not in READABLE:
        raise Unreadable(
            f"journal entry has schema {entry[0]}, this version reads"
            f" {READABLE[0]} to {SCHEMA}: upgrade one version at a time"
        )
    try:
        if entry[1] == Kind.INPUT:
            return _EVENTS.decode(entry[2:])
        if entry[1] == Kind.CHECKPOINT:
            return _SESSIONS.decode(entry[2:])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # also: text not UTF-8
        raise Unreadable(f"journal entry cannot be read ({error}): drop this journal") from None
    raise Unreadable(f"journal entry is of the unknown kind {entry[1]}: drop this journal")


def replay(entries: Iterable[bytes], site: Site) -> Session | None:
    """The session that these entries describe, None when they describe none.

    What stands before the last checkpoint is not looked at: that costs ten times what reading it
    does. Raises Unreadable for an entry that cannot be read: a half-read call is no call.
    """
    session: Session | None = None
    every = list(entries)
    for entry in every[max(0, _last_checkpoint(every)) :]:
        item = decode(entry)
        if isinstance(item, Session):
            session = item
            continue
        try:
            session = sessions.apply(session, item, site).session
        except (Misuse, IndexError) as error:  # or a damaged checkpoint before it
            raise Unreadable(f"journal entry cannot be replayed: {error}") from None
    return session


def _last_checkpoint(entries: Sequence[bytes]) -> int:
    """Where it stands, -1 when there is none."""
    found = (at for at, entry in enumerate(entries) if entry[1:2] == _CHECKPOINT_HEAD[1:])
    return max(found, default=-1)


def _is_answered(plan: Plan) -> bool:
    """Is the call established by this? So most calls are found by a new owner."""
    before, after = plan.before, plan.after
    return (
        before is not None
        and before.state is State.OFFERED
        and after is not None
        and after.state is State.ESTABLISHED
    )


def _size(entries: Iterable[bytes]) -> int:
    return sum(len(entry) + FRAME_BYTES for entry in entries)


def _packed(size: int, inputs: int) -> int:
    return size * ENTRIES_COUNTED + inputs


class Recorder:
    """Decides which entries a plan leaves in its call's journal. Keeps sizes, and the inputs of
    calls that wait for their answer."""

    def __init__(self, mode: Mode = Mode.CHECKPOINTED) -> None:
        self.mode = mode
        # Call -> bytes, and in the lower bits entries: one small number for each of many calls.
        self._sizes: dict[str, int] = {}
        self._open: dict[str, tuple[bytes, ...]] = {}

    def record(self, plan: Plan) -> Record:
        """The record of a plan that `changes` and does not forget its call; pure.

        Call `done` when the store has taken it, so that a refused record is not counted. Raises
        StateError for text that has no encoding (a codec let raw bytes of a peer through).
        """
        if plan.after is None:
            raise StateError(f"call {plan.call_id} leaves the machine: its journal goes with it")
        try:
            return self._record(plan, plan.after)
        except UnicodeEncodeError:
            raise StateError("the command has text that is not UTF-8: send UTF-8") from None

    def _record(self, plan: Plan, after: Session) -> Record:
        if self.mode is Mode.EXPLICIT:
            return Record(plan.call_id, (checkpoint(after),), True)
        size, inputs = divmod(self._sizes.get(plan.call_id, 0), ENTRIES_COUNTED)
        entry = encode(plan.event)
        full = size + len(entry) + FRAME_BYTES > COMPACT_AT_BYTES
        if full or (self.mode is Mode.CHECKPOINTED and inputs >= INPUTS_MAX):
            return Record(plan.call_id, (checkpoint(after),), True)
        earlier = self._open.get(plan.call_id)
        if earlier is not None and _is_answered(plan):
            whole = (*earlier, entry, checkpoint(after))
            if _size(whole) <= COMPACT_AT_BYTES:
                return Record(plan.call_id, whole, True)
        return Record(plan.call_id, (entry,), False)

    def done(self, record: Record) -> None:
        call_id, entries = record.call_id, record.entries
        first = call_id not in self._sizes
        known = 0 if record.replace else self._sizes.get(call_id, 0)
        size, inputs = divmod(known, ENTRIES_COUNTED)
        inputs = min(0 if record.replace else inputs + 1, ENTRIES_COUNTED - 1)
        self._sizes[call_id] = _packed(size + _size(entries), inputs)
        earlier = self._open.pop(call_id, () if first else None)
        waits = earlier is not None and len(earlier) < OPEN_INPUTS_MAX and not record.replace
        if earlier is not None and waits and self.mode is Mode.CHECKPOINTED:
            self._open[call_id] = (*earlier, *entries)

    def resume(self, call_id: str, entries: Iterable[bytes]) -> None:
        """Count a journal that another recorder has written."""
        every = tuple(entries)
        inputs = min(len(every) - 1 - _last_checkpoint(every), ENTRIES_COUNTED - 1)
        self._sizes[call_id] = _packed(_size(every), inputs)

    def forget(self, call_id: str) -> None:
        self._sizes.pop(call_id, None)
        self._open.pop(call_id, None)
