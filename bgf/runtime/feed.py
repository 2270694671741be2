"""The change feed of flows: what every node's packet path must hold, kept current.

Knows: the store's watch and the flows' keys. Must not know which groups are served here. An
overrun feed is not an error: everything is read anew and the difference handed on.

Only the copies on this host are read. An item whose copy has not come yet is asked for elsewhere
when it is late, a few at a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable

import statestore
from bgf.errors import StateError
from bgf.events import DropFlow, PutFlow
from bgf.gateway import reconcile
from bgf.model import Flow, FlowKey
from bgf.runtime.store_adapters import FLOW_PREFIX, decode_flow, flow_item_key, parse_flow_item_key
from statestore import Kind
from statestore import errors as store_errors

log = logging.getLogger("bgf.feed")

CHANGES_MAX = 4096
"""Changes taken in per poll, so that a burst starves neither control nor timers."""

LATE_POLLS = 100
"""Polls that a copy may take to come by itself."""
ASKED_MAX = 8
"""Late copies that are read elsewhere, per poll."""

Changes = list[PutFlow | DropFlow]


class FlowFeed:
    """All recorded flows of all groups, and what changed since the last look."""

    def __init__(self, store: statestore.Store) -> None:
        self._store = store
        self._watch = store.watch(FLOW_PREFIX)
        self._flows: dict[str, dict[FlowKey, Flow]] = {}
        self._missing: dict[bytes, int] = {}  # key -> polls since it was found missing
        self._at_end = False
        self.tally: Counter[str] = Counter()

    def flows(self, group: str) -> dict[FlowKey, Flow]:
        """The group's flows as known now (a live view; do not keep it)."""
        return self._flows.get(group, {})

    @property
    def missing(self) -> int:
        """Items known to be there, whose value is not known here."""
        return len(self._missing)

    def unread(self) -> set[FlowKey]:
        """The pinholes of those items."""
        found = set()
        for item_key in self._missing:
            with contextlib.suppress(ValueError):
                found.add(parse_flow_item_key(item_key)[1])
        return found

    def everything(self) -> Iterable[Flow]:
        for flows in self._flows.values():
            yield from flows.values()

    def count(self) -> int:
        """How many pinholes are recorded, as far as known."""
        return sum(len(flows) for flows in self._flows.values())

    def load(self) -> Changes:
        """Read all items. Returns what differs from what was known."""
        found: dict[str, dict[FlowKey, Flow]] = {}
        self._missing = {}
        for handle in self._store.scan(FLOW_PREFIX):
            flow = self._read(handle)
            if flow is not None:
                found.setdefault(flow.group, {})[flow.key] = flow
        for key in self._missing:  # until it comes, what was known of it stands
            self._keep(key, found)
        before = list(self.everything())
        self._flows = found
        self.tally["loads"] += 1
        return reconcile(self.everything(), before)

    def _keep(self, item_key: bytes, found: dict[str, dict[FlowKey, Flow]]) -> None:
        with contextlib.suppress(ValueError):
            group, key = parse_flow_item_key(item_key)
            known = self._flows.get(group, {}).get(key)
            if known is not None:
                found.setdefault(group, {})[key] = known

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
        told = {change.key: change.kind for change in changes}
        effects = [self._refresh(key, kind is Kind.DELETE) for key, kind in told.items()]
        effects += [self._refresh(key, False, ask=True) for key in self._late()]
        return [effect for effect in effects if effect is not None]

    def _late(self) -> list[bytes]:
        """The keys of copies that should have come by now."""
        self._missing = {key: polls + 1 for key, polls in self._missing.items()}
        late = [key for key, polls in self._missing.items() if polls > LATE_POLLS]
        return late[:ASKED_MAX]

    def drain(self) -> Changes:
        """Everything up to now."""
        effects = self.poll()
        while not self._at_end:
            effects += self.poll()
        return effects

    def as_recorded(self, flows: Iterable[Flow], call_id: str) -> list[Flow]:
        """`flows` with those of one call read from their masters. A copy here may have what its
        dead writer has told nobody else, but only of the call that he was working on.

        Raises what the store raises.
        """
        found = []
        for flow in flows:
            if flow.session == call_id:
                key = flow_item_key(flow.group, flow.key)
                try:
                    found.append(decode_flow(key, self._store.lookup(key).read()))
                except store_errors.NotFound:
                    continue
            else:
                found.append(flow)
        return found

    def _refresh(
        self, item_key: bytes, deleted: bool, *, ask: bool = False
    ) -> PutFlow | DropFlow | None:
        """The item itself says what is; the feed only says where to look. `ask` elsewhere."""
        try:
            group, key = parse_flow_item_key(item_key)
        except ValueError:
            self.tally["foreign"] += 1
            return None
        known = self._flows.setdefault(group, {})
        self._missing.pop(item_key, None)
        flow = None
        if not deleted:
            try:
                flow = self._read(self._store.lookup(item_key), ask)
            except store_errors.NotFound:
                pass
            except store_errors.Unavailable:  # not now: the change must not be forgotten
                self._missing[item_key] = 0
            if item_key in self._missing:
                return None  # there is one, and what it says will come
        if flow is None:
            return None if known.pop(key, None) is None else DropFlow(group, key)
        if known.get(key) == flow:
            return None
        known[key] = flow
        return PutFlow(flow)

    def _read(self, handle: statestore.Handle, ask: bool = False) -> Flow | None:
        try:
            return decode_flow(handle.key, handle.read() if ask else handle.read_local())
        except store_errors.NotFound:
            return None
        except (store_errors.Away, store_errors.Unavailable):
            self._missing.setdefault(handle.key, 0)
            return None
        except StateError as error:
            self.tally["unreadable"] += 1
            log.error("%s", error)
            return None
