"""The S-BFD control packet: a frozen value with `parse` and `encode`. No sockets, no state.

RFC 5880 section 4.1 gives the 24 bytes, RFC 7880 the seamless use of them (an initiator asks, a
reflector answers with the discriminators swapped), RFC 7881 the UDP encapsulation.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from failover.errors import MalformedPacket

VERSION: Final = 1  # RFC 5880 section 4.1
LENGTH: Final = 24  # without an authentication section
PORT: Final = 7784  # RFC 7881 section 3: the reflector listens here
HOP_LIMIT: Final = 255  # RFC 5082: what comes from another link has less
INTERVAL_MAX_US: Final = 0xFFFF_FFFF
DISCRIMINATOR_MAX: Final = 0xFFFF_FFFF
MULTIPLIER_MAX: Final = 255

_LAYOUT: Final = struct.Struct("!BBBBIIIII")

_POLL: Final = 0x20
_FINAL: Final = 0x10
_CONTROL_PLANE_INDEPENDENT: Final = 0x08
_AUTHENTICATION: Final = 0x04
_DEMAND: Final = 0x02
_MULTIPOINT: Final = 0x01


class State(enum.IntEnum):
    """RFC 5880 section 4.1, field Sta."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """One control packet. Intervals in microseconds, as on the wire.

    `demand` tells the two directions apart: an initiator sets it, a reflector clears it
    (RFC 7880 sections 7.2.2 and 7.3.2), so an initiator never takes its own echo for an answer.
    """

    my_discriminator: int
    your_discriminator: int
    state: State = State.UP
    multiplier: int = 3
    desired_min_tx_us: int = 0
    required_min_rx_us: int = 0
    required_min_echo_rx_us: int = 0
    diagnostic: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False

    @classmethod
    def parse(cls, datagram: bytes) -> ControlPacket:
        """The reception rules of RFC 5880 section 6.8.6 that need no session.

        Bytes behind the 24 of the packet are ignored, as the Length field allows. Raises
        MalformedPacket.
        """
        if len(datagram) < LENGTH:
            raise MalformedPacket(f"S-BFD packet of {len(datagram)} bytes: at least {LENGTH}")
        head, flags, multiplier, length, mine, yours, tx, rx, echo = _LAYOUT.unpack_from(datagram)
        if head >> 5 != VERSION:
            raise MalformedPacket(f"BFD version {head >> 5}: only {VERSION} is spoken here")
        if not LENGTH <= length <= len(datagram):
            raise MalformedPacket(
                f"S-BFD length field {length}: must be {LENGTH}..{len(datagram)} here"
            )
        if flags & _AUTHENTICATION:
            raise MalformedPacket("S-BFD packet with authentication: none is configured")
        if flags & _MULTIPOINT:
            raise MalformedPacket("S-BFD packet with the multipoint bit: must be zero")
        if multiplier == 0:
            raise MalformedPacket("S-BFD detect multiplier 0: must be 1..255")
        if mine == 0:
            raise MalformedPacket("S-BFD my discriminator 0: must not be zero")
        if yours == 0:
            raise MalformedPacket("S-BFD your discriminator 0: must not be zero")
        return cls(
            my_discriminator=mine,
            your_discriminator=yours,
            state=State(flags >> 6),
            multiplier=multiplier,
            desired_min_tx_us=tx,
            required_min_rx_us=rx,
            required_min_echo_rx_us=echo,
            diagnostic=head & 0x1F,
            poll=bool(flags & _POLL),
            final=bool(flags & _FINAL),
            control_plane_independent=bool(flags & _CONTROL_PLANE_INDEPENDENT),
            demand=bool(flags & _DEMAND),
        )

    def encode(self) -> bytes:
        """The 24 bytes. Raises MalformedPacket when a field does not fit: our own mistake."""
        flags = (
            self.state << 6
            | (_POLL if self.poll else 0)
            | (_FINAL if self.final else 0)
            | (_CONTROL_PLANE_INDEPENDENT if self.control_plane_independent else 0)
            | (_DEMAND if self.demand else 0)
        )
        try:
            return _LAYOUT.pack(
                VERSION << 5 | self.diagnostic,
                flags,
                self.multiplier,
                LENGTH,
                self.my_discriminator,
                self.your_discriminator,
                self.desired_min_tx_us,
                self.required_min_rx_us,
                self.required_min_echo_rx_us,
            )
        except struct.error as error:
            raise MalformedPacket(f"{self}: a field does not fit its width ({error})") from None

    def __str__(self) -> str:
        flags = "".join(
            letter
            for letter, on in (
                ("P", self.poll),
                ("F", self.final),
                ("C", self.control_plane_independent),
                ("D", self.demand),
            )
            if on
        )
        return (
            f"S-BFD {self.state.name} {self.my_discriminator}->{self.your_discriminator}"
            f" x{self.multiplier} tx {self.desired_min_tx_us} us rx {self.required_min_rx_us} us"
            f" [{flags}]"
        )


def reflect(request: ControlPacket, required_min_rx_us: int = 0) -> ControlPacket:
    """What a reflector answers (RFC 7880 section 7.2.2): the XDP program does the same in C."""
    return ControlPacket(
        my_discriminator=request.your_discriminator,
        your_discriminator=request.my_discriminator,
        state=State.UP,
        multiplier=request.multiplier,
        desired_min_tx_us=request.desired_min_tx_us,
        required_min_rx_us=required_min_rx_us,
        final=request.poll,
        control_plane_independent=True,
    )
