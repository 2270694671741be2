"""`ng` replies: what the machine said -> datagram. No sockets.

Knows: the forms of replies that Kamailio and OpenSIPS read. Must not know sessions or time.
"""

from __future__ import annotations

from collections.abc import Sequence

from bgf.control.bencode import Encodable
from bgf.control.frames import DATAGRAM_BYTES_MAX, Codec, NoCookie, frame, split
from bgf.control.requests import Request, decode
from bgf.errors import LoadLimit, Misuse, PeerError
from bgf.events import Reply, Result, Verb
from bgf.model import Address, Component, Counters, Flow

PARALLEL_LIMIT = "Parallel session limit reached"
"""What a proxy without `load limit` support understands as: try the next node."""


def refuse(datagram: bytes, error: PeerError) -> bytes | None:
    """The error reply to a datagram, in its own codec; None where it has no cookie.

    For errors that are no `Reply` of the machine: those of `decode`, and the driver's own.
    """
    try:
        cookie, body = split(datagram)
    except NoCookie:
        return None
    codec = Codec.JSON if body[:1] == b"{" else Codec.BENCODE
    limited = isinstance(error, LoadLimit)
    if limited:
        try:
            limited = decode(datagram)[1].load_limit
        except PeerError:
            limited = False
    return frame(cookie, codec, _failure(error.reason, load_limit=limited))


def _failure(reason: str, *, load_limit: bool) -> dict[str, Encodable]:
    if load_limit:
        return {"result": Result.LOAD_LIMIT.value, "message": reason}
    return {"result": Result.ERROR.value, "error-reason": reason or "unspecified"}


def render(
    request: Request,
    reply: Reply,
    counters: Sequence[Counters] = (),
    *,
    created_s: int = 0,
    tags: tuple[str, str] | None = None,
) -> bytes:
    """The datagram that answers `request` with what the machine said.

    `counters` go with `reply.flows`, in order (`Datapath.counters`); zeros when left out.
    `created_s` is the call's begin in Unix seconds. `tags` are (offerer's, answerer's); the
    request's from-tag and to-tag otherwise. Raises Misuse when `reply.media` does not fit.
    """
    body: dict[str, Encodable]
    if reply.result is Result.ERROR:
        body = _failure(reply.reason, load_limit=False)
    elif reply.result is Result.LOAD_LIMIT:
        supported = request.load_limit
        body = _failure(reply.reason if supported else PARALLEL_LIMIT, load_limit=supported)
    else:
        body = {"result": reply.result.value}
        warning = "; ".join(filter(None, (reply.warning, *request.warnings)))
        if warning:
            body["warning"] = warning
        if reply.media and request.sdp is not None:
            body["sdp"] = request.sdp.rewrite(
                reply.media,
                replace_origin="replace=origin" in request.flags,
                rtcp_attribute="no-rtcp-attribute" not in request.flags,
            )
        if request.verb is Verb.QUERY or reply.flows or counters:
            body |= _statistics(request, reply.flows, counters, created_s, tags)
    datagram = frame(request.cookie, request.codec, body)
    if len(datagram) > DATAGRAM_BYTES_MAX:
        reason = f"the reply of {len(datagram)} bytes does not fit into a datagram"
        return frame(request.cookie, request.codec, _failure(reason, load_limit=False))
    return datagram


def _statistics(
    request: Request,
    flows: Sequence[Flow],
    counters: Sequence[Counters],
    created_s: int,
    tags: tuple[str, str] | None,
) -> dict[str, Encodable]:
    """What Kamailio reads of a query or delete: `totals`, `created`, `tags` by tag.

    A flow belongs to the party that sends it: of each stream's two, the first is the offerer's
    (the machine's order; realms and hosts would not do, both sides may be in one realm).
    """
    counts = list(counters) or [Counters()] * len(flows)
    if len(counts) != len(flows):
        raise Misuse(f"{len(counts)} counters for {len(flows)} flows")
    names = tags or (request.from_tag, request.to_tag)
    totals = {component: [0, 0] for component in Component}
    sides: tuple[dict[int, dict[Component, tuple[Flow, Counters]]], ...] = ({}, {})
    for flow, count in zip(flows, counts, strict=True):
        totals[flow.component][0] += count.packets
        totals[flow.component][1] += count.bytes
        second = flow.component in sides[0].get(flow.stream, ())
        sides[second].setdefault(flow.stream, {})[flow.component] = (flow, count)
    senders = {flow.local_out: flow.remote for flow in flows}
    parties: dict[str, Encodable] = {}
    for number, (tag, streams) in enumerate(zip(names, sides, strict=True), 1):
        if not streams:
            continue
        parties[tag or f"<untagged {number}>"] = {
            "tag": tag,
            "created": created_s,
            "medias": [
                {
                    "index": stream + 1,
                    "streams": [
                        _stream(*entry, senders.get(entry[0].local_in))
                        for _, entry in sorted(components.items())
                    ],
                }
                for stream, components in sorted(streams.items())
            ],
        }
    return {
        "created": created_s,
        "totals": {
            component.name: {"packets": packets, "bytes": octets, "errors": 0}
            for component, (packets, octets) in totals.items()
        },
        "tags": parties,
        "SSRC": {},
    }


def _stream(flow: Flow, count: Counters, sender: Address | None) -> Encodable:
    return {
        "local address": flow.local_in.host,
        "local port": flow.local_in.port,
        "family": f"IPv{flow.local_in.family.value}",
        "endpoint": _endpoint(sender),
        "flags": [flow.component.name],
        "stats": {"packets": count.packets, "bytes": count.bytes, "errors": 0},
    }


def _endpoint(address: Address | None) -> Encodable:
    if address is None:
        return {}
    return {
        "family": f"IPv{address.family.value}",
        "address": address.host,
        "port": address.port,
    }
