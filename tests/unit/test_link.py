"""The sealed datagrams: over bad channels, under attack, at every limit; and the key file.

`link_world.c` has the channel and the modes, `link_channel.c`, `link_attack.c` and `link_limits.c`
say what each one proves. Everything runs under sanitizers, with virtual time and fixed seeds.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "statestore"
SOURCES = [
    *sorted(CORE.glob("link*.c")),
    *(CORE / "keys.c", CORE / "crypto.c"),
    *sorted(Path(__file__).parent.glob("link_*.c")),
]
RUN_TIMEOUT_S = 300
# Mode -> seeds. Each of the first group tries every case by itself.
SEEDS = {
    **dict.fromkeys(
        (
            "keys",
            "flips",
            "welcome",
            "forgotten",
            "reflection",
            "claims",
            "limits",
            "partials",
            "peers",
        ),
        1,
    ),
    "crossing": 20,
    "lossy": 150,
    "once": 40,
    "large": 20,
    "restart": 20,
    "replay": 40,
    "rotation": 40,
    "window": 50,
    "payloads": 2,
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = shutil.which("gcc")
    assert gcc is not None, "gcc is missing: apt-get install gcc"
    binary = tmp_path_factory.mktemp("link") / "link_program"
    command = [gcc, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{CORE}"]
    command += [*map(str, SOURCES), "-lnettle", "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return binary


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )


@pytest.mark.parametrize("mode", SEEDS)
def test_link(program: Path, mode: str) -> None:
    done = run(program, mode, "1", str(SEEDS[mode]))
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr


def test_the_ciphers_are_the_standard_ones(program: Path) -> None:
    found = dict(line.split() for line in run(program, "vectors").stdout.splitlines())
    # The GCM specification's test case 14: zero key, nonce and block.
    assert found["gcm"] == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    extracted = hmac.new(b"salt", b"a" * 32, hashlib.sha256).digest()
    assert found["extract"] == extracted.hex()
    expanded = hmac.new(extracted, b"information\x01", hashlib.sha256).hexdigest()
    assert found["expand"] == expanded


# ---- the key file ----

KEY = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100"


def key_file(directory: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = directory / "keys"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def refused(program: Path, path: Path) -> str:
    """The reason, one line that names the file."""
    done = run(program, "load", path)
    assert done.returncode == 2 and done.stderr == "", done.stdout + done.stderr
    assert done.stdout.count("\n") == 1 and done.stdout.startswith(f"{path}: "), done.stdout
    return done.stdout.removeprefix(f"{path}: ").strip()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file(program: Path, tmp_path: Path, mode: int) -> None:
    text = f"# comment\n\n7 {KEY}\r\n  0\t{'ab' * 32}  \n255 {'00' * 32}\n1 {'ff' * 32}"
    done = run(program, "load", key_file(tmp_path, text, mode))
    assert done.returncode == 0, done.stdout + done.stderr
    keys = [KEY.lower(), "ab" * 32, "00" * 32, "ff" * 32]
    expected = [f"{n} key {key}" for n, key in zip((7, 0, 255, 1), keys, strict=True)]
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (f"x {KEY}\n", 1, "begin it with the key's number"),
        (f"{KEY}\n", 1, "begin it with the key's number"),
        (f"\n256 {KEY}\n", 2, "begin it with the key's number"),
        (f"-1 {KEY}\n", 1, "begin it with the key's number"),
        ("1\n", 1, "begin it with the key's number"),
        ("99999999999999999999 \n", 1, "begin it with the key's number"),
        (f"1 {KEY[:-1]}\n", 1, "64 hexadecimal digits"),
        (f"1 {KEY}0\n", 1, "64 hexadecimal digits"),
        (f"1 {KEY} 2\n", 1, "64 hexadecimal digits"),
        (f"1 {KEY[:-1]}g\n", 1, "64 hexadecimal digits"),
        (f"1 {KEY[:-1]}\0\n", 1, "64 hexadecimal digits"),
        (f"1 {KEY}\n# second\n1 {'11' * 32}\n", 3, "taken by a line above"),
        ("".join(f"{n} {KEY}\n" for n in range(5)), 5, "one key too many"),
    ],
)
def test_a_bad_line_is_named(program: Path, tmp_path: Path, text: str, line: int, why: str) -> None:
    reason = refused(program, key_file(tmp_path, text))
    assert reason.startswith(f"line {line}: ") and why in reason
    assert KEY[:16] not in reason, "a key in a message"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_a_key(program: Path, tmp_path: Path, text: str) -> None:
    assert refused(program, key_file(tmp_path, text)).startswith("no key in it; add a line")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o644, 0o700, 0o4600, 0o200])
def test_a_mode_that_is_not_0600_or_0400(program: Path, tmp_path: Path, mode: int) -> None:
    if mode == 0o200 and os.geteuid() != 0:
        pytest.skip("only root can open what it may not read")
    reason = refused(program, key_file(tmp_path, f"1 {KEY}\n", mode))
    assert f"mode is {mode:04o}" in reason and "chmod it to 0600" in reason


def test_what_is_no_file_of_ours(program: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert "No such file" in refused(program, missing)
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o700)
    assert "not a regular file" in refused(program, directory)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "not a regular file" in refused(program, fifo), "and it does not wait for a writer"
    path = key_file(tmp_path, f"1 {KEY}\n")
    (tmp_path / "symlink").symlink_to(path)
    assert "symbolic link" in refused(program, tmp_path / "symlink")
    assert "larger than" in refused(program, key_file(tmp_path, "#" * 5000))


def test_a_file_of_somebody_else(program: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = key_file(tmp_path, f"1 {KEY}\n")
    os.chown(path, 12345, 0)
    assert "belongs to user 12345" in refused(program, path)
