"""Following a prefix in etcd: one thread, one stream at a time, any endpoint.

Knows: the gateway's watch messages. Must not know: what keys and values mean.

The stream is opened at the revision after the last one seen, so a broken stream loses nothing;
when etcd has compacted that revision away, the prefix is scanned instead. A stream that hears
nothing for a while is opened anew elsewhere, since a cut-off member would be silent as well.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import msgspec
import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from statestore.registry import Change, Entry, Followed, RegistryUnavailable, Snapshot
from statestore.store import now_ns

log = logging.getLogger("statestore.etcd")

CHUNK_BYTES = 65_536
MESSAGE_BYTES_MAX = 64 << 20
BEHIND_MAX = 3  # silent streams in a row that did not tell what a scan shows
PROOFS_MAX = 64  # answers whose revision the stream has not reached yet
RETRY_PAUSE_MS, FAULT_PAUSE_MS = 20, 200
"""Until the next try, after what was to be expected and after what was not."""
CLOSE_WAIT_S = 5.0


class Source(Protocol):
    """What a watch needs of its registry."""

    def dated_scan(self, prefix: str) -> tuple[int, int, dict[str, Entry]]: ...
    def open_stream(self, at: int, body: bytes) -> urllib3.BaseHTTPResponse: ...


class _Header(msgspec.Struct):
    revision: int = 0


class _KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class _Event(msgspec.Struct):
    type: str = "PUT"
    kv: _KeyValue = msgspec.field(default_factory=_KeyValue)


class _Result(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    events: list[_Event] = []
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""


class _Message(msgspec.Struct):
    result: _Result | None = None


class _Restart(Exception):
    """The revision to go on from is gone, or belongs to another history."""


class _Broken(Exception):
    """The stream has ended or makes no sense."""


_decode = msgspec.json.Decoder(_Message, strict=False).decode


def range_end(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix; all keys for an empty one."""
    for at in range(len(prefix) - 1, -1, -1):
        if prefix[at] < 0xFF:
            return prefix[:at] + bytes([prefix[at] + 1])
    return b"\0"


