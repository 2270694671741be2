"""How the other processes of this node are, and whom its state server still counts as a member.

Knows: admin sockets of this node. Asks from a thread of its own, now and then: what it finds names
the reason of a failure, and no takeover ever waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from bgf.admin import AdminClient, Json
from bgf.config import NodeConfig
from bgf.errors import BgfError

ASK_S: Final = 1.0
TIMEOUT_S: Final = 1.0


class Witness:
    """`health()` and `control()` are what was heard last; `start` begins asking."""

    def __init__(self, node: NodeConfig, gateway_lives: Callable[[], bool]) -> None:
        self._client = AdminClient(node.node.socket("state"), TIMEOUT_S)
        self._gateway_lives = gateway_lives
        self._peers = tuple(peer.id for peer in node.failover.peers)
        self._clustered = node.state.cluster is not None
        self._state_trouble = ""
        self._control: Mapping[str, bool] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * TIMEOUT_S)

    def health(self) -> dict[str, str]:
        """Process -> what is wrong with it; a process that is well is not named."""
        found = {}
        if not self._gateway_lives():
            found["gateway"] = "it does not follow the change feed, or is dead"
        if self._state_trouble:
            found["state"] = self._state_trouble
        return found

    def control(self) -> Mapping[str, bool]:
        """Peer -> does this node's state server count it as a member? Empty: it cannot say."""
        return self._control

    def _run(self) -> None:
        while not self._stop.wait(ASK_S):
            self.ask()

    def ask(self) -> None:
        """Once. Never raises: whom nobody answers is unwell."""
        try:
            answer = self._client.call("status")
        except BgfError:
            self._state_trouble, self._control = "it does not answer", {}
            return
        ready = answer.get("ready") is True
        self._state_trouble = "" if ready else "it does not serve"
        self._control = _members(answer, self._peers) if ready and self._clustered else {}


def _members(answer: Json, peers: tuple[str, ...]) -> dict[str, bool]:
    rows = answer.get("members")
    if not isinstance(rows, list):
        return {}
    seen = {row.get("node") for row in rows if isinstance(row, dict)}
    return {peer: peer in seen for peer in peers}
