"""Commands on the gateways themselves, through ssh; and a twin that touches none.

Knows how a node is reached. Must not know why: `operate` says what is to be done.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from bgf.openstack.errors import NodeRefused

FILE: Final = "/etc/bgf/node.toml"
COMMAND_S: Final = 30.0
CONNECT_S: Final = 10
OUTPUT_CHARS_MAX: Final = 1 << 20


class Nodes(Protocol):
    """The gateways of a cluster. Raises NodeRefused."""

    def ask(self, node: str, *words: str, within_s: float = COMMAND_S) -> dict[str, Any]:
        """What `bgfctl WORDS --json` says there; {"failed": TEXT} when it exits with 1."""

    def has_file(self, node: str, text: str) -> bool:
        """Whether its node.toml is that, but for the interfaces' names."""

    def write_file(self, node: str, text: str) -> None:
        """Give it another node.toml, checked there before it counts."""

    def restart(self, node: str) -> None:
        """Restart its processes."""

    def rebuilt(self, node: str) -> None:
        """Its disk is a new one, and so is the key by which its ssh proves who it is."""


class NullNodes:
    """Touches nothing: for a stack whose nodes cannot be reached, and for tests. All is well."""

    def ask(self, node: str, *words: str, within_s: float = COMMAND_S) -> dict[str, Any]:
        return {}

    def has_file(self, node: str, text: str) -> bool:
        return True

    def write_file(self, node: str, text: str) -> None:
        """Nobody to tell."""

    def restart(self, node: str) -> None:
        """Nobody to restart."""

    def rebuilt(self, node: str) -> None:
        """Nobody to know again."""


class SshNodes:
    """`command` begins each call, as in `ssh -i KEY -J HOST`; `addresses` are of management.

    A host key is taken as it is at the first contact with a server, and has to stay what it is
    until the server is rebuilt: addresses of management come again in other clusters, so the user's
    own known_hosts says nothing of them. `servers` are Nova's identities by node. Options within
    `command` come first, and so win over these.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        user: str,
        command: str = "ssh",
        servers: Mapping[str, str] | None = None,
    ) -> None:
        self.addresses = dict(addresses)
        self._user = user
        self._command = shlex.split(command)
        self._servers = dict(servers or {})
        state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
        self._keys = Path(state) / "bgf" / "hosts"

    def ask(self, node: str, *words: str, within_s: float = COMMAND_S) -> dict[str, Any]:
        remote = ["sudo", "-n", "bgfctl", *words, "--config", FILE, "--json"]
        code, out, err = self._run(node, remote, "", within_s)
        if code not in (0, 1):
            raise NodeRefused(f"{node}: {_last(err) or f'bgfctl exits with {code}'}")
        try:
            found = json.loads(out)
        except ValueError:
            raise NodeRefused(f"{node}: {_last(err) or 'bgfctl says no JSON'}") from None
        if not isinstance(found, dict):
            raise NodeRefused(f"{node}: bgfctl says no JSON object")
        return found | ({"failed": _last(err) or "not well"} if code else {})

    def has_file(self, node: str, text: str) -> bool:
        code, out, err = self._run(node, ["sudo", "-n", "cat", FILE], "", COMMAND_S)
        if code:
            raise NodeRefused(f"{node}: {FILE} cannot be read: {_last(err)}")
        return _unplaced(out) == _unplaced(text)

    def write_file(self, node: str, text: str) -> None:
        """The interfaces' names are put in by the node itself, which knows its MAC addresses."""
        script = (
            f"set -e; cat >{FILE}.new; bgf config check {FILE}.new >&2; cp -p {FILE} {FILE}.old; "
            f"mv {FILE}.new {FILE}; "
            f"/etc/bgf/first-boot place || {{ mv {FILE}.old {FILE}; exit 1; }}"
        )
        code, _, err = self._run(node, ["sudo", "-n", "sh", "-c", script], text, COMMAND_S)
        if code:
            raise NodeRefused(f"{node}: its file stays as it was: {_last(err)}")

    def restart(self, node: str) -> None:
        remote = ["sudo", "-n", "systemctl", "restart", "bgf.target"]
        code, _, err = self._run(node, remote, "", 2 * COMMAND_S)
        if code:
            raise NodeRefused(f"{node}: bgf.target does not start: {_last(err)}")

    def rebuilt(self, node: str) -> None:
        self._key_file(node).unlink(missing_ok=True)

    def _key_file(self, node: str) -> Path:
        return self._keys / (self._servers.get(node) or self.addresses.get(node, node))

    def _host_key(self, node: str) -> list[str]:
        try:
            self._keys.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NodeRefused(f"{self._keys}, for host keys: {error.strerror}") from None
        file = self._key_file(node)
        return ["-o", "StrictHostKeyChecking=accept-new", "-o", f'UserKnownHostsFile="{file}"']

    def _run(
        self, node: str, remote: Sequence[str], stdin: str, within_s: float
    ) -> tuple[int, str, str]:
        if node not in self.addresses:
            raise NodeRefused(f"no address of {node} is known")
        address = self.addresses[node]
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}"]
        options += self._host_key(node)
        words = [*self._command, *options, f"{self._user}@{address}", shlex.join(remote)]
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=within_s + CONNECT_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NodeRefused(f"{node} ({address}) did not answer in {within_s:.0f} s") from None
        except OSError as error:
            raise NodeRefused(f"{self._command[0]}: {error.strerror}") from None
        if done.returncode == 255:
            raise NodeRefused(
                f"{node} cannot be reached at {self._user}@{address}: {_last(done.stderr)}; "
                "give --ssh 'ssh -i KEY -J JUMP' and --ssh-user, or --no-nodes"
            )
        return done.returncode, done.stdout[:OUTPUT_CHARS_MAX], done.stderr


def _unplaced(text: str) -> list[str]:
    """A node.toml without what each node puts in by itself."""
    return [line for line in text.strip().splitlines() if not line.startswith("interface = ")]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
