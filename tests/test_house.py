"""The house itself: who may import whom, cores without I/O, docstrings, file lengths, names.

The walls are DESIGN section 6; ARCHITECTURE.md draws them. `violations` is a function of file
texts alone, so that the tests below can also show that it bites: each builds a house with one
thing wrong in it. Imports are read from the syntax tree, those inside functions included.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bgf", "statestore", "failover")
SOURCES = (*PACKAGES, "benchmarks", "tests", "deploy")
LINES_MAX = 600
GENERATED = ("*.lskel.h",)

# Room of bgf -> the rooms it may import. A room is a package or module directly in bgf; a module
# of another room can be allowed by its whole name. Outside bgf: ROOT_PACKAGES.
CORE_ROOMS = {"model", "events", "errors"}
ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"runtime"},
    "errors": set(),
    "model": {"errors"},
    "events": {"model", "errors"},
    "ports": {"model", "errors"},
    "policy": {"model"},
    "found": {"model"},
    "rate": set(),
    "session_values": CORE_ROOMS | {"policy"},
    "session_ice": CORE_ROOMS | {"policy", "session_values"},
    "session_flows": CORE_ROOMS | {"policy", "session_values", "session_ice"},
    "session_offers": CORE_ROOMS | {"policy", "session_values", "session_flows", "session_ice"},
    "session_orders": CORE_ROOMS | {"session_values", "session_flows", "session_ice"},
    "totals": CORE_ROOMS | {"session"},
    "session": CORE_ROOMS
    | {"policy", "session_values", "session_flows", "session_offers", "session_orders"}
    | {"session_ice"},
    "gateway": CORE_ROOMS
    | {"found", "policy", "ports", "rate", "session", "session_orders", "totals"},
    "journal": CORE_ROOMS | {"session", "gateway"},
    "records": CORE_ROOMS,
    "hands": CORE_ROOMS | {"session", "gateway", "journal", "found", "records"},
    "rehearsal": CORE_ROOMS | {"gateway", "hands"},
    "explain": CORE_ROOMS
    | {"session", "session_flows", "session_values", "session_ice", "journal"},
    "quality": {"model"},
    "pcap": set(),
    "control": CORE_ROOMS | {"quality", "rate"},
    "media": CORE_ROOMS,
    "toml_table": {"errors"},
    "config_state": {"model", "errors", "toml_table"},
    "config_media": {"model", "errors", "toml_table", "policy"},
    "config_failover": {"errors", "toml_table"},
    "config_recording": {"model", "errors", "toml_table"},
    "config_safety": {"toml_table"},
    "config_control": {"model", "errors", "toml_table"},
    "config": {"model", "errors", "toml_table", "policy", "config_state", "config_media"}
    | {"config_control", "config_recording", "config_failover", "config_monitor"}
    | {"config_safety"},
    "config_monitor": {"model", "errors", "toml_table"},
    "toml_places": {"toml_table"},
    "config_check": {"errors", "config", "toml_places"},
    "config_schema": {"model", "config", "config_control", "config_failover", "config_media"}
    | {"config_monitor", "config_recording", "config_safety", "config_state"},
    "config_reference": {"config_schema"},
    "admin": {"errors"},
    "drill_book": {"admin"},
    "preflight": {"model", "errors", "config"},
    # The lab meets the gateways through their sockets: it speaks `ng` and asks the admin sockets.
    "lab": {"model", "errors", "config", "admin", "preflight", "media._xdp"}
    | {"__init__", "control.client", "control.bencode", "control.sdp"},
    "openstack": {"errors"},
    "ctl": {"__init__", "model", "errors", "config", "admin", "preflight", "lab", "pcap"}
    | {"openstack", "control.client", "control.frames", "control.links", "drill_book"},
    # The page and the figures come from what admin sockets say, as bgfctl reads it.
    "monitor": {"model", "errors", "admin", "ctl.client", "drill_book"},
    # The composition root sees everything that it composes; the lab and bgfctl are not part.
    "runtime": CORE_ROOMS
    | {"ports", "policy", "session", "session_flows", "session_values", "gateway", "journal"}
    | {"hands", "control", "media", "quality", "totals", "pcap", "explain"}
    | {"__init__", "config", "admin", "preflight", "monitor", "ctl.client", "drill_book"}
    | {"config_check", "config_reference", "config_safety", "config_schema", "toml_places"},
}
ROOT_PACKAGES = {"runtime": {"statestore", "failover"}}

# Cores: time is an argument, randomness arrives inside events, and somebody else performs.
CORES = {
    *("bgf.errors", "bgf.model", "bgf.events", "bgf.ports", "bgf.session", "bgf.gateway"),
    *("bgf.rate", "bgf.control.framing", "bgf.control.web", "bgf.control.access"),
    "bgf.control.newcalls",
    *("bgf.policy", "bgf.session_values", "bgf.session_flows", "bgf.session_offers"),
    *("bgf.session_orders", "bgf.totals"),
    *("bgf.quality", "bgf.explain", "bgf.session_ice"),
    *("bgf.journal", "bgf.toml_table", "bgf.control.bencode", "bgf.control.ng"),
    *("bgf.control.frames", "bgf.control.requests", "bgf.control.wishes", "bgf.control.replies"),
    "bgf.control.rtpp_flags",
    *("bgf.control.call_report", "bgf.control.statistics"),
    *("bgf.control.sdp", "bgf.media.datapath", "bgf.lab.measure"),
    *("bgf.lab.catalogue", "bgf.lab.ledger", "bgf.lab.invariants"),
    *("bgf.lab.rtpclock", "failover.decide", "failover.detector", "failover.lease"),
    *("failover.registry", "failover.sbfd", "failover.frames", "failover.actions"),
    *(
        "failover.evidence",
        "failover.fencing",
        "failover.own_links",
        "failover.placement",
        "failover.reasons",
        "failover.resting",
        "failover.flapping",
    ),
    *("failover.strain", "failover.history", "failover.vouching", "failover.testimony"),
    *("bgf.monitor.families", "bgf.monitor.exposition", "bgf.runtime.latency"),
    *("bgf.toml_places", "bgf.config_reference"),
    *("bgf.openstack.plan", "bgf.openstack.findings", "bgf.openstack.messages"),
    *("statestore.membership", "statestore.member_records", "statestore.places"),
}
NOT_IN_CORES = {
    *("asyncio", "ctypes", "fcntl", "logging", "mmap", "multiprocessing", "os", "pathlib"),
    *("pyroute2", "random", "secrets", "select", "signal", "socket", "subprocess", "tempfile"),
    *("threading", "time", "uuid"),
}
CALLS_NOT_IN_CORES = {"open", "print", "input"}

# Slow to import: only inside the function that needs them.
LAZY = {"matplotlib", "scapy", "openstack", "keystoneauth1"}

# A name, and what to use instead. Dotted names are matched as written.
BANNED = {
    "time.time": "CLOCK_BOOTTIME (time.clock_gettime_ns): wall clocks jump",
    "datetime.datetime.now": "CLOCK_BOOTTIME (time.clock_gettime_ns): wall clocks jump",
    "os.system": "subprocess.run with a list of arguments",
    "os.fork": "subprocess: nothing shared may cross a fork",
    "pickle": "msgspec: a schema, and nothing that executes",
    "marshal": "msgspec: a schema, and nothing that executes",
    "eval": "a parser",
    "exec": "a function",
    "importlib.import_module": "an import statement, which the walls can see",
    "__import__": "an import statement, which the walls can see",
    "unittest.mock": "a semantic fake in tests/fakes: ask where a packet goes",
    "random.random": "random.Random(seed), the seed printed",
    "random.choice": "random.Random(seed), the seed printed",
    "random.randint": "random.Random(seed), the seed printed",
    "random.uniform": "random.Random(seed), the seed printed",
    "random.seed": "random.Random(seed), the seed printed",
}
BANNED_IN_C = {
    "strcpy": "memcpy with a checked length",
    "strcat": "snprintf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "gets": "fgets",
    "strtok": "a cursor",
    "atoi": "strtol, its end checked",
    "alloca": "a buffer with a named limit",
    "rand": "entropy given by the caller",
    "fork": "nothing shared may cross a fork",
}
# (file, name): why. An exception that is no longer needed is a violation itself.
EXCEPTIONS = {
    ("bgf/runtime/gateway_process.py", "time.time"): "ng's `created` is a wall clock by definition",
}


def house() -> dict[str, str]:
    """Every source file of the project: path from the root -> text."""
    found = [ROOT / "setup.py"]
    for folder in SOURCES:
        for suffix in ("py", "pyi", "c", "h"):
            found += (ROOT / folder).rglob(f"*.{suffix}")
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for path in sorted(found)
        if "__pycache__" not in path.parts
    }


def violations(files: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with a house, one line each."""
    found: list[str] = []
    used: set[tuple[str, str]] = set()
    modules = {module_of(path) for path in files if path.endswith((".py", ".pyi"))}
    for path, text in files.items():
        found += _length(path, text)
        if path.endswith((".c", ".h")):
            found += _c_file(path, text)
            continue
        if path.endswith(".pyi"):
            continue
        tree = ast.parse(text, path)
        if not ast.get_docstring(tree):
            found.append(f"{path}: no module docstring: say what it knows and must not know")
        found += _imports(path, tree, modules)
        found += _core(path, tree)
        for line, name in _names(tree):
            if name in BANNED and (path, name) in EXCEPTIONS:
                used.add((path, name))
            elif name in BANNED:
                found.append(f"{path}:{line}: {name} is banned: use {BANNED[name]}")
    found += [
        f"{path}: the exception for {name} is not needed any more"
        for path, name in EXCEPTIONS
        if path in files and (path, name) not in used
    ]
    return found


