"""A call commanded over TCP, HTTP and WebSocket outlives the node that its connection led to."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from bgf.control.client import NgClient
from bgf.control.frames import Codec
from bgf.control.links import Transport
from bgf.lab import namespaces
from bgf.lab.plan import CONTROL_HTTP_PORT, CONTROL_PORT
from bgf.model import Address
from tests.integration.test_cluster import (
    CONTROL,
    WAIT_S,
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
    pytest.mark.timeout(180),
]

PORTS = {
    Transport.UDP: CONTROL_PORT,
    Transport.TCP: CONTROL_PORT,
    Transport.HTTP: CONTROL_HTTP_PORT,
    Transport.WEBSOCKET: CONTROL_HTTP_PORT,
}


def client(namespace: str, transport: Transport, codec: Codec, tries: int = 30) -> NgClient:
    """At home in that namespace, as patient as a takeover may take here."""

    def make(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        return namespaces.socket_in(namespace, family, kind)

    address = Address(CONTROL.host, PORTS[transport])
    return NgClient(address, 1.0, tries, transport=transport, codec=codec, make=make)


def test_calls_outlive_the_node_over_every_transport(cluster: Cluster) -> None:
    codecs = dict(
        zip(Transport, (Codec.BENCODE, Codec.JSON, Codec.BENCODE, Codec.JSON), strict=True)
    )
    clients = {
        transport: client(cluster.plan.cscf, transport, codec)
        for transport, codec in codecs.items()
    }
    sdps = {}
    for transport, asking in clients.items():
        offered = asking.call(offer(f"over-{transport}"))
        assert offered["result"] == "ok", offered
        sdps[transport] = offered["sdp"]
    wait_for("somebody says that n1 owns g1", lambda: cluster.owner("g1", ask="n3") == "n1")
    assert cluster.ask("n1", "gateway")["groups"]["g1"]["control"]["connections"] == 3
    cluster.lab.power_off("n1")
    # Half-open calls: the new owner answers on connections made anew, with the ports of before.
    for transport, asking in clients.items():
        answered = asking.call(answer(f"over-{transport}"))
        assert answered["result"] == "ok", (transport, answered)
        again = asking.call({**offer(f"over-{transport}"), "to-tag": "b"})
        assert again["sdp"] == sdps[transport]
        assert asking.call(delete(f"over-{transport}"))["result"] == "ok"
        asking.close()


def test_a_command_that_waits_for_a_takeover_is_answered_on_its_connection(
    cluster: Cluster,
) -> None:
    """The owner's gateway process stops, and does not answer; its node is cut off: what was asked
    of the next owner meanwhile is answered, once, where it was asked."""
    with client(cluster.plan.cscf, Transport.TCP, Codec.BENCODE) as asking:
        assert asking.call(offer("parked"))["result"] == "ok"
        (pid,) = cluster.pids("n1", "gateway")
        os.kill(pid, signal.SIGSTOP)
        cluster.lab.power_off("n1")
        assert asking.call(answer("parked"))["result"] == "ok"
        assert asking.call(delete("parked"))["result"] == "ok"


def test_who_is_no_peer_is_not_heard(cluster: Cluster) -> None:
    """Another machine of the management network than the proxy."""
    assert cluster.ask("n1", "gateway")["groups"]["g1"]["ng"].get("stranger", 0) == 0
    owner = cluster.owner("g1", ask="n3")
    for transport in Transport:
        with client(cluster.plan.registry, transport, Codec.BENCODE, tries=1) as stranger:
            assert stranger.call_many([{"command": "ping"}]) == [None]
    with client(cluster.plan.cscf, Transport.TCP, Codec.BENCODE) as peer:
        assert peer.call({"command": "ping"}) == {"result": "pong"}

    def counted() -> bool:
        counts = cluster.ask(owner or "n1", "gateway")["groups"]["g1"]["ng"]
        return bool(counts.get("stranger") and counts.get("tcp-dropped"))

    wait_for(f"strangers are counted within {WAIT_S} s", counted)
