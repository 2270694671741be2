"""Announcement frames against an independent decoder, and the reader against noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.frames import announcements, checksum, question, read_claim

MAC = bytes.fromhex("02000000000a")
HOSTS4 = st.ip_addresses(v=4).map(str).filter(lambda host: host != "0.0.0.0")
HOSTS6 = st.ip_addresses(v=6).map(str)


@given(HOSTS4 | HOSTS6)
def test_who_announces_claims(host: str) -> None:
    for frame in announcements(MAC, host):
        claim = read_claim(frame)
        assert claim is not None
        assert (claim.host, claim.mac) == (host, "02:00:00:00:00:0a")


@given(HOSTS4 | HOSTS6)
def test_who_asks_does_not_claim(host: str) -> None:
    assert read_claim(question(MAC, host)) is None


@given(st.binary(max_size=128))
def test_noise_claims_nothing_or_something_but_never_raises(noise: bytes) -> None:
    for head in (b"", b"\0" * 12 + b"\x08\x06", b"\0" * 12 + b"\x86\xdd"):
        read_claim(head + noise)


@pytest.mark.parametrize("cut", range(0, 86, 5))
def test_a_cut_frame_claims_nothing(cut: int) -> None:
    for host in ("10.0.0.1", "fd00::1"):
        for frame in announcements(MAC, host):
            if cut < len(frame) - 8:
                assert read_claim(frame[:cut]) is None


def test_the_checksum_is_that_of_the_rfc() -> None:
    """The worked example of RFC 1071 section 3."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_the_probe_goes_to_the_solicited_node_group() -> None:
    """RFC 4291 section 2.7.1: ff02::1:ff00:0/104 and the low 24 bits; RFC 2464 section 7."""
    frame = question(MAC, "fd00:a::12:3456")
    assert frame[:6] == bytes.fromhex("3333ff123456")
    assert frame[14 + 24 : 14 + 40] == bytes.fromhex("ff0200000000000000000001ff123456")
