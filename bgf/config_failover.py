"""The timers of the failover process: named profiles, single values, and how they are written.

Knows: the keys of `[failover]` but its peers, their ranges, the three profiles (their decision
record says why they are what they are). Must not know what the values are used for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.toml_table import Table, plain_path, quote

PROBE_INTERVAL_MS_RANGE: Final = (5, 10_000)
DETECT_MULTIPLIER_RANGE: Final = (1, 255)  # 8 bits, RFC 5880 section 4.1
LEASE_MS_RANGE: Final = (50, 60_000)
ANNOUNCE_INTERVAL_MS_RANGE: Final = (100, 60_000)
PATIENCE_MS_RANGE: Final = (10, 60_000)
UNOWNED_GRACE_MS_RANGE: Final = (0, 600_000)
DEFAULT_PROFILE: Final = "safe"


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
KEYS: Final = ("profile", *RANGES)

DRIVERS: Final = ("none", "nova")
FENCE_TIMEOUT_S_RANGE: Final = (10, 600)
WATCHDOG_TIMEOUT_S_RANGE: Final = (5, 600)
PATH_RULE: Final = "an absolute path of printable characters without '..'"
_CLOUD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class FencingSection:
    """Who has a dead node switched off. `cloud` is one of `clouds_file`; `cluster` is what the
    servers' metadata bgf_cluster says. `force_down`: tell Nova that a host that it holds to be
    dead is fenced, so that its servers may be evacuated (an administrator's right)."""

    driver: str = "none"
    cloud: str = "bgf"
    clouds_file: Path = Path("/etc/bgf/clouds.yaml")
    cluster: str = ""
    timeout_s: int = 120
    force_down: bool = False


@dataclass(frozen=True, slots=True)
class WatchdogSection:
    """The device that resets this machine; empty: none."""

    device: str = ""
    timeout_s: int = 30


NO_FENCING: Final = FencingSection()
NO_WATCHDOG: Final = WatchdogSection()


def parse_fencing(table: Table) -> FencingSection:
    """Raises ConfigError."""
    table.only("driver", "cloud", "clouds_file", "cluster", "timeout_s", "force_down")
    names = ", ".join(f"'{name}'" for name in DRIVERS)
    driver = table.text("driver", DRIVERS.__contains__, f"one of {names}", "none")
    rule = "1 to 64 letters, digits, '.', '_' or '-'"
    default = NO_FENCING
    if driver == "none":
        return default
    return FencingSection(
        driver=driver,
        cloud=table.text("cloud", _CLOUD.fullmatch, rule, default.cloud),
        clouds_file=Path(
            table.text("clouds_file", plain_path, PATH_RULE, str(default.clouds_file))
        ),
        cluster=table.text("cluster", _CLOUD.fullmatch, rule),
        timeout_s=table.integer("timeout_s", FENCE_TIMEOUT_S_RANGE, default.timeout_s),
        force_down=table.boolean("force_down", False),
    )


def parse_watchdog(table: Table) -> WatchdogSection:
    """Raises ConfigError."""
    table.only("device", "timeout_s")
    default = NO_WATCHDOG
    return WatchdogSection(
        table.text("device", lambda v: not v or plain_path(v), PATH_RULE, ""),
        table.integer("timeout_s", WATCHDOG_TIMEOUT_S_RANGE, default.timeout_s),
    )


def dump_safety(fencing: FencingSection, watchdog: WatchdogSection) -> Iterator[str]:
    """Tables of `[failover]` that are read back to equal values; only what is used."""
    if fencing.driver != "none":
        yield "[failover.fencing]"
        yield f"driver = {quote(fencing.driver)}"
        yield f"cloud = {quote(fencing.cloud)}"
        yield f"clouds_file = {quote(str(fencing.clouds_file))}"
        yield f"cluster = {quote(fencing.cluster)}"
        yield f"timeout_s = {fencing.timeout_s}"
        yield f"force_down = {'true' if fencing.force_down else 'false'}"
    if watchdog.device:
        yield "[failover.watchdog]"
        yield f"device = {quote(watchdog.device)}"
        yield f"timeout_s = {watchdog.timeout_s}"


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


def dump_timers(profile: str, timers: FailoverTimers) -> Iterator[str]:
    """Lines that `parse_timers` reads back to equal values."""
    yield f"profile = {quote(profile)}"
    for key in RANGES:
        yield f"{key} = {getattr(timers, key)}"
