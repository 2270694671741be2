"""The owner dies in the middle of every exchange that test_kamailio knows, at every step of it.

Before a command reaches the gateway, after it has been journaled but before anybody hears the
reply, after the reply: Kamailio's own retry is all that helps. The call completes, both ends hear
each other (or their ports are released), nothing is left. `BGF_KILLS=all` plays every step with
both configurations (`make soak-control`); without it each scenario dies once, by turns.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.lab.nodes import Timers
from bgf.lab.sip import missing_packages
from tests.integration.kamailio.rig import Kill, Rig, Rigs
from tests.integration.kamailio.scenarios import SCENARIOS, Proxy, Scenario
from tests.integration.kamailio.wire import Moment

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(missing_packages()),
        reason="needs root and the Debian packages kamailio and sip-tester",
    ),
    pytest.mark.timeout(240),
]

ALL = os.environ.get("BGF_KILLS") == "all"
STRIDE = 5
"""How far apart the steps are that neighbouring scenarios are given."""
VARIANTS = ("basic from IPv4", "basic to IPv4", "refused 488", "refused 503")
"""Left to the long form: others do the same between other parties."""

Case = tuple[Proxy, Scenario, Kill]


def steps(scenario: Scenario, proxy: Proxy) -> list[tuple[int, Moment]]:
    numbers = range(1, len(scenario.expected(proxy)) + 1)
    return list(itertools.product(numbers, Moment))


def every_case() -> Iterator[Case]:
    turn = itertools.count()
    for proxy in Proxy:
        for scenario in SCENARIOS:
            if proxy in scenario.proxies:
                for number, moment in steps(scenario, proxy):
                    yield proxy, scenario, Kill(number, moment, next(turn) % 2 == 0)


def one_case_each() -> Iterator[Case]:
    turn = 0
    for scenario in SCENARIOS:
        if scenario.name in VARIANTS:
            continue
        proxy = scenario.proxies[turn % len(scenario.proxies)]
        possible = steps(scenario, proxy)
        number, moment = possible[turn * STRIDE % len(possible)]
        yield proxy, scenario, Kill(number, moment, turn // 2 % 2 == 0)
        turn += 1


CASES = list(every_case() if ALL else one_case_each())


def told(case: Case) -> str:
    proxy, scenario, kill = case
    how = "power" if kill.power else "SIGKILL"
    return f"{proxy}-{scenario.name}-{kill.number} {kill.moment}-{how}"


@pytest.fixture(scope="module")
def rigs() -> Iterator[Rigs]:
    pid = os.getpid()
    # Deaths are seen in a fifth of a second, and a machine that stalls for less is not dead.
    timers = Timers(50, 4, lease_ms=1_000)
    with Rigs(Path(f"/run/bgf-test-x{pid}"), f"x{pid % 10_000}-", timers) as made:
        yield made


@pytest.fixture
def rig(rigs: Rigs) -> Rig:
    return rigs.fresh()


@pytest.mark.parametrize("case", CASES, ids=told)
def test_the_owner_dies(rig: Rig, case: Case) -> None:
    proxy, scenario, kill = case
    died = rig.owner()
    passed = rig.play(scenario, proxy, kill)
    assert set(scenario.expected(proxy)) == {one.command for one in passed}
    assert rig.dead == [(died, kill.power)]
    assert rig.owner() != died


def test_every_moment_is_met() -> None:
    """Even the short form kills in both ways, at every moment, behind both configurations."""
    assert {case[0] for case in CASES} == set(Proxy)
    assert {case[2].moment for case in CASES} == set(Moment)
    assert {case[2].power for case in CASES} == {True, False}
