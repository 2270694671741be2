"""One project of an OpenStack cloud, through openstacksdk: facts, stacks, events. Decides nothing.

openstacksdk is imported when a cloud is connected: it takes most of a second. Whatever goes wrong
is an EnvironmentProblem (no way to the cloud) or a CloudRefused (it answered no), of one line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bgf.errors import EnvironmentProblem
from bgf.openstack.errors import CloudRefused
from bgf.openstack.findings import Facts, NetworkFacts, Quota
from bgf.openstack.messages import Event, explain
from bgf.openstack.plan import size_of

EVENTS_PAGE: Final = 500
NESTED_DEPTH: Final = 4
TRIES: Final = 3
TRY_PAUSE_S: Final = 1.0
_NESTED: Final = re.compile(r"-(.+?)-([a-z0-9]{12})(?=-|$)")
_COMPUTE_LIMITS: Final = {
    "instances": ("maxTotalInstances", "totalInstancesUsed"),
    "cores": ("maxTotalCores", "totalCoresUsed"),
    "ram": ("maxTotalRAMSize", "totalRAMUsed"),
    "server_groups": ("maxServerGroups", "totalServerGroupsUsed"),
    "server_group_members": ("maxServerGroupMembers", ""),
}
SERVICES: Final = ("compute", "network", "image", "orchestration")
NETWORKS: Final = ("management", "access", "core")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as Heat describes it."""

    id: str
    name: str
    status: str
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return self.status.endswith("_IN_PROGRESS")

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED")


