"""XdpDatapath: the Datapath of the kernel, one XDP program pinned with its maps.

Knows: flows as values, the maps as bytes, next hops through `neighbours`, interfaces through
`realms`. Decides nothing about calls. The program forwards without this process; a new one reopens
the pins and learns from the maps what is installed, so a restart costs no packet. One process at a
time may hold it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bgf.errors import ConfigError, DatapathError
from bgf.media import _xdp, frames, layout, pins
from bgf.media.capture import PacketCapture
from bgf.media.datapath import Outcome, Report, Tally, Verdict, objection
from bgf.media.differences import Difference, compare
from bgf.media.learning import Learning
from bgf.media.maps import ENTRIES_PER_CALL, Maps
from bgf.media.neighbours import NextHops
from bgf.media.netlink import Link, Netlink, Wire
from bgf.media.pins import ArmedMap, Attachment
from bgf.media.realms import Realms
from bgf.media.silence import SilenceWatch
from bgf.model import Address, Counters, Flow, FlowKey, Group, RtpStatistics

__all__ = ["ENTRIES_PER_CALL", "ArmedMap", "Attachment", "XdpDatapath"]

PINHOLES_MAX_DEFAULT = 65_536
GROUPS_MAX = 256
GUARDED_MAX = 1_024
SNAP_BYTES_MAX = 16_384
CLOCK_HZ_DEFAULT = 8_000

_XDP_DROP, _XDP_PASS = 1, 2
_TRACE_MAC = bytes.fromhex("020000000001")  # a sender of no one's (locally administered)
_log = logging.getLogger("bgf.media")


class _Installed(NamedTuple):
    """What stands in the kernel for a pinhole, and what to give back when it goes."""

    key: bytes
    slot: int
    end: tuple[int, str] | None
    reverse_key: FlowKey


@contextlib.contextmanager
def _kernel(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatapathError(f"{doing}: {error.strerror or error}") from error


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class XdpDatapath:
    """`realms` maps media realms to interface names in this network namespace.

    A VLAN interface is taken for what it is, a tag on the device below. `attach` is native,
    generic, or auto: native, and generic where that is refused, with the reason in `attachments`
    and a warning in the log. `pin_dir` lies on a BPF file system. Raises EnvironmentProblem for
    what the machine lacks and ConfigError for what cannot be configured so. `netlink` is as in
    NextHops.
    """

    def __init__(
        self,
        pin_dir: Path | str,
        realms: Mapping[str, str],
        groups: Sequence[Group],
        *,
        discriminator: int = 0,
        pinholes_max: int = PINHOLES_MAX_DEFAULT,
        attach: str = "auto",
        netlink: Netlink | None = None,
    ) -> None:
        self._pin_dir = Path(pin_dir)
        self._realm_names = dict(realms)
        self._check(groups, pinholes_max, attach)
        self._known: dict[FlowKey, _Installed] = {}
        fds, self.reopened = pins.open_set(
            self._pin_dir,
            {
                "groups": GROUPS_MAX,
                "armed": GROUPS_MAX,
                "guarded": GUARDED_MAX,
                "pinholes": pinholes_max,
                "stats": pinholes_max,
                "streams": pinholes_max,
                "latches": pinholes_max,
                "nexthops": pinholes_max + 1,
                "captured": _xdp.possible_cpus(),
            },
        )
        self._maps = Maps(fds)
        self._next_hops: NextHops | None = None
        self._learning: Learning | None = None
        self._capture: PacketCapture | None = None
        self._poll = select.epoll()
        try:
            with _kernel("reopening the packet path" if self.reopened else "filling its maps"):
                self._start(groups, discriminator, attach, pinholes_max, netlink)
        except BaseException:
            self.close(unpin=not self.reopened)
            raise

    # ---- Datapath -------------------------------------------------------------------------------

    def install(self, flows: Sequence[Flow]) -> None:
        """See Datapath. DatapathError names the flow and the reason; nothing is installed then."""
        wanted = {flow.key: flow for flow in flows}
        fresh = [key for key in wanted if key not in self._known]
        if len(fresh) > len(self._slots):
            raise DatapathError(
                f"{len(self._known) + len(fresh)} pinholes: the table holds {self.pinholes_max}; "
                "raise pinholes_max in [media]"
            )
        plan = [(key, flow, *self._place(flow)) for key, flow in wanted.items()]
        hops = self._hops
        indices = iter(hops.acquire(end for *_, end in plan if end is not None))
        slots = dict(zip(fresh, (self._slots.popleft() for _ in fresh), strict=True))
        slots.update((key, self._known[key].slot) for key in wanted if key in self._known)
        new: dict[FlowKey, _Installed] = {}
        keys, values = [], []
        for flow_key, flow, key, group, end in plan:
            reverse = flow.reverse_key
            place = layout.Place(
                group,
                next(indices) if end is not None else 0,
                slots[flow_key],
                self._realms.wire(flow.realm_out),
                self._peer_slot(reverse, slots) if flow.follows else layout.NO_SLOT,
                flow.remote is not None and flow.remote.host in self._guarded,
                flow_key in self._captured,
            )
            new[flow_key] = _Installed(key, place.slot, end, reverse)
            keys.append(key)
            values.append(layout.pack_pinhole(flow, key, place))
        replaced = [self._known[key] for key in wanted if key in self._known]
        try:
            with _kernel(f"installing {len(keys)} pinholes"):
                self._clear([slots[key] for key in fresh])
                self._learn_by.settle(wanted.values(), slots)
                self._maps.update("pinholes", keys, values)
        except DatapathError:
            # Which of them were written is not known, and a pinhole whose next hop may be given
            # away must not stay: closing all is the safe end of what should not happen.
            self._withdraw(keys)
            self._known.update(new)
            self.remove(new)
            hops.release(old.end for old in replaced if old.end is not None)
            raise
        self._known.update(new)
        written = set(keys)
        self._withdraw([old.key for old in replaced if old.key not in written])
        hops.release(old.end for old in replaced if old.end is not None)
        self._watch(wanted.values())
        with _kernel("leading followers"):
            self._lead(self._learn_by.installed(wanted.values()))

    def remove(self, keys: Iterable[FlowKey]) -> None:
        gone = {key: self._known.pop(key) for key in set(keys) if key in self._known}
        with _kernel(f"removing {len(gone)} pinholes"):
            self._maps.delete("pinholes", [old.key for old in gone.values()])
            # Before a slot is another's: who follows its latch must not follow the new one's.
            self._lead(self._learn_by.removed(gone))
        for key, old in gone.items():
            self._learn_by.forget_follower(key, old.reverse_key)
            self._silence.forget(key)
            self._clocks.pop(key, None)
            self._captured.discard(key)
        self._slots.extend(old.slot for old in gone.values())
        self._hops.release(old.end for old in gone.values() if old.end is not None)

    def arm(self, group: str, deadline_ns: int) -> None:
        index = self._group_index(group)
        with _kernel(f"arming group {group}"):
            self._maps.put("armed", layout.U32.pack(index), layout.U64.pack(deadline_ns))

    def keys(self) -> set[FlowKey]:
        with _kernel("listing the pinholes"):
            dump = self._maps.dump("pinholes", layout.KEY.size)
            return {layout.unpack_key(key)[0] for key, _ in dump}

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        """See Datapath. `bytes` are of UDP payload."""
        return [seen.counters if seen else Counters() for seen in self._seen(keys)]

    def rtp(self, keys: Sequence[FlowKey]) -> list[RtpStatistics]:
        """See Datapath."""
        slots = [layout.U32.pack(self._known[key].slot) for key in keys if key in self._known]
        with _kernel("reading RTP statistics"):
            raw = iter(self._maps.each("streams", slots, layout.STREAM.size))
        return [
            layout.rtp_statistics(seen, next(raw), self._clocks.get(key, CLOCK_HZ_DEFAULT))
            if seen
            else RtpStatistics()
            for key, seen in zip(keys, self._seen(keys), strict=True)
        ]

    def drops(self) -> Mapping[Outcome, int]:
        """See Datapath. PASS is not counted; all others stand there, zero or not."""
        counts: dict[Outcome, int] = {o: 0 for o in layout.OUTCOMES if o is not Outcome.PASS}
        for tally in self.tallies():
            counts[tally.outcome] += tally.packets
        return counts

    def tallies(self) -> list[Tally]:
        """See Datapath. Frames of other VLANs stand under a realm of their own."""
        rows = self._realms.rows()
        cells = [(row, at) for row in rows for at in range(len(layout.OUTCOMES))]
        where = [layout.U32.pack(row * _xdp.ROW + at) for row, at in cells]
        with _kernel("reading the packet counts"):
            found = self._maps.each("outcomes", where, layout.U64.size * _xdp.possible_cpus())
        return [
            Tally(rows[row], cpu, layout.OUTCOMES[at], packets)
            for (row, at), raw in zip(cells, found, strict=True)
            for cpu, (packets,) in enumerate(layout.U64.iter_unpack(raw))
            if packets
        ]

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        """See Datapath. Changes no counter. Raises DatapathError for what is no such packet."""
        if sender.family is not receiver.family:
            raise DatapathError(f"no packet goes from {sender} to {receiver}: two IP versions")
        wire = self._realms.wire(realm)
        mac = self._realms.link(realm).mac
        frame = frames.build(sender, receiver, payload, destination_mac=mac, source_mac=_TRACE_MAC)
        if wire.vlan:
            frame = frames.tagged(frame, wire.vlan)
        note = layout.TRACE.pack(_xdp.TRACE_MAGIC, 0, 0, 0)
        context = layout.XDP_MD.pack(len(note), len(note) + len(frame), 0, wire.ifindex, 0, 0)
        with _kernel(f"tracing a packet of {len(frame)} bytes"):
            action, out, _, context = _xdp.prog_test_run(
                self._maps.fds[pins.PROGRAM], note + frame, context
            )
        _, outcome, ifindex, vlan = layout.TRACE.unpack_from(out)
        frame = out[layout.XDP_MD.unpack(context)[0] :]
        verdict = layout.OUTCOMES[outcome]
        if action == _XDP_DROP:
            return Verdict(verdict)
        datagram = frames.read(frames.untagged(frame))
        return Verdict(
            verdict,
            "" if action == _XDP_PASS else self._realms.name_of(Wire(ifindex, vlan)),
            datagram.sender if datagram else None,
            datagram.receiver if datagram else None,
            frame,
        )

    def relatch(self, key: FlowKey) -> None:
        """See Datapath."""
        with _kernel(f"letting {key} learn anew"):
            self._learn_by.relatch(key)

    def reports(self) -> list[Report]:
        """See Datapath."""
        with _kernel("reading what was learned"):
            self._learn_by.drain()
            learned = self._learn_by.take()
            silent = self._silent()
        return [*learned, *silent]

    def capture(self, keys: Iterable[FlowKey], snap_bytes: int = 256) -> PacketCapture:
        """See Datapath."""
        if self._capture is not None:
            raise DatapathError("another capture is running: end it first")
        if not 0 < snap_bytes <= SNAP_BYTES_MAX:
            raise DatapathError(f"{snap_bytes} bytes of each frame: use 1 to {SNAP_BYTES_MAX}")
        with _kernel("capturing"):
            self._write_config(snap_bytes)
            self._capture = PacketCapture(
                self._maps.fds["captured"], self._realms.name_of, self._end_capture
            )
            self._captured.update(key for key in keys if key in self._known)
            self._mark(self._captured, True)
        return self._capture

    def differences(self, flows: Iterable[Flow]) -> dict[FlowKey, Difference]:
        """By key, what the maps hold otherwise than these flows say; what agrees is left out."""

        def standing(flow: Flow, now: layout.Pinhole) -> tuple[bytes, layout.Place]:
            key, group, end = self._place(flow)
            known = self._known[flow.key]
            peer = self._peer_slot(flow.reverse_key, {}) if flow.follows else layout.NO_SLOT
            hairpin = flow.remote is not None and flow.remote.host in self._guarded
            hop, wire = now.nexthop if end == known.end else 0, self._realms.wire(flow.realm_out)
            return key, layout.Place(group, hop, known.slot, wire, peer, hairpin)

        with _kernel("comparing the maps"):
            return compare(flows, self._maps, set(self._known), standing)

    # ---- for the process that runs it -----------------------------------------------------------

    @property
    def attachments(self) -> dict[str, Attachment]:
        """By interface name: native or generic, and why not native."""
        return dict(self._realms.attachments)

    @property
    def pinholes_max(self) -> int:
        """Pinholes that the pinned table holds."""
        return self._capacity

    @property
    def unresolved(self) -> list[str]:
        """Far ends whose next hop is not known now."""
        return self._hops.unresolved

    def fileno(self) -> int:
        """Readable when `process` has something to do: netlink, or a peer learned."""
        return self._poll.fileno()

    def process(self) -> None:
        """Follow what the kernel announced: neighbours, links, routes, learned peers."""
        with _kernel("following netlink"):
            self._hops.process()
        self._learn_by.drain()

    def refresh(self) -> None:
        """Keep neighbours confirmed, retry the unresolved, look for peers whose report was lost:
        call it every second or few."""
        with _kernel("refreshing neighbours"):
            self._hops.refresh()
            self._learn_by.look()

    def close(self, unpin: bool = False) -> None:
        """Let go of it; the packet path goes on unless `unpin`. A second call does nothing."""
        if self._capture:
            self._capture.close()
        if self._learning:
            self._learning.close()
            self._learning = None
        if self._next_hops:
            self._next_hops.close()
            self._next_hops = None
        self._poll.close()
        self._maps.close()
        if unpin:
            self.unpin()

    def unpin(self) -> None:
        """Detach the program and remove all pins: the packet path ends when this is closed."""
        pins.remove(self._pin_dir)

    def __enter__(self) -> XdpDatapath:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ---------------------------------------------------------------------------------

    def _check(self, groups: Sequence[Group], pinholes_max: int, attach: str) -> None:
        if attach not in pins.ATTACH_MODES:
            raise ConfigError(f"media.attach is '{attach}': use {', '.join(pins.ATTACH_MODES)}")
        if not 1 <= pinholes_max <= 1 << 24:
            raise ConfigError(f"media.pinholes_max is {pinholes_max}: use 1 to {1 << 24}")
        if len(groups) > GROUPS_MAX:
            raise ConfigError(f"{len(groups)} groups: the packet path knows {GROUPS_MAX} at most")
        for group in groups:
            if not 0 < len(group.id.encode()) <= _xdp.GROUP_ID_LEN:
                raise ConfigError(f"group id '{group.id}' is not 1 to {_xdp.GROUP_ID_LEN} bytes")
            for address in group.addresses:
                if address.realm not in self._realm_names:
                    raise ConfigError(
                        f"group {group.id}: address {address.host} is in realm {address.realm}, "
                        "which carries no media"
                    )
                if address.host == group.control.host:
                    raise ConfigError(
                        f"group {group.id}: {address.host} cannot be control and media address "
                        "at once: media addresses take only what has a pinhole"
                    )
        if sum(len(group.addresses) for group in groups) > GUARDED_MAX:
            raise ConfigError(f"more than {GUARDED_MAX} media addresses in all groups together")

    _realms: Realms

    def _start(
        self,
        groups: Sequence[Group],
        discriminator: int,
        attach: str,
        pinholes_max: int,
        netlink: Netlink | None,
    ) -> None:
        self._capacity = min(self._maps.capacity(m) for m in ("pinholes", "stats"))
        if self._capacity != pinholes_max:
            _log.warning(
                "the pinned packet path holds %d pinholes, not the configured %d: "
                "remove the pins while the node is stopped to change it",
                self._capacity,
                pinholes_max,
            )
        self._stats_bytes = layout.STATS.size * _xdp.possible_cpus()
        self._slots: deque[int] = deque(range(self._capacity))
        self._discriminator = discriminator
        self._silence = SilenceWatch()
        self._armed_since: dict[str, int] = {}
        self._clocks: dict[FlowKey, int] = {}
        self._captured: set[FlowKey] = set()
        self._next_hops = NextHops(
            self._realm_names.values(),
            self._write_next_hops,
            self._maps.capacity("nexthops"),
            self._link_changed,
            netlink,
        )
        self._learning = Learning(self._maps, self._slot_of)
        self._poll.register(self._next_hops.fileno(), select.EPOLLIN)
        self._poll.register(self._maps.fds["reports"], select.EPOLLIN)
        self._realms = Realms(self._realm_names, self._maps, self._pin_dir, self._next_hops)
        self._write_config(0)
        self._groups = self._write_groups(groups)
        addresses = {a.host: self._groups[group.id] for group in groups for a in group.addresses}
        self._guarded = frozenset(addresses)
        self._maps.make_exactly(
            "guarded",
            len(layout.pack_address("::")),
            {layout.pack_address(host): layout.U32.pack(at) for host, at in addresses.items()},
        )
        self._realms.write()
        if self.reopened:
            self._learn()
        self._realms.attach(attach)

    def _write_groups(self, groups: Sequence[Group]) -> dict[str, int]:
        """An index for each group: the one it had, or a free one, in the order of their ids."""
        known = pins.read_groups(self._maps.fds["groups"])
        ids = sorted(group.id for group in groups)
        for name in sorted(set(known) - set(ids)):
            index = layout.U32.pack(known.pop(name))
            self._maps.put("armed", index, layout.U64.pack(0))
            self._maps.put("groups", index, bytes(_xdp.GROUP_ID_LEN))
        free = iter(sorted(set(range(GROUPS_MAX)) - set(known.values())))
        for name in ids:
            if name not in known:
                known[name] = next(free)
                self._maps.put(
                    "groups",
                    layout.U32.pack(known[name]),
                    name.encode().ljust(_xdp.GROUP_ID_LEN, b"\0"),
                )
        return known

    def _learn(self) -> None:
        """What an earlier process installed: its slots and next hops. Drops what cannot match."""
        groups = set(self._groups.values())
        used, stale, marked = set(), [], []
        for key, raw in self._maps.dump("pinholes", layout.KEY.size):
            pinhole = layout.unpack_pinhole(raw)
            if pinhole.wire not in self._realms.wires or pinhole.group not in groups:
                stale.append(key)
                continue
            end = None
            if pinhole.nexthop and pinhole.remote:
                value = self._maps.get("nexthops", layout.U32.pack(pinhole.nexthop))
                if value:
                    end = self._hops.adopt(pinhole.remote, pinhole.nexthop, value)
            used.add(pinhole.slot)
            self._known[pinhole.key] = _Installed(key, pinhole.slot, end, pinhole.reverse_key)
            self._learn_by.adopt(pinhole.key, pinhole.flags, pinhole.reverse_key)
            if pinhole.flags & _xdp.CAPTURED:
                marked.append(pinhole.key)
        self._maps.delete("pinholes", stale)
        self._slots = deque(s for s in self._slots if s not in used)
        self._mark(marked, False)
        self._hops.resolve_adopted()

    @property
    def _hops(self) -> NextHops:
        if self._next_hops is None:
            raise DatapathError("the packet path is closed")
        return self._next_hops

    @property
    def _learn_by(self) -> Learning:
        if self._learning is None:
            raise DatapathError("the packet path is closed")
        return self._learning

    def _group_index(self, group: str) -> int:
        try:
            return self._groups[group]
        except KeyError:
            raise DatapathError(f"group '{group}' is not configured on this node") from None

    def _slot_of(self, key: FlowKey) -> int | None:
        found = self._known.get(key)
        return found.slot if found else None

    def _peer_slot(self, key: FlowKey, slots: Mapping[FlowKey, int]) -> int:
        slot = slots.get(key, self._slot_of(key))
        return layout.NO_SLOT if slot is None else slot

    def _place(self, flow: Flow) -> tuple[bytes, int, tuple[int, str] | None]:
        """Its key, its group's index, and the far end it leads to."""
        group = self._group_index(flow.group)
        key = layout.pack_key(flow.local_in, self._realms.wire(flow.realm_in))
        leaving = self._realms.ifindex(flow.realm_out)
        problem = objection(flow)
        if problem:
            raise DatapathError(f"flow {flow.key}: {problem}")
        return key, group, (leaving, flow.remote.host) if flow.remote else None

    def _seen(self, keys: Sequence[FlowKey]) -> list[layout.Seen | None]:
        known = [self._known.get(key) for key in keys]
        slots = [layout.U32.pack(found.slot) for found in known if found]
        with _kernel("reading counters"):
            values = iter(self._maps.each("stats", slots, self._stats_bytes))
        return [layout.sum_stats(next(values)) if found else None for found in known]

    def _clear(self, slots: Sequence[int]) -> None:
        where = [layout.U32.pack(slot) for slot in slots]
        self._maps.update("stats", where, [bytes(self._stats_bytes)] * len(where))
        self._maps.update("streams", where, [bytes(layout.STREAM.size)] * len(where))

    def _watch(self, flows: Iterable[Flow]) -> None:
        now_ns = _now_ns()
        for flow in flows:
            key = flow.key
            limit_ms = flow.inactivity_ms if layout.is_open(flow) else 0
            self._silence.watch(key, flow.group, limit_ms, now_ns)
            if flow.rtp and flow.rtp.clock_hz != CLOCK_HZ_DEFAULT:
                self._clocks[key] = flow.rtp.clock_hz
            else:
                self._clocks.pop(key, None)

    def _silent(self) -> list[Report]:
        if not self._silence:
            return []
        now_ns = _now_ns()
        for group, index in self._groups.items():
            deadline = self._maps.get("armed", layout.U32.pack(index))
            if deadline and now_ns < layout.U64.unpack(deadline)[0]:
                self._armed_since.setdefault(group, now_ns)
            else:
                self._armed_since.pop(group, None)

        def last_seen(keys: Sequence[FlowKey]) -> list[int]:
            return [count.last_seen_ns for count in self.counters(keys)]

        return list(self._silence.due(now_ns, self._armed_since, last_seen))

    def _patch(self, keys: Iterable[FlowKey], change: Callable[[FlowKey, bytes], bytes]) -> None:
        """Write pinholes anew with one thing changed."""
        there = [(key, self._known[key].key) for key in keys if key in self._known]
        values = [(raw, key, self._maps.get("pinholes", raw)) for key, raw in there]
        found = [(raw, change(key, value)) for raw, key, value in values if value]
        self._maps.update("pinholes", [raw for raw, _ in found], [value for _, value in found])

    def _lead(self, followers: Iterable[FlowKey]) -> None:
        def lead(key: FlowKey, raw: bytes) -> bytes:
            return layout.with_peer(raw, self._peer_slot(self._known[key].reverse_key, {}))

        self._patch(followers, lead)

    def _mark(self, keys: Iterable[FlowKey], captured: bool) -> None:
        self._patch(keys, lambda _, raw: layout.with_capture(raw, captured))

    def _end_capture(self) -> None:
        with _kernel("ending a capture"):
            self._mark(self._captured, False)
        self._captured.clear()
        self._capture = None

    def _write_config(self, snap_bytes: int) -> None:
        value = layout.CONFIG.pack(_xdp.LAYOUT, self._discriminator, snap_bytes)
        self._maps.put("config", layout.U32.pack(0), value)

    def _link_changed(self, link: Link) -> None:
        self._realms.link_changed(link)

    def _write_next_hops(self, indices: list[int], values: list[bytes]) -> None:
        self._maps.update("nexthops", [layout.U32.pack(i) for i in indices], values)

    def _withdraw(self, keys: Sequence[bytes]) -> None:
        with contextlib.suppress(OSError):
            self._maps.delete("pinholes", keys)
