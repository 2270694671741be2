"""Nodes of one host over one embedded segment, without etcd and network: as decision 4 has it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf import config
from bgf.lab import nodes
from bgf.lab.lab import Lab
from bgf.lab.nodes import Timers
from bgf.lab.plan import NodePlan, Plan
from tests.integration.test_cluster import Cluster, answer, delete, media_of, offer, wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An active and a standby, one segment."""
    made = nodes.node_config

    def embedded(
        plan: Plan, node: NodePlan, timers: Timers | None = None, *limits: int
    ) -> config.NodeConfig:
        shared = config.StateSection(f"dal://{plan.state_dir(plan.node('n2'))}", 64)
        return dataclasses.replace(made(plan, node, timers, *limits), state=shared)

    monkeypatch.setattr(nodes, "node_config", embedded)
    run_dir = Path(f"/run/bgf-host-{os.getpid()}")
    timers = Timers(50, 6, lease_ms=2_000)
    prefix = f"h{os.getpid() % 10_000}-"
    lab = Lab(run_dir, prefix=prefix, actives=1, standbys=1, timers=timers)
    with lab.exclusive():
        try:
            lab.topology.up(lambda _: None)
            lab.nodes.start_and_wait(lambda _: None)
            yield Cluster(lab)
        finally:
            lab.down(lambda _: None)
    assert not run_dir.exists()


def test_a_call_outlives_its_node_on_one_host(host: Cluster) -> None:
    with host.client() as client:
        half = client.call(offer("call"))
        said = {node: host.ask(node, "state") for node in ("n1", "n2")}
        assert {status["mode"] for status in said.values()} == {"embedded"}
        assert [status["keeper"] for status in said.values()].count(True) == 1
        items = host.ask("n1", "state", "items", prefix="j/", limit=10)["items"]
        assert [(row["key"], row["master"], row["replicas"]) for row in items] == [
            ("j/g1/call", "", [])
        ]
        host.lab.power_off("n1")
        wait_for("n2 owns g1", lambda: host.owner("g1", ask="n2") == "n2")
        assert media_of(client.call(offer("call"))["sdp"]) == media_of(half["sdp"])
        assert client.call(answer("call"))["result"] == "ok"
        assert "warning" not in client.call(delete("call"))
    wait_for("one keeps house", lambda: bool(host.ask("n2", "state")["keeper"]))
