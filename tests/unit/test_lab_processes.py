"""When a process of the lab is gone: not before the last of its threads is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bgf.lab.processes import Process, is_alive, start_ticks

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
libc = ctypes.CDLL(None)
libc.syscall({"x86_64": 60, "aarch64": 93}[__import__("os").uname().machine], 0)
"""
"""exit(2) of one thread, where exit_group(2) would end them all."""
PATIENCE_S = 30


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_first_thread_has_ended_is_not_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS])
    try:
        process = Process(child.pid, start_ticks(child.pid), "", "")
        deadline = time.monotonic() + PATIENCE_S
        while _state(child.pid) != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert is_alive(process) and child.poll() is None
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert _state(child.pid) == "Z" and not is_alive(process)
    child.wait()
    assert not is_alive(process)
