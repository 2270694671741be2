"""What the packet path tells between real sockets: peers learned, silence, captures, restarts."""

from __future__ import annotations

import contextlib
import itertools
import select
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from bgf.errors import DatapathError
from bgf.media import frames
from bgf.media.datapath import Captured, MediaSilent, Outcome, PeerLearned
from bgf.media.xdp import SNAP_BYTES_MAX, XdpDatapath
from bgf.model import Address, FlowKey, Latch, Rtp
from bgf.runtime.shared_capture import SharedCapture
from tests.fakes.packet_call import rtp
from tests.fakes.packet_lab import (
    CALLEE4,
    GROUP_ADDRESSES,
    READY_TIMEOUT_S,
    REALMS,
    UE4,
    PacketLab,
    group,
    wait_for,
)
from tests.fakes.packet_path import FAR_DEADLINE_NS, flow

NEAR, FAR = "10.10.0.101:30000", "10.20.0.101:31000"
UP = flow(NEAR, FAR, f"{CALLEE4}:5000", latch=Latch.LATCH, rtp=Rtp())
DOWN = flow(FAR, NEAR, None, follows=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with PacketLab() as made:
        for address in GROUP_ADDRESSES:
            flags = ("nodad",) if ":" in address.host else ()
            made.ip("gw", "address", "add", f"{address.host}/{address.prefix_len}",
                    "dev", REALMS[address.realm], *flags)  # fmt: skip
        made.settle_neighbours()
        yield made


def opened(lab: PacketLab) -> XdpDatapath:
    with lab.inside("gw"):
        return XdpDatapath(lab.bpffs / "node", REALMS, [group()], pinholes_max=64)


@pytest.fixture
def datapath(lab: PacketLab) -> Iterator[XdpDatapath]:
    made = opened(lab)
    made.arm("g1", FAR_DEADLINE_NS)
    yield made
    made.close(unpin=True)


def readable(datapath: XdpDatapath) -> None:
    """Waits until the descriptor says that there is something."""
    assert select.select([datapath.fileno()], [], [], READY_TIMEOUT_S)[0]


def learned(datapath: XdpDatapath) -> list[PeerLearned]:
    return [report for report in datapath.reports() if isinstance(report, PeerLearned)]


def test_a_user_behind_nat_is_found_and_answered(lab: PacketLab, datapath: XdpDatapath) -> None:
    """Its signalled address is nobody's; what it sends from is learned, reported and used."""
    datapath.install([UP, DOWN])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        datapath.process()
        user.sendto(b"hello", ("10.10.0.101", 30_000))
        data, gateway = callee.recvfrom(100)
        assert data == b"hello"
        callee.sendto(b"good day", gateway)
        assert user.recv(100) == b"good day"
        readable(datapath)
        datapath.process()
        assert learned(datapath) == [PeerLearned(UP.key, Address(*user.getsockname()), 0)]


def test_what_was_learned_survives_a_restart_and_is_told_again(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    datapath.install([UP, DOWN])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        peer = Address(*user.getsockname())
        user.sendto(b"1", ("10.10.0.101", 30_000))
        callee.recv(10)
        datapath.close()  # before it could report
        callee.sendto(b"meanwhile", ("10.20.0.101", 31_000))
        assert user.recv(10) == b"meanwhile"
        again = opened(lab)
        try:
            again.refresh()
            told = learned(again)
            assert told
            assert set(told) == {PeerLearned(UP.key, peer, 0)}
            again.install([UP, DOWN])
            with lab.udp("ue", UE4) as stranger:
                stranger.sendto(b"x", ("10.10.0.101", 30_000))
                wait_for("the stranger is refused", lambda: again.drops()[Outcome.BAD_SOURCE] == 1)
            callee.sendto(b"still", ("10.20.0.101", 31_000))
            assert user.recv(10) == b"still"
        finally:
            again.close()


def test_a_restart_sends_on_to_who_was_learned_elsewhere(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    """Nothing leads to the signalled address; the new process has seen no flow yet."""
    flows = [
        msgspec.structs.replace(UP, learned=Address(UE4, 6_100)),
        msgspec.structs.replace(DOWN, remote=Address("192.0.2.77", 4_000)),
    ]
    datapath.install(flows)
    datapath.close()
    again = opened(lab)
    try:
        for _ in range(3):
            again.refresh()
        with lab.udp("ue", UE4, 6_100) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
            callee.sendto(b"still", ("10.20.0.101", 31_000))
            assert user.recv(10) == b"still"
        assert again.differences(flows) == {}
        again.install(flows)
        again.remove([UP.key])
        with lab.inside("gw"):
            verdict = again.trace(Address(CALLEE4, 5_000), DOWN.local_in, "core", b"")
        assert verdict.outcome is Outcome.NO_NEIGHBOUR
    finally:
        again.close()


def test_two_users_of_one_gateway_hear_each_other(lab: PacketLab, datapath: XdpDatapath) -> None:
    """Two calls, the one's far side the other's near side: both directions, real sockets."""
    datapath.install([
        flow(NEAR, FAR, "10.20.0.101:33000"),
        flow("10.20.0.101:33000", "10.10.0.101:34000", f"{UE4}:7000"),
        flow("10.10.0.101:34000", "10.20.0.101:33000", FAR),
        flow(FAR, NEAR, f"{UE4}:6000"),
    ])  # fmt: skip
    with lab.udp("ue", UE4, 6_000) as first, lab.udp("ue", UE4, 7_000) as second:
        for number in range(5):
            first.sendto(b"%d" % number, ("10.10.0.101", 30_000))
            data, sender = second.recvfrom(10)
            assert (data, sender) == (b"%d" % number, ("10.10.0.101", 34_000))
            second.sendto(b"-%d" % number, sender)
            data, sender = first.recvfrom(10)
            assert (data, sender) == (b"-%d" % number, ("10.10.0.101", 30_000))


def test_silence_is_told_once_and_again_after_media(lab: PacketLab, datapath: XdpDatapath) -> None:
    watched = msgspec.structs.replace(UP, inactivity_ms=50)
    datapath.install([watched])
    told: list[object] = []

    def silent() -> bool:
        told.extend(r for r in datapath.reports() if isinstance(r, MediaSilent))
        return bool(told)

    wait_for("media never started", silent)
    assert told == [MediaSilent(UP.key, 0)]
    assert isinstance(told[0], MediaSilent)
    assert told[0].never_started
    time.sleep(0.12)
    datapath.reports()
    assert told == [MediaSilent(UP.key, 0)]
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        user.sendto(b"now", ("10.10.0.101", 30_000))
        callee.recv(10)
    told.clear()
    wait_for("media stopped", silent)
    [counted] = datapath.counters([UP.key])
    assert told == [MediaSilent(UP.key, counted.last_seen_ns)]


def test_a_disarmed_group_is_not_silent(datapath: XdpDatapath) -> None:
    datapath.arm("g1", 0)
    datapath.install([msgspec.structs.replace(UP, inactivity_ms=20)])
    time.sleep(0.06)
    assert datapath.reports() == []


def test_a_capture_has_both_sides_of_one_call_and_nothing_else(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    other = flow("10.10.0.101:30002", "10.20.0.101:31002", f"{CALLEE4}:5000")
    datapath.install([UP, DOWN, other])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        with datapath.capture([UP.key, DOWN.key, FlowKey("10.9.9.9", 1)]) as capture:
            for number in range(3):
                for port in (30_000, 30_002):
                    user.sendto(rtp(number), ("10.10.0.101", port))
                    callee.recv(100)
            callee.sendto(b"back", ("10.20.0.101", 31_000))
            user.recv(100)
            with lab.udp("ue", UE4) as stranger:
                stranger.sendto(b"strange", ("10.10.0.101", 30_000))
                wait_for("refused", lambda: datapath.drops()[Outcome.BAD_SOURCE] == 1)
            assert select.select([capture.fileno()], [], [], READY_TIMEOUT_S)[0]
            found = list(capture)
            assert capture.lost == 0
        told = [(f.key, f.leaving, f.interface, seen(f)) for f in found]
        arrived = [(UP.key, False, "access", rtp(n)) for n in range(3)]
        left = [(UP.key, True, "core", rtp(n)) for n in range(3)]
        back = [(DOWN.key, False, "core", b"back"), (DOWN.key, True, "access", b"back")]
        refused = [(UP.key, False, "access", b"strange")]
        assert sorted(told) == sorted([*arrived, *left, *back, *refused])
        assert [f.time_ns for f in found] == sorted(f.time_ns for f in found)
        # It has ended: nothing is copied any more.
        user.sendto(rtp(9), ("10.10.0.101", 30_000))
        callee.recv(100)
        with datapath.capture([other.key]) as capture:
            assert list(capture) == []


def seen(frame: Captured) -> bytes:
    datagram = frames.read(frame.frame)
    assert datagram is not None
    assert frame.length == len(frame.frame)
    return datagram.payload


def test_a_capture_is_cut_and_outlives_a_change_of_its_flow(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    datapath.install([UP])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        with datapath.capture([UP.key], snap_bytes=50) as capture:
            datapath.install([msgspec.structs.replace(UP, dscp=46)])
            user.sendto(bytes(200), ("10.10.0.101", 30_000))
            callee.recv(300)
            found = list(capture)
        assert [(len(f.frame), f.length) for f in found] == [(50, 242), (50, 242)]


def test_nothing_is_lost_where_more_is_wanted(lab: PacketLab, datapath: XdpDatapath) -> None:
    """One call is recorded while another taker comes, wants more, wants less, and goes."""
    other = flow("10.10.0.101:30002", "10.20.0.101:31002", f"{CALLEE4}:5000")
    datapath.install([UP, DOWN, other])
    shared = SharedCapture(datapath)
    count = 200  # all of them fit into a ring: nothing depends on who is quick
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:

        def talk() -> None:
            for number in range(count):
                user.sendto(rtp(number), ("10.10.0.101", 30_000))
                callee.recv(100)
                time.sleep(0.0002)

        view = shared.capture([UP.key])
        talking = threading.Thread(target=talk, daemon=True)
        talking.start()
        changes = itertools.count(1)
        while talking.is_alive():
            view.want([UP.key, DOWN.key])
            with contextlib.closing(shared.capture([other.key], 300)) as another:
                another.want([other.key, DOWN.key])
                shared.pump()
            view.want([UP.key])
            shared.pump()
            next(changes)
        talking.join()
        found = [seen(frame) for frame in view if frame.leaving]
        view.close()
    assert next(changes) > 5
    assert sorted(found) == sorted(rtp(number) for number in range(count)) and view.lost == 0


def test_captures_are_one_at_a_time_and_leave_nothing(
    lab: PacketLab, datapath: XdpDatapath
) -> None:
    datapath.install([UP])
    with pytest.raises(DatapathError, match="use 1 to"):
        datapath.capture([UP.key], SNAP_BYTES_MAX + 1)
    capture = datapath.capture([UP.key])
    with pytest.raises(DatapathError, match="another capture"):
        datapath.capture([UP.key])
    datapath.close()  # its process ends with the capture running
    capture.close()
    again = opened(lab)
    try:
        with again.capture([]) as quiet:
            with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
                user.sendto(b"1", ("10.10.0.101", 30_000))
                callee.recv(10)
            assert list(quiet) == []
    finally:
        again.close()


def test_rtp_statistics_between_sockets(lab: PacketLab, datapath: XdpDatapath) -> None:
    datapath.install([UP])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        for number in [*range(10), *range(12, 20)]:
            user.sendto(rtp(number, stamp=160 * number), ("10.10.0.101", 30_000))
            callee.recv(100)
    [told] = datapath.rtp([UP.key])
    assert (told.packets, told.expected, told.lost, told.ssrc) == (18, 20, 2, 7)
    assert told.bytes == 18 * len(rtp())
    assert told.gap_max_us > 0


def test_statistics_survive_a_restart(lab: PacketLab, datapath: XdpDatapath) -> None:
    datapath.install([UP])
    with lab.udp("ue", UE4) as user, lab.udp("callee", CALLEE4, 5_000) as callee:
        for number in (1, 2, 4):
            user.sendto(rtp(number), ("10.10.0.101", 30_000))
            callee.recv(100)
        before = datapath.rtp([UP.key])
        datapath.close()
        again = opened(lab)
        try:
            again.install([UP])
            assert again.rtp([UP.key]) == before
            assert again.counters([UP.key])[0].packets == 3
        finally:
            again.close()