class Cloud:
    """`name` is one of clouds.yaml; None: the environment says (OS_CLOUD, or OS_AUTH_URL...)."""

    def __init__(self, name: str | None = None) -> None:
        try:
            import openstack  # noqa: PLC0415
            from keystoneauth1.exceptions import ClientException  # noqa: PLC0415
            from openstack.exceptions import SDKException  # noqa: PLC0415
        except ImportError as error:
            raise EnvironmentProblem(
                f"{error.name} is missing: pip install 'bgf[openstack]', or apt-get install "
                "python3-openstacksdk"
            ) from None
        self._errors: tuple[type[Exception], ...] = (SDKException, ClientException, OSError)
        try:
            self._connection: Any = openstack.connect(cloud=name)
            self.project: str = self._connection.current_project_id
        except (*self._errors, TypeError, AttributeError) as error:
            which = f"cloud '{name}'" if name else "no cloud chosen (--cloud or OS_CLOUD)"
            raise EnvironmentProblem(f"{which}: {' '.join(str(error).split())[:300]}") from None

    # -- facts ------------------------------------------------------------------------------------

    def facts(self, parameters: Mapping[str, Any]) -> tuple[Facts, dict[str, dict[str, int]]]:
        """What a preflight wants to know, and the flavours of gateways and state nodes."""
        services = frozenset(name for name in SERVICES if self._endpoint(name))
        if services != set(SERVICES):
            return Facts(services=services), {"gateway": {}, "state": {}}
        missing: list[str] = []
        image = self._find("image", "find_image", parameters, "image", missing)
        self._find("image", "find_image", parameters, "state_image", missing)
        flavors = {
            role: self._find("compute", "find_flavor", parameters, key, missing)
            for role, key in (("gateway", "flavor"), ("state", "state_flavor"))
        }
        self._find("compute", "find_keypair", parameters, "key_name", missing)
        self._find("network", "find_network", parameters, "external_network", missing)
        nets = [
            net
            for role in NETWORKS
            if (net := self._network(role, parameters, missing)) is not None
        ]
        self._zones(parameters, missing)
        facts = Facts(
            services=services,
            extensions=frozenset(e.alias for e in self._list("network", "extensions")),
            missing=tuple(missing),
            compute=self._compute_quotas(),
            network=self._network_quotas(),
            networks=nets,
            image_properties=_properties(image),
            flavor_specs=self._specs(flavors["gateway"]),
            flavor_vcpus=int(getattr(flavors["gateway"], "vcpus", 0) or 0),
            hosts=self._hosts(),
            anti_affinity=str(parameters.get("anti_affinity", "anti-affinity")),
            gateways=len(size_of(parameters).gateways),
        )
        sizes = {
            role: {"vcpus": int(f.vcpus), "ram": int(f.ram)} if f is not None else {}
            for role, f in flavors.items()
        }
        return facts, sizes

    def _endpoint(self, service: str) -> bool:
        try:
            return bool(self._connection.endpoint_for(service))
        except self._errors:
            return False

    def _find(
        self, service: str, finder: str, parameters: Mapping[str, Any], key: str, missing: list[str]
    ) -> Any:
        name = parameters.get(key)
        if not name:
            if key in ("image", "flavor", "key_name"):
                missing.append(f"{key} is not given: name one of this project")
            return None
        try:
            found = getattr(getattr(self._connection, service), finder)(str(name))
        except self._errors as error:
            raise self._refused(f"looking for {key} '{name}'", error) from None
        if found is None:
            what = {"key_name": "key pair"}.get(key, key.replace("_", " "))
            missing.append(f"there is no {what} '{name}' in this project: name one that is there")
        return found

    def _network(
        self, role: str, parameters: Mapping[str, Any], missing: list[str]
    ) -> NetworkFacts | None:
        network = self._find("network", "find_network", parameters, f"{role}_network", missing)
        if network is None:
            return None
        keys = ["management_subnet"] if role == "management" else [
            f"{role}_subnet_ipv4", f"{role}_subnet_ipv6"
        ]  # fmt: skip
        subnets = [
            s for k in keys if (s := self._find("network", "find_subnet", parameters, k, missing))
        ]
        ports = self._list("network", "ports", network_id=network.id)
        distributed = {p.device_id for p in ports if "distributed" in (p.device_owner or "")}
        return NetworkFacts(
            role=role,
            name=str(network.name),
            mtu=int(network.mtu or 0),
            port_security=network.is_port_security_enabled is not False,
            versions=tuple(sorted({int(s.ip_version) for s in subnets})),
            distributed=tuple(sorted(distributed)),
            subnet_elsewhere=tuple(str(s.name) for s in subnets if s.network_id != network.id),
        )

    def _zones(self, parameters: Mapping[str, Any], missing: list[str]) -> None:
        wanted = parameters.get("availability_zones") or []
        wanted = wanted.split(",") if isinstance(wanted, str) else wanted
        if not wanted:
            return
        known = {zone.name for zone in self._list("compute", "availability_zones")}
        for zone in wanted:
            if zone not in known:
                there = ", ".join(sorted(known)) or "none"
                missing.append(f"there is no availability zone '{zone}': there are {there}")

    def _specs(self, flavor: Any) -> Mapping[str, Any]:
        if flavor is None:
            return {}
        answer = self._get("compute", f"/flavors/{flavor.id}/os-extra_specs", may_fail=True)
        return dict(answer.get("extra_specs", {}))

    def _compute_quotas(self) -> dict[str, Quota]:
        absolute = self._get("compute", "/limits")["limits"]["absolute"]
        return {
            name: Quota(int(absolute[limit]), int(absolute.get(used, 0)))
            for name, (limit, used) in _COMPUTE_LIMITS.items()
            if limit in absolute
        }

    def _network_quotas(self) -> dict[str, Quota]:
        path = f"/quotas/{self.project}/details.json"
        quota = self._get("network", path, may_fail=True).get("quota", {})
        return {
            name: Quota(int(q["limit"]), int(q["used"]) + int(q.get("reserved", 0)))
            for name, q in quota.items()
            if isinstance(q, dict)
        }

    def _hosts(self) -> int:
        try:
            found = list(self._connection.compute.services(binary="nova-compute"))
        except self._errors:
            return 0  # a project is not told
        return len([s for s in found if s.state == "up" and s.status == "enabled"])

    # -- stacks -----------------------------------------------------------------------------------

    def stack(self, name: str, outputs: bool = True) -> Stack | None:
        """None when there is none of that name. Outputs cost Heat and Neutron many questions."""
        query = "" if outputs else "?resolve_outputs=False"
        answer = self._call("GET", f"/stacks/{name}{query}", none_when=(404,))
        if answer is None:
            return None
        raw = answer["stack"]
        if raw["stack_status"] == "DELETE_COMPLETE":
            return None
        return Stack(
            id=str(raw["id"]),
            name=str(raw["stack_name"]),
            status=str(raw["stack_status"]),
            reason=str(raw.get("stack_status_reason") or ""),
            parameters=raw.get("parameters") or {},
            outputs={o["output_key"]: o.get("output_value") for o in raw.get("outputs") or []},
        )

    def create(
        self, name: str, template: str, files: Mapping[str, str], parameters: Mapping[str, Any],
        timeout_min: int,
    ) -> None:  # fmt: skip
        """Begin; `events` and `stack` say how it goes."""
        body = {
            "stack_name": name,
            "template": template,
            "files": dict(files),
            "parameters": dict(parameters),
            "timeout_mins": timeout_min,
            "disable_rollback": True,
            "tags": "bgf",
        }
        self._call("POST", "/stacks", body)

    def update(
        self, stack: Stack, template: str, files: Mapping[str, str], parameters: Mapping[str, Any],
        timeout_min: int,
    ) -> None:  # fmt: skip
        """Begin; parameters that are not given stay as they are."""
        body = {
            "template": template,
            "files": dict(files),
            "parameters": dict(parameters),
            "timeout_mins": timeout_min,
            "disable_rollback": True,
        }
        self._call("PATCH", f"/stacks/{stack.name}/{stack.id}", body)

    def against(
        self, template: str, files: Mapping[str, str], parameters: Mapping[str, Any]
    ) -> str:
        """What Heat has against a stack of these parameters, empty for nothing. Makes none."""
        body = {
            "stack_name": "preview",
            "template": template,
            "files": dict(files),
            "parameters": dict(parameters),
        }
        try:
            self._call("POST", "/stacks/preview", body, none_when=(403, 404))
        except CloudRefused as error:
            return str(error)
        return ""

    def delete(self, stack: Stack) -> None:
        self._call("DELETE", f"/stacks/{stack.name}/{stack.id}", none_when=(404,))

    def events(self, stack: Stack, after: str = "") -> list[Event]:
        """Of the stack and all within it, oldest first, after the event of that id."""
        query = f"nested_depth={NESTED_DEPTH}&sort_dir=asc&limit={EVENTS_PAGE}"
        query += f"&marker={after}" if after else ""
        path = f"/stacks/{stack.name}/{stack.id}/events?{query}"
        answer = self._call("GET", path, none_when=(404,)) or {"events": []}
        return [_event(raw, stack.name) for raw in answer["events"] if not _twice(raw, stack.name)]

    def servers(self, name: str) -> list[dict[str, str]]:
        """The cluster's servers: node, server, status, id."""
        found = [
            {"node": s.metadata["bgf_node"], "server": s.name, "status": s.status, "id": s.id}
            for s in self._list("compute", "servers")
            if s.metadata.get("bgf_cluster") == name and "bgf_node" in s.metadata
        ]
        return sorted(found, key=lambda server: _natural(server["node"]))

    # -- below ------------------------------------------------------------------------------------

    def _list(self, service: str, what: str, **query: Any) -> list[Any]:
        try:
            return list(getattr(getattr(self._connection, service), what)(**query))
        except self._errors as error:
            raise self._refused(f"asking for {what.replace('_', ' ')}", error) from None

    def _get(self, service: str, path: str, may_fail: bool = False) -> dict[str, Any]:
        try:
            response = getattr(self._connection, service).get(path)
        except self._errors as error:
            raise self._refused(f"asking {service}", error) from None
        if response.status_code >= 400:
            if may_fail:
                return {}
            raise CloudRefused(f"{service} answers {response.status_code} to {path}")
        found: dict[str, Any] = response.json()
        return found

    def _call(
        self, method: str, path: str, body: Any = None, none_when: Sequence[int] = ()
    ) -> dict[str, Any] | None:
        """One request to Heat. What changes nothing is tried again when the way there fails."""
        tries = TRIES if method == "GET" else 1
        for attempt in range(tries):
            try:
                more = {} if body is None else {"json": body}
                response = self._connection.orchestration.request(path, method, **more)
                break
            except self._errors as error:
                if attempt == tries - 1:
                    raise self._refused("asking Heat", error) from None
                time.sleep(TRY_PAUSE_S)
        if response.status_code in none_when:
            return None
        if response.status_code >= 400:
            raise CloudRefused(f"Heat refuses: {_said(response)}")
        try:
            found: dict[str, Any] = response.json()
        except ValueError:
            return {}  # "accepted", or nothing at all
        return found

    def _refused(self, doing: str, error: Exception) -> CloudRefused:
        return CloudRefused(f"{doing}: {' '.join(str(error).split())[:300]}")


