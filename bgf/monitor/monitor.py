"""The monitor of one node, or of several whose admin sockets are here: routes to answers.

Knows: which path gives what. Everything else is its parts'.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Final

from bgf.admin import Json
from bgf.ctl.client import Node
from bgf.model import Address
from bgf.monitor import exposition, picture
from bgf.monitor.drills import Drills
from bgf.monitor.sources import Local, Remote
from bgf.monitor.web import Response, Stream, WebServer

EVENT_MS: Final = 1_000
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Monitor:
    """`async with Monitor(...)`: it serves while the body runs."""

    def __init__(
        self, listen: Address, nodes: Sequence[Node], peers: Sequence[Address], drills: Drills
    ) -> None:
        self._locals = [Local(node) for node in nodes]
        self._remotes = [Remote(str(peer)) for peer in peers]
        self._drills = drills
        self._name = ", ".join(node.id for node in nodes)
        self._files = {
            path: Response(resources.files(__package__).joinpath("page", name).read_bytes(), kind)
            for path, (name, kind) in FILES.items()
        }
        self.server = WebServer(listen, self.route)

    async def __aenter__(self) -> Monitor:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()
        for remote in self._remotes:
            remote.close()

    async def route(self, path: str) -> Response | Stream | None:
        """Path -> answer."""
        if path in self._files:
            return self._files[path]
        if path == "/metrics":
            return Response((await self.metrics()).encode(), METRICS_TYPE)
        if path == "/node.json":
            return _json({"nodes": await self._own()})
        if path == "/cluster.json":
            return _json(await self.cluster())
        if path == "/events":
            return Stream(self._events())
        if path.startswith("/drills/"):
            plot = await asyncio.to_thread(self._drills.plot, path.removeprefix("/drills/"))
            return None if plot is None else Response(plot, "image/png")
        return None

    async def metrics(self) -> str:
        """Of the nodes whose sockets are here: usually one. Several are for labs, and then the
        first is scraped."""
        local = self._locals[0]
        asked = await local.ask()
        return await asyncio.to_thread(
            exposition.text_of, local.node.id, asked.values, asked.spent_s
        )

    async def cluster(self) -> Json:
        """What the page shows."""
        own, *others = await asyncio.gather(
            self._own(), *(remote.ask() for remote in self._remotes)
        )
        said = dict(own)
        silent = []
        for remote, answer in zip(self._remotes, others, strict=True):
            for node, one in answer.get("nodes", {}).items():
                said.setdefault(node, one)
            if not answer:
                for node in remote.known or (remote.address,):
                    said.setdefault(node, {})
                who = ", ".join(remote.known) or "its node"
                silent.append(f"{who}: no answer from its monitor at {remote.address}")
        drills = await asyncio.to_thread(self._drills.newest)
        return picture.cluster(self._name, said, silent, drills)

    async def _own(self) -> Json:
        return dict(await asyncio.gather(*(self._one(local) for local in self._locals)))

    @staticmethod
    async def _one(local: Local) -> tuple[str, Json]:
        asked, events = await asyncio.gather(local.ask(), local.timeline())
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return local.node.id, picture.node_json(asked.answers, picture.recent(events, now_ns))

    async def _events(self) -> AsyncIterator[str]:
        number = 0
        while True:
            found = await self.cluster()
            found["at_ms"] = round(time.monotonic() * 1_000)
            found["number"] = number = number + 1
            yield json.dumps(found, separators=(",", ":"))
            await asyncio.sleep(EVENT_MS / 1_000)


def _json(value: Json) -> Response:
    return Response(json.dumps(value, separators=(",", ":")).encode(), "application/json")
