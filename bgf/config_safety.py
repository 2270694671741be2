"""What keeps a dead owner from coming back: `[failover.fencing]` and `[failover.watchdog]`.

Knows: the keys of the two tables and their ranges. Must not know what is done with the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.toml_table import Table, plain_path, quote

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


@dataclass(frozen=True, slots=True)
class SafetySection:
    """Both of them."""

    fencing: FencingSection
    watchdog: WatchdogSection


NO_FENCING: Final = FencingSection()
NO_WATCHDOG: Final = WatchdogSection()
NO_SAFETY: Final = SafetySection(NO_FENCING, NO_WATCHDOG)
SAFETY_KEYS: Final = ("fencing", "watchdog")


def parse_safety(failover: Table) -> SafetySection:
    """Of the table `[failover]`. Raises ConfigError."""
    return SafetySection(
        parse_fencing(failover.table("fencing", required=False)),
        parse_watchdog(failover.table("watchdog", required=False)),
    )


def parse_fencing(table: Table) -> FencingSection:
    """Raises ConfigError. Without a driver nothing else of it counts."""
    table.only("driver", "cloud", "clouds_file", "cluster", "timeout_s", "force_down")
    names = ", ".join(f"'{name}'" for name in DRIVERS)
    rule = "1 to 64 letters, digits, '.', '_' or '-'"
    default = NO_FENCING
    found = FencingSection(
        driver=table.text("driver", DRIVERS.__contains__, f"one of {names}", default.driver),
        cloud=table.text("cloud", _CLOUD.fullmatch, rule, default.cloud),
        clouds_file=Path(
            table.text("clouds_file", plain_path, PATH_RULE, str(default.clouds_file))
        ),
        cluster=table.text("cluster", lambda v: not v or _CLOUD.fullmatch(v), rule, ""),
        timeout_s=table.integer("timeout_s", FENCE_TIMEOUT_S_RANGE, default.timeout_s),
        force_down=table.boolean("force_down", False),
    )
    if found.driver == "none":
        return NO_FENCING
    if not found.cluster:
        table.fail("cluster", "", "must be the servers' metadata bgf_cluster, as in 'voice'")
    return found


def parse_watchdog(table: Table) -> WatchdogSection:
    """Raises ConfigError."""
    table.only("device", "timeout_s")
    default = NO_WATCHDOG
    found = WatchdogSection(
        table.text("device", lambda v: not v or plain_path(v), PATH_RULE, ""),
        table.integer("timeout_s", WATCHDOG_TIMEOUT_S_RANGE, default.timeout_s),
    )
    return found if found.device else NO_WATCHDOG


def dump_safety(safety: SafetySection) -> Iterator[str]:
    """Tables of `[failover]` that are read back to equal values; only what is used."""
    fencing, watchdog = safety.fencing, safety.watchdog
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
