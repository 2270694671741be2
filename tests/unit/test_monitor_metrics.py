"""Metrics, alerts, dashboards and the runbook speak of the same things."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bgf.media.datapath import Outcome
from bgf.monitor import exposition
from statestore import metrics as state_metrics
from tests.fakes.node_answers import all_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "bgf.rules.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
NAME = re.compile(r"\b(?:bgf|dal)_[a-z0-9_]+\b")
SELECTOR = re.compile(r"\b((?:bgf|dal)_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
SPENT = {"state": 0.001, "gateway": 0.002, "failover": 0.001}
NODE_FIGURES = (
    *(*state_metrics.NODE_COUNTERS, *state_metrics.NODE_GAUGES),
    *("requests_read", "replies_ok", "latency_read_4"),
)
PROMTOOL = shutil.which("promtool")


def exposed() -> str:
    answers = all_of()
    segment = dict.fromkeys((*state_metrics.SEGMENT_COUNTERS, "items", "clients", "free"), 1)
    reading = state_metrics.Reading(
        segment | {"total": 9},
        dict.fromkeys(NODE_FIGURES, 1) | {"phase": 3, "serving": 1},
        1,
        log_lines={"info": 1},
        labels={"node": "n1"},
    )
    answers["state"]["metrics"] = state_metrics.text(lambda: reading)
    return exposition.text_of("n1", answers, SPENT)


def known() -> dict[str, dict[str, set[str]]]:
    """Sample name -> label -> values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(exposed()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def alerts() -> dict[str, dict[str, str]]:
    """Alert -> its lines by key, read as plainly as the file is written."""
    found: dict[str, dict[str, str]] = {}
    lines = RULES.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("- alert:"):
            current = found.setdefault(line.split(":")[1].strip(), {})
        key, colon, value = line.strip().partition(": ")
        if colon and found and not key.startswith("-"):
            folded = lines[number + 1].strip() if value == ">-" else ""
            current[key] = folded or (json.loads(value) if value.startswith('"') else value)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """(where, expression) of every alert and panel."""
    for name, rule in alerts().items():
        yield name, rule["expr"]
    for path in BOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", target["expr"]
        for one in board["annotations"]["list"]:
            yield f"{path.name}: annotation", one["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.name}: ${variable['name']}", variable["query"]["query"]


def test_queries_name_metrics_that_exist() -> None:
    metrics = known()
    wrong = [
        f"{where}: there is no {name}"
        for where, query in queries()
        for name in NAME.findall(re.sub(r'"[^"]*"', "", query))
        if name not in metrics
    ]
    assert not wrong, "\n".join(wrong)


def test_queries_name_labels_and_values_that_exist() -> None:
    metrics, wrong = known(), []
    fixed = {
        "outcome": {outcome.value for outcome in Outcome} | {"failed", "answered"},
        "process": {"state", "gateway", "failover"},
        "kind": {"used", "free", "total", "heard", "sent"},
        "state": {"used", "free", "resting"},
        "event": {"claims_won"},
        "reason": {"stranger", "tcp-dropped"},
    }
    for where, query in queries():
        for name, inside in SELECTOR.findall(query):
            for label, sign, value in MATCHER.findall(inside):
                if label not in metrics[name]:
                    wrong.append(f"{where}: {name} has no label {label}")
                elif "$" not in value and label in fixed:
                    values = value.split("|") if "~" in sign else [value]
                    wrong += [
                        f"{where}: {name} never has {label}={one}"
                        for one in values
                        if one not in fixed[label]
                    ]
    assert not wrong, "\n".join(wrong)


def test_every_metric_is_looked_at_or_is_known_to_be_for_people() -> None:
    """What nobody asks for need not be counted. The state server's own figures are its business."""
    asked = {name for _, query in queries() for name in NAME.findall(query)}
    ours = {re.sub(r"_(bucket|count|sum)$", "", n) for n in known() if n.startswith("bgf_")}
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert ours - asked == {
        *("bgf_warnings", "bgf_copied_calls", "bgf_rtp_jitter_seconds"),
    }


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    rules, text = alerts(), RUNBOOK.read_text()
    sections = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert sorted(sections) == sorted(rules)
    for name, rule in rules.items():
        assert rule["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        body = text.split(f"### {name}\n")[1].split("\n#")[0]
        assert body.startswith(f"*{rule['severity'].capitalize()}.*"), name
        assert "**Do:**" in body or "As Bgf" in body, name


def test_every_alert_is_made_to_fire_in_its_test() -> None:
    text = (DEPLOY / "prometheus" / "bgf.rules.test.yml").read_text()
    tested = set(re.findall(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', text))
    assert tested == set(alerts())


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: scripts/setup.sh installs it")
@pytest.mark.parametrize("what", ["check", "test"])
def test_promtool_accepts_the_rules(what: str) -> None:
    file = "bgf.rules.yml" if what == "check" else "bgf.rules.test.yml"
    done = subprocess.run(
        ["promtool", what, "rules", file],
        cwd=RULES.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: scripts/setup.sh installs it")
def test_promtool_accepts_the_metrics_and_the_scrape() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposed(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=RULES.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_counter_has_its_value_and_a_histogram_adds_up() -> None:
    text = exposed()
    assert (
        'bgf_packets_total{node="n1",outcome="disarmed",realm="core"} '
        f"{list(Outcome).index(Outcome.DISARMED) + 1}.0" in text
    )
    assert 'bgf_calls_refused_total{group="g1",limit="sessions_max",node="n1"} 4.0' in text
    assert 'bgf_group_owned{group="g2",node="n1"} 0.0' in text
    assert 'bgf_command_seconds_count{command="offer",node="n1"} 78.0' in text
    assert 'bgf_command_seconds_sum{command="offer",node="n1"} 1.25' in text
    assert 'bgf_node_condition{about="n3",node="n1",state="link dead"} 1.0' in text
    assert 'dal_serving{node="n1"} 1.0' in text


def test_who_does_not_answer_is_down() -> None:
    text = exposition.text_of("n1", {"state": None, "gateway": None, "failover": None}, {})
    for process in ("state", "gateway", "failover"):
        assert f'bgf_process_up{{node="n1",process="{process}"}} 0.0' in text
    assert "bgf_pinholes" not in text


def test_labels_are_bounded_whatever_is_told() -> None:
    answers = all_of()
    answers["gateway"]["groups"] = {f"g{n}": {"role": "active"} for n in range(5_000)}
    answers["failover"]["conditions"] = {f"n{n}": {"state": "silent"} for n in range(5_000)}
    answers["gateway"]["packets"]["by_realm"]["core"] = {f"o{n}": n for n in range(5_000)}
    text = exposition.text_of("n1", answers, SPENT)
    assert text.count("bgf_group_active{") == exposition.VALUES_MAX
    assert text.count("bgf_node_condition{") == exposition.VALUES_MAX


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from leaves(inner, (*path, key))


PLACES = [path for path in leaves(all_of()) if len(path) > 1 and path[-1] != "metrics"]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PLACES), ODD)
def test_an_odd_field_is_left_out_and_nothing_else(place: tuple[str, ...], odd: Any) -> None:
    answers: Any = all_of()
    inner = answers
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    text = exposition.text_of("n1", answers, SPENT)
    list(text_string_to_metric_families(text))
    assert 'bgf_process_up{node="n1",process="gateway"} 1.0' in text
