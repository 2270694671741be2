"""A call, a flow, and packets counted, as the admin socket tells them: plain types only.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bgf.gateway import Gateway
from bgf.media.datapath import Tally
from bgf.model import Counters, Flow, RtpStatistics, Source
from bgf.quality import loss_percent, mos
from bgf.runtime.process import call_ns
from bgf.session import Session
from bgf.session_values import Recording


def session_row(session: Session, gateway: Gateway) -> dict[str, Any]:
    return {
        "call_id": session.call_id,
        "group": session.group,
        "state": session.state.value,
        "created_age_s": round((call_ns() - session.created_ns) / 1e9, 1),
        "streams": len(session.streams),
        "flows": len(gateway.expected_flows(session.call_id)),
        "tags": list(session.tags),
        "realms": list(session.realms),
        "orders": orders_row(session),
    }


def orders_row(session: Session) -> list[str]:
    """What is ordered of a call besides its descriptions, in words."""
    orders = session.orders
    said = [
        f"{treatment.value} from {session.tags[side] or ('caller', 'callee')[side]}"
        for side in (0, 1)
        for treatment in orders.treatments[side]
    ]
    if orders.recording is not Recording.OFF:
        said.append(
            {Recording.ON: "recorded", Recording.PAUSED: "recording paused"}[orders.recording]
        )
    if orders.ends_ns:
        said.append(f"ends in {max(0, orders.ends_ns - call_ns()) // 1_000_000_000} s")
    return said


def flow_row(flow: Flow, counters: Counters, rtp: RtpStatistics) -> dict[str, Any]:
    policer = flow.policer
    return {
        "stream": flow.stream,
        "component": flow.component.name,
        "realm_in": flow.realm_in,
        "local_in": str(flow.local_in),
        "realm_out": flow.realm_out,
        "local_out": str(flow.local_out),
        "remote": str(flow.remote) if flow.remote else "",
        "source": _source(flow.source),
        "gate": flow.gate.name.lower(),
        "latch": flow.latch.name.lower(),
        "learned": str(flow.learned) if flow.learned else "",
        "latch_round": flow.latch_round,
        "follows": flow.follows,
        "dscp": flow.dscp,
        "sustained_bytes_s": policer.sustained_bytes_s if policer else 0,
        "peak_bytes_s": policer.peak_bytes_s if policer else 0,
        "inactivity_ms": flow.inactivity_ms,
        "packets": counters.packets,
        "bytes": counters.bytes,
        "last_seen_ns": counters.last_seen_ns,
        **({"rtp": rtp_row(rtp)} if flow.rtp is not None else {}),
    }


def _source(source: Source) -> str:
    if source.host is None:
        host = "any"
    else:
        host = source.host if source.prefix_len is None else f"{source.host}/{source.prefix_len}"
    port = "any" if source.port is None else str(source.port)
    if source.port_last is not None:
        port += f"-{source.port_last}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def rtp_row(rtp: RtpStatistics) -> dict[str, Any]:
    """RFC 3550's words; `mos` is an upper bound (`bgf.quality`), null while little was heard."""
    score = mos(rtp)
    return {
        "packets": rtp.packets,
        "bytes": rtp.bytes,
        "expected": rtp.expected,
        "lost": rtp.lost,
        "loss_percent": round(loss_percent(rtp), 2),
        "jitter_ms": round(rtp.jitter_ms, 2),
        "ssrc": f"{rtp.ssrc:08x}",
        "ssrc_changes": rtp.ssrc_changes,
        "restarts": rtp.restarts,
        "gap_max_ms": round(rtp.gap_max_us / 1_000, 1),
        "rtcp_packets": rtp.rtcp_packets,
        "mos": None if score is None else round(score, 2),
    }


def tally_rows(tallies: Iterable[Tally]) -> dict[str, Any]:
    """Packets by realm and reason, and by CPU: whose queue carries the load."""
    realms: dict[str, dict[str, int]] = {}
    cpus: dict[str, int] = {}
    for one in tallies:
        by_outcome = realms.setdefault(one.realm, {})
        by_outcome[one.outcome.value] = by_outcome.get(one.outcome.value, 0) + one.packets
        cpus[str(one.cpu)] = cpus.get(str(one.cpu), 0) + one.packets
    return {"by_realm": realms, "by_cpu": cpus}
