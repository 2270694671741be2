"""What `bgfctl sessions why` is told of a call: plain types only. Asks, and changes nothing.

Knows: where a call's value, journal, pinholes and counters are. Must not know the words: `explain`
has them, nor how they are shown (`ctl`).
"""

from __future__ import annotations

from typing import Any, Final

from bgf import explain
from bgf.errors import Unreadable
from bgf.explain import Pinhole, Told
from bgf.hands import Driver
from bgf.media.datapath import Datapath
from bgf.runtime.process import call_ns, now_ns
from bgf.runtime.rows import flow_row, session_row
from bgf.runtime.served import Served
from bgf.session import Session, State

EVENTS_MAX: Final = 1_000
"""Of one call, the latest; a journal holds far fewer."""


def call_row(
    served: Served, driver: Driver, session: Session, datapath: Datapath
) -> dict[str, Any]:
    """Raises StateError when its journal cannot be asked."""
    now = now_ns()
    gateway = driver.gateway
    entries = driver.hands.journal.entries(session.call_id)
    try:
        told, unreadable = explain.history(entries, gateway.site), ""
    except Unreadable as error:
        told, unreadable = [], str(error)
    flows = gateway.expected_flows(session.call_id)
    keys = [flow.key for flow in flows]
    counters, rtp = datapath.counters(keys), datapath.rtp(keys)
    found = explain.pinholes(session, flows, counters, now)
    counted = {
        flow.key: pair for flow, pair in zip(flows, zip(counters, rtp, strict=True), strict=True)
    }
    restored_ns = driver.restored_ns.get(session.call_id)
    first_ns = told[0].at_ns if told else session.created_ns
    end = explain.ending(told)
    row = session_row(session, gateway)
    row["settings"] = list(session.settings)
    row["journal_entries"] = len(told) or len(entries)
    row["unreadable"] = unreadable
    row["restored"] = None if restored_ns is None else {
        "epoch": served.epoch,
        "from": served.owned_before,
        "age_s": round((call_ns() - restored_ns) / 1e9, 1),
    }  # fmt: skip
    row["ended"] = None if session.state is not State.DELETED else {
        "age_s": round((call_ns() - session.changed_ns) / 1e9, 1),
        "by": "" if end is None else end.by,
        "what": "" if end is None else end.what,
        "detail": "" if end is None else end.detail,
        "ports_resting": [rest.port for rest in session.rests],
    }  # fmt: skip
    row["events"] = [_event_row(one, first_ns) for one in told[-EVENTS_MAX:]]
    row["pinholes"] = [
        _pinhole_row(one)
        | (flow_row(one.flow, *counted[one.flow.key]) if one.flow is not None else {})
        for one in found
    ]
    row["replies"] = [
        {
            "at_s": _apart(kept.at_ns, first_ns),
            "cookie": kept.reply.cookie,
            "result": kept.reply.result.value,
            "reason": kept.reply.reason,
            "warning": kept.reply.warning,
        }
        for kept in session.replies
    ]
    return row


def _apart(at_ns: int, first_ns: int) -> float:
    return round((at_ns - first_ns) / 1e9, 3)


def _event_row(told: Told, first_ns: int) -> dict[str, Any]:
    row = told._asdict()
    return {"at_s": _apart(row.pop("at_ns"), first_ns), **row}


def _pinhole_row(one: Pinhole) -> dict[str, Any]:
    return {
        "stream": one.stream,
        "component": one.component.name,
        "why": one.why.value,
        "reason": one.reason,
        "media": one.media,
    }
