"""A member that is closed while other threads ask it something: they end first, then it is gone.

Each runs in a process of its own: what it looks for is a crash.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from statestore.server import write_key_file

RUN_TIMEOUT_S = 120
BEGIN = """
import sys, threading, time
import statestore
from statestore._node import Node
from statestore.errors import Unavailable

statestore.open(f"dal://{sys.argv[1]}", size_bytes=4 << 20).close()

def member():
    return Node(sys.argv[1] + "/segment", "n1", "127.0.0.1", 0, sys.argv[2])

def refused(call):
    try:
        call()
    except Unavailable as error:
        return "closed" in str(error)
    return False
"""
WHILE_IT_RUNS = """
for _ in range(20):
    node = member()
    thread = threading.Thread(target=node.run)
    thread.start()
    node.stats()
    node.close()
    assert refused(node.stats) and refused(node.run) and refused(lambda: node.port)
    node.stop()
    node.close()
    thread.join(60)
    assert not thread.is_alive()
print("ok")
"""
WHILE_IT_IS_ASKED = """
asked = 0

def ask(node):
    global asked
    while not refused(lambda: node.stats(walk=True)):
        asked += 1

for _ in range(40):
    node = member()
    threads = [threading.Thread(target=work) for work in (node.run, *[lambda: ask(node)] * 3)]
    for thread in threads:
        thread.start()
    time.sleep(0.005)
    node.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
assert asked > 0
print("ok")
"""


@pytest.mark.parametrize("what", [WHILE_IT_RUNS, WHILE_IT_IS_ASKED], ids=["run", "stats"])
def test_closed_under_others(what: str, directory: Path) -> None:
    key_file = directory / "cluster.key"
    write_key_file(key_file)
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + what, str(directory / "n1"), str(key_file)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
