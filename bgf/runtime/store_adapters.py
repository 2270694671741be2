"""The state store as the gateway's hands see it. Decides nothing.

Keys: `j/<group>/<call-id>` a session's journal, `m/<group>/<epoch>` the call that the owner of that
epoch worked on last, `f/<group>/<call-id>` the flows of a call. A prefix per kind, so that a
watcher follows just what it needs, and nothing foreign is ever touched (rtpengine #1905).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

import statestore
from bgf import journal
from bgf.errors import Fenced, InDoubt, NotNow, StateError
from bgf.model import Address, Flow
from statestore import errors as store_errors

FLOW_PREFIX = b"f/"
KEY_CALL_ID_BYTES_MAX = 128
"""A longer Call-ID is keyed by its digest: an item's key has a limit, a SIP header has none."""
HASHED = b"sha256:"
FLOWS_CAPACITY_BYTES = 1024
FLOWS_SCHEMA = 1
"""First byte of a flows item; the rest is a msgpack list of Flow."""
JOURNAL_CAPACITY_BYTES = 1024
MARK_BYTES = 512
"""Room for the longest Call-ID that a mark names."""
EVERYWHERE = 15
"""As many replicas as there are other members."""
HANDLES_MAX = 4_096
"""Places remembered, of the calls worked on last; others are looked up."""

T = TypeVar("T")
_FLOWS_HEAD = bytes((FLOWS_SCHEMA,))
_encode = msgspec.msgpack.Encoder().encode
_decode_flows = msgspec.msgpack.Decoder(tuple[Flow, ...]).decode


def call_key(prefix: bytes, call_id: str) -> bytes:
    """The key of a call's item under `prefix`."""
    raw = call_id.encode("utf-8", "surrogateescape")
    if len(raw) > KEY_CALL_ID_BYTES_MAX or raw.startswith(HASHED):
        raw = HASHED + hashlib.sha256(raw).hexdigest().encode()
    return prefix + raw


def group_flow_prefix(group: str) -> bytes:
    return b"f/" + group.encode() + b"/"


def group_of(item_key: bytes) -> str:
    """The group that a flows item's key names. Raises ValueError on a foreign key."""
    _, group, call = item_key.split(b"/", 2)
    if not call:
        raise ValueError("a flows item names no call")
    return group.decode()


def encode_flows(flows: Sequence[Flow]) -> bytes:
    """The item that says which pinholes a call has."""
    return _FLOWS_HEAD + _encode(flows)


def decode_flows(item_key: bytes, value: bytes) -> tuple[Flow, ...]:
    """Raises StateError for an item that is no flows of this schema."""
    try:
        if value[:1] != _FLOWS_HEAD:
            raise ValueError(f"schema {value[:1].hex() or 'none'}, this version reads 01")
        return _decode_flows(value[1:])
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"item {item_key!r} is no flows: {error}") from None


def pairs_in(value: bytes) -> set[int]:
    """The even ports of the pairs that a flows item names, none when it is not one: for twenty
    thousand items, of which nothing else is wanted."""
    try:
        return {place.local_in.port & ~1 for place in _decode_places(value[1:])}
    except msgspec.MsgspecError:
        return set()


