"""The `[control]` section: who may command, over which transports, and how much. Parse, freeze.

Knows: the keys of the section, their ranges, and how they depend on each other. Must not know
what the values are used for. The section is the same on every node that may own its groups.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bgf.model import PORT_MAX, Group
from bgf.toml_table import Table, quote

PEERS_MAX: Final = 64
RATE_RANGE: Final = (0, 1_000_000)
RATE_PER_PEER: Final = 20_000
SESSIONS_RANGE: Final = (1, 1_000_000)
SESSIONS_MAX: Final = 20_000
MEMORY_MB_RANGE: Final = (0, 1_048_576)
LAG_MS_RANGE: Final = (10, 5_000)
LAG_MS: Final = 500
JOURNALS: Final = ("implicit", "explicit", "checkpointed")
JOURNAL: Final = "checkpointed"
_PEER_RULE = "a list of 1 to {} prefixes or addresses, as in ['10.30.0.0/24', 'fd00:c::5']"


@dataclass(frozen=True, slots=True)
class Listen:
    """Transports of `ng`: UDP on each group's `control_port`, the others on these ports of the same
    address; 0: not at all. HTTP and WebSocket share one."""

    udp: bool = True
    tcp: int = 0
    http: int = 0


@dataclass(frozen=True, slots=True)
class ControlSection:
    """Who commands this node's groups, and when new calls are refused.

    `default_realms` are those of an offer that does not say: (towards its sender, its receiver).
    `peers` are the prefixes that may command, canonical; empty when the file does not say: see
    `peers_of`. `rate_per_peer` is frames a second of one host, `new_calls_per_s` those of a group;
    0: no limit. `sessions_max` is of a group. `memory_max_mb` is of the process, 0: three quarters
    of what it may have. A new call that would wait `lag_max_ms` for its answer is refused.
    `journal` is what is written of a call: its inputs, the call itself at every step, or inputs
    with the call itself every now and then. Any node reads all three.
    """

    default_realms: tuple[str, str]
    listen: Listen = field(default_factory=Listen)
    peers: tuple[str, ...] = ()
    rate_per_peer: int = RATE_PER_PEER
    sessions_max: int = SESSIONS_MAX
    new_calls_per_s: int = 0
    memory_max_mb: int = 0
    lag_max_ms: int = LAG_MS
    journal: str = JOURNAL


def parse_control(
    table: Table, media_realm: Callable[[Table, str, object], None]
) -> ControlSection:
    """`media_realm` refuses a name that is no realm with media. Raises ConfigError."""
    table.only(
        *("default_realms", "listen", "peers", "rate_per_peer", "sessions_max"),
        *("new_calls_per_s", "memory_max_mb", "lag_max_ms", "journal"),
    )
    allowed = "a list of two realms that carry media: towards the sender, towards the receiver"
    value = table.get("default_realms", None, allowed)
    if not isinstance(value, list) or len(value) != 2:
        table.fail("default_realms", value, f"must be {allowed}")
    for name in value:
        media_realm(table, "default_realms", name)
    return ControlSection(
        (value[0], value[1]),
        _listen(table.table("listen", required=False)),
        tuple(_peers(table)),
        table.integer("rate_per_peer", RATE_RANGE, RATE_PER_PEER),
        table.integer("sessions_max", SESSIONS_RANGE, SESSIONS_MAX),
        table.integer("new_calls_per_s", RATE_RANGE, 0),
        table.integer("memory_max_mb", MEMORY_MB_RANGE, 0),
        table.integer("lag_max_ms", LAG_MS_RANGE, LAG_MS),
        table.text("journal", JOURNALS.__contains__, f"one of {', '.join(JOURNALS)}", JOURNAL),
    )


def _listen(table: Table) -> Listen:
    table.only("udp", "tcp", "http")
    ports = (1, PORT_MAX)
    listen = Listen(
        table.boolean("udp", True),
        table.integer("tcp", ports) if "tcp" in table.data else 0,
        table.integer("http", ports) if "http" in table.data else 0,
    )
    if listen.tcp and listen.tcp == listen.http:
        table.fail("http", listen.http, "is also listen.tcp; each needs a port of its own")
    if not (listen.udp or listen.tcp or listen.http):
        table.fail("udp", False, "nobody could command: give tcp or http a port, or leave udp on")
    return listen


def _peers(table: Table) -> Iterator[str]:
    if "peers" not in table.data:
        return
    value = table.data["peers"]
    rule = "must be " + _PEER_RULE.format(PEERS_MAX)
    if not isinstance(value, list) or not 1 <= len(value) <= PEERS_MAX:
        if value == []:
            rule = "nobody could command; without the key, the groups' control networks may"
        table.fail("peers", value, rule)
    for entry in value:
        if not isinstance(entry, str):
            table.fail("peers", entry, rule)
        try:
            network = ipaddress.ip_network(entry)
        except ValueError as error:
            bits_set = "host bits set" in str(error)
            why = "has bits set behind its prefix length" if bits_set else "is no prefix"
            table.fail("peers", entry, f"{why}; {rule}")
        yield str(network)


def peers_of(control: ControlSection, group: Group) -> tuple[str, ...] | None:
    """The prefixes that may command a group; None: everybody.

    Without `peers` they are the network of its control address. An address that stands alone (/32,
    /128) has none: then everybody may who reaches it, as before there was the key.
    """
    if control.peers:
        return control.peers
    host, bits = group.control.host, group.control_prefix_len
    if bits == (128 if ":" in host else 32):
        return None
    return (str(ipaddress.ip_network(f"{host}/{bits}", strict=False)),)


def dump_control(control: ControlSection) -> Iterator[str]:
    """The lines of the section, as `parse_control` reads them."""
    listen = control.listen
    yield "[control]"
    yield f"default_realms = [{', '.join(quote(name) for name in control.default_realms)}]"
    if control.peers:
        yield f"peers = [{', '.join(quote(prefix) for prefix in control.peers)}]"
    yield f"rate_per_peer = {control.rate_per_peer}"
    yield f"sessions_max = {control.sessions_max}"
    yield f"new_calls_per_s = {control.new_calls_per_s}"
    yield f"memory_max_mb = {control.memory_max_mb}"
    yield f"lag_max_ms = {control.lag_max_ms}"
    yield f"journal = {quote(control.journal)}"
    ports = [f"udp = {'true' if listen.udp else 'false'}"]
    ports += [
        f"{name} = {port}" for name, port in (("tcp", listen.tcp), ("http", listen.http)) if port
    ]
    yield f"listen = {{ {', '.join(ports)} }}"
