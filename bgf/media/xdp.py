"""XdpDatapath: the Datapath of the kernel, one XDP program pinned with its maps.

Knows: flows as values, the maps as bytes, next hops through `neighbours`. Decides nothing about
calls. The program forwards without this process; a new one reopens the pins and learns from the
maps what is installed, so a restart costs no packet. One process at a time may hold it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bgf.errors import ConfigError, DatapathError, EnvironmentProblem
from bgf.media import _xdp, frames, layout, pins
from bgf.media.datapath import Outcome, Verdict
from bgf.media.neighbours import NextHops
from bgf.media.netlink import Link
from bgf.media.pins import ArmedMap, Attachment
from bgf.model import Address, Counters, Flow, FlowKey, Group

__all__ = ["ArmedMap", "Attachment", "XdpDatapath"]

PINHOLES_MAX_DEFAULT = 65_536
GROUPS_MAX = 256
GUARDED_MAX = 1_024
ENTRIES_PER_CALL = 8_192  # written to a map by one system call

_XDP_DROP, _XDP_PASS = 1, 2
_TRACE_MAC = bytes.fromhex("020000000001")  # a sender of no one's (locally administered)
_MODES = {1: "native", 2: "generic", 3: "offloaded"}
_log = logging.getLogger("bgf.media")


class _Installed(NamedTuple):
    """What stands in the kernel for a pinhole, and what to give back when it goes."""

    key: bytes
    slot: int
    end: tuple[int, str] | None


@contextlib.contextmanager
def _kernel(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatapathError(f"{doing}: {error.strerror or error}") from error


class XdpDatapath:
    """`realms` maps media realms to interface names in this network namespace.

    `attach` is native, generic, or auto: native, and generic where that is refused, with the
    reason in `attachments` and a warning in the log. `pin_dir` lies on a BPF file system. Raises
    EnvironmentProblem for what the machine lacks and ConfigError for what cannot be configured so.
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
    ) -> None:
        self._pin_dir = Path(pin_dir)
        self._realms = dict(realms)
        self._check(groups, pinholes_max, attach)
        self._known: dict[FlowKey, _Installed] = {}
        self._fds, self.reopened = pins.open_set(
            self._pin_dir,
            {
                "groups": GROUPS_MAX,
                "armed": GROUPS_MAX,
                "guarded": GUARDED_MAX,
                "pinholes": pinholes_max,
                "stats": pinholes_max,
                "nexthops": pinholes_max + 1,
            },
        )
        self._next_hops: NextHops | None = None
        try:
            with _kernel("reopening the packet path" if self.reopened else "filling its maps"):
                self._start(groups, discriminator, attach, pinholes_max)
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
        plan = [(flow, *self._place(flow)) for flow in wanted.values()]
        ends = [end for _, _, _, end in plan if end is not None]
        hops = self._hops
        indices = iter(hops.acquire(ends))
        slots = [self._slots.popleft() for _ in fresh]
        new: dict[FlowKey, _Installed] = {}
        keys, values = [], []
        free_slot = iter(slots)
        for flow, key, group, end in plan:
            old = self._known.get(flow.key)
            slot = old.slot if old else next(free_slot)
            nexthop = next(indices) if end is not None else 0
            new[flow.key] = _Installed(key, slot, end)
            keys.append(key)
            values.append(layout.pack_pinhole(flow, key, group, nexthop, slot))
        try:
            with _kernel(f"installing {len(keys)} pinholes"):
                zero = bytes(self._stats_bytes)
                self._update("stats", [layout.U32.pack(s) for s in slots], [zero] * len(slots))
                self._update("pinholes", keys, values)
        except DatapathError:
            # Which of them were written is not known, and a pinhole whose next hop may be given
            # away must not stay: closing all is the safe end of what should not happen.
            replaced = [self._known[key] for key in wanted if key in self._known]
            self._withdraw(keys)
            self._known.update(new)
            self.remove(new)
            hops.release(old.end for old in replaced if old.end is not None)
            raise
        replaced = [self._known[key] for key in wanted if key in self._known]
        self._known.update(new)
        written = set(keys)
        self._withdraw([old.key for old in replaced if old.key not in written])
        hops.release(old.end for old in replaced if old.end is not None)

    def remove(self, keys: Iterable[FlowKey]) -> None:
        gone = [self._known.pop(key) for key in set(keys) if key in self._known]
        with _kernel(f"removing {len(gone)} pinholes"):
            self._delete("pinholes", [old.key for old in gone])
        self._slots.extend(old.slot for old in gone)
        self._hops.release(old.end for old in gone if old.end is not None)

    def arm(self, group: str, deadline_ns: int) -> None:
        index = self._group_index(group)
        with _kernel(f"arming group {group}"):
            _xdp.map_update(
                self._fds["armed"], layout.U32.pack(index), layout.U64.pack(deadline_ns)
            )

    def keys(self) -> set[FlowKey]:
        with _kernel("listing the pinholes"):
            keys, _ = _xdp.map_lookup_batch(self._fds["pinholes"])
        size = layout.KEY.size
        return {layout.unpack_key(keys[at : at + size])[0] for at in range(0, len(keys), size)}

    def counters(self, keys: Sequence[FlowKey]) -> list[Counters]:
        """See Datapath. `bytes` are of UDP payload."""
        known = [self._known.get(key) for key in keys]
        slots = b"".join(layout.U32.pack(found.slot) for found in known if found)
        with _kernel("reading counters"):
            raw = _xdp.map_lookup_each(self._fds["stats"], slots)
        size = self._stats_bytes
        values = iter(layout.sum_stats(raw[at : at + size]) for at in range(0, len(raw), size))
        return [next(values) if found else Counters() for found in known]

    def drops(self) -> Mapping[Outcome, int]:
        """See Datapath. PASS is not counted; all others stand there, zero or not."""
        with _kernel("reading the packet counts"):
            _, raw = _xdp.map_lookup_batch(self._fds["outcomes"])
        cpus = _xdp.possible_cpus()
        counts = [c[0] for c in layout.U64.iter_unpack(raw)]
        return {
            outcome: sum(counts[at * cpus : (at + 1) * cpus])
            for at, outcome in enumerate(layout.OUTCOMES)
            if outcome is not Outcome.PASS
        }

    def trace(self, sender: Address, receiver: Address, realm: str, payload: bytes) -> Verdict:
        """See Datapath. Changes no counter. Raises DatapathError for what is no such packet."""
        if sender.family is not receiver.family:
            raise DatapathError(f"no packet goes from {sender} to {receiver}: two IP versions")
        ifindex = self._ifindex(realm)
        mac = self._hops.links[ifindex].mac
        frame = frames.build(sender, receiver, payload, destination_mac=mac, source_mac=_TRACE_MAC)
        note = layout.TRACE.pack(_xdp.TRACE_MAGIC, 0, 0, 0)
        context = layout.XDP_MD.pack(len(note), len(note) + len(frame), 0, ifindex, 0, 0)
        with _kernel(f"tracing a packet of {len(frame)} bytes"):
            action, out, _, context = _xdp.prog_test_run(
                self._fds[pins.PROGRAM], note + frame, context
            )
        _, outcome, leaving, _ = layout.TRACE.unpack_from(out)
        frame = out[layout.XDP_MD.unpack(context)[0] :]
        verdict = layout.OUTCOMES[outcome]
        if action == _XDP_DROP:
            return Verdict(verdict)
        datagram = frames.read(frame)
        link = self._hops.links.get(leaving)
        return Verdict(
            verdict,
            "" if action == _XDP_PASS else (link.name if link else f"ifindex {leaving}"),
            datagram.sender if datagram else None,
            datagram.receiver if datagram else None,
            frame,
        )

    # ---- for the process that runs it -----------------------------------------------------------

    @property
    def attachments(self) -> dict[str, Attachment]:
        """By interface name: native or generic, and why not native."""
        return dict(self._attachments)

    @property
    def pinholes_max(self) -> int:
        """Pinholes that the pinned table holds."""
        return self._capacity

    @property
    def unresolved(self) -> list[str]:
        """Far ends whose next hop is not known now."""
        return self._hops.unresolved

    def fileno(self) -> int:
        """Readable when `process` has something to do (netlink)."""
        return self._hops.fileno()

    def process(self) -> None:
        """Follow what the kernel announced: neighbours, links, routes."""
        with _kernel("following netlink"):
            self._hops.process()

    def refresh(self) -> None:
        """Keep neighbours confirmed and retry the unresolved: call it every second or few."""
        with _kernel("refreshing neighbours"):
            self._hops.refresh()

    def close(self, unpin: bool = False) -> None:
        """Let go of it; the packet path goes on unless `unpin`. A second call does nothing."""
        if self._next_hops:
            self._next_hops.close()
            self._next_hops = None
        pins.close_all(self._fds.values())
        self._fds = {}
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
                if address.realm not in self._realms:
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

    def _start(
        self, groups: Sequence[Group], discriminator: int, attach: str, pinholes_max: int
    ) -> None:
        sizes = [int(_xdp.map_info(self._fds[m])["max_entries"]) for m in ("pinholes", "stats")]
        self._capacity = min(sizes)
        if self._capacity != pinholes_max:
            _log.warning(
                "the pinned packet path holds %d pinholes, not the configured %d: "
                "remove the pins while the node is stopped to change it",
                self._capacity,
                pinholes_max,
            )
        self._stats_bytes = layout.STATS.size * _xdp.possible_cpus()
        self._slots: deque[int] = deque(range(self._capacity))
        hops_max = int(_xdp.map_info(self._fds["nexthops"])["max_entries"])
        self._next_hops = NextHops(
            self._realms.values(), self._write_next_hops, hops_max, self._link_changed
        )
        by_name = {link.name: link.ifindex for link in self._next_hops.links.values()}
        for realm, name in self._realms.items():
            if name not in by_name:
                raise EnvironmentProblem(
                    f"realm {realm}: there is no interface '{name}' in this network namespace"
                )
        self._ifindexes = {realm: by_name[name] for realm, name in self._realms.items()}
        _xdp.map_update(
            self._fds["config"],
            layout.U32.pack(0),
            layout.CONFIG.pack(_xdp.LAYOUT, discriminator),
        )
        self._groups = self._write_groups(groups)
        guarded = {
            layout.pack_address(a.host): layout.U32.pack(self._groups[group.id])
            for group in groups
            for a in group.addresses
        }
        self._make_exactly("guarded", 16, guarded)
        self._write_interfaces()
        if self.reopened:
            self._learn()
        self._attach(attach)

    def _attach(self, mode: str) -> None:
        pins.detach_others(self._pin_dir, self._realms.values())
        reasons = {
            name: pins.attach(
                self._pin_dir, self._fds[pins.PROGRAM], name, self._ifindexes[realm], mode
            )
            for realm, name in self._realms.items()
        }
        # How it sits there now, by the kernel's own account.
        attached = {link.name: link.xdp for link in self._hops.read_links()}
        self._attachments = {}
        for name, reason in reasons.items():
            found = _MODES.get(attached.get(name, 0), "none")
            why = "" if found == "native" else reason or "attached so earlier"
            self._attachments[name] = Attachment(found, why)

    def _write_interfaces(self) -> None:
        places = layout.place_interfaces(set(self._ifindexes.values()))
        if places is None:
            raise EnvironmentProblem(
                "the media interfaces' indices fall together: create them anew, or use fewer"
            )
        self._places = places
        for ifindex in places:
            self._write_interface(self._hops.links[ifindex])
        empty = set(range(_xdp.INTERFACE_PLACES)) - set(places.values())
        nobody = [layout.INTERFACE.pack(0, bytes(6))] * len(empty)
        self._update("interfaces", [layout.U32.pack(place) for place in empty], nobody)

    def _write_interface(self, link: Link) -> None:
        key = layout.U32.pack(self._places[link.ifindex])
        _xdp.map_update(self._fds["interfaces"], key, layout.INTERFACE.pack(link.ifindex, link.mac))

    def _write_groups(self, groups: Sequence[Group]) -> dict[str, int]:
        """An index for each group: the one it had, or a free one, in the order of their ids."""
        known = pins.read_groups(self._fds["groups"])
        ids = sorted(group.id for group in groups)
        for name in sorted(set(known) - set(ids)):
            index = layout.U32.pack(known.pop(name))
            _xdp.map_update(self._fds["armed"], index, layout.U64.pack(0))
            _xdp.map_update(self._fds["groups"], index, bytes(_xdp.GROUP_ID_LEN))
        free = iter(sorted(set(range(GROUPS_MAX)) - set(known.values())))
        for name in ids:
            if name not in known:
                known[name] = next(free)
                _xdp.map_update(
                    self._fds["groups"],
                    layout.U32.pack(known[name]),
                    name.encode().ljust(_xdp.GROUP_ID_LEN, b"\0"),
                )
        return known

    def _learn(self) -> None:
        """What an earlier process installed: its slots and next hops. Drops what cannot match."""
        keys, values = _xdp.map_lookup_batch(self._fds["pinholes"])
        size = len(values) // (len(keys) // layout.KEY.size) if keys else 1
        ours = set(self._ifindexes.values())
        groups = set(self._groups.values())
        used, stale = set(), []
        for at in range(len(keys) // layout.KEY.size):
            key = keys[at * layout.KEY.size : (at + 1) * layout.KEY.size]
            pinhole = layout.unpack_pinhole(values[at * size : (at + 1) * size])
            if pinhole.ifindex not in ours or pinhole.group not in groups:
                stale.append(key)
                continue
            end = None
            if pinhole.nexthop and pinhole.remote:
                index = layout.U32.pack(pinhole.nexthop)
                value = _xdp.map_lookup(self._fds["nexthops"], index)
                if value:
                    end = self._hops.adopt(pinhole.remote, pinhole.nexthop, value)
            used.add(pinhole.slot)
            self._known[pinhole.key] = _Installed(key, pinhole.slot, end)
        self._delete("pinholes", stale)
        self._slots = deque(s for s in self._slots if s not in used)
        self._hops.resolve_adopted()

    @property
    def _hops(self) -> NextHops:
        if self._next_hops is None:
            raise DatapathError("the packet path is closed")
        return self._next_hops

    def _ifindex(self, realm: str) -> int:
        try:
            return self._ifindexes[realm]
        except KeyError:
            raise DatapathError(
                f"realm '{realm}' carries no media here: {', '.join(sorted(self._realms))} do"
            ) from None

    def _group_index(self, group: str) -> int:
        try:
            return self._groups[group]
        except KeyError:
            raise DatapathError(f"group '{group}' is not configured on this node") from None

    def _place(self, flow: Flow) -> tuple[bytes, int, tuple[int, str] | None]:
        """Its key, its group's index, and the far end it leads to."""
        group = self._group_index(flow.group)
        key = layout.pack_key(flow.local_in, self._ifindex(flow.realm_in))
        leaving = self._ifindex(flow.realm_out)
        if flow.remote is None:
            return key, group, None
        if flow.remote.family is not flow.local_out.family:
            raise DatapathError(
                f"flow {flow.key}: leaves from {flow.local_out} to {flow.remote}: two IP versions"
            )
        return key, group, (leaving, flow.remote.host)

    def _link_changed(self, link: Link) -> None:
        if link.ifindex not in self._places:
            _log.error(
                "interface %s was made anew: restart the gateway process to attach to it", link.name
            )
        elif link.gone:
            _log.error("interface %s is gone: its media stops", link.name)
        else:
            self._write_interface(link)

    def _write_next_hops(self, indices: list[int], values: list[bytes]) -> None:
        self._update("nexthops", [layout.U32.pack(i) for i in indices], values)

    def _update(self, name: str, keys: list[bytes], values: list[bytes]) -> None:
        for at in range(0, len(keys), ENTRIES_PER_CALL):
            part = keys[at : at + ENTRIES_PER_CALL]
            joined = b"".join(values[at : at + ENTRIES_PER_CALL])
            _xdp.map_update_batch(self._fds[name], b"".join(part), joined, len(part))

    def _delete(self, name: str, keys: list[bytes]) -> None:
        if keys:
            _xdp.map_delete_batch(self._fds[name], b"".join(keys), len(keys))

    def _withdraw(self, keys: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            self._delete("pinholes", keys)

    def _make_exactly(self, name: str, key_size: int, wanted: Mapping[bytes, bytes]) -> None:
        found, _ = _xdp.map_lookup_batch(self._fds[name])
        there = {found[at : at + key_size] for at in range(0, len(found), key_size)}
        self._delete(name, sorted(there - set(wanted)))
        self._update(name, list(wanted), list(wanted.values()))
