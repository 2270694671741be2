"""The table of pinholes: which flow has which slot and next hop, and many written at once.

Knows: the maps `pinholes`, `stats`, `streams`; next hops by their index; flows only as far as
packing goes, which is done in C. A slot is not given away again before all others were, and is
cleared then: what a packet on its way still writes into it, nobody reads.
"""

from __future__ import annotations

import contextlib
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
from bgf.media.realms import Realms
from bgf.model import Flow, FlowKey

IDLE_HOPS_MAX = 256
"""Next hops kept though nobody uses them now."""
HOSTS_MAX = 65_536
"""Addresses whose packed form is kept."""
REUSED_MIN = 1_024
"""Slots that are cleared together."""


class Plan(NamedTuple):
    """Pinholes ready to be written. `special` are positions of flows that need a second look."""

    flows: list[Flow]
    keys: bytes
    values: bytearray
    slots: memoryview
    idents: list[bytes]
    fresh: dict[bytes, int]
    special: list[int]

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
        groups: Mapping[str, int],
        guarded: Set[str],
    ) -> None:
        self._maps = maps
        self._realms = realms
        self._hops = hops
        self._groups = dict(groups)
        self._guarded = guarded
        self.capacity = min(maps.capacity(name) for name in ("pinholes", "stats"))
        self._known: dict[bytes, int] = {}
        self._free: list[int] = []
        self._used: deque[int] = deque()
        self._keys = bytearray(self.capacity * layout.KEY.size)
        self._next = memoryview(array("I", bytes(4 * self.capacity)))
        self._uses = memoryview(array("I", bytes(4 * maps.capacity("nexthops"))))
        self._idle: dict[int, None] = {}  # next hops that nobody uses, since the last `tidy`
        self._idle_before: dict[int, None] = {}
        self._hosts: dict[str, bytes] = {}
        self._stats_bytes = layout.STATS.size * _xdp.possible_cpus()

    def __len__(self) -> int:
        return len(self._known)

    def slot_of(self, key: FlowKey) -> int | None:
        return self._known.get(layout.ident(key))

    # ---- start ----------------------------------------------------------------------------------

    def learn(self) -> list[Pinhole]:
        """Take over what an earlier process installed; what can match no more is removed."""
        groups = set(self._groups.values())
        kept, stale, values = [], [], bytearray()
        for key, raw in self._maps.dump("pinholes", layout.KEY.size):
            pinhole = layout.unpack_pinhole(raw)
            if pinhole.wire not in self._realms.wires or pinhole.group not in groups:
                stale.append(key)
                continue
            if pinhole.nexthop and pinhole.remote:
                hop = self._maps.get("nexthops", layout.U32.pack(pinhole.nexthop))
                if hop:
                    self._hops.adopt(pinhole.remote, pinhole.nexthop, hop)
            kept.append(pinhole)
            values += raw
            self._known[layout.ident(pinhole.key)] = pinhole.slot
        self._maps.delete("pinholes", stale)
        _xdp.book_pinholes(values, self._keys, self._next, self._uses)
        taken = {pinhole.slot for pinhole in kept}
        self._used.extend(slot for slot in range(self.capacity) if slot not in taken)
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
            if not add_hops:
                return 0
            end = (self._realms.ifindex(realm), host)
            try:
                added.extend(self._hops.add([end]))
            except DatapathError:  # the table is full
                self._forget([*self._idle_before, *self._idle])
                added.extend(self._hops.add([end]))
            return added[-1]

        try:
            keys, values, slots, idents, fresh, special, short = _xdp.pack_flows(
                flows, self._known, self._free, self._groups, wires, self._hosts,
                self._host, self._guarded, odd, add_hop,
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
        return Plan(flows, keys, values, memoryview(slots).cast("I"), idents, fresh, special)

    def commit(self, plan: Plan) -> None:
        """Write them, and book what that changes. Raises OSError; all of them are closed then,
        the replaced ones, too: which of them stand is not known."""
        if plan.fresh:
            del self._free[-len(plan.fresh) :]
        self._known.update(plan.fresh)
        try:
            self._maps.update_packed("pinholes", plan.keys, plan.values, len(plan.flows))
        except OSError:
            self._book(plan.values)
            with contextlib.suppress(OSError):
                self.remove([flow.key for flow in plan.flows])
            raise
        self._book(plan.values)

    def _book(self, values: bytearray) -> None:
        stale, idle = _xdp.book_pinholes(values, self._keys, self._next, self._uses)
        with contextlib.suppress(OSError):
            self._maps.delete("pinholes", stale)
        self._rest(idle)

    def remove(self, keys: Iterable[FlowKey]) -> None:
        """Close what is open of these."""
        idents = dict.fromkeys(map(layout.ident, keys))
        slots = [self._known.pop(ident) for ident in idents if ident in self._known]
        size = layout.KEY.size
        raw = [bytes(self._keys[slot * size : (slot + 1) * size]) for slot in slots]
        idle = []
        for slot in slots:
            self._keys[slot * size : (slot + 1) * size] = bytes(size)
            hop = self._next[slot]
            self._next[slot] = 0
            if hop:
                self._uses[hop] -= 1
                if not self._uses[hop]:
                    idle.append(hop)
        self._used.extend(slots)
        self._maps.delete("pinholes", raw)
        self._rest(idle)

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
        """Write pinholes that stand anew, with something changed."""
        size = layout.KEY.size
        found = [(key, self.slot_of(key)) for key in keys]
        there = [
            (key, bytes(self._keys[s * size : (s + 1) * size])) for key, s in found if s is not None
        ]
        read = [(key, raw, self._maps.get("pinholes", raw)) for key, raw in there]
        changed = [(raw, how(key, value)) for key, raw, value in read if value]
        self._maps.update("pinholes", [raw for raw, _ in changed], [value for _, value in changed])

    # ---- counts ---------------------------------------------------------------------------------

    def seen(self, keys: Sequence[FlowKey]) -> list[layout.Seen | None]:
        """What was counted, in the order of `keys`; None for unknown ones."""
        slots = [self.slot_of(key) for key in keys]
        where = b"".join([layout.U32.pack(slot) for slot in slots if slot is not None])
        raw = _xdp.map_lookup_each(self._maps.fds["stats"], where)
        rows = map(
            layout.Seen._make, layout.STATS.iter_unpack(_xdp.sum_stats(raw, _xdp.possible_cpus()))
        )
        return [None if slot is None else next(rows) for slot in slots]

    def streams(self, keys: Sequence[FlowKey]) -> list[bytes]:
        """struct bgf_stream of those that are there, in their order."""
        slots = [slot for key in keys if (slot := self.slot_of(key)) is not None]
        return self._maps.each("streams", [layout.U32.pack(s) for s in slots], layout.STREAM.size)

    # ---- inside ---------------------------------------------------------------------------------

    def _reuse(self, count: int) -> None:
        """Clear slots that were used, the longest unused first, and put them behind the free."""
        slots = [self._used.popleft() for _ in range(min(count, len(self._used)))]
        where = struct.pack(f"={len(slots)}I", *slots)
        for name, size in (
            ("stats", self._stats_bytes),
            ("streams", layout.STREAM.size),
            ("latches", layout.LATCH.size),
        ):
            self._maps.update_packed(name, where, bytes(len(slots) * size), len(slots))
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
        return objection(flow) or "its addresses, ports or numbers are out of range"
