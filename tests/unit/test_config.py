"""The configuration: the whole example, one line per mistake, and no traceback for any file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgf import config, config_state
from bgf.errors import ConfigError
from bgf.model import Address, Family, Group, RealmAddress
from statestore import member_records

EXAMPLE = """
[node]
id = "n1"
discriminator = 1
run_dir = "/run/bgf/n1"
[state]
address = "dal:///run/bgf/state"
size_mb = 64
[media]
pin_dir = "/sys/fs/bpf/bgf"
pinholes_max = 20480
attach = "generic"
[realms.access]
interface = "eth0"
[realms.core]
interface = "eth1"
[realms.mgmt]
interface = "eth2"
media = false
[[groups]]
id = "g1"
preferred = "n1"
control = "10.30.0.101/24"
control_port = 2223
control_realm = "mgmt"
ports = [30000, 39999]
addresses = { access = ["fd00:a:0::101/64", "10.10.0.101/24"], core = ["10.20.0.101/24"] }
[[groups]]
id = "g2"
preferred = "n2"
control = "10.30.0.102/24"
control_port = 2223
control_realm = "mgmt"
ports = [30000, 30001]
addresses = { access = ["fd00:a::102/64", "10.10.0.102/24"], core = ["10.20.0.102/24"] }
[control]
default_realms = ["access", "core"]
[failover]
probe_interval_ms = 50
detect_multiplier = 4
lease_ms = 900
announce_interval_ms = 3000
[[failover.peers]]
id = "n2"
discriminator = 2
paths = { access = "10.10.0.12", core = "10.20.0.12" }
"""

MINIMAL = """
[node]
id = "solo"
discriminator = 0xffffffff
run_dir = "/run/bgf"
[state]
address = "dal:///run/bgf/state"
[media]
pin_dir = "/sys/fs/bpf/bgf"
[realms.lan]
interface = "eth0"
[[groups]]
id = "g"
control = "192.0.2.1/32"
control_port = 2223
control_realm = "lan"
ports = [1024, 1025]
addresses = { lan = ["192.0.2.2/32"] }
[control]
default_realms = ["lan", "lan"]
"""


CLUSTER = EXAMPLE.replace(
    "[media]",
    """[state.cluster]
listen = "10.30.0.11:7400"
key_file = "/etc/bgf/cluster.key"
etcd = ["http://10.30.0.201:2379", "http://[fd00::2]:2379"]
name = "east-1"
profile = "fast"
replicas = 1
history = 1
promote = "lease"
repair_per_s = 500
metrics = "10.30.0.11:9400"
[media]""",
)
CLUSTER_MINIMAL = MINIMAL.replace(
    "[media]",
    """[state.cluster]
listen = "[fd00::11]:7400"
key_file = "/etc/bgf/cluster.key"
etcd = ["http://10.30.0.201:2379"]
[media]""",
)


def test_a_cluster_member_says_where_it_listens_and_who_decides() -> None:
    assert config.parse(CLUSTER).state == config.StateSection(
        "dal:///run/bgf/state",
        64,
        config.StateCluster(
            listen=Address("10.30.0.11", 7400),
            key_file=Path("/etc/bgf/cluster.key"),
            etcd=("http://10.30.0.201:2379", "http://[fd00::2]:2379"),
            name="east-1",
            profile="fast",
            replicas=1,
            history=1,
            promote="lease",
            repair_per_s=500,
            metrics=Address("10.30.0.11", 9400),
        ),
    )
    assert config.parse(EXAMPLE).state.cluster is None


TLS = CLUSTER_MINIMAL.replace("http://", "https://").replace(
    "[media]",
    """etcd_ca_file = "/etc/bgf/ca.pem"
