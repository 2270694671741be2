"""The media room's codecs: map keys and values, UDP frames, rtnetlink messages."""

from __future__ import annotations

import struct
from collections.abc import Sequence, Set

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.media import _xdp, frames, layout, netlink
from bgf.media.datapath import Outcome, objection
from bgf.media.layout import LatchState
from bgf.media.netlink import Wire
from bgf.model import (
    Address,
    Component,
    Counters,
    Flow,
    FlowKey,
    Gate,
    Latch,
    Policer,
    Rtp,
    RtpStatistics,
    Source,
)


def is_written_so(host: str) -> bool:
    return not host.startswith("::ffff:")


HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    # What is v4-mapped stands for IPv4 and is refused on the wire.
    st.ip_addresses(v=6).map(str).filter(is_written_so),
)
PORTS = st.integers(0, 65_535)
ADDRESSES = st.builds(Address.of, HOSTS, PORTS)
WIRES = st.builds(Wire, st.integers(1, 100_000), st.sampled_from([0, 0, 1, 4_094]))
MAC = bytes.fromhex("020000000001")


def test_the_outcomes_are_the_same_on_both_sides() -> None:
    assert set(layout.OUTCOMES) == set(Outcome)
    assert len(_xdp.OUTCOMES) == len(set(_xdp.OUTCOMES))
    assert layout.OUTCOMES[0] is Outcome.PASS


@given(HOSTS)
def test_addresses_survive_packing(host: str) -> None:
    packed = layout.pack_address(host)
    assert len(packed) == 16
    assert layout.unpack_address(packed) == host


@given(ADDRESSES, WIRES)
def test_keys_survive_packing(local: Address, wire: Wire) -> None:
    raw = layout.pack_key(local, wire)
    assert raw[20:22] == local.port.to_bytes(2)  # in network byte order
    assert layout.unpack_key(raw) == (FlowKey(local.host, local.port), wire)


REALMS: dict[str, tuple[int, int, dict[str, int]]] = {"a": (3, 4, {}), "b": (8, 9, {})}
ROW = 11


def pack(
    flows: list[Flow],
    index: bytearray | None = None,
    free: Sequence[int] = (7,),
    odd: Set[int] = frozenset(),
    guarded: Set[str] = frozenset(),
) -> tuple[bytearray, bytes, bytes, int, list[int], int]:
    marks = bytearray(n in odd for n in range(64))
    index = bytearray((ROW + 1) << 18) if index is None else index
    return _xdp.pack_flows(
        flows, index, list(free), {"g1": 5}, REALMS, {}, {}, layout.pack_address, guarded,
        marks, lambda realm, host: 6, lambda realm, host: (ROW, *REALMS[realm][:2]),
    )  # fmt: skip


def packed(flow: Flow) -> bytes:
    values, slots, cells, fresh, _, short = pack([flow])
    assert (fresh, short) == (1, 0)
    assert struct.unpack("=II", slots + cells) == (7, ROW << 16 | flow.key.port)
    return bytes(values)


@given(ADDRESSES, ADDRESSES, st.one_of(st.none(), ADDRESSES), st.booleans())
def test_pinholes_survive_packing(
    local_in: Address, local_out: Address, remote: Address | None, opened: bool
) -> None:
    if remote and int.from_bytes(layout.pack_address(remote.host)) + remote.port == 0:
        return
    if remote and remote.family is not local_out.family:
        return
    gate = Gate.OPEN if opened else Gate.CLOSED
    flow = Flow(
        "g1", "c", 0, Component.RTP, "a", local_in, "b", local_out, remote, Source("::1", 9), gate
    )
    raw = packed(flow)
    assert len(raw) == _xdp.SIZEOF_PINHOLE
    again = layout.unpack_pinhole(raw)
    assert again == layout.Pinhole(
        flow.key, Wire(3, 4), remote, 5, 6 if remote else 0, again.flags, flow.reverse_key
    )
    assert bool(again.flags & _xdp.OPEN) == (opened and remote is not None)
    assert bool(again.flags & _xdp.OUT_IP6) == (local_out.family == 6)
    assert again.flags & _xdp.SOURCE_HOST
    assert again.flags & _xdp.SOURCE_PORT


