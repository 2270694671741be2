"""What the registry has of this node's own record, known late if it answers late. No I/O.

Knows: records that were handed over, the deadline in each. Must not know what is in a record or
when the next one is due.

A record whose answer is not waited for any more may stand all the same; `granted` learns it from
the deadline that the registry confirms. Otherwise a registry that is merely slow would get the
same record again and again, each time with a wait.
"""

from __future__ import annotations

from dataclasses import replace

from failover.registry import Member


class OwnRecord:
    """Of one node. At most one record is under way."""

    def __init__(self) -> None:
        self.stands: Member | None = None
        """What the registry has, with a deadline of 0; None before the first."""
        self._waiting: Member | None = None

    def confirmed(self, record: Member) -> None:
        """The registry has it."""
        self.stands = replace(record, lease_deadline_ns=0)
        self._waiting = None

    def pending(self, record: Member, granted_ns: int) -> None:
        """It was handed over, or stays behind one that is still under way; nobody tells which.

        `granted_ns` is the latest deadline that the registry has confirmed by now.
        """
        self.granted(granted_ns)
        if self._waiting is None:
            self._waiting = record

    def failed(self) -> None:
        """What was under way has not been written, as far as is known."""
        self._waiting = None

    def granted(self, deadline_ns: int) -> None:
        """A record with that deadline stands."""
        if self._waiting is not None and deadline_ns >= self._waiting.lease_deadline_ns:
            if deadline_ns == self._waiting.lease_deadline_ns:
                self.stands = replace(self._waiting, lease_deadline_ns=0)
            self._waiting = None

    def serves(self, group: str, epoch: int) -> bool:
        """Does it say that this node serves the group at that epoch?"""
        return self.stands is not None and self.stands.serves.get(group) == epoch
