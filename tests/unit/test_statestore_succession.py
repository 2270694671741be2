"""A state server that finds its segment in another layout: made anew where nothing is lost by it,
kept and said otherwise.

Real engines in this process, with the registry's embedded twin.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import statestore
from statestore import WrongVersion, succession
from statestore.member_records import Timers
from statestore.registry import Entry, RegistryUnavailable
from statestore.server import Server, ServerConfig
from statestore.store import SEGMENT_NAME, Store
from tests.fakes.state_cluster import SIZE_BYTES, wait_for
from tests.fakes.state_hosts import Hosts

LAYOUT_AT = 8
OTHER_LAYOUT = b"\x63"


@pytest.fixture
def hosts(directory: Path) -> Iterator[Hosts]:
    made = Hosts(directory)
    yield made
    made.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "OTHERS_WAIT_S", 0.0)


def of_another_layout(config: ServerConfig) -> Path:
    path = config.directory / SEGMENT_NAME
    with path.open("r+b") as file:
        file.seek(LAYOUT_AT)
        file.write(OTHER_LAYOUT)
    return path


def kept(path: Path) -> bool:
    return path.read_bytes()[LAYOUT_AT : LAYOUT_AT + 1] == OTHER_LAYOUT


def refusal(hosts: Hosts, node: str) -> str:
    with pytest.raises(WrongVersion) as raised:
        Server(hosts.config(node), hosts.registry)
    return str(raised.value)


def test_it_is_made_anew_and_filled_by_the_others(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    hosts.start("n0")
    hosts.start("n1")
    with hosts.store("n1", 1) as store:
        store.put(b"call", b"as it was")
    hosts.leave("n1")
    of_another_layout(hosts.config("n1"))
    hosts.start("n1")
    with hosts.store("n1", 1) as store:
        wait_for("its copy", lambda: "n1" in store.lookup(b"call").home.replicas)
        assert store.lookup(b"call").read_local() == b"as it was"
    assert "layout 99, this build speaks 3; made anew, the state is in n0" in caplog.text


def test_the_only_member_keeps_it(hosts: Hosts, hurried: None) -> None:
    hosts.start("n0")
    hosts.leave("n0")
    path = of_another_layout(hosts.config("n0"))
    assert "no other member has all of the state (in the view: nobody)" in refusal(hosts, "n0")
    assert kept(path)


def test_who_only_stands_in_the_view_has_nothing(hosts: Hosts, hurried: None) -> None:
    """A dead member's record stands until somebody takes it out."""
    hosts.start("n0")
    hosts.start("n1")
    hosts.leave("n1")
    hosts.servers.pop("n0").stop(leave=False)
    path = of_another_layout(hosts.config("n1"))
    assert "no other member has all of the state (in the view: n0)" in refusal(hosts, "n1")
    assert kept(path)


def test_what_another_process_has_open_is_kept(hosts: Hosts, hurried: None) -> None:
    hosts.start("n0")
    hosts.start("n1")
    with hosts.store("n1", 1):
        hosts.leave("n1")
        path = of_another_layout(hosts.config("n1"))
        assert f"another process has it open; stop it ('fuser {path}'" in refusal(hosts, "n1")
        assert kept(path)
    hosts.start("n1")
    assert not kept(path)


def test_it_waits_for_who_is_about_to_end(hosts: Hosts) -> None:
    hosts.start("n0")
    hosts.start("n1")
    store: Store = statestore.open(
        hosts.config("n1").address, key_file=hosts.config("n1").key_file, size_bytes=SIZE_BYTES
    )
    hosts.leave("n1")
    path = of_another_layout(hosts.config("n1"))
    seen: list[bool] = []

    def end() -> None:
        time.sleep(3 * 2 * hosts.config("n1").timers.renew_ms / 1000)
        seen.append(kept(path))
        store.close()

    ending = threading.Thread(target=end)
    ending.start()
    hosts.start("n1")
    ending.join()
    assert seen == [True]
    assert not kept(path)


def test_without_the_registry_nobody_knows(hosts: Hosts, hurried: None) -> None:
    class Away:
        def scan(self, prefix: str) -> dict[str, Entry]:
            raise RegistryUnavailable("etcd at [::1]:2379 does not answer for 3 s; start it")

    hosts.start("n0")
    hosts.start("n1")
    hosts.leave("n1")
    path = of_another_layout(hosts.config("n1"))
    quick = replace(hosts.config("n1"), timers=Timers(300, 20, 400, 20))
    with pytest.raises(WrongVersion, match=r"it is kept: etcd at .* does not answer"):
        succession.own_segment(quick, Away())  # type: ignore[arg-type]
    assert kept(path)
    hosts.start("n1")


def test_an_embedded_store_is_nobodys_copy(hosts: Hosts) -> None:
    """Told at once: waiting makes nobody have it."""
    hosts.start("n0")
    config = hosts.config("n1")
    with statestore.open(config.address, size_bytes=SIZE_BYTES) as store:
        store.put(b"call", b"only here")
    path = of_another_layout(config)
    assert "it was no member's, so nobody else has its items" in refusal(hosts, "n1")
    assert kept(path)
