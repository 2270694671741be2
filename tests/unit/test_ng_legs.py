"""One Call-ID twice through one gateway: `leg-per-branch` makes each passage a call of its own."""

from __future__ import annotations

from typing import Any

import pytest

from bgf.model import Gate
from tests.fakes.flows import Pinholes
from tests.fakes.gateway_rig import Control, Node
from tests.fakes.ng_requests import ANSWER, DELETE, OFFER, control, established, ports, sdp

OUT: dict[str, Any] = {"flags": ["leg-per-branch"], "via_branch": "mo"}
BACK: dict[str, Any] = {"flags": ["leg-per-branch"], "via_branch": "mt"}
TO_CORE: dict[str, Any] = {"direction": ["access", "core"], "address_family": "IP4"}
TO_ACCESS: dict[str, Any] = {"direction": ["core", "access"], "address_family": "IP4"}


def on_net() -> tuple[Control, dict[str, Any]]:
    """A UE calls another one: out into the core, and back. The gateway, and the last answer."""
    made = control()
    towards_core = made.ask(**OFFER, **OUT, **TO_CORE)
    again = OFFER | {"sdp": towards_core["sdp"]}
    made.ask(**again, **BACK, **TO_ACCESS)
    back = ANSWER | {"sdp": sdp("10.10.0.3", 7000)}
    answered = made.ask(**back, **BACK)
    return made, made.ask(**(ANSWER | {"sdp": answered["sdp"]}), **OUT)


def test_each_leg_is_a_call_with_pinholes_of_its_own() -> None:
    made, answered = on_net()
    assert answered["result"] == "ok"
    machine = made.node.gateway
    assert set(machine.sessions) == {"c;mo", "c;mt"}
    out, back = (machine.expected_flows(name) for name in ("c;mo", "c;mt"))
    assert all(flow.gate is Gate.OPEN for flow in (*out, *back))
    assert not {flow.key for flow in out} & {flow.key for flow in back}
    # What leaves the one for the core arrives at the other, there and back.
    (leaves,) = (f for f in out if f.realm_in == "access" and f.component == 1)
    (arrives,) = (f for f in back if f.realm_in == "core" and f.component == 1)
    assert leaves.remote == arrives.local_in and arrives.source.host == leaves.local_out.host
    assert made.ask(command="list")["calls"] == ["c;mo", "c;mt"]


def test_without_it_the_second_passage_is_a_new_offer_of_the_same_call() -> None:
    """What `leg-per-branch` is for."""
    made = control()
    towards_core = made.ask(**OFFER, **TO_CORE, via_branch="mo")
    made.ask(**OFFER | {"sdp": towards_core["sdp"]}, **TO_ACCESS, via_branch="mt")
    assert set(made.node.gateway.sessions) == {"c"}


def test_each_leg_ends_alone_whoever_owns_it() -> None:
    made, _ = on_net()
    assert made.ask(cookie="bye", **DELETE, **OUT)["result"] == "ok"
    second = Control(Node(made.node.shared, Pinholes()), made.now_ns)
    assert second.ask(cookie="bye", **DELETE, **OUT)["result"] == "ok"
    assert second.ask(command="query", call_id="c", **BACK)["result"] == "ok"
    assert second.ask(command="query", call_id="c;mt")["result"] == "ok"
    reply = second.ask(**DELETE)
    assert "not here" in reply["warning"], "the Call-ID alone names neither"
    assert second.node.gateway.session("c;mt") is not None
    assert second.ask(**DELETE, **BACK) == {"result": "ok"}
    assert second.node.shared.flows == {}


def test_a_reoffer_finds_its_leg() -> None:
    made, _ = on_net()
    before = {name: made.node.gateway.expected_flows(name) for name in ("c;mo", "c;mt")}
    moved = OFFER | {"sdp": sdp("10.10.0.9", 6000), "to_tag": "b"}
    assert ports(made.ask(**moved, **OUT)) == [str(before["c;mo"][0].local_out.port)]
    assert made.node.gateway.expected_flows("c;mt") == before["c;mt"]


@pytest.mark.parametrize("flags", [["leg-per-branch", "loop-protect"], ["loop-protect"]], ids=str)
def test_a_loop_mark_stops_no_leg(flags: list[str]) -> None:
    """`loop-protect` leaves an SDP alone that this group has rewritten; each leg must."""
    made = control()
    first = made.ask(**OFFER, via_branch="mo", flags=flags)
    again = made.ask(**OFFER | {"sdp": first["sdp"]}, via_branch="mt", flags=flags, **TO_ACCESS)
    assert (again["sdp"] == first["sdp"]) is (flags == ["loop-protect"])


def test_without_a_branch_it_is_said_and_nothing_else() -> None:
    reply = established().ask(**OFFER, flags=["leg-per-branch"])
    assert reply["result"] == "ok" and "leg-per-branch without via-branch" in reply["warning"]


def test_a_leg_is_no_branch_of_a_forked_call() -> None:
    made, _ = on_net()
    session = made.node.gateway.session("c;mo")
    assert session is not None and session.branch == "" and session.forks == ()
