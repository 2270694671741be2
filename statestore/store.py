"""The store as its users see it: addresses, keys, iteration, time. The memory is in `_segment`.

Knows: where a segment lives, CLOCK_BOOTTIME, the keeper's lock. Must not know: what the values
mean, the segment's layout, the network.

A Store belongs to the process that opened it. After a fork the child opens its own: the
inherited one answers `Unavailable`. Threads may share one: whoever waits for the network lets the
others run.
"""

from __future__ import annotations

import enum
import fcntl
import os
import struct
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from statestore import _segment
from statestore._segment import Grant, Handle
from statestore.errors import Exists, Invalid, NotFound, Unavailable
from statestore.messages import Inbox, Post
from statestore.places import HINTS, Member

SCHEME = "dal://"
SEGMENT_NAME = "segment"
KEEPER_NAME = "keeper"
SIZE_BYTES_DEFAULT = 256 << 20
SCAN_BATCH_MAX = 512  # handles per call into the segment
POLL_MAX = 4096  # changes per poll, unless told otherwise
PUT_TRIES_MAX = 100  # an item that comes and goes this often under an append is in trouble
REPLICAS_MAX = 15
TIMEOUT_MS = 1000
OPEN_TRIES_MAX = 10

Data = bytes | bytearray | memoryview

_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class Kind(enum.IntEnum):
    """What is true of a key now. A key that comes and goes may be reported once."""

    PUT = 0
    DELETE = 1


class Change(NamedTuple):
    """One entry of a watch."""

    kind: Kind
    key: bytes


class Housekeeping(NamedTuple):
    """What one round of the keeper did."""

    expired: int = 0
    dead_clients: int = 0
    locks_recovered: int = 0
    items_reaped: int = 0
    blocks_freed: int = 0


