"""The lease: until when this node may act as an owner. No I/O, no clock of its own.

A lease starts when its renewal was *sent*, not when the answer came: everybody else counts from
no later than that. A renewal that failed, or whose answer is older than one already confirmed,
never extends it.
"""

from __future__ import annotations

from typing import Final

RENEWALS_PER_LEASE: Final = 5  # four renewals in a row may fail before the lease runs out


class Lease:
    """One node's lease. Times in ns of one clock that counts suspend (CLOCK_BOOTTIME)."""

    def __init__(self, length_ns: int) -> None:
        if length_ns <= 0:
            raise ValueError(f"lease of {length_ns} ns: must be positive")
        self._length_ns = length_ns
        self._sent_ns: int | None = None
        self._tried_ns: int | None = None
        self._waited = False
        self.answering_since_ns = 0
        """Since when nothing asked of the registry has been kept waiting."""

    @property
    def deadline_ns(self) -> int:
        """The armed deadline: nothing may be armed past it. 0 before the first renewal."""
        return 0 if self._sent_ns is None else self._sent_ns + self._length_ns

    @property
    def reached_ns(self) -> int:
        """When the last renewal that succeeded was sent, 0 before the first."""
        return self._sent_ns or 0

    def alive(self, now_ns: int) -> bool:
        return now_ns < self.deadline_ns

    def offer(self, now_ns: int) -> int:
        """The deadline to write into a renewal that is sent now."""
        self._tried_ns = now_ns
        return now_ns + self._length_ns

    def waited(self) -> None:
        """The registry has not answered, or not yet."""
        self._waited = True

    def confirm(self, sent_ns: int, now_ns: int) -> bool:
        """The renewal sent at `sent_ns` succeeded, as is known now. Late confirmations never move
        it back; says whether it moved."""
        if self._waited:
            self._waited, self.answering_since_ns = False, now_ns
        moves = self._sent_ns is None or sent_ns > self._sent_ns
        if moves:
            self._sent_ns = sent_ns
        return moves

    def granted(self, deadline_ns: int) -> int:
        """When the renewal that offered this deadline was sent."""
        return deadline_ns - self._length_ns

    def next_renewal_ns(self, start_ns: int = 0) -> int:
        """When to try again: a fifth of a lease after the last attempt, failed ones included."""
        if self._tried_ns is None:
            return start_ns
        return self._tried_ns + self._length_ns // RENEWALS_PER_LEASE
