"""The timers of the failover process: named profiles, single values, and how they are written.

Knows: the keys of `[failover]` but its peers, their ranges, the three profiles (their decision
record says why they are what they are). Must not know what the values are used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from bgf.errors import ConfigError
from bgf.toml_table import Table, quote

PROBE_INTERVAL_MS_RANGE: Final = (5, 10_000)
DETECT_MULTIPLIER_RANGE: Final = (1, 255)  # 8 bits, RFC 5880 section 4.1
LEASE_MS_RANGE: Final = (50, 60_000)
ANNOUNCE_INTERVAL_MS_RANGE: Final = (100, 60_000)
PATIENCE_MS_RANGE: Final = (10, 60_000)
UNOWNED_GRACE_MS_RANGE: Final = (0, 600_000)
DEFAULT_PROFILE: Final = "safe"
REALTIME_PRIORITY_RANGE: Final = (0, 49)  # the kernel's interrupt threads have 50
REALTIME_PRIORITY: Final = 1


@dataclass(frozen=True, slots=True)
class FailoverTimers:
    """A node is silent after interval x multiplier; the next in line acts after the patience."""

    probe_interval_ms: int
    detect_multiplier: int
    lease_ms: int
    announce_interval_ms: int
    patience_ms: int
    unowned_grace_ms: int


PROFILES: Final = {
    "safe": FailoverTimers(100, 5, 3_000, 5_000, 500, 10_000),
    "fast": FailoverTimers(50, 3, 1_500, 5_000, 250, 10_000),
    "lab": FailoverTimers(20, 3, 1_000, 5_000, 150, 10_000),
}

RANGES: Final = {
    "probe_interval_ms": PROBE_INTERVAL_MS_RANGE,
    "detect_multiplier": DETECT_MULTIPLIER_RANGE,
    "lease_ms": LEASE_MS_RANGE,
    "announce_interval_ms": ANNOUNCE_INTERVAL_MS_RANGE,
    "patience_ms": PATIENCE_MS_RANGE,
    "unowned_grace_ms": UNOWNED_GRACE_MS_RANGE,
}
KEYS: Final = ("profile", *RANGES, "realtime_priority")


def parse_timers(table: Table) -> tuple[str, FailoverTimers]:
    """The profile's name and its values, single ones overridden. Raises ConfigError."""
    names = ", ".join(f"'{name}'" for name in PROFILES)
    name = table.text("profile", PROFILES.__contains__, f"one of {names}", DEFAULT_PROFILE)
    values = {
        key: table.integer(key, limits, getattr(PROFILES[name], key))
        for key, limits in RANGES.items()
    }
    timers = FailoverTimers(**values)
    silent_ms = timers.probe_interval_ms * timers.detect_multiplier
    if timers.lease_ms <= silent_ms:
        table.fail(
            "lease_ms",
            timers.lease_ms,
            f"must be longer than a node is silent before it counts as dead ({silent_ms} ms): "
            "raise it, or lower probe_interval_ms or detect_multiplier",
        )
    return name, timers


def parse_priority(table: Table) -> int:
    """0: the failover process is scheduled like any other. Raises ConfigError."""
    return table.integer("realtime_priority", REALTIME_PRIORITY_RANGE, REALTIME_PRIORITY)


def dump_timers(profile: str, timers: FailoverTimers, realtime_priority: int) -> Iterator[str]:
    """Lines that `parse_timers` and `parse_priority` read back to equal values."""
    yield f"profile = {quote(profile)}"
    for key in RANGES:
        yield f"{key} = {getattr(timers, key)}"
    if realtime_priority != REALTIME_PRIORITY:  # earlier versions do not know the key
        yield f"realtime_priority = {realtime_priority}"


class Attachable(Protocol):
    """A realm, as far as this is about it."""

    @property
    def name(self) -> str: ...
    @property
    def interface(self) -> str: ...
    @property
    def media(self) -> bool: ...


def check_attached(source: str, realms: Iterable[Attachable], probed: Iterable[str]) -> None:
    """One packet program per interface: a realm that is only probed needs one of its own.

    Raises ConfigError.
    """
    known = {realm.name: realm for realm in realms}
    media = {realm.interface: realm.name for realm in known.values() if realm.media}
    for name in dict.fromkeys(probed):
        interface = known[name].interface
        if not known[name].media and interface in media:
            raise ConfigError(
                f"{source}: failover.peers: realm '{name}' is probed on interface '{interface}', "
                f"which carries the media of realm '{media[interface]}': probe that one, or give "
                f"'{name}' an interface of its own"
            )
