"""An etcd cluster for the lab and for tests: what each member is started with.

Knows: etcd's command line, its timers on one machine. Must not know: where the processes run, what
is kept in etcd. Starting and ending them is `processes.Processes`, or a test's own business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

HEARTBEAT_MS = 10
ELECTION_MS = 100
PROGRESS_MS = 200
"""A quiet watch says so often that it is alive."""
CLIENT_PORT = 2379
PEER_PORT = 2380
QUOTA_BYTES = 64 << 20
REVISIONS_KEPT = 10_000
ANSWER_TIMEOUT_S = 1.0


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """One member: its name, where it is reached, where it keeps its data."""

    name: str
    address: str
    data_dir: Path
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    @property
    def client_url(self) -> str:
        return f"http://{_host(self.address)}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://{_host(self.address)}:{self.peer_port}"

    def argv(self, members: Sequence[EtcdMember], token: str = "bgf-lab") -> list[str]:
        """The command that starts it, for the first time or again, in a cluster of `members`."""
        return [
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            "--initial-cluster=" + ",".join(f"{m.name}={m.peer_url}" for m in members),
            f"--initial-cluster-token={token}",
            "--initial-cluster-state=new",
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_MS}",
            f"--experimental-watch-progress-notify-interval={PROGRESS_MS}ms",
            "--auto-compaction-mode=revision",
            f"--auto-compaction-retention={REVISIONS_KEPT}",
            f"--quota-backend-bytes={QUOTA_BYTES}",
            "--logger=zap",
            "--log-level=warn",
        ]

    def healthy(self) -> bool:
        """Does it answer, and know a leader?"""
        return self._ask("GET", "/health").get("health") == "true"

    def leads(self) -> bool:
        """Is it the leader of its cluster now?"""
        status = self._ask("POST", "/v3/maintenance/status", "{}")
        header = status.get("header")
        own = header.get("member_id") if isinstance(header, dict) else None
        return own is not None and own == status.get("leader")

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, object]:
        """Its answer; empty when there is none."""
        connection = HTTPConnection(self.address, self.client_port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            answer = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return {}
        finally:
            connection.close()
        return answer if isinstance(answer, dict) else {}


def endpoints(members: Sequence[EtcdMember]) -> list[str]:
    """What `statestore.etcd.EtcdRegistry` is given."""
    return [member.client_url for member in members]
