"""deploy/openstack through Heat's own parser, functions and property schemas, without a cloud.

What a node would be given is read out of the user data and fed to the product's own configuration.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bgf import config
from bgf.openstack import files, plan

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "deploy" / "openstack"
DRY = ROOT / "tests" / "heat" / "dry_heat.py"
KEY = "1 " + "5a" * 32
GIVEN: Mapping[str, Any] = {
    "image": "bgf",
    "flavor": "m1.medium",
    "state_image": "debian-12",
    "state_flavor": "m1.small",
    "key_name": "ops",
    "control_peers": ["10.30.0.5/32", "10.30.0.6/32"],
    "operators": ["198.51.100.0/24"],
    "cluster_key": KEY,
}


@functools.cache
def interpreter() -> str:
    done = subprocess.run(
        [ROOT / "scripts" / "heat-parser.sh"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def _asked(question: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "PYTHON"))}
    done = subprocess.run(
        [interpreter(), str(DRY)], input=question, capture_output=True, text=True, check=False,
        env=clean, timeout=120,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def heat(**parameters: Any) -> dict[str, Any]:
    wanted = {k: v for k, v in {**GIVEN, **parameters}.items() if v is not None}
    return _asked(json.dumps({"templates": str(TEMPLATES), "parameters": wanted}))


def created(**parameters: Any) -> dict[str, Any]:
    found = heat(**parameters)
    assert "error" not in found, found["error"]
    return found


def of(found: Mapping[str, Any], kind: str, path: str = "") -> list[dict[str, Any]]:
    return [
        r["properties"]
        for r in found["resources"]
        if r["type"] == kind and r["path"].startswith(path)
    ]


def written(found: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """What cloud-init writes on one node, by file."""
    (user_data,) = of(found, "OS::Heat::CloudConfig", path + ".")
    return {f["path"]: f for f in user_data["cloud_config"]["write_files"]}


SHAPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "1+1": {"groups": 1, "standbys": 1},
    "4+2 in zones": {"groups": 4, "standbys": 2, "availability_zones": ["z1", "z2", "z3"]},
    "IPv6 users, IPv4 core": {"access_cidr_ipv4": "", "core_cidr_ipv6": ""},
    "IPv4 users, IPv6 core": {"access_cidr_ipv6": "", "core_cidr_ipv4": ""},
    "given networks": {
        "management_network": "m", "management_subnet": "m4",
        "access_network": "a", "access_subnet_ipv6": "a6",
        "core_network": "c", "core_subnet_ipv4": "c4",
    },
    "fenced": {"fencing_clouds": "clouds: {bgf: {}}\n"},
    "pools": {
        "management_pool": "10.30.0.100-10.30.0.199",
        "access_pool_ipv6": "fd00:a::100-fd00:a::1ff",
        "core_routes_ipv4": [{"destination": "10.0.0.0/8", "nexthop": "10.20.0.1"}],
        "external_network": "public",
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_gateway_is_given_a_file_that_the_product_takes(shape: str) -> None:
    parameters = SHAPES[shape]
    found = created(**parameters)
    size = plan.size_of(parameters)
    nodes = [
        config.parse(written(found, f"gateways.{n}")["/etc/bgf/node.toml"]["content"])
        for n in range(len(size.gateways))
    ]
    assert [node.node.id for node in nodes] == list(size.gateways)
    assert {node.groups for node in nodes} == {nodes[0].groups}
    assert [group.id for group in nodes[0].groups] == list(size.group_ids)
    for node in nodes:
        others = {peer.id for peer in node.failover.peers}
        assert others == set(size.gateways) - {node.node.id}
        assert node.state.cluster is not None
        assert len(node.state.cluster.etcd) == plan.STATE_NODES
        assert node.control.peers == tuple(GIVEN["control_peers"])
    versions = plan.families(parameters)
    for group in nodes[0].groups:
        by_realm = {r: sorted(a.family for a in group.addresses if a.realm == r) for r in versions}
        assert by_realm == {r: sorted(v) for r, v in versions.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_moving_address_is_a_port_and_admitted_on_every_gateway(shape: str) -> None:
    found = created(**SHAPES[shape])
    moving = found["outputs"]["moving"]
    ports = of(found, "OS::Neutron::Port", "service_groups.")
    addresses = {a for group in moving for k, a in group.items() if k != "group" and a}
    assert len(ports) == len(addresses)
    assert all(port["device_owner"] == "bgf:moving" for port in ports)
    for network, keys in (
        ("management", ("control",)),
        ("access", ("access_ipv6", "access_ipv4")),
        ("core", ("core_ipv4", "core_ipv6")),
    ):
        wanted = {group[key] for group in moving for key in keys if group[key]}
        gateways = [
            r["properties"]
            for r in found["resources"]
            if r["path"].startswith("gateway_ports.") and r["path"].endswith("." + network)
        ]
        assert len(gateways) == len(plan.size_of(SHAPES[shape]).gateways)
        for port in gateways:
            pairs = [pair["ip_address"] for pair in port["allowed_address_pairs"]]
            assert len(pairs) == len(set(pairs))
            assert set(pairs) == wanted


def test_the_key_is_given_to_gateways_alone_and_to_nobody_to_read() -> None:
    found = created(**SHAPES["fenced"])
    for n in range(3):
        there = written(found, f"gateways.{n}")
        assert there["/etc/bgf/cluster.key"]["content"] == KEY + "\n"
        assert there["/etc/bgf/cluster.key"]["permissions"] == "0600"
        assert there["/etc/bgf/clouds.yaml"]["permissions"] == "0600"
        assert KEY not in there["/etc/bgf/node.toml"]["content"]
        assert KEY not in str(written(found, f"state_nodes.{n}"))
    assert KEY not in str(found["outputs"])


def test_gateways_and_state_nodes_are_kept_apart_each_among_themselves() -> None:
    found = created(**SHAPES["4+2 in zones"])
    groups = of(found, "OS::Nova::ServerGroup")
    assert [group["policies"] for group in groups] == [["anti-affinity"]] * 2
    hints = {}
    for room in ("gateways", "state_nodes"):
        servers = of(found, "OS::Nova::Server", room + ".")
        (hints[room],) = {server["scheduler_hints"]["group"] for server in servers}
        zones = [server["availability_zone"] for server in servers]
        assert zones == [f"z{n % 3 + 1}" for n in range(len(servers))]
        assert {server["user_data_update_policy"] for server in servers} == {"IGNORE"}
    assert hints["gateways"] != hints["state_nodes"]


def test_security_groups_are_narrow() -> None:
    found = created(monitors=["10.30.0.9/32"])
    groups = {g["name"]: g["rules"] for g in of(found, "OS::Neutron::SecurityGroup")}
    assert set(groups) == {
        "voice-gateways-management", "voice-gateways-access", "voice-gateways-core", "voice-state"
    }  # fmt: skip
    for name, rules in groups.items():
        for rule in rules:
            incoming = rule.get("direction", "ingress") == "ingress"
            where = rule.get("remote_ip_prefix", "")
            anybody = (
                incoming and rule.get("remote_mode") is None and where in ("", "0.0.0.0/0", "::/0")
            )
            if anybody and rule["protocol"] == "udp":
                assert name in ("voice-gateways-access", "voice-gateways-core")
                assert (rule["port_range_min"], rule["port_range_max"]) == (20000, 59999)
            elif anybody:  # what says that a path is narrower
                kind = (rule["protocol"], rule["port_range_min"], rule["port_range_max"])
                assert kind in (("icmp", 3, 4), ("ipv6-icmp", 2, 0))
            if incoming and rule["protocol"] in ("tcp", "udp"):
                assert rule["port_range_min"] <= rule["port_range_max"]
    figures = [r["port_range_min"] for r in groups["voice-state"] if r.get("remote_ip_prefix")]
    assert sorted(figures) == [22, 2381]  # who watches etcd reaches its figures, not what it keeps
    control = [r for r in groups["voice-gateways-management"] if r["port_range_min"] == 2223]
    assert {r["remote_ip_prefix"] for r in control} == set(GIVEN["control_peers"])


def test_an_upgraded_gateway_alone_runs_the_next_image() -> None:
    found = created(next_image="bgf-2", upgraded=["gw3", "gw1"])
    images = [server["image"] for server in of(found, "OS::Nova::Server", "gateways.")]
    assert images == ["bgf-2", "bgf", "bgf-2"]
    assert {s["image_update_policy"] for s in of(found, "OS::Nova::Server", "gateways.")} == {
        "REBUILD"
    }


def test_the_outputs_are_what_is_copied_elsewhere(tmp_path: Path) -> None:
    found = created()["outputs"]
    assert found["kamailio"].startswith('modparam("rtpengine", "rtpengine_sock", "udp:10.30.0.')
    assert found["kamailio"].count(":2223") == 2
    (tmp_path / "nodes.toml").write_text(found["bgfctl"])
    cluster, addresses, servers = files.node_list(tmp_path / "nodes.toml")
    assert cluster == "voice"
    assert servers == {node["name"]: node["server"] for node in found["nodes"]}
    assert addresses == {node["name"]: node["address"] for node in found["nodes"]}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"groups": 0}, "groups must be from 1 to 30"),
        ({"cluster_key": "secret"}, "cluster_key must be a number"),
        ({"media_port_min": 20001}, "media_port_min must be even"),
        ({"profile": "quick"}, "quick"),
        ({"colour": "red"}, "colour"),
        ({"image": None}, "image"),
        ({"standbys": "many"}, "standbys"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], says: str) -> None:
    assert says in heat(**parameters)["error"]


def test_what_the_preflight_supposes_is_what_the_template_says() -> None:
    template, _ = files.templates(TEMPLATES)
    schema = files.schema(template)
    assert {key: schema[key]["default"] for key in plan.DEFAULTS} == plan.DEFAULTS
    for key, limits in (("groups", plan.GROUPS_RANGE), ("standbys", plan.STANDBYS_RANGE)):
        (constraint,) = schema[key]["constraints"]
        assert (constraint["range"]["min"], constraint["range"]["max"]) == limits


@pytest.mark.parametrize("shape", SHAPES)
def test_the_preflight_counts_what_heat_makes(shape: str) -> None:
    parameters = {**GIVEN, **SHAPES[shape]}
    made = created(**SHAPES[shape])["resources"]
    needs = plan.needs_of(parameters, {"vcpus": 2, "ram": 4096}, {"vcpus": 1, "ram": 2048})

    def count(kind: str) -> int:
        return len([r for r in made if r["type"] == kind])

    assert needs.compute["instances"] == count("OS::Nova::Server")
    assert needs.network["port"] == count("OS::Neutron::Port") + count(
        "OS::Neutron::RouterInterface"
    )
    assert needs.network["network"] == count("OS::Neutron::Net")
    assert needs.network["subnet"] == count("OS::Neutron::Subnet")
    assert needs.network["router"] == count("OS::Neutron::Router")
    assert needs.network["security_group"] == count("OS::Neutron::SecurityGroup")
    rules = sum(len(p["rules"]) for p in of({"resources": made}, "OS::Neutron::SecurityGroup"))
    assert rules <= needs.network["security_group_rule"] <= rules + 4  # and Neutron's own egress


class Node:
    """A directory that a gateway's first boot takes for its machine."""

    def __init__(self, directory: Path, found: Mapping[str, Any]) -> None:
        self.root = directory
        for name, file in written(found, "gateways.0").items():
            path = directory / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        self.macs = {
            r["path"].rpartition(".")[2]: f"fa:16:3e:00:00:{int(r['id'].rpartition('#')[2]):02x}"
            for r in found["resources"]
            if r["path"].startswith("gateway_ports.0.") and r["type"] == "OS::Neutron::Port"
        }
        for name, realm in (("eth0", "core"), ("eth1", "access"), ("eth2", "management")):
            interface = directory / "sys/class/net" / name
            interface.mkdir(parents=True)
            (interface / "address").write_text(self.macs[realm] + "\n")
        (directory / "bin").mkdir()
        self.command("systemctl", 'echo "systemctl $*" >>$BGF_ROOT/done')
        self.command("bgfctl", 'echo "bgfctl $*" >>$BGF_ROOT/done')
        self.command("curl", 'printf "%s\\n" "$@" >>$BGF_ROOT/told')
        self.command("id", "exit 1")

    def command(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def boot(self, *words: str) -> int:
        environment = {"BGF_ROOT": str(self.root), "BGF_PAUSE_S": "0.01"}
        environment["PATH"] = f"{self.root / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            [self.root / "etc/bgf/first-boot", *words], env=environment, check=False, timeout=60
        ).returncode

    def file(self) -> config.NodeConfig:
        return config.load(self.root / "etc/bgf/node.toml")

    def told(self) -> dict[str, str]:
        lines = (self.root / "told").read_text().splitlines()
        found: dict[str, str] = json.loads(lines[lines.index("--data-binary") + 1])
        return found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, created(ready_timeout_s=31))


