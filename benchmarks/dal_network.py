"""Remote access and synchronous writes between two namespaces; a bare echo and peers beside them.

All spin, one on each processor; what is not being measured is paused. Ours and the echo take turns,
round by round, and the best round of each counts. The echo has the sizes that ours has on the wire,
in both directions; a second one has 64 bytes.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.dal_namespaces import HOSTS, Spinner, TwoHosts, datagram_bytes
from benchmarks.dal_native import CLIENT_CPU, SERVER_CPU, Natives, pinned
from benchmarks.report import Report
from bgf.lab.etcd import EtcdMember, endpoints
from statestore.errors import StateStoreError, Unavailable
from statestore.etcd import EtcdRegistry
from statestore.registry import Check
from statestore.server import write_key_file

ROOT: Final = str(Path(__file__).resolve().parents[1])
ECHO_PORT: Final = 7490
REDIS_PORT: Final = 7491
ETCD_PORT: Final = 7500
PLAIN_BYTES: Final = 64
REMOTE_GOAL, SYNC_GOAL = "<= 1.5", "<= 2"
LOCAL_FACTOR, REMOTE_FACTOR = ">= 100", ">= 2"
READY_S: Final = 20.0
STEP_S: Final = 0.02
VALUE: Final = b"v" * 64
US: Final = 1_000.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement here needs."""

    natives: Natives
    directory: Path
    hosts: TwoHosts
    report: Report
    calls: int
    rounds: int


def measure(natives: Natives, directory: Path, report: Report, quick: bool) -> None:
    """All rows. Raises Unavailable."""
    calls, rounds = (5_000, 3) if quick else (50_000, 9)
    with TwoHosts() as hosts:
        bench = Bench(natives, directory, hosts, report, calls, rounds)
        remote(bench)
        synchronous(bench)
        redis(bench)
    etcd(directory / "etcd", report, 200 if quick else 2_000)


# -- ours, and the echo --------------------------------------------------------------------------


def member(hosts: TwoHosts, base: Path, host: int, members: int, busy: bool) -> Spinner:
    """A state server on one of the two hosts."""
    command = [sys.executable, "-m", "benchmarks.dal_member"]
    command += [f"--base={base}", f"--node=h{host}", f"--host={HOSTS[host]}"]
    command += [f"--members={members}", *(["--busy"] if busy else [])]
    if busy:
        command = pinned(SERVER_CPU, command)
    return Spinner([*hosts.inside(host), *command], cwd=ROOT)


def echo_server(natives: Natives, hosts: TwoHosts) -> Spinner:
    command = [natives.path("udp_echo"), "server", HOSTS[1], str(ECHO_PORT)]
    return Spinner([*hosts.inside(1), *pinned(SERVER_CPU, command)])


