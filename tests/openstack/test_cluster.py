"""A cluster in a real project: made, looked at, fenced, made larger and smaller, upgraded, deleted.

Needs a control plane (`make openstack-test` brings one up) whose hypervisors boot nothing: what the
nodes would do, `stand_in` does from their user data. An operator's part are the commands of
docs/deploy-openstack.md as they stand there. The steps build on each other, in this file's order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgf import config
from bgf.config_safety import FencingSection
from bgf.openstack import cloud, plan
from bgf.runtime.fencing import NovaFencer
from failover.fencing import Fenced
from tests.openstack import page
from tests.openstack.shell import Shell
from tests.openstack.stand_in import Machines

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("OS_CLIENT_CONFIG_FILE" not in os.environ, reason="make openstack-test"),
]
ROOT = Path(__file__).parents[2]
LAB = os.environ.get("OPENSTACK_LAB", "")
NAME, KEY = "voice", "ops"
IMAGES = ("bgf", "bgf-1.1")
QCOW2 = b"QFI\xfb\0\0\0\3".ljust(512, b"\0")


@pytest.fixture(scope="module")
def user() -> Any:
    import openstack

    return openstack.connect(cloud="oslab")


@pytest.fixture(scope="module")
def admin() -> Any:
    import openstack

    return openstack.connect(cloud="oslab-admin")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, user: Any) -> Iterator[Path]:
    """An operator's directory: the example with this cloud's names, images, a key; a repository."""
    directory = tmp_path_factory.mktemp("operator")
    example = yaml.safe_load((ROOT / "deploy/openstack/examples/new-networks.yaml").read_text())
    example["parameters"] |= {"flavor": "m1.medium", "state_image": "debian-12"}
    (directory / "voice.yaml").write_text(yaml.safe_dump(example))
    example["parameters"]["groups"] = 1
    (directory / "small.yaml").write_text(yaml.safe_dump(example))
    (directory / "deploy").symlink_to(ROOT / "deploy")
    for image in IMAGES:
        (directory / f"{image}.qcow2").write_bytes(QCOW2)
    user.compute.create_keypair(name=KEY)
    user.create_image("debian-12", data=QCOW2, disk_format="qcow2", wait=True)
    yield directory
    for name in ("wrong", "full", "ill", NAME):
        with contextlib.suppress(Exception):
            if user.get_stack(name):
                user.delete_stack(name, wait=True)
    user.compute.delete_keypair(KEY)
    for image in ("debian-12", *IMAGES):
        user.delete_image(image)


@pytest.fixture(scope="module")
def machines(place: Path, user: Any, admin: Any) -> Machines:
    return Machines(place, user, admin)


@pytest.fixture(scope="module")
def parameters(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((place / "voice.yaml").read_text())["parameters"]
    return found


@pytest.fixture(scope="module")
def shell(place: Path, machines: Machines) -> Shell:
    return Shell(place, machines.environment())


def cluster(user: Any) -> dict[str, Any]:
    """Servers of the cluster by node."""
    return {
        s.metadata["bgf_node"]: s
        for s in user.compute.servers()
        if s.metadata.get("bgf_cluster") == NAME
    }


def outputs(user: Any) -> dict[str, Any]:
    found = user.orchestration.get_stack(user.get_stack(NAME).id)
    return {o["output_key"]: o["output_value"] for o in found.outputs}


def ports(user: Any) -> dict[str, Any]:
    return {p.name: p for p in user.network.ports() if p.name.startswith(f"{NAME}-")}


def check_servers(user: Any, admin: Any, size: plan.Size) -> None:
    """Who is there, apart from each other, with several queues."""
    servers = cluster(user)
    states = tuple(f"state{n + 1}" for n in range(plan.STATE_NODES))
    assert set(servers) == {*size.gateways, *states}
    assert {server.status for server in servers.values()} == {"ACTIVE"}
    full = {node: admin.compute.get_server(s.id) for node, s in servers.items()}
    groups = {g.name: g for g in user.compute.server_groups()}
    for name, nodes in ((f"{NAME}-gateways", size.gateways), (f"{NAME}-state", states)):
        hosts = {node: full[node].compute_host for node in nodes}
        assert len(set(hosts.values())) == len(nodes), hosts
        assert set(groups[name].member_ids) == {servers[node].id for node in nodes}
        assert (groups[name].policy or groups[name].policies[0]) == "anti-affinity"
    for node in size.gateways:
        image = admin.image.get_image(full[node].image.id)
        assert cloud._properties(image)["hw_vif_multiqueue_enabled"] == "true"
        assert full[node].flavor.vcpus >= 2


def check_ports(user: Any, size: plan.Size) -> None:
    """A port for each moving address, admitted on every gateway's port of its network."""
    made, servers, moving = ports(user), cluster(user), outputs(user)["moving"]
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


