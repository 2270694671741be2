"""New calls wait behind everything else for a bounded time; where it would be longer, not at all.

Knows: which requests would begin a call (somebody else says which calls there are), a queue, and
what a new call costs. Time is an argument. Must not know what serving one means.

A command for a call whose offer waits here waits behind it: a CANCEL's delete must not overtake the
offer that it cancels.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

from bgf.control.ng import Request
from bgf.events import Verb

if TYPE_CHECKING:
    from bgf.control.server import Incoming

WAITING_MAX: Final = 1_024
"""New calls that may wait, and commands behind them."""
LAG_MAX_MS: Final = 500
"""A proxy asks again after a second: an answer has to be there by then."""
_WEIGHT = 16  # of the past in the mean cost
_COST_NS = 500_000  # of a new call, before any was seen


class Ask(enum.Enum):
    SERVE = "serve"  # at once
    WAIT = "wait"  # it is in the queue
    REPEATED = "repeated"  # it is there already


class NewCalls:
    """`known(call_id)`: is the call here? `overload()`: why no new call may begin now, '' when it
    may: `code: reason`."""

    def __init__(
        self,
        known: Callable[[str], bool],
        overload: Callable[[], str] = lambda: "",
        lag_max_ms: int = LAG_MAX_MS,
    ) -> None:
        self._known = known
        self._overload = overload
        self._lag_max_ns = lag_max_ms * 1_000_000
        self._queue: deque[tuple[Incoming, int, bool]] = deque()
        self._calls: Counter[str] = Counter()
        self._there: set[tuple[Hashable, str]] = set()
        self._cost_ns = float(_COST_NS)

    def lag(self, lag_max_ms: int) -> None:
        """Another limit, from now on."""
        self._lag_max_ns = lag_max_ms * 1_000_000

    def __len__(self) -> int:
        return len(self._queue)

    def ask(self, request: Request, peer: Hashable, incoming: Incoming, now_ns: int) -> Ask | str:
        """What to do with a request; a text is the reason for refusing it (`code: reason`)."""
        call_id = request.call_id
        behind = call_id in self._calls
        if not behind and (request.verb is not Verb.OFFER or self._known(call_id)):
            return Ask.SERVE
        if (peer, request.cookie) in self._there:
            return Ask.REPEATED
        waiting = len(self._queue)
        if not behind:
            reason = self._overload()
            if reason:
                return reason
            if waiting >= WAITING_MAX:
                return f"waiting_max: {waiting} new calls wait already: use another node"
            lag_ns = waiting * self._cost_ns
            if lag_ns > self._lag_max_ns:
                lag_ms = round(lag_ns / 1e6)
                return f"lag_max_ms: {waiting} new calls wait {lag_ms} ms: use another node"
        elif waiting >= 2 * WAITING_MAX:
            return Ask.SERVE
        self._queue.append((incoming, now_ns, not behind))
        self._calls[call_id] += 1
        self._there.add((peer, request.cookie))
        return Ask.WAIT

    def next(self, now_ns: int) -> tuple[Incoming, str] | None:
        """The next in the queue, and why it is too late for it ('' when it is not)."""
        if not self._queue:
            return None
        incoming, since_ns, new = self._queue.popleft()
        call_id = incoming.request.call_id
        self._there.discard((incoming.peer, incoming.request.cookie))
        self._calls[call_id] -= 1
        if not self._calls[call_id]:
            del self._calls[call_id]
        if new and now_ns - since_ns > self._lag_max_ns and not self._known(call_id):
            late_ms = (now_ns - since_ns) / 1e6
            return incoming, f"lag_max_ms: control is {late_ms:.0f} ms late: use another node"
        return incoming, ""

    def took(self, cost_ns: int) -> None:
        """A new call has been served in that time."""
        self._cost_ns += (cost_ns - self._cost_ns) / _WEIGHT

    def clear(self) -> None:
        """Nobody waits any more."""
        self._queue.clear()
        self._calls.clear()
        self._there.clear()
