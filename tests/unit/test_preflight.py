"""Preflight: each failing check is one line that names the thing, the value and the way out."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf import config, config_control, preflight
from bgf.config_safety import NO_WATCHDOG, FencingSection, SafetySection
from bgf.errors import EnvironmentProblem
from bgf.model import Address, Group
from bgf.preflight import BoundSocket, Problem

ALL_CAPABILITIES = (1 << 41) - 1


def line(problem: Problem | None) -> str:
    assert problem is not None
    assert len(problem.line.splitlines()) == 1
    return problem.line


def test_not_root() -> None:
    assert preflight.check_root(0) is None
    assert line(preflight.check_root(1000)) == (
        "not root (uid 1000): namespaces, XDP and addresses need it; run with sudo"
    )


def test_root_of_a_container() -> None:
    assert preflight.check_capabilities(ALL_CAPABILITIES) is None
    assert line(preflight.check_capabilities(0x00000000A80425FB)) == (
        "root here lacks CAP_NET_ADMIN, CAP_SYS_ADMIN: run on the machine itself or in a "
        "privileged container"
    )


@pytest.mark.parametrize("release", ["5.15.0", "5.15", "6.1.0-18-amd64", "10.0-rc1"])
def test_a_kernel_new_enough(release: str) -> None:
    assert preflight.check_kernel(release) is None


@pytest.mark.parametrize(
    ("release", "floor", "says"),
    [
        ("5.10.0-28-amd64", (5, 15), "Linux 5.10.0-28-amd64 is too old: the gateway needs 5.15"),
        ("4.19", (5, 15), "Linux 4.19 is too old"),
        ("5.15.0", (5, 18), "Linux 5.15.0 is too old: the gateway needs 5.18 or later (Debian 12"),
        ("mystery", (5, 15), "kernel release 'mystery' cannot be read: the gateway needs Linux 5."),
    ],
)
def test_a_kernel_too_old(release: str, floor: tuple[int, int], says: str) -> None:
    assert line(preflight.check_kernel(release, floor)).startswith(says)


@given(st.text(max_size=100))
def test_any_kernel_release_is_judged(release: str) -> None:
    preflight.check_kernel(release)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSYS, "bpf(2) answers ENOSYS: this kernel has no bpf(2): boot one with CONFIG_"),
        (errno.EPERM, "bpf(2) answers EPERM: not permitted: run as root outside a restricted"),
        (errno.EINVAL, "bpf(2) answers EINVAL: XDP programs are refused"),
        (errno.ENOMEM, "bpf(2) answers ENOMEM: this machine cannot run the packet program"),
        (4095, "bpf(2) answers 4095: this machine"),
    ],
)
def test_no_bpf(number: int, says: str) -> None:
    assert line(preflight.check_bpf(number)).startswith(says)
    assert preflight.check_bpf(0) is None


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "perf_event_open(2) answers EACCES: kernel.perf_event_paranoid is 3: set"),
        (errno.EPERM, "perf_event_open(2) answers EPERM: not permitted: run as root outside"),
        (errno.ENOSYS, "perf_event_open(2) answers ENOSYS: this kernel has no perf events: boot"),
        (errno.EMFILE, "perf_event_open(2) answers EMFILE: captures and STUN checks could not"),
        (4095, "perf_event_open(2) answers 4095: captures"),
    ],
)
def test_no_perf_events(number: int, says: str) -> None:
    assert line(preflight.check_perf_events(number, "3")).startswith(says)
    assert preflight.check_perf_events(0, "3") is None


MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
bpf /sys/fs/bpf bpf rw 0 0
tmpfs /sys/fs/bpf/inner tmpfs rw 0 0
bpf /run/with\\040space bpf rw 0 0
short line
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/sys/fs/bpf/bgf/n1", "bpf"),
        ("/sys/fs/bpf", "bpf"),
        ("/sys/fs/bpf/inner/x", "tmpfs"),
        ("/sys/fs/bpfx", "ext4"),
        ("/run/with space/x", "bpf"),
        ("/", "ext4"),
    ],
)
def test_the_file_system_a_directory_is_on(directory: str, kind: str) -> None:
    assert preflight.mounted_kind(MOUNTS, Path(directory)) == kind


def test_bpffs_mounted_mountable_or_neither() -> None:
    elsewhere = Path("/run/bgf/bpf")
    assert preflight.check_bpffs(MOUNTS, "", Path("/sys/fs/bpf/x")) is None
    assert preflight.check_bpffs(MOUNTS, "nodev\tbpf\n\text4\n", elsewhere) is None
    assert line(preflight.check_bpffs(MOUNTS, "nodev\tbpfx\n", elsewhere)) == (
        "/run/bgf/bpf is not on a bpf file system and this kernel cannot mount one: boot a kernel "
        "with CONFIG_BPF_SYSCALL=y"
    )


def test_missing_packages_are_one_line_with_the_command() -> None:
    packages = {"kamailio": ("kamailio",), "sip-tester": ("sipp",), "iproute2": ("ip", "tc")}
    assert preflight.check_packages(packages, lambda name: True) is None
    assert line(preflight.check_packages(packages, {"kamailio", "tc"}.__contains__)) == (
        "missing Debian packages: sip-tester (for sipp), iproute2 (for ip): "
        "apt-get install sip-tester iproute2"
    )
    assert line(preflight.check_packages(packages, lambda name: name != "sipp")) == (
        "missing Debian package: sip-tester (for sipp): apt-get install sip-tester"
    )


def test_a_binary_is_looked_for_where_debian_puts_daemons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not preflight.has_binary("no-such-program-of-ours")
    own = tmp_path / "no-such-program-of-ours"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert preflight.has_binary("no-such-program-of-ours")
    assert preflight.has_binary("sh")


def test_a_port_taken_or_impossible() -> None:
    address = Address("10.30.0.101", 2223)
    assert preflight.check_port("control", address, 0) is None
    assert line(
        preflight.check_port("group 'g1': control", address, errno.EADDRINUSE, "ng (pid 7)")
    ) == (
        "group 'g1': control 10.30.0.101:2223/udp is taken by ng (pid 7): "
        "stop it or choose another port"
    )
    assert "is taken: stop it" in line(preflight.check_port("x", address, errno.EADDRINUSE))
    assert line(preflight.check_port("x", address, errno.EACCES)) == (
        "x 10.30.0.101:2223/udp cannot be bound: Permission denied: correct the address"
    )


UDP4 = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  1: 0200007F:15B3 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 31890 2 0 0
  2: nonsense
  3: ZZ:15B3 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 31891 2 0 0
"""
UDP6 = """\
  sl  local_address                         remote_address                        st
  1: 00000000000000000000000001000000:15B4 0:0 07 0:0 00:0 0 0 0 31892 2 0 0
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the text is in this machine's byte order")
def test_the_kernels_socket_table_is_read() -> None:
    assert preflight.parse_sockets(UDP4) == [BoundSocket("127.0.0.2", 5555, 31890)]
    assert preflight.parse_sockets(UDP6) == [BoundSocket("::1", 5556, 31892)]
    assert preflight.parse_sockets("") == []


TCP4 = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  1: 0200007F:15B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 31893 2 0 0
  2: 0200007F:15B3 0300007F:9999 01 00000000:00000000 00:00000000 00000000  0  0 31894 2 0 0
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the text is in this machine's byte order")
def test_of_tcp_only_listeners_count() -> None:
    listening = [BoundSocket("127.0.0.2", 5555, 31893)]
    assert preflight.parse_sockets(TCP4, preflight.TCP_LISTEN) == listening


@given(st.text(max_size=300))
def test_any_socket_table_is_survived(text: str) -> None:
    preflight.parse_sockets("header\n" + text)


def test_who_keeps_an_address_from_being_bound() -> None:
    own, every4, every6 = (
        BoundSocket(host, 5, i) for i, host in enumerate(("::1", "0.0.0.0", "::"))
    )
    assert preflight.find_socket(Address("::1", 5), [every4, own]) is own
    assert preflight.find_socket(Address("::1", 5), [every4]) is None
    assert preflight.find_socket(Address("::2", 5), [own, every6]) is every6
    assert preflight.find_socket(Address("127.0.0.1", 5), [own, every4]) is every4
    assert preflight.find_socket(Address("127.0.0.1", 5), [every6]) is every6  # dual stack
    assert preflight.find_socket(Address("127.0.0.1", 6), [every4, every6]) is None


@pytest.fixture(params=["127.0.0.9", "::1"])
def busy(request: pytest.FixtureRequest) -> Iterator[Address]:
    host: str = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as holder:
        holder.bind((host, 0))
        yield Address(host, holder.getsockname()[1])


def test_a_real_socket_is_found_with_its_process(busy: Address) -> None:
    assert preflight.read_bind(busy) == errno.EADDRINUSE
    assert preflight.read_owner(busy).endswith(f" (pid {os.getpid()})")


@pytest.mark.parametrize(("key", "port_of"), [("tcp", (1, 0)), ("http", (0, 1))])
def test_every_port_of_control_is_looked_at(key: str, port_of: tuple[int, int]) -> None:
    """A gateway that would answer over UDP alone says so before it starts."""
    node = config.parse(LOOPBACK)
    with socket.create_server(("127.0.0.9", 0)) as holder:
        port = holder.getsockname()[1]
        ports = (port * port_of[0], port * port_of[1])
        listen = config_control.Listen(False, *ports)
        node = replace(
            node,
            groups=(replace_control(node, Address("127.0.0.9", 9)),),
            control=replace(node.control, listen=listen),
        )
        (problem,) = preflight.node(node, binds_control=True)
        assert problem.line == (
            f"group 'g': control.listen.{key} 127.0.0.9:{port}/tcp is taken by"
            f" {preflight.read_owner(Address('127.0.0.9', port), 'tcp')}:"
            " stop it or choose another port"
        )
        assert f"(pid {os.getpid()})" in problem.line
        assert preflight.node(node) == [], "who binds nothing is not told"
    assert preflight.node(node, binds_control=True) == []


def test_an_old_connection_keeps_no_listener_out() -> None:
    with socket.create_server(("127.0.0.9", 0)) as holder:
        address = Address("127.0.0.9", holder.getsockname()[1])
        with socket.create_connection((address.host, address.port)) as ours:
            theirs, _ = holder.accept()
            theirs.close()  # it is the one that waits a while
            ours.recv(1)
    assert preflight.read_bind(address, "tcp") == 0


def test_an_address_that_is_not_here_yet_can_be_bound() -> None:
    assert preflight.read_bind(Address("192.0.2.77", 2223)) == 0
    assert preflight.read_owner(Address("192.0.2.77", 2223)) == ""


def test_an_interface_that_is_not_here() -> None:
    assert preflight.check_interface("access", "eth0", ["lo", "eth0"]) is None
    assert preflight.check_interface("access", "lo", ["lo"]) is None
    assert line(preflight.check_interface("access", "eth9", ["lo", "eth1", "eth0"])) == (
        "realm 'access': no interface 'eth9' here: present eth0, eth1; "
        "correct realms.access.interface"
    )
    assert "present none" in line(preflight.check_interface("access", "eth9", ["lo"]))


def test_a_moving_address_may_only_be_where_it_belongs() -> None:
    present = {"10.0.0.1": "eth0"}
    assert preflight.check_address("g1", "10.0.0.2", "eth0", present) is None
    assert preflight.check_address("g1", "10.0.0.1", "eth0", present) is None
    assert line(preflight.check_address("g1", "10.0.0.1", "eth1", present)) == (
        "group 'g1': address 10.0.0.1 is taken: it stands on interface 'eth0', not on 'eth1'; "
        "remove it there (ip address del) or correct the configuration"
    )


LOOPBACK = """
[node]
id = "solo"
discriminator = 1
run_dir = "/run/bgf-preflight"
[state]
address = "dal:///run/bgf-preflight/state"
[media]
pin_dir = "/sys/fs/bpf/bgf-preflight"
[realms.lan]
interface = "lo"
[[groups]]
id = "g"
control = "127.0.0.9/32"
control_port = 2223
control_realm = "lan"
ports = [1024, 1025]
addresses = { lan = ["127.0.0.10/32"] }
[control]
default_realms = ["lan", "lan"]
"""


def test_this_machine_passes_what_the_tests_need() -> None:
    # The tests run as root on a machine that can run the product: the readers must agree.
    assert preflight.machine() == []
    assert preflight.read_addresses()["127.0.0.1"] == "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.9", 0))
        port = free.getsockname()[1]
    node = config.parse(LOOPBACK)
    node = replace(node, groups=(replace_control(node, Address("127.0.0.9", port)),))
    assert preflight.node(node, binds_control=True) == []


def test_a_node_collects_every_problem_of_its_configuration() -> None:
    node = config.parse(LOOPBACK)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.9", 0))
        taken = Address("127.0.0.9", holder.getsockname()[1])
        groups = (replace_control(node, taken),)
        realms = {"lan": config.Realm("lan", "eth-nowhere")}
        node = replace(node, groups=groups, realms=realms)
        found = preflight.node(node, binds_control=True)
        assert [p.check for p in found] == ["interface", "port"]
        assert [p.check for p in preflight.node(node)] == ["interface"]
        with pytest.raises(EnvironmentProblem) as refused:
            preflight.require(found)
    assert isinstance(refused.value, preflight.PreflightFailed)
    assert refused.value.problems == tuple(found)
    assert str(refused.value) == "; ".join(p.line for p in found)
    preflight.require([])


def replace_control(node: config.NodeConfig, control: Address) -> Group:
    return msgspec.structs.replace(node.groups[0], control=control)


def test_a_node_needs_a_few_capabilities_and_no_root() -> None:
    few = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39
    assert preflight.check_node_capabilities(few) is None
    assert preflight.check_node_capabilities(1 << 12 | 1 << 13 | 1 << 21) is None  # Linux of old
    assert preflight.check_node_capabilities(few & ~(1 << 38), loads=False) is None
    assert line(preflight.check_node_capabilities(few & ~(1 << 39 | 1 << 13))) == (
        "CAP_NET_RAW, CAP_BPF lacking: start it as root or by its systemd unit, not in a "
        "restricted container"
    )


def test_hard_fencing_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.check_fencing("none", False) is preflight.check_fencing("nova", True) is None
    node = config.parse(LOOPBACK)
    fencing = FencingSection(driver="nova", cluster="voice")
    safety = SafetySection(fencing, NO_WATCHDOG)
    fenced = replace(node, failover=replace(node.failover, safety=safety))
    monkeypatch.setattr(preflight, "has_module", lambda name: name != "openstack")
    (problem,) = preflight.node(fenced)
    assert line(problem) == (
        "failover.fencing.driver is 'nova' and Python's module 'openstack' is missing: nobody "
        "could be fenced: apt-get install python3-openstacksdk, or set driver = 'none'"
    )
    assert preflight.node(fenced, binds_control=True) == preflight.node(node) == []
    monkeypatch.setattr(preflight, "has_module", lambda _: True)
    assert preflight.node(fenced) == []
    monkeypatch.undo()
    assert preflight.has_module("json") and not preflight.has_module("no_such_module_anywhere")


def test_without_root_only_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "read_uid", lambda: 1000)
    monkeypatch.setattr(preflight, "read_bpf", lambda: errno.EPERM)
    assert [p.check for p in preflight.machine()] == ["root"]


def test_the_lab_collects_every_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "read_release", lambda: "5.15.1")
    monkeypatch.setattr(preflight, "read_bpf", lambda: errno.EPERM)
    found = preflight.lab(Path("/run/x"), {"sip-tester": ("no-such-program-of-ours",)})
    assert [p.check for p in found] == ["kernel", "bpf", "packages"]
    assert "the load generator needs 5.18" in found[0].line
