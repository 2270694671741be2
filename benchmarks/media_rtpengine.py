"""rtpengine of Debian, in userspace, in the gateway's place: started, given calls, ended.

Knows: its command line and what a proxy asks of it by `ng`. Must not know rates. Its kernel module
is not used (`--table=-1`): that is how it runs where nobody builds one.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import media_flows
from benchmarks.media_rig import (
    ACCESS,
    ACCESS4,
    CORE,
    CORE4,
    FORWARD_CPU,
    FORWARD_NICE,
    Rig,
    media_host,
)
from bgf.control.bencode import Encodable, TextValue
from bgf.control.client import NgClient
from bgf.control.sdp import Sdp
from bgf.errors import BgfError, EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.ngload import session_sdp
from bgf.lab.rtpload import StreamSpec
from bgf.model import Address

BINARY: Final = "rtpengine"
CONTROL: Final = Address("127.0.0.1", 2223)
PORTS: Final = (10_000, 65_000)
CALLS_MAX: Final = 10_000
READY_S: Final = 20.0
STEP_S: Final = 0.05
END_S: Final = 10.0
WINDOW: Final = 16
LOG_CHARS: Final = 300
SOCKETS: Final = 4
"""Of one call: RTP and RTCP on both sides."""
DESCRIPTORS: Final = 256
"""Of its own."""


def version() -> str:
    """As it says itself."""
    done = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().removeprefix("Version: ")


@contextlib.contextmanager
def rtpengine(rig: Rig, calls: int, directory: Path) -> Iterator[tuple[Sequence[StreamSpec], int]]:
    """The streams of `calls` calls, one direction each, and its process. See media_lanes.around."""
    if shutil.which(BINARY) is None:
        raise EnvironmentProblem(f"{BINARY} is missing; scripts/setup.sh installs it")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 1 <= calls <= CALLS_MAX or SOCKETS * calls + DESCRIPTORS > hard:
        raise EnvironmentProblem(
            f"{calls} calls of {SOCKETS} sockets: at most {CALLS_MAX}, and {hard} descriptors here"
        )
    command = [
        *("prlimit", f"--nofile={hard}:{hard}", "setpriv", "--pdeathsig", "KILL", "--"),
        *rig.inside("gw", "nice", "-n", str(FORWARD_NICE)),
        *("taskset", "-c", str(FORWARD_CPU), BINARY),
        *("--config-file=none", "--foreground", "--log-stderr", "--log-level=4", "--table=-1"),
        f"--interface={ACCESS}/{media_host(ACCESS4, 0)}",
        f"--interface={CORE}/{media_host(CORE4, 0)}",
        f"--listen-ng={CONTROL}",
        f"--port-min={PORTS[0]}",
        f"--port-max={PORTS[1]}",
        *("--timeout=3600", "--silent-timeout=3600", "--num-threads=2"),
    ]
    log = directory / "rtpengine.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=directory
        )
    try:
        streams = namespaces.run_in(rig.name("gw"), partial(_open, process, calls, log))
        yield streams, process.pid
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _open(process: subprocess.Popen[bytes], calls: int, log: Path) -> list[StreamSpec]:
    with NgClient(CONTROL) as client:
        _until_ready(client, process, log)
        offers = client.call_many([_offer(n) for n in range(calls)], WINDOW)
        for number, reply in enumerate(offers):
            _address(f"offer {number}", reply)
        answers = client.call_many([_answer(n) for n in range(calls)], WINDOW)
        return [
            StreamSpec(media_flows.caller(n, False), _address(f"answer {n}", reply), n + 1)
            for n, reply in enumerate(answers)
        ]


def _until_ready(client: NgClient, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    client.timeout_s, client.tries, patience = STEP_S, 1, (client.timeout_s, client.tries)
    while True:
        with contextlib.suppress(BgfError):
            if client.call({"command": "ping"}).get("result") == "pong":
                client.timeout_s, client.tries = patience
                return
        if process.poll() is not None or time.monotonic() > deadline:
            said = " ".join(log.read_text(errors="replace").split())[-LOG_CHARS:]
            raise EnvironmentProblem(f"{BINARY} does not answer: {said}")


def _offer(number: int) -> dict[str, Encodable]:
    return {
        "command": "offer",
        "call-id": f"call-{number}",
        "from-tag": "caller",
        "direction": [ACCESS, CORE],
        "ICE": "remove",
        "replace": ["origin", "session-connection"],
        "sdp": session_sdp(media_flows.caller(number, False)),
    }


def _answer(number: int) -> dict[str, Encodable]:
    return {
        "command": "answer",
        "call-id": f"call-{number}",
        "from-tag": "caller",
        "to-tag": "callee",
        "ICE": "remove",
        "replace": ["origin", "session-connection"],
        "sdp": session_sdp(media_flows.callee(number, False)),
    }


def _address(what: str, reply: dict[str, TextValue] | None) -> Address:
    sdp = (reply or {}).get("sdp")
    if reply is None or not isinstance(sdp, str):
        reason = (reply or {}).get("error-reason") or "no answer"
        raise EnvironmentProblem(f"{BINARY}, {what}: {reason}")
    return Sdp(sdp).media[0].rtp
