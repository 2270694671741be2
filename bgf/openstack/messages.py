"""What Heat's events say, for a person: which part failed, why, and the way out. Pure.

Knows: the shape of Heat's reasons, which nest one inside the other, and the ones that are met. Must
not know how events are obtained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

REASON_CHARS_MAX: Final = 400

_WRAPPED = re.compile(
    r"^(?:Resource (?:CREATE|UPDATE|DELETE) failed: |resources(?:\.|\[)[\w\[\].]*?\]?[:.] ?"
    r"|(?:\w+Exception|\w+Error|\w+Client|BadRequest|Conflict|Forbidden|NotFound|ResourceInError"
    r"|WaitConditionFailure|WaitConditionTimeout|ResourceFailure|StackValidationFailed): )"
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stack or of one nested in it. `path` names the resource from the top."""

    id: str
    path: str
    type: str
    status: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED")


def innermost(reason: str) -> str:
    """A reason without the wrappings that each nesting adds."""
    text = " ".join(reason.split())
    while True:
        shorter = _WRAPPED.sub("", text, count=1)
        if shorter == text:
            return text[:REASON_CHARS_MAX]
        text = shorter


def _timeout(match: re.Match[str]) -> str:
    return (
        f"it did not say within its time that it is ready ({match[0]}): look at its console log "
        "(openstack console log show), and whether the management network reaches Heat's API"
    )


_KNOWN: Final[Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]]] = (
    (re.compile(r"No valid host was found.*", re.I), lambda m: (
        "Nova found no host for it: too few hosts for anti-affinity, too little room, or a zone "
        "that has none; anti_affinity: soft-anti-affinity lets gateways share a host")),
    (re.compile(r"Quota exceeded for resources: \[?'?(\w+)", re.I), lambda m: (
        f"the project's quota of {m[1]}s is used up: ask for more, then 'bgfctl openstack check'")),
    (re.compile(r"Quota exceeded(?: for (?P<what>[\w ,]+))?[^:]*:? ?(.*)", re.I), lambda m: (
        f"a quota of the project is used up{f' ({m[2][:120]})' if m[2] else ''}: ask for more, "
        "then 'bgfctl openstack check'")),
    (re.compile(r"Exceeded maximum (?:amount|number) of allowed address pair.*", re.I), lambda m: (
        "its port may not have so many address pairs: have Neutron's max_allowed_address_pair "
        "raised, or take fewer groups")),
    (re.compile(r"(?:No more IP addresses available|IpAddressGenerationFailure).*", re.I), lambda m: (
        f"{m[0]}: widen the pool, or give a larger prefix")),
    (re.compile(r"^(\d+) of (\d+) received"), _timeout),
    (re.compile(r"port[- ]security.*disabled|PortSecurity", re.I), lambda m: (
        "port security is off on its network, so security groups cannot be: switch it on")),
    (re.compile(r"The (Image|Flavor|Key|network|subnet|Router)[^(]*\(([^)]*)\) could not be found", re.I),
     lambda m: f"there is no {m[1].lower()} '{m[2]}' in this project: name one that is there")),
    (re.compile(r"Unable to find (network|subnet|router) with name or id '([^']*)'", re.I),
     lambda m: f"there is no {m[1]} '{m[2]}' in this project: name one that is there"),
)  # fmt: skip


def explain(reason: str) -> str:
    """One sentence for a person; Heat's own innermost words where none is known."""
    text = innermost(reason)
    for pattern, sentence in _KNOWN:
        match = pattern.search(text)
        if match:
            return sentence(match)
    return text or "Heat gives no reason"


def failures(events: Sequence[Event]) -> list[str]:
    """What failed first and innermost, one line each; what failed only because of it is left out."""
    failed = [event for event in events if event.failed and event.type]
    lines: dict[str, str] = {}
    for event in failed:
        if "aborted" in event.reason or "cancelled" in event.reason.lower():
            continue
        inner = [
            other
            for other in failed
            if other.path != event.path and other.path.startswith(event.path + ".")
        ]
        if not inner:
            lines.setdefault(event.path, f"{part_of(event.path)}: {explain(event.reason)}")
    return list(lines.values())


_PARTS: Final[Mapping[str, str]] = {
    "service_groups": "group g{n}",
    "gateway_ports": "gateway gw{n}",
    "gateways": "gateway gw{n}",
    "state_ports": "state node state{n}",
    "state_nodes": "state node state{n}",
}


def part_of(path: str) -> str:
    """`gateways.0.server` -> `gateway gw1, server`: the operator's words for a resource."""
    first, *rest = path.split(".")
    name = _PARTS.get(first)
    if name is None or not rest or not rest[0].isdigit():
        return path.replace("_", " ")
    inner = " ".join(rest[1:]).replace("_", " ")
    return name.format(n=int(rest[0]) + 1) + (f", {inner}" if inner else "")


def progress(event: Event) -> str:
    """What an event means for somebody who waits; empty for what is not worth a line."""
    if not event.status.endswith(("_COMPLETE", "_FAILED")) or not event.path:
        return ""
    parts = event.path.split(".")
    kind = event.type
    done = event.status.endswith("_COMPLETE")
    verb = event.status.split("_", maxsplit=1)[0]
    if not done:
        return f"{part_of(event.path)} failed"
    words = {
        ("OS::Nova::Server", "CREATE"): "is built",
        ("OS::Nova::Server", "UPDATE"): "is changed",
        ("OS::Nova::Server", "DELETE"): "is gone",
        ("OS::Heat::WaitCondition", "CREATE"): "says that it is ready",
    }
    word = words.get((kind, verb))
    if word is not None:
        return f"{part_of('.'.join(parts[:-1]))} {word}"
    if len(parts) == 1 and kind in _TOLD:
        return f"{event.path.replace('_', ' ')} {_VERBS[verb]}" if verb in _VERBS else ""
    return ""


_TOLD: Final = frozenset(
    {"OS::Heat::ResourceGroup", "OS::Neutron::Net", "OS::Neutron::Router", "OS::Nova::ServerGroup"}
)
_VERBS: Final = {"CREATE": "complete", "UPDATE": "changed", "DELETE": "gone"}
