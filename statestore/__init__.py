"""DAL, the distributed shared memory: one segment for all processes of a host, embedded or as a
member of a cluster, or a cluster over the network.

    import statestore

    store = statestore.open("dal:///run/bgf/state")
    handle = store.put("j/g1/call-1", b"...")
    handle.read()

The address chooses; the calls are the same. `python -m statestore` says how a C program links with
it. Knows nothing of gateways, failover or what the values mean.
"""

from __future__ import annotations

from statestore._segment import KEY_BYTES_MAX, VALUE_BYTES_MAX, Grant, Handle
from statestore.errors import (
    Away,
    Corrupt,
    Exists,
    Fenced,
    Full,
    InDoubt,
    Invalid,
    NotFound,
    NotServing,
    Overrun,
    StateStoreError,
    TooBig,
    Unavailable,
    WrongVersion,
)
from statestore.messages import Inbox
from statestore.places import Home, Member
from statestore.store import (
    Change,
    Housekeeping,
    Kind,
    Store,
    Watch,
    open,
    pack_entries,
    unpack_entries,
)

__all__ = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "Away",
    "Change",
    "Corrupt",
    "Exists",
    "Fenced",
    "Full",
    "Grant",
    "Handle",
    "Home",
    "Housekeeping",
    "InDoubt",
    "Inbox",
    "Invalid",
    "Kind",
    "Member",
    "NotFound",
    "NotServing",
    "Overrun",
    "StateStoreError",
    "Store",
    "TooBig",
    "Unavailable",
    "Watch",
    "WrongVersion",
    "open",
    "pack_entries",
    "unpack_entries",
]
