"""What systemd is told, and what the journal gets: by sockets like theirs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.runtime import journald, supervised
from bgf.runtime.journald import JournalHandler, entry, is_collected, priority
from bgf.runtime.process import until_signalled
from bgf.runtime.supervised import Supervisor


class Ear:
    """A datagram socket as systemd or journald has it."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(5)

    def hear(self) -> bytes:
        return self.socket.recv(1 << 17)

    def all(self) -> list[bytes]:
        self.socket.setblocking(False)
        heard = []
        try:
            while True:
                heard.append(self.hear())
        except BlockingIOError:
            return heard


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def env(tmp_path: Path, watchdog_ms: int = 0, pid: int | None = None) -> dict[str, str]:
    found = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "HOME": "/"}
    if watchdog_ms:
        found |= {
            "WATCHDOG_USEC": str(watchdog_ms * 1_000),
            "WATCHDOG_PID": str(pid or os.getpid()),
        }
    return found


def test_a_process_says_ready_alive_and_going(ear: Ear, tmp_path: Path) -> None:
    environment = env(tmp_path, watchdog_ms=10_000)
    supervisor = Supervisor(environment)
    assert environment == {"HOME": "/"}  # children are not to speak for us
    assert supervisor.interval_ms == supervised.LOOK_MS
    supervisor.ready()
    supervisor.alive("serves g1")
    supervisor.alive("serves g1")
    supervisor.alive("serves\ng1, READY=1 " + "g" * 10_000)
    supervisor.stopping()
    supervisor.alive("too late")
    heard = ear.all()
    assert heard[:3] == [b"READY=1", b"WATCHDOG=1\nSTATUS=serves g1", b"WATCHDOG=1"]
    # a sentence is one line, however it was made
    assert heard[3].startswith(b"WATCHDOG=1\nSTATUS=serves g1, READY=1 ggg")
    assert heard[3].count(b"\n") == 1 and len(heard[3]) < 400
    assert heard[4:] == [b"STOPPING=1\nSTATUS=stopping"]


@pytest.mark.parametrize("watchdog_ms", [20, 200, 2_000])
def test_signs_of_life_come_well_before_the_watchdog(tmp_path: Path, watchdog_ms: int) -> None:
    supervisor = Supervisor(env(tmp_path, watchdog_ms))
    assert supervisor.interval_ms * 3 < watchdog_ms
    supervisor.stopping()


def test_another_process_watchdog_is_not_ours(ear: Ear, tmp_path: Path) -> None:
    supervisor = Supervisor(env(tmp_path, 1_000, pid=1))
    supervisor.alive("serves")
    supervisor.alive("serves")
    assert ear.all() == [b"STATUS=serves"]
    supervisor.stopping()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:3"}])
def test_without_systemd_nothing_is_said(environment: dict[str, str]) -> None:
    supervisor = Supervisor(environment)
    supervisor.ready()
    supervisor.alive("serves")
    supervisor.stopping()


def test_systemd_gone_or_deaf_is_no_error(tmp_path: Path) -> None:
    supervisor = Supervisor(env(tmp_path))
    supervisor.ready()  # no such socket
    made = Ear(str(tmp_path / "notify"))
    made.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(2_000):
        supervisor.alive(f"sentence {number}")
    heard = made.all()
    # what did not get through is said again
    supervisor.alive("sentence 1999")
    heard += made.all()
    assert heard[-1] == b"STATUS=sentence 1999"
    made.socket.close()
    supervisor.stopping()


def test_the_abstract_namespace() -> None:
    made = Ear(f"\0bgf-test-{os.getpid()}")
    supervisor = Supervisor({"NOTIFY_SOCKET": f"@bgf-test-{os.getpid()}"})
    supervisor.ready()
    assert made.hear() == b"READY=1"
    supervisor.stopping()
    made.socket.close()


