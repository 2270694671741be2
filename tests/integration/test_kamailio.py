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
from tests.integration.kamailio.rig import Rig, Rigs, wait_for
from tests.integration.kamailio.scenarios import (
    ANSWER,
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

SESSIONS_MAX = 250
PAIRS_PER_LINE, LINES_MAX = 2, 16
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
    with Rigs(Path(f"/run/bgf-test-k{pid}"), f"k{pid % 10_000}-", timers, SESSIONS_MAX) as made:
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
    begun = {one.request["call-id"] for one in rig.wire.passed() if one.command == OFFER}
    assert len(begun) == calls
    assert rig.mute(way.caller, ANSWER, began_ns) == set()
    assert rig.mute(way.callee, OFFER, began_ns) == set()


def test_two_groups_share_the_calls(rig: Rig) -> None:
    rig.play_many(LOAD, Proxy.PLAIN, 40, 20, groups=2)
    for wire in rig.wires.values():
        offers = {p.request["call-id"] for p in wire.passed() if p.command == OFFER}
        deletes = {p.request["call-id"] for p in wire.passed() if p.command == DELETE}
        assert offers and offers == deletes


@pytest.mark.parametrize("full", ["calls", "ports"])
def test_a_full_group_sends_kamailio_to_the_next(rig: Rig, full: str) -> None:
    """On `load limit`, and on the whole text of one error, it asks its next node: no call fails."""
    low, high = PORTS
    pairs = (high - low + 1) // 2
    per_call = LINES_MAX * PAIRS_PER_LINE if full == "ports" else PAIRS_PER_LINE
    count = pairs // per_call if full == "ports" else SESSIONS_MAX
    first, second = rig.wires.values()
    rig.proxy(Proxy.PLAIN, groups=2)
    group = rig.lab.plan.groups[0]
    control = Address(group.control_host, CONTROL_PORT)
    fill = [filler(f"fill-{number}", per_call) for number in range(count)]
    if full == "ports":
        fill.append(filler("fill-rest", pairs - count * per_call))
    with namespaces.run_in(rig.lab.plan.cscf, lambda: NgClient(control, prefix=full)) as client:
        rig.broken = True
        wanted = list(fill)

        def taken() -> bool:
            """Ports of earlier calls rest for a while: they are asked for until they can be had."""
            replies = client.call_many(wanted)
            wanted[:] = [
                one
                for one, reply in zip(wanted, replies, strict=True)
                if reply is None or reply["result"] != "ok"
            ]
            return not wanted

        wait_for(f"the group is full of {full}", taken)
        try:
            rig.play_many(LOAD, Proxy.PLAIN, 20, 20, groups=2, settle=False)
        finally:
            client.call_many([DELETE_OF | {"call-id": str(one["call-id"])} for one in fill])
    rig.settle()
    rig.broken = False
    turned_away = {
        p.request["call-id"]: (p.reply["result"], p.reply.get("error-reason"))
        for p in first.passed()
        if p.command == OFFER
    }
    said = ("load limit", None) if full == "calls" else ("error", "Ran out of ports")
    assert turned_away and set(turned_away.values()) == {said}
    served = {p.request["call-id"] for p in second.passed() if p.command == OFFER}
    assert set(turned_away) < served
    assert {p.request["call-id"] for p in second.passed() if p.command == DELETE} == served


DELETE_OF = {"command": "delete", "from-tag": "a"}


def filler(call_id: str, pairs: int) -> dict[str, str]:
    """An offer that takes so many pairs of ports: one towards each side for every m-line."""
    sdp = session_sdp(Address("fd00:a::100", 10_000))
    head, media = sdp[: sdp.index("m=")], sdp[sdp.index("m=") :]
    return {
        "command": "offer",
        "call-id": call_id,
        "from-tag": "a",
        "sdp": head + media * (pairs // PAIRS_PER_LINE),
    }
