"""What Heat's events say, for a person: which part failed, why, and the way out. Pure.

Knows: the shape of Heat's reasons, which nest one inside the other, and the ones that are met. Must
not know how events are obtained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


_KNOWN: Final[Sequence[tuple[str, str]]] = (
    (
        r"No valid host was found",
        "Nova found no host for it: too few hosts for anti-affinity, too little room, or a zone "
        "that has none; anti_affinity: soft-anti-affinity lets gateways share a host",
    ),
    (
        r"Quota exceeded for resources: \[?'?(\w+)",
        "the project's quota of {1} is used up: ask for more, then 'bgfctl openstack check'",
    ),
    (
        r"Quota exceeded,? ?(?:for )?(.*)",
        "a quota of the project is used up ({1}): ask for more, then 'bgfctl openstack check'",
    ),
    (
        r"Exceeded maximum (?:amount|number) of allowed address pair",
        "its port may not have so many address pairs: have Neutron's max_allowed_address_pair "
        "raised, or take fewer groups",
    ),
    (
        r"(No more IP addresses available.*)",
        "{1}: widen the pool, or give a larger prefix",
    ),
    (
        r"^(\d+ of \d+ received)",
        "it did not say within its time that it is ready ({1}): look at its console "
        "(openstack console log show), and whether the management network reaches Heat's API",
    ),
    (
        r"port[- ]security.*(?:disabled|off)",
        "port security is off on its network, so security groups cannot be: switch it on",
    ),
    (
        r"The (?P<what>Image|Flavor|Key|Network|Subnet|Router)[^(]*\((?P<name>[^)]*)\) "
        r"could not be found",
        "there is no {what} '{name}' in this project: name one that is there",
    ),
    (
        r"No (?P<what>\w+?)s matching \{'name': '(?P<name>[^']*)'\}",
        "there is no {what} '{name}' in this project: name one that is there",
    ),
    (
        r"Unable to find (?P<what>network|subnet|router) with name or id '(?P<name>[^']*)'",
        "there is no {what} '{name}' in this project: name one that is there",
    ),
)
"""A pattern (in any case) of Heat's innermost words, and what is said for it."""


def explain(reason: str) -> str:
    """One sentence for a person; Heat's own innermost words where none is known."""
    text = innermost(reason)
    for pattern, sentence in _KNOWN:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            named = {k: v.lower() if k == "what" else v for k, v in match.groupdict().items()}
            return sentence.format(match[0], *match.groups(), **named)
    return text or "Heat gives no reason"


def failures(events: Sequence[Event]) -> list[str]:
    """What failed innermost, a line per reason; what failed only because of it is left out."""
    failed = [event for event in events if event.failed and event.path]
    parts: dict[str, dict[str, None]] = {}
    for event in failed:
        if "aborted" in event.reason or "cancelled" in event.reason.lower():
            continue
        inner = [
            other
            for other in failed
            if other.path != event.path and other.path.startswith(event.path + ".")
        ]
        if not inner:
            parts.setdefault(explain(event.reason), {})[part_of(event.path)] = None
    lines = []
    for reason, (first, *more) in parts.items():
        lines.append(f"{first}{f' (and {len(more)} more)' if more else ''}: {reason}")
    return lines


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
    *parents, last = event.path.split(".")
    verb = event.status.split("_", maxsplit=1)[0]
    if event.failed:
        return f"{part_of(event.path)} failed"
    word = _WORDS.get((last, verb)) if parents else None
    if word is not None:
        return f"{part_of('.'.join(parents))} {word}"
    if not parents and last in _TOLD and verb in _VERBS:
        return f"{last.replace('_', ' ')}: {_VERBS[verb]}"
    return ""


_WORDS: Final[Mapping[tuple[str, str], str]] = {
    ("server", "CREATE"): "is built",
    ("server", "UPDATE"): "is changed",
    ("server", "DELETE"): "is gone",
    ("ready", "CREATE"): "says that it is ready",
}
_TOLD: Final = frozenset(
    {"management_net", "access_net", "core_net", "router", "security", "service_groups"}
    | {"gateway_ports", "gateways", "state_nodes"}
)
_VERBS: Final = {"CREATE": "complete", "DELETE": "gone"}
"""Of whole parts. Heat calls each of them updated in every update, changed or not."""
