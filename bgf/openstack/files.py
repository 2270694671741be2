"""Where the templates are, what an operator's environment file says. Reads, decides nothing."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bgf.errors import ConfigError, EnvironmentProblem

TOP: Final = "cluster.yaml"
VARIABLE: Final = "BGF_OPENSTACK_TEMPLATES"
FILE_BYTES_MAX: Final = 1 << 20


def templates_at(given: Path | None) -> Path:
    """The directory of the templates. Raises EnvironmentProblem naming where was looked."""
    source = Path(__file__).parents[2] / "deploy" / "openstack"
    places = [source, Path(sys.prefix) / "share/bgf/openstack", Path("/usr/share/bgf/openstack")]
    if given is not None or VARIABLE in os.environ:
        places = [given or Path(os.environ[VARIABLE])]
    for place in places:
        if (place / TOP).is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise EnvironmentProblem(f"no {TOP} in {looked}: give --templates DIRECTORY")


def templates(directory: Path) -> tuple[str, dict[str, str]]:
    """The cluster's template, and the files that it names, by the names that it uses."""
    files = {
        path.name: _text(path)
        for path in sorted(directory.iterdir())
        if path.suffix in (".yaml", ".sh")
    }
    return files.pop(TOP), files


def environment(path: Path) -> dict[str, Any]:
    """The parameters of a Heat environment file. Raises ConfigError."""
    try:
        data = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}:{where} not YAML: {problem}") from None
    if not isinstance(data, dict) or not isinstance(data.get("parameters"), dict):
        raise ConfigError(f"{path}: must be an environment of Heat: a mapping with 'parameters'")
    odd = [key for key in data if key not in ("parameters", "parameter_defaults")]
    if odd:
        raise ConfigError(f"{path}: '{odd[0]}' means nothing here; known: parameters")
    return {str(key): value for key, value in data["parameters"].items()}


def schema(template: str) -> dict[str, Mapping[str, Any]]:
    """The parameters that a template knows."""
    found: dict[str, Mapping[str, Any]] = yaml.safe_load(template)["parameters"]
    return found


def node_list(path: Path) -> tuple[str, dict[str, str], dict[str, str]]:
    """The cluster's name, its nodes' addresses and servers, from the stack's output `bgfctl`."""
    try:
        data = tomllib.loads(_text(path))
        nodes = {str(node["name"]): node for node in data["nodes"]}
        addresses = {name: str(node["address"]) for name, node in nodes.items()}
        servers = {name: str(node["server"]) for name, node in nodes.items() if "server" in node}
        return str(data["cluster"]), addresses, servers
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a list of nodes ({error}); take the stack's output bgfctl"
        ) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: over {FILE_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