PLAIN = Flow(
    "g1", "c", 0, Component.RTP, "a", Address("10.0.0.1", 2), "b", Address("10.0.1.1", 2),
    Address("10.0.1.9", 4), Source(), Gate.OPEN,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, 0),
        ({"policer": Policer(1)}, _xdp.POLICE),
        ({"rtp": Rtp()}, _xdp.RTP),
        ({"rtp": Rtp(True, (0,)), "rtcp_mux": True},
         _xdp.RTP | _xdp.RTP_CHECK | _xdp.RTP_TYPES | _xdp.MUXED),
        ({"rtp": Rtp(True, (0,)), "component": Component.RTCP},
         _xdp.RTP | _xdp.RTP_CHECK | _xdp.RTCP),
        ({"rtcp_mux": True}, 0),
        ({"latch": Latch.LATCH}, _xdp.LATCH),
        ({"latch": Latch.RELATCH}, _xdp.LATCH),
        ({"follows": True}, _xdp.FOLLOW),
        ({"follows": True, "remote": None}, _xdp.FOLLOW | _xdp.NO_REMOTE),
        ({"dscp": 46, "inactivity_ms": 5}, 0),
    ],
)  # fmt: skip
def test_each_feature_has_its_flag_and_nothing_else(changes: dict[str, object], flags: int) -> None:
    raw = packed(msgspec.structs.replace(PLAIN, **changes))
    assert layout.unpack_pinhole(raw).flags == flags | _xdp.OPEN


def test_marks_change_nothing_else() -> None:
    raw = packed(PLAIN)
    marked = layout.with_capture(layout.with_peer(raw, 9), True)
    assert layout.unpack_pinhole(marked).flags == layout.unpack_pinhole(raw).flags | _xdp.CAPTURED
    assert layout.with_peer(layout.with_capture(marked, False), layout.NO_SLOT) == raw


def test_slots_are_kept_and_new_ones_come_from_the_end() -> None:
    flows = [
        msgspec.structs.replace(PLAIN, local_in=Address("10.0.0.1", port)) for port in (1, 2, 3, 2)
    ]
    index = bytearray((ROW + 1) << 18)
    struct.pack_into("=I", index, 4 * (ROW << 16 | 1), 41)
    before = bytes(index)
    values, slots, _, fresh, special, short = pack(flows, index, [10, 11, 12])
    assert struct.unpack("=4I", slots) == (40, 12, 11, 12)
    assert (fresh, special, short) == (2, [], 0)
    assert index == before  # nothing is booked by planning
    size = _xdp.SIZEOF_PINHOLE
    found = [layout.unpack_pinhole(bytes(values[n * size : (n + 1) * size])) for n in range(4)]
    assert [pinhole.key for pinhole in found] == [flow.key for flow in flows]
    assert pack(flows, index, [])[-1] == 3
    assert pack(flows, index, [10, 11, 12], odd={11})[-2] == [2]
    broken = msgspec.structs.replace(PLAIN, dscp=64)
    with pytest.raises(ValueError, match=r"^3$"):
        pack([*flows[:3], broken], index, [10, 11, 12])
    assert index == before


def test_what_needs_a_second_look_is_named() -> None:
    changes: list[dict[str, object]] = [
        {}, {"latch": Latch.LATCH}, {"latch": Latch.STRICT, "source": Source("10.0.0.1", 1)},
        {"follows": True}, {"inactivity_ms": 1}, {"rtp": Rtp()}, {"rtp": Rtp(clock_hz=16_000)},
        {"policer": Policer(1), "dscp": 1, "rtcp_mux": True},
    ]  # fmt: skip
    flows = [msgspec.structs.replace(PLAIN, **change) for change in changes]
    assert pack(flows)[4] == [1, 3, 4, 6]