def now_ns() -> int:
    """CLOCK_BOOTTIME: counts suspend, is the same in every process of the host."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


ENTRY_HEADER_BYTES: Final = 4


def pack_entries(entries: Iterable[bytes]) -> bytes:
    """The value that appending these would give: to start a journal anew in one write."""
    return b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def unpack_entries(value: bytes) -> list[bytes]:
    """What was appended to a journal of this value. Raises Invalid: it is none."""
    entries, at = [], 0
    while at < len(value):
        length = int.from_bytes(value[at : at + ENTRY_HEADER_BYTES], "little")
        at += ENTRY_HEADER_BYTES + length
        if at > len(value):
            raise Invalid("its value is no journal: an entry is longer than what is left of it")
        entries.append(value[at - length : at])
    return entries


def _key(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key


class Watch:
    """Changes of the keys under a prefix, from the moment it was made.

    Watch first, then scan: nothing falls between. A writer's death may delay its last change until
    the keeper has recovered its lock.
    """

    def __init__(self, cursor: _segment.Cursor) -> None:
        self._cursor = cursor

    @property
    def sequence(self) -> int:
        """Position in the feed: how many changes of any key were passed."""
        return self._cursor.sequence

    def poll(self, max: int = POLL_MAX) -> list[Change]:
        """Up to `max` changes; empty when there are none. Never waits.

        Raises Overrun when changes were missed: scan the prefix, then poll on.
        """
        return [
            Change(Kind.DELETE if deleted else Kind.PUT, key)
            for deleted, key in self._cursor.poll(max)
        ]


class Store:
    """One open store. Keys are bytes (a str is UTF-8), values bytes of up to 64 KiB.

    A handle outlives its item's deletion and finds the item again if the key returns. Reads and
    writes through a handle cost one access to memory where the item's master is this host's, and
    one journey to its master elsewhere; through a key, a lookup more. In a cluster, everything may
    also raise Unavailable (nobody answers in time), NotServing and, when it changes something,
    InDoubt.
    """

    def __init__(
        self, segment: _segment.Segment, directory: Path | None, replicas: int = 0
    ) -> None:
        self._segment = segment
        self._directory = directory
        self._replicas = replicas
        self._keeper_fd = -1
        self._post: Post | None = None
        _open_stores.add(self)

    def close(self) -> None:
        """Give the client slot back. Handles answer Unavailable from here on."""
        _open_stores.discard(self)
        self._segment.close()
        if self._keeper_fd >= 0:
            os.close(self._keeper_fd)
            self._keeper_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- fences --

    def grant(self, fence: str, epoch: int) -> Grant:
        """The right to write under `fence` until it is raised past `epoch`."""
        return self._segment.grant(_key(fence), epoch)

    def fence(self, fence: str) -> int:
        """The epoch at which the fence stands; 0 when it was never raised."""
        return self._segment.fence(_key(fence))

    def raise_fence(self, fence: str, epoch: int) -> bool:
        """Refuse every grant older than `epoch` from now on. False: it stands past it already.

        After True, no write with an older grant takes effect, ever, whatever its writer does, on
        any member of the cluster.
        """
        return self._segment.raise_fence(_key(fence), epoch)

    # -- items --

    def _way(
        self,
        capacity: int,
        ttl_ms: int,
        grant: Grant | None,
        *,
        replicas: int | None,
        hint: str,
        sync: bool | None,
    ) -> tuple[int, int, Grant | None, int, int, bool | None]:
        copies = self._replicas if replicas is None else replicas
        if not 0 <= copies <= REPLICAS_MAX:
            raise Invalid(f"replicas {copies}: 0 to {REPLICAS_MAX} are possible")
        if hint not in HINTS:
            raise Invalid(f"hint {hint!r}: one of {', '.join(HINTS)}")
        return capacity, ttl_ms * 1_000_000, grant, copies, HINTS.index(hint), sync

    def create(
        self,
        key: bytes | str,
        value: Data,
        *,
        capacity: int | None = None,
        ttl_ms: int = 0,
        grant: Grant | None = None,
        replicas: int | None = None,
        hint: str = "none",
        sync: bool | None = None,
    ) -> Handle:
        """A new item. `capacity` reserves bytes for appends; `ttl_ms` 0 is for ever. `replicas`:
        copies besides the master's; `hint`: "local" keeps it here, "remote" elsewhere, "pin" where
        it is. An embedded store has neither.

        Raises Exists, Full, Fenced, TooBig.
        """
        way = self._way(capacity or 0, ttl_ms, grant, replicas=replicas, hint=hint, sync=sync)
        return self._segment.create(_key(key), value, way)

    def create_many(
        self,
        pairs: Iterable[tuple[bytes | str, bytes]],
        *,
        capacity: int = 0,
        ttl_ms: int = 0,
        grant: Grant | None = None,
        replicas: int | None = None,
        hint: str = "none",
    ) -> list[bytes]:
        """New items, many in flight together: the keys that existed already, and were left alone.

        Raises Full, Fenced, TooBig, InDoubt: then some were made and some not.
        """
        way = self._way(capacity, ttl_ms, grant, replicas=replicas, hint=hint, sync=None)
        return self._segment.create_many([(_key(key), value) for key, value in pairs], way)

    def read_many(self, handles: Sequence[Handle], *, settled: bool = False) -> list[bytes | None]:
        """Values as all replicas have them (`read(sync=True)`), many in flight together.

        `settled`: the caller knows that nobody writes these, nor did when their last writer was
        fenced; then any copy that counts is the latest one, and this host's costs no journey.

        None for what could not be read so: gone, larger than 4 KiB and elsewhere, or not now; read
        it alone to learn which. Raises Unavailable when the store itself is.
        """
        return self._segment.read_many(list(handles), settled)

    def lookup(self, key: bytes | str) -> Handle:
        """The handle of an item. Raises NotFound."""
        return self._segment.lookup(_key(key))

    def put(
        self,
        key: bytes | str,
        value: Data,
        *,
        capacity: int | None = None,
        ttl_ms: int = 0,
        grant: Grant | None = None,
        replicas: int | None = None,
        hint: str = "none",
        sync: bool | None = None,
    ) -> Handle:
        """Create the item, or replace its value and time to live. Raises Full, Fenced, TooBig."""
        way = self._way(capacity or 0, ttl_ms, grant, replicas=replicas, hint=hint, sync=sync)
        return self._segment.put(_key(key), value, way)

    def append(
        self,
        key: bytes | str,
        entry: Data,
        *,
        capacity: int = 0,
        grant: Grant | None = None,
        replicas: int | None = None,
        hint: str = "none",
        sync: bool | None = None,
    ) -> Handle:
        """Append one entry to the item, creating it empty if need be. Keep the handle for the next.

        Raises Full, Fenced, TooBig (the value with all its entries has a limit: checkpoint it).
        """
        name = _key(key)
        way = self._way(capacity, 0, grant, replicas=replicas, hint=hint, sync=sync)
        for _ in range(PUT_TRIES_MAX):
            try:
                handle = self._segment.lookup(name)
                handle.append(entry, grant, sync)
            except NotFound:
                try:
                    return self._segment.create(name, pack_entries([bytes(entry)]), way)
                except Exists:
                    continue
            return handle
        raise Unavailable(f"item {name!r}: appears and disappears too fast to append; try again")

    def scan(self, prefix: bytes | str = b"") -> Iterator[Handle]:
        """Every item under a prefix, in no order. Sees all that live from the first step to the
        last; an item deleted and made again meanwhile may come twice."""
        name, cursor, ended = _key(prefix), 0, False
        while not ended:
            cursor, handles, ended = self._segment.scan(name, cursor, SCAN_BATCH_MAX)
            yield from handles

    def watch(self, prefix: bytes | str = b"") -> Watch:
        """Changes under a prefix from now on."""
        return Watch(self._segment.watch(_key(prefix)))

    # -- the cluster --

    @property
    def clustered(self) -> bool:
        """Is it part of a cluster, or embedded on this host alone?"""
        return self._segment.clustered

    @property
    def serving(self) -> bool:
        """Is this host's member in the view, with a lease that runs? A look into memory. True for
        an embedded store, and for one without a segment."""
        return self._segment.serving

    def members(self) -> list[Member]:
        """Who is in the view; nobody for an embedded store."""
        return self._segment.members()[1]

    def epoch(self) -> int:
        """The number of the view; 0 for an embedded store."""
        return self._segment.members()[0]

    def move(self, key: bytes | str | Handle, node: str) -> None:
        """Make `node` the item's master, ahead of need. Raises NotFound (the item), Invalid (no
        such node in the view)."""
        handle = key if isinstance(key, Handle) else self.lookup(key)
        members = self.members()
        slots = [member.slot for member in members if member.node == node]
        if not slots:
            known = ", ".join(member.node for member in members) or "no cluster"
            raise Invalid(f"node {node!r}: not in the view ({known})")
        self._segment.move(handle, slots[0])

    def reload_keys(self) -> None:
        """Read the key file again. A rotation adds the new key everywhere, then puts it first, then
        removes the old one; nothing is interrupted. Raises Invalid, Unavailable."""
        self._segment.reload_keys()

    def inbox(self, name: bytes | str) -> Inbox:
        """Receive what is told to `name`, and announcements, from now on."""
        if self._post is None:
            self._post = Post(self._segment)
        return self._post.open(_key(name))

    def tell(self, inbox: bytes | str, message: Data) -> None:
        """Deliver one message, at most once: on return its owner has it. Raises NotFound (no such
        inbox in the cluster), InDoubt."""
        self._segment.tell(_key(inbox), message)

    def announce(self, message: Data) -> None:
        """One message for every inbox there is, at most once each: on return every member has it
        in hand. Raises InDoubt."""
        self._segment.tell(None, message)

    # -- keeping --

    def stats(self) -> dict[str, int]:
        """Figures of the whole segment: counts, bytes, and what went wrong and was repaired."""
        return self._segment.stats()

    def verify(self) -> dict[str, int]:
        """Walk everything; all figures but `items` are 0 in a sound segment while nobody writes."""
        return self._segment.verify()

    def try_keeper(self) -> bool:
        """Become the one process that keeps house, or learn that another one lives. Raises
        Unavailable when the directory cannot be written."""
        if self._keeper_fd >= 0:
            return True
        if self._directory is None or self._segment.clustered:
            return False  # the state server keeps house
        path = self._directory / KEEPER_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"keeper lock {path}: {error.strerror}; check the directory"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._keeper_fd = fd
        return True

    def housekeep(self, time_ns: int | None = None) -> Housekeeping:
        """One round of the keeper: expire items, recover what dead processes left. Call it a few
        times a second. `time_ns` is CLOCK_BOOTTIME."""
        done = self._segment.housekeep(now_ns() if time_ns is None else time_ns)
        return Housekeeping(**done)

    def _forget(self) -> None:
        # In the child of a fork: our copies of the descriptors would keep the parent looking alive.
        self._segment.forget()
        if self._keeper_fd >= 0:
            os.close(self._keeper_fd)
            self._keeper_fd = -1


def _after_fork() -> None:
    for store in _open_stores:
        store._forget()


os.register_at_fork(after_in_child=_after_fork)


def _directory_of(address: str) -> Path | None:
    """None: over the network."""
    if not address.startswith(SCHEME) or address == SCHEME:
        raise Invalid(
            f"state address {address!r}: give dal:///DIRECTORY or dal://HOST:PORT[,HOST:PORT...]"
        )
    path = address.removeprefix(SCHEME)
    return Path(path) if path.startswith("/") else None


def open(
    address: str,
    create: bool = True,
    size_bytes: int = SIZE_BYTES_DEFAULT,
    readonly: bool = False,
    *,
    key_file: str | Path | None = None,
    replicas: int = 0,
    sync: bool = False,
    timeout_ms: int = TIMEOUT_MS,
    busy: bool = False,
) -> Store:
    """Open `dal:///DIRECTORY`, this host's segment, or `dal://HOST:PORT[,HOST:PORT...]`, a cluster
    without a server here.

    The segment is embedded, or a member of a cluster: it knows. `create` makes the directory and an
    embedded segment if there is none. Several may race for the making: one wins, all open the same.
    The size is only of interest to the maker; all of it is reserved at once. `readonly` maps it so,
    and takes no client slot.

    `key_file` is the cluster's key, needed for anything over the network; a segment opened with it
    is a member's, and serves once its server is in the view. `replicas` is for items
    made through this store and `sync` for its writes (never for reads) where a call does not say;
    sync waits until all replicas have it. `timeout_ms` is that of one operation over the network.
    `busy` spins for answers instead of sleeping.

    Raises Unavailable (missing, no permission, too many processes), Full (the file system is too
    small), WrongVersion, Corrupt, Invalid (address, size, key file).
    """
    if not 0 <= replicas <= REPLICAS_MAX:
        raise Invalid(f"replicas {replicas}: 0 to {REPLICAS_MAX} are possible")
    if timeout_ms <= 0:
        raise Invalid(f"timeout {timeout_ms} ms: must be more than 0")
    directory = _directory_of(address)
    key = None if key_file is None else str(key_file)
    timeout_ns = timeout_ms * 1_000_000
    if directory is None:
        far = _segment.open(address, address, readonly, key, sync, timeout_ns, busy)
        return Store(far, None, replicas)
    path = str(directory / SEGMENT_NAME)
    for _ in range(OPEN_TRIES_MAX):
        try:
            near = _segment.open(
                f"{SCHEME}{directory}", path, readonly, key, sync, timeout_ns, busy
            )
        except NotFound:
            if not create or readonly:
                raise Unavailable(
                    f"segment {path}: there is none; start the state process first"
                ) from None
        else:
            return Store(near, directory, replicas)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"state directory {directory}: cannot be made: {error.strerror}"
            ) from error
        try:
            _segment.format(path, size_bytes)
        except Exists:
            continue  # somebody else was faster: open theirs
    raise Unavailable(f"segment {path}: is made and removed all the time; stop who does that")
