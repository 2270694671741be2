"""A cluster on OpenStack: sizes, findings, Heat's words, and the order in which things are done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgf.errors import ConfigError
from bgf.openstack import files, findings, messages, plan
from bgf.openstack.errors import CloudRefused, NodeRefused
from bgf.openstack.messages import Event
from bgf.openstack.operate import Operator

SIZES = st.builds(plan.Size, st.integers(1, 30), st.integers(1, 10))


@given(SIZES, SIZES)
def test_scaling_drains_who_goes_and_tells_who_stays(before: plan.Size, after: plan.Size) -> None:
    scaling = plan.Scaling(before, after)
    assert set(scaling.drained) | set(scaling.stay) == set(before.gateways)
    assert set(scaling.stay) | set(scaling.added) == set(after.gateways)
    assert not set(scaling.drained) & set(scaling.stay)
    assert not (scaling.drained and scaling.added)
    assert set(scaling.closed) == set(before.group_ids) - set(after.group_ids)


@given(st.dictionaries(st.sampled_from(["gw1", "gw2", "gw3", "gw4"]), st.integers(0, 3)))
def test_who_carries_least_is_upgraded_first(carries: dict[str, int]) -> None:
    gateways = ("gw1", "gw2", "gw3", "gw4")
    order = plan.upgrade_order(gateways, ["gw2"], carries)
    assert sorted(order) == ["gw1", "gw3", "gw4"]
    loads = [carries.get(node, 0) for node in order]
    assert loads == sorted(loads)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"access_cidr_ipv4": "", "access_cidr_ipv6": ""}, "access has neither IPv4 nor IPv6"),
        ({"core_network": "c"}, "core has neither"),
        ({"management_network": "m"}, "without management_subnet"),
        ({"media_port_min": 30000, "media_port_max": 30000}, "media_port_max = 30000"),
        ({"media_port_min": "low"}, "must be numbers"),
    ],
)
def test_what_no_cloud_need_be_asked_for(parameters: dict[str, Any], says: str) -> None:
    (line,) = plan.problems_of(parameters)
    assert says in line


def test_names_that_cannot_be(tmp_path: Path) -> None:
    for name in ("", "1a", "a" * 33, "a_b", "a b"):
        with pytest.raises(ConfigError, match="cannot be a cluster's name"):
            plan.checked_name(name)
    for text, says in (
        ("[", "not YAML"), ("[]", "environment of Heat"), ("parameters: 1", "environment of Heat"),
        ("parameters: {}\nresources: {}", "'resources' means nothing"),
    ):  # fmt: skip
        (tmp_path / "e.yaml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            files.environment(tmp_path / "e.yaml")


def facts(**more: Any) -> findings.Facts:
    known: dict[str, Any] = {
        "services": frozenset({"compute", "network", "image", "orchestration"}),
        "extensions": frozenset(findings.EXTENSIONS),
        "image_properties": {"hw_vif_multiqueue_enabled": "true"},
        "flavor_vcpus": 2,
        "gateways": 3,
    }
    return findings.Facts(**{**known, **more})


NEEDS = plan.needs_of({}, {"vcpus": 2, "ram": 4096}, {"vcpus": 1, "ram": 2048})
NET = findings.NetworkFacts("access", "users", 1500, versions=(4, 6))


def test_a_good_project_has_nothing_against_it() -> None:
    found = findings.examine(facts(), NEEDS)
    assert findings.may_begin(found)
    assert {f.level for f in found} == {"ok"}


@pytest.mark.parametrize(
    ("more", "level", "says"),
    [
        ({"services": frozenset({"compute"})}, "fail", "no orchestration service"),
        ({"missing": ("there is no image 'x'",)}, "fail", "there is no image 'x'"),
        ({"compute": {"instances": findings.Quota(10, 7)}}, "fail", "6 needed, 3 of 10 are free"),
        ({"network": {"port": findings.Quota(20, 20)}}, "fail", "0 of 20 are free"),
        ({"extensions": frozenset()}, "fail", "lacks the extension allowed-address-pairs"),
        (
            {"extensions": frozenset({*findings.EXTENSIONS, "dvr"})},
            "warn",
            "behind a distributed router",
        ),
        ({"networks": [findings.NetworkFacts("core", "c", 1200, versions=(6,))]}, "fail", "1280"),
        ({"networks": [findings.NetworkFacts("core", "c", 1400, versions=(6,))]}, "warn", "1400"),
        (
            {"networks": [NET, findings.NetworkFacts("core", "c", 9000, versions=(4,))]},
            "warn",
            "access and core differ (users 1500, c 9000)",
        ),
        ({"networks": [findings.NetworkFacts("core", "c", 1500)]}, "warn", "no IPv6 anywhere"),
        (
            {"networks": [findings.NetworkFacts("core", "c", 1500, port_security=False)]},
            "fail",
            "port security is off",
        ),
        (
            {"networks": [findings.NetworkFacts("core", "c", 1500, True, (6,), ("r1",))]},
            "warn",
            "router r1 is distributed",
        ),
        (
            {"networks": [findings.NetworkFacts("core", "c", 1500, subnet_elsewhere=("s",))]},
            "fail",
            "subnet s is not on c",
        ),
        ({"image_properties": {}}, "warn", "hw_vif_multiqueue_enabled=true"),
        ({"flavor_vcpus": 1}, "warn", "has 1 core"),
        ({"hosts": 2}, "fail", "3 hosts are needed"),
    ],
)
def test_what_is_found(more: dict[str, Any], level: str, says: str) -> None:
    found = findings.examine(facts(**more), NEEDS)
    assert any(f.level == level and says in f.sentence for f in found), found
    assert findings.may_begin(found) is (level == "warn")


def test_many_groups_need_many_address_pairs() -> None:
    needs = plan.needs_of({"groups": 6}, {}, {})
    found = findings.examine(facts(gateways=7), needs)
    assert any("gets 12 address pairs" in f.sentence for f in found)


REASONS = {
    "Resource CREATE failed: ResourceInError: resources[0].resources.server: Went to status ERROR "
    'due to "Message: No valid host was found. , Code: 500"': "Nova found no host",
    "OverQuotaClient: resources.control: Quota exceeded for resources: ['port'].": "quota of port",
    "Forbidden: resources.server: Quota exceeded for instances: Requested 1, but already used 5 of "
    "5 instances (HTTP 403)": "a quota of the project is used up (instances: Requested 1",
    "WaitConditionTimeout: resources.ready: 0 of 1 received": "did not say within its time",
    "WaitConditionFailure: resources.ready: gw1: not ready in time: no etcd": "gw1: not ready in",
    "The Image (bgf) could not be found.": "there is no image 'bgf'",
    "Error validating value 'x': No images matching {'name': 'x'}.": "there is no image 'x'",
    "Unable to find network with name or id 'x'": "there is no network 'x'",
    "": "Heat gives no reason",
}


@pytest.mark.parametrize("reason", REASONS)
def test_heats_reasons_become_a_sentence(reason: str) -> None:
    said = messages.explain(reason)
    assert REASONS[reason] in said
    assert "\n" not in said


@given(st.text())
def test_no_reason_is_too_odd(reason: str) -> None:
    assert len(messages.explain(reason)) < 2 * messages.REASON_CHARS_MAX + 400


def test_only_the_innermost_failure_is_told() -> None:
    reason = "ResourceInError: resources.server: No valid host was found."
    events = [
        Event("1", "gateways.1.server", "CREATE_FAILED", reason),
        Event("2", "gateways.1", "CREATE_FAILED", f"resources[1]: {reason}"),
        Event("3", "gateways", "CREATE_FAILED", f"Resource CREATE failed: {reason}"),
        Event("4", "state_nodes", "CREATE_FAILED", "CREATE aborted"),
        Event("5", "", "CREATE_FAILED", f"Resource CREATE failed: {reason}"),
    ]
    (line,) = messages.failures(events)
    assert line.startswith("gateway gw2, server: Nova found no host")
    full = "OverQuotaClient: resources.core: Quota exceeded for resources: ['port']."
    events = [Event(str(n), f"gateway_ports.{n}.core", "CREATE_FAILED", full) for n in range(3)]
    (line,) = messages.failures(events)
    assert line.startswith("gateway gw1, core (and 2 more): the project's quota of port is used up")
    assert messages.progress(Event("6", "gateways.0.ready", "CREATE_COMPLETE")) == (
        "gateway gw1 says that it is ready"
    )


class FakeStack:
    """A stack as Heat would describe it."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.id, self.name, self.status, self.reason = "id", "voice", "CREATE_COMPLETE", ""
        self.parameters = parameters

    @property
    def busy(self) -> bool:
        return False

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED")

    @property
    def outputs(self) -> Mapping[str, Any]:
        names = plan.size_of(self.parameters).gateways
        return {
            "nodes": [{"name": n, "address": f"10.0.0.{i}"} for i, n in enumerate(names)],
            "files": [f"{n} of {len(names)}" for n in names],
        }


