"""Progress of what takes longer than a second, on standard error: the answer alone is on stdout.

Knows: whether somebody watches. On a terminal: a spinner with the current step, and each
finished step with the time it took; elsewhere: one plain line per step as it begins.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.status import Status

LONG_STEP_S = 1.0


class Steps:
    """Callable with one line per step, as the lab and the drill report them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream) if self._stream.isatty() else None
        self._status: Status | None = None
        self._step = ""
        self._began = 0.0

    def __call__(self, step: str) -> None:
        step = " ".join(step.split())
        if self._console is None:
            print(step, file=self._stream, flush=True)
            return
        self._finish()
        self._step, self._began = step, time.monotonic()
        self._status = self._console.status(escape(step))
        self._status.start()

    def _finish(self) -> None:
        if self._console is None or self._status is None:
            return
        self._status.stop()
        self._status = None
        took_s = time.monotonic() - self._began
        after = f" [dim]({took_s:.1f} s)[/dim]" if took_s >= LONG_STEP_S else ""
        self._console.print(f"[green]-[/green] {escape(self._step)}{after}", highlight=False)

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish()
