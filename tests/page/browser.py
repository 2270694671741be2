"""A headless Chromium, spoken to over the DevTools protocol's pipe. Knows no page."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BINARY = "chromium"
WAIT_S_MAX = 60.0


class Browser:
    """`with Browser() as browser: browser.open(url)`."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="bgf-page-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            *("bash", "-c", 'exec "$0" "$@" 3<&"$IN" 4>&"$OUT"', BINARY),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "--disable-sync"),
            *("--disable-component-update", "--disable-default-apps", "--no-proxy-server"),
            *("--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_browser, from_browser),
            env={**os.environ, "IN": str(to_browser), "OUT": str(from_browser)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._read = b""
        self._session = ""
        self.said: list[str] = []
        """Errors and messages of the page's console, and requests that were refused."""

    def __enter__(self) -> Browser:
        found = self._ask("Target.createTarget", url="about:blank")
        attached = self._ask("Target.attachToTarget", targetId=found["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def size(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=mobile,
        )  # fmt: skip

    def prefers(self, scheme: str) -> None:
        """`dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """The first true value of an expression. Raises AssertionError after WAIT_S_MAX."""
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < deadline, f"never true: {script}; said: {self.said}"
            time.sleep(0.1)

    def shot(self, path: Path, whole: bool = True) -> None:
        """A picture of the page."""
        found = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._note(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([self._in], [], [], max(0.0, left_s))
            assert ready, "the browser does not answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has ended"
            self._read += piece
        line, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.said.append(str(parameters["entry"]["text"]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(parameters["exceptionDetails"])[:400])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.said.append(json.dumps(parameters["args"])[:400])
