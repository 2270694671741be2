"""Vouching between real processes: bytes, key files, sockets, what is kept, who is waited for."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.runtime.patient_registry import PatientRegistry
from bgf.runtime.vouch_codec import BadDatagram, KeyFile, seal, unseal
from bgf.runtime.vouch_link import UdpVouchLink
from bgf.runtime.vouch_memory import MemoryFile
from failover.registry import (
    Member,
    MemoryRegistry,
    Ownership,
    RegistryPending,
    RegistryUnavailable,
)
from failover.testimony import Word
from failover.vouching import Promise, Recollection, Vouch, VouchRequest

KEYS = {3: b"k" * 32, 4: b"l" * 32}
ASKED = VouchRequest("n1", "n2", 77, 1, 4_000_000_000, {"g1": 3})
SAID = Vouch("n2", "n1", 77, 1, 4_000_000_000, ("g1",))
WORD = Word("n1", 5, 2, {"n2": ("core",), "n3": ("access", "core")})
REFUSED = Vouch("n2", "n1", 77, 1, why="n2 reached the registry 20 ms ago")


@pytest.mark.parametrize("message", [ASKED, SAID, REFUSED, WORD])
def test_what_is_sealed_opens_with_any_key_that_is_known(
    message: VouchRequest | Vouch | Word,
) -> None:
    assert unseal(seal(message, KEYS), {4: KEYS[4], 3: KEYS[3]}) == message
    for keys in ({}, {4: KEYS[4]}, {3: KEYS[4]}):
        with pytest.raises(BadDatagram):
            unseal(seal(message, KEYS), keys)


@given(st.integers(0, 500), st.integers(1, 255))
def test_a_changed_byte_is_refused(at: int, by: int) -> None:
    datagram = bytearray(seal(ASKED, KEYS))
    datagram[at % len(datagram)] ^= by
    with pytest.raises(BadDatagram):
        unseal(bytes(datagram), KEYS)


@given(st.binary(max_size=200))
def test_other_peoples_bytes_are_refused(noise: bytes) -> None:
    for datagram in (noise, b"BGFV\x01\x03" + noise):
        with pytest.raises(BadDatagram):
            unseal(datagram, KEYS)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_file_is_taken_up_when_it_changes_and_kept_when_it_is_unfit(tmp_path: Path) -> None:
    path = write(tmp_path / "key", f"# two\n\n7 {'ab' * 32}\n1 {'cd' * 32}\n")
    file = KeyFile(path)
    first = file.keys()
    assert list(first) == [7, 1] and not file.trouble
    assert bytes.fromhex("ab" * 32) not in first.values()  # derived, not the key itself
    write(path, "7 abc\n")
    assert file.keys() == first and str(path) in file.trouble
    write(path, f"1 {'cd' * 32}\n9 {'ef' * 32}\n")
    assert list(file.keys()) == [1, 9] and not file.trouble
    path.chmod(0o640)
    os.utime(path, ns=(1, 1))
    assert file.keys() and "chmod" in file.trouble


def test_datagrams_reach_the_peer_and_only_from_where_it_is(tmp_path: Path) -> None:
    key = write(tmp_path / "key", f"1 {'ab' * 32}\n")
    other = write(tmp_path / "other", f"1 {'cd' * 32}\n")
    ways = {"n1": {"lo": "127.0.0.11"}, "n2": {"lo": "127.0.0.12"}, "n3": {"lo": "127.0.0.13"}}
    links = [
        UdpVouchLink({"lo": ways[me]["lo"]}, ways, {"lo": "lo"}, file)
        for me, file in (("n1", key), ("n2", key), ("n3", other))
    ]
    one, two, three = links
    try:
        one.send(ASKED)
        three.send(VouchRequest("n3", "n2", 1, 1, 1, {}))  # with another key
        one.send(VouchRequest("n3", "n2", 1, 1, 1, {}))  # in another's name
        assert one.tell(WORD)
        until = time.monotonic() + 10
        heard: list[VouchRequest | Vouch | Word] = []
        while sum(two.tally.values()) < 2 or len(heard) < 2:
            heard += two.drain()
            assert time.monotonic() < until
        assert heard == [ASKED, WORD]
        assert two.tally == {"refused": 1, "strangers": 1}
        key.chmod(0o644)
        os.utime(key, ns=(1, 1))
        one.drain()
        assert one.tell(WORD)  # an unfit file: the keys that were read before
    finally:
        for link in links:
            link.close()


def test_what_is_kept_is_of_this_boot_alone(tmp_path: Path) -> None:
    kept = Recollection({"n1": Promise(77, 1, 900, {"g1": 3})}, {"g2": 4}, 5)
    assert MemoryFile(tmp_path, "boot").load() is None
    MemoryFile(tmp_path, "boot").keep(kept)
    assert MemoryFile(tmp_path, "boot").load() == kept
    assert MemoryFile(tmp_path, "another").load() is None
    assert MemoryFile(tmp_path, "").load() is None
    (tmp_path / "failover.words").write_text("{")
    assert MemoryFile(tmp_path, "boot").load() is None


def test_what_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    memory = MemoryFile(tmp_path, "boot")
    memory.keep(Recollection())
    (tmp_path / "failover.tmp").mkdir()
    with pytest.raises(OSError):
        memory.keep(Recollection({}, {"g1": 1}))
    assert memory.load() is None


class SlowRegistry(MemoryRegistry):
    """It answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.fails = False

    def publish(self, member: Member) -> None:
        assert self.let.wait(30)
        if self.fails:
            raise RegistryUnavailable("no majority")
        super().publish(member)

    def record(self, node: str) -> Member | None:
        assert self.let.wait(30)
        return super().record(node)


def test_a_slow_answer_counts_when_it_comes() -> None:
    slow = SlowRegistry()
    patient = PatientRegistry(slow, lease_ms=20)
    try:
        for _ in range(3):
            with pytest.raises(RegistryPending):
                patient.publish(Member("n1", 1, 500))
            with pytest.raises(RegistryPending):
                patient.record("n1")
        assert patient.granted_ns() == 0
        slow.let.set()
        until = time.monotonic() + 10
        while patient.granted_ns() != 500:
            assert time.monotonic() < until
            time.sleep(0.001)
        assert patient.claim("g1", Ownership(), "n1") == Ownership("n1", 1)
        patient.close(lambda: None)
    finally:
        slow.let.set()


def test_what_went_wrong_is_told_at_the_next_try() -> None:
    slow = SlowRegistry()
    slow.fails = True
    patient = PatientRegistry(slow, lease_ms=20)
    with pytest.raises(RegistryPending):
        patient.publish(Member("n1", 1, 500))
    slow.let.set()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            patient.publish(Member("n1", 1, 600))
        except RegistryPending:
            time.sleep(0.001)
        except RegistryUnavailable as error:
            assert "no majority" in str(error)
            break
    patient.close(lambda: None)
