"""The state store as the gateway's hands and the failover's registry see it. Decides nothing.

Keys: `j/<group>/<call-id>` a session's journal, `m/<group>` the call being worked on,
`f/<group>/<host>/<port>` a flow, `r/<node>` a gateway process's readiness, `v/...` members and
owners (statestore.views). A prefix per kind, so that a watcher follows just what it needs, and
nothing foreign is ever touched (rtpengine #1905).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

import statestore
from bgf import journal
from bgf.errors import Fenced, StateError
from bgf.model import Flow, FlowKey
from failover.registry import Member, Ownership, RegistryUnavailable, View
from statestore import errors as store_errors
from statestore.views import EmbeddedViews

FLOW_PREFIX = b"f/"
KEY_CALL_ID_BYTES_MAX = 128
"""A longer Call-ID is keyed by its digest: an item's key has a limit, a SIP header has none."""
FLOW_CAPACITY_BYTES = 512
JOURNAL_CAPACITY_BYTES = 1024
READY_VALID_MS = 1_500

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_decode_flow = msgspec.msgpack.Decoder(Flow).decode


def flow_item_key(group: str, key: FlowKey) -> bytes:
    return f"f/{group}/{key.host}/{key.port}".encode()


def parse_flow_item_key(item_key: bytes) -> tuple[str, FlowKey]:
    """The group and pinhole that a flow item's key names. Raises ValueError on a foreign key."""
    _, group, host, port = item_key.decode().split("/")
    return group, FlowKey(host, int(port))


def group_flow_prefix(group: str) -> bytes:
    return f"f/{group}/".encode()


def read_flow(handle: statestore.Handle) -> Flow:
    """Raises StateError for an item that is no flow of this schema."""
    try:
        return _decode_flow(handle.read())
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"item {handle.key!r} is no flow: {error}") from None


