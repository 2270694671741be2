"""ICE-lite through the death of the gateway that had begun it: the peer's checks are answered
before and after with the same credentials, its choice of a candidate holds, media goes on.

The peer is aioice's STUN over plain sockets: it has described one port and chosen another, so
that what it hears after the takeover says whether the choice was remembered.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aioice import stun

from bgf.lab import namespaces
from bgf.lab.plan import ACCESS_HOST6, CORE_HOST4
from bgf.model import Address
from tests.integration.test_cluster import (
    Cluster,
    cluster,
    delete,
    media_of,
    wait_for,
)

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]

DESCRIBED, CHOSEN, CALLEE = 4_000, 4_010, 5_000
UFRAG, PWD = "peer", "p" * 24
ICE_LINES = (
    f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PWD}\r\na=rtcp-mux\r\n"
    f"a=candidate:1 1 UDP 2130706431 {ACCESS_HOST6} {DESCRIBED} typ host\r\n"
)
ANSWER_WAIT_S = 0.2


def described(host: str, port: int, more: str = "") -> str:
    kind = "IP6" if ":" in host else "IP4"
    return (
        f"v=0\r\no=u 1 1 IN {kind} {host}\r\ns=-\r\nc=IN {kind} {host}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\n{more}"
    )


OFFER: dict[str, Any] = {
    "command": "offer",
    "call-id": "ice",
    "from-tag": "a",
    "sdp": described(ACCESS_HOST6, DESCRIBED, ICE_LINES),
    "direction": ["access", "core"],
    "address-family": "IP4",
    "ICE": "remove",
}
ANSWER: dict[str, Any] = {
    "command": "answer",
    "call-id": "ice",
    "from-tag": "a",
    "to-tag": "b",
    "sdp": described(CORE_HOST4, CALLEE),
    "ICE": "force",
}


class Peer:
    """An ICE agent of one candidate pair, and the callee that speaks plain RTP."""

    def __init__(self, wire: socket.socket, callee: socket.socket, answered: str) -> None:
        self.wire, self.callee = wire, callee
        self.ufrag, self.pwd = credentials(answered)
        self.at = media_of(answered)
        self.core = Address("192.0.2.1", 9)
        self.sent = 0

    def check(self, pwd: str = "", use: bool = False) -> stun.Message | None:
        """The answer to one check, if it comes at once; RTP on the way is passed over."""
        asked = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        asked.attributes["USERNAME"] = f"{self.ufrag}:{UFRAG}"
        asked.attributes["PRIORITY"] = 1_853_824_767
        asked.attributes["ICE-CONTROLLING"] = 7
        if use:
            asked.attributes["USE-CANDIDATE"] = None
        asked.add_message_integrity((pwd or self.pwd).encode())
        self.wire.sendto(bytes(asked), (self.at.host, self.at.port))
        until = time.monotonic() + ANSWER_WAIT_S
        self.wire.settimeout(ANSWER_WAIT_S)
        while time.monotonic() < until:
            try:
                reply, sender = self.wire.recvfrom(2_000)
            except TimeoutError:
                return None
            if reply[0] & 0xC0:
                continue
            read = stun.parse_message(reply)
            if read.transaction_id != asked.transaction_id:
                continue  # of a check before
            assert Address(*sender[:2]) == self.at
            assert read.check_message_integrity(self.pwd.encode())
            return read
        return None

    def succeeds(self, use: bool = False) -> bool:
        reply = self.check(use=use)
        if reply is None:
            return False
        assert reply.message_class is stun.Class.RESPONSE
        assert tuple(reply.attributes["XOR-MAPPED-ADDRESS"]) == (ACCESS_HOST6, CHOSEN)
        return True

    def heard_by_callee(self) -> bool:
        return self._heard(self.wire, self.at, self.callee)

    def heard_by_peer(self) -> bool:
        return self._heard(self.callee, self.core, self.wire)

    def _heard(self, sender: socket.socket, to: Address, receiver: socket.socket) -> bool:
        """Does this very packet come through?"""
        self.sent += 1
        packet = b"\x80\x00" + self.sent.to_bytes(2) + bytes(8) + b"%d" % self.sent
        sender.sendto(packet, (to.host, to.port))
        receiver.settimeout(ANSWER_WAIT_S)
        until = time.monotonic() + ANSWER_WAIT_S
        while time.monotonic() < until:
            try:
                if receiver.recv(2_000) == packet:
                    return True
            except TimeoutError:
                return False
        return False


def credentials(sdp: str) -> tuple[str, str]:
    found = [re.search(rf"a=ice-{what}:(\S+)", sdp) for what in ("ufrag", "pwd")]
    assert all(found), sdp
    return tuple(one[1] for one in found if one)  # type: ignore[return-value]


def test_checks_are_answered_across_a_takeover(cluster: Cluster) -> None:
    plan = cluster.plan
    wire = namespaces.socket_in(plan.access, socket.AF_INET6, socket.SOCK_DGRAM)
    callee = namespaces.socket_in(plan.core, socket.AF_INET, socket.SOCK_DGRAM)
    with wire, callee, cluster.client() as client:
        wire.bind((ACCESS_HOST6, CHOSEN))
        callee.bind((CORE_HOST4, CALLEE))
        offered = client.call(OFFER)
        answered = client.call(ANSWER)
        assert "ice-ufrag" not in str(offered["sdp"]) and "a=ice-lite" in str(answered["sdp"])
        peer = Peer(wire, callee, str(answered["sdp"]))
        peer.core = media_of(offered["sdp"])

        wait_for("the owner answers checks", lambda: peer.succeeds(use=True))
        wait_for("the callee hears the chosen port", peer.heard_by_callee)
        wait_for("the chosen port hears the callee", peer.heard_by_peer)
        assert peer.check(pwd="x" * 24) is None

        def known(node: str) -> Callable[[], bool]:
            def chosen() -> bool:
                flows = cluster.ask(node, "gateway", "session", call_id="ice")["flow_list"]
                return f"[{ACCESS_HOST6}]:{CHOSEN}" in str(flows)

            return chosen

        wait_for("the owner has written the choice down", known("n1"))
        cluster.lab.power_off("n1")
        wait_for("the new owner answers checks", peer.succeeds)
        wait_for("the callee hears the chosen port again", peer.heard_by_callee)
        wait_for("the chosen port hears the callee again", peer.heard_by_peer)
        assert peer.check(pwd="x" * 24) is None

        wait_for("n3 owns the group", lambda: cluster.owner("g1", ask="n3") == "n3")
        again = client.call(OFFER | {"to-tag": "b"})
        assert again["result"] == "ok" and media_of(again["sdp"]) == peer.core
        once_more = client.call(ANSWER)
        assert credentials(str(once_more["sdp"])) == (peer.ufrag, peer.pwd)
        assert media_of(once_more["sdp"]) == peer.at
        wait_for("checks are answered as before", peer.succeeds)
        wait_for("the callee hears all the same", peer.heard_by_callee)
        wait_for("the peer hears all the same", peer.heard_by_peer)
        counts = cluster.ask("n3", "gateway")["ice"]
        assert counts["answered"] >= 2 and counts["bad-integrity"] >= 1
        assert "warning" not in client.call(delete("ice"))
        wait_for("no pinhole is left", lambda: cluster.ask("n3", "gateway")["pinholes"] == 0)
        assert peer.check() is None
