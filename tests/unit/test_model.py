"""The gateway's values: canonical, comparable, printable, and encoded without loss."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import Malformed
from bgf.model import (
    Address,
    Component,
    Family,
    Flow,
    FlowKey,
    Gate,
    Ice,
    Latch,
    Policer,
    Rtp,
    RtpStatistics,
    Source,
)
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
        (Source("10.0.0.0", None, 31), "10.0.0.1:6", True),
        (Source("10.0.0.0", None, 31), "10.0.0.2:6", False),
        (Source("10.0.0.9", 7, 0), "192.0.2.1:7", True),
        (Source("10.0.0.9", None, 0), "[::1]:7", False),
        (Source("fd00::", None, 16), "[fd00:ffff::1]:7", True),
        (Source("fd00::", None, 16), "[fd01::1]:7", False),
        (Source(None, 5, None, 7), "10.0.0.2:4", False),
        (Source(None, 5, None, 7), "10.0.0.2:5", True),
        (Source(None, 5, None, 7), "10.0.0.2:7", True),
        (Source(None, 5, None, 7), "10.0.0.2:8", False),
    ],
)
def test_source_filter(source: Source, sender: str, admitted: bool) -> None:
    assert source.admits(Address.parse(sender)) is admitted


NEAR, FAR = Address("fd00:a::101", 30000), Address("10.20.0.101", 30002)
FULL = Flow(
    "g1", "c", 3, Component.RTCP, "access", NEAR, "core", FAR,
    Address("10.20.0.2", 6001), Source("fd00:a::2", 7, 64, 9), Gate.OPEN,
    Latch.RELATCH, Address("fd00:a::7", 9), 3, True, Policer(10_000, 3_000, 20_000, 1_600),
    46, Rtp(True, (0, 8, 101), 16_000), True, 30_000,
    Ice("wxyz", "0123456789abcdefghijkl", "abcd"), True,
)  # fmt: skip


def test_a_flow_survives_its_encoding_in_every_field() -> None:
    plain = Flow("g1", "c", 3, Component.RTCP, "access", NEAR, "core", FAR)
    same = {name for name in Flow.__struct_fields__ if getattr(FULL, name) == getattr(plain, name)}
    required = set(Flow.__struct_fields__[:8])
    assert same == required, "a field with its default here is not tested"
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(FULL), type=Flow)
    assert again == FULL
    assert isinstance(again.component, Component)
    assert isinstance(again.latch, Latch)
    assert again.key == FlowKey("fd00:a::101", 30000)
    assert str(again.key) == "[fd00:a::101]:30000"
    assert again.reverse_key == FlowKey("10.20.0.101", 30002)


def test_a_flow_that_an_older_version_wrote_is_read() -> None:
    old = ["g1", "c", 0, 1, "access", ["fd00:a::101", 30000], "core", ["10.20.0.101", 30002],
           ["10.20.0.2", 6000], ["fd00:a::2", None], 1]  # fmt: skip
    flow = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Flow)
    assert flow == Flow(
        "g1", "c", 0, Component.RTP, "access", NEAR, "core", FAR,
        Address("10.20.0.2", 6000), Source("fd00:a::2"), Gate.OPEN,
    )  # fmt: skip


def test_an_older_version_reads_what_this_one_writes() -> None:
    class Older(msgspec.Struct, array_like=True):
        group: str
        session: str
        stream: int

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(FULL), type=Older).stream == 3


def test_jitter_in_time() -> None:
    assert RtpStatistics(jitter=160, clock_hz=8_000).jitter_ms == 20
    assert RtpStatistics().jitter_ms == 0


def test_group_knows_its_addresses() -> None:
    assert GROUP.address_in("access", Family.IP6) == "fd00:a::101"
    assert GROUP.address_in("core", Family.IP6) is None
    assert GROUP.families_in("access") == (Family.IP6, Family.IP4)
    assert GROUP.families_in("moon") == ()
