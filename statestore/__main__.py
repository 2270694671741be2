"""How a network function in C is built against the installed package.

    gcc nf.c $(python -m statestore --cflags --libs) -o nf

Knows: where dal.h and libdal.so lie. Must not know: anything about a store.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m statestore", description=__doc__)
    parser.add_argument("--cflags", action="store_true", help="options for the compiler")
    parser.add_argument("--libs", action="store_true", help="options for the linker")
    given = parser.parse_args(arguments)
    if not given.cflags and not given.libs:
        parser.print_usage()
        return 2
    if not (HERE / "libdal.so").exists():
        print(f"libdal.so: not in {HERE}; install the package first", file=sys.stderr)
        return 3
    here = shlex.quote(str(HERE))
    parts = [f"-I{here}"] if given.cflags else []
    parts += [f"-L{here}", f"-Wl,-rpath,{here}", "-ldal"] if given.libs else []
    print(" ".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
