"""Requests to the kernel about addresses: encoded once, sent many at a time. Decides nothing.

Knows: rtnetlink(7), its sockets, which address is on which interface. Must not know: whose
addresses they are, why one moves. The messages are pyroute2's; its calls are not used, because a
takeover would wait for half a millisecond of Python per address, in a thread of their own.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Final

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from failover.errors import AddressError

ANSWER_WAIT_S: Final = 2.0  # the kernel answers within the call, unless its own lock is held
ANSWER_BYTES_MAX: Final = 1 << 16
REQUESTS_MAX: Final = 64
"""In one datagram."""
ANSWERS_MAX: Final = 4096
"""Datagrams read while looking for the end of one answer."""
_CHANGE: Final = NLM_F_REQUEST | NLM_F_ACK
_VALID_FROM_END: Final = -12  # struct ifa_cacheinfo comes last: preferred, valid, two stamps
_SEQUENCE_AT: Final = 8
_SEQUENCE_MASK: Final = 0xFFFF_FFFF
_HEADER: Final = struct.Struct("=IHHIIi")
"""nlmsghdr, and the error of an NLMSG_ERROR (0: an acknowledgement)."""


def adding(index: int, host: str, prefix_len: int, flags: int) -> bytes:
    """Put `host` on interface `index`, deprecated from the start, or renew its lifetime, which
    `lasting` fills in."""
    message = _about(index, host, prefix_len)
    info = {"ifa_preferred": 0, "ifa_valid": 0}
    message["attrs"] += [("IFA_FLAGS", flags), ("IFA_CACHEINFO", info)]
    return _with_header(message, RTM_NEWADDR, _CHANGE | NLM_F_CREATE | NLM_F_REPLACE)


def lasting(request: bytes, lifetime_s: int) -> bytes:
    """An `adding` with its lifetime."""
    made = bytearray(request)
    struct.pack_into("=I", made, len(made) + _VALID_FROM_END, lifetime_s)
    return bytes(made)


def removing(index: int, host: str, prefix_len: int) -> bytes:
    """Take `host` off interface `index`."""
    return _with_header(_about(index, host, prefix_len), RTM_DELADDR, _CHANGE)


def _about(index: int, host: str, prefix_len: int) -> ifaddrmsg:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET6 if ":" in host else socket.AF_INET
    message["prefixlen"] = prefix_len
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", host), ("IFA_ADDRESS", host)]
    return message


def _with_header(message: ifaddrmsg, kind: int, flags: int) -> bytes:
    message["header"] = {"type": kind, "flags": flags, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


class Rtnetlink:
    """Two sockets of this network namespace: one to change, one to look (from any thread).

    Raises AddressError when they cannot be opened.
    """

    def __init__(self) -> None:
        self._opened: list[socket.socket] = []
        self._lock = threading.Lock()
        self._sequence = 0
        self._read = MarshalRtnl()
        message = ifaddrmsg()
        self._question = _with_header(message, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP)
        try:
            for _ in range(2):
                one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
                self._opened.append(one)
                one.settimeout(ANSWER_WAIT_S)
                one.bind((0, 0))
        except OSError as error:
            self.close()
            raise AddressError(f"cannot open a netlink socket: {error.strerror}") from None

    def ask(self, requests: Sequence[bytes]) -> list[int]:
        """The errno of each request, 0 where it is done. A refused one stops no other.

        Raises AddressError when the kernel does not answer.
        """
        results: list[int] = []
        for begin in range(0, len(requests), REQUESTS_MAX):
            results += self._ask(requests[begin : begin + REQUESTS_MAX])
        return results

    def held(self) -> list[tuple[int, str, int]]:
        """(interface index, address, prefix length) of all that there are. Raises AddressError."""
        with self._lock:
            opened = self._opened[1]
            number = self._next()
            found: list[tuple[int, str, int]] = []
            try:
                opened.send(_numbered(self._question, number))
                for _ in range(ANSWERS_MAX):
                    for message in self._read.parse(opened.recv(ANSWER_BYTES_MAX)):
                        header = message["header"]
                        if header["sequence_number"] != number:
                            continue
                        if header["type"] == NLMSG_DONE:
                            return found
                        if header["type"] == NLMSG_ERROR:  # some of them are not all
                            raise AddressError(f"netlink: no list of addresses: {header['error']}")
                        host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                        found.append((message["index"], str(host), message["prefixlen"]))
            except OSError as error:
                raise _unanswered(error) from None
        raise AddressError(f"netlink: no end of the addresses in {ANSWERS_MAX} answers")

    def close(self) -> None:
        for one in self._opened:
            one.close()

    def _ask(self, requests: Sequence[bytes]) -> list[int]:
        first = self._next(len(requests))
        waiting: dict[int, int] = {
            (first + number) & _SEQUENCE_MASK: number for number in range(len(requests))
        }
        results = [0] * len(requests)
        opened = self._opened[0]
        try:
            opened.send(b"".join(_numbered(r, n) for n, r in zip(waiting, requests, strict=True)))
            for _ in range(ANSWERS_MAX):
                if not waiting:
                    return results
                answer = opened.recv(ANSWER_BYTES_MAX)
                at = 0
                while at + _HEADER.size <= len(answer):
                    length, kind, _, number, _, code = _HEADER.unpack_from(answer, at)
                    if kind == NLMSG_ERROR and number in waiting:
                        results[waiting.pop(number)] = -code
                    at += max(_HEADER.size, (length + 3) & ~3)
        except OSError as error:
            raise _unanswered(error) from None
        raise AddressError(f"netlink: {len(waiting)} requests unanswered; ask again")

    def _next(self, count: int = 1) -> int:
        first = self._sequence + 1
        self._sequence = (self._sequence + count) & _SEQUENCE_MASK
        return first & _SEQUENCE_MASK


def _numbered(request: bytes, number: int) -> bytes:
    made = bytearray(request)
    struct.pack_into("=I", made, _SEQUENCE_AT, number)
    return bytes(made)


def _unanswered(error: OSError) -> AddressError:
    if isinstance(error, TimeoutError):
        return AddressError(f"netlink: no answer for {ANSWER_WAIT_S:g} s; ask again")
    return AddressError(f"netlink: {error.strerror or errno.errorcode.get(error.errno or 0, '?')}")