def check_security(user: Any, parameters: dict[str, Any]) -> None:
    """Every rule there is, and no other."""
    groups = {g.id: g for g in user.network.security_groups() if g.name.startswith(f"{NAME}-")}
    found: dict[str, set[tuple[Any, ...]]] = {}
    for group in groups.values():
        rules = user.network.security_group_rules(security_group_id=group.id)
        name = group.name.removeprefix(f"{NAME}-")
        found[name] = {
            (
                r.direction, r.ether_type, r.protocol or "any",
                r.port_range_min or 0, r.port_range_max or 0,
                groups[r.remote_group_id].name.removeprefix(f"{NAME}-")
                if r.remote_group_id
                else r.remote_ip_prefix or "",
            )
            for r in rules
        }  # fmt: skip

    def into(protocol: str, first: int, last: int, remote: str, kind: str = "IPv4") -> Any:
        return ("ingress", kind, protocol, first, last, remote)

    management, state = "gateways-management", "state"
    (proxy,), (ops,), (monitor,) = (
        parameters[key] for key in ("control_peers", "operators", "monitors")
    )
    out = {("egress", kind, "any", 0, 0, "") for kind in ("IPv4", "IPv6")}
    assert found[management] == out | {
        into("udp", 7400, 7400, management),
        into("udp", 7784, 7785, management),
        into("tcp", 9401, 9401, management),
        into("udp", 2223, 2223, proxy),
        into("tcp", 2223, 2223, proxy),
        into("tcp", 22, 22, ops),
        into("tcp", 9433, 9433, monitor),
        into("tcp", 9401, 9401, monitor),
    }
    assert found[state] == out | {
        into("tcp", 2379, 2379, management),
        into("tcp", 2379, 2380, state),
        into("tcp", 22, 22, ops),
        into("tcp", 2381, 2381, monitor),
    }
    for realm in ("gateways-access", "gateways-core"):
        assert found[realm] == {
            ("egress", "IPv4", "udp", 0, 0, ""),
            ("egress", "IPv6", "udp", 0, 0, ""),
            ("egress", "IPv4", "icmp", 0, 0, ""),
            ("egress", "IPv6", "ipv6-icmp", 0, 0, ""),
            into("icmp", 3, 4, ""),
            into("ipv6-icmp", 2, 0, "", "IPv6"),
            into("udp", 7784, 7785, realm),
            into("udp", 7784, 7785, realm, "IPv6"),
            into("udp", 20000, 59999, "0.0.0.0/0"),
            into("udp", 20000, 59999, "::/0", "IPv6"),
        }
    assert len(found) == 4


def check_outputs(user: Any, size: plan.Size) -> None:
    """What is copied elsewhere says what Neutron and Nova say."""
    said, made, servers = outputs(user), ports(user), cluster(user)

    def at(port: str) -> str:
        return str(made[f"{NAME}-{port}"].fixed_ips[0]["ip_address"])

    sockets = [f"udp:{at(f'{group}-control')}:2223" for group in size.group_ids]
    assert said["control"] == sockets
    assert said["kamailio"] == f'modparam("rtpengine", "rtpengine_sock", "{" ".join(sockets)}")'
    assert said["state"] == [f"http://{at(f'state{n + 1}')}:2379" for n in range(3)]
    nodes = [
        {"name": node, "address": at(f"{node}-management"), "server": servers[node].id}
        for node in size.gateways
    ]
    assert said["nodes"] == nodes
    assert tomllib.loads(said["bgfctl"]) == {"cluster": NAME, "nodes": nodes}


