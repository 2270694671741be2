"""The configuration of one node: parse TOML, validate everything, freeze. Reads one file.

Knows: the file's keys, their ranges, and how they depend on each other. Must not know what the
values are used for: no sockets, no kernel, no state store. Whoever holds a `NodeConfig` may
rely on every rule written here; whoever breaks one gets a `ConfigError` of a single line that
names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bgf.config_control import ControlSection, Listen, dump_control, parse_control, peers_of
from bgf.config_failover import (
    DEFAULT_PROFILE,
    KEYS,
    PROFILES,
    REALTIME_PRIORITY,
    FailoverTimers,
    check_attached,
    dump_timers,
    parse_priority,
    parse_timers,
)
from bgf.config_media import (
    REALM_KEYS,
    MediaSection,
    dump_media,
    dump_policy,
    parse_media,
    parse_policy,
)
from bgf.config_monitor import MonitorSection, dump_monitor, parse_monitor
from bgf.config_recording import (
    NO_RECORDING,
    RecordingSection,
    dump_recording,
    parse_recording,
)
from bgf.config_safety import NO_SAFETY, SAFETY_KEYS, SafetySection, dump_safety, parse_safety
from bgf.config_state import PATH_RULE, StateCluster, StateSection, dump_state, parse_state
from bgf.errors import ConfigError
from bgf.model import PORT_MAX, Address, Group, RealmAddress
from bgf.policy import DEFAULT_POLICY, RealmPolicy
from bgf.toml_table import Table, bare, one_line, plain_path, quote

__all__ = [
    "PROFILES",
    "ControlSection",
    "FailoverSection",
    "FailoverTimers",
    "Listen",
    "MediaSection",
    "MonitorSection",
    "NodeConfig",
    "NodeSection",
    "Peer",
    "Realm",
    "RecordingSection",
    "StateCluster",
    "StateSection",
    "dump",
    "load",
    "parse",
    "peers_of",
]

FILE_BYTES_MAX: Final = 1 << 20
REALMS_MAX: Final = 16
GROUPS_MAX: Final = 64
PEERS_MAX: Final = 64
UNIX_PATH_BYTES_MAX: Final = 107  # sun_path, unix(7), less its terminating NUL
LONGEST_SOCKET: Final = "failover.sock"

MEDIA_PORT_MIN: Final = 1024
DISCRIMINATOR_RANGE: Final = (1, 0xFFFF_FFFF)  # 32 bits, non-zero: RFC 5880 section 4.1
DOMAIN_CHARS_MAX: Final = 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_NAME_RULE = "1 to 32 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_INTERFACE = re.compile(r"[^\s/:%]{1,15}")
_INTERFACE_RULE = "an interface name: 1 to 15 characters, no space, '/', ':' or '%'"


@dataclass(frozen=True, slots=True)
class NodeSection:
    """Who this node is. `discriminator` is its S-BFD discriminator (RFC 7880 section 3).

    `host` and `rack` name what it shares with other nodes that would die with it; empty: nothing.
    """

    id: str
    discriminator: int
    run_dir: Path
    host: str = ""
    rack: str = ""

    def socket(self, process: str) -> Path:
        """Admin socket of `process`: state, gateway or failover."""
        return self.run_dir / f"{process}.sock"


@dataclass(frozen=True, slots=True)
class Realm:
    """A network this node is in. `media` says that the packet program runs on `interface`, and
    `policy` what is wanted of what it carries there."""

    name: str
    interface: str
    media: bool = True
    policy: RealmPolicy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node. `paths` maps a realm to the fixed address probed there."""

    id: str
    discriminator: int
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FailoverSection:
    """Timers and peers of the failover process. `profile` names what the timers began with."""

    timers: FailoverTimers = PROFILES[DEFAULT_PROFILE]
    peers: tuple[Peer, ...] = ()
    profile: str = DEFAULT_PROFILE
    safety: SafetySection = NO_SAFETY
    realtime_priority: int = REALTIME_PRIORITY


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's whole configuration, checked. `realms` is in the order of the file."""

    node: NodeSection
    state: StateSection
    media: MediaSection
    realms: Mapping[str, Realm]
    groups: tuple[Group, ...]
    control: ControlSection
    failover: FailoverSection
    recording: RecordingSection = NO_RECORDING
    monitor: MonitorSection | None = None
    source: Path | None = field(default=None, compare=False)

    def group(self, group_id: str) -> Group | None:
        """The group of that id, None when there is none."""
        return next((g for g in self.groups if g.id == group_id), None)

    @property
    def policies(self) -> dict[str, RealmPolicy]:
        """By realm, of those that carry media."""
        return {realm.name: realm.policy for realm in self.media_realms}

    @property
    def media_realms(self) -> tuple[Realm, ...]:
        return tuple(r for r in self.realms.values() if r.media)

    @property
    def attached_realms(self) -> tuple[Realm, ...]:
        """Where the packet program is: media goes through it, and it answers who probes there."""
        probed = {path for peer in self.failover.peers for path in peer.paths}
        return tuple(r for r in self.realms.values() if r.media or r.name in probed)


