"""The client core in C between scripted servers, under sanitizers; libdal as C programs link it.

`client_*_cases.c` say what each case does.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "statestore"
CORE = ("client*.c", "seg*.c", "link*.c", "crypto.c", "keys.c", "wire.c")
EXAMPLES = ROOT / "examples"


def gcc(*arguments: str) -> None:
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is missing: apt-get install gcc"
    command = [compiler, "-std=c11", "-g", "-Wall", "-Wextra", "-Werror", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_core_between_scripted_servers(tmp_path: Path) -> None:
    binary = tmp_path / "client"
    sources = [str(path) for pattern in CORE for path in sorted(STATE.glob(pattern))]
    cases = [str(path) for path in sorted(Path(__file__).parent.glob("client_*.c"))]
    gcc(
        *("-O1", "-D_GNU_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        *(f"-I{STATE}", *cases, *sources, "-lpthread", "-lnettle", "-o", str(binary)),
    )
    done = subprocess.run([binary], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stdout + done.stderr


def flags() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "statestore", "--cflags", "--libs"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return shlex.split(done.stdout)


def test_a_network_function_in_c_and_one_in_python_share_an_item(
    tmp_path: Path, directory: Path
) -> None:
    """The examples as they stand: each counts packets, in the same item."""
    binary = tmp_path / "nf"
    gcc(str(EXAMPLES / "nf.c"), *flags(), "-o", str(binary))
    address = f"dal://{directory}"
    in_python = [sys.executable, str(EXAMPLES / "nf.py")]
    packets = "one\ntwo\nthree\n"
    for command, says in (
        (in_python, "3 packets\n"),
        ([str(binary)], "6 packets\n"),
        (in_python, "9 packets\n"),
    ):
        done = subprocess.run(
            [*command, address],
            input=packets,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, says), done.stderr


def test_nothing_but_the_interface_is_exported() -> None:
    nm = shutil.which("nm")
    assert nm is not None, "nm is missing: apt-get install binutils"
    done = subprocess.run(
        [nm, "-D", "--defined-only", str(STATE / "libdal.so")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    assert names and all(name.startswith("dal_") for name in names), names
    declared = (STATE / "dal.h").read_text()
    assert all(f"{name}(" in declared for name in names)


def test_without_an_installed_library_it_says_so(tmp_path: Path) -> None:
    package = tmp_path / "statestore"
    package.mkdir()
    shutil.copy(STATE / "__main__.py", package / "__main__.py")
    done = subprocess.run(
        [sys.executable, str(package / "__main__.py"), "--libs"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("libdal.so: not in ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--cflags"]])
def test_what_is_asked_for_is_printed(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "statestore", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if arguments else 2)
    assert done.stdout.startswith(f"-I{STATE}" if arguments else "usage:")
