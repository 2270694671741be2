"""A call as `query` and `delete` tell it: `totals`, `tags`, `SSRC`, in the shape rtpengine's has.

Knows: what Kamailio, OpenSIPS and exporters read of it. Must not know sessions, or where counters
come from. A flow belongs to the party that sends it: of each stream's two, the first is the first
party's (the machine's order; realms and hosts would not do, both sides may be in one realm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bgf.control.bencode import Encodable
from bgf.errors import Misuse
from bgf.events import CallReport, Party, Reply
from bgf.model import Address, Component, Counters, Flow, RtpStatistics
from bgf.quality import loss_percent, mos

NS_PER_S: Final = 1_000_000_000
MOS_UNITS: Final = 10  # a MOS of 4.3 is told as 43
NO_REPORT: Final = CallReport(0, 0, (Party(""), Party("")))


class _Heard(NamedTuple):
    """One flow and what was counted of it."""

    flow: Flow
    counters: Counters
    rtp: RtpStatistics


_NAMES: Final = {Component.RTP: "RTP", Component.RTCP: "RTCP"}
_Streams = dict[int, dict[Component, _Heard]]


def told(
    reply: Reply,
    counters: Sequence[Counters],
    rtp: Sequence[RtpStatistics],
    boot_s: float,
) -> dict[str, Encodable]:
    """The keys of a reply about one call. Raises Misuse when the counters are not the flows'."""
    flows, report = reply.flows, reply.report or NO_REPORT
    counts = list(counters) or [Counters()] * len(flows)
    heard = list(rtp) or [RtpStatistics()] * len(flows)
    if len(counts) != len(flows) or len(heard) != len(flows):
        raise Misuse(f"{len(counts)} and {len(heard)} counters for {len(flows)} flows")
    packets, octets = {"RTP": 0, "RTCP": 0}, {"RTP": 0, "RTCP": 0}
    sides: tuple[_Streams, _Streams] = ({}, {})
    sources: dict[str, Encodable] = {}
    described: dict[Address, Address | None] = {}
    for one in map(_Heard, flows, counts, heard):
        flow, component = one.flow, one.flow.component
        name = _NAMES[component]
        packets[name] += one.counters.packets
        octets[name] += one.counters.bytes
        described[flow.local_out] = flow.remote
        first = sides[0].setdefault(flow.stream, {})
        if component in first:
            first = sides[1].setdefault(flow.stream, {})
        first[component] = one
        if one.rtp.ssrc:
            sources[str(one.rtp.ssrc)] = _source(one, boot_s)
    parties: dict[str, Encodable] = {}
    for side, streams in enumerate(sides):
        if streams or report.parties[side].tag:
            tag = report.parties[side].tag or f"<untagged {side + 1}>"
            parties[tag] = _party(report, side, streams, described, boot_s)
    # Keys stand in the order in which they are written: sorting them takes as long as writing.
    body: dict[str, Encodable] = {
        "SSRC": sources,
        "created": report.created_s,
        "last signal": report.signalled_s,
        "tags": parties,
        "totals": {
            name: {"bytes": octets[name], "errors": 0, "packets": packets[name]}
            for name in ("RTCP", "RTP")
        },
    }
    if report.recording != "off":
        body["recording"] = report.recording
    return body


def carried(reply: Reply, counters: Sequence[Counters]) -> tuple[int, ...]:
    """What `events.Command.carried` has to say of a call with these flows."""
    packets, octets, rtcp_packets, rtcp_octets = 0, 0, 0, 0
    for flow, count in zip(reply.flows, counters, strict=True):
        if flow.component is Component.RTP:
            packets += count.packets
            octets += count.bytes
        else:
            rtcp_packets += count.packets
            rtcp_octets += count.bytes
    return packets, octets, rtcp_packets, rtcp_octets


