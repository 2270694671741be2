"""Members and owners as the failover sees them, over a registry.

Knows: record names, epochs, compare-and-swap. Must not know: what a member's bytes say, who
should own what, whether the registry is etcd or a segment.

Looking costs no input or output: a watch feeds what is known, and what this process has written
itself is seen at once. A claim is one transaction; only its winner raises the group's fence,
and does so before it learns that it has won. A winner that dies in between owns a group under a
fence that is one behind: nothing was promised yet, and the next claim raises it past both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from statestore.errors import Corrupt
from statestore.registry import (
    ABSENT,
    Check,
    EmbeddedRegistry,
    Entry,
    Registry,
    RegistryUnavailable,
    Seen,
    Snapshot,
)
from statestore.store import Store, now_ns

PREFIX = "/bgf/failover/"
EMBEDDED_PREFIX = "v/"
NOBODY = ("", 0)
REPLACE_TRIES_MAX = 10
CLAIM_TRIES_MAX = 3
FIRST_LOOK_MS = 1_000  # the first view waits so long for the registry; no later one waits
FIRST_LOOK_STEP_MS = 2


class RawView(NamedTuple):
    """One reading: node -> its record, group -> (owner, epoch).

    `seen_ns` says when a member's record was first seen as it is now, by this host's
    CLOCK_BOOTTIME: a lease that the record grants cannot be counted from earlier. All of it
    was the whole truth at `current_ns`.
    """

    members: Mapping[str, bytes]
    owners: Mapping[str, tuple[str, int]]
    seen_ns: Mapping[str, int] = {}
    current_ns: int = 0

    def age_ms(self, time_ns: int) -> float:
        """How long ago that was."""
        return max(0, time_ns - self.current_ns) / 1_000_000


class Owner(msgspec.Struct):
    """The record of a group's owner, as JSON in the registry."""

    node: str
    epoch: int


class _Own(NamedTuple):
    """A write of ours that the watch may not have told yet; no value: a deletion."""

    value: bytes | None
    revision: int
    written_ns: int


_encode = msgspec.json.Encoder().encode
_decode_owner = msgspec.json.Decoder(Owner).decode


def _owner(key: str, value: bytes) -> tuple[str, int]:
    try:
        owner = _decode_owner(value)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"owner record {key!r}: {value[:32]!r} is none; delete it") from error
    return owner.node, owner.epoch


