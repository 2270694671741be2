"""bgfctl inside: which nodes, what follows from their answers, tables, the last guard, progress."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from bgf.admin import AdminRefused, AdminUnreachable
from bgf.ctl import cli, client, main, render, render_why
from bgf.ctl.client import Answer, Node
from bgf.ctl.progress import Steps
from bgf.errors import (
    BgfError,
    ConfigError,
    DatapathError,
    EnvironmentProblem,
    Malformed,
    Misuse,
)
from bgf.preflight import PreflightFailed, Problem


def drawn(what: RenderableType, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(what)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def status(node: str, process: str, **value: Any) -> Answer:
    return Answer(node, process, {"ready": True, **value})


NODES = [Node("n1", Path("/r/n1")), Node("n2", Path("/r/n2"))]
OWNERS = {"g1": {"node": "n1", "epoch": 3}}
ACTIVE = {
    "role": "active",
    "epoch": 3,
    "sessions": 7,
    "flows": 12,
    "pending": 1,
    "restored_in_ms": 6.5,
}
HEALTHY = [
    status("n1", "state", keeper=True),
    status("n1", "gateway", groups={"g1": ACTIVE}),
    status("n1", "failover", owners=OWNERS),
    status("n2", "state"),
    status("n2", "gateway", groups={"g1": {"role": "standby", "epoch": 3, "flows": 12}}),
    status("n2", "failover", owners=OWNERS),
]


def with_changes(*changes: Answer) -> list[Answer]:
    """HEALTHY with the answers of the same node and process replaced."""
    new = {(a.node, a.process): a for a in changes}
    return [new.get((a.node, a.process), a) for a in HEALTHY]


def test_a_healthy_cluster_is_ready() -> None:
    found = client.cluster(NODES, HEALTHY)
    assert found["ready"] is True
    assert found["problems"] == []
    assert found["groups"] == [
        {
            "group": "g1",
            "owner": "n1",
            "epoch": 3,
            "active": ["n1"],
            "standby": {"n2": 12},
            "sessions": 7,
            "hanging": 0,
            "flows": 12,
            "pending": 1,
            "restored_in_ms": 6.5,
        }
    ]
    assert [n["ready"] for n in found["nodes"]] == [True, True]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            [Answer("n2", "state", None, "no such socket", "unreachable")],
            "n2 state: no such socket",
        ),
        (
            [Answer("n2", "gateway", {"ready": False, "why": "maps are filling"})],
            "n2 gateway: not ready: maps are filling",
        ),
        (
            [Answer("n2", "gateway", {"ready": False})],
            "n2 gateway: not ready: it does not say why",
        ),
        (
            [status("n2", "failover", owners={"g1": {"node": "n2", "epoch": 3}})],
            "group g1: the nodes disagree on its owner: n1 says n1, n2 says n2",
        ),
        (
            [status("n2", "gateway", groups={"g1": {"role": "active", "epoch": 2}})],
            "group g1: active on n1 and n2 at once",
        ),
        (
            [status("n1", "gateway", groups={"g1": {"role": "standby", "epoch": 3}})],
            "group g1: its owner n1 is not serving it",
        ),
        (
            [status(n, "failover", owners={"g1": {"node": "", "epoch": 0}}) for n in ("n1", "n2")],
            "group g1: nobody owns it",
        ),
    ],
)
def test_what_is_wrong_is_said(changes: list[Answer], problem: str) -> None:
    found = client.cluster(NODES, with_changes(*changes))
    assert found["ready"] is False
    assert problem in found["problems"]
    shown = " ".join(drawn(render.status(found)).split())
    assert f"problem: {problem}" in shown


def test_an_older_view_is_no_dispute() -> None:
    behind = status("n2", "failover", owners={"g1": {"node": "n2", "epoch": 2}})
    found = client.cluster(NODES, with_changes(behind))
    assert found["groups"][0]["owner"] == "n1"
    assert found["ready"] is True


# What the one node that was asked says of a group that another owns.
ELSEWHERE = {"g1": {"node": "n1", "epoch": 3}, "g2": {"node": "n2", "epoch": 5}}


def alone(lease_left_ms: int, registry: str = "ok") -> list[Answer]:
    """n1, asked by itself: it serves g1 and holds the pinholes of g2, which is n2's."""
    members = {"n1": {"lease_left_ms": 2_000}, "n2": {"lease_left_ms": lease_left_ms}}
    held = {"role": "standby", "epoch": 5, "flows": 8}
    return [
        status("n1", "state"),
        status("n1", "gateway", groups={"g1": ACTIVE, "g2": held}),
        status("n1", "failover", owners=ELSEWHERE, members=members, registry=registry),
    ]


