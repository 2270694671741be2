"""A state server: the segment, the member's engine in a thread, its place in the view in another.

Knows: the order in which the membership core's decisions are carried out, the log's lines, a clean
stop. Must not know: how a view is decided (`membership`), what travels between members (the
engine), where etcd is (`registry`).

The engine's thread is C and never waits for this one. The membership thread takes turns: look at
the registry's watch, ask the core, hand view and lease to the engine, carry the actions out.
`evict` and `stop` take a turn of their own at once, in the caller's thread: nobody waits for the
registry with the lock held, so an eviction does not wait for a renewal's answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import statestore
from statestore import errors, metrics
from statestore.engine import Engine, ServerConfig, open_engine
from statestore.member_records import (
    FAST,
    Propose,
    Renew,
    Seat,
    Timers,
    View,
    left_slots,
    read,
    transaction,
)
from statestore.membership import Membership, Own, Standing, Step
from statestore.registry import (
    Check,
    EmbeddedRegistry,
    EmbeddedWatch,
    Registry,
    RegistryUnavailable,
)
from statestore.store import now_ns
from statestore.succession import own_segment

__all__ = ["LocalCluster", "Server", "ServerConfig", "local_cluster", "write_key_file"]

log = logging.getLogger("statestore.server")

MS: Final = 1_000_000
HOUSEKEEP_MS: Final = 200
TURNS_PER_RENEWAL: Final = 4
STOP_STEP_MS: Final = 5
JOIN_S_MAX: Final = 10.0
PHASES: Final = ("outside", "joining", "changing", "active")


def _words(step: Step) -> str:
    """Where the member stands, and more about it, said once."""
    standing = step.standing.value
    return step.sentence if step.sentence.startswith(standing) else f"{standing}: {step.sentence}"


@dataclass(slots=True)
class _Told:
    """What was handed on or said last, so that it is handed on or said once."""

    view: View | None = None
    slot: int | None = None
    lease_ns: int = 0
    said: tuple[object, ...] = ()
    trouble: str = ""


class Server:
    """One state server. Any thread may call any method; `start` and `stop` once."""

    def __init__(
        self,
        config: ServerConfig,
        registry: Registry,
        engine: Callable[[ServerConfig], Engine] = open_engine,
    ) -> None:
        """Open or make the segment and bind the address; serves nothing yet.

        Raises Unavailable, Full, Corrupt, WrongVersion, Invalid, each with one line.
        """
        self.config = config
        self._registry = registry
        with contextlib.ExitStack() as undo:
            self._store, self._own_lock = own_segment(config, registry)
            undo.callback(os.close, self._own_lock)
            undo.callback(self._store.close)
            self._engine = engine(config)
            undo.pop_all()
        self._seat = Seat(config.node, config.host, self._engine.port, self._engine.incarnation)
        self._core = Membership(
            self._seat, config.timers, epoch_seen=self._engine.stats().get("epoch", 0)
        )
        self._watch = registry.watch(config.prefix)
        self._lock = threading.RLock()
        self._wakeup = threading.Event()
        self._stopping = False
        self._told = _Told()
        self._step: Step | None = None
        self._view: View | None = None
        self._housekeep_ns = 0
        self._failure = ""
        self.log_lines: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run_engine, name=f"dal-{config.node}", daemon=True),
            threading.Thread(target=self._run_turns, name=f"view-{config.node}", daemon=True),
        ]

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to receive, and ask to join the view. Returns at once."""
        self._say(
            logging.INFO, f"{self.config.node}: {self.address}, segment {self.config.address}"
        )
        for thread in self._threads:
            thread.start()

    def stop(self, leave: bool = True, timeout_ms: float = 5_000) -> bool:
        """End. `leave`: hand the masters over and leave the view first, within the time.

        False when it could not leave in good order: then the others wait for the lease's end.
        """
        if self._stopping:
            return True
        left = not leave or self._leave(timeout_ms)
        self._stopping = True
        self._wakeup.set()
        self._engine.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(JOIN_S_MAX)
        with self._lock:
            self._watch.close()
            self._engine.close()
            self._store.close()
            os.close(self._own_lock)
        return left

    def _leave(self, timeout_ms: float) -> bool:
        if self._view is None or not self._standing_inside():
            return True  # there is nothing that it could hand over, or be missed for
        deadline_ns = now_ns() + int(timeout_ms * MS)
        self._say(logging.INFO, f"{self.config.node}: hands over what it is master of")
        self._engine.leave()
        while not self._engine.stats().get("left"):
            if not self._standing_inside():
                return False
            if not self._pause(deadline_ns, "its masters were not handed over in time"):
                return False
        with self._lock:
            self._core.leave()
        while True:
            self.turn()
            if self._step is not None and self._step.standing is Standing.LEFT:
                return True
            if not self._pause(deadline_ns, "the registry did not take it out of the view"):
                return False

    def _pause(self, deadline_ns: int, otherwise: str) -> bool:
        if now_ns() >= deadline_ns:
            self._say(logging.WARNING, f"{self.config.node}: leaves without order: {otherwise}")
            return False
        time.sleep(STOP_STEP_MS / 1000)
        return True

    def _standing_inside(self) -> bool:
        return self._step is not None and self._step.standing in (
            Standing.INSIDE,
            Standing.LEAVING,
        )

    def _run_engine(self) -> None:
        try:
            self._engine.run()
        except Exception as error:
            self._failure = f"the engine has ended: {type(error).__name__}: {error}"
            self._say(logging.ERROR, f"{self.config.node}: {self._failure}")

    def _run_turns(self) -> None:
        wait_ms = self.config.timers.renew_ms / TURNS_PER_RENEWAL
        while not self._stopping:
            try:
                self.turn()
                self._keep_house()
            except errors.StateStoreError as error:
                self._trouble(str(error))
            except Exception:
                log.exception("%s: a turn failed; it is tried again", self.config.node)
            if isinstance(self._watch, EmbeddedWatch):
                self._wakeup.wait(wait_ms / 1000)
            else:
                self._watch.wait(wait_ms)

    def _keep_house(self) -> None:
        """Recover what dead clients of the segment held."""
        with self._lock:
            time_ns = now_ns()
            if self._stopping or time_ns < self._housekeep_ns:
                return
            self._housekeep_ns = time_ns + HOUSEKEEP_MS * MS
            self._store.housekeep(time_ns)

    # -- turns -----------------------------------------------------------------------------

    def turn(self) -> None:
        """Look, decide, act: once. Raises what the engine raises; registry trouble is said."""
        with self._lock:
            if self._stopping:
                return
            for slot in self._engine.unwanted():
                self._evict_slot(slot)
            stats = self._engine.stats()
            snapshot = self._watch.snapshot()
            reading = read(
                self.config.prefix, snapshot.entries, snapshot.current_ns, self._registry.trouble()
            )
            own = Own(bool(stats.get("complete")), stats.get("applied", 0))
            step = self._core.step(now_ns(), own, reading)
            self._take(step)
        for action in step.actions:
            self._perform(action)

    def _evict_slot(self, slot: int) -> None:
        seat = self._view.members.get(slot) if self._view is not None else None
        if seat is not None and seat.node == self.config.node:
            self._core.again()
        elif seat is not None:
            text = f"{seat.node} takes nothing more of the key map's log: it has to join anew"
            self._say(logging.WARNING, f"{self.config.node}: {text}")
            self._core.evict(seat.node)

    def _take(self, step: Step) -> None:
        """Hand on what is new, in the order in which it takes effect."""
        self._step = step
        told = self._told
        if step.view is not None:
            self._view = step.view
            if told.view is None or step.view.epoch > told.view.epoch:
                self._engine.set_view(
                    step.view.epoch,
                    step.view.leader,
                    [
                        (slot, seat.node, seat.host, seat.port, seat.incarnation)
                        for slot, seat in sorted(step.view.members.items())
                    ],
                    left_slots(told.view, step.view),
                )
                told.view = step.view
        if step.lease_deadline_ns > told.lease_ns:
            self._engine.set_lease(step.lease_deadline_ns)
            told.lease_ns = step.lease_deadline_ns
        if step.standing is Standing.EVICTED:
            self._say(logging.WARNING, f"{self.config.node}: {step.sentence}")
            incarnation = self._engine.begin_anew()
            self._core.anew(incarnation)
            told.view, told.lease_ns = None, 0
        epoch = step.view.epoch if step.view is not None else 0
        serving = step.lease_deadline_ns > now_ns()
        # only just begun is no trouble yet
        silent = step.standing is Standing.UNREACHED and bool(self._registry.trouble())
        said = (step.standing, epoch, step.slot, serving, silent)
        if said != told.said and step.standing is not Standing.EVICTED:
            told.said = said
            loud = silent or step.standing in (Standing.REFUSED, Standing.REPLACED)
            level = logging.WARNING if loud else logging.INFO
            self._say(level, f"{self.config.node}: {_words(step)}")

    def _perform(self, action: Propose | Renew) -> None:
        checks, puts, deletes = transaction(self.config.prefix, action)
        sent_ns = now_ns()
        try:
            revision = self._registry.commit([Check(*check) for check in checks], puts, deletes)
        except RegistryUnavailable as error:
            self._trouble(str(error))
            return
        with self._lock:
            if not self._stopping:
                self._note(action, sent_ns, revision)

    def _note(self, action: Propose | Renew, sent_ns: int, revision: int | None) -> None:
        """What the registry answered; `revision` None: the checks did not hold."""
        if self._told.trouble:
            self._told.trouble = ""
            self._say(logging.INFO, f"{self.config.node}: the registry answers again")
        if isinstance(action, Renew):
            # At once, not at the next turn: the lease is the shorter for every wait.
            lease_ns = self._core.renewed(action, sent_ns, revision)
            if lease_ns > self._told.lease_ns:
                self._engine.set_lease(lease_ns)
                self._told.lease_ns = lease_ns
            return
        outcome = "done" if revision is not None else "somebody else was faster"
        text = f"view {action.view.epoch}: {action.why}: {outcome}"
        self._say(logging.INFO, f"{self.config.node}: {text}")

    def _trouble(self, text: str) -> None:
        """Once per kind: the line has times in it."""
        kind = text.partition(" for ")[0]
        if kind != self._told.trouble:
            self._told.trouble = kind
            self._say(logging.WARNING, f"{self.config.node}: {text}")

    def _say(self, level: int, line: str) -> None:
        self.log_lines[logging.getLevelName(level).lower()] += 1
        log.log(level, "%s", line)

    # -- what others ask -------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients without a segment reach this member."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{host}:{self._engine.port}"

    @property
    def ready(self) -> bool:
        """In the view, complete, serving."""
        return not self.why_not_ready()

    def why_not_ready(self) -> str:
        """One line; empty when it is ready."""
        if self._failure:
            return self._failure
        step, stats = self._step, self._engine.stats()
        if step is None:
            return "has not looked at the registry yet"
        if step.standing is not Standing.INSIDE:
            return _words(step)
        if not stats.get("complete"):
            return "waits for its part of the key map"
        if not stats.get("serving"):
            return f"does not serve: {step.sentence}"
        if PHASES[stats.get("phase", 0)] != "active":
            return f"view {stats.get('epoch', 0)} is not open yet"
        return ""

    def status(self, walk: bool = False) -> dict[str, Any]:
        """What an operator asks; plain types only. `walk` counts the items by role."""
        stats = self._engine.stats(walk)
        step, view = self._step, self._view
        epoch = stats.get("epoch", 0)
        seats = view.members if view is not None and view.epoch == epoch else {}
        leader = seats.get(stats.get("leader", 255))
        return {
            "address": self.address,
            "incarnation": f"{self._engine.incarnation:016x}",
            "slot": step.slot if step is not None and step.slot is not None else -1,
            "phase": PHASES[stats.get("phase", 0)],
            "serving": bool(stats.get("serving")),
            "complete": bool(stats.get("complete")),
            "leading": bool(stats.get("leading")),
            "leader": leader.node if leader is not None else "",
            "epoch": epoch,
            "lease_left_ms": max(0, self._told.lease_ns - now_ns()) // MS,
            "applied": stats.get("applied", 0),
            "last": stats.get("last", 0),
            "unreplicated": stats.get("dirty", 0) + stats.get("flight", 0),
            "registry": self._registry.trouble() or "ok",
            "sentence": step.sentence if step is not None else "",
            "counters": stats,
        }

    def members(self) -> list[dict[str, Any]]:
        """The view's members, as last handed to the engine."""
        view = self._view
        return [
            {
                "slot": slot,
                "node": seat.node,
                "address": f"[{seat.host}]:{seat.port}"
                if ":" in seat.host
                else f"{seat.host}:{seat.port}",
                "incarnation": f"{seat.incarnation:016x}",
            }
            for slot, seat in sorted(view.members.items() if view is not None else ())
        ]

    def node_of(self, slot: int) -> str:
        """The node in a slot; the slot's number as text when the view has none there."""
        seat = self._view.members.get(slot) if self._view is not None else None
        return seat.node if seat is not None else f"slot {slot}"

    def stats(self) -> dict[str, int]:
        """Figures of the segment."""
        with self._lock:
            return dict(self._store.stats())

    def reading(self) -> metrics.Reading:
        """Everything for `metrics`."""
        return metrics.Reading(
            segment=self.stats(),
            node=self._engine.stats(walk=True),
            lease_left_ns=self._told.lease_ns - now_ns(),
            registry_ok=self._registry.answering,
            log_lines=dict(self.log_lines),
            labels={"node": self.config.node},
        )

    # -- what others tell ------------------------------------------------------------------

    def evict(self, node: str) -> None:
        """Somebody who watches says that this member is dead: propose a view without it, now."""
        if node != self.config.node:
            with self._lock:
                self._core.evict(node)
            self.turn()

    def move(self, key: bytes, node: str) -> None:
        """Make another member the master of an item of ours. Raises NotFound, Away, Invalid."""
        view = self._view
        slot = view.slot_of(node) if view is not None else None
        if slot is None:
            known = ", ".join(seat.node for seat in view.members.values()) if view else "none"
            raise errors.Invalid(f"no member '{node}' in the view: there are {known}")
        self._engine.move(key, slot)

    def reload_keys(self) -> None:
        """Read the key file again: a step of a rotation. Raises Unavailable; the old keys stay."""
        self._engine.reload_keys()
        self._say(logging.INFO, f"{self.config.node}: read {self.config.key_file} again")


