"""How fast the machine is at this moment, so that figures of two sittings can be told apart.

A shared host gives its guests more or less of a core from one hour to the next, and says nothing of
it (steal time stays 0). The measure is the commonest work of what is measured: Python.
"""

from __future__ import annotations

import time
from typing import Final

ADDITIONS: Final = 500_000


def additions_per_us() -> float:
    """Additions in a loop, per microsecond of processor time of this thread; takes 20 ms of it."""
    began_ns, total = time.thread_time_ns(), 0
    for number in range(ADDITIONS):
        total += number
    return ADDITIONS / ((time.thread_time_ns() - began_ns) / 1000)
