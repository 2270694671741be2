"""STUN checks at pinholes with ICE: answered by whichever node is armed, choices told to the owner.

Knows: whose media address a pinhole is at, the recorded flow of a pinhole, which group is active
here. What is right and what is not, `media.ice` says. A choice waits until its group's machine can
take it in: media moves first. The credentials are in the flow, so nothing has to be restored.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from bgf.events import Nominated
from bgf.hands import Outcome
from bgf.media import ice
from bgf.media.checks import StunCheck
from bgf.model import Address, Flow, FlowKey, Source
from bgf.runtime.process import call_ns, now_ns
from bgf.runtime.served import Served

TAKEN_MAX: Final = 256
"""Checks answered at one look; who sends more is not answered now, and asks again."""
DELIVERED_MAX: Final = 64
"""Choices handed to machines in one go: each is a write that waits for its replicas."""
WAITING_MAX: Final = 16_384
"""Choices per group; past it the oldest give way. Agents choose again, or restart ICE."""
AGAIN_MS: Final = 500
"""A pinhole's choice is taken in this often at most."""
NS_PER_MS: Final = 1_000_000


class CheckSource(Protocol):
    """Where checks come from and answers go to (`bgf.media.checks.Checks`)."""

    lost: int
    unsent: int

    def take(self) -> Iterator[StunCheck]: ...

    def answer(self, check: StunCheck, message: bytes) -> None: ...


class IceAgent:
    """One node's. Call `take` when there are checks, `deliver` often.

    `flow_of` gives a group's recorded flow of a pinhole, None when there is none.
    """

    def __init__(
        self,
        checks: CheckSource,
        served: Mapping[str, Served],
        flow_of: Callable[[str, FlowKey], Flow | None],
    ) -> None:
        self._checks = checks
        self._served = served
        self._flow_of = flow_of
        self._group_of = {
            address.host: one.group.id for one in served.values() for address in one.group.addresses
        }
        self._chosen: dict[str, dict[FlowKey, Address]] = {group: {} for group in served}
        self._told_ns: dict[FlowKey, int] = {}
        self.tally: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """For the operator: what became of the checks."""
        waiting = sum(map(len, self._chosen.values()))
        lost, unsent = self._checks.lost, self._checks.unsent
        return dict(self.tally) | {"lost": lost, "unsent": unsent, "waiting": waiting}

    def take(self) -> None:
        """Answer what has come."""
        checks = self._checks.take()
        for check in itertools.islice(checks, TAKEN_MAX):
            self._answer(check)
        self.tally["shed"] += sum(1 for _ in checks)

    def _answer(self, check: StunCheck) -> None:
        group = self._group_of.get(check.key.host, "")
        flow = self._flow_of(group, check.key)
        if flow is None or flow.ice is None:
            self.tally["no-flow"] += 1
            return
        said = ice.answer(flow.ice, check.message, check.sender)
        self.tally[said.check.value] += 1
        if said.reply is not None:
            self._checks.answer(check, said.reply)
        if said.nominated and flow.source != Source(check.sender.host, check.sender.port):
            waiting = self._chosen[group]
            waiting.pop(check.key, None)
            waiting[check.key] = check.sender
            if len(waiting) > WAITING_MAX:
                del waiting[next(iter(waiting))]
                self.tally["given-up"] += 1

    def deliver(self) -> None:
        """To the machines of the groups that are active here."""
        self._told_ns = {
            key: told
            for key, told in self._told_ns.items()
            if now_ns() - told < AGAIN_MS * NS_PER_MS
        }
        for served in self._served.values():
            driver = served.driver
            waiting = self._chosen[served.group.id]
            if not waiting or driver is None or driver.fenced or driver.doubtful:
                continue
            due = [key for key in waiting if key not in self._told_ns]
            for key in due[:DELIVERED_MAX]:
                call_id = driver.gateway.call_of(key)
                if call_id is None:
                    del waiting[key]
                    continue
                event = Nominated(call_ns(), call_id, key, waiting[key])
                if driver.see(event) not in (Outcome.ANSWERED, Outcome.REFUSED):
                    break
                del waiting[key]
                self._told_ns[key] = now_ns()
                self.tally["nominated"] += 1

    def discard(self, group: str) -> None:
        """The group is another node's: what its peers choose is told there."""
        self._chosen[group].clear()
