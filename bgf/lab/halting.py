"""Runs a process of a node so that it stands still at a word of its own log: `python -m
bgf.lab.halting WORD gateway --config FILE` is `python -m bgf gateway --config FILE` until it is
about to log a line with WORD in it. Then it stops itself, as a machine does that dies there.

Knows: logging, SIGSTOP. Must not know what the process is for: it is started by its command.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys


class _Halt(logging.Filter):
    """Once: who is woken again goes on."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word
        self._halted = False

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._halted and self._word in record.getMessage():
            self._halted = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return True


def main() -> None:
    """The rest of the command line is that of `bgf`."""
    word, *rest = sys.argv[1:]
    for name in ("bgf.failover", "bgf.gateway"):
        logging.getLogger(name).addFilter(_Halt(word))
    sys.argv = ["bgf", *rest]
    runpy.run_module("bgf", run_name="__main__")


if __name__ == "__main__":
    main()
