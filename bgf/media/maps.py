"""The packet path's maps by name: many entries written, read or removed with few system calls.

Knows: descriptors and bytes. Knows no layout, and decides nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence

from bgf.media import _xdp, pins

ENTRIES_PER_CALL = 8_192  # written to a map by one system call


class Maps:
    """Owns the descriptors that it is given. Raises OSError as the kernel does."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = dict(fds)
        self._mapped: dict[str, mmap.mmap] = {}

    def capacity(self, name: str) -> int:
        return int(_xdp.map_info(self.fds[name])["max_entries"])

    def get(self, name: str, key: bytes) -> bytes | None:
        return _xdp.map_lookup(self.fds[name], key)

    def each(self, name: str, keys: Sequence[bytes], value_bytes: int) -> list[bytes]:
        """The values in the order of the keys; zeros for those that are not there."""
        raw = _xdp.map_lookup_each(self.fds[name], b"".join(keys))
        return [raw[at : at + value_bytes] for at in range(0, len(raw), value_bytes)]

    def put(self, name: str, key: bytes, value: bytes) -> None:
        _xdp.map_update(self.fds[name], key, value)

    def update(self, name: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        for at in range(0, len(keys), ENTRIES_PER_CALL):
            part = keys[at : at + ENTRIES_PER_CALL]
            joined = b"".join(values[at : at + ENTRIES_PER_CALL])
            _xdp.map_update_batch(self.fds[name], b"".join(part), joined, len(part))

    def mapped(self, name: str) -> mmap.mmap:
        """The map as memory: its values one behind the other."""
        found = self._mapped.get(name)
        if found is None:
            info = _xdp.map_info(self.fds[name])
            size = int(info["max_entries"]) * ((int(info["value_size"]) + 7) // 8 * 8)
            found = self._mapped[name] = mmap.mmap(self.fds[name], size)
        return found

    def delete(self, name: str, keys: Sequence[bytes]) -> None:
        if keys:
            _xdp.map_delete_batch(self.fds[name], b"".join(keys), len(keys))

    def dump(self, name: str, key_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        keys, values = _xdp.map_lookup_batch(self.fds[name])
        count = len(keys) // key_bytes
        size = len(values) // count if count else 0
        for at in range(count):
            yield keys[at * key_bytes : (at + 1) * key_bytes], values[at * size : (at + 1) * size]

    def close(self) -> None:
        for mapped in self._mapped.values():
            mapped.close()
        self._mapped = {}
        pins.close_all(self.fds.values())
        self.fds = {}