# -- a whole cluster in one process: for tests, benchmarks and a first look ---------------------

LOCAL_READY_MS: Final = 20_000
LOCAL_SIZE_BYTES: Final = 64 << 20
KEY_BYTES: Final = 32


def write_key_file(path: Path) -> None:
    """A new cluster key, 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"1 {secrets.token_hex(KEY_BYTES)}\n")


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """Running servers on loopback, in the order of their nodes n1, n2, ..."""

    servers: tuple[Server, ...]
    key_file: Path

    @property
    def addresses(self) -> list[str]:
        """Of each member's own segment, for clients on its host."""
        return [server.config.address for server in self.servers]

    @property
    def remote_address(self) -> str:
        """For a client that has no segment."""
        return "dal://" + ",".join(server.address for server in self.servers)

    def wait_ready(self, timeout_ms: float = LOCAL_READY_MS) -> None:
        """Until every member serves in one and the same view of all. Raises Unavailable."""
        deadline_ns = now_ns() + int(timeout_ms * MS)
        while True:
            waiting = [
                f"{server.config.node}: {why}"
                for server in self.servers
                if (why := server.why_not_ready())
            ]
            sizes = {len(server.members()) for server in self.servers}
            if not waiting and sizes == {len(self.servers)}:
                return
            if now_ns() >= deadline_ns:
                told = "; ".join(waiting) or f"views of {sorted(sizes)} members"
                raise errors.Unavailable(f"not ready after {timeout_ms:.0f} ms: {told}")
            time.sleep(STOP_STEP_MS / 1000)


