"""A semantic fake of Nova's servers over HTTP: they stop when told, after a moment, or never.

Knows the few calls that a fencer makes, and their answers. Holds no other truth of Nova.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeNova:
    """Servers by id: {"name", "metadata", "status"}. `obeys`: whether they stop when told."""

    def __init__(self, servers: dict[str, dict[str, Any]], obeys: bool = True) -> None:
        self.servers = servers
        self.obeys = obeys
        self.actions: list[tuple[str, str]] = []
        nova = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0].rstrip("/")
                if path.endswith("/servers/detail"):
                    rows: Any = [{"id": i, **s} for i, s in nova.servers.items()]
                    self._answer(200, {"servers": rows})
                elif "/servers/" in path:
                    found = nova.servers.get(path.rpartition("/")[2])
                    self._answer(200 if found else 404, {"server": found})
                else:
                    version: dict[str, Any] = {"id": "v2.1", "status": "CURRENT"}
                    version |= {"min_version": "2.1", "version": "2.90"}
                    version |= {"links": [{"rel": "self", "href": nova.url}]}
                    self._answer(200, {"version": version})

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                (action,) = json.loads(self.rfile.read(size))
                server = self.path.split("/")[-2]
                nova.actions.append((server, action))
                if nova.obeys:
                    nova.servers[server]["status"] = "SHUTOFF"
                self._answer(202, {})

            def _answer(self, status: int, body: object) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2.1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def clouds_file(self, directory: Path) -> Path:
        path = directory / "clouds.yaml"
        path.write_text(
            f"clouds: {{bgf: {{auth_type: none, auth: {{endpoint: '{self.url}'}}, "
            f"compute_endpoint_override: '{self.url}', compute_api_version: '2.1'}}}}\n"
        )
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
