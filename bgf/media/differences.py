"""What a pinhole in the maps says otherwise than its flow, in one word.

Knows: struct bgf_pinhole and struct bgf_latch as `layout` has them. For a process that starts
over maps which an earlier one has left: it repairs the same whatever it finds, this is what it
can say about it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable

from bgf.media import _xdp, layout
from bgf.media.layout import Pinhole, Place
from bgf.media.maps import Maps
from bgf.model import Flow, FlowKey


class Difference(enum.StrEnum):
    """The first that applies, in this order."""

    MISSING = "missing"
    GATE = "gate"
    PEER = "peer"
    POLICER = "policer"
    OTHER = "other"


_NO_LATCH = layout.LatchState()
_LEADING = _xdp.LATCH | _xdp.FOLLOW | _xdp.NO_REMOTE
_POLICER_BYTES = 4 * layout.U64.size  # the last fields: cost and depth of both buckets


def compare(
    flows: Iterable[Flow],
    maps: Maps,
    known: Collection[FlowKey],
    standing: Callable[[Flow, Pinhole], tuple[bytes, Place]],
) -> dict[FlowKey, Difference]:
    """What the maps hold otherwise than `flows` say. `standing` gives a known flow's key and
    place, as far as the pinhole that is there leads where it should."""
    there = {layout.unpack_key(key)[0]: raw for key, raw in maps.dump("pinholes", layout.KEY.size)}
    found: dict[FlowKey, Difference] = {}
    for flow in flows:
        raw = there.get(flow.key) if flow.key in known else None
        if raw is None:
            found[flow.key] = Difference.MISSING
            continue
        now = layout.unpack_pinhole(raw)
        key, place = standing(flow, now)
        latch = maps.get("latches", layout.U32.pack(place.slot)) or layout.pack_latch(_NO_LATCH)
        said = difference(flow, key, place, layout.with_capture(raw, False), latch)
        if said is not None:
            found[flow.key] = said
    return found


def difference(flow: Flow, key: bytes, place: Place, raw: bytes, latch: bytes) -> Difference | None:
    """How the pinhole `raw` and its latch differ from what `flow` wants at `place`; None: not."""
    now, wanted = layout.unpack_pinhole(raw), layout.pack_pinhole(flow, key, place)
    flags = layout.unpack_pinhole(wanted).flags
    if (now.flags ^ flags) & _xdp.OPEN:
        return Difference.GATE
    if flow.latch.learns:
        state = layout.unpack_latch(latch)
        if layout.settle_latch(flow, state) != state:
            return Difference.PEER
    if raw == wanted:
        return None
    if (now.flags ^ flags) & _LEADING or layout.remote_end(raw) != layout.remote_end(wanted):
        return Difference.PEER
    same_rates = raw[-_POLICER_BYTES:] == wanted[-_POLICER_BYTES:]
    if (now.flags ^ flags) & _xdp.POLICE or not same_rates:
        return Difference.POLICER
    return Difference.OTHER
