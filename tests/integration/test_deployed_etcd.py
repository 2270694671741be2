"""etcd as docs/deploy-bare.md sets it up, started; and the runbook's commands for it, typed.

Every member has a loopback address of its own in place of the page's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from statestore.etcd import EtcdRegistry
from statestore.registry import RegistryUnavailable
from tests.fakes.etcd_cluster import eventually
from tests.unit.test_etcd_settings import PAGE, ROOT, settings

pytestmark = [
    pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcd-client is missing"),
    pytest.mark.timeout(180),
]
PAGES_NETWORK = "10.30.0.20"
QUOTA_BYTES = 8 << 20
VALUE = b"x" * 64_000


def environment(number: int, directory: Path) -> dict[str, str]:
    """The page's file for the member `number`, on this machine."""
    network = f"127.{os.getpid() % 200 + 20}.0.20"
    itself = f"http://127.0.1.{os.getpid() % 80 * 3 + number}:"
    found = {}
    for name, value in settings(PAGE).items():
        own = value.replace("etcd1", f"etcd{number}").replace("0.201", f"0.20{number}")
        here = value if name == "INITIAL_CLUSTER" else own
        here = here.replace("http://127.0.0.1:", itself)
        found[f"ETCD_{name}"] = here.replace(PAGES_NETWORK, network)
    data = Path(found["ETCD_DATA_DIR"]).name
    return found | {"ETCD_DATA_DIR": str(directory / f"etcd{number}" / data)}


class Machines:
    """Three, each with etcd under systemd's eye; all ended by leaving the `with`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, file: Mapping[str, str]) -> None:
        with self.log(number).open("ab") as log:
            self._running[number] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", "etcd"],
                env={"PATH": os.environ["PATH"], **file},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self, number: int) -> None:
        process = self._running.pop(number)
        process.terminate()
        process.wait(30)

    def log(self, number: int) -> Path:
        return self.directory / f"etcd{number}.log"

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    made.end()


def etcdctl(endpoint: str, *words: str) -> str:
    done = subprocess.run(
        ["etcdctl", *words], env={"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": endpoint},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return str(reply.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def wait_healthy(url: str) -> None:
    eventually(lambda: '"true"' in get(f"{url}/health"), f"{url} is healthy")


def test_the_pages_etcd_is_one_cluster_though_each_member_was_one_before(
    machines: Machines,
) -> None:
    files = {number: environment(number, machines.directory) for number in (1, 2, 3)}
    for number, found in files.items():  # as Debian starts it at its installation
        alone = {
            "ETCD_DATA_DIR": str(machines.directory / f"etcd{number}" / "default"),
            "ETCD_LISTEN_CLIENT_URLS": found["ETCD_ADVERTISE_CLIENT_URLS"],
            "ETCD_ADVERTISE_CLIENT_URLS": found["ETCD_ADVERTISE_CLIENT_URLS"],
            "ETCD_LISTEN_PEER_URLS": found["ETCD_LISTEN_PEER_URLS"],
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": found["ETCD_LISTEN_PEER_URLS"],
            "ETCD_INITIAL_CLUSTER": f"default={found['ETCD_LISTEN_PEER_URLS']}",
        }
        machines.start(number, alone)
        url = found["ETCD_ADVERTISE_CLIENT_URLS"]
        wait_healthy(url)
        assert len(etcdctl(url, "member", "list").splitlines()) == 1
        machines.stop(number)
    for number, found in files.items():
        machines.start(number, found)
    here = files[2]["ETCD_LISTEN_CLIENT_URLS"].split(",")[1]  # on the machine itself
    wait_healthy(here)
    assert len(etcdctl(here, "member", "list").splitlines()) == 3
    eventually(
        lambda: etcdctl(here, "endpoint", "health", "--cluster").count("is healthy") == 3,
        "three are healthy",
    )
    log = machines.log(1).read_text()
    assert "unrecognized environment" not in log
    watched = set(re.findall(r"\betcd_\w+", (ROOT / "deploy/prometheus/bgf.rules.yml").read_text()))
    figures = get(f"{files[3]['ETCD_LISTEN_METRICS_URLS']}/metrics")
    assert len(watched) == 2 and watched <= set(re.findall(r"^(etcd_\w+)", figures, re.M))
    assert not get(f"{files[3]['ETCD_LISTEN_METRICS_URLS']}/version")  # figures and health alone


def test_a_member_whose_disk_is_gone_comes_back_as_the_runbook_says(machines: Machines) -> None:
    files = {number: environment(number, machines.directory) for number in (1, 2, 3)}
    for number, found in files.items():
        machines.start(number, found)
    here, lost = files[1]["ETCD_ADVERTISE_CLIENT_URLS"], files[3]
    wait_healthy(here)
    etcdctl(here, "put", "/t/n", "kept")
    machines.stop(3)
    shutil.rmtree(lost["ETCD_DATA_DIR"])
    listed = [line.split(", ") for line in etcdctl(here, "member", "list").splitlines()]
    (identity,) = [words[0] for words in listed if "etcd3" in words]
    text = (ROOT / "docs/runbook.md").read_text().split("### BgfEtcdMemberDown\n")[1]
    remove, add = re.findall(r"`etcdctl (member (?:remove|add) [^`]*)`", text)
    etcdctl(here, *remove.replace("ID", identity).split())
    peer = lost["ETCD_INITIAL_ADVERTISE_PEER_URLS"]
    words = add.replace("NAME", "etcd3").replace("http://ADDRESS:2380", peer).split()
    # refused while the others have run together for less than five seconds
    eventually(lambda: "added to cluster" in etcdctl(here, *words), "it is added")
    machines.start(3, lost | {"ETCD_INITIAL_CLUSTER_STATE": "existing"})
    wait_healthy(lost["ETCD_ADVERTISE_CLIENT_URLS"])
    kept = etcdctl(lost["ETCD_ADVERTISE_CLIENT_URLS"], "get", "/t/n", "--print-value-only")
    assert kept.strip() == "kept"
    assert len(etcdctl(here, "member", "list").splitlines()) == 3


def commands_of(heading: str) -> str:
    """The block of a section of the runbook."""
    section = (ROOT / "docs/runbook.md").read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    return str(block)


def test_an_etcd_that_is_full_is_opened_again_as_the_runbook_says(machines: Machines) -> None:
    found = environment(1, machines.directory)
    url = found["ETCD_ADVERTISE_CLIENT_URLS"]
    found["ETCD_INITIAL_CLUSTER"] = f"etcd1={found['ETCD_INITIAL_ADVERTISE_PEER_URLS']}"
    found["ETCD_QUOTA_BACKEND_BYTES"] = str(QUOTA_BYTES)
    machines.start(1, found)
    wait_healthy(url)
    registry = EtcdRegistry([url])
    with pytest.raises(RegistryUnavailable, match="compact and defragment it, then disarm"):
        for _ in range(2 * QUOTA_BYTES // len(VALUE)):
            registry.put("/t/n", VALUE)
    assert "NOSPACE" in etcdctl(url, "alarm", "list")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands_of("BgfEtcdFull")],
        env={"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": url},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert registry.put("/t/n", b"again") > 0
    (status,) = json.loads(etcdctl(url, "endpoint", "status", "-w", "json"))
    assert int(status["Status"]["dbSize"]) < QUOTA_BYTES // 4
    assert not etcdctl(url, "alarm", "list").strip()
    registry.close()
