"""Calls of which a new owner knows the port pairs and nothing else yet.

Knows: pairs by their even ports, calls by name. Must not know pools, sessions or journals. Which
pairs are one call's is asked for all of them by who restores in the background, and for one by who
cannot wait until twenty thousand are sorted: so the first few are looked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

SEARCHES_MAX: Final = 4
"""Calls whose pairs are looked for before all are sorted by call."""


class Adopted:
    """A set of calls, in the order in which they came, with the pairs of each."""

    def __init__(self) -> None:
        self._calls: dict[str, None] = {}
        self._unsorted: list[Mapping[int, str]] = []
        self._sorted: dict[str, list[int]] = {}
        self._searches = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    def add(self, pairs: Mapping[int, str], calls: Collection[str] = ()) -> None:
        """Whose each pair is; the mapping is kept and must not change. `calls`: all of theirs, or
        empty."""
        if pairs:
            added = dict.fromkeys(calls or pairs.values())
            self._calls = self._calls | added if self._calls else added
            self._unsorted.append(pairs)
            self._searches = 0

    def pop(self, call_id: str) -> list[int]:
        """Forget a call; its pairs, none when it is not here."""
        if call_id not in self._calls:
            return []
        if self._unsorted and self._searches == SEARCHES_MAX:
            self._sort()
        found = self._sorted.pop(call_id, [])
        if self._unsorted:
            self._searches += 1
            for pairs in self._unsorted:
                found += [port for port, owner in pairs.items() if owner == call_id]
        del self._calls[call_id]
        return found

    def _sort(self) -> None:
        known = self._sorted
        for pairs in self._unsorted:
            for port, call_id in pairs.items():
                ports = known.get(call_id)
                if ports is not None:
                    ports.append(port)
                elif call_id in self._calls:
                    known[call_id] = [port]
        self._unsorted = []
