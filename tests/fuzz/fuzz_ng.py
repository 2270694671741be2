"""Fuzz what reads bytes from proxies and phones: whole `ng` frames, bencode, JSON, SDP, STUN.

`fuzz_ng.py SECONDS|replay [DIRECTORY]`: for so long, or the first inputs alone, which are the
golden transcripts. Mutations know the structure (dictionaries, m-lines, attributes) and the bytes;
inputs that reach lines of ours which none reached before are kept and mutated further. Only a
PeerError may come out, the answer fits into a datagram, and what is done for an input is bounded by
its length: in lines executed, since a clock would tell of the machine. FUZZ_SEED begins the random
numbers. One line is printed; a crash's input stands in DIRECTORY. Not 0 when there was one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from bgf import session_ice, session_offers, session_orders
from bgf.control import bencode, ng, sdp, wishes
from bgf.control.frames import DATAGRAM_BYTES_MAX
from bgf.control.sdp import SDP_BYTES_MAX, BadSdp, Sdp
from bgf.errors import PeerError, PortsExhausted
from bgf.events import Command, MediaRewrite, Reply
from bgf.gateway import ENTROPY_BITS, Gateway
from bgf.media import stun
from bgf.model import Address
from tests.fakes.calls import GROUP, NS_PER_S, REALMS
from tests.fakes.sdp_model import FOREIGN_SPACE, SdpModel

ROOT = Path(__file__).parents[2]
OURS = str(ROOT / "bgf")
MODEL = str(ROOT / "tests" / "fakes" / "sdp_model.py")
INPUT_BYTES_MAX = 8_192
KEPT_MAX = 4_096
LINES_BASE, LINES_PER_BYTE = 20_000, 60
"""Of ours that may be executed for one input."""
TOKENS = (
    b"d", b"e", b"l", b"i1e", b"i-1e", b"i999999999999999999e", b"0:", b"1:a", b"99999999:", b"\0",
    b"\xff", b"\r\n", b"\n", b"\r", b" ", b"=", b":", b"{", b"}", b"[", b"]", b'"', b"null", b"1e9",
    b"v=0", b"m=audio 1 RTP/AVP 0", b"m=", b"c=IN IP4 1.2.3.4", b"c=IN IP6 ::1", b"a=rtcp:", b"a=",
    b"a=rtcp-mux", b"a=candidate:1 1 udp 1 1.2.3.4 5 typ host", b"a=ice-ufrag:x", b"a=setup:active",
    b"a=fingerprint:sha-256 AA", b"a=crypto:1 x inline:y", b"a=inactive", b"65536", b"-1", b"/2",
    "\u2028".encode(), "\u0663".encode(), b"command", b"offer", b"answer", b"delete", b"flags",
    b"call-id", b"from-tag", b"to-tag", b"sdp", b"supports", b"ICE", b"force", b"rtcp-mux",
    b"address-family", b"IP6", b"direction", b"TOS", b"list", b"query", b"block media",
    b"rtpp-flags",
)  # fmt: skip


class Coverage:
    """Which lines of ours one run reaches, and how many it executes."""

    def __init__(self) -> None:
        self.reached: set[tuple[str, int]] = set()
        self.fresh = 0
        self.lines = 0

    def run(self, work: Callable[[], None]) -> bool:
        """True when a line was reached that none reached before."""
        self.fresh = self.lines = 0
        sys.settrace(self._enter)
        try:
            work()
        finally:
            sys.settrace(None)
        return bool(self.fresh)

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        # What is in C is followed by its model.
        ours = frame.f_code.co_filename.startswith((OURS, MODEL))
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            place = (frame.f_code.co_filename, frame.f_lineno)
            if place not in self.reached:
                self.reached.add(place)
                self.fresh += 1
        return self._line


class Machine:
    """A gateway in memory, begun anew now and then: frames in, frames out."""

    RENEWED_AFTER = 500

    def __init__(self) -> None:
        self.frames = 0
        self.gateway = Gateway(GROUP, REALMS)

    def frame(self, raw: bytes) -> None:
        """A frame off the wire, as `bgf.runtime` treats it."""
        self.frames += 1
        if self.frames % self.RENEWED_AFTER == 0:
            self.gateway = Gateway(GROUP, REALMS)
        try:
            _, request = ng.decode(raw)
            command: Command = request.command(NS_PER_S * self.frames)
            # As it is journaled: what cannot be written must not come as far as this.
            again = msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=Command)
            assert again == command
            entropy = random.Random(self.frames).getrandbits(ENTROPY_BITS)
            effects = self.gateway.step(self.gateway.draw(command, entropy))
            reply = next(one for one in effects if isinstance(one, Reply))
            answer: bytes | None = ng.render(request, reply)
        except PeerError as error:
            assert error.reason.isprintable(), error.reason
            answer = ng.refuse(raw, error)
            if answer is None:
                return
        assert answer is not None and len(answer) <= DATAGRAM_BYTES_MAX
        ng.split(answer)


def description(raw: bytes) -> None:
    """The same bytes as a session description alone, and rewritten."""
    text = raw.decode("utf-8", "surrogateescape")
    modelled = None if any(char in text for char in FOREIGN_SPACE) else told(SdpModel, text)
    assert modelled in (None, told(Sdp, text))
    try:
        sdp = Sdp(text)
    except BadSdp as error:
        assert error.reason.isascii() and error.reason.isprintable()
        return
    host = Address("10.20.0.101", 0)
    wanted = [
        MediaRewrite(msgspec.structs.replace(host, port=30_000 + 2 * index if line.rtp.port else 0))
        for index, line in enumerate(sdp.media)
    ]
    out = sdp.rewrite(wanted)
    assert len(out) <= 2 * len(text) + 200 * (len(wanted) + 1)
    assert len(Sdp(out[:SDP_BYTES_MAX]).media) == len(wanted) or len(out) > SDP_BYTES_MAX


def told(kind: type[Sdp] | type[SdpModel], text: str) -> tuple[object, ...]:
    """What a description says, or why it is refused."""
    try:
        one = kind(text)
    except BadSdp as error:
        return type(error), error.reason
    return one.media, one.notes, one.loop_marks


def message(raw: bytes) -> None:
    """The same bytes as a STUN message, and its answers."""
    read = stun.read(raw)
    if read is not None:
        read.is_signed_by("pwd")
        stun.success(read, Address("192.0.2.1", 5), "pwd")
        stun.error(read, 400, "Bad Request", "pwd")


def seeds() -> list[bytes]:
    """Whole frames, their descriptions, and STUN requests."""
    found = []
    for path in sorted((ROOT / "tests" / "golden" / "ng").glob("*.json")):
        raw = "".join(json.loads(path.read_text())["request"]).encode()
        found.append(raw)
        try:
            sdp = ng.decode(raw)[1].sdp
        except PeerError:
            continue
        if sdp is not None:
            found.append(sdp.text.encode("utf-8", "surrogateescape"))
    head = stun.HEADER.pack(stun.BINDING_REQUEST, 8, stun.COOKIE, b"123456789012")
    found.append(head + bytes((0, 6, 0, 3)) + b"a:b\0")
    return [raw for raw in found if len(raw) <= INPUT_BYTES_MAX]


class Mutator:
    """New inputs out of old ones."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def mutate(self, raw: bytes, other: bytes) -> bytes:
        dice = self.dice
        for _ in range(dice.choice((1, 1, 2, 4))):
            how = dice.choice((self.bytes_of, self.number_of, self.lines_of, self.tree_of))
            raw = how(raw, other)
        return raw[:INPUT_BYTES_MAX]

    def bytes_of(self, raw: bytes, other: bytes) -> bytes:
        dice = self.dice
        at, end = sorted(dice.randrange(len(raw) + 1) for _ in range(2))
        end = min(end, at + dice.choice((1, 2, 8, 64)))
        what = dice.randrange(6)
        if what == 0:
            return raw[:at] + raw[end:]
        if what == 1:
            return raw[:at] + raw[at:end] * dice.choice((2, 3, 30)) + raw[end:]
        if what == 2:
            return raw[:at] + dice.choice(TOKENS) + raw[end:]
        if what == 3:
            return raw[:at] + dice.randbytes(end - at) + raw[end:]
        if what == 4:
            return raw[:at] + other[dice.randrange(len(other) + 1) :]
        return raw[:at] + str(dice.choice((0, 1, 255, 65_535, 65_536, 10**18))).encode() + raw[end:]

    def number_of(self, raw: bytes, _other: bytes) -> bytes:
        """One number another one: ports, lengths, payload types."""
        found = list(re.finditer(rb"\d+", raw))
        if not found:
            return raw
        at = self.dice.choice(found)
        number = self.dice.choice((-1, 0, 1, 9, 127, 128, 65_535, 65_536, 2**31, 10**18))
        return raw[: at.start()] + str(number).encode() + raw[at.end() :]

    def lines_of(self, raw: bytes, other: bytes) -> bytes:
        dice = self.dice
        lines, others = raw.split(b"\n"), other.split(b"\n")
        at = dice.randrange(len(lines))
        what = dice.randrange(5)
        if what == 0:
            lines.pop(at)
        elif what == 1:
            lines.insert(at, dice.choice(lines))
        elif what == 2:
            lines.insert(at, dice.choice(others))
        elif what == 3:
            lines.insert(at, dice.choice(TOKENS) + b"\r")
        else:
            words = lines[at].split(b" ")
            words[dice.randrange(len(words))] = dice.choice(TOKENS)
            lines[at] = b" ".join(words)
        return b"\n".join(lines)

    def tree_of(self, raw: bytes, other: bytes) -> bytes:
        """A frame with one entry changed, and its lengths right; in the other notation at times."""
        dice = self.dice
        try:
            cookie, body = ng.split(raw)
            tree: dict[str, Any] = {}
            if body[:1] == b"{":
                loaded = msgspec.json.decode(body)
                tree = loaded if isinstance(loaded, dict) else {}
            else:
                decoded: Any = bencode.text(bencode.decode(body))
                tree = decoded if isinstance(decoded, dict) else {}
        except (PeerError, msgspec.DecodeError, ValueError, RecursionError):
            return self.bytes_of(raw, other)
        keys = sorted(tree)
        key = dice.choice(keys) if keys else "x"
        what = dice.randrange(6)
        if what == 0:
            tree.pop(key, None)
        elif what == 1:
            tree[dice.choice(TOKENS).decode("latin-1")] = dice.choice(TOKENS)
        elif what == 2:
            tree[key] = dice.choice((0, -1, 10**17, b"", [], {}, [b"x"] * 70, [[b"x"]]))
        elif what == 3 and isinstance(tree.get(key), str):
            tree[key] = self.lines_of(tree[key].encode("utf-8", "surrogateescape"), other)
        elif what == 4:
            tree["flags"] = [dice.choice(TOKENS) for _ in range(dice.choice((1, 5, 80)))]
        else:
            tree["command"] = dice.choice((b"offer", b"answer", b"delete", b"query", b"ping"))
        head = cookie.encode() + b" "
        if dice.randrange(4) == 0:
            try:
                return head + msgspec.json.encode(_texts(tree))
            except (UnicodeEncodeError, TypeError):
                return raw
        try:
            return head + bencode.encode(tree)
        except (TypeError, UnicodeEncodeError):
            return raw


