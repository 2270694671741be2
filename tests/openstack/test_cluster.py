"""A cluster in a real project: made, looked at, fenced, made larger and smaller, upgraded, deleted.

Needs a control plane (`make openstack-test` brings one up) whose hypervisors boot nothing: what
the nodes would tell Heat, the test reads out of their user data and says in their place. The steps
build on each other, in the order of this file.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgf import config
from bgf.config_safety import FencingSection
from bgf.openstack import plan
from bgf.runtime.fencing import NovaFencer

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif("OS_CLIENT_CONFIG_FILE" not in os.environ, reason="make openstack-test"),
]
NAME = "bgftest"
STEP_S = 1200
SSH = """#!/bin/sh
# The nodes that nobody boots: what bgfctl asks of them through ssh, written down and granted.
echo "$@" >>"$BGF_SSH_LOG"
case "$*" in
  *"cat >"*) cat >>"$BGF_SSH_LOG.files" ;;
  *systemctl*) ;;
  *) echo '{}' ;;
esac
"""


@pytest.fixture(scope="module")
def user() -> Any:
    import openstack

    return openstack.connect(cloud="oslab")


@pytest.fixture(scope="module")
def admin() -> Any:
    import openstack

    return openstack.connect(cloud="oslab-admin")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, user: Any, admin: Any) -> Iterator[Path]:
    """An environment file, a key pair and an image of this test's own; all gone afterwards."""
    directory = tmp_path_factory.mktemp("openstack")
    user.compute.create_keypair(name=NAME)
    for image in (f"{NAME}-1", f"{NAME}-2"):
        admin.create_image(
            image, data=b"\0" * 512, disk_format="raw", container_format="bare",
            visibility="public", wait=True, hw_vif_multiqueue_enabled="true", min_disk=0,
        )  # fmt: skip
    environment = {
        "groups": 1, "standbys": 1, "image": f"{NAME}-1", "flavor": "m1.small", "key_name": NAME,
        "state_image": f"{NAME}-1", "external_network": "public",
        "control_peers": ["10.30.0.5/32"], "operators": ["198.51.100.0/24"],
    }  # fmt: skip
    (directory / "env.yaml").write_text(yaml.safe_dump({"parameters": environment}))
    ssh = directory / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    yield directory
    with contextlib.suppress(Exception):
        if user.get_stack(NAME):
            user.delete_stack(NAME, wait=True)
    user.compute.delete_keypair(NAME)
    for image in (f"{NAME}-1", f"{NAME}-2"):
        admin.delete_image(image)


