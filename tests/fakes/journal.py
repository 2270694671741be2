"""A journal and a flow store in memory, shared by nodes, with epochs and a place to crash.

`Shared` is what survives a node. `NodeJournal` and `NodeFlows` are one node's view of it at the
epoch of its ownership: writes under an older epoch are refused, as every DAL replica does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bgf.errors import Fenced, InDoubt, NotNow, StateError
from bgf.model import Flow, FlowKey


class Crash(BaseException):
    """The machine lost its power. Not an Exception: nothing may catch it and go on."""


class Fuse:
    """Counts steps and crashes, or refuses, at a chosen one."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.crash_at = crash_at
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        if self.crash_at is not None and len(self.steps) == self.crash_at:
            raise Crash(f"before step {self.crash_at}, {name}")
        self.steps.append(name)


class Shared:
    """What every node sees, and what outlives them."""

    def __init__(self) -> None:
        self.epoch = 0
        self.mark = ""
        self.journals: dict[str, list[bytes]] = {}
        self.recorded: dict[str, tuple[Flow, ...]] = {}
        self.refuse: Callable[[str], bool] = lambda operation: False
        self.not_now: Callable[[str], bool] = lambda operation: False
        self.doubt: Callable[[str], str] = lambda operation: ""  # or "done", "undone"

    @property
    def flows(self) -> dict[FlowKey, Flow]:
        """All recorded flows by key: one that two calls have is the later's."""
        return {flow.key: flow for flows in self.recorded.values() for flow in flows}

    def fence(self) -> int:
        self.epoch += 1
        return self.epoch


class _Node:
    def __init__(self, shared: Shared, epoch: int, fuse: Fuse | None = None) -> None:
        self.shared = shared
        self.epoch = epoch
        self.fuse = fuse or Fuse()
        self.doubt = ""
        self.found_marked = shared.mark  # what the last owner may have told some copies only

    def _write(self, operation: str) -> None:
        self.fuse.step(operation)
        if self.epoch < self.shared.epoch:
            raise Fenced(f"{operation}: epoch {self.epoch} is older than {self.shared.epoch}")
        if self.shared.refuse(operation):
            raise StateError(f"{operation}: the store is full")
        if self.shared.not_now(operation):
            raise NotNow(f"{operation}: a view changes")
        self.doubt = self.shared.doubt(operation)
        if self.doubt == "undone":
            raise InDoubt(f"{operation}: no answer")

    def _written(self, operation: str) -> None:
        """After the fact: does the writer learn of it?"""
        if self.doubt == "done":
            raise InDoubt(f"{operation}: no replica has acknowledged it in time")


class NodeJournal(_Node):
    def check(self) -> None:
        self.fuse.step("check")
        if self.epoch < self.shared.epoch:
            raise Fenced(f"epoch {self.epoch} is older than {self.shared.epoch}")

    def mark(self, call_id: str) -> None:
        self._write("mark")
        self.shared.mark = call_id
        self._written("mark")

    def marked(self) -> str:
        return self.shared.mark

    def tidy(self) -> None:
        """There is one mark, not one per owner."""

    def append(self, call_id: str, entry: bytes) -> None:
        self._write("append")
        self.shared.journals.setdefault(call_id, []).append(entry)
        self._written("append")

    def replace(self, call_id: str, entries: Sequence[bytes]) -> None:
        self._write("replace")
        self.shared.journals[call_id] = list(entries)
        self._written("replace")

    def entries(self, call_id: str) -> Sequence[bytes]:
        return tuple(self.shared.journals.get(call_id, ()))

    def several(self, call_ids: Sequence[str]) -> dict[str, Sequence[bytes]]:
        assert not self.found_marked or self.found_marked not in call_ids, "it has to be read alone"
        return {call_id: self.entries(call_id) for call_id in call_ids}

    def forget(self, call_id: str) -> None:
        self._write("forget")
        self.shared.journals.pop(call_id, None)
        self._written("forget")

    def calls(self) -> Iterable[str]:
        return tuple(self.shared.journals)


class NodeFlows(_Node):
    def record(self, call_id: str, flows: Sequence[Flow]) -> None:
        self._write("record")
        self.shared.recorded.pop(call_id, None)
        if flows:
            self.shared.recorded[call_id] = tuple(flows)
        self._written("record")
