"""The change feed of flows: what every node's packet path must hold, kept current.

Knows: the store's watch and the flows' keys. Must not know which groups are served here, nor why
some are hushed. An overrun feed is not an error: everything is read anew and the difference handed
on.

What is kept is the items as they are, packed; they are read when somebody asks. Only the copies on
this host are read. An item whose copy has not come yet is asked for elsewhere when it is late, a
few at a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import statestore
from bgf.errors import StateError
from bgf.events import DropFlow, PutFlow
from bgf.gateway import reconcile
from bgf.model import Flow, FlowKey
from bgf.runtime.store_adapters import (
    FLOW_PREFIX,
    HASHED,
    call_key,
    decode_flows,
    encode_flows,
    group_flow_prefix,
    group_of,
    pairs_in,
)
from statestore import Kind
from statestore import errors as store_errors

log = logging.getLogger("bgf.feed")

CHANGES_MAX = 4096
"""Changes taken in per poll, so that a burst starves neither control nor timers."""

LATE_POLLS = 100
"""Polls that a copy may take to come by itself."""
ASKED_MAX = 8
"""Late copies that are read elsewhere, per poll."""

PORT_MAX = 65_535
FETCHED_MAX = 256
"""Values that a new owner reads elsewhere in one journey."""

Changes = list[PutFlow | DropFlow]


class PackedFlows:
    """The recorded flows of one group's calls, as their items say it (`found.Found`).

    Nothing is copied, for somebody waits: until `keep` everything is the feed's, which must not go
    on meanwhile, and what differs from it is in `_put`.
    """

    def __init__(
        self,
        items: dict[str, bytes],
        pairs: Mapping[int, str],
        span: tuple[int, int],
        put: Mapping[str, bytes | None],
    ) -> None:
        self._items = items
        self._put = dict(put)
        self._kept = False
        self.pairs = pairs
        self.span = span

    def __contains__(self, call_id: str) -> bool:
        return self._item(call_id) is not None

    def calls(self) -> Collection[str]:
        if not self._put:
            return self._items.keys()
        return [call_id for call_id in {**self._items, **self._put} if call_id in self]

    def pairs_of(self, call_id: str) -> Collection[int]:
        item = self._item(call_id)
        return () if item is None else pairs_in(item)

    def says(self, call_id: str, flows: Sequence[Flow]) -> bool:
        return self._item(call_id) == (encode_flows(flows) if flows else None)

    def flows(self, call_id: str) -> Sequence[Flow]:
        item = self._item(call_id)
        return () if item is None else decode_flows(call_id.encode("utf-8", "replace"), item)

    def forget(self, call_id: str) -> None:
        if self._kept:
            self._items.pop(call_id, None)
        else:
            self._put[call_id] = None

    def keep(self) -> None:
        """From now on the items are nobody else's: the feed is hushed."""
        self._kept = True
        for call_id, item in self._put.items():
            if item is None:
                self._items.pop(call_id, None)
            else:
                self._items[call_id] = item
        self._put = {}

    def _item(self, call_id: str) -> bytes | None:
        return self._put[call_id] if call_id in self._put else self._items.get(call_id)


class _Known:
    """Of one group: a call's item, and whose each port pair is."""

    __slots__ = ("highest", "items", "lowest", "pairs")

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.pairs: dict[int, str] = {}
        self.lowest, self.highest = PORT_MAX, 0  # of all pairs that were ever here

    def give(self, flows: Iterable[Flow], call_id: str) -> None:
        """Their pairs are this call's."""
        for flow in flows:
            port = flow.local_in.port & ~1
            self.pairs[port] = call_id
            if not self.lowest <= port <= self.highest:
                self.lowest, self.highest = min(port, self.lowest), max(port, self.highest)


