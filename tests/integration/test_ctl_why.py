"""`bgfctl sessions why` as an operator runs it, about calls of a real machine and its journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bgf.errors import UnknownCall
from bgf.events import Abandoned, Event, Learned, Verb
from bgf.journal import Mode
from bgf.model import Address
from bgf.runtime import call_audit, rows
from bgf.runtime.served import Served
from tests.fakes.calls import GROUP, NS_PER_MS, NS_PER_S, command, line
from tests.fakes.datapath import FakeDatapath, Packet
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared
from tests.fakes.nodes import FakeNodes, says
from tests.integration.test_ctl_cli import CALL, bgfctl, check_golden, fakes, run_dir

__all__ = ["fakes", "run_dir"]

OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE
ALICE, BOB = line("fd00:a::2", 4000), line("10.20.0.2", 6000)


class Gateway:
    """The gateway of node `name`: a real driver, and packets that a test sends."""

    def __init__(
        self,
        shared: Shared | None = None,
        name: str = "n1",
        before: str = "",
        now_ns: int = NS_PER_S,
    ) -> None:
        self.name = name
        self.now_ns = now_ns
        self.datapath = FakeDatapath([GROUP], now_ns=lambda: self.now_ns)
        self.datapath.arm("g1", 1 << 62)
        self.node = Node(shared or Shared(), self.datapath, mode=Mode.CHECKPOINTED, now_ns=now_ns)
        self.served = Served(GROUP)
        self.served.epoch, self.served.owned_before = self.node.epoch + 6, before

    def run(self, *events: Event) -> None:
        self.node.run(*events)

    def talk(self, host: str = "fd00:a::2", port: int = 4000) -> None:
        """A packet from the caller's side."""
        key = self.node.gateway.expected_flows(CALL)[0].key
        rtp = b"\x80\x00" + bytes(10)
        self.datapath.send(Packet("access", Address(host, port), Address(*key), rtp))

    def why(self, request: dict[str, Any]) -> dict[str, Any]:
        driver = self.node.driver
        driver.restore(request["call_id"], self.now_ns)
        session = driver.gateway.session(request["call_id"])
        if session is None:
            raise UnknownCall(f"call '{request['call_id']}' is not on node {self.name}")
        return call_audit.call_row(self.served, driver, session, self.datapath)


def ask(
    made: Gateway, fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> Any:
    for module, name in ((call_audit, "now_ns"), (call_audit, "call_ns"), (rows, "call_ns")):
        monkeypatch.setattr(module, name, lambda: made.now_ns)
    fakes.serve(run_dir / made.name / "gateway.sock", {"status": says({}), "why": made.why})
    return bgfctl("sessions", "why", *(more or (CALL,)), "--run-dir", str(run_dir))


def at(verb: Verb, ms: int, *media: Any, **fields: Any) -> Any:
    return command(verb, f"9{ms}_{verb.value}_1", *media, call=CALL, at_ms=ms, **fields)


def established(made: Gateway) -> None:
    made.run(at(OFFER, 0, ALICE), at(ANSWER, 1_950, BOB))


def live(made: Gateway) -> None:
    established(made)
    made.now_ns += 3 * NS_PER_S
    made.talk()
    made.now_ns += 12_300 * NS_PER_MS


def half_open(made: Gateway) -> None:
    made.run(at(OFFER, 0, ALICE))
    made.now_ns += 30 * NS_PER_S


def eventful(made: Gateway) -> None:
    """NAT, a fork, a re-offer with video that is refused, a hold, an answer that does not fit."""
    made.run(
        at(OFFER, 0, ALICE, flags=("symmetric", "SIP-source-address")),
        at(ANSWER, 180, BOB),
        at(ANSWER, 2_400, line("10.20.0.3", 7000), to_tag="bob-at-home"),
    )
    key = made.node.gateway.expected_flows(CALL)[0].key
    video = line("fd00:a::2", 4002, kind="video")
    made.run(
        Learned(4 * NS_PER_S, CALL, key, Address("fd00:a::2", 61_000), 0),
        at(OFFER, 8_000, ALICE, video),
        at(ANSWER, 8_100, BOB),
        at(ANSWER, 8_200, line("10.20.0.3", 7000), line("10.20.0.3", 0, kind="video"),
           to_tag="bob-at-home"),
        at(OFFER, 20_000, line("0.0.0.0", 7000, direction="sendonly"),
           line("10.20.0.3", 0, kind="video"), from_tag="bob-at-home", to_tag="alice"),
        at(ANSWER, 20_090, ALICE, line("fd00:a::2", 0, kind="video"),
           from_tag="bob-at-home", to_tag="alice"),
    )  # fmt: skip
    made.now_ns += 25 * NS_PER_S


def hung_up(made: Gateway) -> None:
    established(made)
    made.run(at(DELETE, 60_000))
    made.now_ns += 75 * NS_PER_S


def abandoned(made: Gateway) -> None:
    established(made)
    made.run(Abandoned(91 * NS_PER_S, CALL, 90_000))
    made.now_ns += 95 * NS_PER_S


def busy(made: Gateway) -> None:
    """So many events that the first of them were summed up."""
    established(made)
    for number in range(10):
        held = number % 2 == 0
        made.run(
            at(OFFER, 3_000 + 100 * number, line("::" if held else "fd00:a::2", 4000)),
            at(ANSWER, 3_050 + 100 * number, BOB),
        )
    made.now_ns += 5 * NS_PER_S


SCENES = [live, half_open, eventful, hung_up, abandoned, busy]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_call_explained(
    scene: Any, fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Gateway()
    scene(made)
    outcome = ask(made, fakes, run_dir, monkeypatch)
    check_golden(f"sessions-why-{scene.__name__.replace('_', '-')}", outcome, run_dir)


@pytest.mark.parametrize("before", ["n1", ""])
def test_a_restored_call_says_whence(
    before: str, fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Gateway()
    established(first)
    made = Gateway(first.node.shared, "n2", before, 21 * NS_PER_S)
    made.node.driver.restore(CALL, made.now_ns)
    made.now_ns += 1_500 * NS_PER_MS
    outcome = ask(made, fakes, run_dir, monkeypatch)
    origin = before or "itself"
    check_golden(f"sessions-why-restored-from-{origin}", outcome, run_dir)


def test_for_machines(fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Gateway()
    hung_up(made)
    found = json.loads(ask(made, fakes, run_dir, monkeypatch, CALL, "--json").out)
    assert found["state"] == "deleted"
    ended = found["ended"]
    assert (ended["by"], ended["what"], ended["age_s"]) == ("control", "delete", 15.0)
    assert len(ended["ports_resting"]) == 2
    assert [(one["what"], one["at_s"]) for one in found["events"]] == [
        ("offer", 0.0), ("answer", 1.95), ("delete", 60.0)
    ]  # fmt: skip
    assert [reply["result"] for reply in found["replies"]] == ["ok"] * 2
    assert found["pinholes"] == [] and found["restored"] is None


def test_a_call_that_nobody_knows(
    fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = ask(Gateway(), fakes, run_dir, monkeypatch, "nobody")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "bgfctl: no call 'nobody' on n1\n"


def test_a_journal_that_cannot_be_read(
    fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Gateway()
    established(made)
    journal: Sequence[bytes] = made.node.shared.journals[CALL]
    made.node.shared.journals[CALL] = [b"\xff" + entry for entry in journal]
    outcome = ask(made, fakes, run_dir, monkeypatch)
    assert outcome.code == 0
    assert "its journal cannot be read: journal entry has schema 255" in outcome.out
