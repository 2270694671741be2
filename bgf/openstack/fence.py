"""Have one server of a cluster stopped, and prove it: `python -m bgf.openstack.fence`.

Prints one line of JSON. A process of its own, started by the failover process: openstacksdk's
import would hold that one up.
Knows Nova through openstacksdk. Must not know why; it stops a server that is named, and no other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, Final

POLL_S: Final = 0.5
SILENT: Final = ("DOWN", "UNKNOWN")
"""What Nova calls a host that was forced down, or that it does not hear: it stops nothing there."""
OFF: Final = ("SHUTOFF", "DELETED", "SOFT_DELETED", "SHELVED_OFFLOADED")


def fence(compute: Any, cluster: str, node: str, timeout_s: float, force_down: bool) -> str:
    """Stop it; how it is known to be off. Raises RuntimeError when that cannot be said."""
    server = find(compute, cluster, node)
    if server is None:
        raise RuntimeError(f"Nova has no server of node {node} in cluster {cluster}")
    deadline = time.monotonic() + timeout_s
    # how Nova sees the host is told from this version on, and to administrators
    asked = {"microversion": "2.16"} if force_down else {}
    if server.status not in OFF:
        stop(compute, server.id)
    while time.monotonic() < deadline:
        now = compute.get(f"/servers/{server.id}", **asked)
        if now.status_code == 404:
            return "its server is deleted"
        if now.status_code == 200:
            said = now.json()["server"]
            if said["status"] in OFF and not said.get("OS-EXT-STS:task_state"):
                return f"its server is stopped ({said['status']})"
            if force_down and said.get("host_status") in SILENT:
                break
        time.sleep(POLL_S)
    why = f"Nova did not stop its server within {timeout_s:.0f} s"
    if force_down:
        why += f"; {mark_host(compute, server.id)}"
    raise RuntimeError(why)


def find(compute: Any, cluster: str, node: str) -> Any:
    found = [
        s
        for s in compute.servers()
        if s.metadata.get("bgf_cluster") == cluster and s.metadata.get("bgf_node") == node
    ]
    if len(found) > 1:
        raise RuntimeError(f"{len(found)} servers say that they are node {node} of {cluster}")
    return found[0] if found else None


def stop(compute: Any, server: str) -> None:
    """Repeated calls are no error: 409 says that something is being done with it already."""
    answer = compute.post(f"/servers/{server}/action", json={"os-stop": None})
    if answer.status_code not in (202, 409):
        raise RuntimeError(f"Nova answers {answer.status_code} to stopping it")


def mark_host(compute: Any, server: str) -> str:
    """Only of a host whose service Nova itself holds to be down. It is no proof: others may run."""
    answer = compute.get(f"/servers/{server}")
    host = (answer.json().get("server") or {}).get("OS-EXT-SRV-ATTR:host", "")
    if not host:
        return "its host is not told to this user, so it is not forced down"
    services = compute.get(f"/os-services?binary=nova-compute&host={host}", microversion="2.53")
    down = [s for s in services.json().get("services", []) if s.get("state") == "down"]
    if not down:
        return f"its host {host} is up by Nova's word, so it is not forced down"
    body = {"forced_down": True}
    forced = compute.put(f"/os-services/{down[0]['id']}", json=body, microversion="2.53")
    done = "is" if forced.status_code == 200 else "could not be"
    return f"its host {host} is down and {done} forced down: evacuate what was on it"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bgf.openstack.fence")
    parser.add_argument("--cloud", required=True)
    parser.add_argument("--clouds-file", default="")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--force-down", action="store_true")
    parser.add_argument("node")
    asked = parser.parse_args(words)
    if asked.clouds_file:
        os.environ["OS_CLIENT_CONFIG_FILE"] = asked.clouds_file
    try:
        import openstack  # noqa: PLC0415

        compute = openstack.connect(cloud=asked.cloud).compute
        why = fence(compute, asked.cluster, asked.node, asked.timeout, asked.force_down)
    except Exception as error:
        line = f"not fenced: {' '.join(str(error).split())[:300]}"
        print(json.dumps({"ok": False, "why": line}))
        return 1
    print(json.dumps({"ok": True, "why": why}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
