"""What the three processes share: start-up, clock, logging, signals, one at a time, the way down.

Knows asyncio and signals; knows nothing of calls, packets or groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from bgf.errors import EnvironmentProblem
from bgf.runtime.journald import JournalHandler, is_collected
from bgf.runtime.supervised import Sentence, Supervisor, supervise

log = logging.getLogger("bgf")
T = TypeVar("T")

OPEN_TRIES_MAX = 100
OPEN_RETRY_MS = 100
GC_YOUNG, GC_ROUNDS = 50_000, 20
"""Objects made before the collector looks at the young ones, and rounds till the older."""
GC_MANY: Final = 5_000_000
"""The same while a great many are made that stay; a bound for who goes on for ever."""
_MAKING: Final[set[object]] = set()
"""Who makes so many at present."""


def now_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: it counts suspend, so a lease cannot outlive a pause."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


_CALL_OFFSET_NS = time.clock_gettime_ns(time.CLOCK_REALTIME) - now_ns()


def call_ns() -> int:
    """The time of calls, in nanoseconds: what a group's machine is told.

    A call outlives its node, and nodes have different uptimes. So this is the wall clock as it
    stood when the process began, and CLOCK_BOOTTIME since: nodes that keep time agree about it,
    and no step of the wall clock moves it while the process lives.
    """
    return _CALL_OFFSET_NS + now_ns()


def set_up_logging(process: str, node: str) -> None:
    """One line per event: with its fields to the journal where systemd started us, else plain to
    standard error. A watchdog's SIGABRT leaves the place where we stood."""
    faulthandler.enable()
    level = os.environ.get("BGF_LOG", "INFO").upper()
    if is_collected(os.environ):
        with contextlib.suppress(OSError):
            logging.basicConfig(
                handlers=[JournalHandler(process, node)], level=level, format="%(message)s"
            )
            return
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format=f"%(asctime)s.%(msecs)03d {node} {process} %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )


def wake_socket(run_dir: Path) -> Path:
    """Where the failover process says "look at the registry now"."""
    return run_dir / "gateway.wake"


@contextlib.contextmanager
def only_one(run_dir: Path, process: str) -> Iterator[None]:
    """Hold the node's lock for this process kind. Raises EnvironmentProblem when it is taken."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = run_dir / f"{process}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                f"a `bgf {process}` already runs for this node (it holds {path}): stop it first"
            ) from None
        yield


async def retrying(what: str, attempt: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
    """Call `attempt` until it succeeds, at most OPEN_TRIES_MAX times.

    Raises EnvironmentProblem with its last error.
    """
    for left in range(OPEN_TRIES_MAX, 0, -1):
        try:
            return attempt()
        except errors as error:
            if left == 1:
                raise EnvironmentProblem(f"{what}: {error}") from error
            if left == OPEN_TRIES_MAX:
                log.info("waiting for %s: %s", what, error)
            await asyncio.sleep(OPEN_RETRY_MS / 1000)
    raise AssertionError("unreachable")


async def every(
    interval_ms: float | Callable[[], float], *works: Callable[[], Awaitable[None] | None]
) -> None:
    """Run `works` one after the other every `interval_ms`, which may be asked for anew after each
    round: a timer for each of many costs more than they do. One that fails is logged, keeps none
    of the others out and does not end the process."""
    while True:
        for work in works:
            try:
                outcome = work()
                if outcome is not None:
                    await outcome
            except Exception:
                log.exception("a periodic task failed; it is tried again")
        await asyncio.sleep((interval_ms() if callable(interval_ms) else interval_ms) / 1000)


async def until_signalled(
    tasks: list[asyncio.Task[None]], sentence: Sentence | None = None
) -> None:
    """Return on SIGTERM or SIGINT, or raise what a background task died of.

    Who calls this is ready: systemd is told so, and from then on that we live, and `sentence`.
    """
    supervisor = Supervisor(os.environ)
    tasks = [*tasks, asyncio.create_task(supervise(supervisor, sentence))]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopper = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopper, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task is not stopper:
                task.result()
    finally:
        supervisor.stopping()
        for task in (stopper, *tasks):
            task.cancel()
        await asyncio.gather(stopper, *tasks, return_exceptions=True)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """For who makes a great many values that stay: each look at them would find nothing. They are
    looked at no more afterwards either. May be entered by several at a time."""
    maker = object()
    _MAKING.add(maker)
    gc.set_threshold(GC_MANY, GC_ROUNDS, GC_ROUNDS)
    try:
        yield
    finally:
        _MAKING.discard(maker)
        if not _MAKING:
            gc.freeze()
            gc.set_threshold(GC_YOUNG, GC_ROUNDS, GC_ROUNDS)


def few_collections() -> None:
    """Calls are values without cycles: what lives now is looked at no more, what comes seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, GC_ROUNDS, GC_ROUNDS)
