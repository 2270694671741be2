"""Media as control sees it, on real nodes: latched peers, silence, captures, reconciliation.

Real processes in namespaces, real sockets for the parties. The caller is behind a NAT: it sends
from another port than its description says.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bgf import config
from bgf.ctl import main as bgfctl
from bgf.lab import namespaces, nodes
from bgf.lab.lab import Lab
from bgf.lab.nodes import Timers
from bgf.lab.plan import PORTS, NodePlan, Plan
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from bgf.media.xdp import XdpDatapath
from bgf.model import Address, Component, Flow, FlowKey, Gate, Latch, Policer, Source
from bgf.policy import ANY, RealmPolicy, RtpCheck, StreamRule
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

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

INACTIVITY_MS = 1_000
RATE = Policer(100_000, 20_000)
POLICIES = {
    "access": RealmPolicy(Latch.LATCH, RtpCheck.HEADER, INACTIVITY_MS, {ANY: StreamRule(RATE, 46)}),
    "core": RealmPolicy(rtp_check=RtpCheck.PAYLOAD_TYPES, rules={"audio": StreamRule(dscp=34)}),
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An active and a standby with media policies."""
    made = nodes.node_config

    def with_policies(
        plan: Plan, node: NodePlan, timers: Timers | None = None, *limits: int
    ) -> config.NodeConfig:
        plain = made(plan, node, timers, *limits)
        realms = {
            name: dataclasses.replace(realm, policy=POLICIES.get(name, realm.policy))
            for name, realm in plain.realms.items()
        }
        return dataclasses.replace(plain, realms=realms)

    monkeypatch.setattr(nodes, "node_config", with_policies)
    run_dir = Path(f"/run/bgf-media-{os.getpid()}")
    lab = Lab(
        run_dir,
        prefix=f"m{os.getpid() % 10_000}-",
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


class Party:
    """A UDP socket of a party, which sends RTP."""

    def __init__(self, namespace: str, here: Address) -> None:
        family = socket.AF_INET6 if ":" in here.host else socket.AF_INET
        self.socket = namespaces.socket_in(namespace, family, socket.SOCK_DGRAM)
        self.socket.bind((here.host, here.port))
        self.socket.settimeout(0.05)
        self.sequence = 0

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, to: Address, mark: bytes, kind: int = 0) -> None:
        self.sequence += 1
        rtp = struct.pack(">BBHII", 0x80, kind, self.sequence, 160 * self.sequence, 4711)
        self.socket.sendto(rtp + mark.ljust(160, b"."), (to.host, to.port))

    def hears(self, mark: bytes) -> bool:
        """What has come until now; True when `mark` was among it."""
        found = False
        while True:
            try:
                found |= self.socket.recv(2_048)[12:].startswith(mark)
            except TimeoutError:
                return found


def says(sender: Party, to: Address, receiver: Party, mark: bytes) -> None:
    """Send until it arrives: next hops are resolved by the first packets."""

    def arrives() -> bool:
        sender.send(to, mark)
        return receiver.hears(mark)

    wait_for(f"{mark!r} arrives", arrives)


def serves(cluster: Cluster, node: str) -> bool:
    return bool(cluster.ask(node, "gateway")["groups"]["g1"]["role"] == "active")


def learned(cluster: Cluster, node: str) -> str:
    shown = cluster.ask(node, "gateway", "session", call_id="call")
    (flow,) = (
        flow
        for flow in shown["flow_list"]
        if (flow["realm_in"], flow["component"]) == ("access", "RTP")
    )
    return str(flow["learned"])


def hanging(cluster: Cluster, node: str) -> list[str]:
    rows = cluster.ask(node, "gateway", "sessions", hanging=True)["sessions"]
    return [row["call_id"] for row in rows]


