"""The state plane under a running cluster: its servers and etcd die, leave, return, are asked.

Real processes in namespaces, as in `test_cluster`, whose cluster and words this file uses.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bgf.admin import AdminRefused, AdminUnreachable
from bgf.ctl import main as ctl
from bgf.lab import namespaces
from bgf.lab.plan import METRICS_PORT
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from tests.integration.test_cluster import (
    CALLEE,
    CALLER,
    Cluster,
    answer,
    cluster,
    delete,
    media_of,
    offer,
    wait_for,
)

__all__ = ["cluster"]  # a fixture

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]


ETCD_STANDS_STILL_S = 0.6  # longer than who comes next waits for who comes first


def state(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a node's state server says; {} while nobody answers."""
    with contextlib.suppress(AdminUnreachable, AdminRefused):
        found: dict[str, Any] = cluster.ask(node, "state")
        return found
    return {}


def ready(cluster: Cluster, *nodes: str) -> bool:
    return all(state(cluster, node).get("ready") for node in nodes)


def members(cluster: Cluster, node: str) -> set[str]:
    return {row["node"] for row in state(cluster, node).get("members", ())}


def test_nothing_is_shared_and_everything_is_copied(cluster: Cluster) -> None:
    """Each node has a segment of its own; a call's journal and flows are in all three."""
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
    nodes = [node.id for node in cluster.plan.nodes]
    for one in cluster.plan.nodes:
        own = cluster.plan.state_dir(one) / "segment"
        for pid in cluster.pids(one.id, "gateway") + cluster.pids(one.id, "state"):
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            opened = {line.split()[-1] for line in maps if line.endswith("/segment")}
            assert opened == {str(own)}
    for node in nodes:
        (journal,) = cluster.ask(node, "state", "items", prefix="j/", limit=10)["items"]
        assert {journal["master"], *journal["replicas"]} == set(nodes)
        flows = cluster.ask(node, "state", "items", prefix="f/", limit=10)["items"]
        assert [row["key"] for row in flows] == ["f/g1/call"]
        assert all(row["length"] for row in [journal, *flows]), "a copy is here"
        marks = cluster.ask(node, "state", "items", prefix="m/", limit=10)["items"]
        assert [row["key"] for row in marks] == ["m/g1/1"]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_media_and_calls_survive_their_state_server(cluster: Cluster, how: str) -> None:
    """It dies, or is stopped for longer than its lease and has been evicted when it wakes up."""
    plan = cluster.plan
    with cluster.client() as client:
        towards_core = media_of(client.call(offer("call"))["sdp"])
        towards_access = media_of(client.call(answer("call"))["sdp"])
        up = StreamSpec(CALLER, towards_access, 1)
        with Meter(plan.core, "core") as meter, Generator(plan.access, "access", [up]) as generator:
            meter.expect([Expected(CALLEE, towards_core, 1)])
            generator.start()

            def packets() -> int:
                return sum(f.packets for f in meter.flows() if f.generated)

            wait_for("media flows", lambda: packets() > 25)
            (pid,) = cluster.pids("n1", "state")
            if how == "killed":
                cluster.kill("n1", "state")
            else:
                os.kill(pid, signal.SIGSTOP)
            wait_for("the others go on without n1", lambda: members(cluster, "n2") == {"n2", "n3"})

            def idle() -> bool:
                return bool(cluster.ask("n1", "gateway")["groups"]["g1"]["role"] != "active")

            wait_for("n1 answers nobody", idle)
            if how == "stopped":
                os.kill(pid, signal.SIGCONT)
            cluster.start("n1")  # only what is not there
            wait_for("n1 is a member again", lambda: ready(cluster, "n1", "n2", "n3"))
            # A command that waited is answered now; the call is what it was.
            queried = client.call({"command": "query", "call-id": "call"})
            assert queried["result"] == "ok"
            generator.stop()
            (flow,) = [f for f in meter.flows() if f.generated]
            assert (flow.lost, flow.wrong_source, flow.wrong_destination) == (0, 0, 0)
        assert cluster.owner("g1", ask="n1") == "n1"
        assert "warning" not in client.call(delete("call"))
    wait_for("no pinhole is left", lambda: cluster.ask("n3", "gateway")["pinholes"] == 0)


def test_any_one_etcd_member_may_die(cluster: Cluster) -> None:
    lab = cluster.lab
    leader = namespaces.run_in(
        lab.plan.registry, lambda: next(m.name for m in lab.registry.members if m.leads())
    )
    (process,) = [p for p in lab.processes.running() if p.name == leader]
    with cluster.client() as client:
        assert client.call(offer("before"))["result"] == "ok"
        os.kill(process.pid, signal.SIGKILL)
        assert client.call(offer("after"))["result"] == "ok"
        assert client.call(delete("before"))["result"] == "ok"
        cluster.lab.power_off("n1")
        wait_for("n3 owns g1", lambda: cluster.owner("g1", ask="n3") == "n3")
        assert "warning" not in client.call(delete("after"))
    assert sum(lab.registry.healthy().values()) == 2


