"""A gateway process's figures for whoever watches it: cheap to read, whatever the load is.

Knows: the process's parts, the names of fields. Must not know how they are shown or exported.
Nothing here walks all calls or all pinholes: what would need it is sampled or bounded, so that a
look costs the loop that answers control a few milliseconds, with 20,000 calls as with a hundred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bgf import __version__
from bgf.errors import DatapathError
from bgf.gateway import Gateway
from bgf.media.datapath import Datapath
from bgf.model import Component, FlowKey
from bgf.quality import mos
from bgf.runtime.rows import tally_rows
from bgf.runtime.served import Served

if TYPE_CHECKING:
    from bgf.runtime.gateway_process import GatewayProcess

SAMPLED_CALLS: Final = 100
"""Calls of all groups together whose streams are listened to at each look."""
HANGING_EXACT_MAX: Final = 500
"""Calls with a silent stream that are looked at one by one; of more, their number is told."""
OUTCOME_FIELDS: Final = ("media-stopped", "media-never-started")


class Sample:
    """How the oldest calls of each group sound, from one look to the next.

    Always the same calls, as long as they live: so what was lost since the last look can be told,
    and is counted. A group of another node has none.
    """

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._seen: dict[FlowKey, tuple[int, int]] = {}
        self._expected: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def look(self, served: Mapping[str, Served]) -> dict[str, dict[str, Any]]:
        """Per active group: streams heard, their mean MOS and jitter; packets expected and lost of
        the sampled streams since the process began. Raises DatapathError."""
        active = {
            group: one.driver.gateway for group, one in served.items() if one.driver is not None
        }
        calls = SAMPLED_CALLS // max(1, len(active))
        before, self._seen = self._seen, {}
        return {group: self._of(group, machine, calls, before) for group, machine in active.items()}

    def _of(
        self,
        group: str,
        machine: Gateway,
        calls: int,
        before: Mapping[FlowKey, tuple[int, int]],
    ) -> dict[str, Any]:
        keys = [
            flow.key
            for call_id in machine.calls(calls)
            for flow in machine.expected_flows(call_id)
            if flow.component is Component.RTP
        ]
        streams, scored, score, jitter_ms = 0, 0, 0.0, 0.0
        for key, rtp in zip(keys, self._datapath.rtp(keys), strict=True):
            self._seen[key] = rtp.expected, rtp.lost
            if not rtp.packets:
                continue
            streams += 1
            jitter_ms += rtp.jitter_ms
            then = before.get(key)
            # A port that another call has now begins anew.
            if then is not None and rtp.expected >= then[0]:
                self._expected[group] += rtp.expected - then[0]
                self._lost[group] += max(0, rtp.lost - then[1])
            known = mos(rtp)
            if known is not None:
                scored, score = scored + 1, score + known
        return {
            "streams": streams,
            "mos": round(score / scored, 3) if scored else None,
            "jitter_ms": round(jitter_ms / streams, 3) if streams else None,
            "expected": self._expected[group],
            "lost": self._lost[group],
        }


class Figures:
    """One process's. `told` is what `figures` answers on the admin socket."""

    def __init__(self, process: GatewayProcess) -> None:
        self._process = process
        self._sample = Sample(process.datapath)

    def told(self, _request: dict[str, Any]) -> dict[str, Any]:
        process, datapath = self._process, self._process.datapath
        calls = process.measures.calls()
        try:
            sample = self._sample.look(process.served)
            packets = tally_rows(datapath.tallies())
        except DatapathError as error:
            process.tally["unreadable"] += 1
            sample, packets = {}, {"error": str(error)}
        return {
            "process": "gateway",
            "node": process.node.node.id,
            "version": __version__,
            "ready": process.ready,
            "pinholes": datapath.installed,
            "pinholes_max": process.node.media.pinholes_max,
            "unresolved": len(datapath.unresolved),
            "packets": packets,
            "attachments": {
                name: attachment._asdict() for name, attachment in datapath.attachments.items()
            },
            "missing": process.feed.missing,
            "memory_bytes": process.load.memory_bytes,
            "memory_max_bytes": process.load.memory_max_bytes,
            "sessions_max": process.limits.sessions_max,
            "calls": {
                "begun": calls.begun,
                "refused": calls.refused,
                "ended": calls.ended,
                "unanswered": calls.unanswered,
                "abandoned": calls.abandoned,
            },
            "commands": process.measures.latency.told(),
            "reports": dict(process.reports.tally) | {"waiting": process.reports.waiting},
            "ice": process.ice.counts,
            "copies": process.copying.status(),
            "groups": {
                group: self._group(one, sample.get(group, {}))
                for group, one in process.served.items()
            },
        }

    def _group(self, served: Served, sample: dict[str, Any]) -> dict[str, Any]:
        process, driver, server = self._process, served.driver, served.server
        usage = driver.gateway.usage() if driver is not None else None
        return {
            "role": served.role,
            "epoch": served.epoch,
            "sessions": usage.sessions if usage else 0,
            "hanging": process.reports.hanging_about(served, HANGING_EXACT_MAX),
            "pairs_used": usage.pairs_used if usage else 0,
            "pairs_free": usage.pairs_free if usage else 0,
            "pairs_resting": usage.pairs_quarantined if usage else 0,
            "pending": served.pending,
            "ready_in_ms": round(served.ready_in_ms, 1),
            "restored_in_ms": round(served.restored_in_ms, 1),
            "flows": process.recorded.count(served.group.id),
            "outcomes": dict(served.outcomes),
            "ng": dict(server.counts) if server is not None else {},
            "connections": server.connections if server is not None else 0,
            "waiting": server.waiting if server is not None else 0,
            "rtp": sample,
        }
