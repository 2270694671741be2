"""bpf(2) for Python. Raises OSError (errno; text with the verifier's last words where it spoke).

Descriptors are plain integers, closed on exec, that the caller closes with `os.close`. Sizes are
checked against the map: ValueError when a buffer does not fit. Values of per-CPU maps are all
possible CPUs' values one behind the other, each rounded up to 8 bytes.
"""

import mmap
from collections.abc import Callable, Set
from os import PathLike

from bgf.model import Flow, FlowKey

_Bytes = bytes | bytearray | memoryview
_Map = mmap.mmap | bytearray
_Array = mmap.mmap | memoryview | bytearray
_Path = str | bytes | PathLike[str]

LAYOUT: int
GROUP_ID_LEN: int
OPEN: int
SOURCE_HOST: int
SOURCE_PORT: int
OUT_IP6: int
POLICE: int
RTP: int
RTCP: int
MUXED: int
RTP_CHECK: int
RTP_TYPES: int
LATCH: int
FOLLOW: int
NO_REMOTE: int
HAIRPIN: int
CAPTURED: int
SOURCE_PREFIX: int
CHECKS: int
DEMUX: int
ADDRESS_PLACES: int
ADDRESS_PROBES: int
COST_SHIFT: int
TIME_SHIFT: int
LATCH_OPEN: int
LATCH_BUSY: int
LATCH_SET: int
LATCH_REPLACE: int
TRACE_MAGIC: int
INTERFACE_PLACES: int
PROBES: int
ROW: int
SIZEOF_CONFIG: int
COUNTS_AT: int
STATS_FIRST_AT: int
SIZEOF_CPU: int
SIZEOF_INTERFACE: int
SIZEOF_PLACE: int
SIZEOF_KEY: int
SIZEOF_PINHOLE: int
SIZEOF_STATS: int
SIZEOF_STREAM: int
SIZEOF_LATCH: int
SIZEOF_NEXTHOP: int
SIZEOF_REPORT: int
SIZEOF_CAPTURED: int
SIZEOF_TRACE: int
OUTCOMES: tuple[str, ...]

def possible_cpus() -> int: ...
def is_bpffs(path: _Path) -> bool: ...
def address_hash(address: _Bytes) -> int:
    """The place where a search for an address (16 bytes) begins."""

def map_create(
    type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = ""
) -> int: ...
def map_info(fd: int) -> dict[str, int | str]:
    """type, id, key_size, value_size, max_entries, flags, name."""

def map_lookup(fd: int, key: _Bytes, value_size: int = 0) -> bytes | None:
    """None when the key is not there. `value_size`, when given, must be the map's."""

def map_lookup_each(fd: int, keys: _Bytes) -> bytes:
    """The values of many keys in their order; zeros for those that are not there."""

def map_update(fd: int, key: _Bytes, value: _Bytes, flags: int = 0) -> None: ...
def map_delete(fd: int, key: _Bytes) -> bool:
    """False when it was not there."""

def map_next_key(fd: int, key: _Bytes | None) -> bytes | None:
    """The key behind `key`, the first for None; None at the end."""

def map_update_batch(fd: int, keys: _Bytes, values: _Bytes, count: int, flags: int = 0) -> int: ...
def map_lookup_batch(fd: int) -> tuple[bytes, bytes]:
    """The whole map: (keys, values), each packed without gaps."""

def map_delete_batch(fd: int, keys: _Bytes, count: int) -> int:
    """How many were removed; keys that are not there are no error."""

def pack_flows(
    flows: list[Flow],
    index: _Array,
    free: list[int],
    groups: dict[str, int],
    realms: dict[str, tuple[int, int, dict[str, int]]],
    rows: dict[str, tuple[int, int, int]],
    hosts: dict[str, bytes],
    pack_host: Callable[[str], bytes],
    guarded: Set[str],
    odd: bytearray,
    add_hop: Callable[[str, str], int],
    add_row: Callable[[str, str], tuple[int, int, int]],
) -> tuple[bytearray, bytes, bytes, int, list[int], int]:
    """Pinholes for flows: (values, slots, cells, fresh, special, short).

    `index` has slots, plus 1, by cell (row << 16 | port). New flows get slots from the end of
    `free`; `fresh` counts them, `short` those that found none. `realms` are (ifindex, vlan, next
    hop by far host), `rows` (row, ifindex, vlan) of local hosts; `add_hop` and `add_row` are asked
    for what is not there, by realm and host. `special` are positions of flows that need more than
    packing, or whose slot is marked in `odd`. Peer slots and captures are not set.
    ValueError(position) for a flow that cannot be.
    """

