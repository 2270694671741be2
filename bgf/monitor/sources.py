"""Asks the processes of nodes, each at most once a second, however many look.

Knows: admin sockets, which command gives which process's figures, other nodes' monitors. Must not
know what an answer says.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import urllib3

from bgf.admin import AdminClient, Json
from bgf.ctl.client import Answer, Node
from bgf.errors import BgfError

FRESH_MS: Final = 900
"""An answer so young is given again: Prometheus and ten pages cost what one of them does."""
TIMEOUT_S: Final = 2.0
REMOTE_TIMEOUT_S: Final = 1.5
REMOTE_BYTES_MAX: Final = 8 << 20
COMMANDS: Final = {"state": ("status", "metrics"), "gateway": ("figures",), "failover": ("status",)}
TIMELINE: Final = "timeline"


class Asked:
    """What one node's processes said at one moment."""

    def __init__(self, answers: Sequence[Answer], spent_s: Mapping[str, float]) -> None:
        self.answers = tuple(answers)
        self.spent_s = dict(spent_s)

    @property
    def values(self) -> dict[str, Json | None]:
        return {answer.process: answer.value for answer in self.answers}


class Local:
    """A node whose admin sockets are here."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._kept: tuple[float, Asked] | None = None
        self._lock = asyncio.Lock()

    async def ask(self) -> Asked:
        """Never raises: who does not answer has an Answer that says why."""
        async with self._lock:
            now_s = time.monotonic()
            if self._kept is None or now_s - self._kept[0] > FRESH_MS / 1000:
                found = await asyncio.gather(
                    *(asyncio.to_thread(self._one, process) for process in COMMANDS)
                )
                asked = Asked([one for one, _ in found], {one.process: s for one, s in found})
                self._kept = (time.monotonic(), asked)
            return self._kept[1]

    def _one(self, process: str) -> tuple[Answer, float]:
        client = AdminClient(self.node.run_dir / f"{process}.sock", TIMEOUT_S)
        began_s = time.monotonic()
        try:
            value = client.call(COMMANDS[process][0])
            spent_s = time.monotonic() - began_s
            for command in COMMANDS[process][1:]:
                value = value | {command: client.call(command).get("text", "")}
        except BgfError as problem:
            answer = Answer(self.node.id, process, None, str(problem), problem.code)
            return answer, time.monotonic() - began_s
        return Answer(self.node.id, process, value), spent_s

    async def timeline(self) -> list[Json]:
        """What its failover process saw and did lately; nothing when it does not answer."""

        def asked() -> list[Json]:
            client = AdminClient(self.node.run_dir / "failover.sock", TIMEOUT_S)
            try:
                return list(client.call(TIMELINE).get("events", ()))
            except BgfError:
                return []

        return await asyncio.to_thread(asked)


class Remote:
    """Another node's monitor, `HOST:PORT`. What it said last says who it is."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.known: tuple[str, ...] = ()
        self._pool = urllib3.PoolManager(
            1, timeout=urllib3.Timeout(total=REMOTE_TIMEOUT_S), retries=False
        )
        self._kept: tuple[float, Json] | None = None
        self._lock = asyncio.Lock()

    async def ask(self) -> Json:
        """Its `node.json`; `{}` when it does not answer."""
        async with self._lock:
            now_s = time.monotonic()
            if self._kept is None or now_s - self._kept[0] > FRESH_MS / 1000:
                said = await asyncio.to_thread(self._fetch)
                self.known = tuple(sorted(said.get("nodes", ()))) or self.known
                self._kept = (time.monotonic(), said)
            return self._kept[1]

    def _fetch(self) -> Json:
        try:
            answer = self._pool.request(
                "GET", f"http://{self.address}/node.json", preload_content=False, redirect=False
            )
            try:
                body = answer.read(REMOTE_BYTES_MAX)
            finally:
                answer.release_conn()
            said: Any = json.loads(body) if answer.status == 200 else {}
        except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
            return {}
        valid = isinstance(said, dict) and isinstance(said.get("nodes"), dict)
        return said if valid else {}

    def close(self) -> None:
        self._pool.clear()
