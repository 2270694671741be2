"""A small, strongly consistent table of keys: the interface, and its twin in one host's segment.

Knows: keys, revisions, transactions, watches. Must not know: what the values mean, who should be
a member. etcd is the same interface over the network (statestore.etcd).

A revision is never used twice and rises with every change. A watch begins with what stands, then
tells for each key what stands now: values in between may be left out, the last one never is.

The twin keeps the whole table in one item, so that every transaction is one compare-and-swap
and a process killed in the middle of one has changed nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from statestore import errors
from statestore._segment import Handle
from statestore.errors import Corrupt, Exists, NotFound, Unavailable
from statestore.store import Store, now_ns

ITEM_KEY = b"registry"
TABLE_BYTES_MAX = 65_536
"""The twin's whole table, encoded: the limit of one item. About 300 records of 200 bytes."""
COMMIT_TRIES_MAX = 10_000
WAIT_STEP_MS = 2
ABSENT = 0


class Entry(NamedTuple):
    """What stands under a key. `revision` is that of its last change."""

    value: bytes
    revision: int


class Seen(NamedTuple):
    """An entry, and when this watch first saw it in this revision (CLOCK_BOOTTIME)."""

    value: bytes
    revision: int
    seen_ns: int


class Change(NamedTuple):
    """What stands under a key now; `entry` is None when nothing does."""

    key: str
    entry: Entry | None


class Check(NamedTuple):
    """A condition of a transaction: the key stands at this revision (ABSENT: it is not there)."""

    key: str
    revision: int


class Snapshot(NamedTuple):
    """What a watch knows: all changes up to `revision`. It was the whole truth at `current_ns`
    (0: it never was yet)."""

    entries: Mapping[str, Seen]
    current_ns: int
    revision: int


class Confirmation(NamedTuple):
    """A linearizable read: what stood under the key at some time after `sent_at_ns`.

    Not `ok`: the registry did not answer; `why` says which endpoint, since when, what to do.
    """

    sent_at_ns: int
    ok: bool
    entry: Entry | None = None
    why: str = ""