def load(path: str | Path) -> NodeConfig:
    """Read and check `path`. Raises ConfigError, and nothing else, whatever the file holds."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"{_shown_path(path)}: cannot be read: {why}; give a TOML file") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(
            f"{_shown_path(path)}: over {FILE_BYTES_MAX} bytes; no node configuration is"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise ConfigError(
            f"{_shown_path(path)}: line {line}: byte 0x{raw[problem.start]:02x} is not UTF-8; "
            "TOML must be UTF-8"
        ) from None
    return replace(parse(text, _shown_path(path)), source=path)


def parse(text: str, source: str = "configuration") -> NodeConfig:
    """Check TOML `text`; `source` names it in errors. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(_syntax_error(str(problem), text, source)) from None
    except (RecursionError, ValueError) as problem:
        # tomllib lets two things through: nesting too deep, integers of thousands of digits.
        what = "nested too deeply" if isinstance(problem, RecursionError) else "number too long"
        raise ConfigError(f"{source}: not usable TOML: {what}") from None
    return of_data(data, source)


def of_data(data: dict[str, Any], source: str) -> NodeConfig:
    """Check what TOML text has been parsed to. Raises ConfigError."""
    return _node_config(Table(source, "", data))


def _syntax_error(problem: str, text: str, source: str) -> str:
    match = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", problem)
    if match is None:
        return f"{source}: not TOML: {one_line(problem)}"
    reason = one_line(problem[: match.start()].strip())
    if match[1] is None:
        return f"{source}: line {text.count(chr(10)) + 1}: not TOML: {reason} (at the end)"
    return f"{source}: line {match[1]}, column {match[2]}: not TOML: {reason}"


def _shown_path(path: Path) -> str:
    return one_line(str(path).encode("utf-8", "backslashreplace").decode())


def _name(table: Table, key: str) -> str:
    return table.text(key, _NAME.fullmatch, _NAME_RULE)


def _directory(table: Table, key: str) -> Path:
    return Path(table.text(key, plain_path, PATH_RULE))


def _node_config(root: Table) -> NodeConfig:
    root.only(
        *("node", "state", "media", "realms", "groups", "control", "failover", "recording"),
        "monitor",
    )
    node = _node(root.table("node"))
    state = parse_state(root.table("state"))
    media = parse_media(root.table("media"))
    realms = _realms(root.table("realms"))
    control = parse_control(
        root.table("control"), lambda table, key, name: _check_media_realm(table, key, name, realms)
    )
    failover = _failover(root.table("failover", required=False), node, realms)
    nodes = (node.id, *(peer.id for peer in failover.peers))
    tables = root.tables("groups", GROUPS_MAX, required=True)
    groups = tuple(_group(table, realms, control, nodes) for table in tables)
    _check_groups(tables, groups)
    _check_paths(root, groups, failover.peers)
    check_attached(
        root.source, realms.values(), [path for peer in failover.peers for path in peer.paths]
    )
    needed = sum(group.ports[1] - group.ports[0] + 1 for group in groups)
    if needed > media.pinholes_max:
        # A port of a group has at most one pinhole; a table that holds all can never be full.
        root.table("media").fail(
            "pinholes_max", media.pinholes_max, f"the groups' port ranges need {needed}"
        )
    recording = parse_recording(root.table("recording", required=False), realms)
    monitor = parse_monitor(root.table("monitor")) if "monitor" in root.data else None
    return NodeConfig(node, state, media, realms, groups, control, failover, recording, monitor)


