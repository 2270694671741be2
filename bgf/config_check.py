"""Everything that is wrong with a node's file, each with its line and column. Reads one file.

Knows: that the parser stops at the first error, and how to go on behind it: without the key, whose
default is never wrong. Must not know any key.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from bgf import config
from bgf.errors import ConfigError
from bgf.toml_places import Place, places

FINDINGS_MAX: Final = 50
_PATH = re.compile(r'^((?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|\[\d+\]|\.)+)(?: = |: )')
_MEANT = re.compile(r"unknown key; did you mean '([^']+)'\?$")
_SYNTAX = re.compile(r"^line (\d+)(?:, column (\d+))?: (.*)$")


class Finding(NamedTuple):
    """One line for a person or an editor: FILE:LINE:COLUMN: TEXT."""

    source: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}: {self.text}"


def check(path: Path) -> list[Finding]:
    """What is wrong with the file, at most FINDINGS_MAX, in the order of the file; nothing: it is
    well. Raises ConfigError when it cannot be read at all."""
    source = str(path)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"{source}: cannot be read: {why}") from None
    try:
        data = tomllib.loads(raw.decode())
        text = raw.decode()
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return [_syntax(path, source)]
    where = places(text)
    found: list[Finding] = []
    while len(found) < FINDINGS_MAX:
        told = _problem(data, source)
        if told is None:
            break
        said = told.removeprefix(f"{source}: ")
        named = _PATH.match(said)
        key = named[1] if named else ""
        place = _nearest(key, where)
        found.append(Finding(source, place.line, place.column, said))
        meant = _MEANT.search(said)
        if where.get(key) is None or not _removed(data, place, meant[1] if meant else ""):
            break  # what is missing, or spans the file, cannot be passed over
    return sorted(set(found), key=lambda one: (one.line, one.column))


def _problem(data: dict[str, Any], source: str) -> str | None:
    try:
        config.of_data(data, source)
    except ConfigError as error:
        return str(error)
    return None


def _syntax(path: Path, source: str) -> Finding:
    """As the loader says it."""
    try:
        config.load(path)
    except ConfigError as error:
        said = str(error).removeprefix(f"{source}: ")
        named = _SYNTAX.match(said)
        if named is None:
            return Finding(source, 1, 1, said)
        return Finding(source, int(named[1]), int(named[2] or 1), named[3])
    raise AssertionError("unreachable: tomllib has refused it")


def _nearest(key: str, where: dict[str, Place]) -> Place:
    """Where the key stands, or the innermost table around it."""
    while key:
        if key in where:
            return where[key]
        cut = max(key.rfind("."), key.rfind("["))
        key = key[: max(0, cut)]
    return Place(1, 1, ())


def _removed(data: dict[str, Any], place: Place, meant: str) -> bool:
    """Take the key out, or call it what it was meant to be; False when it is no key of a table, or
    gone already."""
    inner: Any = data
    try:
        for token in place.tokens[:-1]:
            inner = inner[token]
        last = place.tokens[-1]
        if not isinstance(inner, dict) or last not in inner:
            return False
        value = inner.pop(last)
        if meant and meant not in inner:
            inner[meant] = value
    except (LookupError, TypeError):
        return False
    return True
