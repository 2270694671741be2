"""A member's own segment at its start: opened, or made anew when it is of another layout.

Knows: the segment's file and who has it open, what the registry says about the others. Must not
know: what a segment consists of, how a view is decided.

A segment does not outlive its layout, the state has to: it is made anew only when nobody has the
old one open, and another member of the view, seen alive now, has all of the state. What this member
had is then what a machine has that was switched off (docs/upgrade.md): one that left in good order
had nothing alone, one that was killed had the items that were to have no replica.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import statestore
from statestore import errors
from statestore.engine import ServerConfig
from statestore.member_records import read
from statestore.registry import Registry, RegistryUnavailable
from statestore.store import SEGMENT_NAME, Store

log = logging.getLogger("statestore.server")

LOCK_NAME: Final = "server"
OTHERS_WAIT_S: Final = 60.0
"""So long the others may take to be complete, and the registry to answer. Below the service's
TimeoutStartSec."""

_FLOCK: Final = struct.Struct("=hhxxxxqqixxxx")
"""struct flock of fcntl(2) where off_t has 64 bits: type, whence, start, length, pid."""


class _Look(NamedTuple):
    """One look into the registry: renewals by member that has all of the state; who is in the
    view; what does not answer."""

    complete: Mapping[str, int]
    members: tuple[str, ...] = ()
    trouble: str = ""


def own_segment(config: ServerConfig, registry: Registry) -> tuple[Store, int]:
    """The segment, and the descriptor that says that this is its one state server.

    Waits up to OTHERS_WAIT_S where it is of another layout. Raises Unavailable, Full, Corrupt,
    Invalid; WrongVersion when it is of another layout and still needed. Each says why in one line.
    """
    try:
        store = statestore.open(config.address, size_bytes=config.size_bytes)
    except errors.WrongVersion as error:
        return _made_anew(config, registry, str(error).partition(";")[0])
    try:
        if store.stats()["items"] and not store.clustered:
            raise errors.Unavailable(
                f"{config.directory}: its segment holds the items of an embedded store; "
                "remove it, or give another directory"
            )
        return store, _lock(config.directory / LOCK_NAME)
    except BaseException:
        store.close()
        raise


def _made_anew(config: ServerConfig, registry: Registry, what: str) -> tuple[Store, int]:
    path = config.directory / SEGMENT_NAME
    if not (config.directory / LOCK_NAME).exists():
        raise errors.WrongVersion(
            f"{what}; it was no member's, so nobody else has its items: stop every process that "
            "uses it, remove it and start again"
        )
    lock = _lock(config.directory / LOCK_NAME)
    try:
        complete = _until_not_needed(config, registry, path, what)
        path.unlink(missing_ok=True)
        log.warning("%s: %s; made anew, the state is in %s", config.node, what, ", ".join(complete))
        return statestore.open(config.address, size_bytes=config.size_bytes), lock
    except BaseException:
        os.close(lock)
        raise


def _until_not_needed(
    config: ServerConfig, registry: Registry, path: Path, what: str
) -> tuple[str, ...]:
    """The members that have all of the state. Raises WrongVersion when the time is over."""
    deadline = time.monotonic() + OTHERS_WAIT_S
    before = _look(config, registry)
    said = ""
    while True:
        time.sleep(2 * config.timers.renew_ms / 1000)
        now = _look(config, registry)
        # One that renews lives: a dead one's record stands until somebody takes it out.
        alive = tuple(
            node for node, count in now.complete.items() if before.complete.get(node, count) < count
        )
        why = _why_needed(path, now, alive)
        if not why:
            return alive
        if time.monotonic() > deadline:
            raise errors.WrongVersion(f"{what}; it is kept: {why}")
        if why != said:
            log.warning("%s: %s; waits to make it anew: %s", config.node, what, why)
            said = why
        before = now


def _why_needed(path: Path, look: _Look, alive: tuple[str, ...]) -> str:
    """Empty: it is not."""
    if _in_use(path):
        return f"another process has it open; stop it ('fuser {path}' names it)"
    if look.trouble:
        return look.trouble
    if not alive:
        members = ", ".join(look.members) or "nobody"
        return (
            f"no other member has all of the state (in the view: {members}); start another first, "
            "or remove it and lose what is in it"
        )
    return ""


def _look(config: ServerConfig, registry: Registry) -> _Look:
    try:
        reading = read(config.prefix, registry.scan(config.prefix), 0)
    except RegistryUnavailable as error:
        return _Look({}, trouble=str(error))
    if reading.view is None:
        return _Look({}, trouble=reading.broken)
    complete = {}
    for seat in reading.view.members.values():
        record, _ = reading.records.get(seat.node, (None, 0))
        if (
            seat.node != config.node
            and record is not None
            and record.complete
            and record.incarnation == seat.incarnation
        ):
            complete[seat.node] = record.count
    members = tuple(sorted(seat.node for seat in reading.view.members.values()))
    return _Look(complete, members)


def _in_use(path: Path) -> bool:
    """Whether somebody holds a lock in the file: in every layout each of its clients has one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise errors.Unavailable(f"{path}: {error.strerror}; check its owner") from error
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int:
    """The lock of a segment's one state server. Raises Unavailable when another one has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.Unavailable(f"{path}: {error.strerror}; check the directory") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise errors.Unavailable(
            f"{path.parent}: another state server has this segment; stop it first"
        ) from None
    return descriptor
