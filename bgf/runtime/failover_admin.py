"""What a failover process answers on its admin socket: what it sees, and what an operator wants.

Knows: the manager, the addresses, the names of fields. Must not know how answers are shown (`ctl`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bgf.admin import Handler
from bgf.errors import BgfError, Malformed
from bgf.runtime.process import now_ns
from bgf.runtime.scheduling import is_real_time
from failover.adapters import Addresses
from failover.config import GroupConfig
from failover.errors import FailoverError
from failover.manager import Manager


class MoveNotPossible(BgfError):
    """The manager refused; `code` is the failover room's."""

    def __init__(self, error: FailoverError) -> None:
        super().__init__(str(error))
        self.code = error.code


class FailoverAdmin:
    """The handlers of one process, by command name."""

    def __init__(
        self,
        manager: Manager,
        addresses: Addresses,
        groups: Mapping[str, GroupConfig],
        boot: str,
    ) -> None:
        self._manager = manager
        self._addresses = addresses
        self._groups = groups
        self._boot = boot

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "timeline": lambda _: {"events": self._manager.timeline()},
            "history": self.history,
            "ready": self.ready,
            "switchover": self.switchover,
            "drain": lambda _: self._drain(True),
            "undrain": lambda _: self._drain(False),
        }

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        said = self._manager.status()
        about = {"process": "failover", "peers": said["hears"], "real_time": is_real_time()}
        return said | about

    def history(self, request: dict[str, Any]) -> dict[str, Any]:
        """The events of one group that this node recorded. Times of one boot can be compared."""
        group = _text(request, "group")
        if group not in self._groups:
            raise Malformed(f"no group {group!r}: there are {', '.join(sorted(self._groups))}")
        events = self._manager.history.of(group)
        return {"group": group, "events": events, "now_ns": now_ns(), "boot": self._boot}

    async def ready(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Could this node take each group over now? What it finds against it is proven here: the
        gateway's word, the links, addresses that stand here or answer elsewhere."""
        status = self._manager.status()
        why = list(status["unready"])
        why += [f"its own link to {path} is down" for path in status["links_down"]]
        why += [f"trouble with {what}: {text}" for what, text in sorted(status["trouble"].items())]
        why += [status["vouching"]["sentence"]] if status["vouching"]["sentence"] else []
        if not status["lease_left_ms"]:
            why.append("it has no lease")
        if status["drained"]:
            why.append("it is drained")
        groups = {}
        for group in sorted(self._groups):
            owner = status["owners"].get(group, {}).get("node", "")
            groups[group] = {"owner": owner, "why": await self._addressed(group, owner, status)}
        return {"node": status["node"], "ready": not why, "why": why, "groups": groups}

    def switchover(self, request: dict[str, Any]) -> dict[str, Any]:
        group, to = _text(request, "group"), str(request.get("to") or "")
        try:
            self._manager.switch_over(group, to)
        except FailoverError as error:
            raise MoveNotPossible(error) from error
        return {"group": group, "to": to, "done": f"{group} is to move to {to or 'another node'}"}

    async def _addressed(self, group: str, owner: str, status: dict[str, Any]) -> list[str]:
        """What stands in the way of the group's addresses here."""
        moving = self._groups[group].addresses
        hosts = {address.host for address in moving}
        if owner == status["node"] or status["groups"][group]["epoch"]:
            return []  # it is ours, or still being handed over
        try:
            held = await asyncio.to_thread(self._addresses.held)
            here = sorted(hosts & held)
            taken: Mapping[str, str] = {}
            if not owner:
                taken = await asyncio.to_thread(self._addresses.conflicts, moving)
        except FailoverError as error:
            return [str(error)]
        why = [f"{host} stands on this node, which does not own {group}" for host in here]
        return why + [f"{host} is answered for by {mac}" for host, mac in sorted(taken.items())]

    def _drain(self, drained: bool) -> dict[str, Any]:
        self._manager.drain(drained)
        return {"node": self._manager.status()["node"], "drained": drained}


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"'{key}' is missing: a name is needed")
    return value