def test_a_learned_peer_outlives_its_node_and_can_be_learned_anew(cluster: Cluster) -> None:
    plan = cluster.plan
    seen_as = Address(CALLER.host, 40_000)
    with (
        cluster.client() as client,
        Party(plan.access, seen_as) as caller,
        Party(plan.access, Address(CALLER.host, 50_000)) as other,
        Party(plan.core, CALLEE) as callee,
    ):
        towards_core = media_of(client.call(offer("call"))["sdp"])
        towards_access = media_of(client.call(answer("call"))["sdp"])
        says(caller, towards_access, callee, b"hello")
        says(callee, towards_core, caller, b"hello back")
        other.send(towards_access, b"intruder")
        assert not callee.hears(b"intruder")
        wait_for("the peer is state", lambda: learned(cluster, "n1") == str(seen_as))

        cluster.lab.power_off("n1")
        wait_for("n2 owns g1", lambda: cluster.owner("g1", ask="n2") == "n2")
        # The callee speaks first, and is heard where the caller was learned by the dead node.
        says(callee, towards_core, caller, b"after the death")
        other.send(towards_access, b"intruder")
        assert not callee.hears(b"intruder")
        wait_for("n2 answers", lambda: serves(cluster, "n2"))
        assert learned(cluster, "n2") == str(seen_as)

        assert cluster.ask("n2", "gateway", "relatch", call_id="call")["flows"] == 2
        says(caller, towards_access, callee, b"as long as nobody else comes")
        says(other, towards_access, callee, b"handed over")
        says(callee, towards_core, other, b"to the new one")
        caller.send(towards_access, b"too late")
        assert not callee.hears(b"too late")
        wait_for(
            "the new peer is state",
            lambda: learned(cluster, "n2") == str(Address(CALLER.host, 50_000)),
        )
        assert "warning" not in client.call(delete("call"))


def test_silence_is_reported_and_the_call_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    plan = cluster.plan
    with (
        cluster.client() as client,
        Party(plan.access, CALLER) as caller,
        Party(plan.core, CALLEE) as callee,
    ):
        towards_core = media_of(client.call(offer("call"))["sdp"])
        towards_access = media_of(client.call(answer("call"))["sdp"])
        wait_for("a call without media hangs", lambda: hanging(cluster, "n1") == ["call"])
        (row,) = cluster.ask("n1", "gateway", "sessions", hanging=True)["sessions"]
        assert row["never_started"] is True and row["silent_s"] >= INACTIVITY_MS / 1_000
        assert cluster.ask("n2", "gateway", "sessions", hanging=True)["sessions"] == []
        says(caller, towards_access, callee, b"hello")
        assert hanging(cluster, "n1") == []
        wait_for("it hangs again", lambda: hanging(cluster, "n1") == ["call"])
        (row,) = cluster.ask("n1", "gateway", "sessions", hanging=True)["sessions"]
        assert row["never_started"] is False
        outcomes = cluster.ask("n1", "gateway")["groups"]["g1"]["outcomes"]
        assert (outcomes["media-never-started"], outcomes["media-stopped"]) == (1, 1)

        # Nobody ends it, and it can be captured.
        file = tmp_path / "call.pcap"
        told: list[int] = []
        arguments = ["capture", "call", "-w", str(file), "--seconds", "20", "--packets", "12",
                     "--run-dir", str(plan.run_dir)]  # fmt: skip
        capturing = threading.Thread(target=lambda: told.append(bgfctl.run(arguments)), daemon=True)
        capturing.start()
        deadline = time.monotonic() + 20
        while capturing.is_alive() and time.monotonic() < deadline:
            caller.send(towards_access, b"captured up")
            callee.send(towards_core, b"captured down")
            time.sleep(0.02)
        capturing.join()
        assert told == [0]
        check_capture(file, towards_access, towards_core)

        def trace(payload: bytes) -> str:
            question: dict[str, Any] = {"from": str(CALLER), "to": str(towards_access)}
            question |= {"realm": "access", "payload": payload.hex()}
            return str(cluster.ask("n1", "gateway", "trace", **question)["outcome"])

        assert trace(b"\x80" + bytes(11)) == "forward"
        assert trace(bytes(12)) == "bad-rtp"
        assert trace(b"\x80" + bytes(1_451)) == "forward"
        shown = cluster.ask("n1", "gateway", "session", call_id="call")
        rtp = {f["realm_in"]: f["rtp"] for f in shown["flow_list"] if f["component"] == "RTP"}
        assert rtp["access"]["packets"] >= 6 and rtp["access"]["ssrc"] == f"{4711:08x}"
        packets = cluster.ask("n1", "gateway")["packets"]["by_realm"]
        assert packets["access"]["forward"] >= 6
        assert "warning" not in client.call(delete("call"))