def _texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_texts(one) for one in value]
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    return value


class Fuzzer:
    """Runs inputs; `crashes` are those that should not be."""

    def __init__(self, seed: int, directory: Path | None = None) -> None:
        self.dice = random.Random(seed)
        self.coverage, self.machine = Coverage(), Machine()
        self.mutator = Mutator(self.dice)
        self.kept: list[bytes] = []
        self.runs = 0
        self.crashes: list[str] = []
        self.directory = directory

    def one(self, raw: bytes) -> None:
        def work() -> None:
            self.machine.frame(raw)
            description(raw)
            message(raw)

        self.runs += 1
        try:
            fresh = self.coverage.run(work)
            budget = LINES_BASE + LINES_PER_BYTE * len(raw)
            assert self.coverage.lines <= budget, f"{self.coverage.lines} lines, {budget} allowed"
        except PortsExhausted:  # the range of the machine is small
            self.machine.gateway = Gateway(GROUP, REALMS)
            return
        except Exception:
            name = hashlib.sha256(raw).hexdigest()[:16]
            self.crashes.append(f"{name}: {traceback.format_exc()}")
            if self.directory is not None:
                (self.directory / f"ng-{name}").write_bytes(raw)
            return
        if fresh and len(self.kept) < KEPT_MAX:
            self.kept.append(raw)

    def begin(self) -> None:
        for remembered in (
            *(sdp._host, sdp._types, wishes.known, session_ice.restated),
            *(session_offers._settled, session_orders._value),
        ):
            remembered.cache_clear()  # what is known already takes other lines
        for raw in seeds():
            self.one(raw)
            if raw not in self.kept:
                self.kept.append(raw)

    def go_on(self, until: Callable[[], bool]) -> None:
        if not self.kept:
            return
        while not until():
            raw, other = self.dice.choice(self.kept), self.dice.choice(self.kept)
            self.one(self.mutator.mutate(raw, other))

    def line(self, seconds: str) -> str:
        return (
            f"{'ng':<12} {self.runs:>10} runs {seconds:>6} seconds {len(self.crashes):>2} crashes"
        )


def main(arguments: list[str]) -> int:
    seconds = arguments[0] if arguments else "60"
    directory = Path(arguments[1]) if len(arguments) > 1 else None
    seed = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
    fuzzer = Fuzzer(seed, directory)
    fuzzer.begin()
    if seconds != "replay":
        end = time.monotonic() + int(seconds)
        fuzzer.go_on(lambda: time.monotonic() >= end)
    print(fuzzer.line(seconds))
    for crash in fuzzer.crashes[:5]:
        print(f"  seed {seed}: {crash}", file=sys.stderr)
    if os.environ.get("FUZZ_VERBOSE"):
        reached = {Path(file).name for file, _ in fuzzer.coverage.reached}
        print(
            f"  {len(fuzzer.kept)} kept, {len(fuzzer.coverage.reached)} lines of {sorted(reached)}"
        )
    return int(bool(fuzzer.crashes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
