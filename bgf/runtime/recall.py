"""The last lines that a process said of each group, kept for who asks how a takeover went.

Knows: log records with the fields of `journald.FIELDS`. Must not know what a line means.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from bgf.runtime.history_file import boot_id
from bgf.runtime.process import now_ns

LINES_PER_GROUP_MAX: Final = 96
GROUPS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 600


class Recall(logging.Handler):
    """Lines about a group and no call, by group, oldest first: a decision each."""

    def __init__(self, node: str) -> None:
        super().__init__(logging.INFO)
        self._node = node
        self._boot = boot_id()
        self._lines: dict[str, deque[dict[str, Any]]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        group = getattr(record, "group", None)
        if not isinstance(group, str) or getattr(record, "call", None) is not None:
            return
        if group not in self._lines and len(self._lines) >= GROUPS_MAX:
            return
        kept = self._lines.setdefault(group, deque(maxlen=LINES_PER_GROUP_MAX))
        epoch = getattr(record, "epoch", None)
        kept.append(
            {
                "event": str(getattr(record, "reason", "") or "said"),
                "group": group,
                "node": self._node,
                "epoch": epoch if isinstance(epoch, int) else 0,
                "at_ns": now_ns(),
                "sentence": record.getMessage()[:TEXT_CHARS_MAX],
                "reason": "",
                "last": "",
            }
        )

    def of(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers `history`, in the form of a failover process's. Times are of this boot."""
        group = str(request.get("group", ""))
        events = list(self._lines.get(group, ()))
        return {"group": group, "events": events, "now_ns": now_ns(), "boot": self._boot}