def check_capture(file: Path, towards_access: Address, towards_core: Address) -> None:
    """Both directions, as they came and as they went, marked as the policies say."""
    from scapy.layers.inet import IP, UDP  # slow to import
    from scapy.layers.inet6 import IPv6
    from scapy.utils import rdpcap

    frames = rdpcap(str(file))
    assert len(frames) == 12
    ways = set()
    for frame in frames:
        ip = frame[IPv6] if IPv6 in frame else frame[IP]
        payload = bytes(frame[UDP].payload)[12:]
        up = payload.startswith(b"captured up")
        assert up or payload.startswith(b"captured down")
        leaving = (ip.src, frame[UDP].sport) in {
            (towards_access.host, towards_access.port), (towards_core.host, towards_core.port)
        }  # fmt: skip
        ways.add((up, leaving))
        if leaving:
            assert (ip.tos if IP in frame else ip.tc) == (34 if up else 46) << 2
        assert abs(float(frame.time) - time.clock_gettime(time.CLOCK_REALTIME)) < 60
    assert ways == {(True, False), (True, True), (False, False), (False, True)}


def test_a_restarted_gateway_says_what_it_found_and_loses_nothing(cluster: Cluster) -> None:
    plan, node = cluster.plan, cluster.plan.node("n1")
    with cluster.client() as client:
        towards_core = media_of(client.call(offer("call"))["sdp"])
        towards_access = media_of(client.call(answer("call"))["sdp"])
        client.call(offer("odd"))
        client.call(answer("odd"))
        odd = cluster.ask("n1", "gateway", "session", call_id="odd")["flow_list"]
        up = StreamSpec(CALLER, towards_access, 1)
        with Meter(plan.core, "core") as meter, Generator(plan.access, "access", [up]) as generator:
            meter.expect([Expected(CALLEE, towards_core, 1)])
            generator.start()

            def packets() -> int:
                return sum(f.packets for f in meter.flows() if f.generated)

            wait_for("media flows", lambda: packets() > 10)
            wait_for("the peer is state", lambda: learned(cluster, "n1") == str(CALLER))
            cluster.kill("n1", "gateway")
            cluster.start("n1")
            found = cluster.ask("n1", "gateway")["reconciled"]
            assert found == "8 pinholes recorded, all as they should be"

            cluster.kill("n1", "gateway")
            namespaces.run_in(node.namespace, lambda: tamper(cluster, odd))
            frozen = packets()
            cluster.start("n1")
            found = cluster.ask("n1", "gateway")["reconciled"]
            assert found == (
                "8 pinholes recorded, 1 missing, 1 with another gate, 1 with another peer,"
                " 1 with another policer, 1 surplus"
            )
            assert cluster.ask("n1", "gateway")["pinholes"] == 8
            wait_for("media flows on", lambda: packets() > frozen + 25)
            generator.stop()
            (flow,) = [f for f in meter.flows() if f.generated]
            assert (flow.lost, flow.wrong_source, flow.wrong_destination) == (0, 0, 0)
        wait_for("n1 answers", lambda: serves(cluster, "n1"))
        assert learned(cluster, "n1") == str(CALLER)
        assert "warning" not in client.call(delete("call"))
        assert "warning" not in client.call(delete("odd"))


def tamper(cluster: Cluster, rows: list[dict[str, Any]]) -> None:
    """Do to the pinholes of one call what must not be."""
    plan = cluster.plan
    made = nodes.node_config(plan, plan.node("n1"))
    local = {(row["realm_in"], row["component"]): Address.parse(row["local_in"]) for row in rows}

    def flow(realm: str, component: Component, **fields: Any) -> Flow:
        latches = realm == "access"
        far, sender, receiver = ("core", CALLER, CALLEE) if latches else ("access", CALLEE, CALLER)
        plain: dict[str, Any] = {
            "remote": Address(receiver.host, receiver.port + int(component is Component.RTCP)),
            "source": Source() if latches else Source(sender.host),
            "gate": Gate.OPEN,
            "latch": Latch.LATCH if latches else Latch.OFF,
            "follows": not latches,
            "policer": RATE if latches else None,
        }
        return Flow(
            "g1", "odd", 0, component,
            realm, local[realm, component.name], far, local[far, component.name],
            **(plain | fields),
        )  # fmt: skip

    with XdpDatapath(
        made.media.pin_dir,
        {realm.name: realm.interface for realm in made.media_realms},
        made.groups,
        discriminator=made.node.discriminator,
        pinholes_max=made.media.pinholes_max,
    ) as datapath:
        gone = local["core", "RTCP"]
        datapath.remove([FlowKey(gone.host, gone.port)])
        closed = flow("access", Component.RTP, gate=Gate.CLOSED)
        unused = Address(closed.local_in.host, PORTS[0] - 2)
        datapath.install(
            [
                closed,
                flow("access", Component.RTCP, policer=Policer(1, 1_500)),
                flow("core", Component.RTP, remote=Address(CALLER.host, 9)),
                msgspec.structs.replace(closed, local_in=unused),
            ]
        )
