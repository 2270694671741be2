"""Realms on interfaces: which device and VLAN each has, the program on it, its row of counts.

Knows: links as netlink tells them, the `interfaces` map, the pinned links. A realm may be a VLAN
interface: the program then runs on the device below and takes the tags off and puts them on
itself, so no VLAN needs generic XDP. Knows no flows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from bgf.errors import DatapathError, EnvironmentProblem
from bgf.media import _xdp, layout, pins
from bgf.media.maps import Maps
from bgf.media.neighbours import NextHops
from bgf.media.netlink import Link, Wire
from bgf.media.pins import Attachment

VLANS_ELSEWHERE = "other VLANs"
"""The `realm` of counts of frames with a tag that no realm has."""

_MODES = {1: "native", 2: "generic", 3: "offloaded"}
_log = logging.getLogger("bgf.media")


class Realms:
    """`names` maps realms to interfaces. Raises EnvironmentProblem for one that is not there."""

    def __init__(self, names: Mapping[str, str], maps: Maps, pin_dir: Path, hops: NextHops) -> None:
        self._names = dict(names)
        self._maps = maps
        self._pin_dir = pin_dir
        self._hops = hops
        self.attachments: dict[str, Attachment] = {}
        by_name = {link.name: link for link in hops.links.values()}
        for realm, name in self._names.items():
            if name not in by_name:
                raise EnvironmentProblem(
                    f"realm {realm}: there is no interface '{name}' in this network namespace"
                )
        self._links = {realm: by_name[name].ifindex for realm, name in self._names.items()}
        self._wires = {realm: by_name[name].wire for realm, name in self._names.items()}
        places = layout.place_interfaces(set(self._wires.values()))
        if places is None:
            raise EnvironmentProblem(
                "the media interfaces' indices fall together: create them anew, or use fewer"
            )
        self._places = places

    @property
    def names(self) -> list[str]:
        """The realms."""
        return list(self._names)

    @property
    def wires(self) -> set[Wire]:
        return set(self._wires.values())

    def ifindex(self, realm: str) -> int:
        """Of the realm's interface as the kernel routes by it. Raises DatapathError."""
        try:
            return self._links[realm]
        except KeyError:
            raise DatapathError(
                f"realm '{realm}' carries no media here: {', '.join(sorted(self._names))} do"
            ) from None

    def wire(self, realm: str) -> Wire:
        """Where its frames come and go. Raises DatapathError."""
        self.ifindex(realm)
        return self._wires[realm]

    def link(self, realm: str) -> Link:
        return self._hops.links[self.ifindex(realm)]

    def name_of(self, wire: Wire) -> str:
        """The interface's name."""
        for link in self._hops.links.values():
            if link.wire == wire:
                return link.name
        return f"ifindex {wire.ifindex}" + (f" VLAN {wire.vlan}" if wire.vlan else "")

    def rows(self) -> dict[int, str]:
        """Row of the counts -> realm; realms on one interface are named together."""
        named: dict[int, list[str]] = {}
        for realm, wire in self._wires.items():
            named.setdefault(self._places[wire], []).append(realm)
        rows = {row: "+".join(sorted(realms)) for row, realms in named.items()}
        return rows | {_xdp.INTERFACE_PLACES: VLANS_ELSEWHERE}

    def write(self) -> None:
        """Fill the table of interfaces."""
        for realm in self._names:
            self._write(self.link(realm))
        empty = sorted(set(range(_xdp.INTERFACE_PLACES)) - set(self._places.values()))
        nobody = [layout.INTERFACE.pack(0, 0, bytes(6), 0)] * len(empty)
        self._maps.update("interfaces", [layout.U32.pack(place) for place in empty], nobody)

    def attach(self, mode: str) -> None:
        """Have the program run on every device below a realm, and on no other."""
        program = self._maps.fds[pins.PROGRAM]
        links = {link.ifindex: link for link in self._hops.read_links()}
        devices = {links[wire.ifindex].name: wire.ifindex for wire in self.wires}
        pins.detach_others(self._pin_dir, devices)
        reasons = {
            name: pins.attach(self._pin_dir, program, name, ifindex, mode)
            for name, ifindex in devices.items()
        }
        # How it sits there now, by the kernel's own account.
        attached = {link.name: link.xdp for link in self._hops.read_links()}
        self.attachments = {}
        for name, reason in reasons.items():
            found = _MODES.get(attached.get(name, 0), "none")
            why = "" if found == "native" else reason or "attached so earlier"
            self.attachments[name] = Attachment(found, why)

    def link_changed(self, link: Link) -> None:
        """What netlink says of one of the interfaces."""
        if link.ifindex not in self._links.values():
            _log.error(
                "interface %s was made anew: restart the gateway process to attach to it", link.name
            )
        elif link.gone:
            _log.error("interface %s is gone: its media stops", link.name)
        else:
            self._write(link)

    def _write(self, link: Link) -> None:
        wire = next(self._wires[r] for r, ifindex in self._links.items() if ifindex == link.ifindex)
        key = layout.U32.pack(self._places[wire])
        value = layout.INTERFACE.pack(wire.ifindex, link.mtu, link.mac, wire.vlan)
        self._maps.put("interfaces", key, value)