class _Guard:
    """The store's errors as the hands know them."""

    def __init__(self, group: str) -> None:
        self._group = group

    def __call__(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except store_errors.Fenced as error:
            raise Fenced(f"group {self._group}: {error}") from error
        except store_errors.StateStoreError as error:
            raise StateError(f"group {self._group}: {error}") from error


class StoreJournal:
    """Journals of one group's calls; every write carries the group's grant (`hands.Journal`)."""

    def __init__(self, store: statestore.Store, group: str, grant: statestore.Grant) -> None:
        self._store = store
        self._grant = grant
        self._guard = _Guard(group)
        self._prefix = f"j/{group}/".encode()
        self._mark_key = f"m/{group}".encode()
        self._mark: statestore.Handle | None = None
        self._handles: dict[str, statestore.Handle] = {}
        self._group = group

    def check(self) -> None:
        seen = self._guard(lambda: self._store.fence(self._group))
        if seen > self._grant.epoch:
            raise Fenced(
                f"group {self._group}: epoch {self._grant.epoch} is over, {seen} has begun"
            )

    def mark(self, call_id: str) -> None:
        self._guard(lambda: self._write_mark(call_id.encode("utf-8", "surrogateescape")))

    def _write_mark(self, value: bytes) -> None:
        if self._mark is None:
            self._mark = self._store.put(self._mark_key, value, capacity=512, grant=self._grant)
        else:
            self._mark.write(value, grant=self._grant)

    def marked(self) -> str:
        try:
            found = self._guard(lambda: self._store.lookup(self._mark_key).read())
        except StateError as error:
            if isinstance(error.__cause__, store_errors.NotFound):
                return ""
            raise
        return found.decode("utf-8", "surrogateescape")

    def append(self, call_id: str, entry: bytes) -> None:
        self._write(call_id, entry, lambda handle: handle.append(entry, grant=self._grant))

    def replace(self, call_id: str, entry: bytes) -> None:
        whole = statestore.pack_entries([entry])
        self._write(call_id, entry, lambda handle: handle.write(whole, grant=self._grant))

    def entries(self, call_id: str) -> Sequence[bytes]:
        handle = self._handle(call_id)
        if handle is None:
            return []
        try:
            return self._guard(handle.entries)
        except StateError as error:
            if not isinstance(error.__cause__, store_errors.NotFound):
                raise
            del self._handles[call_id]  # the item went since the handle was kept
            return []

    def _write(
        self, call_id: str, entry: bytes, write: Callable[[statestore.Handle], None]
    ) -> None:
        handle = self._handle(call_id)
        if handle is not None:
            try:
                self._guard(lambda: write(handle))
            except StateError as error:
                if not isinstance(error.__cause__, store_errors.NotFound):
                    raise
                del self._handles[call_id]
            else:
                return
        self._create(call_id, entry)

    def forget(self, call_id: str) -> None:
        handle = self._handle(call_id)
        self._handles.pop(call_id, None)
        if handle is not None:
            self._guard(lambda: _delete(handle, self._grant))

    def calls(self) -> Iterator[str]:
        for handle in self._guard(lambda: list(self._store.scan(self._prefix))):
            name = handle.key[len(self._prefix) :]
            if not name.startswith(b"sha256:"):
                yield name.decode("utf-8", "surrogateescape")
                continue
            with contextlib.suppress(StateError, store_errors.StateStoreError):
                for entry in handle.entries()[:1]:
                    yield journal.decode(entry).call_id

    def _create(self, call_id: str, entry: bytes) -> None:
        framed = statestore.pack_entries([entry])
        capacity = max(JOURNAL_CAPACITY_BYTES, len(framed))
        key = self._key(call_id)
        self._handles[call_id] = self._guard(
            lambda: self._store.create(key, framed, capacity=capacity, grant=self._grant)
        )

    def _key(self, call_id: str) -> bytes:
        raw = call_id.encode("utf-8", "surrogateescape")
        if len(raw) > KEY_CALL_ID_BYTES_MAX or raw.startswith(b"sha256:"):
            raw = b"sha256:" + hashlib.sha256(raw).hexdigest().encode()
        return self._prefix + raw

    def _handle(self, call_id: str) -> statestore.Handle | None:
        handle = self._handles.get(call_id)
        if handle is None:
            try:
                handle = self._store.lookup(self._key(call_id))
            except store_errors.NotFound:
                return None
            except store_errors.StateStoreError as error:
                raise StateError(str(error)) from error
            self._handles[call_id] = handle
        return handle


class StoreFlows:
    """Explicit state of one group, one item per flow (`hands.FlowStore`)."""

    def __init__(self, store: statestore.Store, group: str, grant: statestore.Grant) -> None:
        self._store = store
        self._grant = grant
        self._guard = _Guard(group)

    def put(self, flow: Flow) -> None:
        key, value = flow_item_key(flow.group, flow.key), _encode(flow)
        capacity = max(FLOW_CAPACITY_BYTES, len(value))
        self._guard(lambda: self._store.put(key, value, capacity=capacity, grant=self._grant))

    def drop(self, group: str, key: FlowKey) -> None:
        try:
            handle = self._store.lookup(flow_item_key(group, key))
        except store_errors.NotFound:
            return
        except store_errors.StateStoreError as error:
            raise StateError(str(error)) from error
        self._guard(lambda: _delete(handle, self._grant))


def _delete(handle: statestore.Handle, grant: statestore.Grant) -> None:
    with contextlib.suppress(store_errors.NotFound):
        handle.delete(grant=grant)


class ReadyMark(msgspec.Struct, frozen=True, array_like=True):
    """What a gateway process says of itself to the failover process of its node."""

    at_ns: int
    pinholes: int
    sessions: int


class Readiness:
    """`r/<node>`: written by the gateway process, read by the failover process."""

    def __init__(self, store: statestore.Store, node: str) -> None:
        self._store = store
        self._key = f"r/{node}".encode()
        self._handle: statestore.Handle | None = None
        self._decode = msgspec.msgpack.Decoder(ReadyMark).decode

    def publish(self, mark: ReadyMark) -> None:
        self._store.put(self._key, _encode(mark), capacity=64)

    def fresh(self, now_ns: int) -> bool:
        """Has the gateway process said within READY_VALID_MS that it follows the feed?"""
        try:
            if self._handle is None:
                self._handle = self._store.lookup(self._key)
            mark = self._decode(self._handle.read())
        except (store_errors.StateStoreError, msgspec.MsgspecError):
            self._handle = None
            return False
        return now_ns - mark.at_ns < READY_VALID_MS * 1_000_000


class StoreRegistry:
    """`failover.registry.Registry` over the embedded views."""

    def __init__(self, views: EmbeddedViews) -> None:
        self._views = views
        self._decode = msgspec.msgpack.Decoder(Member).decode

    def view(self) -> View:
        raw = self._reach(self._views.view)
        members = {}
        for node, data in raw.members.items():
            with contextlib.suppress(msgspec.MsgspecError):  # another version's: as good as silent
                members[node] = self._decode(data)
        return View(members, {group: Ownership(*owner) for group, owner in raw.owners.items()})

    def publish(self, member: Member) -> None:
        self._reach(lambda: self._views.publish(member.node, _encode(member)))

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        won = self._reach(lambda: self._views.claim(group, (seen.node, seen.epoch), node))
        return None if won is None else Ownership(*won)

    @staticmethod
    def _reach(work: Callable[[], T]) -> T:
        try:
            return work()
        except store_errors.StateStoreError as error:
            raise RegistryUnavailable(f"the registry in the state segment: {error}") from error