def test_an_address_of_ours_is_marked() -> None:
    plain, ours = packed(PLAIN), pack([PLAIN], guarded={"10.0.1.9"})[0]
    assert not layout.unpack_pinhole(plain).flags & _xdp.HAIRPIN
    assert layout.unpack_pinhole(bytes(ours)).flags & _xdp.HAIRPIN


def test_an_address_of_another_realm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^0$"):
        _xdp.pack_flows(
            [PLAIN], bytearray(8), [7], {"g1": 5}, REALMS, {"10.0.0.1": (ROW, *REALMS["b"][:2])},
            {}, layout.pack_address, set(), bytearray(), lambda realm, host: 6,
            lambda realm, host: (0, 0, 0),
        )  # fmt: skip


PINHOLE = struct.Struct("=xxxxIIIHHI2s2sHBB16s16s16sQQQQQQ64x16sIHxxIxxxx24s8x")
NO_BUCKET = (1 << 64) - 1


@given(
    source=st.builds(
        Source,
        st.sampled_from(["10.9.8.7", None]),
        st.one_of(st.none(), st.integers(0, 60_000)),
    ),
    prefix_len=st.one_of(st.none(), st.integers(0, 32)),
    more=st.one_of(st.none(), st.integers(0, 5_000)),
    types=st.lists(st.integers(0, 127), max_size=8).map(tuple),
    hz=st.sampled_from([1, 8_000, 48_000, 90_000, 999_999_999]),
    dscp=st.one_of(st.none(), st.integers(0, 63)),
    rates=st.tuples(*[st.integers(0, 1 << 40)] * 4),
    remote=ADDRESSES.filter(lambda address: address.family == 4),
)
def test_every_field_of_a_pinhole(
    *,
    source: Source,
    prefix_len: int | None,
    more: int | None,
    types: tuple[int, ...],
    hz: int,
    dscp: int | None,
    rates: tuple[int, int, int, int],
    remote: Address,
) -> None:
    """Against a packing in plain Python, which is too slow for the product."""
    prefix = prefix_len if source.host else None
    last = source.port + more if source.port is not None and more is not None else None
    source = Source(source.host, source.port, prefix, last)
    flow = msgspec.structs.replace(
        PLAIN, source=source, rtp=Rtp(payload_types=types, clock_hz=hz), dscp=dscp,
        policer=Policer(*rates), remote=remote,
    )  # fmt: skip
    (flags, group, hop, first, to, clock, near_port, far_port, total, tos_mask, tos_bits, near,
     far, filtered, low, high, *buckets, mask, ifindex, vlan, peer, key) = PINHOLE.unpack(
        packed(flow)
    )  # fmt: skip
    assert key == layout.pack_key(flow.local_in, Wire(3, 4))
    assert (near, near_port) == (layout.pack_address("10.0.1.1"), b"\0\2")
    assert (far, far_port) == (layout.pack_address(remote.host), remote.port.to_bytes(2))
    assert (group, hop, vlan, ifindex, peer) == (5, 6, 9, 8, layout.NO_SLOT)
    bits = 0 if prefix is None else 96 + prefix
    assert int.from_bytes(mask) == (1 << 128) - (1 << (128 - bits))
    assert filtered == (layout.pack_address(source.host) if source.host else bytes(16))
    port = source.port
    assert (first, to) == ((0, 65_535) if port is None else (port, port if last is None else last))
    assert (tos_mask, tos_bits) == ((0xFF, 0) if dscp is None else (3, dscp << 2))
    whole = near + far + near_port + far_port
    assert total % 0xFFFF == int.from_bytes(whole, "little") % 0xFFFF
    assert clock == round((hz << 32) / 1e9)
    assert low | high << 64 == sum(1 << kind for kind in set(types))
    for (rate, burst), (cost, depth) in zip(
        (rates[:2], rates[2:]), (buckets[:2], buckets[2:]), strict=True
    ):
        wanted = (10**9 << 16) // rate if rate else 0
        assert cost == wanted
        assert depth == (min(burst * wanted >> 10, NO_BUCKET >> 1) if rate else NO_BUCKET)
    assert flags == (
        _xdp.OPEN | _xdp.RTP | _xdp.POLICE | (_xdp.RTP_TYPES if types else 0)
        | (_xdp.SOURCE_HOST if source.host else 0)
        | (_xdp.SOURCE_PORT if port is not None else 0)
        | (_xdp.SOURCE_PREFIX if prefix is not None else 0)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "burst", "length", "fits"),
    [
        (1_000, 1_000, 1_000, True),
        (1_000, 999, 1_000, False),
        (1, 65_535, 65_535, True),
        (1_250_000_000, 1_500, 1_500, True),
        (1_250_000_000, 1_499, 1_500, False),
        (10**12, 1 << 31, 65_535, True),
        (0, 0, 65_535, True),
    ],
)
def test_a_full_bucket_holds_its_burst(rate: int, burst: int, length: int, fits: bool) -> None:
    raw = packed(msgspec.structs.replace(PLAIN, policer=Policer(rate, burst)))
    cost, depth = PINHOLE.unpack(raw)[16:18]
    assert length * cost < 1 << 64
    assert ((length * cost) >> _xdp.COST_SHIFT <= depth) is fits


