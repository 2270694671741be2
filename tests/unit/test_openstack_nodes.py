"""Gateways through ssh: what is typed there, whose word counts, whose key is known again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bgf.ctl import render_openstack
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
    assert not nodes.has_file("gw1", EXAMPLE)
    nodes.write_file("gw1", EXAMPLE)
    assert file.read_text() == EXAMPLE + "# placed\n"
    place = "sed -i 's/^interface = .*/interface = \"eth9\"/'"
    script(file.with_name("first-boot"), f'{place} "${{0%/*}}/node.toml"')
    nodes.write_file("gw1", EXAMPLE)
    assert 'interface = "eth9"' in file.read_text()
    assert nodes.has_file("gw1", EXAMPLE)
    script(file.with_name("first-boot"), "exit 1")
    with pytest.raises(NodeRefused, match="its file stays"):
        nodes.write_file("gw1", EXAMPLE + "# another\n")
    assert nodes.has_file("gw1", EXAMPLE)


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


def shown(found: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(render_openstack.status(found))
    return out.getvalue()


def test_what_is_not_there_yet_is_not_shown() -> None:
    """Half a line for Kamailio would be copied."""
    assert shown({"cluster": "voice", "status": "CREATE_IN_PROGRESS", "nodes": []}).split() == [
        "voice:", "CREATE_IN_PROGRESS", "no", "server", "yet"
    ]  # fmt: skip
    rows = [{"node": "gw1", "server": "voice-gw1", "status": "SHUTOFF", "address": ADDRESS}]
    moving = [{"group": "g1", "control": "10.30.0.101", "access_ipv6": "fd00:a::65"}]
    outputs = {"moving": moving, "kamailio": "modparam(...)"}
    said = shown(
        {
            "cluster": "voice", "status": "UPDATE_COMPLETE", "nodes": rows, "outputs": outputs,
            "problems": ["voice-gw1 is SHUTOFF"],
        }
    )  # fmt: skip
    for word in ("gw1", "SHUTOFF", "fd00:a::65", "Kamailio: modparam(...)", "voice-gw1 is SHUTOFF"):
        assert word in said
