"""The package against the rest: what it carries, what its units allow, what its example says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bgf import config, preflight
from bgf.runtime.main import main

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "units").glob("bgf-*.service"))
OPTIONAL = {"matplotlib"}
"""Pictures of the lab's drills: Debian's own, when somebody wants them on a gateway."""
CAPABILITY_BITS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}


def unit(path: Path) -> dict[str, list[str]]:
    """Every key of a unit, whatever its section, with its values in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_package_carries_what_the_product_imports() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = {
        normal(re.split(r"[<>=!~ \[;]", line)[0]): line
        for line in setup["options"]["install_requires"].split("\n")
        if line
    }
    text = (PACKAGING / "vendored.txt").read_text().replace("\\\n", " ")
    carried = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==(\S+)\s+(--hash=sha256:[0-9a-f]{64}\s*)+", line)
            assert match, f"vendored.txt: not NAME==VERSION with a hash: {line}"
            carried[normal(match[1])] = match[2]
    assert wanted.keys() - OPTIONAL <= carried.keys()
    for name, line in wanted.items():
        floor = re.search(r">=([\d.]+)", line)
        if name in carried and floor:
            here, least = (
                [int(n) for n in re.findall(r"\d+", v)] for v in (carried[name], floor[1])
            )
            assert here >= least, f"vendored.txt: {name} {carried[name]}: {line}"


def test_the_example_is_a_node_file() -> None:
    node = config.load(PACKAGING / "etc/node.toml")
    assert node.state.cluster is not None and len(node.groups) == 2
    assert node.node.run_dir == Path("/run/bgf")
    assert node.state.directory.is_relative_to("/dev/shm/bgf")
    assert node.media.pin_dir == Path("/sys/fs/bpf/bgf")


def test_what_a_node_may_want_of_debian_is_suggested_and_in_the_image() -> None:
    """Hard fencing and etcd need what the package does not carry."""
    control = (PACKAGING / "debian/control").read_text()
    suggested = {
        name for line in re.findall(r"^Suggests: (.*)$", control, re.M) for name in line.split(", ")
    }
    (listed,) = re.findall(
        r"^packages=\((.*?)^\)", (ROOT / "deploy/image/build.sh").read_text(), re.M | re.S
    )
    inside = {name for line in listed.splitlines() for name in line.split("#")[0].split()}
    assert {"python3-openstacksdk", "etcd-server", "etcd-client"} <= suggested & inside


def test_every_process_has_a_unit() -> None:
    kinds = set(main.commands) & {"state", "gateway", "failover"}
    assert {f"bgf-{kind}.service" for kind in kinds} <= {path.name for path in UNITS}
    for path in UNITS:
        kind = path.stem.removeprefix("bgf-")
        assert unit(path)["ExecStart"] == [f"/usr/bin/bgf {kind} --config /etc/bgf/node.toml"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_watched_bounded_and_shut_in(path: Path) -> None:
    said = unit(path)
    assert said["Type"] == ["notify"] and int(said["WatchdogSec"][0]) > 0
    assert said["Restart"] == ["always"] and said["RestartPreventExitStatus"] == ["2"]
    assert int(said["StartLimitBurst"][0]) and int(said["StartLimitIntervalSec"][0])
    # a hung process must be gone before its group's pinholes would be, had it been killed at once
    assert int(said["TimeoutAbortSec"][0]) <= 2
    assert said["User"] == ["bgf"] and said["NoNewPrivileges"] == ["yes"]
    assert said["ProtectSystem"] == ["strict"] and said["PartOf"] == ["bgf.target"]
    held = said.get("AmbientCapabilities", [""])[0].split()
    assert said["CapabilityBoundingSet"] == [" ".join(held)]
    if path.stem in ("bgf-gateway", "bgf-failover"):
        effective = sum(1 << CAPABILITY_BITS[name] for name in held)
        loads = path.stem == "bgf-gateway"
        assert preflight.check_node_capabilities(effective, loads=loads) is None
        for name in held:
            less = effective & ~(1 << CAPABILITY_BITS[name])
            lacking = preflight.check_node_capabilities(less, loads=loads)
            assert lacking is not None and name in lacking.line
    else:
        assert not held


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's own judge")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_little_exposed(path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_stop_order_is_the_reverse_of_start_order() -> None:
    """Who watches stops first, what holds the state last."""
    after = {path.stem: " ".join(unit(path)["After"]).split() for path in UNITS}
    assert "bgf-state.service" in after["bgf-gateway"]
    assert {"bgf-state.service", "bgf-gateway.service"} <= set(after["bgf-failover"])
    assert not [name for name in after["bgf-state"] if name.startswith("bgf-")]


def test_nothing_in_the_package_names_a_place_of_its_maker() -> None:
    for path in PACKAGING.rglob("*"):
        if path.is_file():
            assert not re.search(r"/(home|work)/", path.read_text()), path
