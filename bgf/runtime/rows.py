"""A call and a flow as the admin socket tells them: plain types only. Decides nothing."""

from __future__ import annotations

from typing import Any

from bgf.gateway import Gateway
from bgf.model import Flow
from bgf.runtime.process import now_ns
from bgf.session import Session


def session_row(session: Session, gateway: Gateway) -> dict[str, Any]:
    return {
        "call_id": session.call_id,
        "group": session.group,
        "state": session.state.value,
        "created_age_s": round((now_ns() - session.created_ns) / 1e9, 1),
        "streams": len(session.streams),
        "flows": len(gateway.expected_flows(session.call_id)),
        "tags": list(session.tags),
        "realms": list(session.realms),
    }


def flow_row(flow: Flow) -> dict[str, Any]:
    return {
        "stream": flow.stream,
        "component": flow.component.name,
        "realm_in": flow.realm_in,
        "local_in": str(flow.local_in),
        "realm_out": flow.realm_out,
        "local_out": str(flow.local_out),
        "remote": str(flow.remote) if flow.remote else "",
        "source": f"{flow.source.host or 'any'}:{flow.source.port or 'any'}",
        "gate": flow.gate.name.lower(),
    }