def test_the_standby_takes_over_though_etcd_stood_still_meanwhile(cluster: Cluster) -> None:
    """The actives, next in line, find that nothing was claimed: by them neither (decision 57)."""
    registry = cluster.lab.registry
    etcd = [p for p in cluster.lab.processes.running() if p.name in registry.names]
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
        cluster.lab.power_off("n1")
        for process in etcd:
            os.kill(process.pid, signal.SIGSTOP)
        time.sleep(ETCD_STANDS_STILL_S)
        for process in etcd:
            os.kill(process.pid, signal.SIGCONT)
        wait_for("n3 owns g1", lambda: cluster.owner("g1", ask="n3") == "n3")
        assert cluster.owner("g2", ask="n3") == "n2"
        assert "warning" not in client.call(delete("call"))


def test_without_etcd_all_stops_at_the_lease_and_goes_on_afterwards(cluster: Cluster) -> None:
    lab = cluster.lab
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
        etcd = [p for p in lab.processes.running() if p.name in lab.registry.names]
        for process in etcd:
            os.kill(process.pid, signal.SIGSTOP)
        wait_for("nobody serves", lambda: not any(ready(cluster, n) for n in ("n1", "n2", "n3")))
        assert "no answer from etcd at http://" in state(cluster, "n1")["why"]
        for process in etcd:
            os.kill(process.pid, signal.SIGCONT)
        wait_for("all serve", lambda: ready(cluster, "n1", "n2", "n3"))

        def served() -> bool:
            return bool(cluster.ask("n1", "gateway")["groups"]["g1"]["role"] == "active")

        wait_for("n1 serves g1", served)
        assert "warning" not in client.call(delete("call"))


def test_a_state_server_that_is_told_to_stop_hands_its_masters_over(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
    (pid,) = cluster.pids("n1", "state")
    os.kill(pid, signal.SIGTERM)
    wait_for("it has ended", lambda: not cluster.pids("n1", "state"))
    log = cluster.lab.processes.log_of("state", "n1").read_text()
    assert "has left in good order" in log and "without order" not in log
    wait_for("the view is without it", lambda: members(cluster, "n2") == {"n2", "n3"})
    (journal,) = cluster.ask("n2", "state", "items", prefix="j/", limit=10)["items"]
    assert journal["master"] in ("n2", "n3")
    assert state(cluster, "n2")["member"]["counters"]["lost"] == 0


def test_an_operator_moves_an_item_and_reads_the_figures(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--run-dir", str(cluster.plan.run_dir))
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
        assert ctl.run(["state", "move", "j/g1/call", "--to", "n2", *where]) == 0
        (journal,) = cluster.ask("n3", "state", "items", prefix="j/", limit=10)["items"]
        assert journal["master"] == "n2"
        assert client.call(answer("call"))["result"] == "ok"  # written through n2
        assert ctl.run(["state", "move", "j/g1/nobody", "--to", "n2", *where]) == 1
        assert ctl.run(["state", "move", "j/g1/call", "--to", "n7", *where]) == 1
        assert "n7" in capsys.readouterr().err
        assert ctl.run(["state", "members", *where]) == 0
        assert ctl.run(["state", "status", *where]) == 0
        assert ctl.run(["state", "reload-keys", *where]) == 0
        capsys.readouterr()
        assert ctl.run(["state", "items", "--prefix", "f/", *where]) == 0
        assert "f/g1/call" in capsys.readouterr().out
    host = cluster.plan.node("n1").paths["mgmt"]

    def scraped() -> bytes:
        with urllib.request.urlopen(f"http://{host}:{METRICS_PORT}/metrics", timeout=10) as reply:
            found: bytes = reply.read()
            return found

    figures = namespaces.run_in(cluster.plan.cscf, scraped)
    assert b'dal_view_epoch{node="n1"}' in figures
    assert b"dal_operation_seconds_bucket{le=" in figures


def test_a_key_is_rotated_without_a_pause(cluster: Cluster) -> None:
    key_file = cluster.plan.key_file
    (old,) = key_file.read_text().split("\n")[:1]
    new = f"2 {'5a' * 32}"

    def told(*lines: str) -> None:
        key_file.write_text("".join(f"{line}\n" for line in lines))
        for node in cluster.plan.nodes:
            for process in ("state", "gateway"):
                cluster.ask(node.id, process, "reload-keys")

    with cluster.client() as client:
        assert client.call(offer("one"))["result"] == "ok"
        told(old, new)  # add
        assert client.call(offer("two"))["result"] == "ok"
        told(new, old)  # promote
        assert client.call(offer("three"))["result"] == "ok"
        told(new)  # remove
        assert client.call(offer("four"))["result"] == "ok"
    assert ready(cluster, "n1", "n2", "n3")
    with pytest.raises(AdminRefused, match=r"cluster\.key"):
        key_file.chmod(0o644)
        cluster.ask("n1", "state", "reload-keys")