def test_an_owner_that_was_not_asked_is_not_said_not_to_serve() -> None:
    found = client.cluster(NODES[:1], alone(2_000))
    assert found["problems"] == [] and found["ready"] is True
    assert [(g["group"], g["owner"]) for g in found["groups"]] == [("g1", "n1"), ("g2", "n2")]
    (line,) = [line for line in drawn(render.status(found)).splitlines() if line.startswith("g2")]
    assert line.split() == ["g2", "n2", "5", "-", "-", "-", "-", "n1", "(8)"]


def test_an_owner_that_was_not_asked_and_whose_lease_is_over_is_a_problem() -> None:
    found = client.cluster(NODES[:1], alone(0))
    assert found["problems"] == ["group g2: its owner n2 has no lease"]
    # who does not reach the registry knows nothing of leases
    assert client.cluster(NODES[:1], alone(0, "no answer from etcd"))["problems"] == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("ready", "groups", "owners", "g1", "role", "sessions", "flows", "node"),
                    *("epoch", "drops", "attachments", "sentence", "created_age_s", "call_id"),
                    *(
                        "nodes",
                        "flow_list",
                        "tags",
                        "failures",
                        "unresolved",
                        "mode",
                        "pending",
                        "error",
                        "suspects",
                        "trouble",
                        "links_down",
                        "problems",
                        *("events", "pinholes", "replies", "ended", "restored", "at_s", "realms"),
                        *("why", "media", "outcome", "local_in", "local_out", "follows"),
                    ),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(ANYTHING)
def test_no_answer_can_break_a_table(anything: Any) -> None:
    value = anything if isinstance(anything, dict) else {"groups": anything, "owners": anything}
    answers = [Answer(n.id, p, value) for n in NODES for p in client.PROCESSES]
    found = client.cluster(NODES, answers)
    json.dumps(found)
    assert drawn(render.status(found))
    assert drawn(render.sessions(client.rows([value, anything]), 5))
    assert drawn(render.session(value, 10**12))
    assert drawn(render_why.why(value))
    assert drawn(render.trace(answers))
    assert drawn(render.lab(value))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_no_call_id_can_reach_the_terminal_raw(call_id: str) -> None:
    shown = drawn(render.sessions([{"call_id": call_id}], 5), width=2000)
    assert all(c.isprintable() for c in shown.replace("\n", ""))


def test_markup_in_a_call_id_is_shown_as_it_is() -> None:
    shown = drawn(render.sessions([{"call_id": "[red]x[/red]\x1b[2J"}], 5))
    assert "[red]x[/red]\\x1b[2J" in shown


def test_long_lists_say_what_they_leave_out() -> None:
    shown = drawn(render.sessions([{"call_id": f"c{i}"} for i in range(7)], 3))
    assert "Sessions (7)" in shown
    assert "c2" in shown
    assert "c3" not in shown
    assert "and 4 more: --limit 7 shows all" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "?"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown


def test_ages_of_a_call_and_its_packets() -> None:
    now_ns = 10**15
    details = {
        "call_id": "c",
        "created_age_s": 9_000.5,
        "tags": ["a", "b"],
        "flows": 1,
        "flow_list": [{"stream": 1, "component": 2, "last_seen_ns": now_ns - 3_000_000_000}],
    }
    shown = drawn(render.session(details, now_ns))
    assert "age      2 h 30 min" in shown
    assert "tags     a, b" in shown
    assert "1 RTCP" in shown
    assert shown.endswith("3 s")
    listed = drawn(render.sessions([details], 5))
    assert listed.splitlines()[2].split() == ["c", "1", "2", "h", "30", "min"]


