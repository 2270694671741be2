"""Every etcd that a page or a template sets up has what the lab's has, which the tests run against.

What differs on purpose is named here. tests/integration/test_deployed_etcd starts the page's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bgf.lab.etcd import EtcdMember

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/deploy-bare.md"
TEMPLATE = ROOT / "deploy/openstack/state.yaml"
OPERATIONS = ROOT / "docs/operations.md"
SETTING = re.compile(r"^ *ETCD_([A-Z_]+)=(.*)$", re.M)
OF_THE_LAB = {"QUOTA_BACKEND_BYTES", "LOGGER", "LOG_LEVEL"}
"""It keeps its data in memory, and its log short."""
OF_THE_MACHINE = {
    *("NAME", "DATA_DIR", "LISTEN_CLIENT_URLS", "ADVERTISE_CLIENT_URLS", "LISTEN_PEER_URLS"),
    *("INITIAL_ADVERTISE_PEER_URLS", "INITIAL_CLUSTER", "INITIAL_CLUSTER_TOKEN"),
}
NAMES = ("LISTEN_CLIENT_URLS", "LISTEN_METRICS_URLS", "LISTEN_PEER_URLS")


def of_the_lab() -> dict[str, str]:
    """The lab's options, by the name that they have in etcd's environment."""
    member = EtcdMember("etcd1", "10.30.0.201", Path("/data"))
    options = (word[2:].partition("=") for word in member.argv([member])[1:])
    return {name.upper().replace("-", "_"): value for name, _, value in options}


def settings(file: Path) -> dict[str, str]:
    return dict(SETTING.findall(file.read_text()))


@pytest.mark.parametrize("file", [PAGE, TEMPLATE], ids=lambda file: file.name)
def test_a_deployed_etcd_is_set_as_the_labs_is(file: Path) -> None:
    wanted, found = of_the_lab(), settings(file)
    assert set(found) - set(wanted) == {"LISTEN_METRICS_URLS"}
    assert set(wanted) - set(found) == OF_THE_LAB
    same = {name: value for name, value in wanted.items() if name in set(found) - OF_THE_MACHINE}
    assert same == {name: found[name] for name in same}
    assert {"AUTO_COMPACTION_MODE", "AUTO_COMPACTION_RETENTION", "HEARTBEAT_INTERVAL"} <= set(same)


@pytest.mark.parametrize("file", [PAGE, TEMPLATE], ids=lambda file: file.name)
def test_a_deployed_etcd_begins_as_one_cluster_and_is_reached_on_its_machine(file: Path) -> None:
    found = settings(file)
    # Debian has started a cluster of one in its default directory, which would go on being that
    assert found["DATA_DIR"].startswith("/var/lib/etcd/") and "default" not in found["DATA_DIR"]
    assert found["INITIAL_CLUSTER_STATE"] == "new"
    assert "http://127.0.0.1:2379" in found["LISTEN_CLIENT_URLS"].split(",")
    ports = [re.findall(r":(\d+)(?:,|$)", found[name]) for name in NAMES]
    assert ports == [["2379", "2379"], ["2381"], ["2380"]]


def test_the_page_for_operators_names_what_is_not_etcds_default() -> None:
    found, page = settings(OPERATIONS), settings(PAGE)
    shared = set(of_the_lab()) - OF_THE_LAB - OF_THE_MACHINE - {"INITIAL_CLUSTER_STATE"}
    assert found == {name: page[name] for name in shared}


def test_prometheus_asks_the_port_that_the_members_give_it() -> None:
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    members = re.findall(r"http://([\d.]+):2380", settings(PAGE)["INITIAL_CLUSTER"])
    job = text.split("job_name: etcd")[1]
    assert re.findall(r"- ([\d.]+):(\d+)", job) == [(host, "2381") for host in members]
    assert 'up{job="etcd"}' in (ROOT / "deploy/prometheus/bgf.rules.yml").read_text()


class Machine:
    """A directory that a state node's first boot takes for its machine."""

    def __init__(self, root: Path, commands: Mapping[str, str]) -> None:
        self.root = root
        script = (ROOT / "deploy/openstack/first-boot-state.sh").read_text()
        script = script.replace("@node@", "state1").replace("@timeout_s@", "40")
        self.write("etc/bgf/first-boot", script)
        self.write("etc/bgf/tell-heat", '#!/bin/sh\necho "$*" >>"$BGF_ROOT/told"\n')
        (root / "bin").mkdir()
        for tool in ("sh", "date", "tr", "cut", "grep", "tail", "sleep"):
            (root / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
        for name, body in commands.items():
            self.write(f"bin/{name}", f"#!/bin/sh\n{body}\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def boot(self) -> list[str]:
        """What was told to Heat."""
        subprocess.run(
            [self.root / "bin/sh", self.root / "etc/bgf/first-boot"],
            env={"BGF_ROOT": str(self.root), "BGF_PAUSE_S": "0.01", "PATH": str(self.root / "bin")},
            check=False, capture_output=True, timeout=60,
        )  # fmt: skip
        return (self.root / "told").read_text().splitlines()

    def installed(self) -> str:
        path = self.root / "installed"
        return path.read_text() if path.exists() else ""


BOOT = {
    "systemctl": "exit 0",
    "curl": 'echo \'{"health":"true"}\'',
    "apt-get": '[ "$1" = update ] || echo "$*" >>"$BGF_ROOT/installed"',
}


@pytest.mark.parametrize("there", [(), ("etcd",), ("etcdctl",), ("etcd", "etcdctl")])
def test_a_state_node_has_etcd_and_its_client_whatever_its_image(
    tmp_path: Path, there: tuple[str, ...]
) -> None:
    machine = Machine(tmp_path, BOOT | dict.fromkeys(there, "exit 0"))
    assert machine.boot() == ["SUCCESS state1 is healthy"]
    installed = machine.installed().split()
    if len(there) == 2:
        assert not installed
    else:
        assert installed[-2:] == ["etcd-server", "etcd-client"]