def latched(state: int, latch_round: int, port: int = 5, taught: bool = False) -> LatchState:
    peer = Address("192.0.2.1", port) if state != _xdp.LATCH_OPEN else None
    return LatchState(state, latch_round, peer, 1 if taught else 0, MAC if taught else bytes(6))


OPEN, SET, REPLACE = _xdp.LATCH_OPEN, _xdp.LATCH_SET, _xdp.LATCH_REPLACE


@pytest.mark.parametrize(
    ("mode", "learned", "latch_round", "now", "then"),
    [
        # new pinholes
        (Latch.LATCH, None, 0, None, latched(OPEN, 0)),
        (Latch.LATCH, 5, 2, None, latched(SET, 2)),
        (Latch.RELATCH, None, 1, None, latched(OPEN, 1)),
        (Latch.RELATCH, 5, 1, None, latched(REPLACE, 1)),
        # what packets taught stands in its round, what another flow said does not
        (Latch.LATCH, None, 0, latched(SET, 0, 6, True), latched(SET, 0, 6, True)),
        (Latch.LATCH, 5, 0, latched(SET, 0, 6, True), latched(SET, 0, 6, True)),
        (Latch.LATCH, 5, 0, latched(SET, 0, 6), latched(SET, 0, 5)),
        (Latch.LATCH, 5, 0, latched(OPEN, 0), latched(SET, 0, 5)),
        (Latch.LATCH, 5, 0, latched(REPLACE, 0, 5), latched(SET, 0, 5)),
        (Latch.RELATCH, 5, 0, latched(REPLACE, 0, 5), latched(REPLACE, 0, 5)),
        # who goes on from an earlier round was taught in that one: another node may know better
        (Latch.LATCH, 6, 1, latched(REPLACE, 1, 5, True), latched(SET, 1, 6)),
        (Latch.LATCH, 5, 1, latched(REPLACE, 1, 5, True), latched(SET, 1, 5, True)),
        (Latch.LATCH, None, 1, latched(REPLACE, 1, 5, True), latched(REPLACE, 1, 5, True)),
        (Latch.RELATCH, None, 1, latched(REPLACE, 1, 5, True), latched(REPLACE, 1, 5, True)),
        (Latch.RELATCH, 6, 1, latched(REPLACE, 1, 5, True), latched(REPLACE, 1, 6)),
        # a later round forgets, an earlier one has not heard yet
        (Latch.LATCH, None, 1, latched(SET, 0, 5, True), latched(OPEN, 1)),
        (Latch.RELATCH, None, 1, latched(SET, 0, 5, True), latched(REPLACE, 1, 5, True)),
        (Latch.RELATCH, 6, 1, latched(SET, 0, 5, True), latched(REPLACE, 1, 6)),
        (Latch.LATCH, 5, 0, latched(OPEN, 1), latched(OPEN, 1)),
        (Latch.LATCH, None, 0, latched(OPEN, layout.ROUNDS - 1), latched(OPEN, 0)),
    ],
)
def test_what_a_latch_becomes(
    mode: Latch, learned: int | None, latch_round: int, now: LatchState | None, then: LatchState
) -> None:
    peer = Address("192.0.2.1", learned) if learned else None
    flow = msgspec.structs.replace(PLAIN, latch=mode, learned=peer, latch_round=latch_round)
    assert layout.settle_latch(flow, now) == then
    assert layout.settle_latch(flow, then) == then
    assert layout.unpack_latch(layout.pack_latch(then)) == then


