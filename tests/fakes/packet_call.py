"""One call through the gateway of a PacketLab, as flows and as frames, for tests of the program."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bgf.media import frames
from bgf.media.datapath import Outcome
from bgf.model import Address, Flow
from tests.fakes.packet_lab import CALLEE4, CALLEE6, UE4, UE6
from tests.fakes.packet_path import PacketPath, Ran, flow

NEAR = {4: "10.10.0.101", 6: "fd00:a::101"}
FAR = {4: "10.20.0.101", 6: "fd00:c::101"}
UES, CALLEES = {4: UE4, 6: UE6}, {4: CALLEE4, 6: CALLEE6}
PAIRS = [(4, 4), (4, 6), (6, 4), (6, 6)]
PORT, FAR_PORT, UE_PORT, CALLEE_PORT = 30_000, 31_000, 4_000, 5_000


def up(pair: tuple[int, int] = (4, 4), **more: Any) -> Flow:
    """UE to callee."""
    near, far = Address(NEAR[pair[0]], PORT), Address(FAR[pair[1]], FAR_PORT)
    remote = str(Address(CALLEES[pair[1]], CALLEE_PORT))
    return flow(str(near), str(far), remote, **more)


def down(pair: tuple[int, int] = (4, 4), **more: Any) -> Flow:
    """Callee to UE, the other direction of `up`."""
    near, far = Address(NEAR[pair[0]], PORT), Address(FAR[pair[1]], FAR_PORT)
    remote = more.pop("remote", str(Address(UES[pair[0]], UE_PORT)))
    return flow(str(far), str(near), remote, **more)


def from_ue(
    path: PacketPath, family: int = 4, payload: bytes = b"media", *, port: int = UE_PORT,
    host: str = "", hops: int = 64,
) -> bytes:  # fmt: skip
    sender = Address(host or UES[family], port)
    return path.frame(sender, Address(NEAR[family], PORT), payload, hops)


def from_callee(path: PacketPath, family: int = 4, payload: bytes = b"media") -> bytes:
    sender = Address(CALLEES[family], CALLEE_PORT)
    return path.frame(sender, Address(FAR[family], FAR_PORT), payload)


def checked(ran: Ran) -> frames.Datagram:
    """The packet that left, after scapy has found its checksums right."""
    assert (ran.action, ran.outcome) == ("redirect", Outcome.FORWARD)
    parsed, fresh = Ether(ran.frame), Ether(ran.frame)
    for layer in (IP, UDP):
        if layer in fresh:
            del fresh[layer].chksum
    fresh = Ether(bytes(fresh))
    for layer in (IP, UDP):
        if layer in parsed:
            assert parsed[layer].chksum == (fresh[layer].chksum or 0xFFFF)
    read = frames.read(ran.frame)
    assert read is not None
    return read


def rtp(
    sequence: int = 1,
    *,
    stamp: int = 0,
    ssrc: int = 7,
    kind: int = 0,
    first: int = 0x80,
    payload: bytes = b"voice",
) -> bytes:
    return struct.pack(">BBHII", first, kind, sequence & 0xFFFF, stamp, ssrc) + payload
