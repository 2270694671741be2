"""A group's driver on journals in memory and on any packet path, under a clock that a test sets.

`Node` is one node's gateway; several on one `Shared` take the group over from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bgf.control import ng
from bgf.control.client import decode_reply, encode_request
from bgf.errors import PeerError
from bgf.events import Command, Event, Seen
from bgf.found import FoundFlows
from bgf.gateway import Gateway, Limits
from bgf.hands import ActiveHands, Driver, Outcome, Pinholes
from bgf.journal import Mode, Recorder
from bgf.model import Group
from bgf.policy import Policies
from tests.fakes.calls import GROUP, NS_PER_S, POLICIES, REALMS
from tests.fakes.flows import Replies, never_heard
from tests.fakes.journal import NodeFlows, NodeJournal, Shared


class Node:
    """A node that owns the group from its making on, until another one is made."""

    def __init__(
        self,
        shared: Shared,
        datapath: Pinholes,
        *,
        group: Group = GROUP,
        mode: Mode = Mode.CHECKPOINTED,
        policies: Policies = POLICIES,
        limits: Limits | None = None,
        now_ns: int = 0,
    ) -> None:
        self.shared = shared
        self.datapath = datapath
        self.now_ns = now_ns
        self.epoch = shared.fence()
        self.replies = Replies()
        self.gateway = Gateway(group, REALMS, limits, policies)
        hands = ActiveHands(
            NodeJournal(shared, self.epoch), NodeFlows(shared, self.epoch), datapath, self.replies
        )
        self.driver = Driver(self.gateway, Recorder(mode), hands, never_heard)
        self.driver.take_over(FoundFlows(shared.flows.values()), now_ns)

    def do(self, event: Event, entropy: int = 0) -> Outcome:
        """A command, or what the packet path says; a deadline is the driver's own affair."""
        if isinstance(event, Command):
            return self.driver.handle(event, entropy)
        assert isinstance(event, Seen)
        return self.driver.see(event)

    def run(self, *events: Event) -> None:
        for event in events:
            assert self.do(event) is Outcome.ANSWERED

    def restore_all(self, now_ns: int) -> None:
        while self.driver.restore_some(now_ns):
            pass
        self.driver.sweep()

    def entries(self, call_id: str) -> Sequence[bytes]:
        return self.shared.journals.get(call_id, ())


class Control:
    """A node's control socket without a socket: a frame in, its answer or None out."""

    def __init__(self, node: Node, now_ns: int = NS_PER_S) -> None:
        self.node = node
        self.now_ns = now_ns
        self.asked = 0
        self.outcomes: list[Outcome] = []

    def send(self, datagram: bytes) -> bytes | None:
        """As `bgf.runtime` does it: decode, drive, render."""
        try:
            _, request = ng.decode(datagram)
            self.asked += 1
            before = len(self.node.replies.sent)
            outcome = self.node.driver.handle(request.command(self.now_ns), self.asked * 7919)
            self.outcomes.append(outcome)
            if len(self.node.replies.sent) == before:
                return None
            return ng.render(request, self.node.replies.last)
        except PeerError as error:
            return ng.refuse(datagram, error)

    def ask(self, cookie: str = "", **fields: Any) -> dict[str, Any]:
        """A request by its keys (`_` for `-`); raises AssertionError when nobody answers."""
        body = {key.replace("_", "-"): value for key, value in fields.items()}
        reply = self.send(encode_request(cookie or f"k_{self.asked}", body))
        assert reply is not None, "no answer"
        return dict(decode_reply(reply)[1])
