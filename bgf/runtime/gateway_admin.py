"""What a gateway process answers on its admin socket. Asks, and changes only what is asked for.

Knows: the process's parts, the names of fields. Must not know how answers are shown (`ctl`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bgf.admin import Handler
from bgf.control.server import NgServer
from bgf.errors import EnvironmentProblem, Malformed, StateError, UnknownCall
from bgf.events import Relatch
from bgf.hands import Driver, Outcome
from bgf.model import Address, Flow, FlowKey
from bgf.runtime.call_audit import call_row
from bgf.runtime.captures import SNAP_BYTES_DEFAULT
from bgf.runtime.figures import Figures
from bgf.runtime.process import call_ns, now_ns
from bgf.runtime.recall import Recall
from bgf.runtime.reloading import Reloader
from bgf.runtime.retuning import retune
from bgf.runtime.room import lacks, room_of
from bgf.runtime.rows import flow_row, session_row, tally_rows
from bgf.runtime.served import Served
from bgf.session import Session, State
from statestore.errors import StateStoreError

if TYPE_CHECKING:
    from bgf.runtime.gateway_process import GatewayProcess

SESSIONS_LISTED_MAX = 100_000
PAYLOAD_BYTES_MAX = 1_472
RTP_HEADER_BYTES = 12
RTP_VERSION = 0x80  # version 2, RFC 3550 section 5.1
PAYLOAD_TYPE_MAX = 127
DIGEST_CHARS = 16


class GatewayAdmin:
    """The handlers of one process, by command name."""

    def __init__(self, process: GatewayProcess) -> None:
        self._process = process
        self._figures = Figures(process)
        self._recall = Recall(process.node.node.id)
        logging.getLogger("bgf").addHandler(self._recall)
        self._reloader = Reloader("gateway", process.node, lambda new: retune(process, new))

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "figures": self._figures.told,
            "sessions": self.sessions,
            "session": self.session,
            "why": self.why,
            "relatch": self.relatch,
            "trace": self.trace,
            "recorded": self.recorded,
            "capture": self.capture,
            "capture-fetch": lambda request: self._process.captures.fetch(request.get("capture")),
            "capture-end": lambda request: self._process.captures.end(request.get("capture")),
            "reload-keys": self.reload_keys,
            "reload": self._reloader.reload,
            "history": self._recall.of,
        }

    async def recorded(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Each group's pinholes as this node knows them: how many, how many of them the packet
        path holds, and a digest that is equal wherever the same is known."""
        process = self._process
        known = {group: process.recorded.of(group) for group in process.served}
        held = process.datapath.keys()

        def row(flows: dict[FlowKey, Flow]) -> dict[str, Any]:
            digest = hashlib.sha256()
            for line in sorted(map(repr, flows.values())):
                digest.update(line.encode())
            return {
                "recorded": len(flows),
                "held": len(flows.keys() & held),
                "digest": digest.hexdigest()[:DIGEST_CHARS],
            }

        groups = {group: await asyncio.to_thread(row, flows) for group, flows in known.items()}
        return {
            "groups": groups,
            "missing": process.feed.missing,
            "room": asdict(room_of(process)),
            "lacks": lacks(process),
        }

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        process, datapath = self._process, self._process.datapath
        total: Counter[str] = Counter()
        for served in process.served.values():
            if served.server is not None:
                total.update(served.server.counts)
        return {
            "ready": process.ready,
            "process": "gateway",
            "node": process.node.node.id,
            "groups": {one.group.id: self._group(one) for one in process.served.values()},
            "missing": process.feed.missing,
            "reconciled": process.found.line,
            "pinholes": datapath.installed,
            "unresolved": datapath.unresolved,
            "drops": {outcome.value: count for outcome, count in datapath.drops().items()},
            "packets": tally_rows(datapath.tallies()),
            "attachments": {
                name: attachment._asdict() for name, attachment in datapath.attachments.items()
            },
            "reports": dict(process.reports.tally) | {"waiting": process.reports.waiting},
            "ice": process.ice.counts,
            "feed": dict(process.feed.tally + process.tally),
            "store": {k: v for k, v in process.store.stats().items() if k.startswith("client_")},
            "copies": process.copying.status(),
            "ng": dict(total),
            "memory_mb": process.load.memory_bytes >> 20,
            "memory_max_mb": process.load.memory_max_bytes >> 20,
        }

    def _group(self, served: Served) -> dict[str, Any]:
        driver = served.driver
        usage = driver.gateway.usage() if driver is not None else None
        return {
            "role": served.role,
            "epoch": served.epoch,
            "sessions": usage.sessions if usage else 0,
            "hanging": len(self._process.reports.hanging(served)),
            "tombstones": usage.tombstones if usage else 0,
            "pairs_free": usage.pairs_free if usage else 0,
            "pairs_used": usage.pairs_used if usage else 0,
            "pairs_quarantined": usage.pairs_quarantined if usage else 0,
            "pending": served.pending,
            "began_ns": served.began_ns,
            "ready_in_ms": round(served.ready_in_ms, 1),
            "restored_in_ms": round(served.restored_in_ms, 1),
            "flows": self._process.recorded.count(served.group.id),
            "outcomes": dict(served.outcomes),
            "failures": driver.failures[-5:] if driver is not None else [],
            "failed": dict(driver.tally) if driver is not None else {},
            "ng": dict(served.server.counts) if served.server is not None else {},
            "control": _control(served.server),
        }

    def sessions(self, request: dict[str, Any]) -> dict[str, Any]:
        """All calls; with `hanging`, those whose media has all stopped, and since when; `held` says
        that none of it was due."""
        rows: list[dict[str, Any]] = []
        for served in self._process.served.values():
            driver = served.driver
            if driver is None:
                continue
            hanging = {one.call_id: one for one in self._process.reports.hanging(served)}
            for session in driver.gateway.sessions.values():
                hangs = hanging.get(session.call_id)
                if session.state is State.DELETED or (request.get("hanging") and hangs is None):
                    continue
                if len(rows) == SESSIONS_LISTED_MAX:
                    break
                row = session_row(session, driver.gateway) | {"hanging": hangs is not None}
                if hangs is not None:
                    row["silent_s"] = round((now_ns() - hangs.since_ns) / 1e9, 1)
                    row["never_started"] = hangs.never_started
                    row["held"] = hangs.held
                rows.append(row)
        return {"sessions": rows}

    def session(self, request: dict[str, Any]) -> dict[str, Any]:
        driver, session = self._find(request)
        datapath = self._process.datapath
        flows = driver.gateway.expected_flows(session.call_id)
        keys = [flow.key for flow in flows]
        row = session_row(session, driver.gateway)
        row["flow_list"] = [
            flow_row(flow, counters, rtp)
            for flow, counters, rtp in zip(
                flows, datapath.counters(keys), datapath.rtp(keys), strict=True
            )
        ]
        row["recorded_into"] = self._process.copying.recording_of(session.group, session.call_id)
        row["journal_entries"] = len(driver.hands.journal.entries(session.call_id))
        return row

    def why(self, request: dict[str, Any]) -> dict[str, Any]:
        """A call explained: its events, its pinholes and what closes them, how it ended."""
        driver, session = self._find(request)
        served = self._process.served[session.group]
        return call_row(served, driver, session, self._process.datapath)

    def relatch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Let the latching sides of a call learn their senders anew."""
        driver, session = self._find(request)
        outcome = driver.see(Relatch(call_ns(), session.call_id))
        if outcome is not Outcome.ANSWERED:
            raise StateError(f"not relatched: {outcome.value}: {driver.failures[-1:]}")
        flows = [f for f in driver.gateway.expected_flows(session.call_id) if f.latch.learns]
        return {"call_id": session.call_id, "flows": len(flows)}

    def _find(self, request: dict[str, Any]) -> tuple[Driver, Session]:
        call_id = str(request.get("call_id", ""))
        for served in self._process.served.values():
            driver = served.driver
            if driver is not None:
                driver.restore(call_id, call_ns())
                session = driver.gateway.session(call_id)
                if session is not None:
                    return driver, session
        raise UnknownCall(f"call {call_id[:64]!r} is not on node {self._process.node.node.id}")

    def capture(self, request: dict[str, Any]) -> dict[str, Any]:
        """Begin to copy the packets of a call's pinholes."""
        driver, session = self._find(request)
        snap_bytes = request.get("snap_bytes", SNAP_BYTES_DEFAULT)
        if not isinstance(snap_bytes, int):
            raise Malformed("capture: 'snap_bytes' is not a number")
        keys = [flow.key for flow in driver.gateway.expected_flows(session.call_id)]
        number = self._process.captures.begin(keys, snap_bytes)
        return {"capture": number, "call_id": session.call_id, "flows": len(keys)}

    def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        for key in ("from", "to", "realm"):
            if not isinstance(request.get(key), str):
                raise Malformed(f"trace: '{key}' is missing")
        verdict = self._process.datapath.trace(
            Address.parse(request["from"]),
            Address.parse(request["to"]),
            request["realm"],
            _payload(request),
        )
        return {
            "outcome": verdict.outcome.value,
            "interface": verdict.interface,
            "source": str(verdict.source) if verdict.source else "",
            "destination": str(verdict.destination) if verdict.destination else "",
        }

    def reload_keys(self, _request: dict[str, Any]) -> dict[str, Any]:
        cluster = self._process.node.state.cluster
        if cluster is None:
            raise EnvironmentProblem("the store is embedded: it has no keys")
        try:
            self._process.store.reload_keys()
            self._process.takeover.reload_keys()
        except StateStoreError as error:
            raise StateError(str(error)) from error
        return {"done": f"read {cluster.key_file} again"}


def _payload(request: dict[str, Any]) -> bytes:
    """The UDP payload to trace: given as hex, else an RTP header of the payload type asked for."""
    given = request.get("payload")
    if given is None:
        kind = request.get("payload_type", 0)
        if not isinstance(kind, int) or not 0 <= kind <= PAYLOAD_TYPE_MAX:
            raise Malformed(f"trace: 'payload_type' is not in 0..{PAYLOAD_TYPE_MAX}")
        return bytes((RTP_VERSION, kind)).ljust(RTP_HEADER_BYTES, b"\0")
    try:
        payload = bytes.fromhex(given)
    except (TypeError, ValueError):
        raise Malformed("trace: 'payload' is not hex") from None
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Malformed(f"trace: {len(payload)} bytes of payload, {PAYLOAD_BYTES_MAX} are allowed")
    return payload


def _control(server: NgServer | None) -> dict[str, Any]:
    """Where a group's control listens, and who is there."""
    if server is None:
        return {}
    server.look()
    addresses = {name: str(address) for name, address in server.addresses.items()}
    return {"connections": server.connections, "waiting": server.waiting, "listens": addresses}
