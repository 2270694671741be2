"""What must be open, by the model, and what is, on a packet path in memory; `tests/kernel` has the
same on the kernel's.
"""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test

from bgf.model import FlowKey, Gate
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_machine import Calls, effort
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


def test_what_is_open_is_what_must_be() -> None:
    run_state_machine_as_test(CallsInMemory, settings=effort(40))