def _node(table: Table) -> NodeSection:
    table.only("id", "discriminator", "run_dir", "host", "rack")
    run_dir = _directory(table, "run_dir")
    if len(str(run_dir / LONGEST_SOCKET).encode()) > UNIX_PATH_BYTES_MAX:
        table.fail(
            "run_dir",
            str(run_dir),
            f"too long: with /{LONGEST_SOCKET} it may have {UNIX_PATH_BYTES_MAX} bytes (unix(7))",
        )
    host, rack = (
        table.text(
            key,
            lambda v: len(v) <= DOMAIN_CHARS_MAX and v.isprintable(),
            f"at most {DOMAIN_CHARS_MAX} printable characters, or absent",
            "",
        )
        for key in ("host", "rack")
    )
    return NodeSection(
        _name(table, "id"), table.integer("discriminator", DISCRIMINATOR_RANGE), run_dir, host, rack
    )


def _one_of(names: Iterable[str]) -> str:
    names = sorted(names)
    return "one of " + ", ".join(f"'{name}'" for name in names) if names else "nothing: none known"


def _realms(table: Table) -> dict[str, Realm]:
    if not 1 <= len(table.data) <= REALMS_MAX:
        raise ConfigError(
            f"{table.source}: realms: {len(table.data)} of them; 1 to {REALMS_MAX} are allowed"
        )
    realms: dict[str, Realm] = {}
    media_interfaces: dict[str, str] = {}
    for name in table.data:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{table.source}: {table.at(bare(name))}: a realm's name must be {_NAME_RULE}"
            )
        entry = table.table(name)
        entry.only("interface", "media", *REALM_KEYS)
        interface = entry.text("interface", _is_interface, _INTERFACE_RULE)
        media = entry.boolean("media", True)
        for key in () if media else REALM_KEYS:
            if key in entry.data:
                entry.fail(key, entry.data[key], "means nothing where media = false")
        realm = Realm(name, interface, media, parse_policy(entry) if media else DEFAULT_POLICY)
        if realm.media:
            # The packet program tells realms apart by the interface alone.
            if interface in media_interfaces:
                taken = media_interfaces[interface]
                entry.fail("interface", interface, f"already carries the media of realm '{taken}'")
            media_interfaces[interface] = name
        realms[name] = realm
    return realms


def _is_interface(value: str) -> bool:
    return bool(_INTERFACE.fullmatch(value)) and value.isprintable() and value not in (".", "..")


def _check_media_realm(table: Table, key: str, name: object, realms: Mapping[str, Realm]) -> None:
    media = [r.name for r in realms.values() if r.media]
    if not isinstance(name, str) or name not in realms:
        near = difflib.get_close_matches(name, media, n=1) if isinstance(name, str) else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        table.fail(key, name, f"no such realm; must be {_one_of(media)}{hint}")
    if not realms[name].media:
        table.fail(key, name, f"realm '{name}' has media = false; must be {_one_of(media)}")


def _failover(table: Table, node: NodeSection, realms: Mapping[str, Realm]) -> FailoverSection:
    table.only(*KEYS, "peers", *SAFETY_KEYS)
    profile, timers = parse_timers(table)
    ids = {node.id: "node.id"}
    discriminators = {node.discriminator: f"node '{node.id}'"}
    peers = []
    for entry in table.tables("peers", PEERS_MAX, required=False):
        peer = _peer(entry, realms)
        if peer.id in ids:
            entry.fail("id", peer.id, f"already used by {ids[peer.id]}; every node has its own")
        if peer.discriminator in discriminators:
            entry.fail(
                "discriminator",
                peer.discriminator,
                f"already that of {discriminators[peer.discriminator]}; every node has its own",
            )
        ids[peer.id] = f"{entry.path}.id"
        discriminators[peer.discriminator] = f"node '{peer.id}'"
        peers.append(peer)
    safety, priority = parse_safety(table), parse_priority(table)
    return FailoverSection(timers, tuple(peers), profile, safety, priority)


def _peer(table: Table, realms: Mapping[str, Realm]) -> Peer:
    table.only("id", "discriminator", "paths")
    paths = table.table("paths")
    if not paths.data:
        raise ConfigError(
            f'{table.source}: {paths.path}: empty; give at least one realm = "ADDRESS" to probe'
        )
    found: dict[str, str] = {}
    for realm, value in paths.data.items():
        if realm not in realms:
            raise ConfigError(
                f"{table.source}: {paths.at(bare(realm))}: not a realm of this file; "
                f"must be {_one_of(list(realms))}"
            )
        host = _host(value) if isinstance(value, str) else None
        if host is None:
            paths.fail(realm, value, "must be the peer's own IP address in that realm")
        found[realm] = host
    return Peer(_name(table, "id"), table.integer("discriminator", DISCRIMINATOR_RANGE), found)


