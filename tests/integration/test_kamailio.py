"""Kamailio's rtpengine module and SIPp against real gateways: what operators run, call by call.

Two configurations of ours, a plain proxy and an IMS P-CSCF; every call completes, both ends hear
each other, and afterwards nothing is left of it anywhere in the cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.control.client import NgClient
from bgf.lab import namespaces
from bgf.lab.ngload import session_sdp
from bgf.lab.nodes import Timers
from bgf.lab.plan import CONTROL_PORT, PORTS
from bgf.lab.sip import missing_packages
from bgf.model import Address
from tests.integration.kamailio.rig import Rig, Rigs
from tests.integration.kamailio.scenarios import (
    DELETE,
    OFFER,
    SCENARIOS,
    TALK_MS,
    Proxy,
    Scenario,
    Way,
)

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(missing_packages()),
        reason="needs root and the Debian packages kamailio and sip-tester",
    ),
    pytest.mark.timeout(240),
]

FLOWS_PER_CALL = 4
CALLS, CALLS_PER_SECOND = 1_000, 50
LOAD = Scenario(
    "load",
    "load-caller",
    (("load-callee", ""),),
    (),
    holds=(),
    values={"TALK_MS": TALK_MS},
)
PLAYED = [
    (proxy, scenario) for proxy in Proxy for scenario in SCENARIOS if proxy in scenario.proxies
]


def named(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


@pytest.fixture(scope="module")
def rigs() -> Iterator[Rigs]:
    # Nobody is killed here: a machine that stalls for a moment must not look like a death.
    pid = os.getpid()
    timers = Timers(50, 6, lease_ms=2_000)
    with Rigs(Path(f"/run/bgf-test-k{pid}"), f"k{pid % 10_000}-", timers) as made:
        yield made


@pytest.fixture
def rig(rigs: Rigs) -> Rig:
    return rigs.fresh()


@pytest.mark.parametrize(("proxy", "scenario"), PLAYED, ids=lambda v: getattr(v, "name", v))
def test_a_call_is_carried(rig: Rig, proxy: Proxy, scenario: Scenario) -> None:
    passed = rig.play(scenario, proxy)
    assert sorted(p.command for p in passed) == sorted(scenario.expected(proxy))


@pytest.mark.parametrize("lost", ["replies", "requests"])
@pytest.mark.parametrize("name", ["basic from IPv6", "prack and update", "delayed offer"])
def test_what_is_lost_is_asked_for_again(rig: Rig, lost: str, name: str) -> None:
    """Kamailio repeats the same cookie; the reply that was given once is given again."""
    rig.wire.lose_first_reply = lost == "replies"
    rig.wire.lose_first_request = lost == "requests"
    scenario = named(name)
    passed = rig.play(scenario, Proxy.PLAIN)
    assert all(one.asked >= 2 for one in passed)
    assert {one.command for one in passed} == set(scenario.expected(Proxy.PLAIN))
    if lost == "replies":
        for one in passed:
            assert one.reply == one.first_reply, one


def test_a_ue_registers_with_a_path(rig: Rig) -> None:
    scenario = Scenario("register", "register-caller", (("register-callee", ""),), (), holds=())
    for way in (Way.FROM_SIX, Way.FROM_FOUR):
        rig.play(scenario.of(way), Proxy.PCSCF)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("proxy", "way"), [(Proxy.PLAIN, Way.FROM_SIX), (Proxy.PCSCF, Way.TO_SIX)], ids=str
)
def test_a_thousand_calls(rig: Rig, proxy: Proxy, way: Way) -> None:
    calls = CALLS if proxy is Proxy.PLAIN else CALLS // 5
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    rig.play_many(LOAD.of(way), proxy, calls, CALLS_PER_SECOND)
    assert rig.streams(way.caller, began_ns) == calls
    assert rig.streams(way.callee, began_ns) == calls


def test_two_groups_share_the_calls(rig: Rig) -> None:
    rig.play_many(LOAD, Proxy.PLAIN, 40, 20, groups=2)
    for wire in rig.wires.values():
        offers = {p.request["call-id"] for p in wire.passed() if p.command == OFFER}
        deletes = {p.request["call-id"] for p in wire.passed() if p.command == DELETE}
        assert offers and offers == deletes


def test_a_full_group_sends_kamailio_to_the_next(rig: Rig) -> None:
    """It compares the whole text of the error, and asks its next node: no call is refused."""
    low, high = PORTS
    first, second = rig.wires.values()
    rig.proxy(Proxy.PLAIN, groups=2)
    group = rig.lab.plan.groups[0]
    control = Address(group.control_host, CONTROL_PORT)
    with namespaces.run_in(rig.lab.plan.cscf, lambda: NgClient(control, prefix="fill")) as client:
        calls = [f"fill-{number}" for number in range((high - low + 1) // FLOWS_PER_CALL)]
        sdp = session_sdp(Address("fd00:a::100", 10_000))
        offers = [
            {"command": "offer", "call-id": call, "from-tag": "a", "sdp": sdp} for call in calls
        ]
        assert all(r is not None and r["result"] == "ok" for r in client.call_many(offers))
        try:
            rig.broken = True
            rig.play_many(LOAD, Proxy.PLAIN, 20, 20, groups=2, settle=False)
        finally:
            deletes = [{"command": "delete", "call-id": call, "from-tag": "a"} for call in calls]
            client.call_many(deletes)
    rig.settle()
    rig.broken = False
    turned_away = {
        p.request["call-id"]: p.reply.get("error-reason")
        for p in first.passed()
        if p.command == OFFER
    }
    assert turned_away and set(turned_away.values()) == {"Ran out of ports"}
    served = {p.request["call-id"] for p in second.passed() if p.command == OFFER}
    assert set(turned_away) < served
    assert {p.request["call-id"] for p in second.passed() if p.command == DELETE} == served
