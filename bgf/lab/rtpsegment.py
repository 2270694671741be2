"""Hosts on one switch, for trying the load and the meter alone: namespaces, a bridge, cables.

Knows: netlink through pyroute2. Must not know the gateways; the lab proper is `topology`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType

from bgf.lab import namespaces

INTERFACE = "eth"
"""The name of every host's interface."""

HOSTS_MAX = 16
SWITCH = "switch"
BRIDGE = "br0"
SYSCTLS = {
    "net/ipv6/conf/{}/accept_dad": 0,
    "net/ipv6/conf/{}/dad_transmits": 0,
    "net/ipv6/conf/{}/accept_ra": 0,
    "net/ipv6/conf/{}/router_solicitations": 0,
}


class Segment:
    """Namespaces `prefix`-`host` with interface `eth`, cabled to a bridge. Deleted by `close`.

    `hosts` gives each its addresses with prefix length. Raises EnvironmentProblem.
    """

    def __init__(self, prefix: str, hosts: Mapping[str, Sequence[str]]) -> None:
        if not 1 <= len(hosts) <= HOSTS_MAX or SWITCH in hosts:
            raise ValueError(f"1..{HOSTS_MAX} hosts, none called '{SWITCH}'")
        self._prefix = prefix
        self._made: list[str] = []
        try:
            self._make(SWITCH)
            namespaces.run_in(self.namespace(SWITCH), self._bridge)
            for host, addresses in hosts.items():
                self._make(host)
                namespaces.run_in(self.namespace(SWITCH), partial(self._cable, host))
                namespaces.run_in(self.namespace(host), self._up)
                for address in addresses:
                    self.give(host, address)
        except BaseException:
            self.close()
            raise

    def namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def plug(self, host: str, connected: bool) -> None:
        """Put the host's cable into the switch, or pull it out: both ends see the carrier go."""

        def work() -> None:
            with namespaces.netlink() as ip:
                index = ip.link_lookup(ifname=self._port(host))[0]
                ip.link("set", index=index, state="up" if connected else "down")

        namespaces.run_in(self.namespace(SWITCH), work)

    def give(self, host: str, address: str) -> None:
        """Add an address (`10.0.0.1/24`), usable at once."""
        self._address("add", host, address)

    def take(self, host: str, address: str) -> None:
        self._address("del", host, address)

    def close(self) -> None:
        """Delete every namespace made, and with it all that is in it. Idempotent."""
        for name in self._made:
            namespaces.remove(name)
        self._made.clear()

    def _make(self, host: str) -> None:
        namespaces.create(self.namespace(host))
        self._made.append(self.namespace(host))

    @staticmethod
    def _port(host: str) -> str:
        return f"port-{host}"

    @staticmethod
    def _bridge() -> None:
        with namespaces.netlink() as ip:
            ip.link("add", ifname=BRIDGE, kind="bridge")
            ip.link("set", index=ip.link_lookup(ifname=BRIDGE)[0], state="up")

    def _cable(self, host: str) -> None:
        port = self._port(host)
        with namespaces.netlink() as ip:
            ip.link(
                "add",
                ifname=port,
                kind="veth",
                peer={"ifname": INTERFACE, "net_ns_fd": self.namespace(host)},
            )
            ip.link(
                "set",
                index=ip.link_lookup(ifname=port)[0],
                master=ip.link_lookup(ifname=BRIDGE)[0],
                state="up",
            )
        # Frames that an XDP program sends to a veth vanish unless the other end has its NAPI on.
        namespaces.set_gro(port, True)

    @staticmethod
    def _up() -> None:
        for key, value in SYSCTLS.items():
            namespaces.write_sysctl(key.format(INTERFACE), value)
        with namespaces.netlink() as ip:
            ip.link("set", index=ip.link_lookup(ifname=INTERFACE)[0], state="up")

    def _address(self, command: str, host: str, address: str) -> None:
        text, _, length = address.partition("/")

        def work() -> None:
            with namespaces.netlink() as ip:
                index = ip.link_lookup(ifname=INTERFACE)[0]
                ip.addr(command, index=index, address=text, prefixlen=int(length))

        namespaces.run_in(self.namespace(host), work)

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
