"""The way to the peers' failover processes: a UDP socket on each path that is probed.

Knows: sockets, addresses, the key file. Must not know what a message means. Each message goes out
on every path, the management network among them where it is probed: one that arrives is enough.
Only the link itself carries them (hop limit 255, RFC 5082, as for the probes).
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bgf.runtime.vouch_codec import DATAGRAM_BYTES_MAX, BadDatagram, KeyFile, seal, unseal
from failover.probing import (
    ANCILLARY_BYTES,
    close_paths,
    hop_limit_of,
    open_path,
    watch_paths,
)
from failover.sbfd import HOP_LIMIT
from failover.testimony import Word
from failover.vouching import Vouch, VouchRequest

log = logging.getLogger("bgf.failover")

PORT: Final = 7785
"""Beside S-BFD's 7784, which the packet program answers itself."""
DRAIN_MAX: Final = 256
LIFE_BITS: Final = 63


class UdpVouchLink:
    """`failover.adapters.VouchLink`. `sources` is this node's own address by path, `peers` a peer's
    by path. Raises failover's ProbeError."""

    def __init__(
        self,
        sources: Mapping[str, str],
        peers: Mapping[str, Mapping[str, str]],
        interfaces: Mapping[str, str],
        key_file: Path,
    ) -> None:
        self.life = secrets.randbits(LIFE_BITS)
        self.tally: Counter[str] = Counter()
        self._keys = KeyFile(key_file)
        self._peers = {name: dict(paths) for name, paths in peers.items()}
        self._names = {
            (path, host): name for name, paths in peers.items() for path, host in paths.items()
        }
        self._told = ""
        self._sockets: dict[str, socket.socket] = {}
        try:
            for path, source in sources.items():
                self._sockets[path] = open_path(path, source, interfaces.get(path), PORT)
        except BaseException:
            self.close()
            raise

    def send(self, message: VouchRequest | Vouch) -> None:
        to = message.to if isinstance(message, VouchRequest) else message.owner
        self._send(message, [to])

    def tell(self, word: Word) -> bool:
        return self._send(word, self._peers)

    def _send(self, message: VouchRequest | Vouch | Word, to: Iterable[str]) -> bool:
        try:
            datagram = seal(message, self._keys.keys())
        except BadDatagram as error:
            self.tally["unsealed"] += 1
            self._tell(self._keys.trouble or str(error))
            return False
        for name in to:
            for path, host in self._peers.get(name, {}).items():
                try:
                    self._sockets[path].sendto(datagram, (host, PORT))
                except (OSError, KeyError):
                    self.tally["unsent"] += 1
        return True

    def drain(self) -> Iterator[VouchRequest | Vouch | Word]:
        for path, opened in self._sockets.items():
            for _ in range(DRAIN_MAX):
                try:
                    datagram, ancillary, _, sender = opened.recvmsg(
                        DATAGRAM_BYTES_MAX, ANCILLARY_BYTES
                    )
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error that came back
                    self.tally["errors"] += 1
                    continue
                name = self._names.get((path, sender[0]))
                if name is None or hop_limit_of(ancillary) != HOP_LIMIT:
                    self.tally["strangers"] += 1
                    continue
                try:
                    message = unseal(datagram, self._keys.keys())
                except BadDatagram as error:
                    self.tally["refused"] += 1
                    self._tell(f"a datagram of {name} is refused: {error}")
                    continue
                said_by = message.owner if isinstance(message, VouchRequest) else message.by
                if said_by != name:
                    self.tally["strangers"] += 1
                    continue
                yield message

    def watch(self, readable: Callable[[], None]) -> None:
        watch_paths(self._sockets, readable)

    def close(self) -> None:
        close_paths(self._sockets)

    def _tell(self, why: str) -> None:
        """Once each time that it changes: a peer with another key would fill the log."""
        if why != self._told:
            self._told = why
            log.warning("vouching: %s", why)
