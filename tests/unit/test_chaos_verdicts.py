"""What chaos concludes: each invariant finds its violation, and nothing in a story that is well."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import bgf
from bgf import config
from bgf.errors import ConfigError, EnvironmentProblem
from bgf.lab import chaos
from bgf.lab.catalogue import FAULTS, STEPS, Moves, Role, Verb, fault, named
from bgf.lab.chaos import ChaosOptions, ChaosReport, as_row, render_one
from bgf.lab.invariants import (
    SLACK_MS,
    Closed,
    Owned,
    Said,
    alike,
    moved_as_expected,
    one_owner,
    said,
    stays_closed,
)
from bgf.lab.ledger import GONE, OFFERED, Answer, Ledger, lost
from bgf.lab.measure import GENERATED, TO_ACCESS, FlowOutage
from bgf.lab.nodes import Timers, node_config
from bgf.lab.plan import make_plan
from bgf.lab.previous import Previous
from bgf.lab.trial import Scale, Trial, TrialResult

MS = 1_000_000
HISTORY = (Owned(5, "g1", "n1", 1), Owned(9, "g1", "n3", 2), Owned(6, "g2", "n2", 1))
WELL = (
    Said("n1", "g1", 1, "armed"),
    Said("n3", "g1", 2, "decided"),
    Said("n3", "g1", 2, "active"),
    Said("n2", "g2", 1, "announced"),
)


def test_a_story_that_is_well_has_no_violation() -> None:
    assert one_owner(HISTORY, WELL) == []


def test_two_that_act_at_one_epoch_are_found() -> None:
    found = one_owner(HISTORY, (*WELL, Said("n2", "g1", 2, "armed")))
    assert any("two owners at once: n2 (armed) and n3 (decided)" in line for line in found)
    assert any("n2 says 'armed', but it is that of n3" in line for line in found)


def test_an_epoch_that_is_given_twice_or_left_out_is_found() -> None:
    (twice,) = one_owner((*HISTORY, Owned(12, "g1", "n2", 2)), ())
    assert "epoch 2 of n3 was followed by epoch 2 of n2" in twice
    (gap,) = one_owner((*HISTORY, Owned(12, "g1", "n2", 4)), ())
    assert "followed by epoch 4" in gap


def test_who_acts_at_an_epoch_of_nobody_is_found() -> None:
    (found,) = one_owner(HISTORY, (*WELL, Said("n2", "g1", 3, "armed")))
    assert "nobody’s in the registry" in found


def test_what_was_said_before_the_known_history_is_passed_over() -> None:
    later = [owned for owned in HISTORY if owned != HISTORY[0]]
    assert one_owner(later, WELL) == []


def test_the_logs_of_a_node_are_read() -> None:
    text = (
        "20:21:15.723 n3 failover INFO ready: probing from {}\n"
        "20:21:16.273 n3 failover INFO moved g1 epoch 1: n3 sees that n1 owns g1\n"
        "20:21:17.000 n3 failover INFO decided g1 epoch 2: n3 claims g1 at epoch 2: dead\n"
        "20:21:17.001 n3 failover INFO armed g1 epoch 2: g1 forwards here\n"
        "20:21:18.000 n3 gateway INFO group g1 epoch 2: active here, 4 port pairs in use\n"
    )
    events = [(one.group, one.epoch, one.event) for one in said("n3", text)]
    assert events == [("g1", 2, "decided"), ("g1", 2, "armed"), ("g1", 2, "active")]


def test_media_of_a_closed_call_is_found_beyond_the_lease_only() -> None:
    lease_ms = 1_500
    at = 10**12
    fine = Closed("a", at, at + lease_ms * MS)
    never = Closed("b", at, 0)
    late = Closed("c", at, at + (lease_ms + SLACK_MS + 1) * MS)
    assert stays_closed((fine, never), lease_ms) == []
    (found,) = stays_closed((fine, never, late), lease_ms)
    assert "call c was released" in found


@pytest.mark.parametrize(
    ("moves", "after", "wrong"),
    [
        (Moves.MUST, "n1", True),
        (Moves.MUST, "n3", False),
        (Moves.NEVER, "n1", False),
        (Moves.NEVER, "n3", True),
        (Moves.NEVER, "", True),
        (Moves.MAY, "n1", False),
        (Moves.MAY, "n3", False),
    ],
)
def test_where_the_group_is_expected(moves: Moves, after: str, wrong: bool) -> None:
    assert bool(moved_as_expected(moves, "n1", after, "g1")) is wrong


def test_nodes_that_know_different_pinholes_are_found() -> None:
    one = {"recorded": 4, "held": 4, "digest": "x"}
    assert alike("g1", {"n1": one, "n2": one}) == []
    assert alike("g1", {"n1": one, "n2": one | {"held": 3}}) == ["n2 holds 3 of 4 pinholes of g1"]
    (found,) = alike("g1", {"n1": one, "n2": one | {"digest": "y"}})
    assert "differ about" in found


# -- the ledger


def promised(*steps: tuple[int, Answer]) -> Ledger:
    ledger = Ledger()
    for state, answer in steps:
        before = ledger.ask("c", "g1", state)
        ledger.answer("c", before, state, answer, "10.20.0.101:30000" if state else "")
    return ledger


def test_an_acknowledged_call_that_is_gone_is_found() -> None:
    ledger = promised((44_000, Answer.OK))
    assert lost(ledger, {"c": 44_000}) == []
    (found,) = lost(ledger, {"c": GONE})
    assert "is gone, but is there with its caller at port 44000 was promised" in found


def test_a_change_that_was_forgotten_is_found() -> None:
    ledger = promised((44_000, Answer.OK), (44_002, Answer.OK))
    assert lost(ledger, {"c": 44_002}) == []
    assert lost(ledger, {"c": 44_000})


def test_a_call_that_comes_back_is_found() -> None:
    ledger = promised((44_000, Answer.OK), (GONE, Answer.OK))
    assert lost(ledger, {"c": GONE}) == []
    assert lost(ledger, {"c": 44_000})


def test_what_nobody_answered_may_have_been_done_or_not() -> None:
    ledger = promised((44_000, Answer.OK), (44_002, Answer.NONE))
    assert lost(ledger, {"c": 44_000}) == [] == lost(ledger, {"c": 44_002})
    assert lost(ledger, {"c": 44_004}) and lost(ledger, {"c": GONE})
    assert ledger.living("g1") == ["c"]


def test_an_offer_that_nobody_answered_may_have_been_taken_without_its_answer() -> None:
    ledger = Ledger()
    before = ledger.ask("c", "g1", 44_000, OFFERED)
    ledger.answer("c", before, 44_000, Answer.NONE)
    assert lost(ledger, {"c": OFFERED}) == [] == lost(ledger, {"c": GONE})
    ledger.answer("c", before, 44_000, Answer.OK)
    (found,) = lost(ledger, {"c": OFFERED})
    assert "is there, offered and not answered, but is there with its caller" in found
    ledger.half_open("c", before)
    assert lost(ledger, {"c": OFFERED}) == [] and lost(ledger, {"c": GONE})


def test_a_new_offer_in_a_call_counts_from_its_answer() -> None:
    """Media stays as agreed before until then: seen when a gateway lost its registry in between."""
    ledger = promised((44_000, Answer.OK))
    before = ledger.ask("c", "g1", 44_002)
    ledger.answer("c", before, 44_002, Answer.OK)
    assert lost(ledger, {"c": 44_000})
    ledger.half_open("c", before)
    assert lost(ledger, {"c": 44_000}) == [] == lost(ledger, {"c": 44_002})
    assert lost(ledger, {"c": OFFERED}) and lost(ledger, {"c": GONE})


def test_what_was_refused_has_changed_nothing() -> None:
    ledger = promised((44_000, Answer.OK), (GONE, Answer.REFUSED))
    assert lost(ledger, {"c": 44_000}) == [] and lost(ledger, {"c": GONE})


def test_a_call_that_nobody_speaks_of_is_found() -> None:
    assert lost(promised((44_000, Answer.OK)), {"c": None}) != []
    assert lost(promised((44_000, Answer.OK)), {}) != []


def test_a_gateway_address_that_changes_is_found() -> None:
    ledger = promised((44_000, Answer.OK))
    before = ledger.ask("c", "g1", 44_002)
    ledger.answer("c", before, 44_002, Answer.OK, "10.20.0.101:30002")
    (found,) = lost(ledger, {"c": 44_002})
    assert "was 10.20.0.101:30000 and is 10.20.0.101:30002 now" in found


@given(
    st.lists(
        st.tuples(st.sampled_from([GONE, 44_000, 44_002]), st.sampled_from(Answer)), max_size=12
    ),
    st.data(),
)
def test_a_gateway_that_keeps_its_word_is_never_accused(
    steps: list[tuple[int, Answer]], data: st.DataObject
) -> None:
    """Whatever it does with what it does not answer."""
    ledger, real = Ledger(), GONE
    for state, answer in steps:
        before = ledger.ask("c", "g1", state)
        ledger.answer("c", before, state, answer)
        if answer is Answer.OK or (answer is Answer.NONE and data.draw(st.booleans())):
            real = state
        assert real in ledger.calls["c"].possible
    assert lost(ledger, {"c": real}) == []


# -- the table of faults


def test_every_fault_that_is_asked_for_is_there() -> None:
    names = {one.name for one in FAULTS}
    assert len(names) == len(FAULTS)
    for process in ("state", "gateway", "failover"):
        for role in ("active", "standby"):
            assert f"kill-{process}-{role}" in names
            assert {f"stop-{process}-{role}-{s}s" for s in ("0.2", "2", "10")} <= names
    for network in ("access", "core", "mgmt"):
        for role in ("active", "standby"):
            assert {f"link-down-{network}-{role}", f"loss-{network}-{role}"} <= names
        assert {f"one-way-to-active-{network}", f"one-way-from-active-{network}"} <= names
    assert {f"taker-dies-{step}" for step in STEPS} <= names
    assert {"etcd-leader-dies-in-takeover", "etcd-member-dies-in-takeover"} <= names
    assert {"clock-jumps-forward", "clock-jumps-back", "starved-active", "starved-standby"} <= names
    assert {"isolated", "management-cut", "power-off-two-actives", "rolling-restart"} <= names
    assert {"etcd-leader-stands-still", "etcd-minority", "etcd-all-gone"} <= names
    assert {"etcd-slow-disks", "etcd-slow-disk-leader", "etcd-gone-active-dies"} <= names


def test_the_short_form_is_short_and_of_every_kind() -> None:
    short = [one for one in FAULTS if one.short]
    assert 4 <= len(short) <= 8
    verbs = {blow.verb for one in short for blow in one.blows}
    assert {Verb.POWER_OFF, Verb.KILL, Verb.STOP, Verb.MUTE, Verb.ISOLATE} <= verbs


def test_every_halt_is_waited_for() -> None:
    for one in FAULTS:
        halts = [blow for blow in one.prepare if blow.verb is Verb.HALT_AT]
        waits = [blow for blow in one.blows if blow.verb is Verb.AWAIT_HALT]
        assert len(halts) == len(waits)
        assert all(blow.role in Role for blow in one.blows)


def test_a_disk_is_slow_only_where_it_can_be() -> None:
    for one in FAULTS:
        fakes = [blow.role for blow in one.prepare if blow.verb is Verb.FAKE_DISK]
        slows = [blow for blow in one.blows if blow.verb is Verb.SLOW_DISK]
        assert bool(fakes) == bool(slows) and all(role is Role.ALL for role in fakes)


def test_faults_are_found_by_name_or_beginning() -> None:
    assert fault("isolated").name == "isolated"
    assert [one.name for one in named(("power-off-active",))] == ["power-off-active"]
    assert len(named(("kill-",))) == 6
    with pytest.raises(ConfigError, match="no fault 'nonsense'"):
        named(("nonsense",))
    with pytest.raises(ConfigError, match="do you mean"):
        fault("isol")


@pytest.mark.parametrize("wrong", [{"times": 0}, {"scale": Scale(flows=1)}, {"times": 101}])
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    ChaosOptions().check()
    with pytest.raises(ConfigError, match="out of range"):
        ChaosOptions(**wrong).check()  # type: ignore[arg-type]


def test_an_upgrade_needs_an_earlier_version_that_could_run(tmp_path: Path) -> None:
    upgrades = tuple(one for one in FAULTS if one.previous)
    assert [one.name for one in upgrades] == ["rolling-upgrade"]
    with pytest.raises(ConfigError, match="rolling-upgrade needs --previous DIR"):
        ChaosOptions(faults=upgrades).check()
    with pytest.raises(ConfigError, match="no earlier version that could run: it has no bgf/lab"):
        ChaosOptions(faults=upgrades, previous=tmp_path).check()
    ChaosOptions(faults=upgrades, previous=Path(bgf.__file__).parents[1]).check()


def test_an_earlier_version_configures_its_nodes_itself(tmp_path: Path) -> None:
    plan = make_plan(run_dir=tmp_path, actives=2, standbys=1, prefix="t-")
    here = Previous(Path(bgf.__file__).parents[1])  # this one, in that place
    made = here.configurations(plan, "fast")
    assert set(made) == {node.id for node in plan.nodes}
    for node in plan.nodes:
        assert made[node.id] == config.dump(node_config(plan, node, Timers.of("fast")))
    with pytest.raises(EnvironmentProblem, match=r"cannot configure this lab: .*nonsense"):
        here.configurations(plan, "nonsense")


class NoLab:
    """What `_on_lab` asks of a lab, where every trial ends in the runner's own bug."""

    def __init__(self, log_dir: Path) -> None:
        self.topology = self.processes = self.plan = self
        self.groups = (SimpleNamespace(id="g1"),)
        self.log_dir = log_dir
        self.downs = 0

    def complete(self) -> bool:
        return True

    def exists(self) -> bool:
        return False

    def down(self, _progress: object) -> None:
        self.downs += 1


