"""`gateway_machine` on a packet path in memory. Knows no kernel."""

from __future__ import annotations

from bgf.model import FlowKey, Gate
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_machine import Calls
from tests.fakes.gateway_model import Open


class CallsInMemory(Calls):
    def empty_datapath(self) -> Pinholes:
        self.memory = Pinholes()
        return self.memory

    def pinholes(self) -> dict[FlowKey, Open | None]:
        found: dict[FlowKey, Open | None] = {}
        for key, flow in self.memory.flows.items():
            found[key] = None
            if flow.gate is Gate.OPEN:
                assert flow.remote is not None
                source = (flow.source.host, flow.source.port, flow.latch.learns)
                found[key] = Open(flow.local_in, flow.remote, *source)
        return found
