"""A node's file read again: what has changed, what is taken up, what needs a restart of whom.

Knows: two configurations as values, the schema's word on each key. Must not know what a value does:
`take` is the process's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from bgf import config
from bgf.config import NodeConfig
from bgf.config_reference import change_of
from bgf.config_schema import Change
from bgf.errors import BgfError, ConfigError
from bgf.toml_places import Tokens, spelt

log = logging.getLogger("bgf.config")

CONCERNED: Final = {
    Change.GATEWAY: ("gateway",),
    Change.FAILOVER: ("failover",),
    Change.STATE: ("state",),
    Change.MONITOR: ("state",),  # it tells, since the monitor has no admin socket
    Change.NODE: ("state", "gateway", "failover"),
    Change.SEGMENT: ("state", "gateway", "failover"),
}
Take = Callable[[NodeConfig], list[str]]
"""Take up what can be of a new configuration; gives the paths for which it could not be done."""


def differences(old: NodeConfig, new: NodeConfig) -> dict[str, tuple[Any, Any]]:
    """Path -> (old, new) of every value that differs; None where there is none."""
    before, after = _flat(old), _flat(new)
    return {
        path: (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def _flat(node: NodeConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(value: Any, tokens: Tokens) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, (*tokens, key))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, inner in enumerate(value):
                walk(inner, (*tokens, number))
        else:
            found[spelt(tokens)] = value

    walk(tomllib.loads(config.dump(node)), ())
    return found


def nothing(_new: NodeConfig) -> list[str]:
    """`take` of a process that has nothing to take up."""
    return []


class Reloader:
    """Of one process. Made in its event loop, it reloads at SIGHUP too.

    `node` is what the process runs with; what is taken up counts as its own from then on.
    """

    def __init__(self, process: str, node: NodeConfig, take: Take = nothing) -> None:
        self._process = process
        self._node = node
        self._take = take
        with contextlib.suppress(RuntimeError, ValueError):  # no loop here, or not the main thread
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)

    def reload(self, _request: dict[str, Any] | None = None) -> dict[str, Any]:
        """What was taken up, and what needs a restart. Raises ConfigError: nothing has changed."""
        source = self._node.source
        if source is None:
            raise ConfigError("this process was not started with a file: there is none to read")
        new = config.load(source)
        changed = differences(self._node, new)
        live = {path for path in changed if change_of(path) is Change.RELOAD}
        mine = self._process == "gateway"
        refused = set(self._take(new)) & live if mine else set()
        applied = [_row(path, changed[path]) for path in sorted(live - refused) if mine]
        restart = [
            _row(path, values)
            | {"needs": (Change.GATEWAY if path in refused else change_of(path)).value}
            for path, values in changed.items()
            if path in refused or self._process in CONCERNED.get(change_of(path), ())
        ]
        for row in applied:
            log.info("%s: %s becomes %s", row["key"], row["old"], row["new"])
        for row in restart:
            log.warning(
                "%s: %s stays, %s needs a %s", *map(row.get, ("key", "old", "new", "needs"))
            )
        if mine:
            self._node = _merged(self._node, new, live - refused)
        return {"file": str(source), "applied": applied, "restart": restart}

    def hang_up(self) -> None:
        """SIGHUP: as `reload`, told in the log alone."""
        try:
            done = self.reload()
        except BgfError as error:
            log.error("the file is not taken up: %s", error)
            return
        if not done["applied"] and not done["restart"]:
            log.info("%s: nothing has changed for this process", done["file"])


def _row(path: str, values: tuple[Any, Any]) -> dict[str, Any]:
    return {"key": path, "old": values[0], "new": values[1]}


def _merged(old: NodeConfig, new: NodeConfig, taken: set[str]) -> NodeConfig:
    """The old one with the values that were taken up."""
    control = {
        name: getattr(new.control, name)
        for name in (path.split(".")[1].split("[")[0] for path in taken)
        if hasattr(new.control, name)
    }
    media = {
        name: getattr(new.media, name)
        for name in ("close_hanging_s", "close_held_s")
        if f"media.{name}" in taken
    }
    return replace(old, control=replace(old.control, **control), media=replace(old.media, **media))
