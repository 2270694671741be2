"""`rtpload` on the command line: send RTP, time what arrives, or try both on a switch of its own.

Knows: click, rich and `rtpload`. Must not decide anything: it parses, calls and prints.
`rtpload` below is the click group that `bgfctl` adds; `python -m bgf.lab.rtpload_main` is the
same alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bgf.errors import BgfError, Misuse
from bgf.lab import report
from bgf.lab.rtpclock import PACKETS_PER_SECOND_MAX, SECOND_NS
from bgf.lab.rtpload import FLOOD_RATE_MAX, Flood, FlowReport, Generator, Meter, StreamSpec
from bgf.lab.rtpsegment import INTERFACE, Segment
from bgf.model import PORT_MAX, Address

ROWS_MAX = 40
"""Flows shown in the table; all of them are in the JSON."""

SECONDS_MAX = 3_600
SETTLE_S = 0.5
EXIT_MISUSE = 2
BENCH_PREFIX = "bgf-rtpbench"

_seconds = click.option(
    "--seconds", type=click.FloatRange(0.1, SECONDS_MAX), default=5.0, show_default=True
)
_netns = click.option("--netns", required=True, help="Network namespace, by name.")
_interface = click.option("--interface", required=True, help="Interface in that namespace.")
_streams_option = click.option(
    "--streams", "count", type=click.IntRange(1), default=1, show_default=True
)
_json = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write figures."
)


@click.group()
def rtpload() -> None:
    """RTP load in XDP, and the meter that times it (Linux 5.18, root)."""


@rtpload.command()
@_netns
@_interface
@click.option("--from", "source", required=True, metavar="HOST:PORT", help="First source.")
@click.option("--to", "destination", required=True, metavar="HOST:PORT", help="First destination.")
@_streams_option
@click.option(
    "--rate",
    type=click.IntRange(1, PACKETS_PER_SECOND_MAX),
    default=50,
    show_default=True,
    help="Packets/s per stream.",
)
@_seconds
@_json
def send(
    *,
    netns: str,
    interface: str,
    source: str,
    destination: str,
    count: int,
    rate: int,
    seconds: float,
    json_file: Path | None,
) -> None:
    """Send COUNT streams; each next one uses ports that are higher by two."""
    streams = _streams(Address.parse(source), Address.parse(destination), count, 1)
    with Generator(netns, interface, streams, rate) as generator:
        generator.start()
        time.sleep(seconds)
        counts = generator.stop()
    _tell(asdict(counts), json_file)


@rtpload.command()
@_netns
@_interface
@click.option("--from", "source", required=True, metavar="HOST:PORT", help="First source.")
@click.option("--to", "destination", required=True, metavar="HOST:PORT", help="First destination.")
@_streams_option
@click.option(
    "--rate",
    type=click.IntRange(0, FLOOD_RATE_MAX),
    default=0,
    help="Packets/s of all streams together; 0 is as many as the interface takes.",
)
@click.option("--cpu", type=click.IntRange(0), default=0, show_default=True, help="To be held.")
@_seconds
@_json
def flood(
    *,
    netns: str,
    interface: str,
    source: str,
    destination: str,
    count: int,
    rate: int,
    cpu: int,
    seconds: float,
    json_file: Path | None,
) -> None:
    """Send as many packets as asked for, evenly spaced, or as many as the interface takes.

    One processor is held meanwhile. What the interface refused, `ethtool -S` tells.
    """
    streams = _streams(Address.parse(source), Address.parse(destination), count, 1)
    with Flood(netns, interface, streams, cpu=cpu) as flooding:
        flooding.run(rate)
        time.sleep(seconds)
        counts = flooding.stop()
    _tell(asdict(counts), json_file)


@rtpload.command()
@_netns
@_interface
@click.option("--watch", multiple=True, metavar="HOST", help="Record only RTP to these hosts.")
@click.option("--from", "source", metavar="HOST:PORT", help="First source that is expected.")
@click.option("--to", "destination", metavar="HOST:PORT", help="First destination expected.")
@_streams_option
@_seconds
@_json
def meter(
    *,
    netns: str,
    interface: str,
    watch: Sequence[str],
    source: str | None,
    destination: str | None,
    count: int,
    seconds: float,
    json_file: Path | None,
) -> None:
    """Record the RTP that arrives; generated packets are consumed, others pass.

    Per flow: packets, the largest gap, how long it has been silent, packets lost, late, twice, and
    from or to a wrong place. With --from and --to the streams are those that `send` with the same
    options sends, as seen here, and every other generated packet is in the wrong place.
    """
    if (source is None) != (destination is None):
        raise Misuse("--from and --to go together: they say which streams are expected")
    with Meter(netns, interface, watch=[Address.of(h, 0).host for h in watch]) as attached:
        if source is not None and destination is not None:
            attached.expect(_streams(Address.parse(source), Address.parse(destination), count, 1))
        time.sleep(seconds)
        flows, totals = attached.flows(), attached.totals()
    _show(flows, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    _tell(asdict(totals), json_file, flows=[_plain(f) for f in flows])


@rtpload.command()
@click.option("--streams", "count", type=click.IntRange(2), default=2_000, show_default=True)
@click.option(
    "--rate",
    type=click.IntRange(1, PACKETS_PER_SECOND_MAX),
    default=50,
    help="Packets/s per stream.",
)
@_seconds
@_json
def bench(count: int, rate: int, seconds: float, json_file: Path | None) -> None:
    """Send through a switch of its own, half over IPv6, and say what that cost this machine."""
    half = count // 2
    streams = [
        *_streams(Address("10.9.0.1", 4000), Address("10.9.0.2", 4000), half, 1),
        *_streams(Address("fd00:9::1", 4000), Address("fd00:9::2", 4000), count - half, half + 1),
    ]
    streams.sort(key=lambda stream: stream.destination.port)  # the families by turns
    hosts = {"a": ("10.9.0.1/24", "fd00:9::1/64"), "b": ("10.9.0.2/24", "fd00:9::2/64")}
    prefix = f"{BENCH_PREFIX}-{os.getpid()}"
    with (
        Segment(prefix, hosts) as segment,
        Meter(segment.namespace("b"), INTERFACE) as attached,
        Generator(segment.namespace("a"), INTERFACE, streams, rate) as generator,
    ):
        attached.expect(streams)
        generator.start()
        time.sleep(SETTLE_S)
        attached.reset_gaps()
        before, busy_before_s, before_s = generator.counts(), _busy_s(), time.monotonic()
        time.sleep(seconds)
        after, busy_after_s, after_s = generator.counts(), _busy_s(), time.monotonic()
        busy = (busy_after_s - busy_before_s) / (after_s - before_s)
        cpu = (after.cpu_ns - before.cpu_ns) / SECOND_NS / (after_s - before_s)
        counts = generator.stop()
        time.sleep(SETTLE_S)
        flows, totals = attached.flows(), attached.totals()
    asked = len(streams) * rate * (after_s - before_s)
    rows = [
        report.row(
            "rtpload sent", after.sent - before.sent, "packets", f">= {asked * 0.95:.0f}", asked
        ),
        report.row("rtpload lost", counts.sent - totals.generated, "packets", "== 0", None),
        report.row("rtpload bad UDP checksums", totals.bad_checksum, "packets", "== 0", None),
        report.row("rtpload generator", cpu, "cores", "<= 1", None),  # and all its packets' way
    ]
    instrument = {
        "machine_busy_cores": busy,
        "skipped": counts.skipped,
        "late_max_ms": counts.late_max_ns / 1e6,
        "largest_gap_ms": max(f.max_gap_ns for f in flows) / 1e6,
        "mean_delay_us": totals.delay_sum_ns / max(1, totals.generated) / 1e3,
    }
    _tell({r["name"]: f"{r['value']} {r['unit']}" for r in rows} | instrument, None)
    if json_file:
        head = {"machine": report.machine(), "commit": report.commit(), "seed": 0}
        json_file.write_text(json.dumps({**head, "rows": rows, **instrument}, indent=1) + "\n")


def _busy_s() -> float:
    """CPU seconds that the whole machine, others' work too, has spent on anything but idling."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def _streams(source: Address, destination: Address, count: int, ssrc: int) -> list[StreamSpec]:
    last = max(source.port, destination.port) + 2 * (count - 1)
    if last > PORT_MAX:
        raise Misuse(f"{count} streams need ports up to {last}; begin lower or send fewer")
    return [
        StreamSpec(
            Address(source.host, source.port + 2 * i),
            Address(destination.host, destination.port + 2 * i),
            ssrc + i,
        )
        for i in range(count)
    ]


