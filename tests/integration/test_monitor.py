"""`bgf monitor` beside real processes: what it exports is what the rules and dashboards ask for."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgf.lab import namespaces
from bgf.lab.nodes import command
from bgf.lab.plan import MONITOR_PORT
from tests.integration.test_cluster import Cluster, answer, cluster, offer, wait_for
from tests.integration.test_ctl_cli import bgfctl
from tests.unit.test_monitor_metrics import NAME, known, queries

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(300),
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


def commands_of_the_pages(cluster: Cluster) -> None:
    """What the pages tell an operator to type at night, typed."""
    where = ("--run-dir", str(cluster.plan.run_dir))
    wait_for("all is well", lambda: bgfctl("status", *where).code == 0)
    for words in (
        ("status",), ("ready",), ("why", "g1"), ("sessions", "list"), ("sessions", "show", "m"),
        ("state", "members"), ("state", "status"), ("state", "items", "--prefix", "j/g1/"),
        ("state", "reload-keys"), ("state", "metrics", "--node", "n1"), ("reload",),
        ("support-bundle", "--output", str(cluster.plan.run_dir / "bundle.tar.gz")),
    ):  # fmt: skip
        done = bgfctl(*words, *where)
        assert (done.code, done.err) == (0, ""), f"{words}: {done}"
    told = json.loads(bgfctl("why", "g1", "--json", *where).out)
    assert any(event["told_by"] == "n1 gateway" for event in told["events"])


def other_limits_without_a_restart(cluster: Cluster) -> None:
    file = cluster.lab.nodes.config_file(cluster.plan.node("n1"))
    text = file.read_text()
    file.write_text(re.sub(r"(?m)^sessions_max = .*$", "sessions_max = 1", text))
    pids = cluster.pids("n1", "gateway")
    done = bgfctl("reload", "--run-dir", str(cluster.plan.run_dir), "--json")
    (change,) = json.loads(done.out)["changes"]
    assert (change["node"], change["key"]) == ("n1", "control.sessions_max")
    assert (change["new"], change["outcome"]) == (1, "taken up")
    with cluster.client("second") as client:
        assert "limit" in str(client.call(offer("n"))["error-reason"])
        assert client.call({"command": "query", "call-id": "m"})["result"] == "ok"
    file.write_text(re.sub(r"(?m)^sessions_max = .*$", "sessions_max = 0", text))
    done = bgfctl("reload", "--run-dir", str(cluster.plan.run_dir))
    assert done.code == 1 and "sessions_max = 0" in done.err
    file.write_text(text)
    assert bgfctl("reload", "--run-dir", str(cluster.plan.run_dir)).code == 0
    assert cluster.pids("n1", "gateway") == pids


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

    commands_of_the_pages(cluster)
    other_limits_without_a_restart(cluster)

    cluster.kill("n1", "gateway")
    down = ("bgf_process_up", frozenset({("node", "n1"), ("process", "gateway")}))
    wait_for("it is seen", lambda: samples(get(cluster, "n1", "/metrics")).get(down) == 0)
