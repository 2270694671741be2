"""`bgfctl capture` and `bgfctl relatch`: what an operator does to the media of one call.

Knows click, the admin client, files. Must not know maps or packets: the gateway copies, this
writes down.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from bgf import pcap
from bgf.admin import AdminClient, Json
from bgf.ctl import client
from bgf.ctl.cli import FAILED, OK, as_json, examples, show, warn
from bgf.ctl.nodes_option import on_nodes, require_any
from bgf.ctl.render import plain
from bgf.errors import BgfError, EnvironmentProblem

FETCH_MS: Final = 100
SNAP_BYTES_DEFAULT: Final = 256
SNAP_BYTES_MAX: Final = 16_384
SECONDS_DEFAULT: Final = 10.0
SECONDS_MAX: Final = 3_600.0
PACKETS_MAX: Final = 10_000_000


def one_call(
    nodes: Sequence[client.Node], command: str, call_id: str, **more: object
) -> client.Answer | None:
    """The answer of the node that carries the call; None when none does, and that is said."""
    answers = client.ask(nodes, ("gateway",), command, call_id=call_id, **more)
    for answer in answers:
        if answer.value is not None:
            return answer
    require_any(answers, "gateway")
    others = [f"{a.node} gateway: {a.error}" for a in answers if a.code != "unknown-call"]
    where = ", ".join(a.node for a in answers if a.code == "unknown-call")
    warn([*others, *([f"no call '{call_id}' on {where}"] if where else [])])
    return None


@click.command(epilog=examples("bgfctl relatch 1-4242@10.10.0.2"))
@click.argument("call_id")
@on_nodes
@as_json
def relatch(call_id: str, nodes: list[client.Node], as_json: bool) -> int:
    """Let a call's latching sides learn anew who sends to them (3GPP TS 23.334 clause 5.4.2).

    The senders known so far go on until others come. It survives failover.
    """
    answer = one_call(nodes, "relatch", call_id)
    if answer is None:
        return FAILED
    value = {"node": answer.node, **(answer.value or {})}
    show(value, plain("Relatch", value), as_json)
    return OK


@click.command(
    epilog=examples(
        "bgfctl capture 1-4242@10.10.0.2 -w call.pcap",
        "bgfctl capture 1-4242@10.10.0.2 -w call.pcap --seconds 60 --snap 1514",
    )
)
@click.argument("call_id")
@click.option(
    "-w", "--write", "path", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Where to write the pcap; a file that is there is replaced.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.1, SECONDS_MAX), default=SECONDS_DEFAULT,
    show_default=True, help="End after so long; Ctrl-C ends it earlier.",
)  # fmt: skip
@click.option(
    "--packets", type=click.IntRange(1, PACKETS_MAX), default=PACKETS_MAX,
    help="End after so many frames.",
)  # fmt: skip
@click.option(
    "--snap", type=click.IntRange(14, SNAP_BYTES_MAX), default=SNAP_BYTES_DEFAULT,
    show_default=True, help="Bytes kept of each frame.",
)  # fmt: skip
@on_nodes
@as_json
def capture(
    *,
    call_id: str,
    path: Path,
    seconds: float,
    packets: int,
    snap: int,
    nodes: list[client.Node],
    as_json: bool,
) -> int:
    """Write one call's packets, as they arrive and as they leave, from the fast path to a pcap.

    Other calls are not slowed down. One capture at a time on a node.
    """
    answer = one_call(nodes, "capture", call_id, snap_bytes=snap)
    if answer is None or answer.value is None:
        return FAILED
    node = next(node for node in nodes if node.id == answer.node)
    gateway = AdminClient(node.run_dir / "gateway.sock", client.TIMEOUT_S)
    number = answer.value.get("capture")
    try:
        with path.open("wb") as file:
            file.write(pcap.header(snap))
            found = _fetch(gateway, number, file, seconds=seconds, packets=packets)
    except OSError as problem:
        raise EnvironmentProblem(f"{path}: cannot be written: {problem.strerror}") from None
    finally:
        _end(gateway, number)
    value = {"node": answer.node, "call_id": call_id, "file": str(path), **found}
    show(value, plain("Capture", value), as_json)
    if found["lost"]:
        warn([f"{found['lost']} frames found no room and are not in the file"])
    return OK


def _fetch(
    gateway: AdminClient, number: object, file: BinaryIO, *, seconds: float, packets: int
) -> dict[str, Any]:
    """Frames into the file until time, packets or the operator's patience are over."""
    written, lost, deadline = 0, 0, time.monotonic() + seconds
    began_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    wall_ns = began_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        while written < packets:
            over = time.monotonic() >= deadline
            answer = gateway.call("capture-fetch", capture=number)
            frames = client.rows(answer.get("frames"))
            for frame in frames[: packets - written]:
                file.write(_record(frame, wall_ns))
                written += 1
            lost = client.number(answer.get("lost"))
            if over and answer.get("more") is not True:
                break
            if not frames:
                time.sleep(FETCH_MS / 1_000)
    except KeyboardInterrupt:
        pass  # what was captured until now is what was wanted
    return {"packets": written, "lost": lost}


def _record(frame: Json, wall_ns: int) -> bytes:
    try:
        raw = base64.b64decode(client.text(frame.get("frame")), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    length = max(len(raw), client.number(frame.get("length")))
    return pcap.record(wall_ns + client.number(frame.get("time_ns")), raw, length)


def _end(gateway: AdminClient, number: object) -> None:
    """A capture that cannot be ended ends by itself: nobody fetches from it any more."""
    with contextlib.suppress(BgfError):
        gateway.call("capture-end", capture=number)
