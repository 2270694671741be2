"""The schema as a page for people (docs/configuration.md) and as JSON Schema for editors. No I/O.

Knows: Markdown and JSON Schema (draft 2020-12). Must not know what a key means.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bgf.config_schema import ABSENT, SECTIONS, Change, Key, Section

_TYPES: Final = {"text": "string", "integer": "integer", "boolean": "boolean", "list": "array"}
_HEAD: Final = """# The node's file, key by key

Generated from the schema by `make fix`; a test fails when it is stale. One TOML file per node,
usually `/etc/bgf/node.toml`. Unknown keys are refused, with the nearest known one named.

```sh runnable
bgf config check /etc/bgf/node.toml
bgf config schema
bgfctl reload
```

`bgf config check` prints what is wrong, one line each, as `FILE:LINE:COLUMN: what`, and exits
with 2. `bgf config schema` prints a JSON Schema: editors complete and check with it.

## Changing a running node

`bgfctl reload` (or SIGHUP to a process) reads the file again. A file that has an error changes
nothing. What can be taken up at once is: these keys have *reload* in their table. Of the others it
says which process must be restarted. What a restart costs:

| restart of | costs |
|---|---|
| `bgf monitor` | nothing |
| `bgf gateway` | no packet and no call; control waits for about a second and Kamailio asks again |
| `bgf failover` | nothing within the lease (`failover.lease_ms`) |
| `bgf state` | control of this node waits until it has joined anew; nothing on a standby |
| all, or a new segment | do it on a standby: drain, restart, `bgfctl ready NODE`, undrain |

Keys marked † must be alike on every node: change them everywhere, standbys first.
"""


def markdown() -> str:
    """docs/configuration.md."""
    parts = [_HEAD]
    parts += [_section(section) for section in SECTIONS]
    return "\n".join(parts)


def _section(section: Section) -> str:
    path = section.path
    header = f"[[{path.removesuffix('[]')}]]" if path.endswith("[]") else f"[{path}]"
    lines = [f"## `{header}`", "", section.text, ""]
    lines += ["| key | what | allowed | default | a change needs |", "|---|---|---|---|---|"]
    lines += [_row(key, path) for key in section.keys]
    return "\n".join(lines) + "\n"


def _row(key: Key, section: str) -> str:
    name = key.path.removeprefix(f"{section}.")
    mark = " †" if key.same else ""
    text = key.text.replace("|", "\\|")
    return f"| `{name}`{mark} | {text} | {_allowed(key)} | {_default(key)} | {key.change.value} |"


def _allowed(key: Key) -> str:
    if key.values:
        return ", ".join(f"`{value}`" for value in key.values)
    if key.limits is not None:
        return f"{key.limits[0]:,} to {key.limits[1]:,}"
    return {"boolean": "`true`, `false`", "tables": "tables"}.get(key.type, key.type)


def _default(key: Key) -> str:
    if key.default is None:
        return "*needed*"
    if key.default == ABSENT:
        return "absent"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    return f"{key.default:,}" if isinstance(key.default, int) else f"`{key.default}`"


# -- JSON Schema ---------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Of the file as a whole; types, ranges and words. What depends on other keys, the parser
    checks alone."""
    root = _object("A border gateway node's file.")
    for section in SECTIONS:
        node = _descend(root, section.path.split("."))
        node["description"] = section.text
        for key in section.keys:
            if key.type in ("table", "tables"):
                free = key.path in ("groups[].addresses", "failover.peers[].paths")
                if free:
                    node["properties"][key.path.rpartition(".")[2]] = {
                        "type": "object",
                        "description": key.text,
                    }
                if key.default is None:
                    node["required"].append(key.path.rpartition(".")[2])
                continue
            parent = _descend(root, key.path.split(".")[:-1])
            name = key.path.rpartition(".")[2]
            parent["properties"][name] = _value(key)
            if key.default is None:
                parent["required"].append(name)
    root["required"] = ["node", "state", "media", "realms", "groups", "control"]
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return root


def _value(key: Key) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": _TYPES[key.type],
        "description": re.sub(r"[`*]", "", key.text) + f" A change needs: {key.change.value}.",
    }
    if key.limits is not None:
        made |= {"minimum": key.limits[0], "maximum": key.limits[1]}
    if key.values:
        made["enum"] = list(key.values)
    if key.default not in (None, ABSENT):
        made["default"] = key.default
    return made


def _object(text: str = "") -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def _descend(root: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """The object schema at a path, made on the way."""
    node = root
    for part in parts:
        if part in ("NAME", "KIND"):
            if node["additionalProperties"] is False:
                node["additionalProperties"] = _object()
            node = node["additionalProperties"]
            continue
        name = part.removesuffix("[]")
        if name not in node["properties"]:
            made = _object()
            node["properties"][name] = (
                {"type": "array", "items": made} if part.endswith("[]") else made
            )
        node = node["properties"][name]
        if node["type"] == "array":
            node = node["items"]
    return node


def change_of(path: str) -> Change:
    """What a change of the value at `groups[0].ports` or `realms.core.latch` needs."""
    pattern = re.sub(r"\[\d+\]", "[]", path)
    for key in _BY_LENGTH:
        if _matcher(key.path).fullmatch(pattern):
            return key.change
    return Change.NODE


def _matcher(path: str) -> re.Pattern[str]:
    name = r'(?:[A-Za-z0-9_-]+|"[^"]*")'
    text = re.escape(path).replace("NAME", name).replace("KIND", name)
    return re.compile(text + r"(?:[.\[].*)?")


_BY_LENGTH: Final = sorted(
    (key for section in SECTIONS for key in section.keys), key=lambda key: -len(key.path)
)
