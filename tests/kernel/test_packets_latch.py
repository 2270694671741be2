"""Latches and hairpins in the packet program, by tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from bgf.media.datapath import Outcome, PeerLearned
from bgf.model import Address, Counters, Flow, Gate, Latch, Policer, Rtp, Source
from tests.fakes.packet_call import (
    FAR,
    FAR_PORT,
    NEAR,
    PAIRS,
    PORT,
    UE_PORT,
    UES,
    checked,
    down,
    from_callee,
    from_ue,
    rtp,
    up,
)
from tests.fakes.packet_lab import CALLEE4, UE4
from tests.fakes.packet_path import FAR_DEADLINE_NS, PacketPath, flow, packet_path


@pytest.fixture(scope="module")
def lab_path() -> Iterator[PacketPath]:
    with packet_path() as made:
        yield made


@pytest.fixture
def path(lab_path: PacketPath) -> Iterator[PacketPath]:
    lab_path.datapath.arm("g1", FAR_DEADLINE_NS)
    yield lab_path
    lab_path.datapath.remove(lab_path.datapath.keys())
    lab_path.datapath.reports()


# ---- latching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_sender_is_learned_and_told(path: PacketPath, pair: tuple[int, int]) -> None:
    made = up(pair, latch=Latch.LATCH)
    path.datapath.install([made, down(pair, follows=True)])
    family = pair[0]
    outcomes = [
        path.send(from_ue(path, family, port=port), "access").outcome
        for port in (4_711, 4_711, 4_712, 4_711)
    ]
    good, bad = Outcome.FORWARD, Outcome.BAD_SOURCE
    assert outcomes == [good, good, bad, good]
    assert path.datapath.reports() == [PeerLearned(made.key, Address(UES[family], 4_711), 0)]
    back = checked(path.send(from_callee(path, pair[1]), "core"))
    assert back.receiver == Address(UES[family], 4_711)
    assert path.datapath.reports() == []


def test_only_what_is_admitted_teaches(path: PacketPath) -> None:
    made = up(latch=Latch.LATCH, rtp=Rtp(check=True), source=Source("10.10.0.96", None, 27))
    rows = [
        (from_ue(path, 4, rtp(), host="10.10.0.9"), Outcome.BAD_SOURCE),
        (from_ue(path, 4, b"noise"), Outcome.BAD_RTP),
        (from_ue(path, 4, rtp(), port=9), Outcome.FORWARD),
        (from_ue(path, 4, rtp()), Outcome.BAD_SOURCE),
    ]
    path.datapath.install([msgspec.structs.replace(made, gate=Gate.CLOSED)])
    assert path.send(from_ue(path, 4, rtp()), "access").outcome is Outcome.GATE_CLOSED
    path.datapath.install([made])
    assert [path.send(frame, "access").outcome for frame, _ in rows] == [o for _, o in rows]


def test_a_trace_teaches_nothing(path: PacketPath) -> None:
    path.datapath.install([up(latch=Latch.LATCH)])
    assert path.run(from_ue(path, port=9), "access").outcome is Outcome.FORWARD
    assert path.datapath.reports() == []
    assert path.send(from_ue(path), "access").outcome is Outcome.FORWARD
    assert path.run(from_ue(path, port=9), "access").outcome is Outcome.BAD_SOURCE


def test_latch_again_on_request(path: PacketPath) -> None:
    made = up(latch=Latch.LATCH)
    path.datapath.install([made])
    for _ in range(2):
        assert path.send(from_ue(path, port=1_000), "access").outcome is Outcome.FORWARD
    path.datapath.relatch(made.key)
    outcomes = [path.send(from_ue(path, port=p), "access").outcome for p in (2_000, 1_000, 2_000)]
    assert outcomes == [Outcome.FORWARD, Outcome.BAD_SOURCE, Outcome.FORWARD]
    told = [(report.peer.port, report.latch_round) for report in learned(path)]
    assert told == [(1_000, 0), (2_000, 1)]
    # Control has not heard yet and installs what it knew: nothing is lost.
    path.datapath.install([made])
    assert path.send(from_ue(path, port=2_000), "access").outcome is Outcome.FORWARD
    # Now it knows, and asks for another round by the flow itself.
    path.datapath.install([msgspec.structs.replace(made, latch_round=2)])
    assert path.send(from_ue(path, port=3_000), "access").outcome is Outcome.FORWARD
    assert [(r.peer.port, r.latch_round) for r in learned(path)] == [(3_000, 2)]


def learned(path: PacketPath) -> list[PeerLearned]:
    return [report for report in path.datapath.reports() if isinstance(report, PeerLearned)]


def test_relatch_keeps_the_old_sender_till_the_new_one_comes(path: PacketPath) -> None:
    made = up(latch=Latch.RELATCH, learned=Address(UE4, 1_000), latch_round=1)
    path.datapath.install([made, down(follows=True)])
    ports = [1_000, 1_000, 2_000, 1_000, 3_000, 2_000]
    outcomes = [path.send(from_ue(path, port=p), "access").outcome for p in ports]
    good, bad = Outcome.FORWARD, Outcome.BAD_SOURCE
    assert outcomes == [good, good, good, bad, bad, good]
    assert [(r.peer.port, r.latch_round) for r in learned(path)] == [(2_000, 1)]
    assert checked(path.send(from_callee(path), "core")).receiver.port == 2_000


def test_what_was_learned_elsewhere_goes_on_here(path: PacketPath) -> None:
    """As at a takeover: the state says who was learned, and nobody else gets in."""
    peer = Address(UE4, 4_711)
    path.datapath.install([
        up(latch=Latch.LATCH, learned=peer), down(follows=True, remote=str(peer)),
    ])  # fmt: skip
    assert path.send(from_ue(path), "access").outcome is Outcome.BAD_SOURCE
    assert path.send(from_ue(path, port=4_711), "access").outcome is Outcome.FORWARD
    assert checked(path.send(from_callee(path), "core")).receiver == peer
    assert learned(path) == []


def test_who_was_learned_is_sent_to_by_the_next_hop_that_is_kept_up(path: PacketPath) -> None:
    """While only the packet path knows, by who brought the packet; from then on by the route."""
    follower = down(follows=True, remote="192.0.2.77:4000")
    path.datapath.install([up(latch=Latch.LATCH), follower])
    path.send(from_ue(path, port=4_711), "access")
    bringer = path.frame(Address(UE4, 1), Address(NEAR[4], PORT))[6:12]
    assert path.send(from_callee(path), "core").frame[:6] == bringer
    path.datapath.install([up(latch=Latch.LATCH, learned=Address(UE4, 4_711))])
    ran = path.send(from_callee(path), "core")
    assert checked(ran).receiver == Address(UE4, 4_711)
    assert ran.frame[:6] == path.lab.macs["ue", "access"]
    # And by who brought it where no route is known.
    path.datapath.install([up(latch=Latch.LATCH, latch_round=1)])
    path.send(from_ue(path, host="192.0.2.78", port=9), "access")
    path.datapath.install([
        up(latch=Latch.LATCH, latch_round=1, learned=Address("192.0.2.78", 9))
    ])  # fmt: skip
    ran = path.send(from_callee(path), "core")
    assert (checked(ran).receiver, ran.frame[:6]) == (Address("192.0.2.78", 9), bringer)


def test_next_hops_come_and_go_with_who_is_learned(path: PacketPath) -> None:
    datapath = path.datapath
    indices = datapath._hops.indices(datapath._realms.ifindex("access"))

    def tidied() -> set[str]:
        for _ in range(3):
            datapath.refresh()
        return set(indices)

    nobody = tidied()
    follower, leader = down(follows=True, remote="192.0.2.77:4000"), up(latch=Latch.LATCH)
    known = up(latch=Latch.LATCH, learned=Address(UE4, 4_711))
    datapath.install([follower, leader])
    assert tidied() == nobody | {"192.0.2.77"}
    datapath.install([known])
    assert tidied() == nobody | {UE4}
    datapath.install([follower])
    assert tidied() == nobody | {UE4}
    assert checked(path.send(from_callee(path), "core")).receiver == Address(UE4, 4_711)
    assert datapath.differences([known, follower]) == {}
    datapath.remove([leader.key])
    assert tidied() == nobody | {"192.0.2.77"}
    datapath.remove([follower.key])
    assert tidied() == nobody


def test_strict_admits_the_signalled_address_alone(path: PacketPath) -> None:
    path.datapath.install([up(latch=Latch.STRICT, source=Source(UE4, UE_PORT))])
    assert path.send(from_ue(path, port=9), "access").outcome is Outcome.BAD_SOURCE
    assert path.send(from_ue(path), "access").outcome is Outcome.FORWARD
    assert path.send(from_ue(path, port=9), "access").outcome is Outcome.BAD_SOURCE
    assert learned(path) == []


def test_before_anybody_is_learned_the_other_way_waits_or_goes_by_signalling(
    path: PacketPath,
) -> None:
    path.datapath.install([up(latch=Latch.LATCH), down(follows=True, remote=None)])
    assert path.send(from_callee(path), "core").outcome is Outcome.NO_PEER
    path.datapath.install([down(follows=True)])
    assert checked(path.send(from_callee(path), "core")).receiver.port == UE_PORT
    path.send(from_ue(path, port=4_711), "access")
    assert checked(path.send(from_callee(path), "core")).receiver.port == 4_711


def test_the_way_back_needs_no_route(path: PacketPath) -> None:
    """A sender that no neighbour is known for: the frame goes to whom the packet came from."""
    path.datapath.install([up(latch=Latch.LATCH), down(follows=True, remote=None)])
    path.send(from_ue(path, host="192.0.2.77", port=9), "access")
    ran = path.send(from_callee(path), "core")
    assert checked(ran).receiver == Address("192.0.2.77", 9)
    assert ran.frame[:6] == bytes.fromhex("020000000009")  # of PacketPath.frame
    assert ran.frame[6:12] == path.lab.macs["gw", "access"]


def test_followers_come_and_go_in_any_order(path: PacketPath) -> None:
    follower, leader = down(follows=True, remote=None), up(latch=Latch.LATCH)
    path.datapath.install([follower])
    assert path.send(from_callee(path), "core").outcome is Outcome.NO_PEER
    path.datapath.install([leader])
    path.send(from_ue(path, port=4_711), "access")
    assert checked(path.send(from_callee(path), "core")).receiver.port == 4_711
    path.datapath.remove([leader.key])
    assert path.send(from_callee(path), "core").outcome is Outcome.NO_PEER
    # Another flow gets the slot that the leader had; it is followed by nobody.
    others = [
        flow(f"10.10.0.101:{30_100 + n}", f"10.20.0.101:{31_100 + n}", f"{CALLEE4}:5000",
             latch=Latch.LATCH, learned=Address("10.10.0.66", 66))
        for n in range(path.datapath.pinholes_max - 1)
    ]  # fmt: skip
    path.datapath.install(others)
    assert path.send(from_callee(path), "core").outcome is Outcome.NO_PEER
    path.datapath.remove([other.key for other in others])
    path.datapath.install([leader])
    path.send(from_ue(path, port=4_712), "access")
    assert checked(path.send(from_callee(path), "core")).receiver.port == 4_712


def test_a_lost_report_is_found_by_looking(path: PacketPath) -> None:
    made = up(latch=Latch.LATCH)
    path.datapath.install([made])
    path.send(from_ue(path), "access")
    path.datapath._learn_by.drain()
    path.datapath._learn_by.take()  # as if the ring had been full
    path.datapath._learn_by._await(made.key)
    path.datapath.refresh()
    assert learned(path) == [PeerLearned(made.key, Address(UE4, UE_PORT), 0)]
    path.datapath.refresh()
    assert learned(path) == []


# ---- hairpins -----------------------------------------------------------------------------------


def crossing(inner: int, last: int, first: int = 4, **second: Any) -> list[Flow]:
    """Two calls, the first one's callee being the second one's caller side: through the core."""
    hop = str(Address(FAR[inner], 33_000))
    return [
        flow(str(Address(NEAR[first], PORT)), str(Address(FAR[inner], FAR_PORT)), hop),
        flow(hop, str(Address(NEAR[last], 34_000)), str(Address(UES[last], 6_000)), **second),
    ]


@pytest.mark.parametrize("first", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("last", [4, 6])
def test_two_users_of_one_gateway(path: PacketPath, first: int, inner: int, last: int) -> None:
    flows = crossing(inner, last, first)
    path.datapath.install(flows)
    out = checked(path.send(from_ue(path, first, b"to myself"), "access"))
    assert (out.sender, out.receiver) == (flows[1].local_out, flows[1].remote)
    assert (out.payload, out.hops) == (b"to myself", 62)
    counted = path.datapath.counters([f.key for f in flows])
    assert [(c.packets, c.bytes) for c in counted] == [(1, 9), (1, 9)]


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        ({}, Outcome.FORWARD),
        ({"gate": Gate.CLOSED}, Outcome.GATE_CLOSED),
        ({"source": Source("10.20.0.101", FAR_PORT)}, Outcome.FORWARD),
        ({"source": Source("10.20.0.101", FAR_PORT + 1)}, Outcome.BAD_SOURCE),
        ({"source": Source(UE4)}, Outcome.BAD_SOURCE),
        ({"policer": Policer(1, 33)}, Outcome.FORWARD),
        ({"policer": Policer(1, 32)}, Outcome.POLICED),
        ({"rtp": Rtp(check=True)}, Outcome.BAD_RTP),
        ({"latch": Latch.LATCH}, Outcome.FORWARD),
        ({"latch": Latch.LATCH, "learned": Address("10.20.0.101", 9)}, Outcome.BAD_SOURCE),
    ],
)
def test_the_second_pinhole_judges_as_any_other(
    path: PacketPath, second: dict[str, Any], outcome: Outcome
) -> None:
    path.datapath.install(crossing(4, 4, **second))
    assert path.send(from_ue(path), "access").outcome is outcome
    if second == {"latch": Latch.LATCH}:
        assert [r.peer for r in learned(path)] == [Address("10.20.0.101", FAR_PORT)]


def test_a_hairpin_uses_two_hops_and_both_marks(path: PacketPath) -> None:
    flows = crossing(4, 4, dscp=None)
    path.datapath.install([msgspec.structs.replace(flows[0], dscp=46), flows[1]])
    assert path.send(from_ue(path, hops=2), "access").outcome is Outcome.TTL
    ran = path.send(from_ue(path, hops=3), "access")
    assert checked(ran).hops == 1
    assert Ether(ran.frame)[IP].tos == 46 << 2


def test_there_is_no_way_round_and_round(path: PacketPath) -> None:
    """A pinhole that leads to itself, and two that lead to each other: two passes, then no more."""
    here = "10.10.0.101:30000"
    path.datapath.install([flow(here, "10.10.0.101:31000", here)])
    assert path.send(from_ue(path), "access").outcome is Outcome.NO_NEIGHBOUR
    path.datapath.install([
        flow(here, "10.20.0.101:31000", "10.20.0.101:33000"),
        flow("10.20.0.101:33000", "10.10.0.101:34000", here),
    ])  # fmt: skip
    assert path.send(from_ue(path), "access").outcome is Outcome.NO_NEIGHBOUR


def test_what_is_no_pinhole_here_goes_to_the_wire(path: PacketPath) -> None:
    path.datapath.install(crossing(4, 4)[:1])
    assert path.send(from_ue(path), "access").outcome is Outcome.NO_NEIGHBOUR
    assert path.datapath.counters([up().key]) == [Counters()]


def test_latching_through_a_hairpin_leads_back(path: PacketPath) -> None:
    """UE, call 1, call 2, UE: what call 2 learned is call 1's port, a pinhole again."""
    there = crossing(4, 4, latch=Latch.LATCH)
    back = [
        flow("10.10.0.101:34000", "10.20.0.101:33000", None, follows=True),
        flow("10.20.0.101:31000", "10.10.0.101:30000", f"{UE4}:4000"),
    ]
    path.datapath.install([*there, *back])
    assert path.send(from_ue(path), "access").outcome is Outcome.FORWARD
    frame = path.frame(Address(UE4, 6_000), Address("10.10.0.101", 34_000), b"back")
    out = checked(path.send(frame, "access"))
    assert (out.sender, out.receiver) == (Address("10.10.0.101", 30_000), Address(UE4, 4_000))