def test_remarks_of_a_gateway() -> None:
    odd = {
        "attachments": {"access": {"mode": "generic", "reason": "no native XDP in this driver"}},
        "unresolved": ["10.20.0.9", "fd00:a::9"],
        "groups": {
            "g1": {
                **ACTIVE,
                "failures": ["c1: table full"],
                "ng": {"shed-lag_max_ms": 3, "stranger": 5, "received": 9},
            }
        },
    }
    shown = drawn(
        render.status(client.cluster(NODES, with_changes(status("n1", "gateway", **odd))))
    )
    assert "n1: access runs in generic mode, which is slower: no native XDP in this driver" in shown
    assert "n1: no answer from next hop 10.20.0.9, fd00:a::9" in shown
    assert "n1: g1: c1: table full" in shown
    shown = " ".join(shown.split())
    assert "n1: g1: new calls refused by lag_max_ms 3; 5 datagrams of strangers dropped" in shown


def test_a_node_that_is_silent_is_one_problem() -> None:
    silent = [Answer("n2", p, None, "no such socket", "unreachable") for p in client.PROCESSES]
    found = client.cluster(NODES, with_changes(*silent))
    assert found["problems"] == ["n2: none of its processes answers in /r/n2"]


def test_never_seen_is_a_dash() -> None:
    assert render.since(0, 10**9) == "-"
    assert render.since(None, 10**9) == "-"
    assert render.since(1, 10**9 + 1) == "1 s"


def test_nodes_are_found_by_their_run_directories(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    for name in ("n2", "n1", "log"):
        (lab / name).mkdir(parents=True)
    (lab / "n1" / "gateway.sock").touch()
    (lab / "n2" / "state.lock").touch()
    expected = [Node("n1", lab / "n1"), Node("n2", lab / "n2")]
    assert client.find_nodes([], [lab]) == expected
    assert client.find_nodes([], [lab / "n1", lab / "n2", lab]) == expected
    assert client.find_nodes([], [lab], ["n2"]) == expected[1:]
    with pytest.raises(ConfigError, match="no node 'n3': there are n1, n2"):
        client.find_nodes([], [lab], ["n3"])
    for empty in (lab / "log", tmp_path / "none"):
        with pytest.raises(EnvironmentProblem, match=r"no node has run in .*'bgfctl lab up'"):
            client.find_nodes([], [empty])


def test_the_lab_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "state.sock").touch()
    monkeypatch.setattr(client, "DEFAULT_RUN_DIR", tmp_path)
    assert client.find_nodes([], []) == [Node("n1", tmp_path / "n1")]


def test_without_a_lab_it_is_the_machines_own_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[2] / "packaging/etc/node.toml"
    monkeypatch.setattr(client, "DEFAULT_RUN_DIR", tmp_path / "none")
    monkeypatch.setattr(client, "NODE_FILE", example)
    assert client.find_nodes([], []) == [Node("n1", Path("/run/bgf"))]
    with pytest.raises(EnvironmentProblem, match="no node has run in"):
        client.find_nodes([], [tmp_path / "none"])


