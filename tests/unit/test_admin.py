"""The admin wire on real unix sockets: answers, bad input, limits, who may replace a socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgf import admin
from bgf.admin import AdminClient, AdminRefused, AdminServer, AdminUnreachable, Handler, Json
from bgf.errors import EnvironmentProblem, UnknownCall


def echo(request: Json) -> Json:
    return {"got": request}


async def later(request: Json) -> Json:
    await asyncio.sleep(0)
    return {"later": request.get("n")}


def unknown_call(request: Json) -> Json:
    raise UnknownCall("no call 'x'\nhere")


def broken(request: Json) -> Json:
    raise ZeroDivisionError("a bug")


def unencodable(request: Json) -> Json:
    return {"value": object()}


async def stuck(request: Json) -> Json:
    await asyncio.sleep(3600)
    return {}


HANDLERS: dict[str, Handler] = {
    "echo": echo,
    "later": later,
    "unknown": unknown_call,
    "broken": broken,
    "unencodable": unencodable,
    "stuck": stuck,
}


class Running:
    """An AdminServer in a thread of its own, as another process would be."""

    def __init__(self, path: Path) -> None:
        self.server = AdminServer(path, HANDLERS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self.server.start())

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._run(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sock"


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    process = Running(path)
    yield process
    process.close()


def raw(path: Path, sent: bytes) -> list[Any]:
    """Send bytes, half-close, return every answer line."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(path))
        wire.sendall(sent)
        wire.shutdown(socket.SHUT_WR)
        received = b""
        while piece := wire.recv(65536):
            received += piece
    return [json.loads(line) for line in received.splitlines()]


def test_a_command_is_answered_with_its_arguments(running: Running, path: Path) -> None:
    client = AdminClient(path)
    assert client.call("echo", a=1) == {"got": {"command": "echo", "a": 1}}
    assert client.call("later", n=[1, "é"]) == {"later": [1, "é"]}
    assert running.server.stats.requests == 2
    assert running.server.stats.errors == running.server.stats.bad == 0


def test_one_connection_may_ask_many_times(running: Running, path: Path) -> None:
    answers = raw(path, b'{"command":"later","n":1}\n' * 3)
    assert answers == [{"later": 1}] * 3


def test_only_the_owner_may_connect(running: Running, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("command", "line", "code"),
    [
        ("unknown", "no call 'x' here", "unknown-call"),
        ("broken", "'broken' failed: ZeroDivisionError: a bug", "internal"),
        ("unencodable", "'unencodable' failed: TypeError: Object of type", "internal"),
        ("nonsense", "unknown command 'nonsense': known are broken, echo, later,", "unknown-com"),
    ],
)
def test_a_failing_handler_is_one_line_and_the_server_goes_on(
    running: Running, path: Path, command: str, line: str, code: str
) -> None:
    with pytest.raises(AdminRefused) as refused:
        AdminClient(path, 20).call(command)
    assert str(refused.value).startswith(line)
    assert refused.value.code.startswith(code)
    assert running.server.stats.errors == 1
    assert AdminClient(path).call("later") == {"later": None}


def test_a_handler_that_takes_too_long_is_given_up(
    running: Running, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "HANDLER_S_MAX", 0.01)
    with pytest.raises(AdminRefused, match=r"'stuck' took longer than 0\.01 s") as refused:
        AdminClient(path, 20).call("stuck")
    assert refused.value.code == "timeout"
    assert running.server.stats.errors == 1


@pytest.mark.parametrize(
    "noise",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b"1\n",
        b'"command"\n',
        b"{}\n",
        b'{"command":1}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"command":"echo"',
    ],
    ids=["empty", "cut", "list", "number", "text", "none", "type", "bytes", "nested", "no-end"],
)
def test_what_is_no_request_is_answered_and_counted(
    running: Running, path: Path, noise: bytes
) -> None:
    (answer,) = raw(path, noise)
    assert answer["code"] == "malformed"
    assert running.server.stats.bad == 1
    assert AdminClient(path).call("later", n=1) == {"later": 1}


