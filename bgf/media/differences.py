"""What a pinhole in the maps says otherwise than its flow, in one word. No I/O.

Knows: struct bgf_pinhole and struct bgf_latch as `layout` has them. For a process that starts
over maps which an earlier one has left: it repairs the same whatever it finds, this is what it
can say about it.
"""

from __future__ import annotations

import enum

from bgf.media import _xdp, layout
from bgf.media.layout import Place
from bgf.model import Flow


class Difference(enum.StrEnum):
    """The first that applies, in this order."""

    MISSING = "missing"
    GATE = "gate"
    PEER = "peer"
    POLICER = "policer"
    OTHER = "other"


_LEADING = _xdp.LATCH | _xdp.FOLLOW | _xdp.NO_REMOTE
_POLICER_BYTES = 4 * layout.U64.size  # the last fields: cost and depth of both buckets


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
