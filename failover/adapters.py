"""What the manager needs from outside, as protocols, with null twins. Nothing is performed here.

The real ones: `addresses.NetlinkAddresses`, `probing.UdpProber`, `watchdog.LinuxWatchdog`; for
`Armer` the runtime's packet path, and for `Fencer` its driver for Nova.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from failover.config import MovingAddress
from failover.detector import Probe
from failover.fencing import Fenced
from failover.testimony import Word
from failover.vouching import Recollection, Vouch, VouchRequest


class Armer(Protocol):
    """The packet path's dead man's handle. Whatever it raises fails the step, which is retried."""

    def arm(self, group: str, deadline_ns: int) -> None:
        """Forward for `group` while CLOCK_BOOTTIME < `deadline_ns`; 0 disarms at once."""


class Addresses(Protocol):
    """The moving addresses of this node. Every call is idempotent. Raises AddressError."""

    def add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        """Be `addresses` within this call; the kernel drops them `lifetime_s` later by itself."""

    def remove(self, addresses: Sequence[MovingAddress]) -> None:
        """Stop being `addresses`; those that are not here are ignored."""

    def held(self) -> set[str]:
        """The hosts among all addresses ever configured that the kernel answers for now."""

    def announce(self, addresses: Sequence[MovingAddress]) -> None:
        """Tell every neighbour, once: gratuitous ARP, unsolicited neighbour advertisement."""

    def conflicts(self, addresses: Sequence[MovingAddress]) -> Mapping[str, str]:
        """Ask the links whether somebody else is one of `addresses`: host -> its MAC address."""


class Prober(Protocol):
    """Datagrams to and from the peers' reflectors, one socket per path."""

    def send(self, probe: Probe) -> None:
        """Send or drop; a path that cannot send is a path that hears nothing."""

    def drain(self) -> Iterable[tuple[bytes, str]]:
        """All that has arrived since: (datagram, path)."""

    def links_down(self) -> Sequence[str]:
        """Paths whose own interface has no carrier."""

    def watch(self, readable: Callable[[], None]) -> None:
        """Call `readable` from the running event loop whenever something has arrived."""

    def close(self) -> None:
        """Give the sockets back."""


class VouchLink(Protocol):
    """Authenticated datagrams to and from the peers' failover processes. Nothing raises.

    `life` is this process's, drawn at random when it starts.
    """

    life: int

    def send(self, message: VouchRequest | Vouch) -> None:
        """To whom it names, on every path there is; what is lost is asked for again."""

    def tell(self, word: Word) -> bool:
        """To every peer, on every path there is. False: nobody can be told so."""

    def drain(self) -> Iterable[VouchRequest | Vouch | Word]:
        """All that has arrived since and was sealed by somebody with the cluster's key."""

    def watch(self, readable: Callable[[], None]) -> None:
        """Call `readable` from the running event loop whenever something has arrived."""

    def close(self) -> None:
        """Give the sockets back."""


class Memory(Protocol):
    """What one failover process leaves to the next on this machine, until it is switched off."""

    def load(self) -> Recollection | None:
        """None: nothing is known of an earlier process, which is not to say that there was none."""

    def keep(self, recollection: Recollection) -> None:
        """Before it returns, the next process would find it. Raises OSError; then it finds
        nothing at all."""


class Fencer(Protocol):
    """Has nodes switched off for good. Neither call waits, and neither raises."""

    def fence(self, node: str) -> None:
        """Begin; a node that is being fenced already is not begun again."""

    def outcomes(self) -> Sequence[Fenced]:
        """What has ended since it was last asked."""


class Watchdog(Protocol):
    """Resets this machine when it is not fed for longer than its timeout."""

    def feed(self, now_ns: int) -> None:
        """This machine is to go on."""

    def close(self) -> None:
        """This process ends on purpose: nothing is to reset."""


class NullVouchLink:
    """Nobody to ask, nobody asks: a node whose registry is on its own host."""

    life = 1

    def send(self, message: VouchRequest | Vouch) -> None:
        """Nobody hears."""

    def tell(self, word: Word) -> bool:
        return False

    def drain(self) -> Iterable[VouchRequest | Vouch | Word]:
        return ()

    def watch(self, readable: Callable[[], None]) -> None:
        """Nothing will arrive."""

    def close(self) -> None:
        """Nothing to close."""


class NullMemory:
    """Nothing was ever promised."""

    def load(self) -> Recollection | None:
        return Recollection()

    def keep(self, recollection: Recollection) -> None:
        """Nothing to keep."""


class NullFencer:
    """Fences nobody: the lease and the epochs alone keep owners apart."""

    def fence(self, node: str) -> None:
        """Nobody to ask."""

    def outcomes(self) -> Sequence[Fenced]:
        return ()


class NullWatchdog:
    """Resets nothing."""

    def feed(self, now_ns: int) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """Nobody watched."""


class NullArmer:
    """Arms nothing."""

    def arm(self, group: str, deadline_ns: int) -> None:
        """Nothing to arm."""


class NullAddresses:
    """Remembers, touches no interface: for a node whose addresses somebody else moves."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def add(self, addresses: Sequence[MovingAddress], lifetime_s: int) -> None:
        self._held.update(address.host for address in addresses)

    def remove(self, addresses: Sequence[MovingAddress]) -> None:
        self._held.difference_update(address.host for address in addresses)

    def held(self) -> set[str]:
        return set(self._held)

    def announce(self, addresses: Sequence[MovingAddress]) -> None:
        """Nobody to tell."""

    def conflicts(self, addresses: Sequence[MovingAddress]) -> Mapping[str, str]:
        return {}


class NullProber:
    """Sends nothing, hears nothing: for a node without peers."""

    def send(self, probe: Probe) -> None:
        """Nobody to ask."""

    def drain(self) -> Iterable[tuple[bytes, str]]:
        return ()

    def links_down(self) -> Sequence[str]:
        return ()

    def watch(self, readable: Callable[[], None]) -> None:
        """Nothing will arrive."""

    def close(self) -> None:
        """Nothing to close."""
