"""Copies of media: one capture for many takers, files that others read, a recorder that hears."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgf.config import RecordingSection
from bgf.config_recording import dump_recording, parse_recording
from bgf.control.client import encode_request
from bgf.control.ng import decode
from bgf.errors import ConfigError, EnvironmentProblem, Unsupported
from bgf.events import Verb
from bgf.media.frames import build
from bgf.model import Address, Component, Flow, FlowKey
from bgf.runtime import shared_capture
from bgf.runtime.captures import Captures
from bgf.runtime.copying import Copying
from bgf.runtime.forwarding import QUEUE_MAX, Forwarding, udp_payload
from bgf.runtime.recordings import Recordings, file_name
from bgf.runtime.served import Served
from bgf.runtime.shared_capture import SharedCapture
from bgf.toml_table import Table
from tests.fakes.calls import GROUP, command, line
from tests.fakes.datapath import FakeDatapath, Packet
from tests.fakes.gateway_rig import Node
from tests.fakes.journal import Shared

ALICE, BOB = Address("10.10.0.2", 4000), Address("10.20.0.2", 6000)
OFFER, ANSWER, DELETE = Verb.OFFER, Verb.ANSWER, Verb.DELETE
RTP = b"\x80\x08" + bytes(10)


class Rig:
    """An owner, its packet path, what it copies."""

    def __init__(self, settings: RecordingSection, shared: Shared | None = None) -> None:
        self.datapath = FakeDatapath([GROUP])
        self.datapath.arm("g1", 1 << 62)
        self.node = Node(shared or Shared(), self.datapath, policies={})
        self.served = Served(GROUP)
        self.served.driver = self.node.driver
        self.capture = SharedCapture(self.datapath)
        self.copying = Copying(self.capture, {"g1": self.served}, settings)

    def establish(self, call: str = "call-1", **offered: Any) -> None:
        self.node.run(command(OFFER, f"{call}-o", line(*_of(ALICE)), call=call, **offered))
        self.node.run(command(ANSWER, f"{call}-a", line(*_of(BOB)), call=call))

    def order(self, verb: Verb, call: str = "call-1", **what: Any) -> None:
        self.node.run(command(verb, f"{call}-{verb}-{time.monotonic_ns()}", call=call, **what))
        self.copying.follow()

    def flow(self, realm: str, component: Component = Component.RTP, call: str = "call-1") -> Flow:
        (found,) = (
            f
            for f in self.node.gateway.expected_flows(call)
            if (f.realm_in, f.component) == (realm, component)
        )
        return found

    def say(self, mark: bytes, realm: str = "access", component: Component = Component.RTP) -> None:
        sender = ALICE if realm == "access" else BOB
        to = self.flow(realm, component).local_in
        self.datapath.send(Packet(realm, sender, to, RTP + mark))
        self.copying.follow()


def _of(address: Address) -> tuple[str, int]:
    return address.host, address.port


def payloads(directory: Path) -> list[list[bytes]]:
    """What each file has, oldest file first, read by somebody else's reader."""
    from scapy.layers.inet import UDP  # slow to import
    from scapy.utils import rdpcap

    return [
        [bytes(frame[UDP].payload)[12:] for frame in rdpcap(str(path))]
        for path in sorted(directory.glob("*.pcap"))
    ]


# Recording


def test_a_call_is_recorded_as_its_parties_hear_it(tmp_path: Path) -> None:
    rig = Rig(RecordingSection(tmp_path / "made"))
    rig.establish()
    rig.say(b"before")
    rig.order(Verb.START_RECORDING)
    rig.say(b"up")
    rig.say(b"down", "core")
    rig.datapath.send(
        Packet("access", Address("10.10.0.66", 9), rig.flow("access").local_in, RTP + b"spoof")
    )
    rig.order(Verb.BLOCK_MEDIA, from_tag="alice")
    rig.say(b"blocked")
    rig.order(Verb.UNBLOCK_MEDIA)
    rig.order(Verb.PAUSE_RECORDING)
    rig.say(b"paused")
    rig.order(Verb.START_RECORDING)
    rig.say(b"resumed")
    assert str(rig.copying.recording_of("g1", "call-1")).startswith(str(tmp_path / "made" / "g1-"))
    rig.order(DELETE)
    assert rig.copying.recording_of("g1", "call-1") == ""
    rig.copying.close()
    assert payloads(tmp_path / "made") == [[b"up", b"down", b"resumed"]]
    (file,) = (tmp_path / "made").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert rig.copying.status()["recording-files"] == 1


