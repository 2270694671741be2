"""The schema is what the parser does: every key, every range and default; and its page is fresh."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bgf import config
from bgf.config_reference import change_of, json_schema, markdown
from bgf.config_schema import ABSENT, KEYS, SECTIONS, Change
from bgf.toml_table import Table
from tests.unit.test_config import EXAMPLE

ROOT = Path(__file__).parents[2]
FULL = (
    EXAMPLE
    + """
[realms.access.streams.audio]
dscp = 46
sustained_bytes_s = 20000
burst_bytes = 4000
peak_bytes_s = 40000
peak_burst_bytes = 3000
[recording]
[monitor]
listen = "10.30.0.11:9401"
[state.cluster]
listen = "10.30.0.11:7400"
key_file = "/etc/bgf/key"
etcd = ["https://10.30.0.201:2379"]
etcd_ca_file = "/etc/bgf/ca"
"""
)


def pattern(path: str) -> str:
    path = re.sub(r"\[\d+\]", "[]", path)
    path = re.sub(r"^realms\.[^.]+", "realms.NAME", path)
    return re.sub(r"^(realms\.NAME\.streams)\.[^.]+", r"\1.KIND", path)


class Watched(Table):
    """Says what the parser asks of each table."""

    known: ClassVar[dict[str, set[str]]] = {}
    numbers: ClassVar[dict[str, tuple[tuple[int, int], int | None]]] = {}
    words: ClassVar[dict[str, str | None]] = {}

    def only(self, *known: str) -> None:
        super().only(*known)
        self.known.setdefault(pattern(self.path), set()).update(known)

    def integer(self, key: str, limits: tuple[int, int], default: int | None = None) -> int:
        self.numbers[pattern(self.at(key))] = (limits, default)
        return super().integer(key, limits, default)

    def text(self, key: str, good: Any, allowed: str, default: str | None = None) -> str:
        self.words[pattern(self.at(key))] = default
        return super().text(key, good, allowed, default)

    def table(self, key: str, required: bool = True) -> Table:
        made = super().table(key, required)
        return Watched(made.source, made.path, made.data)

    def tables(self, key: str, most: int, required: bool) -> list[Table]:
        found = super().tables(key, most, required)
        return [Watched(made.source, made.path, made.data) for made in found]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(config, "Table", Watched)
    for kept in (Watched.known, Watched.numbers, Watched.words):
        kept.clear()
    config.parse(FULL)
    return Watched


def test_the_parser_knows_the_keys_of_the_schema_and_no_others(watched: type[Watched]) -> None:
    parsed = {f"{path}.{key}" for path, keys in watched.known.items() if path for key in keys}
    top = watched.known[""]
    named = {key for key in KEYS if not re.fullmatch(r"[^.]+", key)}
    assert parsed == named
    assert top == {re.split(r"[.\[]", section.path)[0] for section in SECTIONS}


def test_ranges_and_defaults_are_the_parsers(watched: type[Watched]) -> None:
    for path, (limits, default) in watched.numbers.items():
        key = KEYS[path]
        assert (key.type, key.limits) == ("integer", limits), path
        if key.default not in (None, ABSENT) and not path.endswith("burst_bytes"):
            assert key.default == default, path
    for path, word in watched.words.items():
        key = KEYS[path]
        assert key.type == "text", path
        if word is None:
            assert key.default is None or "etcd_" in path, path
        else:
            assert key.default == word, path
    integers = {path for path, key in KEYS.items() if key.type == "integer"}
    never_asked = {"control.listen.tcp", "control.listen.http"}
    assert integers - watched.numbers.keys() <= never_asked


def test_the_reference_is_fresh() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown(), "run `make fix`"


def test_the_reference_has_every_key() -> None:
    text = markdown()
    for section in SECTIONS:
        for key in section.keys:
            assert f"\n| `{key.path.removeprefix(f'{section.path}.')}`" in text
    assert len({section.path for section in SECTIONS}) == len(SECTIONS)


def test_the_json_schema_takes_a_good_file_and_knows_the_limits() -> None:
    schema = json_schema()
    sessions = schema["properties"]["control"]["properties"]["sessions_max"]
    assert (sessions["type"], sessions["minimum"], sessions["default"]) == ("integer", 1, 20_000)
    realm = schema["properties"]["realms"]["additionalProperties"]
    assert realm["required"] == ["interface"]
    kind = realm["properties"]["streams"]["additionalProperties"]
    assert kind["properties"]["dscp"]["maximum"] == 63
    assert schema["properties"]["groups"]["items"]["properties"]["addresses"]["type"] == "object"


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("control.sessions_max", Change.RELOAD),
        ("control.peers[2]", Change.RELOAD),
        ("control.listen.tcp", Change.GATEWAY),
        ("groups[3].addresses.core[0]", Change.NODE),
        ("groups[3].ports[1]", Change.GATEWAY),
        ("failover.peers[0].paths.core", Change.FAILOVER),
        ('realms."odd one".latch', Change.GATEWAY),
        ("realms.core.streams.audio.dscp", Change.GATEWAY),
        ("state.cluster.listen", Change.STATE),
        ("state.size_mb", Change.SEGMENT),
        ("monitor.listen", Change.MONITOR),
        ("nobody.knows", Change.NODE),
    ],
)
def test_what_a_change_needs(path: str, change: Change) -> None:
    assert change_of(path) is change
