"""Who owned what, when: read back from etcd's own history of the lab.

Knows: etcd's JSON gateway, the key of an owner's record. Must not know who should own what.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import msgspec

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.etcd import CLIENT_PORT
from bgf.lab.invariants import Owned
from bgf.lab.plan import Plan

OWNERS: Final = "/lab/failover/o/"
ANSWER_TIMEOUT_S: Final = 2.0
EPOCHS_MAX: Final = 200


class _Owner(msgspec.Struct):
    node: str
    epoch: int


def revision(plan: Plan) -> int:
    """Where etcd's history stands now. Raises EnvironmentProblem when nobody answers."""
    return int(_range(plan, plan.registry_hosts, OWNERS, 0)["header"]["revision"])


def owner(plan: Plan, group: str, hosts: Sequence[str]) -> str:
    """Whose a group is now, by the first of these members that answers; empty: nobody's, or they
    do not say. Members that stand still are better not asked: each costs the whole timeout."""
    try:
        entries = _range(plan, hosts, OWNERS + group, 0).get("kvs", [])
    except EnvironmentProblem:
        return ""
    return _decoded(entries[0]).node if entries else ""


def history(plan: Plan, since: int) -> list[Owned]:
    """Every owner of every group since revision `since`, and the one at that moment."""
    found = []
    for group in plan.groups:
        at = 0
        for _ in range(EPOCHS_MAX):
            entries = _range(plan, plan.registry_hosts, OWNERS + group.id, at).get("kvs", [])
            if not entries:
                break
            changed = int(entries[0]["mod_revision"])
            held = _decoded(entries[0])
            found.append(Owned(changed, group.id, held.node, held.epoch))
            if changed <= since or changed <= 1:
                break
            at = changed - 1
    return found


def _decoded(entry: dict[str, Any]) -> _Owner:
    return msgspec.json.decode(base64.b64decode(entry["value"]), type=_Owner)


def _range(plan: Plan, hosts: Sequence[str], key: str, at: int) -> dict[str, Any]:
    """What stood at `key` at revision `at` (0: now), as the first of `hosts` says that answers."""
    body: dict[str, Any] = {"key": base64.b64encode(key.encode()).decode()}
    if at:
        body["revision"] = str(at)

    def ask() -> dict[str, Any]:
        for host in hosts:
            connection = HTTPConnection(host, CLIENT_PORT, timeout=ANSWER_TIMEOUT_S)
            try:
                connection.request("POST", "/v3/kv/range", json.dumps(body))
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 200:
                    return dict(answer)
                if "compacted" in str(answer):
                    return {"kvs": []}
            except (OSError, HTTPException, ValueError):
                continue
            finally:
                connection.close()
        raise EnvironmentProblem("no member of etcd tells its history")

    return namespaces.run_in(plan.registry, ask)
