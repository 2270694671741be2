"""A machine stepped through a journal file: what would have been done is kept, and not done.

Knows: effects. Must not know stores, sockets or the packet path: there are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bgf.events import DropFlow, Effect, Event, Notify, PutFlow, Reply
from bgf.gateway import Gateway
from bgf.hands import Hands
from bgf.model import Flow, FlowKey


class ReplayHands:
    """Keeps what would have been done, for a reader or a test."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.notices: list[Notify] = []
        self.flows: dict[FlowKey, Flow] = {}
        self.replies: list[Reply] = []

    def perform(self, effects: Sequence[Effect]) -> None:
        self.effects.extend(effects)
        for effect in effects:
            if isinstance(effect, PutFlow):
                self.flows[effect.flow.key] = effect.flow
            elif isinstance(effect, DropFlow):
                self.flows.pop(effect.key, None)
            elif isinstance(effect, Reply):
                self.replies.append(effect)
            elif isinstance(effect, Notify):
                self.notices.append(effect)


def rehearse(gateway: Gateway, events: Iterable[Event], hands: Hands) -> None:
    """Step a machine through a journal file's events, as they stand."""
    for event in events:
        hands.perform(gateway.step(event))
