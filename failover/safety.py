"""The performer of fencing and of the watchdog: asks `fencing`, does what it says, tells.

Knows: the two adapters, whom to tell. Must not know who is dead or why (`decide`), or what a
takeover does: nothing here is waited for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from failover.actions import Held
from failover.adapters import Fencer, NullFencer, NullWatchdog, Watchdog
from failover.fencing import Fencing, may_live
from failover.registry import View

Tell = Callable[[str, str, str], None]
"""(event, node, sentence)"""


class Safety:
    """One node's. `bury` hears of a node that is proven to be off, so that state need not wait."""

    def __init__(
        self,
        me: str,
        lease_ns: int,
        *,
        fencer: Fencer | None,
        watchdog: Watchdog | None,
        tell: Tell,
        bury: Callable[[str], None],
        tally: Counter[str],
    ) -> None:
        self._lease_ns = lease_ns
        self._fencer = fencer or NullFencer()
        self._watchdog = watchdog or NullWatchdog()
        self._tell = tell
        self._bury = bury
        self._tally = tally
        self._fencing = Fencing(me)
        self.took = self._fencing.took

    def fence(self, view: View, now_ns: int) -> None:
        """Begin what is due, take in what has ended. Proof of a death is proof for the state."""
        before = self._fencing.withheld
        for node in self._fencing.due(view, now_ns):
            self._fencer.fence(node)
        for node in sorted(self._fencing.withheld - before):
            self._tell("fence-withheld", node, f"{node} is not fenced: too many were lately")
        for outcome in self._fencer.outcomes():
            self._fencing.ended(outcome)
            self._tally["fenced" if outcome.ok else "fences_failed"] += 1
            event = "fenced" if outcome.ok else "fence-failed"
            self._tell(event, outcome.node, f"{outcome.node}: {outcome.why}")
            if outcome.ok:
                self._bury(outcome.node)

    def feed(self, held: Mapping[str, Held], lease_deadline_ns: int, now_ns: int) -> None:
        if may_live(held, lease_deadline_ns, now_ns, self._lease_ns):
            self._watchdog.feed(now_ns)

    def close(self) -> None:
        self._watchdog.close()