class Views:
    """Members and owners below `prefix`. For any thread.

    `raise_fence(group, epoch)` is what makes a claim's promise true: the store's. `renew_ms`: an
    unchanged record is not written again within that time. `members`: without, only owners are
    followed, and each renewal of a member's record is one message less. `view` never waits for
    the registry (but the first does, a little); `publish`, `withdraw` and `claim` do, as long as
    its timeout.
    """

    def __init__(
        self,
        registry: Registry,
        prefix: str = PREFIX,
        raise_fence: Callable[[str, int], object] | None = None,
        renew_ms: int = 0,
        clock: Callable[[], int] = now_ns,
        *,
        members: bool = True,
    ) -> None:
        self._registry = registry
        self._members = prefix + "m/"
        self._owners = prefix + "o/"
        self._raise_fence = raise_fence
        self._renew_ns = renew_ms * 1_000_000
        self._clock = clock
        self._watch = registry.watch(prefix if members else self._owners)
        self._lock = threading.Lock()
        self._own: dict[str, _Own] = {}
        self._built_from: Mapping[str, Seen] | None = None
        self._built = RawView({}, {})
        self._looked = False

    def close(self) -> None:
        """Stop following; the registry itself is the caller's."""
        self._watch.close()

    # -- looking --

    def view(self) -> RawView:
        """Members and owners, as far as known. Raises RegistryUnavailable when the registry was
        never reached yet, Corrupt for an owner's record that is none."""
        snapshot = self._snapshot()
        with self._lock:
            if self._built_from is not snapshot.entries or self._own:
                self._built = self._build(snapshot)
                self._built_from = snapshot.entries
            built = self._built
            if built.current_ns != snapshot.current_ns:  # by far the most looks change nothing
                built = RawView(built.members, built.owners, built.seen_ns, snapshot.current_ns)
                self._built = built
            return built

    def _snapshot(self) -> Snapshot:
        snapshot = self._watch.snapshot()
        deadline_ns = now_ns() + FIRST_LOOK_MS * 1_000_000
        while snapshot.current_ns == 0 and not self._looked and now_ns() < deadline_ns:
            time.sleep(FIRST_LOOK_STEP_MS / 1000)
            snapshot = self._watch.snapshot()
        self._looked = True
        if snapshot.current_ns == 0:
            raise RegistryUnavailable(
                self._registry.trouble() or "the registry was not reached yet; wait for it"
            )
        return snapshot

    def _build(self, snapshot: Snapshot) -> RawView:
        members: dict[str, bytes] = {}
        seen_ns: dict[str, int] = {}
        owners: dict[str, tuple[str, int]] = {}
        for key, seen in self._merged(snapshot).items():
            if key.startswith(self._members):
                node = key[len(self._members) :]
                members[node] = seen.value
                seen_ns[node] = seen.seen_ns
            elif key.startswith(self._owners):
                owners[key[len(self._owners) :]] = _owner(key, seen.value)
        return RawView(members, owners, seen_ns)

    def _merged(self, snapshot: Snapshot) -> Mapping[str, Seen]:
        """What the watch has told, and our own writes that it has not. Caller holds the lock."""
        self._own = {k: own for k, own in self._own.items() if own.revision > snapshot.revision}
        if not self._own:
            return snapshot.entries
        merged = dict(snapshot.entries)
        for key, own in self._own.items():
            if own.value is None:
                merged.pop(key, None)
            else:
                merged[key] = Seen(own.value, own.revision, own.written_ns)
        return merged

    def _wrote(self, key: str, value: bytes | None, revision: int, written_ns: int) -> None:
        with self._lock:
            known = self._own.get(key)
            if known is None or known.revision < revision:
                self._own[key] = _Own(value, revision, written_ns)

    def _known(self, key: str) -> Seen | None:
        snapshot = self._watch.snapshot()
        with self._lock:
            return self._merged(snapshot).get(key)

    def record(self, node: str) -> bytes | None:
        """A node's record, asked of the registry now: its answer also proves how current the view
        is, where nothing is written that would. Waits. Raises RegistryUnavailable."""
        entry = self._registry.get(self._members + node)
        return entry.value if entry is not None else None

    # -- writing --

    def publish(self, node: str, data: bytes) -> None:
        """Replace the node's own record. Raises Full, RegistryUnavailable.

        Each write names the one before it, so that one that was delayed on its way can never
        replace a later one.
        """
        key = self._members + node
        known = self._known(key)
        written_ns = self._clock()
        same = known is not None and known.value == data
        if known is not None and same and written_ns - known.seen_ns < self._renew_ns:
            return
        expected = known.revision if known is not None else ABSENT
        for _ in range(REPLACE_TRIES_MAX):
            revision = self._registry.compare_and_swap(key, expected, data)
            if revision is not None:
                self._wrote(key, data, revision, written_ns)
                return
            found = self._registry.get(key)
            expected = found.revision if found is not None else ABSENT
        raise RegistryUnavailable(
            f"record of node {node!r}: somebody else writes it all the time; is there "
            "another node of that name?"
        )

    def withdraw(self, node: str) -> None:
        """Remove the node's own record, if it has one."""
        key = self._members + node
        written_ns = self._clock()
        revision = self._registry.commit([], {}, [key])
        if revision is not None:
            self._wrote(key, None, revision, written_ns)

    def claim(
        self,
        group: str,
        seen: tuple[str, int],
        node: str,
        admits: Callable[[bytes], bool] = lambda _: True,
    ) -> tuple[str, int] | None:
        """Own `group` at the epoch after `seen` if that is still how it stands, and the record of
        the owner there, as it stands at that moment, `admits` this; else None.

        When it returns an ownership, no write under an older epoch of the fence `group` can take
        effect any more. `seen` is ("", 0) for a group that nobody has owned yet.
        """
        key = self._owners + group
        won = (node, seen[1] + 1)
        known = self._known(key)
        entry = None if known is None else Entry(known.value, known.revision)
        if not self._stands(key, entry, seen):
            entry = self._registry.get(key)  # what we know may be old: ask
            if not self._stands(key, entry, seen):
                return None
        expected = entry.revision if entry is not None else ABSENT
        record = _encode(Owner(*won))
        written_ns = self._clock()
        revision = self._commit_claim(Check(key, expected), seen[0], record, admits)
        if revision is None:
            return None
        self._wrote(key, record, revision, written_ns)
        if self._raise_fence is not None:
            self._raise_fence(group, won[1])
        return won

    def _commit_claim(
        self, check: Check, last: str, record: bytes, admits: Callable[[bytes], bool]
    ) -> int | None:
        """While the last owner renews its record, the transaction may be too late for it: then
        the record is asked for and it is tried again."""
        if not last:
            return self._registry.commit([check], {check.key: record})
        known: Seen | Entry | None = self._known(self._members + last)
        for _ in range(CLAIM_TRIES_MAX):
            if known is not None and not admits(known.value):
                return None
            theirs = Check(self._members + last, ABSENT if known is None else known.revision)
            revision = self._registry.commit([check, theirs], {check.key: record})
            if revision is not None:
                return revision
            known = self._registry.get(theirs.key)
            stands = known.revision if known is not None else ABSENT
            if stands == theirs.revision:
                return None  # it was the group that had changed
        return None

    @staticmethod
    def _stands(key: str, entry: Entry | None, seen: tuple[str, int]) -> bool:
        return (NOBODY if entry is None else _owner(key, entry.value)) == seen


class EmbeddedViews(Views):
    """Members and owners of one host's nodes, in the segment they all share."""

    def __init__(self, store: Store, prefix: str = EMBEDDED_PREFIX) -> None:
        super().__init__(EmbeddedRegistry(store), prefix, store.raise_fence)
