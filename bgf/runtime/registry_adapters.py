"""Members and owners as the failover room and the gateway process see them. Decides nothing.

On one host the registry is in the segment that its nodes share; in a cluster it is etcd, and
nothing here needs the state store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from bgf.config import StateCluster
from bgf.runtime.process import now_ns
from failover.registry import Member, Ownership, RegistryUnavailable, View
from statestore import errors as store_errors
from statestore.etcd import EtcdOptions, EtcdRegistry, Tls
from statestore.views import RawView, Views

NS_PER_MS: Final = 1_000_000
ETCD_TIMEOUT_MS: Final = 400
"""Of one question or claim: the failover process answers nobody meanwhile."""

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode


class StoreRegistry:
    """`failover.registry.Registry` over views whose members share one clock."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._decode = msgspec.msgpack.Decoder(Member).decode
        self._granted_ns = 0
        self._read_from: Mapping[str, bytes] | None = None
        self._members: dict[str, Member] = {}
        self._records: dict[str, tuple[bytes, int, Member | None]] = {}
        self._raw_owners: Mapping[str, tuple[str, int]] | None = None
        self._owners: dict[str, Ownership] = {}

    def view(self) -> View:
        raw = self._reach(self._views.view)
        self._check(raw)
        if raw.members is not self._read_from:
            self._records = {
                node: self._read(node, data, raw.seen_ns.get(node, 0))
                for node, data in raw.members.items()
            }
            self._members = {
                node: member for node, (*_, member) in self._records.items() if member is not None
            }
            self._read_from = raw.members
        if raw.owners is not self._raw_owners:
            self._owners = {group: Ownership(*owner) for group, owner in raw.owners.items()}
            self._raw_owners = raw.owners
        return View(self._members, self._owners, raw.current_ns)

    def _read(self, node: str, data: bytes, seen_ns: int) -> tuple[bytes, int, Member | None]:
        """A record that is as it was is not decoded again: there are many looks per renewal."""
        before = self._records.get(node)
        if before is not None and before[:2] == (data, seen_ns):
            return before
        try:
            return data, seen_ns, self._of_here(self._decode(data), seen_ns)
        except msgspec.MsgspecError:  # another version's: as good as silent
            return data, seen_ns, None

    def record(self, node: str) -> Member | None:
        data = self._reach(lambda: self._views.record(node))
        if data is None:
            return None
        try:
            return self._of_here(self._decode(data), now_ns())
        except msgspec.MsgspecError:
            return None

    def publish(self, member: Member) -> None:
        self._reach(lambda: self._views.publish(member.node, _encode(self._of_all(member))))
        self._granted_ns = max(self._granted_ns, member.lease_deadline_ns)

    def granted_ns(self) -> int:
        return self._granted_ns

    def claim(self, group: str, seen: Ownership, node: str) -> Ownership | None:
        def admits(data: bytes) -> bool:
            with contextlib.suppress(msgspec.MsgspecError):
                return self._decode(data).admits(node)
            return True  # another version's: it stands by nobody's word

        last = (seen.node, seen.epoch)
        won = self._reach(lambda: self._views.claim(group, last, node, admits))
        return None if won is None else Ownership(*won)

    def _check(self, raw: RawView) -> None:
        """Raises RegistryUnavailable when this is too old to act on."""

    def _of_all(self, member: Member) -> Member:
        """A record of ours as everybody can read it."""
        return member

    def _of_here(self, member: Member, seen_ns: int) -> Member:
        """A record as this host has to understand it."""
        return member

    @staticmethod
    def _reach(work: Callable[[], T]) -> T:
        try:
            return work()
        except store_errors.StateStoreError as error:
            raise RegistryUnavailable(f"the registry: {error}") from error


class ClusterRegistry(StoreRegistry):
    """The same over etcd, for nodes with a clock each.

    A record carries how long its lease still is, not until when: nobody else has the clock of
    its writer. A reader counts from when it first saw the record, which is never too early.
    """

    def __init__(self, views: Views, stale_ms: float, clock: Callable[[], int] = now_ns) -> None:
        super().__init__(views)
        self._stale_ms = stale_ms
        self._clock = clock

    def _check(self, raw: RawView) -> None:
        age_ms = raw.age_ms(self._clock())
        if age_ms > self._stale_ms:
            raise RegistryUnavailable(
                f"the registry: nothing heard from etcd for {age_ms:.0f} ms; a majority of its"
                " members must run and be reachable"
            )

    def _of_all(self, member: Member) -> Member:
        left_ns = max(0, member.lease_deadline_ns - self._clock())
        return replace(member, lease_deadline_ns=left_ns)

    def _of_here(self, member: Member, seen_ns: int) -> Member:
        return replace(member, lease_deadline_ns=seen_ns + member.lease_deadline_ns)


def etcd_registry(cluster: StateCluster, timeout_ms: int = ETCD_TIMEOUT_MS) -> EtcdRegistry:
    """A connection to the cluster's etcd. Raises statestore's Invalid."""
    tls = None
    if cluster.etcd_ca_file is not None:
        files = (cluster.etcd_ca_file, cluster.etcd_cert_file, cluster.etcd_key_file)
        tls = Tls(*(None if file is None else str(file) for file in files))
    # At least two endpoints are asked within the time.
    options = EtcdOptions(timeout_ms=timeout_ms, attempt_ms=min(200, timeout_ms // 2), tls=tls)
    return EtcdRegistry(cluster.etcd, options)


def failover_prefix(cluster: StateCluster) -> str:
    """Below which etcd key this cluster's members and owners of groups are."""
    return f"/{cluster.name}/failover/"
