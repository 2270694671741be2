"""The status page in a real browser: what a person sees, on a desk and on a phone.

Not part of `make test`: the browser is large. `make page-test` sets it up and keeps pictures.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.ctl.client import Node
from bgf.model import Address
from bgf.monitor.drills import Drills
from bgf.monitor.monitor import Monitor
from tests.fakes.node_answers import all_of
from tests.fakes.nodes import FakeNodes
from tests.page.browser import BINARY, Browser

pytestmark = pytest.mark.skipif(
    shutil.which(BINARY) is None, reason="chromium is missing: `make page-test` installs it"
)

PICTURES = Path(os.environ.get("BGF_PICTURES", "demo/page"))
XSS = "<img src=x onerror=alert(1)>"


class World:
    """Three nodes whose answers a test changes, and a monitor over them."""

    def __init__(self, run_dir: Path) -> None:
        self.answers: dict[str, Any] = {
            "n1": all_of("n1", "g1"), "n2": all_of("n2", "g2"), "n3": all_of("n3", ""),
        }  # fmt: skip
        for node in self.answers.values():
            node["failover"] |= {"warnings": [], "conditions": {}}
        self.events: list[dict[str, Any]] = []
        self._fakes = FakeNodes()
        commands = {"gateway": ("figures",), "failover": ("status",), "state": ("status",)}
        for node, processes in self.answers.items():
            for process in processes:
                handlers: dict[str, Any] = {
                    command: lambda _, n=node, p=process: self.answer(n, p)
                    for command in commands[process]
                }
                handlers |= {
                    "metrics": lambda _: {"text": ""},
                    "timeline": lambda _: {"events": self.events},
                }
                self._fakes.serve(run_dir / node / f"{process}.sock", handlers)
        drills = run_dir / "drills"
        drills.mkdir()
        (drills / "power-off.json").write_text(
            '{"ok": true, "outage_ms": {"mean": 87.0, "max": 101.0}, "flows": 424,'
            ' "timeline_ms": {"detected": 45.0, "decided": 57.0, "armed": 59.0},'
            ' "calls": {"started": 20, "dropped": 0}, "rows": [],'
            ' "runs": [{"why": "n3 claims g1"}]}'
        )
        (run_dir / "drills.jsonl").write_text(
            '{"at": "2026-01-02T03:04:05Z", "where": "n2", "fault": "kill gateway",'
            ' "passed": false, "outage_mean_ms": 0.0, "outage_max_ms": 21.0,'
            ' "broken": ["2 calls are missing"]}\n'
        )
        nodes = [Node(name, run_dir / name) for name in self.answers]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.monitor = Monitor(
            Address("127.0.0.1", 0), nodes, [], Drills(drills, run_dir / "drills.jsonl")
        )
        self._do(self.monitor.server.start())

    def answer(self, node: str, process: str) -> dict[str, Any]:
        gateway = self.answers[node]["gateway"]
        if process == "gateway":
            for outcomes in gateway["packets"]["by_realm"].values():
                outcomes["forward"] += 3_000
        return dict(self.answers[node][process])

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    @property
    def url(self) -> str:
        return f"http://{self.monitor.server.address}/"

    def close(self) -> None:
        self._do(self.monitor.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
        self._fakes.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as made:
        made.prefers("dark")
        made.size(1280, 900)
        yield made


def picture(browser: Browser, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    browser.shot(PICTURES / f"{name}.png")


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).innerText"))


def test_all_is_well_and_live(world: World, browser: Browser) -> None:
    browser.open(world.url)
    browser.until("document.querySelectorAll('#nodes .card').length == 3")
    assert text(browser, "#verdict") == "all is well"
    assert "n3 ready" in text(browser, "#groups .card")
    first = browser.until("document.querySelector('#nodes dd').innerText != '…' && "
                          "document.querySelector('#nodes dd').innerText")  # fmt: skip
    assert int(str(first).replace("\u202f", "")) > 1_000
    assert "longest silence" in text(browser, "#drills")
    assert "2 calls are missing" in text(browser, "#drills")
    browser.until("document.querySelectorAll('#nodes path').length")
    picture(browser, "well")
    assert browser.said == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_fits_a_phone(world: World, browser: Browser, scheme: str) -> None:
    browser.prefers(scheme)
    browser.size(360, 740, 2, mobile=True)
    browser.open(world.url)
    browser.until("document.querySelectorAll('#nodes .card').length == 3")
    assert browser.run("document.documentElement.scrollWidth") <= 360
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 19, 24)"
    assert dark == (scheme == "dark")
    picture(browser, f"phone-{scheme}")


def test_a_dead_node_is_the_first_thing_to_be_seen(world: World, browser: Browser) -> None:
    browser.open(world.url)
    browser.until("document.querySelectorAll('#nodes .card').length == 3")
    for process in ("gateway", "failover", "state"):
        (world.monitor._locals[0].node.run_dir / f"{process}.sock").unlink()
    for name in ("n2", "n3"):
        world.answers[name]["failover"] |= {
            "owners": {"g1": {"node": "n3", "epoch": 4}, "g2": {"node": "n2", "epoch": 1}},
            "conditions": {"n1": {"state": "node dead", "sentence": "n1 is silent everywhere"}},
        }
    world.answers["n3"]["gateway"]["groups"]["g1"] |= {"role": "active", "sessions": 100}
    world.events.append(
        {"event": "decided", "group": "g1", "node": "n3", "epoch": 4, "at_ns": 1,
         "sentence": "n3 claims g1", "reason": "silent", "last": "n1"}
    )  # fmt: skip
    browser.until("document.querySelector('#verdict').innerText == '1 problem'")
    assert "n1: none of its processes answers" in text(browser, "#lines")
    assert "g1 → n3" in text(browser, "#groups .card").replace("\n", " ")
    assert "takeover g1, epoch 4" in text(browser, "#events")
    assert browser.run("document.title").startswith("✗")
    picture(browser, "dead")


def test_what_nodes_say_is_text(world: World, browser: Browser) -> None:
    """Not that a node would; but a sentence carries what its peers sent."""
    world.answers["n1"]["failover"]["warnings"] = [XSS]
    world.answers["n1"]["failover"]["conditions"] = {"n3": {"state": XSS, "sentence": XSS}}
    browser.open(world.url)
    browser.until("document.querySelectorAll('#lines li').length == 2")
    assert XSS in text(browser, "#lines")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.said == []


def test_a_monitor_that_goes_is_said_to_be_gone(world: World, browser: Browser) -> None:
    browser.open(world.url)
    browser.until("document.querySelectorAll('#nodes .card').length == 3")
    world._do(world.monitor.server.close())
    browser.until("document.querySelector('#verdict').innerText == 'this node does not answer'")
