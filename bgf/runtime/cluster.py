"""How a process of this node reaches the state plane: its own segment, and the registry.

Knows: the [state] section, how the store and etcd are opened. Must not know what they are used for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import statestore
from bgf.config import NodeConfig
from bgf.runtime.registry_adapters import (
    ClusterRegistry,
    StoreRegistry,
    etcd_registry,
    failover_prefix,
)
from statestore.views import EmbeddedViews, Views

TIMEOUT_MS: Final = 300
"""Of one operation of the gateway process, which answers nobody meanwhile."""


def open_store(node: NodeConfig) -> statestore.Store:
    """This node's own segment, as a client. Raises StateStoreError."""
    cluster = node.state.cluster
    how: dict[str, Any] = {}
    if cluster is not None:
        how = {"key_file": str(cluster.key_file), "timeout_ms": TIMEOUT_MS}
    return statestore.open(node.state.address, create=False, **how)


def views_of(
    node: NodeConfig,
    store: statestore.Store | None,
    stale_ms: float = math.inf,
    *,
    members: bool = True,
) -> tuple[StoreRegistry, Callable[[], None]]:
    """The registry of members and owners, and how to close it. `store` is needed when it is the
    segment itself. A view that may be older than `stale_ms` is refused; a writer that proves
    its own currency every now and then hears that. Without `members`, owners alone are followed.
    Raises StateStoreError."""
    cluster = node.state.cluster
    if cluster is None:
        assert store is not None
        embedded = EmbeddedViews(store)
        return StoreRegistry(embedded), embedded.close
    etcd = etcd_registry(cluster)
    views = Views(etcd, failover_prefix(cluster), members=members)

    def close() -> None:
        views.close()
        etcd.close()

    return ClusterRegistry(views, stale_ms), close
