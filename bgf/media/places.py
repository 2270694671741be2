"""Where addresses stand: for each its row of ports, its realm, and whether it is guarded.

Knows: the map `addresses` and how the program searches it. Entries are added and changed in place,
never removed or moved: packets are looked up meanwhile. One that nobody needs is empty but stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bgf.errors import DatapathError
from bgf.media import _xdp, layout
from bgf.media.layout import Place
from bgf.media.maps import Maps
from bgf.media.netlink import Wire


class Places:
    """Raises DatapathError when an address finds no row or no place."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._rows_max = maps.capacity("ports")
        self._at: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        self._taken: set[int] = set()
        self.rows: dict[str, tuple[int, int, int]] = {}
        """Host -> (row, ifindex, vlan), of those that have a row: what packing asks."""
        for key, raw in maps.dump("addresses", layout.U32.size):
            if any(raw):
                host, place = layout.unpack_place(raw)
                at = layout.U32.unpack(key)[0]
                self._taken.add(at)
                if place.row or place.guarded:
                    self._keep(host, at, place)
                else:
                    self._at[host] = at

    def host_of(self, row: int) -> str | None:
        return next((host for host, place in self._places.items() if place.row == row), None)

    def guard(self, wires: Mapping[str, Wire], in_use: Iterable[str]) -> None:
        """Guard these hosts and no others; what has pinholes stays as it is otherwise."""
        kept = {*wires, *in_use}
        for host in [host for host in self._places if host not in kept]:
            self._write(host, Place())
        for host in self._places.keys() - wires.keys():
            self._write(host, self._places[host]._replace(guarded=False))
        for host, wire in wires.items():
            old = self._places.get(host, Place())
            self._write(host, Place(wire, old.row or self._free_row(), True))

    def add(self, host: str, wire: Wire) -> tuple[int, int, int]:
        """A row for an address that is not guarded but is to have pinholes."""
        old = self._places.get(host, Place())
        self._write(host, Place(wire, old.row or self._free_row(), old.guarded))
        return self.rows[host]

    def _free_row(self) -> int:
        used = {place.row for place in self._places.values()}
        free = next((row for row in range(1, self._rows_max) if row not in used), None)
        if free is None:
            raise DatapathError(
                f"{len(used)} local addresses: the table of ports has no more; stop the node and "
                "remove its pins to make it larger"
            )
        return free

    def _write(self, host: str, place: Place) -> None:
        packed = layout.pack_address(host)
        if host not in self._at:
            first = _xdp.address_hash(packed)
            near = ((first + n) % _xdp.ADDRESS_PLACES for n in range(_xdp.ADDRESS_PROBES))
            free = next((at for at in near if at not in self._taken), None)
            if free is None:
                raise DatapathError(f"address {host}: too many others stand at its place")
            self._taken.add(free)
            self._at[host] = free
        if place != self._places.get(host):
            key = layout.U32.pack(self._at[host])
            self._maps.put("addresses", key, layout.pack_place(packed, place))
        self._keep(host, self._at[host], place)

    def _keep(self, host: str, at: int, place: Place) -> None:
        self._at[host] = at
        self._places.pop(host, None)
        self.rows.pop(host, None)
        if place.row or place.guarded:
            self._places[host] = place
        if place.row:
            self.rows[host] = (place.row, *place.wire)
