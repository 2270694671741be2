"""The figures of one state server as Prometheus reads them: text, or an HTTP port of their own.

Knows: names, units and kinds of the figures. Must not know: how they came about. What it is given
is a `Reading`; a figure that is missing there is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from statestore.errors import Unavailable

BUCKETS_MAX: Final = 32  # power-of-two microseconds: the last one is over half an hour
LATENCY: Final = re.compile(r"(?:(local|remote)_)?latency_([a-z]+)_(\d+)")

# name of a figure -> (name of the metric, what it says)
SEGMENT_COUNTERS: Final = {
    "writes": ("dal_writes", "Values published in this host's memory."),
    "creates": ("dal_creates", "Items made in this host's memory."),
    "deletes": ("dal_deletes", "Items removed from this host's memory."),
    "retries": ("dal_retries", "Copies or publishes tried again because somebody else wrote."),
    "auth_misses": ("dal_auth_misses", "Handles that named an incarnation which was gone."),
    "lock_takeovers": ("dal_lock_takeovers", "Locks taken over from dead clients."),
    "lock_steals": ("dal_lock_steals", "Locks taken from stopped clients."),
    "fenced": ("dal_fenced", "Writes refused because their grant was older than the fence."),
}
NODE_COUNTERS: Final = {
    "moves": ("dal_migrations", "Items that changed their master by a move."),
    "moves_failed": ("dal_migrations_failed", "Moves that were given up."),
    "promoted": ("dal_promoted", "Items whose copy here became the master."),
    "confirmed": ("dal_confirmed", "Inherited items whose copies had them already, by number."),
    "lost": ("dal_lost", "Items whose only copy died with its master."),
    "repaired": ("dal_repaired", "Missing copies made again."),
    "copies": ("dal_copies_sent", "Values sent to replicas."),
    "copies_applied": ("dal_copies_applied", "Values taken from masters."),
    "stale": ("dal_stale", "Messages of an older view, refused."),
    "later": ("dal_later", "Messages that came before their view or their place in the map."),
    "misses": ("dal_request_misses", "Requests for an incarnation which was gone here."),
    "in_doubt": ("dal_in_doubt", "Operations whose outcome could not be told."),
    "refused": ("dal_refused", "Requests refused."),
    "overruns": ("dal_feed_overruns", "Times the change feed was lost and all items were walked."),
    "expired": ("dal_expired", "Items whose time to live was over."),
    "link_unauthentic": ("dal_unauthentic", "Datagrams that no known key opens."),
    "link_replayed": ("dal_replayed", "Datagrams that came twice."),
    "link_malformed": ("dal_malformed", "Datagrams that are none of ours."),
    "link_unknown_key": ("dal_unknown_key", "Datagrams sealed with a key that is not in the file."),
    "link_datagrams_in": ("dal_datagrams_in", "Datagrams received."),
    "link_datagrams_out": ("dal_datagrams_out", "Datagrams sent."),
    "link_bytes_in": ("dal_bytes_in", "Bytes received."),
    "link_bytes_out": ("dal_bytes_out", "Bytes sent."),
}
NODE_GAUGES: Final = {
    "applied": ("dal_map_applied", "Last operation of the key map that was applied."),
    "committed": ("dal_map_committed", "Last operation of the key map that every member has."),
    "masters": ("dal_masters", "Items whose master is this member."),
    "replicas": ("dal_replicas", "Items of which this member holds a copy for another."),
    "stubs": ("dal_stubs", "Items of which this member knows only where they are."),
    "damaged": ("dal_damaged", "Items in memory here that make no sense: passed over."),
    "dirty": ("dal_ring_depth", "Changed items that wait to be copied."),
    "flight": ("dal_copies_in_flight", "Copies sent and not acknowledged."),
    "moving": ("dal_migrating", "Moves and repairs under way."),
    "proposals": ("dal_proposals", "Operations of the key map proposed and not yet done."),
    "requests": ("dal_requests_waiting", "Requests of clients not yet answered."),
    "sessions": ("dal_sessions", "Clients known."),
    "inboxes": ("dal_inboxes", "Inboxes known."),
    "repairing": ("dal_repairing", "1: missing copies are looked for and made."),
}
PHASES: Final = ("outside", "joining", "changing", "active")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a server knows of itself at one moment. `node` is empty for an embedded store."""

    segment: Mapping[str, int] = field(default_factory=dict)
    node: Mapping[str, int] = field(default_factory=dict)
    lease_left_ns: int = 0
    registry_ok: bool = True
    log_lines: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Constant ones, such as the node's name."""


class _Collector:
    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        reading = self._read()
        yield from _segment(reading)
        if reading.node:
            yield from _member(reading)
            yield from _latencies(reading)
        lines = CounterMetricFamily(
            "dal_log_lines", "Lines said in the log.", labels=_names(reading, "level")
        )
        for level, count in sorted(reading.log_lines.items()):
            lines.add_metric(_values(reading, level), count)
        yield lines


