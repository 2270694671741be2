"""A watch that follows one member of etcd, and leaves it when the others are known to be ahead."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from statestore.etcd_watch import EtcdWatch
from statestore.registry import Entry
from statestore.store import now_ns

LAG_MS = 50
MS = 1_000_000
WAIT_S = 5.0
PREFIX = "/c/"


def _in_json(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Stream:
    """What one member tells of the watch: lines as they are put, until it is shut."""

    status = 200

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._changed = threading.Condition()
        self._shut = False
        self.followed = threading.Event()

    def tell(self, revision: int, **values: str) -> None:
        events = [
            {"kv": {"key": _in_json(PREFIX + k), "value": _in_json(v), "mod_revision": revision}}
            for k, v in values.items()
        ]
        result = {"header": {"revision": str(revision)}, "events": events}
        with self._changed:
            self._lines.append(json.dumps({"result": result}).encode() + b"\n")
            self._changed.notify_all()

    def stream(self, _: int) -> Iterator[bytes]:
        self.followed.set()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._shut, WAIT_S)
                if self._shut:
                    return
                line = self._lines.pop(0)
            yield line

    def shutdown(self) -> None:
        with self._changed:
            self._shut = True
            self._changed.notify_all()

    def close(self) -> None:
        self.shutdown()

    def release_conn(self) -> None:
        pass


class Source:
    """Three members, each with a stream of its own; all are empty at revision 1."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.streams: dict[int, Stream] = {}
        self.more = threading.Condition()

    def dated_scan(self, prefix: str) -> tuple[int, int, dict[str, Entry]]:
        assert prefix == PREFIX
        return now_ns(), 1, {}

    def open_stream(self, at: int, body: bytes) -> Any:
        assert json.loads(body)["create_request"]["start_revision"] == "2"
        with self.more:
            self.opened.append(at)
            stream = self.streams[at] = Stream()
            self.more.notify_all()
        return stream

    def wait_followed(self, at: int) -> Stream:
        with self.more:
            assert self.more.wait_for(lambda: at in self.streams, WAIT_S), self.opened
        assert self.streams[at].followed.wait(WAIT_S)
        return self.streams[at]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def watch(source: Source) -> Iterator[EtcdWatch]:
    made = EtcdWatch(source, PREFIX, idle_ms=60_000, lag_ms=LAG_MS)
    source.wait_followed(0)
    yield made
    made.close()


def test_a_stream_that_does_not_tell_what_was_written_is_left(
    source: Source, watch: EtcdWatch
) -> None:
    sent_ns = now_ns()
    watch.prove(sent_ns, 2)
    watch.prove(sent_ns + LAG_MS * MS, 2)  # it may be on its way yet
    assert watch.left == 0
    watch.prove(sent_ns + LAG_MS * MS + 1, 2)
    second = source.wait_followed(1)
    assert watch.left == 1 and watch.snapshot().current_ns < sent_ns
    second.tell(2, k="new")
    assert watch.wait(WAIT_S * 1000)
    assert watch.snapshot().entries["/c/k"].value == b"new"
    assert watch.snapshot().current_ns >= sent_ns and source.opened == [0, 1]


def test_a_stream_that_tells_everything_is_kept(source: Source, watch: EtcdWatch) -> None:
    first = source.wait_followed(0)
    for revision in range(2, 6):
        first.tell(revision, k=str(revision))
        assert watch.wait(WAIT_S * 1000) and watch.poll()
        watch.prove(now_ns() + revision * LAG_MS * 10 * MS, revision)
    assert source.opened == [0] and watch.left == 0


def test_it_is_left_once_for_what_lags(source: Source, watch: EtcdWatch) -> None:
    """The member that follows may be as slow: it gets its time, too, until the next answer."""
    sent_ns = now_ns()
    for late in range(3):
        watch.prove(sent_ns + late * 2 * LAG_MS * MS, 2)
        source.wait_followed(late)
    assert watch.left == 2 and source.opened == [0, 1, 2]


def test_a_stream_that_its_reader_has_just_given_up_can_be_left(
    source: Source, watch: EtcdWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def released() -> None:
        raise RuntimeError("Cannot shutdown as connection has already been released to the pool")

    stream, end = source.streams[0], source.streams[0].shutdown
    monkeypatch.setattr(stream, "shutdown", released)
    sent_ns = now_ns()
    watch.prove(sent_ns, 2)
    watch.prove(sent_ns + LAG_MS * MS + 1, 2)  # raises nothing to who asked for something else
    assert watch.left == 1
    end()
    source.wait_followed(1)


def test_a_fault_in_the_thread_is_said_and_does_not_end_it(
    source: Source, watch: EtcdWatch, caplog: pytest.LogCaptureFixture
) -> None:
    second = source.open_stream
    calls: list[int] = []

    def faulty(at: int, body: bytes) -> Any:
        calls.append(at)
        if len(calls) == 1:
            raise KeyError("a fault")
        return second(at, body)

    source.open_stream = faulty  # type: ignore[method-assign]
    source.streams[0].shutdown()
    source.wait_followed(2).tell(2, k="new")
    assert watch.wait(WAIT_S * 1000)
    assert calls == [1, 2] and watch.snapshot().entries[PREFIX + "k"].value == b"new"
    assert "opened anew" in caplog.text and "a fault" in caplog.text