etcd_cert_file = "/etc/bgf/n1.pem"
etcd_key_file = "/etc/bgf/n1.key"
[media]""",
)


def test_etcd_over_tls_needs_an_authority_and_takes_a_certificate() -> None:
    cluster = config.parse(TLS).state.cluster
    assert cluster is not None and cluster.etcd == ("https://10.30.0.201:2379",)
    assert cluster.etcd_ca_file == Path("/etc/bgf/ca.pem")
    assert cluster.etcd_cert_file == Path("/etc/bgf/n1.pem")
    assert cluster.etcd_key_file == Path("/etc/bgf/n1.key")
    for old, new, says in (
        ("https://", "http://", "means nothing: the endpoints in etcd are not https"),
        ('etcd_ca_file = "/etc/bgf/ca.pem"', "", "state.cluster.etcd_ca_file: missing"),
        ('etcd_key_file = "/etc/bgf/n1.key"', "", "state.cluster.etcd_key_file: missing"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.parse(TLS.replace(old, new))
        assert says in str(caught.value)


def test_defaults_of_a_cluster_member() -> None:
    cluster = config.parse(CLUSTER_MINIMAL).state.cluster
    assert cluster == config.StateCluster(
        Address("fd00::11", 7400), Path("/etc/bgf/cluster.key"), ("http://10.30.0.201:2379",)
    )
    assert (cluster.name, cluster.profile, cluster.promote) == ("bgf", "safe", "at once")
    assert (cluster.replicas, cluster.history, cluster.metrics) == (2, 8, None)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('listen = "10.30.0.11:7400"\n', "", "state.cluster.listen: missing; it must be a unicast"),
        ("10.30.0.11:7400", "0.0.0.0:7400", 'listen = "0.0.0.0:7400": must be a unicast'),
        ("10.30.0.11:7400", "224.0.0.1:7400", 'listen = "224.0.0.1:7400": must be a unicast'),
        ("10.30.0.11:7400", "10.30.0.11", 'state.cluster.listen = "10.30.0.11": must be'),
        ("10.30.0.11:7400", "n1:7400", 'state.cluster.listen = "n1:7400": must be'),
        ("10.30.0.11:7400", "10.30.0.11:0", 'listen = "10.30.0.11:0": must be'),
        ("/etc/bgf/cluster.key", "cluster.key", 'key_file = "cluster.key": must be an absolute'),
        ("http://10.30.0.201", "https://10.30.0.201", "all of one scheme"),
        ("http://10.30.0.201:2379", "http://10.30.0.201:2379/v3", "state.cluster.etcd = ["),
        ("http://[fd00::2]:2379", "http://10.30.0.201:2379", "different http(s)://HOST:PORT"),
        ("http://10.30.0.201:2379", "http://10.30.0.201:99999", "state.cluster.etcd = ["),
        ('name = "east-1"', 'name = "east/1"', 'state.cluster.name = "east/1": must be 1 to 32'),
        ('"fast"', '"faster"', "profile = \"faster\": must be one of 'safe', 'fast', 'lab'"),
        ('"lease"', '"never"', "promote = \"never\": must be one of 'lease', 'at once'"),
        ("replicas = 1", "replicas = 16", "replicas = 16: must be a whole number from 0 to 15"),
        ("history = 1", "history = 17", "history = 17: must be a whole number from 0 to 16"),
        ("repair_per_s = 500", "repair_per_s = 0", "repair_per_s = 0: must be a whole number"),
        ("replicas", "replica", "state.cluster.replica: unknown key; did you mean 'replicas'?"),
    ],
)  # fmt: skip
def test_a_wrong_cluster_setting_is_one_line(old: str, new: str, says: str) -> None:
    assert old in CLUSTER
    with pytest.raises(ConfigError) as caught:
        config.parse(CLUSTER.replace(old, new))
    assert "\n" not in str(caught.value)
    assert says in str(caught.value)


def test_every_key_of_the_example_arrives() -> None:
    node = config.parse(EXAMPLE)
    assert node.node == config.NodeSection("n1", 1, Path("/run/bgf/n1"))
    assert node.node.socket("gateway") == Path("/run/bgf/n1/gateway.sock")
    assert node.state == config.StateSection("dal:///run/bgf/state", 64)
    assert node.state.directory == Path("/run/bgf/state")
    assert node.media == config.MediaSection(Path("/sys/fs/bpf/bgf"), 20480, "generic")
    assert list(node.realms) == ["access", "core", "mgmt"]
    assert [r.name for r in node.media_realms] == ["access", "core"]
    assert node.groups[0] == Group(
        id="g1",
        control=Address("10.30.0.101", 2223),
        control_realm="mgmt",
        control_prefix_len=24,
        ports=(30000, 39999),
        addresses=(
            RealmAddress("access", "fd00:a::101", 64),  # canonical, RFC 5952
            RealmAddress("access", "10.10.0.101", 24),
            RealmAddress("core", "10.20.0.101", 24),
        ),
        preferred="n1",
    )
    assert node.group("g2") is node.groups[1]
    assert node.group("g3") is None
    assert node.groups[0].families_in("access") == (Family.IP6, Family.IP4)
    assert node.control.default_realms == ("access", "core")
    peer = config.Peer("n2", 2, {"access": "10.10.0.12", "core": "10.20.0.12"})
    timers = config.FailoverTimers(50, 4, 900, 3000, 500, 10_000)
    assert node.failover == config.FailoverSection(timers, (peer,), "safe")


def test_defaults_are_those_of_the_documented_file() -> None:
    node = config.parse(MINIMAL)
    assert node.failover == config.FailoverSection(config.PROFILES["safe"], (), "safe")
    assert (node.node.host, node.node.rack) == ("", "")
    assert node.media.attach == "auto"
    assert node.media.pinholes_max == 65536
    assert node.state.size_mb == 256
    assert node.groups[0].preferred == ""


@pytest.mark.parametrize(
    "text",
    [EXAMPLE, MINIMAL, CLUSTER, CLUSTER_MINIMAL, TLS],
    ids=["example", "minimal", "cluster", "cluster minimal", "tls"],
)
def test_a_dump_reads_back_equal(text: str) -> None:
    node = config.parse(text)
    assert config.parse(config.dump(node)) == node


BROKEN = {
    "table smaller than the port ranges": (
        "pinholes_max = 20480",
        "pinholes_max = 9999",
        "media.pinholes_max = 9999: the groups' port ranges need 10002",
    ),
    "unknown section": ("[media]", "[medias]", "medias: unknown key; did you mean 'media'?"),
    "unknown key": ("size_mb", "size_gb", "state.size_gb: unknown key; did you mean 'size_mb'?"),
    "unknown key, nothing near": (
        "size_mb = 64",
        "zzz = 1",
        "state.zzz: unknown key; known: address, size_mb",
    ),
    "unknown key of a peer": (
        'discriminator = 2\npaths = { access = "10.10.0.12"',
        'discriminator = 2\nweight = 1\npaths = { access = "10.10.0.12"',
        "failover.peers[0].weight: unknown key; known: id, discriminator, paths",
    ),
    "missing key": (
        'id = "n1"\n',
        "",
        "node.id: missing; it must be 1 to 32 letters, digits, '.', '_' or '-', "
        "beginning with a letter or digit",
    ),
    "missing section": (
        "[control]\ndefault_realms",
        "[failover.x]\ndefault_realms",
        "control: missing; it must be a table",
    ),
    "id with a slash": ('id = "g1"', 'id = "g/1"', 'groups[0].id = "g/1": must be 1 to 32'),
    "zero discriminator": (
        "discriminator = 1",
        "discriminator = 0",
        "node.discriminator = 0: must be a whole number from 1 to 4294967295",
    ),
    "discriminator of 33 bits": ("discriminator = 2", "discriminator = 0x100000000", "4294967296:"),
    "discriminator twice": (
        "discriminator = 2",
        "discriminator = 1",
        "failover.peers[0].discriminator = 1: already that of node 'n1'; every node has its own",
    ),
    "peer with our id": (
        'id = "n2"',
        'id = "n1"',
        'failover.peers[0].id = "n1": already used by node.id; every node has its own',
    ),
    "boolean for a number": ("size_mb = 64", "size_mb = true", "state.size_mb = true: must be a"),
    "string for a number": ("size_mb = 64", 'size_mb = "64"', 'state.size_mb = "64": must be a'),
    "number for a boolean": ("media = false", "media = 0", "realms.mgmt.media = 0: must be true"),
    "relative directory": ('"/run/bgf/n1"', '"run/n1"', 'node.run_dir = "run/n1": must be an abs'),
    "directory with ..": ('"/sys/fs/bpf/bgf"', '"/sys/../x"', "media.pin_dir ="),
    "run_dir too long for a socket": ("/run/bgf/n1", "/run/" + "x" * 99, "107 bytes (unix(7))"),
    "state past one machine": (
        "dal:///run",
        "dal://10.0.0.1/run",
        'state.address = "dal://10.0.0.1/run/bgf/state": must be dal:// and an absolute path',
    ),
    "attach mode": (
        '"generic"',
        '"offload"',
        "media.attach = \"offload\": must be one of 'auto', 'generic', 'native'",
    ),
    "one interface, two media realms": (
        '"eth1"',
        '"eth0"',
        "realms.core.interface = \"eth0\": already carries the media of realm 'access'",
    ),
    "interface name too long": ('"eth1"', '"a-very-long-name"', "1 to 15 characters"),
    "unknown preferred node": (
        'preferred = "n2"',
        'preferred = "n9"',
        "groups[1].preferred = \"n9\": must be a node: one of 'n1', 'n2', or absent",
    ),
    "group id twice": ('id = "g2"', 'id = "g1"', 'groups[1].id = "g1": already used by another'),
    "control without a prefix": (
        "10.30.0.101/24",
        "10.30.0.101",
        'groups[0].control = "10.30.0.101": must be a unicast ADDRESS/PREFIX',
    ),
    "control in no realm": (
        'control_realm = "mgmt"',
        'control_realm = "oam"',
        "groups[0].control_realm = \"oam\": must be one of 'access', 'core', 'mgmt'",
    ),
    "control port 0": ("2223", "0", "groups[0].control_port = 0: must be a whole number from 1"),
    "control on a media address": (
        "10.30.0.101/24",
        "10.20.0.101/24",
        "where only pinholes are let in",
    ),
    "odd first port": (
        "[30000, 39999]",
        "[30001, 39999]",
        "groups[0].ports = [30001, 39999]: first port is odd; RTP ports are even, begin at 30002",
    ),
    "no pair of ports": ("[30000, 30001]", "[30000, 30000]", "holds no pair of ports"),
    "ports reversed": ("[30000, 39999]", "[39998, 30000]", "holds no pair of ports"),
    "ports too low": ("[30000, 39999]", "[22, 39999]", "outside 1024..65535"),
    "ports too high": ("[30000, 39999]", "[30000, 65536]", "outside 1024..65535"),
    "three ports": ("[30000, 39999]", "[30000, 30001, 30002]", "must be [FIRST, LAST]"),
    "address in no realm": (
        '{ access = ["fd00:a:0::101/64", "10.10.0.101/24"], core',
        '{ access = ["fd00:a:0::101/64"], cores = ["10.9.0.1/24"], core',
        "groups[0].addresses.cores: not a realm that carries media; must be one of 'access', "
        "'core'",
    ),
    "address in a realm without media": (
        'core = ["10.20.0.101/24"]',
        'core = ["10.20.0.101/24"], mgmt = ["10.30.0.9/24"]',
        "groups[0].addresses.mgmt: not a realm that carries media",
    ),
    "no address in a default realm": (
        ', core = ["10.20.0.101/24"]',
        "",
        "groups[0].addresses.core: missing; realm 'core' is in control.default_realms",
    ),
    "not an address": ("10.10.0.101/24", "10.10.0.256/24", 'access = "10.10.0.256/24": must be'),
    "multicast": ("10.10.0.101/24", "239.0.0.1/24", "must be a unicast ADDRESS/PREFIX"),
    "IPv4-mapped": ("fd00:a:0::101/64", "::ffff:10.0.0.1/128", "must be a unicast"),
    "link-local": ("fd00:a:0::101/64", "fe80::1/64", "must be a unicast"),
    "prefix of the other family": (
        "10.10.0.101/24",
        "10.10.0.101/64",
        "prefix length must be from 1 to 32 for this family",
    ),
    "network address": ("10.10.0.101/24", "10.10.0.0/24", "network or broadcast address"),
    "broadcast address": ("10.10.0.101/24", "10.10.0.255/24", "network or broadcast address"),
    "two of one family": (
        "fd00:a:0::101/64",
        "10.10.0.103/24",
        'groups[0].addresses.access = "10.10.0.101/24": second IPv4 address; one per IP version',
    ),
    "address of two groups": (
        "fd00:a::102",
        "fd00:a:0:0::101",
        "groups[1].addresses.access = \"fd00:a::101\": also of group 'g1'; "
        "a moving address stands once, in one group",
    ),
    "control address of two groups": ("10.30.0.102", "10.30.0.101", "also of group 'g1'"),
    "default realm unknown": (
        '["access", "core"]',
        '["acess", "core"]',
        "control.default_realms = \"acess\": no such realm; must be one of 'access', 'core'; "
        "did you mean 'access'?",
    ),
    "default realm without media": (
        '["access", "core"]',
        '["access", "mgmt"]',
        "realm 'mgmt' has media = false",
    ),
    "one default realm": ('["access", "core"]', '["access"]', "must be a list of two realms"),
    "probe path in no realm": (
        '{ access = "10.10.0.12"',
        '{ acess = "10.30.0.12"',
        "failover.peers[0].paths.acess: not a realm of this file",
    ),
    "probe path that moves": (
        '"10.10.0.12"',
        '"10.10.0.102"',
        "failover.peers[0].paths.access = \"10.10.0.102\": moves with group 'g2'",
    ),
    "probe path twice": ('"10.20.0.12"', '"10.10.0.12"', "already probed for peer 'n2'"),
    "probe path of nonsense": ('"10.20.0.12"', "12", "failover.peers[0].paths.core = 12: must be"),
    "no probe path": (
        '{ access = "10.10.0.12", core = "10.20.0.12" }',
        "{}",
        "failover.peers[0].paths: empty",
    ),
    "profile": ("probe_interval_ms = 50", 'profile = "quick"', "one of 'safe', 'fast', 'lab'"),
    "lease below detection": ("lease_ms = 900", "lease_ms = 200", "longer than a node is silent"),
    "rack": ("discriminator = 1", "discriminator = 1\nrack = 7", "printable characters, or absent"),
    "probe interval": ("probe_interval_ms = 50", "probe_interval_ms = 1", "from 5 to 10000"),
    "multiplier": ("detect_multiplier = 4", "detect_multiplier = 256", "from 1 to 255"),
    "lease": ("lease_ms = 900", "lease_ms = 9.5", "failover.lease_ms = 9.5: must be a whole"),
    "announcements": ("announce_interval_ms = 3000", "announce_interval_ms = 0", "from 100 to"),
    "date": ("lease_ms = 900", "lease_ms = 1979-05-27", "failover.lease_ms = 1979-05-27: must"),
}


@pytest.mark.parametrize(("old", "new", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_one_line_names_file_key_value_and_way_out(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in EXAMPLE
    file = tmp_path / "node.toml"
    file.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        config.load(file)
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: ")
    assert says in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[node]\nid "n1"\n', "line 2, column 4: not TOML: Expected '='"),
        ("[node]\nid = 1\nid = 2\n", "line 3, column 7: not TOML: Cannot overwrite a value"),
        ("[node]\nid = [", "line 2: not TOML: Invalid value (at the end)"),
        ("x = " + "[" * 5000 + "]" * 5000, "not usable TOML: nested too deeply"),
        ("x = " + "9" * 5000, "not usable TOML: number too long"),
        ("", "node: missing; it must be a table"),
        ("node = 1", "node = 1: must be a table"),
        ("groups = []\n" + MINIMAL.replace("[[groups]]", "[failover.x]"), "unknown key"),
    ],
    ids=["no-equals", "key-twice", "cut-off", "nested", "digits", "empty", "value", "moved"],
)
def test_syntax_errors_name_the_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^cfg: ") as refused:
        config.parse(text, "cfg")
    assert says in str(refused.value)


def test_files_that_cannot_be_read_are_one_line_each(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[node]\n\xff\n")
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (config.FILE_BYTES_MAX + 1))
    cases = {
        tmp_path / "none.toml": "cannot be read: No such file or directory",
        tmp_path: "cannot be read: Is a directory",
        tmp_path / "nul\0": "cannot be read: embedded null byte",
        binary: "line 2: byte 0xff is not UTF-8",
        huge: f"over {config.FILE_BYTES_MAX} bytes",
    }
    for path, says in cases.items():
        with pytest.raises(ConfigError) as refused:
            config.load(path)
        assert says in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_a_very_large_number_is_refused_without_being_printed() -> None:
    text = EXAMPLE.replace("size_mb = 64", "size_mb = 0x" + "f" * 5000)
    with pytest.raises(ConfigError, match=r"state\.size_mb = a very large number: must be a whole"):
        config.parse(text)


def test_limits_on_how_many() -> None:
    group = EXAMPLE[EXAMPLE.index("[[groups]]") : EXAMPLE.index('[[groups]]\nid = "g2"')]
    many = EXAMPLE + group * config.GROUPS_MAX
    with pytest.raises(ConfigError, match=r"groups: 66 given; 1 to 64 are allowed"):
        config.parse(many)
    realms = "".join(f'[realms.r{i}]\ninterface = "i{i}"\n' for i in range(config.REALMS_MAX))
    with pytest.raises(ConfigError, match=r"realms: 19 of them; 1 to 16 are allowed"):
        config.parse(EXAMPLE + realms)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of everything in a parsed TOML document, tables and lists included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))


def toml_of(value: Any) -> str:
    """Inline TOML of any value the strategies below draw."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return quoted.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_of(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return str(value)