def _names(reading: Reading, *more: str) -> list[str]:
    return [*reading.labels, *more]


def _values(reading: Reading, *more: str) -> list[str]:
    return [*reading.labels.values(), *more]


def _gauge(reading: Reading, name: str, what: str, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=_names(reading))
    family.add_metric(_values(reading), value)
    return family


def _counter(reading: Reading, name: str, what: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, what, labels=_names(reading))
    family.add_metric(_values(reading), value)
    return family


def _segment(reading: Reading) -> Iterator[Metric]:
    figures = reading.segment
    for key, (name, what) in SEGMENT_COUNTERS.items():
        if key in figures:
            yield _counter(reading, name, what, figures[key])
    if "items" in figures:
        yield _gauge(reading, "dal_items", "Items known here, stubs included.", figures["items"])
    if "clients" in figures:
        what = "Processes and threads that have the segment open."
        yield _gauge(reading, "dal_clients", what, figures["clients"])
    if "total" in figures:
        memory = GaugeMetricFamily(
            "dal_memory_bytes", "The segment's memory.", labels=_names(reading, "kind")
        )
        free = figures.get("free", 0)
        for kind, value in (
            ("total", figures["total"]),
            ("free", free),
            ("used", figures["total"] - free),
        ):
            memory.add_metric(_values(reading, kind), value)
        yield memory


def _member(reading: Reading) -> Iterator[Metric]:
    figures = reading.node
    for key, (name, what) in NODE_COUNTERS.items():
        if key in figures:
            yield _counter(reading, name, what, figures[key])
    for key, (name, what) in NODE_GAUGES.items():
        if key in figures:
            yield _gauge(reading, name, what, figures[key])
    yield _gauge(reading, "dal_view_epoch", "Epoch of the view.", figures.get("epoch", 0))
    yield _gauge(reading, "dal_serving", "1: serves its clients.", figures.get("serving", 0))
    yield _gauge(reading, "dal_leading", "1: sequences the key map.", figures.get("leading", 0))
    left_s = max(0, reading.lease_left_ns) / 1e9
    yield _gauge(reading, "dal_lease_left_seconds", "How long it may serve yet.", left_s)
    what = "1: the registry answered when last asked."
    yield _gauge(reading, "dal_registry_up", what, int(reading.registry_ok))
    phases = GaugeMetricFamily(
        "dal_phase", "1 for the phase this member is in.", labels=_names(reading, "phase")
    )
    for number, phase in enumerate(PHASES):
        phases.add_metric(_values(reading, phase), int(figures.get("phase", 0) == number))
    yield phases
    for prefix, metric, label, what in (
        ("requests_", "dal_requests", "operation", "Requests of clients, by operation."),
        ("replies_", "dal_replies", "status", "Replies to clients, by status."),
    ):
        family = CounterMetricFamily(metric, what, labels=_names(reading, label))
        for key, count in sorted(figures.items()):
            if key.startswith(prefix) and key not in NODE_GAUGES:
                family.add_metric(_values(reading, key.removeprefix(prefix)), count)
        yield family


def _latencies(reading: Reading) -> Iterator[Metric]:
    """`latency_<operation>_<n>`: how many took up to 2^n microseconds. What a server measures is
    remote by nature; a figure may say otherwise by `local_` in front."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for key, count in reading.node.items():
        match = LATENCY.fullmatch(key)
        if match is not None and int(match[3]) < BUCKETS_MAX:
            series = found.setdefault((match[2], match[1] or "remote"), {})
            series[int(match[3])] = count
    family = HistogramMetricFamily(
        "dal_operation_seconds",
        "Time from a request's arrival to its answer.",
        labels=_names(reading, "operation", "locality"),
    )
    for (operation, locality), series in sorted(found.items()):
        total, estimate_s, buckets = 0, 0.0, []
        for number in range(max(series) + 1):
            count = series.get(number, 0)
            total += count
            limit_s = 2**number / 1e6
            estimate_s += count * limit_s * 0.75  # the middle of a bucket that doubles
            buckets.append((f"{limit_s:.9g}", float(total)))
        buckets.append(("+Inf", float(total)))
        family.add_metric(_values(reading, operation, locality), buckets, estimate_s)
    yield family


def text(read: Callable[[], Reading]) -> str:
    """All figures now, in Prometheus' text form."""
    registry = CollectorRegistry()
    registry.register(_Collector(read))
    return generate_latest(registry).decode()


class Exporter:
    """`http://HOST:PORT/metrics`, from a thread of its own. Raises Unavailable: the address."""

    def __init__(self, host: str, port: int, read: Callable[[], Reading]) -> None:
        registry = CollectorRegistry()
        registry.register(_Collector(read))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise Unavailable(
                f"metrics address {host}:{port}: {error.strerror}; set another or free it"
            ) from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