def _said(response: Any) -> str:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    return explain(message.replace("ERROR: ", ""))


def _event(raw: Mapping[str, Any], root: str) -> Event:
    own = raw["resource_name"] == root and _stack_name(raw) == root
    return Event(
        id=str(raw["id"]),
        path="" if own else _path(raw, root),
        status=str(raw["resource_status"]),
        reason=str(raw.get("resource_status_reason") or ""),
    )


def _twice(raw: Mapping[str, Any], root: str) -> bool:
    """A nested stack's word on itself, which the resource that it is has too."""
    return bool(raw["resource_name"] == _stack_name(raw) != root)


def _stack_name(raw: Mapping[str, Any]) -> str:
    link = next((ln["href"] for ln in raw.get("links", ()) if ln["rel"] == "stack"), "")
    parts = link.split("/stacks/", maxsplit=1)[-1].split("/")
    return str(parts[0])


def _path(raw: Mapping[str, Any], root: str) -> str:
    """`gateways.0.server`: a nested stack is named after its parent, its resource, and chance."""
    within = [m[1] for m in _NESTED.finditer(_stack_name(raw).removeprefix(root))]
    return ".".join([*within, str(raw["resource_name"])])


def _properties(image: Any) -> dict[str, Any]:
    """An image's own properties: newer releases of the SDK make some of them attributes."""
    if image is None:
        return {}
    own = dict(getattr(image, "properties", None) or {})
    on = getattr(image, "is_hw_vif_multiqueue_enabled", None)
    if on is None:
        on = getattr(image, "hw_vif_multiqueue_enabled", None)
    return own if on is None else own | {"hw_vif_multiqueue_enabled": str(on).lower()}


def _natural(text: str) -> list[Any]:
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", text)]
