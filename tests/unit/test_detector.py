"""The detector under a clock of our own: silence, lateness, flapping, noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.detector import (
    CONTROL_FACTOR,
    FLAP_WINDOW_NS,
    FLAPS_FREE,
    SLOW_AFTER_PROBES,
    SLOW_INTERVAL_NS,
    TOGETHER_PARTS,
    Detector,
    Peer,
    Probe,
    Suspicion,
)
from failover.errors import FailoverConfigError
from failover.sbfd import ControlPacket, State, reflect

MS = 1_000_000
INTERVAL = 20 * MS
TIMEOUT = 3 * INTERVAL
PEERS = {"n2": Peer(2, ("access", "core")), "n3": Peer(3, ("access", "core"))}


class Bench:
    """A detector, a clock, and peers that answer at once unless they are mute."""

    def __init__(self, start_ns: int = 0) -> None:
        self.now_ns = start_ns
        self.detector = Detector(1, PEERS, INTERVAL, 3, start_ns)
        self.mute: set[tuple[str, str]] = set()
        self.sent: list[Probe] = []

    def turn(self, at_ns: int) -> None:
        self.now_ns = at_ns
        probes = self.detector.tick(at_ns)
        self.sent += probes
        for probe in probes:
            if (probe.peer, probe.path) not in self.mute:
                answer = reflect(ControlPacket.parse(probe.datagram)).encode()
                assert self.detector.receive(answer, probe.path, at_ns)

    def run(self, until_ns: int) -> list[Suspicion]:
        events: list[Suspicion] = []
        while (due_ns := self.detector.next_deadline()) <= until_ns:
            self.turn(max(due_ns, self.now_ns))
            events += self.detector.events()
        self.now_ns = until_ns
        return events

    def silence(self, peer: str, *paths: str) -> None:
        self.mute = {(peer, path) for path in paths}


def test_a_path_without_media_is_probed_and_judged_more_slowly() -> None:
    detector = Detector(
        1, {"n2": Peer(2, ("core", "mgmt"))}, INTERVAL, 3, 0, control_paths=("mgmt",)
    )
    sent: list[str] = []
    silent_at: dict[str, int] = {}
    for now_ns in range(0, 2_000 * MS, 5 * MS):
        for probe in detector.tick(now_ns):
            sent.append(probe.path)
            if now_ns < 1_000 * MS:  # then n2 falls silent everywhere
                answer = reflect(ControlPacket.parse(probe.datagram)).encode()
                assert detector.receive(answer, probe.path, now_ns)
        for path in detector.suspects().get("n2", ()):
            silent_at.setdefault(path, now_ns)
        if now_ns == 995 * MS:
            assert sent.count("core") == CONTROL_FACTOR * sent.count("mgmt")
    assert silent_at["core"] <= 1_000 * MS + TIMEOUT
    assert silent_at["mgmt"] - 1_000 * MS >= 2 * CONTROL_FACTOR * INTERVAL
    assert silent_at["mgmt"] <= 1_000 * MS + CONTROL_FACTOR * TIMEOUT


def test_answers_keep_everybody_unsuspected() -> None:
    bench = Bench()
    assert bench.run(1_000 * MS) == []
    assert bench.detector.observing() == {"n2": ("access", "core"), "n3": ("access", "core")}
    assert bench.detector.suspects() == {}
    assert bench.detector.tally.heard == len(bench.sent) == 4 * 51


def test_silence_is_reported_once_at_multiplier_times_interval() -> None:
    bench = Bench()
    bench.run(100 * MS)
    bench.silence("n3", "access", "core")
    events = bench.run(100 * MS + TIMEOUT - 1)
    assert events == []
    events = bench.run(100 * MS + TIMEOUT)
    assert events == [Suspicion("n3", ("access", "core"), 100 * MS)]
    assert bench.run(500 * MS) == []
    assert bench.detector.suspects() == {"n3": ("access", "core")}


def test_paths_fall_silent_one_by_one_and_come_back() -> None:
    bench = Bench()
    bench.run(100 * MS)
    bench.silence("n2", "core")
    assert [e.paths_silent for e in bench.run(300 * MS)] == [("core",)]
    assert bench.detector.suspects() == {"n2": ("core",)}
    bench.mute = set()
    events = bench.run(400 * MS)
    assert [e.paths_silent for e in events] == [()]
    assert str(events[0]) == "n2 answers again"


def heard_apart(apart_ns: int) -> list[tuple[int, Suspicion]]:
    """n2 answers on core so much later than on access, and never again: when who is accused."""
    detector = Detector(1, {"n2": PEERS["n2"]}, INTERVAL, 3, 0)
    answer = ControlPacket(2, 1).encode()
    detector.tick(0)
    detector.receive(answer, "access", 1 * MS)
    detector.receive(answer, "core", 1 * MS + apart_ns)
    told = []
    while (now_ns := detector.next_deadline()) < 200 * MS:
        detector.tick(now_ns)
        told += [(now_ns, event) for event in detector.events()]
    return told


def test_paths_that_fall_silent_within_a_moment_do_so_in_one_word() -> None:
    apart_ns = INTERVAL // TOGETHER_PARTS
    ((at_ns, event),) = heard_apart(apart_ns)
    assert event.paths_silent == ("access", "core")
    assert at_ns == 1 * MS + apart_ns + TIMEOUT


def test_paths_that_fall_silent_further_apart_do_so_one_by_one() -> None:
    first, second = heard_apart(INTERVAL // TOGETHER_PARTS + 1)
    assert first[0] == 1 * MS + TIMEOUT and first[1].paths_silent == ("access",)
    assert second[1].paths_silent == ("access", "core")


def test_a_path_that_answers_keeps_no_other_waiting() -> None:
    detector = Detector(1, {"n2": PEERS["n2"]}, INTERVAL, 3, 0)
    answer = ControlPacket(2, 1).encode()
    detector.tick(0)
    detector.receive(answer, "access", 1 * MS)
    detector.receive(answer, "core", 2 * MS)
    for at_ms in (20, 40):
        detector.tick(at_ms * MS)
        detector.receive(answer, "core", at_ms * MS)
    detector.tick(60 * MS)
    detector.tick(1 * MS + TIMEOUT)
    (event,) = detector.events()
    assert event.paths_silent == ("access",)


def test_who_was_never_heard_is_never_accused() -> None:
    bench = Bench()
    bench.silence("n2", "access", "core")
    assert bench.run(2_000 * MS) == []
    assert "n2" not in bench.detector.observing()


def test_a_late_observer_accuses_nobody() -> None:
    bench = Bench()
    bench.run(100 * MS)
    for pause_ms in (50, 61, 500, 5_000):
        # The process did not run; no answer was waiting for it either.
        late_ns = bench.detector.next_deadline() + pause_ms * MS
        bench.turn(late_ns)
        assert bench.detector.events() == []
        assert bench.run(late_ns + 200 * MS) == []
    assert bench.detector.tally.late_ns == (50 + 61 + 500 + 5_000) * MS


def test_lateness_delays_an_accusation_by_just_that_much() -> None:
    bench = Bench()
    bench.run(100 * MS)
    bench.silence("n3", "access", "core")
    late_ns = bench.detector.next_deadline() + 30 * MS
    bench.turn(late_ns)
    assert bench.run(100 * MS + TIMEOUT + 30 * MS - 1) == []
    assert [e.peer for e in bench.run(100 * MS + TIMEOUT + 30 * MS)] == ["n3"]


def test_answers_that_waited_while_we_were_late_are_heard_first() -> None:
    bench = Bench()
    bench.run(100 * MS)
    probes = bench.detector.tick(120 * MS)
    wake_ns = 120 * MS + 3 * TIMEOUT
    for probe in probes:
        answer = reflect(ControlPacket.parse(probe.datagram)).encode()
        assert bench.detector.receive(answer, probe.path, wake_ns)
    bench.turn(wake_ns)
    assert bench.detector.events() == []


def test_flapping_doubles_the_patience() -> None:
    bench = Bench()
    bench.run(100 * MS)
    for _ in range(FLAPS_FREE):
        bench.silence("n3", "access")
        assert bench.detector.damped(bench.now_ns) == {}
        assert bench.run(bench.now_ns + 200 * MS)
        bench.mute = set()
        assert bench.run(bench.now_ns + 100 * MS)
    silent_from_ns = bench.now_ns
    assert bench.detector.damped(silent_from_ns) == {"n3": ("access",)}
    bench.silence("n3", "access")
    assert bench.run(silent_from_ns + TIMEOUT + INTERVAL) == []
    assert [e.peer for e in bench.run(silent_from_ns + 2 * TIMEOUT)] == ["n3"]
    assert bench.detector.damped(silent_from_ns + FLAP_WINDOW_NS) == {}


def test_who_does_not_answer_is_asked_slowly_and_found_quickly() -> None:
    bench = Bench()
    bench.silence("n3", "access", "core")
    bench.run(10_000 * MS)
    asked = sum(1 for probe in bench.sent if probe.peer == "n3" and probe.path == "core")
    assert asked <= SLOW_AFTER_PROBES + 1 + 10_000 * MS // SLOW_INTERVAL_NS
    bench.mute = set()
    assert bench.run(10_000 * MS + SLOW_INTERVAL_NS) == []
    assert bench.detector.observing()["n3"] == ("access", "core")
    assert bench.run(14_000 * MS) == []  # quick probing is back: no false silence


def test_who_is_said_to_be_back_is_asked_at_once_and_often_again() -> None:
    bench = Bench()
    bench.run(1_000 * MS)
    bench.silence("n2", "access", "core")
    bench.run(10_010 * MS)
    bench.sent.clear()
    bench.detector.expect("n2", bench.now_ns)
    bench.run(10_310 * MS)  # it is not quite there yet
    asked = [probe.path for probe in bench.sent if probe.peer == "n2"]
    assert sorted(set(asked)) == ["access", "core"] and len(asked) >= 2 * 300 // 20
    bench.silence("n2")
    back = bench.run(10_310 * MS + INTERVAL)
    assert back[-1].peer == "n2" and not back[-1].paths_silent
    due_ns = bench.detector.next_deadline()
    bench.detector.expect("n2", bench.now_ns)  # who is heard is not asked any sooner
    bench.detector.expect("n9", bench.now_ns)
    assert bench.detector.next_deadline() == due_ns


def test_what_is_no_answer_is_counted_and_ignored() -> None:
    bench = Bench()
    detector = bench.detector
    (probe, *_) = detector.tick(0)
    good = reflect(ControlPacket.parse(probe.datagram))
    assert not detector.receive(b"noise", "access", 0)
    assert not detector.receive(probe.datagram, "access", 0)  # our own probe
    assert not detector.receive(good.encode(), "mgmt", 0)  # no such path
    assert not detector.receive(ControlPacket(9, 1).encode(), "access", 0)
    assert not detector.receive(ControlPacket(2, 9).encode(), "access", 0)
    assert not detector.receive(ControlPacket(2, 1, State.ADMIN_DOWN).encode(), "access", 0)
    tally = detector.tally
    assert (tally.malformed, tally.looped, tally.foreign, tally.not_up) == (1, 1, 3, 1)
    assert tally.heard == 0
    assert detector.observing() == {}


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["tick", "answer", "noise"])), max_size=60
    )
)
def test_whatever_happens_nobody_is_accused_within_the_timeout(
    script: list[tuple[int, str]],
) -> None:
    detector = Detector(1, {"n2": Peer(2, ("core",))}, INTERVAL, 3, 0)
    now_ns = last_heard_ns = 0
    for step_ms, what in script:
        now_ns += step_ms * MS
        if what == "tick":
            detector.tick(now_ns)
        elif what == "answer":
            detector.receive(ControlPacket(2, 1).encode(), "core", now_ns)
            last_heard_ns = now_ns
        else:
            detector.receive(b"\x20\xc0\x03\x18noise", "core", now_ns)
        if detector.suspects():
            assert "core" in detector.observing()["n2"]
            assert now_ns - last_heard_ns >= TIMEOUT
        if what == "tick":
            assert detector.next_deadline() > now_ns


@pytest.mark.parametrize(
    ("mine", "peers", "word"),
    [
        (0, {}, "must be 1"),
        (1, {"n2": Peer(1, ())}, "unique"),
        (1, {"n2": Peer(2, ()), "n3": Peer(2, ())}, "unique"),
        (1, {"n2": Peer(1 << 32, ())}, "must be 1"),
    ],
)
def test_discriminators_are_checked(mine: int, peers: dict[str, Peer], word: str) -> None:
    with pytest.raises(FailoverConfigError, match=word):
        Detector(mine, peers, INTERVAL, 3, 0)


def test_timers_are_checked() -> None:
    with pytest.raises(FailoverConfigError, match="probe interval"):
        Detector(1, {}, 0, 3, 0)
    with pytest.raises(FailoverConfigError, match="multiplier"):
        Detector(1, {}, INTERVAL, 256, 0)
    assert Detector(1, {}, INTERVAL, 3, 5).next_deadline() > 5
