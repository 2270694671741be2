"""The gateway's values: canonical, comparable, printable, and encoded without loss."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import Malformed
from bgf.model import Address, Component, Family, Flow, FlowKey, Gate, Source
from tests.fakes.calls import GROUP, unhurried

HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n))),
)


@unhurried
@given(HOSTS, st.integers(0, 65535))
def test_an_address_prints_and_parses_back(host: str, port: int) -> None:
    address = Address.of(host, port)
    assert Address.parse(str(address)) == address
    assert address.family is (Family.IP6 if ":" in host else Family.IP4)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [("FD00:A::0002", "fd00:a::2"), ("fd00:a:0:0:0:0:0:2", "fd00:a::2"), ("10.0.0.1", "10.0.0.1")],
)
def test_one_address_has_one_text(host: str, canonical: str) -> None:
    assert Address.of(host, 1).host == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:70000",
        "10.0.0.1:+5",
        "10.0.0.1:٣",
        "fd00::1:5",
        "x:1",
        "[fd00::1]",
        "[fd00::1]:-1",
        "010.0.0.1:5",
        "10.0.0.1:123456",
    ],
)
def test_bad_addresses_are_named(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        Address.parse(text)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_out_of_range_are_named(port: int) -> None:
    with pytest.raises(Malformed, match=str(port)):
        Address.of("10.0.0.1", port)


@pytest.mark.parametrize(
    ("source", "sender", "admitted"),
    [
        (Source(), "10.0.0.1:5", True),
        (Source("10.0.0.1"), "10.0.0.1:5", True),
        (Source("10.0.0.1"), "10.0.0.2:5", False),
        (Source("10.0.0.1", 5), "10.0.0.1:5", True),
        (Source("10.0.0.1", 5), "10.0.0.1:6", False),
    ],
)
def test_source_filter(source: Source, sender: str, admitted: bool) -> None:
    assert source.admits(Address.parse(sender)) is admitted


def test_a_flow_survives_its_encoding_in_every_field() -> None:
    near, far = Address("fd00:a::101", 30000), Address("10.20.0.101", 30002)
    flow = Flow(
        "g1", "c", 3, Component.RTCP, "access", near, "core", far,
        Address("10.20.0.2", 6001), Source("fd00:a::2", 7), Gate.OPEN,
    )  # fmt: skip
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(flow), type=Flow)
    assert again == flow
    assert isinstance(again.component, Component)
    assert again.key == FlowKey("fd00:a::101", 30000)
    assert str(again.key) == "[fd00:a::101]:30000"


def test_group_knows_its_addresses() -> None:
    assert GROUP.address_in("access", Family.IP6) == "fd00:a::101"
    assert GROUP.address_in("core", Family.IP6) is None
    assert GROUP.families_in("access") == (Family.IP6, Family.IP4)
    assert GROUP.families_in("moon") == ()
