"""The table of pinholes: which flow has which slot and next hop, and many written at once.

Knows: the maps `ports`, `pinholes`, `stats`, `latches` as memory; next hops by their
index; flows only as far as packing goes, which is done in C. A slot is not given away again before
all others were, and is cleared then: what a packet on its way still writes into it, nobody reads.
"""

from __future__ import annotations

import mmap
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from bgf.errors import DatapathError
from bgf.media import _xdp, layout
from bgf.media.datapath import objection
from bgf.media.layout import Pinhole
from bgf.media.maps import Maps
from bgf.media.neighbours import NextHops
from bgf.media.places import Places
from bgf.media.realms import Realms
from bgf.model import Address, Flow, FlowKey

MAPPED = ("pinholes", "ports", "latches", "stats")
IDLE_HOPS_MAX = 256
"""Next hops kept though nobody uses them now."""
HOSTS_MAX = 65_536
"""Addresses whose packed form is kept."""
ODD_SOUGHT_MIN = 256
"""Pinholes from which on it pays to ask whether there is any odd one before looking at each."""
REUSED_MIN = 1_024
"""Slots that are cleared together."""

_SPECIAL = _xdp.LATCH | _xdp.FOLLOW | _xdp.CAPTURED


class Plan(NamedTuple):
    """Pinholes ready to be written. `special` are positions of flows that need a second look."""

    flows: list[Flow]
    values: bytearray
    slots: bytes
    cells: bytes
    fresh: int
    special: list[int]

    def slot(self, at: int) -> int:
        return int(layout.U32.unpack_from(self.slots, at * layout.U32.size)[0])

    def patch(self, at: int, offset: int, value: int) -> None:
        """Change one field of a pinhole that is yet to be written."""
        layout.U32.pack_into(self.values, at * _xdp.SIZEOF_PINHOLE + offset, value)

    def field(self, at: int, offset: int) -> int:
        return int(layout.U32.unpack_from(self.values, at * _xdp.SIZEOF_PINHOLE + offset)[0])

    def put(self, at: int, raw: bytes) -> None:
        """Change one that is yet to be written."""
        self.values[at * _xdp.SIZEOF_PINHOLE : (at + 1) * _xdp.SIZEOF_PINHOLE] = raw

    def value(self, at: int) -> bytes:
        return bytes(self.values[at * _xdp.SIZEOF_PINHOLE : (at + 1) * _xdp.SIZEOF_PINHOLE])


