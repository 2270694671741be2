"""The order in which a cluster comes, changes and goes. Performs through cloud and hands.

Knows: what has to be done before what, and how long anybody waits. Must not know click,
openstacksdk, ssh. Whatever is interrupted can be typed again: each step looks first at what is
there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bgf.errors import ConfigError
from bgf.openstack.errors import CloudRefused, NodeRefused
from bgf.openstack.hands import Nodes
from bgf.openstack.messages import Event, explain, failures, progress
from bgf.openstack.plan import Scaling, Size, size_of, upgrade_order

POLL_S: Final = 3.0
DRAIN_S: Final = 90
READY_S: Final = 300.0
DRAINED: Final = "it is drained"
"""What `bgfctl ready` says of a drained node: no reason against giving it back."""
KEY_BYTES: Final = 32
Say = Callable[[str], None]


class StackLike(Protocol):
    """What is asked of a stack; `cloud.Stack` is one."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def outputs(self) -> Mapping[str, Any]: ...
    @property
    def busy(self) -> bool: ...
    @property
    def failed(self) -> bool: ...


class Stacks(Protocol):
    """What is done with stacks; `cloud.Cloud` does it. Raises CloudRefused."""

    def stack(self, name: str, outputs: bool = True) -> StackLike | None: ...
    def create(
        self, name: str, template: str, files: Mapping[str, str], parameters: Mapping[str, Any],
        timeout_min: int,
    ) -> None: ...  # fmt: skip
    def update(
        self, stack: Any, template: str, files: Mapping[str, str], parameters: Mapping[str, Any],
        timeout_min: int,
    ) -> None: ...  # fmt: skip
    def delete(self, stack: Any) -> None: ...
    def events(self, stack: Any, after: str = "") -> list[Event]: ...
    def servers(self, name: str) -> list[dict[str, str]]: ...


