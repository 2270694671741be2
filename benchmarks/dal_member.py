"""One state server in a process of its own, for the benchmark: `python -m benchmarks.dal_member`.

Says `ready HOST:PORT` once the view has as many members as it is told. Then a line in, a line
out: `stats` (JSON of the engine's figures). Ends with its input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

import statestore
from statestore.member_records import Timers
from statestore.registry import EmbeddedRegistry
from statestore.server import Server, ServerConfig

READY_S: Final = 30.0
STEP_S: Final = 0.005
REGISTRY_BYTES: Final = 16 << 20
# A paused member must not be taken for a dead one.
PATIENT: Final = Timers(lease_ms=60_000, renew_ms=200, suspect_ms=90_000, patience_ms=5_000)


def main() -> int:
    """0; 3 when it cannot be started or gets no view."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dal_member", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="key file, registry, segments")
    parser.add_argument("--node", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--members", type=int, default=1, help="be ready with so many in the view")
    parser.add_argument("--busy", action="store_true")
    given = parser.parse_args()
    config = ServerConfig(
        directory=given.base / given.node,
        node=given.node,
        host=given.host,
        key_file=given.base / "cluster.key",
        port=0,
        size_bytes=64 << 20,
        history=0,
        busy=given.busy,
        timers=PATIENT,
    )
    try:
        address = f"dal://{given.base / 'registry'}"
        with statestore.open(address, size_bytes=REGISTRY_BYTES) as table:
            server = Server(config, EmbeddedRegistry(table))
            server.start()
            try:
                return serve(server, given.members)
            finally:
                server.stop(leave=False)
    except statestore.StateStoreError as error:
        print(f"{given.node}: {error}", flush=True)
        return 3


def serve(server: Server, members: int) -> int:
    deadline = time.monotonic() + READY_S
    while not server.ready or len(server.members()) < members:
        if time.monotonic() > deadline:
            print(f"not ready: {server.why_not_ready()}", flush=True)
            return 3
        time.sleep(STEP_S)
    print(f"ready {server.address}", flush=True)
    for line in sys.stdin:
        asked = line.strip()
        print(json.dumps(server.status() if asked == "stats" else None), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