def write_pinholes(
    pinholes: _Map, ports: _Map, values: _Bytes, slots: _Bytes, cells: _Bytes
) -> int:
    """Write pinholes into the mapped maps; how many were not there already."""

def close_pinholes(pinholes: _Map, ports: _Map, slots: _Bytes, cells: _Bytes) -> None: ...
def compare_pinholes(pinholes: _Map, values: _Bytes, slots: _Bytes) -> list[int]:
    """Positions of pinholes that are not there, whole and exactly so."""

def scan_ports(ports: _Map) -> tuple[bytes, bytes]:
    """(cells, slots) of every port that leads somewhere."""

def take_rows(rows: _Map, indices: _Bytes, row_bytes: int) -> bytes: ...
def clear_streams(pinholes: _Map, slots: _Bytes) -> None:
    """Zero what the program keeps of these pinholes' streams."""

def clear_rows(rows: _Map, indices: _Bytes, row_bytes: int, parts: int = 1) -> None:
    """Zero these rows in each of the equal parts of the map."""

def book_pinholes(
    index: _Array, hops: _Array, uses: _Array, values: _Bytes, slots: _Bytes, cells: _Bytes
) -> list[int]:
    """Make (slot + 1 by cell, next hop by slot, uses by next hop) those of what has been written.

    Returns next hops that were without a use at some time.
    """

def unbook_pinholes(
    index: _Array, hops: _Array, uses: _Array, slots: _Bytes, cells: _Bytes
) -> tuple[bytes, bytes, list[int]]:
    """Forget what is booked of these: (slots, cells) of those that were, and idle next hops."""

def locate_pinholes(
    keys: list[FlowKey], rows: dict[str, tuple[int, int, int]], index: _Array
) -> tuple[bytes, bytes]:
    """(slots, cells) in the order of the keys; 0xffffffff and 0 for those that are not booked."""

def sum_stats(stats: _Map, slots: _Bytes, cpus: int) -> bytes:
    """struct bgf_stats of each slot, all its CPUs together."""

def report_ring(fd: int) -> object:
    """A reader of a BPF ring buffer; the memory goes with it. One reader at a time."""

def report_drain(ring: object) -> list[bytes]:
    """The records that are there, at most 4,096."""

def capture_rings(fd: int, cpus: int, pages: int) -> object:
    """Readers of a perf event array, one ring of `pages` (a power of two) for each CPU online."""

def capture_fds(rings: object) -> list[int]:
    """What to poll; they stay the rings'."""

def capture_drain(rings: object) -> tuple[list[bytes], int]:
    """The records that are there, some 4,096 at most, padded at the end; how many were lost."""

def obj_pin(fd: int, path: _Path) -> None: ...
def obj_get(path: _Path, flags: int = 0) -> int: ...
def link_create_xdp(prog_fd: int, ifindex: int, flags: int = 0) -> int: ...
def link_update(link_fd: int, new_prog_fd: int, old_prog_fd: int = -1) -> None: ...
def link_detach(link_fd: int) -> None: ...
def link_info(link_fd: int) -> dict[str, int]:
    """type, id, prog_id, ifindex (0 once the interface is gone or the link detached)."""

def prog_info(prog_fd: int) -> dict[str, int | str | bytes]:
    """type, id, tag, name, xlated_bytes, jited_bytes, run_time_ns, run_count."""

def prog_test_run(
    prog_fd: int,
    data: _Bytes,
    ctx: _Bytes | None = None,
    repeat: int = 1,
    flags: int = 0,
    batch_size: int = 0,
    cpu: int = 0,
) -> tuple[int, bytes, int, bytes]:
    """BPF_PROG_TEST_RUN, without the GIL: (retval, data_out, mean duration in ns, ctx_out).

    With BPF_F_TEST_XDP_LIVE_FRAMES (2) in `flags` frames really leave and both outputs are empty.
    """

def load_bgf(**entries: int) -> dict[str, int]:
    """Load the packet program: descriptors of each map by name, and of the program as `bgf_xdp`.

    `entries` sets a map's size (pinholes=..., stats=..., ...); ValueError for an unknown map.
    """
