"""The state server's figures as Prometheus reads them."""

from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from statestore.errors import Unavailable
from statestore.metrics import Exporter, Reading, text

SEGMENT = {
    "items": 12,
    "total": 1000,
    "free": 400,
    "clients": 3,
    "writes": 7,
    "retries": 2,
    "auth_misses": 1,
}
NODE = {
    "phase": 3,
    "serving": 1,
    "leading": 0,
    "epoch": 5,
    "dirty": 4,
    "flight": 2,
    "moves": 9,
    "requests": 1,
    "requests_read": 10,
    "requests_write": 4,
    "replies_ok": 13,
    "latency_read_4": 6,
    "latency_read_6": 4,
    "latency_write_7": 4,
    "local_latency_read_0": 2,
    "latency_read_99": 1,
    "a_figure_of_tomorrow": 1,
}


def samples(reading: Reading) -> dict[tuple[str, tuple[str, ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text(lambda: reading)):
        assert family.documentation, family.name
        for one in family.samples:
            labels = tuple(v for k, v in sorted(one.labels.items()) if k != "node")
            assert (one.name, labels) not in found
            found[one.name, labels] = one.value
    return found


def test_an_embedded_store_tells_of_its_segment_alone() -> None:
    found = samples(Reading(SEGMENT))
    assert found["dal_items", ()] == 12
    assert found["dal_memory_bytes", ("used",)] == 600
    assert found["dal_retries_total", ()] == 2
    assert not any(name.startswith("dal_view") for name, _ in found)


def test_a_member_tells_its_place_its_work_and_its_latencies() -> None:
    reading = Reading(SEGMENT, NODE, 812_000_000, False, {"info": 5, "warning": 1}, {"node": "n1"})
    found = samples(reading)
    assert found["dal_view_epoch", ()] == 5
    assert found["dal_lease_left_seconds", ()] == pytest.approx(0.812)
    assert found["dal_registry_up", ()] == 0
    assert found["dal_ring_depth", ()] == 4
    assert found["dal_migrations_total", ()] == 9
    assert found["dal_auth_misses_total", ()] == 1
    assert found["dal_phase", ("active",)] == 1 and found["dal_phase", ("joining",)] == 0
    assert found["dal_requests_total", ("read",)] == 10
    assert found["dal_replies_total", ("ok",)] == 13
    assert ("dal_requests_total", ("waiting",)) not in found
    assert found["dal_log_lines_total", ("warning",)] == 1
    # Up to 16 us: 6; up to 64 us: 4 more; the impossible bucket is left out.
    assert found["dal_operation_seconds_bucket", ("1.6e-05", "remote", "read")] == 6
    assert found["dal_operation_seconds_bucket", ("6.4e-05", "remote", "read")] == 10
    assert found["dal_operation_seconds_count", ("remote", "read")] == 10
    assert found["dal_operation_seconds_count", ("local", "read")] == 2
    assert found["dal_operation_seconds_count", ("remote", "write")] == 4
    assert 'node="n1"' in text(lambda: reading)


def test_the_port_serves_what_is_true_when_asked() -> None:
    now = {"items": 1}
    exporter = Exporter("127.0.0.1", 0, lambda: Reading(dict(now)))
    try:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert b"dal_items 1.0" in reply.read()
        now["items"] = 2
        with urllib.request.urlopen(url, timeout=10) as reply:
            assert b"dal_items 2.0" in reply.read()
    finally:
        exporter.close()


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"metrics address 127.0.0.1:{port}"):
            Exporter("127.0.0.1", port, Reading)
