"""The lab's networks and processes: up from anything, cut at once, down to nothing."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgf.errors import EnvironmentProblem
from bgf.lab import namespaces, topology
from bgf.lab.lab import Lab
from bgf.lab.plan import Plan, make_plan
from bgf.lab.processes import Process, Processes, is_alive, start_ticks
from bgf.lab.topology import Cutter, Topology, held

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

WAIT_S = 10
_numbers = itertools.count()


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    """A plan of our own; whatever a test has left of it is taken down."""
    made = make_plan(
        actives=1,
        prefix=f"t{os.getpid() % 10_000}{next(_numbers) % 100}-",
        run_dir=tmp_path / "run",
    )
    yield made
    with held(made.run_dir):
        left = Processes(made.run_dir).stop_all()
        Topology(made).down()
    assert left == []
    assert Topology(made).leftovers() == []
    assert not made.run_dir.exists()


@pytest.fixture
def standing(plan: Plan) -> Iterator[Topology]:
    with held(plan.run_dir):
        lab = Topology(plan)
        lab.up(print)
        yield lab


def reaches(plan: Plan, sender: str, host: str, receiver: str, tries: int) -> bool:
    """Does a datagram from one namespace reach a socket in another?"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        namespaces.socket_in(receiver, family, socket.SOCK_DGRAM) as ear,
        namespaces.socket_in(sender, family, socket.SOCK_DGRAM) as mouth,
    ):
        ear.bind((host, 0))
        ear.settimeout(0.1)
        for _ in range(tries):
            mouth.sendto(b"hello", (host, ear.getsockname()[1]))
            try:
                return ear.recv(16) == b"hello"
            except TimeoutError:
                continue
    return False


def test_every_network_carries_packets_as_soon_as_it_is_up(standing: Topology) -> None:
    plan = standing.plan
    node = plan.nodes[0].namespace
    assert standing.complete()
    for sender, host, receiver in (
        (plan.access, "fd00:a::11", node),
        (plan.access, "10.10.0.11", node),
        (plan.core, "10.20.0.11", node),
        (plan.cscf, "10.30.0.11", node),
        (node, "fd00:a::100", plan.access),
    ):
        assert reaches(plan, sender, host, receiver, tries=20), (sender, host)


def test_up_twice_keeps_what_stands(standing: Topology) -> None:
    before = {name: namespaces.inode_of(name) for name in standing.plan.namespaces}
    standing.up(print)
    assert {name: namespaces.inode_of(name) for name in standing.plan.namespaces} == before


