"""The monitor over HTTP: what it serves, what it refuses, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bgf.ctl.client import Node
from bgf.errors import EnvironmentProblem
from bgf.model import Address
from bgf.monitor import web
from bgf.monitor.drills import Drills
from bgf.monitor.monitor import Monitor
from tests.fakes.node_answers import all_of
from tests.fakes.nodes import FakeNodes, says

T = TypeVar("T")
LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture
def fakes() -> Iterator[FakeNodes]:
    made = FakeNodes()
    yield made
    made.close()


def serve_node(fakes: FakeNodes, run_dir: Path, node: str) -> Node:
    answers = all_of(node)
    directory = run_dir / node
    gateway = says(answers["gateway"])
    fakes.serve(directory / "gateway.sock", {"figures": gateway})
    event = {"event": "decided", "group": "g1", "node": node, "epoch": 3, "at_ns": 1,
             "sentence": f"{node} claims g1 at epoch 3", "reason": "", "last": "n9"}  # fmt: skip
    timeline = says({"events": [event, {"event": "armed"}, 7]})
    fakes.serve(
        directory / "failover.sock", {"status": says(answers["failover"]), "timeline": timeline}
    )
    text = says({"text": "# HELP dal_up x\n# TYPE dal_up gauge\ndal_up 1.0\n"})
    fakes.serve(directory / "state.sock", {"status": says(answers["state"]), "metrics": text})
    return Node(node, directory)


def on(monitor: Monitor, work: Callable[[Address], Awaitable[T]]) -> T:
    async def run() -> T:
        async with monitor:
            return await asyncio.wait_for(work(monitor.server.address), 30)

    return asyncio.run(run())


async def ask(address: Address, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    return int(first.split()[1]), headers, body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: n1\r\n\r\n".encode()


@pytest.fixture
def monitor(fakes: FakeNodes, tmp_path: Path) -> Monitor:
    drills = tmp_path / "drills"
    drills.mkdir()
    report = {
        "ok": True,
        "outage_ms": {"mean": 90.0, "max": 120.0},
        "timeline_ms": {"armed": 60.0},
        "rows": [{"name": "x", "value": 1, "met": True}, 4],
        "runs": [{"why": "w"}],
    }
    (drills / "one.json").write_text(json.dumps(report))
    (drills / "one.png").write_bytes(b"\x89PNG and more")
    (drills / "two.json").write_text("[not a report")
    (drills / "three.png").write_bytes(b"no picture")
    node = serve_node(fakes, tmp_path / "run", "n1")
    return Monitor(LOOPBACK, [node], [], Drills(drills))


def test_the_page_asks_for_nothing_from_outside(monitor: Monitor) -> None:
    async def work(address: Address) -> None:
        for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"),
                           ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")):  # fmt: skip
            status, headers, body = await ask(address, get(path))
            assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'") and "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            text = body.decode().replace("http://www.w3.org/2000/svg", "")
            assert "//" not in text.replace("// ", "") and "http" not in text
            assert " style=" not in text and "onclick" not in text and "innerHTML" not in text
            assert "<script>" not in text and "<style" not in text

    on(monitor, work)


def test_metrics_come_with_their_type(monitor: Monitor) -> None:
    async def work(address: Address) -> None:
        status, headers, body = await ask(address, get("/metrics?x=1"))
        assert (status, headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        text = body.decode()
        assert 'bgf_process_up{node="n1",process="gateway"} 1.0' in text and "dal_up 1.0" in text
        status, headers, body = await ask(address, get("/metrics", "HEAD"))
        assert (status, body) == (200, b"") and int(headers["content-length"]) > 1_000

    on(monitor, work)


def test_the_cluster_as_json_and_as_events(monitor: Monitor) -> None:
    async def work(address: Address) -> None:
        _, _, body = await ask(address, get("/cluster.json"))
        found = json.loads(body)
        assert found["groups"][0]["owner"] == "n1" and found["groups"][0]["lost"] == 18
        assert found["nodes"][0]["drops"] and found["nodes"][0]["slow"] == ["core"]
        (event,) = found["events"]
        assert event["sentence"] == "n1 claims g1 at epoch 3" and event["told_by"] == "n1"
        (drill,) = found["drills"]
        assert (drill["name"], drill["plot"]) == ("one", "/drills/one.png")
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(get("/events"))
        numbers: list[int] = []
        while len(numbers) < 2:
            line = await reader.readline()
            if line.startswith(b"data: "):
                numbers.append(json.loads(line[6:])["number"])
        assert numbers == [1, 2]
        writer.close()

    on(monitor, work)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nothing"), 404),
        (get("/drills/one.png"), 200),
        (get("/drills/three.png"), 404),
        (get("/drills/..%2f..%2fetc%2fpasswd"), 404),
        (get("/drills/../one.json"), 404),
        (get("/", "POST"), 405),
        (get("/metrics", "DELETE"), 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: n1\r\nX: " + b"a" * 20_000, 431),
    ],
)
def test_what_is_refused(monitor: Monitor, request_: bytes, status: int) -> None:
    async def work(address: Address) -> None:
        got, headers, _ = await ask(address, request_)
        assert got == status and headers["connection"] == "close"

    on(monitor, work)


def test_who_says_nothing_is_let_go(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_S_MAX", 0.1)

    async def work(address: Address) -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET / HT")
        assert await reader.read() == b""
        writer.close()
        assert (await ask(address, get("/")))[0] == 200

    on(monitor, work)


def test_pages_and_connections_are_bounded(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "STREAMS_MAX", 1)

    async def work(address: Address) -> None:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(get("/events"))
        while not (await reader.readline()).startswith(b"data: "):
            pass
        assert (await ask(address, get("/events")))[0] == 503
        monkeypatch.setattr(web, "CONNECTIONS_MAX", 1)
        again, other = await asyncio.open_connection(address.host, address.port)
        assert await again.read() == b""
        other.close()
        writer.close()

    on(monitor, work)


def test_the_processes_are_asked_once_however_many_look(fakes: FakeNodes, tmp_path: Path) -> None:
    asked: list[str] = []
    answers = all_of("n1")

    def figures(_request: dict[str, Any]) -> dict[str, Any]:
        asked.append("figures")
        return dict(answers["gateway"])

    node = serve_node(fakes, tmp_path / "a", "n1")
    fakes.serve(tmp_path / "b" / "gateway.sock", {"figures": figures})
    for name in ("state", "failover"):
        (tmp_path / "b" / f"{name}.sock").symlink_to(node.run_dir / f"{name}.sock")
    monitor = Monitor(LOOPBACK, [Node("n1", tmp_path / "b")], [], Drills(None))

    async def work(address: Address) -> None:
        await asyncio.gather(
            *(ask(address, get(path)) for path in ("/metrics", "/node.json", "/cluster.json") * 5)
        )

    on(monitor, work)
    assert len(asked) == 1


def test_other_nodes_are_shown_and_one_that_falls_silent_is_named(
    fakes: FakeNodes, tmp_path: Path
) -> None:
    async def run() -> None:
        first, second = (serve_node(fakes, tmp_path, name) for name in ("n1", "n2"))
        other = Monitor(LOOPBACK, [second], [], Drills(None))
        async with other:
            here = Monitor(LOOPBACK, [first], [other.server.address], Drills(None))
            async with here:
                found = await here.cluster()
                assert [node["node"] for node in found["nodes"]] == ["n1", "n2"]
                await other.server.close()
                await asyncio.sleep(1.0)
                found = await here.cluster()
                assert any(
                    line.startswith("n2: no answer from its monitor") for line in found["problems"]
                )
                (node,) = [one for one in found["nodes"] if one["node"] == "n2"]
                assert set(node["processes"].values()) == {"silent"}

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_monitor_that_talks_nonsense_is_a_silent_one(fakes: FakeNodes, tmp_path: Path) -> None:
    async def run() -> None:
        async def nonsense(path: str) -> web.Response:
            return web.Response(b'{"nodes": {"n7": {"answers": [1], "events": [3, {}]}, "n8": 3}}')

        server = web.WebServer(LOOPBACK, nonsense)
        await server.start()
        node = serve_node(fakes, tmp_path, "n1")
        here = Monitor(LOOPBACK, [node], [server.address], Drills(None))
        found = await here.cluster()
        assert [one["node"] for one in found["nodes"]] == ["n1", "n7", "n8"]
        assert not found["ready"]
        await server.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_an_address_that_is_not_here_is_one_line() -> None:
    server = web.WebServer(Address("203.0.113.9", 9401), Monitor.route)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentProblem, match=r"^monitor\.listen = 203\.0\.113\.9:9401: "):
        asyncio.run(server.start())


def history_line(**fields: Any) -> str:
    line = {"at": "2026-03-04T05:06:07Z", "where": "n2", "fault": "kill gateway", "passed": False}
    return json.dumps(line | fields)


def test_drills_that_left_no_report_are_shown_from_their_history(tmp_path: Path) -> None:
    history = tmp_path / "drills.jsonl"
    history.write_text(
        "\n".join(
            [
                history_line(at="2026-03-04T05:00:00Z", passed=True, fault="older"),
                "[no drill",
                history_line(at="yesterday"),
                history_line(
                    outage_mean_ms=41.5, outage_max_ms="long", timeline_ms={"armed": 60.0, "x": []},
                    calls_started=20, calls_completed=19, why="n3 claims g1",
                    broken=["2 calls are missing"],
                ),
            ]
        )
    )  # fmt: skip
    shown = Drills(None, history).newest()
    assert [one["name"] for one in shown] == ["kill gateway on n2", "older on n2"]
    newest = shown[0]
    assert (newest["at_s"], newest["ok"]) == (1772600767, False)
    assert newest["outage_ms"] == {"mean": 41.5} and newest["timeline_ms"] == {"armed": 60.0}
    assert newest["calls"] == {"started": 20, "dropped": 1}
    assert (newest["why"], newest["problems"]) == (["n3 claims g1"], ["2 calls are missing"])


def test_a_drill_with_a_report_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "power-off.json").write_text('{"outage_ms": {}, "timeline_ms": {}}')
    os.utime(tmp_path / "power-off.json", (1_772_600_769, 1_772_600_769))
    history = tmp_path / "drills.jsonl"
    history.write_text(history_line() + "\n")
    (only,) = Drills(tmp_path, history).newest()
    assert only["name"] == "power-off"
    history.write_text(history_line(at="2026-03-04T06:00:00Z") + "\n")
    os.utime(history, (1, 1))
    drills = Drills(tmp_path, history)
    assert [one["at_s"] for one in drills.newest()] == [1_772_604_000, 1_772_600_769]
    history.write_text(history_line() + "\n")  # read again when it changes
    assert [one["name"] for one in drills.newest()] == ["power-off"]


def test_no_history_is_no_drill(tmp_path: Path) -> None:
    assert Drills(None, tmp_path / "none").newest() == []
