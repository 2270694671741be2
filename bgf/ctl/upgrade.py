"""A rolling upgrade: one node after the other, drained, restarted, proven ready, given back.

Knows: the order, what is waited for and how long, where it stands (a file, so that it can go on).
Must not know how nodes are asked nor how one is restarted: `Cluster` and `restart` are given.

  order      who carries nothing first: then every group moves once, to a node that is done
  a node     others are ready -> drain it -> restart it -> its processes answer -> nothing but the
             drain speaks against it -> give it back -> it is ready
  it stops   at the first node that does not come through; that node stays drained, the others serve
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bgf.errors import BgfError, ConfigError

DRAINED: Final = "it is drained"
POLL_S: Final = 0.25
READY_S: Final = 60.0
DRAIN_S: Final = 60.0
BACK_S: Final = 120.0
NODES_MAX: Final = 64
BYTES_MAX: Final = 64 * 1024
STEPS: Final = ("others", "drain", "restart", "processes", "proof", "undrain", "ready")


class Stopped(BgfError):
    """A node did not come through; says where the upgrade stands."""

    code = "upgrade-stopped"


class Cluster(Protocol):
    """What is asked of the nodes. Lists are sentences; an empty one is what is waited for."""

    def carried(self) -> Mapping[str, Sequence[str]]:
        """Node -> the groups that it owns or still holds; every node has an entry."""

    def not_up(self, node: str) -> Sequence[str]:
        """Which of its processes do not answer, or say that they are not ready."""

    def against(self, node: str) -> Sequence[str]:
        """What speaks against its taking a group over now."""

    def drain(self, node: str) -> None: ...

    def undrain(self, node: str) -> None: ...


@dataclass
class Standing:
    """How far an upgrade has come. `at` and `step` are where it is, or stopped."""

    order: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    at: str = ""
    step: str = ""

    @property
    def left(self) -> list[str]:
        return [node for node in self.order if node not in self.done]

    def line(self) -> str:
        """In one sentence."""
        words = [f"done: {', '.join(self.done) or 'none'}"]
        if self.at:
            words.append(f"at {self.at}: {self.step}")
        rest = [node for node in self.left if node != self.at]
        words.append(f"not begun: {', '.join(rest) or 'none'}")
        return "; ".join(words)


def load(path: Path) -> Standing:
    """Where an earlier one stands; nothing begun when there is none. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(BYTES_MAX))
        standing = Standing(**kept)
        names = [*standing.order, *standing.done, standing.at, standing.step]
        if not all(isinstance(name, str) for name in names) or len(standing.order) > NODES_MAX:
            raise ValueError
    except FileNotFoundError:
        return Standing()
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{path}: not where an upgrade stands: remove it to begin anew") from None
    return standing


def order(carried: Mapping[str, Sequence[str]]) -> list[str]:
    """Who carries nothing first, then by how much, then by name."""
    return sorted(carried, key=lambda node: (len(carried[node]), node))


class Upgrade:
    """`run` once. `tell` gets a line per step; `wait` is time.sleep and `clock` time.monotonic."""

    def __init__(
        self,
        cluster: Cluster,
        restart: Callable[[str], None],
        path: Path,
        tell: Callable[[str], None],
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._restart = restart
        self._path = path
        self._tell = tell
        self._wait = wait
        self._clock = clock
        self.standing = load(path)

    def run(self) -> Standing:
        """Until every node is done. Raises Stopped; typing the command again goes on from there."""
        standing = self.standing
        known = order(self._cluster.carried())
        if standing.order:
            strange = sorted(set(standing.order) ^ set(known))
            if strange:
                raise ConfigError(
                    f"{self._path}: an upgrade of other nodes stands there ({', '.join(strange)}"
                    " differ): remove the file to begin anew"
                )
            self._tell(f"goes on: {standing.line()}")
        else:
            standing.order = known
        for node in standing.left:
            self._one(node)
        self._path.unlink(missing_ok=True)
        return standing

    def _one(self, node: str) -> None:
        # Each step holds when it is taken again, so nothing but the node needs to be remembered.
        self._at(node, "others")
        self._until(lambda: self._no_successor(node), READY_S)
        self._at(node, "drain")
        self._do(lambda: self._cluster.drain(node))
        self._until(lambda: self._carries(node), DRAIN_S)
        self._at(node, "restart")
        self._do(lambda: self._restart(node))
        self._at(node, "processes")
        self._until(lambda: self._cluster.not_up(node), BACK_S)
        self._at(node, "proof")
        self._until(lambda: self._unproven(node), BACK_S)
        self._at(node, "undrain")
        self._do(lambda: self._cluster.undrain(node))
        self._at(node, "ready")
        self._until(lambda: self._cluster.against(node), READY_S)
        self.standing.done.append(node)
        self.standing.at = self.standing.step = ""
        self._save()

    def _no_successor(self, node: str) -> Sequence[str]:
        """Why nobody else could take over; a node that carries something will do."""
        whys = []
        for other in self._cluster.carried():
            if other != node:
                against = self._cluster.against(other)
                if not against:
                    return ()
                whys.append(f"{other}: {against[0]}")
        return [f"nobody could take over from {node} ({'; '.join(whys) or 'it is alone'})"]

    def _carries(self, node: str) -> Sequence[str]:
        groups = self._cluster.carried().get(node, ())
        return [f"{node} still carries {', '.join(groups)}"] if groups else ()

    def _unproven(self, node: str) -> Sequence[str]:
        return [line for line in self._cluster.against(node) if line != DRAINED]

    def _at(self, node: str, step: str) -> None:
        self.standing.at, self.standing.step = node, step
        self._save()
        number = len(self.standing.done) + 1
        self._tell(f"{node} ({number} of {len(self.standing.order)}): {WORDS[step]}")

    def _save(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self.standing)) + "\n")
        temporary.replace(self._path)

    def _do(self, what: Callable[[], None]) -> None:
        try:
            what()
        except BgfError as error:
            raise self._stopped(str(error)) from None

    def _until(self, wrong: Callable[[], Sequence[str]], within_s: float) -> None:
        deadline = self._clock() + within_s
        while True:
            try:
                found = wrong()
            except BgfError as error:
                found = [str(error)]
            if not found:
                return
            if self._clock() >= deadline:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                raise self._stopped(f"after {within_s:g} s: {found[0]}{more}")
            self._wait(POLL_S)

    def _stopped(self, why: str) -> Stopped:
        return Stopped(
            f"stopped at {self.standing.at}, {WORDS[self.standing.step]}: {why}. "
            f"{self.standing.line()}. Mend it and type the same command to go on"
        )


WORDS: Final = {
    "others": "somebody else could take over",
    "drain": "its groups move away",
    "restart": "it is restarted",
    "processes": "its processes answer",
    "proof": "it has its copies and pinholes again",
    "undrain": "it is given back",
    "ready": "it is ready",
}
