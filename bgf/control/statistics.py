"""The `statistics` reply in the shape that rtpengine's has: values in, nested dictionaries out.

Knows: the names and notations that its readers expect (fractions are text with six digits). Must
not know where figures come from. What a border gateway has none of (transcoding, media in user
space) is left at 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bgf.control.bencode import Encodable
from bgf.events import Verb

CLIENTS_MAX: Final = 64
"""Clients that are told apart; the commands of others are counted as `OTHERS`'."""
OTHERS: Final = "others"
ERRORS: Final = "error"

SHORT: Final[Mapping[Verb, str]] = {
    Verb.PING: "ping",
    Verb.OFFER: "offer",
    Verb.ANSWER: "answer",
    Verb.DELETE: "delete",
    Verb.QUERY: "query",
    Verb.LIST: "list",
    Verb.START_RECORDING: "startrec",
    Verb.STOP_RECORDING: "stoprec",
    Verb.PAUSE_RECORDING: "pauserec",
    Verb.START_FORWARDING: "startfwd",
    Verb.STOP_FORWARDING: "stopfwd",
    Verb.BLOCK_DTMF: "blkdtmf",
    Verb.UNBLOCK_DTMF: "unblkdtmf",
    Verb.BLOCK_MEDIA: "blkmedia",
    Verb.UNBLOCK_MEDIA: "unblkmedia",
    Verb.SILENCE_MEDIA: "slnmedia",
    Verb.UNSILENCE_MEDIA: "unslnmedia",
    Verb.STATISTICS: "stats",
}
"""What a command is called in `controlstatistics`."""


class Calls(NamedTuple):
    """Calls that live, and what has become of the others since the start. Durations in seconds."""

    now: int = 0
    elsewhere: int = 0
    begun: int = 0
    refused: int = 0
    ended: int = 0
    unanswered: int = 0
    abandoned: int = 0
    duration_s: float = 0.0
    duration2_s: float = 0.0
    deviation_s: float = 0.0


class Traffic(NamedTuple):
    """Packets and bytes forwarded and packets dropped, since the start and per second."""

    packets: int = 0
    bytes: int = 0
    errors: int = 0
    packets_s: int = 0
    bytes_s: int = 0
    errors_s: int = 0


class Scores(NamedTuple):
    """The MOS of the streams that are heard: how many, their sum, the sum of their squares."""

    streams: int = 0
    total: float = 0.0
    squares: float = 0.0


class Ports(NamedTuple):
    """The ports of a group at one of its addresses."""

    name: str
    address: str
    first: int
    last: int
    used: int


class ControlCounts:
    """Commands by client and verb, and the time spent on them."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._spent_s: dict[str, Counter[str]] = {}

    def count(self, client: str, verb: Verb, spent_s: float, *, failed: bool) -> None:
        """Take in one command; a client beyond CLIENTS_MAX counts among the others."""
        counts = self._counts.get(client)
        if counts is None:
            if len(self._counts) >= CLIENTS_MAX:
                client = OTHERS
            counts = self._counts.setdefault(client, Counter())
            self._spent_s.setdefault(client, Counter())
        name = SHORT[verb]
        counts[name] += 1
        if failed:
            counts[ERRORS] += 1
        # A Counter takes fractions too; its type does not say so.
        self._spent_s[client][name] += spent_s  # type: ignore[assignment]

    def told(self) -> dict[str, Encodable]:
        """`controlstatistics`."""
        proxies: list[Encodable] = []
        total: Counter[str] = Counter()
        for client, counts in self._counts.items():
            total.update(counts)
            entry: dict[str, Encodable] = {"proxy": client}
            for name in SHORT.values():
                entry[f"{name}count"] = counts[name]
                entry[f"{name}duration"] = _fraction(self._spent_s[client][name])
            entry["errorcount"] = counts[ERRORS]
            proxies.append(entry)
        names = (*SHORT.values(), ERRORS)
        return {"proxies": proxies, **{f"total{name}count": total[name] for name in names}}


def told(
    *,
    uptime_s: float,
    calls: Calls,
    traffic: Traffic,
    scores: Scores,
    control: ControlCounts,
    ports: Iterable[Ports],
    streams: int,
) -> dict[str, Encodable]:
    """The value of `statistics`. `streams` are those that the packet path carries now."""
    over = calls.ended + calls.unanswered + calls.abandoned
    mean = scores.total / scores.streams if scores.streams else 0.0
    spread = scores.squares / scores.streams - mean * mean if scores.streams else 0.0
    rates = ("packetrate", "byterate", "errorrate")
    now_s = (traffic.packets_s, traffic.bytes_s, traffic.errors_s)
    relayed = ("relayedpackets", "relayedpacketerrors", "relayedbytes")
    sums = (traffic.packets, traffic.errors, traffic.bytes)
    return {
        "currentstatistics": {
            "sessionsown": calls.now,
            "sessionsforeign": calls.elsewhere,
            "sessionstotal": calls.now + calls.elsewhere,
            "transcodedmedia": 0,
            **{f"{name}_user": 0 for name in rates},
            **{f"{name}_kernel": value for name, value in zip(rates, now_s, strict=True)},
            **dict(zip(rates, now_s, strict=True)),
            "media_userspace": 0,
            "media_kernel": streams,
            "media_mixed": 0,
        },
        "totalstatistics": {
            "uptime": str(int(uptime_s)),
            "managedsessions": calls.begun,
            "rejectedsessions": calls.refused,
            "timeoutsessions": calls.abandoned,
            "silenttimeoutsessions": 0,
            "finaltimeoutsessions": 0,
            "offertimeoutsessions": calls.unanswered,
            "regularterminatedsessions": calls.ended,
            "forcedterminatedsessions": 0,
            **{f"{name}_user": 0 for name in relayed},
            **{f"{name}_kernel": value for name, value in zip(relayed, sums, strict=True)},
            **dict(zip(relayed, sums, strict=True)),
            "avgcallduration": _fraction(calls.duration_s / over if over else 0.0),
            "totalcallsduration": _fraction(calls.duration_s),
            "totalcallsduration2": _fraction(calls.duration2_s),
            "totalcallsduration_stddev": _fraction(calls.deviation_s),
        },
        "mos": {
            "mos_total": _fraction(scores.total),
            "mos2_total": _fraction(scores.squares),
            "mos_samples_total": scores.streams,
            "mos_average": _fraction(mean),
            "mos_stddev": _fraction(max(0.0, spread) ** 0.5),
        },
        "controlstatistics": control.told(),
        "interfaces": [_interface(one) for one in ports],
    }


def _interface(one: Ports) -> Encodable:
    total = one.last - one.first + 1
    return {
        "name": one.name,
        "address": one.address,
        "ports": {
            "min": one.first,
            "max": one.last,
            "used": one.used,
            "used_pct": f"{100 * one.used / total:.2f}",
            "free": total - one.used,
            "totals": total,
        },
    }


def _fraction(value: float) -> str:
    return f"{value:.6f}"
