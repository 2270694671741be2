"""A handle of an item whose copy has not come to this host."""

from __future__ import annotations

from collections.abc import Callable

import statestore
from statestore.errors import Away


class ThinHandle:
    """`copy`: is there one now? Elsewhere it can be read all the while."""

    def __init__(self, handle: statestore.Handle, copy: Callable[[], bool]) -> None:
        self.handle = handle
        self._copy = copy
        self.key = handle.key

    def read_local(self) -> bytes:
        if not self._copy():
            raise Away("no copy here")
        return self.handle.read_local()

    def read(self) -> bytes:
        return self.handle.read()
