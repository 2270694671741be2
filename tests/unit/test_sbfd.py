"""The S-BFD packet against the bytes of RFC 5880 section 4.1, and against noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.errors import MalformedPacket
from failover.sbfd import LENGTH, ControlPacket, State, reflect

WORDS = st.integers(0, 0xFFFF_FFFF)
PACKETS = st.builds(
    ControlPacket,
    my_discriminator=st.integers(1, 0xFFFF_FFFF),
    your_discriminator=st.integers(1, 0xFFFF_FFFF),
    state=st.sampled_from(State),
    multiplier=st.integers(1, 255),
    desired_min_tx_us=WORDS,
    required_min_rx_us=WORDS,
    required_min_echo_rx_us=WORDS,
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    control_plane_independent=st.booleans(),
    demand=st.booleans(),
)

# An initiator's packet, written out by hand from the figure in the RFC.
BY_HAND = bytes.fromhex("20 42 03 18 00000001 00000002 00004e20 00000000 00000000".replace(" ", ""))


def test_the_bytes_are_those_of_the_rfc() -> None:
    packet = ControlPacket(1, 2, state=State.DOWN, desired_min_tx_us=20_000, demand=True)
    assert packet.encode() == BY_HAND
    assert ControlPacket.parse(BY_HAND) == packet


@given(PACKETS)
def test_parse_is_the_inverse_of_encode(packet: ControlPacket) -> None:
    assert len(packet.encode()) == LENGTH
    assert ControlPacket.parse(packet.encode()) == packet
    assert ControlPacket.parse(packet.encode() + b"trailer") == packet


@given(st.binary(max_size=64))
def test_noise_is_refused_or_parsed_but_never_anything_else(noise: bytes) -> None:
    try:
        packet = ControlPacket.parse(noise)
    except MalformedPacket as error:
        assert "\n" not in str(error)
    else:
        assert ControlPacket.parse(packet.encode()) == packet


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [
        (0, 0x40, "version"),
        (1, 0x46, "authentication"),
        (1, 0x43, "multipoint"),
        (2, 0, "multiplier"),
        (3, 23, "length"),
        (3, 25, "length"),
        (7, 0, "my discriminator"),
        (11, 0, "your discriminator"),
    ],
)
def test_each_rule_of_reception_names_itself(offset: int, value: int, word: str) -> None:
    broken = bytearray(BY_HAND)
    broken[offset] = value
    with pytest.raises(MalformedPacket, match=word):
        ControlPacket.parse(bytes(broken))


def test_a_short_packet_is_refused() -> None:
    with pytest.raises(MalformedPacket, match="23 bytes"):
        ControlPacket.parse(BY_HAND[:-1])


@pytest.mark.parametrize(
    "packet",
    [
        ControlPacket(1 << 32, 2),
        ControlPacket(1, 2, desired_min_tx_us=1 << 32),
        ControlPacket(1, 2, multiplier=256),
    ],
)
def test_what_does_not_fit_is_not_sent(packet: ControlPacket) -> None:
    with pytest.raises(MalformedPacket, match="does not fit"):
        packet.encode()


def test_the_reflector_swaps_and_clears_demand() -> None:
    answer = reflect(ControlPacket.parse(BY_HAND))
    assert (answer.my_discriminator, answer.your_discriminator) == (2, 1)
    assert (answer.state, answer.demand, answer.final) == (State.UP, False, False)
    assert reflect(ControlPacket(1, 2, poll=True)).final
    assert "2->1" in str(answer)
