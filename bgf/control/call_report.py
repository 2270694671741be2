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
    totals = {component: [0, 0] for component in Component}
    sides: tuple[_Streams, _Streams] = ({}, {})
    sources: dict[str, Encodable] = {}
    for one in map(_Heard, flows, counts, heard):
        flow = one.flow
        totals[flow.component][0] += one.counters.packets
        totals[flow.component][1] += one.counters.bytes
        second = flow.component in sides[0].get(flow.stream, ())
        sides[second].setdefault(flow.stream, {})[flow.component] = one
        if one.rtp.ssrc:
            sources[str(one.rtp.ssrc)] = _source(one, boot_s)
    described = {flow.local_out: flow.remote for flow in flows}
    parties: dict[str, Encodable] = {}
    for side, streams in enumerate(sides):
        if streams or report.parties[side].tag:
            name = report.parties[side].tag or f"<untagged {side + 1}>"
            parties[name] = _party(report, side, streams, described, boot_s)
    body: dict[str, Encodable] = {
        "created": report.created_s,
        "last signal": report.signalled_s,
        "totals": {
            component.name: {"packets": packets, "bytes": octets, "errors": 0}
            for component, (packets, octets) in totals.items()
        },
        "tags": parties,
        "SSRC": sources,
    }
    if report.recording != "off":
        body["recording"] = report.recording
    return body


def carried(reply: Reply, counters: Sequence[Counters]) -> tuple[int, ...]:
    """What `events.Command.carried` has to say of a call with these flows."""
    sums = {component: [0, 0] for component in Component}
    for flow, count in zip(reply.flows, counters, strict=True):
        sums[flow.component][0] += count.packets
        sums[flow.component][1] += count.bytes
    return tuple(value for component in Component for value in sums[component])


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
    entry: dict[str, Encodable] = {"tag": party.tag, "created": report.created_s}
    if party.branch:
        entry["via-branch"] = party.branch
    if party.label:
        entry["label"] = party.label
    if other:
        link: Encodable = [{"tag": other, "type": "offer/answer"}]
        entry |= {"in dialogue with": other, "subscriptions": link, "subscribers": link}
    if party.treatments:
        entry["treatments"] = list(party.treatments)
    medias: list[Encodable] = []
    for stream, components in sorted(streams.items()):
        media: dict[str, Encodable] = {"index": stream + 1}
        if stream < len(report.media):
            kind, transport, direction = report.media[stream][side]
            media |= {"type": kind, "protocol": transport, "flags": _directions(direction)}
        media["streams"] = [
            _stream(one, described.get(one.flow.local_in), boot_s)
            for _, one in sorted(components.items())
        ]
        medias.append(media)
    entry["medias"] = medias
    return entry


def _directions(direction: str) -> list[Encodable]:
    sends = ["send"] if direction in ("sendrecv", "sendonly") else []
    receives = ["recv"] if direction in ("sendrecv", "recvonly") else []
    return ["initialized", *sends, *receives] if direction else []


def _stream(one: _Heard, described: Address | None, boot_s: float) -> Encodable:
    flow, counters = one.flow, one.counters
    sender = flow.learned or described
    flags = [flow.component.name]
    flags += ["filled"] if sender is not None else []
    flags += ["confirmed", "kernelized"] if counters.packets else []
    entry: dict[str, Encodable] = {
        "local address": flow.local_in.host,
        "local port": flow.local_in.port,
        "family": f"IPv{flow.local_in.family.value}",
        "endpoint": _endpoint(sender),
        "advertised endpoint": _endpoint(described),
        "last packet": int(boot_s + counters.last_seen_ns / NS_PER_S) if counters.packets else 0,
        "flags": list(flags),
        "stats": {"packets": counters.packets, "bytes": counters.bytes, "errors": 0},
    }
    if one.rtp.ssrc:
        entry["SSRC"] = one.rtp.ssrc
    return entry


def _endpoint(address: Address | None) -> Encodable:
    if address is None:
        return {}
    return {
        "family": f"IPv{address.family.value}",
        "address": address.host,
        "port": address.port,
    }


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
