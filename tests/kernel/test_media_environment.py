"""What the packet path says when the machine or the configuration does not let it be: one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from bgf.errors import BgfError, DatapathError, EnvironmentProblem
from bgf.media import _xdp, layout, pins
from bgf.media.neighbours import NextHops
from bgf.media.netlink import Wire
from bgf.media.xdp import ArmedMap, XdpDatapath
from bgf.model import Address, Group, RealmAddress
from tests.fakes.packet_lab import CALLEE4, REALMS, UE4, UE6, PacketLab, group, wait_for
from tests.fakes.packet_path import flow

ROOT = Path(__file__).resolve().parents[2]
_HASH = 1  # BPF_MAP_TYPE_HASH


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with PacketLab() as made:
        yield made


def attempt(lab: PacketLab, pin_dir: Path, **changes: object) -> str:
    """The one line that comes of it; fails when it works."""
    options: dict[str, object] = {"realms": REALMS, "groups": [group()], "pinholes_max": 16}
    options.update(changes)
    with lab.inside("gw"), pytest.raises(BgfError) as caught:
        XdpDatapath(pin_dir, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def opened(lab: PacketLab, pin_dir: Path) -> XdpDatapath:
    with lab.inside("gw"):
        return XdpDatapath(pin_dir, REALMS, [group()], pinholes_max=16)


@pytest.mark.parametrize("release", ["5.14.21", "5.4.0-150-generic", "4.19.0", "3.10.0-1160.el7"])
def test_a_kernel_too_old(release: str) -> None:
    with pytest.raises(EnvironmentProblem, match=rf"Linux {release} .* 5\.15 or later"):
        pins.check_kernel(release)


@pytest.mark.parametrize("release", ["5.15.0", "5.15.0-25-generic", "6.1.0-18-amd64", "10.0", "x"])
def test_a_kernel_new_enough(release: str) -> None:
    pins.check_kernel(release)


def test_no_permission(lab: PacketLab) -> None:
    child = (
        "import sys\n"
        "from bgf.errors import EnvironmentProblem\n"
        "from bgf.media.xdp import XdpDatapath\n"
        "try: XdpDatapath(sys.argv[1], {}, [])\n"
        "except EnvironmentProblem as problem: print(problem)\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin,-bpf,-perfmon,-net_admin",
         sys.executable, "-c", child, lab.bpffs / "refused"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "refuses BPF" in done.stdout
    assert "CAP_BPF" in done.stdout
    assert not (lab.bpffs / "refused" / "set").exists()


def test_no_bpf_file_system(lab: PacketLab, tmp_path: Path) -> None:
    text = attempt(lab, tmp_path / "pins")
    assert str(tmp_path / "pins") in text
    assert "mount -t bpf" in text


def test_a_pin_directory_that_cannot_be(lab: PacketLab) -> None:
    assert "/proc/nowhere" in attempt(lab, Path("/proc/nowhere"))


def test_no_such_interface(lab: PacketLab) -> None:
    realms = {"access": "access", "core": "nosuch0"}
    text = attempt(lab, lab.bpffs / "node", realms=realms)
    assert "realm core" in text
    assert "'nosuch0'" in text
    assert not (lab.bpffs / "node").exists()


def test_another_program_on_the_interface(lab: PacketLab) -> None:
    foreign = _xdp.load_bgf(ports=1, pinholes=1, stats=1, nexthops=1)
    try:
        with lab.inside("gw"):
            link = _xdp.link_create_xdp(foreign["bgf_xdp"], socket.if_nametoindex("core"))
        text = attempt(lab, lab.bpffs / "node")
        os.close(link)
    finally:
        pins.close_all(foreign.values())
    assert "interface core" in text
    assert "another XDP program" in text
    assert not (lab.bpffs / "node").exists()
    opened(lab, lab.bpffs / "node").close(unpin=True)


def test_pins_of_another_layout(lab: PacketLab) -> None:
    pin_dir = lab.bpffs / "node"
    opened(lab, pin_dir).close()
    config = _xdp.obj_get(pin_dir / "set" / "config")
    _xdp.map_update(config, layout.U32.pack(0), layout.CONFIG.pack(_xdp.LAYOUT + 1, 0, 0))
    os.close(config)
    text = attempt(lab, pin_dir)
    assert f"layout {_xdp.LAYOUT + 1}" in text
    assert str(pin_dir) in text
    pins.remove(pin_dir)


def test_pins_that_are_not_all_there(lab: PacketLab) -> None:
    pin_dir = lab.bpffs / "node"
    opened(lab, pin_dir).close()
    (pin_dir / "set" / "stats").unlink()
    assert str(pin_dir) in attempt(lab, pin_dir)
    pins.remove(pin_dir)


def test_a_set_left_half_made_is_made_anew(lab: PacketLab) -> None:
    pin_dir = lab.bpffs / "node"
    fds = _xdp.load_bgf(ports=1, pinholes=1, stats=1, nexthops=1)
    (pin_dir / "new").mkdir(parents=True)
    _xdp.obj_pin(fds["config"], pin_dir / "new" / "config")
    pins.close_all(fds.values())
    datapath = opened(lab, pin_dir)
    assert not datapath.reopened
    assert not (pin_dir / "new").exists()
    datapath.close(unpin=True)


def test_another_size_than_is_pinned_is_said(
    lab: PacketLab, caplog: pytest.LogCaptureFixture
) -> None:
    opened(lab, lab.bpffs / "node").close()
    with lab.inside("gw"):
        datapath = XdpDatapath(lab.bpffs / "node", REALMS, [group()], pinholes_max=32)
    assert datapath.pinholes_max == 16
    assert "holds 16 pinholes, not the configured 32" in caplog.text
    datapath.close(unpin=True)


@dataclass(frozen=True)
class Bad:
    """A configuration that cannot be, and a word its error must say."""

    says: str
    groups: tuple[Group, ...] = (group(),)
    attach: str = "auto"
    pinholes_max: int = 16


def with_control(host: str) -> Group:
    return msgspec.structs.replace(group(), control=Address(host, 2223))


@pytest.mark.parametrize(
    "bad",
    [
        Bad("'offload'", attach="offload"),
        Bad("pinholes_max is 0", pinholes_max=0),
        Bad("no media", groups=(group("g1", (RealmAddress("mgmt", "10.30.0.101", 24),)),)),
        Bad("control and media", groups=(with_control("10.10.0.101"),)),
        Bad("group id", groups=(group("g" * 65, ()),)),
        Bad("257 groups", groups=tuple(group(f"g{n}", ()) for n in range(257))),
    ],
    ids=lambda bad: bad.says,
)
def test_configurations_that_cannot_be(lab: PacketLab, bad: Bad) -> None:
    text = attempt(
        lab,
        lab.bpffs / "node",
        groups=bad.groups,
        attach=bad.attach,
        pinholes_max=bad.pinholes_max,
    )
    assert bad.says in text
    assert not (lab.bpffs / "node").exists()


def test_arming_before_there_is_anything(lab: PacketLab) -> None:
    with pytest.raises(EnvironmentProblem, match="start the gateway"):
        ArmedMap(lab.bpffs / "node", ["g1"])
    datapath = opened(lab, lab.bpffs / "node")
    try:
        with pytest.raises(DatapathError, match="g7, g8"):
            ArmedMap(lab.bpffs / "node", ["g8", "g1", "g7"])
        armed = ArmedMap(lab.bpffs / "node", ["g1"])
        with pytest.raises(DatapathError, match="g7"):
            armed.arm("g7", 1)
        armed.close()
        armed.close()
    finally:
        datapath.close(unpin=True)


def test_closed_is_closed(lab: PacketLab) -> None:
    datapath = opened(lab, lab.bpffs / "node")
    datapath.close(unpin=True)
    with pytest.raises(DatapathError, match="closed"):
        datapath.process()


def test_more_far_ends_than_the_table_holds(lab: PacketLab) -> None:
    written: dict[int, bytes] = {}
    with lab.inside("gw"):
        hops = NextHops(
            ["access"], lambda at, values: written.update(zip(at, values, strict=True)), 3
        )
    [ifindex] = hops.links
    first = hops.add([(ifindex, UE4), (ifindex, UE4)])
    assert first[0] == first[1] != 0
    with pytest.raises(DatapathError, match="holds 2"):
        hops.add([(ifindex, UE6), (ifindex, "10.10.0.77")])
    [second] = hops.add([(ifindex, UE6)])
    assert hops.add([(ifindex, UE4)]) == first[:1]
    assert hops.indices(ifindex) == {UE4: first[0], UE6: second}
    hops.drop([*first, 99])
    assert hops.add([(ifindex, "10.10.0.77")]) == first[:1]
    assert hops.indices(ifindex) == {"10.10.0.77": first[0], UE6: second}

    def found() -> bool:
        hops.process()
        return written[second][12:16] == layout.U32.pack(ifindex) and any(written[second][:6])

    wait_for("the neighbour is known", found)
    assert written[second][:6] == lab.macs["ue", "access"]
    assert hops.unresolved == ["10.10.0.77"]
    hops.close()


def test_a_far_end_nobody_answers_for(lab: PacketLab) -> None:
    datapath = opened(lab, lab.bpffs / "node")
    try:
        datapath.install([flow("10.10.0.101:30000", "10.20.0.101:31000", "10.20.0.77:5000")])
        datapath.process()
        datapath.refresh()
        assert datapath.unresolved == ["10.20.0.77"]
        datapath.install([flow("10.10.0.101:30000", "10.20.0.101:31000", f"{CALLEE4}:5000")])

        def known() -> bool:
            datapath.process()
            datapath.refresh()
            return not datapath.unresolved

        wait_for("the other is known", known)
    finally:
        datapath.close(unpin=True)


def test_a_table_larger_than_one_batch_is_listed_whole() -> None:
    hashed = _xdp.map_create(_HASH, layout.KEY.size, 96, 20_000, name="hashed")
    try:
        count = 10_000
        keys = b"".join(
            layout.pack_key(Address("10.0.0.1", port), Wire(1)) for port in range(1, count + 1)
        )
        values = b"".join(n.to_bytes(96, "little") for n in range(count))
        assert _xdp.map_update_batch(hashed, keys, values, count) == count
        found, held = _xdp.map_lookup_batch(hashed)
        size = layout.KEY.size
        listed = {found[n * size : (n + 1) * size] for n in range(len(found) // size)}
        assert len(found) == len(keys)
        assert len(held) == len(values)
        assert listed == {keys[n * size : (n + 1) * size] for n in range(count)}
        absent = layout.pack_key(Address("10.0.0.2", 1), Wire(1))
        some = keys[: 5 * size] + absent + keys[5 * size : 10 * size] + absent
        assert _xdp.map_delete_batch(hashed, some, 12) == 10
        assert len(_xdp.map_lookup_batch(hashed)[0]) == len(keys) - 10 * size
    finally:
        os.close(hashed)


def test_buffers_that_do_not_fit_are_refused() -> None:
    fds = _xdp.load_bgf(ports=1, pinholes=1, stats=1, nexthops=1)
    try:
        with pytest.raises(ValueError, match="key: 3 bytes given, the map needs 4"):
            _xdp.map_lookup(fds["armed"], b"abc")
        with pytest.raises(ValueError, match="value"):
            _xdp.map_update(fds["armed"], bytes(4), bytes(9))
        with pytest.raises(ValueError, match="keys"):
            _xdp.map_update_batch(fds["pinholes"], bytes(4), bytes(2 * _xdp.SIZEOF_PINHOLE), 2)
        with pytest.raises(ValueError, match="no map 'pinhole'"):
            _xdp.load_bgf(pinhole=1)
        with pytest.raises(OSError, match="reading what a BPF map is"):
            _xdp.map_info(-1)
    finally:
        pins.close_all(fds.values())
