"""The change feed of flows: what every node's packet path must hold, kept current.

Knows: the store's watch and the flows' keys. Must not know which groups are served here. An
overrun feed is not an error: everything is read anew and the difference handed on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import statestore
from bgf.errors import StateError
from bgf.events import DropFlow, PutFlow
from bgf.gateway import reconcile
from bgf.model import Flow, FlowKey
from bgf.runtime.store_adapters import FLOW_PREFIX, parse_flow_item_key, read_flow
from statestore import errors as store_errors

log = logging.getLogger("bgf.feed")

CHANGES_MAX = 4096
"""Changes taken in per poll, so that a burst starves neither control nor timers."""

Changes = list[PutFlow | DropFlow]


class FlowFeed:
    """All recorded flows of all groups, and what changed since the last look."""

    def __init__(self, store: statestore.Store) -> None:
        self._store = store
        self._watch = store.watch(FLOW_PREFIX)
        self._flows: dict[str, dict[FlowKey, Flow]] = {}
        self.tally: Counter[str] = Counter()

    def flows(self, group: str) -> dict[FlowKey, Flow]:
        """The group's flows as known now (a live view; do not keep it)."""
        return self._flows.get(group, {})

    def everything(self) -> Iterable[Flow]:
        for flows in self._flows.values():
            yield from flows.values()

    def load(self) -> Changes:
        """Read all items. Returns what differs from what was known."""
        found: dict[str, dict[FlowKey, Flow]] = {}
        for handle in self._store.scan(FLOW_PREFIX):
            flow = self._read(handle)
            if flow is not None:
                found.setdefault(flow.group, {})[flow.key] = flow
        before = list(self.everything())
        self._flows = found
        self.tally["loads"] += 1
        return reconcile(self.everything(), before)

    def poll(self) -> Changes:
        """What has changed since; at most CHANGES_MAX changes, so poll again until it is empty."""
        try:
            changes = self._watch.poll(CHANGES_MAX)
        except store_errors.Overrun:
            log.warning("the change feed was overrun: reading all flows anew")
            self.tally["overruns"] += 1
            self._watch = self._store.watch(FLOW_PREFIX)
            return self.load()
        effects: Changes = []
        for key in dict.fromkeys(change.key for change in changes):
            effect = self._refresh(key)
            if effect is not None:
                effects.append(effect)
        return effects

    def drain(self) -> Changes:
        """Everything up to now."""
        effects: Changes = []
        while more := self.poll():
            effects += more
        return effects

    def _refresh(self, item_key: bytes) -> PutFlow | DropFlow | None:
        """The item itself says what is; the feed only says where to look."""
        try:
            group, key = parse_flow_item_key(item_key)
        except ValueError:
            self.tally["foreign"] += 1
            return None
        known = self._flows.setdefault(group, {})
        try:
            flow = self._read(self._store.lookup(item_key))
        except store_errors.NotFound:
            flow = None
        if flow is None:
            return None if known.pop(key, None) is None else DropFlow(group, key)
        if known.get(key) == flow:
            return None
        known[key] = flow
        return PutFlow(flow)

    def _read(self, handle: statestore.Handle) -> Flow | None:
        try:
            return read_flow(handle)
        except store_errors.NotFound:
            return None
        except StateError as error:
            self.tally["unreadable"] += 1
            log.error("%s", error)
            return None
