"""The whole cluster restarted by one command, node by node, under live calls and media."""

from __future__ import annotations

import contextlib
import os

import pytest

from bgf.lab.ngload import close_sessions, open_sessions
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from tests.integration.test_cluster import Cluster, cluster, wait_for
from tests.integration.test_ctl_cli import bgfctl

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(240),
]

SESSIONS = 10


def test_a_rolling_upgrade_drops_no_call(cluster: Cluster) -> None:
    plan = cluster.plan
    before = {p.pid for p in cluster.lab.processes.running() if p.node}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster.client())
        wait_for("g1 is served", lambda: client.call({"command": "ping"})["result"] == "pong")
        opened = open_sessions(client, SESSIONS, "up", lambda _: None)
        core = stack.enter_context(Meter(plan.core, "core"))
        core.expect([Expected(s.callee, s.core, s.number + 1) for s in opened])
        up = [StreamSpec(s.caller, s.access, s.number + 1) for s in opened]
        generator = stack.enter_context(Generator(plan.access, "access", up))
        generator.start()

        def heard() -> int:
            return sum(f.packets > 20 for f in core.flows() if f.generated)

        wait_for("media flows", lambda: heard() == SESSIONS)
        done = bgfctl("upgrade", "--run-dir", str(plan.run_dir))
        assert done.code == 0, done.err
        assert done.out.strip() == "upgraded, in this order: n3, n1, n2", done.out
        generator.stop()
        flows = [flow for flow in core.flows() if flow.generated]
        # g1 moved once: at most one packet of a flow is lost on the way.
        assert len(flows) == SESSIONS and max(f.lost for f in flows) <= 1, [f.lost for f in flows]
        for session in opened:
            reply = client.call({"command": "query", "call-id": session.call_id})
            assert reply["result"] == "ok", (session.call_id, reply)
        assert close_sessions(client, opened) == []
    after = {p.pid for p in cluster.lab.processes.running() if p.node}
    assert not before & after  # all of them are new
    assert bgfctl("ready", "--run-dir", str(plan.run_dir)).code == 0
    assert not (plan.run_dir / "upgrade.json").exists()
