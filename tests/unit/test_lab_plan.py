"""The lab's plan and the node configurations made from it: consistent with themselves."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from bgf import config
from bgf.errors import ConfigError
from bgf.lab.drill import DrillOptions
from bgf.lab.ngload import SESSIONS_MAX, LoadError, peers, session_sdp
from bgf.lab.nodes import KINDS, Timers, command, node_config
from bgf.lab.plan import ACTIVES_MAX, NODES_MAX, make_plan
from bgf.model import Address

SIZES = [(actives, standbys) for actives in range(1, ACTIVES_MAX + 1)
         for standbys in range(1, NODES_MAX - actives + 1)]  # fmt: skip


@pytest.mark.parametrize(("actives", "standbys"), SIZES)
def test_no_name_or_address_is_given_twice(actives: int, standbys: int) -> None:
    plan = make_plan(actives=actives, standbys=standbys)
    assert len(set(plan.namespaces)) == len(plan.namespaces)
    assert len({port.switch_port for port in plan.ports}) == len(plan.ports)
    assert all(len(port.switch_port) <= 15 for port in plan.ports)
    hosts = [a.partition("/")[0] for port in plan.ports for a in port.addresses]
    for group in plan.groups:
        hosts.append(group.control_host)
        hosts += [a.partition("/")[0] for found in group.addresses.values() for a in found]
    assert len({ipaddress.ip_address(host) for host in hosts}) == len(hosts)
    assert len(plan.groups) == actives and len(plan.nodes) == actives + standbys


@pytest.mark.parametrize(("actives", "standbys"), SIZES)
def test_every_nodes_configuration_is_valid_and_complete(actives: int, standbys: int) -> None:
    plan = make_plan(actives=actives, standbys=standbys)
    seen = set()
    for node in plan.nodes:
        made = node_config(plan, node, Timers(probe_interval_ms=10))
        assert config.parse(config.dump(made), "lab") == made
        assert {peer.id for peer in made.failover.peers} == {n.id for n in plan.nodes} - {node.id}
        assert {group.id for group in made.groups} == {group.id for group in plan.groups}
        assert made.failover.timers.probe_interval_ms == 10
        seen.add(made.node.discriminator)
    assert len(seen) == len(plan.nodes)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"actives": 0}, "0 active"),
        ({"actives": 9}, "9 active"),
        ({"standbys": 0}, "0 standbys"),
        ({"actives": 8, "standbys": 2}, "2 standbys"),
        ({"prefix": ""}, "prefix ''"),
        ({"prefix": "much-too-long-"}, "much-too-long"),
        ({"prefix": "a/b"}, "a/b"),
    ],
)
def test_a_plan_out_of_range_is_refused_by_name(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        make_plan(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_node_or_group_is_refused_with_those_there_are() -> None:
    plan = make_plan()
    with pytest.raises(ConfigError, match="n1, n2, n3"):
        plan.node("n9")
    with pytest.raises(ConfigError, match="g1, g2"):
        plan.group("g9")


def test_a_process_is_started_by_its_kind_and_configuration() -> None:
    for kind in KINDS:
        assert command(kind, Path("/etc/x.toml"))[-3:] == [kind, "--config", "/etc/x.toml"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"calls": -1}, "calls = -1"),
        ({"flows": 10**6}, "flows = 1000000"),
        ({"runs": 0}, "runs = 0"),
        ({"calls": 0, "flows": 0}, "nothing to hear"),
    ],
)
def test_drill_options_out_of_range_are_refused_by_name(wrong: dict[str, int], named: str) -> None:
    DrillOptions().check()
    with pytest.raises(ConfigError, match=named):
        DrillOptions(**wrong).check()  # type: ignore[arg-type]


def test_load_sessions_have_addresses_of_their_own_in_both_families() -> None:
    pairs = [peers(number) for number in range(SESSIONS_MAX)]
    assert (
        len({caller for caller, _ in pairs}) == len({callee for _, callee in pairs}) == len(pairs)
    )
    assert {int(caller.family) for caller, _ in pairs} == {4, 6}
    assert all(callee.port < 65_535 and caller.port % 2 == 0 for caller, callee in pairs)
    for number in (-1, SESSIONS_MAX):
        with pytest.raises(LoadError, match=str(number)):
            peers(number)


def test_a_load_sessions_sdp_is_a_telephones() -> None:
    text = session_sdp(Address("fd00:a::100", 10_000))
    assert "c=IN IP6 fd00:a::100\r\n" in text
    assert "m=audio 10000 RTP/AVP 0\r\n" in text
    assert text.endswith("\r\n")