class _Place(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a Flow."""

    group: msgspec.Raw
    session: msgspec.Raw
    stream: msgspec.Raw
    component: msgspec.Raw
    realm_in: msgspec.Raw
    local_in: Address


_decode_places = msgspec.msgpack.Decoder(tuple[_Place, ...]).decode


@dataclass(frozen=True, slots=True)
class Copies:
    """How a kind of items is kept in a cluster. An embedded store has one copy of everything."""

    replicas: int = 0
    sync: bool = False

    def of_new(self) -> dict[str, Any]:
        return {"replicas": self.replicas, "sync": True} if self.sync else {}

    def of_write(self) -> dict[str, Any]:
        return {"sync": True} if self.sync else {}


EMBEDDED = Copies()


class _Guard:
    """The store's errors as the hands know them."""

    def __init__(self, group: str) -> None:
        self._group = group

    def __call__(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except store_errors.StateStoreError as error:
            raise self.known(error) from error

    def known(self, error: store_errors.StateStoreError) -> StateError:
        """For those whom a function for every write costs too much."""
        why = f"group {self._group}: {error}"
        if isinstance(error, store_errors.Fenced):
            return Fenced(why)
        if isinstance(error, store_errors.InDoubt):
            return InDoubt(why)
        return NotNow(why) if isinstance(error, store_errors.Unavailable) else StateError(why)


class StoreJournal:
    """Journals of one group's calls; every write carries the group's grant (`records.Journal`).

    Each owner has a mark of its own: the one before may have a dead master, and must not be waited
    for by every new call.
    """

    def __init__(
        self,
        store: statestore.Store,
        group: str,
        grant: statestore.Grant,
        copies: Copies = EMBEDDED,
    ) -> None:
        self._store = store
        self._grant = grant
        self._copies = copies
        self._guard = _Guard(group)
        self._prefix = f"j/{group}/".encode()
        self._marks = f"m/{group}/".encode()
        self._mark_key = self._marks + str(grant.epoch).encode()
        self._mark: statestore.Handle | None = None
        self._marked: str | None = None
        self._handles = _Handles()
        self._group = group
        self._how = copies.of_write()

    def check(self) -> None:
        if not self._store.serving:  # a fence that was raised meanwhile would not be seen here
            raise NotNow(f"group {self._group}: this node's state server does not serve")
        try:
            seen = self._store.fence(self._group)
        except store_errors.StateStoreError as error:
            raise self._guard.known(error) from error
        if seen > self._grant.epoch:
            raise Fenced(
                f"group {self._group}: epoch {self._grant.epoch} is over, {seen} has begun"
            )

    def mark(self, call_id: str) -> None:
        if call_id == self._marked:
            return
        self._marked = None
        self._guard(lambda: self._write_mark(call_id.encode("utf-8", "surrogateescape")))
        self._marked = call_id

    def _write_mark(self, value: bytes) -> None:
        if self._mark is not None:
            with contextlib.suppress(store_errors.NotFound):
                self._mark.write(value, grant=self._grant, **self._copies.of_write())
                return
        self._mark = self._store.put(
            self._mark_key, value, capacity=MARK_BYTES, grant=self._grant, **self._copies.of_new()
        )

    def tidy(self) -> None:
        """Remove the marks of earlier owners but the newest: what they named is settled."""
        for _, handle in self._guard(self._all_marks)[:-1]:
            self._guard(lambda one=handle: _delete(one, self._grant))  # type: ignore[misc]

    def _all_marks(self) -> list[tuple[int, statestore.Handle]]:
        found = []
        for handle in self._store.scan(self._marks):
            digits = handle.key[len(self._marks) :]
            if digits.isdigit():
                found.append((int(digits), handle))
        return sorted(found, key=lambda mark: mark[0])

    def marked(self) -> str:
        return self._guard(self._read_mark).decode("utf-8", "surrogateescape")

    def _read_mark(self) -> bytes:
        for _, handle in reversed(self._all_marks()):
            with contextlib.suppress(store_errors.NotFound):
                return handle.read()
        return b""

    def settle(self) -> str:
        """Make what the last owner's mark says this owner's, and return it as `marked`. When that
        has succeeded, what a dead member was master of can be written again. Raises NotNow while
        it cannot."""

        def inherit() -> bytes:
            try:  # nearly always there; to look for the newest takes a walk over all items
                last = self._store.lookup(self._marks + str(self._grant.epoch - 1).encode())
                value = last.read()
                self._mark = self._store.create(
                    self._mark_key, value, capacity=MARK_BYTES, grant=self._grant,
                    **self._copies.of_new(),
                )  # fmt: skip
                return value
            except (store_errors.NotFound, store_errors.Exists, store_errors.Full):
                # nothing was marked; begun before and restarted; no room: the old one does
                return self._rewrite_newest()

        try:
            return self._guard(inherit).decode("utf-8", "surrogateescape")
        except InDoubt as error:  # the same again is the same
            raise NotNow(str(error)) from error

    def _rewrite_newest(self) -> bytes:
        for _, handle in reversed(self._all_marks()):
            with contextlib.suppress(store_errors.NotFound):
                value = handle.read()
                handle.write(value, grant=self._grant, **self._copies.of_write())
                return value
        return b""

    def append(self, call_id: str, entry: bytes) -> None:
        self._write(call_id, [entry], replace=False)

    def replace(self, call_id: str, entries: Sequence[bytes]) -> None:
        self._write(call_id, entries, replace=True)

    def entries(self, call_id: str) -> Sequence[bytes]:
        handle = self._handle(call_id)
        if handle is None:
            return []
        try:
            return self._guard(lambda: self._entries(handle))
        except StateError as error:
            if not isinstance(error.__cause__, store_errors.NotFound):
                raise
            self._handles.pop(call_id)  # the item went since the handle was kept
            return []

    def several(self, call_ids: Sequence[str]) -> dict[str, Sequence[bytes]]:
        """As `records.Journal`; what is in memory alone is read as quickly one by one."""
        if not self._copies.sync:
            return {}
        handles = [(call_id, self._handle(call_id)) for call_id in call_ids]
        known = [(call_id, handle) for call_id, handle in handles if handle is not None]
        values = self._guard(
            lambda: self._store.read_many([handle for _, handle in known], settled=True)
        )
        found: dict[str, Sequence[bytes]] = {c: () for c, handle in handles if handle is None}
        for (call_id, _), value in zip(known, values, strict=True):
            with contextlib.suppress(store_errors.Invalid):  # read alone it says what is wrong
                if value is not None:
                    found[call_id] = statestore.unpack_entries(value)
        return found

    def _entries(self, handle: statestore.Handle) -> list[bytes]:
        """What is read is acted on, so it must be what every replica has."""
        if not self._copies.sync:
            return handle.entries()
        handle.ensure()
        return handle.entries()

    def _write(self, call_id: str, entries: Sequence[bytes], *, replace: bool) -> None:
        handle = self._handle(call_id)
        if handle is not None:
            try:
                if replace:
                    whole = statestore.pack_entries(entries)
                    handle.write(whole, grant=self._grant, **self._how)
                else:
                    handle.append(entries[0], grant=self._grant, **self._how)
                return
            except store_errors.NotFound:
                self._handles.pop(call_id)
            except store_errors.StateStoreError as error:
                raise self._guard.known(error) from error
        self._create(call_id, entries)

    def forget(self, call_id: str) -> None:
        handle = self._handle(call_id)
        self._handles.pop(call_id)
        if handle is not None:
            self._guard(lambda: _delete(handle, self._grant))

    def calls(self) -> Iterator[str]:
        for handle in self._guard(lambda: list(self._store.scan(self._prefix))):
            name = handle.key[len(self._prefix) :]
            if not name.startswith(HASHED):
                yield name.decode("utf-8", "surrogateescape")
                continue
            try:
                for entry in self._guard(handle.entries)[:1]:
                    yield journal.decode(entry).call_id
            except NotNow:
                raise
            except StateError:  # gone, or of another version: nobody can restore it
                continue

    def _create(self, call_id: str, entries: Sequence[bytes]) -> None:
        framed = statestore.pack_entries(entries)
        capacity = max(JOURNAL_CAPACITY_BYTES, len(framed))
        key = call_key(self._prefix, call_id)
        made = self._guard(
            lambda: self._store.create(
                key, framed, capacity=capacity, grant=self._grant, **self._copies.of_new()
            )
        )
        self._handles.keep(call_id, made)

    def _handle(self, call_id: str) -> statestore.Handle | None:
        handle = self._handles.get(call_id)
        if handle is None:
            handle = self._guard(lambda: _found(self._store, call_key(self._prefix, call_id)))
            if handle is not None:
                self._handles.keep(call_id, handle)
        return handle


class StoreFlows:
    """Explicit state of one group, one item per call (`records.FlowStore`)."""

    def __init__(
        self,
        store: statestore.Store,
        group: str,
        grant: statestore.Grant,
        copies: Copies = EMBEDDED,
    ) -> None:
        self._store = store
        self._grant = grant
        self._copies = copies
        self._guard = _Guard(group)
        self._prefix = group_flow_prefix(group)
        self._handles = _Handles()

    def record(self, call_id: str, flows: Sequence[Flow]) -> None:
        try:
            if flows:
                self._write(call_id, flows)
            else:
                self._drop(call_id)
        except store_errors.StateStoreError as error:
            raise self._guard.known(error) from error

    def _write(self, call_id: str, flows: Sequence[Flow]) -> None:
        value = encode_flows(flows)
        handle = self._handles.get(call_id)
        if handle is None:
            key = call_key(self._prefix, call_id)
            capacity = max(FLOWS_CAPACITY_BYTES, len(value))
            how = self._copies.of_new()
            try:
                made = self._store.create(key, value, capacity=capacity, grant=self._grant, **how)
            except store_errors.Exists:
                made = self._store.put(key, value, capacity=capacity, grant=self._grant, **how)
            self._handles.keep(call_id, made)
            return
        try:
            handle.write(value, grant=self._grant, **self._copies.of_write())
        except store_errors.NotFound:
            self._handles.pop(call_id)
            self._write(call_id, flows)

    def _drop(self, call_id: str) -> None:
        handle = self._handles.pop(call_id) or _found(self._store, call_key(self._prefix, call_id))
        if handle is not None:
            _delete(handle, self._grant)


class _Handles:
    """Where the items of the latest calls are; the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: dict[str, statestore.Handle] = {}
        self.get = self._kept.get

    def keep(self, call_id: str, handle: statestore.Handle) -> None:
        if len(self._kept) >= HANDLES_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[call_id] = handle

    def pop(self, call_id: str) -> statestore.Handle | None:
        return self._kept.pop(call_id, None)


def _found(store: statestore.Store, key: bytes) -> statestore.Handle | None:
    try:
        return store.lookup(key)
    except store_errors.NotFound:
        return None


def _delete(handle: statestore.Handle, grant: statestore.Grant) -> None:
    with contextlib.suppress(store_errors.NotFound):
        handle.delete(grant=grant)