class Pinholes:
    """`groups` maps ids to indices, `guarded` has all media addresses of this node's groups."""

    def __init__(
        self,
        maps: Maps,
        realms: Realms,
        hops: NextHops,
        places: Places,
        *,
        groups: Mapping[str, int],
        guarded: Set[str],
    ) -> None:
        self._maps = maps
        self._realms = realms
        self._hops = hops
        self._places = places
        self._groups = dict(groups)
        self._guarded = guarded
        self._cpus = _xdp.possible_cpus()
        self.capacity = maps.capacity("pinholes")
        self.odd = bytearray(self.capacity)
        """By slot: 1 for flows that need more than packing, now or when they go."""
        self._count = 0
        # The same as in the map, but of what was ever written: row << 16 | port -> slot + 1.
        self._index = mmap.mmap(-1, len(maps.mapped("ports")))
        self._cells = memoryview(self._index).cast("I")
        self._free: list[int] = []
        self._used: deque[int] = deque()
        self._next = memoryview(array("I", bytes(4 * self.capacity)))
        self._uses = memoryview(array("I", bytes(4 * maps.capacity("nexthops"))))
        self._idle: dict[int, None] = {}  # next hops that nobody uses, since the last `tidy`
        self._idle_before: dict[int, None] = {}
        self._hosts: dict[str, bytes] = {}
        self._wires = {
            name: (*realms.wire(name), hops.indices(realms.ifindex(name))) for name in realms.names
        }
        self._realm_of = {realms.wire(name): name for name in realms.names}
        for name in MAPPED:  # takes milliseconds, and somebody would wait for them later
            maps.mapped(name)
        for cpu in range(self._cpus):  # in place: the program keeps its clock beside it
            at = cpu * _xdp.SIZEOF_CPU + _xdp.STATS_FIRST_AT
            layout.U32.pack_into(maps.mapped("cpus"), at, cpu * self.capacity)

    def __len__(self) -> int:
        return self._count

    def slot_of(self, key: FlowKey) -> int | None:
        row = self._places.rows.get(key.host)
        found = self._cells[row[0] << 16 | key.port] if row else 0
        return found - 1 if found else None

    def slots_of(self, keys: Sequence[FlowKey]) -> Sequence[int]:
        """In the order of the keys, NO_SLOT for unknown ones."""
        return _unpack(self._locate(keys)[0])

    def keys(self) -> set[FlowKey]:
        """The pinholes that the packet path can find, by its own account."""
        cells, _ = _xdp.scan_ports(self._maps.mapped("ports"))
        hosts = {row: host for host, (row, *_) in self._places.rows.items()}
        return {FlowKey(hosts[cell >> 16], cell & 0xFFFF) for cell in _unpack(cells)}

    def read(self, keys: Iterable[FlowKey]) -> dict[FlowKey, bytes]:
        """struct bgf_pinhole of those that stand, as they were written."""
        there = [key for key in keys if self.slot_of(key) is not None]
        rows = self._rows(self._locate(there)[0])
        found = {key: layout.as_written(raw) for key, raw in zip(there, rows, strict=True)}
        return {key: raw for key, raw in found.items() if layout.unpack_pinhole(raw).key == key}

    # ---- start ----------------------------------------------------------------------------------

    def learn(self) -> tuple[set[str], list[Pinhole]]:
        """Take over what an earlier process installed; what can match no more is closed.

        Returns the local hosts in use, and the pinholes that latch, follow or are captured.
        """
        groups, wires = set(self._groups.values()), self._realms.wires
        hosts = {
            row: (host, layout.pack_address(host)) for host, (row, *_) in self._places.rows.items()
        }
        nobody = "", b""
        used, hops = set(), set()
        special, taken, where, stale = [], [], [], []
        cells, slots = _xdp.scan_ports(self._maps.mapped("ports"))
        raw = _xdp.take_rows(self._maps.mapped("pinholes"), slots, _xdp.SIZEOF_PINHOLE)
        for at, (facts, cell, slot) in enumerate(
            zip(layout.FACTS.iter_unpack(raw), _unpack(cells), _unpack(slots), strict=True)
        ):
            flags, group, hop, address, ifindex, port, vlan = facts
            host, packed = hosts.get(cell >> 16, nobody)
            good = address == packed and socket.ntohs(port) == cell & 0xFFFF
            if not good or group not in groups or (ifindex, vlan) not in wires:
                stale.append((cell, slot))
                continue
            used.add(host)
            taken.append(slot)
            where.append(cell)
            if hop not in hops or flags & _SPECIAL:
                begin = at * _xdp.SIZEOF_PINHOLE
                pinhole = layout.unpack_pinhole(raw[begin : begin + _xdp.SIZEOF_PINHOLE])
                if hop not in hops:
                    hops.add(hop)
                    self._adopt(pinhole)
                if flags & _SPECIAL:
                    special.append(pinhole)
                    self.odd[slot] = 1
        self._close(_pack([slot for _, slot in stale]), _pack([cell for cell, _ in stale]))
        values = _xdp.take_rows(self._maps.mapped("pinholes"), _pack(taken), _xdp.SIZEOF_PINHOLE)
        self._book(values, _pack(taken), _pack(where))
        self._count = len(taken)
        there = set(taken)
        self._used.extend(slot for slot in range(self.capacity) if slot not in there)
        self._hops.resolve_adopted()
        return used, special

    def _adopt(self, pinhole: Pinhole) -> None:
        if pinhole.nexthop and pinhole.remote:
            hop = self._maps.get("nexthops", layout.U32.pack(pinhole.nexthop))
            if hop:
                self._hops.adopt(pinhole.remote.host, pinhole.nexthop, hop)

    def begin(self) -> None:
        """All is new and empty."""
        self._free = list(range(self.capacity - 1, -1, -1))

    # ---- installing -----------------------------------------------------------------------------

    def plan(self, flows: Sequence[Flow], add_hops: bool = True) -> Plan:
        """Give each flow its place. Raises DatapathError naming a flow that cannot be, or the
        table's size; nothing has happened then. Positions of flows that are `odd`, or will be,
        are special. Without `add_hops` far ends that are new have next hop 0."""
        flows = list(flows)
        if len(flows) > len(self._free):
            self._reuse(max(len(flows) - len(self._free), REUSED_MIN))
        if len(self._hosts) > HOSTS_MAX:
            self._hosts.clear()
        added: list[int] = []

        def add_hop(realm: str, host: str) -> int:
            if not add_hops:
                return 0
            end = (self._realms.ifindex(realm), host)
            try:
                added.extend(self._hops.add([end]))
            except DatapathError:  # the table is full
                self._forget([*self._idle_before, *self._idle])
                added.extend(self._hops.add([end]))
            return added[-1]

        def add_row(realm: str, host: str) -> tuple[int, int, int]:
            return self._places.add(host, self._realms.wire(realm))

        try:
            values, slots, cells, fresh, special, short = _xdp.pack_flows(
                flows, self._cells, self._free, self._groups, self._wires, self._places.rows,
                self._hosts, self._host, self._guarded, self.odd, add_hop, add_row,
            )  # fmt: skip
            if short:
                raise DatapathError(
                    f"{self._count + fresh + short} pinholes: the table holds "
                    f"{self.capacity}; raise pinholes_max in [media]"
                )
        except ValueError as error:
            self._hops.drop(added)
            flow = flows[int(error.args[0])]
            raise DatapathError(f"flow {flow.key}: {self._why_not(flow)}") from None
        except DatapathError:
            self._hops.drop(added)
            raise
        return Plan(flows, values, slots, cells, fresh, special)

    def commit(self, plan: Plan) -> None:
        """Write them, and book what that changes."""
        if plan.fresh:
            del self._free[-plan.fresh :]
        self._count += plan.fresh
        pinholes, ports = self._maps.mapped("pinholes"), self._maps.mapped("ports")
        _xdp.write_pinholes(pinholes, ports, plan.values, plan.slots, plan.cells)
        self._book(plan.values, plan.slots, plan.cells)

    def differing(self, plan: Plan) -> list[int]:
        """Positions of pinholes that stand otherwise than planned."""
        return _xdp.compare_pinholes(self._maps.mapped("pinholes"), plan.values, plan.slots)

    def remove(self, keys: Sequence[FlowKey]) -> list[FlowKey]:
        """Close what is open of these. Returns those that were odd."""
        slots, cells = self._locate(keys)
        odd: list[FlowKey] = []
        if len(keys) < ODD_SOUGHT_MIN or 1 in self.odd:
            for key, slot in zip(keys, _unpack(slots), strict=True):
                if slot != layout.NO_SLOT and self.odd[slot]:
                    self.odd[slot] = 0
                    odd.append(key)
        slots, cells, idle = _xdp.unbook_pinholes(self._cells, self._next, self._uses, slots, cells)
        self._close(slots, cells)
        gone = _unpack(slots)
        self._count -= len(gone)
        self._used.extend(gone)
        self._rest(idle)
        return odd

    def tidy(self) -> None:
        """Forget next hops that were in use neither now nor at the last call: the next call to the
        same far end finds its next hop known. Call it every second or few."""
        self._forget(self._idle_before)
        self._idle_before, self._idle = self._idle, {}

    def _rest(self, idle: Iterable[int]) -> None:
        self._idle.update(dict.fromkeys(idle))
        if len(self._idle) > IDLE_HOPS_MAX:
            self.tidy()

    def _forget(self, indices: Iterable[int]) -> None:
        self._hops.drop([index for index in indices if not self._uses[index]])

    def change(self, keys: Iterable[FlowKey], how: Callable[[FlowKey, bytes], bytes]) -> None:
        """Write pinholes that stand anew, with something changed, and book it."""
        found = self.read(keys)
        if not found:
            return
        values = b"".join(how(key, raw) for key, raw in found.items())
        pinholes, ports = self._maps.mapped("pinholes"), self._maps.mapped("ports")
        slots, cells = self._locate(list(found))
        _xdp.write_pinholes(pinholes, ports, values, slots, cells)
        self._book(values, slots, cells)

    def aimed(self, raw: bytes, end: Address | None, add_hops: bool = True) -> bytes:
        """A follower's pinhole with this far end and the next hop there; the same one when
        that table is full. `add_hops` is as in `plan`."""
        realm = self._realm_of.get(layout.wire_out(raw))
        if realm is None or layout.remote_end(raw) == layout.pack_end(end):
            return raw
        nexthop, ours = 0, False
        if end is not None:
            ours = end.host in self._guarded
            nexthop = self._wires[realm][2].get(end.host, 0)
            if add_hops and not nexthop:
                try:
                    [nexthop] = self._hops.add([(self._realms.ifindex(realm), end.host)])
                except DatapathError:  # the table is full
                    return raw
        planned = layout.U32.unpack_from(raw, layout.NEXTHOP_AT)[0]
        if add_hops and planned:  # that of the signalled address may never have been in use
            self._idle[planned] = None
        return layout.with_end(raw, end, nexthop, ours)

    # ---- counts ---------------------------------------------------------------------------------

    def seen(self, keys: Sequence[FlowKey]) -> list[layout.Seen | None]:
        """What was counted, in the order of `keys`; None for unknown ones."""
        slots = self.slots_of(keys)
        where = _pack([slot for slot in slots if slot != layout.NO_SLOT])
        summed = _xdp.sum_stats(self._maps.mapped("stats"), where, self._cpus)
        rows = map(layout.Seen._make, layout.STATS.iter_unpack(summed))
        return [None if slot == layout.NO_SLOT else next(rows) for slot in slots]

    def seen_with_streams(self, keys: Sequence[FlowKey]) -> list[tuple[layout.Seen, bytes] | None]:
        """What was counted, and struct bgf_stream, in the order of `keys`; None: unknown."""
        slots = self.slots_of(keys)
        where = _pack([slot for slot in slots if slot != layout.NO_SLOT])
        summed = _xdp.sum_stats(self._maps.mapped("stats"), where, self._cpus)
        counts = map(layout.Seen._make, layout.STATS.iter_unpack(summed))
        streams = map(layout.stream_of, self._rows(where))
        return [None if slot == layout.NO_SLOT else (next(counts), next(streams)) for slot in slots]

    # ---- inside ---------------------------------------------------------------------------------

    def _rows(self, slots: bytes) -> list[bytes]:
        size = _xdp.SIZEOF_PINHOLE
        raw = _xdp.take_rows(self._maps.mapped("pinholes"), slots, size)
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _locate(self, keys: Sequence[FlowKey]) -> tuple[bytes, bytes]:
        """Slots and cells in the order of the keys, NO_SLOT for unknown ones."""
        return _xdp.locate_pinholes(list(keys), self._places.rows, self._cells)

    def _book(self, values: bytes | bytearray, slots: bytes, cells: bytes) -> None:
        idle = _xdp.book_pinholes(self._cells, self._next, self._uses, values, slots, cells)
        self._rest(idle)

    def _close(self, slots: bytes, cells: bytes) -> None:
        pinholes, ports = self._maps.mapped("pinholes"), self._maps.mapped("ports")
        _xdp.close_pinholes(pinholes, ports, slots, cells)

    def _reuse(self, count: int) -> None:
        """Clear slots that were used, the longest unused first, and put them behind the free."""
        slots = [self._used.popleft() for _ in range(min(count, len(self._used)))]
        where = _pack(slots)
        _xdp.clear_streams(self._maps.mapped("pinholes"), where)
        _xdp.clear_rows(self._maps.mapped("latches"), where, layout.LATCH.size)
        _xdp.clear_rows(self._maps.mapped("stats"), where, layout.STATS.size, self._cpus)
        self._free = [*reversed(slots), *self._free]

    def _host(self, host: str) -> bytes:
        packed = layout.pack_address(host)
        self._hosts[host] = packed
        return packed

    def _why_not(self, flow: Flow) -> str:
        for realm in (flow.realm_in, flow.realm_out):
            self._realms.wire(realm)
        if flow.group not in self._groups:
            raise DatapathError(f"group '{flow.group}' is not configured on this node")
        row = self._places.rows.get(flow.local_in.host)
        if row and row[1:] != tuple(self._realms.wire(flow.realm_in)):
            return f"{flow.local_in.host} is an address of another realm"
        return objection(flow) or "its addresses, ports or numbers are out of range"


def _pack(indices: Sequence[int]) -> bytes:
    return struct.pack(f"={len(indices)}I", *indices)


def _unpack(raw: bytes) -> Sequence[int]:
    return memoryview(raw).cast("I")
