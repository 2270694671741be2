"""A file read again: what is taken up while commands go on, what is left and says what it needs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bgf import config
from bgf.control.access import Access
from bgf.control.server import NgServer
from bgf.errors import ConfigError
from bgf.gateway import Gateway, Limits
from bgf.model import Address
from bgf.runtime.load import Load
from bgf.runtime.reloading import Reloader, differences
from tests.unit.test_config import EXAMPLE

PEERS = EXAMPLE.replace("[control]", '[control]\npeers = ["10.30.0.5"]\nsessions_max = 100')


def reloader(
    tmp_path: Path, process: str, take: Callable[[Any], list[str]] = lambda _: []
) -> tuple[Path, Reloader]:
    file = tmp_path / "node.toml"
    file.write_text(PEERS)
    return file, Reloader(process, config.load(file), take)


def test_what_differs_is_named_by_its_path() -> None:
    changed = PEERS.replace("sessions_max = 100", "sessions_max = 7").replace(
        'interface = "eth1"', 'interface = "eth7"'
    )
    assert differences(config.parse(PEERS), config.parse(changed)) == {
        "control.sessions_max": (100, 7),
        "realms.core.interface": ("eth1", "eth7"),
    }
    assert differences(config.parse(PEERS), config.parse(PEERS + "# x")) == {}


def test_taken_up_once_and_then_no_difference(tmp_path: Path) -> None:
    taken: list[config.NodeConfig] = []
    file, it = reloader(tmp_path, "gateway", lambda new: taken.append(new) or [])  # type: ignore[func-returns-value]
    file.write_text(PEERS.replace("sessions_max = 100", "sessions_max = 7\nlag_max_ms = 40"))
    done = it.reload()
    assert [(row["key"], row["old"], row["new"]) for row in done["applied"]] == [
        ("control.lag_max_ms", 500, 40), ("control.sessions_max", 100, 7)
    ]  # fmt: skip
    assert done["restart"] == [] and taken[0].control.sessions_max == 7
    again = it.reload()
    assert (again["applied"], again["restart"]) == ([], [])


@pytest.mark.parametrize(
    ("key", "old", "new"), [("close_hanging_s", 0, 300), ("close_held_s", 3_600, 7_200)]
)
def test_the_limits_of_hanging_calls_are_taken_up(
    tmp_path: Path, key: str, old: int, new: int
) -> None:
    taken: list[config.NodeConfig] = []
    file, it = reloader(tmp_path, "gateway", lambda node: taken.append(node) or [])  # type: ignore[func-returns-value]
    file.write_text(PEERS.replace("[media]", f"[media]\n{key} = {new}"))
    assert it.reload()["applied"] == [{"key": f"media.{key}", "old": old, "new": new}]
    assert getattr(taken[0].media, key) == new
    assert it.reload()["applied"] == []


def test_each_process_names_what_concerns_it(tmp_path: Path) -> None:
    changed = PEERS.replace("lease_ms = 900", "lease_ms = 950").replace("= 64", "= 65")
    changed = changed.replace('attach = "generic"', 'attach = "native"')
    told = {}
    for process in ("state", "gateway", "failover"):
        file, it = reloader(tmp_path, process)
        file.write_text(changed)
        for _ in range(2):  # what needs a restart needs it until it is restarted
            told[process] = {row["key"]: row["needs"] for row in it.reload()["restart"]}
    segment = "a new segment: stop the processes, remove it, start them"
    assert told["gateway"] == {
        "media.attach": "restart of bgf gateway", "state.size_mb": segment,
    }  # fmt: skip
    assert told["failover"]["failover.lease_ms"] == "restart of bgf failover"
    assert told["state"] == {"state.size_mb": segment}


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    def never(_: config.NodeConfig) -> list[str]:
        raise AssertionError("taken")

    file, it = reloader(tmp_path, "gateway", never)
    file.write_text(PEERS.replace("sessions_max = 100", "sessions_max = 0"))
    with pytest.raises(ConfigError, match=r"control\.sessions_max = 0"):
        it.reload()
    it.hang_up()  # told in the log, and no more


def test_what_cannot_be_taken_up_says_so(tmp_path: Path) -> None:
    file, it = reloader(tmp_path, "gateway", lambda _: ["control.peers"])
    file.write_text(PEERS.replace('peers = ["10.30.0.5"]\n', ""))
    done = it.reload()
    assert done["applied"] == []
    assert [(row["key"], row["needs"]) for row in done["restart"]] == [
        ("control.peers", "restart of bgf gateway")
    ]


def test_other_peers_while_the_server_runs() -> None:
    """In the kernel's filter too: the datagram of a stranger never reaches the peers' queue."""
    server = NgServer(Address("127.0.0.1", 0), lambda _: None, access=Access(("127.0.0.9/32",)))
    try:
        assert server._socket is not None
        server._socket.settimeout(5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            target = (server.address.host, server.address.port)
            peer.sendto(b"stranger", target)
            assert server.admit(("127.0.0.0/8",), 0)
            peer.sendto(b"peer", target)
            assert server._socket.recv(100) == b"peer"
        assert not server.admit(None, 0)
    finally:
        server.close()


def test_limits_are_of_new_calls_only() -> None:
    group = config.parse(PEERS).groups[0]
    machine = Gateway(group, ("access", "core"), Limits(sessions_max=5))
    machine.take_limits(Limits(sessions_max=9, new_calls_per_s=3))
    assert machine.limits.sessions_max == 9
    load = Load(64)
    load.allow(128)
    assert load.memory_max_bytes == 128 << 20
