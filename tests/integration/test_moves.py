"""Planned moves on real nodes, under real media, by the commands that an operator types."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest

from bgf.lab.ngload import close_sessions, open_sessions
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from tests.integration.test_cluster import Cluster, cluster, wait_for
from tests.integration.test_ctl_cli import Outcome, bgfctl

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

SESSIONS = 10


def test_a_switchover_and_a_drain_lose_at_most_one_packet_per_flow(cluster: Cluster) -> None:
    plan = cluster.plan

    def ctl(*arguments: str) -> Outcome:
        return bgfctl(*arguments, "--run-dir", str(plan.run_dir))

    def story() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ctl("why", "g1", "--json").out)
        return found

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster.client())
        wait_for("g1 is served", lambda: client.call({"command": "ping"})["result"] == "pong")
        opened = open_sessions(client, SESSIONS, "moved", lambda _: None)
        core = stack.enter_context(Meter(plan.core, "core"))
        access = stack.enter_context(Meter(plan.access, "access"))
        core.expect([Expected(s.callee, s.core, 2 * s.number + 1) for s in opened])
        access.expect([Expected(s.caller, s.access, 2 * s.number + 2) for s in opened])
        up = [StreamSpec(s.caller, s.access, 2 * s.number + 1) for s in opened]
        down = [StreamSpec(s.callee, s.core, 2 * s.number + 2) for s in opened]
        generators = [
            stack.enter_context(Generator(plan.access, "access", up)),
            stack.enter_context(Generator(plan.core, "core", down)),
        ]
        for generator in generators:
            generator.start()

        def heard() -> int:
            return sum(f.packets > 20 for m in (core, access) for f in m.flows() if f.generated)

        wait_for("media flows", lambda: heard() == 2 * SESSIONS)
        first = story()
        assert (first["from"], first["to"], first["reason"]) == ("", "n1", "first bring-up")

        proof = ctl("ready")
        assert proof.code == 0, proof.out
        moved = ctl("switchover", "g1", "--to", "n3")
        assert (moved.code, moved.out.strip()) == (0, "g1: moved from n1 to n3, epoch 2"), moved
        told = story()
        assert (told["from"], told["to"], told["epoch"]) == ("n1", "n3", 2)
        assert told["reason"] == "planned move"
        names = [event["event"] for event in told["events"]]
        assert {"wanted", "offered", "decided", "armed", "announced", "released"} <= set(names)

        again = ctl("switchover", "g1", "--to", "n3")
        assert again.code == 1 and "g1 is n3's already" in again.err
        assert ctl("drain", "n3").code == 0
        assert cluster.owner("g1", "n2") == "n1"  # with no group, it was the standby
        assert ctl("ready", "n3").code == 1
        refused = ctl("switchover", "g2", "--to", "n3")
        assert refused.code == 1 and "it is drained" in refused.out
        assert ctl("undrain", "n3").code == 0
        wait_for("n3 is ready", lambda: ctl("ready", "n3").code == 0)

        for generator in generators:
            generator.stop()
        flows = [flow for meter in (core, access) for flow in meter.flows() if flow.generated]
        assert len(flows) == 2 * SESSIONS
        assert max(flow.lost for flow in flows) <= 2, [flow.lost for flow in flows]  # two moves
        assert not any(flow.wrong_source or flow.wrong_destination for flow in flows)
        assert close_sessions(client, opened) == []
