"""DAL, the distributed shared memory: its embedded form, one segment for all processes of a host.

    import statestore

    store = statestore.open("dal:///run/bgf/state")
    handle = store.put("j/g1/call-1", b"...")
    handle.read()

Knows nothing of gateways, failover or what the values mean. The network form and etcd arrive
behind `Store` and `views` without changing either.
"""

from __future__ import annotations

from statestore._segment import KEY_BYTES_MAX, VALUE_BYTES_MAX, Grant, Handle
from statestore.errors import (
    Corrupt,
    Exists,
    Fenced,
    Full,
    Invalid,
    NotFound,
    Overrun,
    StateStoreError,
    TooBig,
    Unavailable,
    WrongVersion,
)
from statestore.store import Change, Housekeeping, Kind, Store, Watch, open, pack_entries

__all__ = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "Change",
    "Corrupt",
    "Exists",
    "Fenced",
    "Full",
    "Grant",
    "Handle",
    "Housekeeping",
    "Invalid",
    "Kind",
    "NotFound",
    "Overrun",
    "StateStoreError",
    "Store",
    "TooBig",
    "Unavailable",
    "Watch",
    "WrongVersion",
    "open",
    "pack_entries",
]