class EtcdWatch:
    """`registry.Watch` with a thread of its own; made by EtcdRegistry.watch."""

    def __init__(self, source: Source, prefix: str, idle_ms: int, lag_ms: int) -> None:
        """A stream that is silent for `idle_ms`, or does not tell for `lag_ms` what is known to
        have been written, is left for another member's."""
        self._source = source
        self._idle_ns = idle_ms * 1_000_000
        self._lag_ns = lag_ms * 1_000_000
        self._prefix = prefix
        self._changed = threading.Condition()
        self._followed = Followed()
        self._revision = 0
        """All changes up to here are known; 0: nothing is."""
        self._current_ns = 0
        self._proofs: list[tuple[int, int]] = []
        self._behind = 0
        self._stream: urllib3.BaseHTTPResponse | None = None
        self.closed = False
        self.streams = 0
        """Streams opened so far, and scans instead of them."""
        self.scans = 0
        self.left = 0
        """Streams left because they lagged."""
        self._thread = threading.Thread(target=self._run, name=f"etcd watch {prefix}", daemon=True)
        self._thread.start()

    # -- for users --

    def poll(self) -> list[Change]:
        with self._changed:
            return self._followed.take()

    def wait(self, timeout_ms: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._followed.news or self.closed, timeout_ms / 1000
            )

    def snapshot(self) -> Snapshot:
        with self._changed:
            return Snapshot(self._followed.show(), self._current_ns, self._revision)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            stream = self._stream
            self._changed.notify_all()
        if stream is not None:
            _shut(stream)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_WAIT_S)

    def prove(self, sent_at_ns: int, revision: int) -> None:
        """A linearizable request sent then was answered at this revision. Once everything up to
        it is known here, what is known was the whole truth at that time."""
        with self._changed:
            if self._revision >= revision:
                self._current_ns = max(self._current_ns, sent_at_ns)
            elif len(self._proofs) < PROOFS_MAX:
                self._proofs.append((sent_at_ns, revision))
            stuck = bool(self._proofs) and sent_at_ns - self._proofs[0][0] > self._lag_ns
            stream, self._stream = (self._stream, None) if stuck else (None, self._stream)
        if stream is not None:  # of a member that is slow, or cut off from the others
            self.left += 1
            _shut(stream)

    # -- the thread --

    def _run(self) -> None:
        at = 0
        while not self.closed:
            try:
                if self._revision == 0:
                    self._scan()
                self._follow(at)
            except _Restart:
                self._revision = 0
            except ReadTimeoutError:  # silence; go on elsewhere, and ask how things stand
                with contextlib.suppress(RegistryUnavailable):
                    self._ask()
            except (RegistryUnavailable, HTTPError, OSError, _Broken):
                time.sleep(RETRY_PAUSE_MS / 1000)
            except Exception:  # a prefix that nobody follows any more would be a silent death
                log.exception("the watch of %r in etcd is opened anew", self._prefix)
                time.sleep(FAULT_PAUSE_MS / 1000)
            at += 1

    def _scan(self) -> None:
        sent_at_ns, revision, entries = self._source.dated_scan(self._prefix)
        with self._changed:
            self.scans += 1
            self._followed.replace(entries, now_ns())
            self._reach(revision)
            self._current_ns = max(self._current_ns, sent_at_ns)
            self._changed.notify_all()

    def _lags(self) -> bool:
        """Is there an answer of long ago whose revision the stream has not reached? It may be a
        change of other keys, or the stream of a member that is cut off."""
        with self._changed:
            return bool(self._proofs) and now_ns() - self._proofs[0][0] > self._idle_ns

    def _ask(self) -> bool:
        """Does a scan show what is known? What is not known yet is left to the next stream; if
        that does not bring it either, the history is another one."""
        sent_at_ns, revision, entries = self._source.dated_scan(self._prefix)
        with self._changed:
            known = {key: seen[:2] for key, seen in self._followed.entries.items()}
            if revision >= self._revision and known == entries:
                self._behind = 0
                self._reach(revision)
                self._current_ns = max(self._current_ns, sent_at_ns)
                return True
            self._behind += 1
            self._proofs = []
            if revision < self._revision or self._behind >= BEHIND_MAX:
                self._behind = 0
                self._revision = 0
            return False

    def _follow(self, at: int) -> None:
        request = {
            "create_request": {
                "key": self._prefix.encode() or b"\0",
                "range_end": range_end(self._prefix.encode()),
                "start_revision": str(self._revision + 1),
                "progress_notify": True,
            }
        }
        stream = self._source.open_stream(at, msgspec.json.encode(request))
        try:
            with self._changed:
                if self.closed:
                    return
                self._stream = stream
            self.streams += 1
            if stream.status != 200:
                raise _Broken(f"HTTP status {stream.status}")
            for message in _messages(stream):
                self._take(message)
                if self._lags() and not self._ask():
                    raise _Broken("it does not tell what a scan shows")
        finally:
            with self._changed:
                self._stream = None
            stream.close()  # the connection goes: an endless answer has no rest to read
            stream.release_conn()

    def _take(self, line: bytes) -> None:
        try:
            result = _decode(line).result
        except msgspec.MsgspecError as error:
            raise _Broken(f"no watch message: {error}") from error
        if result is None:
            raise _Broken("the stream reports an error")
        if result.canceled:
            if result.compact_revision:
                raise _Restart
            raise _Broken(result.cancel_reason)
        if result.created:
            return
        time_ns = now_ns()
        with self._changed:
            for event in result.events:
                kv = event.kv
                entry = None if event.type == "DELETE" else Entry(kv.value, kv.mod_revision)
                self._followed.apply(kv.key.decode("utf-8", "surrogateescape"), entry, time_ns)
            if result.events:
                self._reach(result.events[-1].kv.mod_revision)
                self._changed.notify_all()
            elif result.header.revision < self._revision:
                raise _Restart  # it waits for a revision that this history may never reach
            else:  # progress: this stream has told everything up to here
                self._reach(result.header.revision)

    def _reach(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        reached = [sent for sent, wanted in self._proofs if wanted <= self._revision]
        if reached:
            self._current_ns = max(self._current_ns, *reached)
            self._proofs = [proof for proof in self._proofs if proof[1] > self._revision]


def _shut(stream: urllib3.BaseHTTPResponse) -> None:
    """Whoever reads from it finds it at its end. Its reader may be giving it up this moment: then
    its connection is gone (RuntimeError), or its socket half so (TypeError)."""
    with contextlib.suppress(
        HTTPError, OSError, ValueError, AttributeError, RuntimeError, TypeError
    ):
        stream.shutdown()


def _messages(stream: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The gateway's answer, a line of JSON per message."""
    rest = b""
    for chunk in stream.stream(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
        if len(rest) > MESSAGE_BYTES_MAX:
            raise _Broken(f"a message of more than {MESSAGE_BYTES_MAX} bytes")
    raise _Broken("the stream has ended")
