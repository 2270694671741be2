"""The port pairs of one service group: which are free, whose the others are, which are cooling.

Knows: pair arithmetic (RTP even, RTCP on the next odd port, RFC 3550 section 11) and time as an
argument. Must not know sessions, sockets or randomness: a choice starts where `entropy` says.
Imported by the gateway only. One number is used once in a group, whatever the address.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from bgf.errors import Misuse, PortsExhausted

NS_PER_MS = 1_000_000
PORTS_EXHAUSTED = "Ran out of ports"  # Kamailio compares the whole text to try its next node

_FREE, _USED, _COOLING = 0, 1, 2
_MASK_64 = (1 << 64) - 1


class PortPool:
    """Pairs of an inclusive port range; a pair is named by its even port."""

    def __init__(self, first: int, last: int, quarantine_ms: int) -> None:
        """Raises Misuse when the range holds no whole pair."""
        self._base = first + first % 2
        self.size = max(0, (last + 1 - self._base) // 2)
        if self.size == 0:
            raise Misuse(f"port range {first}-{last} holds no even/odd pair: widen it")
        self._quarantine_ns = quarantine_ms * NS_PER_MS
        self._marks = bytearray(self.size)  # of a pair that is held, free or used
        self._owners: dict[int, str] = {}  # by even port
        self._cooling: list[tuple[int, int]] = []  # a heap of (until_ns, index)

    @property
    def used(self) -> int:
        return len(self._owners)

    @property
    def quarantined(self) -> int:
        return len(self._cooling)

    @property
    def free(self) -> int:
        return self.size - len(self._owners) - len(self._cooling)

    def owner(self, port: int) -> str | None:
        """The call that holds the pair of `port` (either of its two ports), None when nobody."""
        return self._owners.get(port & ~1)

    def choose(self, count: int, now_ns: int, entropy: int) -> tuple[int, ...]:
        """Pick `count` free pairs without taking them. Raises PortsExhausted.

        The same pool, time and entropy give the same choice; each pair is searched for from a
        start of its own, so that neighbouring calls do not get guessable neighbouring ports.
        """
        self._thaw(now_ns)
        if count > self.free:
            raise PortsExhausted(PORTS_EXHAUSTED)
        chosen: list[int] = []
        for turn in range(count):
            index = self._marks.find(_FREE, _spread(entropy, turn) % self.size)
            while index < 0 or index in chosen or self._is_held(index):
                index = self._marks.find(_FREE, index + 1)  # -1 + 1: wrap to the start
            chosen.append(index)
        return tuple(self._base + 2 * index for index in chosen)

    def _is_held(self, index: int) -> bool:
        """A free mark may be that of a pair that was taken with many others: it is made now."""
        held = self._base + 2 * index in self._owners
        if held:
            self._marks[index] = _USED
        return held

    def take(self, port: int, owner: str) -> None:
        """Give the pair to a call; taking one's own again is harmless. Raises Misuse.

        A pair outside the range (it has been narrowed since) is nobody's to choose: ignored.
        """
        index = self._index(port)
        if index is None:
            return
        holder = self._owners.get(port & ~1)
        if holder is not None and holder != owner:
            raise Misuse(f"port {port} belongs to call {holder}: call {owner} must draw again")
        if self._marks[index] == _COOLING:  # its release is newer than the claim that we learn of
            self._cooling = [entry for entry in self._cooling if entry[1] != index]
            heapq.heapify(self._cooling)
        self._owners[port & ~1] = owner
        self._marks[index] = _USED

    def take_all(self, pairs: Mapping[int, str], span: tuple[int, int]) -> Mapping[int, str]:
        """Give pairs to calls by their even ports, many at once; those given, perhaps `pairs`
        itself. None lies outside of `span` (both ends are even ports that may be taken). Pairs that
        are another call's, or outside the range, are left out."""
        inside = self._base <= span[0] and span[1] < self._base + 2 * self.size
        if inside and not self._owners and not self._cooling:  # a new owner: somebody waits for it
            self._owners = dict(pairs)  # marked when somebody chooses among them
            return pairs
        return dict(self._take_each(pairs))

    def _take_each(self, pairs: Mapping[int, str]) -> Iterable[tuple[int, str]]:
        for port, owner in pairs.items():
            index = self._index(port)
            if index is None or self._owners.setdefault(port & ~1, owner) != owner:
                continue
            if self._marks[index] == _COOLING:
                self.take(port, owner)
            self._marks[index] = _USED
            yield port, owner

    def release(self, port: int, owner: str, now_ns: int) -> None:
        """Put the pair into quarantine; a pair that is not `owner`'s is left alone."""
        index = self._index(port)
        if index is None or self._owners.get(port & ~1) != owner:
            return
        del self._owners[port & ~1]
        self._cool(index, now_ns)
        self._thaw(now_ns)

    def rest(self, port: int, released_ns: int) -> None:
        """Put a free pair into quarantine as from then; one that is held or rests is left alone."""
        index = self._index(port)
        if index is not None and self._marks[index] == _FREE and not self._is_held(index):
            self._cool(index, released_ns)

    def held(self) -> list[int]:
        """The pairs that belong to a call, by their even ports."""
        return list(self._owners)

    def _cool(self, index: int, released_ns: int) -> None:
        self._marks[index] = _COOLING
        heapq.heappush(self._cooling, (released_ns + self._quarantine_ns, index))

    def _index(self, port: int) -> int | None:
        index = (port - self._base) // 2
        return index if 0 <= index < self.size else None

    def _thaw(self, now_ns: int) -> None:
        while self._cooling and self._cooling[0][0] <= now_ns:
            self._marks[heapq.heappop(self._cooling)[1]] = _FREE


def _spread(entropy: int, turn: int) -> int:
    """One 64-bit mix per turn (the finaliser of splitmix64): starts unrelated to each other."""
    value = (entropy + (turn + 1) * 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
