"""Next hops: which interface and MAC address lead to each far end, kept true by netlink events.

Knows: the kernel's routes and neighbours in the network namespace of the calling process, and the
packet path's table of next hops, which it writes through one function. The packet path itself
looks nothing up: what this table does not say is not sent. Knows no flows, groups or pins.

A far end keeps its index for as long as it is in use; only what stands there changes. The kernel
resolves neighbours with the interface's own addresses, so a standby's table is as warm as an
active's.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bgf.errors import DatapathError
from bgf.media import netlink as rtnl
from bgf.media.netlink import Link, Neighbour, Netlink, Route, Wire

MAC_BYTES = 6

_NEXTHOP = struct.Struct("=6s6sIIHxx")
EVENT_GROUPS = (
    rtnl.RTMGRP_LINK | rtnl.RTMGRP_NEIGH | rtnl.RTMGRP_IPV4_ROUTE | rtnl.RTMGRP_IPV6_ROUTE
)


def pack(destination: bytes, source: bytes, wire: Wire, mtu: int) -> bytes:
    """struct bgf_nexthop; `mtu` 0 says that the neighbour is not known."""
    return _NEXTHOP.pack(destination, source, wire.ifindex, mtu, wire.vlan)


@dataclass(slots=True)
class _FarEnd:
    """A remote host seen through one interface. `via` is empty while there is no way to it."""

    index: int
    ifindex: int
    host: str
    via: str = ""
    mtu: int = 0


@dataclass(slots=True)
class _Hop:
    """A neighbour on the link; `mac` is empty while it was never known, `silent` while it does not
    answer."""

    mac: bytes = b""
    static: bool = False
    silent: bool = False
    far_ends: set[tuple[int, str]] = field(default_factory=set)

    def learn(self, neighbour: Neighbour) -> bool:
        """Take in what the kernel says; whether the MAC address is another one now."""
        self.static = bool(neighbour.state & rtnl.NUD_STATIC) and not neighbour.gone
        if neighbour.gone or neighbour.state & rtnl.NUD_INCOMPLETE:
            # Collected for want of kernel traffic, or asked for anew: what was known still is.
            return False
        self.silent = not neighbour.state & rtnl.NUD_VALID
        # Silent, it may be there all the same: a link with loss loses three answers, and media
        # would stop till it is asked again. Who has another address says so when he is asked.
        if self.silent or neighbour.mac == self.mac or len(neighbour.mac) != MAC_BYTES:
            return False
        self.mac = neighbour.mac
        return True


class NextHops:
    """The table of next hops. `write` takes (indices, values): struct bgf_nexthop each.

    `interfaces` are those of the realms (others are not watched); `on_link` hears of each change
    of one of them. At most `size` - 1 far ends: index 0 stays empty for ever. `netlink` is the
    kernel's of the calling thread's namespace unless another is given; it hears EVENT_GROUPS.
    """

    def __init__(
        self,
        interfaces: Iterable[str],
        write: Callable[[list[int], list[bytes]], None],
        size: int,
        on_link: Callable[[Link], None] = lambda _: None,
        netlink: Netlink | None = None,
    ) -> None:
        self._names = frozenset(interfaces)
        self._write = write
        self._on_link = on_link
        self._size = size
        self._free: deque[int] = deque(range(1, size))
        self._far_ends: dict[tuple[int, str], _FarEnd] = {}
        self._by_index: dict[int, _FarEnd] = {}
        self._indices: dict[int, dict[str, int]] = {}
        self._hops: dict[tuple[int, str], _Hop] = {}
        self._adopted: dict[tuple[int, str], bytes] = {}
        self._netlink = netlink or Netlink(EVENT_GROUPS)
        self._links = {k.ifindex: k for k in self._netlink.links() if k.name in self._names}
        self._routes_changed = False

    # ---- what the datapath asks -----------------------------------------------------------------

    @property
    def links(self) -> Mapping[int, Link]:
        """The realms' interfaces by ifindex."""
        return self._links

    def read_links(self) -> list[Link]:
        """All interfaces, as the kernel has them now."""
        return self._netlink.links()

    @property
    def unresolved(self) -> list[str]:
        """Far ends whose next hop does not answer now or is not known, for a status line."""
        return sorted(f.host for f in self._far_ends.values() if self._is_unresolved(f))

    def indices(self, ifindex: int) -> dict[str, int]:
        """Host -> index, of far ends through an interface; kept up as they come and go."""
        return self._indices.setdefault(ifindex, {})

    def adopt(self, host: str, index: int, value: bytes) -> None:
        """Use an entry of an earlier process once more; known ones are left alone.

        Call `resolve_adopted` when all are told. Till the kernel says otherwise the entry's MAC
        address is taken for true: a restart must cost no packet.
        """
        mac, _, ifindex, _, vlan = _NEXTHOP.unpack(value)
        wire = Wire(ifindex, vlan)
        device = next((k.ifindex for k in self._links.values() if k.wire == wire), ifindex)
        if index not in self._by_index:
            self._free.remove(index)
            self._join(_FarEnd(index, device, host))
            if any(mac):
                self._adopted[device, host] = mac

    def resolve_adopted(self) -> None:
        """Ask the kernel about everything adopted, and write what it says."""
        self._resolve(list(self._far_ends.values()))
        self._adopted.clear()

    def add(self, ends: Iterable[tuple[int, str]]) -> list[int]:
        """An index for each (ifindex, host), till it is dropped.

        Resolves what is new: its route at once, its neighbour by asking the kernel, which answers
        at once when it knows it and with an event when not. Raises DatapathError when the table is
        full; nothing is added then.
        """
        ends = list(ends)
        fresh = [end for end in dict.fromkeys(ends) if end not in self._far_ends]
        if len(fresh) > len(self._free):
            raise DatapathError(
                f"{len(self._far_ends) + len(fresh)} far ends: the next-hop table holds "
                f"{self._size - 1}; raise pinholes_max"
            )
        for ifindex, host in fresh:
            self._join(_FarEnd(self._free.popleft(), ifindex, host))
        self._resolve([self._far_ends[end] for end in fresh])
        return [self._far_ends[end].index for end in ends]

    def drop(self, indices: Iterable[int]) -> None:
        """These are used no more; unknown ones are ignored."""
        gone = []
        for index in indices:
            far_end = self._by_index.pop(index, None)
            if far_end is not None:
                del self._far_ends[far_end.ifindex, far_end.host]
                del self._indices[far_end.ifindex][far_end.host]
                self._leave(far_end)
                gone.append(index)
        if gone:
            self._write(gone, [pack(bytes(6), bytes(6), Wire(0), 0)] * len(gone))
            self._free.extend(gone)

    # ---- what the loop calls --------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when `process` has something to do."""
        return self._netlink.fileno()

    def process(self) -> None:
        """Take in what the kernel has announced since."""
        events = self._netlink.events()
        if events is None:  # some were lost: ask for everything
            self._routes_changed = True
            events = [*self._netlink.links(), *self._netlink.neighbours()]
        changed: set[tuple[int, str]] = set()
        for event in events:
            if isinstance(event, Link):
                changed |= self._link_changed(event)
            elif isinstance(event, Route):
                self._routes_changed = True
            else:
                changed |= self._neighbour_changed(event)
        self._publish(self._far_ends[end] for end in changed)

    def refresh(self) -> None:
        """Keep all neighbours confirmed, retry the unresolved, and follow changed routes.

        The packet path's traffic does not confirm a neighbour to the kernel, so somebody must:
        call it every few seconds.
        """
        lost = [f for f in self._far_ends.values() if not f.via]
        if self._routes_changed:
            self._routes_changed = False
            lost = list(self._far_ends.values())
        self._resolve(lost)
        self._use(self._hops)

    def close(self) -> None:
        self._netlink.close()

    # ---- inside ---------------------------------------------------------------------------------

    def _join(self, far_end: _FarEnd) -> None:
        self._far_ends[far_end.ifindex, far_end.host] = far_end
        self._by_index[far_end.index] = far_end
        self.indices(far_end.ifindex)[far_end.host] = far_end.index

    def _hop_of(self, far_end: _FarEnd) -> _Hop | None:
        return self._hops.get((far_end.ifindex, far_end.via)) if far_end.via else None

    def _is_unresolved(self, far_end: _FarEnd) -> bool:
        hop = self._hop_of(far_end)
        return hop is None or not hop.mac or hop.silent

    def _resolve(self, far_ends: list[_FarEnd]) -> None:
        fresh: dict[tuple[int, str], None] = {}
        for far_end in far_ends:
            route = self._netlink.route(far_end.host, far_end.ifindex)
            via = ""
            if route and route.unicast and route.ifindex == far_end.ifindex:
                via = route.gateway or far_end.host
            if via != far_end.via:
                self._leave(far_end)
            far_end.via = via
            far_end.mtu = route.mtu if route else 0
            if via:
                key = (far_end.ifindex, via)
                if key not in self._hops:
                    self._hops[key] = _Hop(self._adopted.get((far_end.ifindex, far_end.host), b""))
                    fresh[key] = None
                self._hops[key].far_ends.add((far_end.ifindex, far_end.host))
        for ifindex, via in fresh:
            known = self._netlink.neighbour(via, ifindex)
            if known:
                self._hops[ifindex, via].learn(known)
        self._use(fresh)
        self._publish(far_ends)

    def _use(self, hops: Iterable[tuple[int, str]]) -> None:
        # Not the static ones: to be used would make the kernel forget that an operator set them.
        self._netlink.use([key for key in hops if not self._hops[key].static])

    def _leave(self, far_end: _FarEnd) -> None:
        key = (far_end.ifindex, far_end.via)
        hop = self._hops.get(key)
        if hop:
            hop.far_ends.discard((far_end.ifindex, far_end.host))
            if not hop.far_ends:
                del self._hops[key]

    def _publish(self, far_ends: Iterable[_FarEnd]) -> None:
        indices, values = [], []
        for far_end in far_ends:
            link = self._links.get(far_end.ifindex)
            hop = self._hop_of(far_end)
            mac = hop.mac if hop else b""
            mtu = 0
            if link and mac:
                mtu = min(link.mtu, far_end.mtu or link.mtu)
            source = link.mac if link else b""
            indices.append(far_end.index)
            wire = link.wire if link else Wire(far_end.ifindex)
            values.append(pack(mac, source, wire, mtu))
        if indices:
            self._write(indices, values)

    def _link_changed(self, link: Link) -> set[tuple[int, str]]:
        before = self._links.get(link.ifindex)
        if link.name not in self._names and before is None:
            return set()
        if link.gone:
            self._links.pop(link.ifindex, None)
        elif link.mac and link.mtu:  # a change of other things may come without them
            self._links[link.ifindex] = link
        if self._links.get(link.ifindex) == before:
            return set()
        self._on_link(link)
        return {end for end in self._far_ends if end[0] == link.ifindex}

    def _neighbour_changed(self, neighbour: Neighbour) -> set[tuple[int, str]]:
        hop = self._hops.get((neighbour.ifindex, neighbour.host))
        if hop is None or not hop.learn(neighbour):
            return set()
        return set(hop.far_ends)
