"""What a failover process makes of its peers' word: when it asks, when it needs none any more."""

from __future__ import annotations

from collections import Counter

from failover.actions import Held
from failover.adapters import NullMemory, NullVouchLink
from failover.registry import Member, Ownership, View
from failover.voucher import Voucher

MS = 1_000_000
LEASE = 1_000 * MS
NOW = 100_000 * MS
HELD = {"g1": Held(armed=1, armed_until_ns=NOW + 10 * LEASE)}


def seen_at(at_ns: int) -> View:
    members = {name: Member(name, 1, at_ns + LEASE) for name in ("n1", "n2")}
    return View(members, {"g1": Ownership("n1", 1)}, at_ns)


def owner() -> Voucher:
    made = Voucher(
        "n1",
        ["n2"],
        LEASE,
        link=NullVouchLink(),
        memory=NullMemory(),
        started_ns=NOW - 100 * LEASE,
        tell=lambda event, text: None,
        tally=Counter(),
    )
    made.remember(None)
    made.read(seen_at(NOW), NOW)
    made.publishing(["n2"], NOW)
    made.reached(NOW, NOW)
    return made


def test_who_renews_and_sees_nothing_asks() -> None:
    voucher = owner()
    voucher.reached(NOW + 300 * MS, NOW + 301 * MS)
    voucher.turn(NOW + 399 * MS, NOW + 300 * MS, HELD)
    assert not voucher.status(NOW + 399 * MS)["asking"]
    voucher.turn(NOW + 400 * MS, NOW + 300 * MS, HELD)
    assert voucher.status(NOW + 400 * MS)["asking"]


def test_it_asks_no_more_when_a_renewal_follows_a_view() -> None:
    """Once is luck: a registry that is slow answers now one, now another."""
    voucher = owner()
    voucher.turn(NOW + 500 * MS, NOW, HELD)
    first_ns, second_ns = NOW + 600 * MS, NOW + 800 * MS
    voucher.reached(first_ns, first_ns + MS)
    voucher.read(seen_at(first_ns), first_ns + 2 * MS)
    assert voucher.status(first_ns + 2 * MS)["asking"]
    voucher.reached(second_ns, second_ns + MS)
    assert not voucher.status(second_ns + MS)["asking"]


def test_a_renewal_that_took_as_long_as_an_outage_ends_nothing() -> None:
    voucher = owner()
    voucher.turn(NOW + 500 * MS, NOW, HELD)
    voucher.reached(NOW + 100 * MS, NOW + 600 * MS)
    voucher.read(seen_at(NOW + 100 * MS), NOW + 601 * MS)
    assert voucher.status(NOW + 601 * MS)["asking"]
