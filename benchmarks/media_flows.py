"""The load of the media benchmark: streams as they arrive, pinholes for them, where they come out.

Knows: the rig's addresses, flows as values. Must not know packets, maps or clocks. Flow number n is
the same in every measurement; neighbours in number differ in every address, so that a forwarder's
memory sees what many calls by turns look like.
"""

from __future__ import annotations

from typing import Final

from benchmarks.media_rig import (
    ACCESS,
    ACCESS4,
    ACCESS6,
    CORE,
    CORE4,
    CORE6,
    FAR_HOSTS,
    MEDIA_HOSTS,
    far_host,
    media_host,
)
from bgf.lab.rtpload import Expected, StreamSpec
from bgf.model import (
    Address,
    Component,
    Flow,
    Gate,
    Group,
    Policer,
    RealmAddress,
    Rtp,
    Source,
)

GROUP: Final = "g1"
PORT_FIRST: Final = 10_000
CALLERS: Final = 200
"""Callers' addresses: numbered from 20 on, in another part of the realm than the gateway's."""
FLOWS_MAX: Final = MEDIA_HOSTS * 25_000

POLICER: Final = Policer(
    sustained_bytes_s=100_000_000,
    burst_bytes=1 << 24,
    peak_bytes_s=200_000_000,
    peak_burst_bytes=1 << 20,
)
RTP: Final = Rtp(check=True, payload_types=(0, 8, 101))

CALLER4, CALLER6 = "10.10.1.%d", "fd00:a::1:%d"


def group() -> Group:
    """The one service group, with all media addresses."""
    addresses = [
        RealmAddress(realm, media_host(template, index), bits)
        for realm, template, bits in (
            (ACCESS, ACCESS4, 16),
            (ACCESS, ACCESS6, 64),
            (CORE, CORE4, 16),
            (CORE, CORE6, 64),
        )
        for index in range(MEDIA_HOSTS)
    ]
    return Group(
        id=GROUP,
        control=Address("10.30.0.101", 2223),
        control_realm="mgmt",
        control_prefix_len=24,
        ports=(PORT_FIRST, 65_535),
        addresses=tuple(addresses),
    )


def caller(number: int, ip6: bool) -> Address:
    """Where stream `number` comes from."""
    template = CALLER6 if ip6 else CALLER4
    return Address(template % (20 + number % CALLERS), PORT_FIRST + 2 * (number // CALLERS))


def local_in(number: int, ip6: bool) -> Address:
    """Where it arrives at the gateway."""
    host = media_host(ACCESS6 if ip6 else ACCESS4, number)
    return Address(host, PORT_FIRST + 2 * (number // MEDIA_HOSTS))


def local_out(number: int, ip6: bool) -> Address:
    """Where it leaves from."""
    host = media_host(CORE6 if ip6 else CORE4, number)
    return Address(host, PORT_FIRST + 2 * (number // MEDIA_HOSTS))


def callee(number: int, ip6: bool) -> Address:
    """Where it is to go."""
    return Address(
        far_host(CORE6 if ip6 else CORE4, number), PORT_FIRST + 2 * (number // FAR_HOSTS)
    )


def streams(count: int, in6: bool = False) -> list[StreamSpec]:
    """What the generator sends."""
    return [StreamSpec(caller(n, in6), local_in(n, in6), n + 1) for n in range(count)]


def expected(count: int, out6: bool = False) -> list[Expected]:
    """What the receiver must see."""
    return [Expected(callee(n, out6), local_out(n, out6), n + 1) for n in range(count)]


def flow(number: int, in6: bool = False, out6: bool = False) -> Flow:
    """The pinhole of stream `number`, open, with everything on.

    A source filter for its caller alone, policing with both buckets, RTP checked and its
    statistics kept; the lease is the group's. No generator exceeds what the policer allows.
    """
    sender = caller(number, in6)
    return Flow(
        group=GROUP,
        session=f"s{number}",
        stream=0,
        component=Component.RTP,
        realm_in=ACCESS,
        local_in=local_in(number, in6),
        realm_out=CORE,
        local_out=local_out(number, out6),
        remote=callee(number, out6),
        source=Source(sender.host, sender.port),
        gate=Gate.OPEN,
        policer=POLICER,
        rtp=RTP,
    )


def flows(count: int, in6: bool = False, out6: bool = False) -> list[Flow]:
    """Pinholes for the first `count` streams."""
    return [flow(n, in6, out6) for n in range(count)]
