"""Followers led: whose latch a pinhole goes by, and by which next hop to whom that has learned.

Knows: pinholes as bytes, who follows whom, latches by slot. A follower's far end in the map is who
has been learned, by the next hop that leads there, as soon as user space knows: a latch that was
set from the state has no MAC address to go by (docs/decisions/0021), and one that packets set has
that of a router which may be gone. The signalled far end comes back with a latch that is open.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgf.media import layout
from bgf.media.learning import Learning
from bgf.media.pinholes import Pinholes, Plan
from bgf.model import Address, FlowKey


def finish(plan: Plan, table: Pinholes, learning: Learning, add_hops: bool = True) -> None:
    """Complete the followers of a plan, when the latches of its flows are settled.

    `add_hops` is as in Pinholes.plan.
    """
    planned: dict[FlowKey, int] | None = None
    for at in plan.special:
        flow = plan.flows[at]
        if not flow.follows:
            continue
        leader = table.slot_of(flow.reverse_key)
        if leader is None:
            if planned is None:
                planned = {one.key: plan.slot(n) for n, one in enumerate(plan.flows)}
            leader = planned.get(flow.reverse_key)
        if leader is None:
            continue
        plan.patch(at, layout.PEER_AT, leader)
        end = _end(learning, leader, flow.remote)
        if end is not flow.remote:
            plan.put(at, table.aimed(plan.value(at), end, add_hops))


def lead(followers: Iterable[FlowKey], table: Pinholes, learning: Learning) -> None:
    """Have followers go by the latch of who leads them now, or by none."""

    def anew(key: FlowKey, raw: bytes) -> bytes:
        led = learning.led(key)
        slot = table.slot_of(led.leader) if led else None
        if led:
            raw = table.aimed(raw, _end(learning, slot, led.remote))
        return layout.with_peer(raw, layout.NO_SLOT if slot is None else slot)

    table.change(followers, anew)


def _end(learning: Learning, leader: int | None, remote: Address | None) -> Address | None:
    """Where a follower sends: `remote`, unless somebody at another host has been learned."""
    peer = None if leader is None else learning.peer(leader)
    if peer is None or (remote is not None and peer.host == remote.host):
        return remote
    return peer
