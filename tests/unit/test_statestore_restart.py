"""A state server that was out of the view comes back as somebody new; the last one out does not.

Real engines in this process, with the registry's embedded twin.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import statestore
from tests.fakes.state_cluster import wait_for
from tests.fakes.state_hosts import Hosts


@pytest.fixture
def hosts(directory: Path) -> Iterator[Hosts]:
    made = Hosts(directory)
    yield made
    made.close()


def test_who_left_comes_back_as_somebody_new(hosts: Hosts) -> None:
    """The map that its segment has may end in operations that nobody else has ever seen: a leader
    sequences before it tells. Going on with it, it would refuse others' copies for ever."""
    hosts.start("n0")
    before = hosts.start("n1")
    with hosts.store("n0", 1) as store:
        store.put(b"call", b"as it was")
        hosts.leave("n1")
        store.put(b"call", b"changed meanwhile")
        after = hosts.start("n1")
        assert after != before
        wait_for("n1 has its copy", lambda: not hosts.servers["n0"].status()["unreplicated"])
    with hosts.store("n1", 1) as store:
        assert store.lookup(b"call").read() == b"changed meanwhile"


def test_the_last_one_out_goes_on_with_what_it_has(hosts: Hosts) -> None:
    before = hosts.start("n0")
    with hosts.store("n0", 0) as store:
        store.put(b"call", b"kept")
    hosts.leave("n0")
    assert hosts.start("n0") == before
    with hosts.store("n0", 0) as store:
        assert store.lookup(b"call").read() == b"kept"


def test_who_left_before_the_last_one_does_not_bring_old_state_back(hosts: Hosts) -> None:
    early = hosts.start("n0")
    late = hosts.start("n1")
    hosts.leave("n0")
    with hosts.store("n1", 0) as store:
        store.put(b"call", b"only n1 knows")
    hosts.leave("n1")
    assert hosts.start("n0") != early
    assert hosts.start("n1") != late  # n0 was first: nobody has that call any more
    with hosts.store("n1", 0) as store, pytest.raises(statestore.NotFound):
        store.lookup(b"call")