def check_files(user: Any, machines: Machines, size: plan.Size) -> None:
    """Each gateway has the file that it should have now, its interfaces found by MAC address."""
    interfaces: set[tuple[str, str]] = set()
    for node in size.gateways:
        parsed = config.load(machines.file(NAME, node))
        assert parsed.node.id == node
        assert {g.id for g in parsed.groups} == set(size.group_ids)
        assert {p.id for p in parsed.failover.peers} == set(size.gateways) - {node}
        own = cluster(user)[node].id
        macs = {p.name.rpartition("-")[2]: p.mac_address for p in user.network.ports(device_id=own)}
        for realm, described in parsed.realms.items():
            network = machines.file(NAME, node).parents[2] / "sys/class/net"
            assert (network / described.interface / "address").read_text().strip() == macs[realm]
            interfaces.add((realm, described.interface))
    assert all(interface.startswith("enp") for _, interface in interfaces)


def check_all(user: Any, admin: Any, machines: Machines, size: plan.Size) -> None:
    check_servers(user, admin, size)
    check_ports(user, size)
    check_outputs(user, size)
    check_files(user, machines, size)


def test_the_image_goes_up_as_its_page_says(shell: Shell, user: Any) -> None:
    (line,) = page.sections(page.IMAGE_PAGE.read_text())["Upload"]
    words = shlex.split(line)
    file = shell.place / words[words.index("--file") + 1]
    file.parent.mkdir()
    file.write_bytes(QCOW2)
    done = shell(line)
    assert done.returncode == 0, done.stdout + done.stderr
    made = user.image.find_image(words[3], ignore_missing=False)
    try:
        assert (made.status, made.disk_format, made.min_disk, made.min_ram) == (
            *("active", "qcow2", 4, 2048),
        )
        said = user.image.get(f"/images/{made.id}").json()
        for number, word in enumerate(words):
            if word == "--property":
                name, _, value = words[number + 1].partition("=")
                assert str(said[name]).lower() == value, name
    finally:
        user.image.delete_image(made.id)


