"""The pages' commands typed as they stand, on a lab of their own, in the order of an evening.

One shell plays them all inside mount, network and process namespaces with a /run and an /etc of its
own: so the lab may have its usual name and place, and nothing can be left. What is not typed
here is named in ELSEWHERE, with the test that runs it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bgf import preflight
from bgf.lab.sip import missing_packages
from tests.unit.test_docs import PAGES, lines

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(missing_packages()) or bool(preflight.machine((5, 18))),
        reason="the lab needs root, BPF, Linux 5.18, kamailio and sip-tester",
    ),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).parents[2]
LONG = "bgfctl drill power-off --calls 100 --flows 2000 --json drill.json --plot drill.png"
ELSEWHERE = {LONG: "make demo", "bgfctl drill isolated": "make chaos"}
STAY = ("bgf monitor ",)
"""Commands that stay until they are interrupted: they are looked at, then interrupted."""
ON_THE_NODE = "bgf monitor --config /etc/bgf/node.toml"
DRAINED = "bgfctl ready n3"
"""Typed on a drained node it is to say nothing but that, and so exits with 1."""
FROM_THE_PROXY = ("bgfctl ng ", "curl -s http://10.30.0.101:2225/")
ORDER = (
    *("quick-start.md", "runbook.md", "monitoring.md", "connect.md", "security.md"),
    *("drills.md", "upgrade.md"),
)
LAST = ("bgfctl drill power-off --calls 20 --flows 200", "bgfctl lab down")
"""How long the silence was is no matter here, so the drill may exit with 1 on a busy machine."""
COMMAND_S = 150

BEGIN = """\
set -u
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc && mount --bind /run/etc /etc
mkdir -p /run/netns /run/lock /etc/bgf "$HOME/work"
export BGF_DRILLS=$HOME/drills.jsonl
ip link set lo up
cd "$HOME/work"
prepared() {  # what a reader has by then: the sockets of three nodes, and machines that ssh reaches
  mkdir sockets && ln -s /run/bgf-lab/n[123] sockets/
  cp /run/bgf-lab/etc/n1.toml /etc/bgf/node.toml
}
settled() {  # give a standby the time that a reader takes
  for _ in $(seq 20); do bgfctl ready >/dev/null 2>&1 && return; sleep 0.5; done
}
looked_at() {
  for _ in $(seq 60); do
    at=$(ss -Hltn | awk '/:9401/ {print $4; exit}')
    [ -n "$at" ] && curl -sf "http://$at/metrics" | grep -c ^bgf_ && return
    sleep 0.5
  done
  return 1
}
export -f looked_at
typed() {
  echo "@@ $1"
  yes | timeout "$2" bash -c "$1" 2>&1
  printf '\n@= %s\n' "${PIPESTATUS[1]}"
}
"""


def commands() -> list[str]:
    """Every runnable line of the pages, in an order in which they make sense."""
    pages = {page.name: page for page in PAGES}
    found = [line for name in ORDER for line in lines(pages[name])]
    found += [line for page in PAGES if page.name not in ORDER for line in lines(page)]
    plain = re.findall(r"^curl -s http://.*$", pages["connect.md"].read_text(), re.M)
    rest = [line for line in [*found, *plain] if line not in (*ELSEWHERE, *LAST)]
    return [*rest, *LAST]


def shell(listed: list[str]) -> str:
    """The script that types them."""
    said = [BEGIN]
    for line in listed:
        typed, within = line, COMMAND_S
        if line.startswith(STAY):
            typed = f"{line} & looked_at || exit 9; kill -INT $!; wait $!"
        if line == ON_THE_NODE:
            typed = f"ip netns exec bgf-n1 bash -c {shlex.quote(typed)}"
        if line == "bgfctl switchover g1 --to n3":
            said.append("bgfctl switchover g1 --to n1 >/dev/null 2>&1")
        if line.startswith(FROM_THE_PROXY):
            typed = f"ip netns exec bgf-cscf {line}"
        if line.startswith(("bgfctl switchover ", "bgfctl drain ", "bgfctl upgrade ")):
            said.append("settled")
        said.append(f"typed {shlex.quote(typed)} {within}")
        if line == "bgfctl lab up":
            said += ["prepared", "settled"]
    return "\n".join(said) + "\n"


def test_the_pages_can_be_typed_from_top_to_bottom(tmp_path: Path) -> None:
    here = tmp_path / "bin"
    here.mkdir()
    for name, body in {
        "bgfctl": f'exec {sys.executable} -m bgf.ctl.main "$@"',
        "bgf": f'exec {sys.executable} -m bgf "$@"',
        "ssh": "exit 0",
    }.items():
        (here / name).write_text(f"#!/bin/sh\n{body}\n")
        (here / name).chmod(0o755)
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{here}:{os.environ['PATH']}"
    listed = commands()
    done = subprocess.run(
        ["unshare", "-mnp", "--fork", "--kill-child", "--mount-proc", "bash", "-c", shell(listed)],
        env=environment, capture_output=True, text=True, check=False, timeout=580,
    )  # fmt: skip
    parts = re.findall(r"^@@ (.*?)\n(.*?)^@= (\d+)$", done.stdout, re.M | re.S)
    may = {DRAINED: ("1",), LAST[0]: ("0", "1")}
    wrong = [
        f"{line}: {code}: {said[-600:]}"
        for line, said, code in parts
        if code not in may.get(line, ("0",))
    ]
    assert not wrong, "\n".join(wrong)
    said = {line: text for line, text, _ in parts}
    assert said[DRAINED].strip().splitlines()[-1] == "n3: it is drained"
    for figure in ("flows that stayed silent", "dropped calls"):
        assert re.search(rf"{figure} +│ +0 │", said[LAST[0]]), said[LAST[0]]
    assert len(parts) == len(listed), done.stdout[-2000:] + done.stderr[-2000:]


def test_every_runnable_line_is_typed_or_has_another_test() -> None:
    typed = {*commands(), *ELSEWHERE}
    assert not [line for page in PAGES for line in lines(page) if line not in typed]


def test_what_being_watched_costs_is_measured_as_the_page_says(tmp_path: Path) -> None:
    """With fewer calls; what the figures are is no matter here, so a goal may be missed."""
    line = "python -m benchmarks.monitor"
    assert f"\n{line}\n" in (ROOT / "docs" / "monitoring.md").read_text()
    rows = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, *line.split()[1:], "--quick", "--json", str(rows)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    names = {row["name"] for row in json.loads(rows.read_text())["rows"]}
    assert names >= {"gateway_figures_ms", "state_metrics_ms", "scrape_ms", "command_p99_delay_ms"}
