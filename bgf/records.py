"""What hands need of those who keep a group's state: journals and recorded flows, by call.

Knows: the promises of each write. Must not know who keeps them, and where (`runtime.store_adapters`
does, in DAL).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from bgf.model import Flow


class Journal(Protocol):
    """The store of entries, by call. Writes carry the group's epoch.

    Every write raises Fenced when a newer epoch has been seen, StateError when the store cannot
    take it; then it has had no effect.
    """

    def check(self) -> None:
        """Raise Fenced when a newer epoch has been seen; one load, before every reply."""

    def mark(self, call_id: str) -> None:
        """Remember durably which call is being worked on (one word, overwritten)."""

    def marked(self) -> str:
        """The call last marked, '' when none ever was."""

    def tidy(self) -> None:
        """Remove what earlier owners left that nobody needs any more. Not urgent."""

    def append(self, call_id: str, entry: bytes) -> None:
        """Add an entry, starting a journal when there is none."""

    def replace(self, call_id: str, entries: Sequence[bytes]) -> None:
        """Make these the only ones, atomically, starting a journal when there is none."""

    def entries(self, call_id: str) -> Sequence[bytes]:
        """A call's entries in order, empty when it has no journal."""

    def several(self, call_ids: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
        """Entries of as many of these as can be read in one go, none for a call that has no
        journal. One that is missing has to be read alone: `entries` says.

        Not for the marked call: what its last owner had begun to write of it may be at some of its
        copies only, and these are read from whichever is nearest."""

    def forget(self, call_id: str) -> None:
        """Delete a call's journal; an unknown one is ignored."""

    def calls(self) -> Iterable[str]:
        """The calls that have a journal."""


class FlowStore(Protocol):
    """Explicit state: one item per call; errors as for Journal."""

    def record(self, call_id: str, flows: Sequence[Flow]) -> None:
        """These are the call's flows from now on, all at once; with none it has no item."""
