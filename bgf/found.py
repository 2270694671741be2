"""What a new owner finds recorded of calls whose journals it has not read yet.

Knows: flows, by call and by port pair. Must not know where they are recorded, nor how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from bgf.model import Flow


class Found(Protocol):
    """What is recorded of calls whose journals are not read yet."""

    @property
    def pairs(self) -> Mapping[int, str]:
        """Whose each port pair is, by its even port."""

    @property
    def span(self) -> tuple[int, int]:
        """All pairs lie from the first to the second, which may be wider; any two when there are
        none."""

    def pairs_of(self, call_id: str) -> Collection[int]:
        """The port pairs that are recorded of the call, even those that are another's by now."""

    def calls(self) -> Collection[str]: ...

    def says(self, call_id: str, flows: Sequence[Flow]) -> bool:
        """Are exactly these recorded of the call?"""

    def flows(self, call_id: str) -> Sequence[Flow]:
        """Raises StateError for what cannot be read."""

    def forget(self, call_id: str) -> None: ...


class FoundFlows:
    """`Found` of flows that are at hand."""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self._flows: dict[str, list[Flow]] = {}
        self.pairs: dict[int, str] = {}
        for flow in flows:
            self._flows.setdefault(flow.session, []).append(flow)
            self.pairs[flow.local_in.port & ~1] = flow.session

    @property
    def span(self) -> tuple[int, int]:
        return min(self.pairs, default=0), max(self.pairs, default=0)

    def pairs_of(self, call_id: str) -> Collection[int]:
        return {flow.local_in.port & ~1 for flow in self._flows.get(call_id, ())}

    def calls(self) -> Collection[str]:
        return self._flows.keys()

    def says(self, call_id: str, flows: Sequence[Flow]) -> bool:
        return self._flows.get(call_id, []) == list(flows)

    def flows(self, call_id: str) -> Sequence[Flow]:
        return self._flows.get(call_id, ())

    def forget(self, call_id: str) -> None:
        self._flows.pop(call_id, None)
