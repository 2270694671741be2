"""The real packet path in a PacketLab, fed by tests: frames in, outcome and frame out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from bgf.media import _xdp, frames, layout
from bgf.media.datapath import Outcome
from bgf.media.xdp import XdpDatapath
from bgf.model import Address, Component, Flow, Gate, Group, Source
from tests.fakes.packet_lab import REALMS, PacketLab, group

XDP_NAMES = {1: "drop", 2: "pass", 3: "tx", 4: "redirect"}
DISCRIMINATOR = 7
FAR_DEADLINE_NS = 1 << 62


class Ran(NamedTuple):
    """What the program did with one frame."""

    action: str
    outcome: Outcome
    frame: bytes


def flow(
    local_in: str,
    local_out: str,
    remote: str | None,
    *,
    source: Source | None = None,
    gate: Gate = Gate.OPEN,
    group: str = "g1",
    **more: Any,
) -> Flow:
    """A flow from texts such as `[fd00:a::101]:30000`; the realms follow from the addresses.

    `more` are further fields of Flow.
    """
    arrives, leaves = Address.parse(local_in), Address.parse(local_out)
    made = Flow(
        group,
        "call",
        0,
        Component.RTP,
        realm_of(arrives.host),
        arrives,
        realm_of(leaves.host),
        leaves,
        Address.parse(remote) if remote else None,
        source or Source(),
        gate,
    )
    return msgspec.structs.replace(made, **more)


def realm_of(host: str) -> str:
    return "access" if host.startswith(("fd00:a:", "10.10.")) else "core"


class PacketPath:
    """XdpDatapath on a lab whose neighbours are settled; `run` feeds frames to its program."""

    def __init__(
        self,
        lab: PacketLab,
        *groups: Group,
        realms: Mapping[str, str] = REALMS,
        **options: Any,
    ) -> None:
        self.lab = lab
        self.pin_dir = lab.bpffs / "node"
        with lab.inside("gw"):
            self.datapath = XdpDatapath(
                self.pin_dir,
                realms,
                groups or [group()],
                discriminator=DISCRIMINATOR,
                pinholes_max=int(options.get("pinholes_max", 1_000)),
                attach=str(options.get("attach", "auto")),
                netlink=options["netlink"]() if "netlink" in options else None,
            )
        self._program = _xdp.obj_get(self.pin_dir / "set" / "bgf_xdp")

    def frame(
        self, sender: Address, receiver: Address, payload: bytes = b"", hops: int = 64
    ) -> bytes:
        realm = realm_of(receiver.host)
        return frames.build(
            sender,
            receiver,
            payload,
            destination_mac=self.lab.macs["gw", realm],
            source_mac=b"\2\0\0\0\0\x09",
            hops=hops,
        )

    def send(self, frame: bytes, realm: str) -> Ran:
        """The frame arrives as one off the wire: counted, and whatever it changes is changed."""
        return self.run(frame, realm, counted=True)

    def run(self, frame: bytes, realm: str, *, counted: bool = False) -> Ran:
        """Run the live program on a frame that arrives in `realm`.

        Not `counted`: with a trace note in front, so that the outcome is known exactly. Counted:
        as a packet off the wire, whose outcome is what moved in the counts.
        """
        ifindex = self.datapath._realms.wire(realm).ifindex
        note = b"" if counted else layout.TRACE.pack(_xdp.TRACE_MAGIC, 0, 0, 0)
        context = layout.XDP_MD.pack(len(note), len(note) + len(frame), 0, ifindex, 0, 0)
        before = self.datapath.drops()
        with self.lab.inside("gw"):
            action, out, _, context = _xdp.prog_test_run(self._program, note + frame, context)
        outcome = Outcome.PASS
        if counted:
            after = self.datapath.drops()
            moved = [o for o in after if after[o] != before[o]]
            assert len(moved) <= 1
            outcome = moved[0] if moved else Outcome.PASS
        else:
            outcome = layout.OUTCOMES[layout.TRACE.unpack_from(out)[1]]
        return Ran(XDP_NAMES[action], outcome, out[layout.XDP_MD.unpack(context)[0] :])

    def close(self) -> None:
        os.close(self._program)
        self.datapath.close(unpin=True)


@contextmanager
def packet_path(*groups: Group, **options: Any) -> Iterator[PacketPath]:
    """A lab and the packet path on it, both gone afterwards."""
    with PacketLab() as lab:
        lab.settle_neighbours()
        path = PacketPath(lab, *groups, **options)
        try:
            yield path
        finally:
            path.close()
