"""`bgfctl support-bundle`: what we would ask for when something is wrong, in one file, no secrets.

Knows: which questions, files and commands tell something, what a secret looks like. Must not know
what any of it means. Nothing that is collected is a call: Call-IDs stand in log lines alone.
"""

from __future__ import annotations

import io
import json
import platform
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from bgf import __version__
from bgf.admin import Json
from bgf.ctl import client
from bgf.ctl.cli import OK, examples
from bgf.ctl.nodes_option import on_nodes
from bgf.errors import EnvironmentProblem

QUESTIONS: Final = (
    *(("state", one) for one in ("state", "metrics")),
    *(("gateway", one) for one in ("status", "figures", "recorded")),
    *(("failover", one) for one in ("status", "timeline", "ready")),
)
COMMANDS: Final = (
    *("uname -a", "ip -d -s address", "ip route show table all", "ip neigh", "ss -lntup", "uptime"),
    *("free -m", "df -h", "bpftool link", "bpftool prog", "chronyc tracking", "dmesg --level=err"),
    "journalctl --no-pager -o short-precise -n 20000 -u bgf-state -u bgf-gateway -u bgf-failover "
    "-u bgf-monitor",
    "systemctl --no-pager status bgf-state bgf-gateway bgf-failover bgf-monitor",
)
FILES: Final = ("/etc/os-release", "/proc/meminfo", "/proc/interrupts", "/proc/net/softnet_stat")
COMMAND_S_MAX: Final = 20.0
FILE_BYTES_MAX: Final = 4 << 20
LOGS_MAX: Final = 64
GONE: Final = "[removed]"
SECRETS: Final = (
    re.compile(r"\b[0-9a-fA-F]{64}\b"),  # a cluster key
    re.compile(r"(?<=inline:)[A-Za-z0-9+/=|:]+"),  # SDES, RFC 4568
    re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?-----END [^-]*PRIVATE KEY-----", re.S),
    re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"),  # user and password in an address
    re.compile(r"(?i)(?<=authorization: )\S.*"),
    re.compile(r"""(?i)(?:(?<=password)|(?<=secret)|(?<=token))["']?\s*[:=]\s*["']?[^\s"',}]+"""),
)


def redact(text: str) -> str:
    """Without anything that opens something."""
    for secret in SECRETS:
        text = secret.sub(GONE, text)
    return text


@click.command(
    "support-bundle",
    epilog=examples(
        "bgfctl support-bundle",
        "bgfctl support-bundle --output case-17.tar.gz --config /etc/bgf/node.toml",
    ),
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Default: bgf-support-TIME.tar.gz, here.",
)  # fmt: skip
@on_nodes
def support_bundle(nodes: list[client.Node], output: Path | None) -> int:
    """Collect what helps to find out what is wrong: states, histories, logs, the machine. No keys.

    Key files are never read; what looks like a key or a password in anything else is replaced. Log
    lines carry Call-IDs and addresses: look into the file before you send it on. Run it on each
    node.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = output or Path(f"bgf-support-{stamp}.tar.gz")
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        with tarfile.open(path, "w:gz") as bundle:
            parts = 0
            for name, text in _parts(nodes):
                data = redact(text).encode("utf-8", "backslashreplace")[:FILE_BYTES_MAX]
                about = tarfile.TarInfo(f"bgf-support-{stamp}/{name}")
                about.size, about.mode, about.mtime = len(data), 0o600, int(_now_s())
                bundle.addfile(about, io.BytesIO(data))
                parts += 1
    except OSError as problem:
        raise EnvironmentProblem(f"{path}: {problem.strerror or problem}") from None
    print(f"{path}: {parts} parts, {path.stat().st_size:,} bytes; read it before you send it on")
    return OK


def _parts(nodes: Sequence[client.Node]) -> Iterator[tuple[str, str]]:
    yield "versions.txt", f"bgf {__version__}\npython {platform.python_version()}\n"
    groups: set[str] = set()
    for process, question in QUESTIONS:
        for answer in client.ask(nodes, (process,), question):
            groups |= client.table((answer.value or {}).get("owners")).keys()
            yield f"{answer.node}/{process}-{question}.json", _json(answer.as_json())
    for group in sorted(groups)[: client.NODES_MAX]:
        for answer in client.ask(nodes, ("failover", "gateway"), "history", group=group):
            yield f"{answer.node}/{answer.process}-history-{group}.json", _json(answer.as_json())
    for node in nodes:
        for log in sorted(_logs(node))[:LOGS_MAX]:
            yield f"{node.id}/log/{log.name}", _tail(log)
    for file in FILES:
        yield f"machine{file}", _tail(Path(file))
    for number, command in enumerate(COMMANDS):
        name = "-".join(re.findall(r"[a-z]+", command)[:3])
        yield f"machine/{number:02}-{name}.txt", _output(command)


def _logs(node: client.Node) -> Iterator[Path]:
    """A lab's log files; a machine's own are in its journal."""
    try:
        yield from (node.run_dir.parent / "log").glob(f"{node.id}-*.log")
    except OSError:
        return


def _json(value: Json) -> str:
    return json.dumps(value, indent=1) + "\n"


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-FILE_BYTES_MAX:].decode("utf-8", "replace")
    except OSError as problem:
        return f"{path}: {problem.strerror}\n"


def _output(command: str) -> str:
    try:
        done = subprocess.run(
            command.split(), capture_output=True, text=True, errors="replace",
            timeout=COMMAND_S_MAX, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"$ {command}\n{problem}\n"
    return f"$ {command}\n{done.stdout}{done.stderr}"


def _now_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)