def _plain(flow: FlowReport) -> dict[str, Any]:
    return {**asdict(flow), "destination": str(flow.destination), "source": str(flow.source)}


def _show(flows: Sequence[FlowReport], now_ns: int) -> None:
    table = Table("destination", "source", "ssrc")
    for name in ("packets", "largest gap ms", "silent ms", "lost", "late", "twice", "wrong"):
        table.add_column(name, justify="right")
    for flow in flows[:ROWS_MAX]:
        silent = f"{(now_ns - flow.last_ns) / 1e6:.1f}" if flow.last_ns else "never heard"
        table.add_row(
            str(flow.destination),
            str(flow.source),
            f"{flow.ssrc:#x}",
            str(flow.packets),
            f"{flow.max_gap_ns / 1e6:.1f}",
            silent,
            str(flow.lost),
            str(flow.reordered),
            str(flow.duplicates),
            str(flow.wrong_source + flow.wrong_destination),
        )
    console = Console()
    console.print(table)
    if len(flows) > ROWS_MAX:
        console.print(f"... and {len(flows) - ROWS_MAX} more flows")


def _tell(numbers: dict[str, Any], json_file: Path | None, **more: Any) -> None:
    table = Table(show_header=False)
    for name, value in numbers.items():
        table.add_row(name, str(value))
    Console().print(table)
    if json_file:
        json_file.write_text(json.dumps({**numbers, **more}, indent=1) + "\n")


def main() -> int:
    """The group alone; errors of ours are one line and exit code 2."""
    try:
        rtpload(prog_name="rtpload")
    except BgfError as problem:
        click.echo(f"rtpload: {problem}", err=True)
        return EXIT_MISUSE
    return 0


if __name__ == "__main__":
    sys.exit(main())