class FakeHeat:
    """Heat that does at once what it is told, or fails with an event."""

    def __init__(self, parameters: dict[str, Any] | None = None) -> None:
        self.now = None if parameters is None else FakeStack(dict(parameters))
        self.fails: Event | None = None
        self.log: list[str] = []
        self._events: list[Event] = []

    def stack(self, name: str, outputs: bool = True) -> FakeStack | None:
        return self.now

    def create(
        self, name: str, template: str, files: Any, parameters: Any, timeout_min: int
    ) -> None:
        self.now = FakeStack(dict(parameters))
        self._end("CREATE")

    def update(
        self, stack: Any, template: str, files: Any, parameters: Any, timeout_min: int
    ) -> None:
        assert self.now is not None
        self.now.parameters |= parameters
        self.log.append("update " + " ".join(f"{k}={v}" for k, v in parameters.items()))
        self._end("UPDATE")

    def delete(self, stack: Any) -> None:
        self.now = None

    def servers(self, name: str) -> list[dict[str, str]]:
        return []

    def events(self, stack: Any, after: str = "") -> list[Event]:
        return self._events[int(after or 0) :]

    def _end(self, action: str) -> None:
        assert self.now is not None
        ends = "COMPLETE"
        if self.fails is not None:
            self._add(self.fails.path, self.fails.status, self.fails.reason)
            ends = "FAILED"
        self.now.status = f"{action}_{ends}"
        self._add("", self.now.status)

    def _add(self, path: str, status: str, reason: str = "") -> None:
        self._events.append(Event(str(len(self._events) + 1), path, status, reason))


