"""Who may command: prefixes, the rate of one peer, and the same rule as a packet filter.

Knows: addresses and arithmetic; time is an argument. Must not know sockets, nor what is commanded.
The filter is classic BPF, as a socket takes it (`sockets`): a stranger's packet is put aside before
it takes a place in the queue that configured peers wait in.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

from bgf.model import Family
from bgf.rate import Rate

HOSTS_MAX: Final = 4_096
"""Hosts whose rate and admission are remembered; the oldest goes first."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Access:
    """`prefixes` None: everybody is admitted. `rate_per_peer`: frames a second, 0: no limit."""

    def __init__(self, prefixes: Sequence[str] | None = None, rate_per_peer: int = 0) -> None:
        self.prefixes = None if prefixes is None else tuple(prefixes)
        self._networks: tuple[_Network, ...] = tuple(map(ipaddress.ip_network, self.prefixes or ()))
        self._rate_per_peer = rate_per_peer
        self._known: dict[str, bool] = {}
        self._rates: dict[str, Rate] = {}

    def change(self, prefixes: Sequence[str] | None, rate_per_peer: int) -> None:
        """Other rules, from the next frame on. What was counted begins anew."""
        self.prefixes = None if prefixes is None else tuple(prefixes)
        self._networks = tuple(map(ipaddress.ip_network, self.prefixes or ()))
        self._known.clear()
        if rate_per_peer != self._rate_per_peer:
            self._rate_per_peer = rate_per_peer
            self._rates.clear()

    def admits(self, host: str) -> bool:
        """May this host command?"""
        if self.prefixes is None:
            return True
        known = self._known.get(host)
        if known is None:
            address = ipaddress.ip_address(host.partition("%")[0])
            known = any(address in network for network in self._networks)
            if len(self._known) >= HOSTS_MAX:
                del self._known[next(iter(self._known))]
            self._known[host] = known
        return known

    def take(self, host: str, now_ns: int) -> bool:
        """Count a frame of an admitted host; False: it is beyond the rate, and not counted."""
        rate = self._rate(host)
        if rate is None:
            return True
        allowed = rate.allows(now_ns)
        if allowed:
            rate.take(now_ns)
        return allowed

    def wait_ns(self, host: str, now_ns: int) -> int:
        """How long until this host may send one more."""
        rate = self._rate(host)
        return 0 if rate is None else rate.wait_ns(now_ns)

    def _rate(self, host: str) -> Rate | None:
        if not self._rate_per_peer:
            return None
        rate = self._rates.get(host)
        if rate is None:
            if len(self._rates) >= HOSTS_MAX:
                del self._rates[next(iter(self._rates))]
            rate = self._rates[host] = Rate(self._rate_per_peer)
        return rate


# linux/filter.h, linux/bpf_common.h
_LOAD_WORD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NETWORK_HEADER = 0xFFF0_0000  # SKF_NET_OFF
_SOURCE = {Family.IP4: 12, Family.IP6: 8}  # RFC 791 section 3.1, RFC 8200 section 3


def packet_filter(prefixes: Sequence[str], family: Family, *, peer: int, stranger: int) -> bytes:
    """A program that returns `peer` for packets from `prefixes` of that family, else `stranger`.

    An array of struct sock_filter; at most 13 instructions per prefix and one.
    """
    code: list[tuple[int, int, int, int]] = []
    for prefix in prefixes:
        network = ipaddress.ip_network(prefix)
        if network.version != family.value:
            continue
        words = list(_words(network))
        block: list[tuple[int, int, int, int]] = []
        for number, (value, mask) in enumerate(words):
            rest = 3 * (len(words) - 1 - number) + 1  # to the end of this prefix
            at = _NETWORK_HEADER + _SOURCE[family] + 4 * number
            block += [(_LOAD_WORD, 0, 0, at), (_AND, 0, 0, mask), (_JUMP_EQUAL, 0, rest, value)]
        code += [*block, (_RETURN, 0, 0, peer)]
    code.append((_RETURN, 0, 0, stranger))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _words(network: _Network) -> list[tuple[int, int]]:
    """(value, mask) of each 32-bit word that the prefix reaches; one of a zero-length prefix."""
    address, mask = network.network_address.packed, network.netmask.packed
    pairs = [
        (int.from_bytes(address[at : at + 4], "big"), int.from_bytes(mask[at : at + 4], "big"))
        for at in range(0, len(address), 4)
    ]
    return [pair for pair in pairs if pair[1]] or pairs[:1]
