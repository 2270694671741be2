"""Silence of calls over changes of ownership, holds and restarts: what hangs, and since when."""

from __future__ import annotations

import pytest

from bgf.events import MediaLine, Verb
from bgf.explain import history
from bgf.hands import Outcome
from bgf.media.datapath import MediaSilent
from bgf.media.silence import SilenceWatch
from bgf.model import Component, FlowKey
from bgf.runtime import silence as silence_module
from bgf.session import State
from tests.fakes.calls import NS_PER_S, REALMS, command, line
from tests.unit.test_reports import BOB, Node, hanging

KEY = FlowKey("10.20.0.101", 30_000)


class Watch:
    """One watched flow of a group that is armed, or not, and its last packet."""

    def __init__(self, limit_s: int) -> None:
        self.watch = SilenceWatch()
        self.watch.watch(KEY, "g1", limit_s * 1_000, 0)
        self.armed: dict[str, int] = {"g1": 0}
        self.seen_ns = 0

    def until(self, first_s: int, last_s: int) -> list[int]:
        """The seconds, from the first to before the last, at which it was told silent."""
        told = []
        for now_s in range(first_s, last_s):
            seen = self.watch.due(
                now_s * NS_PER_S, self.armed, lambda keys: [self.seen_ns for _ in keys]
            )
            assert seen in ([], [MediaSilent(KEY, self.seen_ns)])
            told += [now_s] * len(seen)
        return told


def test_a_silence_is_told_again_to_an_owner_of_after_it_was_armed_anew() -> None:
    """A group moved away and back: nobody has told its new owner, though no packet came."""
    watch = Watch(limit_s=60)
    assert watch.until(0, 125) == [60], "once"
    watch.armed = {}
    assert watch.until(125, 130) == []
    watch.armed = {"g1": 130 * NS_PER_S}
    (told_s,) = watch.until(130, 400)
    assert told_s >= 190, "it has been armed for the limit again"


def test_a_silence_is_told_once_for_each_packet() -> None:
    watch = Watch(limit_s=60)
    assert watch.until(0, 300) == [60]
    watch.seen_ns = 300 * NS_PER_S
    (told_s,) = watch.until(300, 700)
    assert told_s >= 360


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """It ends calls that have hung for 300 s; one is silent, and it was said."""
    node = Node(monkeypatch, close_hanging_s=300)
    node.serve()
    node.establish()
    node.establish("call-2", 7)  # the one that a new owner restores at once
    node.hear(MediaSilent(node.flow().key, 0))
    return node


def is_over(node: Node, call: str = "call-1") -> bool:
    driver = node.served.driver
    assert driver is not None
    session = driver.gateway.session(call)
    assert session is not None
    return session.state is State.DELETED


def say(node: Node, verb: Verb, cookie: str, said: MediaLine, call: str = "call-2") -> None:
    driver = node.served.driver
    assert driver is not None
    assert driver.handle(command(verb, cookie, said, call=call), 0) is Outcome.ANSWERED


def restore(node: Node) -> None:
    driver = node.served.driver
    assert driver is not None
    while driver.restore_some(node.now_ns):
        pass


def test_a_machine_made_anew_on_the_same_node_ends_the_calls_that_hung_before(node: Node) -> None:
    """A state server's restart: media stays armed here, so its silence is not said again."""
    (before,) = node.reports.hanging(node.served)
    node.now_ns += 100 * NS_PER_S
    node.served.driver = None
    assert hanging(node) == []
    node.serve()
    assert node.reports.hanging_about(node.served, 0) == 1, "it is known, though not read yet"
    node.reports.look()
    assert hanging(node) == [], "what is not restored is not judged"
    restore(node)
    assert node.reports.hanging(node.served) == [before]
    node.now_ns += 198 * NS_PER_S
    node.reports.look()
    assert not is_over(node)
    node.now_ns += 1 * NS_PER_S
    node.reports.look()
    assert is_over(node)


@pytest.mark.parametrize("then", ["heard", "held", "ended"])
def test_what_has_changed_since_is_not_taken_over(node: Node, then: str) -> None:
    key = node.flow().key
    node.served.driver = None
    driver = node.serve()
    if then == "heard":
        node.path.seen[key] = node.now_ns
    elif then == "held":
        held = line("fd00:a::2", 4000, direction="inactive")
        say(node, Verb.OFFER, "hold", held, "call-1")
        say(node, Verb.ANSWER, "hold-a", BOB, "call-1")
    else:
        assert driver.handle(command(Verb.DELETE, "end"), 0) is Outcome.ANSWERED
    restore(node)
    assert hanging(node) == []
    assert node.reports.hanging_about(node.served, 0) == 0, "forgotten for good"


