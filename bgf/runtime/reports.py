"""What the packet path reports finds its way to the machine of the group that it is about.

Knows: whose media address a pinhole is at, which calls have silent media. Must not know the
registry. A report for a group that is not served here yet waits until it is: media moves first,
and the peer that a pinhole learns in between must not be lost with the next takeover.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bgf.errors import DatapathError
from bgf.events import Abandoned, Learned, Notify, Silent
from bgf.hands import Driver, Outcome
from bgf.media.datapath import Datapath, MediaSilent, PeerLearned
from bgf.model import Flow, FlowKey
from bgf.runtime.process import call_ns, now_ns
from bgf.runtime.served import Served
from bgf.runtime.silence import Hanging, Silence

log = logging.getLogger("bgf.reports")

TAKEN_MAX: Final = 128
"""Reports handed to machines in one go: each is a write that waits for its replicas, and commands
come in between."""
WAITING_MAX: Final = 65_536
"""Per group; past it the oldest give way. The packet path says it again at a restart."""
CLOSED_MAX: Final = 16
"""Hanging calls ended in one round."""
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000


class _Known(NamedTuple):
    """What is known of the silence of a group, and of which machine at which epoch that was."""

    driver: Driver
    epoch: int
    silence: Silence


class MediaReports:
    """One node's. Call `take` when the packet path has something, `deliver` and `look` often."""

    def __init__(
        self,
        datapath: Datapath,
        served: Mapping[str, Served],
        close_hanging_s: int = 0,
        close_held_s: int = 0,
    ) -> None:
        self._datapath = datapath
        self._served = served
        self.close_after(close_hanging_s, close_held_s)
        self._group_of = {
            address.host: one.group.id for one in served.values() for address in one.group.addresses
        }
        self._learned: dict[str, dict[FlowKey, PeerLearned]] = {group: {} for group in served}
        self._silent: dict[str, deque[MediaSilent]] = {
            group: deque(maxlen=WAITING_MAX) for group in served
        }
        self._silence: dict[str, _Known] = {}
        self.tally: Counter[str] = Counter()

    def close_after(self, close_hanging_s: int, close_held_s: int) -> None:
        """Other limits, from the next look on; 0: none. Held calls are not ended before others, and
        not at all when those are not; they hang from half of their limit on."""
        self._close_after_ns = close_hanging_s * NS_PER_S
        self._held_after_ns = max(close_held_s, close_hanging_s) * NS_PER_S if close_held_s else 0

    def take(self) -> None:
        """Out of the packet path; the latest word on each pinhole counts."""
        for report in self._datapath.reports():
            group = self._group_of.get(report.key.host)
            if group is None:
                self.tally["foreign"] += 1
            elif isinstance(report, MediaSilent):
                self._silent[group].append(report)
            else:
                waiting = self._learned[group]
                waiting.pop(report.key, None)
                waiting[report.key] = report
                if len(waiting) > WAITING_MAX:
                    del waiting[next(iter(waiting))]
                    self.tally["given-up"] += 1

    @property
    def waiting(self) -> int:
        """Reports of groups that are not served here, or whose state cannot be written now."""
        return sum(map(len, self._learned.values())) + sum(map(len, self._silent.values()))

    def deliver(self) -> None:
        """To the machines of the groups that are active here."""
        for served in self._served.values():
            driver = served.driver
            if driver is not None and not (driver.fenced or driver.doubtful):
                self._deliver_learned(served, driver)
                self._deliver_silent(served, driver)

    def discard(self, group: str) -> None:
        """The group is another node's: what its media does here is no news for anybody."""
        self._learned[group].clear()
        self._silent[group].clear()
        self._silence.pop(group, None)

    def _deliver_learned(self, served: Served, driver: Driver) -> None:
        waiting = self._learned[served.group.id]
        for key in list(waiting)[:TAKEN_MAX]:
            report = waiting[key]
            call_id = driver.gateway.call_of(key)
            if call_id is None:
                del waiting[key]
                self.tally["late"] += 1
                continue
            event = Learned(call_ns(), call_id, key, report.peer, report.latch_round)
            if driver.see(event) not in (Outcome.ANSWERED, Outcome.REFUSED):
                self.tally["put-off"] += 1
                return
            del waiting[key]
            self.tally["learned"] += 1

    def _deliver_silent(self, served: Served, driver: Driver) -> None:
        waiting = self._silent[served.group.id]
        for _ in range(min(TAKEN_MAX, len(waiting))):
            report = waiting[0]
            call_id = driver.gateway.call_of(report.key)
            if call_id is not None:
                event = Silent(call_ns(), call_id, report.key, report.last_seen_ns)
                if driver.see(event) not in (Outcome.ANSWERED, Outcome.REFUSED):
                    return
                self._silence_of(served, driver).note(call_id, report, now_ns())
            waiting.popleft()

    def heard_ms_ago(self, flows: Sequence[Flow]) -> int | None:
        """How long ago the latest packet passed any of these, None for never. Raises
        DatapathError."""
        counters = self._datapath.counters([flow.key for flow in flows])
        last_ns = max((one.last_seen_ns for one in counters), default=0)
        return max(0, now_ns() - last_ns) // NS_PER_MS if last_ns else None

    # -- hanging calls ---------------------------------------------------------------------

    def look(self) -> None:
        """Look for held calls; end those that have hung for longer than is allowed, if any limit is
        configured. Raises DatapathError.

        Only a group's owner gets here: nobody else has its machine.
        """
        for served in self._served.values():
            driver = served.driver
            if driver is not None and not (driver.fenced or driver.doubtful):
                now, silence = now_ns(), self._silence_of(served, driver)
                silence.seek(now)
                if self._close_after_ns:
                    due = [one for one in silence.hanging(now) if self._is_due(one, now)]
                    for one in due[:CLOSED_MAX]:
                        self._close(served, driver, one)

    def _is_due(self, one: Hanging, now: int) -> bool:
        after_ns = self._held_after_ns if one.held else self._close_after_ns
        return now - one.since_ns >= after_ns

    def hanging(self, served: Served) -> list[Hanging]:
        """The calls of an active group that hang now; none for another."""
        driver = served.driver
        try:
            if driver is None:
                return []
            return self._silence_of(served, driver).all_hanging(now_ns())
        except DatapathError:
            return []

    def hanging_about(self, served: Served, exact_max: int) -> int:
        """How many calls hang; where over `exact_max` may hang, how many those are."""
        if served.driver is None:
            return 0
        known = len(self._silence_of(served, served.driver))
        return known if known > exact_max else len(self.hanging(served))

    def _close(self, served: Served, driver: Driver, one: Hanging) -> None:
        now = now_ns()
        silent_ms = (now - one.since_ns) // NS_PER_MS
        if driver.see(Abandoned(call_ns(), one.call_id, silent_ms, one.held)) is Outcome.ANSWERED:
            self.tally["closed"] += 1
            self._silence_of(served, driver).forget(one.call_id)
            log.warning(
                "group %s: call %s ended here: no media for %d s%s",
                served.group.id, one.call_id, silent_ms // 1_000,
                ", nor was any due" if one.held else "",
                extra={"group": served.group.id, "call": one.call_id, "reason": "no-media"},
            )  # fmt: skip

    def _silence_of(self, served: Served, driver: Driver) -> Silence:
        """Of the group, whose machine may have been made anew here: media stayed, and the packet
        path says nothing twice. At another epoch it is unknown where media was before."""
        known = self._silence.get(served.group.id)
        if known is None:
            now = now_ns()
            silence = Silence(driver.gateway, self._datapath.counters, now, call_ns() - now)
        else:
            silence = known.silence
            if known.driver is not driver:
                silence.go_on(driver.gateway)
            if known.epoch != served.epoch:
                silence.count_from(now_ns())
        silence.quiet_ns = self._held_after_ns // 2
        self._silence[served.group.id] = _Known(driver, served.epoch, silence)
        return silence


class LogNotices:
    """A control protocol without a message for silent media: one line each, and counts."""

    def __init__(self, group: str, counts: Counter[str]) -> None:
        self._group = group
        self._counts = counts

    def notify(self, notice: Notify) -> None:
        """Never raises."""
        what = "never started" if notice.never_started else "stopped"
        self._counts["media-" + what.replace(" ", "-")] += 1
        log.info(
            "group %s: call %s: media of stream %d at %s %s",
            self._group, notice.call_id, notice.stream, notice.key, what,
            extra={"group": self._group, "call": notice.call_id, "reason": f"media-{what}"},
        )  # fmt: skip
