"""Ethernet frames that announce an address or ask for it: built and read as bytes. No sockets.

ARP: RFC 826, gratuitous forms RFC 5227 section 3. Neighbour discovery: RFC 4861 sections 4.3,
4.4 and 7.2.6; the probe of duplicate address detection: RFC 4862 section 5.4.2.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IP6: Final = 0x86DD
BROADCAST: Final = b"\xff" * 6
ALL_NODES: Final = ipaddress.IPv6Address("ff02::1").packed
ALL_NODES_MAC: Final = b"\x33\x33\x00\x00\x00\x01"  # RFC 2464 section 7
ND_HOP_LIMIT: Final = 255  # RFC 4861 section 7.1
ICMP6: Final = 58
NEIGHBOR_SOLICITATION: Final = 135
NEIGHBOR_ADVERTISEMENT: Final = 136
NA_OVERRIDE: Final = 0x2000_0000  # RFC 4861 section 4.4, flag O
OPTION_TARGET_LINK_ADDRESS: Final = 2

_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_IP6: Final = struct.Struct("!IHBB16s16s")
_ND: Final = struct.Struct("!BBHI16s")
_ARP_REQUEST: Final = 1
_ARP_REPLY: Final = 2


class Claimed(NamedTuple):
    """Somebody on the link said: `host` is at `mac`."""

    host: str
    mac: str


def gratuitous_arp(mac: bytes, host: str) -> tuple[bytes, bytes]:
    """Both forms, as some neighbours heed only one: request and reply, target = sender."""
    address = ipaddress.IPv4Address(host).packed
    request = _arp(mac, _ARP_REQUEST, address, b"\0" * 6, address)
    reply = _arp(mac, _ARP_REPLY, address, BROADCAST, address)
    return request, reply


def unsolicited_na(mac: bytes, host: str) -> bytes:
    """A neighbour advertisement to all nodes, override flag set (RFC 4861 section 7.2.6)."""
    address = ipaddress.IPv6Address(host).packed
    option = struct.pack("!BB6s", OPTION_TARGET_LINK_ADDRESS, 1, mac)
    body = _ND.pack(NEIGHBOR_ADVERTISEMENT, 0, 0, NA_OVERRIDE, address) + option
    return _ip6(ALL_NODES_MAC, mac, address, ALL_NODES, body)


def announcements(mac: bytes, host: str) -> tuple[bytes, ...]:
    """What to send so that every neighbour finds `host` at `mac`."""
    return (unsolicited_na(mac, host),) if ":" in host else gratuitous_arp(mac, host)


def question(mac: bytes, host: str) -> bytes:
    """Who is `host`? Asked without claiming it (RFC 5227 section 2.1.1, RFC 4862)."""
    if ":" not in host:
        target = ipaddress.IPv4Address(host).packed
        return _arp(mac, _ARP_REQUEST, b"\0" * 4, b"\0" * 6, target)
    target = ipaddress.IPv6Address(host).packed
    multicast = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]
    body = _ND.pack(NEIGHBOR_SOLICITATION, 0, 0, 0, target)
    return _ip6(b"\x33\x33" + multicast[12:], mac, b"\0" * 16, multicast, body)


def read_claim(frame: bytes) -> Claimed | None:
    """Which address a received frame claims; None when it claims none or is malformed."""
    if len(frame) < 14:
        return None
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == ETHERTYPE_ARP and len(frame) >= 14 + _ARP.size:
        hardware, protocol, hlen, plen, _, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
        if (hardware, protocol, hlen, plen) != (1, 0x0800, 6, 4) or sender == b"\0" * 4:
            return None
        return Claimed(str(ipaddress.IPv4Address(sender)), mac.hex(":"))
    if ethertype == ETHERTYPE_IP6 and len(frame) >= 14 + _IP6.size + _ND.size:
        _, _, following, hop_limit, _, _ = _IP6.unpack_from(frame, 14)
        kind, code, _, _, target = _ND.unpack_from(frame, 14 + _IP6.size)
        if following != ICMP6 or hop_limit != ND_HOP_LIMIT or code != 0:
            return None
        if kind == NEIGHBOR_ADVERTISEMENT:
            return Claimed(str(ipaddress.IPv6Address(target)), frame[6:12].hex(":"))
    return None


def _arp(mac: bytes, kind: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, kind, mac, sender, target_mac, target)
    return BROADCAST + mac + struct.pack("!H", ETHERTYPE_ARP) + body


def _ip6(to: bytes, mac: bytes, source: bytes, target: bytes, body: bytes) -> bytes:
    pseudo = source + target + struct.pack("!II", len(body), ICMP6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    head = _IP6.pack(6 << 28, len(body), ICMP6, ND_HOP_LIMIT, source, target)
    return to + mac + struct.pack("!H", ETHERTYPE_IP6) + head + body


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of `data`."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