def test_recording_survives_its_owner_in_a_file_of_the_next(tmp_path: Path) -> None:
    settings, shared = RecordingSection(tmp_path), Shared()
    first = Rig(settings, shared)
    first.establish(flags=("record-call=on",))
    first.copying.follow()
    first.say(b"first")
    first.copying.close()
    second = Rig(settings, shared)
    second.node.driver.restore_some(1)
    second.copying.follow()
    second.say(b"second")
    second.order(Verb.STOP_RECORDING)
    second.say(b"after")
    second.copying.close()
    assert payloads(tmp_path) == [[b"first"], [b"second"]]


def test_files_and_bytes_are_bounded_and_disks_fail(tmp_path: Path) -> None:
    rig = Rig(RecordingSection(tmp_path, file_bytes_max=24 + 2 * 80, files_max=1))
    rig.establish()
    rig.order(Verb.START_RECORDING)
    for number in range(4):
        rig.say(b"%d" % number)
    rig.establish("call-2", flags=("record-call=on",))
    rig.copying.follow()
    rig.copying.close()
    assert payloads(tmp_path) == [[b"0", b"1"]]
    status = rig.copying.status()
    assert (status["recording-file-full"], status["recording-too-many-files"]) == (2, 1)

    (tmp_path / "file").write_text("in the way")
    other = Recordings(tmp_path / "file", 2_048, 1 << 20, 10)
    made = other.begin("g1", "c")
    other.write(made, 1, b"x" * 60, 60)
    other.close()
    assert other.tally["disk"] == 1 and other.tally["frames"] == 0


@pytest.mark.parametrize("call_id", ["../../etc/passwd", "a\0b", "x" * 300, "-rf *", "", "ü\n"])
def test_names_of_files_are_safe_whatever_the_call_id(call_id: str) -> None:
    name = file_name("g1", call_id, 1_700_000_000.5)
    assert name.startswith("g1-20231114T221320.500000-") and name.endswith(".pcap")
    assert name.isascii() and "/" not in name and ".." not in name and len(name) < 128
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@_.-")
    assert name != file_name("g1", call_id + "'", 1_700_000_000.5)


# Forwarding


@pytest.fixture
def recorder() -> Iterator[tuple[Address, list[socket.socket]]]:
    """Sockets for RTP and RTCP, on two ports that follow each other."""
    for _ in range(50):
        rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rtcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rtp.bind(("127.0.0.1", 0))
        port = rtp.getsockname()[1]
        try:
            rtcp.bind(("127.0.0.1", port + 1))
            break
        except OSError:
            rtp.close()
            rtcp.close()
    rtp.settimeout(5)
    rtcp.settimeout(5)
    yield Address("127.0.0.1", port), [rtp, rtcp]
    rtp.close()
    rtcp.close()


def test_one_partys_media_is_forwarded_to_the_recorder(
    recorder: tuple[Address, list[socket.socket]],
) -> None:
    address, (rtp, rtcp) = recorder
    rig = Rig(RecordingSection(recorder=address))
    rig.establish()
    rig.order(Verb.START_FORWARDING, from_tag="alice")
    rig.say(b"down", "core")
    rig.say(b"up")
    rig.say(b"report", component=Component.RTCP)
    assert rtp.recv(2_048) == RTP + b"up"
    assert rtcp.recv(2_048) == RTP + b"report"
    rig.order(Verb.STOP_FORWARDING)
    rig.say(b"later")
    assert rig.copying.status()["forwarding-sent"] == 2
    rig.copying.close()


