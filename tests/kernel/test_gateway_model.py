"""Commands into the real machine, pinholes out of the kernel's map: after every step what is open
there is what the model says, and the program does with a packet as the map says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis.stateful import invariant, run_state_machine_as_test

from bgf.hands import Pinholes
from bgf.media import _xdp, layout
from bgf.media.datapath import Outcome
from bgf.model import Address, FlowKey
from tests.fakes.gateway_machine import GROUP, Calls, effort
from tests.fakes.gateway_model import Open
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath, packet_path


@pytest.fixture(scope="module")
def path() -> Iterator[PacketPath]:
    with packet_path(GROUP) as made:
        made.datapath.arm("g1", FAR_DEADLINE_NS)
        yield made


class CallsInTheKernel(Calls):
    """The map as it is, decoded."""

    path: PacketPath

    def empty_datapath(self) -> Pinholes:
        self.path.datapath.remove(self.path.datapath.keys())
        return self.path.datapath

    def pinholes(self) -> dict[FlowKey, Open | None]:
        found: dict[FlowKey, Open | None] = {}
        datapath = self.path.datapath
        _, slots = _xdp.scan_ports(datapath._maps.mapped("ports"))  # as the program walks them
        for raw in datapath._table._rows(slots):
            pinhole = layout.unpack_pinhole(raw)
            if not pinhole.flags & _xdp.OPEN:
                found[pinhole.key] = None
                continue
            flags, (host, first, last) = pinhole.flags, layout.sources(raw)
            remote = pinhole.remote
            if led := datapath._learn_by.led(pinhole.key):  # it may lead to who was learned
                leader = datapath._table.slot_of(led.leader)
                assert leader is not None
                assert remote in (led.remote, datapath._learn_by.peer(leader))
                remote = led.remote
            assert remote is not None
            assert first == last or not flags & _xdp.SOURCE_PORT
            found[pinhole.key] = Open(
                Address(*pinhole.key),
                remote,
                host if flags & _xdp.SOURCE_HOST else None,
                first if flags & _xdp.SOURCE_PORT else None,
                bool(flags & _xdp.LATCH),
            )
        return found

    @invariant()
    def the_program_does_as_the_map_says(self) -> None:
        """One pinhole of those that are open: its sender gets through, a stranger does not."""
        found = sorted(
            one
            for one in self.model.open()
            if one.source_host is not None
            and not one.learns
            and (":" in one.source_host) == (":" in one.arrives.host)
        )
        for one in found[self.now_ns // 20_000_000 % max(1, len(found)) :][:1]:
            realm = "access" if one.arrives.host in ("fd00:a::101", "10.10.0.101") else "core"
            assert one.source_host is not None
            stranger = "fd00:a::66" if ":" in one.arrives.host else "10.10.0.66"
            rtp = b"\x80\x00" + bytes(10)
            for host, admitted in ((one.source_host, True), (stranger, False)):
                sender = Address(host, one.source_port or 4_444)
                verdict = self.path.datapath.trace(sender, one.arrives, realm, rtp)
                assert (verdict.outcome is Outcome.BAD_SOURCE) != admitted


def test_what_is_open_is_what_must_be(path: PacketPath) -> None:
    CallsInTheKernel.path = path
    run_state_machine_as_test(CallsInTheKernel, settings=effort(20, shrink=False))