def test_a_request_too_big_is_answered_and_the_connection_ends(
    running: Running, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(path))
        wire.sendall(b"x" * (admin.REQUEST_BYTES_MAX + 1))
        received = b""
        while not received.endswith(b"\n"):
            received += wire.recv(65536)
    assert json.loads(received)["code"] == "too-big"
    assert running.server.stats.bad == 1
    assert AdminClient(path).call("later", n=1) == {"later": 1}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_end_the_server(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    async def one() -> None:
        path = tmp_path_factory.getbasetemp() / "noise.sock"
        async with AdminServer(path, HANDLERS):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(noise + b'\n{"command":"later","n":7}\n')
            writer.write_eof()
            lines = [json.loads(line) for line in (await reader.read()).splitlines()]
            writer.close()
            assert lines[-1] == {"later": 7}
            assert len(lines) == noise.count(b"\n") + 2

    asyncio.run(one())


def test_clients_past_the_limit_are_told(
    running: Running, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "CLIENTS_MAX", 1)
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(20)
        first.connect(str(path))
        first.sendall(b'{"command":"later"}\n')
        assert first.recv(100) == b'{"later":null}\n'
        with pytest.raises(AdminRefused, match="1 clients already") as refused:
            AdminClient(path, 20).call("later")
        assert refused.value.code == "busy"
        assert running.server.stats.refused_clients == 1


def test_an_idle_client_is_let_go(
    running: Running, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "IDLE_S_MAX", 0.01)
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(path))
        assert wire.recv(1) == b""


def test_closing_ends_clients_and_removes_the_file(path: Path) -> None:
    process = Running(path)
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(20)
        wire.connect(str(path))
        wire.sendall(b'{"command":"later"}\n')
        wire.recv(100)
        process.close()
        assert wire.recv(1) == b""
    assert not path.exists()


def test_the_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    process = Running(path)
    assert AdminClient(path).call("later", n=1) == {"later": 1}
    process.close()


def test_a_live_one_is_refused_and_left_alone(running: Running, path: Path) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        asyncio.run(AdminServer(path, {}).start())
    assert str(refused.value) == (
        f"admin socket {path} is taken by a running process (pid {os.getpid()}): stop it first"
    )
    assert AdminClient(path).call("later", n=1) == {"later": 1}


def test_a_live_one_with_a_full_queue_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(EnvironmentProblem, match="is taken by a running process: stop it"):
            asyncio.run(AdminServer(path, {}).start())


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(EnvironmentProblem, match="a file of another kind is there: move it"):
        asyncio.run(AdminServer(path, {}).start())
    assert path.read_text() == "precious"


def test_a_successor_keeps_its_socket_when_we_close(path: Path) -> None:
    first = Running(path)
    path.unlink()
    second = Running(path)
    first.close()
    assert AdminClient(path).call("later", n=2) == {"later": 2}
    second.close()


def test_of_many_that_start_together_one_wins(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def race() -> None:
        servers = [AdminServer(path, HANDLERS) for _ in range(8)]
        outcomes = await asyncio.gather(*(s.start() for s in servers), return_exceptions=True)
        assert outcomes.count(None) == 1
        assert all(isinstance(o, EnvironmentProblem) for o in outcomes if o is not None)
        await asyncio.gather(*(s.close() for s in servers))

    asyncio.run(race())
    assert not path.exists()


def test_impossible_paths_are_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for path, says in (
        (tmp_path / ("x" * 108), "longer than 107 bytes"),
        (blocked / "a.sock", "cannot be made: "),
    ):
        with pytest.raises(EnvironmentProblem, match=says):
            asyncio.run(AdminServer(path, {}).start())


def test_the_client_says_why_nobody_answers(path: Path, tmp_path: Path) -> None:
    with pytest.raises(AdminUnreachable, match="no such socket: the process is not running"):
        AdminClient(path).call("status")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        with pytest.raises(AdminUnreachable, match="nobody listens: the process has died"):
            AdminClient(path).call("status")
        silent.listen()
        with pytest.raises(AdminUnreachable, match=r"no answer to 'status' in 0\.05 s"):
            AdminClient(path, 0.05).call("status")
    with pytest.raises(EnvironmentProblem, match="longer than 107 bytes"):
        AdminClient(tmp_path / ("x" * 200)).call("status")


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n", b'{"cut'])
def test_the_client_survives_any_answer(path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            wire, _ = listener.accept()
            with wire:
                wire.recv(1000)
                wire.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(AdminUnreachable, match="the answer to 'status' is no JSON object"):
            AdminClient(path, 20).call("status")
        thread.join(20)
