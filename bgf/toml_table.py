"""A cursor over parsed TOML that knows where it stands, so that an error can say so in one line.

Knows: TOML's types and how a value is shown to a person (bounded, one line, printable). Must not
know what any key means: `config` does. Every refusal is a ConfigError naming source, key path,
value and what is allowed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from bgf.errors import ConfigError

SHOWN_CHARS_MAX: Final = 60


def one_line(text: str) -> str:
    """`text` with everything unprintable escaped: no error line can be broken or coloured."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(value: object) -> str:
    """A value as an error line shows it: TOML spelling where there is one, bounded, one line."""
    if isinstance(value, bool):
        shown = "true" if value else "false"
    elif isinstance(value, str):
        shown = f'"{value[: SHOWN_CHARS_MAX + 1]}"'
    elif isinstance(value, int) and value.bit_length() > 128:
        shown = "a very large number"  # converting it may be refused (PEP 686's digit limit)
    elif isinstance(value, dict):
        shown = f"a table of {len(value)} keys"
    elif isinstance(value, list):
        # Inner lists are not opened: a deeply nested one must not exhaust the stack here.
        inner = ["[...]" if isinstance(v, list) else show(v) for v in value[:4]]
        shown = "[" + ", ".join(inner) + (", ...]" if value[4:] else "]")
    else:
        shown = str(value)
    shown = one_line(shown)
    return shown if len(shown) <= SHOWN_CHARS_MAX else shown[:SHOWN_CHARS_MAX] + "..."


class Table:
    """A cursor over one TOML table that knows where it stands, for the error line."""

    def __init__(self, source: str, path: str, data: dict[str, Any]) -> None:
        self.source = source
        self.path = path
        self.data = data

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, value: object, allowed: str) -> NoReturn:
        raise ConfigError(f"{self.source}: {self.at(bare(key))} = {show(value)}: {allowed}")

    def only(self, *known: str) -> None:
        """Refuse keys that mean nothing here: a misspelt key must not become a default."""
        for key in self.data:
            if key not in known:
                near = difflib.get_close_matches(key[:SHOWN_CHARS_MAX], known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
                raise ConfigError(f"{self.source}: {self.at(bare(key))}: unknown key; {hint}")

    def get(self, key: str, default: object, allowed: str) -> object:
        if key in self.data:
            return self.data[key]
        if default is None:
            raise ConfigError(f"{self.source}: {self.at(key)}: missing; it must be {allowed}")
        return default

    def integer(self, key: str, limits: tuple[int, int], default: int | None = None) -> int:
        low, high = limits
        allowed = f"a whole number from {low} to {high}"
        value = self.get(key, default, allowed)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, value, f"must be {allowed}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key, default, "true or false")
        if not isinstance(value, bool):
            self.fail(key, value, "must be true or false")
        return value

    def text(
        self,
        key: str,
        good: Callable[[str], object],
        allowed: str,
        default: str | None = None,
    ) -> str:
        value = self.get(key, default, allowed)
        if not isinstance(value, str) or not good(value):
            self.fail(key, value, f"must be {allowed}")
        return value

    def table(self, key: str, required: bool = True) -> Table:
        value = self.get(key, None if required else {}, "a table")
        if not isinstance(value, dict):
            self.fail(key, value, "must be a table")
        return Table(self.source, self.at(bare(key)), value)

    def tables(self, key: str, most: int, required: bool) -> list[Table]:
        value = self.get(key, None if required else [], f"one or more [[{self.at(key)}]] tables")
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self.fail(key, value, f"must be [[{self.at(key)}]] tables")
        if len(value) > most or (required and not value):
            least = 1 if required else 0
            raise ConfigError(
                f"{self.source}: {self.at(key)}: {len(value)} given; {least} to {most} are allowed"
            )
        return [Table(self.source, f"{self.at(key)}[{i}]", v) for i, v in enumerate(value)]


def bare(key: str) -> str:
    """A key as shown: bare where TOML allows it, otherwise quoted and bounded."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else show(key)


def plain_path(value: str) -> bool:
    """An absolute path of printable characters that goes nowhere but down."""
    return value.startswith("/") and value.isprintable() and ".." not in value.split("/")


def quote(text: str) -> str:
    """A TOML basic string. JSON's is one once nothing unprintable is in it, as parsing checks."""
    return json.dumps(text, ensure_ascii=False)
