"""bgf.h in Python: how keys and values of the packet path's maps are packed. No I/O.

The sizes are compared with the C side's when this module is imported.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from bgf.media import _xdp
from bgf.media.datapath import Outcome
from bgf.model import Address, Counters, Family, Flow, FlowKey, Gate

OUTCOMES = tuple(Outcome(name) for name in _xdp.OUTCOMES)
ADDRESS_CACHE_ENTRIES = 65_536

CONFIG = struct.Struct("=II")
INTERFACE = struct.Struct("=I6s2x")
KEY = struct.Struct("=16sIH2x")
_PINHOLE = struct.Struct("=24s16s16s16s2s2s2sHIIII")
STATS = struct.Struct("=QQQ")
TRACE = struct.Struct("=IIII")
XDP_MD = struct.Struct("=6I")  # struct xdp_md of linux/bpf.h
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")

_MAPPED = bytes(10) + b"\xff\xff"
_NOBODY = bytes(16)

for _ours, _theirs in (
    (CONFIG, _xdp.SIZEOF_CONFIG),
    (INTERFACE, _xdp.SIZEOF_INTERFACE),
    (KEY, _xdp.SIZEOF_KEY),
    (_PINHOLE, _xdp.SIZEOF_PINHOLE),
    (STATS, _xdp.SIZEOF_STATS),
    (TRACE, _xdp.SIZEOF_TRACE),
):
    if _ours.size != _theirs:
        raise ImportError(f"bgf.h and layout.py differ: {_ours.format} is {_theirs} bytes in C")


class Pinhole(NamedTuple):
    """What is read back of an installed pinhole. `remote` is None while it is not known."""

    key: FlowKey
    ifindex: int
    remote: str | None
    group: int
    nexthop: int
    slot: int


@functools.lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def pack_address(host: str) -> bytes:
    """16 bytes, IPv4 in its v4-mapped form (RFC 4291 section 2.5.5.2)."""
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host)
    return _MAPPED + socket.inet_aton(host)


@functools.lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def unpack_address(raw: bytes) -> str:
    if raw.startswith(_MAPPED):
        return socket.inet_ntoa(raw[12:])
    return str(ipaddress.IPv6Address(raw))


def pack_key(local: Address, ifindex: int) -> bytes:
    """struct bgf_key."""
    return KEY.pack(pack_address(local.host), ifindex, socket.htons(local.port))


def unpack_key(raw: bytes) -> tuple[FlowKey, int]:
    """The key and the ifindex of its realm."""
    host, ifindex, port = KEY.unpack(raw)
    return FlowKey(unpack_address(host), socket.ntohs(port)), ifindex


def place_interfaces(ifindexes: Iterable[int]) -> dict[int, int] | None:
    """Where each interface stands in the table; None when one finds no place near its own."""
    places: dict[int, int] = {}
    for ifindex in sorted(ifindexes):
        near = ((ifindex + n) % _xdp.INTERFACE_PLACES for n in range(_xdp.PROBES))
        free = next((place for place in near if place not in places.values()), None)
        if free is None:
            return None
        places[ifindex] = free
    return places


def is_open(flow: Flow) -> bool:
    """A gate can only be open towards somebody."""
    return flow.gate is Gate.OPEN and flow.remote is not None


def pack_pinhole(flow: Flow, key: bytes, group: int, nexthop: int, slot: int) -> bytes:
    """struct bgf_pinhole."""
    flags = _xdp.OPEN if is_open(flow) else 0
    if flow.local_out.family is Family.IP6:
        flags |= _xdp.OUT_IP6
    source_host, source_port = _NOBODY, 0
    if flow.source.host is not None:
        flags |= _xdp.SOURCE_HOST
        source_host = pack_address(flow.source.host)
    if flow.source.port is not None:
        flags |= _xdp.SOURCE_PORT
        source_port = flow.source.port
    remote_host, remote_port = _NOBODY, 0
    if flow.remote is not None:
        remote_host, remote_port = pack_address(flow.remote.host), flow.remote.port
    local_host = pack_address(flow.local_out.host)
    ports = struct.pack(">HH", flow.local_out.port, remote_port)
    # One's complement sum (RFC 1071) of 16-bit words as this machine reads them: the remainder by
    # 65535 of the bytes taken as one number.
    total = int.from_bytes(local_host + remote_host + ports, "little") % 65_535
    return _PINHOLE.pack(
        key,
        local_host,
        remote_host,
        source_host,
        ports[:2],
        ports[2:],
        source_port.to_bytes(2, "big"),
        total,
        flags,
        group,
        nexthop,
        slot,
    )


def unpack_pinhole(raw: bytes) -> Pinhole:
    key, _, remote, _, _, remote_port, _, _, _, group, nexthop, slot = _PINHOLE.unpack(raw)
    flow_key, ifindex = unpack_key(key)
    known = remote != _NOBODY or remote_port != b"\0\0"
    host = unpack_address(remote) if known else None
    return Pinhole(flow_key, ifindex, host, group, nexthop, slot)


def sum_stats(raw: bytes) -> Counters:
    """One slot of the per-CPU statistics, all CPUs together."""
    packets = octets = last = 0
    for cpu_packets, cpu_bytes, cpu_last in STATS.iter_unpack(raw):
        packets += cpu_packets
        octets += cpu_bytes
        last = max(last, cpu_last)
    return Counters(packets, octets, last)
