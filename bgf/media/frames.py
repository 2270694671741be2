"""UDP frames, built and read: for `trace` and for tests, not for the packet path. No I/O."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from bgf.model import Address

ETHERTYPE_IP4, ETHERTYPE_IP6, ETHERTYPE_VLAN = 0x0800, 0x86DD, 0x8100
HOPS_DEFAULT = 64
_UDP = 17


class Datagram(NamedTuple):
    """A UDP packet without its link layer."""

    sender: Address
    receiver: Address
    hops: int
    payload: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, padded to an even length."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 65_535
    return ~total & 0xFFFF if total or not any(data) else 0


def build(
    sender: Address,
    receiver: Address,
    payload: bytes,
    *,
    destination_mac: bytes,
    source_mac: bytes,
    hops: int = HOPS_DEFAULT,
) -> bytes:
    """An Ethernet frame with right checksums; both addresses must be of one family."""
    family = socket.AF_INET6 if sender.family == 6 else socket.AF_INET
    source = socket.inet_pton(family, sender.host)
    destination = socket.inet_pton(family, receiver.host)
    length = 8 + len(payload)
    udp = struct.pack(">HHHH", sender.port, receiver.port, length, 0) + payload
    pseudo = source + destination + struct.pack(">II", length, _UDP)
    udp = udp[:6] + struct.pack(">H", checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    if sender.family == 6:
        ip = struct.pack(">IHBB", 6 << 28, length, _UDP, hops) + source + destination
        return destination_mac + source_mac + struct.pack(">H", ETHERTYPE_IP6) + ip + udp
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, hops, _UDP, 0)
    ip += source + destination
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return destination_mac + source_mac + struct.pack(">H", ETHERTYPE_IP4) + ip + udp


def read(frame: bytes) -> Datagram | None:
    """The UDP packet in an Ethernet frame; None when it is something else, or not whole."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETHERTYPE_IP4 and len(frame) >= 42 and frame[14] == 0x45 and frame[23] == _UDP:
        source, destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        hops, at = frame[22], 34
    elif kind == ETHERTYPE_IP6 and len(frame) >= 62 and frame[20] == _UDP:
        source = socket.inet_ntop(socket.AF_INET6, frame[22:38])
        destination = socket.inet_ntop(socket.AF_INET6, frame[38:54])
        hops, at = frame[21], 54
    else:
        return None
    source_port, destination_port, length = struct.unpack_from(">HHH", frame, at)
    if length < 8 or at + length > len(frame):
        return None
    return Datagram(
        Address.of(source, source_port),
        Address.of(destination, destination_port),
        hops,
        frame[at + 8 : at + length],
    )


def tagged(frame: bytes, vlan: int, priority: int = 0) -> bytes:
    """The frame with an 802.1Q tag."""
    return frame[:12] + struct.pack(">HH", ETHERTYPE_VLAN, priority << 13 | vlan) + frame[12:]


def untagged(frame: bytes) -> bytes:
    """The frame without its first 802.1Q tag, if it has one."""
    return frame[:12] + frame[16:] if frame[12:14] == ETHERTYPE_VLAN.to_bytes(2, "big") else frame
