"""The `[monitor]` section: where this node shows its figures and its page. Parse, freeze.

Knows: the keys and their rules. Must not know what is shown. Without the section nothing is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bgf.errors import Malformed
from bgf.model import PORT_MAX, Address
from bgf.toml_table import Table, plain_path, quote

MONITOR_PORT: Final = 9401
PEERS_MAX: Final = 64
_RULE: Final = (
    f"a unicast ADDRESS:PORT, as in 10.30.0.11:{MONITOR_PORT} or [fd00::11]:{MONITOR_PORT}"
)


@dataclass(frozen=True, slots=True)
class MonitorSection:
    """`peers` are the other nodes' monitors, for a page that shows them all; `drills` is where the
    reports and pictures of drills lie."""

    listen: Address
    peers: tuple[Address, ...] = ()
    drills: Path | None = None


def parse_monitor(table: Table) -> MonitorSection:
    """Raises ConfigError."""
    table.only("listen", "peers", "drills")
    listen = _address(table, "listen", table.get("listen", None, _RULE))
    value = table.get("peers", [], "a list")
    if not isinstance(value, list) or len(value) > PEERS_MAX:
        table.fail("peers", value, f"must be a list of at most {PEERS_MAX} ADDRESS:PORT")
    peers = tuple(_address(table, "peers", one) for one in value)
    drills = table.text("drills", lambda v: not v or plain_path(v), "an absolute path", "")
    return MonitorSection(listen, peers, Path(drills) if drills else None)


def _address(table: Table, key: str, value: object) -> Address:
    if not isinstance(value, str):
        table.fail(key, value, f"must be {_RULE}")
    try:
        address = Address.parse(value)
        host = ipaddress.ip_address(address.host)
    except (Malformed, ValueError):
        table.fail(key, value, f"must be {_RULE}")
    # Not a wildcard: what is shown is for the management network, and for nobody else.
    if host.is_unspecified or host.is_multicast or not 1 <= address.port <= PORT_MAX:
        table.fail(key, value, f"must be {_RULE}")
    return address


def dump_monitor(monitor: MonitorSection | None) -> Iterator[str]:
    """Lines that `parse_monitor` reads back to an equal value."""
    if monitor is None:
        return
    yield "[monitor]"
    yield f"listen = {quote(str(monitor.listen))}"
    if monitor.peers:
        yield f"peers = [{', '.join(quote(str(one)) for one in monitor.peers)}]"
    if monitor.drills is not None:
        yield f"drills = {quote(str(monitor.drills))}"
