"""Where each key of a TOML document stands: path -> line and column. No I/O.

Knows: TOML's syntax (toml.io, 1.0). Must not know what a key means, nor what is valid: it is given
text that `tomllib` has taken. Paths are spelt as `toml_table` spells them in its errors.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from bgf.toml_table import bare

Tokens = tuple[str | int, ...]
_SPACE: Final = " \t"
_BLANK: Final = " \t\r\n"
_PLAIN_ENDS: Final = ",]}#\r\n"


class Place(NamedTuple):
    """`line` and `column` count from 1; `tokens` lead to the value in what tomllib gives."""

    line: int
    column: int
    tokens: Tokens


def places(text: str) -> dict[str, Place]:
    """Every key and table of valid TOML text, and every element of its arrays."""
    return _Scanner(text).scan()


def spelt(tokens: Tokens) -> str:
    """`("groups", 0, "id")` as errors spell it: groups[0].id."""
    path = ""
    for token in tokens:
        if isinstance(token, int):
            path += f"[{token}]"
        else:
            path += f".{bare(token)}" if path else bare(token)
    return path


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._arrays: dict[Tokens, int] = {}  # of tables -> how many there were
        self._found: dict[str, Place] = {}
        self._counted, self._line, self._line_at = 0, 1, 0

    def scan(self) -> dict[str, Place]:
        table: Tokens = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return self._found
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Tokens:
        start, many = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        parts = self._key()
        self._at += 2 if many else 1
        tokens: Tokens = ()
        for number, part in enumerate(parts):
            tokens = (*tokens, part)
            if many and number == len(parts) - 1:
                self._note((*tokens,), start)
                self._arrays[tokens] = self._arrays.get(tokens, 0) + 1
            if tokens in self._arrays:
                tokens = (*tokens, self._arrays[tokens] - 1)
        self._note(tokens, start)
        return tokens

    def _pair(self, table: Tokens) -> None:
        start = self._at
        tokens = table
        for part in self._key():
            tokens = (*tokens, part)
            self._note(tokens, start)
        self._skip(_SPACE)
        self._at += 1  # the equals sign
        self._value(tokens)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                parts.append(self._string())
            else:
                start = self._at
                while self._text[self._at].isalnum() or self._text[self._at] in "-_":
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, tokens: Tokens) -> None:
        self._skip(_SPACE)
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._list(tokens)
        elif first == "{":
            self._inline(tokens)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _PLAIN_ENDS:
                self._at += 1

    def _list(self, tokens: Tokens) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_BLANK + ",")
            if self._text[self._at] == "]":
                self._at += 1
                return
            self._note((*tokens, number), self._at)
            self._value((*tokens, number))
            number += 1

    def _inline(self, tokens: Tokens) -> None:
        self._at += 1
        while True:
            self._skip(_BLANK + ",")
            if self._text[self._at] == "}":
                self._at += 1
                return
            self._pair(tokens)

    def _string(self) -> str:
        mark = self._text[self._at]
        long = self._text.startswith(mark * 3, self._at)
        end = mark * 3 if long else mark
        start = self._at = self._at + len(end)
        while not self._text.startswith(end, self._at):
            self._at += 2 if mark == '"' and self._text[self._at] == "\\" else 1
        inner = self._text[start : self._at]
        self._at += len(end)
        while long and self._text.startswith(mark, self._at):
            self._at += 1  # up to two of them may end the string itself
        return _unescaped(inner) if mark == '"' and not long else inner

    def _skip(self, what: str) -> None:
        """Over these characters, and comments where a line may end."""
        while self._at < len(self._text):
            if self._text[self._at] in what:
                self._at += 1
            elif self._text[self._at] == "#" and "\n" in what:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return

    def _note(self, tokens: Tokens, at: int) -> None:
        path = spelt(tokens)
        if path not in self._found:
            newlines = self._text.count("\n", self._counted, at)
            if newlines:
                self._line += newlines
                self._line_at = self._text.rfind("\n", 0, at) + 1
            self._counted = max(self._counted, at)
            self._found[path] = Place(self._line, at - self._line_at + 1, tokens)


def _unescaped(inner: str) -> str:
    try:
        return str(json.loads(f'"{inner}"'))
    except ValueError:
        return inner  # TOML has escapes that JSON has not; such a key is shown as it stands