def test_a_bug_of_the_runner_fails_one_trial_and_not_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(_: object) -> TrialResult:
        raise KeyError("what")

    monkeypatch.setattr(Trial, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Trial, "run", boom)
    (tmp_path / "log").mkdir()
    lab = NoLab(tmp_path / "log")
    options = ChaosOptions(faults=(fault("isolated"),), logs_to=tmp_path / "kept")
    result = chaos._on_lab(lab, options, fault("isolated"), lambda _: None)  # type: ignore[arg-type]
    assert result.broken == ("the runner failed: KeyError: 'what'",) and lab.downs == 1
    assert "KeyError" in (tmp_path / "kept" / "isolated" / "runner.log").read_text()


# -- the report


FLOW = FlowOutage(TO_ACCESS, GENERATED, "[fd00:a::100]:1", "[fd00:a::101]:3", 0.0, 90.0, 90.0)
PASSED = TrialResult(
    "isolated", "an active is cut off", 1, "g1", "n1", "n3", {"active": "n1"}, (FLOW,), why="so [x]"
)


def test_the_report_says_what_was_broken() -> None:
    bad = replace(PASSED, broken=("call c is gone",))
    assert ChaosReport((PASSED,), 1, "fast").ok
    report = ChaosReport((PASSED, bad), 1, "fast")
    assert not report.ok and not ChaosReport((), 1, "fast").ok
    assert report.to_json()["failed"] == 1
    out = io.StringIO()
    report.render(Console(file=out, width=200))
    assert "isolated: call c is gone" in out.getvalue()
    assert "1 of 2 trials passed" in out.getvalue()


def test_a_drill_is_told_with_who_decided_and_why() -> None:
    out = io.StringIO()
    render_one(PASSED, Console(file=out, width=200))
    assert "so [x]" in out.getvalue() and "n1 → n3" in out.getvalue()
    assert as_row(PASSED)["outage_ms"]["max"] == 90.0
