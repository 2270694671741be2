"""What the failover process of one node is told, in plain frozen types. No files, no I/O.

The runtime fills it from the node's configuration; nothing here knows that file's format.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from failover.errors import FailoverConfigError

GROUPS_MAX: Final = 64
PEERS_MAX: Final = 64
ADDRESSES_PER_GROUP_MAX: Final = 32


@dataclass(frozen=True, slots=True, order=True)
class MovingAddress:
    """An address that belongs to a group, and the interface that carries it while it is here."""

    host: str
    prefix_len: int
    interface: str

    @property
    def version(self) -> int:
        return 6 if ":" in self.host else 4

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix_len} on {self.interface}"


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """One group: who may bring it up first, and everything that moves with it."""

    addresses: tuple[MovingAddress, ...]
    preferred: str = ""


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer's S-BFD discriminator, and its own (not moving) address on each media path."""

    discriminator: int
    paths: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FailoverConfig:
    """One node. Raises FailoverConfigError naming the value that cannot be used.

    `sources` maps each path (realm) to this node's own address there, `interfaces` to the
    interface (optional: without it the node cannot see its own link go down). `host` and `rack`
    are its failure domains, `control_paths` those of its paths that carry no media, `profile` the
    name of the timers that it began with.
    """

    node: str
    discriminator: int
    sources: Mapping[str, str]
    peers: Mapping[str, PeerConfig]
    groups: Mapping[str, GroupConfig]
    interfaces: Mapping[str, str] = field(default_factory=dict)
    probe_interval_ms: int = 20
    detect_multiplier: int = 3
    lease_ms: int = 1000
    announce_interval_ms: int = 5000
    unowned_grace_ms: int = 10_000
    patience_ms: int = 150
    host: str = ""
    rack: str = ""
    profile: str = ""
    control_paths: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _between("probe_interval_ms", self.probe_interval_ms, 1, 60_000)
        _between("detect_multiplier", self.detect_multiplier, 1, 255)
        _between("lease_ms", self.lease_ms, 10, 3_600_000)
        _between("announce_interval_ms", self.announce_interval_ms, 10, 3_600_000)
        _between("unowned_grace_ms", self.unowned_grace_ms, 0, 3_600_000)
        _between("patience_ms", self.patience_ms, 1, 60_000)
        _between("number of groups", len(self.groups), 0, GROUPS_MAX)
        _between("number of peers", len(self.peers), 0, PEERS_MAX)
        if self.node in self.peers:
            raise FailoverConfigError(f"peer '{self.node}' is this node itself: remove it")
        for path, host in self.sources.items():
            _address(f"own address on {path}", host)
        for name, peer in self.peers.items():
            for path, host in peer.paths.items():
                if path not in self.sources:
                    raise FailoverConfigError(
                        f"peer {name}, path '{path}': this node has no own address there"
                        f" (it has {', '.join(sorted(self.sources)) or 'none'})"
                    )
                theirs = _address(f"peer {name} on {path}", host)
                if theirs.version != _address("", self.sources[path]).version:
                    raise FailoverConfigError(
                        f"peer {name} on {path} is {host}, this node {self.sources[path]}:"
                        " both must be of one IP version"
                    )
        for name, group in self.groups.items():
            _between(f"addresses of {name}", len(group.addresses), 0, ADDRESSES_PER_GROUP_MAX)
            for moving in group.addresses:
                address = _address(f"group {name}", moving.host)
                _between(
                    f"prefix length of {moving.host}", moving.prefix_len, 1, address.max_prefixlen
                )


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FailoverConfigError(f"{name} is {value}: must be {low}..{high}")


def _address(name: str, host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        raise FailoverConfigError(f"{name}: '{host[:64]}' is not an IP address") from None
