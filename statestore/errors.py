"""What can go wrong in the state store. Knows no segment; imports nothing.

Every error prints as one line that names the item or file, the value and the way out.
"""

from __future__ import annotations


class StateStoreError(Exception):
    """Root of all errors of the state store."""


class NotFound(StateStoreError):
    """No item of that key."""


class Exists(StateStoreError):
    """An item of that key is there already."""


class Full(StateStoreError):
    """No room: in the segment, or for the segment in its file system."""


class Fenced(StateStoreError):
    """The grant is older than its fence. `epoch_seen` is where the fence stands."""

    def __init__(self, message: str, epoch_seen: int = 0) -> None:
        super().__init__(message)
        self.epoch_seen = epoch_seen


class Corrupt(StateStoreError):
    """The file is no segment, is damaged, or contradicts itself."""


class WrongVersion(StateStoreError):
    """The segment has the layout of another version."""


class TooBig(StateStoreError):
    """A key or a value over its limit."""


class Overrun(StateStoreError):
    """A watcher missed changes: scan the prefix again, then go on polling."""


class Unavailable(StateStoreError):
    """Cannot be used now: closed, no permission, no client slot, used after a fork, no answer."""


class NotServing(Unavailable):
    """This host's member is outside the view, or its lease is over."""


class InDoubt(Unavailable):
    """Sent and not answered, or written and not copied in time: it may or may not have taken
    effect. Read again, then decide."""


class Away(StateStoreError):
    """There is no copy of that item on this host."""


class Invalid(StateStoreError):
    """The operation does not fit the item (a counter, entries), its name, or a bad argument."""
