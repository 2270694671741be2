"""What is told when it changes: who is silent, what is wrong with whom, warnings.

Knows: what was told last. Must not know what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from failover.decide import Plan
from failover.detector import Suspicion
from failover.registry import Ownership
from failover.timeline import Tell

MS: Final = 1_000_000


class News:
    """Of one node."""

    def __init__(self, me: str, tell: Tell) -> None:
        self._me = me
        self._tell = tell
        self._told: dict[str, str] = {}
        self._warned: tuple[str, ...] = ()

    def suspicion(self, suspicion: Suspicion, owners: Mapping[str, Ownership], now_ns: int) -> None:
        """A peer fell silent somewhere, or is back."""
        groups = [g for g, owner in sorted(owners.items()) if owner.node == suspicion.peer] or [""]
        name = "detected" if suspicion.paths_silent else "recovered"
        age_ms = (now_ns - suspicion.since_ns) / MS
        text = f"{self._me} hears {suspicion}"
        text += f", last heard {age_ms:.0f} ms ago" if suspicion.paths_silent else ""
        for group in groups:
            epoch = owners[group].epoch if group else 0
            self._tell(name, group, suspicion.peer, epoch, text)

    def plan(
        self, plan: Plan, owners: Mapping[str, Ownership], last_owner: Mapping[str, str]
    ) -> None:
        """Conditions and warnings, each time that one comes, changes or goes."""
        told = {node: condition.sentence for node, condition in plan.conditions.items()}
        for node, condition in plan.conditions.items():
            if condition.sentence == self._told.get(node):
                continue
            owned = [g for g, o in sorted(owners.items()) if o.node == node]
            lost = [g for g, last in sorted(last_owner.items()) if last == node]
            for group in owned or lost or [""]:
                epoch, why = owners[group].epoch if group in owned else 0, condition.state.value
                self._tell("condition", group, node, epoch, condition.sentence, reason=why)
        for node in sorted(self._told.keys() - told.keys()):
            self._tell("condition-over", "", node, 0, f"{node} is well again")
        for line in sorted(set(plan.warnings) - set(self._warned)):
            self._tell("warning", "", self._me, 0, line)
        for line in sorted(set(self._warned) - set(plan.warnings)):
            self._tell("warning-over", "", self._me, 0, f"no more: {line}")
        self._told, self._warned = told, plan.warnings
