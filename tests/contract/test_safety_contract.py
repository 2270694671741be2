"""Fencers and watchdogs: the null twins and the real ones do what the protocol says."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.config_safety import FencingSection
from bgf.runtime.fencing import NovaFencer
from failover.adapters import Fencer, NullFencer, NullWatchdog
from failover.fencing import Fenced
from failover.watchdog import FEED_EVERY_NS, LinuxWatchdog, WatchdogError
from tests.fakes.nova import FakeNova

WITHIN_S = 60.0


@pytest.fixture
def nova() -> Iterator[FakeNova]:
    made = FakeNova(
        {
            "id-1": {"name": "voice-gw1", "status": "ACTIVE", "metadata": meta("voice", "gw1")},
            "id-2": {"name": "voice-gw2", "status": "SHUTOFF", "metadata": meta("voice", "gw2")},
            "id-3": {"name": "other-gw1", "status": "ACTIVE", "metadata": meta("other", "gw1")},
            "id-4": {"name": "bystander", "status": "ACTIVE", "metadata": {}},
        }
    )
    yield made
    made.close()


def meta(cluster: str, node: str) -> dict[str, str]:
    return {"bgf_cluster": cluster, "bgf_node": node}


def real(nova: FakeNova, directory: Path, timeout_s: int = 30) -> NovaFencer:
    file = nova.clouds_file(directory)
    return NovaFencer(FencingSection("nova", "bgf", file, "voice", timeout_s))


def outcome(fencer: Fencer) -> Fenced:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if found := fencer.outcomes():
            (one,) = found
            return one
        time.sleep(0.02)
    raise AssertionError("no outcome")


@pytest.mark.parametrize("kind", ["null", "nova"])
def test_no_call_waits_and_none_raises(kind: str, nova: FakeNova, tmp_path: Path) -> None:
    fencer: Any = NullFencer() if kind == "null" else real(nova, tmp_path)
    fencer.fence("gw1")
    fencer.fence("gw1")
    assert list(fencer.outcomes()) == []  # an attempt takes longer than a call
    if kind == "nova":
        assert outcome(fencer).ok
        assert list(fencer.outcomes()) == []
        fencer.close()


def test_nova_stops_the_node_and_no_other(nova: FakeNova, tmp_path: Path) -> None:
    fencer = real(nova, tmp_path)
    fencer.fence("gw1")
    done = outcome(fencer)
    assert done == Fenced("gw1", True, "its server is stopped (SHUTOFF)")
    assert nova.actions == [("id-1", "os-stop")]
    fencer.close()


def test_a_server_that_is_off_already_is_proof(nova: FakeNova, tmp_path: Path) -> None:
    fencer = real(nova, tmp_path)
    fencer.fence("gw2")
    assert outcome(fencer).ok
    assert nova.actions == []
    fencer.close()


@pytest.mark.parametrize("trouble", ["disobeys", "unknown", "unreachable"])
def test_what_is_not_proven_is_said(trouble: str, nova: FakeNova, tmp_path: Path) -> None:
    fencer = real(nova, tmp_path, timeout_s=1)
    nova.obeys = False
    if trouble == "unreachable":
        nova.clouds_file(tmp_path).write_text("clouds: {}\n")
    node = {"unknown": "gw9"}.get(trouble, "gw1")
    fencer.fence(node)
    done = outcome(fencer)
    assert not done.ok
    assert done.node == node
    assert done.why.startswith("not fenced: ")
    assert "\n" not in done.why
    fencer.close()


class Device:
    """A FIFO in the place of the device, and what its driver would answer."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "watchdog"
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.asked: list[int] = []

    def ioctl(self, _fd: int, _request: int, argument: bytes) -> bytes:
        self.asked.append(struct.unpack("i", argument)[0])
        return struct.pack("i", 20)

    def fed(self) -> bytes:
        try:
            return os.read(self._end, 100)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._end)


def test_the_watchdog_is_fed_once_a_second_and_closed_on_purpose(tmp_path: Path) -> None:
    device = Device(tmp_path)
    dog = LinuxWatchdog(str(device.path), 30, device.ioctl)
    assert device.asked == [30]
    assert dog.timeout_s == 20
    dog.feed(0)
    dog.feed(FEED_EVERY_NS - 1)
    dog.feed(FEED_EVERY_NS)
    assert device.fed() == b"\0\0"
    dog.close()
    assert device.fed() == b"V"
    device.close()


def test_what_is_no_watchdog_is_named(tmp_path: Path) -> None:
    with pytest.raises(WatchdogError, match=r"no-such.*softdog"):
        LinuxWatchdog(str(tmp_path / "no-such"), 30)
    (tmp_path / "file").write_text("")
    with pytest.raises(WatchdogError, match="file is no watchdog"):
        LinuxWatchdog(str(tmp_path / "file"), 30)


def test_the_null_watchdog_does_nothing() -> None:
    dog = NullWatchdog()
    dog.feed(0)
    dog.close()
