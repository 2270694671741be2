"""Heat without a cloud: its own parser, functions and property schemas, and answers made up.

Run by an interpreter that has OpenStack's Heat, never imported by ours. Reads from standard input
{"templates": DIRECTORY, "parameters": {...}}, "creates" every resource of cluster.yaml in the order
of its dependencies, nested templates included, and prints {"outputs", "resources"} or {"error"}.
Knows Heat's inside; must not know what the templates are for.
"""

from __future__ import annotations

import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

from heat.common import context, template_format
from heat.engine import attributes as heat_attributes
from heat.engine import (
    constraints,
    environment,
    function,
    node_data,
    resources,
    stack,
    stk_defn,
    template,
)
from oslo_config import cfg

NESTED_MAX = 4


class Answers(dict[Any, Any]):
    """Attributes by name or path, the way that templates ask for them."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def __missing__(self, key: Any) -> Any:
        name, *path = (key,) if isinstance(key, str) else key
        return self._answer(name, path)


def plain(values: dict[str, Any]) -> Answers:
    def answer(name: str, path: list[Any]) -> Any:
        return heat_attributes.select_from_attribute(values[name], path)

    return Answers(answer)


class Cloud:
    """What a project would hold. Addresses are dealt in turn from each subnet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = {f.name: f.read_text() for f in directory.iterdir() if f.is_file()}
        self.resources: list[dict[str, Any]] = []
        self._dealt: dict[str, int] = {}
        self._ids = 0

    def prefix(self, subnet: str) -> str:
        for made in self.resources:
            if made["id"] == subnet:
                return str(made["properties"]["cidr"])
        given = {"m4": "192.0.2.0/24", "c4": "198.51.100.0/24", "a6": "2001:db8:77::/64"}
        return given[subnet]

    def address(self, subnet: str) -> str:
        at = self._dealt[subnet] = self._dealt.get(subnet, 9) + 1
        return str(ipaddress.ip_network(self.prefix(subnet))[at])

    def create(self, kind: str, path: str, properties: dict[str, Any]) -> tuple[str, Answers]:
        self._ids += 1
        identity = f"{path}#{self._ids}"
        values: dict[str, Any] = {}
        if kind == "OS::Neutron::Port":
            ips = [
                {"subnet_id": wanted["subnet"], "ip_address": self.address(wanted["subnet"])}
                for wanted in properties["fixed_ips"]
            ]
            subnets = [
                {"cidr": self.prefix(wanted["subnet"])} for wanted in properties["fixed_ips"]
            ]
            # Neutron keeps no order that anybody may rely on
            mac = f"fa:16:3e:00:00:{self._ids % 256:02x}"
            values = {"fixed_ips": ips[::-1], "subnets": subnets[::-1], "mac_address": mac}
        elif kind == "OS::Heat::Value":
            values = {"value": properties["value"]}
        elif kind == "OS::Heat::WaitConditionHandle":
            values = {"curl_cli": f"curl -i -X POST https://heat.test/{path}"}
        self.resources.append(
            {"id": identity, "path": path, "type": kind, "properties": properties}
        )
        return identity, plain(values)


def run(cloud: Cloud, file: str, parameters: dict[str, Any], name: str, path: str) -> Answers:
    """One template, in memory; its outputs."""
    assert path.count(".") < 2 * NESTED_MAX
    parsed = template.Template(
        template_format.parse(cloud.files[file]),
        files=cloud.files,
        env=environment.Environment({"parameters": parameters}),
    )
    parsed.validate()
    here = stack.Stack(
        context.RequestContext(project_id="p", user_id="u"), name, parsed, stack_id="0"
    )
    unknown = set(parameters) - set(here.parameters)
    if unknown:
        raise ValueError(f"{file} has no parameter {sorted(unknown)}")
    here.parameters.validate(validate_value=True)
    definitions = {n: here.defn.resource_definition(n) for n in here.defn.enabled_rsrc_names()}
    done: set[str] = set()
    while len(done) < len(definitions):
        due = [
            n
            for n, d in definitions.items()
            if n not in done and set(d.required_resource_names()) & set(definitions) <= done
        ]
        assert due, f"{file}: its resources depend on each other in a circle"
        for resource in due:
            definition = definitions[resource]
            where = f"{path}.{resource}".strip(".")
            data = made(cloud, here, definition, where)
            stk_defn.update_resource_data(here.defn, resource, data)
            done.add(resource)
    outputs = {n: o.get_value() for n, o in here.outputs.items()}
    return plain(outputs)


def made(cloud: Cloud, here: Any, definition: Any, path: str) -> Any:
    kind = definition.resource_type
    properties = function.resolve(definition._properties or {})
    if kind.endswith(".yaml"):
        answers = run(cloud, kind, properties, here.name, path)
        try:
            identity = answers["OS::stack_id"]
        except KeyError:
            identity = path
    elif kind == "OS::Heat::ResourceGroup":
        members = []
        for index in range(properties["count"]):
            wanted = json.loads(
                json.dumps(properties["resource_def"]["properties"]).replace("%index%", str(index))
            )
            inner = properties["resource_def"]["type"]
            members.append(run(cloud, inner, wanted, here.name, f"{path}.{index}"))

        def answer(name: str, rest: list[Any]) -> Any:
            return [heat_attributes.select_from_attribute(m[name], rest) for m in members]

        identity, answers = path, Answers(answer)
    else:
        schema = resources.global_env().get_class(kind).properties_schema
        checked = definition.properties(schema, here.context)
        checked.validate(with_value=True)
        identity, answers = cloud.create(kind, path, properties)
    return node_data.NodeData(None, definition.name, None, identity, answers, "CREATE", "COMPLETE")


def main() -> None:
    asked = json.load(sys.stdin)
    constraints.CustomConstraint.validate = lambda *_, **__: None  # they ask a cloud
    cfg.CONF([], project="heat", default_config_files=[])
    resources.initialise()
    cloud = Cloud(Path(asked["templates"]))
    try:
        top = run(cloud, "cluster.yaml", asked["parameters"], asked.get("name", "voice"), "")
        names = template_format.parse(cloud.files["cluster.yaml"])["outputs"]
        print(json.dumps({"outputs": {n: top[n] for n in names}, "resources": cloud.resources}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        if asked.get("traceback"):
            raise


main()
