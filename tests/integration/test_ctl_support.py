"""`bgfctl support-bundle`, `reload`, and a takeover's story with what gateway processes said."""

from __future__ import annotations

import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bgf.ctl import failover_view, support_bundle
from bgf.ctl.client import Answer
from bgf.ctl.support_bundle import GONE, redact
from bgf.errors import BgfError
from bgf.runtime.recall import LINES_PER_GROUP_MAX, Recall
from tests.fakes.node_answers import all_of
from tests.fakes.nodes import FakeNodes, says
from tests.integration.test_ctl_cli import bgfctl, fakes, run_dir
from tests.integration.test_ctl_failover import N3, history

__all__ = ["fakes", "run_dir"]

KEY = "0123456789abcdef" * 4


def test_nothing_that_opens_something_is_in_it(
    fakes: FakeNodes, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = all_of("n1")
    answers["failover"]["sentence"] = f"odd: {KEY} http://root:hunter2@10.30.0.201:2379"
    for process in answers:
        names = ("status", "state", "metrics", "figures", "recorded", "timeline", "ready")
        fakes.serve(
            run_dir / "n1" / f"{process}.sock",
            {**{name: says(answers[process]) for name in names}, "history": says({"events": []})},
        )
    (run_dir / "log").mkdir()
    (run_dir / "log" / "n1-gateway.log").write_text(
        f"a=crypto:1 AES inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20\nkey 1 {KEY}\n"
    )
    (run_dir / "n1" / "cluster.key").write_text(f"1 {KEY}\n")
    monkeypatch.setattr(support_bundle, "COMMANDS", ("uname -a", "no-such-command"))
    file = run_dir / "out.tar.gz"
    done = bgfctl("support-bundle", "--output", str(file), "--run-dir", str(run_dir))
    assert done.code == 0 and str(file) in done.out and not done.err
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as bundle:
        found = {
            member.name.partition("/")[2]: bundle.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in bundle.getmembers()
        }
    whole = "".join(found.values())
    for secret in (KEY, "hunter2", "d0RmdmcmVCspeEc3"):
        assert secret not in whole
    assert "n1 serves" in whole or GONE in found["n1/failover-status.json"]
    assert json.loads(found["n1/gateway-figures.json"])["pinholes"] == 400
    assert {"n1/log/n1-gateway.log", "n1/gateway-history-g1.json", "versions.txt"} <= found.keys()
    assert "Linux" in found["machine/00-uname-a.txt"]


def test_what_is_redacted_and_what_is_not() -> None:
    for text in (
        f"seal {KEY}.",
        "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
        'password = "x1"',
        "Authorization: Bearer abc",
        "token=abc",
    ):
        assert GONE in redact(text), text
    plain = 'key_file = "/etc/bgf/cluster.key"; call 1-2@10.0.0.1; epoch 7; 1 token bucket'
    assert redact(plain) == plain


def test_a_bundle_that_cannot_be_written_is_one_line(fakes: FakeNodes, run_dir: Path) -> None:
    fakes.serve(run_dir / "n1" / "failover.sock", {})
    out = str(run_dir / "no" / "x.tar.gz")
    done = bgfctl("support-bundle", "--output", out, "--run-dir", str(run_dir))
    assert (done.code, done.out) == (3, "")
    assert done.err == f"bgfctl: {out}: No such file or directory\n"


def test_reload_says_what_is_taken_up_and_what_is_not(fakes: FakeNodes, run_dir: Path) -> None:
    applied = [{"key": "control.sessions_max", "old": 100, "new": 7}]
    restart = [{"key": "media.attach", "old": "auto", "new": "native",
                "needs": "restart of bgf gateway"}]  # fmt: skip
    none: dict[str, Any] = {"file": "f", "applied": [], "restart": []}
    fakes.serve(
        run_dir / "n1" / "gateway.sock",
        {"reload": says({"file": "f", "applied": applied, "restart": restart})},
    )
    for process in ("state", "failover"):
        fakes.serve(run_dir / "n1" / f"{process}.sock", {"reload": says(none)})
    done = bgfctl("reload", "--run-dir", str(run_dir))
    assert done.code == 0 and not done.err
    for line in ("control.sessions_max  100", "taken up", "needs a restart of bgf gateway"):
        assert line in done.out
    found = json.loads(bgfctl("reload", "--json", "--run-dir", str(run_dir)).out)
    assert [row["outcome"] for row in found["changes"]] == [
        "taken up", "needs a restart of bgf gateway"
    ]  # fmt: skip


def test_reload_of_a_bad_file(fakes: FakeNodes, run_dir: Path) -> None:
    def refused(_request: dict[str, Any]) -> dict[str, Any]:
        raise BgfError("/etc/bgf/node.toml: control.sessions_max = 0: must be ...")

    for process in ("state", "gateway", "failover"):
        fakes.serve(run_dir / "n1" / f"{process}.sock", {"reload": refused})
    done = bgfctl("reload", "--run-dir", str(run_dir))
    assert done.code == 1 and "bgfctl: n1 gateway: /etc/bgf/node.toml: control" in done.err


def test_a_story_has_what_the_gateway_said() -> None:
    line = {"event": "active", "group": "g1", "node": "n3", "epoch": 2, "at_ns": 5_009_000_000,
            "sentence": "group g1 epoch 2: active here", "reason": "", "last": ""}  # fmt: skip
    old = line | {"epoch": 1, "event": "restored"}
    gateway = Answer("n3", "gateway", {"events": [line, old], "now_ns": 17 * 10**9, "boot": "b"})
    story = failover_view.story([history("n3", N3)], "g1", [gateway])
    told = [(e["at_ms"], e["told_by"], e["event"]) for e in story["events"]]
    assert (9.0, "n3 gateway", "active") in told
    assert not any(event == "restored" for _, _, event in told)


def test_recall_keeps_decisions_about_groups_and_no_calls() -> None:
    recall = Recall("n3")
    log = logging.getLogger("bgf.test-recall")
    log.setLevel(logging.INFO)
    log.addHandler(recall)
    try:
        log.info("no group")
        log.info("a call", extra={"group": "g1", "call": "c"})
        for number in range(LINES_PER_GROUP_MAX + 5):
            about = {"group": "g1", "epoch": number, "reason": "active"}
            log.info("group %s is active", "g1", extra=about)
    finally:
        log.removeHandler(recall)
    found = recall.of({"group": "g1"})
    assert len(found["events"]) == LINES_PER_GROUP_MAX
    last = found["events"][-1]
    assert (last["event"], last["epoch"], last["sentence"]) == (
        "active", LINES_PER_GROUP_MAX + 4, "group g1 is active"
    )  # fmt: skip
    assert recall.of({"group": "g2"})["events"] == [] and recall.of({})["group"] == ""
