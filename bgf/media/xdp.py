"""XdpDatapath: the Datapath of the kernel, one XDP program pinned with its maps.

Knows: flows as values, the maps as bytes, next hops through `neighbours`, interfaces through
`realms`. Decides nothing about calls. The program forwards without this process; a new one reopens
the pins and learns from the maps what is installed, so a restart costs no packet. One process at a
time may hold it.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bgf.errors import ConfigError, DatapathError
from bgf.media import _xdp, frames, layout, leading, pins
from bgf.media.capture import PacketCapture
from bgf.media.checks import Checks
from bgf.media.datapath import Outcome, Report, Tally, Verdict
from bgf.media.differences import Difference, compare
from bgf.media.learning import Learning
from bgf.media.maps import ENTRIES_PER_CALL, Maps
from bgf.media.neighbours import NextHops
from bgf.media.netlink import Link, Netlink, Wire
from bgf.media.pinholes import Pinholes, Plan
from bgf.media.pins import ArmedMap, Attachment
from bgf.media.places import Places
from bgf.media.realms import Realms
from bgf.media.silence import SilenceWatch
from bgf.model import Address, Counters, Flow, FlowKey, Group, RtpStatistics

__all__ = ["ENTRIES_PER_CALL", "ArmedMap", "Attachment", "XdpDatapath"]

PINHOLES_MAX_DEFAULT = 65_536
GROUPS_MAX = 256
GUARDED_MAX = 1_024
ROWS_MIN, ROWS_SPARE = 15, 8
"""Of ports, 256 KiB each: for how many addresses there is room at least, and beyond those known."""
SNAP_BYTES_MAX = 16_384
CLOCK_HZ_DEFAULT = 8_000

_XDP_DROP, _XDP_PASS = 1, 2
_TRACE_MAC = bytes.fromhex("020000000001")  # a sender of no one's (locally administered)
_log = logging.getLogger("bgf.media")


class _kernel:  # noqa: N801 - used like a function; a generator would cost every command more
    """The kernel's errors as the datapath's: what was being done, and why it failed."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        if isinstance(error, OSError):
            raise DatapathError(f"{self._doing}: {error.strerror or error}") from error