def test_at_another_epoch_a_silence_counts_from_the_new_ownership(node: Node) -> None:
    """Unseen from here, another node may have had the group: the call may have talked there."""
    node.now_ns += 1_000 * NS_PER_S
    node.served.driver = None
    node.serve()
    node.served.epoch += 2
    restore(node)
    (one,) = node.reports.hanging(node.served)
    assert one.since_ns == node.now_ns
    node.now_ns += 299 * NS_PER_S
    node.reports.look()
    assert not is_over(node)
    node.now_ns += 1 * NS_PER_S
    node.reports.look()
    assert is_over(node)


@pytest.mark.parametrize("before_s", [20 * 60, 3_600])
def test_a_silence_begins_with_the_limit_that_was_watched_and_not_before(
    node: Node, before_s: int
) -> None:
    """A last packet of before a hold, or of an earlier ownership, tells nothing of what follows."""
    node.now_ns += before_s * NS_PER_S
    key = node.flow("call-2").key
    node.path.seen[key] = last_seen_ns = node.now_ns - before_s * NS_PER_S
    node.hear(MediaSilent(key, last_seen_ns))
    (one,) = [one for one in node.reports.hanging(node.served) if one.call_id == "call-2"]
    assert one.since_ns == node.now_ns - 1 * NS_PER_S, "a second of inactivity"
    node.reports.look()
    assert not is_over(node, "call-2")
    node.path.seen[key] = node.now_ns
    assert "call-2" not in hanging(node)


@pytest.mark.parametrize("realm", REALMS)
def test_a_party_that_holds_without_music_keeps_its_call_by_rtcp_alone(
    node: Node, realm: str
) -> None:
    """RFC 3550 section 6.2: RTCP comes from both sides, whoever is on hold."""
    say(node, Verb.OFFER, "hold", line("fd00:a::2", 4000, direction="sendonly"))
    say(node, Verb.ANSWER, "hold-a", line("10.20.0.2", 6000, direction="recvonly"))
    key = node.flow("call-2").key
    (rtcp,) = [
        flow.key
        for flow in node.shared.recorded["call-2"]
        if flow.component is Component.RTCP and flow.realm_in == realm
    ]
    node.hear(MediaSilent(key, 0))
    assert "call-2" in hanging(node)
    for _ in range(100):
        node.now_ns += 5 * NS_PER_S
        node.path.seen[rtcp] = node.now_ns
        node.reports.look()
        assert not is_over(node, "call-2") and "call-2" not in hanging(node)
    node.now_ns += 1 * NS_PER_S
    (one,) = node.reports.hanging(node.served)
    assert one.since_ns == node.path.seen[rtcp], "it has no RTCP either"
    node.now_ns += 298 * NS_PER_S
    node.reports.look()
    assert not is_over(node, "call-2")
    node.now_ns += 1 * NS_PER_S
    node.reports.look()
    assert is_over(node, "call-2")


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Node:
    """It ends calls that have hung for 300 s, held ones after an hour; one talks."""
    node = Node(monkeypatch, close_hanging_s=300, close_held_s=3_600)
    node.serve()
    node.establish("call-2")
    node.reports.look()
    return node


HELD = {
    "inactive": (
        line("fd00:a::2", 4000, direction="inactive"),
        line("10.20.0.2", 6000, direction="inactive"),
    ),
    "no address": (line("::", 4000), line("0.0.0.0", 6000)),
    "offered without ports": (line("fd00:a::2", 0), line("10.20.0.2", 0)),
    "rejected": (line("fd00:a::2", 4000), line("10.20.0.2", 0)),
}


def hold(node: Node, how: str = "inactive", call: str = "call-2") -> None:
    offered, answered = HELD[how]
    say(node, Verb.OFFER, "hold", offered, call)
    say(node, Verb.ANSWER, "hold-a", answered, call)


def looked(node: Node, seconds: int) -> list[str]:
    """What hangs after so long, and a look."""
    node.now_ns += seconds * NS_PER_S
    node.reports.look()
    return hanging(node)


@pytest.mark.parametrize("how", HELD)
def test_a_call_that_is_held_and_then_forgotten_ends_too(keeping: Node, how: str) -> None:
    """A proxy that died during a hold: no pinhole is watched, and no BYE will come."""
    hold(keeping, how)
    assert looked(keeping, 1_799) == []
    assert looked(keeping, 1) == ["call-2"], "half of its time"
    (one,) = keeping.reports.hanging(keeping.served)
    assert (one.since_ns, one.never_started, one.held) == (100 * NS_PER_S, True, True)
    assert looked(keeping, 1_799) == ["call-2"]
    assert not is_over(keeping, "call-2")
    assert looked(keeping, 1) == []
    assert is_over(keeping, "call-2")
    assert not keeping.shared.flows and keeping.reports.tally["closed"] == 1
    driver = keeping.served.driver
    assert driver is not None
    told = history(keeping.shared.journals["call-2"], driver.gateway.site)
    assert told[-1].detail == "no media for 3600 s (media.close_held_s)"