def test_nodes_of_several_machines_cannot_be_asked_by_their_files(tmp_path: Path) -> None:
    """Each of these files has the run directory of its own machine, which is one and the same."""
    example = (Path(__file__).parents[2] / "packaging/etc/node.toml").read_text()
    files = []
    for name in ("n4", "n5"):
        files.append(tmp_path / f"{name}.toml")
        files[-1].write_text(example.replace('= "n1"', f'= "{name}"'))
    assert client.find_nodes([files[0], files[0]], []) == [Node("n4", Path("/run/bgf"))]
    with pytest.raises(ConfigError) as refused:
        client.find_nodes(files, [])
    said = str(refused.value)
    assert said.startswith("nodes 'n4' and 'n5' would both be asked in /run/bgf, and one of them ")
    assert "type it on each machine by itself" in said and "--run-dir DIR" in said
    assert "\n" not in said


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a bgfctl whose only command raises this."""

    def run(error: BaseException) -> int:
        @click.command()
        @click.argument("word")
        def failing(word: str) -> None:
            raise error

        monkeypatch.setattr(main, "bgfctl", failing)
        return main.run(["word"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("node.toml: x = 1: no"), cli.USAGE, "node.toml: x = 1: no"),
        (EnvironmentProblem("not root"), cli.ENVIRONMENT, "not root"),
        (AdminUnreachable("/x.sock: dead"), cli.ENVIRONMENT, "/x.sock: dead"),
        (AdminRefused("no such call", "unknown-call"), cli.FAILED, "no such call"),
        (DatapathError("table\nfull"), cli.FAILED, "table full"),
        (Malformed("'1' is not an IP address"), cli.USAGE, "'1' is not an IP address"),
        (Misuse("ssrc 0"), cli.USAGE, "ssrc 0"),
        (BgfError("odd"), cli.FAILED, "odd"),
        (PermissionError(13, "Permission denied", "/run/x"), cli.ENVIRONMENT, "[Errno 13]"),
        (KeyboardInterrupt(), cli.INTERRUPTED, "interrupted"),
        (click.Abort(), cli.INTERRUPTED, "interrupted"),
        (click.UsageError("no such option"), cli.USAGE, "no such option (see"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_a_code(
    fails: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    assert fails(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.lstrip("\n").startswith(f"bgfctl: {line}")  # click ends the line of ^C
    assert len(err.strip().splitlines()) == 1


def test_every_failed_check_is_a_line(
    fails: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [Problem("root", "not root"), Problem("packages", "sipp is missing")]
    assert fails(PreflightFailed(problems)) == cli.ENVIRONMENT
    assert capsys.readouterr().err.splitlines() == ["bgfctl: not root", "bgfctl: sipp is missing"]


def test_a_bug_is_one_line_and_its_traceback_a_file(
    fails: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert fails(ZeroDivisionError("a\nbug")) == cli.FAILED
    err = capsys.readouterr().err
    assert err.startswith("bgfctl: unexpected ZeroDivisionError: a bug; traceback in ")
    assert len(err.splitlines()) == 1
    kept = Path(err.split()[-1])
    assert kept.parent == tmp_path
    assert "ZeroDivisionError: a\nbug" in kept.read_text()


def test_a_bug_on_a_full_disk_is_still_one_line(
    fails: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert fails(ZeroDivisionError("a bug")) == cli.FAILED
    assert "traceback in no file (No such file or directory)" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_off_a_terminal_is_a_plain_line_each() -> None:
    stream = io.StringIO()
    with Steps(stream) as steps:
        steps("networks: 7 namespaces")
        steps("nodes:\nn1")
    assert stream.getvalue() == "networks: 7 namespaces\nnodes: n1\n"


def test_progress_on_a_terminal_keeps_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Steps(stream) as steps:
        steps("first [step]")
        steps("second")
    shown = stream.getvalue()
    assert "- first [step]" in click.unstyle(shown)
    assert "- second" in click.unstyle(shown)


def test_every_command_has_help_with_examples_and_exit_codes() -> None:
    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                walk(inner, (*path, name))
        assert command.help, path
        assert command.epilog, path
        assert f"bgfctl {' '.join(path)}".strip() in command.epilog, path
        assert "Exit codes: 0 fine; 1 " in command.epilog, path
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (path, option.name)

    walk(main.bgfctl, ())


def test_starting_bgfctl_does_not_import_the_heavy_parts() -> None:
    import subprocess
    import sys

    heavy = "matplotlib scapy pyroute2 bgf.lab.lab bgf.lab.drill bgf.media"
    code = f"import sys, bgf.ctl.main; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