def test_a_first_boot_finds_its_interfaces_starts_and_tells_heat(node: Node) -> None:
    assert node.boot() == 0
    realms = {name: realm.interface for name, realm in node.file().realms.items()}
    assert realms == {"management": "eth2", "access": "eth1", "core": "eth0"}
    done = (node.root / "done").read_text().splitlines()
    assert done[0] == "systemctl enable --now bgf.target"
    assert done[1].startswith("bgfctl ready gw1 --config ")
    assert node.told() == {"status": "SUCCESS", "id": "gw1", "reason": "gw1 is ready"}


def test_a_node_that_is_not_ready_in_time_says_why_to_heat(node: Node) -> None:
    node.command("bgfctl", """echo 'gw1: "its" gateway \\ is silent' >&2; exit 1""")
    assert node.boot() == 1
    told = node.told()
    assert told["status"] == "FAILURE"
    assert told["reason"] == "gw1: not ready in time: gw1: its gateway is silent"


def test_an_interface_that_is_missing_is_named(node: Node) -> None:
    (node.root / "sys/class/net/eth1/address").write_text("00:00:00:00:00:01\n")
    assert node.boot() == 1
    assert f"{node.macs['access']} of the access network" in node.told()["reason"]


def test_a_file_that_came_later_is_only_put_in_place(node: Node) -> None:
    assert node.boot("place") == 0
    assert node.file().realms["access"].interface == "eth1"
    assert not (node.root / "done").exists()
    assert not (node.root / "told").exists()
