"""Nodes that answer on real admin sockets with what a test gives them, from a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from bgf.admin import AdminServer, Handler

WAIT_S_MAX = 20.0


class FakeNodes:
    """Serves admin sockets: `serve(run_dir / "gateway.sock", {"status": handler})`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[AdminServer] = []

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S_MAX)

    def serve(self, path: Path, handlers: Mapping[str, Handler]) -> AdminServer:
        server = AdminServer(path, handlers)
        self._run(server.start())
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            self._run(server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S_MAX)
        self._loop.close()


def says(answer: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A handler that always gives this answer."""
    return lambda _request: answer
