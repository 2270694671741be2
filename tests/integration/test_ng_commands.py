"""Commands beside offer and answer, on real nodes: media really stops, is really copied, and all of
it goes on when the node dies. Real processes in namespaces, real sockets for the parties.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf import config
from bgf.ctl import main as bgfctl
from bgf.lab import nodes
from bgf.lab.lab import Lab
from bgf.lab.nodes import Timers
from bgf.lab.plan import NodePlan, Plan
from bgf.model import Address
from tests.integration.test_cluster import (
    CALLEE,
    CALLER,
    Cluster,
    answer,
    delete,
    media_of,
    offer,
    wait_for,
)
from tests.integration.test_media_plane import Party, says, serves

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(240),
]

TONES = 101
RECORDER = Address("10.20.0.100", 20_000)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """An active and a standby, with a recorder and a directory of its own for each."""
    made = nodes.node_config

    def recording(
        plan: Plan, node: NodePlan, timers: Timers | None = None, *limits: int
    ) -> config.NodeConfig:
        plain = made(plan, node, timers, *limits)
        section = config.RecordingSection(
            tmp_path / node.id, recorder=RECORDER, recorder_realm="core"
        )
        return dataclasses.replace(plain, recording=section)

    monkeypatch.setattr(nodes, "node_config", recording)
    run_dir = Path(f"/run/bgf-orders-{os.getpid()}")
    lab = Lab(
        run_dir,
        prefix=f"o{os.getpid() % 10_000}-",
        actives=1,
        standbys=1,
        timers=Timers(50, 6, lease_ms=2_000),
    )
    with lab.exclusive():
        try:
            lab.topology.up(lambda _: None)
            lab.start_nodes(lambda _: None)
            yield Cluster(lab)
        finally:
            lab.down(lambda _: None)
    assert not run_dir.exists()


def recorded(directory: Path) -> set[bytes]:
    """The marks of the packets in a node's files, read by somebody else's reader."""
    from scapy.layers.inet import UDP  # slow to import
    from scapy.utils import rdpcap

    return {
        bytes(frame[UDP].payload)[12:].rstrip(b".")
        for path in directory.glob("*.pcap")
        for frame in rdpcap(str(path))
    }


def test_orders_take_hold_of_media_and_outlive_their_node(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = cluster.plan
    with (
        cluster.client() as client,
        Party(plan.access, CALLER) as caller,
        Party(plan.core, CALLEE) as callee,
        Party(plan.core, RECORDER) as recorder,
    ):

        def order(command: str, **more: Any) -> dict[str, Any]:
            reply = client.call({"command": command, "call-id": "call", **more})
            assert reply["result"] == "ok", reply
            return reply

        def with_tones(request: dict[str, Any]) -> dict[str, Any]:
            sdp = str(request["sdp"]).replace("RTP/AVP ", f"RTP/AVP {TONES} ")
            return request | {"sdp": f"{sdp}a=rtpmap:{TONES} telephone-event/8000\r\n"}

        def silent(mark: bytes) -> bool:
            caller.send(towards_access, mark)
            return not callee.hears(mark)

        towards_core = media_of(client.call(with_tones(offer("call")))["sdp"])
        towards_access = media_of(client.call(with_tones(answer("call")))["sdp"])
        says(caller, towards_access, callee, b"hello")
        says(callee, towards_core, caller, b"hello back")

        order("block media", **{"from-tag": "a"})
        assert silent(b"blocked")
        says(callee, towards_core, caller, b"the other way")
        order("unblock media", **{"from-tag": "a"})
        says(caller, towards_access, callee, b"unblocked")

        order("silence media", **{"from-tag": "a"})
        assert silent(b"silenced")
        order("unsilence media", **{"from-tag": "a"})
        order("block DTMF", **{"from-tag": "a"})
        caller.send(towards_access, b"a tone", TONES)
        says(caller, towards_access, callee, b"speech beside tones")
        assert not callee.hears(b"a tone")
        order("unblock DTMF", **{"from-tag": "a"})
        caller.send(towards_access, b"another tone", TONES)
        wait_for("tones pass again", lambda: callee.hears(b"another tone"))

        order("start recording")
        order("start forwarding", **{"from-tag": "a"})

        def copied(mark: bytes) -> bool:
            caller.send(towards_access, mark)
            callee.send(towards_core, b"down")
            return recorder.hears(mark)

        wait_for("the recorder hears the caller", lambda: copied(b"copied"))
        assert not recorder.hears(b"down")
        order("block media", **{"from-tag": "b"})
        assert bgfctl.run(["sessions", "show", "call", "--run-dir", str(plan.run_dir)]) == 0
        said = capsys.readouterr().out
        assert all(word in said for word in ("blocked from b", "recorded", "forwarded from a"))

        told: Any = order("query")
        assert set(told["tags"]) == {"a", "b"}
        assert told["totals"]["RTP"]["packets"] >= 4
        stream = told["tags"]["a"]["medias"][0]["streams"][0]
        assert stream["local port"] == towards_access.port and stream["stats"]["packets"] >= 3
        assert stream["SSRC"] == 4711 and str(4711) in told["SSRC"]
        assert client.call({"command": "list"})["calls"] == ["call"]

        cluster.lab.power_off("n1")
        wait_for("n2 answers", lambda: serves(cluster, "n2"))
        wait_for("copied by the new owner", lambda: copied(b"after the death"))
        callee.send(towards_core, b"still blocked")
        assert not caller.hears(b"still blocked")

        statistics: Any = client.call({"command": "statistics"})["statistics"]
        assert statistics["currentstatistics"]["sessionsown"] == 1
        assert statistics["controlstatistics"]["totalerrorcount"] == 0
        assert statistics["totalstatistics"]["relayedpackets"] > 0

        end: Any = client.call(delete("call"))
        assert "warning" not in end and end["totals"]["RTP"]["packets"] > 0
        wait_for("the file is closed", lambda: b"after the death" in recorded(tmp_path / "n2"))
        wait_for(
            "nothing is copied any more",
            lambda: cluster.ask("n2", "gateway")["copies"]["calls"] == 0,
        )
        refused = client.call({"command": "play media", "call-id": "call"})
        assert "border gateway" in str(refused["error-reason"])
    assert b"copied" in recorded(tmp_path / "n1")
    assert b"blocked" not in recorded(tmp_path / "n1")
