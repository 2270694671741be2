"""What a proxy was promised: for every call, the states that it may be in now. No I/O.

Knows: calls by name, what was asked of them, what was answered. Must not know `ng`, time or
gateways. An answered request leaves one possible state; one that nobody answered leaves two, since
it may have been carried out or not. A call's state is where its caller is to be sent media (the
port of the last description that counts), OFFERED or GONE.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

GONE: Final = 0
"""No such call. Any other state is the caller's port."""

OFFERED: Final = -1
"""There, offered and not answered: a query does not tell where its caller is."""


class Answer(enum.StrEnum):
    OK = "ok"
    REFUSED = "refused"
    """With an error: nothing has changed."""
    NONE = "unanswered"


@dataclass(slots=True)
class Call:
    """One call. `local` is the gateway's own address for it, once that was told: it stays."""

    group: str
    possible: frozenset[int] = frozenset({GONE})
    local: str = ""


@dataclass(slots=True)
class Ledger:
    """Every call of one trial, and what came of the requests."""

    calls: dict[str, Call] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """Promises that an answer itself has broken."""

    def ask(self, call_id: str, group: str, *states: int) -> frozenset[int]:
        """A request that is to bring the call into one of `states` goes out; what may be true
        before it."""
        call = self.calls.setdefault(call_id, Call(group))
        before = call.possible
        call.possible = before | set(states)
        self.counts["asked"] += 1
        return before

    def answer(
        self, call_id: str, before: frozenset[int], state: int, answer: Answer, local: str = ""
    ) -> None:
        """What came back. `local` is the gateway's address as told."""
        call = self.calls[call_id]
        self.counts[answer.value] += 1
        if answer is Answer.NONE:
            return
        call.possible = frozenset({state}) if answer is Answer.OK else before
        if answer is Answer.OK and local:
            if call.local and call.local != local:
                self.broken.append(
                    f"call {call_id}: the gateway's address was {call.local} and is {local} now"
                )
            call.local = local

    def half_open(self, call_id: str, before: frozenset[int]) -> None:
        """Its offer was answered; of the answer nobody knows whether it was taken. Until it is, a
        call is as it was `before`: as agreed last, or offered only when nothing was."""
        self.calls[call_id].possible |= (before - {GONE}) or {OFFERED}

    def living(self, group: str) -> list[str]:
        """Calls of a group that are certainly there."""
        return [
            call_id
            for call_id, call in self.calls.items()
            if call.group == group and GONE not in call.possible
        ]


def lost(ledger: Ledger, seen: Mapping[str, int | None]) -> list[str]:
    """Calls that are not as they were promised. `seen` is the state that each was found in now,
    None when the gateway would not say."""
    found = list(ledger.broken)
    for call_id, call in sorted(ledger.calls.items()):
        state = seen.get(call_id)
        if state is None:
            found.append(f"call {call_id} of {call.group}: nobody says what became of it")
        elif state not in call.possible:
            found.append(
                f"call {call_id} of {call.group} {_words(state)}, "
                f"but {' or '.join(_words(one) for one in sorted(call.possible))} was promised"
            )
    return found


def _words(state: int) -> str:
    if state == OFFERED:
        return "is there, offered and not answered"
    return "is gone" if state == GONE else f"is there with its caller at port {state}"