@dataclass(slots=True)
class Operator:
    """One cluster and what is needed to change it. `say` gets a line per step."""

    name: str
    cloud: Stacks
    template: str
    files: Mapping[str, str]
    say: Say
    timeout_min: int = 60
    pause_s: float = POLL_S
    clock: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)

    def there(self) -> StackLike:
        """The cluster's stack. Raises ConfigError when there is none."""
        stack = self.cloud.stack(self.name)
        if stack is None:
            raise ConfigError(f"there is no cluster '{self.name}' in this project")
        return stack

    def settled(self) -> StackLike:
        """The same, not in the middle of something. Raises CloudRefused."""
        stack = self.there()
        if stack.busy:
            raise CloudRefused(f"{self.name} is in the middle of {stack.status}: wait for its end")
        return stack

    # -- up and down ------------------------------------------------------------------------------

    def up(self, parameters: Mapping[str, Any]) -> StackLike:
        """Create it and wait until every node has said that it is ready."""
        if self.cloud.stack(self.name) is not None:
            raise ConfigError(
                f"a stack '{self.name}' is there already: 'bgfctl openstack status {self.name}'; "
                f"'bgfctl openstack down {self.name}' removes it"
            )
        given = dict(parameters)
        given.setdefault("state_image", given.get("image"))
        given.setdefault("state_flavor", given.get("flavor"))
        given.setdefault("cluster_key", f"1 {secrets.token_hex(KEY_BYTES)}")
        size = size_of(given)
        self.say(f"creating {self.name}: {size.groups}+{size.standbys} gateways, 3 state nodes")
        self.cloud.create(self.name, self.template, self.files, given, self.timeout_min)
        return self._wait(self.there(), "CREATE", "")

    def down(self) -> None:
        """Delete it and wait until nothing is left."""
        stack = self.cloud.stack(self.name)
        if stack is None:
            self.say(f"there is no cluster '{self.name}'")
            return
        last = self._last_event(stack)
        self.say(f"deleting {self.name}")
        self.cloud.delete(stack)
        self._wait(stack, "DELETE", last)

    # -- change -----------------------------------------------------------------------------------

    def scale(self, nodes: Nodes, after: Size) -> StackLike:
        """To another number of groups or gateways, while calls go on."""
        stack = self.settled()
        scaling = Scaling(size_of(stack.parameters), after)
        if upgraded := _listed(stack.parameters.get("upgraded")):
            raise CloudRefused(
                f"an upgrade is not finished ({', '.join(upgraded)} have it): type it again to "
                "finish it, or roll back with --rollback"
            )
        if scaling.before == after and not stack.failed:
            self.say(f"{self.name} is of that size already")
            self._tell_files(nodes, stack, scaling.stay)
            return stack
        self.say(f"{self.name} {scaling.sentence()}")
        for group in scaling.closed:
            self._require_idle(nodes, scaling, group)
        for node in scaling.drained:
            self._drain(nodes, node)
        stack = self._update(
            stack,
            {"groups": after.groups, "standbys": after.standbys},
            "the stack grows or shrinks",
        )
        self._tell_files(nodes, stack, scaling.stay)
        return stack

    def upgrade(self, nodes: Nodes, image: str) -> StackLike:
        """One gateway after the other: drain, rebuild with `image`, wait until ready, go on."""
        stack = self.settled()
        now = stack.parameters
        size = size_of(now)
        done = _listed(now.get("upgraded"))
        begun = str(now.get("next_image") or "")
        if done and begun != image:
            raise CloudRefused(
                f"an upgrade to '{begun}' is not finished ({', '.join(done)} have it): finish it "
                "first, or roll back with --rollback"
            )
        if now.get("image") == image and not done:
            self.say(f"{self.name} runs {image} already")
            return stack
        for node in done:
            if not self._is_back(nodes, node):
                self.say(f"{node} is not back yet")
                self._refresh(nodes, stack, node)
        order = upgrade_order(size.gateways, done, self._carries(nodes, size.gateways))
        for node in order:
            self._drain(nodes, node)
            done = [*done, node]
            stack = self._update(
                stack, {"next_image": image, "upgraded": done}, f"{node} is rebuilt with {image}"
            )
            nodes.rebuilt(node)
            self._refresh(nodes, stack, node)
        last = {"image": image, "next_image": "", "upgraded": []}
        return self._update(stack, last, f"all gateways run {image}")

    def roll_back(self, nodes: Nodes) -> StackLike:
        """Give the gateways that have the next image the old one again, one after the other."""
        stack = self.settled()
        done = _listed(stack.parameters.get("upgraded"))
        if not done:
            self.say(f"no upgrade of {self.name} is under way")
            return stack
        for node in reversed(done):
            self._drain(nodes, node)
            done = [other for other in done if other != node]
            left = {"upgraded": done} if done else {"upgraded": [], "next_image": ""}
            stack = self._update(stack, left, f"{node} gets its old image again")
            nodes.rebuilt(node)
            self._refresh(nodes, stack, node)
        self.say("the upgrade is undone")
        return stack

    # -- steps ------------------------------------------------------------------------------------

    def _drain(self, nodes: Nodes, node: str) -> None:
        self.say(f"{node} is drained")
        words = ("drain", node, "--wait", str(DRAIN_S))
        found = nodes.ask(node, *words, within_s=DRAIN_S + 10)
        if found.get("carries"):
            carries = ", ".join(map(str, found["carries"]))
            why = found.get("sentence") or "nobody else is ready"
            raise NodeRefused(
                f"{node} still carries {carries} after {DRAIN_S} s ({why}) and stays as it was: "
                "'bgfctl ready' on the others says why, 'bgfctl undrain' takes it back"
            )

    def _refresh(self, nodes: Nodes, stack: StackLike, node: str) -> None:
        """A node that was built anew from an old user data, or has another file."""
        file = files_of(stack).get(node)
        if file is not None:
            self._reached(nodes, node)
            nodes.write_file(node, file)
            nodes.restart(node)
        self._until(node, lambda: _against(nodes.ask(node, "ready", node), node), "is ready")
        nodes.ask(node, "undrain", node)

    def _tell_files(self, nodes: Nodes, stack: StackLike, stay: tuple[str, ...]) -> None:
        """Those that stand by first, so that there is somebody to drain to. Who has it already,
        from an earlier attempt, is left alone."""
        files = files_of(stack)
        late = [n for n in stay if n in files and not nodes.has_file(n, files[n])]
        for node in upgrade_order(late, (), self._carries(nodes, stay)):
            self._drain(nodes, node)
            self.say(f"{node} gets its new file")
            self._refresh(nodes, stack, node)

    def _is_back(self, nodes: Nodes, node: str) -> bool:
        """Whether it was given back and is ready: an earlier attempt may have ended before."""
        try:
            return "failed" not in nodes.ask(node, "ready", node)
        except NodeRefused:
            return False

    def _reached(self, nodes: Nodes, node: str) -> None:
        def silent() -> str:
            nodes.ask(node, "status")
            return ""

        self._until(node, silent, "answers")

    def _until(self, node: str, against: Callable[[], str], what: str) -> None:
        deadline = self.clock() + READY_S
        while True:
            try:
                last = against()
            except NodeRefused as error:
                last = str(error)
            if not last:
                return
            if self.clock() >= deadline:
                raise NodeRefused(
                    f"{node} was waited for {READY_S:.0f} s until it {what}: {last}; it stays "
                    "drained, the others serve: mend it and type the command again"
                )
            self.sleep(self.pause_s)

    def _carries(self, nodes: Nodes, gateways: tuple[str, ...]) -> dict[str, int]:
        """How many groups each serves."""
        found = {}
        for node in gateways:
            said = nodes.ask(node, "status")
            groups = said.get("groups")
            rows = groups if isinstance(groups, list) else []
            owned = [g for g in rows if isinstance(g, dict) and g.get("owner") == node]
            found[node] = len(owned)
        return found

    def _require_idle(self, nodes: Nodes, scaling: Scaling, group: str) -> None:
        """A group goes only when its calls are over."""
        for node in scaling.before.gateways:
            groups = nodes.ask(node, "status").get("groups")
            for row in groups if isinstance(groups, list) else []:
                if isinstance(row, dict) and row.get("group") == group and row.get("owner") == node:
                    calls = int(row.get("sessions") or 0)
                    if calls:
                        raise NodeRefused(
                            f"{group} has {calls} calls on {node}: take its socket out of the "
                            "proxies' list, wait until they are over, then type this again"
                        )

    def _update(self, stack: StackLike, parameters: Mapping[str, Any], what: str) -> StackLike:
        self.say(what)
        last = self._last_event(stack)
        self.cloud.update(stack, self.template, self.files, parameters, self.timeout_min)
        return self._wait(stack, "UPDATE", last)

    # -- waiting ----------------------------------------------------------------------------------

    def _last_event(self, stack: StackLike) -> str:
        last = ""
        while events := self.cloud.events(stack, last):
            last = events[-1].id
        return last

    def _wait(self, stack: StackLike, action: str, after: str) -> StackLike:
        """Until Heat has ended `action`, which it does by its own timeout at the latest."""
        deadline = self.clock() + (self.timeout_min + 5) * 60
        seen: list[Event] = []
        began = False
        while True:
            now = self.cloud.stack(self.name, outputs=False)
            events = self.cloud.events(stack, after) if now is not None else []
            for event in events:
                after = event.id
                seen.append(event)
                line = progress(event)
                if line:
                    self.say(line)
            if now is None:
                if action == "DELETE":
                    return stack
                raise CloudRefused(f"{self.name} was deleted meanwhile")
            began |= any(not e.path and e.status.startswith(action) for e in seen)
            if began and not now.busy and not events:
                break
            if self.clock() >= deadline:
                raise CloudRefused(f"{self.name}: Heat did not end in {self.timeout_min + 5} min")
            self.sleep(self.pause_s)
        if now.failed:
            lines = failures(seen) or [explain(now.reason)]
            way = {
                "CREATE": f"'bgfctl openstack down {self.name}' removes what there is",
                "UPDATE": "what ran before still runs; mend it and type the command again",
                "DELETE": "mend it and type the command again",
            }[action]
            raise CloudRefused(f"{'; '.join(lines[:5])} ({now.status}; {way})")
        return self.there()


