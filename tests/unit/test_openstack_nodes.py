"""Gateways through ssh: what is typed there, whose word counts, whose key is known again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bgf.openstack.errors import NodeRefused
from bgf.openstack.hands import SshNodes
from bgf.openstack.operate import Operator
from tests.openstack.stand_in import Machines, script
from tests.unit.test_openstack import FakeHeat, FakeStack

ADDRESS, SERVER = "10.30.0.11", "5e1f"
EXAMPLE = (Path(__file__).parents[2] / "packaging/etc/node.toml").read_text()


class Told(FakeStack):
    """A stack with a file for gw1."""

    @property
    def outputs(self) -> Mapping[str, Any]:
        return {"nodes": [{"name": "gw1"}], "files": [EXAMPLE]}


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """One gateway, gw1, that stands for a machine."""
    found = Machines(tmp_path, None, None)
    root = found.root / "voice" / "gw1"
    (root / "etc/bgf").mkdir(parents=True)
    (root / "etc/bgf/node.toml").write_text("old\n")
    script(root / "etc/bgf/first-boot", '[ "$1" = place ] && echo "# placed" >>"${0%/*}/node.toml"')
    (found.root / "by-address" / ADDRESS).symlink_to(root)
    found.carries("voice", "gw1")
    for key, value in found.environment().items():
        monkeypatch.setenv(key, value)
    return found


@pytest.fixture
def nodes(machines: Machines) -> SshNodes:
    addresses = {"gw1": ADDRESS, "gw2": "10.30.0.12"}
    return SshNodes(addresses, "debian", "ssh -i key", {"gw1": SERVER})


def test_a_question_goes_to_the_nodes_own_bgfctl(machines: Machines, nodes: SshNodes) -> None:
    assert nodes.ask("gw1", "status") == {"groups": []}
    typed, ran = machines.log()
    key = machines.root / "state/bgf/hosts" / SERVER
    assert typed == (
        "gw1 ssh -i key -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=accept-new "
        f'-o UserKnownHostsFile="{key}" debian@{ADDRESS} '
        "sudo -n bgfctl status --config /etc/bgf/node.toml --json"
    )
    assert ran == "gw1 bgfctl status --config /etc/bgf/node.toml --json"


def test_a_rebuilt_server_is_known_by_its_new_key(machines: Machines, nodes: SshNodes) -> None:
    nodes.ask("gw1", "status")
    key = machines.root / "state/bgf/hosts" / SERVER
    key.write_text(f"{ADDRESS} ssh-ed25519 AAAA\n")
    nodes.ask("gw1", "status")
    assert key.exists()
    nodes.rebuilt("gw1")
    assert not key.exists()
    nodes.rebuilt("gw1")


def test_no_from_a_node_is_told_from_silence(machines: Machines, nodes: SshNodes) -> None:
    nodes.ask("gw1", "drain", "gw1", "--wait", "90")
    assert nodes.ask("gw1", "ready", "gw1")["failed"]
    with pytest.raises(NodeRefused, match="gw1: no such command: dance"):
        nodes.ask("gw1", "dance")
    with pytest.raises(NodeRefused, match=r"gw2 cannot be reached at .*10\.30\.0\.12: .*--ssh"):
        nodes.ask("gw2", "status")
    with pytest.raises(NodeRefused, match="no address of gw3 is known"):
        nodes.ask("gw3", "status")
    (machines.root / "voice/gw1/status").write_text("well\n")
    with pytest.raises(NodeRefused, match="no JSON"):
        nodes.ask("gw1", "status")


def test_a_file_counts_when_it_is_checked_and_placed(machines: Machines, nodes: SshNodes) -> None:
    file = machines.file("voice", "gw1")
    with pytest.raises(NodeRefused, match=r"gw1: its file stays as it was: .*node\.toml\.new"):
        nodes.write_file("gw1", "[node]\nid = 7\n")
    assert file.read_text() == "old\n"
    nodes.write_file("gw1", EXAMPLE)
    assert file.read_text() == EXAMPLE + "# placed\n"
    script(file.with_name("first-boot"), "exit 1")
    with pytest.raises(NodeRefused, match="its file stays"):
        nodes.write_file("gw1", EXAMPLE + "# another\n")
    assert file.read_text() == EXAMPLE + "# placed\n"


def test_a_drained_gateway_that_is_ready_but_for_that_is_given_back(
    machines: Machines, nodes: SshNodes
) -> None:
    """What `bgfctl ready` says of it is no until then: the drain itself speaks against it."""
    operator = Operator("voice", FakeHeat(), "", {}, lambda _: None, sleep=lambda _: None)
    nodes.ask("gw1", "drain", "gw1", "--wait", "90")
    machines.forget_log()
    operator._refresh(nodes, Told({}), "gw1")
    words = [line.split()[1:3] for line in machines.log() if " ssh " not in line]
    assert words == [
        ["bgfctl", "status"], ["systemctl", "restart"], ["bgfctl", "ready"], ["bgfctl", "undrain"]
    ]  # fmt: skip


def test_a_gateway_that_lacks_more_than_that_stays_drained(
    machines: Machines, nodes: SshNodes
) -> None:
    now = iter(range(1000))
    operator = Operator(
        "voice", FakeHeat(), "", {}, lambda _: None, sleep=lambda _: None,
        clock=lambda: float(100 * next(now)),
    )  # fmt: skip
    script(
        machines.root / "bin/bgfctl",
        """echo '{"nodes": [{"node": "gw1", "why": ["it is drained", "no copy of g1"]}]}'
exit 1""",
    )
    with pytest.raises(NodeRefused, match="until it is ready: no copy of g1; it stays drained"):
        operator._refresh(nodes, Told({}), "gw1")
