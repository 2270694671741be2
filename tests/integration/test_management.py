"""The management network of one node is cut while its media links are well: everybody can tell."""

from __future__ import annotations

import os

import pytest

from bgf.lab import namespaces
from tests.integration.test_cluster import Cluster, cluster, wait_for

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(180),
]


def test_a_cut_management_network_is_called_so_and_heals(cluster: Cluster) -> None:
    plan = cluster.plan
    port = next(p for p in plan.ports_of(plan.node("n1").namespace) if p.network == "mgmt")

    def cable(state: str) -> None:
        def work() -> None:
            with namespaces.netlink() as netlink:
                (index,) = netlink.link_lookup(ifname=port.switch_port)
                netlink.link("set", index=index, state=state)

        namespaces.run_in(plan.switch, work)

    def said(by: str, about: str = "n1") -> dict[str, str]:
        found = cluster.ask(by, "failover")["conditions"].get(about, {})
        assert isinstance(found, dict)
        return found

    def noted() -> bool:  # nobody else may take over from it (decision 46)
        return bool(cluster.ask("n3", "failover")["members"]["n1"]["parties"] == ["n2", "n3"])

    wait_for("n1 has taken note of the others", noted)
    assert set(cluster.ask("n2", "failover")["hears"]["n1"]) == {"access", "core", "mgmt"}
    cable("down")
    for by in ("n2", "n3"):
        wait_for(
            f"{by} calls it a management cut",
            lambda by=by: said(by).get("state") == "management cut",  # type: ignore[misc]
        )
    assert "n1 answers on access and core and not on mgmt" in said("n3")["sentence"]
    assert said("n3", "n2") == {}
    # Nobody moved anything for that; its lease ends, and then the group moves.
    wait_for("g1 has moved", lambda: cluster.owner("g1", "n3") == "n3")
    assert cluster.owner("g2", "n3") == "n2"
    cable("up")
    wait_for("n1 is well again", lambda: said("n2") == {} and said("n3") == {})
    wait_for("n1 sees it too", lambda: cluster.owner("g1", "n1") == "n3")