class FakeNodes:
    """Gateways that say what they are told to say; what was done to them, in `log`."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.carries: dict[str, list[str]] = {}
        self.stuck: set[str] = set()
        self.against: list[str] = []
        self.drained: set[str] = set()
        self.calls = 0

    def ask(self, node: str, *words: str, within_s: float = 0) -> dict[str, Any]:
        if words[0] != "status":
            self.log.append(f"{node} {words[0]}")
        if words[0] in ("drain", "undrain"):
            (self.drained.add if words[0] == "drain" else self.drained.discard)(node)
        why = ["it is drained"] * (node in self.drained) + self.against
        if words[0] == "ready" and why:
            return {"failed": "not well", "nodes": [{"node": node, "why": why}]}
        if words[0] == "drain":
            return {"carries": self.carries.get(node, []) if node in self.stuck else []}
        if words[0] == "status":
            rows = [
                {"group": g, "owner": node, "sessions": self.calls}
                for g in self.carries.get(node, [])
            ]
            return {"groups": rows}
        return {}

    def has_file(self, node: str, text: str) -> bool:
        return f"{node} file '{text}'" in self.log

    def write_file(self, node: str, text: str) -> None:
        self.log.append(f"{node} file '{text}'")

    def restart(self, node: str) -> None:
        self.log.append(f"{node} restart")

    def rebuilt(self, node: str) -> None:
        self.log.append(f"{node} rebuilt")


def operator(heat: FakeHeat, said: list[str] | None = None) -> Operator:
    lines: list[str] = [] if said is None else said
    return Operator("voice", heat, "", {}, lines.append, sleep=lambda _: None)


def test_up_makes_a_key_and_says_what_comes() -> None:
    heat, said = FakeHeat(), list[str]()
    operator(heat, said).up({"image": "i", "flavor": "f", "groups": 2})
    assert heat.now is not None
    assert len(heat.now.parameters["cluster_key"]) == 66
    assert heat.now.parameters["state_image"] == "i"
    assert said[0] == "creating voice: 2+1 gateways, 3 state nodes"
    with pytest.raises(ConfigError, match="is there already"):
        operator(heat).up({})


def test_what_fails_is_named_with_the_way_out() -> None:
    heat = FakeHeat()
    heat.fails = Event(
        "", "gateways.0.ready", "CREATE_FAILED", "WaitConditionTimeout: 0 of 1 received"
    )
    with pytest.raises(CloudRefused, match=r"gateway gw1, ready: it did not say .*down voice"):
        operator(heat).up({"image": "i"})


def test_scaling_in_drains_first_and_tells_the_others_after() -> None:
    heat = FakeHeat({"groups": 1, "standbys": 2})
    nodes = FakeNodes(heat.log)
    nodes.carries = {"gw1": ["g1"]}
    operator(heat).scale(nodes, plan.Size(1, 1))
    assert heat.log == [
        "gw3 drain", "update groups=1 standbys=1",
        "gw2 drain", "gw2 file 'gw2 of 2'", "gw2 restart", "gw2 ready", "gw2 undrain",
        "gw1 drain", "gw1 file 'gw1 of 2'", "gw1 restart", "gw1 ready", "gw1 undrain",
    ]  # fmt: skip


def test_scaling_that_was_interrupted_goes_on_when_it_is_typed_again() -> None:
    heat = FakeHeat({"groups": 1, "standbys": 2})
    nodes = FakeNodes(heat.log)
    nodes.carries, nodes.stuck = {"gw1": ["g1"]}, {"gw1"}
    with pytest.raises(NodeRefused, match="gw1 still carries g1"):
        operator(heat).scale(nodes, plan.Size(1, 1))
    nodes.stuck = set()
    heat.log.remove("gw1 drain")
    told = len(heat.log)
    for _ in range(2):
        operator(heat).scale(nodes, plan.Size(1, 1))
    assert heat.log[told:] == [
        "gw1 drain", "gw1 file 'gw1 of 2'", "gw1 restart", "gw1 ready", "gw1 undrain"
    ]  # fmt: skip


def test_a_group_with_calls_does_not_go_nor_a_node_that_carries() -> None:
    heat = FakeHeat({"groups": 2, "standbys": 1})
    nodes = FakeNodes(heat.log)
    nodes.carries, nodes.calls = {"gw2": ["g2"], "gw3": ["g1"]}, 7
    with pytest.raises(NodeRefused, match="g2 has 7 calls on gw2"):
        operator(heat).scale(nodes, plan.Size(1, 1))
    nodes.calls, nodes.stuck = 0, {"gw3"}
    with pytest.raises(NodeRefused, match="gw3 still carries g1"):
        operator(heat).scale(nodes, plan.Size(1, 1))
    assert not any(line.startswith("update") for line in heat.log)


def test_an_upgrade_goes_on_where_it_stopped_and_can_be_undone() -> None:
    heat = FakeHeat({"groups": 2, "standbys": 1, "image": "old"})
    nodes = FakeNodes(heat.log)
    nodes.carries = {"gw1": ["g1"], "gw2": ["g2"]}
    nodes.stuck = {"gw1"}
    with pytest.raises(NodeRefused, match="gw1 still carries g1"):
        operator(heat).upgrade(nodes, "new")
    assert heat.now is not None
    assert heat.now.parameters["upgraded"] == ["gw3"]
    with pytest.raises(CloudRefused, match="an upgrade to 'new' is not finished"):
        operator(heat).upgrade(nodes, "newer")
    nodes.stuck = set()
    operator(heat).upgrade(nodes, "new")
    done = [line for line in heat.log if line.startswith("update")]
    assert done == [
        "update next_image=new upgraded=['gw3']",
        "update next_image=new upgraded=['gw3', 'gw1']",
        "update next_image=new upgraded=['gw3', 'gw1', 'gw2']",
        "update image=new next_image= upgraded=[]",
    ]
    assert not nodes.drained
    heat.now.parameters |= {"image": "old", "next_image": "bad", "upgraded": ["gw3", "gw1"]}
    nodes.drained = {"gw1"}
    nodes.stuck = {"gw2"}
    told = len(heat.log)
    with pytest.raises(NodeRefused, match="gw2 still carries"):
        operator(heat).upgrade(nodes, "bad")
    assert heat.log[told:] == [
        "gw3 ready", "gw1 ready", "gw1 file 'gw1 of 3'", "gw1 restart", "gw1 ready", "gw1 undrain",
        "gw2 drain",
    ]  # fmt: skip
    operator(heat).roll_back(nodes)
    assert heat.now.parameters["upgraded"] == []
    assert heat.now.parameters["next_image"] == ""
    assert heat.log.index("gw1 undrain") < len(heat.log)