def test_a_call_with_media_due_is_no_held_one(keeping: Node) -> None:
    assert looked(keeping, 10_000) == [], "its silence was not reported: it has media"
    assert not is_over(keeping, "call-2")


@pytest.mark.parametrize("what", ["rtcp", "offer", "answer"])
def test_whatever_comes_of_a_held_call_keeps_it(keeping: Node, what: str) -> None:
    """RTCP, or the offers of session timers (RFC 4028)."""
    hold(keeping)
    rtcp = next(
        flow.key for flow in keeping.shared.flows.values() if flow.component is Component.RTCP
    )
    offered, answered = HELD["inactive"]
    driver = keeping.served.driver
    assert driver is not None
    for number in range(5):
        assert looked(keeping, 1_700) == [], number
        now_s = keeping.now_ns // NS_PER_S
        if what == "rtcp":
            keeping.path.seen[rtcp] = keeping.now_ns
            continue
        # The time of calls is the owner's own, the wall clock was the command's.
        times = {"at_ms": now_s * 1_000 - 1_000} if what == "offer" else {"wall_s": now_s}
        for verb, said in ((Verb.OFFER, offered), (Verb.ANSWER, answered)):
            made = command(verb, f"{verb}-{number}", said, call="call-2", **times)
            assert driver.handle(made, 0) is Outcome.ANSWERED
    assert looked(keeping, 1_800) == ["call-2"]
    assert looked(keeping, 1_799) == ["call-2"]
    assert looked(keeping, 1) == [] and is_over(keeping, "call-2")


def test_a_held_call_that_is_resumed_hangs_no_more(keeping: Node) -> None:
    hold(keeping)
    assert looked(keeping, 2_000) == ["call-2"]
    say(keeping, Verb.OFFER, "resume", line("fd00:a::2", 4000))
    say(keeping, Verb.ANSWER, "resume-a", BOB)
    assert hanging(keeping) == []
    assert keeping.reports.hanging_about(keeping.served, 0) == 0, "forgotten"
    assert looked(keeping, 10_000) == [] and not is_over(keeping, "call-2")


def test_a_new_owner_waits_for_the_whole_time(keeping: Node) -> None:
    """RTCP may have passed the node before it: here nobody knows."""
    hold(keeping)
    assert looked(keeping, 3_000) == ["call-2"]
    keeping.served.driver = None
    keeping.reports.discard("g1")
    keeping.now_ns += 10_000 * NS_PER_S
    keeping.serve()
    assert looked(keeping, 0) == []
    restore(keeping)
    assert looked(keeping, 1_799) == []
    assert looked(keeping, 1) == ["call-2"]
    assert looked(keeping, 1_799) == ["call-2"]
    assert looked(keeping, 1) == [] and is_over(keeping, "call-2")


def test_a_machine_made_anew_goes_on_with_the_time_of_held_calls(keeping: Node) -> None:
    hold(keeping)
    assert looked(keeping, 3_000) == ["call-2"]
    keeping.served.driver = None
    keeping.serve()
    restore(keeping)
    assert looked(keeping, 599) == ["call-2"]
    assert looked(keeping, 1) == [] and is_over(keeping, "call-2")


@pytest.mark.parametrize(
    ("close_hanging_s", "close_held_s", "listed"),
    [(0, 3_600, True), (0, 0, False), (300, 0, False)],
)
def test_held_calls_end_only_where_others_do(
    keeping: Node, close_hanging_s: int, close_held_s: int, listed: bool
) -> None:
    keeping.reports.close_after(close_hanging_s, close_held_s)
    hold(keeping)
    assert looked(keeping, 100_000) == (["call-2"] if listed else [])
    assert looked(keeping, 100_000) == (["call-2"] if listed else [])
    assert not is_over(keeping, "call-2")


def test_held_calls_are_not_ended_before_others(keeping: Node) -> None:
    keeping.reports.close_after(7_200, 600)
    hold(keeping)
    looked(keeping, 7_199)
    assert not is_over(keeping, "call-2")
    looked(keeping, 1)
    assert is_over(keeping, "call-2")


def test_a_look_works_out_the_pinholes_of_a_few_calls_only(
    keeping: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence_module, "SOUGHT_MAX", 2)
    monkeypatch.setattr(silence_module, "PASSED_MAX", 3)
    for number in range(8):
        keeping.establish(f"held-{number}", 10 + 4 * number)
        hold(keeping, "inactive", f"held-{number}")
    keeping.now_ns += 2_000 * NS_PER_S
    found = [len(looked(keeping, 1)) for _ in range(10)]
    assert found[-1] == 8 and found == sorted(found)
    assert all(after - before <= 2 for before, after in zip([0, *found], found, strict=False))