class FlowFeed:
    """All recorded flows of all groups, and what changed since the last look.

    A hushed group's changes are passed over, and nothing is known of it: whoever owns a group
    knows better what it has. `load` after `hear` tells it anew.
    """

    def __init__(self, store: statestore.Store) -> None:
        self._store = store
        self._watch = store.watch(FLOW_PREFIX)
        self._known: dict[str, _Known] = {}
        self._hushed: set[str] = set()
        self._missing: dict[bytes, int] = {}  # key -> polls since it was found missing
        self._names: dict[bytes, str] = {}  # calls whose item is keyed by a digest
        self._at_end = False
        self.tally: Counter[str] = Counter()

    def flows(self, group: str) -> dict[FlowKey, Flow]:
        """The group's flows as known now."""
        return {flow.key: flow for flow in self._flows_of(group)}

    def flow(self, group: str, key: FlowKey) -> Flow | None:
        """The flow of one pinhole, as known now."""
        known = self._known.get(group)
        call_id = None if known is None else known.pairs.get(key.port & ~1)
        if known is None or call_id is None:
            return None
        flows = self._read_item(call_id.encode("utf-8", "replace"), known.items[call_id])
        return next((flow for flow in flows if flow.key == key), None)

    def calls(self, group: str) -> int:
        """How many calls have pinholes, as known now."""
        return len(self._known[group].items) if group in self._known else 0

    def pairs(self, group: str) -> int:
        """How many port pairs its calls hold, as known now."""
        return len(self._known[group].pairs) if group in self._known else 0

    @property
    def waits(self) -> bool:
        """Is there more to take in, or something on its way? Look again soon."""
        return not self._at_end or bool(self._missing)

    @property
    def missing(self) -> int:
        """Items known to be there, whose value is not known here."""
        return len(self._missing)

    def unread(self) -> set[str]:
        """The groups of those items."""
        found = set()
        for item_key in self._missing:
            with contextlib.suppress(ValueError):
                found.add(group_of(item_key))
        return found

    def everything(self) -> Iterator[Flow]:
        for group in list(self._known):
            yield from self._flows_of(group)

    def hush(self, group: str) -> None:
        """Its owner is here: it needs no telling."""
        self._hushed.add(group)
        self._known.pop(group, None)
        for key in [key for key in self._missing if key.startswith(group_flow_prefix(group))]:
            del self._missing[key]

    def hear(self, group: str) -> None:
        """Its owner is elsewhere again; `load` next."""
        self._hushed.discard(group)

    def load(self) -> Changes:
        """Read all items. Returns what differs from what was known."""
        before, self._known = self._known, {}
        self._missing = {}
        effects: Changes = []
        for handle in self._store.scan(FLOW_PREFIX):
            effects += self._refresh(handle.key, handle, before)
        for group, known in before.items():
            for call_id in known.items.keys() - self._of(group).items.keys():
                key = call_key(group_flow_prefix(group), call_id)
                if key in self._missing:  # until it comes, what was known of it stands
                    self._take(group, call_id, known.items[call_id], None)
                else:
                    effects += [
                        DropFlow(group, flow.key)
                        for flow in self._read_item(key, known.items[call_id])
                        if (flow.local_in.port & ~1) not in self._of(group).pairs
                    ]
        self.tally["loads"] += 1
        return effects

    def poll(self) -> Changes:
        """What has changed since; at most CHANGES_MAX changes, so poll again until it is empty."""
        try:
            changes = self._watch.poll(CHANGES_MAX)
        except store_errors.Overrun:
            log.warning("the change feed was overrun: reading all flows anew")
            self.tally["overruns"] += 1
            self._watch, self._at_end = self._store.watch(FLOW_PREFIX), False
            return self.load()
        self._at_end = len(changes) < CHANGES_MAX
        effects: Changes = []
        for key, kind in {change.key: change.kind for change in changes}.items():
            if kind is Kind.DELETE:
                effects += self._gone(key)
            else:
                effects += self._refresh(key)
        for key in self._late():
            effects += self._refresh(key, ask=True)
        return effects

    def _late(self) -> list[bytes]:
        """The keys of copies that should have come by now."""
        if not self._missing:
            return []
        self._missing = {key: polls + 1 for key, polls in self._missing.items()}
        late = [key for key, polls in self._missing.items() if polls > LATE_POLLS]
        return late[:ASKED_MAX]

    def fetch(self, group: str) -> Changes:
        """Read items of the group whose value is not known here from wherever it is, FETCHED_MAX of
        them in one journey. What cannot be read now stays missing. Raises what the store raises."""
        prefix, effects = group_flow_prefix(group), Changes()
        handles: list[statestore.Handle] = []
        for key in [key for key in self._missing if key.startswith(prefix)][:FETCHED_MAX]:
            try:
                handles.append(self._store.lookup(key))
            except store_errors.NotFound:
                effects += self._gone(key)
        for handle, item in zip(handles, self._store.read_many(handles), strict=True):
            if item is not None:
                del self._missing[handle.key]
                effects += self._told(handle.key, item)
        return effects

    def drain(self) -> Changes:
        """Everything up to now."""
        effects = self.poll()
        while not self._at_end:
            effects += self.poll()
        return effects

    def found(self, group: str, marked: str) -> PackedFlows:
        """What is recorded of a group's calls, that of `marked` read from its master. A copy here
        may have what its dead writer has told nobody else, but only of the call that he was
        working on.

        Raises what the store raises, StateError.
        """
        known = self._of(group)
        pairs, span = known.pairs, (known.lowest, known.highest)
        put: dict[str, bytes | None] = {}
        if marked in known.items:
            key = call_key(group_flow_prefix(group), marked)
            item = self._read_there(key)
            if item != known.items[marked]:
                put[marked] = item
                pairs = {port: call_id for port, call_id in pairs.items() if call_id != marked}
                told = () if item is None else decode_flows(key, item)
                pairs |= {flow.local_in.port & ~1: marked for flow in told}
                span = min(pairs, default=0), max(pairs, default=0)
        return PackedFlows(known.items, pairs, span, put)

    # Inside.

    def _read_there(self, key: bytes) -> bytes | None:
        try:
            return self._store.lookup(key).read()
        except store_errors.NotFound:
            return None

    def _of(self, group: str) -> _Known:
        known = self._known.get(group)
        if known is None:
            known = self._known[group] = _Known()
        return known

    def _flows_of(self, group: str) -> Iterator[Flow]:
        known = self._known.get(group)
        for call_id, item in known.items.items() if known is not None else ():
            yield from self._read_item(call_id.encode("utf-8", "replace"), item)

    def _refresh(
        self,
        item_key: bytes,
        handle: statestore.Handle | None = None,
        before: Mapping[str, _Known] | None = None,
        *,
        ask: bool = False,
    ) -> Changes:
        """The item itself says what is; the feed only says where to look. `ask` elsewhere."""
        try:
            group = group_of(item_key)
        except ValueError:
            self.tally["foreign"] += 1
            self._missing.pop(item_key, None)
            return []
        if group in self._hushed:
            return []
        self._missing.pop(item_key, None)
        try:
            handle = handle or self._store.lookup(item_key)
            item = handle.read() if ask else handle.read_local()
        except store_errors.NotFound:
            return self._gone(item_key)
        except (store_errors.Away, store_errors.Unavailable):  # not now: it must not be forgotten
            self._missing[item_key] = 0
            return []
        return self._told(item_key, item, before)

    def _told(
        self, item_key: bytes, item: bytes, before: Mapping[str, _Known] | None = None
    ) -> Changes:
        """This is what the item says now."""
        group = group_of(item_key)
        flows = self._read_item(item_key, item)
        if not flows:
            return self._gone(item_key)
        call_id = flows[0].session
        if item_key.startswith(HASHED, len(group_flow_prefix(group))):
            self._names[item_key] = call_id
        was = (self._known if before is None else before).get(group)
        known_item = was.items.get(call_id) if was is not None else None
        old = () if known_item in (None, item) else self._read_item(item_key, known_item or b"")
        self._take(group, call_id, item, flows, old)
        pairs = self._of(group).pairs
        changes = [] if known_item == item else reconcile(flows, old)
        return [one for one in changes if _is_of(one, call_id, pairs)]

    def _gone(self, item_key: bytes) -> Changes:
        try:
            group = group_of(item_key)
        except ValueError:
            self.tally["foreign"] += 1
            return []
        self._missing.pop(item_key, None)
        known = self._known.get(group)
        call_id = self._names.pop(item_key, None)
        if call_id is None:
            call_id = item_key[len(group_flow_prefix(group)) :].decode("utf-8", "surrogateescape")
        item = known.items.pop(call_id, None) if known is not None else None
        if item is None or known is None:
            return []
        flows = self._read_item(item_key, item)
        effects: Changes = [DropFlow(group, flow.key) for flow in flows]
        effects = [one for one in effects if _is_of(one, call_id, known.pairs)]
        _let_go(flows, call_id, known.pairs)
        return effects

    def _take(
        self,
        group: str,
        call_id: str,
        item: bytes,
        flows: Iterable[Flow] | None,
        old: Iterable[Flow] = (),
    ) -> None:
        known = self._of(group)
        known.items[call_id] = item
        _let_go(old, call_id, known.pairs)
        known.give(self._read_item(b"", item) if flows is None else flows, call_id)

    def _read_item(self, item_key: bytes, item: bytes) -> Sequence[Flow]:
        try:
            return decode_flows(item_key, item)
        except StateError as error:
            self.tally["unreadable"] += 1
            log.error("%s", error)
            return ()


def _let_go(flows: Iterable[Flow], call_id: str, pairs: dict[int, str]) -> None:
    for flow in flows:
        if pairs.get(flow.local_in.port & ~1) == call_id:
            del pairs[flow.local_in.port & ~1]


def _is_of(change: PutFlow | DropFlow, call_id: str, pairs: Mapping[int, str]) -> bool:
    """Not so when the port is another call's by now, whose beginning was told before."""
    if isinstance(change, PutFlow):
        return True
    return pairs.get(change.key.port & ~1, call_id) == call_id
