"""The embedded registry: who is a member, who owns which group, kept in the store itself.

Knows: names, epochs, compare-and-swap. Must not know: what a member's bytes say, who should own
what. etcd arrives behind the same three calls.

A claim is one compare-and-swap of the owner's item; only its winner raises the group's fence, and
does so before it learns that it has won. A winner that dies in between owns a group under a fence
that is one behind: nothing was promised yet, and the next claim raises it past both.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from statestore._segment import Handle
from statestore.errors import Corrupt, Exists, NotFound, Overrun, Unavailable
from statestore.store import Store, Watch

PREFIX = b"v/"
CLAIM_TRIES_MAX = 100
NOBODY = ("", 0)

_EPOCH = struct.Struct("<Q")


class RawView(NamedTuple):
    """One reading: node -> its record, group -> (owner, epoch)."""

    members: Mapping[str, bytes]
    owners: Mapping[str, tuple[str, int]]


def _owner(handle: Handle, value: bytes) -> tuple[str, int]:
    try:
        return value[_EPOCH.size :].decode(), _EPOCH.unpack_from(value)[0]
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"owner record {handle.key!r}: {value[:32]!r} is none; delete it") from error


class EmbeddedViews:
    """Members and owners of one host's nodes, in the segment they all share."""

    def __init__(self, store: Store, prefix: bytes = PREFIX) -> None:
        self._store = store
        self._members = prefix + b"m/"
        self._owners = prefix + b"o/"
        self._prefix = prefix
        self._watch: Watch | None = None
        self._records: dict[bytes, Handle] = {}

    def view(self) -> RawView:
        """Members and owners as they are now, each record whole.

        Costs a read per record, however many other items there are: which records exist is
        followed by the change feed, and read anew only when that was overrun.
        """
        self._follow()
        members: dict[str, bytes] = {}
        owners: dict[str, tuple[str, int]] = {}
        for key, handle in list(self._records.items()):
            try:
                value = handle.read()
            except NotFound:
                del self._records[key]
                continue
            if key.startswith(self._members):
                members[key[len(self._members) :].decode()] = value
            elif key.startswith(self._owners):
                owners[key[len(self._owners) :].decode()] = _owner(handle, value)
        return RawView(members, owners)

    def _follow(self) -> None:
        """Know the handle of every record."""
        if self._watch is None:
            self._watch = self._store.watch(self._prefix)
            self._records = {handle.key: handle for handle in self._store.scan(self._prefix)}
        try:
            while changes := self._watch.poll():
                for change in changes:
                    if change.key not in self._records:
                        self._learn(change.key)
        except Overrun:
            self._watch = None
            self._follow()

    def _learn(self, key: bytes) -> None:
        try:
            self._records[key] = self._store.lookup(key)
        except NotFound:
            return

    def publish(self, node: str, data: bytes) -> None:
        """Replace the node's own record. Raises Full, TooBig, Unavailable."""
        self._store.put(self._members + node.encode(), data)

    def withdraw(self, node: str) -> None:
        """Remove the node's own record, if it has one."""
        try:
            self._store.lookup(self._members + node.encode()).delete()
        except NotFound:
            return

    def claim(self, group: str, seen: tuple[str, int], node: str) -> tuple[str, int] | None:
        """Own `group` at the epoch after `seen` if that is still how it stands, else None.

        When it returns an ownership, no write under an older epoch of the fence `group` can take
        effect any more. `seen` is ("", 0) for a group that nobody has owned yet.
        """
        won = (node, seen[1] + 1)
        if not self._swap(group, seen, _EPOCH.pack(won[1]) + node.encode()):
            return None
        self._store.raise_fence(group, won[1])
        return won

    def _swap(self, group: str, seen: tuple[str, int], record: bytes) -> bool:
        key = self._owners + group.encode()
        for _ in range(CLAIM_TRIES_MAX):
            try:
                handle = self._store.lookup(key)
                version, value = handle.read_versioned()
            except NotFound:
                if seen != NOBODY:
                    return False
                try:
                    self._store.create(key, record)
                except Exists:
                    continue
                return True
            if _owner(handle, value) != seen:
                return False
            try:
                if handle.compare_and_swap(version, record):
                    return True
            except NotFound:
                continue
        raise Unavailable(f"owner of group {group!r}: changes all the time; claim it again")