def test_a_relatch_is_one_round_on() -> None:
    taught = latched(SET, layout.ROUNDS - 1, 5, True)
    assert layout.unlatch(Latch.LATCH, taught) == latched(OPEN, 0)
    assert layout.unlatch(Latch.RELATCH, taught) == latched(REPLACE, 0, 5, True)
    assert layout.unlatch(Latch.RELATCH, latched(OPEN, 3)) == latched(OPEN, 4)


@given(st.sets(WIRES, max_size=60))
def test_interfaces_stand_where_the_program_looks(wires: set[Wire]) -> None:
    places = layout.place_interfaces(wires)
    if places is None:
        return
    assert set(places) == wires
    assert len(set(places.values())) == len(wires)
    for wire, place in places.items():
        assert (place - wire.ifindex - wire.vlan) % _xdp.INTERFACE_PLACES < _xdp.PROBES


def test_interfaces_that_find_no_place() -> None:
    size = _xdp.INTERFACE_PLACES
    assert layout.place_interfaces(map(Wire, range(1, size + 1))) is not None
    crowd = [Wire(1 + n * size) for n in range(_xdp.PROBES)]
    assert layout.place_interfaces(crowd) == {wire: 1 + n for n, wire in enumerate(crowd)}
    assert layout.place_interfaces([*crowd, Wire(1 + _xdp.PROBES * size)]) is None


def test_statistics_add_up_over_the_cpus() -> None:
    rows = [(1, 10, 5, 1, 9, 0), (2, 20, 9, 1, 8, 1), (0, 0, 0, 0, 0, 0), (7, 6, 5, 4, 3, 2)]
    raw = b"".join(layout.STATS.pack(*row) for row in rows)
    first, second = map(layout.Seen._make, layout.STATS.iter_unpack(_sums(raw, 2, 0, 1)))
    assert first == layout.Seen(1, 10, 5, 1, 9, 0)
    assert first.counters == Counters(1, 10, 5)
    assert second == layout.Seen(9, 26, 9, 5, 11, 3)
    assert _sums(raw, 2, 1) == layout.STATS.pack(*second)
    assert _sums(raw, 4, 0) == layout.STATS.pack(10, 36, 9, 6, 20, 3)
    for cpus, slot in ((2, 2), (3, 1)):
        with pytest.raises(ValueError, match="out of range"):
            _sums(raw, cpus, slot)


def _sums(raw: bytes, cpus: int, *slots: int) -> bytes:
    return _xdp.sum_stats(bytearray(raw), struct.pack(f"={len(slots)}I", *slots), cpus)


