"""The lease starts when its renewal was sent, and only a confirmed renewal extends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.lease import RENEWALS_PER_LEASE, Lease

LENGTH_NS = 1_000


def test_it_starts_when_sent_not_when_answered() -> None:
    lease = Lease(LENGTH_NS)
    assert not lease.alive(0)
    assert lease.offer(5_000) == 6_000
    assert lease.deadline_ns == 0  # no answer yet
    lease.confirm(5_000, 5_900)  # the answer may come at any time later
    assert lease.deadline_ns == 6_000
    assert lease.alive(5_999)
    assert not lease.alive(6_000)


def test_a_failed_renewal_never_extends_it_and_is_tried_again() -> None:
    lease = Lease(LENGTH_NS)
    lease.offer(0)
    lease.confirm(0, 1)
    lease.offer(200)
    assert lease.deadline_ns == LENGTH_NS
    assert lease.next_renewal_ns() == 200 + LENGTH_NS // RENEWALS_PER_LEASE


def test_the_first_renewal_is_due_at_once() -> None:
    assert Lease(LENGTH_NS).next_renewal_ns(77) == 77


def test_since_when_nothing_waited_is_when_the_last_wait_ended() -> None:
    lease = Lease(LENGTH_NS)
    lease.confirm(0, 10)
    assert lease.answering_since_ns == 0
    lease.waited()
    assert lease.answering_since_ns == 0
    lease.confirm(200, 300)
    assert lease.answering_since_ns == 300
    lease.confirm(400, 410)
    assert lease.answering_since_ns == 300


@pytest.mark.parametrize("length_ns", [0, -1])
def test_a_lease_has_a_length(length_ns: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        Lease(length_ns)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), max_size=40))
def test_its_end_is_the_newest_confirmed_sending_plus_its_length(
    renewals: list[tuple[int, bool]],
) -> None:
    lease = Lease(LENGTH_NS)
    confirmed: list[int] = []
    for sent_ns, answered in renewals:  # confirmations may come in any order
        before = lease.deadline_ns
        lease.offer(sent_ns)
        if answered:
            lease.confirm(sent_ns, sent_ns)
            confirmed.append(sent_ns)
        assert lease.deadline_ns >= before
    assert lease.deadline_ns == (max(confirmed) + LENGTH_NS if confirmed else 0)
