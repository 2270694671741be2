"""Frames that the packet path copies up, by flow, while somebody captures.

Knows: the perf event rings and struct bgf_captured. Which pinholes are copied, `xdp` marks; it is
told when others are wanted and when the capture ends. Never waits.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Iterator

from bgf.media import _xdp, layout
from bgf.media.datapath import Captured
from bgf.media.netlink import Wire
from bgf.model import FlowKey

RING_PAGES = 64
"""Of each CPU: 256 KiB, some thousand small frames between two looks."""


class PacketCapture:
    """The `Capture` of the kernel's packet path. `name_of` names the interface of a wire."""

    def __init__(
        self,
        map_fd: int,
        name_of: Callable[[Wire], str],
        mark: Callable[[Iterable[FlowKey], int], None],
        on_close: Callable[[], None],
    ) -> None:
        self._name_of = name_of
        self._mark = mark
        self._on_close = on_close
        self._rings: object | None = _xdp.capture_rings(map_fd, _xdp.possible_cpus(), RING_PAGES)
        self._poll = select.epoll()
        for fd in _xdp.capture_fds(self._rings):
            self._poll.register(fd, select.EPOLLIN)
        self.lost = 0

    def __iter__(self) -> Iterator[Captured]:
        while self._rings is not None:
            records, lost = _xdp.capture_drain(self._rings)
            self.lost += lost
            if not records:
                return
            yield from sorted(map(self._read, records), key=lambda frame: frame.time_ns)

    def _read(self, record: bytes) -> Captured:
        key, time_ns, length, ifindex, vlan, leaving, kept = layout.CAPTURED.unpack_from(record)
        flow_key, _ = layout.unpack_key(key)
        at = layout.CAPTURED.size
        return Captured(
            time_ns,
            flow_key,
            bool(leaving),
            self._name_of(Wire(ifindex, vlan)),
            length,
            record[at : at + kept],
        )

    def want(self, keys: Iterable[FlowKey], snap_bytes: int) -> None:
        """See Capture."""
        if self._rings is not None:
            self._mark(keys, snap_bytes)

    def fileno(self) -> int:
        return self._poll.fileno()

    def close(self) -> None:
        if self._rings is not None:
            self._on_close()
            self._poll.close()
            self._rings = None

    def __enter__(self) -> PacketCapture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
