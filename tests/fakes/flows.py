"""Pinholes and replies of one node in memory, on the fuse of `tests.fakes.journal`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgf.errors import DatapathError
from bgf.events import Reply
from bgf.model import Flow, FlowKey
from tests.fakes.journal import Fuse


class Pinholes:
    """Which pinholes exist. `limit` is the table's size."""

    def __init__(self, fuse: Fuse | None = None, limit: int = 1_000_000) -> None:
        self.fuse = fuse or Fuse()
        self.limit = limit
        self.flows: dict[FlowKey, Flow] = {}

    def install(self, flows: Sequence[Flow]) -> None:
        self.fuse.step("install")
        after = self.flows | {flow.key: flow for flow in flows}
        if len(after) > self.limit:
            raise DatapathError(f"the table holds {self.limit} pinholes")
        self.flows = after

    def remove(self, keys: Iterable[FlowKey]) -> None:
        self.fuse.step("remove")
        for key in keys:
            self.flows.pop(key, None)

    def keys(self) -> set[FlowKey]:
        return set(self.flows)


def never_heard(_flows: Sequence[Flow]) -> int | None:
    """A packet path through which nothing has come."""
    return None


class Replies:
    """What has left the node, in order."""

    def __init__(self, fuse: Fuse | None = None) -> None:
        self.fuse = fuse or Fuse()
        self.sent: list[tuple[str, Reply]] = []

    def reply(self, cookie: str, reply: Reply) -> None:
        self.fuse.step("reply")
        self.sent.append((cookie, reply))

    @property
    def last(self) -> Reply:
        return self.sent[-1][1]