def _host(text: str) -> str | None:
    """Canonical host of a unicast address that can stand on an interface, else None."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        return None
    if isinstance(address, ipaddress.IPv6Address) and (
        address.is_link_local or address.ipv4_mapped is not None or address.scope_id is not None
    ):
        return None
    return str(address)


def _interface_address(table: Table, key: str, value: object) -> tuple[str, int]:
    """Parse `host/prefix` into its canonical host and prefix length in bits."""
    rule = "must be a unicast ADDRESS/PREFIX, as in 10.10.0.101/24 or fd00:a::101/64"
    if not isinstance(value, str):
        table.fail(key, value, rule)
    host_text, slash, prefix = value.partition("/")
    host = _host(host_text)
    digits = prefix.isascii() and prefix.isdigit() and len(prefix) <= 3
    if host is None or not slash or not digits:
        table.fail(key, value, rule)
    bits = 128 if ":" in host else 32
    if not 1 <= int(prefix) <= bits:
        table.fail(key, value, f"prefix length must be from 1 to {bits} for this family")
    network = ipaddress.ip_network(f"{host}/{prefix}", strict=False)
    edges = (str(network.network_address), str(network.broadcast_address))
    if bits == 32 and network.num_addresses > 2 and host in edges:
        table.fail(key, value, f"is the network or broadcast address of {network}, not a host's")
    return host, int(prefix)


def _group(
    table: Table,
    realms: Mapping[str, Realm],
    control: ControlSection,
    nodes: tuple[str, ...],
) -> Group:
    table.only("id", "preferred", "control", "control_port", "control_realm", "ports", "addresses")
    group_id = _name(table, "id")
    preferred = table.text(
        "preferred", lambda v: not v or v in nodes, f"a node: {_one_of(nodes)}, or absent", ""
    )
    host, prefix_len = _interface_address(
        table, "control", table.get("control", None, "ADDRESS/PREFIX")
    )
    port = table.integer("control_port", (1, PORT_MAX))
    realm = table.text("control_realm", realms.__contains__, _one_of(realms))
    ports = _ports(table)
    addresses = tuple(_addresses(table.table("addresses"), realms))
    for name in control.default_realms:
        if all(a.realm != name for a in addresses):
            raise ConfigError(
                f"{table.source}: {table.path}.addresses.{name}: missing; "
                f"realm '{name}' is in control.default_realms, so the group needs an address there"
            )
    if any(a.host == host for a in addresses):
        table.fail(
            "control", host, "also a media address of the group, where only pinholes are let in"
        )
    return Group(
        id=group_id,
        control=Address(host, port),
        control_realm=realm,
        control_prefix_len=prefix_len,
        ports=ports,
        addresses=addresses,
        preferred=preferred,
    )


def _ports(table: Table) -> tuple[int, int]:
    allowed = (
        f"[FIRST, LAST] within {MEDIA_PORT_MIN}..{PORT_MAX}, FIRST even, at least one pair of ports"
    )
    value = table.get("ports", None, allowed)
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    ):
        table.fail("ports", value, f"must be {allowed}")
    first, last = value
    if not MEDIA_PORT_MIN <= first <= PORT_MAX or not MEDIA_PORT_MIN <= last <= PORT_MAX:
        table.fail("ports", value, f"outside {MEDIA_PORT_MIN}..{PORT_MAX}; must be {allowed}")
    if first % 2:
        table.fail("ports", value, f"first port is odd; RTP ports are even, begin at {first + 1}")
    if last <= first:
        table.fail("ports", value, "holds no pair of ports; the last must be above the first")
    return first, last


def _addresses(table: Table, realms: Mapping[str, Realm]) -> Iterator[RealmAddress]:
    for realm, value in table.data.items():
        if realm not in realms or not realms[realm].media:
            media = [r.name for r in realms.values() if r.media]
            raise ConfigError(
                f"{table.source}: {table.at(bare(realm))}: not a realm that carries media; "
                f"must be {_one_of(media)}"
            )
        if not isinstance(value, list) or not 1 <= len(value) <= 2:
            table.fail(realm, value, "must be a list of one ADDRESS/PREFIX per IP version")
        families = set()
        for entry in value:
            host, prefix_len = _interface_address(table, realm, entry)
            address = RealmAddress(realm, host, prefix_len)
            if address.family in families:
                table.fail(
                    realm,
                    entry,
                    f"second IPv{address.family} address; one per IP version and realm",
                )
            families.add(address.family)
            yield address


def _check_groups(tables: list[Table], groups: tuple[Group, ...]) -> None:
    """Group ids and moving addresses belong to one group each, over the whole file."""
    ids: set[str] = set()
    holders: dict[str, str] = {}
    for table, group in zip(tables, groups, strict=True):
        if group.id in ids:
            table.fail("id", group.id, "already used by another group")
        ids.add(group.id)
        mine = [("control", group.control.host)]
        mine += [(f"addresses.{a.realm}", a.host) for a in group.addresses]
        for key, host in mine:
            if host in holders:
                holder = holders[host]
                whose = "twice in this group" if holder == group.id else f"also of group '{holder}'"
                raise ConfigError(
                    f'{table.source}: {table.path}.{key} = "{host}": {whose}; '
                    "a moving address stands once, in one group"
                )
            holders[host] = group.id


def _check_paths(root: Table, groups: tuple[Group, ...], peers: tuple[Peer, ...]) -> None:
    """A probed address is its node's own: one that moves would answer for the wrong node."""
    moving = {a.host: g.id for g in groups for a in g.addresses}
    moving |= {g.control.host: g.id for g in groups}
    probed: dict[str, str] = {}
    for index, peer in enumerate(peers):
        for realm, host in peer.paths.items():
            where = f'{root.source}: failover.peers[{index}].paths.{realm} = "{host}"'
            if host in moving:
                raise ConfigError(
                    f"{where}: moves with group '{moving[host]}'; give the node's fixed address"
                )
            if host in probed:
                raise ConfigError(
                    f"{where}: already probed for peer '{probed[host]}'; each path has its own"
                )
            probed[host] = peer.id