def test_each_leg_of_a_call_between_two_users_is_copied_whole(
    tmp_path: Path, recorder: tuple[Address, list[socket.socket]]
) -> None:
    """The call comes through twice; media passes the pinholes of both legs at once."""
    address, (rtp, _) = recorder
    rig = Rig(RecordingSection(tmp_path, recorder=address))
    carol = Address("10.10.0.3", 6000)
    rig.node.run(command(OFFER, "1", line(*_of(ALICE)), call="c;mo"))
    inner = rig.flow("core", call="c;mo").local_in
    rig.node.run(command(OFFER, "2", line(*_of(inner)), call="c;mt", realms=("core", "access")))
    rig.node.run(command(ANSWER, "3", line(*_of(carol)), call="c;mt"))
    inner = rig.flow("core", call="c;mt").local_in
    rig.node.run(command(ANSWER, "4", line(*_of(inner)), call="c;mo"))
    ways = [(rig.flow("access", call="c;mo").local_in, ALICE, carol, b"there"),
            (rig.flow("access", call="c;mt").local_in, carol, ALICE, b"back")]  # fmt: skip

    def talk() -> None:
        for to, sender, receiver, mark in ways:
            sent = rig.datapath.send(Packet("access", sender, to, RTP + mark))
            assert sent.destination == receiver
        rig.copying.follow()

    rig.order(Verb.START_RECORDING, call="c;mo")
    rig.order(Verb.START_FORWARDING, call="c;mo", from_tag="alice")
    talk()
    assert rtp.recv(2_048) == RTP + b"there"
    rig.order(Verb.START_RECORDING, call="c;mt")
    talk()
    rig.copying.close()
    assert payloads(tmp_path) == [[b"there", b"back", b"there", b"back"], [b"there", b"back"]]


def test_a_recorder_that_is_gone_costs_copies_and_nothing_else() -> None:
    forwarding = Forwarding(Address("127.0.0.1", 9))
    frame = build(ALICE, BOB, b"x" * 100, destination_mac=b"\2" * 6, source_mac=b"\4" * 6, hops=64)
    for _ in range(QUEUE_MAX + 3):
        forwarding.forward(frame, control=False)
    forwarding.forward(frame[:-1], control=False)
    assert forwarding.tally == {"queue-full": 3, "cut": 1}
    forwarding.close()
    assert forwarding.tally["sent"] + forwarding.tally["unreachable"] > 0
    with pytest.raises(EnvironmentProblem, match="no-such"):
        Forwarding(Address("127.0.0.1", 9), "no-such")


@pytest.mark.parametrize("host", ["10.20.0.2", "fd00:a::2"])
@pytest.mark.parametrize("tagged", [False, True])
def test_the_payload_of_a_frame(host: str, tagged: bool) -> None:
    sender = Address("10.10.0.2" if "." in host else "fd00:a::1", 5)
    frame = build(
        sender, Address(host, 6), b"hello", destination_mac=b"\2" * 6, source_mac=b"\4" * 6, hops=9
    )
    if tagged:
        frame = frame[:12] + b"\x81\0\0\x64" + frame[12:]
    assert udp_payload(frame) == b"hello"
    for length in range(len(frame)):
        assert udp_payload(frame[:length]) is None
    assert udp_payload(b"\xff" * 60) is None


# At the door


def ask(command: str, **more: Any) -> Any:
    return decode(encode_request("k", {"command": command, "call-id": "call-1", **more}))[1]


SDP = "v=0\r\nc=IN IP4 10.10.0.2\r\nm=audio 4000 RTP/AVP 8\r\n"