def module_of(path: str) -> str:
    """bgf/control/ng.py -> bgf.control.ng; a package is its own name."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def _length(path: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > LINES_MAX and not any(Path(path).match(pattern) for pattern in GENERATED):
        yield f"{path}: {lines} lines; {LINES_MAX} are allowed: divide it by noun"


def _c_file(path: str, text: str) -> Iterator[str]:
    if not text.startswith(("/*", "//")):
        yield f"{path}: no comment at its head: say what it knows and must not know"
    generated = any(Path(path).match(pattern) for pattern in GENERATED)
    if generated or not path.startswith(PACKAGES):
        return  # a test may do to its own processes what the product must not
    code = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', _blank, text, flags=re.DOTALL)
    for match in re.finditer(r"(?<![\w.>])(\w+)\s*\(", code):
        if match[1] in BANNED_IN_C:
            line = code.count("\n", 0, match.start()) + 1
            yield f"{path}:{line}: {match[1]} is banned: use {BANNED_IN_C[match[1]]}"


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _imported(path: str, tree: ast.AST, modules: set[str]) -> Iterator[tuple[int, str, bool]]:
    """(line, module or package.name, at module level) for each import, `from` ones resolved."""
    top = set(tree.body) if isinstance(tree, ast.Module) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(path).split(".")
                if not path.endswith("__init__.py"):
                    package.pop()
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *base.split(".")]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                # A compiled module has a stub only; a plain name belongs to its module.
                yield node.lineno, inner if inner in modules else base, node in top


def _imports(path: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    package = path.split("/", maxsplit=1)[0]
    if package in ("tests", "setup.py"):
        return
    me = module_of(path).split(".")
    room = me[1] if len(me) > 1 else "__init__"
    if package == "bgf" and room not in ROOMS:
        yield f"{path}: bgf.{room} is not a known room: say in ROOMS what it may import"
        return
    for line, name, top in _imported(path, tree, modules):
        parts = name.split(".")
        where = f"{path}:{line}"
        if parts[0] in LAZY and top and package in PACKAGES:
            yield f"{where}: {parts[0]} is slow to import: import it where it is used"
        if parts[0] == "tests":
            yield f"{where}: the product must not import its tests"
        if parts[0] == "deploy" and package != "deploy":
            yield f"{where}: deploy/ is imported by nothing"
        if package == "benchmarks":
            if parts[0] in PACKAGES and any(p.startswith("_") for p in parts[1:]):
                yield f"{where}: benchmarks use the public API only, not {name}"
            continue
        if package not in PACKAGES or parts[0] not in PACKAGES:
            continue
        if parts[0] == "bgf" == package:
            target = parts[1] if len(parts) > 1 else "__init__"
            if target != room and not {target, ".".join(parts[1:3])} & ROOMS[room]:
                yield f"{where}: bgf.{room} must not import {name}"
        elif parts[0] != package and not (
            package == "bgf" and parts[0] in ROOT_PACKAGES.get(room, ())
        ):
            what = f"bgf.{room}" if package == "bgf" else package
            yield f"{where}: {what} must not import {name}"


def _core(path: str, tree: ast.AST) -> Iterator[str]:
    if module_of(path) not in CORES:
        return
    for line, name, _ in _imported(path, tree, set()):
        if name.split(".")[0] in NOT_IN_CORES:
            yield f"{path}:{line}: a core must not import {name}: it decides, others perform"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in CALLS_NOT_IN_CORES
        ):
            yield f"{path}:{node.lineno}: a core must not call {node.func.id}()"


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that is imported or called, as written: `pickle`, `time.time`, `eval`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module or ''}.{alias.name}"
        elif isinstance(node, ast.Call):
            dotted = _dotted(node.func)
            if dotted:
                yield node.lineno, dotted


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


# The house as it stands.


def test_the_house_stands() -> None:
    found = violations(house())
    assert not found, "\n".join(found)


def test_every_core_and_every_exception_is_there() -> None:
    """A renamed core would silently be unguarded."""
    files = house()
    modules = {module_of(path) for path in files}
    assert not CORES - modules
    assert not {path for path, _ in EXCEPTIONS} - files.keys()
    for room in ROOMS.keys() - {"__init__"}:
        assert any(module == f"bgf.{room}" or f"bgf.{room}." in module for module in modules), room


def test_the_chain_of_rooms_goes_one_way() -> None:
    """model <- session <- gateway <- journal <- hands <- runtime, and nothing goes round."""
    chain = ["errors", "model", "events", "session", "gateway", "journal", "hands", "runtime"]
    for at, room in enumerate(chain):
        assert set(chain[:at]) >= ROOMS[room] & set(chain)
        assert room == "errors" or chain[at - 1] in ROOMS[room] or room == "session"

    def reach(room: str, seen: tuple[str, ...] = ()) -> None:
        assert room not in seen, f"{' -> '.join(seen)} -> {room}"
        for inner in ROOMS[room]:
            reach(inner.split(".", maxsplit=1)[0], (*seen, room))

    for room in ROOMS:
        reach(room)


# It bites: one wrong thing at a time, in a house that is well otherwise.

WELL = {
    "bgf/__init__.py": '"""Doc."""\n',
    "bgf/errors.py": '"""Doc."""\n',
    "bgf/model.py": '"""Doc."""\nfrom bgf.errors import Malformed\n',
    "bgf/session.py": '"""Doc."""\nfrom bgf import model\n',
    "bgf/gateway.py": '"""Doc."""\nfrom bgf.session import Session\n',
    "bgf/control/ng.py": '"""Doc."""\nfrom bgf.model import Flow\n',
    "bgf/control/client.py": '"""Doc."""\nimport socket\n',
    "bgf/media/_xdp.pyi": "def load() -> None: ...\n",
    "bgf/media/xdp.py": '"""Doc."""\nfrom bgf.media import _xdp\n',
    "bgf/lab/lab.py": '"""Doc."""\nfrom bgf.media import _xdp\nfrom bgf.control import client\n',
    "bgf/runtime/main.py": '"""Doc."""\nimport statestore\nfrom failover import decide\n',
    "bgf/ctl/main.py": '"""Doc."""\nfrom bgf.lab import lab\n',
    "statestore/__init__.py": '"""Doc."""\n',
    "statestore/segment.c": '/* Doc. */\nint x; /* strcpy(a, b) */ char *s = "gets(x)";\n',
    "failover/decide.py": '"""Doc."""\nfrom failover import registry\n',
    "failover/registry.py": '"""Doc."""\n',
    "benchmarks/statestore.py": '"""Doc."""\nimport statestore\n',
    "tests/unit/test_x.py": '"""Doc."""\nfrom bgf.gateway import Gateway\n',
}


def test_a_house_that_is_well_passes() -> None:
    assert violations(WELL) == []


@pytest.mark.parametrize(
    ("path", "line", "says"),
    [
        ("bgf/model.py", "import bgf.session", "bgf.model must not import bgf.session"),
        ("bgf/model.py", "from bgf import session", "bgf.model must not import bgf.session"),
        ("bgf/model.py", "from .session import x", "bgf.model must not import bgf.session"),
        ("bgf/model.py", "from . import session", "bgf.model must not import bgf.session"),
        ("bgf/errors.py", "from bgf.model import x", "bgf.errors must not import bgf.model"),
        ("bgf/session.py", "from bgf.gateway import x", "bgf.session must not import bgf.gateway"),
        (
            "bgf/session.py",
            "def f():\n    from bgf.gateway import x",
            "bgf.session must not import bgf.gateway",
        ),
        ("bgf/control/ng.py", "from bgf import gateway", "bgf.control must not import bgf.gate"),
        ("bgf/control/ng.py", "from .. import gateway", "bgf.control must not import bgf.gateway"),
        ("bgf/control/ng.py", "from bgf.media import xdp", "bgf.control must not import bgf.media"),
        ("bgf/media/xdp.py", "import bgf.control.ng", "bgf.media must not import bgf.control.ng"),
        ("bgf/media/xdp.py", "import statestore", "bgf.media must not import statestore"),
        ("bgf/lab/lab.py", "from bgf.media import xdp", "bgf.lab must not import bgf.media.xdp"),
        ("bgf/lab/lab.py", "from bgf.control import ng", "bgf.lab must not import bgf.control.ng"),
        ("bgf/lab/lab.py", "from bgf.gateway import x", "bgf.lab must not import bgf.gateway"),
        ("bgf/ctl/main.py", "import statestore.views", "bgf.ctl must not import statestore.views"),
        ("bgf/runtime/main.py", "import bgf.lab.lab", "bgf.runtime must not import bgf.lab.lab"),
        ("statestore/x.py", '"""Doc."""\nimport bgf', "statestore must not import bgf"),
        ("statestore/x.py", '"""Doc."""\nimport failover', "statestore must not import failover"),
        ("failover/decide.py", "import statestore", "failover must not import statestore"),
        ("failover/decide.py", "from bgf.model import x", "failover must not import bgf.model"),
        ("bgf/utils.py", '"""Doc."""', "bgf.utils is not a known room"),
        ("bgf/lab/lab.py", "import deploy.x", "deploy/ is imported by nothing"),
        ("tests/unit/test_x.py", "import pickle", "pickle is banned: use msgspec"),
        ("bgf/lab/lab.py", "from tests.fakes import x", "must not import its tests"),
        ("bgf/lab/lab.py", "import matplotlib.pyplot", "matplotlib is slow to import"),
        ("benchmarks/statestore.py", "import statestore._segment", "public API only"),
        ("bgf/gateway.py", "import time", "a core must not import time"),
        ("bgf/gateway.py", "from os import path", "a core must not import os"),
        ("bgf/control/ng.py", "import socket", "a core must not import socket"),
        ("bgf/gateway.py", "import random as r", "a core must not import random"),
        ("failover/decide.py", "import asyncio", "a core must not import asyncio"),
        ("failover/decide.py", "x = open('y')", "a core must not call open()"),
        ("bgf/lab/lab.py", "import time\nx = time.time()", "time.time is banned: use CLOCK_BOOT"),
        ("bgf/lab/lab.py", "from time import time", "time.time is banned"),
        ("bgf/lab/lab.py", "x = eval('1')", "eval is banned"),
        ("tests/unit/test_x.py", "from unittest.mock import Mock", "unittest.mock is banned"),
        ("tests/unit/test_x.py", "from unittest import mock", "unittest.mock is banned"),
        ("bgf/lab/lab.py", "#\n" * LINES_MAX, f"{LINES_MAX + 4} lines; {LINES_MAX} are allowed"),
        ("statestore/segment.c", "void f(void) { strcpy(a, b); }", "strcpy is banned: use memcpy"),
        ("bgf/lab/new.py", "x = 1", "no module docstring"),
        ("statestore/new.c", "int x;", "no comment at its head"),
    ],
)
def test_it_bites(path: str, line: str, says: str) -> None:
    changed = {**WELL, path: f"{WELL.get(path, '')}{line}\n"}
    (found,) = violations(changed)
    assert found.startswith(path)
    assert says in found


def test_an_exception_that_is_not_needed_is_a_violation() -> None:
    path, name = next(iter(EXCEPTIONS))
    (found,) = violations({**WELL, path: '"""Doc."""\n'})
    assert found == f"{path}: the exception for {name} is not needed any more"


def test_generated_files_may_be_long() -> None:
    assert violations({**WELL, "bgf/media/bpf/x.lskel.h": "/* Doc. */\n" * 2 * LINES_MAX}) == []
