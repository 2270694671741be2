"""`bgf monitor` beside real processes: what it exports is what the rules and dashboards ask for."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgf.lab import namespaces
from bgf.lab.nodes import command
from bgf.lab.plan import MONITOR_PORT
from tests.integration.test_cluster import Cluster, answer, cluster, offer, wait_for
from tests.unit.test_monitor_metrics import NAME, known, queries

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

NEEDS_AN_EVENT = {
    *("bgf_calls_refused_total", "bgf_media_silences_total", "bgf_ice_checks_total"),
    *("bgf_media_reports_total", "bgf_node_condition", "bgf_takeover_restored_seconds"),
    *("dal_operation_seconds_bucket", "bgf_rtp_mos"),
}
"""What is not there before it has happened once."""


def get(cluster: Cluster, node: str, path: str) -> str:
    """From the proxy's place on the management network; '' while nobody answers."""
    url = f"http://{cluster.plan.node(node).paths['mgmt']}:{MONITOR_PORT}{path}"

    def asked() -> str:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return str(reply.read().decode())
        except urllib.error.URLError:
            return ""

    return namespaces.run_in(cluster.plan.cscf, asked)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one_call(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert client.call(offer("m"))["result"] == "ok"
        assert client.call(answer("m"))["result"] == "ok"


def test_what_is_exported_is_what_is_asked_for(cluster: Cluster) -> None:
    for name in ("n1", "n2"):
        node = cluster.plan.node(name)
        argv = command("monitor", cluster.lab.nodes.config_file(node))
        cluster.lab.processes.start("monitor", node.namespace, argv, node=name)
    wait_for(
        "both monitors answer", lambda: all(get(cluster, n, "/icon.svg") for n in ("n1", "n2"))
    )
    wait_for("n1 serves g1", lambda: cluster.owner("g1", "n1") == "n1")
    one_call(cluster)

    scraped = samples(get(cluster, "n1", "/metrics"))
    names, synthetic = {name for name, _ in scraped}, known()
    assert not names - synthetic.keys(), "the fake answers lack what the real ones have"
    for name, labels in scraped:
        assert {label for label, _ in labels} == synthetic[name].keys(), name
    asked = {name for _, query in queries() for name in NAME.findall(query)}
    assert asked - names <= NEEDS_AN_EVENT
    assert scraped["bgf_calls", frozenset({("node", "n1"), ("group", "g1")})] == 1
    assert scraped["bgf_group_owned", frozenset({("node", "n1"), ("group", "g1")})] == 1

    page = json.loads(get(cluster, "n1", "/cluster.json"))
    assert [node["node"] for node in page["nodes"]] == ["10.30.0.13:9401", "n1", "n2"]
    (group,) = [one for one in page["groups"] if one["group"] == "g1"]
    assert (group["owner"], group["calls"]) == ("n1", 1)
    assert any("its monitor at 10.30.0.13:9401" in line for line in page["problems"])

    cluster.kill("n1", "gateway")
    down = ("bgf_process_up", frozenset({("node", "n1"), ("process", "gateway")}))
    wait_for("it is seen", lambda: samples(get(cluster, "n1", "/metrics")).get(down) == 0)