def dump(config: NodeConfig) -> str:
    """TOML text that `parse` reads back to an equal value."""
    node, media, failover = config.node, config.media, config.failover
    lines = [
        "[node]",
        f"id = {quote(node.id)}",
        f"discriminator = {node.discriminator}",
        f"run_dir = {quote(str(node.run_dir))}",
        *(f"{key} = {quote(v)}" for key, v in (("host", node.host), ("rack", node.rack)) if v),
        *dump_state(config.state),
        *dump_media(media),
    ]
    for realm in config.realms.values():
        lines += [f"[realms.{quote(realm.name)}]", f"interface = {quote(realm.interface)}"]
        lines += [f"media = {'true' if realm.media else 'false'}"]
        if realm.media:
            lines += dump_policy(realm.policy)
    for group in config.groups:
        lines += [
            "[[groups]]",
            f"id = {quote(group.id)}",
            f"preferred = {quote(group.preferred)}",
            f"control = {quote(f'{group.control.host}/{group.control_prefix_len}')}",
            f"control_port = {group.control.port}",
            f"control_realm = {quote(group.control_realm)}",
            f"ports = [{group.ports[0]}, {group.ports[1]}]",
            f"addresses = {_addresses_toml(group)}",
        ]
    lines += [
        *dump_control(config.control),
        "[failover]",
        *dump_timers(failover.profile, failover.timers, failover.realtime_priority),
    ]
    for peer in failover.peers:
        paths = ", ".join(f"{quote(r)} = {quote(h)}" for r, h in peer.paths.items())
        lines += ["[[failover.peers]]", f"id = {quote(peer.id)}"]
        lines += [f"discriminator = {peer.discriminator}", f"paths = {{ {paths} }}"]
    lines += dump_safety(failover.safety)
    lines += [*dump_recording(config.recording), *dump_monitor(config.monitor)]
    return "\n".join(lines) + "\n"


def _addresses_toml(group: Group) -> str:
    by_realm: dict[str, list[str]] = {}
    for address in group.addresses:
        by_realm.setdefault(address.realm, []).append(f"{address.host}/{address.prefix_len}")
    inner = ", ".join(
        f"{quote(realm)} = [{', '.join(quote(a) for a in found)}]"
        for realm, found in by_realm.items()
    )
    return f"{{ {inner} }}"