def test_the_preflight_finds_nothing_in_the_way(shell: Shell) -> None:
    shell.typed("In one evening", 0)
    said = shell.typed("In one evening", 1)
    assert "nothing stands in the way" in said
    done = shell("bgfctl openstack check -e voice.yaml --json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["ready"]
    assert {f["level"] for f in found["findings"]} <= {"ok", "warn"}
    assert {"extension port-security", "hosts", "virtio queues"} <= {
        f["what"] for f in found["findings"]
    } | {"hosts"}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"groups": "many"}, 2, "wrong.yaml: groups = many: must be a number from 1 to 30"),
        ({"groupz": 3}, 2, "no parameter 'groupz'; did you mean 'groups'?"),
        ({"access_cidr_ipv4": "", "access_cidr_ipv6": ""}, 2, "access has neither"),
        ({"profile": "quick"}, 1, "'profile' is invalid: \"quick\" is not an allowed value"),
        ({"image": "nowhere"}, 1, "there is no image 'nowhere' in this project: name one"),
        (
            {"access_network": "nowhere", "access_subnet_ipv4": "none"},
            1,
            "there is no access network 'nowhere' in this project: name one",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_clear_line(
    change: dict[str, Any], code: int, says: str, shell: Shell, user: Any
) -> None:
    environment = yaml.safe_load((shell.place / "voice.yaml").read_text())
    environment["parameters"] |= change
    (shell.place / "wrong.yaml").write_text(yaml.safe_dump(environment))
    done = shell("bgfctl openstack up wrong -e wrong.yaml --json")
    assert done.returncode == code
    if code == 2:
        (line,) = done.stderr.splitlines()
        assert says in line
    else:
        sentences = [f["sentence"] for f in json.loads(done.stdout)["findings"]]
        assert [s for s in sentences if says in s]
        unseen = shell("bgfctl openstack up wrong -e wrong.yaml --no-check")
        assert unseen.returncode == 1
        (key, value), *_ = change.items()
        (line,) = [s for s in unseen.stderr.splitlines() if value in s]
        assert says in line or f"there is no {key.rpartition('_')[2]} '{value}'" in line
        if user.get_stack("wrong"):  # a network is looked for when its first port is made
            assert shell("bgfctl openstack down wrong --yes").returncode == 0
    assert user.get_stack("wrong") is None


def test_a_full_quota_is_one_clear_line_before_and_in_the_middle(
    shell: Shell, user: Any, admin: Any
) -> None:
    project = user.current_project_id
    admin.network.update_quota(project, ports=4)
    try:
        before = shell("bgfctl openstack up full -e small.yaml --json")
        assert before.returncode == 1
        sentences = [f["sentence"] for f in json.loads(before.stdout)["findings"]]
        assert "15 needed, 4 of 4 are free: ask for 11 more, or free some" in sentences
        middle = shell("bgfctl openstack up full -e small.yaml --no-check")
        assert middle.returncode == 1
        last = middle.stderr.splitlines()[-1]
        assert "the project's quota of port is used up: ask for more" in last
        assert "'bgfctl openstack down full' removes what there is" in last
    finally:
        admin.network.update_quota(project, ports=-1)
        gone = shell("bgfctl openstack down full --yes")
    assert gone.returncode == 0


def test_a_node_that_does_not_come_up_says_why(shell: Shell, machines: Machines) -> None:
    machines.ill = {"gw1"}
    with machines.booting("ill"):
        done = shell("bgfctl openstack up ill -e small.yaml --no-check")
    machines.ill = set()
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "gateway gw1, ready: gw1: bgf.target does not start: bgf-gateway.service" in last
    assert "'bgfctl openstack down ill' removes what there is" in last
    assert shell("bgfctl openstack down ill --yes").returncode == 0


def test_a_cluster_comes_up(
    shell: Shell, user: Any, admin: Any, machines: Machines, parameters: dict[str, Any]
) -> None:
    """Complete is what every node has called ready: one that is late is waited for."""
    size = plan.size_of(parameters)
    others = {*size.gateways, "state1", "state2", "state3"} - {"gw2"}
    meanwhile: list[str] = []

    def late() -> bool:
        told = {n for n, said in machines.said.items() if " 200 " in said}
        if not told >= others:
            return False
        meanwhile.append(user.get_stack(NAME).status)
        return True

    machines.said.clear()
    machines.hold["gw2"] = late
    with machines.booting(NAME):
        said = shell.typed("In one evening", 2)
    machines.hold.clear()
    assert meanwhile == ["CREATE_IN_PROGRESS"]
    assert user.get_stack(NAME).status == "CREATE_COMPLETE"
    for node in size.gateways:
        assert f"gateway {node} says that it is ready" in said
    assert outputs(user)["kamailio"] in " ".join(said.split())
    check_all(user, admin, machines, size)
    check_security(user, parameters)
    for node in size.gateways:
        key = machines.file(NAME, node).with_name("cluster.key")
        assert key.read_text().startswith("1 ")
        assert key.stat().st_mode & 0o077 == 0
    said = shell.typed("In one evening", 3)
    assert f"{NAME}: CREATE_COMPLETE" in said


def test_it_grows_and_shrinks(shell: Shell, user: Any, admin: Any, machines: Machines) -> None:
    first = {node: server.id for node, server in cluster(user).items()}
    before = plan.Size(2, 1)
    for step, after in enumerate((plan.Size(2, 2), plan.Size(3, 1), plan.Size(2, 1))):
        machines.forget_log()
        with machines.booting(NAME):
            shell.typed("Another size", step)
        check_all(user, admin, machines, after)
        done = [line for line in machines.log() if " ssh " not in line]
        scaling = plan.Scaling(before, after)
        for node in scaling.drained:
            assert done.index(drain(node)) < done.index(drain(scaling.stay[0]))
        for node in scaling.stay:
            told = [line for line in done if line.startswith(f"{node} ")]
            told = told[told.index(drain(node)) :]
            assert told == [
                drain(node),
                asked(node, "status"),
                f"{node} systemctl restart bgf.target",
                asked(node, f"ready {node}"),
                asked(node, f"undrain {node}"),
            ]
        before = after
    assert {node: server.id for node, server in cluster(user).items()} == first


def asked(node: str, words: str) -> str:
    """A line of the log: what bgfctl openstack has a node's own bgfctl do."""
    return f"{node} bgfctl {words} --config /etc/bgf/node.toml --json"


def drain(node: str) -> str:
    return asked(node, f"drain {node} --wait 90")


def fence(node: str, place: Path, force_down: bool = False) -> Fenced:
    """As the failover process of another node has it done: a cloud named bgf, of this project. An
    administrator's rights there are what force_down needs."""
    clouds = yaml.safe_load(Path(os.environ["OS_CLIENT_CONFIG_FILE"]).read_text())["clouds"]
    own = clouds["oslab-admin" if force_down else "oslab"]
    own["auth"]["project_name"] = clouds["oslab"]["auth"]["project_name"]
    file = place / "fencing.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"bgf": own}}))
    fencer = NovaFencer(FencingSection("nova", "bgf", file, NAME, 60, force_down))
    fencer.fence(node)
    deadline = time.monotonic() + 300
    outcomes: list[Fenced] = []
    while not outcomes and time.monotonic() < deadline:
        outcomes = list(fencer.outcomes())
        time.sleep(0.2)
    fencer.close()
    (outcome,) = outcomes
    print(f"\nfence: {outcome.why}")
    return outcome


def until(what: str, good: Any, within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not good():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def again(user: Any, node: str) -> None:
    """Back to work, as its operator would have it."""
    until("off", lambda: cluster(user)[node].status == "SHUTOFF")
    user.compute.start_server(cluster(user)[node].id)
    until("on", lambda: cluster(user)[node].status == "ACTIVE")


def test_a_server_is_fenced_and_the_cluster_moves_on(shell: Shell, user: Any) -> None:
    began = time.monotonic()
    outcome = fence("gw3", shell.place)
    shell.took["fence"] = time.monotonic() - began
    assert outcome.ok
    assert outcome.why == "its server is stopped (SHUTOFF)"
    assert {n for n, s in cluster(user).items() if s.status == "SHUTOFF"} == {"gw3"}
    said = shell(f"bgfctl openstack status {NAME} --no-nodes")
    assert said.returncode == 1
    assert f"{NAME}-gw3 is SHUTOFF" in said.stdout
    again(user, "gw3")
    assert shell(f"bgfctl openstack status {NAME}").returncode == 0


@pytest.mark.skipif(not LAB, reason="kills a compute service: only of a lab of our own")
def test_a_server_on_a_dead_host_is_not_called_fenced_and_its_host_is_forced_down(
    shell: Shell, user: Any, admin: Any
) -> None:
    host = admin.compute.get_server(cluster(user)["gw2"].id).compute_host

    def service() -> Any:
        return next(s for s in admin.compute.services(binary="nova-compute") if s.host == host)

    subprocess.run([f"{LAB}/down.sh", "--kill", f"nova-{host}"], check=True)
    try:
        until("down", lambda: service().state == "down")
        outcome = fence("gw2", shell.place, force_down=True)
        assert not outcome.ok
        assert f"its host {host} is down and is forced down: evacuate" in outcome.why
        assert service().is_forced_down
    finally:
        subprocess.run([f"{LAB}/up.sh"], check=True, stdout=subprocess.DEVNULL)
        admin.compute.update_service_forced_down(service(), host, "nova-compute", forced=False)
    until("up", lambda: service().state == "up" and not service().is_forced_down)
    again(user, "gw2")


def test_it_is_upgraded_one_gateway_after_the_other(
    shell: Shell, user: Any, admin: Any, machines: Machines
) -> None:
    before = {node: server.id for node, server in cluster(user).items()}
    size, lines = plan.Size(2, 1), page.sections()["Another version"]

    def upgraded() -> set[str]:
        (next_image,) = [i.id for i in user.image.images() if i.name == "bgf-1.1"]
        now = {node: admin.compute.get_server(s.id) for node, s in cluster(user).items()}
        assert {node: server.id for node, server in now.items()} == before
        return {node for node, server in now.items() if server.image.id == next_image}

    shell.typed("Another version", 0)
    # One that cannot be drained stops it there; what is done can be taken back, or gone on with.
    machines.carries(NAME, "gw1", "g1")
    machines.carries(NAME, "gw2", "g2")
    machines.refuses(NAME, "gw1", "nobody else is ready")
    stopped = shell(lines[1])
    assert stopped.returncode == 1
    assert "gw1 still carries g1 after 90 s (nobody else is ready)" in stopped.stderr
    assert upgraded() == {"gw3"}
    scaled = shell(f"bgfctl openstack scale {NAME} --groups 3")
    assert scaled.returncode == 1
    assert "an upgrade is not finished (gw3 have it)" in scaled.stderr
    shell.typed("Another version", 2)
    assert upgraded() == set()

    (machines.file(NAME, "gw1").parents[2] / "refuses").unlink()
    machines.forget_log()
    shell.typed("Another version", 1)
    assert upgraded() == set(size.gateways)
    said = machines.log()
    order = [line.split()[0] for line in said if "bgfctl drain" in line and " ssh " not in line]
    assert order == ["gw3", "gw1", "gw2"]
    for node, following in itertools.pairwise(order):
        given_back = next(n for n, line in enumerate(said) if f"{node} bgfctl undrain" in line)
        assert given_back < said.index(drain(following))
    check_all(user, admin, machines, size)
    assert not outputs(user).get("upgraded")


def test_nodes_are_asked_without_heat(shell: Shell, place: Path) -> None:
    shell.typed("When Heat does not answer", 0)
    assert 'cluster = "voice"' in (place / "nodes.toml").read_text()
    said = shell.typed("When Heat does not answer", 1)
    assert "gw3" in said


def check_gone(user: Any, made: set[str]) -> None:
    assert user.get_stack(NAME) is None
    assert not cluster(user)
    assert not made & {p.id for p in user.network.ports()}
    for what in ("networks", "subnets", "routers", "security_groups", "ports"):
        left = [x.name for x in getattr(user.network, what)() if str(x.name).startswith(NAME)]
        assert not left
    assert not [g for g in user.compute.server_groups() if g.name.startswith(NAME)]


def test_nothing_is_left_of_it(shell: Shell, user: Any) -> None:
    made = {p.id for p in ports(user).values()}
    said = shell.typed("The end of it", 0, "y\n")
    assert f"{NAME} is gone" in said
    check_gone(user, made)
    again = shell(f"bgfctl openstack down {NAME} --yes")
    assert again.returncode == 0
    assert f"there is no cluster '{NAME}'" in again.stdout


def test_the_plain_commands_do_as_well(
    shell: Shell, user: Any, admin: Any, machines: Machines
) -> None:
    (shell.place / "small.yaml").replace(shell.place / "voice.yaml")
    with machines.booting(NAME):
        assert "CREATE_COMPLETE" in shell.typed("Without bgfctl", 0)
    check_all(user, admin, machines, plan.Size(1, 1))
    made = {p.id for p in ports(user).values()}
    shell.typed("Without bgfctl", 1)
    check_gone(user, made)


def test_the_page_has_no_command_that_was_not_typed(shell: Shell) -> None:
    assert not [ln for lines in page.sections().values() for ln in lines if ln not in shell.took]