PATHS = sorted(leaves(tomllib.loads(EXAMPLE)), key=str)
SCALARS = (
    st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "n1", "g1", "access", "10.0.0.1/24", "fd00::1/64", "dal:///", "/", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=3))
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    changes: list[tuple[tuple[str | int, ...], Any]],
) -> None:
    data: Any = tomllib.loads(EXAMPLE)
    for path, value in changes:
        holder = data
        try:
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken the place away
    text = "\n".join(f"{toml_of(key)} = {toml_of(value)}" for key, value in data.items())
    try:
        node = config.parse(text, "cfg")
    except ConfigError as refused:
        line = str(refused)
        assert line.startswith("cfg: ")
        assert len(line.splitlines()) == 1
        assert len(line) < 1000
    else:
        assert config.parse(config.dump(node)) == node


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_to_the_text_is_taken_or_refused_in_one_line(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(EXAMPLE)))
    length = data.draw(st.integers(0, 40))
    noise = data.draw(st.text(max_size=12) | st.sampled_from(['"', "[", "]", "{", "=", "\n", "''"]))
    try:
        config.parse(EXAMPLE[:start] + noise + EXAMPLE[start + length :], "cfg")
    except ConfigError as refused:
        assert len(str(refused).splitlines()) == 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: Any, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "noise.toml"
    file.write_bytes(raw)
    with pytest.raises(ConfigError) as refused:
        config.load(file)
    assert len(str(refused.value).splitlines()) == 1


def test_the_profiles_are_those_of_the_state_plane() -> None:
    assert set(config_state.PROFILES) == set(member_records.PROFILES)
