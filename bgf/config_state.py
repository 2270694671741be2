"""The `[state]` section: one host's store, or a member of a cluster. Parse, validate, freeze.

Knows: the keys of the section, their ranges, and how they depend on each other. Must not know
what the values are used for. Without `[state.cluster]` the store is embedded: one segment for all
processes of the host, no network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bgf.errors import Malformed
from bgf.model import PORT_MAX, Address
from bgf.toml_table import Table, plain_path, quote

STATE_SCHEME: Final = "dal://"
STATE_PORT: Final = 7400
SIZE_MB_RANGE: Final = (1, 32_768)
ETCD_MAX: Final = 9
HISTORY_RANGE: Final = (0, 16)
REPLICAS_RANGE: Final = (0, 15)
REPAIR_PER_S_RANGE: Final = (1, 1_000_000)
CLUSTER_NAME_CHARS_MAX: Final = 32
PROFILES: Final = ("safe", "fast", "lab")
PROMOTE: Final = ("lease", "at once")
TLS_KEYS: Final = ("etcd_ca_file", "etcd_cert_file", "etcd_key_file")
PATH_RULE: Final = "an absolute path of printable characters without '..'"
_ADDRESS_RULE = f"a unicast ADDRESS:PORT, as in 10.30.0.11:{STATE_PORT} or [fd00::11]:{STATE_PORT}"
_ETCD_RULE = (
    f"a list of 1 to {ETCD_MAX} different http(s)://HOST:PORT, as in http://10.30.0.201:2379, "
    "all of one scheme"
)


@dataclass(frozen=True, slots=True)
class StateCluster:
    """This node's place in the cluster of state servers.

    `replicas` is how many copies, besides the master's, a call's journal has; flows have one on
    every member. `profile` names the timers of lease and renewal, `promote` when a new master
    writes: after the dead one's lease, or at once (a cut-off member's readers may then read what
    is over; decision 47). `history` is how many accesses decide that an item moves, 0: never.
    """

    listen: Address
    key_file: Path
    etcd: tuple[str, ...]
    name: str = "bgf"
    profile: str = "safe"
    replicas: int = 2
    history: int = 8
    promote: str = "at once"
    repair_per_s: int = 2_000
    metrics: Address | None = None
    etcd_ca_file: Path | None = None
    etcd_cert_file: Path | None = None
    etcd_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class StateSection:
    """Where the state store is: `dal:///DIRECTORY`, and its size when created."""

    address: str
    size_mb: int = 256
    cluster: StateCluster | None = None

    @property
    def directory(self) -> Path:
        return Path(self.address.removeprefix(STATE_SCHEME))


def parse_state(table: Table) -> StateSection:
    """Raises ConfigError."""
    table.only("address", "size_mb", "cluster")
    address = table.text(
        "address",
        lambda v: v.startswith(STATE_SCHEME) and plain_path(v.removeprefix(STATE_SCHEME)),
        f"{STATE_SCHEME} and {PATH_RULE}, as in dal:///run/bgf/state",
    )
    size_mb = table.integer("size_mb", SIZE_MB_RANGE, 256)
    cluster = _cluster(table.table("cluster")) if "cluster" in table.data else None
    return StateSection(address, size_mb, cluster)


def _cluster(table: Table) -> StateCluster:
    table.only(
        *("listen", "key_file", "etcd", "name", "profile", "replicas", "history", "promote"),
        *("repair_per_s", "metrics", *TLS_KEYS),
    )
    listen = _address(table, "listen")
    metrics = _address(table, "metrics") if "metrics" in table.data else None
    etcd = _etcd(table)
    ca_file, cert_file, own_key_file = _tls(table, etcd[0].startswith("https"))
    return StateCluster(
        listen=listen,
        key_file=Path(table.text("key_file", plain_path, PATH_RULE)),
        etcd=etcd,
        name=table.text(
            "name",
            lambda v: v.isascii() and v.replace("-", "").isalnum() and len(v) <= 32,
            f"1 to {CLUSTER_NAME_CHARS_MAX} letters, digits or '-'",
            "bgf",
        ),
        profile=table.text("profile", PROFILES.__contains__, _one_of(PROFILES), "safe"),
        replicas=table.integer("replicas", REPLICAS_RANGE, 2),
        history=table.integer("history", HISTORY_RANGE, 8),
        promote=table.text("promote", PROMOTE.__contains__, _one_of(PROMOTE), "at once"),
        repair_per_s=table.integer("repair_per_s", REPAIR_PER_S_RANGE, 2_000),
        metrics=metrics,
        etcd_ca_file=ca_file,
        etcd_cert_file=cert_file,
        etcd_key_file=own_key_file,
    )


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(f"'{name}'" for name in names)


def _address(table: Table, key: str) -> Address:
    """An address of this node's own. Every member is told it, so it cannot be a wildcard."""
    text = table.text(key, lambda _: True, _ADDRESS_RULE)
    try:
        address = Address.parse(text)
        host = ipaddress.ip_address(address.host)
    except (Malformed, ValueError):
        table.fail(key, text, f"must be {_ADDRESS_RULE}")
    if host.is_unspecified or host.is_multicast or not 1 <= address.port <= PORT_MAX:
        table.fail(key, text, f"must be {_ADDRESS_RULE}")
    return address


def _etcd(table: Table) -> tuple[str, ...]:
    value = table.get("etcd", None, _ETCD_RULE)
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= ETCD_MAX
        or not all(isinstance(v, str) and _is_endpoint(v) for v in value)
        or len(set(value)) != len(value)
        or len({v.partition("://")[0] for v in value}) != 1
    ):
        table.fail("etcd", value, f"must be {_ETCD_RULE}")
    return tuple(value)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    bare = not (parts.path or parts.query or parts.fragment or parts.username)
    schemes = ("http", "https")
    return plain and bare and parts.scheme in schemes and bool(parts.hostname) and bool(port)


def _tls(table: Table, https: bool) -> list[Path | None]:
    """Of the authority, and optionally of this node's own certificate and its key."""
    for key in TLS_KEYS:
        if key in table.data and not https:
            table.fail(key, table.data[key], "means nothing: the endpoints in etcd are not https")
    if not https:
        return [None, None, None]
    ca_file = Path(table.text("etcd_ca_file", plain_path, PATH_RULE))
    if "etcd_cert_file" not in table.data and "etcd_key_file" not in table.data:
        return [ca_file, None, None]
    return [ca_file, *(Path(table.text(key, plain_path, PATH_RULE)) for key in TLS_KEYS[1:])]


def dump_state(state: StateSection) -> Iterator[str]:
    """Lines of TOML that `parse_state` reads back to an equal value."""
    yield "[state]"
    yield f"address = {quote(state.address)}"
    yield f"size_mb = {state.size_mb}"
    cluster = state.cluster
    if cluster is None:
        return
    yield "[state.cluster]"
    yield f"listen = {quote(str(cluster.listen))}"
    yield f"key_file = {quote(str(cluster.key_file))}"
    yield f"etcd = [{', '.join(quote(one) for one in cluster.etcd)}]"
    yield f"name = {quote(cluster.name)}"
    yield f"profile = {quote(cluster.profile)}"
    yield f"replicas = {cluster.replicas}"
    yield f"history = {cluster.history}"
    yield f"promote = {quote(cluster.promote)}"
    yield f"repair_per_s = {cluster.repair_per_s}"
    if cluster.metrics is not None:
        yield f"metrics = {quote(str(cluster.metrics))}"
    for key in TLS_KEYS:
        path = getattr(cluster, key)
        if path is not None:
            yield f"{key} = {quote(str(path))}"