def remembered(created_s: int, carried: Sequence[int]) -> dict[str, Encodable]:
    """Of a call that another node has ended: its beginning and its sums, all that is left."""
    return {
        "created": created_s,
        "totals": {
            component.name: {
                "packets": carried[2 * number],
                "bytes": carried[2 * number + 1],
                "errors": 0,
            }
            for number, component in enumerate(Component)
            if len(carried) >= 2 * number + 2
        },
    }


def _party(
    report: CallReport,
    side: int,
    streams: _Streams,
    described: dict[Address, Address | None],
    boot_s: float,
) -> Encodable:
    party, other = report.parties[side], report.parties[1 - side].tag
    medias: list[Encodable] = []
    entry: dict[str, Encodable] = {"created": report.created_s}
    if other:
        entry["in dialogue with"] = other
    if party.label:
        entry["label"] = party.label
    entry["medias"] = medias
    if other:
        link: Encodable = [{"tag": other, "type": "offer/answer"}]
        entry["subscribers"] = entry["subscriptions"] = link
    entry["tag"] = party.tag
    if party.treatments:
        entry["treatments"] = list(party.treatments)
    if party.branch:
        entry["via-branch"] = party.branch
    for stream in sorted(streams):
        components = streams[stream]
        told_streams: list[Encodable] = [
            _stream(one, described.get(one.flow.local_in), boot_s)
            for component in _NAMES
            if (one := components.get(component)) is not None
        ]
        if stream < len(report.media):
            kind, transport, direction = report.media[stream][side]
            medias.append(
                {
                    "flags": _directions(direction),
                    "index": stream + 1,
                    "protocol": transport,
                    "streams": told_streams,
                    "type": kind,
                }
            )
        else:
            medias.append({"index": stream + 1, "streams": told_streams})
    return entry


def _directions(direction: str) -> list[Encodable]:
    sends = ["send"] if direction in ("sendrecv", "sendonly") else []
    receives = ["recv"] if direction in ("sendrecv", "recvonly") else []
    return ["initialized", *sends, *receives] if direction else []


def _stream(one: _Heard, described: Address | None, boot_s: float) -> Encodable:
    flow, counters = one.flow, one.counters
    sender = flow.learned or described
    flags: list[Encodable] = [_NAMES[flow.component]]
    if sender is not None:
        flags.append("filled")
    if counters.packets:
        flags += ("confirmed", "kernelized")
    local = flow.local_in
    entry: dict[str, Encodable] = {"SSRC": one.rtp.ssrc} if one.rtp.ssrc else {}
    entry["advertised endpoint"] = _endpoint(described)
    entry["endpoint"] = _endpoint(sender)
    entry["family"] = "IPv6" if ":" in local.host else "IPv4"
    entry["flags"] = flags
    entry["last packet"] = int(boot_s + counters.last_seen_ns / NS_PER_S) if counters.packets else 0
    entry["local address"] = local.host
    entry["local port"] = local.port
    entry["stats"] = {"bytes": counters.bytes, "errors": 0, "packets": counters.packets}
    return entry


def _endpoint(address: Address | None) -> Encodable:
    if address is None:
        return {}
    host = address.host
    return {"address": host, "family": "IPv6" if ":" in host else "IPv4", "port": address.port}


def _source(one: _Heard, boot_s: float) -> Encodable:
    """A stream's quality. It is one observation, of all that was heard until now: the average, the
    lowest and the highest at once. The round-trip time is not known to who only forwards."""
    rtp = one.rtp
    entry: dict[str, Encodable] = {
        "packets": rtp.packets,
        "bytes": rtp.bytes,
        "packets lost": rtp.lost,
    }
    score = mos(rtp)
    if score is None:
        return entry
    seen: dict[str, Encodable] = {
        "MOS": round(score * MOS_UNITS),
        "packet loss": round(loss_percent(rtp)),
        "jitter": round(rtp.jitter_ms),
        "round-trip time": 0,
    }
    at_s = int(boot_s + one.counters.last_seen_ns / NS_PER_S)
    return entry | {
        "average MOS": {**seen, "samples": 1},
        "lowest MOS": {**seen, "reported at": at_s},
        "highest MOS": {**seen, "reported at": at_s},
    }