def test_a_cut_node_is_unreachable_and_others_are_not(standing: Topology) -> None:
    plan = standing.plan
    victim, other = plan.nodes[0].namespace, plan.nodes[1].namespace
    assert reaches(plan, plan.access, "fd00:a::11", victim, tries=20)
    cutter = Cutter(plan, victim)
    called: list[int] = []
    at_ns = cutter.cut(lambda: called.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
    assert called and called[0] >= at_ns
    assert not reaches(plan, plan.access, "fd00:a::11", victim, tries=2)
    assert not reaches(plan, victim, "10.20.0.2", plan.core, tries=2)
    assert reaches(plan, plan.access, "fd00:a::12", other, tries=20)
    cutter.restore()
    assert reaches(plan, plan.access, "fd00:a::11", victim, tries=50)


@pytest.mark.parametrize("built", range(7))
def test_a_lab_that_died_half_built_is_cleaned(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, built: int
) -> None:
    real, made = namespaces.create, itertools.count()

    def dies(name: str) -> None:
        if next(made) == built:
            raise KeyboardInterrupt
        real(name)

    assert len(plan.namespaces) >= 6
    with held(plan.run_dir):
        if built < len(plan.namespaces):
            monkeypatch.setattr(namespaces, "create", dies)
            with pytest.raises(KeyboardInterrupt):
                Topology(plan).up(print)
            monkeypatch.setattr(namespaces, "create", real)
            assert not Topology(plan).complete()
        Topology(plan).up(print)
        assert Topology(plan).complete()


def test_a_lab_that_died_while_cabling_is_cleaned(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(interface: str, on: bool) -> None:
        raise EnvironmentProblem(f"{interface} {on}")

    with held(plan.run_dir):
        with monkeypatch.context() as patch:
            patch.setattr(namespaces, "set_gro", dies)
            with pytest.raises(EnvironmentProblem):
                Topology(plan).up(print)
        Topology(plan).up(print)
        assert Topology(plan).complete()
        node = plan.nodes[0].namespace
        assert reaches(plan, plan.access, "fd00:a::11", node, tries=20)


def test_somebody_elses_namespace_is_refused_and_left_alone(plan: Plan) -> None:
    name = plan.core
    namespaces.create(name)
    try:
        with held(plan.run_dir):
            with pytest.raises(EnvironmentProblem, match=f"'{name}' exists and was not made by"):
                Topology(plan).up(print)
            Topology(plan).down()
        assert namespaces.exists(name)
    finally:
        namespaces.remove(name)


def test_a_namespace_remade_by_somebody_else_is_not_ours_any_more(plan: Plan) -> None:
    with held(plan.run_dir):
        Topology(plan).up(print)
        old = namespaces.path_of(plan.core).open()  # keeps its inode number from being reused
        namespaces.remove(plan.core)
        namespaces.create(plan.core)
        try:
            with pytest.raises(EnvironmentProblem, match=plan.core):
                Topology(plan).up(print)
            Topology(plan).down()
            assert namespaces.exists(plan.core)
        finally:
            namespaces.remove(plan.core)
            old.close()


def test_a_lab_in_use_is_refused_by_the_pid_of_its_user(plan: Plan) -> None:
    script = (
        "import sys; from pathlib import Path; from bgf.lab.topology import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    root = str(Path(topology.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(plan.run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(EnvironmentProblem, match=rf"pid {other.pid}\b"), held(plan.run_dir):
            pass
        other.stdin.close()
        other.wait(WAIT_S)
    with held(plan.run_dir):
        pass


def test_without_root_one_clear_line(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    lab = Lab(plan.run_dir, prefix=plan.prefix, actives=1)
    for act in (lab.up, lab.down):
        with pytest.raises(EnvironmentProblem, match="needs root") as caught:
            act(print)
        assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert not plan.run_dir.exists()


def test_down_without_a_lab_is_nothing(plan: Plan) -> None:
    lab = Lab(plan.run_dir, prefix=plan.prefix, actives=1)
    lab.down(print)
    lab.down(print)
    assert lab.status()["state"] == "down"
    assert not plan.run_dir.exists()


def until_dead(process: Process) -> bool:
    deadline = time.monotonic() + WAIT_S
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(process)


def test_processes_run_in_their_namespace_and_end_by_pid(standing: Topology) -> None:
    plan = standing.plan
    processes = Processes(plan.run_dir)
    node = plan.nodes[0]
    mine = processes.start("sleeper", node.namespace, ["sleep", "60"], node=node.id)
    other = processes.start("sleeper", plan.core, ["sleep", "60"])
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if Path(f"/proc/{mine.pid}/ns/net").stat().st_ino == namespaces.inode_of(node.namespace):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the process never entered its namespace")
    # Another command finds what this one has started.
    assert {p.pid for p in Processes(plan.run_dir).running()} == {mine.pid, other.pid}
    assert [p.pid for p in Processes(plan.run_dir).running(node.id)] == [mine.pid]
    processes.kill_now(processes.running(node.id))
    assert until_dead(mine) and is_alive(other)
    assert processes.stop_all() == []
    assert not is_alive(other)


def test_power_off_kills_a_nodes_processes_and_cuts_its_cables(standing: Topology) -> None:
    plan = standing.plan
    lab = Lab(plan.run_dir, prefix=plan.prefix, actives=1)
    victim, other = plan.nodes
    doomed = lab.processes.start("sleeper", victim.namespace, ["sleep", "60"], node=victim.id)
    spared = lab.processes.start("sleeper", other.namespace, ["sleep", "60"], node=other.id)
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert lab.power_off(victim.id) >= before_ns
    assert until_dead(doomed) and is_alive(spared)
    assert not reaches(plan, plan.access, "10.10.0.11", victim.namespace, tries=2)


def test_children_that_detached_are_ended_too(standing: Topology) -> None:
    plan = standing.plan
    processes = Processes(plan.run_dir)
    marker = plan.run_dir / "grandchild"
    script = f"setsid sleep 60 & echo $! > {marker}.tmp; mv {marker}.tmp {marker}"
    processes.start("forker", plan.core, ["sh", "-c", script])
    deadline = time.monotonic() + WAIT_S
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(marker.read_text())
    stray = Process(pid, start_ticks(pid), "", "")
    assert is_alive(stray)
    assert processes.stop_all() == []
    assert not is_alive(stray)


def test_a_recycled_pid_is_not_killed(standing: Topology) -> None:
    processes = Processes(standing.plan.run_dir)
    with subprocess.Popen(["sleep", "60"]) as innocent:
        lookalike = Process(innocent.pid, start_ticks(innocent.pid) - 1, "old", "")
        processes.kill_now([lookalike])
        processes.stop([lookalike])
        assert innocent.poll() is None
        innocent.kill()


def test_a_program_that_cannot_start_says_why_in_its_log(standing: Topology) -> None:
    processes = Processes(standing.plan.run_dir)
    ghost = processes.start("ghost", standing.plan.core, ["/nonexistent/program"])
    assert until_dead(ghost)
    assert "/nonexistent/program" in processes.tail(ghost)
    assert processes.exit_status(ghost) not in (None, 0)
