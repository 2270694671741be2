"""Frames as a pcap file: header and records. Pure: values in, bytes out.

The classic format (draft-ietf-opsawg-pcap) with nanoseconds, which every reader of captures
takes; times are of the wall clock, since that is what other captures have.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC_NS: Final = 0xA1B23C4D
VERSION: Final = (2, 4)
LINKTYPE_ETHERNET: Final = 1
NS_PER_S: Final = 1_000_000_000

_HEADER: Final = struct.Struct("<IHHiIII")
_RECORD: Final = struct.Struct("<IIII")


def header(snap_bytes: int) -> bytes:
    """The beginning of a file whose frames are cut at `snap_bytes`."""
    return _HEADER.pack(MAGIC_NS, *VERSION, 0, 0, snap_bytes, LINKTYPE_ETHERNET)


def record(time_ns: int, frame: bytes, length: int) -> bytes:
    """One frame of `length` bytes on the wire, of which `frame` was kept."""
    seconds, nanoseconds = divmod(time_ns, NS_PER_S)
    return _RECORD.pack(seconds & 0xFFFF_FFFF, nanoseconds, len(frame), length) + frame
