"""Nodes that nobody boots, for a control plane whose hypervisor is a fake.

For each server that Nova calls ACTIVE, what cloud-init would write is written below a directory of
its own, and the node's own first boot runs there, with stand-ins for systemctl, bgfctl, sudo and
etcd: it is that script, with the handle that Heat put into the user data, that tells Heat. `ssh` in
the operator's PATH reaches these directories by address, and runs there what it is told to run.
Knows user data, MAC addresses and the commands' shapes. Must not know what a test wants to see.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

BOOT_S = 300
POLL_S = 4.0
ETC = "/etc/bgf"

SSH = """\
# ssh [OPTIONS] USER@ADDRESS COMMAND, on the directory that stands for the node of that address
all="$*"
while [ $# -gt 2 ]; do shift; done
root=$(readlink -f "$BGF_MACHINES/by-address/${1#*@}")
[ -d "$root" ] || { echo "ssh: connect to host ${1#*@} port 22: No route to host" >&2; exit 255; }
echo "$(basename "$root") ssh $all" >>"$BGF_MACHINES/log"
export BGF_ROOT=$root PATH=$BGF_MACHINES/bin:/usr/bin:/bin
exec sh -c "$(printf '%s' "$2" | sed "s|/etc/bgf|$root/etc/bgf|g")"
"""
NODE_COMMANDS = {
    "sudo": 'shift; exec "$@"',
    "etcd": "exit 0",
    "id": "exit 1",
    "curl": """case "$*" in
  *127.0.0.1:2379/health*) echo '{"health":"true"}' ;;
  *) exec /usr/bin/curl "$@" ;;
esac""",
    "systemctl": """echo "$(basename "$BGF_ROOT") systemctl $*" >>"$BGF_MACHINES/log"
[ "$1" != --failed ] || echo "bgf-gateway.service loaded failed failed bgf gateway"
[ ! -e "$BGF_ROOT/ill" ]""",
    "bgf": 'exec "$BGF_PYTHON" -m bgf "$@"',
    "bgfctl": """node=$(basename "$BGF_ROOT")
echo "$node bgfctl $*" | sed "s|$BGF_ROOT||" >>"$BGF_MACHINES/log"
case "$1" in
  status) cat "$BGF_ROOT/status" ;;
  drain)
    if [ -e "$BGF_ROOT/refuses" ]; then cat "$BGF_ROOT/refuses"; exit 1; fi
    : >"$BGF_ROOT/drained"
    printf '{"node": "%s", "drained": true, "carries": []}\\n' "$node" ;;
  undrain) rm -f "$BGF_ROOT/drained" "$BGF_ROOT/refuses"; echo '{"drained": false}' ;;
  ready)
    [ ! -e "$BGF_ROOT/drained" ] || why='"it is drained"'
    printf '{"nodes": [{"node": "%s", "carries": [], "why": [%s]}]}\\n' "$node" "$why"
    [ -z "$why" ] ;;
  *) echo "no such command: $1" >&2; exit 2 ;;
esac""",
}


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class Machines:
    """The nodes of all clusters. `hold` says of a node whether it may boot yet; `ill` nodes have a
    gateway process that does not start."""

    def __init__(self, directory: Path, user: Any, admin: Any) -> None:
        self.root = directory / "machines"
        self.operator = directory / "operator"
        self._user, self._admin = user, admin
        self.booted: dict[str, str] = {}
        self.hold: dict[str, Callable[[], bool]] = {}
        self.ill: set[str] = set()
        self.said: dict[str, str] = {}
        self._wrong: list[BaseException] = []
        (self.root / "by-address").mkdir(parents=True)
        for name, body in NODE_COMMANDS.items():
            script(self.root / "bin" / name, body)
        script(self.operator / "ssh", SSH)
        # chrt and nice are the caller's: only what is typed has to be found
        script(self.operator / "bgfctl", f'exec {sys.executable} -m bgf.ctl.main "$@"')
        self.forget_log()

    def environment(self) -> dict[str, str]:
        """What an operator's shell, and a node's, has."""
        path = f"{self.operator}:{os.environ['PATH']}"
        more = {"BGF_MACHINES": str(self.root), "BGF_PYTHON": sys.executable, "PATH": path}
        return {**os.environ, **more, "XDG_STATE_HOME": str(self.root / "state")}

    def log(self) -> list[str]:
        """`NODE PROGRAM WORDS` for all that ran there."""
        return (self.root / "log").read_text().splitlines()

    def forget_log(self) -> None:
        (self.root / "log").write_text("")

    def file(self, cluster: str, node: str) -> Path:
        return self.root / cluster / node / "etc/bgf/node.toml"

    def carries(self, cluster: str, node: str, *groups: str) -> None:
        """What `bgfctl status` says there."""
        rows = ", ".join(f'{{"group": "{g}", "owner": "{node}", "sessions": 0}}' for g in groups)
        (self.root / cluster / node / "status").write_text(f'{{"groups": [{rows}]}}\n')

    def refuses(self, cluster: str, node: str, why: str) -> None:
        """Its next drain does not come to its end."""
        said = f'{{"node": "{node}", "drained": true, "carries": ["g1"], "sentence": "{why}"}}\n'
        (self.root / cluster / node / "refuses").write_text(said)

    @contextlib.contextmanager
    def booting(self, cluster: str) -> Iterator[None]:
        """While it lasts, servers of that cluster boot as they become ACTIVE."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(POLL_S):
                for server in self._user.compute.servers():
                    meta = server.metadata
                    node = meta.get("bgf_node", "")
                    if meta.get("bgf_cluster") != cluster or server.status != "ACTIVE":
                        continue
                    if server.id not in self.booted and self.hold.get(node, lambda: True)():
                        self.booted[server.id] = node
                        self._boot(cluster, node, server)

        def guarded() -> None:
            try:
                watch()
            except BaseException as error:
                self._wrong.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if self._wrong:
                raise self._wrong.pop()

    def _boot(self, cluster: str, node: str, server: Any) -> None:
        root = self.root / cluster / node
        text = base64.b64decode(self._admin.compute.get_server(server.id).user_data).decode()
        assert text.startswith("#cloud-config\n")
        told = yaml.safe_load(text)
        for file in told["write_files"]:
            path = root / file["path"].lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        for number, port in enumerate(self._user.network.ports(device_id=server.id)):
            interface = root / "sys/class/net" / f"enp{number + 1}s0"
            interface.mkdir(parents=True, exist_ok=True)
            (interface / "address").write_text(port.mac_address + "\n")
            if port.name.endswith(("-management", node)):
                link = self.root / "by-address" / port.fixed_ips[0]["ip_address"]
                link.unlink(missing_ok=True)
                link.symlink_to(root)
        self.carries(cluster, node)
        if node in self.ill:
            (root / "ill").touch()
        (words,) = told["runcmd"]
        words = [str(root / words[0].lstrip("/")), *words[1:]]
        environment = self.environment() | {
            "PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "BGF_ROOT": str(root), "BGF_PAUSE_S": "1",
        }  # fmt: skip
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, timeout=BOOT_S
        )
        self.said[node] = done.stdout + done.stderr
        assert " 200 " in done.stdout, f"{shlex.join(words)}: {self.said[node]}"
