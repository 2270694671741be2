"""`bgf config check`: what is wrong, with line and column, as much of it as there is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bgf.config_check import check
from bgf.runtime.main import main
from bgf.toml_places import places, spelt
from tests.unit.test_config import EXAMPLE


def findings(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return [str(one).removeprefix(f"{file}:") for one in check(file)]


def test_a_good_file_has_none(tmp_path: Path) -> None:
    assert findings(tmp_path, EXAMPLE) == []


def test_several_errors_are_told_at_once_each_where_it_stands(tmp_path: Path) -> None:
    text = EXAMPLE.replace("pinholes_max = 20480", "pinholes_max = 1\n  atach = 'native'").replace(
        'attach = "generic"', ""
    )
    text += "[recording]\nfiles_max = 0\n[monitor]\nlisten = '0.0.0.0:1'\n"
    assert text != EXAMPLE
    found = findings(tmp_path, text)
    lines = text.splitlines()
    assert len(found) >= 3
    for line in found:
        number, column, said = line.split(":", 2)
        key = said.strip().split(" ")[0].rpartition(".")[2].rstrip(":")
        assert lines[int(number) - 1][int(column) - 1 :].startswith(key), line
    assert any("media.atach: unknown key; did you mean 'attach'?" in line for line in found)
    assert any("recording.files_max = 0" in line for line in found)
    assert any("monitor.listen" in line for line in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[node\n", "1:6: not TOML:"),
        ('[node]\nid = "x\n', "2:8: not TOML:"),
        ("[node]\nid = 1\nid = 2\n", "3:7: not TOML:"),
        ("a = " + "[" * 3_000, "1:1: not usable TOML: nested too deeply"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = findings(tmp_path, text)
    assert found.startswith(expected)
    assert "\n" not in found


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b"[node]\nid = '\xff'\n")
    (found,) = check(file)
    assert (found.line, found.column) == (2, 1) and "not UTF-8" in found.text


def test_the_command(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(EXAMPLE)
    bad.write_text("[node]\nid = 5\n")
    done = CliRunner().invoke(main, ["config", "check", str(good), str(bad), str(tmp_path / "no")])
    assert done.exit_code == 2
    first, *rest = done.output.splitlines()
    assert first == f"{good}: well"
    assert rest[-1].startswith(f"{tmp_path / 'no'}: cannot be read")
    assert all(line.startswith(f"{bad}:") for line in rest[:-1]) and len(rest) > 1
    assert CliRunner().invoke(main, ["config", "check", str(good)]).exit_code == 0


NAMES = st.text("abc-_1", min_size=1, max_size=4)
VALUES = st.recursive(
    st.integers(0, 99) | st.booleans() | st.text("ab #[]{}=,'\"\\\n", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[ # first\n" + ",\n".join(map(written, value)) + "]"
    return "{" + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + "}"


def leaves(value: Any, tokens: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    found = [tokens] if tokens else []
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value)
        if isinstance(value, list) else ()
    )  # fmt: skip
    for key, inner in items:
        found += leaves(inner, (*tokens, key))
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=3), st.lists(st.dictionaries(NAMES, VALUES), max_size=2)
)
def test_every_key_has_its_place(table: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    lines = ["# head", *(f" {key} = {written(value)} # {key}" for key, value in table.items())]
    for row in rows:
        lines += ["[[zz.rows]]", *(f"{key} = {written(value)}" for key, value in row.items())]
    text = "\n".join(lines)
    data = tomllib.loads(text)
    found = places(text)
    shown = text.split("\n")
    for tokens in leaves(data, ()):
        place = found.get(spelt(tokens))
        if tokens == ("zz",):
            continue  # it is there through its inner one alone
        assert place is not None, tokens
        here = shown[place.line - 1][place.column - 1 :]
        if tokens[:2] == ("zz", "rows") and len(tokens) <= 3:
            assert here.startswith("[[zz.rows]]")
        elif isinstance(tokens[-1], str):
            assert here.startswith(tokens[-1])
