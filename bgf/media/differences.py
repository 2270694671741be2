"""What a pinhole in the maps says otherwise than its flow, in one word.

Knows: struct bgf_pinhole and struct bgf_latch as `layout` has them. For a process that starts
over maps which an earlier one has left: it repairs the same whatever it finds, this is what it
can say about it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping

from bgf.media import _xdp, layout
from bgf.media.pinholes import Plan
from bgf.model import Flow, FlowKey


class Difference(enum.StrEnum):
    """The first that applies, in this order."""

    MISSING = "missing"
    GATE = "gate"
    PEER = "peer"
    POLICER = "policer"
    OTHER = "other"


_LEADING = _xdp.LATCH | _xdp.FOLLOW | _xdp.NO_REMOTE


def compare(
    plan: Plan,
    positions: Iterable[int],
    there: Mapping[FlowKey, bytes],
    latch_of: Callable[[int], bytes],
) -> dict[FlowKey, Difference]:
    """What the maps hold otherwise than the flows at these positions of `plan` say, which has what
    their pinholes should be; `there` is what they are."""
    found: dict[FlowKey, Difference] = {}
    for at in positions:
        flow = plan.flows[at]
        raw = there.get(flow.key)
        if raw is None:
            found[flow.key] = Difference.MISSING
            continue
        latch = latch_of(plan.slot(at))
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
    if (now.flags ^ flags) & _xdp.POLICE or layout.rates(raw) != layout.rates(wanted):
        return Difference.POLICER
    return Difference.OTHER
