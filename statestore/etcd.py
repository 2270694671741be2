"""The registry in etcd, through its JSON gateway (etcd 3.4 or later, prefix /v3).

Knows: endpoints, HTTP, the gateway's messages. Must not know: what keys and values mean.

A request goes to the endpoint that answered last, then to the others, until one answers or the
time is over: any one member's death costs a refused connection or one attempt's timeout.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from statestore.errors import Invalid
from statestore.etcd_watch import EtcdWatch, range_end
from statestore.registry import (
    ABSENT,
    Check,
    Confirmation,
    Entry,
    RegistryUnavailable,
)
from statestore.store import now_ns

ENDPOINTS_MAX = 16
CONNECTIONS_MAX = 8  # kept open per endpoint
RETRY_PAUSE_MS = 20  # between two rounds of all endpoints
CHECK_PAUSE_MS = 500  # between two looks at an endpoint that did not answer
ATTEMPT_MS_MIN = 20  # with less time left than this, no further attempt is made
WHY_CHARS_MAX = 160
NO_LEADER = "etcdserver: no leader"
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
"""A member that knows of no leader refuses at once, and ends its watches, instead of waiting."""
CODE_CANCELLED = 1  # by the member's own gateway, which goes away: nobody here cancels
CODE_RESOURCE_EXHAUSTED = 8  # etcd's database is full: no other endpoint will do better


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `https` endpoints; a certificate of our own is for etcd's client authentication."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How long to wait for what."""

    timeout_ms: int = 1000
    """Of one operation, all attempts together."""
    attempt_ms: int = 200
    """Of one attempt at one endpoint; an election of 100 ms takes up to 300."""
    idle_ms: int = 1000
    """A watch that hears nothing for so long is opened anew at the next endpoint."""
    tls: Tls | None = None


class _Header(msgspec.Struct):
    revision: int = 0


