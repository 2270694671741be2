"""The admin wire: one JSON object per line, request and answer, over a unix stream socket (0600).

Knows: framing, limits, the socket file and who may replace it. Must not know what a command
means: handlers do. A request is `{"command": NAME, ...}`; its answer is an object, or
`{"error": LINE, "code": CODE}`. Nothing that a client sends ends the server: bad bytes are
answered and counted. The socket file of a dead process is replaced; that of a live one is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bgf.errors import BgfError, EnvironmentProblem

Json = dict[str, Any]
Handler = Callable[[Json], Json | Awaitable[Json]]

REQUEST_BYTES_MAX: Final = 64 * 1024
RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
CLIENTS_MAX: Final = 16
IDLE_S_MAX: Final = 30.0
HANDLER_S_MAX: Final = 10.0
SEND_S_MAX: Final = 10.0
LOCK_TRIES_MAX: Final = 50
LOCK_RETRY_MS: Final = 20
PROBE_TIMEOUT_S: Final = 1.0
PATH_BYTES_MAX: Final = 107  # sun_path, unix(7), less its terminating NUL
SHOWN_CHARS_MAX: Final = 80


class AdminUnreachable(EnvironmentProblem):
    """Nobody answers on the admin socket: the process is not running, or hangs."""

    code = "unreachable"


class AdminRefused(BgfError):
    """The process answered with an error; `code` is the one it gave."""

    def __init__(self, line: str, code: str) -> None:
        super().__init__(line)
        self.code = code


@dataclass(slots=True)
class AdminStats:
    """What the server has seen since it started. `bad` counts requests that are no request."""

    requests: int = 0
    bad: int = 0
    errors: int = 0
    refused_clients: int = 0


class AdminServer:
    """Serves `handlers` on `path`. Handlers may be coroutines; a BgfError becomes its answer."""

    def __init__(self, path: str | Path, handlers: Mapping[str, Handler]) -> None:
        self.path = Path(path)
        self.stats = AdminStats()
        self._handlers = dict(handlers)
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> AdminServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind and serve. Raises EnvironmentProblem when the path cannot be used or is taken."""
        _check_length(self.path)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            listener = await self._bind()
        except OSError as problem:
            raise EnvironmentProblem(
                f"admin socket {self.path} cannot be made: {problem.strerror}"
            ) from None
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=REQUEST_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop serving, end the clients and remove the socket file if it is still ours."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._inode:
                self.path.unlink()

    async def _bind(self) -> socket.socket:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two processes that start together must not both find the socket stale.
            for left in range(LOCK_TRIES_MAX, -1, -1):
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not left:
                        raise EnvironmentProblem(
                            f"admin socket {self.path}: another process holds a lock on "
                            f"{self.path.parent}: end it or choose another run_dir"
                        ) from None
                await asyncio.sleep(LOCK_RETRY_MS / 1000)
            _clear(self.path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                before = os.umask(0o177)  # no moment at which others could connect
                try:
                    listener.bind(str(self.path))
                finally:
                    os.umask(before)
                listener.listen(CLIENTS_MAX)
                status = self.path.lstat()
            except BaseException:
                listener.close()
                raise
            self._inode = (status.st_dev, status.st_ino)
            return listener
        finally:
            os.close(directory)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > CLIENTS_MAX:
                self.stats.refused_clients += 1
                await _send(writer, _error(f"{CLIENTS_MAX} clients already: try later", "busy"))
            else:
                await self._converse(reader, writer)
        except (OSError, TimeoutError):
            pass  # the client went away or stopped reading: its loss
        except asyncio.CancelledError:
            pass  # closing; a cancelled stream callback would be logged as an error
        finally:
            self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S_MAX):
                    line = await reader.readline()
            except ValueError:
                # Past the limit there is no telling where the next request begins: end it.
                self.stats.bad += 1
                await _send(
                    writer, _error(f"a request may have {REQUEST_BYTES_MAX} bytes", "too-big")
                )
                return
            if not line:
                return
            await _send(writer, await self._answer(line))

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            command = request["command"]
            if not isinstance(command, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            self.stats.bad += 1
            return _error('not a request: send one line, {"command": NAME, ...}', "malformed")
        self.stats.requests += 1
        handler = self._handlers.get(command)
        if handler is None:
            self.stats.errors += 1
            known = ", ".join(sorted(self._handlers)) or "none"
            shown = command[:SHOWN_CHARS_MAX]
            return _error(f"unknown command {shown!r}: known are {known}", "unknown-command")
        try:
            async with asyncio.timeout(HANDLER_S_MAX):
                outcome = handler(request)
                answer = await outcome if inspect.isawaitable(outcome) else outcome
            encoded = json.dumps(answer, separators=(",", ":")).encode()
        except BgfError as error:
            self.stats.errors += 1
            return _error(str(error), error.code)
        except TimeoutError:
            self.stats.errors += 1
            return _error(f"'{command}' took longer than {HANDLER_S_MAX:g} s", "timeout")
        except Exception as error:
            # An admin question must never end the process that it asks about.
            self.stats.errors += 1
            return _error(f"'{command}' failed: {type(error).__name__}: {error}", "internal")
        if len(encoded) >= RESPONSE_BYTES_MAX:
            self.stats.errors += 1
            return _error(f"the answer is over {RESPONSE_BYTES_MAX} bytes", "too-big")
        return encoded


def _error(line: str, code: str) -> bytes:
    return json.dumps({"error": " ".join(line.split()), "code": code}).encode()


async def _send(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer + b"\n")
    async with asyncio.timeout(SEND_S_MAX):
        await writer.drain()


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise EnvironmentProblem(
            f"admin socket {path}: longer than {PATH_BYTES_MAX} bytes (unix(7)): "
            "choose a shorter run_dir"
        )


def _clear(path: Path) -> None:
    """Remove the socket file of a dead process. Raises EnvironmentProblem for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EnvironmentProblem(f"admin socket {path}: a file of another kind is there: move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            owner = ""  # its queue is full: it lives, though it does not answer
        else:
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            owner = f" (pid {struct.unpack('3i', credentials)[0]})"
    raise EnvironmentProblem(
        f"admin socket {path} is taken by a running process{owner}: stop it first"
    )


class AdminClient:
    """Blocking client of one process. A call opens, asks once and closes, within `timeout_s`."""

    def __init__(self, path: str | Path, timeout_s: float = 2.0) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s

    def call(self, command: str, **arguments: object) -> Json:
        """The answer's object.

        Raises AdminUnreachable when nobody answers in time or the answer is no JSON object,
        AdminRefused (with the process's own line and code) when the answer is an error.
        """
        _check_length(self.path)
        request = json.dumps({"command": command, **arguments}).encode() + b"\n"
        deadline = time.monotonic() + self.timeout_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as wire:
                wire.settimeout(self.timeout_s)
                wire.connect(str(self.path))
                # A server that refuses before it reads has answered: the answer says more.
                with contextlib.suppress(BrokenPipeError):
                    wire.sendall(request)
                line = b"".join(_until_newline(wire, deadline))
        except (TimeoutError, BlockingIOError):
            raise AdminUnreachable(
                f"{self.path}: no answer to '{command}' in {self.timeout_s:g} s: "
                "the process hangs or is overloaded"
            ) from None
        except OSError as problem:
            why = {
                FileNotFoundError: "no such socket: the process is not running",
                ConnectionRefusedError: "nobody listens: the process has died",
                PermissionError: "not permitted: run as the user of that process",
            }.get(type(problem), problem.strerror or type(problem).__name__)
            raise AdminUnreachable(f"{self.path}: {why}") from None
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise AdminUnreachable(f"{self.path}: the answer to '{command}' is no JSON object")
        if "error" in answer:
            raise AdminRefused(str(answer["error"]), str(answer.get("code", "error")))
        return answer


def _until_newline(wire: socket.socket, deadline: float) -> Iterator[bytes]:
    received = 0
    while received < RESPONSE_BYTES_MAX:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        wire.settimeout(left_s)
        piece = wire.recv(1 << 16)
        received += len(piece)
        yield piece
        if not piece or piece.endswith(b"\n"):
            return
