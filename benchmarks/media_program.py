"""Nanoseconds that the packet program takes for one packet, each feature on and off.

The program runs over one packet again and again (BPF_PROG_TEST_RUN), through a pinhole that leads
back to itself: its packets leave for the gateway's own address, from the address that they came
from. Everything that a feature reads is warm then, so this is the price of its instructions; what
memory costs with many flows is in the rates. RTP statistics see the same packet every time, so a
duplicate.

Knows: flows with one feature each, the rig. Must not know the maps or the program's inside.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import media_flows, media_lanes
from benchmarks.media_rates import Bench
from benchmarks.media_rig import ACCESS, ACCESS4, ACCESS6, Rig
from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces
from bgf.lab.rtpbench import HOPS, time_program
from bgf.media.frames import build, read
from bgf.model import (
    Address,
    Component,
    Family,
    Flow,
    FlowKey,
    Gate,
    Latch,
    Policer,
    Rtp,
    Source,
)

FEATURE_GOAL: Final = "<= 25"
XDP_REDIRECT: Final = 4
PORT: Final = 20_000
LOOP_HOST: Final = 200
RTP_HEADER: Final = bytes((0x80, 0)) + bytes(10)
PAYLOAD: Final = RTP_HEADER + b"\xff" * 160
PINHOLES_MAX: Final = 1_024
PLENTY_BYTES_S: Final = 1 << 40
"""A rate that no test run exceeds: what is measured is a packet that conforms."""

WARM: Final = f"everything in the cache, mean of the better half of rounds of {HOPS} packets"

SENDERS: Final = {
    Family.IP4: Address(ACCESS4 % 10, PORT),
    Family.IP6: Address(ACCESS6 % 10, PORT),
}


def _local(family: Family) -> Address:
    """On no interface, so what goes there has a neighbour: ourselves. And no address of the
    group's, or the program would take the way back for a hairpin and go through two pinholes."""
    return Address((ACCESS6 if family is Family.IP6 else ACCESS4) % LOOP_HOST, PORT)


def loop(in6: bool = False, out6: bool = False) -> Flow:
    """The pinhole that leads back to itself, or to its twin of the other family."""
    come, go = (Family.IP6 if six else Family.IP4 for six in (in6, out6))
    return Flow(
        group=media_flows.GROUP,
        session="loop",
        stream=0,
        component=Component.RTP,
        realm_in=ACCESS,
        local_in=_local(come),
        realm_out=ACCESS,
        local_out=SENDERS[go],
        remote=_local(go),
        gate=Gate.OPEN,
    )


def features() -> Mapping[str, Flow]:
    """The plain pinhole with one thing more."""
    plain, sender = loop(), SENDERS[Family.IP4]
    change = partial(msgspec.structs.replace, plain)
    rate = {"sustained_bytes_s": PLENTY_BYTES_S, "burst_bytes": 1 << 30}
    peak = {"peak_bytes_s": PLENTY_BYTES_S, "peak_burst_bytes": 1 << 30}
    return {
        "filter_exact": change(source=Source(sender.host, sender.port)),
        "filter_prefix": change(source=Source(sender.host, 1, prefix_len=16, port_last=65_535)),
        "latch": change(latch=Latch.LATCH, learned=sender),
        "policing": change(policer=Policer(**rate)),
        "policing_peak": change(policer=Policer(**rate, **peak)),
        "dscp": change(dscp=46),
        "rtp_statistics": change(rtp=Rtp()),
        "rtp_check": change(rtp=Rtp(check=True, payload_types=(0, 8, 101))),
        "rtcp_mux": change(rtp=Rtp(), rtcp_mux=True),
        "inactivity": change(inactivity_ms=30_000),
    }


EVERYTHING: Final = {
    "source": Source(SENDERS[Family.IP4].host, PORT),
    "latch": Latch.LATCH,
    "learned": SENDERS[Family.IP4],
    "policer": Policer(PLENTY_BYTES_S, 1 << 30, PLENTY_BYTES_S, 1 << 30),
    "dscp": 46,
    "rtp": Rtp(check=True, payload_types=(0, 8, 101)),
    "inactivity_ms": 30_000,
}
PAIRS: Final = {"6to6": (True, True), "6to4_and_4to6": (True, False)}


def measure(bench: Bench) -> None:
    """All rows of this file."""
    rounds = 300 * bench.rounds
    with Rig() as rig:
        mac = rig.mac("gw", rig.access).hex(":")
        rig.ip(
            "gw",
            [
                f"neigh replace {_local(family).host} lladdr {mac} dev {rig.access} nud permanent"
                for family in Family
            ],
        )
        with media_lanes.bare_in(rig) as least:
            frame = _frame(rig, Family.IP4)
            found = namespaces.run_in(rig.name("gw"), lambda: least.nanoseconds(frame, rounds))
            bench.report.add("program_bare_ns", better_half(found), "ns", note=f"bare; {WARM}")
        datapath = media_lanes.open_datapath(rig, PINHOLES_MAX)

        def nanoseconds(*flows: Flow) -> float:
            datapath.remove([FlowKey(_local(f).host, PORT) for f in Family])
            datapath.install(flows)
            datapath.process()
            if datapath.unresolved:
                raise EnvironmentProblem(f"no next hop for {datapath.unresolved[0]}")
            family = flows[0].local_in.family
            return _time(rig, _frame(rig, family), rounds)

        try:
            plain = nanoseconds(loop())
            bench.report.add(
                "program_ns",
                plain,
                "ns",
                reference=better_half(found),
                note="IPv4 to IPv4, nothing on, beside the bare forwarder",
            )
            for name, flow in features().items():
                taken = nanoseconds(flow)
                bench.features[name] = taken - plain
                bench.report.add(
                    f"program_{name}_ns",
                    taken - plain,
                    "ns",
                    goal=FEATURE_GOAL,
                    note=f"more than without; {taken:.0f} in all",
                )
            full = msgspec.structs.replace(loop(), **EVERYTHING)
            bench.report.add("program_everything_ns", nanoseconds(full), "ns", note="all of them")
            for name, (in6, out6) in PAIRS.items():
                both = [loop(in6, out6), *([] if in6 == out6 else [loop(out6, in6)])]
                taken = nanoseconds(*both)
                bench.report.add(f"program_{name}_ns", taken, "ns", note="nothing on")
        finally:
            datapath.close(unpin=True)


def _frame(rig: Rig, family: Family) -> bytes:
    return build(
        SENDERS[family],
        _local(family),
        PAYLOAD,
        destination_mac=rig.mac("gw", rig.access),
        source_mac=rig.mac("ue", ACCESS),
        hops=HOPS + 1,
    )


def _time(rig: Rig, frame: bytes, rounds: int) -> float:
    pinned = rig.bpffs / "node" / "set" / "bgf_xdp"
    return better_half(
        namespaces.run_in(rig.name("gw"), partial(_rounds, rig.access, pinned, frame, rounds))
    )


def _rounds(interface: str, pinned: Path, frame: bytes, rounds: int) -> list[int]:
    ifindex = socket.if_nametoindex(interface)
    return time_program(pinned, frame, ifindex, rounds, _went_round)


def _went_round(verdict: int, frame: bytes) -> bool:
    """After the last run the packet must have been sent on, with one hop left."""
    datagram = read(frame)
    return verdict == XDP_REDIRECT and datagram is not None and datagram.hops == 1


def better_half(found: Sequence[int]) -> float:
    """The mean of the lower half: interrupts and other processes only ever add."""
    kept = sorted(found)[: max(1, len(found) // 2)]
    return sum(kept) / len(kept)