class _KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class _Range(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    kvs: list[_KeyValue] = []


class _Response(msgspec.Struct):
    response_range: _Range | None = None


class _Txn(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    succeeded: bool = False
    responses: list[_Response] = []


class _Failure(msgspec.Struct):
    error: str = ""
    code: int = 0


T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def _decode(data: bytes, what: type[T]) -> T:
    return msgspec.json.decode(data, type=what, strict=False)  # int64 travels as a string


@dataclass(slots=True)
class _Trouble:
    """An endpoint that does not answer, since when, and what it said last."""

    since_ns: int
    why: str


class _Lost(Exception):
    """No usable answer from one endpoint. `sent`: the request may have arrived."""

    def __init__(self, why: str, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class EtcdRegistry:
    """`registry.Registry` over the endpoints of one etcd cluster (`http://HOST:PORT` each)."""

    def __init__(self, endpoints: Sequence[str], options: EtcdOptions | None = None) -> None:
        if not 1 <= len(endpoints) <= ENDPOINTS_MAX:
            raise Invalid(f"etcd endpoints: {len(endpoints)}; 1 to {ENDPOINTS_MAX} are allowed")
        self.options = options or EtcdOptions()
        self.endpoints = tuple(endpoints)
        self._pools = [self._pool(endpoint) for endpoint in endpoints]
        self._preferred = 0
        self._lock = threading.Lock()
        self._troubles: dict[str, _Trouble] = {}
        self._watches: list[EtcdWatch] = []
        self._closed = threading.Event()
        self._checker: threading.Thread | None = None
        self._answering = True

    def _pool(self, endpoint: str) -> urllib3.HTTPConnectionPool:
        tls = self.options.tls or Tls()
        try:
            url = urllib3.util.parse_url(endpoint)
        except HTTPError:
            url = urllib3.util.Url()
        if url.scheme not in ("http", "https") or not url.host or url.path not in (None, "", "/"):
            raise Invalid(f"etcd endpoint {endpoint!r}: write it as http://HOST:PORT")
        port = url.port or 2379
        host = url.host.strip("[]")
        if url.scheme == "http":
            return urllib3.HTTPConnectionPool(host, port, maxsize=CONNECTIONS_MAX)
        return urllib3.HTTPSConnectionPool(
            host,
            port,
            maxsize=CONNECTIONS_MAX,
            cert_reqs="CERT_REQUIRED",
            ca_certs=tls.ca_file,
            cert_file=tls.cert_file,
            key_file=tls.key_file,
        )

    # -- one request --

    def _attempt(self, at: int, path: str, body: bytes, timeout_s: float) -> bytes:
        """Raises _Lost, or RegistryUnavailable when no endpoint would answer otherwise."""
        try:
            reply = self._pools[at].urlopen(
                "POST",
                path,
                body=body,
                headers=NEEDS_LEADER,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=timeout_s),
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise _Lost(_why(error), sent=False) from error
        except (HTTPError, OSError) as error:
            raise _Lost(_why(error), sent=True) from error
        if reply.status == 200:
            return reply.data
        try:
            failure = _decode(reply.data, _Failure)
        except msgspec.MsgspecError:
            failure = _Failure()
        why = failure.error[:WHY_CHARS_MAX] or f"HTTP status {reply.status}"
        if reply.status < 500 and failure.code != 0 and not _passing(failure):
            raise RegistryUnavailable(
                f"etcd at {self.endpoints[at]} refuses {path}: {why}; " + _way_out(failure.code)
            )
        raise _Lost(why, sent=not failure.error.startswith(NO_LEADER))

    def _request(self, path: str, body: bytes, what: type[T]) -> tuple[int, T, bool]:
        """(when the answered attempt was sent, the answer, whether an earlier attempt may have
        taken effect)."""
        begun_ns = now_ns()
        deadline_ns = begun_ns + self.options.timeout_ms * 1_000_000
        in_doubt, tried, at = False, 0, self._preferred
        while True:
            sent_at_ns = now_ns()
            left_ms = (deadline_ns - sent_at_ns) / 1_000_000
            if left_ms < ATTEMPT_MS_MIN and tried > 0:
                break
            attempt_s = max(ATTEMPT_MS_MIN, min(self.options.attempt_ms, left_ms)) / 1000
            try:
                answer = _decode(self._attempt(at, path, body, attempt_s), what)
            except _Lost as lost:
                in_doubt = in_doubt or lost.sent
                self._note(at, str(lost), sent_at_ns)
            except msgspec.MsgspecError as error:
                in_doubt = True
                self._note(at, f"answers what is not etcd's ({error})", sent_at_ns)
            else:
                self._preferred = at
                self._answering = True
                self._note(at, "", sent_at_ns)
                return sent_at_ns, answer, in_doubt
            tried += 1
            at = (at + 1) % len(self._pools)
            self._preferred = at
            if tried % len(self._pools) == 0:
                pause_ms = min(RETRY_PAUSE_MS, (deadline_ns - now_ns()) / 1_000_000)
                time.sleep(max(0.0, pause_ms) / 1000)
        self._answering = False
        raise RegistryUnavailable(self._sentence(), in_doubt)

    def _note(self, at: int, why: str, time_ns: int) -> None:
        endpoint = self.endpoints[at]
        with self._lock:
            if not why:
                self._troubles.pop(endpoint, None)
            elif endpoint in self._troubles:
                self._troubles[endpoint].why = why
            else:
                self._troubles[endpoint] = _Trouble(time_ns, why)
                if self._checker is None and not self._closed.is_set():
                    self._checker = threading.Thread(
                        target=self._check, name="etcd endpoints", daemon=True
                    )
                    self._checker.start()

    def _check(self) -> None:
        """Ask the endpoints that did not answer until they do: nobody else may ask them again."""
        body = _encode({"key": b"\0"})
        while not self._closed.wait(CHECK_PAUSE_MS / 1000):
            for at, endpoint in enumerate(self.endpoints):
                time_ns = now_ns()
                if endpoint not in self._troubles or self._closed.is_set():
                    continue
                try:
                    self._attempt(at, "/v3/kv/range", body, self.options.attempt_ms / 1000)
                except (_Lost, RegistryUnavailable) as error:
                    self._note(at, str(error), time_ns)
                else:
                    self._note(at, "", time_ns)
            with self._lock:
                if not self._troubles:
                    self._checker = None
                    return

    @property
    def answering(self) -> bool:
        """Was the last question answered, by whichever endpoint?"""
        return self._answering

    def trouble(self) -> str:
        """One line on the endpoints that did not answer when last asked; empty when all did."""
        time_ns = now_ns()
        with self._lock:
            parts = [
                f"{endpoint} for {(time_ns - t.since_ns) / 1e9:.1f} s ({t.why})"
                for endpoint, t in self._troubles.items()
            ]
        return "no answer from etcd at " + ", ".join(parts) if parts else ""

    def _sentence(self) -> str:
        told = self.trouble() or "no answer from etcd at " + ", ".join(self.endpoints)
        return f"{told}; a majority of its members must run and be reachable"

    # -- operations --

    def _range(self, request: Mapping[str, object]) -> tuple[int, _Range]:
        sent_at_ns, reply, _ = self._request("/v3/kv/range", _encode(request), _Range)
        self._prove(sent_at_ns, reply.header.revision)
        return sent_at_ns, reply

    def get(self, key: str) -> Entry | None:
        _, reply = self._range({"key": key.encode()})
        return _first(reply)

    def scan(self, prefix: str) -> dict[str, Entry]:
        return self.dated_scan(prefix)[2]

    def dated_scan(self, prefix: str) -> tuple[int, int, dict[str, Entry]]:
        """(when it was sent, the registry's revision, the entries): for a watch to begin with."""
        name = prefix.encode()
        sent_at_ns, reply = self._range({"key": name or b"\0", "range_end": range_end(name)})
        found = {
            kv.key.decode("utf-8", "surrogateescape"): Entry(kv.value, kv.mod_revision)
            for kv in reply.kvs
        }
        return sent_at_ns, reply.header.revision, found

    def confirm(self, key: str) -> Confirmation:
        begun_ns = now_ns()
        try:
            sent_at_ns, reply = self._range({"key": key.encode()})
        except RegistryUnavailable as error:
            return Confirmation(begun_ns, False, None, str(error))
        return Confirmation(sent_at_ns, True, _first(reply))

    def commit(
        self,
        checks: Iterable[Check],
        puts: Mapping[str, bytes],
        deletes: Iterable[str] = (),
    ) -> int | None:
        checks, deletes = list(checks), list(deletes)
        request = {
            "compare": [
                {
                    "key": check.key.encode(),
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": str(check.revision),
                }
                for check in checks
            ],
            "success": [
                *({"request_put": {"key": k.encode(), "value": v}} for k, v in puts.items()),
                *({"request_delete_range": {"key": key.encode()}} for key in deletes),
            ],
            "failure": [
                {"request_range": {"key": key.encode()}} for key in [*puts.keys(), *deletes]
            ],
        }
        begun_ns = now_ns()
        _, reply, in_doubt = self._request("/v3/kv/txn", _encode(request), _Txn)
        self._prove(begun_ns, reply.header.revision)
        if reply.succeeded:
            return reply.header.revision
        return _as_wanted(reply, checks, puts, deletes) if in_doubt else None

    def compare_and_swap(self, key: str, expected_revision: int, value: bytes) -> int | None:
        return self.commit([Check(key, expected_revision)], {key: value})

    def put(self, key: str, value: bytes) -> int:
        revision = self.commit([], {key: value})
        assert revision is not None  # nothing was checked
        return revision

    def delete(self, key: str) -> bool:
        found = self.get(key)
        while found is not None:
            if self.commit([Check(key, found.revision)], {}, [key]) is not None:
                return True
            found = self.get(key)
        return False

    def compact(self, revision: int) -> None:
        """Let etcd forget what stood before `revision`; what stands now stays."""
        self._request("/v3/kv/compaction", _encode({"revision": str(revision)}), _Txn)

    # -- watches --

    def watch(self, prefix: str) -> EtcdWatch:
        watch = EtcdWatch(self, prefix, self.options.idle_ms, self.options.attempt_ms)
        with self._lock:
            self._watches = [known for known in self._watches if not known.closed] + [watch]
        return watch

    def open_stream(self, at: int, body: bytes) -> urllib3.BaseHTTPResponse:
        """A watch's endless answer from endpoint `at` (modulo their number). Raises OSError or
        HTTPError."""
        at %= len(self._pools)
        time_ns = now_ns()
        timeout = urllib3.Timeout(
            connect=self.options.attempt_ms / 1000, read=self.options.idle_ms / 1000
        )
        try:
            stream = self._pools[at].urlopen(
                "POST",
                "/v3/watch",
                body=body,
                headers=NEEDS_LEADER,
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=timeout,
            )
        except (HTTPError, OSError) as error:
            self._note(at, _why(error), time_ns)
            raise
        return stream

    def _prove(self, sent_at_ns: int, revision: int) -> None:
        """Something linearizable was answered: who has seen this revision was current then."""
        for watch in self._watches:
            watch.prove(sent_at_ns, revision)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            watches, self._watches = self._watches, []
            checker = self._checker
        for watch in watches:
            watch.close()
        if checker is not None:
            checker.join(self.options.attempt_ms / 1000 + 1)
        for pool in self._pools:
            with contextlib.suppress(HTTPError, OSError):
                pool.close()


def _first(reply: _Range) -> Entry | None:
    return Entry(reply.kvs[0].value, reply.kvs[0].mod_revision) if reply.kvs else None


def _as_wanted(
    reply: _Txn, checks: Sequence[Check], puts: Mapping[str, bytes], deletes: Sequence[str]
) -> int | None:
    """An earlier attempt's answer was lost and this one's checks failed: because the earlier one
    took effect? Then everything stands as it was to be, written at one revision past the checks."""
    found = [_first(r.response_range) if r.response_range else None for r in reply.responses]
    if len(found) != len(puts) + len(deletes) or not puts:
        return None
    put = found[: len(puts)]
    revisions = {entry.revision if entry else ABSENT for entry in put}
    revision = max(revisions)
    if len(revisions) != 1 or revision <= max((c.revision for c in checks), default=ABSENT):
        return None
    same = all(e is not None and e.value == v for e, v in zip(put, puts.values(), strict=True))
    return revision if same and not any(found[len(puts) :]) else None


def _passing(failure: _Failure) -> bool:
    """etcd's own words for what another endpoint, or a moment's patience, may heal."""
    passing = (NO_LEADER, "etcdserver: request timed out", "etcdserver: leader changed")
    return failure.code == CODE_CANCELLED or failure.error.startswith(passing)


def _way_out(code: int) -> str:
    if code == CODE_RESOURCE_EXHAUSTED:
        return "compact and defragment it, then disarm the alarm (etcdctl)"
    return "check the endpoint, its version (3.4 or later) and its authentication"


def _why(error: Exception) -> str:
    """urllib3's errors without their object names."""
    if isinstance(error, ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return "no connection in time"
    text = str(error)
    if "[Errno" in text:
        return text[text.rfind("]") + 1 :].strip(" )'\"") or text
    return text[:WHY_CHARS_MAX]
