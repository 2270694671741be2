"""The whole node, three processes of it on three nodes: what an operator's day brings.

Real processes in namespaces, driven by `ng` from the proxy's place. Every test gets a fresh
cluster of two actives and a standby, and leaves nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.admin import AdminClient
from bgf.control.client import NgClient, decode_reply, encode_request
from bgf.lab import namespaces
from bgf.lab.lab import Lab
from bgf.lab.ngload import session_sdp
from bgf.lab.nodes import Timers
from bgf.lab.plan import PORTS
from bgf.lab.rtpload import Expected, Generator, Meter, StreamSpec
from bgf.model import Address

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

WAIT_S = 20.0
LAST_WORDS = 15
CALLER, CALLEE = Address("fd00:a::100", 10_000), Address("10.20.0.100", 10_000)
CONTROL = Address("10.30.0.101", 2223)
FLOWS_PER_CALL = 4


class Cluster:
    """A lab without SIP, and short words for what the tests do with it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.plan = lab.plan

    def ask(self, node: str, process: str, command: str = "status", **more: object) -> Any:
        path = self.plan.run_dir / node / f"{process}.sock"
        return AdminClient(path, 5.0).call(command, **more)

    def client(self, prefix: str = "test") -> NgClient:
        return namespaces.run_in(self.plan.cscf, lambda: NgClient(CONTROL, prefix=prefix))

    def raw(self, datagram: bytes, tries: int = 5, timeout_s: float = 1.0) -> bytes | None:
        """One datagram as it stands, repeated like Kamailio's; the first answer."""
        with namespaces.socket_in(self.plan.cscf, socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.settimeout(timeout_s)
            opened.connect((CONTROL.host, CONTROL.port))
            for _ in range(tries):
                opened.send(datagram)
                try:
                    return opened.recv(65_535)
                except TimeoutError:
                    continue
        return None

    def owner(self, group: str, ask: str) -> str:
        """As `ask` has it from its last look at the registry: '' before it has seen any."""
        return str(self.ask(ask, "failover")["owners"].get(group, {}).get("node", ""))

    def pids(self, node: str, process: str) -> list[int]:
        return [p.pid for p in self.lab.processes.running(node) if p.name == process]

    def kill(self, node: str, process: str) -> None:
        """SIGKILL one process of one node, and wait until it is gone."""
        for pid in self.pids(node, process):
            os.kill(pid, signal.SIGKILL)
        wait_for(f"{process} of {node} is gone", lambda: not self.pids(node, process))

    def start(self, node: str) -> None:
        nodes = [self.plan.node(node)]
        self.lab.nodes.start(nodes)

        def ready() -> bool:
            return not self.lab.nodes.not_ready(nodes)

        wait_for(f"{node} is ready", ready)


_standing: list[Cluster] = []
"""The cluster of the test that runs, for what it says when it waits in vain."""


def wait_for(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() >= deadline:
            said = "\n".join(_last_words(cluster) for cluster in _standing)
            raise AssertionError(f"waited {WAIT_S} s in vain: {what}\n{said}")
        time.sleep(0.02)


def _last_words(cluster: Cluster) -> str:
    """The end of every failover process's log: who decided what, and when."""
    logs = [cluster.lab.processes.log_of("failover", node.id) for node in cluster.plan.nodes]
    return "\n".join(line for log in logs for line in log.read_text().splitlines()[-LAST_WORDS:])


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    run_dir = Path(f"/run/bgf-test-{os.getpid()}")
    # Patient timers: here a stalled machine must not look like a death (the drill has the fast).
    timers = Timers(50, 6, lease_ms=2_000)
    lab = Lab(run_dir, prefix=f"c{os.getpid() % 10_000}-", timers=timers)
    with lab.exclusive():
        try:
            lab.topology.up(lambda _: None)
            lab.start_nodes(lambda _: None)
            _standing.append(Cluster(lab))
            yield _standing[-1]
        finally:
            _standing.clear()
            lab.down(lambda _: None)
    assert not run_dir.exists()


def offer(call_id: str) -> dict[str, Any]:
    return {
        "command": "offer",
        "call-id": call_id,
        "from-tag": "a",
        "sdp": session_sdp(CALLER),
        "direction": ["access", "core"],
        "address-family": "IP4",
    }


def answer(call_id: str) -> dict[str, Any]:
    return {
        "command": "answer",
        "call-id": call_id,
        "from-tag": "a",
        "to-tag": "b",
        "sdp": session_sdp(CALLEE),
    }


def delete(call_id: str) -> dict[str, Any]:
    return {"command": "delete", "call-id": call_id, "from-tag": "a"}


def media_of(sdp: object) -> Address:
    """Connection address and port of the first m-line."""
    host = port = ""
    for line in str(sdp).splitlines():
        if line.startswith("c="):
            host = host or line.split()[-1]
        if line.startswith("m="):
            port = port or line.split()[1]
    return Address.of(host, int(port))


def test_calls_outlive_their_node(cluster: Cluster) -> None:
    """Established, half-open, in flight, deleted: each is on the new owner what it was."""
    with cluster.client() as client:
        assert client.call({"command": "ping"})["result"] == "pong"
        assert client.call(offer("whole"))["result"] == "ok"
        assert client.call(answer("whole"))["result"] == "ok"
        half = client.call(offer("half"))
        assert client.call(offer("gone"))["result"] == "ok"
        assert client.call(delete("gone"))["result"] == "ok"
        in_flight = encode_request("cookie-of-the-dying", offer("in flight"))
        before = cluster.raw(in_flight)
        assert before is not None

        def hot() -> bool:
            return int(cluster.ask("n3", "gateway")["pinholes"]) == 3 * FLOWS_PER_CALL

        wait_for("the standby's packet path holds the pinholes", hot)

        cluster.lab.power_off("n1")
        # As Kamailio would: the same cookie again. The new owner says what the old one said.
        assert cluster.raw(in_flight, tries=20) == before
        wait_for("n3 says that it owns g1", lambda: cluster.owner("g1", ask="n3") == "n3")

        again = client.call(offer("half"))
        assert media_of(again["sdp"]) == media_of(half["sdp"])
        assert client.call(answer("half"))["result"] == "ok"
        assert client.call({"command": "query", "call-id": "whole"})["result"] == "ok"
        assert "not here" in str(client.call(delete("gone")).get("warning"))
        for call_id in ("whole", "half", "in flight"):
            reply = client.call(delete(call_id))
            assert (reply["result"], reply.get("warning")) == ("ok", None)
    wait_for("no pinhole is left", lambda: cluster.ask("n3", "gateway")["pinholes"] == 0)
    assert cluster.ask("n3", "gateway")["groups"]["g1"]["sessions"] == 0


def test_a_killed_gateway_process_costs_no_packet_and_no_call(cluster: Cluster) -> None:
    with cluster.client() as client:
        towards_core = media_of(client.call(offer("call"))["sdp"])
        towards_access = media_of(client.call(answer("call"))["sdp"])
        up = StreamSpec(CALLER, towards_access, 1)
        plan = cluster.plan
        with Meter(plan.core, "core") as meter, Generator(plan.access, "access", [up]) as generator:
            meter.expect([Expected(CALLEE, towards_core, 1)])
            generator.start()

            def packets() -> int:
                return sum(f.packets for f in meter.flows() if f.generated)

            wait_for("media flows", lambda: packets() > 25)
            cluster.kill("n1", "gateway")
            frozen = packets()
            wait_for("media flows without the process", lambda: packets() > frozen + 25)
            cluster.start("n1")
            resumed = packets()
            wait_for("media flows with the new process", lambda: packets() > resumed + 25)
            generator.stop()
            (flow,) = [f for f in meter.flows() if f.generated]
            assert (flow.lost, flow.wrong_source, flow.wrong_destination) == (0, 0, 0)
        wait_for("n1 serves g1", lambda: cluster.owner("g1", ask="n1") == "n1")
        queried = client.call({"command": "query", "call-id": "call"})
        assert int(queried["totals"]["RTP"]["packets"]) >= frozen  # type: ignore[index,call-overload,arg-type]
        assert "warning" not in client.call(delete("call"))


def test_an_isolated_node_steps_down_and_serves_again_as_standby(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert client.call(offer("call"))["result"] == "ok"
        cutter = cluster.lab.cutter("n1")
        cutter.cut(lambda: None)
        wait_for("n3 serves g1", lambda: cluster.owner("g1", ask="n3") == "n3")

        def given_up() -> bool:
            held = cluster.ask("n1", "failover")["groups"]["g1"]
            role = cluster.ask("n1", "gateway")["groups"]["g1"]["role"]
            return bool(held["armed_left_ms"] == 0 and role == "standby")

        wait_for("n1 has disarmed and stepped down", given_up)

        def addresses() -> str:
            return namespaces.run_in(
                cluster.plan.node("n1").namespace,
                lambda: subprocess.run(
                    ["ip", "address"], capture_output=True, text=True, check=True
                ),
            ).stdout

        wait_for(  # at its next turn, and well before their lifetimes end
            "n1 has let its addresses go",
            lambda: not any(host in addresses() for host in ("10.20.0.101", "fd00:a::101")),
        )
        assert client.call(answer("call"))["result"] == "ok"

        cutter.restore()

        def nobody_suspects() -> bool:
            said = [cluster.ask(node, "failover") for node in ("n1", "n2", "n3")]
            return not any(status["suspects"] or status["links_down"] for status in said)

        wait_for("everybody hears everybody again", nobody_suspects)
        wait_for("n1 knows the owner", lambda: cluster.owner("g1", ask="n1") == "n3")

        def stands_by() -> bool:  # its gateway hears of the new owner by itself
            return bool(cluster.ask("n1", "gateway")["groups"]["g1"]["role"] == "standby")

        wait_for("n1 stands by: there is no fail-back", stands_by)

        def takes_part() -> bool:
            """Its segment has been filled anew, and everybody knows that it could take over."""
            views = [cluster.ask(node, "failover")["members"] for node in ("n2", "n3")]
            said = [members["n1"] for members in views]
            heard = all(member["ready"] and member["lease_left_ms"] for member in said)
            # Else it may not: the owner's record says who may (decision 46).
            heard &= all("n1" in members["n3"]["parties"] for members in views)
            return bool(heard and cluster.ask("n1", "gateway")["ready"])

        wait_for("n1 takes part again", takes_part)
        cluster.lab.power_off("n3")
        wait_for(
            "the returned node takes over in its turn", lambda: cluster.owner("g1", "n1") == "n1"
        )
        assert "warning" not in client.call(delete("call"))


def test_a_live_gateway_outlives_what_peers_send(cluster: Cluster) -> None:
    noise = bytes(range(256)) * 255
    bad = {
        "no cookie": b"d7:command4:pinge",
        "noise": b"c1 " + noise,
        "cut off": b"c2 d7:command5:offer7:call-id3:abc",
        "no command": b"c3 d7:call-id3:abce",
        "unknown command": encode_request("c4", {"command": "dance"}),
        "no sdp": encode_request("c5", {"command": "offer", "call-id": "x", "from-tag": "a"}),
        "no media": encode_request("c6", offer("x") | {"sdp": "v=0\r\ns=-\r\nt=0 0\r\n"}),
        "port": encode_request(
            "c7", offer("x") | {"sdp": session_sdp(CALLER).replace("10000", "70000")}
        ),
        "family": encode_request(
            "c8", offer("x") | {"sdp": session_sdp(CALLER).replace("IP6", "IP4")}
        ),
        "not ours to do": encode_request("c9", {"command": "play media", "call-id": "x"}),
    }
    for what, datagram in bad.items():
        reply = cluster.raw(datagram, tries=1, timeout_s=5.0 if what != "no cookie" else 0.5)
        if what == "no cookie":
            assert reply is None
            continue
        assert reply is not None, what
        cookie, body = decode_reply(reply)
        assert cookie.startswith("c") and body["result"] == "error", what
        reason = str(body["error-reason"])
        assert reason and "\n" not in reason, what
    with cluster.client() as client:
        assert client.call({"command": "ping"})["result"] == "pong"
        assert client.call(offer("good"))["result"] == "ok"
    status = cluster.ask("n1", "gateway")
    counts = status["groups"]["g1"]["ng"]
    for code in ("no-cookie", "bad-bencode", "missing-key", "unknown-command", "sdp-no-media",
                 "sdp-port", "sdp-address", "out-of-scope"):  # fmt: skip
        assert counts.get(code, 0) >= 1, (code, counts)
    assert status["groups"]["g1"]["sessions"] == 1


def test_a_full_port_range_is_said_and_survived(cluster: Cluster) -> None:
    low, high = PORTS
    calls = (high - low + 1) // FLOWS_PER_CALL
    with cluster.client() as client:
        replies = client.call_many([offer(f"fill-{n}") for n in range(calls)])
        assert all(reply is not None and reply["result"] == "ok" for reply in replies)
        # Kamailio compares the whole text, to try its next gateway.
        refused = client.call(offer("one too many"))
        assert (refused["result"], refused["error-reason"]) == ("error", "Ran out of ports")
        status = cluster.ask("n1", "gateway")
        assert status["groups"]["g1"]["sessions"] == calls
        assert status["groups"]["g1"]["pairs_free"] == 0
        assert status["groups"]["g1"]["outcomes"]["refused"] == 1
        assert client.call(answer("fill-0"))["result"] == "ok"  # who has ports goes on
        client.call(delete("fill-1"))
        wait_for(  # the pairs of a call that ended rest for a while
            "an ended call's ports serve the next",
            lambda: client.call(offer("one too many, later"))["result"] == "ok",
        )


def test_trace_and_sessions_tell_of_a_call(cluster: Cluster) -> None:
    with cluster.client() as client:
        client.call(offer("call"))
        towards_access = media_of(client.call(answer("call"))["sdp"])
    (row,) = cluster.ask("n1", "gateway", "sessions")["sessions"]
    assert (row["call_id"], row["state"], row["flows"]) == ("call", "established", FLOWS_PER_CALL)
    shown = cluster.ask("n1", "gateway", "session", call_id="call")
    assert {flow["gate"] for flow in shown["flow_list"]} == {"open"}

    def traced(sender: str) -> str:
        said = cluster.ask(
            "n1",
            "gateway",
            "trace",
            **{"from": sender, "to": str(towards_access), "realm": "access"},
        )
        return str(said["outcome"])

    wait_for("the callee's next hop is known", lambda: traced(str(CALLER)) == "forward")
    assert traced("[fd00:a::666]:10000") == "bad-source"


def run_bgf(namespace: str, process: str, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nsenter", f"--net={namespaces.path_of(namespace)}", sys.executable, "-m", "bgf",
         process, "--config", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_cannot_start_says_why_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.plan.node("n3")
    config = cluster.lab.nodes.config_file(node)

    def refused(path: Path, process: str, code: int, *words: str) -> None:
        ended = run_bgf(node.namespace, process, path)
        assert ended.returncode == code, ended.stderr
        lines = ended.stderr.strip().splitlines()
        assert len(lines) == 1, ended.stderr
        assert all(word in lines[0] for word in words), lines[0]

    refused(config, "state", 3, "already runs", "stop it first")
    broken = tmp_path / "broken.toml"
    broken.write_text(config.read_text().replace("control_port = 2223", "control_port = 99999"))
    refused(broken, "gateway", 2, str(broken), "control_port", "99999")
    broken.write_text("[node\nid = 1\n")
    refused(broken, "gateway", 2, str(broken), "line 1")
    taken = tmp_path / "taken.toml"
    taken.write_text(config.read_text().replace(f"{cluster.plan.run_dir}/n3", str(tmp_path / "n9")))
    refused(taken, "gateway", 3, "10.30.0.101:2223", "taken")