class RegistryUnavailable(Unavailable):
    """The registry does not answer: which endpoint, since when, what to do about it.

    `in_doubt`: a change was sent, and may still take effect or have done so.
    """

    def __init__(self, message: str, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class Watch(Protocol):
    """Follows a prefix until closed. For any thread."""

    def poll(self) -> list[Change]:
        """What changed since the last poll, one entry per key. Never waits, never raises
        RegistryUnavailable."""

    def wait(self, timeout_ms: float) -> bool:
        """Wait until something has changed since the last poll or snapshot, or the time is over;
        says which."""

    def snapshot(self) -> Snapshot:
        """All entries under the prefix, and how current that is. No input or output."""

    def close(self) -> None:
        """Stop following."""


class Registry(Protocol):
    """Every call raises RegistryUnavailable when nothing answers in time. For any thread."""

    def get(self, key: str) -> Entry | None:
        """What stands under the key now."""

    def scan(self, prefix: str) -> dict[str, Entry]:
        """All that stands under the prefix, as of one moment."""

    def commit(
        self,
        checks: Iterable[Check],
        puts: Mapping[str, bytes],
        deletes: Iterable[str] = (),
    ) -> int | None:
        """All or nothing: if every check holds, all puts and deletes at one revision, returned.

        None: a check did not hold, nothing was changed. An answer that was lost is asked for
        again, and counts as a success when everything stands as it was to be: values that
        name their writer make that exact.
        """

    def compare_and_swap(self, key: str, expected_revision: int, value: bytes) -> int | None:
        """`commit` of one key."""

    def put(self, key: str, value: bytes) -> int:
        """Set the key, whatever stands there."""

    def delete(self, key: str) -> bool:
        """Remove the key; False when nothing stood there."""

    def confirm(self, key: str) -> Confirmation:
        """A linearizable read that never raises."""

    def watch(self, prefix: str) -> Watch:
        """Follow a prefix. Never raises: it goes on trying to reach the registry."""

    def trouble(self) -> str:
        """One line on what is not reachable now and since when; empty when all is well. The
        registry may still answer through something else: `answering` says so."""

    @property
    def answering(self) -> bool:
        """Was the last question answered, by whomever?"""

    def close(self) -> None:
        """End connections and watches."""


class Followed:
    """What a watch has been told: entries by key, the changes not yet polled, and whether its
    user has looked since the last one. Not locked."""

    def __init__(self) -> None:
        self.entries: dict[str, Seen] = {}
        self.pending: dict[str, Change] = {}
        self.news = False

    def apply(self, key: str, entry: Entry | None, time_ns: int) -> None:
        """One key's new state, in the order of revisions."""
        known = self.entries.get(key)
        if entry is None:
            if known is None:
                return
            self.entries = {name: seen for name, seen in self.entries.items() if name != key}
        else:
            if known is not None and known[:2] == entry:
                return
            self.entries = {**self.entries, key: Seen(*entry, time_ns)}
        self.news = True
        self.pending.pop(key, None)  # to the end: changes are told in the order they came
        self.pending[key] = Change(key, entry)

    def replace(self, entries: Mapping[str, Entry], time_ns: int) -> None:
        """The state of the whole prefix, however it came about."""
        for key in [key for key in self.entries if key not in entries]:
            self.apply(key, None, time_ns)
        for key, entry in sorted(entries.items(), key=lambda item: item[1].revision):
            self.apply(key, entry, time_ns)

    def take(self) -> list[Change]:
        changes = list(self.pending.values())
        self.pending = {}
        self.news = False
        return changes

    def show(self) -> Mapping[str, Seen]:
        self.news = False
        return self.entries


class _Table(msgspec.Struct, array_like=True):
    """The twin's item: entries by key, and the revision of the last change."""

    revision: int
    entries: dict[str, tuple[bytes, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Table).decode


class EmbeddedRegistry:
    """The registry of one host's processes, in the segment they share."""

    def __init__(self, store: Store, item_key: bytes = ITEM_KEY) -> None:
        self._store = store
        self._item_key = item_key
        self._handle: Handle | None = None
        self._lock = threading.Lock()
        self._version = -1
        self._table = _Table(0, {})

    def _read(self) -> tuple[int, _Table]:
        """The item's version (-1: there is none) and the table. Caller holds the lock, and
        changes the table only in a copy."""
        try:
            if self._handle is None:
                self._handle = self._store.lookup(self._item_key)
            version, value = self._handle.read_versioned()
        except NotFound:
            self._version = -1
            return -1, _Table(0, {})
        if version != self._version:
            try:
                self._table = _decode(value)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Corrupt(
                    f"registry item {self._item_key!r}: {len(value)} bytes that are no registry "
                    f"({error}); delete the item"
                ) from error
            self._version = version
        return version, self._table

    def _swap(self, version: int, table: _Table) -> bool:
        value = _encode(table)
        if len(value) > TABLE_BYTES_MAX:
            raise errors.Full(
                f"registry item {self._item_key!r}: {len(value)} bytes, the limit is "
                f"{TABLE_BYTES_MAX}; use etcd for this many records"
            )
        try:
            if version >= 0 and self._handle is not None:
                return self._handle.compare_and_swap(version, value)
            self._handle = self._store.create(self._item_key, value)
        except (Exists, NotFound):
            self._handle = None
            return False
        return True

    def get(self, key: str) -> Entry | None:
        with self._lock:
            found = self._read()[1].entries.get(key)
        return None if found is None else Entry(*found)

    def scan(self, prefix: str) -> dict[str, Entry]:
        with self._lock:
            table = self._read()[1]
        return {k: Entry(*found) for k, found in table.entries.items() if k.startswith(prefix)}

    def versioned_scan(self, prefix: str, known: int) -> tuple[int, dict[str, Entry] | None]:
        """As scan, with the table's revision; None when it is `known` still."""
        with self._lock:
            table = self._read()[1]
        if table.revision == known:
            return known, None
        found = {k: Entry(*entry) for k, entry in table.entries.items() if k.startswith(prefix)}
        return table.revision, found

    def commit(
        self,
        checks: Iterable[Check],
        puts: Mapping[str, bytes],
        deletes: Iterable[str] = (),
    ) -> int | None:
        checks, deletes = list(checks), list(deletes)
        for _ in range(COMMIT_TRIES_MAX):
            with self._lock:
                version, table = self._read()
                if any(table.entries.get(c.key, (b"", ABSENT))[1] != c.revision for c in checks):
                    return None
                revision = table.revision + 1
                entries = {k: e for k, e in table.entries.items() if k not in deletes}
                entries.update({key: (value, revision) for key, value in puts.items()})
                if self._swap(version, _Table(revision, entries)):
                    return revision
        raise RegistryUnavailable(
            f"registry item {self._item_key!r}: changes all the time; try again", in_doubt=False
        )

    def compare_and_swap(self, key: str, expected_revision: int, value: bytes) -> int | None:
        return self.commit([Check(key, expected_revision)], {key: value})

    def put(self, key: str, value: bytes) -> int:
        revision = self.commit([], {key: value})
        assert revision is not None  # nothing was checked
        return revision

    def delete(self, key: str) -> bool:
        found = self.get(key)
        while found is not None:
            if self.commit([Check(key, found.revision)], {}, [key]) is not None:
                return True
            found = self.get(key)
        return False

    def confirm(self, key: str) -> Confirmation:
        sent_at_ns = now_ns()
        try:
            return Confirmation(sent_at_ns, True, self.get(key))
        except errors.StateStoreError as error:
            return Confirmation(sent_at_ns, False, None, str(error))

    def watch(self, prefix: str) -> EmbeddedWatch:
        return EmbeddedWatch(self, prefix)

    def trouble(self) -> str:
        return ""

    @property
    def answering(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: the store is the caller's."""


class EmbeddedWatch:
    """Looks at the table when asked; a look that finds it unchanged costs one read of the item."""

    def __init__(self, registry: EmbeddedRegistry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix
        self._lock = threading.Lock()
        self._revision = -1
        self._current_ns = 0
        self._followed = Followed()

    def _look(self) -> None:
        time_ns = now_ns()
        self._revision, entries = self._registry.versioned_scan(self._prefix, self._revision)
        if entries is not None:
            self._followed.replace(entries, time_ns)
        self._current_ns = time_ns

    def poll(self) -> list[Change]:
        with self._lock:
            self._look()
            return self._followed.take()

    def wait(self, timeout_ms: float) -> bool:
        deadline_ns = now_ns() + int(timeout_ms * 1_000_000)
        while True:
            with self._lock:
                self._look()
                if self._followed.news:
                    return True
            if now_ns() >= deadline_ns:
                return False
            time.sleep(WAIT_STEP_MS / 1000)

    def snapshot(self) -> Snapshot:
        with self._lock:
            self._look()
            return Snapshot(self._followed.show(), self._current_ns, self._revision)

    def close(self) -> None:
        """Nothing to end."""
