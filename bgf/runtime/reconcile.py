"""The first thing a starting gateway process does: make the packet path agree with the state.

Knows: the recorded flows, and what the maps say. Must not know where either comes from. What an
earlier process left keeps forwarding all the while: nothing is taken down that is wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from bgf.errors import DatapathError
from bgf.events import DropFlow, PutFlow
from bgf.media.differences import Difference
from bgf.model import Flow, FlowKey

SAID = {
    Difference.MISSING: "missing",
    Difference.GATE: "with another gate",
    Difference.PEER: "with another peer",
    Difference.POLICER: "with another policer",
    Difference.OTHER: "different otherwise",
}


class Compared(Protocol):
    """What is needed of a packet path."""

    def keys(self) -> set[FlowKey]: ...

    def remove(self, keys: Iterable[FlowKey]) -> None: ...

    def differences(self, flows: Iterable[Flow]) -> Mapping[FlowKey, Difference]: ...


class Found(Counter[str]):
    """How many pinholes were found how, before they were repaired."""

    @property
    def line(self) -> str:
        """For the log and the operator, one line."""
        odd = [f"{self[kind.value]} {said}" for kind, said in SAID.items() if self[kind.value]]
        if self["surplus"]:
            odd.append(f"{self['surplus']} surplus")
        return f"{self['recorded']} pinholes recorded, " + (
            ", ".join(odd) or "all as they should be"
        )


def reconcile(
    datapath: Compared,
    flows: Sequence[Flow],
    apply: Callable[[list[PutFlow | DropFlow]], None],
    unknown: Collection[str] = (),
) -> Found:
    """Compare, repair, and tell what was found. `apply` must not raise for a single bad flow.

    Pinholes on `unknown` hosts stay as they are: what is recorded of them is not all known yet.
    """
    found = Found({"recorded": len(flows)})
    try:
        found.update(kind.value for kind in datapath.differences(flows).values())
    except DatapathError:
        found["not compared"] += 1  # a flow that no packet path takes; applying it says which
    apply([PutFlow(flow) for flow in flows])
    surplus = datapath.keys() - {flow.key for flow in flows}
    surplus = {key for key in surplus if key.host not in unknown}
    found["surplus"] = len(surplus)
    datapath.remove(surplus)
    return found
