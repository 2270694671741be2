"""The hands of the failover process on packet path, addresses and gateway, and what they hold.

Knows: adapters, how far each group has come (`Held`), when to repeat what. Must not know: the
registry, why anything is done (`decide` does), who else there is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from failover.actions import (
    Action,
    AddAddresses,
    Announce,
    Arm,
    Held,
    LetGo,
    StepDown,
    WakeGateway,
    done,
)
from failover.adapters import Addresses, Armer
from failover.config import FailoverConfig, MovingAddress

MS: Final = 1_000_000
# After the first announcement, which goes out at once. At 200 ms a predecessor that handed over has
# let go; within 3 s the kernel of one that stands still has, so that no answer of its to a
# neighbour's question lasts.
ANNOUNCE_BURST_MS: Final = (3, 20, 200, 1_000, 3_000)
CONFLICT_RETRY_MS: Final = 5000
LIFETIME_EXTRA_S: Final = 1  # kernel address lifetime beyond the lease, which it counts in seconds

Tell = Callable[[str, str, int, str], None]
"""(event, group, epoch, sentence)"""


class Performer:
    """One node's hands. `tell` hears of each step; `tally` counts upkeep that failed."""

    def __init__(
        self,
        config: FailoverConfig,
        *,
        armer: Armer,
        addresses: Addresses,
        clock: Callable[[], int],
        wake_gateway: Callable[[str, int], None],
        tell: Tell,
        tally: Counter[str],
    ) -> None:
        self._config = config
        self._armer = armer
        self._addresses = addresses
        self._clock = clock
        self._wake_gateway = wake_gateway
        self._tell = tell
        self._tally = tally
        self._lifetime_s = -(-config.lease_ms // 1000) + LIFETIME_EXTRA_S
        self._refresh_ns = clock()
        self._announce_at: dict[str, deque[int]] = {}
        self._barred: dict[str, tuple[int, str]] = {}
        self.held = {name: Held(doubtful=True) for name in config.groups}
        self.trouble: dict[str, str] = {}

    def perform(self, action: Action, sentence: str) -> None:
        """Do it and remember it. Whatever an adapter raises comes out, and the step is undone."""
        group = action.group
        moving = self._moving(group)
        match action:
            case Arm(_, epoch, until_ns):
                self._armer.arm(group, until_ns)
                if self.held[group].armed != epoch:
                    self._tell("armed", group, epoch, f"{group} forwards here")
            case AddAddresses(_, epoch):
                self._addresses.add(moving, self._lifetime_s)
                hosts = ", ".join(address.host for address in moving)
                self._tell("addressed", group, epoch, f"{hosts} are here")
            case Announce(_, epoch):
                self._addresses.announce(moving)
                now_ns = self._clock()
                every_ms = self._config.announce_interval_ms
                burst = [ms for ms in ANNOUNCE_BURST_MS if ms < every_ms]
                self._announce_at[group] = deque(now_ns + ms * MS for ms in (*burst, every_ms))
                self._tell("announced", group, epoch, "told every neighbour")
            case WakeGateway(_, epoch):
                self._wake_gateway(group, epoch)
                self._tell("woken", group, epoch, "the gateway process was told")
            case LetGo(_, epoch):
                self._let_go(group, disarm=False)
                self._tell("released", group, epoch, sentence)
            case StepDown():
                held = self.held[group]
                self._let_go(group, disarm=True)
                self._forget_trouble(group)
                if not held.doubtful or held.armed or held.addressed:
                    self._tell("stepped-down", group, 0, sentence)
        self.remember(action)

    def remember(self, action: Action) -> None:
        """An action has been performed."""
        self.held[action.group] = done(self.held[action.group], action)

    def free(self, group: str) -> bool:
        """Before a first bring-up: does nobody on the links answer for the group's addresses?"""
        taken = self._addresses.conflicts(self._moving(group))
        if not taken:
            self._barred.pop(group, None)
            return True
        who = ", ".join(f"{host} is {mac}" for host, mac in sorted(taken.items()))
        why = f"somebody else answers for its addresses ({who}): remove them there"
        self._barred[group] = (self._clock() + CONFLICT_RETRY_MS * MS, why)
        self._tell("conflict", group, 0, why)
        return False

    def barred(self, now_ns: int) -> dict[str, str]:
        """Groups that must not be brought up for the first time now, and why."""
        return {g: why for g, (until_ns, why) in self._barred.items() if now_ns < until_ns}

    def next_announcement_ns(self) -> list[int]:
        return [times[0] for times in self._announce_at.values() if times]

    def keep_up(self, alive: bool) -> None:
        """Repeat announcements and renew address lifetimes, of what is owned and done only."""
        now_ns = self._clock()
        for group, times in self._announce_at.items():
            if alive and times and now_ns >= times[0]:
                while times and now_ns >= times[0]:
                    times.popleft()
                if not times:
                    times.append(now_ns + self._config.announce_interval_ms * MS)
                self._upkeep("announce", group)
        if alive and now_ns >= self._refresh_ns:
            self._refresh_ns = now_ns + self._lifetime_s * 1000 * MS // 4
            for group, held in self.held.items():
                if held.addressed:
                    self._upkeep("refresh", group)

    def _moving(self, group: str) -> Sequence[MovingAddress]:
        return self._config.groups[group].addresses

    def _let_go(self, group: str, *, disarm: bool) -> None:
        """Each part is tried whatever becomes of the others; the first failure is raised after."""
        self._announce_at.pop(group, None)
        failures: list[Exception] = []
        parts: list[Callable[[], None]] = [
            lambda: self._addresses.remove(self._moving(group)),
            lambda: self._wake_gateway(group, 0),
        ]
        if disarm:
            parts.insert(0, lambda: self._armer.arm(group, 0))
        for part in parts:
            try:
                part()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _forget_trouble(self, group: str) -> None:
        for name in [name for name in self.trouble if name.endswith(f" {group}")]:
            del self.trouble[name]

    def _upkeep(self, what: str, group: str) -> None:
        try:
            if what == "announce":
                self._addresses.announce(self._moving(group))
            else:
                self._addresses.add(self._moving(group), self._lifetime_s)
        except Exception as error:
            self._tally["failed_upkeep"] += 1
            self.trouble[f"{what} {group}"] = str(error)
        else:
            self.trouble.pop(f"{what} {group}", None)
