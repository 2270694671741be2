"""The pinholes that are recorded, as this node knows them, whoever owns their group.

Knows: that the feed follows what others own, and that an owner knows his own. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bgf.model import Flow, FlowKey
from bgf.runtime.feed import FlowFeed
from bgf.runtime.served import Served

FLOWS_PER_PAIR: Final = 2  # RTP and RTCP


class RecordedFlows:
    """One node's."""

    def __init__(self, feed: FlowFeed, served: Mapping[str, Served]) -> None:
        self._feed = feed
        self._served = served

    def at(self, group: str, key: FlowKey) -> Flow | None:
        """The flow of a pinhole, None when there is none."""
        served = self._served.get(group)
        driver = None if served is None else served.driver
        if driver is None:
            return self._feed.flow(group, key)
        call_id = driver.gateway.call_of(key)
        flows = () if call_id is None else driver.recorded(call_id)
        return next((flow for flow in flows if flow.key == key), None)

    def of(self, group: str) -> dict[FlowKey, Flow]:
        """All of a group's."""
        driver = self._served[group].driver
        if driver is None:
            return self._feed.flows(group)
        return {flow.key: flow for call_id in driver.calls() for flow in driver.recorded(call_id)}

    def count(self, group: str | None = None) -> int:
        """How many, of a group or of all."""
        pairs = 0
        for one in self._served.values() if group is None else (self._served[group],):
            if one.driver is None:
                pairs += self._feed.pairs(one.group.id)
            else:
                pairs += one.driver.gateway.usage().pairs_used
        return FLOWS_PER_PAIR * pairs
