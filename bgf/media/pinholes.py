"""The table of pinholes: which flow has which slot and next hop, and many written at once.

Knows: the maps `ports`, `pinholes`, `stats`, `streams`, `latches` as memory; next hops by their
index; flows only as far as packing goes, which is done in C. A slot is not given away again before
all others were, and is cleared then: what a packet on its way still writes into it, nobody reads.
"""

from __future__ import annotations

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
from bgf.model import Flow, FlowKey

HOSTS_MAX = 65_536
"""Addresses whose packed form is kept."""
REUSED_MIN = 1_024
"""Slots that are cleared together."""


class Plan(NamedTuple):
    """Pinholes ready to be written. `special` are positions of flows that need a second look."""

    flows: list[Flow]
    values: bytearray
    slots: bytes
    cells: bytes
    idents: list[bytes]
    fresh: dict[bytes, int]
    special: list[int]

    def slot(self, at: int) -> int:
        return int(layout.U32.unpack_from(self.slots, at * layout.U32.size)[0])

    def patch(self, at: int, offset: int, value: int) -> None:
        """Change one field of a pinhole that is yet to be written."""
        layout.U32.pack_into(self.values, at * _xdp.SIZEOF_PINHOLE + offset, value)

    def field(self, at: int, offset: int) -> int:
        return int(layout.U32.unpack_from(self.values, at * _xdp.SIZEOF_PINHOLE + offset)[0])

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
        self._known: dict[bytes, int] = {}
        self._cells = memoryview(array("I", bytes(4 * self.capacity)))
        self._free: list[int] = []
        self._used: deque[int] = deque()
        self._next = memoryview(array("I", bytes(4 * self.capacity)))
        self._uses = memoryview(array("I", bytes(4 * maps.capacity("nexthops"))))
        self._hosts: dict[str, bytes] = {}
        for cpu in range(self._cpus):  # in place: the program keeps its clock beside it
            at = cpu * _xdp.SIZEOF_CPU + layout.STATS_FIRST_AT
            layout.U32.pack_into(maps.mapped("cpus"), at, cpu * self.capacity)

    def __len__(self) -> int:
        return len(self._known)

    def slot_of(self, key: FlowKey) -> int | None:
        return self._known.get(layout.ident(key))

    def keys(self) -> set[FlowKey]:
        """The pinholes that the packet path can find, by its own account."""
        _, slots = _xdp.scan_ports(self._maps.mapped("ports"))
        return {layout.unpack_pinhole(raw).key for raw in self._rows(slots)}

    def read(self, keys: Iterable[FlowKey]) -> dict[FlowKey, bytes]:
        """struct bgf_pinhole of those that stand, without the version."""
        there = [(key, slot) for key in keys if (slot := self.slot_of(key)) is not None]
        rows = self._rows(_pack([slot for _, slot in there]))
        found = {
            key: layout.without_version(raw) for (key, _), raw in zip(there, rows, strict=True)
        }
        return {key: raw for key, raw in found.items() if layout.unpack_pinhole(raw).key == key}

    # ---- start ----------------------------------------------------------------------------------

    def learn(self) -> list[Pinhole]:
        """Take over what an earlier process installed; what can match no more is closed."""
        groups = set(self._groups.values())
        cells, slots = _xdp.scan_ports(self._maps.mapped("ports"))
        found = [layout.unpack_pinhole(raw) for raw in self._rows(slots)]
        kept, stale = [], []
        for pinhole, cell, slot in zip(found, _unpack(cells), _unpack(slots), strict=True):
            if pinhole.wire not in self._realms.wires or pinhole.group not in groups:
                stale.append((cell, slot))
                continue
            if pinhole.nexthop and pinhole.remote:
                hop = self._maps.get("nexthops", layout.U32.pack(pinhole.nexthop))
                if hop:
                    self._hops.adopt(pinhole.remote, pinhole.nexthop, hop)
            kept.append(pinhole)
            self._known[layout.ident(pinhole.key)] = slot
            self._cells[slot] = cell
        self._close([slot for _, slot in stale], [cell for cell, _ in stale])
        taken = list(self._known.values())
        values = b"".join(self._rows(_pack(taken)))
        _xdp.book_pinholes(values, _pack(taken), self._next, self._uses)
        there = set(taken)
        self._used.extend(slot for slot in range(self.capacity) if slot not in there)
        self._hops.resolve_adopted()
        return kept

    def begin(self) -> None:
        """All is new and empty."""
        self._free = list(range(self.capacity - 1, -1, -1))

    # ---- installing -----------------------------------------------------------------------------

    def plan(self, flows: Sequence[Flow], odd: Set[bytes], add_hops: bool = True) -> Plan:
        """Give each flow its place. Raises DatapathError naming a flow that cannot be, or the
        table's size; nothing has happened then. Positions with an ident in `odd` are special.
        Without `add_hops` far ends that are new have next hop 0."""
        flows = list(flows)
        if len(flows) > len(self._free):
            self._reuse(max(len(flows) - len(self._free), REUSED_MIN))
        if len(self._hosts) > HOSTS_MAX:
            self._hosts.clear()
        hops = {name: self._hops.indices(self._realms.ifindex(name)) for name in self._realms.names}
        wires = {name: (*self._realms.wire(name), hops[name]) for name in self._realms.names}
        added: list[int] = []

        def add_hop(realm: str, host: str) -> int:
            if add_hops:
                added.extend(self._hops.add([(self._realms.ifindex(realm), host)]))
                return added[-1]
            return 0

        def add_row(realm: str, host: str) -> tuple[int, int, int]:
            return self._places.add(host, self._realms.wire(realm))

        try:
            values, slots, cells, idents, fresh, special, short = _xdp.pack_flows(
                flows, self._known, self._free, self._groups, wires, self._places.rows,
                self._hosts, self._host, self._guarded, odd, add_hop, add_row,
            )  # fmt: skip
            if short:
                raise DatapathError(
                    f"{len(self._known) + len(fresh) + short} pinholes: the table holds "
                    f"{self.capacity}; raise pinholes_max in [media]"
                )
        except ValueError as error:
            self._hops.drop(added)
            flow = flows[int(error.args[0])]
            raise DatapathError(f"flow {flow.key}: {self._why_not(flow)}") from None
        except DatapathError:
            self._hops.drop(added)
            raise
        return Plan(flows, values, slots, cells, idents, fresh, special)

    def commit(self, plan: Plan) -> None:
        """Write them, and book what that changes."""
        if plan.fresh:
            del self._free[-len(plan.fresh) :]
        self._known.update(plan.fresh)
        for slot, cell in zip(_unpack(plan.slots), _unpack(plan.cells), strict=True):
            self._cells[slot] = cell
        pinholes, ports = self._maps.mapped("pinholes"), self._maps.mapped("ports")
        _xdp.write_pinholes(pinholes, ports, plan.values, plan.slots, plan.cells)
        idle = _xdp.book_pinholes(plan.values, plan.slots, self._next, self._uses)
        self._hops.drop(index for index in idle if not self._uses[index])

    def remove(self, keys: Iterable[FlowKey]) -> None:
        """Close what is open of these."""
        known = self._known
        slots = [slot for key in keys if (slot := known.pop(layout.ident(key), -1)) >= 0]
        self._close(slots, [self._cells[slot] for slot in slots])
        idle = []
        for slot in slots:
            hop = self._next[slot]
            self._next[slot] = 0
            if hop:
                self._uses[hop] -= 1
                if not self._uses[hop]:
                    idle.append(hop)
        self._used.extend(slots)
        self._hops.drop(idle)

    def change(self, keys: Iterable[FlowKey], how: Callable[[FlowKey, bytes], bytes]) -> None:
        """Write pinholes that stand anew, with something changed."""
        found = self.read(keys)
        slots = [slot for key in found if (slot := self.slot_of(key)) is not None]
        _xdp.write_pinholes(
            self._maps.mapped("pinholes"),
            self._maps.mapped("ports"),
            b"".join(how(key, raw) for key, raw in found.items()),
            _pack(slots),
            _pack([self._cells[slot] for slot in slots]),
        )

    # ---- counts ---------------------------------------------------------------------------------

    def seen(self, keys: Sequence[FlowKey]) -> list[layout.Seen | None]:
        """What was counted, in the order of `keys`; None for unknown ones."""
        slots = [self.slot_of(key) for key in keys]
        where = _pack([slot for slot in slots if slot is not None])
        summed = _xdp.sum_stats(self._maps.mapped("stats"), where, self._cpus)
        rows = map(layout.Seen._make, layout.STATS.iter_unpack(summed))
        return [None if slot is None else next(rows) for slot in slots]

    def streams(self, keys: Sequence[FlowKey]) -> list[bytes]:
        """struct bgf_stream of those that are there, in their order."""
        slots = [slot for key in keys if (slot := self.slot_of(key)) is not None]
        size = layout.STREAM.size
        raw = _xdp.take_rows(self._maps.mapped("streams"), _pack(slots), size)
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    # ---- inside ---------------------------------------------------------------------------------

    def _rows(self, slots: bytes) -> list[bytes]:
        size = _xdp.SIZEOF_PINHOLE
        raw = _xdp.take_rows(self._maps.mapped("pinholes"), slots, size)
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _close(self, slots: Sequence[int], cells: Sequence[int]) -> None:
        pinholes, ports = self._maps.mapped("pinholes"), self._maps.mapped("ports")
        _xdp.close_pinholes(pinholes, ports, _pack(slots), _pack(cells))

    def _reuse(self, count: int) -> None:
        """Clear slots that were used, the longest unused first, and put them behind the free."""
        slots = [self._used.popleft() for _ in range(min(count, len(self._used)))]
        where = _pack(slots)
        for name, size in (
            ("streams", layout.STREAM.size),
            ("latches", layout.LATCH.size),
        ):
            _xdp.clear_rows(self._maps.mapped(name), where, size)
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
