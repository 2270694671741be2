"""etcd is lost with all its data: the runbook's section, played from its first step to its last.

The nodes are stopped in good order, etcd begins empty, the owners' records are put there by the
page's own command, the nodes start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bgf.lab.nodes import KINDS
from tests.integration.test_cluster import (
    Cluster,
    answer,
    cluster,
    delete,
    offer,
    wait_for,
)

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcd-client is missing"),
    pytest.mark.timeout(300),
]
ROOT = Path(__file__).parents[2]
MOVES = 3


def section() -> str:
    text = (ROOT / "docs/runbook.md").read_text()
    return text.split("\n## etcd is lost for good\n")[1].split("\n## ")[0]


def puts() -> list[str]:
    """The page's commands that put owners' records."""
    return [line.strip() for line in re.findall(r"^ +etcdctl put .*$", section(), re.M)]


def owners(cluster: Cluster, ask: str) -> dict[str, tuple[str, int]]:
    told = cluster.ask(ask, "failover")["owners"]
    return {group: (str(one["node"]), int(one["epoch"])) for group, one in told.items()}


def served(cluster: Cluster) -> bool:
    """Does each group's owner serve it, to the last step of a takeover, and answer its calls?"""
    for group, (node, epoch) in owners(cluster, "n2").items():
        if not node:
            return False
        held = cluster.ask(node, "failover")["groups"][group]
        role = cluster.ask(node, "gateway")["groups"][group]["role"]
        if held["steps"]["published"] != epoch or role != "active":
            return False
    return True


def move(cluster: Cluster, group: str) -> None:
    wait_for("n2 knows who serves it", lambda: served(cluster))
    owner, epoch = owners(cluster, "n2")[group]
    cluster.ask(owner, "failover", "switchover", group=group, to="")
    wait_for(f"{group} has moved", lambda: owners(cluster, "n2")[group][1] > epoch)
    wait_for("it is served there", lambda: served(cluster))


def stop_all_nodes(cluster: Cluster) -> None:
    """As `systemctl stop bgf.target` on each: who holds the state ends last."""
    processes = cluster.lab.processes
    for node in cluster.plan.nodes:
        for kind in reversed(KINDS):
            processes.stop([p for p in processes.running(node.id) if p.name == kind])


def lose_etcd(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.processes.kill_now([p for p in lab.processes.running() if p.name in lab.registry.names])
    wait_for(
        "etcd is gone",
        lambda: not [p for p in lab.processes.running() if p.name in lab.registry.names],
    )
    for member in lab.registry.members:
        shutil.rmtree(member.data_dir)


def put_all(cluster: Cluster, records: dict[str, tuple[str, int]]) -> None:
    """The page's commands with these names and numbers."""
    templates = puts()
    assert [json.loads(line.split("'")[1]).keys() for line in templates] == [{"node", "epoch"}] * 2
    for line, (group, (node, epoch)) in zip(templates, sorted(records.items()), strict=True):
        assert f" /bgf/failover/o/{group} " in line
        record = json.dumps({"node": node, "epoch": epoch})
        put(cluster, re.sub(r"'.*'", f"'{record}'", line.replace("/bgf/", "/lab/")))


def put(cluster: Cluster, command: str) -> None:
    host = cluster.plan.registry_hosts[0]
    done = subprocess.run(
        ["ip", "netns", "exec", cluster.plan.registry, "sh", "-c", command],
        env={"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": f"http://{host}:2379"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "OK\n"), done.stderr


def test_owners_go_on_at_the_epochs_that_are_put_into_a_new_etcd(cluster: Cluster) -> None:
    for _ in range(MOVES):  # so that the epochs are not those of a cluster that is new
        move(cluster, "g1")
    before = owners(cluster, "n2")
    assert before["g1"][1] == 1 + MOVES
    with cluster.client() as client:
        assert client.call(offer("before"))["result"] == "ok"
        assert client.call(answer("before"))["result"] == "ok"

    stop_all_nodes(cluster)
    lose_etcd(cluster)
    cluster.lab.registry.start_and_wait()
    put_all(cluster, before)
    cluster.lab.nodes.start_and_wait(lambda _: None)

    wait_for("n2 knows of them", lambda: owners(cluster, "n2") == before)
    wait_for("all is served", lambda: served(cluster))
    with cluster.client("after") as client:
        # what the page says of the calls of before
        assert "not here" in str(client.call(delete("before")).get("warning"))
        assert client.call(offer("after"))["result"] == "ok"
        assert client.call(answer("after"))["result"] == "ok"
        cluster.lab.power_off(before["g1"][0])
        wait_for("a takeover works", lambda: owners(cluster, "n2")["g1"][1] == 2 + MOVES)
        assert client.call({"command": "query", "call-id": "after"})["result"] == "ok"


def test_without_the_records_a_group_has_an_owner_and_no_service_until_they_are_put(
    cluster: Cluster,
) -> None:
    for _ in range(MOVES):
        move(cluster, "g1")
    before = owners(cluster, "n2")
    stop_all_nodes(cluster)
    lose_etcd(cluster)
    cluster.lab.registry.start_and_wait()
    cluster.lab.nodes.start_and_wait(lambda _: None)
    wait_for("g1 is owned as if for the first time", lambda: owners(cluster, "n2")["g1"][1] == 1)
    owner, _ = owners(cluster, "n2")["g1"]
    log = cluster.lab.processes.log_of("gateway", owner)
    wait_for("its epoch is refused", lambda: "epoch 1 is over already" in log.read_text())
    assert cluster.ask(owner, "gateway")["groups"]["g1"]["role"] == "standby"

    put_all(cluster, before | {"g1": (owner, before["g1"][1])})
    put_there = owner, before["g1"][1]
    wait_for("n2 knows of it", lambda: owners(cluster, "n2")["g1"] == put_there)
    wait_for("all is served", lambda: served(cluster))