def echo(natives: Natives, hosts: TwoHosts, out: int, back: int, calls: int) -> float:
    """Median of one round, microseconds."""
    found = natives.run(
        "udp_echo",
        *("client", HOSTS[1], ECHO_PORT, out, back, calls),
        inside=hosts.inside(0),
        cpu=CLIENT_CPU,
    )
    return found["echo_p50"] / US


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind of operation and its echoes, microseconds, and its datagrams, bytes."""

    ours: float
    p99: float
    same: float
    plain: float
    sizes: tuple[int, int]

    def add_to(self, report: Report, name: str, goal: str, what: str) -> None:
        out, back = self.sizes
        report.add(
            f"{name}_us",
            self.ours,
            "us",
            reference=self.same,
            goal=goal,
            goal_on_ratio=True,
            note=f"{what}; reference: bare UDP, {out} B out, {back} B back",
        )
        report.add(
            f"{name}_vs_64B_echo_us",
            self.ours,
            "us",
            reference=self.plain,
            note="the same beside a bare echo of 64 B",
        )
        report.add(f"{name}_p99_us", self.p99, "us")


def compare(
    bench: Bench, pair: tuple[Spinner, Spinner], kind: str, address: str, key_file: Path
) -> Compared:
    """Rounds of ours and of the echo in turn, between the same two processors."""
    natives, hosts, calls = bench.natives, bench.hosts, bench.calls
    server, bare = pair
    ours, same, plain, p99 = [], [], [], []
    sizes = (0, 0)
    for _ in range(bench.rounds):
        bare.pause()
        server.resume()
        before = hosts.traffic()
        found = natives.run(
            "dal_client",
            *("remote", address, key_file, calls, kind),
            inside=hosts.inside(0),
            cpu=CLIENT_CPU,
        )
        sizes = datagram_bytes(before, hosts.traffic())
        ours.append(found[f"{kind}_p50"] / US)
        p99.append(found[f"{kind}_p99"] / US)
        server.pause()
        bare.resume()
        same.append(echo(natives, hosts, *sizes, calls))
        plain.append(echo(natives, hosts, PLAIN_BYTES, PLAIN_BYTES, calls))
    return Compared(min(ours), min(p99), min(same), min(plain), sizes)


def remote(bench: Bench) -> None:
    """A client without a segment on host 0, the master on host 1."""
    base = bench.directory / "remote"
    base.mkdir(mode=0o700)
    key_file = base / "cluster.key"
    write_key_file(key_file)
    with contextlib.ExitStack() as stack:
        server = member(bench.hosts, base, 1, 1, True)
        stack.callback(server.end)
        bare = echo_server(bench.natives, bench.hosts)
        stack.callback(bare.end)
        address = f"dal://{server.said.split()[1]}"
        for kind in ("read", "write"):
            compared = compare(bench, (server, bare), kind, address, key_file)
            what = "median, 64 B, two namespaces, both ends spin, sealed"
            compared.add_to(bench.report, f"remote_{kind}", REMOTE_GOAL, what)


def synchronous(bench: Bench) -> None:
    """A client beside the master on host 0, the replica on host 1."""
    base = bench.directory / "sync"
    base.mkdir(mode=0o700)
    key_file = base / "cluster.key"
    write_key_file(key_file)
    with contextlib.ExitStack() as stack:
        near = member(bench.hosts, base, 0, 1, False)
        stack.callback(near.end)
        far = member(bench.hosts, base, 1, 2, True)
        stack.callback(far.end)
        bare = echo_server(bench.natives, bench.hosts)
        stack.callback(bare.end)
        compared = compare(bench, (far, bare), "sync", f"dal://{base / 'h0'}", key_file)
        what = "median, 64 B, one replica in another namespace"
        compared.add_to(bench.report, "sync_write_one_replica", SYNC_GOAL, what)


# -- peers ---------------------------------------------------------------------------------------


def _figure(report: Report, name: str) -> float:
    """A figure of this run; 0 when its part was left out."""
    return next((row.value for row in report.rows if row.name == name), 0.0)


@contextlib.contextmanager
def _process(command: list[str], directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def redis_server(inside: list[str], directory: Path, bind: str) -> list[str]:
    settings = f"--port {REDIS_PORT} --bind {bind} --protected-mode no --appendonly no"
    command = ["redis-server", *settings.split(), "--save", "", "--unixsocket", "redis.sock"]
    return [*inside, *command, "--dir", str(directory)]


def _until_answers(natives: Natives, way: list[str], inside: list[str]) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            natives.run("redis_client", *way, 1, inside=inside)
            return
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(STEP_S)


def _best_redis(
    natives: Natives, way: list[str], inside: list[str], calls: int, rounds: int
) -> tuple[float, float]:
    """Read and write, the best median, microseconds."""
    _until_answers(natives, way, inside)
    found = [
        natives.run("redis_client", *way, calls, inside=inside, cpu=CLIENT_CPU)
        for _ in range(rounds)
    ]
    read, write = (
        min(each[f"redis_{what}_p50"] for each in found) / US for what in ("read", "write")
    )
    return read, write


def redis(bench: Bench) -> None:
    """Redis 7 with its C client, on this host and between the two namespaces."""
    natives, hosts, report, calls = bench.natives, bench.hosts, bench.report, bench.calls
    if shutil.which("redis-server") is None:
        raise Unavailable("redis-server is missing; scripts/setup.sh installs it")
    here, there = bench.directory / "redis", bench.directory / "redis-far"
    turns = min(bench.rounds, 3)
    with _process(pinned(SERVER_CPU, redis_server([], here, "127.0.0.1")), here):
        ways = {
            "unix socket": ["unix", str(here / "redis.sock")],
            "loopback": ["tcp", f"127.0.0.1:{REDIS_PORT}"],
        }
        local = {name: _best_redis(natives, way, [], calls, turns) for name, way in ways.items()}
    command = pinned(SERVER_CPU, redis_server(hosts.inside(1), there, HOSTS[1]))
    with _process(command, there):
        way = ["tcp", f"{HOSTS[1]}:{REDIS_PORT}"]
        far = _best_redis(natives, way, hosts.inside(0), calls, turns)
    for at, what in enumerate(("read", "write")):
        name, best = min(local.items(), key=lambda item: item[1][at])
        value = best[at]
        report.add(f"redis_local_{what}_us", value, "us", note=f"hiredis, {name} (the faster)")
        ours_ns = _figure(report, f"local_{what}_64B_c_ns")
        if ours_ns:
            report.add(
                f"redis_over_ours_local_{what}",
                value * US / ours_ns,
                "x",
                goal=LOCAL_FACTOR,
                note="Redis in this run, over ours through C",
            )
        report.add(f"redis_remote_{what}_us", far[at], "us", note="hiredis, between the namespaces")
        ours = _figure(report, f"remote_{what}_us")
        report.add(
            f"redis_over_ours_remote_{what}",
            far[at] / ours,
            "x",
            goal=REMOTE_FACTOR,
            note="Redis in this run, over ours",
        )


def etcd(directory: Path, report: Report, calls: int) -> None:
    """Three members on this host, through their gateway, from Python: what a registry costs."""
    directory.mkdir(mode=0o700)
    members = [
        EtcdMember(
            f"e{i}", "127.0.0.1", directory / f"e{i}", ETCD_PORT + 2 * i, ETCD_PORT + 2 * i + 1
        )
        for i in range(3)
    ]
    with contextlib.ExitStack() as stack:
        for each in members:
            stack.enter_context(_process(each.argv(members), directory / f"{each.name}.run"))
        registry = EtcdRegistry(endpoints(members))
        stack.callback(registry.close)
        deadline = time.monotonic() + READY_S
        while True:
            try:
                registry.commit([], {"/bench/one": VALUE}, [])
                break
            except StateStoreError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(STEP_S)
        read, write = [], []
        for _ in range(calls):
            start = time.perf_counter_ns()
            entry = registry.get("/bench/one")
            read.append(time.perf_counter_ns() - start)
            assert entry is not None
            start = time.perf_counter_ns()
            registry.commit([Check("/bench/one", entry.revision)], {"/bench/one": VALUE}, [])
            write.append(time.perf_counter_ns() - start)
    note = "three members on this host, its JSON gateway, from Python"
    report.add("etcd_read_us", sorted(read)[calls // 2] / US, "us", note=f"linearizable; {note}")
    report.add("etcd_write_us", sorted(write)[calls // 2] / US, "us", note=note)
