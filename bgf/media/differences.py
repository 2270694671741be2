"""What a pinhole in the maps says otherwise than its flow, in one word.

Knows: struct bgf_pinhole and struct bgf_latch as `layout` has them. For a process that starts
over maps which an earlier one has left: it repairs the same whatever it finds, this is what it
can say about it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from bgf.media import _xdp, layout
from bgf.media.maps import Maps
from bgf.media.pinholes import Plan
from bgf.model import Flow, FlowKey


class Difference(enum.StrEnum):
    """The first that applies, in this order."""

    MISSING = "missing"
    GATE = "gate"
    PEER = "peer"
    POLICER = "policer"
    OTHER = "other"


_NO_LATCH = layout.pack_latch(layout.LatchState())
_LEADING = _xdp.LATCH | _xdp.FOLLOW | _xdp.NO_REMOTE
_POLICER_BYTES = 4 * layout.U64.size  # the last fields: cost and depth of both buckets


def compare(flows: Iterable[Flow], plan: Plan, maps: Maps) -> dict[FlowKey, Difference]:
    """What the maps hold otherwise than `flows` say. `plan` has what the pinholes of those that
    are known should be."""
    wanted = {flow.key: at for at, flow in enumerate(plan.flows)}
    there = {layout.unpack_key(key)[0]: raw for key, raw in maps.dump("pinholes", layout.KEY.size)}
    found: dict[FlowKey, Difference] = {}
    for flow in flows:
        raw, at = there.get(flow.key), wanted.get(flow.key)
        if raw is None or at is None:
            found[flow.key] = Difference.MISSING
            continue
        latch = maps.get("latches", layout.U32.pack(plan.slots[at])) or _NO_LATCH
        said = difference(flow, plan.value(at), layout.with_capture(raw, False), latch)
        if said is not None:
            found[flow.key] = said
    return found


def difference(flow: Flow, wanted: bytes, raw: bytes, latch: bytes) -> Difference | None:
    """How the pinhole `raw` and its latch differ from what `flow` wants; None: not."""
    now, flags = layout.unpack_pinhole(raw), layout.unpack_pinhole(wanted).flags
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