def bgfctl(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BGF_SSH_LOG": str(place / "ssh.log")}
    return subprocess.run(
        [sys.executable, "-m", "bgf.ctl.main", "openstack", *words], capture_output=True,
        text=True, check=False, timeout=STEP_S, env=environment,
    )  # fmt: skip


def user_data(admin: Any, server: str) -> dict[str, str]:
    """What cloud-init would write there, by path."""
    text = base64.b64decode(admin.compute.get_server(server).user_data).decode()
    return {f["path"]: f["content"] for f in yaml.safe_load(text)["write_files"]}


def cluster(user: Any) -> dict[str, Any]:
    """Servers of the cluster by node."""
    return {
        s.metadata["bgf_node"]: s
        for s in user.compute.servers()
        if s.metadata.get("bgf_cluster") == NAME
    }


def tell_heat(admin: Any, server: str, word: str, place: Path) -> str:
    script = place / "tell-heat"
    script.write_text(user_data(admin, server)["/etc/bgf/tell-heat"])
    done = subprocess.run(["sh", script, word, "test"], capture_output=True, text=True, check=False)
    return done.stdout


@contextlib.contextmanager
def nodes_that_boot(user: Any, admin: Any, place: Path, told: set[str]) -> Iterator[None]:
    """While it lasts, each new server tells Heat that it is ready, as its first boot would."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(2.0):
            for node, server in cluster(user).items():
                if server.status == "ACTIVE" and server.id not in told:
                    assert " 200 " in tell_heat(admin, server.id, "SUCCESS", place), node
                    told.add(server.id)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def told() -> set[str]:
    return set()


def outputs(user: Any) -> dict[str, Any]:
    found = user.orchestration.get_stack(user.get_stack(NAME).id)
    return {o["output_key"]: o["output_value"] for o in found.outputs}


def ports(user: Any) -> list[Any]:
    return [p for p in user.network.ports() if p.name.startswith(f"{NAME}-")]


def check_properties(user: Any, admin: Any, size: plan.Size) -> None:
    """Everything that the issue asks of a cluster, as the cloud itself describes it."""
    servers = cluster(user)
    assert set(servers) == {*size.gateways, "state1", "state2", "state3"}
    assert {server.status for server in servers.values()} == {"ACTIVE"}
    hosts = {node: admin.compute.get_server(s.id).compute_host for node, s in servers.items()}
    for some in (size.gateways, ("state1", "state2", "state3")):
        assert len({hosts[node] for node in some}) == len(some), hosts
    groups = {g.name: g for g in user.compute.server_groups()}
    members = {servers[n].id for n in size.gateways}
    assert set(groups[f"{NAME}-gateways"].member_ids) == members
    assert len(groups[f"{NAME}-state"].member_ids) == plan.STATE_NODES

    made = {p.name: p for p in ports(user)}
    moving = outputs(user)["moving"]
    assert [group["group"] for group in moving] == list(size.group_ids)
    wanted: dict[str, set[str]] = {"management": set(), "access": set(), "core": set()}
    for group in moving:
        for key in ("control", "access_ipv6", "access_ipv4", "core_ipv4", "core_ipv6"):
            port = made[f"{NAME}-{group['group']}-{key.replace('_', '-')}"]
            assert [ip["ip_address"] for ip in port.fixed_ips] == [group[key]]
            assert not port.device_id
            wanted["management" if key == "control" else key.split("_")[0]].add(group[key])
    for node in size.gateways:
        for network, addresses in wanted.items():
            port = made[f"{NAME}-{node}-{network}"]
            assert port.device_id == servers[node].id
            assert port.is_port_security_enabled
            assert {pair["ip_address"] for pair in port.allowed_address_pairs} == addresses
    assert len(made) == 3 * len(size.gateways) + 3 + 5 * size.groups

    rules = [
        rule
        for group in user.network.security_groups()
        if group.name.startswith(f"{NAME}-")
        for rule in user.network.security_group_rules(security_group_id=group.id)
        if rule.direction == "ingress"
    ]
    for rule in rules:
        anybody = not rule.remote_group_id and rule.remote_ip_prefix in (None, "0.0.0.0/0", "::/0")
        if anybody and rule.protocol == "udp":
            assert (rule.port_range_min, rule.port_range_max) == (20000, 59999)
        elif anybody:
            assert rule.protocol in ("icmp", "ipv6-icmp")


def check_files(user: Any, admin: Any, size: plan.Size, nodes: tuple[str, ...]) -> None:
    for node in nodes:
        there = user_data(admin, cluster(user)[node].id)
        parsed = config.parse(there["/etc/bgf/node.toml"])
        assert parsed.node.id == node
        assert {g.id for g in parsed.groups} == set(size.group_ids)
        assert {p.id for p in parsed.failover.peers} == set(size.gateways) - {node}
        assert there["/etc/bgf/cluster.key"].startswith("1 ")


def test_the_preflight_finds_nothing_in_the_way(place: Path) -> None:
    done = bgfctl(place, "check", "-e", str(place / "env.yaml"), "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["ready"]
    assert {f["level"] for f in found["findings"]} <= {"ok", "warn"}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"groups": "many"}, 2, "groups = many"),
        ({"colour": "red"}, 2, "no parameter 'colour'"),
        ({"image": "nowhere"}, 1, "there is no image 'nowhere' in this project"),
        (
            {"access_network": "nowhere", "access_subnet_ipv4": "none"},
            1,
            "there is no access network 'nowhere' in this project",
        ),
        ({"access_cidr_ipv4": "", "access_cidr_ipv6": ""}, 2, "access has neither"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_clear_line(
    change: dict[str, str], code: int, says: str, place: Path
) -> None:
    environment = yaml.safe_load((place / "env.yaml").read_text())
    environment["parameters"] |= change
    (place / "wrong.yaml").write_text(yaml.safe_dump(environment))
    done = bgfctl(place, "up", "wrong", "-e", str(place / "wrong.yaml"), "--json")
    assert done.returncode == code, done.stderr + done.stdout
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_full_quota_is_one_clear_line_before_and_in_the_middle(
    place: Path, user: Any, admin: Any
) -> None:
    project = user.current_project_id
    admin.network.update_quota(project, ports=4)
    try:
        before = bgfctl(place, "up", "full", "-e", str(place / "env.yaml"), "--json")
        assert before.returncode == 1
        assert "15 needed, 4 of 4 are free: ask for 11 more" in before.stdout
        middle = bgfctl(place, "up", "full", "-e", str(place / "env.yaml"), "--no-check")
        assert middle.returncode == 1
        assert "the project's quota of port is used up" in middle.stderr
        assert "down full" in middle.stderr
    finally:
        admin.network.update_quota(project, ports=-1)
        gone = bgfctl(place, "down", "full", "--yes")
    assert gone.returncode == 0, gone.stderr


def test_a_cluster_comes_up(place: Path, user: Any, admin: Any, told: set[str]) -> None:
    began = time.monotonic()
    with nodes_that_boot(user, admin, place, told):
        done = bgfctl(place, "up", NAME, "-e", str(place / "env.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "CREATE_COMPLETE"
    assert found["outputs"]["kamailio"].startswith("modparam(")
    assert "gateway gw1 says that it is ready" in done.stderr
    print(f"\ncreate: {time.monotonic() - began:.0f} s")
    size = plan.Size(1, 1)
    check_properties(user, admin, size)
    check_files(user, admin, size, size.gateways)


def test_it_grows(place: Path, user: Any, admin: Any, told: set[str]) -> None:
    before = {node: server.id for node, server in cluster(user).items()}
    began = time.monotonic()
    with nodes_that_boot(user, admin, place, told):
        done = bgfctl(place, "scale", NAME, "--groups", "2", "--ssh", str(place / "ssh"))
    assert done.returncode == 0, done.stderr
    print(f"\nscale out: {time.monotonic() - began:.0f} s")
    size = plan.Size(2, 1)
    check_properties(user, admin, size)
    check_files(user, admin, size, ("gw3",))
    assert before.items() <= {node: server.id for node, server in cluster(user).items()}.items()
    said = (place / "ssh.log").read_text()
    for node in ("gw1", "gw2"):
        assert f"bgfctl drain {node}" in said
        assert f"bgfctl undrain {node}" in said
    given = (place / "ssh.log.files").read_text()
    assert given.count('id = "g2"') == 2


def test_a_server_is_fenced(place: Path, user: Any) -> None:
    file = Path(os.environ["OS_CLIENT_CONFIG_FILE"])
    fencer = NovaFencer(FencingSection("nova", "oslab", file, NAME, 60))
    fencer.fence("gw3")
    deadline = time.monotonic() + 120
    outcomes: list[Any] = []
    while not outcomes and time.monotonic() < deadline:
        outcomes = list(fencer.outcomes())
        time.sleep(0.2)
    fencer.close()
    assert [o.ok for o in outcomes] == [True], outcomes
    assert {n for n, s in cluster(user).items() if s.status == "SHUTOFF"} == {"gw3"}
    said = bgfctl(place, "status", NAME, "--no-nodes")
    assert said.returncode == 1
    assert f"{NAME}-gw3 is SHUTOFF" in said.stdout
    user.compute.start_server(cluster(user)["gw3"].id)
    while cluster(user)["gw3"].status != "ACTIVE" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert cluster(user)["gw3"].status == "ACTIVE"


def test_it_is_upgraded_one_gateway_after_the_other(
    place: Path, user: Any, admin: Any, told: set[str]
) -> None:
    before = {node: server.id for node, server in cluster(user).items()}
    (place / "ssh.log").write_text("")
    began = time.monotonic()
    done = bgfctl(place, "upgrade", NAME, "--image", f"{NAME}-2", "--ssh", str(place / "ssh"))
    assert done.returncode == 0, done.stderr
    print(f"\nupgrade of 3: {time.monotonic() - began:.0f} s")
    wanted = user.image.find_image(f"{NAME}-2").id
    for node, server in cluster(user).items():
        assert server.id == before[node]
        assert (admin.compute.get_server(server.id).image.id == wanted) is node.startswith("gw")
    said = (place / "ssh.log").read_text()
    drained = [said.index(f"bgfctl drain {node}") for node in ("gw1", "gw2", "gw3")]
    assert drained == sorted(drained)
    assert said.index("bgfctl undrain gw1") < said.index("bgfctl drain gw2")
    check_properties(user, admin, plan.Size(2, 1))


def test_it_shrinks(place: Path, user: Any, admin: Any) -> None:
    began = time.monotonic()
    done = bgfctl(place, "scale", NAME, "--groups", "1", "--ssh", str(place / "ssh"))
    assert done.returncode == 0, done.stderr
    print(f"\nscale in: {time.monotonic() - began:.0f} s")
    check_properties(user, admin, plan.Size(1, 1))


def test_nothing_is_left_of_it(place: Path, user: Any) -> None:
    made = {p.id for p in ports(user)}
    began = time.monotonic()
    done = bgfctl(place, "down", NAME, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    print(f"\ndelete: {time.monotonic() - began:.0f} s")
    assert user.get_stack(NAME) is None
    assert not cluster(user)
    assert not made & {p.id for p in user.network.ports()}
    for what in ("networks", "subnets", "routers", "security_groups"):
        left = [x.name for x in getattr(user.network, what)() if str(x.name).startswith(NAME)]
        assert not left
    assert not [g for g in user.compute.server_groups() if g.name.startswith(NAME)]
    again = bgfctl(place, "down", NAME, "--yes")
    assert again.returncode == 0