def test_pinholes_in_memory_are_found_whole_or_not_at_all() -> None:
    """Written, written again, changed, closed: each time the version moves by two."""
    size, flows = _xdp.SIZEOF_PINHOLE, [
        msgspec.structs.replace(PLAIN, local_in=Address("10.0.0.1", port)) for port in (1, 2, 3)
    ]  # fmt: skip
    pinholes, ports = bytearray(4 * size), bytearray((ROW + 1) << 18)
    values, slots, cells, *_ = pack(flows, free=[0, 3, 2])
    assert _xdp.write_pinholes(pinholes, ports, values, slots, cells) == 3
    assert _xdp.write_pinholes(pinholes, ports, values, slots, cells) == 0
    assert _xdp.scan_ports(ports) == (cells, slots)
    found = _xdp.take_rows(pinholes, slots, size)
    assert [found[n * size :][:4] for n in range(3)] == [b"\2\0\0\0"] * 3
    assert [layout.as_written(found[n * size :][:size]) for n in range(3)] == [
        bytes(values[n * size :][:size]) for n in range(3)
    ]
    assert _xdp.compare_pinholes(pinholes, values, slots) == []
    changed = layout.with_capture(bytes(values[:size]), True)
    assert _xdp.write_pinholes(pinholes, ports, changed, slots[:4], cells[:4]) == 1
    assert _xdp.compare_pinholes(pinholes, values, slots) == [0]
    _xdp.close_pinholes(pinholes, ports, slots[:8], cells[:8])
    assert _xdp.scan_ports(ports) == (cells[8:], slots[8:])
    closed = _xdp.take_rows(pinholes, slots[:8], size)
    assert closed == b"\6" + bytes(size - 1) + b"\4" + bytes(size - 1)
    with pytest.raises(ValueError, match="out of range"):
        _xdp.write_pinholes(pinholes, ports, values[:size], struct.pack("=I", 4), cells[:4])
    with pytest.raises(ValueError, match="not as many"):
        _xdp.write_pinholes(pinholes, ports, values, slots[:4], cells[:4])


def test_what_is_booked_is_found_until_it_is_forgotten() -> None:
    flows = [
        msgspec.structs.replace(PLAIN, local_in=Address("10.0.0.1", port)) for port in (1, 2, 3)
    ]
    keys, nobody = [flow.key for flow in flows], FlowKey("10.0.0.2", 1)
    index, hops, uses = bytearray((ROW + 1) << 18), bytearray(4 * 8), bytearray(4 * 8)
    rows = {"10.0.0.1": (ROW, 3, 4)}
    values, slots, cells, *_ = pack(flows, index, [0, 3, 2])
    assert _xdp.locate_pinholes([keys[0]], rows, index) == (b"\xff" * 4, cells[:4])
    assert _xdp.book_pinholes(index, hops, uses, values, slots, cells) == []
    assert _xdp.book_pinholes(index, hops, uses, values, slots, cells) == []
    assert struct.unpack_from("=8I", uses)[6] == 3
    assert _xdp.locate_pinholes([*keys, nobody], rows, index) == (
        slots + b"\xff" * 4, cells + bytes(4),
    )  # fmt: skip
    twice = (slots + slots[:4] + b"\xff" * 4, cells + cells[:4] + bytes(4))
    assert _xdp.unbook_pinholes(index, hops, uses, *twice) == (slots, cells, [6])
    assert not any(index)
    assert not any(hops)
    assert struct.unpack_from("=8I", uses)[6] == 0
    with pytest.raises(ValueError, match="next hop is out of range"):
        _xdp.book_pinholes(index, hops, uses[:8], values, slots, cells)
    with pytest.raises(ValueError, match="an index is out of range"):
        _xdp.book_pinholes(index, hops[:8], uses, values, slots, cells)


def test_rows_are_cleared_in_each_part() -> None:
    rows = bytearray(b"x" * 24)
    _xdp.clear_rows(rows, struct.pack("=I", 2), 4, 2)
    assert rows == b"x" * 8 + bytes(4) + b"x" * 8 + bytes(4)
    for index, size, parts in ((3, 4, 2), (0, 0, 1), (0, 4, 0)):
        with pytest.raises(ValueError, match=r"range|size"):
            _xdp.clear_rows(rows, struct.pack("=I", index), size, parts)