def test_who_waits_for_a_signal_is_ready(
    ear: Ear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env(tmp_path, watchdog_ms=40).items():
        monkeypatch.setenv(name, value)
    said = iter(["one", "two"])

    def sentence() -> str:
        try:
            return next(said)
        except StopIteration:
            raise RuntimeError("nothing to say") from None

    async def main() -> None:
        waiting = asyncio.create_task(until_signalled([], sentence))
        loop = asyncio.get_running_loop()
        for _ in range(4):
            await loop.run_in_executor(None, ear.hear)
        os.kill(os.getpid(), signal.SIGTERM)
        await waiting

    heard: list[bytes] = []
    hear = ear.hear
    ear.hear = lambda: heard.append(hear()) or heard[-1]  # type: ignore[method-assign,func-returns-value]
    asyncio.run(main())
    heard += ear.all()
    assert heard[0] == b"READY=1"
    assert b"WATCHDOG=1\nSTATUS=one" in heard and b"WATCHDOG=1\nSTATUS=two" in heard
    assert b"WATCHDOG=1\nSTATUS=cannot say how it goes: see the log" in heard
    assert heard[-1] == b"STOPPING=1\nSTATUS=stopping"


# The journal.


def fields_of(datagram: bytes) -> dict[str, str]:
    """As journald reads it."""
    fields, at = {}, 0
    while at < len(datagram):
        end = datagram.index(b"\n", at)
        name, equals, value = datagram[at:end].partition(b"=")
        at = end + 1
        if not equals:
            (length,) = struct.unpack_from("<Q", datagram, at)
            value = datagram[at + 8 : at + 8 + length]
            at += 8 + length + 1
            assert datagram[at - 1 : at] == b"\n"
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(ear: Ear, tmp_path: Path) -> Iterator[logging.Logger]:
    handler = JournalHandler("gateway", "n1", tmp_path / "notify")
    logger = logging.Logger("bgf.test")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_a_line_carries_its_fields(ear: Ear, journal: logging.Logger) -> None:
    about = {"group": "g1", "epoch": 7, "reason": "active", "call": ""}
    journal.warning("group %s: active", "g1", extra=about)
    fields = fields_of(ear.hear())
    assert fields.pop("CODE_FILE").endswith("test_supervised.py") and fields.pop("CODE_LINE")
    assert fields == {
        "MESSAGE": "group g1: active",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "bgf-gateway",
        "BGF_PROCESS": "gateway",
        "BGF_NODE": "n1",
        "BGF_GROUP": "g1",
        "BGF_EPOCH": "7",
        "BGF_REASON": "active",
    }


def test_a_call_id_cannot_add_a_field(ear: Ear, journal: logging.Logger) -> None:
    evil = "x\nBGF_GROUP=g2\nPRIORITY=0"
    journal.info("call %s", evil, extra={"call": evil})
    fields = fields_of(ear.hear())
    assert fields["BGF_CALL"] == evil and "BGF_GROUP" not in fields and fields["PRIORITY"] == "6"


def test_a_traceback_and_a_long_line_fit(ear: Ear, journal: logging.Logger) -> None:
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        journal.exception("failed")
    fields = fields_of(ear.hear())
    assert fields["MESSAGE"].startswith("failed\nTraceback")
    assert len(fields["MESSAGE"]) == journald.VALUE_BYTES_MAX


def test_a_journal_that_starts_anew_is_found_again(
    capsys: pytest.CaptureFixture[str], ear: Ear, journal: logging.Logger, tmp_path: Path
) -> None:
    ear.socket.close()
    journal.info("while it is away")
    assert "while it is away" in capsys.readouterr().err
    (tmp_path / "notify").unlink()
    again = Ear(str(tmp_path / "notify"))
    journal.info("back")
    assert fields_of(again.hear())["MESSAGE"] == "back"
    again.socket.close()


def test_a_journal_that_stands_still_holds_nobody_up(ear: Ear, journal: logging.Logger) -> None:
    for number in range(3_000):
        journal.info("line %d", number)
    assert 0 < len(ear.all()) < 3_000


def test_only_where_the_journal_reads_us() -> None:
    status = os.fstat(2)
    assert is_collected({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    for other in ("", "8:9", "x:y", f"{status.st_dev}:{status.st_ino + 1}", ":", "1"):
        assert not is_collected({"JOURNAL_STREAM": other}), other
    assert not is_collected({})


def test_levels_are_syslogs() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [priority(level) for level in levels] == [7, 6, 4, 3, 2]
    assert entry({"A": "1", "B": "x\ny"}) == b"A=1\nB\n" + struct.pack("<Q", 3) + b"x\ny\n"
