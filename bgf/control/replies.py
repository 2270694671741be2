"""`ng` replies: what the machine said -> datagram. No sockets.

Knows: the forms of replies that Kamailio and OpenSIPS read. Must not know sessions or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bgf.control import call_report
from bgf.control.bencode import Encodable
from bgf.control.frames import DATAGRAM_BYTES_MAX, Codec, NoCookie, frame, split
from bgf.control.requests import LOOP_PROTECT, Request, decode
from bgf.errors import LoadLimit, PeerError
from bgf.events import MediaRewrite, Reply, Result, Verb
from bgf.model import Address, Counters, RtpStatistics

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
    reason = error.reason
    if isinstance(error, LoadLimit) and not limited:
        reason = PARALLEL_LIMIT
    return frame(cookie, codec, _failure(reason, load_limit=limited))


def _failure(reason: str, *, load_limit: bool) -> dict[str, Encodable]:
    if load_limit:
        return {"result": Result.LOAD_LIMIT.value, "message": reason}
    return {"result": Result.ERROR.value, "error-reason": reason or "unspecified"}


class Measured(NamedTuple):
    """What counters say of a reply's flows, in their order; zeros when left out.

    `boot_s` is the Unix time at which CLOCK_BOOTTIME was 0 here. `statistics` is what that command
    is answered.
    """

    counters: Sequence[Counters] = ()
    rtp: Sequence[RtpStatistics] = ()
    boot_s: float = 0.0
    statistics: Mapping[str, Encodable] | None = None


NOTHING_MEASURED = Measured()


def render(request: Request, reply: Reply, measured: Measured = NOTHING_MEASURED) -> bytes:
    """The datagram that answers `request` with what the machine said.

    Raises Misuse when `reply.media` or what is measured does not fit.
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
            made = request.sdp.rewritten(
                _told(reply.media, request.media_host),
                replace_origin="replace=origin" in request.flags,
                rtcp_attribute="no-rtcp-attribute" not in request.flags,
                loop_mark=reply.loop_mark,
            )
            if request.codec is Codec.BENCODE:
                body["sdp"] = made
            else:
                body["sdp"] = made.decode("utf-8", "surrogateescape")
        elif request.sdp is not None and LOOP_PROTECT in request.flags:
            body["sdp"] = request.sdp.text  # it has been here before: not touched again
        if request.verb is Verb.LIST:
            body["calls"] = list(reply.calls)
        if reply.report is not None or measured.counters:
            body |= call_report.told(reply, measured.counters, measured.rtp, measured.boot_s)
        elif reply.carried:
            body |= call_report.remembered(reply.created_s, reply.carried)
        if measured.statistics is not None:
            body["statistics"] = dict(measured.statistics)
    datagram = frame(request.cookie, request.codec, body)
    if len(datagram) > DATAGRAM_BYTES_MAX:
        reason = f"the reply of {len(datagram)} bytes does not fit into a datagram"
        return frame(request.cookie, request.codec, _failure(reason, load_limit=False))
    return datagram


def _told(media: Sequence[MediaRewrite], host: str) -> Sequence[MediaRewrite]:
    """Our addresses as the far side is to see them: behind that host, where one is wished for."""
    if not host:
        return media
    return [
        msgspec.structs.replace(
            one,
            rtp=Address(host, one.rtp.port),
            rtcp=Address(host, one.rtcp.port) if one.rtcp is not None else None,
        )
        for one in media
    ]