def _against(said: Mapping[str, Any], node: str) -> str:
    """What speaks against giving a drained node back, by its own `bgfctl ready`."""
    if "failed" not in said:
        return ""
    rows = said.get("nodes")
    own = [r for r in rows if r.get("node") == node] if isinstance(rows, list) else []
    whys = [str(why) for row in own for why in row.get("why") or ()]
    rest = [why for why in whys if why != DRAINED]
    return (rest[0] if rest else "") if whys else str(said["failed"])


def files_of(stack: StackLike) -> dict[str, str]:
    """The node.toml of each gateway, from the stack's outputs."""
    files, nodes = stack.outputs.get("files"), stack.outputs.get("nodes")
    if not isinstance(files, list) or not isinstance(nodes, list):
        return {}
    return {str(node["name"]): str(file) for node, file in zip(nodes, files, strict=False)}


def addresses_of(stack: StackLike) -> dict[str, str]:
    """Management address by gateway."""
    nodes = stack.outputs.get("nodes")
    rows = nodes if isinstance(nodes, list) else []
    return {str(n["name"]): str(n["address"]) for n in rows if isinstance(n, dict)}


def servers_of(stack: StackLike) -> dict[str, str]:
    """Nova's identity by gateway."""
    nodes = stack.outputs.get("nodes")
    rows = nodes if isinstance(nodes, list) else []
    return {str(n["name"]): str(n.get("server", "")) for n in rows if isinstance(n, dict)}


def _listed(value: object) -> list[str]:
    """A list parameter, as Heat gives it back."""
    if isinstance(value, list):
        return [str(v) for v in value]
    text = str(value or "").strip("[]")
    return [part.strip(" '\"u") for part in text.split(",") if part.strip(" '\"u")]