def _check_snap(snap_bytes: int) -> None:
    if not 0 < snap_bytes <= SNAP_BYTES_MAX:
        raise DatapathError(f"{snap_bytes} bytes of each frame: use 1 to {SNAP_BYTES_MAX}")


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _ports_rows(groups: Sequence[Group]) -> int:
    """Rows of ports: one for each address, with room for some more, and one for nobody."""
    addresses = {address.host for group in groups for address in group.addresses}
    return 1 + max(ROWS_MIN, len(addresses) + ROWS_SPARE)


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
        fds, self.reopened = pins.open_set(
            self._pin_dir,
            {
                "cpus": _xdp.possible_cpus(),
                "groups": GROUPS_MAX,
                "armed": GROUPS_MAX,
                "ports": _ports_rows(groups),
                "pinholes": pinholes_max,
                "stats": pinholes_max * _xdp.possible_cpus(),
                "latches": pinholes_max,
                "nexthops": pinholes_max + 1,
                "captured": _xdp.possible_cpus(),
                "checks": _xdp.possible_cpus(),
            },
        )
        self._maps = Maps(fds)
        self._next_hops: NextHops | None = None
        self._learning: Learning | None = None
        self._capture: PacketCapture | None = None
        self._checks: Checks | None = None
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
        table = self._table
        plan = table.plan(flows)
        # Of two the later.
        special = {plan.flows[at].key: plan.flows[at] for at in plan.special}
        with _kernel(f"installing {len(plan.flows)} pinholes"):
            if special:
                slots = {plan.flows[at].key: plan.slot(at) for at in plan.special}
                self._learn_by.settle((plan.flows[at] for at in plan.special), slots)
                self._finish(plan)
            table.commit(plan)
            if special:
                self._watch(special)
                led = self._learn_by.installed(special.values())
                self._lead(key for key in led if key not in special)

    def remove(self, keys: Iterable[FlowKey]) -> None:
        gone = list(keys)
        with _kernel(f"removing {len(gone)} pinholes"):
            odd = self._table.remove(gone)
            # Before a slot is another's: who follows its latch must not follow the new one's.
            self._lead(self._learn_by.removed(odd))
        for key in odd:
            self._silence.forget(key)
            self._clocks.pop(key, None)
            self._captured.discard(key)

    def arm(self, group: str, deadline_ns: int) -> None:
        index = self._group_index(group)
        with _kernel(f"arming group {group}"):
            self._maps.put("armed", layout.U32.pack(index), layout.U64.pack(deadline_ns))

    def keys(self) -> set[FlowKey]:
        return self._table.keys()

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        """See Datapath. `bytes` are of UDP payload."""
        with _kernel("reading counters"):
            return [seen.counters if seen else Counters() for seen in self._table.seen(keys)]

    def rtp(self, keys: Sequence[FlowKey]) -> list[RtpStatistics]:
        """See Datapath."""
        return self.measured(keys)[1]

    def measured(self, keys: Sequence[FlowKey]) -> tuple[list[Counters], list[RtpStatistics]]:
        """See Datapath."""
        with _kernel("reading counters and RTP statistics"):
            found = self._table.seen_with_streams(keys)
        counts: list[Counters] = []
        told: list[RtpStatistics] = []
        for key, one in zip(keys, found, strict=True):
            if one is None:
                counts.append(layout.NO_COUNTERS)
                told.append(layout.NO_RTP)
                continue
            seen, stream = one
            counts.append(seen.counters)
            clock_hz = self._clocks.get(key, CLOCK_HZ_DEFAULT)
            told.append(layout.rtp_statistics(seen, stream, clock_hz))
        return counts, told

    def drops(self) -> Mapping[Outcome, int]:
        """See Datapath. PASS is not counted; all others stand there, zero or not."""
        counts: dict[Outcome, int] = {o: 0 for o in layout.OUTCOMES if o is not Outcome.PASS}
        for tally in self.tallies():
            counts[tally.outcome] += tally.packets
        return counts

    def tallies(self) -> list[Tally]:
        """See Datapath. Frames of other VLANs stand under a realm of their own."""
        rows = self._realms.rows()
        cpus = self._maps.mapped("cpus")
        return [
            Tally(rows[row], cpu, outcome, packets)
            for row in rows
            for cpu in range(_xdp.possible_cpus())
            for outcome, packets in zip(
                layout.OUTCOMES,
                layout.COUNTS.unpack_from(cpus, layout.counts_at(cpu, row)),
                strict=True,
            )
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
            self._lead(self._learn_by.relatch(key))

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
        _check_snap(snap_bytes)
        with _kernel("capturing"):
            self._capture = PacketCapture(
                self._maps.fds["captured"],
                self._realms.name_of,
                self._capture_these,
                self._end_capture,
            )
        self._capture_these(keys, snap_bytes)
        return self._capture

    def differences(self, flows: Iterable[Flow]) -> dict[FlowKey, Difference]:
        """By key, what the maps hold otherwise than these flows say; what agrees is left out."""
        with _kernel("comparing the maps"):
            known, found = [], {}
            for flow in flows:
                if self._table.slot_of(flow.key) is None:
                    found[flow.key] = Difference.MISSING
                else:
                    known.append(flow)
            plan = self._table.plan(known, add_hops=False)
            self._finish(plan, captured=False)
            # Most are as they should be, and that takes no look at each.
            odd = sorted({*plan.special, *self._table.differing(plan)})
            there = self._table.read(plan.flows[at].key for at in odd)
            return found | compare(plan, odd, there, self._learn_by.latch)

    # ---- for the process that runs it -----------------------------------------------------------

    @property
    def checks(self) -> Checks:
        """STUN checks at pinholes with ICE; for one reader."""
        if self._checks is None:
            raise DatapathError("the packet path is closed")
        return self._checks

    @property
    def attachments(self) -> dict[str, Attachment]:
        """By interface name: native or generic, and why not native."""
        return dict(self._realms.attachments)

    @property
    def pinholes_max(self) -> int:
        """Pinholes that the pinned table holds."""
        return self._table.capacity

    @property
    def capacity(self) -> int:
        """For how many pinholes there is room in all."""
        return self._table.capacity

    @property
    def installed(self) -> int:
        """How many pinholes there are, without asking the kernel."""
        return len(self._table)

    @property
    def unresolved(self) -> list[str]:
        """Far ends whose next hop does not answer now or is not known."""
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
            self._table.tidy()
            self._hops.refresh()
            self._learn_by.look()

    def close(self, unpin: bool = False) -> None:
        """Let go of it; the packet path goes on unless `unpin`. A second call does nothing."""
        if self._capture:
            self._capture.close()
        if self._checks:
            self._checks.close()
            self._checks = None
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
    _table: Pinholes

    def _start(
        self,
        groups: Sequence[Group],
        discriminator: int,
        attach: str,
        pinholes_max: int,
        netlink: Netlink | None,
    ) -> None:
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
        self._poll.register(self._next_hops.fileno(), select.EPOLLIN)
        self._poll.register(self._maps.fds["reports"], select.EPOLLIN)
        self._checks = Checks(self._maps.fds["checks"])
        self._realms = Realms(self._realm_names, self._maps, self._pin_dir, self._next_hops)
        self._write_config(0)
        self._groups = self._write_groups(groups)
        wires = {a.host: self._realms.wire(a.realm) for group in groups for a in group.addresses}
        places = Places(self._maps)
        self._table = Pinholes(
            self._maps,
            self._realms,
            self._next_hops,
            places,
            groups=self._groups,
            guarded=frozenset(wires),
        )
        if self._table.capacity != pinholes_max:
            _log.warning(
                "the pinned packet path holds %d pinholes, not the configured %d: "
                "remove the pins while the node is stopped to change it",
                self._table.capacity,
                pinholes_max,
            )
        self._learning = Learning(self._maps, self._table.slot_of)
        in_use = []
        if self.reopened:
            in_use = self._learn()
        else:
            self._table.begin()
        places.guard(wires, in_use)
        self._realms.write()
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

    def _learn(self) -> list[str]:
        """What an earlier process installed, and its local hosts; captures of its end here."""
        marked = []
        hosts, special = self._table.learn()
        for pinhole in special:
            if pinhole.flags & (_xdp.LATCH | _xdp.FOLLOW):
                self._learn_by.adopt(pinhole)
            if pinhole.flags & _xdp.CAPTURED:
                marked.append(pinhole.key)
        self._mark(marked, False)
        return sorted(hosts)

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

    def _finish(self, plan: Plan, captured: bool = True) -> None:
        """What packing leaves open in the pinholes: whom to follow, whom to capture."""
        leading.finish(plan, self._table, self._learn_by, add_hops=captured)
        for at in plan.special if captured and self._captured else ():
            if plan.flows[at].key in self._captured:
                flags = plan.field(at, layout.FLAGS_AT) | _xdp.CAPTURED
                plan.patch(at, layout.FLAGS_AT, flags)

    def _watch(self, special: Mapping[FlowKey, Flow]) -> None:
        now_ns = _now_ns()
        for (key, flow), slot in zip(
            special.items(), self._table.slots_of(list(special)), strict=True
        ):
            limit_ms = flow.inactivity_ms if layout.is_open(flow) else 0
            self._silence.watch(key, flow.group, limit_ms, now_ns)
            hz = flow.rtp.clock_hz if flow.rtp else CLOCK_HZ_DEFAULT
            if hz == CLOCK_HZ_DEFAULT:
                self._clocks.pop(key, None)
            else:
                self._clocks[key] = hz
            odd = flow.latch.learns or flow.follows or flow.inactivity_ms or key in self._clocks
            self._table.odd[slot] = bool(odd or key in self._captured)

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

    def _lead(self, followers: Iterable[FlowKey]) -> None:
        leading.lead(followers, self._table, self._learn_by)

    def _mark(self, keys: Iterable[FlowKey], captured: bool) -> None:
        self._table.change(keys, lambda _, raw: layout.with_capture(raw, captured))

    def _capture_these(self, keys: Iterable[FlowKey], snap_bytes: int) -> None:
        """Mark what is wanted and was not, unmark what was and is not; the rest is not touched."""
        _check_snap(snap_bytes)
        wanted = {key for key in keys if self._table.slot_of(key) is not None}
        new, gone = wanted - self._captured, self._captured - wanted
        with _kernel("capturing"):
            self._write_config(snap_bytes)
            for slot in self._table.slots_of(list(new)):
                self._table.odd[slot] = 1
            self._captured |= new
            self._mark(new, True)
            self._captured -= gone
            self._mark(gone, False)

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
