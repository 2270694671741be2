"""Followers led: a pinhole whose far end is changed is as one that was packed with it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bgf.media import _xdp, layout
from bgf.media.netlink import Wire
from bgf.model import Address, Component, Flow, Gate, Source

HOSTS = {
    4: st.ip_addresses(v=4).map(str),
    6: st.ip_addresses(v=6).map(str).filter(lambda host: not host.startswith("::ffff:")),
}
ROW, NEXTHOP = 11, 6


def ends(family: int) -> st.SearchStrategy[Address | None]:
    return st.none() | st.builds(Address.of, HOSTS[family], st.integers(0, 65_535))


def packed(flow: Flow, guarded: set[str] | None = None) -> bytes:
    values, *_ = _xdp.pack_flows(
        [flow], bytearray((ROW + 1) << 18), [7], {"g1": 5}, {"a": (3, 4, {}), "b": (8, 9, {})},
        {}, {}, layout.pack_address, guarded or set(), bytearray(64), lambda realm, host: NEXTHOP,
        lambda realm, host: (ROW, 3, 4),
    )  # fmt: skip
    return bytes(values)


@given(
    st.sampled_from([4, 6]).flatmap(lambda family: st.tuples(*[ends(family)] * 3)), st.booleans()
)
def test_a_follower_that_is_led_is_as_one_packed_so(
    found: tuple[Address | None, ...], ours: bool
) -> None:
    local_out, signalled, peer = found
    if local_out is None:
        return
    flow = Flow(
        "g1", "c", 0, Component.RTP, "a", Address("10.0.0.1", 2), "b", local_out, signalled,
        Source(), Gate.OPEN, follows=True, dscp=9,
    )  # fmt: skip
    guarded = {peer.host} if ours and peer else set()
    wanted = packed(msgspec.structs.replace(flow, remote=peer), guarded)
    led = layout.with_end(packed(flow), peer, NEXTHOP if peer else 0, bool(guarded))
    assert led == wanted
    assert layout.remote_end(led) == layout.pack_end(peer)
    assert layout.wire_out(led) == Wire(8, 9)