@contextlib.contextmanager
def local_cluster(
    members: int,
    base_dir: Path | str,
    *,
    size_bytes: int = LOCAL_SIZE_BYTES,
    timers: Timers = FAST,
    history: int = 8,
    promote: str = "lease",
    repair_per_s: int = 2_000,
    busy: bool | Sequence[int] = False,
) -> Iterator[LocalCluster]:
    """`members` state servers of this process on 127.0.0.1, with the registry's embedded twin.

    `busy`: all of them spin, or those with these numbers (from 0). `base_dir` should be in memory.
    """
    base = Path(base_dir)
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file = base / "cluster.key"
    if not key_file.exists():
        write_key_file(key_file)
    first = ServerConfig(
        directory=base,
        node="",
        host="127.0.0.1",
        key_file=key_file,
        port=0,
        size_bytes=size_bytes,
        history=history,
        promote=promote,
        repair_per_s=repair_per_s,
        timers=timers,
    )
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(
            statestore.open(f"dal://{base / 'registry'}", size_bytes=LOCAL_SIZE_BYTES >> 2)
        )
        registry = EmbeddedRegistry(table)
        servers: list[Server] = []
        for number in range(members):
            node = f"n{number + 1}"
            spins = busy if isinstance(busy, bool) else number in busy
            config = replace(first, directory=base / node, node=node, busy=spins)
            server = Server(config, registry)
            stack.callback(server.stop, leave=False)
            server.start()
            servers.append(server)
        cluster = LocalCluster(tuple(servers), key_file)
        cluster.wait_ready()
        yield cluster
