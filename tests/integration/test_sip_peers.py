"""Kamailio and SIPp as the lab configures them, through a gateway that is a fake relay.

Real INVITEs from IPv6 and IPv4 callers, RTP in both directions as the receivers' meters hear it,
hanging up on command, every call completed and deleted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgf.errors import EnvironmentProblem
from bgf.lab import plan as lab_plan
from bgf.lab import sip
from bgf.lab.plan import Plan, make_plan
from bgf.lab.processes import Processes
from bgf.lab.rtpload import Meter
from bgf.lab.sip import CallStats, SipPeers, missing_packages, read_statistics, render
from bgf.lab.topology import Topology, held
from tests.fakes.ng_relay import NgRelay

needs_lab = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing_packages()),
    reason=f"needs root and the Debian packages {' '.join(sorted(set(sip.PACKAGES.values())))}",
)

CALLS = 4
PACKETS_MIN = 10
WAIT_S = 30


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    made = make_plan(actives=1, prefix=f"s{os.getpid() % 100_000}-", run_dir=tmp_path / "run")
    with held(made.run_dir):
        topology, processes = Topology(made), Processes(made.run_dir)
        try:
            topology.up(print)
            yield made
        finally:
            left = processes.stop_all()
            topology.down()
    assert left == []
    assert topology.leftovers() == []


@pytest.fixture
def relay(plan: Plan) -> Iterator[NgRelay]:
    with contextlib.closing(NgRelay(plan.nodes[0].namespace, plan.groups[0])) as made:
        yield made


def wait_for(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.05)


@needs_lab
def test_calls_over_both_families_talk_hang_up_when_told_and_are_deleted(
    plan: Plan, relay: NgRelay
) -> None:
    peers = SipPeers(plan, Processes(plan.run_dir))
    hosts = (lab_plan.ACCESS_HOST6, lab_plan.ACCESS_HOST4)
    with (
        Meter(plan.access, "access", 64, watch=hosts) as access,
        Meter(plan.core, "core", 64, watch=(lab_plan.CORE_HOST4,)) as core,
    ):
        peers.start_proxy()
        peers.start_calls(CALLS)
        for name, meter in (("access", access), ("core", core)):
            wait_for(
                f"RTP of {CALLS} calls at {name}",
                lambda m=meter: sum(r.packets >= PACKETS_MIN for r in m.flows()) == CALLS,  # type: ignore[misc]
            )
        families = {report.destination.host for report in access.flows()}
        gateway = {report.source.host for report in access.flows() + core.flows()}
    assert families == set(hosts)
    assert gateway == {"fd00:a::101", "10.10.0.101", "10.20.0.101"}

    offers = relay.commands("offer")
    assert {offer["call-id"] for offer in offers} == set(peers.call_ids())
    assert all(offer["direction"] == ["access", "core"] for offer in offers)
    assert all(offer["address-family"] == "IP4" for offer in offers)
    # Nobody hangs up before being told.
    wait_for("statistics", lambda: peers.stats().started == CALLS)
    assert not peers.done() and relay.commands("delete") == []
    assert relay.open_calls() == CALLS

    peers.hang_up()
    wait_for("the end of all calls", peers.done)
    assert peers.stats() == CallStats(started=CALLS, current=0, completed=CALLS, failed=0)
    assert peers.errors() == []
    assert {request["call-id"] for request in relay.commands("delete")} == set(peers.call_ids())
    assert relay.open_calls() == 0
    peers.stop()
    assert Processes(plan.run_dir).running() == []


@needs_lab
def test_a_proxy_that_cannot_start_says_its_last_words(
    plan: Plan, relay: NgRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_plan, "CSCF_CORE4", "10.99.0.5")
    with pytest.raises(EnvironmentProblem, match="kamailio ended with") as caught:
        SipPeers(plan, Processes(plan.run_dir)).start_proxy()
    assert "10.99.0.5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sip, "find_program", lambda program: "" if program == "sipp" else "/bin/true"
    )
    monkeypatch.setattr(sip, "_module_dir", lambda: "/modules")
    with pytest.raises(EnvironmentProblem) as caught:
        sip.require_packages()
    assert str(caught.value) == (
        "missing Debian package sip-tester: apt-get install --no-install-recommends sip-tester"
    )
    monkeypatch.setattr(sip, "_module_dir", lambda: "")
    assert missing_packages() == ["kamailio", "sip-tester"]


def test_a_template_with_a_name_left_open_is_refused() -> None:
    with pytest.raises(ValueError, match="@HOLD_MS_MAX@"):
        render("caller.xml", AUDIO="/a")
    assert "/some.ulaw" in render("callee.xml", AUDIO="/some.ulaw", HOLD_MS_MAX=5)


def test_statistics_are_those_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    assert read_statistics(path) == CallStats()
    head = "OutgoingCall(C);CurrentCall;SuccessfulCall(C);FailedCall(C);\n"
    path.write_text(head)
    assert read_statistics(path) == CallStats()
    path.write_text(head + "1;1;0;0;\n5;2;2;1;\n9;9")
    assert read_statistics(path) == CallStats(started=5, current=2, completed=2, failed=1)


@pytest.mark.parametrize(
    ("sample", "code"),
    # ITU-T G.711 table 2a: the ends of the first, an inner and the last segment.
    [(0, 0xFF), (-1, 0x7F), (32_635, 0x80), (32_767, 0x80), (-32_767, 0x00), (1_000, 0xCE)],
)
def test_mu_law(sample: int, code: int) -> None:
    assert sip.mu_law(sample) == code


def test_the_tone_is_a_second_of_sound() -> None:
    tone = sip.tone()
    assert len(tone) == sip.SAMPLE_RATE_HZ
    assert len(set(tone)) > 10
