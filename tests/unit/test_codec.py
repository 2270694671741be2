"""The codec in C beside its models in Python, for texts that nobody would send; and its memory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bgf.control.sdp import BadSdp, Sdp
from bgf.events import MediaRewrite
from bgf.model import Address, Ice
from tests.fakes.sdp_model import FOREIGN_SPACE, SdpModel
from tests.fuzz.fuzz_ng import Mutator, seeds

ROOT = Path(__file__).parents[2]
TEXTS = 6_000
HOSTS = ("203.0.113.9", "198.51.100.7", "fd00:b::1")


def said(one: Sdp | SdpModel, rng: random.Random) -> object:
    """All that a description tells, and three of its successors."""
    out: list[object] = [one.media, one.notes, one.loop_marks, one.text]
    for _ in range(3):
        media = [wanted(rng) for _ in one.media]
        out.append(
            one.rewrite(
                media,
                replace_origin=rng.random() < 0.5,
                rtcp_attribute=rng.random() < 0.8,
                loop_mark=rng.choice(("", "g1")),
            )
        )
    return out


def wanted(rng: random.Random) -> MediaRewrite:
    host, port = rng.choice(HOSTS), rng.choice((0, 30_000, 30_002))
    rtcp = rng.choice((None, Address(host, port + 1), Address(rng.choice(HOSTS), 9)))
    ice = rng.choice((None, None, Ice("abcdefgh", "abcdefghabcdefghabcdefgh")))
    return MediaRewrite(Address(host, port), rtcp, rng.random() < 0.5, ice)


def outcome(kind: type[Sdp] | type[SdpModel], text: str, seed: int) -> object:
    try:
        return said(kind(text), random.Random(seed))
    except BadSdp as error:
        return type(error), error.reason


def descriptions() -> list[bytes]:
    found = [raw for raw in seeds() if raw.startswith(b"v=")]
    assert len(found) > 10
    return found


def test_descriptions_are_read_and_rewritten_as_the_model_does() -> None:
    known, good = descriptions(), 0
    mutator = Mutator(random.Random(11))
    for number in range(TEXTS):
        raw = known[number % len(known)]
        for _ in range(number % 4):
            raw = mutator.mutate(raw, known[mutator.dice.randrange(len(known))])
        text = raw.decode("utf-8", "surrogateescape")
        if any(char in text for char in FOREIGN_SPACE):
            continue
        ours = outcome(Sdp, text, number)
        good += isinstance(ours, list)
        assert ours == outcome(SdpModel, text, number), text
    assert TEXTS // 8 < good < TEXTS


SANITIZED = """
import random, sys
from tests.fuzz.fuzz_ng import Mutator, seeds
from bgf.control import bencode, ng
from bgf.control.sdp import Sdp
from bgf.errors import PeerError
from tests.unit.test_codec import said

known, rng = seeds(), random.Random(5)
mutator = Mutator(rng)
good = 0
for number in range(int(sys.argv[1])):
    raw = known[number % len(known)]
    for _ in range(number % 4):
        raw = mutator.mutate(raw, known[mutator.dice.randrange(len(known))])
    for read in (ng.decode, bencode.decode, lambda raw: said(Sdp(raw), rng)):
        try:
            found = read(raw)
        except (PeerError, UnicodeEncodeError):
            continue
        good += 1
        if read is bencode.decode:
            bencode.encode(bencode.text(found))
print("read", good)
"""


def test_no_byte_is_read_or_written_out_of_bounds(tmp_path: Path) -> None:
    """The same extension under sanitizers, in an interpreter of its own."""
    gcc = shutil.which("gcc")
    assert gcc is not None
    room = tmp_path / "bgf" / "control"
    shutil.copytree(ROOT / "bgf", tmp_path / "bgf", ignore=shutil.ignore_patterns("_codec*.so"))
    subprocess.run(
        [
            *(gcc, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *("-DPy_LIMITED_API=0x030b0000", "-D_GNU_SOURCE"),
            f"-I{sysconfig.get_paths()['include']}",
            *sorted(map(str, (ROOT / "bgf" / "control").glob("_codec*.c"))),
            *("-o", str(room / "_codec.abi3.so")),
        ],
        check=True,
    )
    runtime = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, "1500"],
        cwd=tmp_path,
        env=os.environ
        | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    assert int(done.stdout.split()[1]) > 300


@pytest.mark.parametrize("sections", [1, 16, 17])
def test_as_many_m_lines_as_there_may_be(sections: int) -> None:
    text = "v=0\r\nc=IN IP4 192.0.2.1\r\n" + "m=audio 4000 RTP/AVP 0\r\n" * sections
    assert outcome(Sdp, text, 0) == outcome(SdpModel, text, 0)