@given(st.sets(HOSTS, max_size=40))
def test_addresses_begin_their_search_within_the_table(hosts: set[str]) -> None:
    found = {_xdp.address_hash(layout.pack_address(host)) for host in hosts}
    assert all(0 <= place < _xdp.ADDRESS_PLACES for place in found)
    with pytest.raises(ValueError, match="16 bytes"):
        _xdp.address_hash(b"1234")


def test_rtp_statistics_from_what_the_program_keeps() -> None:
    seen = layout.Seen(100, 17_300, 9, 97, 17_000, 3)
    # 65,530 to 65,546 extended, after an earlier SSRC of 90; jitter 40 in sixteenths
    raw = layout.STREAM.pack(0, 0, 8, 0xABCD, 65_546, 65_530, 90, 0, 645, 20_000, 1, 2, 1)
    assert layout.rtp_statistics(seen, raw, 16_000) == RtpStatistics(
        97, 17_000, 107, 10, 40, 16_000, 0xABCD, 1, 2, 20_480, 3
    )
    nothing = layout.rtp_statistics(layout.Seen(0, 0, 0, 0, 0, 0), bytes(64), 8_000)
    assert nothing == RtpStatistics()


@given(st.binary(max_size=64))
def test_the_checksum_makes_the_whole_sum_to_nothing(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    whole = even + frames.checksum(data).to_bytes(2)
    words = sum(struct.unpack(f">{len(whole) // 2}H", whole))
    assert words % 0xFFFF == 0
    assert words > 0


@given(HOSTS, PORTS, PORTS, st.binary(max_size=200), st.integers(0, 255))
def test_frames_survive_reading(
    host: str, sport: int, dport: int, payload: bytes, hops: int
) -> None:
    other = "::9" if ":" in host else "192.0.2.9"
    sender, receiver = Address.of(host, sport), Address.of(other, dport)
    frame = frames.build(sender, receiver, payload, destination_mac=MAC, source_mac=MAC, hops=hops)
    assert frames.read(frame) == frames.Datagram(sender, receiver, hops, payload)
    assert frames.read(frame + bytes(18)) == frames.Datagram(sender, receiver, hops, payload)


@given(st.binary(max_size=100))
def test_reading_noise_is_no_crash(noise: bytes) -> None:
    for kind in (b"\x08\x00", b"\x86\xdd"):
        for start in (b"\x45", b"\x60"):
            frames.read(MAC + MAC + kind + start + noise)


def netlink_message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_netlink_messages_are_read() -> None:
    link = struct.pack("=BxHiII", 0, 1, 5, 0, 0)
    link += attribute(3, b"access\0") + attribute(1, MAC) + attribute(4, struct.pack("=I", 1_400))
    link += attribute(43 | 0x8000, attribute(2, b"\x01"))
    vlan = struct.pack("=BxHiII", 0, 1, 6, 0, 0) + attribute(3, b"access.7\0")
    vlan += attribute(1, MAC) + attribute(4, struct.pack("=I", 1_400))
    vlan += attribute(5, struct.pack("=I", 5))
    info = attribute(1, struct.pack("=H", 7)) + attribute(5, b"\x81\x00")
    vlan += attribute(18, attribute(1, b"vlan\0") + attribute(2, info))
    route = struct.pack("=8BI", 2, 32, 0, 0, 0, 0, 0, 1, 0)
    route += attribute(4, struct.pack("=I", 5)) + attribute(5, bytes([10, 0, 0, 1]))
    route += attribute(8, attribute(2, struct.pack("=I", 1_280)))
    neighbour = struct.pack("=BxxxiHBB", 10, 5, netlink.NUD_REACHABLE, 0, 0)
    neighbour += attribute(1, bytes(15) + b"\x01") + attribute(2, MAC)
    data = b"".join(
        (
            netlink_message(netlink.RTM_NEWLINK, link),
            netlink_message(netlink.RTM_NEWLINK, vlan),
            netlink_message(netlink.RTM_NEWLINK, vlan.replace(b"\x81\x00", b"\x88\xa8")),
            netlink_message(netlink.RTM_NEWROUTE, route),
            netlink_message(netlink.RTM_DELNEIGH, neighbour),
            netlink_message(2, struct.pack("=i", -2)),
        )
    )
    assert [value for _, _, value in netlink.messages(data)] == [
        netlink.Link(5, "access", MAC, 1_400, 1),
        netlink.Link(6, "access.7", MAC, 1_400, 0, False, 5, 7),
        netlink.Link(6, "access.7", MAC, 1_400, 0),  # 802.1ad is no VLAN of ours
        netlink.Route(5, "10.0.0.1", 1_280, True),
        netlink.Neighbour(5, "::1", MAC, netlink.NUD_REACHABLE, True),
        2,
    ]


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
def test_netlink_requests_name_their_target(host: str) -> None:
    raw = layout.pack_address(host)[-4 if "." in host else 0 :]
    for request in (
        netlink.get_route(1, host, 5),
        netlink.get_neighbour(1, host, 5),
        netlink.use_neighbour(1, host, 5),
    ):
        assert struct.unpack_from("=I", request)[0] == len(request)
        assert raw in request
        assert struct.pack("=I", 5) in request


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"remote": Address("::1", 1)}, "two IP versions"),
        ({"latch": Latch.STRICT}, "strict"),
        ({"latch": Latch.STRICT, "source": Source("10.0.0.9", 5)}, ""),
        ({"latch": Latch.STRICT, "source": Source("10.0.0.9", 5, 24)}, "strict"),
        ({"latch": Latch.STRICT, "source": Source("10.0.0.9", 5, None, 6)}, "strict"),
        ({"source": Source("10.0.0.9", None, 33)}, "prefix length 33"),
        ({"source": Source(None, None, 3)}, "prefix length 3"),
        ({"source": Source("fd00::", None, 128)}, ""),
        ({"source": Source(None, None, None, 9)}, "ports None to 9"),
        ({"source": Source(None, 10, None, 9)}, "ports 10 to 9"),
        ({"dscp": 64}, "DSCP 64"),
        ({"dscp": 63}, ""),
        ({"rtp": Rtp(payload_types=(128,))}, "payload types"),
        ({"rtp": Rtp(clock_hz=0)}, "0 Hz"),
        ({"policer": Policer(-1)}, "negative"),
    ],
)
def test_what_no_packet_path_can_do_is_named(changes: dict[str, object], says: str) -> None:
    flow = msgspec.structs.replace(PLAIN, **changes)
    found = objection(flow)
    assert (says in found) if says else not found
    if not says:
        packed(flow)
        return
    with pytest.raises(ValueError, match=r"^1$"):
        pack([PLAIN, flow])


@pytest.mark.parametrize(
    "changes",
    [
        {"group": "g9"}, {"realm_in": "c"}, {"realm_out": "c"}, {"local_in": Address("x", 1)},
        {"local_in": Address("10.0.0.1", 65_536)}, {"local_out": Address("10.0.0.1", -1)},
        {"remote": Address("10.0.0.1", 65_536)}, {"source": Source("nobody")},
        {"inactivity_ms": -1}, {"gate": 2}, {"latch": 9}, {"source": Source(None, 65_536)},
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_named_by_its_position(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^2$"):
        pack([PLAIN, PLAIN, msgspec.structs.replace(PLAIN, **changes)])


def test_what_is_no_flow_is_named_by_its_position() -> None:
    for thing in (None, Address("10.0.0.1", 1), 7):
        with pytest.raises(ValueError, match=r"^0$"):
            pack([thing])  # type: ignore[list-item]