def test_who_is_not_set_up_says_so() -> None:
    rig = Rig(RecordingSection())
    gateway = rig.node.gateway
    with pytest.raises(Unsupported, match="directory"):
        rig.copying.admit(gateway, ask("start recording"))
    with pytest.raises(Unsupported, match="recorder"):
        rig.copying.admit(gateway, ask("start forwarding"))
    wish = {"from-tag": "f", "sdp": SDP, "record-call": "on"}
    admitted = rig.copying.admit(gateway, ask("offer", **wish))
    assert "record-call=on" not in admitted.flags
    assert "record-call: no directory is configured" in admitted.warnings[-1]
    assert rig.copying.admit(gateway, ask("stop recording")).warnings == ()


def test_the_number_of_copied_calls_is_bounded(tmp_path: Path) -> None:
    rig = Rig(RecordingSection(tmp_path, calls_max=1))
    rig.establish()
    rig.order(Verb.START_RECORDING)
    gateway = rig.node.gateway
    rig.copying.admit(gateway, ask("start recording"))  # it is copied already
    other = decode(encode_request("k", {"command": "start recording", "call-id": "call-2"}))[1]
    with pytest.raises(Unsupported, match="calls_max"):
        rig.copying.admit(gateway, other)
    rig.copying.close()


# One capture for many


def test_an_operator_captures_while_calls_are_recorded(tmp_path: Path) -> None:
    rig = Rig(RecordingSection(tmp_path))
    rig.establish()
    captures = Captures(rig.capture)
    number = captures.begin([rig.flow("access").key], 64)
    rig.say(b"seen by the operator")
    rig.order(Verb.START_RECORDING)
    rig.say(b"seen by both")
    rig.say(b"recorded only", "core")
    told = captures.fetch(number)
    assert len(told["frames"]) == 4 and told["lost"] == 0
    captures.end(number)
    rig.say(b"and on")
    rig.copying.close()
    assert payloads(tmp_path) == [[b"seen by both", b"recorded only", b"and on"]]


def test_a_slow_taker_loses_its_own_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_capture, "WAITING_MAX", 4)
    rig = Rig(RecordingSection())
    rig.establish()
    slow, quick = (rig.capture.capture([rig.flow("access").key], 256) for _ in range(2))
    for _ in range(5):
        rig.say(b"x")
        assert len(list(quick)) == 2
    assert (slow.lost, quick.lost) == (6, 0)
    assert len(list(slow)) == 4
    slow.close()
    quick.close()
    quick.close()
    rig.datapath.capture([FlowKey("10.0.0.1", 2)])  # it is free again


# Configuration


def table(**keys: Any) -> Table:
    return Table("x.toml", "recording", keys)


def test_the_section_is_read_and_written() -> None:
    import tomllib

    for section in (
        RecordingSection(),
        RecordingSection(Path("/var/r"), 1 << 20, 7, Address("fd00::1", 9_000), "core", 3),
    ):
        text = tomllib.loads("\n".join(dump_recording(section)))["recording"]
        assert parse_recording(table(**text), ("core",)) == section
    assert parse_recording(table(), ()) == RecordingSection()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"directory": "relative"}, 'recording.directory = "relative"'),
        ({"directory": "/a/../b"}, "recording.directory"),
        ({"recorder": "host:5"}, 'recording.recorder = "host:5"'),
        ({"recorder": "10.0.0.1:0"}, "recording.recorder"),
        ({"recorder": "10.0.0.1:65535"}, "recording.recorder"),
        ({"recorder": "10.0.0.1:5", "recorder_realm": "x"}, "recording.recorder_realm"),
        ({"recorder_realm": "core"}, "means nothing without recorder"),
        ({"files_max": 0}, "recording.files_max"),
        ({"file_bytes_max": True}, "recording.file_bytes_max"),
        ({"calls_max": 99_999}, "recording.calls_max"),
        ({"direktory": "/x"}, "recording.direktory: unknown key; did you mean 'directory'?"),
    ],
)
def test_bad_sections_say_what_and_where(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recording(table(**keys), ("core",))
    assert named in str(caught.value) and "\n" not in str(caught.value)
