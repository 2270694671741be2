"""Who has been learned by which flow: latches written and read, followers led, reports told.

Knows: the `latches` map, the ring of reports, which flow follows which. The program learns by
itself; this only says where it starts from and passes on what it has learned. Knows no next hops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bgf.media import _xdp, layout
from bgf.media.datapath import PeerLearned
from bgf.media.layout import LatchState, Pinhole
from bgf.media.maps import Maps
from bgf.model import Address, Flow, FlowKey, Latch

LOOKS_MAX = 4_096
"""Latches that one `look` reads; the rest by the next."""


class Led(NamedTuple):
    """A follower: whose latch it goes by, and where it sends while that has learned nobody."""

    leader: FlowKey
    remote: Address | None


class Learning:
    """`slot_of` says where a flow's pinhole keeps its counts; None when there is none."""

    def __init__(self, maps: Maps, slot_of: Callable[[FlowKey], int | None]) -> None:
        self._maps = maps
        self._slot_of = slot_of
        self._modes: dict[FlowKey, Latch] = {}
        self._followers: dict[FlowKey, list[FlowKey]] = {}  # RTP, and RTCP that shares its port
        self._led: dict[FlowKey, Led] = {}
        self._untold: dict[FlowKey, None] = {}
        self._ring: object | None = _xdp.report_ring(maps.fds["reports"])
        self._found: list[PeerLearned] = []

    # ---- as pinholes come and go ----------------------------------------------------------------

    def adopt(self, pinhole: Pinhole) -> None:
        """A pinhole of an earlier process. Where a follower was to send without its latch is told
        by its flow, when that is installed again."""
        if pinhole.flags & _xdp.LATCH:
            self._modes[pinhole.key] = Latch.LATCH
            self._await(pinhole.key)
        if pinhole.flags & _xdp.FOLLOW:
            self._follow(pinhole.key, Led(pinhole.reverse_key, pinhole.remote))

    def settle(self, flows: Iterable[Flow], slots: Mapping[FlowKey, int]) -> None:
        """Write the latches of these flows before their pinholes are written."""
        touched = [flow for flow in flows if flow.latch.learns or flow.key in self._modes]
        if not touched:
            return
        where = [layout.U32.pack(slots[flow.key]) for flow in touched]
        found = self._maps.each("latches", where, layout.LATCH.size)
        keys, values = [], []
        for flow, key, raw in zip(touched, where, found, strict=True):
            old = layout.unpack_latch(raw) if flow.key in self._modes else None
            new = layout.settle_latch(flow, old) if flow.latch.learns else LatchState()
            if new != old:
                keys.append(key)
                values.append(layout.pack_latch(new))
        self._maps.update("latches", keys, values)

    def installed(self, flows: Iterable[Flow]) -> list[FlowKey]:
        """What is installed now; returns whom to lead anew: followers of these flows."""
        led: list[FlowKey] = []
        for flow in flows:
            key = flow.key
            self._unfollow(key)
            if flow.latch.learns:
                self._modes[key] = flow.latch
                if flow.learned is None:
                    self._await(key)
            elif self._modes.pop(key, None) is not None:
                self._untold.pop(key, None)
            if flow.follows:
                self._follow(key, Led(flow.reverse_key, flow.remote))
            led += self._followers.get(key, ())
        return led

    def removed(self, keys: Iterable[FlowKey]) -> list[FlowKey]:
        """These are gone; returns the followers who must not go on after them."""
        led: list[FlowKey] = []
        for key in keys:
            self._unfollow(key)
            self._modes.pop(key, None)
            self._untold.pop(key, None)
            led += self._followers.get(key, ())
        return led

    def led(self, key: FlowKey) -> Led | None:
        """What is known of a follower; None for who follows nobody."""
        return self._led.get(key)

    def _follow(self, key: FlowKey, led: Led) -> None:
        self._led[key] = led
        self._followers.setdefault(led.leader, []).append(key)

    def _unfollow(self, key: FlowKey) -> None:
        led = self._led.pop(key, None)
        if led is not None:
            self._followers[led.leader].remove(key)
            if not self._followers[led.leader]:
                del self._followers[led.leader]

    def latch(self, slot: int) -> bytes:
        """struct bgf_latch of a slot."""
        return self._maps.get("latches", layout.U32.pack(slot)) or bytes(layout.LATCH.size)

    def peer(self, slot: int) -> Address | None:
        """Who the latch of a slot has learned; None while that is nobody, or being written."""
        rows, at = self._maps.mapped("latches"), slot * layout.LATCH.size
        raw = rows[at : at + layout.LATCH.size]
        latch = layout.unpack_latch(raw)
        if latch.state not in (_xdp.LATCH_SET, _xdp.LATCH_REPLACE):
            return None
        return latch.peer if rows[at : at + layout.LATCH.size] == raw else None

    def relatch(self, key: FlowKey) -> list[FlowKey]:
        """Let a flow learn anew; returns whom to lead anew."""
        slot, mode = self._slot_of(key), self._modes.get(key)
        if slot is None or mode is None:
            return []
        where = layout.U32.pack(slot)
        raw = self._maps.get("latches", where)
        if raw is not None:
            state = layout.unlatch(mode, layout.unpack_latch(raw))
            self._maps.put("latches", where, layout.pack_latch(state))
            self._await(key)
        return list(self._followers.get(key, ()))

    # ---- what was learned -----------------------------------------------------------------------

    def drain(self) -> None:
        """Take the reports out of the ring."""
        while self._ring is not None:
            records = _xdp.report_drain(self._ring)
            for record in records:
                raw_key, host, _, latch_round, port = layout.REPORT.unpack(record)
                key, _ = layout.unpack_key(raw_key)
                peer = Address(layout.unpack_address(host), int.from_bytes(port, "big"))
                self._tell(key, peer, latch_round)
            if not records:
                return

    def look(self) -> None:
        """Read the latches of whom nothing was heard: a full ring loses reports, a map nothing."""
        asked = list(itertools.islice(self._untold, LOOKS_MAX))
        for key in asked:  # to the end of the queue
            del self._untold[key]
            self._untold[key] = None
        where = [layout.U32.pack(self._slot_of(key) or 0) for key in asked]
        for key, raw in zip(
            asked, self._maps.each("latches", where, layout.LATCH.size), strict=True
        ):
            latch: LatchState = layout.unpack_latch(raw)
            if latch.state == _xdp.LATCH_SET and latch.peer is not None:
                self._tell(key, latch.peer, latch.round)

    def take(self) -> list[PeerLearned]:
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        self._ring = None

    def _await(self, key: FlowKey) -> None:
        self._untold.setdefault(key)

    def _tell(self, key: FlowKey, peer: Address, latch_round: int) -> None:
        if key in self._modes:
            self._untold.pop(key, None)
            self._found.append(PeerLearned(key, peer, latch_round))
